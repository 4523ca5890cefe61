"""The open connections of the replica-facing listener, and which replica is being sent to where.

Owns: thread ids, what each connection is doing, the rule that a new dump of a replica ends its
older one, KILL, and the facts that status pages show. Knows nothing of packets. Follows
kill_zombie_dump_threads of the server: the same UUID replaces; without any UUID, the same server
id replaces; a dump with a UUID and one without never meet.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import trio

from kingbus.binlog.mariadb_gtid import MARIADB
from kingbus.mysql.commands import RegisterReplica
from kingbus.mysql.errors import MySQLError, not_owner_of_thread, unknown_thread
from kingbus.replication.dump_session import DumpProgress, DumpRequest
from kingbus.replication.queries import ProcessFacts, RegisteredReplica, ServerFacts, Session
from kingbus.replication.replica_acks import ReplicaAcks
from kingbus.replication.source_facts import mariadb_uuid
from kingbus.replication.users import ADMIN

SLEEP, QUERY, CONNECT = "Sleep", "Query", "Connect"
"""Commands of SHOW PROCESSLIST."""


@dataclass(slots=True, kw_only=True)
class RunningDump:
    """One dump: what was asked, how far it is, and how to end it."""

    request: DumpRequest
    progress: DumpProgress
    acks: ReplicaAcks = field(default_factory=ReplicaAcks)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    replaced: bool = False
    overtaken: bool = False
    stuck_at: tuple[str, int] | None = None  # file and bytes sent when it was found behind the log

    @property
    def label(self) -> str:
        """What the replica is called in metrics."""
        return self.request.replica_uuid or f"server id {self.request.server_id}"

    @property
    def key(self) -> tuple[str, object] | None:
        """Equal keys are the same replica; None is nobody in particular."""
        if self.request.replica_uuid:
            return "uuid", self.request.replica_uuid
        return ("server id", self.request.server_id) if self.request.server_id else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """One attached replica as `/binlog/server/status` shows it. Unknown is None."""

    uuid: str
    server_id: int
    host: str
    port: int
    state: str
    connect_time: float
    last_gtid: str
    lag_bytes: int | None
    lag_transactions: int | None
    lag_seconds: float | None
    heartbeat_period: float | None
    bytes_until_cut_off: int | None
    file: str
    position: int
    thread_id: int
    semi_sync: bool = False
    acknowledged_file: str = ""
    acknowledged_position: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """One client connection, from accept to close. Ending it is cancelling its scope."""

    thread_id: int
    host: str
    port: int
    connected_at: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    session: Session | None = None
    registered: RegisterReplica | None = None
    dump: RunningDump | None = None
    command: str = CONNECT
    info: str = ""
    since: float = 0.0
    stopping: bool = False

    def doing(self, command: str, *, now: float, info: str = "") -> None:
        """Note what the connection does from now on."""
        self.command, self.info, self.since = command, info, now

    @property
    def user(self) -> str:
        """Who is logged in; MySQL's own words before that."""
        return self.session.user if self.session is not None else "unauthenticated user"


