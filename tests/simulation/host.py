"""One node: the core, its two disks, the relay and the receiver, driven by the simulated clock.

It does what `kingbus.node.node` does, in the same order, with everything that takes time made into
an event of the world: ticks, writes, applies. Pure parts are the production code's own. With
synchronous storage writes it does what the core's door asks for instead: write, send, apply,
advance.
"""

import random
from collections import deque
from typing import TYPE_CHECKING

from kingbus.binlog.command import decode
from kingbus.membership.cluster import Cluster
from kingbus.node.changes import taken
from kingbus.node.core import CoreStorage, conf_state_of, initial_hard_state
from kingbus.node.machine import AppliedBatch
from kingbus.node.proposals import Proposal, Proposals
from kingbus.node.writes import gather
from kingbus.pb import record_pb2
from kingbus.raft.config import RaftConfig
from kingbus.raft.errors import ProposalDroppedError, RaftError
from kingbus.raft.raft import CAMPAIGN_TRANSFER
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import Ready, Role
from kingbus.raft.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    NO_LIMIT,
    ConfChange,
    ConfChangeV2,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
    decode_conf_change,
)
from kingbus.replication.relay import Relay
from kingbus.storage.log import LogWrite
from tests.simulation.receiver import Receiver
from tests.simulation.storage import DatabaseModel, LogModel, SnapshotData, Start
from tests.support.relay_node import run_inline

if TYPE_CHECKING:
    from tests.simulation.world import World

TICK_MS = 100


_FROM_LEADER = frozenset((MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP))
_VOTE_REQUESTS = frozenset((MessageType.VOTE, MessageType.PRE_VOTE))


class Crashed(Exception):  # noqa: N818 - it is what happens, not what is wrong
    """The process ends in the middle of a step."""


