"""The driver: one loop around the Raft core, one task that appends, one that applies.

    inputs (ticks, messages, responses) -> loop -> RawNode -> Ready
    Ready.messages -> peers at once | append queue | apply queue

The core runs with asynchronous storage writes, and that is where the order of things is decided:
a message that depends on the disk hangs on a MsgStorageAppend as a response, and goes only after
the append task has made that write durable; all other messages go at once, so heartbeats leave,
and the leader sends entries, while its own disk is at work. The append task takes everything that
waits into one write. Entries are applied in order, on the loop, membership changes among them; the
machine keeps those in the same database write.

The append task also cuts the log at its beginning, once the machine needs no more what is before
and has made that durable, and it installs a snapshot: mark, log, state (storage/installing.py), all
durable before the answer goes. Meanwhile nothing is applied; what the snapshot has overtaken, a
membership change at or below that of the snapshot too, is never applied.

Time is the event loop's: ticks are due at absolute moments, so a busy loop loses none, but makes
up for only some of a long stall, lest a node that was stopped for a while takes itself for one
that hears no leader. What this module must not know: what the entries mean.
"""

import random as random_module
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol, TypeVar
from zlib import crc32

import trio

from kingbus import metrics
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.errors import (
    JointConfigurationError,
    MembershipError,
    UnhealthyClusterError,
)
from kingbus.membership.member import Member, derive_member_id, normalize_urls
from kingbus.node.broadcast import Broadcast
from kingbus.node.changes import taken, to_conf_change, to_member_change
from kingbus.node.core import conf_state_of, core_config, initial_hard_state
from kingbus.node.errors import (
    EntryTooLargeError,
    LeaderRemovalError,
    MembershipBusyError,
    NoLeaderError,
    NotCaughtUpError,
    NotLeaderError,
    ProposalLostError,
    TransferError,
)
from kingbus.node.fates import SnapshotFates
from kingbus.node.leadership import Leadership
from kingbus.node.machine import AppliedBatch, Log, Runner, Snapshots, StateMachine
from kingbus.node.proposals import Proposal, Proposals
from kingbus.node.status import CatchUp, NodeSettings, NodeStatus, PeerStatus, Removed
from kingbus.node.writes import Gathered, gather
from kingbus.pb import record_pb2
from kingbus.raft.errors import (
    ProposalDroppedError,
    RaftError,
    SnapshotTemporarilyUnavailableError,
)
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
from kingbus.storage.installing import pack_snapshot, unpack_snapshot
from kingbus.storage.log import LogWrite
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

_T = TypeVar("_T")

INBOX_MESSAGES_MAX = 4096
"""As in etcd: what a loop that fell behind finds there is mostly outdated by then."""
INBOX_BYTES_MAX = 32 << 20
"""Appends that wait for the loop: twice what one leader keeps in flight. Beyond, nothing is read
from the append lanes."""
SNAPSHOT_BYTES_MAX = ENTRY_BYTES_MAX
"""As an entry, so that it fits a frame; a set of a million intervals does."""
IDLE_SECONDS = 1.0
"""After this long without a write the log is told, so that it can mark its end as durable."""
LATE_SECONDS = 10.0
"""That heartbeats leave late is said at most this often."""
CATCH_UP_TICKS_PART = 2
"""Of the ticks missed in a stall at most election ticks / this are made up for at once."""
_CONTEXT = struct.Struct(">QQ")


class NodeTransport(Protocol):
    """What the node asks of the transport."""

    def send(self, messages: Sequence[Message]) -> None: ...
    def set_cluster(self, cluster: Cluster) -> None: ...
    def facts(self, member_id: int) -> PeerFacts | None: ...


@dataclass(slots=True)
class _Read:
    answered: trio.Event = field(default_factory=trio.Event)
    index: int = 0


