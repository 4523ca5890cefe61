"""One member: the production code of a whole process, over a simulated disk and network.

It is built as `kingbus.daemon` builds it: directory, database, an interrupted installation, the
bootstrap decision, log, relay, transport, node, receiver. What is left out is what speaks MySQL or
HTTP to the outside: readers call `run_dump` themselves, operators the node's methods. It ends by a
kill at whatever await it stands, by an error of its disk, or because it was removed.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from kingbus.membership.cluster import Cluster
from kingbus.node.bootstrap import BootstrapConfig, mark_removed, prepare
from kingbus.node.calls import ask_cluster, register_calls
from kingbus.node.core import conf_state_of
from kingbus.node.errors import BootstrapError, MemberRemovedError
from kingbus.node.machine import AppliedBatch
from kingbus.node.node import Node
from kingbus.raft.raw_node import RawNode
from kingbus.raft.types import ConfState, Entry, EntryType, Message
from kingbus.replication.receiver import Receiver
from kingbus.replication.relay import Relay
from kingbus.replication.snapshots import RelaySnapshots
from kingbus.storage.directory import DataDirectory
from kingbus.storage.errors import FatalStorageError
from kingbus.storage.installing import finish_interrupted
from kingbus.storage.state_store import StateStore
from kingbus.transport.transport import Transport
from tests.simulation.nodes.disks import Disk, PowerLostError, VirtualRunner, WatchedLog
from tests.simulation.nodes.network import Wire
from tests.simulation.nodes.source_door import SourceDoor

if TYPE_CHECKING:
    from tests.simulation.nodes.world import World

RELAY_ID = 999
RELAY_UUID = "00000000-0000-0000-0000-000000000999"


class Identity:
    """Who the cluster is, for source and replicas."""

    server_id = RELAY_ID

    def server_id_of(self, _config: object) -> int:
        return RELAY_ID

    def server_uuid_of(self, _config: object) -> str:
        return RELAY_UUID


class WatchedTransport(Transport):
    """The real transport; shows each message as it leaves."""

    note: Callable[[Message], object]

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.note(message)
        super().send(messages)


class WatchedMachine:
    """The relay as the node's state machine; shows what was applied."""

    def __init__(self, member: "Member") -> None:
        self._member = member

    @property
    def applied_index(self) -> int:
        return self._member.relay.applied_index

    def apply(self, batch: AppliedBatch) -> None:
        member = self._member
        checks = member.world.checks
        with member.world.watching():
            checks.check(member)
            for entry in batch.entries:
                checks.note_applied(member, entry)
        member.relay.apply(batch)
        with member.world.watching():
            checks.note_purges(member)
            checks.note_state(member)
            member.world.note_applied(member, batch.entries)
            for index, record in batch.members.items():
                cluster = Cluster.from_record(record)
                if cluster.index == index:
                    checks.note_configuration(member, index, conf_state_of(cluster))


class _Rows:
    """The rows of a database, for the checks."""

    def __init__(self, database: StateStore) -> None:
        self._database = database

    @property
    def rows(self) -> dict[int, Any]:
        return dict(self._database.batch_rows(0, 0, 1 << 30))


