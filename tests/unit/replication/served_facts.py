"""A small source that lives in memory: everything the answers are made of, with fixed values."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kingbus.mysql.errors import MySQLError, unknown_log_file, unknown_thread
from kingbus.mysql.resultset import Value
from kingbus.replication.queries import (
    BinlogEventRow,
    ProcessFacts,
    ReceiverFacts,
    RegisteredReplica,
    Session,
)

UUID = "50b5308f-e4f4-11f1-a9f2-02fc00000001"


@dataclass
class MemorySource:
    """Files, sets and settings of a source, held in memory."""

    server_id: int = 11
    server_uuid: str = UUID
    version: str = "9.7.4-kingbus"
    gtid_mode: str = "ON"
    binlog_checksum: str = "CRC32"
    hostname: str = "relay-1"
    port: int = 3390
    executed: str = f"{UUID}:1-29"
    purged: str = f"{UUID}:1-4"
    files: list[tuple[str, int]] = field(
        default_factory=lambda: [("binlog.000002", 181), ("binlog.000003", 774)]
    )
    source: ReceiverFacts | None = None
    known: dict[str, Value] = field(default_factory=dict)
    purges: list[str | float | None] = field(default_factory=list)

    def gtid_executed(self) -> str:
        return self.executed

    def gtid_purged(self) -> str:
        return self.purged

    def variable(self, name: str) -> Value:
        return self.known.get(name)

    def binlog_files(self) -> Sequence[tuple[str, int]]:
        return self.files

    def visible_position(self) -> tuple[str, int] | None:
        return self.files[-1] if self.files else None

    def receiver(self) -> ReceiverFacts | None:
        return self.source

    def bytes_until_purge(self, file: str) -> int | None:
        return {"binlog.000003": 5000}.get(file)

    async def purge_binlogs(self, *, to: str = "", before: float | None = None) -> None:
        if to and to not in [name for name, _ in self.files]:
            raise unknown_log_file()
        self.purges.append(to or before)

    async def binlog_events(
        self, file: str, position: int, offset: int, limit: int
    ) -> Sequence[BinlogEventRow] | None:
        names = [name for name, _ in self.files]
        if file and file not in names:
            return None
        rows = [
            BinlogEventRow(
                file=file or names[0],
                position=start,
                event_type="Xid",
                server_id=self.server_id,
                end_position=start + 31,
                info="COMMIT",
            )
            for start in range(position, position + 310, 31)
        ]
        return rows[offset : offset + limit]


@dataclass
class MemoryConnections:
    """A fixed list of connections that can be killed."""

    open: list[ProcessFacts] = field(default_factory=list)
    replicas: list[RegisteredReplica] = field(default_factory=list)

    def processes(self) -> Sequence[ProcessFacts]:
        return self.open

    def registered_replicas(self) -> Sequence[RegisteredReplica]:
        return self.replicas

    def uptime_seconds(self) -> int:
        return 77

    def semi_sync_clients(self) -> int:
        return 0

    def kill(self, thread_id: int, *, by: Session, query_only: bool) -> None:
        for process in self.open:
            if process.thread_id == thread_id:
                if by.user != process.user:
                    raise MySQLError(1095, "HY000", f"You are not owner of thread {thread_id}")
                self.open.remove(process)
                return
        raise unknown_thread(thread_id)
