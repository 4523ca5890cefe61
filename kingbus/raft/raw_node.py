"""The only door of the core: what a host calls, and the Ready that it gets.

The host's loop, with asynchronous storage writes:

1. `tick()` at a steady pace, `step()` for every message from peers, `propose()` and the others as
   asked for.
2. While `has_ready()`: take `ready()`. Send its messages; those to APPEND_THREAD and APPLY_THREAD
   go to the host's two storage tasks, which take them strictly in order. The append task installs
   the snapshot first, then appends the entries (which replace what it holds from their first index
   on), saves the hard state, and when all that is durable hands on the message's responses: to
   `step()` those for this node, the others to their peers. The apply task applies the entries,
   calls `apply_conf_change()` for every configuration change among them, and then steps the
   responses.

With synchronous writes there are no such messages: save the snapshot, entries and hard state, then
send the messages, then apply the committed entries, then call `advance()`.

`step()` may refuse a response of this node to itself with StepPeerNotFoundError, when it was
removed in the meantime: that is to be ignored.
"""

from collections.abc import Sequence

from kingbus.raft.config import RaftConfig
from kingbus.raft.errors import (
    MalformedMessageError,
    RaftError,
    StepLocalMessageError,
    StepPeerNotFoundError,
)
from kingbus.raft.progress import Progress
from kingbus.raft.raft import Raft
from kingbus.raft.ready import Ready, Role, SoftState
from kingbus.raft.status import BasicStatus, ProgressStatus, Status
from kingbus.raft.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    LOCAL_MESSAGES,
    NONE,
    RESPONSE_MESSAGES,
    STORAGE_THREADS,
    ConfChange,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    entries_size,
)

_VOTES = frozenset(
    (
        MessageType.VOTE,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESP,
    )
)
_WITHOUT_PROGRESS: dict[int, ProgressStatus] = {}


