"""What a node says about itself to people and monitoring."""

from dataclasses import dataclass

from kingbus.raft.ready import Role
from kingbus.raft.types import ConfState, HardState


@dataclass(frozen=True, slots=True)
class ProgressStatus:
    """How far one peer has come, as the leader sees it."""

    match: int
    next: int
    state: str
    """`StateProbe`, `StateReplicate` or `StateSnapshot`."""
    is_learner: bool
    is_paused: bool
    recent_active: bool
    pending_snapshot: int
    inflight_messages: int
    inflight_bytes: int


@dataclass(frozen=True, slots=True)
class BasicStatus:
    """The cheap part of the status: nothing in it grows with the number of members."""

    id: int
    leader_id: int
    role: Role
    is_learner: bool
    hard_state: HardState
    applied: int
    last_index: int
    lead_transferee: int


@dataclass(frozen=True, slots=True)
class Status(BasicStatus):
    """The whole status; `progress` is empty but on the leader."""

    conf_state: ConfState
    progress: dict[int, ProgressStatus]
