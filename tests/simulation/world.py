"""One simulated cluster: the clock, the network, all that goes wrong, and the calm at the end.

One heap of (time, number, event) is all there is of time. Each kind of thing that happens draws
from a generator of its own, so that leaving out one kind leaves the others' draws as they were. A
run has two phases: `run` takes a number of events with faults, `recover` ends the faults and
requires that the cluster gets everything done.
"""

import hashlib
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kingbus.binlog.command import encode
from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.errors import MembershipError
from kingbus.membership.member import Member
from kingbus.node.changes import to_conf_change
from kingbus.pb.command_pb2 import Command, MemberAttributes, Purge, SourceConfig
from kingbus.raft.errors import ProposalDroppedError
from kingbus.raft.ready import Role
from kingbus.raft.types import (
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Message,
    MessageType,
)
from tests.simulation.checks import Checks
from tests.simulation.host import TICK_MS, Crashed, Host
from tests.simulation.options import FAULTS, Options
from tests.simulation.replica import Replica
from tests.simulation.source import Source

LAST_EVENTS = 200
"""Kept for the report of a failure."""
LATE_BATCHES = 16
RECOVERY_EVENTS_MAX = 60_000
RECOVERY_SECONDS_MAX = 300.0
ELECTION_TIMEOUTS_MAX = 10
"""Without faults a leader must be there within so many; each is up to twice the configured one."""
CHECK_MS = 100


@dataclass(frozen=True, slots=True)
class Happened:
    """One event, for the trace."""

    now: float
    what: str
    node: int
    detail: str

    def __str__(self) -> str:
        return f"{self.now:10.1f} ms  {self.what:<16} {self.node or '':>2}  {self.detail}"