class Member:
    """See the module; also what the checks of the first layer call a host."""

    node: Node
    relay: Relay
    store: WatchedLog
    transport: WatchedTransport
    database: _Rows
    snapshots: RelaySnapshots

    def __init__(
        self,
        world: "World",
        name: str,
        disk: Disk,
        *,
        initial: Sequence[tuple[str, Sequence[str]]],
        is_new: bool,
    ) -> None:
        self.world = world
        self.name = name
        self.url = world.url(name)
        self.disk = disk
        self.id = 0
        """Known once it has begun."""
        self.initial = tuple(initial)
        self.is_new = is_new
        self.incarnation = 0
        self.is_up = self.is_removed = self.is_running = self.is_dead_machine = False
        self.refusal = ""
        """Why it does not start any more, whatever is tried."""
        self.slow_until = 0.0
        self.lost_leadership: dict[int, float] = {}
        self._rng = random.Random(f"{name} of {world.seed}")
        self._runner = VirtualRunner(self._rng, self._call_seconds)
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._began = trio.Event()
        self._power_goes = False

    def __repr__(self) -> str:
        return self.name

    # -- what the checks look at ----------------------------------------------------------------

    @property
    def core(self) -> RawNode:
        return self.node._raw

    @property
    def log(self) -> Any:
        return self.disk.durable

    @property
    def applied(self) -> int:
        return self.relay.applied_index

    @property
    def serves(self) -> bool:
        return self.is_running and not self.relay.is_installing

    # -- life -----------------------------------------------------------------------------------

    @property
    def may_start(self) -> bool:
        return not (self.is_up or self.is_removed or self.refusal)

    @property
    def listens(self) -> bool:
        return self.is_running

    @property
    def leads(self) -> bool:
        return self.is_running and self.node.leadership.is_ready

    def start(self) -> None:
        """The process begins."""
        assert self.may_start
        self.incarnation += 1
        self.is_up, self.is_dead_machine, self._power_goes = True, False, False
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.world.network.machine_began(self.name)
        self.world.nursery.start_soon(self._live)

    async def kill(self) -> None:
        """The process ends where it stands; what it has written is there."""
        await self._end(power=False)

    async def lose_power(self) -> None:
        """The machine ends: nobody is told, and what was not synced may be gone."""
        await self._end(power=self.disk.can_lose_power and self.disk.durable.last_index() > 0)

    async def _end(self, *, power: bool) -> None:
        if not self.is_up:
            return
        self._power_goes = power
        self._cut_off()
        self._scope.cancel()
        self._runner.kill()
        await self._ended.wait()

    def _cut_off(self) -> None:
        self.is_running = False
        if self._power_goes:
            self.is_dead_machine = True
            self.world.network.machine_ended(self.name)
        else:
            self.world.network.process_ended(self.name)

    async def _live(self) -> None:
        error: BaseException | None = None
        try:
            with self._scope:
                await self._run()
        except trio.Cancelled:
            self.disk.process_ended()  # the run is over
            raise
        except Exception as raised:  # noqa: BLE001  # it is judged below
            error = first_of(raised)
        if isinstance(error, PowerLostError):
            self._power_goes = True
        self._cut_off()
        self._nursery = None
        if self._power_goes:
            self.disk.lose_power()
        else:
            self.disk.process_ended()
        self.is_up = False
        self.world.note("ended", self.name, type(error).__name__ if error else "")
        self._ended.set()
        self._judge(error)

    def _judge(self, error: BaseException | None) -> None:
        """What a process may end with."""
        if error is None or isinstance(error, PowerLostError):
            return
        if isinstance(error, FatalStorageError) and "injected" in str(error):
            return
        if isinstance(error, MemberRemovedError):
            self.is_removed = True
            return
        if isinstance(error, BootstrapError) and not self.disk.durable.last_index():
            # It has not begun: the operator looks at it and tries again, or gives it up.
            if "has taken part in the cluster before" in str(error):
                self.refusal = str(error)
            self.world.note("refused", self.name, str(error))
            return
        self.world.fail(error)

    async def _run(self) -> None:
        """What is opened here is closed by the disk, however this ends."""
        world, disk, runner = self.world, self.disk, self._runner
        dial = world.network.dialler(self.name)
        directory: DataDirectory = await runner(disk.open_directory)
        database: StateStore = await runner(disk.open_database)
        if database.installing() is not None:
            assert directory.identity is not None
            await runner(self._finish_install, directory, database)
        config = BootstrapConfig(
            name=self.name,
            peer_url=self.url,
            initial_cluster=self.initial,
            is_new=self.is_new,
        )
        ask = partial(ask_cluster, dial=dial)
        prepared = await prepare(
            config, directory, members=database.members(), runner=runner, ask=ask
        )
        identity = prepared.identity
        if prepared.path == "start":
            await runner(disk.discard_torn)
        store = await runner(
            partial(disk.open_log, cluster_id=identity.cluster_id, member_id=identity.member_id)
        )
        self.store = store
        relay = await runner(partial(Relay.load, database=database, log=store, runner=runner))
        self.id = identity.member_id
        self.relay, self.database = relay, _Rows(database)
        self.snapshots = RelaySnapshots(relay=relay, database=database, runner=runner)
        store.wrote = self._note_written
        store.was_cut = partial(world.note, "cut", self.name)
        self.transport = WatchedTransport(
            member_id=self.id,
            cluster=prepared.foreseen or prepared.cluster,
            random=self._rng,
            wall_ns=lambda: int(trio.current_time() * 1e9),
            dial=dial,
        )
        self.transport.note = self._note_sent
        self.node = Node(
            member_id=self.id,
            cluster=prepared.cluster,
            log=store,
            machine=WatchedMachine(self),
            transport=self.transport,
            random=self._rng,
            runner=runner,
            settings=world.options.settings(),
            bootstrap=prepared.bootstrap,
            foreseen=prepared.foreseen,
            snapshots=self.snapshots,
        )
        self.transport.attach(self.node)
        register_calls(self.transport, self.node)
        self._watch_core()
        world.note("up", self.name, f"{prepared.path} {self.id:x} applied {relay.applied_index}")
        await self._serve(directory)

    def _finish_install(self, directory: DataDirectory, database: StateStore) -> None:
        identity = directory.identity
        assert identity is not None
        store = self.disk.open_log(cluster_id=identity.cluster_id, member_id=identity.member_id)
        try:
            finish_interrupted(database, store)
        finally:
            store.abandon()

    async def _serve(self, directory: DataDirectory) -> None:
        receiver = Receiver(
            node=self.node,
            relay=self.relay,
            identity=Identity(),
            secret=lambda: None,
            random=self._rng,
            clock=trio.current_time,
            connect=SourceDoor(self).connect,
            batch_bytes=self.world.options.batch_bytes,
        )
        self.receiver = receiver
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.transport.run)
            self.is_running = True
            self._began.set()
            self._began = trio.Event()
            nursery.start_soon(receiver.run)
            nursery.start_soon(self._watch_leadership)
            removed = await self.node.run()
            self.is_removed = True
            self.world.note("removed", self.name, f"told by {removed.told_by:x}")
            await self._runner(partial(mark_removed, directory, told_by=removed.told_by))
            nursery.cancel_scope.cancel()

    def accept(self, wire: Wire) -> None:
        """Somebody has dialled this member."""
        assert self._nursery is not None
        self._nursery.start_soon(self.transport.accept, wire)

    def spawn(self, task: Callable[..., Awaitable[object]], *arguments: Any) -> bool:
        """Run something that ends with this process; False when there is none."""
        if self._nursery is None or not self.is_running:
            return False
        self._nursery.start_soon(task, *arguments)
        return True

    def _call_seconds(self) -> float:
        """The mean time of a blocking call, now."""
        options = self.world.options
        seconds = options.write_ms / 1000
        return seconds * 40 if trio.current_time() < self.slow_until else seconds

    # -- what is watched ------------------------------------------------------------------------

    def _watch_core(self) -> None:
        """Look at the core after each step that it takes."""
        raw, checks, world = self.node._raw, self.world.checks, self.world
        checks.note_start(self)
        seen = (raw.role, raw.term)

        def after(call: Callable[..., Any]) -> Callable[..., Any]:
            def watched(*arguments: Any, **named: Any) -> Any:
                nonlocal seen
                try:
                    return call(*arguments, **named)
                finally:
                    with world.watching():
                        checks.check(self)
                    if (raw.role, raw.term) != seen:
                        seen = (raw.role, raw.term)
                        world.note("role", self.name, f"{raw.role.name} in term {raw.term}")

            return watched

        for name in ("step", "tick", "campaign", "propose", "apply_conf_change"):
            setattr(raw, name, after(getattr(raw, name)))

    def _note_sent(self, message: Message) -> None:
        world = self.world
        world.note_message(self, message)
        with world.watching():
            world.checks.note_sent(self, message)

    def _note_written(self, write: Any) -> None:
        world = self.world
        if write.snapshot is not None:
            world.note("installs", self.name, write.snapshot.index)
            world.perhaps_end_installing(self)
        world.note("wrote", self.name, f"+{len(write.entries)} {write.hard_state}")
        with world.watching():
            world.checks.note_written(self, write)

    async def _watch_leadership(self) -> None:
        leadership, world = self.node.leadership, self.world
        while True:
            term = await leadership.wait_ready()
            world.note("leads", self.name, f"term {term}")
            with world.watching():
                world.checks.note_ready(self)
            await leadership.wait_lost(term)
            self.lost_leadership[term] = trio.current_time()

    @contextmanager
    def judged(self) -> Iterator[None]:
        with self.world.watching():
            yield


def first_of(error: BaseException) -> BaseException:
    """The first real error in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


__all__ = ["ConfState", "Entry", "EntryType", "Identity", "Member", "first_of"]
