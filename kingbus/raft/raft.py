"""The transition function of one node: what a tick or a message does to its state.

Nothing here waits, reads a clock or talks to anybody: messages to send gather in two lists. Those
in `messages_after_append` promise something (a vote, an acknowledged entry) and may leave only when
everything that was handed out before them is durable; the others may leave at once.

Follows "In Search of an Understandable Consensus Algorithm" (the paper) and "Consensus: Bridging
Theory and Practice" (the thesis), with the extensions of etcd's Raft: pre-vote and check-quorum
with a lease, flow control in messages and bytes, joint configurations that become active when they
are applied. Log lines keep the words and notation (ids in hexadecimal) of etcd's.

It differs from etcd's where that is safer: a lone voter too answers reads only after the first
commit of its term, and a leader that was removed asks the voters even if there is but one; a change
that could not be applied is not proposed; a refused proposal leaves no pending change behind;
waiting reads end with the leadership; a configuration may be newer than the snapshot that brings it
(see `Snapshot`); a message that contradicts itself is refused with an error.
"""

from collections.abc import Callable
from dataclasses import replace

from kingbus.raft import confchange
from kingbus.raft.config import RaftConfig, ReadOnlyOption
from kingbus.raft.describe import describe_conf_change
from kingbus.raft.errors import (
    CompactedError,
    ConfChangeError,
    DecodeError,
    MalformedMessageError,
    ProposalDroppedError,
    SnapshotTemporarilyUnavailableError,
    UnavailableError,
)
from kingbus.raft.inflights import Inflights
from kingbus.raft.log import RaftLog
from kingbus.raft.progress import Progress, ProgressState
from kingbus.raft.quorum import VoteResult
from kingbus.raft.read_only import PENDING_MAX, PendingRead, ReadOnly
from kingbus.raft.ready import ReadState, Role, SoftState
from kingbus.raft.types import (
    NONE,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    decode_conf_change,
    entries_size,
    payloads_size,
)

CAMPAIGN_TRANSFER = b"CampaignTransfer"
"""The context of a vote request that a leadership transfer made: it overrides the lease."""

_VOTE_REQUESTS = frozenset((MessageType.VOTE, MessageType.PRE_VOTE))
_VOTES = _VOTE_REQUESTS | {MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP}
_AFTER_APPEND = frozenset((MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP))
_FROM_LEADER = frozenset((MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP))
_WITHOUT_TERM = frozenset((MessageType.PROP, MessageType.READ_INDEX))
_VOTE_RESPONSE = {
    MessageType.VOTE: MessageType.VOTE_RESP,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESP,
}
_Handler = Callable[[Message], None]


