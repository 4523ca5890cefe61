"""A node without Raft: what is proposed is applied at once to a real RelayState.

Two of them joined by `FakeTransport` stand for a leader and a follower.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import trio

from kingbus.admin.errors import ConflictError, UnavailableError
from kingbus.admin.leader import LeaderOperations
from kingbus.admin.operations import Operations
from kingbus.binlog import command as codec
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.member import Member, derive_member_id
from kingbus.mysql.errors import MySQLError
from kingbus.node.errors import DialBackError, NotLeaderError
from kingbus.node.status import CatchUp
from kingbus.pb.command_pb2 import ServerConfig, SourceConfig, User
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.candidates import SourceCheckError
from kingbus.replication.file_content import PastEndError
from kingbus.replication.purger import UnknownFileError
from kingbus.replication.source_facts import SourceFacts
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import AtRestStatus

PEER_URLS = {"n1": "http://127.0.0.1:5001", "n2": "http://127.0.0.1:5002"}
ELECTION_SECONDS = 0.05


@dataclass
class FakeStatus:
    member_id: int
    role: str
    leader_id: int
    applied: int
    term: int = 3
    first_index: int = 1
    catch_up: CatchUp | None = None

    @property
    def committed(self) -> int:
        return self.applied

    @property
    def last_index(self) -> int:
        return self.applied


@dataclass
class Shared:
    """The log that all fake nodes share: applied everywhere at once."""

    cluster: Cluster
    leader_id: int
    state: RelayState = field(default_factory=RelayState)
    index: int = 10
    nodes: "dict[int, FakeNode]" = field(default_factory=dict)


@dataclass
class Applied:
    index: int

    async def applied(self) -> None:
        return


class FakeNode:
    def __init__(self, shared: Shared, name: str) -> None:
        self.shared = shared
        member = shared.cluster.named(name)
        assert member is not None
        self.id = member.id
        self.catch_up: CatchUp | None = None
        self.membership = FakeMembership(self)
        self.handover = FakeHandover(self)
        shared.nodes[self.id] = self

    @property
    def cluster(self) -> Cluster:
        return self.shared.cluster

    @property
    def leadership(self) -> "FakeNode":
        return self

    @property
    def is_ready(self) -> bool:
        return self.shared.leader_id == self.id

    @property
    def state(self) -> RelayState:
        return self.shared.state

    @property
    def applied_index(self) -> int:
        return self.shared.index

    def status(self) -> FakeStatus:
        role = "leader" if self.is_ready else "follower"
        return FakeStatus(
            self.id, role, self.shared.leader_id, self.shared.index, catch_up=self.catch_up
        )

    def must_lead(self) -> None:
        if not self.is_ready:
            raise NotLeaderError(self.shared.leader_id)

    async def propose(self, data: bytes) -> Applied:
        self.must_lead()
        self.shared.index += 1
        command, _ = codec.decode(data)
        self.shared.state.apply(self.shared.index, command)
        return Applied(self.shared.index)

    async def wait_applied(self, index: int) -> None:
        assert index <= self.shared.index

    def change(self, kind: ChangeKind, member: Member) -> None:
        self.must_lead()
        self.shared.index += 1
        self.shared.cluster = self.cluster.apply(
            self.shared.index, MemberChange(kind=kind, member=member)
        )


class FakeHandover:
    def __init__(self, node: FakeNode) -> None:
        self._node = node

    async def transfer(self, member_id: int | None) -> int:
        node = self._node
        node.must_lead()
        others = [member.id for member in node.cluster if member.id != node.id]
        node.shared.leader_id = member_id or others[0]
        return node.shared.leader_id


class FakeMembership:
    def __init__(self, node: FakeNode) -> None:
        self._node = node

    async def add(
        self,
        name: str,
        peer_urls: Sequence[str],
        admin_urls: Sequence[str] = (),
        *,
        learner: bool = False,
        promote: bool = False,
    ) -> Member:
        member = Member(
            id=derive_member_id(name, peer_urls, index=self._node.shared.index),
            name=name,
            peer_urls=tuple(peer_urls),
            admin_urls=tuple(admin_urls),
            learner=learner,
            promote=promote,
        )
        self._node.change(ChangeKind.ADD, member)
        return member

    async def promote(self, member_id: int) -> None:
        self._node.change(ChangeKind.PROMOTE, self._node.cluster.require(member_id))

    async def remove(self, member_id: int) -> None:
        self._node.change(ChangeKind.REMOVE, self._node.cluster.require(member_id))

    async def replace(
        self,
        member_id: int,
        name: str,
        peer_urls: Sequence[str] = (),
        admin_urls: Sequence[str] = (),
    ) -> Member:
        if peer_urls:
            index = self._node.shared.index
            member = Member(
                id=derive_member_id(name, peer_urls, index=index),
                name=name,
                peer_urls=tuple(peer_urls),
                admin_urls=tuple(admin_urls),
            )
        else:
            member = self._node.cluster.find(name).promoted()
        self._node.must_lead()
        self._node.shared.index += 2
        change = MemberChange(kind=ChangeKind.REPLACE, member=member, replaced=member_id)
        joint = self._node.cluster.apply(self._node.shared.index - 1, change)
        self._node.shared.cluster = joint.left(self._node.shared.index)
        return member

    async def update(self, member_id: int, peer_urls: Sequence[str]) -> None:
        member = replace(self._node.cluster.require(member_id), peer_urls=tuple(peer_urls))
        self._node.change(ChangeKind.UPDATE, member)


@dataclass
class FakeReceiverStatus:
    status: str = "stopped"
    error: str = ""
    address: str = ""
    seconds_behind_source: int | None = None
    semi_sync_active: bool = False
    acknowledged: tuple[str, int] = ("", 0)


class FakeReceiver:
    def __init__(self) -> None:
        self.now = FakeReceiverStatus()
        self.refusal = ""
        self.checked: list[tuple[str, str]] = []
        self.binlog_size = 0
        self.holds = 0
        self.halts: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.takes_first = False
        self.lags = 0
        """So many checks more find that the source lacks what the relay has."""
        self.facts = SourceFacts(
            address="10.0.0.10:3306",
            version="9.7.4",
            server_id=12,
            server_uuid="50b5308f-e4f4-11f1-a9f2-02fc00000002",
            gtid_mode="ON",
            has_binlog=True,
            gtid_executed=GtidSet(),
            gtid_purged=GtidSet(),
            checksum="CRC32",
            clock=0,
        )

    def status(self) -> FakeReceiverStatus:
        return self.now

    @contextmanager
    def held(self) -> Iterator[None]:
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1

    async def halted(self) -> None:
        assert self.holds
        await self.halts()

    def take_first(self) -> None:
        self.takes_first = True

    async def check_source(self, config: SourceConfig, password: str) -> SourceFacts:
        self.checked.append((config.addresses[0], password))
        if self.lags:
            self.lags -= 1
            error = SourceCheckError("the relay has transactions that the source lacks: x:1-5")
            error.is_behind = True
            raise error
        if self.refusal:
            raise SourceCheckError(self.refusal)
        return self.facts

    async def ask_facts(self, config: SourceConfig, password: str) -> SourceFacts:
        return await self.check_source(config, password)

    async def ask_binlog_size(self, _config: SourceConfig, _password: str) -> int:
        return self.binlog_size


class FakePurger:
    """Notes what it is asked for; holds the files that it is given."""

    def __init__(self) -> None:
        self.asked: list[str | float] = []
        self.held: set[str] = set()

    async def purge_to(self, name: str, *, channel: int = 0) -> None:
        if name not in self.held:
            raise UnknownFileError(f"no such file: {name}")
        self.asked.append(name)

    async def purge_before(self, seconds: float, *, channel: int = 0) -> None:
        self.asked.append(seconds)


class FakeListener:
    """Stores through the operations as the real one does; `taken` addresses are in use."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self.operations: Operations | None = None
        self.is_running = False
        self.taken: set[str] = set()

    def replicas(self) -> list[object]:
        return []

    async def start(self, address: str, user: str, password: str, *, admin: bool = False) -> None:
        assert self.operations is not None
        if address in self.taken:
            raise ConflictError(f"listen on {address}: address already in use")
        rights = ["replication", "admin"] if admin else ["replication"]
        users = [User(name=user, native_verifier=bytes(len(password)), rights=rights)]
        config = ServerConfig(member_id=self._node.id, started=True, address=address, users=users)
        await self.operations.store_server(config)
        self.is_running = True

    async def stop(self) -> None:
        self.is_running = False


