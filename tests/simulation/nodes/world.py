"""One simulated cluster of real members: what goes wrong, and the calm at the end.

Time is trio's mock clock, which jumps to the next deadline whenever every task waits: a run takes
no longer than what it computes. A run has two phases: in the first faults happen, each kind drawn
from a generator of its own; in the second there are none, and the cluster must get everything done.
"""

import hashlib
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from kingbus.binlog.command import encode
from kingbus.errors import KingbusError
from kingbus.membership.cluster import Cluster
from kingbus.node.core import conf_state_of
from kingbus.pb.command_pb2 import Command, MemberAttributes, Purge, SourceConfig
from kingbus.raft.errors import ProposalDroppedError
from kingbus.raft.types import ConfState, Entry, Message
from tests.simulation.checks import Checks
from tests.simulation.nodes.disks import RealDisk, VolatileDisk
from tests.simulation.nodes.member import Member, first_of
from tests.simulation.nodes.network import Network
from tests.simulation.nodes.options import NodeOptions
from tests.simulation.nodes.reader import Reader
from tests.simulation.source import Source

LAST_EVENTS = 300
"""Kept for the report of a failure."""
CALM_SECONDS_MAX = 120.0
ELECTION_TIMEOUTS_MAX = 10
CHECK_SECONDS = 0.1
RESTART_SECONDS = (0.05, 0.5, 2.0)


