"""What this node tells of itself as a source: identity, version, sets, files, the receiver.

Owns: the one server id and server uuid of the cluster (derived from the cluster id, so every node
finds the same ones without asking), and the facts that `queries` answers statements from. Knows
nothing of connections or of the wire. A value that a replica reads is never None.
"""

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from kingbus.addresses import Address
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.mariadb_gtid import MYSQL, Position
from kingbus.binlog.relay_state import FIRST_POSITION, RelayState
from kingbus.pb.command_pb2 import SourceConfig
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.administration import Administration
from kingbus.replication.binlog_events import read_binlog_events
from kingbus.replication.queries import BinlogEventRow
from kingbus.replication.relay import Relay
from kingbus.replication.replica_status import ReceiverFacts
from kingbus.replication.source_facts import POSITION

UNKNOWN_VERSION = "8.4.0-kingbus"
"""What the greeting says before any source is known: replicas of every age accept it."""


def derive_server_id(cluster_id: int) -> int:
    """A server id for a cluster: between 2^30 and 2^31, where operators seldom number by hand."""
    digest = hashlib.sha1(b"kingbus server id" + cluster_id.to_bytes(8, "big"))  # noqa: S324
    return int.from_bytes(digest.digest()[:4], "big") & 0x3FFFFFFF | 0x40000000


def derive_server_uuid(cluster_id: int) -> str:
    """A server uuid for a cluster."""
    digest = hashlib.sha1(b"kingbus server uuid" + cluster_id.to_bytes(8, "big"))  # noqa: S324
    return str(uuid.UUID(bytes=digest.digest()[:16], version=5))


class ClusterIdentity:
    """Server id and uuid, towards the source and towards replicas, the same on every node.

    What the source configuration sets wins over what is derived.
    """

    def __init__(self, cluster_id: int, state: Callable[[], RelayState]) -> None:
        self._derived_id = derive_server_id(cluster_id)
        self._derived_uuid = derive_server_uuid(cluster_id)
        self._state = state

    @property
    def server_id(self) -> int:
        """The cluster's server id."""
        return self.server_id_of(self._state().source_config)

    @property
    def server_uuid(self) -> str:
        """The cluster's server uuid."""
        return self.server_uuid_of(self._state().source_config)

    def server_id_of(self, config: SourceConfig | None) -> int:
        """The server id under a configuration, which need not be the one in force."""
        return (config.server_id if config is not None else 0) or self._derived_id

    def server_uuid_of(self, config: SourceConfig | None) -> str:
        """The server uuid under a configuration."""
        return (config.server_uuid if config is not None else "") or self._derived_uuid


