"""The driver: one loop around the Raft core, with a task that appends and one that applies.

    inputs (ticks, messages, responses) -> loop -> RawNode -> Ready
    Ready.messages -> peers at once | append queue | apply queue

The core runs with asynchronous storage writes, and that is where the order of things is decided:
a message that depends on the disk hangs on a MsgStorageAppend as a response, and goes only after
the append task (`append_task`) has made that write durable; all other messages go at once, so
heartbeats leave, and the leader sends entries, while its own disk is at work. Entries are applied
in order, on the loop, membership changes among them; the machine keeps those in the same database
write. While a snapshot is installed (`log_start`) nothing is applied; what it has overtaken, a
membership change at or below that of the snapshot too, is never applied.

Time is the event loop's: ticks are due at absolute moments, so a busy loop loses none, but makes
up for only some of a long stall, lest a node that was stopped for a while takes itself for one
that hears no leader. What this module must not know: what the entries mean, and why a membership
changes or leadership moves.
"""

import random as random_module
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from kingbus import metrics
from kingbus.crc import crc32
from kingbus.log import get_logger
from kingbus.membership.cluster import Cluster
from kingbus.membership.member import Member
from kingbus.node.append_task import AppendTask
from kingbus.node.broadcast import Broadcast
from kingbus.node.changes import taken
from kingbus.node.core import conf_state_of, core_config, initial_hard_state
from kingbus.node.errors import (
    EntryTooLargeError,
    MembershipBusyError,
    NotLeaderError,
    ProposalLostError,
    StaleDirectoryError,
)
from kingbus.node.fates import SnapshotFates
from kingbus.node.handover import Handover
from kingbus.node.inbox import Inbox
from kingbus.node.leadership import Leadership
from kingbus.node.log_start import LogStart
from kingbus.node.machine import AppliedBatch, Log, Room, Runner, Snapshots, StateMachine
from kingbus.node.membership import Membership
from kingbus.node.peers import Peers
from kingbus.node.proposals import Proposal, Proposals
from kingbus.node.reads import Reads
from kingbus.node.status import NodeSettings, NodeStatus, PeerStatus, Removed
from kingbus.node.turns import Turns
from kingbus.pb import record_pb2
from kingbus.raft.errors import ProposalDroppedError, RaftError
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import Ready, Role
from kingbus.raft.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    ConfChange,
    ConfChangeV2,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from kingbus.transport.codec import ENTRY_BYTES_MAX
from kingbus.transport.peer import PeerFacts

__all__ = [
    "AppliedBatch",
    "Node",
    "NodeSettings",
    "NodeStatus",
    "PeerStatus",
    "Proposal",
    "ProposalDroppedError",
    "Removed",
    "StateMachine",
]

_log = get_logger("node")

LATE_SECONDS = 10.0
"""That heartbeats leave late is said at most this often."""
CATCH_UP_TICKS_PART = 2
"""Of the ticks missed in a stall at most election ticks / this are made up for at once."""


class NodeTransport(Protocol):
    """What the node asks of the transport."""

    def send(self, messages: Sequence[Message]) -> None: ...
    def set_cluster(self, cluster: Cluster) -> None: ...
    def facts(self, member_id: int) -> PeerFacts | None: ...


