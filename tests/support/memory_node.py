"""A whole member in memory: a log, a state machine, and a cluster of them in one process.

The log and the database have a durable half, which a new node can be given to restart from. The
transport is the real one over loopback sockets.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Protocol

import trio

from kingbus.membership.cluster import Cluster
from kingbus.node.machine import AppliedBatch, Log, Snapshots, StateMachine
from kingbus.node.node import Node, NodeSettings, Removed
from kingbus.pb import record_pb2
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import ConfState, Entry, HardState
from kingbus.storage.log import LogStore, LogWrite
from kingbus.transport.connection import open_listener
from kingbus.transport.peer import Timings
from kingbus.transport.transport import Transport
from tests.support.processes import free_port

DEADLINE_SECONDS = 20.0


@dataclass
class Disk:
    """What survives a crash: the log's entries and hard state, the machine's rows."""

    entries: list[Entry] = field(default_factory=list)
    hard_state: HardState = field(default_factory=HardState)
    applied: list[tuple[int, bytes]] = field(default_factory=list)
    applied_index: int = 0
    members: record_pb2.Members | None = None


class MemoryLog(MemoryStorage):
    """A log whose `write` is slow or fails on demand; what it wrote is on the Disk."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk
        self.append(list(disk.entries))
        self.set_hard_state(disk.hard_state)
        self.writes = 0
        self.before_write: Callable[[], None] = lambda: None
        self.conf: tuple[int, ConfState] = (0, ConfState())
        self._one_at_a_time = Lock()

    def write(self, write: LogWrite) -> None:
        assert self._one_at_a_time.acquire(blocking=False), "two writes at a time"
        try:
            self.before_write()
            assert write.snapshot is None
            if write.entries:
                first = write.entries[0].index
                assert first <= len(self.disk.entries) + 1
                self.disk.entries[first - 1 :] = write.entries
            if write.hard_state is not None:
                self.disk.hard_state = write.hard_state
            self.writes += 1
        finally:
            self._one_at_a_time.release()

    def publish(self, write: LogWrite) -> None:
        self.append(list(write.entries))
        if write.hard_state is not None:
            self.set_hard_state(write.hard_state)

    def note_idle(self) -> bool:
        return False

    def set_conf_state(self, index: int, conf_state: ConfState) -> None:
        self.conf = (index, conf_state)


class MemoryMachine:
    """Keeps what it is given, on the Disk."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    @property
    def applied_index(self) -> int:
        return self.disk.applied_index

    def apply(self, batch: AppliedBatch) -> None:
        assert batch.entries[0].index == self.disk.applied_index + 1
        for entry in batch.entries:
            if entry.type == 0 and entry.data:
                self.disk.applied.append((entry.index, bytes(entry.data)))
        self.disk.applied_index = batch.entries[-1].index
        if batch.members:
            self.disk.members = batch.members[max(batch.members)]

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.disk.applied]


async def run_in_thread(function: Callable[..., object], *arguments: object) -> object:
    return await trio.to_thread.run_sync(function, *arguments)


async def eventually(condition: Callable[[], object], what: str = "") -> object:
    """Wait for a condition with a deadline; trio's own checkpoints are the pace."""
    with trio.move_on_after(DEADLINE_SECONDS):
        while True:
            found = condition()
            if found:
                return found
            await trio.sleep(0.005)
    raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {what or condition}")


class Stores(Protocol):
    """What a member has opened of its directory."""

    log: Log
    machine: StateMachine
    snapshots: Snapshots | None
    members: record_pb2.Members | None

    def close(self) -> None: ...


@dataclass
class MemoryStores:
    """A log of any kind and a machine in memory."""

    log: Log
    machine: MemoryMachine
    members: record_pb2.Members | None
    snapshots: None = None

    def close(self) -> None:
        if isinstance(self.log, LogStore):
            self.log.abandon()


@dataclass
class MemberProcess:
    """One running member: everything that would be one process."""

    name: str
    node: Node
    transport: Transport
    stores: Stores
    scope: trio.CancelScope
    ended: trio.Event = field(default_factory=trio.Event)
    result: Removed | BaseException | None = None

    @property
    def log(self) -> Any:
        return self.stores.log

    @property
    def machine(self) -> Any:
        return self.stores.machine

    async def stop(self) -> None:
        """As a kill: nothing is said goodbye to."""
        self.scope.cancel()
        await self.ended.wait()