class World:
    """See the module."""

    def __init__(self, seed: int, options: Options) -> None:
        self.seed = seed
        self.options = options
        self.now = 0.0
        self.events = 0
        self.last: deque[Happened] = deque(maxlen=LAST_EVENTS)
        self._digest = hashlib.sha256()
        self._heap: list[tuple[float, int, str, Host | None, Any, tuple[Any, ...]]] = []
        self._number = 0
        self._rngs: dict[str, random.Random] = {}
        self.checks = Checks(self)
        self.source = Source(self.rng("source"))
        self.is_calm = False
        self.late_batches: deque[bytes] = deque(maxlen=LATE_BATCHES)
        self.hosts: dict[int, Host] = {}
        self._commands = 0
        self._reads = 0
        # The network.
        self._cuts: dict[tuple[int, int], float] = {}
        self._clogs: dict[tuple[int, int], float] = {}
        self._resets: dict[tuple[int, int], float] = {}
        self._last_arrival: dict[tuple[int, int], float] = {}
        self._filter: tuple[MessageType, float] | None = None
        self._slow_until: dict[int, float] = {}
        self._broken_disks: set[int] = set()
        self._doomed: dict[int, int] = {}
        """Who ends in the middle of a step soon, and after how many more chances."""

        members = tuple(self._member(node) for node in range(1, options.voters + 1))
        initial = Cluster(cluster_id=1, members=members)
        self._initial = initial
        for member in members:
            self.hosts[member.id] = Host(self, member.id, initial)
        self._next_id = options.voters + 1
        self.replicas = [
            Replica(self, number, self.rng(f"replica {number}"))
            for number in range(options.replicas)
        ]
        self._start_clocks()

    @staticmethod
    def _member(node: int, *, learner: bool = False) -> Member:
        return Member(id=node, name=f"n{node}", peer_urls=(f"http://n{node}:1",), learner=learner)

    def rng(self, what: str) -> random.Random:
        """The generator of one kind of thing."""
        found = self._rngs.get(what)
        if found is None:
            # Seeded with text, which does not depend on the interpreter's hash().
            found = self._rngs[what] = random.Random(f"{what} of {self.seed}")
        return found

    # -- time -----------------------------------------------------------------------------------

    def later(
        self, delay: float, what: str, host: Host | None, action: Any, *arguments: Any
    ) -> None:
        """Something of a host's process (or nobody's): it does not happen if that ended before."""
        self._number += 1
        tagged = (host.incarnation, *arguments) if host is not None else arguments
        heapq.heappush(self._heap, (self.now + delay, self._number, what, host, action, tagged))

    def _next(self) -> None:
        """One event happens."""
        when, number, what, host, action, arguments = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        if host is not None:
            incarnation, *arguments = arguments
            if not host.is_up or (incarnation and incarnation != host.incarnation):
                return
            if host.paused_until > self.now:
                heapq.heappush(
                    self._heap,
                    (host.paused_until, number, what, host, action, (incarnation, *arguments)),
                )
                return
        try:
            if action(*arguments) is False:
                return  # it looked, and there was nothing to do
        except Crashed:
            what += " crash"
        self.events += 1
        self._note(what, host, arguments)

    def _note(self, what: str, host: Host | None, arguments: Any) -> None:
        if host is not None:
            core, state = host.core, host.relay.state
            detail = (
                f"{'up' if host.is_up else 'down'} {core.role.name} term {core.term} "
                f"commit {core.committed} last {core.last_index} applied {host.applied} "
                f"visible {state.visible.index}"
            )
            if what == "message":
                detail = f"{_describe(arguments[0])}: {detail}"
            happened = Happened(self.now, what, host.id, detail)
        else:
            happened = Happened(self.now, what, 0, " ".join(map(str, arguments)))
        self.last.append(happened)
        self._digest.update(f"{self.now!r} {what} {happened.node} {happened.detail}\n".encode())

    def digest(self) -> str:
        """What the run so far was, in one word."""
        return self._digest.hexdigest()[:16]

    def note(self, what: str, *facts: object) -> None:
        """A line of the trace that is not an event by itself."""
        self.last.append(Happened(self.now, what, 0, " ".join(map(str, facts))))
        self._digest.update(f"{what} {facts!r}\n".encode())

    @property
    def where(self) -> str:
        """How far the run has come."""
        return f"event {self.events}"

    # -- phases ---------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """So many events, with all that goes wrong."""
        until = self.events + steps
        while self.events < until:
            self._next()
        self.checks.check_logs()

    def recover(self) -> None:
        """No faults any more: everything that is under way comes to its end."""
        self._calm_down()
        deadline = self.now + RECOVERY_SECONDS_MAX * 1000
        events_max = self.events + RECOVERY_EVENTS_MAX
        timeout = 2 * self.options.election_tick * TICK_MS * (1 + self.options.clock_skew)
        leader_by = self.now + ELECTION_TIMEOUTS_MAX * timeout
        look_at, has_led = self.now, False
        calm = _Recovery(self)
        while True:
            while self._heap[0][0] <= look_at:
                self._next()
            self.now = look_at
            has_led = has_led or self.leader() is not None
            assert has_led or self.now < leader_by, "no leader within ten election timeouts"
            missing = calm.missing()
            if not missing:
                break
            assert self.now < deadline and self.events < events_max, (
                f"without faults, after {self.now / 1000:.0f} s: {missing}"
            )
            look_at += CHECK_MS
        self.checks.check_logs()
        for host in self.hosts.values():
            if host.is_up:
                self.checks.note_state(host)
                if host.serves:
                    self.checks.check_held(host)

    def _calm_down(self) -> None:
        self.note("calm")
        self.is_calm = True
        self._cuts.clear()
        self._clogs.clear()
        self._last_arrival.clear()  # what is still on its way holds nothing up any more
        self._slow_until.clear()
        self._broken_disks.clear()
        self._doomed.clear()
        self._filter = None
        self.options = replace(
            self.options,
            faults={},
            loss=0.0,
            duplication=0.0,
            reorder=0.0,
            delay=0.0,
            snapshot_loss=0.0,
            latency_ms=1,
            write_ms=1,
            chunk_bytes=max(self.options.chunk_bytes, 4096),  # a long backlog comes to its end
        )
        for host in self.hosts.values():
            host.paused_until = 0.0
            if host.may_start:
                self._restart(host)

    # -- who is there ---------------------------------------------------------------------------

    def leader(self) -> Host | None:
        """The leader of the highest term, if it is there."""
        leaders = [host for host in self._up() if host.core.role is Role.LEADER]
        return max(leaders, key=lambda host: host.core.term, default=None)

    def _up(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.is_up]

    def _some(self, rng: random.Random) -> Host | None:
        up = self._up()
        return rng.choice(up) if up else None

    def configuration(self) -> ConfState:
        """The newest that anybody applied."""
        return max((host.database.conf for host in self.hosts.values()), key=lambda c: c[0])[1]

    # -- the network ----------------------------------------------------------------------------

    def send(self, host: Host, message: Message) -> None:
        """A message leaves; whether and when it arrives is drawn."""
        if not self.checks.note_sent(host, message):
            return
        rng, options, link = self.rng("network"), self.options, (message.from_, message.to)
        copies = 1 + (rng.random() < options.duplication)
        is_snapshot = message.type is MessageType.SNAP
        if rng.random() < options.loss or (is_snapshot and rng.random() < options.snapshot_loss):
            copies = 0
        delays = [rng.expovariate(1 / options.latency_ms) + 0.1 for _ in range(copies)]
        for at in range(copies):
            if rng.random() < options.delay:
                delays[at] += rng.paretovariate(1.2) * 50
        if self._is_cut(link) or message.to not in self.hosts:
            delays = []
        if self._filter and self._filter[1] > self.now and self._filter[0] is message.type:
            delays = []
        for delay in delays:
            arrival = max(self.now + delay, self._clogs.get(link, 0.0))
            if rng.random() >= options.reorder:
                arrival = max(arrival, self._last_arrival.get(link, 0.0))
                self._last_arrival[link] = arrival
            # A copy: nodes in different processes do not share objects.
            copy = replace(message, entries=list(message.entries))
            self._to(self.hosts[message.to], arrival, "message", self._arrive, copy, self.now)
        if is_snapshot:
            # Its fate is always told, some time later.
            self.later(
                rng.uniform(1, 300), "snapshot fate", host, self._report, host, message, delays
            )

    def _to(self, host: Host, when: float, what: str, action: Any, *arguments: Any) -> None:
        """Something that comes from outside: it finds whatever process is there then."""
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, what, host, action, (0, *arguments)))

    def _arrive(self, message: Message, sent: float) -> None:
        link = (message.from_, message.to)
        if self._resets.get(link, -1.0) >= sent or self._is_cut(link):
            return
        host, sender = self.hosts[message.to], self.hosts[message.from_]
        if self.checks.removed.get(sender.id, math.inf) <= host.database.conf[0]:
            # The transport refuses it and says so; a removed node that hears it stops.
            sender.told_removed()
            return
        host.receive(message)

    def _is_cut(self, link: tuple[int, int]) -> bool:
        return self._cuts.get(link, 0.0) > self.now

    def _report(self, host: Host, message: Message, delays: list[float]) -> None:
        host.core.report_snapshot(message.to, ok=bool(delays))
        host.pump()

    # -- disks and processes --------------------------------------------------------------------

    def write_delay(self, host: Host) -> float:
        """How long a write of the log takes; in a broken disk it ends the process."""
        rng = self.rng("disks")
        delay = rng.expovariate(1 / self.options.write_ms) + 0.2
        if self._slow_until.get(host.id, 0.0) > self.now:
            delay += rng.uniform(50, 800)
        if host.id in self._broken_disks:
            self._broken_disks.discard(host.id)
            self.later(delay / 2, "disk error", host, self._crash, host)
        return delay

    def perhaps_crash(self, host: Host) -> None:
        """In the middle of something, now and then."""
        doomed = self._doomed.get(host.id)
        if doomed is not None:
            self._doomed[host.id] = doomed - 1
            if doomed <= 0:
                del self._doomed[host.id]
                self._crash(host)
                raise Crashed

    def _crash(self, host: Host) -> None:
        host.crash()
        rng = self.rng("restarts")
        delay = rng.choice((5, 100, 500, 2000)) * rng.uniform(0.5, 2)
        self.later(delay, "restart", None, self._restart, host)

    def _restart(self, host: Host) -> None:
        if host.may_start:
            host.start()

    # -- what happens all the time --------------------------------------------------------------

    def _start_clocks(self) -> None:
        options = self.options
        for name, mean in options.faults.items():
            self._again(name, mean, getattr(self, f"_do_{name}"))
        for name, mean, action in (
            ("commit", options.transaction_ms, self._commit),
            ("command", options.command_ms, self._command),
            ("read", options.read_ms, self._read),
            ("configure", 200.0, self._configure),
            ("dial", 500.0, self._dial),
        ):
            if mean:
                self._again(name, mean, action)
        self._again("receivers", 20.0, self._step_receivers)
        for replica in self.replicas:
            self._again(f"replica {replica.number}", 60.0, replica.step)

    def _again(self, name: str, mean: float, action: Callable[..., Any]) -> None:
        rng = self.rng(f"times of {name}")

        def happen() -> Any:
            if self.is_calm and name in _FAULTY:
                return False
            self.later(rng.expovariate(1 / mean), name, None, happen)
            return action()

        self.later(rng.expovariate(1 / mean), name, None, happen)

    def _commit(self) -> Any:
        if self.is_calm:
            return False
        self.source.commit()
        return None

    def _command(self) -> Any:
        if self.is_calm:
            return False
        rng = self.rng("commands")
        self._commands += 1
        text = f"{self._commands} " * rng.choice((1, 1, 10, 100))
        data = encode(
            Command(member_attributes=MemberAttributes(member_id=rng.randrange(5), version=text))
        )
        host = self.leader() if rng.random() < 0.8 else self._some(rng)
        if host is None:
            return False
        return self.propose(host, data)

    def propose(self, host: Host, data: bytes) -> bool:
        """By the leader, or through one that forwards."""
        try:
            if host.core.role is Role.LEADER:
                host.propose(data)
            else:
                host.core.propose(data)
                host.pump()
        except ProposalDroppedError:
            return False
        return True

    def _read(self) -> Any:
        host = self._some(self.rng("reads"))
        if host is None or self.is_calm:
            return False
        self.ask(host)
        return None

    def ask(self, host: Host) -> bytes:
        """A read index; the context that names the question."""
        self._reads += 1
        context = b"read %d" % self._reads
        self.checks.note_read_asked(context)
        host.core.read_index(context)
        host.pump()
        return context

    def _dial(self) -> Any:
        """A node connects to another, and is told if it was removed: it may hear it only so."""
        rng = self.rng("dial")
        host, other = self._some(rng), self._some(rng)
        if host is None or other is None or self._is_cut((host.id, other.id)):
            return False
        if self.checks.removed.get(host.id, math.inf) > other.database.conf[0]:
            return False
        host.told_removed()
        return None

    def _configure(self) -> Any:
        """Somebody tells the relay, once, where to pull from."""
        leader = self.leader()
        if leader is None or leader.relay.state.source_config is not None:
            return False
        return self.start_source(leader, started=True)

    def start_source(self, leader: Host, *, started: bool) -> bool:
        config = SourceConfig(started=started, addresses=["source:3306"], user="relay", mode="gtid")
        return self.propose(leader, encode(Command(source_config=config)))

    def _step_receivers(self) -> Any:
        ready = [host for host in self._up() if host.ready_term and self.now >= host.paused_until]
        for host in ready:
            host.receiver.step()
        return None if ready else False

    # -- what goes wrong: the network -----------------------------------------------------------

    def _cut(self, rng: random.Random, senders: Any, receivers: Any, *, both: bool = True) -> None:
        until = self.now + rng.choice((200, 1000, 3000)) * rng.uniform(0.5, 1.5)
        for a in senders:
            for b in receivers:
                self._cuts[a, b] = until
                if both:
                    self._cuts[b, a] = until

    def _do_isolate(self) -> None:
        rng = self.rng("isolate")
        one = rng.choice(list(self.hosts))
        self._cut(rng, [one], [node for node in self.hosts if node != one])

    def _do_partition(self) -> None:
        rng = self.rng("partition")
        some = [node for node in self.hosts if rng.random() < 0.5]
        self._cut(rng, some, [node for node in self.hosts if node not in some])

    def _do_one_way(self) -> None:
        rng = self.rng("one way")
        one, other = rng.choice(list(self.hosts)), rng.choice(list(self.hosts))
        others = [other] if rng.random() < 0.5 else list(self.hosts)
        self._cut(rng, [one], others, both=False)

    def _do_minority(self) -> Any:
        """The leader talks to too few, and may not know it."""
        rng, leader = self.rng("minority"), self.leader()
        if leader is None:
            return False
        voters = [node for node in leader.core.conf_state.voters if node != leader.id]
        rng.shuffle(voters)
        few = {leader.id, *voters[: len(voters) // 2 - (len(voters) % 2 == 0)]}
        self._cut(rng, few, [node for node in self.hosts if node not in few])
        return None

    def _do_clog(self) -> None:
        rng = self.rng("clog")
        one, other = rng.choice(list(self.hosts)), rng.choice(list(self.hosts))
        self._clogs[one, other] = self.now + rng.choice((100, 500, 3000)) * rng.uniform(0.5, 1.5)

    def _do_type_filter(self) -> None:
        rng = self.rng("type filter")
        until = self.now + rng.choice((500, 2000)) * rng.uniform(0.5, 1.5)
        self._filter = (rng.choice(_FILTERED), until)

    def _do_reset(self) -> None:
        """Everything that is under way on a connection is lost."""
        rng = self.rng("reset")
        link = rng.choice(list(self.hosts)), rng.choice(list(self.hosts))
        self._resets[link] = self.now
        self._clogs.pop(link, None)
        self._last_arrival.pop(link, None)

    # -- processes and disks --------------------------------------------------------------------

    def _do_crash(self) -> Any:
        host = self._some(self.rng("crash"))
        if host is None:
            return False
        self._crash(host)
        return None

    def _do_crash_in_ready(self) -> Any:
        rng = self.rng("crash in ready")
        host = self._some(rng)
        if host is None:
            return False
        self._doomed[host.id] = rng.randrange(6)
        return None

    def _do_crash_leader(self) -> Any:
        """Rather between append and commit."""
        leader = self.leader()
        if leader is None:
            return False
        if leader.core.committed < leader.core.last_index:
            self._crash(leader)
        else:
            self._doomed[leader.id] = self.rng("crash leader").randrange(3)
        return None

    def _do_restart_all(self) -> None:
        for host in self._up():
            self._crash(host)

    def _do_pause(self) -> Any:
        rng = self.rng("pause")
        host = self._some(rng)
        if host is None:
            return False
        host.paused_until = self.now + rng.choice((100, 500, 2000, 4000)) * rng.uniform(0.5, 1.5)
        return None

    def _do_wipe(self) -> Any:
        """One voter of at least three loses its disk, when no other has; operators remove it."""
        rng = self.rng("wipe")
        conf_state = self.configuration()
        wiped = [node for node in conf_state.members if self.hosts[node].is_wiped]
        leader = self.leader()
        for node in wiped:
            if leader is not None:
                self.remove(leader, node)
        host = self._some(rng)
        if host is None or wiped or not self._may_lose(host.id):
            return False
        host.wipe()
        return None

    def _may_lose(self, node: int) -> bool:
        """Whether a quorum stays, whatever becomes of changes that are under way."""
        if self._has_wiped():
            return False
        state = self.configuration()
        if not state.voters or state.voters_outgoing:
            return False  # nobody has written that it is a member yet, or a change is under way
        if node in state.voters and len(state.voters) < 3:
            return False
        hosts = [self.hosts[member] for member in state.members]
        return all(
            host.is_up and host.database.conf[1] == state and not host.has_pending_change
            for host in hosts
        )

    def _has_wiped(self) -> bool:
        removed = self.checks.removed
        return any(host.is_wiped and host.id not in removed for host in self.hosts.values())

    def _do_slow_disk(self) -> Any:
        rng = self.rng("slow disk")
        host = self._some(rng)
        if host is None:
            return False
        self._slow_until[host.id] = self.now + rng.choice((500, 3000)) * rng.uniform(0.5, 1.5)
        return None

    def _do_disk_error(self) -> Any:
        host = self._some(self.rng("disk error"))
        if host is None:
            return False
        self._broken_disks.add(host.id)
        return None

    # -- operators ------------------------------------------------------------------------------

    def _do_transfer(self) -> Any:
        leader = self.leader()
        if leader is None:
            return False
        leader.core.transfer_leader(self.rng("transfer").choice(list(self.hosts)))
        # It has an election timeout from now on, and the leader looks for its majority after that.
        leader.leads_since = leader.ticks
        leader.pump()
        return None

    def _do_campaign(self) -> Any:
        host = self._some(self.rng("campaign"))
        if host is None:
            return False
        host.core.campaign()
        host.pump()
        return None

    def _do_forget_leader(self) -> Any:
        host = self._some(self.rng("forget leader"))
        if host is None:
            return False
        host.core.forget_leader()
        host.pump()
        return None

    def _do_unreachable(self) -> Any:
        leader = self.leader()
        if leader is None:
            return False
        leader.core.report_unreachable(self.rng("unreachable").choice(list(self.hosts)))
        leader.pump()
        return None

    def _do_purge(self) -> Any:
        """The leader proposes to give up old files, or nodes give up what that left."""
        rng, leader = self.rng("purge"), self.leader()
        if rng.random() < 0.5 or leader is None or len(leader.relay.state.files) < 2:
            purged = [host.purge() for host in self._up()]
            return None if any(purged) else False
        files = leader.relay.state.files
        first_index = rng.choice(files[1:]).first_index
        return self.propose(leader, encode(Command(purge=Purge(first_index=first_index))))

    def _do_change(self) -> Any:
        """A membership change that the leader may propose."""
        rng, leader = self.rng("change"), self.leader()
        if leader is None or not leader.ready_term or leader.change_index > leader.applied:
            return False
        if self.options.joint:
            return self._change_jointly(rng, leader)
        cluster = leader.cluster
        others = [member for member in cluster if member.id != leader.id]
        learners = [member for member in others if member.learner]
        match rng.choice(("add", "promote", "promote", "remove")):
            case "add" if self._next_id <= self.options.nodes_max:
                # One more learner at a time: promoted when it has caught up.
                learner = len(cluster.voters) == 1 or rng.random() < 0.7
                member = self._member(self._next_id, learner=learner)
                if not self._allows(leader, MemberChange(kind=ChangeKind.ADD, member=member)):
                    return False
                self._join()
                return self._change(leader, MemberChange(kind=ChangeKind.ADD, member=member))
            case "promote" if learners:
                member = rng.choice(learners).promoted()
                progress = leader.core.progress(member.id)
                if progress is None or progress.match < leader.core.committed:
                    return False
                return self._change(leader, MemberChange(kind=ChangeKind.PROMOTE, member=member))
            case "remove" if others:
                return self.remove(leader, rng.choice(others).id)
        return False

    def _join(self) -> int:
        node, self._next_id = self._next_id, self._next_id + 1
        self.hosts[node] = Host(self, node, Cluster(cluster_id=1))
        return node

    def _allows(self, leader: Host, change: MemberChange) -> bool:
        since = self.now - self.options.election_tick * TICK_MS
        active = {leader.id} | {node for node, when in leader.heard.items() if when >= since}
        try:
            leader.cluster.check(change)
            leader.cluster.check_health(change, active)
        except MembershipError:
            return False
        return True

    def _change(self, leader: Host, change: MemberChange) -> bool:
        return self._allows(leader, change) and self._propose_change(leader, to_conf_change(change))

    def remove(self, leader: Host, node: int) -> bool:
        """Never the leader itself, and never so many that those who stay need who goes."""
        conf_state = leader.core.conf_state
        if node == leader.id or node not in conf_state.members or not leader.ready_term:
            return False
        if not self._leaves_quorum(conf_state, {node}):
            return False
        if self._has_wiped() and not self.hosts[node].is_wiped:
            return False
        if self.options.joint:
            gone = (ConfChangeSingle(ConfChangeType.REMOVE_NODE, node),)
            return self._propose_change(leader, ConfChangeV2(changes=gone))
        member = leader.cluster.get(node)
        if member is None:
            return False
        return self._change(leader, MemberChange(kind=ChangeKind.REMOVE, member=member))

    @staticmethod
    def _leaves_quorum(conf_state: ConfState, going: set[int]) -> bool:
        """A quorum of the present voters stays.

        One that goes may have become leader, commit the change, and leave before it told the
        others, who then need votes that nobody gives.
        """
        voters = set(conf_state.voters)
        return not going & voters or len(voters - going) > len(voters) // 2

    def _change_jointly(self, rng: random.Random, leader: Host) -> bool:
        conf_state = leader.core.conf_state
        if conf_state.voters_outgoing:
            return rng.random() < 0.25 and self._propose_change(leader, ConfChangeV2())
        if self._has_wiped():
            return False
        changes = []
        going: set[int] = set()
        for _ in range(rng.choice((1, 1, 2, 3))):
            others = sorted(conf_state.members - {leader.id})
            kind = rng.choice(
                (
                    ConfChangeType.ADD_NODE,
                    ConfChangeType.ADD_LEARNER_NODE,
                    ConfChangeType.REMOVE_NODE,
                )
            )
            if kind is ConfChangeType.REMOVE_NODE and others:
                node = rng.choice(others)
                going.add(node)
            elif others and rng.random() < 0.5:
                node = rng.choice(others)
                if kind is ConfChangeType.ADD_LEARNER_NODE:
                    going.add(node)
            elif self._next_id <= self.options.nodes_max:
                node = self._join()
            else:
                continue
            if node not in {change.node_id for change in changes}:
                changes.append(ConfChangeSingle(kind, node))
        if not changes or not self._leaves_quorum(conf_state, going):
            return False
        transition = ConfChangeTransition.AUTO
        if len(changes) > 1 or rng.random() < 0.3:
            transition = rng.choice(list(ConfChangeTransition))
        return self._propose_change(leader, ConfChangeV2(transition, tuple(changes)))

    def _propose_change(self, leader: Host, change: ConfChangeV2) -> bool:
        try:
            leader.propose_change(change)
        except ProposalDroppedError:
            return False
        if leader.is_up:
            self.checks.note_change_proposed(leader)
        return True

    # -- the source and those who read ----------------------------------------------------------

    def _do_rotate(self) -> None:
        self.source.rotate()

    def _do_source_restart(self) -> None:
        self.source.restart(clean=self.rng("source restart").random() < 0.5)

    def _do_source_purge(self) -> None:
        self.source.purge(self.checks.visible_count)

    def _do_failover(self) -> None:
        """To a server that has everything, and what the relay lacks in files of its own."""
        lacking = len(self.source.history.order) - self.checks.visible_count
        more = self.rng("failover").choice((0, 0, 1, 3))
        self.source.failover(min(lacking + more, len(self.source.history.order)))

    def _do_break_dump(self) -> None:
        self.source.hang_up()

    def _do_stop_start(self) -> Any:
        leader = self.leader()
        config = leader.relay.state.source_config if leader is not None else None
        if leader is None or config is None:
            return False
        return self.start_source(leader, started=not config.started)

    def _do_stale_receiver(self) -> Any:
        """What a receiver proposed comes once more, from whoever it comes."""
        rng, leader = self.rng("stale receiver"), self.leader()
        if leader is None or not self.late_batches:
            return False
        return self.propose(leader, rng.choice(self.late_batches))

    def _do_move_replica(self) -> None:
        for replica in self.replicas:
            if self.rng("move replica").random() < 0.5:
                replica.detach()

    def _do_rewind_replica(self) -> None:
        for replica in self.replicas:
            if self.rng("rewind replica").random() < 0.5:
                replica.rewind()


class _Recovery:
    """What is asked of a cluster without faults, and what is still missing of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._marker: Any = None
        self._asked: dict[int, tuple[float, bytes]] = {}
        self._moved = False

    def missing(self) -> str:
        world, leader = self._world, self._world.leader()
        if leader is None or not leader.ready_term:
            return "a leader"
        return (
            self._configuration(leader)
            or self._source(leader)
            or self._proposal(leader)
            or self._members(leader)
            or self._reads(leader)
            or self._replicas()
            or self._leftovers(world)
        )

    def _configuration(self, leader: Host) -> str:
        world, conf_state = self._world, leader.core.conf_state
        if conf_state.voters_outgoing:
            if not conf_state.auto_leave:
                world._propose_change(leader, ConfChangeV2())
            return f"the end of the joint configuration {conf_state}"
        for node in sorted(conf_state.members):
            if world.hosts[node].is_wiped:
                world.remove(leader, node)
                return f"the removal of {node}, whose disk is gone"
        return ""

    def _source(self, leader: Host) -> str:
        world, state = self._world, leader.relay.state
        wanted = len(world.source.history.order)
        if state.source_config is not None and not state.source_config.started:
            world.start_source(leader, started=True)
        count = state.executed.count()
        if count != wanted:
            return f"{wanted - count} of the source's {wanted} transactions on {leader.id}"
        return ""

    def _proposal(self, leader: Host) -> str:
        marker = self._marker
        if marker is not None and marker.is_settled and marker._error is None:
            return ""
        if marker is None or marker.is_settled:
            command = Command(member_attributes=MemberAttributes(member_id=99, version="well"))
            try:
                self._marker = leader.propose(encode(command))
            except ProposalDroppedError:
                return "a proposal that is taken"
        return "a proposal that is applied"

    def _members(self, leader: Host) -> str:
        hosts = self._world.hosts
        for node in sorted(self._world.checks.removed):
            if hosts[node].is_up:
                return f"that {node} hears that it was removed"
        for node in sorted(leader.core.conf_state.members):
            host = hosts[node]
            log = host.core._raft.log
            if not host.is_up:
                return f"member {node}"
            if host.core.leader_id != leader.id:
                return f"that {node} knows the leader {leader.id}"
            if host.applied != leader.core.committed or log.applied != leader.core.committed:
                return f"that {node} applies {leader.core.committed}: it has {host.applied}"
            if log.unstable.entries or log.unstable.snapshot is not None:
                return f"that the unstable log of {node} empties"
            if host.append_queue or host.apply_queue or host.log.is_writing or host.ready:
                return f"that the queues of {node} empty"
            if len(host.proposals):
                return f"the end of {len(host.proposals)} proposals of {node}"
            if host.core.uncommitted_size and host is leader:
                return f"that nothing is uncommitted: {host.core.uncommitted_size} bytes are"
            if not host.receiver.is_idle:
                return f"that the receiver of {node} has nothing under way"
        return ""

    def _reads(self, leader: Host) -> str:
        world = self._world
        for node in sorted(leader.core.conf_state.members):
            asked = self._asked.get(node)
            if asked is not None and asked[1] in world.checks.reads_answered:
                continue
            retry = world.options.election_tick * TICK_MS
            if asked is None or asked[0] + retry < world.now:
                self._asked[node] = (world.now, world.ask(world.hosts[node]))
            return f"an answer to a read of {node}"
        return ""

    def _replicas(self) -> str:
        wanted = len(self._world.source.history.order)
        for replica in self._world.replicas:
            if not replica.is_at_end(wanted):
                return f"that replica {replica.number} at {replica.place} gets {wanted}"
        return ""

    @staticmethod
    def _leftovers(world: World) -> str:
        if len(world._heap) > 40 * len(world.hosts) + 100:
            return f"that what is under way comes to an end: {len(world._heap)} events wait"
        return ""


_FAULTY = frozenset(FAULTS)
_FILTERED = (
    MessageType.APP,
    MessageType.APP_RESP,
    MessageType.VOTE,
    MessageType.VOTE_RESP,
    MessageType.SNAP,
    MessageType.HEARTBEAT,
    MessageType.HEARTBEAT_RESP,
    MessageType.PRE_VOTE,
    MessageType.PRE_VOTE_RESP,
    MessageType.TIMEOUT_NOW,
    MessageType.READ_INDEX,
    MessageType.READ_INDEX_RESP,
    MessageType.PROP,
)


def _describe(message: Message) -> str:
    text = f"{message.type.name} {message.from_}->{message.to} t{message.term} i{message.index}"
    if message.entries:
        text += f" +{len(message.entries)}"
    if message.reject:
        text += " reject"
    return text
