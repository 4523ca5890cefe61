"""The only door of the core: what a host calls, and the Ready that it gets."""

from collections.abc import Sequence

from kingbus.raft.config import RaftConfig
from kingbus.raft.ready import Ready, Role
from kingbus.raft.status import BasicStatus, ProgressStatus, Status
from kingbus.raft.types import ConfChange, ConfChangeV2, ConfState, Entry, Message


class RawNode:
    """One Raft node without threads, clocks or I/O; see the module for the order of calls."""

    def __init__(self, config: RaftConfig) -> None:
        raise NotImplementedError

    def bootstrap(self, peers: Sequence[tuple[int, bytes]]) -> None:
        """Start an empty log with these members (id, context), by committed AddNode entries."""
        raise NotImplementedError

    def tick(self) -> None:
        """Let one tick pass."""
        raise NotImplementedError

    def step(self, message: Message) -> None:
        """Take a message from a peer or from a storage task.

        StepLocalMessageError, StepPeerNotFoundError, ProposalDroppedError (a forwarded proposal).
        """
        raise NotImplementedError

    def campaign(self) -> None:
        """Start an election."""
        raise NotImplementedError

    def propose(self, data: bytes | Entry, checksum: int | None = None) -> int:
        """Propose one entry; the index it was appended at, or 0 when it was forwarded.

        ProposalDroppedError when it was not taken.
        """
        raise NotImplementedError

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> int:
        """Propose a configuration change; otherwise as propose."""
        raise NotImplementedError

    def apply_conf_change(self, change: ConfChange | ConfChangeV2, *, index: int = 0) -> ConfState:
        """Make a committed change active; the configuration afterwards.

        With the index of its entry a change is ignored that is not above the index which the
        present configuration came from.
        """
        raise NotImplementedError

    def has_ready(self) -> bool:
        """True when ready() would give something to do."""
        raise NotImplementedError

    def ready(self) -> Ready:
        """Everything that is to be done now; the core takes it for under way."""
        raise NotImplementedError

    def advance(self) -> None:
        """Synchronous storage writes only: the last Ready is done."""
        raise NotImplementedError

    def transfer_leader(self, transferee: int) -> None:
        """Ask that this member becomes leader."""
        raise NotImplementedError

    def forget_leader(self) -> None:
        """A follower forgets its leader, so that it may vote at once."""
        raise NotImplementedError

    def read_index(self, context: bytes) -> None:
        """Ask for a read index; the answer is a ReadState with this context in a later Ready.

        Without a leader, and when the leader changes, there is no answer: ask again.
        """
        raise NotImplementedError

    def report_unreachable(self, peer: int) -> None:
        """The last message to the peer did not leave."""
        raise NotImplementedError

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """A snapshot sent to the peer arrived, or did not; to be called for every one sent."""
        raise NotImplementedError

    def status(self) -> Status:
        """The whole status, copied."""
        raise NotImplementedError

    def basic_status(self) -> BasicStatus:
        """The cheap part of the status."""
        raise NotImplementedError

    def progress(self, peer: int) -> ProgressStatus | None:
        """How far a peer has come, None when it is not in the configuration."""
        raise NotImplementedError

    @property
    def id(self) -> int:
        """The id of this node."""
        raise NotImplementedError

    @property
    def term(self) -> int:
        """The current term."""
        raise NotImplementedError

    @property
    def leader_id(self) -> int:
        """The leader as known here, 0 for none."""
        raise NotImplementedError

    @property
    def role(self) -> Role:
        """What this node is."""
        raise NotImplementedError

    @property
    def is_learner(self) -> bool:
        """True when this node is a learner."""
        raise NotImplementedError

    @property
    def committed(self) -> int:
        """The highest index known to be committed."""
        raise NotImplementedError

    @property
    def applied(self) -> int:
        """The highest index that the host said to have applied."""
        raise NotImplementedError

    @property
    def last_index(self) -> int:
        """The highest index in the log, durable or not."""
        raise NotImplementedError

    @property
    def conf_state(self) -> ConfState:
        """The present configuration."""
        raise NotImplementedError

    @property
    def conf_index(self) -> int:
        """The index that the present configuration came from."""
        raise NotImplementedError