class Host:
    """See the module."""

    def __init__(self, world: "World", node: int, initial: Cluster) -> None:
        self.world = world
        self.id = node
        self.initial = initial
        """The members that the cluster begins with; a node that joins has none."""
        self.rng = random.Random(f"node {node} of {world.seed}")
        skew = world.options.clock_skew
        self.tick_ms = TICK_MS * self.rng.uniform(1 - skew, 1 + skew)
        self.incarnation = 0
        self.is_up = False
        self.is_wiped = False
        self.is_removed = False
        self.paused_until = 0.0
        self.log = LogModel(self._snapshot)
        self.database = DatabaseModel()
        self.start()

    def __repr__(self) -> str:
        return f"node {self.id}"

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """The process begins, with what its disks have."""
        options = self.world.options
        assert not self.is_up
        self.incarnation += 1
        self.is_up = True
        if self.log.promised_nothing:
            self.log = LogModel(self._snapshot)
        log, database = self.log, self.database
        if database.applied() + 1 < log.first_index():
            # It ended between the two halves of installing a snapshot.
            assert log.installed is not None
            assert log.installed.start.index + 1 == log.first_index()
            database.install(log.installed)
        record = database.members_record
        cluster = Cluster.from_record(record) if record is not None else self.initial.emptied()
        self.cluster = cluster
        conf_index, conf_state = database.conf
        assert options.joint or conf_state == conf_state_of(cluster), (
            f"{self.id} comes back with {conf_state} and the membership {cluster}"
        )
        self.relay = Relay.load(database=database, log=_Packets(log), runner=run_inline)
        self.applied = self.relay.applied_index
        hard_state = initial_hard_state(log.hard_state, applied=self.applied, log=log)
        self.saved = self.latest = log.hard_state
        self.core = RawNode(
            RaftConfig(
                id=self.id,
                storage=CoreStorage(log, hard_state, conf_state),
                random=self.rng,
                applied=self.applied,
                conf_index=conf_index,
                **options.core(),
            )
        )
        if log.last_index() == 0 and log.hard_state.is_empty and self.id in self.initial:
            self.core.bootstrap([(m.id, m.to_context().SerializeToString()) for m in self.initial])
        self.append_queue: deque[Message] = deque()
        self.apply_queue: deque[Message] = deque()
        self.responses: list[Message] = []
        self.ready: Ready | None = None
        self.is_applying = self.writes_soon = False
        self.proposals = Proposals()
        self.ready_term = 0
        self.seen_role: tuple[Role, int] = (Role.FOLLOWER, self.core.term)
        self.change_index = 0
        self.heard: dict[int, float] = {}
        # In ticks of its own: when it heard from whom, from its leader, and since when it leads.
        self.ticks = self.leader_tick = self.leads_since = 0
        self.heard_tick: dict[int, int] = {}
        self.receiver = Receiver(self)
        self.world.checks.note_start(self)
        self._tick_later(self.rng.uniform(0, self.tick_ms))
        self.pump()

    def crash(self) -> None:
        """The process ends; what was under way on the disks is there in part."""
        assert self.is_up
        self.is_up = False
        self.paused_until = 0.0
        self.log.crash(self.rng)
        self.database.crash(self.rng)
        self.proposals.fail_all(RaftError("the node ended"))
        self.ready_term = 0

    def wipe(self) -> None:
        """All data is gone; the node never comes back under this id."""
        if self.is_up:
            self.crash()
        self.is_wiped = True

    def told_removed(self) -> None:
        """It was removed, and learns it: the process ends for good."""
        self.is_removed = True
        if self.is_up:
            self.crash()

    @property
    def may_start(self) -> bool:
        return not (self.is_up or self.is_wiped or self.is_removed)

    @property
    def has_pending_change(self) -> bool:
        """Whether its log has a change that it has not applied."""
        log = self.core._raft.log
        entries = log.slice(
            max(self.applied + 1, log.first_index()), log.last_index() + 1, NO_LIMIT
        )
        return any(entry.type is not EntryType.NORMAL for entry in entries)

    @property
    def serves(self) -> bool:
        """Whether replicas may dump here."""
        start = self.database.starts.get(self.log.first_index() - 1)
        return self.is_up and (start is None or self.applied >= start.whole_from)

    def _later(self, delay: float, what: str, action: object, *arguments: object) -> None:
        self.world.later(delay, what, self, action, *arguments)

    # -- inputs ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        """One tick, or after a pause the few that are made up for."""
        missed = int((self.world.now - self.tick_at) / self.tick_ms)
        for _ in range(min(1 + missed, max(1, self.world.options.election_tick // 2))):
            self.core.tick()
            self.ticks += 1
        self._tick_later(self.tick_ms)
        self.pump()
        if self.core.role is Role.LEADER:
            self.world.checks.note_leads(self)

    def _tick_later(self, delay: float) -> None:
        self.tick_at = self.world.now + delay
        self._later(delay, "tick", self._tick)

    def receive(self, message: Message) -> None:
        """A message from a peer."""
        self.heard[message.from_] = self.world.now
        self.heard_tick[message.from_] = self.ticks
        lease = self._lease_against(message)
        self._step(message)
        core = self.core
        is_news = message.term == core.term  # it may have led in an older term, too
        if is_news and message.type in _FROM_LEADER and core.leader_id == message.from_:
            self.leader_tick = self.ticks
        assert lease is None or lease == (core.term, core.leader_id), (
            f"{self.id} is disturbed by {message.from_} while it has leader {lease[1]}"
        )
        self.pump()

    def _lease_against(self, message: Message) -> tuple[int, int] | None:
        """Term and leader, where a live one must not be disturbed by such a message."""
        core, options = self.core, self.world.options
        if message.type not in _VOTE_REQUESTS or message.term <= core.term or not core.leader_id:
            return None
        hears = core.role is Role.LEADER or self.ticks - self.leader_tick < options.election_tick
        is_forced = message.context == CAMPAIGN_TRANSFER
        return (
            (core.term, core.leader_id)
            if options.check_quorum and hears and not is_forced
            else None
        )

    def _step(self, message: Message) -> None:
        try:
            self.core.step(message)
        except RaftError:
            return  # from a peer of another configuration, or to oneself after a removal

    def propose(self, data: bytes) -> Proposal:
        """As the leader; ProposalDroppedError."""
        if not self.is_up or self.core.role is not Role.LEADER:
            raise ProposalDroppedError
        index = self.core.propose(data)
        self.world.checks.note_proposed(self, len(data))
        proposal = self.proposals.add(index=index, term=self.core.term, data_bytes=len(data))
        self.pump()
        return proposal

    def propose_change(self, change: ConfChangeV2) -> None:
        """As the leader; ProposalDroppedError."""
        self.change_index = self.core.propose_conf_change(change)
        self.pump()

    # -- the loop -------------------------------------------------------------------------------

    def pump(self) -> None:
        """Everything that is to be done now."""
        while True:
            self.world.checks.check(self)
            if self.responses:
                self._step(self.responses.pop(0))
            elif self.ready is None and self.core.has_ready():
                self._take(self.core.ready())
            else:
                break
        self._observe()

    def _take(self, ready: Ready) -> None:
        for read in ready.read_states:
            self.world.checks.note_read(read.context, read.index)
        if not self.world.options.asynchronous:
            self.ready = ready
            self._write_ready(ready)
            return
        for message in ready.messages:
            self.world.perhaps_crash(self)
            if message.to == APPEND_THREAD:
                self.append_queue.append(message)
                self._write()
            elif message.to == APPLY_THREAD:
                self.apply_queue.append(message)
                self._apply_later()
            else:
                self.world.send(self, message)

    def _observe(self) -> None:
        core = self.core
        seen = (core.role, core.term)
        if seen != self.seen_role:
            was_leader = self.seen_role[0] is Role.LEADER
            self.seen_role = seen
            self.leads_since = self.ticks
            if was_leader:
                # The flag first, as in the node.
                self.ready_term = 0
                self.proposals.fail_all(RaftError("leadership was lost"))
                self.receiver.stop()

    # -- the log's disk -------------------------------------------------------------------------

    def _write(self) -> None:
        """Begin a write of what waits, unless one is under way."""
        if self.log.is_writing or not self.append_queue or self.writes_soon:
            return
        self.writes_soon = True
        # What comes in the meantime is gathered.
        self._later(self.rng.choice((0, 0, 1)), "gather", self._begin_write)

    def _begin_write(self) -> None:
        self.writes_soon = False
        gathered = gather(self.append_queue, self.saved)
        if gathered.hard_state is not None:
            self.latest = gathered.hard_state
        if not gathered.needs_write:
            self._deliver(gathered.responses)
            self._write()
            self.pump()
            return
        write = LogWrite(
            entries=gathered.entries, hard_state=self.latest, snapshot=gathered.snapshot
        )
        self.log.begin(write)
        self._later(self.world.write_delay(self), "written", self._written, gathered.responses)

    def _written(self, responses: list[Message]) -> None:
        self._finish_write()
        self._deliver(responses)
        self._write()
        self.pump()

    def _finish_write(self) -> None:
        write = self.log.finish()
        assert write.hard_state is not None
        self.saved = self.log.hard_state
        self.world.checks.note_written(self, write)
        self.world.perhaps_crash(self)
        if write.snapshot is not None:
            self._install(write.snapshot)

    def _deliver(self, responses: list[Message]) -> None:
        for message in responses:
            self.world.perhaps_crash(self)
            if message.to == self.id:
                self.world.checks.note_promise(self, message)
                self.responses.append(message)
            else:
                self.world.send(self, message)

    def _write_ready(self, ready: Ready) -> None:
        """Synchronous storage writes: nothing of a Ready may go before the disk has it."""
        if ready.hard_state is not None:
            self.latest = ready.hard_state
        if not ready.must_sync and ready.snapshot is None:
            self._later(0, "ready", self._finish_ready, ready)
            return
        write = LogWrite(entries=ready.entries, hard_state=self.latest, snapshot=ready.snapshot)
        self.log.begin(write)
        self._later(self.world.write_delay(self), "written", self._finish_ready, ready)

    def _finish_ready(self, ready: Ready) -> None:
        if self.log.is_writing:
            self._finish_write()
        for message in ready.messages:
            self.world.perhaps_crash(self)
            self.world.send(self, message)
        for chunk in self._chunks(ready.committed_entries):
            self._apply(chunk)
            self.world.perhaps_crash(self)
        self.ready = None
        self.core.advance()
        self.pump()

    # -- applying -------------------------------------------------------------------------------

    def _chunks(self, entries: list[Entry]) -> list[list[Entry]]:
        most = self.world.options.apply_entries_max
        return [entries[at : at + most] for at in range(0, len(entries), most)]

    def _apply_later(self) -> None:
        if self.apply_queue and not self.is_applying:
            self.is_applying = True
            self._later(self.rng.choice((0, 0, 1, 5)), "apply", self._apply_next)

    def _apply_next(self) -> None:
        self.is_applying = False
        message = self.apply_queue.popleft()
        for chunk in self._chunks(message.entries):
            self._apply(chunk)
        self._deliver(message.responses)
        self._apply_later()
        self.pump()

    def _apply(self, entries: list[Entry]) -> None:
        entries = [entry for entry in entries if entry.index > self.applied]
        if not entries:
            return  # a snapshot was faster
        checks = self.world.checks
        changes: list[tuple[int, ConfChange | ConfChangeV2]] = []
        members: dict[int, record_pb2.Members] = {}
        cluster = self.cluster
        for entry in entries:
            checks.note_applied(self, entry)
            if entry.type is EntryType.NORMAL:
                continue
            if self.world.options.joint:
                change: ConfChange | ConfChangeV2 = decode_conf_change(entry)
            else:
                change, cluster, _ = taken(entry, cluster)
                members[entry.index] = cluster.to_record()
            changes.append((entry.index, change))
        was_member = self.id in self.database.conf[1].members
        for index, change in changes:
            is_news = index > self.core.conf_index
            conf_state = self.core.apply_conf_change(change, index=index)
            if is_news:
                checks.note_configuration(self, index, conf_state)
                if self.world.options.joint:  # else it is written as the membership
                    self.database.conf = (index, conf_state)
                self.leads_since = self.ticks  # counted anew: there may be new voters
        if members and self.world.options.voters <= cluster.index == self.core.conf_index:
            assert self.core.conf_state == conf_state_of(cluster), (
                f"Raft has {self.core.conf_state}, the membership is {cluster}"
            )
        self._feed(entries, members)
        self.applied = entries[-1].index
        self.cluster = cluster
        self.proposals.settle(entries, errors={})
        self._observe()
        if self.core.role is Role.LEADER and entries[-1].term == self.core.term:
            if not self.ready_term:
                checks.note_ready(self)
            self.ready_term = self.core.term
        checks.note_state(self)
        if was_member and self.id not in self.database.conf[1].members:
            self.told_removed()
            raise Crashed

    def _feed(self, entries: list[Entry], members: dict[int, record_pb2.Members]) -> None:
        """The relay applies them; the state before each new file is kept."""
        relay, database = self.relay, self.database
        run: list[Entry] = []
        runs = [run]
        for entry in entries:
            if _starts_file(entry):
                run = []
                runs.append(run)
            run.append(entry)
        for run in filter(None, runs):
            if _starts_file(run[0]):
                files = relay.state.files[:-1]
                database.note_start(
                    Start(
                        index=run[0].index - 1,
                        record=relay.state.to_record().SerializeToString(deterministic=True),
                        files=tuple(row.SerializeToString(deterministic=True) for row in files),
                    )
                )
            those = {entry.index: members[entry.index] for entry in run if entry.index in members}
            relay.apply(AppliedBatch(entries=run, members=those))

    # -- the start of the log -------------------------------------------------------------------

    def purge(self) -> bool:
        """Give up the entries of files that the relay state no longer has."""
        files = self.relay.state.files
        start = self.database.starts.get(files[0].first_index - 1) if files else None
        if start is None or start.index < self.log.first_index() or start.index > self.applied:
            return False
        if start.index > self.core.applied or start.index > self.log.last_index():
            return False
        start = Start(
            index=start.index, record=start.record, files=start.files, whole_from=self.applied
        )
        self.database.starts[start.index] = start
        self.database.drop_starts(start.index)
        self.database.sync()
        self.log.compact(start.index)
        return True

    def _snapshot(self) -> Snapshot:
        """The start of the log, with the membership of now."""
        index = self.log.first_index() - 1
        conf_index, conf_state = self.database.conf
        record = self.database.members_record
        data = SnapshotData(
            start=self.database.starts[index],
            members=record.SerializeToString(deterministic=True) if record is not None else b"",
            conf_index=conf_index,
            conf_state=conf_state,
        )
        return Snapshot(
            index, self.log.term(index), conf_state, data.encode(), max(conf_index, index)
        )

    def _install(self, snapshot: Snapshot) -> None:
        data = SnapshotData.decode(snapshot.data)
        assert snapshot.index > self.applied, (snapshot.index, self.applied)
        self.database.install(data)
        self.relay = Relay.load(database=self.database, log=_Packets(self.log), runner=run_inline)
        self.applied = self.relay.applied_index
        assert self.applied == snapshot.index
        record = self.database.members_record
        self.cluster = Cluster.from_record(record) if record is not None else self.cluster
        self.world.checks.note_installed(self)


class _Packets:
    """The relay's view of the log."""

    def __init__(self, log: LogModel) -> None:
        self.first_index = log.first_index
        self.last_index = log.last_index
        self._log = log

    def cached(self, lo: int, hi: int, max_size: int) -> list[Entry] | None:
        return self._log.entries(lo, hi, max_size)

    read = cached


def _starts_file(entry: Entry) -> bool:
    if entry.type is not EntryType.NORMAL or not entry.data:
        return False
    command, _ = decode(entry.data)
    return command.WhichOneof("kind") == "event_batch" and command.event_batch.HasField(
        "file_start"
    )