class ConnectionRegistry:
    """All connections of one listener."""

    def __init__(
        self,
        facts: ServerFacts,
        *,
        clock: Callable[[], float] = time.time,
        first_thread_id: int = 0,
    ) -> None:
        """`first_thread_id` keeps the ids of several registries apart."""
        self._facts = facts
        self._clock = clock
        self._started_at = clock()
        self._connections: dict[int, Connection] = {}
        self._last_thread_id = first_thread_id
        self._empty = trio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    @property
    def logging_in(self) -> int:
        """Connections that have not logged in yet."""
        return sum(connection.session is None for connection in self._connections.values())

    def add(self, host: str, port: int) -> Connection:
        """A new connection with a thread id of its own."""
        self._last_thread_id = self._last_thread_id % 0xFFFFFFFF + 1
        while self._last_thread_id in self._connections:
            self._last_thread_id = self._last_thread_id % 0xFFFFFFFF + 1
        now = self._clock()
        connection = Connection(
            thread_id=self._last_thread_id, host=host, port=port, connected_at=now, since=now
        )
        self._connections[connection.thread_id] = connection
        if self._empty.is_set():
            self._empty = trio.Event()
        return connection

    def take(self, connection: Connection) -> bool:
        """A connection of another registry; False where its thread id is taken here."""
        if connection.thread_id in self._connections:
            return False
        self._connections[connection.thread_id] = connection
        if self._empty.is_set():
            self._empty = trio.Event()
        return True

    def remove(self, connection: Connection) -> None:
        """It is closed."""
        del self._connections[connection.thread_id]
        if not self._connections:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Until no connection is open."""
        while self._connections:
            await self._empty.wait()

    def begin_dump(self, connection: Connection, dump: RunningDump) -> None:
        """A dump begins here: the older dumps of the same replica end."""
        for other in self:
            if dump.key is None or other.dump is None or other is connection:
                continue
            if other.dump.key == dump.key:
                other.dump.replaced = True
                other.dump.scope.cancel()
        connection.dump = dump
        kind = "Binlog Dump GTID" if dump.request.kind == "gtid" else "Binlog Dump"
        connection.doing(kind, now=self._clock())

    def end_overtaken(self, is_held: Callable[[str], bool]) -> None:
        """End the dumps that are stuck in a file which is no longer held.

        To be called now and then. A dump that goes on finds out by itself, so only those are ended
        that have sent nothing since they were last looked at: they keep the file's room taken.
        """
        for connection in self:
            dump = connection.dump
            if dump is None or dump.progress.is_outside_log:
                continue
            if not dump.progress.file or is_held(dump.progress.file):
                continue
            at = dump.progress.file, dump.progress.bytes_sent
            if dump.stuck_at == at:
                dump.overtaken = True
                dump.scope.cancel()
            dump.stuck_at = at

    # What SQL and status pages see ---------------------------------------------------------------

    def acknowledging(self) -> dict[str, RunningDump]:
        """The dumps that are acknowledged, by what the replica is called in metrics."""
        dumps = (connection.dump for connection in self)
        return {dump.label: dump for dump in dumps if dump is not None and dump.request.semi_sync}

    def unacknowledged_bytes(self, label: str) -> float:
        """What of the log that replica has not acknowledged; NaN where that is not known."""
        dump = self.acknowledging().get(label)
        lag = None if dump is None else self._lag_bytes(dump.acks.file, dump.acks.position)
        return math.nan if lag is None else lag

    @property
    def channel_name(self) -> str:
        """Empty for the default channel."""
        return self._facts.channel_name

    def semi_sync_clients(self) -> int:
        """Replicas that are asked for acknowledgements."""
        return len(self.acknowledging())

    def acknowledged(self) -> dict[str, tuple[str, int]]:
        """What each of them acknowledged last; an empty file name before the first time."""
        dumps = self.acknowledging()
        return {label: (dump.acks.file, dump.acks.position) for label, dump in dumps.items()}

    def uptime_seconds(self) -> int:
        """Since this registry was made, which is when the node began to serve."""
        return int(self._clock() - self._started_at)

    def processes(self) -> Sequence[ProcessFacts]:
        """All connections, oldest first."""
        now = self._clock()
        return [
            ProcessFacts(
                thread_id=connection.thread_id,
                user=connection.user,
                host=f"{connection.host}:{connection.port}",
                database=connection.session.database if connection.session is not None else "",
                command=connection.command,
                seconds=max(0, int(now - connection.since)),
                state=connection.dump.progress.state if connection.dump is not None else "",
                info=connection.info,
            )
            for connection in self
        ]

    def registered_replicas(self) -> Sequence[RegisteredReplica]:
        """Those that registered, by server id."""
        found = [
            RegisteredReplica(
                server_id=connection.registered.server_id,
                host=connection.registered.host,
                port=connection.registered.port,
                uuid=connection.session.user_variables.replica_uuid,
            )
            for connection in self
            if connection.registered is not None and connection.session is not None
        ]
        return sorted(found, key=lambda replica: replica.server_id)

    def kill(self, thread_id: int, *, by: Session, query_only: bool) -> None:
        """End a connection, or only what it does. Raises 1094; 1095; 1317 for oneself."""
        connection = self._connections.get(thread_id)
        if connection is None:
            raise unknown_thread(thread_id)
        if connection.user != by.user and ADMIN not in by.rights:
            raise not_owner_of_thread(thread_id)
        if query_only and connection.dump is None:
            return
        if connection.session is by:
            raise MySQLError(1317, "70100", "Query execution was interrupted")
        connection.scope.cancel()

    def replicas(self) -> Sequence[ReplicaFacts]:
        """Every dump that runs, by thread id."""
        return [
            self._replica(connection, connection.dump)
            for connection in self
            if connection.dump is not None
        ]

    def reading(self) -> Iterator[tuple[str, str]]:
        """Replica uuid and file of every dump that runs; quicker than `replicas`.

        MariaDB's replicas have none: what stands for it is the same as for a MariaDB source.
        """
        is_mariadb = self._facts.flavor == MARIADB
        for connection in self:
            if connection.dump is None:
                continue
            request = connection.dump.request
            uuid = request.replica_uuid
            if not uuid and is_mariadb and request.server_id:
                uuid = mariadb_uuid(request.server_id)
            yield uuid, connection.dump.progress.file

    def _replica(self, connection: Connection, dump: RunningDump) -> ReplicaFacts:
        registered, progress = connection.registered, dump.progress
        lag_bytes = self._lag_bytes(progress.file, progress.position)
        lag_seconds: float | None = None
        if lag_bytes == 0:
            lag_seconds = 0.0
        elif progress.last_event_time:
            lag_seconds = max(0.0, self._clock() - progress.last_event_time)
        return ReplicaFacts(
            uuid=dump.request.replica_uuid,
            server_id=dump.request.server_id,
            host=(registered.host if registered is not None else "") or connection.host,
            port=registered.port if registered is not None else connection.port,
            state=progress.state,
            connect_time=connection.connected_at,
            last_gtid=progress.last_gtid,
            lag_bytes=lag_bytes,
            # Known only when there is none: counting the others would need the packets.
            lag_transactions=0 if lag_bytes == 0 else None,
            lag_seconds=lag_seconds,
            heartbeat_period=dump.request.heartbeat_period_s,
            bytes_until_cut_off=self._facts.bytes_until_purge(progress.file),
            file=progress.file,
            position=progress.position,
            thread_id=connection.thread_id,
            semi_sync=dump.request.semi_sync,
            acknowledged_file=dump.acks.file,
            acknowledged_position=dump.acks.position,
        )

    def _lag_bytes(self, file: str, position: int) -> int | None:
        """Bytes of the log from there to the visible end."""
        end = self._facts.visible_position()
        if end is None or not file:
            return None
        lag, found = -position, False
        for name, size in self._facts.binlog_files():
            found = found or name == file
            if name == end[0]:
                return max(0, lag + end[1]) if found else None
            if found:
                lag += size
        return None
