"""What a node is set to, and what it says about itself: values only."""

from dataclasses import dataclass, field

from kingbus.raft.status import ProgressStatus
from kingbus.transport.peer import PeerFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Times in seconds, sizes in bytes; the defaults are those of the design, section 14."""

    heartbeat_seconds: float = 0.1
    election_seconds: float = 1.0
    message_bytes_max: int = 1 << 20
    inflight_messages_max: int = 512
    inflight_bytes_max: int = 16 << 20
    uncommitted_bytes_max: int = 48 << 20
    apply_bytes_max: int = 16 << 20

    @property
    def election_ticks(self) -> int:
        """Ticks (of one heartbeat interval each) without a leader before an election."""
        return max(2, round(self.election_seconds / self.heartbeat_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One other member: how far it is (known to the leader only), and the link to it."""

    progress: ProgressStatus | None
    facts: PeerFacts | None
    heard_seconds_ago: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """A member that began from a snapshot, until it has applied what the leader had committed.

    `begin` is the snapshot's index, `end` the leader's commit index as last heard of, 0 before.
    """

    installing: bool
    begin: int
    applied: int
    end: int

    @property
    def share(self) -> float:
        """How much of what the leader has committed is applied here, from 0 to 1."""
        if self.installing or self.end <= self.begin:
            return 0.0
        return min(1.0, max(0, self.applied - self.begin) / (self.end - self.begin))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What this node knows at this moment."""

    member_id: int
    role: str
    """leader, follower, candidate or learner."""
    term: int
    leader_id: int
    committed: int
    applied: int
    first_index: int
    last_index: int
    uncommitted_bytes: int
    peers: dict[int, PeerStatus] = field(default_factory=dict)
    catch_up: CatchUp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How `run` ends when this member is removed; `told_by` is 0 when it applied that itself."""

    told_by: int = 0
