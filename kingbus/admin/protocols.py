"""What the admin edge asks of the layers below; they implement it without knowing.

Shapes only. `RelayState` and `Cluster` are values of the pure cores and used as they are.
"""

from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.membership.cluster import Cluster
from kingbus.membership.member import Member
from kingbus.pb import command_pb2, record_pb2
from kingbus.replication.source_facts import SourceFacts
from kingbus.secrets import ClusterSecret


class Proposal(Protocol):
    """A command on its way into the log."""

    @property
    def index(self) -> int: ...

    async def applied(self) -> object:
        """Return when it is applied here; raises ProposalLostError when the outcome is unknown."""


class AtRest(Protocol):
    """How this node's disk holds the log; see `storage.at_rest.AtRestStatus`."""

    @property
    def level(self) -> int: ...
    @property
    def key_id(self) -> str: ...
    @property
    def data_bytes(self) -> int: ...
    @property
    def stored_bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def segments(self) -> int: ...
    @property
    def transformed_segments(self) -> int: ...
    @property
    def sealed_segments(self) -> int: ...


class CatchUp(Protocol):
    """How far a node has come that began from a snapshot."""

    @property
    def installing(self) -> bool: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def share(self) -> float: ...


class NodeStatus(Protocol):
    """This node's view of Raft at one moment."""

    @property
    def member_id(self) -> int: ...
    @property
    def role(self) -> str: ...
    @property
    def term(self) -> int: ...
    @property
    def leader_id(self) -> int: ...
    @property
    def committed(self) -> int: ...
    @property
    def applied(self) -> int: ...
    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def catch_up(self) -> CatchUp | None: ...


class Leadership(Protocol):
    """Whether this node leads and has applied an entry of its own term."""

    @property
    def is_ready(self) -> bool: ...


class Membership(Protocol):
    """Changes of the membership, on the leader; each returns when it is applied there."""

    async def add(
        self,
        name: str,
        peer_urls: Sequence[str],
        admin_urls: Sequence[str] = (),
        *,
        learner: bool = False,
        promote: bool = False,
    ) -> Member: ...
    async def promote(self, member_id: int) -> object: ...
    async def remove(self, member_id: int) -> object: ...
    async def replace(
        self,
        member_id: int,
        name: str,
        peer_urls: Sequence[str] = (),
        admin_urls: Sequence[str] = (),
    ) -> Member: ...
    async def update(self, member_id: int, peer_urls: Sequence[str]) -> object: ...


class Handover(Protocol):
    """Hands leadership over, on the leader; the new leader's id."""

    async def transfer(self, member_id: int | None) -> int: ...


class Node(Protocol):
    """The Raft node."""

    @property
    def cluster(self) -> Cluster: ...
    @property
    def leadership(self) -> Leadership: ...
    @property
    def membership(self) -> Membership: ...
    @property
    def handover(self) -> Handover: ...

    def status(self) -> NodeStatus: ...
    async def propose(self, data: bytes) -> Proposal: ...
    async def wait_applied(self, index: int) -> None: ...


class DialBack(Protocol):
    """Checks that a node which wants to join answers at its peer URL."""

    async def __call__(self, url: str, /, *, name: str, token: str) -> None:
        """Raises DialBackError."""
        ...


class Relay(Protocol):
    """The applied log."""

    @property
    def state(self) -> RelayState: ...
    @property
    def applied_index(self) -> int: ...