class LoopbackCluster:
    """Members over loopback TCP, with short timeouts; each has a Disk that outlives it."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        settings: NodeSettings | None = None,
        make_log: Callable[[str, Disk], Log] | None = None,
        open_stores: Callable[[str], Stores] | None = None,
    ) -> None:
        """Either `make_log`, with a machine in memory behind it, or all of a member's stores."""
        self._nursery = nursery
        self._open_stores = open_stores or self._memory_stores
        self._make_log = make_log or (lambda _name, disk: MemoryLog(disk))
        self.settings = settings or NodeSettings(heartbeat_seconds=0.05, election_seconds=1.0)
        self.timings = Timings(probe=0.3, read=2.0, back_off_max=0.2)
        self.disks: dict[str, Disk] = {}
        self.ports: dict[str, int] = {}
        self.members: dict[str, MemberProcess] = {}
        self.first: Cluster | None = None
        self.ids: dict[str, int] = {}
        self._seed = 1

    def _memory_stores(self, name: str) -> Stores:
        disk = self.disks[name]
        return MemoryStores(self._make_log(name, disk), MemoryMachine(disk), disk.members)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def reserve(self, name: str) -> None:
        """Find a port for a member that is to be started later, and again after a crash."""
        self.ports[name] = free_port()

    async def begin(self, *names: str) -> None:
        """Start a new cluster of these members."""
        for name in names:
            self.reserve(name)
        self.first = Cluster.initial([(name, [self.url(name)]) for name in names])
        for name in names:
            self.disks[name] = Disk()
            await self._run(name, self.first.named(name).id, self.first, bootstrap=True)

    async def restart(self, name: str) -> MemberProcess:
        """Start a stopped member from its disk."""
        return await self._run(name, self.ids[name], None)

    async def join(self, name: str, foreseen: Cluster) -> MemberProcess:
        """Start a member that was added, with an empty disk."""
        self.disks[name] = Disk()
        return await self._run(name, foreseen.named(name).id, foreseen.emptied(), foreseen=foreseen)

    async def join_learner(self, name: str, leader: MemberProcess) -> MemberProcess:
        """Add a learner, and start it."""
        self.reserve(name)
        await leader.node.membership.add(name, [self.url(name)], learner=True)
        return await self.join(name, leader.node.cluster)

    async def _run(
        self,
        name: str,
        member_id: int,
        cluster: Cluster | None,
        *,
        bootstrap: bool = False,
        foreseen: Cluster | None = None,
    ) -> MemberProcess:
        self._seed += 1
        stores = self._open_stores(name)
        if cluster is None:
            members = stores.members
            cluster = Cluster.from_record(members) if members else self.first.emptied()
        transport = Transport(
            member_id=member_id,
            cluster=foreseen or cluster,
            random=random.Random(self._seed),
            timings=self.timings,
        )
        node = Node(
            member_id=member_id,
            cluster=cluster.emptied() if bootstrap else cluster,
            log=stores.log,
            machine=stores.machine,
            snapshots=stores.snapshots,
            transport=transport,
            random=random.Random(self._seed),
            runner=run_in_thread,
            settings=self.settings,
            bootstrap=tuple(cluster) if bootstrap else (),
            foreseen=foreseen or (replace(cluster, index=len(cluster)) if bootstrap else None),
        )
        transport.attach(node)
        process = MemberProcess(name, node, transport, stores, trio.CancelScope())
        self.ids[name] = member_id
        self.members[name] = process
        listener = await open_listener("127.0.0.1", self.ports[name])
        self._nursery.start_soon(self._live, process, listener)
        return process

    async def _live(self, process: MemberProcess, listener: trio.SocketListener) -> None:
        try:
            with process.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(process.transport.run)
                    await nursery.start(process.transport.serve, listener)
                    try:
                        process.result = await process.node.run()
                    except Exception as error:  # noqa: BLE001  # the test looks at it
                        process.result = error
                    nursery.cancel_scope.cancel()
        finally:
            listener.socket.close()
            process.stores.close()
            process.ended.set()

    def running(self) -> Iterator[MemberProcess]:
        return (process for process in self.members.values() if not process.ended.is_set())

    def of(self, member_id: int) -> MemberProcess:
        """The running member with this id."""
        return next(each for each in self.running() if each.node.member_id == member_id)

    def leader(self) -> MemberProcess | None:
        """The member with ready leadership in the highest term."""
        ready = [process for process in self.running() if process.node.leadership.is_ready]
        return max(ready, key=lambda process: process.node.leadership.term, default=None)

    async def wait_leader(self, *, other_than: str = "") -> MemberProcess:
        def found() -> MemberProcess | None:
            leader = self.leader()
            return leader if leader is not None and leader.name != other_than else None

        return await eventually(found, "a leader")

    async def elect(self, name: str) -> MemberProcess:
        """Let this member lead a cluster that has no leader yet, without waiting for timeouts."""
        process = self.members[name]
        node = process.node

        def leads() -> bool:
            if not node.status().leader_id and node.status().role == "follower":
                node._raw.campaign()
                node._wake()
            return node.leadership.is_ready

        await eventually(leads, f"{name} leads")
        return process

    async def until(self, condition: Callable[[], object], what: str = "") -> object:
        """Wait for a condition with a deadline."""
        return await eventually(condition, what)

    async def ticks(self, name: str, election_timeouts: float) -> None:
        """Until a member has lived through that many election timeouts."""
        node = self.members[name].node
        until = node._ticks + election_timeouts * self.settings.election_ticks
        await eventually(lambda: node._ticks >= until, "ticks")

    async def wait_equal(self, *names: str) -> None:
        """Until these members have applied the same, as far as the leader."""
        leader = await self.wait_leader()
        index = leader.node.applied
        for name in names:
            with trio.fail_after(DEADLINE_SECONDS):
                await self.members[name].node.wait_applied(index)
        mine = [pair for pair in leader.machine.disk.applied if pair[0] <= index]
        for name in names:
            theirs = [p for p in self.members[name].machine.disk.applied if p[0] <= index]
            assert theirs == mine, name


@asynccontextmanager
async def loopback_cluster(
    *names: str,
    settings: NodeSettings | None = None,
    make_log: Callable[[str, Disk], Log] | None = None,
    open_stores: Callable[[str], Stores] | None = None,
) -> AsyncIterator[LoopbackCluster]:
    async with trio.open_nursery() as nursery:
        cluster = LoopbackCluster(
            nursery, settings=settings, make_log=make_log, open_stores=open_stores
        )
        await cluster.begin(*names)
        try:
            yield cluster
        finally:
            nursery.cancel_scope.cancel()