class Node:
    """One member of the cluster; see the module.

    `cluster` is the membership as of what the machine has applied; `bootstrap` are the initial
    members of a new cluster, and only on an empty log; `foreseen` is the membership that a joining
    node was told of, by which it answers the others until it has applied as much. `runner` runs
    a blocking call in a worker thread. Without `snapshots` the log must keep its beginning: none is
    sent and none is taken. Without `room` a full disk ends it. RestartError when log and machine
    do not fit together.
    """

    def __init__(
        self,
        *,
        member_id: int,
        cluster: Cluster,
        log: Log,
        machine: StateMachine,
        transport: NodeTransport,
        random: random_module.Random,
        runner: Runner,
        settings: NodeSettings | None = None,
        bootstrap: Sequence[Member] = (),
        foreseen: Cluster | None = None,
        snapshots: Snapshots | None = None,
        room: Room | None = None,
    ) -> None:
        self.member_id = member_id
        self.settings = settings or NodeSettings()
        self.leadership = Leadership()
        self._cluster = cluster
        self._foreseen = foreseen
        self._log = log
        self._machine = machine
        self._transport = transport
        self._log_start = LogStart(log=log, snapshots=snapshots, runner=runner)
        if snapshots is not None:
            log.set_snapshot_source(lambda: self._log_start.make(self._cluster))
        self._applied = machine.applied_index
        recorded, _ = log.initial_state()
        hard_state = initial_hard_state(recorded, applied=self._applied, log=log)
        self._raw = RawNode(
            core_config(
                member_id=member_id,
                log=log,
                hard_state=hard_state,
                cluster=cluster,
                applied=self._applied,
                random=random,
                settings=self.settings,
            )
        )
        if bootstrap:
            self._raw.bootstrap([(m.id, m.to_context().SerializeToString()) for m in bootstrap])

        self._work = trio.Event()
        self._inbox = Inbox()
        self._responses: deque[Message] = deque()
        self._unreachable: set[int] = set()
        self._fates = SnapshotFates()
        self._append = AppendTask(
            log=log,
            log_start=self._log_start,
            runner=runner,
            recorded=recorded,
            install=self._install,
            deliver=self._deliver,
            room=room,
        )
        self._room = room
        self._apply_queue: deque[Message] = deque()
        self._apply_work = trio.Event()

        self._proposals = Proposals()
        self._progressed = Broadcast()
        self._turned = Broadcast()
        self._reads = Reads(
            member_id=member_id,
            raw=self._raw,
            settings=self.settings,
            random=random,
            progressed=self._progressed,
            wake=self._wake,
        )
        self._seen: tuple[Role, int, int] = (Role.FOLLOWER, 0, 0)
        self._change_index = 0  # of the last membership change proposed here
        self._next_tick = 0.0
        self._ticks = 0
        self._late_logged = float("-inf")
        self._scope: trio.CancelScope | None = None
        self._removed: Removed | None = None
        self._failure: BaseException | None = None

        self.peers = Peers(member_id=member_id, raw=self._raw, settings=self.settings)
        turns = Turns(driver=self, peers=self.peers)
        self.handover = Handover(
            driver=self, raw=self._raw, peers=self.peers, turns=turns, facts=transport.facts
        )
        self.membership = Membership(
            driver=self, raw=self._raw, peers=self.peers, turns=turns, handover=self.handover
        )
        self._go_by_cluster()

    # Running

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> Removed:
        """Run until removed from the cluster; an error of log or machine ends it as that error."""
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                if self._removed is not None:
                    nursery.cancel_scope.cancel()
                for task in (self._loop, self._append.run, self._apply_task):
                    nursery.start_soon(self._guard, task)
                task_status.started()
        finally:
            self._scope = None
            self._withdraw(ProposalLostError("the node stopped"))
        if self._failure is not None:
            raise self._failure
        assert self._removed is not None
        return self._removed

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Keep the first error, so that `run` raises it as itself and not within a group."""
        try:
            await task()
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends the node
            if self._failure is None:
                self._failure = error
            self._stop()

    def _stop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _end_removed(self, told_by: int) -> None:
        if self._removed is None:
            self._removed = Removed(told_by=told_by)
            _log.info("removed from the cluster", told_by=f"{told_by:x}" if told_by else None)
            self._stop()

    def _wake(self) -> None:
        self._work.set()

    async def _loop(self) -> None:
        self._next_tick = trio.current_time() + self.settings.heartbeat_seconds
        while True:
            # What was read from peers comes before the ticks: after a stall, a leader's heartbeat
            # may lie in the inbox beside the tick that would declare it gone.
            self._take_inputs()
            self._tick()
            if self._log_start.note_purge(self._raw.applied):
                self._append.cut()
            while self._raw.has_ready():
                self._observe()  # who acts for the leader has stopped when another one is answered
                self._handle(self._raw.ready())
            self._observe()
            self._turned.notify()
            with trio.move_on_at(self._next_tick):
                await self._work.wait()
            self._work = trio.Event()

    def _take_inputs(self) -> None:
        raw = self._raw
        while self._responses:
            self._step(self._responses.popleft())
        now = trio.current_time()
        for message in self._inbox.take():
            self.peers.heard(message.from_, now)
            if message.type is MessageType.HEARTBEAT and message.commit > raw.last_index:
                # A leader's heartbeat commits at most what it knows to be durable here.
                raise StaleDirectoryError(
                    f"the log here ends at index {raw.last_index}, but the leader knows that this"
                    f" member had everything up to {message.commit}"
                )
            self._step(message)
            if message.type is MessageType.APP:
                self._log_start.heard_commit(message.commit)
            elif message.type is MessageType.APP_RESP and not message.reject:
                self._fates.acknowledged(message.from_, message.index)
                if raw.role is Role.LEADER and message.term == raw.term:
                    self.peers.acknowledged(message.from_, message.term, message.index)
        if self._unreachable:
            for member_id in sorted(self._unreachable):
                raw.report_unreachable(member_id)
                self._fates.lost(member_id)
            self._unreachable.clear()
        for member_id, ok in self._fates.take(now):
            if not ok:
                _log.info("a snapshot was lost on its way", member=f"{member_id:x}")
            raw.report_snapshot(member_id, ok)

    def _step(self, message: Message) -> None:
        try:
            self._raw.step(message)
        except RaftError as error:
            # From a peer of another configuration, or to oneself after a removal: to be ignored.
            _log.debug("message ignored", type=str(message.type), reason=str(error))

    def _tick(self) -> None:
        now = trio.current_time()
        if now < self._next_tick:
            return
        interval = self.settings.heartbeat_seconds
        due = int((now - self._next_tick) / interval) + 1
        self._next_tick += due * interval
        if due > 2 and self._raw.role is Role.LEADER and now >= self._late_logged + LATE_SECONDS:
            self._late_logged = now
            _log.warning("heartbeats are late: the loop is overloaded", ticks_missed=due - 1)
        for _ in range(min(due, max(1, self.settings.election_ticks // CATCH_UP_TICKS_PART))):
            self._raw.tick()
            self.peers.tick()
        self._ticks += 1
        alone = self._cluster.voters == (self.member_id,) and not self._cluster.is_joint
        if self._raw.role is Role.FOLLOWER and alone:
            # There is nobody whose vote to wait for. But a candidate waits for its own disk:
            # to campaign again would begin anew each tick for as long as a sync takes longer.
            self._raw.campaign()
        self._export()
        if self.leadership.is_ready and self._ticks % self.settings.election_ticks == 0:
            self.membership.promote_who_caught_up()

    def _handle(self, ready: Ready) -> None:
        for state in ready.read_states:
            self._reads.answered(state)
        outgoing: list[Message] = []
        for message in ready.messages:
            if message.to == APPEND_THREAD:
                self._append.put(message)
            elif message.to == APPLY_THREAD:
                self._apply_queue.append(message)
                self._apply_work.set()
            else:
                if message.snapshot is not None:
                    self._fates.sent(message.to, message.snapshot.index, trio.current_time())
                    _log.info(
                        "snapshot sent", member=f"{message.to:x}", index=message.snapshot.index
                    )
                outgoing.append(message)
        if outgoing:
            self._transport.send(outgoing)

    def _observe(self) -> None:
        """Act on what the last steps made of role, term and leader."""
        raw = self._raw
        seen = (raw.role, raw.term, raw.leader_id)
        if seen == self._seen:
            return
        (old_role, old_term, old_leader), self._seen = self._seen, seen
        if old_role is Role.LEADER and seen[:2] != (old_role, old_term):
            self._withdraw(ProposalLostError(f"leadership of term {old_term} was lost"))
            self._fates.forget()
        if seen[:2] != (old_role, old_term) and raw.role is Role.LEADER:
            self.peers.begin_leading()
            _log.info("leader", term=raw.term)
        elif raw.leader_id != old_leader:
            known = self._foreseen or self._cluster
            leader = known.get(raw.leader_id)
            name = leader.name if leader is not None else f"{raw.leader_id:x}"
            if raw.leader_id:
                _log.info("following", leader=name, term=raw.term)
            else:
                _log.info("no leader", term=raw.term)
        self._progressed.notify()

    def _withdraw(self, error: ProposalLostError) -> None:
        # The flag first: who is woken by its lost proposal must not take this node for the leader.
        self.leadership.set(0)
        self._proposals.fail_all(error)

    # What the append task does for it, and with what it did

    async def _install(self, snapshot: Snapshot, write: Callable[[], Awaitable[None]]) -> None:
        cluster = await self._log_start.install(snapshot, write, applied=self._applied)
        self._applied = snapshot.index
        self._cluster = cluster
        self._go_by_cluster()
        self._progressed.notify()

    def _deliver(self, responses: Sequence[Message]) -> None:
        outgoing: list[Message] = []
        for message in responses:
            if message.to == self.member_id:
                self._responses.append(message)
            else:
                outgoing.append(message)
        if outgoing:
            self._transport.send(outgoing)
        self._wake()

    # Applying

    async def _apply_task(self) -> None:
        while True:
            await self._apply_work.wait()
            while self._apply_queue:
                if self._room is not None:
                    await self._room.for_state()
                await self._log_start.wait_installed()
                message = self._apply_queue.popleft()
                if message.entries[-1].index > self._applied:
                    self._apply(message.entries)
                # Otherwise a snapshot has overtaken them.
                self._deliver(message.responses)
                await trio.lowlevel.checkpoint()
            self._apply_work = trio.Event()

    def _apply(self, entries: Sequence[Entry]) -> None:
        assert entries[0].index == self._applied + 1, (entries[0].index, self._applied)
        changes: list[tuple[int, ConfChange | ConfChangeV2]] = []
        members: dict[int, record_pb2.Members] = {}
        errors: dict[int, Exception] = {}
        cluster = self._cluster
        for entry in entries:
            if entry.type is EntryType.NORMAL:
                if entry.index == self._change_index:
                    errors[entry.index] = MembershipBusyError("the change was not taken")
                continue
            if entry.index <= cluster.index:
                # The membership came with a snapshot that is newer than this change.
                members[entry.index] = cluster.to_record()
                continue
            change, cluster, refusal = taken(entry, cluster)
            if refusal is not None:
                # Every node refuses it alike: they all have the same membership here.
                _log.warning("membership change refused", index=entry.index, reason=str(refusal))
                errors[entry.index] = refusal
            changes.append((entry.index, change))
            members[entry.index] = cluster.to_record()
        # The machine first: only what is kept in the database may act.
        self._machine.apply(AppliedBatch(entries=entries, members=members))
        self._applied = entries[-1].index
        for index, change in changes:
            self._raw.apply_conf_change(change, index=index)
        if cluster is not self._cluster:
            self._cluster = cluster
            self._log.set_conf_state(cluster.index, conf_state_of(cluster))
            self._go_by_cluster()
        self._proposals.settle(entries, errors=errors)
        self._log_start.note_applied(self._applied)
        raw = self._raw
        self._observe()
        if raw.role is Role.LEADER and entries[-1].term == raw.term:
            self.leadership.set(raw.term)
        self._progressed.notify()

    def _go_by_cluster(self) -> None:
        cluster = self._cluster
        if self._foreseen is not None and self._foreseen.index > cluster.index:
            cluster = self._foreseen
        else:
            self._foreseen = None
        self._transport.set_cluster(cluster)
        if self.member_id in cluster.removed:
            self._end_removed(0)

    # What the transport tells (transport.TransportEvents)

    def receive(self, messages: Sequence[Message]) -> None:
        """Queue messages from a peer; beyond the limit they are dropped, as on a network."""
        for message in messages:
            if message.type is MessageType.SNAP and not self._log_start.can_install(message):
                continue  # its sender hears nothing and sends another one, after a while
            if self._inbox.put(message):
                self.peers.arrived(message.from_)
        self._wake()

    async def wait_room(self) -> None:
        """Wait while the inbox holds too many bytes."""
        await self._inbox.wait_room()

    def report_unreachable(self, member_id: int) -> None:
        """An append to this member was lost."""
        self._unreachable.add(member_id)
        self._wake()

    def report_snapshot(self, member_id: int, *, ok: bool) -> None:
        """Whether a snapshot left this node. That it arrived only its receiver can say."""
        if not ok:
            self._fates.lost(member_id)
            self._wake()

    def removed_by_peer(self, member_id: int) -> None:
        """A member of this cluster says that this one was removed."""
        self._end_removed(member_id)

    # Proposing

    def propose_now(self, data: bytes, checksum: int | None = None) -> Proposal:
        """Append an entry as leader.

        NotLeaderError elsewhere; ProposalDroppedError when too much is uncommitted or leadership
        is being handed over; EntryTooLargeError.
        """
        if len(data) > ENTRY_BYTES_MAX:
            raise EntryTooLargeError(
                f"an entry of {len(data)} bytes; at most {ENTRY_BYTES_MAX} are possible"
            )
        self.check_leader()
        if checksum is None:
            checksum = crc32(data)  # once, here: for the log and for every peer
        try:
            index = self._raw.propose(data, checksum)
        except ProposalDroppedError:
            metrics.RAFT_PROPOSALS_DROPPED.inc()
            raise
        self._wake()
        return self._proposals.add(index=index, term=self._raw.term, data_bytes=len(data))

    async def propose(self, data: bytes, *, checksum: int | None = None) -> Proposal:
        """Append an entry as leader, after waiting while too much is uncommitted.

        Or while leadership is being handed over, until it is, or has failed. Otherwise as
        propose_now.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self.check_leader()
            if self._fits(len(data)) and not self._raw.lead_transferee:
                return self.propose_now(data, checksum)
            await self._turned.wait()

    def _fits(self, size: int) -> bool:
        held = self._raw.uncommitted_size
        return not held or not size or held + size <= self.settings.uncommitted_bytes_max

    # For those who act for the leader (turns.Driver)

    def check_leader(self) -> None:
        """NotLeaderError where this node does not lead, or not any more."""
        raw = self._raw
        if raw.role is not Role.LEADER or self._failure is not None or self._removed is not None:
            leader_id = raw.leader_id
            raise NotLeaderError(leader_id if leader_id != self.member_id else 0)

    def propose_change(self, change: ConfChangeV2) -> Proposal:
        """Append a membership change; `membership` only, which has checked that it may be made."""
        index = self._raw.propose_conf_change(change)
        self._change_index = index
        self._wake()
        return self._proposals.add(index=index, term=self._raw.term, data_bytes=0)

    def begin_transfer(self, member_id: int) -> None:
        """Have the core hand leadership to this voter; `handover` only, which sees to the end."""
        self._raw.transfer_leader(member_id)
        self._wake()

    async def progressed(self) -> None:
        """Until role, term, leader or what is applied have changed."""
        await self._progressed.wait()

    def look_for_room(self) -> None:
        """Have the log look whether the disk has room again, once it is idle."""
        self._append.look_again()

    async def turned(self) -> None:
        """Until the loop has gone round once more."""
        await self._turned.wait()

    # Reading

    @property
    def cluster(self) -> Cluster:
        """The membership as applied here."""
        return self._cluster

    @property
    def applied(self) -> int:
        """The last index applied here."""
        return self._applied

    @property
    def uncommitted_bytes(self) -> int:
        """What was proposed here and is not committed yet."""
        return self._raw.uncommitted_size

    async def wait_applied(self, index: int) -> None:
        """Until that index is applied here."""
        while self._applied < index:
            await self._progressed.wait()

    async def read_index(self) -> int:
        """An index such that whoever has applied it sees all that was acknowledged before.

        A majority confirms it. NoLeaderError when no leader answers within two election timeouts.
        """
        return await self._reads.index()

    def status(self) -> NodeStatus:
        """What this node knows now."""
        raw = self._raw
        leads = raw.role is Role.LEADER
        peers = {}
        for member in self._cluster:
            if member.id == self.member_id:
                continue
            peers[member.id] = PeerStatus(
                progress=raw.progress(member.id) if leads else None,
                facts=self._transport.facts(member.id),
                heard_seconds_ago=self.peers.silent_seconds(member.id),
            )
        return NodeStatus(
            member_id=self.member_id,
            role=self.role,
            term=raw.term,
            leader_id=raw.leader_id,
            committed=raw.committed,
            applied=self._applied,
            first_index=self._log.first_index(),
            last_index=raw.last_index,
            uncommitted_bytes=raw.uncommitted_size,
            peers=peers,
            catch_up=self._log_start.catch_up(self._applied),
        )

    @property
    def role(self) -> str:
        """leader, follower, candidate or learner."""
        # One that joined is told of its configuration with the first entries; it knows before.
        own = self._foreseen.get(self.member_id) if self._foreseen is not None else None
        if self._raw.is_learner or (own is not None and own.learner):
            return "learner"
        match self._raw.role:
            case Role.LEADER:
                return "leader"
            case Role.FOLLOWER:
                return "follower"
            case _:
                return "candidate"

    def _export(self) -> None:
        raw = self._raw
        metrics.RAFT_TERM.set(raw.term)
        metrics.RAFT_IS_LEADER.set(raw.role is Role.LEADER)
        metrics.RAFT_HAS_LEADER.set(bool(raw.leader_id))
        metrics.RAFT_COMMITTED_INDEX.set(raw.committed)
        metrics.RAFT_APPLIED_INDEX.set(self._applied)
        metrics.RAFT_UNCOMMITTED_BYTES.set(raw.uncommitted_size)