class ReceiverStatus(Protocol):
    """What the receiver says of itself; the words of `/binlog/syncer/status`."""

    @property
    def status(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def seconds_behind_source(self) -> int | None: ...
    @property
    def semi_sync_active(self) -> bool: ...
    @property
    def acknowledged(self) -> tuple[str, int]: ...


class BinlogEvent(Protocol):
    """One event of a file, in the words of SHOW BINLOG EVENTS."""

    @property
    def file(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def event_type(self) -> str: ...
    @property
    def server_id(self) -> int: ...
    @property
    def end_position(self) -> int: ...
    @property
    def info(self) -> str: ...


class Events(Protocol):
    """Reads events of the files held; None for a file that is not."""

    def __call__(
        self, file: str, position: int, offset: int, limit: int
    ) -> Awaitable[Sequence[BinlogEvent] | None]: ...


class FileChunk(Protocol):
    """A run of a file's bytes; `total` is how many the file has, `closed` that it stays so."""

    @property
    def data(self) -> bytes: ...
    @property
    def total(self) -> int: ...
    @property
    def closed(self) -> bool: ...


class FileContent(Protocol):
    """Reads the bytes of a file held here; None for a file that is not. Raises KingbusErrors."""

    def __call__(self, file: str, offset: int, size_max: int) -> Awaitable[FileChunk | None]: ...


class ArchiveStatus(Protocol):
    """What is told of an archive; the words of `GET /archive`."""

    @property
    def target(self) -> str: ...
    @property
    def serving(self) -> bool: ...
    @property
    def archiving(self) -> bool: ...
    @property
    def files(self) -> int: ...
    @property
    def files_behind(self) -> int: ...
    @property
    def files_missing(self) -> int: ...
    @property
    def oldest(self) -> str: ...
    @property
    def newest(self) -> str: ...
    @property
    def last_success(self) -> float | None: ...
    @property
    def error(self) -> str: ...
    @property
    def errors(self) -> int: ...
    @property
    def damaged(self) -> Sequence[str]: ...


class ArchivedFile(Protocol):
    """A file in the archive; `row` is as the relay state had it."""

    @property
    def row(self) -> record_pb2.FileRow: ...
    @property
    def key(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def compression(self) -> str: ...
    @property
    def before(self) -> GtidSet: ...
    @property
    def after(self) -> GtidSet: ...


class Archive(Protocol):
    """Closed files in a store outside the cluster."""

    def status(self) -> ArchiveStatus: ...
    def files(self) -> Sequence[ArchivedFile]: ...
    def has(self, row: record_pb2.FileRow) -> bool: ...


class Receiver(Protocol):
    """Pulls from the source while this node leads."""

    def status(self) -> ReceiverStatus: ...
    async def check_source(self, config: command_pb2.SourceConfig, password: str) -> SourceFacts:
        """Connect, log in and check; raises a KingbusError with the source's own text."""
        ...

    async def ask_facts(self, config: command_pb2.SourceConfig, password: str) -> SourceFacts:
        """The same without comparing what source and relay have."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """While this lasts nothing is pulled."""
        ...

    async def halted(self) -> None:
        """While it is held: until nothing more is proposed."""

    def take_first(self) -> None:
        """The first candidate was chosen by an operator."""

    def ask_binlog_size(self, config: command_pb2.SourceConfig, password: str) -> Awaitable[int]:
        """The source's max_binlog_size; 0 when it does not say so soon."""


class Purges(Protocol):
    """Purges binlog files by hand, on the leader; each returns when it is applied there."""

    async def purge_to(self, name: str, *, channel: int = 0) -> None:
        """UnknownFileError for a file that is not held."""

    async def purge_before(self, seconds: float, *, channel: int = 0) -> None: ...


class Replica(Protocol):
    """One attached replica, as the binlog server knows it."""

    @property
    def uuid(self) -> str: ...
    @property
    def server_id(self) -> int: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def connect_time(self) -> float: ...
    @property
    def last_gtid(self) -> str: ...
    @property
    def lag_bytes(self) -> int | None: ...
    @property
    def lag_transactions(self) -> int | None: ...
    @property
    def lag_seconds(self) -> float | None: ...
    @property
    def heartbeat_period(self) -> float | None: ...
    @property
    def bytes_until_cut_off(self) -> int | None: ...
    @property
    def semi_sync(self) -> bool: ...
    @property
    def acknowledged_file(self) -> str: ...
    @property
    def acknowledged_position(self) -> int: ...


class Listener(Protocol):
    """The replica-facing listener of this node."""

    @property
    def is_running(self) -> bool: ...

    def replicas(self) -> Sequence[Replica]: ...
    async def start(self, address: str, user: str, password: str, *, admin: bool = False) -> None:
        """Bind, store and serve. ConflictError when the address is in use."""

    async def stop(self) -> None: ...


class ChannelDoor(Protocol):
    """What this node shows of a named channel."""

    @property
    def relay(self) -> Relay: ...
    @property
    def listener(self) -> Listener: ...
    @property
    def events(self) -> Events: ...
    @property
    def content(self) -> FileContent: ...


class CallReply(Protocol):
    """A peer's answer to a call."""

    @property
    def status(self) -> int: ...
    @property
    def message(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class Transport(Protocol):
    """Calls to other members."""

    async def call(
        self,
        target: int | str,
        method: str,
        body: bytes = b"",
        timeout: float = 10.0,  # noqa: ASYNC109 - across processes, not within this one
    ) -> CallReply:
        """Raises a KingbusError when there is no answer; whether it arrived is then unknown."""
        ...


class Keys(Protocol):
    """The cluster's key on this node."""

    @property
    def secret(self) -> ClusterSecret | None: ...

    async def wait(self) -> ClusterSecret:
        """UnavailableError when it does not come in time."""
        ...


class Identity(Protocol):
    """The one server id and uuid of the cluster, towards source and replicas."""

    @property
    def server_id(self) -> int: ...
    @property
    def server_uuid(self) -> str: ...
