"""What the leader knows of one peer's log, and what it may send it.

Three states: `probe` sends one message at a time until it knows where the logs meet, `replicate`
streams optimistically within the window of in-flight messages, `snapshot` waits until the peer has
installed one. Follows the progress design of etcd's Raft.
"""

from enum import Enum

from kingbus.raft.inflights import Inflights


class ProgressState(Enum):
    """How entries are sent to a peer."""

    PROBE = "StateProbe"
    REPLICATE = "StateReplicate"
    SNAPSHOT = "StateSnapshot"

    def __str__(self) -> str:
        return self.value


class Progress:
    """The leader's view of one peer; always match < next."""

    __slots__ = (
        "inflights",
        "is_learner",
        "is_paused_by_flow",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(
        self,
        *,
        match: int,
        next: int,  # noqa: A002 - Raft's own name
        inflights: Inflights,
        is_learner: bool = False,
        recent_active: bool = False,
    ) -> None:
        assert match < next, (match, next)
        self.match = match
        """The highest index known to be in the peer's log."""
        self.next = next
        """The index of the first entry to be sent next; everything between is under way."""
        self.sent_commit = 0
        """The highest commit index that a message to the peer carried."""
        self.state = ProgressState.PROBE
        self.pending_snapshot = 0
        """The index of the snapshot under way, in the snapshot state."""
        self.recent_active = recent_active
        """True when the peer answered since the last check of the quorum."""
        self.is_paused_by_flow = False
        """True when nothing more may be sent until an answer to a message or a heartbeat."""
        self.inflights = inflights
        self.is_learner = is_learner

    def copy(self) -> "Progress":
        """A second Progress over the same window."""
        copied = Progress(
            match=self.match,
            next=self.next,
            inflights=self.inflights,
            is_learner=self.is_learner,
            recent_active=self.recent_active,
        )
        copied.sent_commit = self.sent_commit
        copied.state = self.state
        copied.pending_snapshot = self.pending_snapshot
        copied.is_paused_by_flow = self.is_paused_by_flow
        return copied

    @property
    def is_paused(self) -> bool:
        """True when no append may be sent now."""
        return self.is_paused_by_flow or self.state is ProgressState.SNAPSHOT

    def become_probe(self) -> None:
        """Find out where the logs meet, beginning after what is known to match."""
        after_snapshot = self.pending_snapshot if self.state is ProgressState.SNAPSHOT else 0
        self._reset(ProgressState.PROBE)
        self.next = max(self.match, after_snapshot) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """Stream from what is known to match."""
        self._reset(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Wait for a snapshot at `index`, and go on behind it."""
        self._reset(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def _reset(self, state: ProgressState) -> None:
        self.is_paused_by_flow = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def note_sent_entries(self, count: int, size: int) -> None:
        """An append with `count` entries and `size` bytes of payload was sent."""
        if self.state is ProgressState.REPLICATE:
            if count > 0:
                self.next += count
                self.inflights.add(self.next - 1, size)
            # A message that fills the window, or finds it full, is the last until an answer.
            self.is_paused_by_flow = self.inflights.is_full
        else:
            assert self.state is ProgressState.PROBE, "sent entries while waiting for a snapshot"
            if count > 0:
                self.is_paused_by_flow = True

    def can_bump_commit(self, index: int) -> bool:
        """True when a message with commit `index` would tell the peer something new.

        Not when it already knows a commit up to the end of what it was sent: a later append will
        carry the rest.
        """
        return index > self.sent_commit and self.sent_commit < self.next - 1

    def note_sent_commit(self, index: int) -> None:
        """A message with this commit index was sent."""
        self.sent_commit = index

    def maybe_update(self, index: int) -> bool:
        """The peer has acknowledged `index`; False when that was known."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.is_paused_by_flow = False
        return True

    def maybe_decrease(self, rejected: int, hint: int) -> bool:
        """The peer has refused an append after `rejected`, and may match at `hint`.

        False when the answer is old, and nothing is to be done.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            # Only one probe is under way: an answer to another message says nothing.
            if self.next - 1 != rejected:
                return False
            self.next = max(min(rejected, hint + 1), self.match + 1)
            self.is_paused_by_flow = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        assert self.match < self.next, (self.match, self.next)
        return True

    def __str__(self) -> str:
        parts = [f"{self.state} match={self.match} next={self.next}"]
        if self.is_learner:
            parts.append("learner")
        if self.is_paused:
            parts.append("paused")
        if self.pending_snapshot > 0:
            parts.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            parts.append("inactive")
        if self.inflights.count > 0:
            full = "[full]" if self.inflights.is_full else ""
            parts.append(f"inflight={self.inflights.count}{full}")
        return " ".join(parts)


def describe_progress(progress: dict[int, Progress]) -> str:
    """One line for each peer, by id."""
    return "".join(f"{peer}: {progress[peer]}\n" for peer in sorted(progress))