class Raft:
    """One node. RawNode is the door for hosts; everything here is for the package alone."""

    def __init__(self, config: RaftConfig) -> None:
        hard_state, conf_state = config.storage.initial_state()
        self.config = config
        self.id = config.id
        self.logger = config.logger
        self.log = RaftLog(
            config.storage,
            config.logger,
            max_applying_size=config.max_committed_size_per_ready,
        )
        self.term = 0
        self.vote = NONE
        self.leader_id = NONE
        self.role = Role.FOLLOWER
        self.is_learner = False
        self.configuration = confchange.Configuration()
        self.progress: dict[int, Progress] = {}
        """By ascending id, in which order peers are always visited."""
        self.votes: dict[int, bool] = {}
        self.lead_transferee = NONE
        self.pending_conf_index = 0
        """No configuration change above this index is in the leader's log; one may be at it."""
        self.conf_index = 0
        """The index that the configuration came from."""
        self.uncommitted_size = 0
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = config.election_tick
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        self.read_states: list[ReadState] = []
        self.read_only = ReadOnly()
        self.reads_before_commit: list[Message] = []
        """Reads that wait for the first commit of the leader's term."""
        self._handlers = self._make_handlers()

        self.switch_to_configuration(*self._restored(conf_state))
        if not hard_state.is_empty:
            assert self.log.committed <= hard_state.commit <= self.log.last_index(), (
                f"hard state commit {hard_state.commit} is not in the log, which has "
                f"{self.log.committed} to {self.log.last_index()}"
            )
            self.log.commit_to(hard_state.commit)
            self.term = hard_state.term
            self.vote = hard_state.vote
        if config.applied > 0:
            self.log.applied_to(config.applied, 0)
        self.conf_index = max(config.conf_index, self.log.applied)
        self.become_follower(self.term, NONE)
        last_term, last_index = self.log.last_entry_id()
        self.logger.info(
            "newRaft %x [peers: [%s], term: %d, commit: %d, applied: %d, lastindex: %d, "
            "lastterm: %d]",
            self.id,
            ",".join(f"{voter:x}" for voter in sorted(self.configuration.voters.ids)),
            self.term,
            self.log.committed,
            self.log.applied,
            last_index,
            last_term,
        )

    # State that the host sees

    @property
    def hard_state(self) -> HardState:
        """What must be durable."""
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def soft_state(self) -> SoftState:
        """What need not be."""
        return SoftState(self.leader_id, self.role)

    @property
    def is_promotable(self) -> bool:
        """True when this node may become leader: a voter that is not installing a snapshot."""
        own = self.progress.get(self.id)
        return own is not None and not own.is_learner and self.log.unstable.snapshot is None

    # Sending

    def _send(self, message: Message) -> None:
        """Queue a message; fills in the sender, and the term where the type has one by itself."""
        if message.from_ == NONE:
            message.from_ = self.id
        kind = message.type
        if kind in _VOTES:
            # Their term is the one that is voted about, which need not be the node's own.
            assert message.term != 0, f"term must be set when sending {kind}"
        else:
            assert message.term == 0, f"term must not be set when sending {kind}"
            if kind not in _WITHOUT_TERM:
                message.term = self.term
        if kind in _AFTER_APPEND:
            self.messages_after_append.append(message)
        else:
            assert message.to != self.id, f"{kind} to itself"
            self.messages.append(message)

    def _forward_to_leader(self, message: Message) -> None:
        self._send(replace(message, to=self.leader_id, term=0))

    def send_append(self, to: int) -> None:
        """Send an append, empty if there is nothing new: it carries the commit index."""
        self.maybe_send_append(to, send_if_empty=True)

    def maybe_send_append(self, to: int, *, send_if_empty: bool) -> bool:
        """Send what the peer's progress allows: entries, a snapshot, or nothing (False)."""
        progress = self.progress[to]
        if progress.is_paused:
            return False
        previous = progress.next - 1
        try:
            previous_term = self.log.term(previous)
            # With a full window an empty append still goes out, where asked for: should all
            # messages of the window have been lost, its rejection makes the leader probe anew.
            if progress.state is not ProgressState.REPLICATE or not progress.inflights.is_full:
                entries = self.log.entries(progress.next, self.config.max_size_per_msg)
            else:
                entries = []
        except (CompactedError, UnavailableError):
            return self._maybe_send_snapshot(to, progress)
        if not entries and not send_if_empty:
            return False
        self._send(
            Message(
                MessageType.APP,
                to,
                index=previous,
                log_term=previous_term,
                entries=entries,
                commit=self.log.committed,
            )
        )
        progress.note_sent_entries(len(entries), payloads_size(entries))
        progress.note_sent_commit(self.log.committed)
        return True

    def _maybe_send_snapshot(self, to: int, progress: Progress) -> bool:
        if not progress.recent_active:
            self.logger.debug("ignore sending snapshot to %x since it is not recently active", to)
            return False
        try:
            snapshot = self.log.snapshot()
        except SnapshotTemporarilyUnavailableError:
            self.logger.debug(
                "%x failed to send snapshot to %x because snapshot is temporarily unavailable",
                self.id,
                to,
            )
            return False
        assert not snapshot.is_empty, "the storage needs a snapshot for what it compacted"
        self.logger.debug(
            "%x [firstindex: %d, commit: %d] sent snapshot[index: %d, term: %d] to %x [%s]",
            self.id,
            self.log.first_index(),
            self.log.committed,
            snapshot.index,
            snapshot.term,
            to,
            progress,
        )
        progress.become_snapshot(snapshot.index)
        self.logger.debug(
            "%x paused sending replication messages to %x [%s]", self.id, to, progress
        )
        self._send(Message(MessageType.SNAP, to, snapshot=snapshot))
        return True

    def broadcast_append(self) -> None:
        """Send an append to every peer."""
        for peer in self.progress:
            if peer != self.id:
                self.send_append(peer)

    def broadcast_heartbeat(self) -> None:
        """Send a heartbeat to every peer; it also asks for proof for the waiting reads."""
        context = self.read_only.heartbeat_context
        for peer, progress in self.progress.items():
            if peer == self.id:
                continue
            # A follower must not learn of commits beyond what its log surely shares.
            commit = min(progress.match, self.log.committed)
            self._send(Message(MessageType.HEARTBEAT, peer, commit=commit, context=context))
            progress.note_sent_commit(commit)

    def _send_timeout_now(self, to: int) -> None:
        self._send(Message(MessageType.TIMEOUT_NOW, to))

    # Changing roles

    def _reset(self, term: int) -> None:
        assert term >= self.term, f"term would fall from {self.term} to {term}"
        if term != self.term:
            self.term = term
            self.vote = NONE
        self.leader_id = NONE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = self.config.election_tick + self.config.random.randrange(
            self.config.election_tick
        )
        self.lead_transferee = NONE
        self.votes = {}
        self.pending_conf_index = 0
        self.uncommitted_size = 0
        self.read_only = ReadOnly()
        self.reads_before_commit = []
        last_index = self.log.last_index()
        for peer, progress in self.progress.items():
            self.progress[peer] = Progress(
                match=last_index if peer == self.id else 0,
                next=last_index + 1,
                inflights=Inflights(self.config.max_inflight_msgs, self.config.max_inflight_bytes),
                is_learner=progress.is_learner,
            )

    def become_follower(self, term: int, leader_id: int) -> None:
        """Follow `leader_id` (0: nobody yet) in `term`."""
        self._reset(term)
        self.leader_id = leader_id
        self.role = Role.FOLLOWER
        self.logger.info("%x became follower at term %d", self.id, self.term)

    def _become_candidate(self) -> None:
        assert self.role is not Role.LEADER, "a leader does not campaign"
        self._reset(self.term + 1)
        self._cast_vote(self.id)
        self.role = Role.CANDIDATE
        self.logger.info("%x became candidate at term %d", self.id, self.term)

    def _become_pre_candidate(self) -> None:
        assert self.role is not Role.LEADER, "a leader does not campaign"
        # Term and vote stay: asking changes nothing.
        self.votes = {}
        self.leader_id = NONE
        self.role = Role.PRE_CANDIDATE
        self.logger.info("%x became pre-candidate at term %d", self.id, self.term)

    def _become_leader(self) -> None:
        assert self.role is not Role.FOLLOWER, "a follower becomes candidate first"
        self._reset(self.term)
        self.leader_id = self.id
        self.role = Role.LEADER
        own = self.progress[self.id]
        own.become_replicate()
        own.recent_active = True
        # A change among the entries taken over may be uncommitted: none is proposed before all of
        # them are applied. Looking for it would cost more than this caution.
        self.pending_conf_index = self.log.last_index()
        # Entries of older terms are committed only together with one of this term (paper, 5.4.2).
        appended = self._append_proposal([Entry(0, 0)])
        assert appended, "the empty entry of a new leader is never refused"
        self.logger.info("%x became leader at term %d", self.id, self.term)

    def _cast_vote(self, candidate: int) -> None:
        assert self.vote in {NONE, candidate}, (
            f"vote in term {self.term} is given to {self.vote:x}, not to be given to {candidate:x}"
        )
        self.vote = candidate

    # Time

    def tick(self) -> None:
        """Let one tick pass."""
        if self.role is Role.LEADER:
            self._tick_heartbeat()
        else:
            self._tick_election()

    def _tick_election(self) -> None:
        self.election_elapsed += 1
        if self.is_promotable and self.election_elapsed >= self.randomized_election_timeout:
            self.election_elapsed = 0
            self.step(Message(MessageType.HUP, from_=self.id))

    def _tick_heartbeat(self) -> None:
        self.heartbeat_elapsed += 1
        self.election_elapsed += 1
        if self.election_elapsed >= self.config.election_tick:
            self.election_elapsed = 0
            if self.config.check_quorum:
                self.step(Message(MessageType.CHECK_QUORUM, from_=self.id))
            # The transferee did not make it: go on leading.
            self.lead_transferee = NONE
        if self.role is Role.LEADER and self.heartbeat_elapsed >= self.config.heartbeat_tick:
            self.heartbeat_elapsed = 0
            self.step(Message(MessageType.BEAT, from_=self.id))

    # Messages: the term first, then the type

    def step(self, message: Message) -> None:
        """Take one message. ProposalDroppedError, MalformedMessageError."""
        if message.term > self.term:
            if not self._take_higher_term(message):
                return
        elif 0 < message.term < self.term:
            self._answer_lower_term(message)
            return
        kind = message.type
        if kind in _VOTE_REQUESTS:
            self._handle_vote_request(message)
        elif kind is MessageType.HUP:
            self._hup(pre_vote=self.config.pre_vote)
        elif kind is MessageType.STORAGE_APPEND_RESP:
            if message.index != 0:
                self.log.unstable.stable_to(message.log_term, message.index)
            if message.snapshot is not None:
                self._applied_snapshot(message.snapshot)
        elif kind is MessageType.STORAGE_APPLY_RESP:
            if message.entries:
                self._applied_to(message.entries[-1].index, entries_size(message.entries))
                self._reduce_uncommitted_size(payloads_size(message.entries))
        else:
            handler = self._handlers[self.role].get(kind)
            if handler is not None:
                handler(message)

    def _take_higher_term(self, message: Message) -> bool:
        """False when the message is ignored."""
        kind = message.type
        if kind in _VOTE_REQUESTS:
            forced = message.context == CAMPAIGN_TRANSFER
            in_lease = (
                self.config.check_quorum
                and self.leader_id != NONE
                and self.election_elapsed < self.config.election_tick
            )
            if in_lease and not forced:
                # A live leader must not be disturbed by a member that cannot hear it (thesis,
                # 4.2.3).
                last_term, last_index = self.log.last_entry_id()
                self.logger.info(
                    "%x [logterm: %d, index: %d, vote: %x] ignored %s from %x "
                    "[logterm: %d, index: %d] at term %d: "
                    "lease is not expired (remaining ticks: %d)",
                    self.id,
                    last_term,
                    last_index,
                    self.vote,
                    kind,
                    message.from_,
                    message.log_term,
                    message.index,
                    self.term,
                    self.config.election_tick - self.election_elapsed,
                )
                return False
        if kind is MessageType.PRE_VOTE:
            return True  # it asks about a term that nobody has begun
        if kind is MessageType.PRE_VOTE_RESP and not message.reject:
            return True  # granted for the term that was asked about: that is begun when all agree
        self.logger.info(
            "%x [term: %d] received a %s message with higher term from %x [term: %d]",
            self.id,
            self.term,
            kind,
            message.from_,
            message.term,
        )
        leader_id = message.from_ if kind in _FROM_LEADER else NONE
        self.become_follower(message.term, leader_id)
        return True

    def _answer_lower_term(self, message: Message) -> None:
        kind = message.type
        if (self.config.check_quorum or self.config.pre_vote) and kind in {
            MessageType.HEARTBEAT,
            MessageType.APP,
        }:
            # A member with a higher term may be unable to win an election, and with the lease or
            # pre-vote nobody takes over its term otherwise: tell the leader, so that it does.
            self._send(Message(MessageType.APP_RESP, message.from_))
        elif kind is MessageType.PRE_VOTE:
            # Answered, lest two members with pre-vote of different terms wait for each other.
            self._log_vote("rejected", message)
            self._send(
                Message(MessageType.PRE_VOTE_RESP, message.from_, term=self.term, reject=True)
            )
        elif kind is MessageType.STORAGE_APPEND_RESP:
            if message.index != 0:
                # The entries may have been overwritten since, in storage as well: another report
                # follows. A snapshot is committed in any term.
                self.logger.info(
                    "%x [term: %d] ignored entry appends from a %s message with lower term "
                    "[term: %d]",
                    self.id,
                    self.term,
                    kind,
                    message.term,
                )
            if message.snapshot is not None:
                self._applied_snapshot(message.snapshot)
        else:
            self.logger.info(
                "%x [term: %d] ignored a %s message with lower term from %x [term: %d]",
                self.id,
                self.term,
                kind,
                message.from_,
                message.term,
            )

    # Elections

    def _hup(self, *, pre_vote: bool, transfer: bool = False) -> None:
        if self.role is Role.LEADER:
            self.logger.debug("%x ignoring MsgHup because already leader", self.id)
            return
        if not self.is_promotable:
            self.logger.warning("%x is unpromotable and can not campaign", self.id)
            return
        if self.log.has_unapplied_conf_change():
            self.logger.warning(
                "%x cannot campaign at term %d since there are still pending configuration "
                "changes to apply",
                self.id,
                self.term,
            )
            return
        self.logger.info("%x is starting a new election at term %d", self.id, self.term)
        self._campaign(pre_vote=pre_vote, transfer=transfer)

    def _campaign(self, *, pre_vote: bool, transfer: bool = False) -> None:
        if pre_vote:
            self._become_pre_candidate()
            kind, term = MessageType.PRE_VOTE, self.term + 1
        else:
            self._become_candidate()
            kind, term = MessageType.VOTE, self.term
        last_term, last_index = self.log.last_entry_id()
        for voter in sorted(self.configuration.voters.ids):
            if voter == self.id:
                # The own vote counts when it is durable, as everybody else's.
                self._send(Message(_VOTE_RESPONSE[kind], voter, term=term))
                continue
            self.logger.info(
                "%x [logterm: %d, index: %d] sent %s request to %x at term %d",
                self.id,
                last_term,
                last_index,
                kind,
                voter,
                self.term,
            )
            self._send(
                Message(
                    kind,
                    voter,
                    term=term,
                    index=last_index,
                    log_term=last_term,
                    context=CAMPAIGN_TRANSFER if transfer else b"",
                )
            )

    def _handle_vote_request(self, message: Message) -> None:
        kind = message.type
        may_vote = (
            self.vote == message.from_  # the same answer again
            or (self.vote == NONE and self.leader_id == NONE)
            or (kind is MessageType.PRE_VOTE and message.term > self.term)
        )
        if may_vote and self.log.is_up_to_date(message.log_term, message.index):
            # Learners vote too: that this node is one may be news that it has not applied yet.
            self._log_vote("cast", message)
            # With the term of the request: a pre-vote is granted for a term that is not begun.
            self._send(Message(_VOTE_RESPONSE[kind], message.from_, term=message.term))
            if kind is MessageType.VOTE:
                self.election_elapsed = 0
                self._cast_vote(message.from_)
        else:
            self._log_vote("rejected", message)
            self._send(Message(_VOTE_RESPONSE[kind], message.from_, term=self.term, reject=True))

    def _log_vote(self, verb: str, message: Message) -> None:
        last_term, last_index = self.log.last_entry_id()
        self.logger.info(
            "%x [logterm: %d, index: %d, vote: %x] %s %s %s %x [logterm: %d, index: %d] at term %d",
            self.id,
            last_term,
            last_index,
            self.vote,
            verb,
            message.type,
            "for" if verb == "cast" else "from",
            message.from_,
            message.log_term,
            message.index,
            self.term,
        )

    def _count_votes(self) -> tuple[int, int, VoteResult]:
        """(granted, rejected, how the vote stands), of those who are voters now."""
        voters = [
            granted
            for voter, granted in self.votes.items()
            if voter in self.progress and not self.progress[voter].is_learner
        ]
        granted = sum(voters)
        return granted, len(voters) - granted, self.configuration.voters.vote_result(self.votes)

    def _candidate_vote_response(self, message: Message) -> None:
        pre_vote = self.role is Role.PRE_CANDIDATE
        if pre_vote != (message.type is MessageType.PRE_VOTE_RESP):
            return  # an answer to the other kind of campaign
        self.logger.info(
            "%x received %s%s from %x at term %d",
            self.id,
            message.type,
            " rejection" if message.reject else "",
            message.from_,
            self.term,
        )
        self.votes.setdefault(message.from_, not message.reject)
        granted, rejected, result = self._count_votes()
        self.logger.info(
            "%x has received %d %s votes and %d vote rejections",
            self.id,
            granted,
            message.type,
            rejected,
        )
        if result is VoteResult.WON:
            if pre_vote:
                self._campaign(pre_vote=False)
            else:
                self._become_leader()
                self.broadcast_append()
        elif result is VoteResult.LOST:
            # A pre-vote answer for the next term does not make that term begin.
            self.become_follower(self.term, NONE)

    # Any but the leader

    def _follow_append(self, message: Message) -> None:
        self._follow(message)
        self._handle_append(message)

    def _follow_heartbeat(self, message: Message) -> None:
        self._follow(message)
        self.log.commit_to(message.commit)
        self._send(Message(MessageType.HEARTBEAT_RESP, message.from_, context=message.context))

    def _follow_snapshot(self, message: Message) -> None:
        self._follow(message)
        self._handle_snapshot(message)

    def _follow(self, message: Message) -> None:
        """Take the sender as leader of this term."""
        if self.role is Role.FOLLOWER:
            self.election_elapsed = 0
            self.leader_id = message.from_
        else:
            self.become_follower(message.term, message.from_)

    def _handle_append(self, message: Message) -> None:
        entries = message.entries
        if entries and (
            entries[0].index != message.index + 1
            or entries[-1].index != message.index + len(entries)
        ):
            raise MalformedMessageError(
                f"append from {message.from_:x} after index {message.index} has entries "
                f"{entries[0].index} to {entries[-1].index}, {len(entries)} in all"
            )
        if message.index < self.log.committed:
            self._send(Message(MessageType.APP_RESP, message.from_, index=self.log.committed))
            return
        last_new = self.log.maybe_append(message.log_term, message.index, entries, message.commit)
        if last_new is not None:
            self._send(Message(MessageType.APP_RESP, message.from_, index=last_new))
            return
        self.logger.debug(
            "%x [logterm: %d, index: %d] rejected MsgApp [logterm: %d, index: %d] from %x",
            self.id,
            self.log.term_or_zero(message.index),
            message.index,
            message.log_term,
            message.index,
            message.from_,
        )
        # The hint lets the leader skip all that cannot match: entries of higher terms here were
        # never its own.
        hint, hint_term = self.log.find_conflict_by_term(
            min(message.index, self.log.last_index()), message.log_term
        )
        self._send(
            Message(
                MessageType.APP_RESP,
                message.from_,
                index=message.index,
                reject=True,
                reject_hint=hint,
                log_term=hint_term,
            )
        )

    def _handle_snapshot(self, message: Message) -> None:
        snapshot = message.snapshot
        if snapshot is None or snapshot.is_empty:
            raise MalformedMessageError(f"snapshot message from {message.from_:x} has no snapshot")
        restored = self._restore(snapshot)
        self.logger.info(
            "%x [commit: %d] %s snapshot [index: %d, term: %d]",
            self.id,
            self.log.committed,
            "restored" if restored else "ignored",
            snapshot.index,
            snapshot.term,
        )
        index = self.log.last_index() if restored else self.log.committed
        self._send(Message(MessageType.APP_RESP, message.from_, index=index))

    def _restore(self, snapshot: Snapshot) -> bool:
        """Take over the snapshot as log and configuration; False when there is no need or right."""
        if snapshot.index <= self.log.committed:
            return False
        if self.id not in snapshot.conf_state.members:
            self.logger.warning(
                "%x attempted to restore snapshot but it is not in the ConfState %s; "
                "should never happen",
                self.id,
                snapshot.conf_state,
            )
            return False
        last_term, last_index = self.log.last_entry_id()
        if self.log.match_term(snapshot.term, snapshot.index):
            self.logger.info(
                "%x [commit: %d, lastindex: %d, lastterm: %d] fast-forwarded commit to snapshot "
                "[index: %d, term: %d]",
                self.id,
                self.log.committed,
                last_index,
                last_term,
                snapshot.index,
                snapshot.term,
            )
            self.log.commit_to(snapshot.index)
            return False
        self.log.restore(snapshot)
        # A configuration that came later than the snapshot's entries stays: going back to an
        # older one would undo a committed change.
        self.conf_index = max(snapshot.conf_index, snapshot.index)
        self.switch_to_configuration(*self._restored(snapshot.conf_state))
        last_term, last_index = self.log.last_entry_id()
        self.logger.info(
            "%x [commit: %d, lastindex: %d, lastterm: %d] restored snapshot [index: %d, term: %d]",
            self.id,
            self.log.committed,
            last_index,
            last_term,
            snapshot.index,
            snapshot.term,
        )
        return True

    def _restored(
        self, conf_state: ConfState
    ) -> tuple[confchange.Configuration, dict[int, Progress]]:
        return confchange.restore(
            conf_state,
            last_index=self.log.last_index(),
            max_inflight_msgs=self.config.max_inflight_msgs,
            max_inflight_bytes=self.config.max_inflight_bytes,
        )

    # Follower

    def _follower_proposal(self, message: Message) -> None:
        if self.leader_id == NONE:
            self._refuse_without_leader(message)
        if self.config.disable_proposal_forwarding:
            self.logger.info(
                "%x not forwarding to leader %x at term %d; dropping proposal",
                self.id,
                self.leader_id,
                self.term,
            )
            raise ProposalDroppedError
        self._forward_to_leader(message)

    def _refuse_without_leader(self, _message: Message) -> None:
        self.logger.info("%x no leader at term %d; dropping proposal", self.id, self.term)
        raise ProposalDroppedError

    def _follower_transfer_leader(self, message: Message) -> None:
        if self.leader_id == NONE:
            self.logger.info(
                "%x no leader at term %d; dropping leader transfer msg", self.id, self.term
            )
            return
        self._forward_to_leader(message)

    def _follower_timeout_now(self, message: Message) -> None:
        self.logger.info(
            "%x [term %d] received MsgTimeoutNow from %x and starts an election to get leadership.",
            self.id,
            self.term,
            message.from_,
        )
        # No pre-vote: the leader has just said that it wants to be replaced.
        self._hup(pre_vote=False, transfer=True)

    def _follower_forget_leader(self, _message: Message) -> None:
        if self.config.read_only_option is ReadOnlyOption.LEASE_BASED:
            # The leader answers reads because nobody can be elected within its lease.
            self.logger.error("ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
            return
        if self.leader_id != NONE:
            self.logger.info(
                "%x forgetting leader %x at term %d", self.id, self.leader_id, self.term
            )
            self.leader_id = NONE

    def _follower_read_index(self, message: Message) -> None:
        if self.leader_id == NONE:
            self.logger.info(
                "%x no leader at term %d; dropping index reading msg", self.id, self.term
            )
            return
        self._forward_to_leader(message)

    def _follower_read_index_response(self, message: Message) -> None:
        self.read_states.append(ReadState(message.index, message.context))

    # The leader takes proposals

    def _leader_proposal(self, message: Message) -> None:
        assert message.entries, "a proposal has entries"
        if self.id not in self.progress:
            # Removed while leading.
            raise ProposalDroppedError
        if self.lead_transferee != NONE:
            self.logger.debug(
                "%x [term %d] transfer leadership to %x is in progress; dropping proposal",
                self.id,
                self.term,
                self.lead_transferee,
            )
            raise ProposalDroppedError
        pending_conf_index = self.pending_conf_index
        entries = []
        for position, entry in enumerate(message.entries):
            if entry.type is not EntryType.NORMAL:
                refusal = self._refuse_conf_change(entry, pending_conf_index)
                if refusal is None:
                    pending_conf_index = self.log.last_index() + position + 1
                else:
                    entry = Entry(0, 0)  # noqa: PLW2901 - an empty one takes its place
            entries.append(entry)
        if not self._append_proposal(entries):
            raise ProposalDroppedError
        self.pending_conf_index = pending_conf_index
        self.broadcast_append()

    def _refuse_conf_change(self, entry: Entry, pending_conf_index: int) -> str | None:
        """Why the change in this entry may not be proposed now, None when it may."""
        try:
            change = decode_conf_change(entry).as_v2()
        except DecodeError as error:
            self.logger.warning("%x ignoring conf change: %s", self.id, error)
            return str(error)
        if self.config.disable_conf_change_validation:
            return None
        joint = self.configuration.voters.is_joint
        leaves = not change.changes
        why = None
        if pending_conf_index > self.log.applied:
            why = (
                f"possible unapplied conf change at index {pending_conf_index} "
                f"(applied to {self.log.applied})"
            )
        elif joint and not leaves:
            why = "must transition out of joint config first"
        elif not joint and leaves:
            why = "not in joint state; refusing empty conf change"
        else:
            # Everything before it is applied, so this is the configuration that it will meet:
            # committed, a change that does not apply would stop every node.
            try:
                self._changer().change(change)
            except ConfChangeError as error:
                why = str(error)
        if why is not None:
            self.logger.info(
                "%x ignoring conf change %s at config %s: %s",
                self.id,
                describe_conf_change(change),
                self.configuration,
                why,
            )
        return why

    def _append_proposal(self, proposals: list[Entry]) -> bool:
        """Append to the own log, False when too much is uncommitted already."""
        size = payloads_size(proposals)
        if (
            self.uncommitted_size > 0
            and size > 0
            and self.uncommitted_size + size > self.config.max_uncommitted_entries_size
        ):
            # One proposal of any size passes when nothing is uncommitted, and empty ones always:
            # a new leader and leaving a joint configuration need them.
            self.logger.warning(
                "%x appending new entries to log would exceed uncommitted entry size limit; "
                "dropping proposal",
                self.id,
            )
            return False
        self.uncommitted_size += size
        index = self.log.last_index() + 1
        entries = [
            Entry(self.term, index + position, entry.type, entry.data, entry.checksum)
            for position, entry in enumerate(proposals)
        ]
        last_index = self.log.append(entries)
        # Counts only when it is durable: the leader's own disk is one of the majority or not.
        self._send(Message(MessageType.APP_RESP, self.id, index=last_index))
        return True

    def _reduce_uncommitted_size(self, size: int) -> None:
        # A follower, or entries of an older leader, were not counted: never below 0.
        self.uncommitted_size = max(self.uncommitted_size - size, 0)

    def maybe_commit(self) -> bool:
        """Commit what a quorum has, when it is of this term."""
        index = self.configuration.voters.committed_index(self._matched)
        return self.log.maybe_commit(self.term, index)

    def _matched(self, peer: int) -> int | None:
        progress = self.progress.get(peer)
        return None if progress is None else progress.match

    # The leader hears from its peers

    def _leader_append_response(self, message: Message) -> None:
        progress = self._progress_of_sender(message)
        if progress is None:
            return
        peer = message.from_
        progress.recent_active = True
        if message.reject:
            self._handle_rejection(message, progress)
            return
        if message.index > self.log.last_index():
            raise MalformedMessageError(
                f"{peer:x} acknowledged index {message.index}, "
                f"the last index of its leader {self.id:x} is {self.log.last_index()}"
            )
        answers_probe = progress.state is ProgressState.PROBE and progress.match == message.index
        if not (progress.maybe_update(message.index) or answers_probe):
            return
        if progress.state is ProgressState.PROBE:
            progress.become_replicate()
        elif progress.state is ProgressState.SNAPSHOT:
            if progress.match + 1 >= self.log.first_index():
                # Its log reaches this one's again, whatever became of the snapshot.
                self.logger.debug(
                    "%x recovered from needing snapshot, resumed sending replication messages "
                    "to %x [%s]",
                    self.id,
                    peer,
                    progress,
                )
                progress.become_probe()
                progress.become_replicate()
        else:
            progress.inflights.free_up_to(message.index)
        if self.maybe_commit():
            self._release_reads_before_commit()
            self.broadcast_append()
        elif peer != self.id and progress.can_bump_commit(self.log.committed):
            self.send_append(peer)
        if peer == self.id:
            return
        # The window may have opened by several messages at once.
        while self.maybe_send_append(peer, send_if_empty=False):
            pass
        if peer == self.lead_transferee and progress.match == self.log.last_index():
            self.logger.info("%x sent MsgTimeoutNow to %x after received MsgAppResp", self.id, peer)
            self._send_timeout_now(peer)

    def _handle_rejection(self, message: Message, progress: Progress) -> None:
        peer = message.from_
        self.logger.debug(
            "%x received MsgAppResp(rejected, hint: (index %d, term %d)) from %x for index %d",
            self.id,
            message.reject_hint,
            message.log_term,
            peer,
            message.index,
        )
        next_probe = message.reject_hint
        if message.log_term > 0:
            # Where this log has higher terms at and below the hint the two cannot match either.
            next_probe, _ = self.log.find_conflict_by_term(message.reject_hint, message.log_term)
        if progress.maybe_decrease(message.index, next_probe):
            self.logger.debug("%x decreased progress of %x to [%s]", self.id, peer, progress)
            if progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            self.send_append(peer)

    def _leader_heartbeat_response(self, message: Message) -> None:
        progress = self._progress_of_sender(message)
        if progress is None:
            return
        progress.recent_active = True
        progress.is_paused_by_flow = False
        if progress.match < self.log.last_index() or progress.state is ProgressState.PROBE:
            self.send_append(message.from_)
        if self.config.read_only_option is ReadOnlyOption.SAFE and message.context:
            self.read_only.acknowledge(message.from_, message.context)
            self._release_confirmed_reads()

    def _leader_snapshot_status(self, message: Message) -> None:
        progress = self._progress_of_sender(message)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if message.reject:
            progress.pending_snapshot = 0
        progress.become_probe()
        self.logger.debug(
            "%x snapshot %s, resumed sending replication messages to %x [%s]",
            self.id,
            "failed" if message.reject else "succeeded",
            message.from_,
            progress,
        )
        # If it arrived, its acknowledgement comes before the next append; if not, wait for a
        # heartbeat before trying again.
        progress.is_paused_by_flow = True

    def _leader_unreachable(self, message: Message) -> None:
        progress = self._progress_of_sender(message)
        if progress is None:
            return
        # Messages under way are probably lost: do not stream more behind them.
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        self.logger.debug(
            "%x failed to send message to %x because it is unreachable [%s]",
            self.id,
            message.from_,
            progress,
        )

    def _progress_of_sender(self, message: Message) -> Progress | None:
        progress = self.progress.get(message.from_)
        if progress is None:
            self.logger.debug("%x no progress available for %x", self.id, message.from_)
        return progress

    # The leader watches time, and hands over

    def _leader_beat(self, _message: Message) -> None:
        self.broadcast_heartbeat()

    def _leader_check_quorum(self, _message: Message) -> None:
        active = {
            peer: progress.recent_active or peer == self.id
            for peer, progress in self.progress.items()
        }
        if self.configuration.voters.vote_result(active) is not VoteResult.WON:
            self.logger.warning("%x stepped down to follower since quorum is not active", self.id)
            self.become_follower(self.term, NONE)
        for peer, progress in self.progress.items():
            if peer != self.id:
                progress.recent_active = False

    def _leader_transfer(self, message: Message) -> None:
        progress = self._progress_of_sender(message)
        if progress is None:
            return
        transferee = message.from_
        if progress.is_learner:
            self.logger.debug("%x is learner. Ignored transferring leadership", transferee)
            return
        if self.lead_transferee != NONE:
            if self.lead_transferee == transferee:
                self.logger.info(
                    "%x [term %d] transfer leadership to %x is in progress, ignores request to "
                    "same node %x",
                    self.id,
                    self.term,
                    transferee,
                    transferee,
                )
                return
            self.logger.info(
                "%x [term %d] abort previous transferring leadership to %x",
                self.id,
                self.term,
                self.lead_transferee,
            )
            self.lead_transferee = NONE
        if transferee == self.id:
            self.logger.debug(
                "%x is already leader. Ignored transferring leadership to self", self.id
            )
            return
        self.logger.info(
            "%x [term %d] starts to transfer leadership to %x", self.id, self.term, transferee
        )
        # It has one election timeout to succeed.
        self.election_elapsed = 0
        self.lead_transferee = transferee
        if progress.match == self.log.last_index():
            self._send_timeout_now(transferee)
            self.logger.info(
                "%x sends MsgTimeoutNow to %x immediately as %x already has up-to-date log",
                self.id,
                transferee,
                transferee,
            )
        else:
            self.send_append(transferee)

    # The leader answers reads

    @property
    def _has_committed_in_term(self) -> bool:
        # Before that the commit index may be behind what older leaders acknowledged.
        return self.log.term_or_zero(self.log.committed) == self.term

    def _leader_read_index(self, message: Message) -> None:
        if not self._has_committed_in_term:
            if len(self.reads_before_commit) >= PENDING_MAX:
                self._drop_read()
            else:
                self.reads_before_commit.append(message)
            return
        self._start_read(message)

    def _drop_read(self) -> None:
        self.logger.warning("%x too many reads are waiting; dropping index reading msg", self.id)

    def _start_read(self, message: Message) -> None:
        read = PendingRead(message.from_ or self.id, message.context, self.log.committed)
        alone = self.configuration.voters.ids == {self.id}  # not: the only voter is somebody else
        if alone or self.config.read_only_option is ReadOnlyOption.LEASE_BASED:
            self._answer_read(read)
        elif self.read_only.is_full:
            self._drop_read()
        else:
            self.read_only.add(read)
            self.broadcast_heartbeat()

    def _release_reads_before_commit(self) -> None:
        if self.reads_before_commit and self._has_committed_in_term:
            waiting, self.reads_before_commit = self.reads_before_commit, []
            for message in waiting:
                self._start_read(message)

    def _release_confirmed_reads(self) -> None:
        for read in self.read_only.release(self.configuration.voters.committed_index, self.id):
            self._answer_read(read)

    def _answer_read(self, read: PendingRead) -> None:
        if read.from_ == self.id:
            self.read_states.append(ReadState(read.index, read.context))
        else:
            self._send(
                Message(
                    MessageType.READ_INDEX_RESP,
                    read.from_,
                    index=read.index,
                    context=read.context,
                )
            )

    # Applying

    def _applied_to(self, index: int, size: int) -> None:
        # A snapshot may have overtaken entries that were on their way to be applied.
        index = max(index, self.log.applied)
        self.log.applied_to(index, size)
        if (
            self.configuration.auto_leave
            and index >= self.pending_conf_index
            and self.role is Role.LEADER
        ):
            leave = Message(
                MessageType.PROP, from_=self.id, entries=[Entry(0, 0, EntryType.CONF_CHANGE_V2)]
            )
            try:
                self.step(leave)
            except ProposalDroppedError as error:
                self.logger.debug(
                    "not initiating automatic transition out of joint configuration %s: %s",
                    self.configuration,
                    error,
                )
            else:
                self.logger.info(
                    "initiating automatic transition out of joint configuration %s",
                    self.configuration,
                )

    def _applied_snapshot(self, snapshot: Snapshot) -> None:
        self.log.unstable.stable_snapshot_to(snapshot.index)
        self._applied_to(snapshot.index, 0)

    # Configuration

    def _changer(self) -> confchange.Changer:
        return confchange.Changer(
            self.configuration,
            self.progress,
            last_index=self.log.last_index(),
            max_inflight_msgs=self.config.max_inflight_msgs,
            max_inflight_bytes=self.config.max_inflight_bytes,
        )

    def apply_conf_change(self, change: ConfChangeV2, index: int) -> ConfState:
        """Make a committed change active, unless the configuration is from `index` or later."""
        if 0 < index <= self.conf_index:
            return self.configuration.conf_state
        changed = self._changer().change(change)
        self.conf_index = max(self.conf_index, index)
        return self.switch_to_configuration(*changed)

    def switch_to_configuration(
        self, configuration: confchange.Configuration, progress: dict[int, Progress]
    ) -> ConfState:
        """Make a configuration active; the leader acts on what follows from it."""
        self.configuration = configuration
        self.progress = progress
        self.logger.info("%x switched to configuration %s", self.id, configuration)
        conf_state = configuration.conf_state
        own = progress.get(self.id)
        self.is_learner = own is not None and own.is_learner
        if (own is None or self.is_learner) and self.role is Role.LEADER:
            # By the paper it leads on until the change is committed, which it is by now: it has
            # been applied. Without stepping down it stays leader in name until somebody else is.
            if self.config.step_down_on_removal:
                self.become_follower(self.term, NONE)
            return conf_state
        if self.role is not Role.LEADER or not conf_state.voters:
            return conf_state
        if self.maybe_commit():
            # A smaller quorum may have everything already.
            self._release_reads_before_commit()
            self.broadcast_append()
        else:
            # New members get their first append at once, not at the next heartbeat.
            for peer in progress:
                if peer != self.id:
                    self.maybe_send_append(peer, send_if_empty=False)
        self._release_confirmed_reads()
        if self.lead_transferee != NONE and self.lead_transferee not in configuration.voters:
            self.lead_transferee = NONE
        return conf_state

    def _make_handlers(self) -> dict[Role, dict[MessageType, _Handler]]:
        """What each role does with a message of its term.

        A type that is missing is ignored: a leader takes no orders, a candidate answers no reads.
        """
        follow: dict[MessageType, _Handler] = {
            MessageType.APP: self._follow_append,
            MessageType.HEARTBEAT: self._follow_heartbeat,
            MessageType.SNAP: self._follow_snapshot,
        }
        candidate: dict[MessageType, _Handler] = {
            **follow,
            MessageType.PROP: self._refuse_without_leader,
            MessageType.VOTE_RESP: self._candidate_vote_response,
            MessageType.PRE_VOTE_RESP: self._candidate_vote_response,
        }
        return {
            Role.FOLLOWER: {
                **follow,
                MessageType.PROP: self._follower_proposal,
                MessageType.TRANSFER_LEADER: self._follower_transfer_leader,
                MessageType.TIMEOUT_NOW: self._follower_timeout_now,
                MessageType.FORGET_LEADER: self._follower_forget_leader,
                MessageType.READ_INDEX: self._follower_read_index,
                MessageType.READ_INDEX_RESP: self._follower_read_index_response,
            },
            Role.CANDIDATE: candidate,
            Role.PRE_CANDIDATE: candidate,
            Role.LEADER: {
                MessageType.BEAT: self._leader_beat,
                MessageType.CHECK_QUORUM: self._leader_check_quorum,
                MessageType.PROP: self._leader_proposal,
                MessageType.READ_INDEX: self._leader_read_index,
                MessageType.APP_RESP: self._leader_append_response,
                MessageType.HEARTBEAT_RESP: self._leader_heartbeat_response,
                MessageType.SNAP_STATUS: self._leader_snapshot_status,
                MessageType.UNREACHABLE: self._leader_unreachable,
                MessageType.TRANSFER_LEADER: self._leader_transfer,
            },
        }
