"""A small source that lives in memory: everything the answers are made of, with fixed values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from kingbus.mysql.errors import (
    MySQLError,
    receiver_is_running,
    unknown_log_file,
    unknown_thread,
)
from kingbus.mysql.resultset import Value
from kingbus.replication.administration import SourceChange, UserOrder
from kingbus.replication.queries import (
    BinlogEventRow,
    ProcessFacts,
    RegisteredReplica,
    Session,
)
from kingbus.replication.replica_status import ReceiverFacts

UUID = "50b5308f-e4f4-11f1-a9f2-02fc00000001"


@dataclass
class MemoryAdministration:
    """Notes what it is asked for; the receiver runs or not, as it was told last."""

    asked: list[object] = field(default_factory=list)
    is_started: bool = False
    known: dict[str, Collection[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    named: dict[str, "MemoryAdministration"] = field(default_factory=dict)

    async def change_source(self, change: SourceChange) -> None:
        if self.is_started:
            raise receiver_is_running()
        self.asked.append(change)

    def of_channel(self, name: str) -> "MemoryAdministration | None":
        return self.named.get(name)

    async def start_receiver(self) -> bool:
        was, self.is_started = self.is_started, True
        return not was

    async def stop_receiver(self) -> bool:
        was, self.is_started = self.is_started, False
        return was

    async def forget_source(self) -> None:
        self.asked.append("forget")

    async def change_users(self, order: UserOrder) -> Sequence[str]:
        self.asked.append(order)
        return self.left_out

    def users(self) -> Mapping[str, Collection[str]]:
        return self.known


@dataclass
class MemorySource:
    """Files, sets and settings of a source, held in memory."""

    server_id: int = 11
    server_uuid: str = UUID
    version: str = "9.7.4-kingbus"
    gtid_mode: str = "ON"
    flavor: str = "mysql"
    semi_sync: bool = False
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
    administration: MemoryAdministration = field(default_factory=MemoryAdministration)
    name: str = ""
    named: dict[str, "MemorySource"] = field(default_factory=dict)

    @property
    def channel_name(self) -> str:
        return self.name

    @property
    def channels(self) -> "dict[str, MemorySource]":
        return {self.name: self, **self.named}

    def gtid_executed(self) -> str:
        return self.executed

    def gtid_binlog_pos(self) -> str:
        return self.executed

    def gtid_binlog_state(self) -> str:
        return self.executed

    def binlog_gtid_pos(self, file: str, position: int) -> str | None:
        return self.purged if position == 4 else None

    def gtid_purged(self) -> str:
        return self.purged

    def variable(self, name: str) -> Value:
        return self.known.get(name)

    def binlog_files(self) -> Sequence[tuple[str, int]]:
        return self.files

    def visible_position(self) -> tuple[str, int] | None:
        return self.files[-1] if self.files else None

    async def receiver(self) -> ReceiverFacts | None:
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
    channel_name: str = ""

    def processes(self) -> Sequence[ProcessFacts]:
        return self.open

    def registered_replicas(self) -> Sequence[RegisteredReplica]:
        return self.replicas

    def uptime_seconds(self) -> int:
        return 77

    def semi_sync_clients(self) -> int:
        return 0

    def acknowledged(self) -> dict[str, tuple[str, int]]:
        return {"server id 7": ("binlog.000002", 154), "a-uuid": ("", 0)}

    def kill(self, thread_id: int, *, by: Session, query_only: bool) -> None:
        for process in self.open:
            if process.thread_id == thread_id:
                if by.user != process.user:
                    raise MySQLError(1095, "HY000", f"You are not owner of thread {thread_id}")
                self.open.remove(process)
                return
        raise unknown_thread(thread_id)
