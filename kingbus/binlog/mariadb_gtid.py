"""MariaDB's GTIDs, `domain-server-sequence`, and the positions that its replicas speak of.

Owns how such a GTID is kept where MySQL's are: a domain and a server take the place of a server
uuid, the sequence number that of the transaction number. So sets, runs and rows need no second
form. Knows nothing of sets, events or files.

A *position* is the last GTID of each domain: within a domain everything up to it was had, whoever
of the domain's servers wrote it. That holds while numbers only rise in a domain, which MariaDB
demands with `gtid_strict_mode`, and the relay of its source always.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final, Protocol

from kingbus.errors import KingbusError

MARIADB: Final = "mariadb"
MYSQL: Final = "mysql"
"""The two flavors; a log without one is MySQL's."""

SEQUENCE_MAX: Final = (1 << 63) - 2
"""As for MySQL's numbers; MariaDB's go to 2^64 - 1, in theory."""

_MARK: Final = b"MariaDB\0"
_KEY: Final = Struct(">8sII")
_GTID: Final = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,20})")
_U32_MAX: Final = 0xFFFF_FFFF


class MalformedPositionError(KingbusError):
    """A text that is no position of MariaDB."""


def key_of(domain: int, server: int) -> bytes:
    """The 16 bytes that stand for a domain and a server where MySQL has a server uuid."""
    return _KEY.pack(_MARK, domain, server)


def is_key(uuid: bytes) -> bool:
    """Whether these bytes are a domain and a server, and no server uuid."""
    return uuid[:8] == _MARK and len(uuid) == _KEY.size


def split_key(key: bytes) -> tuple[int, int]:
    """The domain and the server of a key."""
    _, domain, server = _KEY.unpack(key)
    return domain, server


def parse_gtid(text: str) -> tuple[int, int, int] | None:
    """Domain, server and sequence number of `0-1-5`; None when it is no such text."""
    found = _GTID.fullmatch(text)
    if found is None:
        return None
    domain, server, sequence = (int(number) for number in found.groups())
    if domain > _U32_MAX or server > _U32_MAX or not 0 < sequence <= SEQUENCE_MAX:
        return None
    return domain, server, sequence


class _Runs(Protocol):
    """What is asked of a set of GTIDs, see `gtid.GtidSet`."""

    def uuids(self) -> Collection[bytes]: ...
    def runs(self) -> Iterable[tuple[bytes, str, int, int]]: ...


@dataclass(frozen=True, slots=True)
class Position:
    """The last GTID of each domain: domain -> (server, sequence number)."""

    last: Mapping[int, tuple[int, int]]

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Reads `0-1-5,1-2-7`; of two of one domain the later number counts.

        Raises MalformedPositionError.
        """
        last: dict[int, tuple[int, int]] = {}
        for part in text.split(","):
            if not part.strip():
                continue
            gtid = parse_gtid(part.strip())
            if gtid is None:
                raise MalformedPositionError(
                    f"{part.strip()[:60]!r} is not a GTID of the form domain-server-sequence"
                )
            domain, server, sequence = gtid
            if domain not in last or last[domain][1] < sequence:
                last[domain] = server, sequence
        return cls(last)

    @classmethod
    def of(cls, gtids: _Runs) -> "Position":
        """Where a set of GTIDs ends in each domain."""
        last: dict[int, tuple[int, int]] = {}
        if not any(map(is_key, gtids.uuids())):
            return cls(last)  # a set of MySQL's may have very many runs
        for key, _, _, sequence in gtids.runs():
            if not is_key(key):
                continue
            domain, server = split_key(key)
            if domain not in last or last[domain][1] < sequence:
                last[domain] = server, sequence
        return cls(last)

    @staticmethod
    def every_end(gtids: _Runs) -> str:
        """The last GTID of each domain and server, as in `gtid_binlog_state`."""
        ends = {split_key(key): last for key, _, _, last in gtids.runs() if is_key(key)}
        return ",".join(f"{domain}-{server}-{last}" for (domain, server), last in ends.items())

    def __str__(self) -> str:
        return ",".join(
            f"{domain}-{server}-{sequence}"
            for domain, (server, sequence) in sorted(self.last.items())
        )

    def end_of(self, uuid: bytes) -> int:
        """The last number had of this key's domain; 0: none."""
        if not is_key(uuid):
            return 0
        return self.last.get(split_key(uuid)[0], (0, 0))[1]

    def covers(self, other: "Position") -> bool:
        """Whether in no domain the other one is further."""
        return all(
            self.last.get(domain, (0, 0))[1] >= sequence
            for domain, (_, sequence) in other.last.items()
        )

    def beyond(self, other: "Position") -> "Position":
        """The domains in which this one is further than the other."""
        return Position(
            {
                domain: end
                for domain, end in self.last.items()
                if other.last.get(domain, (0, 0))[1] < end[1]
            }
        )

    # What a dump asks of the set that a replica has; the words are those of GtidSet.

    def contains(self, gtids: _Runs) -> bool:
        """Whether all of a set lies at or before it."""
        return all(last <= self.end_of(uuid) for uuid, _, _, last in gtids.runs())

    def meets(self, gtids: _Runs) -> bool:
        """Whether any of a set lies at or before it."""
        return any(first <= self.end_of(uuid) for uuid, _, first, _ in gtids.runs())

    def contains_gtid(self, uuid: bytes, _tag: str, number: int) -> bool:
        return number <= self.end_of(uuid)

    def overlaps_run(self, uuid: bytes, _tag: str, first: int, _last: int) -> bool:
        """Whether any number from first on is at or before it."""
        return first <= self.end_of(uuid)


@dataclass(frozen=True, slots=True)
class Window:
    """What is left out of a dump that goes from one position up to another, that one with it.

    A domain that the end does not name is left out altogether.
    """

    had: Position
    until: Position

    def __str__(self) -> str:
        return str(self.had)

    def _leaves_out(self, uuid: bytes, first: int, last: int) -> bool:
        return last <= self.had.end_of(uuid) or first > self.until.end_of(uuid)

    def contains(self, gtids: _Runs) -> bool:
        return all(self._leaves_out(uuid, first, last) for uuid, _, first, last in gtids.runs())

    def meets(self, gtids: _Runs) -> bool:
        return any(
            self.overlaps_run(uuid, tag, first, last) for uuid, tag, first, last in gtids.runs()
        )

    def contains_gtid(self, uuid: bytes, _tag: str, number: int) -> bool:
        return self._leaves_out(uuid, number, number)

    def overlaps_run(self, uuid: bytes, _tag: str, first: int, last: int) -> bool:
        return first <= self.had.end_of(uuid) or last > self.until.end_of(uuid)
