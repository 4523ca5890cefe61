"""Starting processes that cannot outlive the test run, stopping each by its own process id."""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.installations import REPOSITORY

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_PORTS = range(10_000, 32_000)
_given_ports: set[int] = set()


def _own_ports() -> range:
    """A part of them for each process that runs tests beside others."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return _PORTS[int(worker) :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, and that was not given out before.

    It lies below the range that outgoing connections take theirs from: otherwise one of those
    could take the port of a server while that is being restarted.
    """
    ports = _own_ports()
    for _ in range(200):
        port = secrets.choice(ports)
        if port in _given_ports:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given_ports.add(port)
            return port
    raise AssertionError("no free port found in two hundred tries")


def clean_environment() -> dict[str, str]:
    """This process's environment without what would steer a kingbus that a test starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KINGBUS_")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Which kingbus is started: the tree that has the package, and the interpreter that runs it."""

    tree: Path = REPOSITORY
    python: str = sys.executable
    prefix: tuple[str, ...] = ()
    """A command that runs it elsewhere, as in another network namespace, and becomes it."""

    def environment(self) -> dict[str, str]:
        """A clean environment in which this tree's package comes before an installed one."""
        return {**clean_environment(), "PYTHONPATH": str(self.tree)}


THIS_TREE = Program()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    script: Path | None = None,
    stays: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process that writes both its outputs to the end of `log`.

    `script` is what it reads from its standard input, otherwise nothing.
    It is killed when this process dies, however that happens, unless it `stays`.
    """
    with log.open("ab") as output, (script or Path(os.devnull)).open("rb") as commands:
        return subprocess.Popen(
            list(command),
            stdin=commands,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**clean_environment(), **(environment or {})},
            start_new_session=True,
            # The child only calls prctl there, which is safe also when other threads run.
            preexec_fn=None if stays else _die_with_parent,  # noqa: PLW1509
        )


def start_kingbus(
    words: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    stays: bool = False,
    program: Program = THIS_TREE,
) -> subprocess.Popen[bytes]:
    """Start the `kingbus` command, its package taken from this repository or another tree."""
    return start(
        [*program.prefix, program.python, "-m", "kingbus", *words],
        log=log,
        environment={**program.environment(), "PYTHONUNBUFFERED": "1", **(environment or {})},
        directory=program.tree,
        stays=stays,
    )


def stop(process: subprocess.Popen[bytes], *, seconds: float = 60.0) -> int:
    """Ask a process to end (SIGTERM), insist after `seconds` (SIGKILL), return its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait until it is gone."""
    if process.poll() is None:
        process.kill()
    process.wait()


def tail(log: Path, *, lines: int = 40) -> str:
    """The last lines of a log, for the message of a failure."""
    if not log.exists():
        return f"({log} does not exist)"
    text = log.read_text(errors="replace").splitlines()[-lines:]
    return f"--- {log}\n" + "\n".join(text)
