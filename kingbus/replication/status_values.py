"""The status values that SHOW STATUS answers.

Owns: the one table of names, each with what it is read from. Knows nothing of statements. Follows
the manual's "Server Status Variables"; a name outside the table is missing in the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from kingbus.mysql.resultset import Value


class Process(Protocol):
    """What an open connection does; see `queries.ProcessFacts`."""

    @property
    def command(self) -> str: ...


class ConnectionFacts(Protocol):
    """The open connections of this node; see `queries.Connections`."""

    def processes(self) -> Sequence[Process]: ...
    def uptime_seconds(self) -> int: ...


def _dumps(connections: ConnectionFacts) -> int:
    return sum(each.command.startswith("Binlog Dump") for each in connections.processes())


TABLE: Final[Mapping[str, Callable[[ConnectionFacts], Value]]] = {
    # The relay's, of this node.
    "Binlog_dump_threads": _dumps,
    "Threads_connected": lambda connections: len(connections.processes()),
    "Threads_running": lambda connections: _dumps(connections) + 1,
    "Uptime": lambda connections: connections.uptime_seconds(),
    # Fixed.
    "Ssl_cipher": lambda _: "",
    "Ssl_version": lambda _: "",
}


def status_values(connections: ConnectionFacts) -> dict[str, Value]:
    """All of them, by name in alphabetical order."""
    return {name: TABLE[name](connections) for name in sorted(TABLE)}
