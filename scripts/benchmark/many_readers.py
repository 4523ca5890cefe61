"""Several readers of whole dumps at once, each a process: none waits for another's interpreter.

Run as a program it is one of them: it logs in, says so, waits for the word, reads, and tells when.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from tests.support.installations import REPOSITORY
from tests.support.raw_reader import Drained, drain

READY = "ready\n"
_SECONDS_MAX = 600.0


def drain_by_many(*, port: int, user: str, password: str, count: int) -> list[Drained]:
    """What each of `count` readers got that began together; their clocks are the same."""
    command = [sys.executable, "-m", "scripts.benchmark.many_readers", str(port), user]
    with ExitStack() as stack:
        running = [stack.enter_context(_started(command)) for _ in range(count)]
        for process in running:
            write_line(process, password)
        for process in running:
            require_ready(process)
        for process in running:
            write_line(process, "go")
        answers = [process.communicate(timeout=_SECONDS_MAX)[0] for process in running]
    for process in running:
        if process.returncode != 0:
            raise AssertionError(f"a reader of port {port} ended with {process.returncode}")
    return [Drained(**json.loads(answer)) for answer in answers]


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def write_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def require_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != READY:
        raise AssertionError(f"a reader did not get as far as its dump: {line!r}")


def _wait_for_the_word() -> None:
    sys.stdout.write(READY)
    sys.stdout.flush()
    sys.stdin.readline()


def main(port: str, user: str) -> None:
    """Be one reader; the password is the first line of standard input."""
    password = sys.stdin.readline().removesuffix("\n")
    drained = drain(port=int(port), user=user, password=password, ready=_wait_for_the_word)
    told = {"bytes": drained.bytes, "began": drained.began, "ended": drained.ended}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001  # one line each: there are many
        sys.exit(f"reader: {type(error).__name__}: {error}")
