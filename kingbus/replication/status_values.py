"""The status values that SHOW STATUS answers.

Owns: the one table of names, each with what it is read from. Knows nothing of statements. Follows
the manual's "Server Status Variables"; a name outside the table is missing in the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from kingbus import metrics
from kingbus.mysql.resultset import Value

ACKNOWLEDGED: Final = "kingbus_semi_sync_acknowledged_"


class Process(Protocol):
    """What an open connection does; see `queries.ProcessFacts`."""

    @property
    def command(self) -> str: ...


class ConnectionFacts(Protocol):
    """The open connections of this node; see `queries.Connections`."""

    def processes(self) -> Sequence[Process]: ...
    @property
    def channel_name(self) -> str: ...
    def uptime_seconds(self) -> int: ...
    def semi_sync_clients(self) -> int: ...
    def acknowledged(self) -> Mapping[str, tuple[str, int]]: ...


def _dumps(connections: ConnectionFacts) -> int:
    return sum(each.command.startswith("Binlog Dump") for each in connections.processes())


def _semi_sync() -> dict[str, Callable[[ConnectionFacts], Value]]:
    """In both of MySQL's spellings. Nothing ever waits, so what counts waiting is 0."""
    rows: dict[str, Callable[[ConnectionFacts], Value]] = {}
    for source, replica in (("source", "replica"), ("master", "slave")):
        rows |= {
            f"Rpl_semi_sync_{source}_clients": lambda connections: connections.semi_sync_clients(),
            f"Rpl_semi_sync_{source}_net_waits": lambda _: int(
                metrics.value("kingbus_dump_semi_sync_acks_total")
            ),
            f"Rpl_semi_sync_{source}_no_tx": lambda _: 0,
            f"Rpl_semi_sync_{source}_status": lambda connections: (
                "ON" if connections.semi_sync_clients() else "OFF"
            ),
            f"Rpl_semi_sync_{source}_wait_sessions": lambda _: 0,
            f"Rpl_semi_sync_{replica}_status": lambda connections: (
                "ON" if metrics.semi_sync_is_active(connections.channel_name) else "OFF"
            ),
        }
    return rows


TABLE: Final[Mapping[str, Callable[[ConnectionFacts], Value]]] = {
    # The relay's, of this node.
    "Binlog_dump_threads": _dumps,
    "Threads_connected": lambda connections: len(connections.processes()),
    "Threads_running": lambda connections: _dumps(connections) + 1,
    "Uptime": lambda connections: connections.uptime_seconds(),
    **_semi_sync(),
    # Fixed.
    "Ssl_cipher": lambda _: "",
    "Ssl_version": lambda _: "",
}


def status_values(connections: ConnectionFacts) -> dict[str, Value]:
    """All of them, by name in alphabetical order.

    Behind MySQL's own, for each replica that acknowledges: the file and position it has told.
    """
    values = {name: TABLE[name](connections) for name in sorted(TABLE)}
    for replica, (file, position) in sorted(connections.acknowledged().items()):
        name = f"{ACKNOWLEDGED}{replica.replace(' ', '_')}"
        values[name] = f"{file}:{position}" if file else ""
    return values