class NodeChecks(Checks):
    """The first layer's checks, of members in the place of hosts."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        voters = conf_state_of(world.first).voters
        self.last_configuration = (len(voters), ConfState(voters=voters))
        self.purges: dict[int, int] = {}
        """By the first entry that was kept: the purge, or an entry soon behind it."""

    def note_purges(self, member: Member) -> None:
        first = member.snapshots.first_index
        self.purges.setdefault(first, member.applied)

    def _note_digest(self, host: Any) -> None:
        # A state that came by a snapshot is that of before the purge, without what was purged: it
        # is the others' again as soon as the purge is applied.
        if host.applied >= self.purges.get(host.store.first_index(), 0):
            super()._note_digest(host)


class World:
    """See the module; `run` is the whole life of it."""

    network: Network
    nursery: trio.Nursery

    def __init__(self, seed: int, options: NodeOptions, directory: Path) -> None:
        self.seed = seed
        self.options = options
        self.directory = directory
        self.events = 0
        self.last: deque[str] = deque(maxlen=LAST_EVENTS)
        self.echo: Callable[[str], None] = lambda _line: None
        self.is_calm = False
        self.now = 0.0
        self.failure: BaseException | None = None
        self.counts: Counter[str] = Counter()
        self._digest = hashlib.sha256()
        self._rngs: dict[str, random.Random] = {}
        self.source = Source(self.rng("source"))
        self.source_is_up = True
        self.members: dict[str, Member] = {}
        names = [f"n{number}" for number in range(1, options.voters + 1)]
        self._initial = [(name, (self.url(name),)) for name in names]
        self.first = Cluster.initial(self._initial)
        self.checks = NodeChecks(self)
        self.readers = [
            Reader(self, number, self.rng(f"reader {number}")) for number in range(options.readers)
        ]
        self._shown: list[int] = []
        """By number of transactions: the entry that first showed so many."""
        self.calls: dict[int, str] = {}
        """What operators have asked and no answer came to yet."""
        self._call = 0
        self._next_name = options.voters + 1

    # -- what everybody uses --------------------------------------------------------------------

    @staticmethod
    def url(name: str) -> str:
        return f"http://{name}:1"

    def rng(self, what: str) -> random.Random:
        """The generator of one kind of thing."""
        found = self._rngs.get(what)
        if found is None:
            found = self._rngs[what] = random.Random(f"{what} of nodes {self.seed}")
        return found

    @property
    def hosts(self) -> dict[int, Member]:
        return {member.id: member for member in self.members.values() if member.id}

    def note(self, what: str, who: object = "", detail: object = "") -> None:
        """One line of the trace."""
        self.events += 1
        self.counts[what] += 1
        self.now = trio.current_time()
        line = f"{self.now:10.4f} s  {what:<14} {who!s:<9} {detail}"
        self._digest.update(line.encode() + b"\n")
        self.last.append(line)
        self.echo(line)

    def note_message(self, member: Member, message: Message) -> None:
        target = self.hosts.get(message.to)
        text = f"{message.type.name} to {target or f'{message.to:x}'} t{message.term}"
        text += f" i{message.index} c{message.commit}"
        if message.entries:
            text += f" +{len(message.entries)}"
        if message.reject:
            text += " reject"
        self.note("sends", member.name, text)

    def digest(self) -> str:
        """Equal for runs that were equal."""
        return self._digest.hexdigest()[:16]

    @property
    def where(self) -> str:
        """How far the run has come."""
        return f"{self.now:.3f} s"

    def fail(self, error: BaseException) -> None:
        """The first failure counts; it ends the run."""
        if self.failure is None:
            self.failure = error
            self.nursery.cancel_scope.cancel()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A check that fails here ends the run, whoever would catch it."""
        try:
            yield
        except AssertionError as error:
            self.fail(error)
            raise

    def note_applied(self, member: Member, entries: Sequence[Entry]) -> None:
        """After a batch was applied: who of them shows how many transactions."""
        if entries[0].index == 1 or self.events % 7 == 0:
            self.note("applied", member.name, member.relay.state.digest()[:12])
        else:
            self.note("applied", member.name, entries[-1].index)
        count = member.relay.state.executed.count()
        while len(self._shown) < count:
            self._shown.append(entries[-1].index)

    def shown_at(self, count: int) -> int | None:
        return self._shown[count - 1] if count <= len(self._shown) else None

    def source_changed(self) -> None:
        self._source_event.set()
        self._source_event = trio.Event()

    async def wait_source(self) -> None:
        await self._source_event.wait()

    def leader(self) -> Member | None:
        """Who leads, as far as known; the one of the highest term."""
        leading = [member for member in self.members.values() if member.leads]
        return max(leading, key=lambda member: member.node.leadership.term, default=None)

    def some(self, rng: random.Random) -> Member | None:
        running = [member for member in self.members.values() if member.is_running]
        return rng.choice(running) if running else None

    # -- the run --------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """Both phases; raises what was wrong."""
        options = self.options
        self._source_event = trio.Event()
        self.network = Network(
            self.rng("network"), latency=options.latency_ms / 1000, find=self._find
        )
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                for name, _ in self._initial:
                    self._add(name, self._initial, is_new=True).start()
                async with trio.open_nursery() as faults:
                    self._start_background(nursery)
                    for name, ms in options.faults.items():
                        faults.start_soon(self._happen, name, ms / 1000)
                    await trio.sleep(seconds)
                    faults.cancel_scope.cancel()
                await self._recover()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            self.failure = self.failure or first_of(group)
        if self.failure is not None:
            raise self.failure

    def _find(self, url: str) -> Member | None:
        return next((each for each in self.members.values() if each.url == url), None)

    def _add(self, name: str, initial: Sequence[Any], *, is_new: bool) -> Member:
        kind = VolatileDisk if self.options.volatile else RealDisk
        disk = kind(self.directory / name, random.Random(f"disk of {name} of {self.seed}"))
        disk.has_forms = self.options.forms
        member = Member(self, name, disk, initial=initial, is_new=is_new)
        self.members[name] = member
        return member

    def _start_background(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._commit)
        nursery.start_soon(self._configure)
        nursery.start_soon(self._restart)
        nursery.start_soon(self._look_after_membership)
        for reader in self.readers:
            nursery.start_soon(reader.run)

    async def _happen(self, name: str, mean: float) -> None:
        """One kind of fault, again and again."""
        rng = self.rng(f"when {name}")
        act: Callable[[random.Random], Any] = getattr(self, f"_do_{name}")
        while True:
            await trio.sleep(rng.expovariate(1 / mean))
            self.note(name)
            found = act(self.rng(name))
            if found is not None:
                await found

    # -- what goes on all the time --------------------------------------------------------------

    async def _commit(self) -> None:
        rng = self.rng("commits")
        while not self.is_calm:
            await trio.sleep(rng.expovariate(1000 / self.options.transaction_ms))
            if self.source_is_up and not self.is_calm:
                self.source.commit()
                self.source_changed()

    async def _configure(self) -> None:
        """Somebody tells the relay where to pull from."""
        while True:
            leader = self.leader()
            if leader is not None:
                config = leader.relay.state.source_config
                if config is None or (self.is_calm and not config.started):
                    self._start_source(leader, started=True)
            await trio.sleep(0.3)

    def _start_source(self, leader: Member, *, started: bool) -> None:
        config = SourceConfig(started=started, addresses=["source:3306"], user="relay", mode="gtid")
        self._propose(leader, Command(source_config=config))

    def _propose(self, leader: Member, command: Command) -> None:
        async def propose() -> None:
            proposal = await leader.node.propose(encode(command))
            await proposal.applied()

        self._ask(leader, f"a proposal of {command.WhichOneof('kind')}", propose)

    def _ask(self, member: Member, what: str, call: Callable[[], Awaitable[Any]]) -> None:
        """An operator calls a member; every call must come to an end."""
        self._call += 1
        number = self._call

        async def ask() -> None:
            self.calls[number] = f"{what} of {member.name}"
            try:
                await call()
                self.note("answered", member.name, what)
            except (KingbusError, ProposalDroppedError) as error:
                self.note("refused", member.name, f"{what}: {type(error).__name__}")
            finally:
                del self.calls[number]

        member.spawn(ask)

    async def _restart(self) -> None:
        """Who has ended begins again after a while."""
        rng = self.rng("restarts")
        due: dict[str, float] = {}
        while True:
            for member in self.members.values():
                if not member.may_start:
                    due.pop(member.name, None)
                elif member.name not in due:
                    due[member.name] = trio.current_time() + rng.choice(RESTART_SECONDS)
                elif due[member.name] <= trio.current_time():
                    del due[member.name]
                    member.start()
            await trio.sleep(0.05)

    async def _look_after_membership(self) -> None:
        """Operators start members that were added, and remove those that cannot start any more."""
        while True:
            await trio.sleep(0.5)
            leader = self.leader()
            if leader is None:
                continue
            cluster = leader.node.cluster
            for member in cluster:
                known = self.members.get(member.name)
                if known is None:
                    initial = [(each.name, each.peer_urls) for each in cluster]
                    self._add(member.name, initial, is_new=False).start()
                elif known.refusal:
                    self._remove(leader, member.id)
                elif not known.is_new and not known.disk.durable.last_index():
                    known.initial = tuple((each.name, each.peer_urls) for each in cluster)

    def _remove(self, leader: Member, member_id: int) -> None:
        async def remove() -> None:
            await leader.node.membership.remove(member_id)

        self._ask(leader, "a removal", remove)

    # -- faults: the network --------------------------------------------------------------------

    def _cut(
        self, rng: random.Random, some: Sequence[str], others: Sequence[str], *, both: bool = True
    ) -> None:
        seconds = rng.choice((0.2, 1.0, 3.0, 7.0)) * rng.uniform(0.5, 1.5)
        for one in some:
            for other in others:
                self.network.cut(one, other, seconds)
                if both:
                    self.network.cut(other, one, seconds)

    def _do_isolate(self, rng: random.Random) -> None:
        one = rng.choice(list(self.members))
        self._cut(rng, [one], [name for name in self.members if name != one])

    def _do_partition(self, rng: random.Random) -> None:
        some = [name for name in self.members if rng.random() < 0.5]
        self._cut(rng, some, [name for name in self.members if name not in some])

    def _do_one_way(self, rng: random.Random) -> None:
        names = list(self.members)
        one, other = rng.choice(names), rng.choice(names)
        self._cut(rng, [one], [other] if rng.random() < 0.5 else names, both=False)

    def _do_minority(self, rng: random.Random) -> None:
        """The leader talks to too few, and may not know it."""
        leader = self.leader()
        if leader is None:
            return
        others = [name for name in self.members if name != leader.name]
        rng.shuffle(others)
        few = [leader.name, *others[: (len(leader.node.cluster.voters) - 1) // 2]]
        self._cut(rng, few, [name for name in self.members if name not in few])

    def _do_clog(self, rng: random.Random) -> None:
        names = list(self.members)
        self.network.clog(rng.choice(names), rng.choice(names), rng.choice((0.1, 0.5, 3.0)))

    def _do_reset(self, rng: random.Random) -> None:
        names = list(self.members)
        self.network.reset(rng.choice(names), rng.choice(names))

    # -- faults: processes and disks ------------------------------------------------------------

    def _do_crash(self, rng: random.Random) -> Awaitable[None] | None:
        member = self.some(rng)
        return member.kill() if member is not None else None

    def _do_crash_leader(self, rng: random.Random) -> Awaitable[None] | None:
        leader = self.leader()
        if leader is None:
            return None
        return leader.lose_power() if rng.random() < 0.5 else leader.kill()

    def _do_power(self, rng: random.Random) -> Awaitable[None] | None:
        member = self.some(rng)
        return member.lose_power() if member is not None else None

    def _do_power_in_write(self, rng: random.Random) -> None:
        member = self.some(rng)
        if member is not None and member.disk.durable.last_index():
            member.disk.fail_in(rng.randrange(6))

    async def _do_restart_all(self, rng: random.Random) -> None:
        together = rng.random() < 0.5
        for member in list(self.members.values()):
            if together:
                await member.lose_power()
            else:
                await member.kill()

    def perhaps_end_installing(self, member: Member) -> None:
        """Where members are killed at all, also between the steps of an installation."""
        rng = self.rng("installing")
        faults = self.options.faults
        if self.is_calm or not {"crash", "power"} & set(faults) or rng.random() < 0.5:
            return
        incarnation, seconds = member.incarnation, rng.random() * self.options.write_ms / 1000

        async def end() -> None:
            await trio.sleep(seconds)
            if member.incarnation == incarnation:
                self.note("ends installing", member.name)
                await (member.lose_power() if "power" in faults else member.kill())

        self.nursery.start_soon(end)

    def _do_slow_disk(self, rng: random.Random) -> None:
        member = self.some(rng)
        if member is not None:
            member.slow_until = trio.current_time() + rng.choice((0.5, 3.0)) * rng.uniform(0.5, 1.5)

    def _do_disk_error(self, rng: random.Random) -> None:
        member = self.some(rng)
        if member is not None:
            member.disk.refuse_syncs()

    # -- faults: what operators do --------------------------------------------------------------

    def _do_transfer(self, rng: random.Random) -> None:
        leader = self.leader()
        if leader is None:
            return
        target = rng.choice([None, *sorted(leader.node.cluster.voters)])

        async def transfer() -> None:
            await leader.node.handover.transfer(target)

        self._ask(leader, "a transfer", transfer)

    def _do_read(self, rng: random.Random) -> None:
        member = self.some(rng)
        if member is None:
            return

        async def read() -> None:
            floor = self.checks.commit_max
            index = await member.node.read_index()
            with self.watching():
                assert index >= floor, f"a read gives {index}, {floor} was committed before it"
            await member.node.wait_applied(index)

        self._ask(member, "a read", read)

    def _do_purge(self, rng: random.Random) -> None:
        leader = self.leader()
        if leader is None or len(leader.relay.state.files) < 2:
            return
        first = rng.choice(list(leader.relay.state.files)[1:])
        self._propose(leader, Command(purge=Purge(first_index=first.first_index)))

    def _do_change(self, rng: random.Random) -> None:
        """A change of the membership, as operators make them."""
        leader = self.leader()
        if leader is None:
            return
        node, cluster = leader.node, leader.node.cluster
        others = [member for member in cluster if member.id != node.member_id]
        learners = [member for member in others if member.learner]
        kind = rng.choice(("add", "add", "promote", "promote", "remove", "replace"))
        room = len(cluster) < self.options.nodes_max
        if kind == "add" and room:
            name, learner = self._new_name(), rng.random() < 0.7
            promote = learner and rng.random() < 0.6

            async def add() -> None:
                await node.membership.add(name, [self.url(name)], learner=learner, promote=promote)

            self._ask(leader, f"the addition of {name}", add)
        elif kind == "promote" and learners:
            chosen = rng.choice(learners)

            async def promote_one() -> None:
                await node.membership.promote(chosen.id)

            self._ask(leader, f"the promotion of {chosen.name}", promote_one)
        elif kind == "remove" and len(others) > 1:
            self._remove(leader, rng.choice(list(cluster)).id)
        elif kind == "replace" and others:
            old, name = rng.choice(others), self._new_name()
            if old.learner or not room:
                return

            async def replace() -> None:
                await node.membership.replace(old.id, name, [self.url(name)])

            self._ask(leader, f"{name} in the place of {old.name}", replace)

    def _new_name(self) -> str:
        number, self._next_name = self._next_name, self._next_name + 1
        return f"n{number}"

    # -- faults: the source and those who read --------------------------------------------------

    def _do_rotate(self, _rng: random.Random) -> None:
        if self.source_is_up:
            self.source.rotate()
            self.source_changed()

    def _do_source_restart(self, rng: random.Random) -> None:
        if self.source_is_up:
            self.source.restart(clean=rng.random() < 0.5)
            self.source_changed()

    def _do_source_purge(self, _rng: random.Random) -> None:
        self.source.purge(self.checks.visible_count)

    def _do_failover(self, rng: random.Random) -> None:
        """To a server that has everything, and what the relay lacks in files of its own."""
        lacking = len(self.source.history.order) - self.checks.visible_count
        more = rng.choice((0, 0, 1, 3))
        self.source.failover(min(lacking + more, len(self.source.history.order)))
        self.source_changed()

    def _do_break_dump(self, _rng: random.Random) -> None:
        self.source.hang_up()
        self.source_changed()

    def _do_stop_start(self, _rng: random.Random) -> None:
        leader = self.leader()
        config = leader.relay.state.source_config if leader is not None else None
        if leader is not None and config is not None:
            self._start_source(leader, started=not config.started)

    async def _do_stop_source(self, rng: random.Random) -> None:
        self.source.restart(clean=True)
        self.source_is_up = False
        self.source_changed()
        try:
            await trio.sleep(rng.choice((0.1, 1.0, 3.0)))
        finally:
            self.source_is_up = True

    def _do_move_reader(self, rng: random.Random) -> None:
        for reader in self.readers:
            if rng.random() < 0.5:
                reader.move()

    def _do_rewind_reader(self, rng: random.Random) -> None:
        for reader in self.readers:
            if rng.random() < 0.5:
                reader.rewind()

    # -- the calm -------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """No more faults: everything must come to its end."""
        self.is_calm = True
        self.note("calm")
        self.network.heal()
        self.source_is_up = True
        self.source_changed()
        for member in self.members.values():
            member.slow_until = 0.0
            member.disk.fail_in(1 << 60)
        started = trio.current_time()
        election = self.options.election_seconds
        had_leader = False
        what = ""
        marker = _Marker(self)
        while trio.current_time() < started + CALM_SECONDS_MAX:
            # Members begin again within two seconds; then the clock of the election counts.
            late = started + 2 * max(RESTART_SECONDS) + ELECTION_TIMEOUTS_MAX * 2 * election
            had_leader = had_leader or self.leader() is not None
            assert had_leader or trio.current_time() < late, "no leader, and nothing is wrong"
            what = self._missing(marker)
            if not what:
                self.checks_at_end()
                return
            await trio.sleep(CHECK_SECONDS)
        raise AssertionError(f"after {CALM_SECONDS_MAX:g} s without faults still missing: {what}")

    def _missing(self, marker: "_Marker") -> str:
        leader = self.leader()
        if leader is None:
            return "a leader"
        cluster = leader.node.cluster
        if cluster.is_joint:
            return "the end of the joint configuration"
        wanted = len(self.source.history.order)
        count = leader.relay.state.executed.count()
        if count != wanted:
            return (
                f"{wanted - count} of the source's {wanted} transactions on {leader.name}, "
                f"whose receiver is {leader.receiver.status()}"
            )
        return (
            marker.missing(leader)
            or self._missing_members(leader)
            or self._missing_readers(wanted)
            or next((f"an answer to {call}" for call in self.calls.values()), "")
        )

    def _missing_members(self, leader: Member) -> str:
        hosts = self.hosts
        for member in leader.node.cluster:
            known = hosts.get(member.id)
            if known is None or not known.is_running:
                return f"member {member.name}"
            status = known.node.status()
            if status.leader_id != leader.id:
                return f"that {known.name} knows the leader {leader.name}"
            if known.applied != leader.node.status().committed:
                return f"that {known.name} applies what {leader.name} has committed"
        for known in self.members.values():
            gone = known.id and known.id not in leader.node.cluster
            if gone and known.is_up and known.id in self.checks.removed:
                return f"that {known.name} hears that it was removed"
        return ""

    def _missing_readers(self, wanted: int) -> str:
        for reader in self.readers:
            if not reader.is_at_end(wanted):
                return f"that reader {reader.number} at {reader.place} gets {wanted}"
        return ""

    def checks_at_end(self) -> None:
        """What is looked at once, when everything is still."""
        states = {}
        leader = self.leader()
        assert leader is not None
        self.checks.check_logs()
        for member in leader.node.cluster:
            host = self.hosts[member.id]
            states[host.name] = host.relay.state.digest()
            self.checks.check_held(host)
        assert len(set(states.values())) == 1, states
        self.note("end", "", sorted(set(states.values())))


class _Marker:
    """A proposal of the calm: it must be committed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._done = False
        self._next = 0.0

    def missing(self, leader: Member) -> str:
        if self._done:
            return ""
        if trio.current_time() >= self._next:
            self._next = trio.current_time() + 2.0
            command = Command(member_attributes=MemberAttributes(member_id=99, version="well"))

            async def propose() -> None:
                proposal = await leader.node.propose(encode(command))
                await proposal.applied()
                self._done = True

            self._world._ask(leader, "the last proposal", propose)
        return "a proposal that is applied"