class Node:
    """One member of the cluster; see the module.

    `cluster` is the membership as of what the machine has applied; `bootstrap` are the initial
    members of a new cluster, and only on an empty log; `foreseen` is the membership that a joining
    node was told of, by which it answers the others until it has applied as much. `runner` runs
    a blocking call in a worker thread. Without `snapshots` the log must keep its beginning: none is
    sent and none is taken. RestartError when log and machine do not fit together.
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
    ) -> None:
        self.member_id = member_id
        self.settings = settings or NodeSettings()
        self.leadership = Leadership()
        self._cluster = cluster
        self._foreseen = foreseen
        self._log = log
        self._machine = machine
        self._transport = transport
        self._runner = runner
        self._snapshots = snapshots
        if snapshots is not None:
            log.set_snapshot_source(self._make_snapshot)
        self._applied = machine.applied_index
        recorded, _ = log.initial_state()
        hard_state = initial_hard_state(recorded, applied=self._applied, log=log)
        self._saved = recorded
        self._latest = recorded
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
        self._inbox: deque[Message] = deque()
        self._inbox_bytes = 0
        self._inbox_dropped = 0
        self._room = Broadcast()
        self._responses: deque[Message] = deque()
        self._unreachable: set[int] = set()
        self._fates = SnapshotFates()
        self._truncate_to = 0  # the first entry to keep, while the log still holds more
        self._installing = 0  # the index of the snapshot that is being installed
        self._installed = Broadcast()
        self._began_at = 0  # the index of the snapshot that this node has yet to catch up from
        self._heard_commit = 0
        self._append_queue: deque[Message] = deque()
        self._append_work = trio.Event()
        self._apply_queue: deque[Message] = deque()
        self._apply_work = trio.Event()

        self._proposals = Proposals()
        self._reads: dict[bytes, _Read] = {}
        self._read_number = random.getrandbits(63)  # so that no answer of an earlier life fits
        self._progressed = Broadcast()
        self._turned = Broadcast()
        self._seen: tuple[Role, int, int] = (Role.FOLLOWER, 0, 0)
        self._change_index = 0  # of the last membership change proposed here
        self._heard: dict[int, float] = {}
        self._ever_heard: set[int] = set()
        self._commits: deque[int] = deque(maxlen=self.settings.election_ticks + 1)
        self._next_tick = 0.0
        self._ticks = 0
        self._late_logged = float("-inf")
        self._scope: trio.CancelScope | None = None
        self._removed: Removed | None = None
        self._failure: BaseException | None = None
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
                for task in (self._loop, self._append_task, self._apply_task):
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
            self._note_purge()
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
        if self._inbox:
            inbox, self._inbox = self._inbox, deque()
            self._inbox_bytes = 0
            now = trio.current_time()
            for message in inbox:
                self._heard[message.from_] = now
                self._step(message)
                if message.type is MessageType.APP:
                    self._heard_commit = max(self._heard_commit, message.commit)
                elif message.type is MessageType.APP_RESP and not message.reject:
                    self._fates.acknowledged(message.from_, message.index)
            self._room.notify()
        if self._unreachable:
            for member_id in sorted(self._unreachable):
                raw.report_unreachable(member_id)
                self._fates.lost(member_id)
            self._unreachable.clear()
        for member_id, ok in self._fates.take(trio.current_time()):
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
            self._commits.append(self._raw.committed)
        self._ticks += 1
        alone = self._cluster.voters == (self.member_id,) and not self._cluster.is_joint
        if self._raw.role is Role.FOLLOWER and alone:
            # There is nobody whose vote to wait for. But a candidate waits for its own disk:
            # to campaign again would begin anew each tick for as long as a sync takes longer.
            self._raw.campaign()
        self._export()
        if self.leadership.is_ready and self._ticks % self.settings.election_ticks == 0:
            self._promote_who_caught_up()

    def _handle(self, ready: Ready) -> None:
        for state in ready.read_states:
            read = self._reads.pop(state.context, None)
            if read is not None:
                read.index = state.index
                read.answered.set()
        outgoing: list[Message] = []
        for message in ready.messages:
            if message.to == APPEND_THREAD:
                self._append_queue.append(message)
                self._append_work.set()
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
            self._commits.clear()
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

    # The disk

    async def _append_task(self) -> None:
        while True:
            with trio.move_on_after(IDLE_SECONDS):
                await self._append_work.wait()
            if not self._append_work.is_set():
                await self._write_idle()
                await self._append_work.wait()
            if self._append_queue:
                await self._append()
            else:
                self._append_work = trio.Event()
            if self._truncate_to:
                await self._truncate()

    async def _append(self) -> None:
        gathered = gather(self._append_queue, self._saved)
        if not self._append_queue:
            self._append_work = trio.Event()
        if gathered.hard_state is not None:
            self._latest = gathered.hard_state
        if gathered.snapshot is not None:
            await self._install(gathered.snapshot, gathered)
        elif gathered.needs_write:
            await self._write(self._log_write(gathered))
        else:
            await trio.lowlevel.checkpoint()
        # Durable now: what depends on it may be said.
        self._deliver(gathered.responses)

    def _log_write(self, gathered: Gathered) -> LogWrite:
        return LogWrite(
            entries=gathered.entries,
            hard_state=self._latest,
            snapshot=gathered.snapshot,
            must_sync=True,
        )

    async def _write(self, write: LogWrite) -> None:
        metrics.STORAGE_FSYNC_SECONDS.observe(await self._runner(self._timed_write, write))
        self._log.publish(write)
        if write.hard_state is not None:
            self._saved = write.hard_state

    def _timed_write(self, write: LogWrite) -> float:
        began = time.perf_counter()
        self._log.write(write)
        return time.perf_counter() - began

    async def _write_idle(self) -> None:
        if self._latest != self._saved:
            await self._write(LogWrite(hard_state=self._latest))
        await self._runner(self._log.note_idle)

    # The log's beginning

    def _make_snapshot(self) -> Snapshot:
        """The state at the log's start, with the membership as of now and the index of that."""
        assert self._snapshots is not None
        index, state = self._snapshots.make()
        cluster = self._cluster
        data = pack_snapshot(cluster.to_record(), state)
        if len(data) > SNAPSHOT_BYTES_MAX:
            _log.error("a snapshot is too large to be sent", bytes=len(data))
            raise SnapshotTemporarilyUnavailableError
        return Snapshot(
            index=index,
            term=self._log.term(index),
            conf_state=conf_state_of(cluster),
            data=data,
            conf_index=cluster.index,
        )

    def _note_purge(self) -> None:
        """Have the log cut where the machine needs it no more, at most at what the core applied."""
        if self._snapshots is None or self._installing or self._truncate_to:
            return
        first = self._snapshots.first_index
        if self._log.first_index() < first <= self._raw.applied + 1:
            self._truncate_to = first
            self._append_work.set()

    async def _truncate(self) -> None:
        assert self._snapshots is not None
        first = self._truncate_to
        # First that is durable which says that these entries are not needed.
        await self._snapshots.sync()
        await self._runner(self._log.truncate_before, first)
        self._truncate_to = 0
        _log.info("the log was cut", first_index=first)

    async def _install(self, snapshot: Snapshot, gathered: Gathered) -> None:
        """Replace log and state; each step is durable before the next (storage/installing.py)."""
        assert self._snapshots is not None
        assert snapshot.index > self._applied, (snapshot.index, self._applied)
        began = time.perf_counter()
        _log.info("installing a snapshot", index=snapshot.index, applied=self._applied)
        self._installing = self._began_at = snapshot.index
        members, _ = unpack_snapshot(snapshot)
        await self._snapshots.begin(snapshot)
        await self._write(self._log_write(gathered))
        await self._snapshots.finish(snapshot)
        self._applied = snapshot.index
        self._truncate_to = 0
        self._cluster = Cluster.from_record(members)
        self._go_by_cluster()
        self._installing = 0
        _log.info(
            "snapshot installed",
            index=snapshot.index,
            members_index=self._cluster.index,
            seconds=round(time.perf_counter() - began, 3),
        )
        self._installed.notify()
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
                while self._installing:
                    await self._installed.wait()
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
        if self._began_at and self._applied >= self._heard_commit > self._began_at:
            _log.info("caught up from a snapshot", index=self._began_at, applied=self._applied)
            self._began_at = 0
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
            if message.type is MessageType.SNAP and not self._can_install(message):
                continue  # its sender hears nothing and sends another one, after a while
            if len(self._inbox) >= INBOX_MESSAGES_MAX:
                self._inbox_dropped += 1
                continue
            self._inbox.append(message)
            self._ever_heard.add(message.from_)
            for entry in message.entries:
                self._inbox_bytes += len(entry.data)
            if message.snapshot is not None:
                self._inbox_bytes += len(message.snapshot.data)
        self._wake()

    def _can_install(self, message: Message) -> bool:
        reason = "the log here is never cut"
        if self._snapshots is not None:
            if message.snapshot is None:
                return True  # the core says what is wrong with it
            try:
                self._snapshots.check(message.snapshot)
                return True
            except KingbusError as error:
                reason = str(error)
        _log.error("snapshot ignored", sender=f"{message.from_:x}", reason=reason)
        return False

    async def wait_room(self) -> None:
        """Wait while the inbox holds too many bytes."""
        while self._inbox_bytes > INBOX_BYTES_MAX:
            await self._room.wait()

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
        self._check_leader()
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
            self._check_leader()
            if self._fits(len(data)) and not self._raw.lead_transferee:
                return self.propose_now(data, checksum)
            await self._turned.wait()

    def _fits(self, size: int) -> bool:
        held = self._raw.uncommitted_size
        return not held or not size or held + size <= self.settings.uncommitted_bytes_max

    def _check_leader(self) -> None:
        raw = self._raw
        if raw.role is not Role.LEADER or self._failure is not None or self._removed is not None:
            leader_id = raw.leader_id
            raise NotLeaderError(leader_id if leader_id != self.member_id else 0)

    # Reading

    @property
    def cluster(self) -> Cluster:
        """The membership as applied here."""
        return self._cluster

    members = cluster

    @property
    def applied(self) -> int:
        """The last index applied here."""
        return self._applied

    def has_heard_from(self, member_id: int) -> bool:
        """Whether this member took part in Raft since this node runs."""
        return member_id in self._ever_heard

    async def wait_applied(self, index: int) -> None:
        """Until that index is applied here."""
        while self._applied < index:
            await self._progressed.wait()

    async def read_index(self) -> int:
        """An index such that whoever has applied it sees all that was acknowledged before.

        A majority confirms it. NoLeaderError when no leader answers within two election timeouts.
        """
        retry = self.settings.election_seconds / 2
        with trio.move_on_after(2 * self.settings.election_seconds):
            while True:
                if not self._raw.leader_id:
                    await self._progressed.wait()
                    continue
                self._read_number = (self._read_number + 1) % 2**64
                context = _CONTEXT.pack(self.member_id, self._read_number)
                read = self._reads[context] = _Read()
                try:
                    self._raw.read_index(context)
                    self._wake()
                    # The question or the answer may be lost, or the leader with it: ask again.
                    with trio.move_on_after(retry):
                        await read.answered.wait()
                        return read.index
                finally:
                    self._reads.pop(context, None)
        raise NoLeaderError

    def status(self) -> NodeStatus:
        """What this node knows now."""
        raw = self._raw
        now = trio.current_time()
        leads = raw.role is Role.LEADER
        peers = {}
        for member in self._cluster:
            if member.id == self.member_id:
                continue
            heard = self._heard.get(member.id)
            peers[member.id] = PeerStatus(
                progress=raw.progress(member.id) if leads else None,
                facts=self._transport.facts(member.id),
                heard_seconds_ago=None if heard is None else now - heard,
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
            catch_up=CatchUp(
                installing=bool(self._installing),
                begin=self._began_at,
                applied=self._applied,
                end=self._heard_commit,
            )
            if self._began_at
            else None,
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

    # Membership and leadership, on the leader

    async def change_membership(self, change: ConfChangeV2) -> None:
        """Have a change of one member committed and applied here; errors as those below."""
        wanted = to_member_change(change, self._cluster)
        if wanted is None:
            raise MembershipError("the change names no member")
        await self._change(lambda: wanted)

    async def add_member(
        self,
        name: str,
        peer_urls: Sequence[str],
        admin_urls: Sequence[str] = (),
        *,
        learner: bool = False,
        promote: bool = False,
    ) -> Member:
        """Add a voter; or a learner, which with `promote` becomes a voter once it has caught up.

        Where a single voter would need the new one's vote before it has even started, the new
        one begins as a learner that is promoted. Errors: MembershipError and its kin,
        UnhealthyClusterError, MembershipBusyError, NotLeaderError, ProposalLostError.
        """
        urls = normalize_urls(peer_urls)

        def change() -> MemberChange:
            member = self._newcomer(name, urls, admin_urls)
            if learner:
                member = replace(member, learner=True, promote=promote)
            elif len(self._cluster.voters) == 1:
                member = replace(member, learner=True, promote=True)
            return MemberChange(kind=ChangeKind.ADD, member=member)

        done = await self._change(change)
        return self._cluster.require(done.member.id)

    def _newcomer(self, name: str, urls: Sequence[str], admin_urls: Sequence[str]) -> Member:
        # The index that the change will take is part of the id, so that no id ever comes twice.
        index = self._raw.last_index + 1
        return Member(
            id=derive_member_id(name, urls, index=index),
            name=name,
            peer_urls=tuple(urls),
            admin_urls=normalize_urls(admin_urls),
        )

    async def promote_member(self, member_id: int) -> None:
        """Make a learner a voter; NotCaughtUpError while it is behind, else as add_member."""

        def change() -> MemberChange:
            member = self._cluster.require(member_id)
            change = MemberChange(kind=ChangeKind.PROMOTE, member=member.promoted())
            self._cluster.check(change)
            self._check_caught_up(member)
            return change

        await self._change(change)

    def _check_caught_up(self, member: Member) -> None:
        if not self.has_caught_up(member.id):
            raise NotCaughtUpError(f"{member.name} has not caught up with the leader's log yet")

    async def remove_member(self, member_id: int) -> None:
        """Remove a member; errors as add_member.

        A leader never removes itself: it hands leadership over and raises NotLeaderError with
        the new leader, who is to be asked then; LeaderRemovalError when nobody can take over.
        """
        self._check_leader()
        member = self._cluster.require(member_id)

        def change() -> MemberChange:
            return MemberChange(kind=ChangeKind.REMOVE, member=self._cluster.require(member_id))

        if member_id == self.member_id:
            await self._hand_over_to_be_changed(member, change)
        await self._change(change)

    async def replace_member(
        self,
        member_id: int,
        name: str,
        peer_urls: Sequence[str] = (),
        admin_urls: Sequence[str] = (),
    ) -> Member:
        """Make another member a voter and remove a voter, in one step: both, or neither.

        With peer URLs the other is added, otherwise it is the learner of that name, which must have
        caught up. Returns when the old half of the joint configuration is left, or an election
        timeout later: from the moment that the change is committed, every leader sees to that.
        Errors: as add_member, promote_member and remove_member.
        """
        self._check_leader()
        replaced = self._cluster.require(member_id)
        urls = normalize_urls(peer_urls)

        def change() -> MemberChange:
            by = self._newcomer(name, urls, admin_urls) if urls else self._cluster.find(name)
            change = MemberChange(kind=ChangeKind.REPLACE, member=by.promoted(), replaced=member_id)
            self._cluster.check(change)
            if not urls:
                self._check_caught_up(by)
            return change

        if member_id == self.member_id:
            await self._hand_over_to_be_changed(replaced, change)
        done = await self._change(change)
        with trio.move_on_after(self.settings.election_seconds):
            while replaced.id in self._cluster:
                await self._progressed.wait()
        return self._cluster.require(done.member.id)

    async def _hand_over_to_be_changed(
        self, member: Member, change: Callable[[], MemberChange]
    ) -> NoReturn:
        """Only when the new leader could make the change, so that nothing moves for nothing."""
        await self._when_possible(lambda: self._check_change(change()))
        try:
            leader_id = await self.transfer_leader(None)
        except TransferError as error:
            raise LeaderRemovalError(f"{member.name} leads, and {error}") from error
        raise NotLeaderError(leader_id)

    async def update_member(self, member_id: int, peer_urls: Sequence[str]) -> None:
        """Give a member other peer URLs, where it is dialled as soon as its connections end.

        That is when it is restarted there. Until then it counts as down, and a leader hands over
        first. Errors: as remove_member.
        """
        self._check_leader()
        known = self._cluster.require(member_id)
        member = Member(id=member_id, name=known.name, peer_urls=normalize_urls(peer_urls))

        def change() -> MemberChange:
            return MemberChange(kind=ChangeKind.UPDATE, member=member)

        if member_id == self.member_id and len(self._cluster.voters) > 1:
            await self._hand_over_to_be_changed(known, change)
        await self._change(change)

    async def _change(self, make: Callable[[], MemberChange]) -> MemberChange:
        """Propose the change that `make` gives, once that may be; it is applied here then.

        `make` is asked again after each wait: what it looked at may have changed meanwhile, and so
        has the index that the change will take.
        """

        def attempt() -> tuple[MemberChange, Proposal]:
            change = make()
            return change, self._propose_change(change)

        change, proposal = await self._when_possible(attempt)
        await proposal.applied()
        return change

    async def _when_possible(self, attempt: Callable[[], _T]) -> _T:
        """What `attempt` returns, which is tried again while it is refused for what soon passes.

        For at most two election timeouts, as long as a request waits for a leader. Two things pass
        by themselves: another change or a handover under way, and the ignorance of a new leader,
        which has not heard the others for long enough to judge them.
        """
        with trio.move_on_after(2 * self.settings.election_seconds):
            while True:
                self._check_leader()
                try:
                    return attempt()
                except (MembershipBusyError, JointConfigurationError):
                    pass
                except (UnhealthyClusterError, NotCaughtUpError, TransferError):
                    if len(self._commits) == self._commits.maxlen:
                        raise
                await self._turned.wait()
        self._check_leader()
        return attempt()

    def _check_change(self, change: MemberChange) -> None:
        self._check_leader()
        self._cluster.check(change)
        self._cluster.check_health(change, self._active())
        if not self.leadership.is_ready or self._raw.may_have_pending_change:
            # The core would put an empty entry in its place.
            raise MembershipBusyError("another membership change may be under way")
        if self._raw.lead_transferee:
            raise MembershipBusyError("leadership is being handed over")

    def _propose_change(self, change: MemberChange) -> Proposal:
        self._check_change(change)
        index = self._raw.propose_conf_change(to_conf_change(change))
        self._change_index = index
        self._wake()
        _log.info("membership change proposed", kind=change.kind.value, member=change.member.name)
        return self._proposals.add(index=index, term=self._raw.term, data_bytes=0)

    def _active(self) -> set[int]:
        """The members heard from within an election timeout, and this one."""
        since = trio.current_time() - self.settings.election_seconds
        return {self.member_id} | {who for who, when in self._heard.items() if when >= since}

    def has_caught_up(self, member_id: int) -> bool:
        """Whether a peer has all that was committed an election timeout ago (thesis, 4.2.1)."""
        progress = self._raw.progress(member_id)
        if progress is None or member_id not in self._active():
            return False
        history = self._commits
        return len(history) == history.maxlen and progress.match >= history[0]

    def _promote_who_caught_up(self) -> None:
        for member in self._cluster:
            if not (member.learner and member.promote and self.has_caught_up(member.id)):
                continue
            try:
                self._propose_change(
                    MemberChange(kind=ChangeKind.PROMOTE, member=member.promoted())
                )
            except (MembershipBusyError, MembershipError, ProposalDroppedError) as error:
                _log.debug("promotion postponed", member=member.name, reason=str(error))
            return

    async def transfer_leader(self, member_id: int | None = None) -> int:
        """Hand leadership to a voter, or to the one that is furthest; the new leader's id.

        TransferError when there is none to take it, or it did not within two election timeouts.
        One that is not up is not tried: nothing can be proposed meanwhile.
        """
        self._check_leader()
        if member_id is not None and self._cluster.require(member_id).learner:
            name = self._cluster.require(member_id).name
            raise TransferError(f"{name} is a learner and cannot lead")
        if member_id == self.member_id:
            return member_id
        target = await self._when_possible(
            lambda: self._successor() if member_id is None else self._present(member_id)
        )
        member = self._cluster.require(target)
        self._raw.transfer_leader(target)
        self._wake()
        with trio.move_on_after(2 * self.settings.election_seconds):
            while self._raw.leader_id in {0, self.member_id}:
                await self._progressed.wait()
        leader_id = self._raw.leader_id
        if leader_id in {0, self.member_id} or (member_id is not None and leader_id != target):
            raise TransferError(f"leadership did not move to {member.name}")
        return leader_id

    def _present(self, member_id: int) -> int:
        member = self._cluster.require(member_id)
        if member_id not in self._active():
            raise TransferError(f"{member.name} is not up")
        return member_id

    def _successor(self) -> int:
        active = self._active()
        best: tuple[int, float, int] | None = None
        for member_id in self._cluster.voters:
            progress = self._raw.progress(member_id)
            if member_id == self.member_id or member_id not in active or progress is None:
                continue
            facts = self._transport.facts(member_id)
            since = facts.connected_since if facts is not None else None
            # Furthest first, then longest connected, as swarmkit does.
            rank = (progress.match, -(since if since is not None else float("inf")), member_id)
            if best is None or rank > best:
                best = rank
        if best is None:
            raise TransferError(
                "no other voter is up to take over", hint="Bring another voter up, or add one."
            )
        return best[2]