@dataclass
class FakeReply:
    body: bytes
    status: int = 200
    message: str = ""


class FakeTransport:
    def __init__(self) -> None:
        self.handlers: dict[int, Callable[[int, bytes], Awaitable[bytes]]] = {}
        self.calls = 0
        # Asked around each call; it raises what the link to that member does.
        self.before: Callable[[int], None] = lambda _target: None
        self.after: Callable[[int], None] = lambda _target: None

    async def call(self, target: int, _method: str, body: bytes, **_: float) -> FakeReply:
        self.calls += 1
        self.before(target)
        reply = await self.handlers[target](0, body)
        self.after(target)
        return FakeReply(reply)


@dataclass
class FakeIdentity:
    server_id: int = 77
    server_uuid: str = "11111111-2222-5333-8444-555555555555"


@dataclass
class FakeEvent:
    position: int
    end_position: int
    file: str = "binlog.000001"
    event_type: str = "Xid"
    server_id: int = 1
    info: str = "COMMIT"


@dataclass(frozen=True)
class FakeChunk:
    data: bytes
    total: int
    closed: bool


FAKE_CONTENT = b"\xfebin" + bytes(range(256)) * 40


async def fake_content(file: str, offset: int, size_max: int) -> FakeChunk | None:
    """One closed file; a read behind its end is refused."""
    if file != "binlog.000001":
        return None
    if offset > len(FAKE_CONTENT):
        raise PastEndError(f"{file} has {len(FAKE_CONTENT)} bytes")
    data = FAKE_CONTENT[offset : offset + size_max]
    return FakeChunk(data, len(FAKE_CONTENT), closed=True)