class RawNode:
    """One Raft node without threads, clocks or I/O; see the module for the order of calls."""

    def __init__(self, config: RaftConfig) -> None:
        self._raft = Raft(config)
        self._async = config.async_storage_writes
        self._previous_soft_state = self._raft.soft_state
        self._previous_hard_state = self._raft.hard_state
        self._steps_on_advance: list[Message] = []

    def bootstrap(self, peers: Sequence[tuple[int, bytes]]) -> None:
        """Start an empty log with these members (id, context), by committed AddNode entries.

        Every initial member does the same with the same peers. RaftError when the log has entries.
        """
        raft = self._raft
        if not peers:
            raise RaftError("must provide at least one peer to bootstrap")
        if raft.log.last_index() != 0:
            raise RaftError("can't bootstrap a nonempty log")
        self._previous_hard_state = HardState()  # so that the first Ready carries it
        raft.become_follower(1, NONE)
        changes = [
            ConfChange(ConfChangeType.ADD_NODE, peer, context=context) for peer, context in peers
        ]
        raft.log.append(
            [
                Entry(1, index, EntryType.CONF_CHANGE, change.encode())
                for index, change in enumerate(changes, 1)
            ]
        )
        raft.log.commit_to(len(changes))
        # Active at once, so that the first election need not wait for the host to apply them; it
        # does that all the same, to no further effect.
        for change in changes:
            raft.apply_conf_change(change.as_v2(), 0)

    # What the host tells

    def tick(self) -> None:
        """Let one tick pass."""
        self._raft.tick()

    def step(self, message: Message) -> None:
        """Take a message from a peer or from a storage task.

        StepLocalMessageError, StepPeerNotFoundError, MalformedMessageError, ProposalDroppedError
        (a forwarded proposal).
        """
        kind = message.type
        if message.from_ not in STORAGE_THREADS:
            if kind in LOCAL_MESSAGES:
                raise StepLocalMessageError
            if kind in RESPONSE_MESSAGES and message.from_ not in self._raft.progress:
                raise StepPeerNotFoundError
            if kind in _VOTES and message.term == 0:
                raise MalformedMessageError(f"{kind} from {message.from_:x} has no term")
            if kind is MessageType.PROP and not message.entries:
                raise MalformedMessageError(f"{kind} from {message.from_:x} has no entries")
        self._raft.step(message)

    def campaign(self) -> None:
        """Start an election."""
        self._raft.step(Message(MessageType.HUP, from_=self._raft.id))

    def propose(self, data: bytes | Entry, checksum: int | None = None) -> int:
        """Propose one entry; the index it was appended at, or 0 when it was forwarded.

        ProposalDroppedError when it was not taken. An Entry gives its type, data and checksum.
        """
        entry = data if isinstance(data, Entry) else Entry(0, 0, EntryType.NORMAL, data, checksum)
        return self._propose(entry, self._raft.id)

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> int:
        """Propose a configuration change; otherwise as propose.

        A change that may not be made now leaves an empty normal entry in its place.
        """
        return self._propose(Entry(0, 0, change.entry_type, change.encode()), NONE)

    def _propose(self, entry: Entry, from_: int) -> int:
        leads = self._raft.role is Role.LEADER
        self._raft.step(Message(MessageType.PROP, from_=from_, entries=[entry]))
        return self._raft.log.last_index() if leads else 0

    def apply_conf_change(self, change: ConfChange | ConfChangeV2, *, index: int = 0) -> ConfState:
        """Make a committed change active; the configuration afterwards.

        With the index of its entry a change is ignored that is not above the index which the
        present configuration came from. ConfChangeError when it cannot be applied, which only
        a change proposed without validation can bring about.
        """
        return self._raft.apply_conf_change(change.as_v2(), index)

    def transfer_leader(self, transferee: int) -> None:
        """Ask that this member becomes leader; tried for one election timeout."""
        self._raft.step(Message(MessageType.TRANSFER_LEADER, from_=transferee))

    def forget_leader(self) -> None:
        """A follower forgets its leader, so that it may vote at once."""
        self._raft.step(Message(MessageType.FORGET_LEADER))

    def read_index(self, context: bytes) -> None:
        """Ask for a read index; the answer is a ReadState with this context in a later Ready.

        Without a leader, and when the leader changes, there is no answer: ask again.
        """
        self._raft.step(Message(MessageType.READ_INDEX, context=context))

    def report_unreachable(self, peer: int) -> None:
        """The last message to the peer did not leave."""
        self._raft.step(Message(MessageType.UNREACHABLE, from_=peer))

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """A snapshot sent to the peer arrived, or did not; to be called for every one sent."""
        self._raft.step(Message(MessageType.SNAP_STATUS, from_=peer, reject=not ok))

    # What the host is to do

    def has_ready(self) -> bool:
        """True when ready() would give something to do."""
        raft = self._raft
        unstable = raft.log.unstable
        return bool(
            raft.messages
            or raft.messages_after_append
            or unstable.has_next_entries
            or raft.log.has_next_committed(allow_unstable=not self._async)
            or self._hard_state_changed() is not None
            or unstable.next_snapshot() is not None
            or raft.read_states
            or self._soft_state_changed() is not None
        )

    def _soft_state_changed(self) -> SoftState | None:
        raft, previous = self._raft, self._previous_soft_state
        if raft.leader_id == previous.leader_id and raft.role is previous.role:
            return None
        return raft.soft_state

    def _hard_state_changed(self) -> HardState | None:
        raft, previous = self._raft, self._previous_hard_state
        if (
            raft.log.committed == previous.commit
            and raft.term == previous.term
            and raft.vote == previous.vote
        ):
            return None
        return raft.hard_state

    def ready(self) -> Ready:
        """Everything that is to be done now; the core takes it for under way."""
        raft, log = self._raft, self._raft.log
        assert not self._steps_on_advance, "two Readys without advance() between them"
        soft_state = self._soft_state_changed()
        hard_state = self._hard_state_changed()
        ready = Ready(
            soft_state=soft_state,
            hard_state=hard_state,
            read_states=raft.read_states,
            entries=log.unstable.next_entries(),
            snapshot=log.unstable.next_snapshot(),
            committed_entries=log.next_committed(allow_unstable=not self._async),
            messages=raft.messages,
        )
        ready.must_sync = bool(ready.entries) or (
            hard_state is not None
            and (
                hard_state.term != self._previous_hard_state.term
                or hard_state.vote != self._previous_hard_state.vote
            )
        )
        if self._async:
            self._add_storage_messages(ready)
        else:
            self._keep_steps_for_advance(ready)
        if soft_state is not None:
            self._previous_soft_state = soft_state
        if hard_state is not None:
            self._previous_hard_state = hard_state
        raft.messages, raft.messages_after_append, raft.read_states = [], [], []
        log.unstable.accept_in_progress()
        if ready.committed_entries:
            log.accept_applying(
                ready.committed_entries[-1].index,
                entries_size(ready.committed_entries),
                allow_unstable=not self._async,
            )
        return ready

    def _keep_steps_for_advance(self, ready: Ready) -> None:
        raft = self._raft
        for message in raft.messages_after_append:
            if message.to == raft.id:
                self._steps_on_advance.append(message)
            else:
                ready.messages.append(message)
        if raft.log.unstable.entries or ready.snapshot is not None:
            self._steps_on_advance.append(self._append_response(ready.snapshot))
        if ready.committed_entries:
            self._steps_on_advance.append(self._apply_response(ready.committed_entries))

    def _add_storage_messages(self, ready: Ready) -> None:
        raft = self._raft
        # The hard state may be only a new commit index: it goes along, without a sync by itself.
        if (
            ready.entries
            or ready.hard_state is not None
            or ready.snapshot is not None
            or raft.messages_after_append
        ):
            hard_state = ready.hard_state or HardState()
            responses = raft.messages_after_append
            if raft.log.unstable.entries or ready.snapshot is not None:
                responses.append(self._append_response(ready.snapshot))
            ready.messages.append(
                Message(
                    MessageType.STORAGE_APPEND,
                    to=APPEND_THREAD,
                    from_=raft.id,
                    term=hard_state.term,
                    vote=hard_state.vote,
                    commit=hard_state.commit,
                    entries=ready.entries,
                    snapshot=ready.snapshot,
                    responses=responses,
                )
            )
        if ready.committed_entries:
            ready.messages.append(
                Message(
                    MessageType.STORAGE_APPLY,
                    to=APPLY_THREAD,
                    from_=raft.id,
                    entries=ready.committed_entries,
                    responses=[self._apply_response(ready.committed_entries)],
                )
            )

    def _append_response(self, snapshot: Snapshot | None) -> Message:
        """What tells the core that its log is durable up to where it ends now.

        It carries the current term: when the term has risen until it arrives, the entries may have
        been replaced by others of the same index (and, over two more terms, even by themselves), so
        that it must not count. Each later write sends another one for all that is unstable.
        """
        raft = self._raft
        response = Message(
            MessageType.STORAGE_APPEND_RESP,
            to=raft.id,
            from_=APPEND_THREAD,
            term=raft.term,
            snapshot=snapshot,
        )
        if raft.log.unstable.entries:
            response.log_term, response.index = raft.log.last_entry_id()
        return response

    def _apply_response(self, entries: list[Entry]) -> Message:
        return Message(
            MessageType.STORAGE_APPLY_RESP, to=self._raft.id, from_=APPLY_THREAD, entries=entries
        )

    def advance(self) -> None:
        """Synchronous storage writes only: the last Ready is done."""
        assert not self._async, "advance() is not for asynchronous storage writes"
        steps, self._steps_on_advance = self._steps_on_advance, []
        for message in steps:
            self._raft.step(message)

    # What the host may ask

    def status(self) -> Status:
        """The whole status, copied."""
        raft = self._raft
        basic = self.basic_status()
        progress = _WITHOUT_PROGRESS
        if raft.role is Role.LEADER:
            progress = {peer: _progress_status(seen) for peer, seen in raft.progress.items()}
        return Status(
            id=basic.id,
            leader_id=basic.leader_id,
            role=basic.role,
            is_learner=basic.is_learner,
            hard_state=basic.hard_state,
            applied=basic.applied,
            last_index=basic.last_index,
            lead_transferee=basic.lead_transferee,
            conf_state=raft.configuration.conf_state,
            progress=progress,
        )

    def basic_status(self) -> BasicStatus:
        """The cheap part of the status."""
        raft = self._raft
        return BasicStatus(
            id=raft.id,
            leader_id=raft.leader_id,
            role=raft.role,
            is_learner=raft.is_learner,
            hard_state=raft.hard_state,
            applied=raft.log.applied,
            last_index=raft.log.last_index(),
            lead_transferee=raft.lead_transferee,
        )

    def progress(self, peer: int) -> ProgressStatus | None:
        """How far a peer has come, None outside the configuration; only a leader knows."""
        progress = self._raft.progress.get(peer)
        return None if progress is None else _progress_status(progress)

    @property
    def id(self) -> int:
        """The id of this node."""
        return self._raft.id

    @property
    def term(self) -> int:
        """The current term."""
        return self._raft.term

    @property
    def leader_id(self) -> int:
        """The leader as known here, 0 for none."""
        return self._raft.leader_id

    @property
    def role(self) -> Role:
        """What this node is."""
        return self._raft.role

    @property
    def is_learner(self) -> bool:
        """True when this node is a learner."""
        return self._raft.is_learner

    @property
    def committed(self) -> int:
        """The highest index known to be committed."""
        return self._raft.log.committed

    @property
    def applied(self) -> int:
        """The highest index that the host said to have applied."""
        return self._raft.log.applied

    @property
    def last_index(self) -> int:
        """The highest index in the log, durable or not."""
        return self._raft.log.last_index()

    @property
    def uncommitted_size(self) -> int:
        """Payload bytes that this leader proposed and did not see applied yet."""
        return self._raft.uncommitted_size

    @property
    def may_have_pending_change(self) -> bool:
        """On a leader: whether a configuration change proposed now would be put aside.

        It would while an earlier one, of this leader or of one before it, may not be applied yet.
        """
        return self._raft.pending_conf_index > self._raft.log.applied

    @property
    def lead_transferee(self) -> int:
        """Whom this leader is handing leadership to, 0 for nobody."""
        return self._raft.lead_transferee

    @property
    def conf_state(self) -> ConfState:
        """The present configuration."""
        return self._raft.configuration.conf_state

    @property
    def conf_index(self) -> int:
        """The index that the present configuration came from."""
        return self._raft.conf_index


def _progress_status(progress: Progress) -> ProgressStatus:
    return ProgressStatus(
        match=progress.match,
        next=progress.next,
        state=str(progress.state),
        is_learner=progress.is_learner,
        is_paused=progress.is_paused,
        recent_active=progress.recent_active,
        pending_snapshot=progress.pending_snapshot,
        inflight_messages=progress.inflights.count,
        inflight_bytes=progress.inflights.bytes,
    )