class ReceiverStatus(Protocol):
    """What the receiver says of itself."""

    @property
    def status(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def seconds_behind_source(self) -> int | None: ...


class Purge(Protocol):
    """Has the cluster purge files; raises MySQLError."""

    async def __call__(self, *, to: str, before: float | None) -> None: ...


class ServedBefore(Protocol):
    """What is served though the log holds it no longer."""

    def files(self) -> Sequence[FileRow]:
        """Oldest first, up to the oldest that the log holds."""
        ...

    def purged(self) -> GtidSet:
        """What is in none of them."""
        ...


def _error_number(status: ReceiverStatus) -> int:
    """As replicas number it: 2003 while they try again, 13117 when an operator is needed."""
    if not status.error:
        return 0
    return 13117 if status.status == "error" else 2003


class ServedFacts(ClusterIdentity):
    """The facts of `queries.ServerFacts`, from the applied state.

    `receiver` asks the leader what its receiver does. `version` overrides the source's;
    `listening` says where replicas connect; `purge` carries a purge to who does it; `semi_sync`:
    replicas may ask for it; `until_purge` gives the bytes before the file of a first index goes.
    """

    def __init__(
        self,
        *,
        cluster_id: int,
        relay: Relay,
        receiver: Callable[[], Awaitable[ReceiverStatus]],
        listening: Callable[[], Address | None],
        hostname: str,
        purge: Purge,
        administration: Administration,
        until_purge: Callable[[int], int],
        version: str = "",
        semi_sync: bool = False,
        channel_name: str = "",
    ) -> None:
        self.channel_name = channel_name
        self.named: Callable[[], Mapping[str, ServedFacts]] = dict
        """Set where there may be named channels: their facts."""
        super().__init__(cluster_id, lambda: relay.state)
        self._relay = relay
        self._receiver = receiver
        self._listening = listening
        self._version = version
        self._purge = purge
        self.administration = administration
        self._until_purge = until_purge
        self.semi_sync = semi_sync
        self.before: ServedBefore | None = None
        """Set where there is an archive."""
        self.hostname = hostname

    @property
    def channels(self) -> Mapping[str, "ServedFacts"]:
        """This one by its name, and what is `named` behind it."""
        return {self.channel_name: self, **self.named()}

    @property
    def version(self) -> str:
        """The version string of the greeting: replicas steer by it."""
        source = self._state().source
        own = source.source_version if source is not None else ""
        return self._version or own or UNKNOWN_VERSION

    @property
    def gtid_mode(self) -> str:
        """ON where the relay goes by GTIDs; else what the source said, so that replicas fit."""
        source, config = self._state().source, self._state().source_config
        if source is None:
            return "OFF" if config is not None and config.mode == POSITION else "ON"
        if source.mode != POSITION:
            return "ON"
        # ON would promise dumps by GTID set.
        return "ON_PERMISSIVE" if source.gtid_mode == "ON" else source.gtid_mode or "OFF"

    @property
    def flavor(self) -> str:
        """`mysql` or `mariadb`; before any source is known as the configuration says."""
        state = self._state()
        config = state.source_config
        return state.flavor or (config.flavor if config is not None else "") or MYSQL

    @property
    def binlog_checksum(self) -> str:
        """What the newest file has."""
        files = self._state().files
        return "NONE" if files and files[-1].start.checksum_algorithm == 0 else "CRC32"

    @property
    def port(self) -> int:
        """The listener's port; 0 while there is none."""
        address = self._listening()
        return address.port if address is not None else 0

    def gtid_executed(self) -> str:
        """The visible transactions, on one line."""
        return str(self._state().executed)

    def gtid_binlog_pos(self) -> str:
        """The last visible transaction of each of MariaDB's domains."""
        return str(Position.of(self._state().executed))

    def gtid_binlog_state(self) -> str:
        """The last visible transaction of each of MariaDB's domains and servers."""
        return Position.every_end(self._state().executed)

    def binlog_gtid_pos(self, file: str, position: int) -> str | None:
        """What comes before a position of a file; None where that is not known without reading.

        It is known where a file begins and where it ends.
        """
        state = self._state()
        files = state.files
        row = state.file_named(file) if file else (files[0] if files else None)
        if row is None:
            return None
        if position <= FIRST_POSITION:
            return str(Position.of(GtidSet.decode(state.previous_gtids(row))))
        if position != row.end_position:
            return None
        behind = state.file(row.ordinal + 1)
        gtids = state.executed
        if behind is not None:
            gtids = GtidSet.decode(state.previous_gtids(behind))
        return str(Position.of(gtids))

    def gtid_purged(self) -> str:
        """What can no longer be served, on one line."""
        return str(self.before.purged() if self.before is not None else self._state().purged)

    def variable(self, name: str) -> str | None:
        """The source's own value of a variable, as it said when a session with it began."""
        source = self._state().source
        return source.variables.get(name) if source is not None else None

    def binlog_files(self) -> Sequence[tuple[str, int]]:
        """Names as served and visible sizes, oldest first."""
        before = self.before.files() if self.before is not None else ()
        return [(row.served_name, row.end_position) for row in (*before, *self._state().files)]

    def visible_position(self) -> tuple[str, int] | None:
        """File and position of the visible end."""
        visible = self._state().visible
        return (visible.served_name, visible.position) if visible.served_name else None

    def bytes_until_purge(self, file: str) -> int | None:
        """How far a file of this name is from being purged; None for one that is not held."""
        row = self._state().file_named(file)
        return None if row is None else self._until_purge(row.first_index)

    async def receiver(self) -> ReceiverFacts | None:
        """The receiver, as SHOW REPLICA STATUS tells it."""
        status = await self._receiver()
        state = self._state()
        config, source = state.source_config, state.source
        if config is None or not config.addresses:
            return None
        host, _, port = (status.address or config.addresses[0]).rpartition(":")
        return ReceiverFacts(
            state=status.status,
            host=host.strip("[]"),
            port=int(port),
            user=config.user,
            file=state.visible.file_name,
            position=state.visible.position,
            source_id=source.source_id if source is not None else 0,
            source_uuid=source.source_uuid if source is not None else "",
            executed=str(state.executed),
            auto_position=config.mode != POSITION,
            seconds_behind=status.seconds_behind_source,
            error=status.error,
            error_code=_error_number(status),
            tls_mode=config.tls.mode,
            tls_ca=config.tls.ca,
            tls_cert=config.tls.cert,
            tls_key=config.tls.key,
            channel=self.channel_name,
        )

    async def purge_binlogs(self, *, to: str = "", before: float | None = None) -> None:
        """PURGE BINARY LOGS."""
        await self._purge(to=to, before=before)

    async def binlog_events(
        self, file: str, position: int, offset: int, limit: int
    ) -> Sequence[BinlogEventRow] | None:
        """Events for SHOW BINLOG EVENTS."""
        return await read_binlog_events(self._relay, file, position, offset, limit)