@dataclass(frozen=True, kw_only=True)
class FakeArchiveStatus:
    target: str = "s3://bucket/one/"
    serving: bool = True
    archiving: bool = False
    files: int = 1
    files_behind: int = 2
    files_missing: int = 0
    oldest: str = "binlog.000001"
    newest: str = "binlog.000001"
    last_success: float | None = None
    error: str = ""
    errors: int = 0
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FakeArchivedFile:
    row: FileRow = field(
        default_factory=lambda: FileRow(
            ordinal=1, served_name="binlog.000001", end_position=99, epoch=1
        )
    )
    key: str = "files/binlog.000001"
    sha256: str = "00"
    compression: str = "none"
    before: GtidSet = field(default_factory=GtidSet)
    after: GtidSet = field(default_factory=GtidSet)


class FakeArchive:
    """One file."""

    def status(self) -> FakeArchiveStatus:
        return FakeArchiveStatus()

    def files(self) -> list[FakeArchivedFile]:
        return [FakeArchivedFile()]

    def has(self, row: FileRow) -> bool:
        return row.ordinal == 1


async def fake_events(
    file: str, position: int, _offset: int, limit: int
) -> Sequence[FakeEvent] | None:
    if file != "binlog.000001":
        return None
    if position % 10 != 4:
        raise MySQLError(1220, "HY000", "Wrong offset or I/O error")
    return [FakeEvent(position=at, end_position=at + 10) for at in (position, position + 10)][
        :limit
    ]


@dataclass
class FakeKeys:
    secret: ClusterSecret | None

    async def wait(self) -> ClusterSecret:
        if self.secret is None:
            raise UnavailableError("this node does not have the cluster key yet")
        return self.secret


@dataclass
class Member1:
    """One node of the pair with everything that a test looks at."""

    node: FakeNode
    receiver: FakeReceiver
    listener: FakeListener
    operations: Operations
    purger: FakePurger


class Pair:
    """Two members; n1 leads."""

    def __init__(self, *, with_key: bool = True) -> None:
        cluster = Cluster.initial([(name, [url]) for name, url in PEER_URLS.items()])
        leader = cluster.named("n1")
        assert leader is not None
        self.shared = Shared(cluster=cluster, leader_id=leader.id)
        self.transport = FakeTransport()
        self.joiners: set[tuple[str, str, str]] = set()  # (URL, name, token) of who would answer
        self.secret = ClusterSecret.generate() if with_key else None
        self.at_rest: AtRestStatus | None = None
        self.n1 = self._member("n1")
        self.n2 = self._member("n2")

    async def _dial_back(self, url: str, /, *, name: str, token: str) -> None:
        if (url, name, token) not in self.joiners:
            raise DialBackError(f"{name} cannot be reached from here: {url}")

    def _member(self, name: str) -> Member1:
        node, receiver, purger = FakeNode(self.shared, name), FakeReceiver(), FakePurger()
        listener = FakeListener(node)
        identity = FakeIdentity()
        leader = LeaderOperations(
            node=node,
            relay=node,
            receiver=receiver,
            identity=identity,
            keys=FakeKeys(self.secret),
            purger=purger,
            dial_back=self._dial_back,
        )
        operations = Operations(
            name=name,
            version="1.2.3",
            node=node,
            relay=node,
            listener=listener,
            transport=self.transport,
            leader=leader,
            identity=identity,
            election_timeout=ELECTION_SECONDS,
            events=fake_events,
            at_rest=lambda: self.at_rest,
            content=fake_content,
        )
        listener.operations = operations
        self.transport.handlers[node.id] = operations.handle_call
        return Member1(node, receiver, listener, operations, purger)
