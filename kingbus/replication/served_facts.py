"""What this node tells of itself as a source: identity, version, sets, files, the receiver.

Owns: the one server id and server uuid of the cluster (derived from the cluster id, so every node
finds the same ones without asking), and the facts that `queries` answers statements from. Knows
nothing of connections or of the wire. A value that a replica reads is never None.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

from kingbus.addresses import Address
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.mysql.resultset import Value
from kingbus.pb.command_pb2 import SourceConfig
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.binlog_events import read_binlog_events
from kingbus.replication.queries import BinlogEventRow, ReceiverFacts
from kingbus.replication.relay import Relay
from kingbus.replication.system_variables import SEMI_SYNC_VARIABLES

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


class ServedFacts(ClusterIdentity):
    """The facts of `queries.ServerFacts`, from the applied state.

    `version` overrides the source's; `listening` says where replicas connect; `purge` carries a
    purge to who does it; `semi_sync`: replicas may ask for it; `until_purge` gives the bytes before
    the file of a first index goes.
    """

    gtid_mode = "ON"  # sources without GTIDs are refused

    def __init__(
        self,
        *,
        cluster_id: int,
        relay: Relay,
        receiver: Callable[[], ReceiverStatus],
        listening: Callable[[], Address | None],
        hostname: str,
        purge: Purge,
        until_purge: Callable[[int], int],
        version: str = "",
        semi_sync: bool = False,
    ) -> None:
        super().__init__(cluster_id, lambda: relay.state)
        self._relay = relay
        self._receiver = receiver
        self._listening = listening
        self._version = version
        self._purge = purge
        self._until_purge = until_purge
        self._semi_sync = semi_sync
        self.before: ServedBefore | None = None
        """Set where there is an archive."""
        self.hostname = hostname

    @property
    def version(self) -> str:
        """The version string of the greeting: replicas steer by it."""
        source = self._state().source
        own = source.source_version if source is not None else ""
        return self._version or own or UNKNOWN_VERSION

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

    def gtid_purged(self) -> str:
        """What can no longer be served, on one line."""
        return str(self.before.purged() if self.before is not None else self._state().purged)

    def variable(self, name: str) -> Value:
        """What the fixed values are not used for; of the source's own none is kept yet."""
        if name in SEMI_SYNC_VARIABLES and self._semi_sync:
            return "ON"
        return None

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

    def receiver(self) -> ReceiverFacts | None:
        """The receiver, as SHOW REPLICA STATUS tells it."""
        state = self._state()
        config, source = state.source_config, state.source
        if config is None:
            return None
        status = self._receiver()
        host, _, port = config.addresses[0].rpartition(":") if config.addresses else ("", "", "0")
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
            seconds_behind=status.seconds_behind_source,
            error=status.error,
            error_code=1 if status.error else 0,
        )

    async def purge_binlogs(self, *, to: str = "", before: float | None = None) -> None:
        """PURGE BINARY LOGS."""
        await self._purge(to=to, before=before)

    async def binlog_events(
        self, file: str, position: int, offset: int, limit: int
    ) -> Sequence[BinlogEventRow] | None:
        """Events for SHOW BINLOG EVENTS."""
        return await read_binlog_events(self._relay, file, position, offset, limit)
