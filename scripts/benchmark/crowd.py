"""Very many replicas of one listener that wait for transactions: one process that watches all.

Run as a program it logs all of them in, says so, and notes when bytes come to each. Only the first
one's packets are looked at: all get the same bytes, so that a transaction has come to another when
as many bytes have. Who got other bytes, such as a heartbeat, is left out of the answer.
"""

import json
import selectors
import socket
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from types import TracebackType
from typing import Self

from scripts.benchmark.many_readers import READY, require_ready, write_line
from tests.support.installations import REPOSITORY
from tests.support.raw_reader import open_dump

HEARTBEAT_SECONDS = 30.0
"""What a replica asks for by default."""
_XID = 16
_TYPE_AT = 9
"""In a packet: behind its header of four bytes, a zero, and the event's time of four bytes."""
_QUIET_SECONDS = 1.0
"""Every dump has sent what it begins with when for so long nothing came."""


class Crowd:
    """So many replicas behind `held`; attached when the context is entered."""

    def __init__(self, *, port: int, user: str, password: str, count: int, held: str) -> None:
        self.count = count
        words = [str(port), user, str(count), held]
        self._password = password
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmark.crowd", *words],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Wait until the dumps of all have begun."""
        try:
            write_line(self._process, self._password)
            require_ready(self._process)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def begin(self) -> None:
        """From now on arrivals are noted."""
        write_line(self._process, "begin")
        require_ready(self._process)

    def arrivals(self) -> list[list[float]]:
        """For each replica when each transaction since `begin` came, by the monotonic clock."""
        write_line(self._process, "tell")
        assert self._process.stdout is not None
        answer: list[list[float]] = json.loads(self._process.stdout.readline())
        return answer


def ends_of_transactions(stream: bytes) -> list[int]:
    """How many bytes of a stream of packets have come with the end of each transaction."""
    ends, at = [], 0
    while at + _TYPE_AT < len(stream):
        end = at + 4 + int.from_bytes(stream[at : at + 3], "little")
        if stream[at + _TYPE_AT] == _XID and end <= len(stream):
            ends.append(end)
        at = end
    return ends


def times(ends: Sequence[int], came: Sequence[tuple[float, int]]) -> list[float] | None:
    """When as many bytes had come as each transaction ends with; None for another amount."""
    sums = list(accumulate(count for _, count in came))
    if not ends or not sums or sums[-1] != ends[-1]:
        return None
    return [came[bisect_left(sums, end)][0] for end in ends]


class _Watcher:
    """All sockets of a crowd, and what came on each since `forget`."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self._selector = selectors.DefaultSelector()
        for number, each in enumerate(sockets):
            each.setblocking(False)
            self._selector.register(each, selectors.EVENT_READ, number)
        self._selector.register(sys.stdin, selectors.EVENT_READ, -1)
        self._came: list[list[tuple[float, int]]] = []
        self._first = bytearray()
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._came = [[] for _ in self._sockets]
        self._first.clear()

    def wait(self, seconds: float | None = None) -> str:
        """Read until a line of standard input comes, or nothing at all for so long ("")."""
        while True:
            found = self._selector.select(seconds)
            if not found:
                return ""
            for key, _ in found:
                if key.data < 0:
                    return sys.stdin.readline().strip()
                self._read(key.data)

    def _read(self, number: int) -> None:
        data = self._sockets[number].recv(1 << 16)
        if not data:
            raise AssertionError(f"the dump of reader {number} ended")
        self._came[number].append((time.monotonic(), len(data)))
        if number == 0:
            self._first += data

    def arrivals(self) -> list[list[float]]:
        """Of those to whom exactly the first one's bytes came."""
        ends = ends_of_transactions(bytes(self._first))
        found = (times(ends, each) for each in self._came)
        return [each for each in found if each is not None]


def main(port: str, user: str, count: str, held: str) -> None:
    """Be a crowd; the password is the first line of standard input."""
    password = sys.stdin.readline().removesuffix("\n")
    sockets = [
        open_dump(
            port=int(port),
            user=user,
            password=password,
            gtid_set=held,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        for _ in range(int(count))
    ]
    watcher = _Watcher(sockets)
    assert watcher.wait(_QUIET_SECONDS) == ""
    sys.stdout.write(READY)
    sys.stdout.flush()
    while line := watcher.wait():
        if line == "begin":
            watcher.forget()
            sys.stdout.write(READY)
        else:
            sys.stdout.write(json.dumps(watcher.arrivals()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001  # one line: the harness tells the rest
        sys.exit(f"crowd: {type(error).__name__}: {error}")
