"""What the host owes the core after a step: `Ready`, and the volatile state that it reports.

The host takes a Ready with `RawNode.ready()` and does what it says in the order of its fields:
install the snapshot, write entries and hard state durably, then send the messages, then apply the
committed entries. With synchronous storage writes it then calls `RawNode.advance()`; with
asynchronous ones all storage work stands in `messages` as MsgStorageAppend and MsgStorageApply,
whose responses say when each message may go.
"""

from dataclasses import dataclass, field
from enum import Enum

from kingbus.raft.types import NONE, Entry, HardState, Message, Snapshot


class Role(Enum):
    """What a node is at the moment."""

    FOLLOWER = "StateFollower"
    CANDIDATE = "StateCandidate"
    LEADER = "StateLeader"
    PRE_CANDIDATE = "StatePreCandidate"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class SoftState:
    """State that need not be stored: who leads, and what this node is."""

    leader_id: int = NONE
    role: Role = Role.FOLLOWER


@dataclass(frozen=True, slots=True)
class ReadState:
    """An answered read: what was applied up to `index` may be read for the request `context`."""

    index: int
    context: bytes


@dataclass(slots=True)
class Ready:
    """Everything that is to be done now; empty fields mean that nothing changed there."""

    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    read_states: list[ReadState] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    committed_entries: list[Entry] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    must_sync: bool = False
