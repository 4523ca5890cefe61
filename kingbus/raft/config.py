"""The parameters of one Raft node, and their validation.

Times are counted in ticks, whose length only the host knows. The source of randomness is passed
in: with the same generator and the same inputs a node does the same.
"""

import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from kingbus.errors import ConfigError, Problem
from kingbus.raft.storage import Storage
from kingbus.raft.types import NO_LIMIT, NONE, STORAGE_THREADS


class Logger(Protocol):
    """Where the core says what it does; `logging.Logger` is one."""

    def debug(self, msg: str, /, *args: object) -> None: ...
    def info(self, msg: str, /, *args: object) -> None: ...
    def warning(self, msg: str, /, *args: object) -> None: ...
    def error(self, msg: str, /, *args: object) -> None: ...


class SilentLogger:
    """A logger that keeps nothing."""

    def debug(self, msg: str, /, *args: object) -> None:
        """Drop it."""

    def info(self, msg: str, /, *args: object) -> None:
        """Drop it."""

    def warning(self, msg: str, /, *args: object) -> None:
        """Drop it."""

    def error(self, msg: str, /, *args: object) -> None:
        """Drop it."""


class ReadOnlyOption(Enum):
    """How a leader makes sure that it still leads before it answers a read-index request."""

    SAFE = "safe"
    """By a round of heartbeats to a quorum."""
    LEASE_BASED = "lease-based"
    """By its lease alone: needs check_quorum, and clocks that do not drift apart."""


@dataclass(slots=True, kw_only=True)
class RaftConfig:
    """The parameters of one node. Sizes are bytes; a count or size of 0 means as told below."""

    id: int
    storage: Storage
    random: random.Random
    """The source of election jitter. Each node needs its own seed, or all campaign at once."""
    election_tick: int = 10
    """Ticks without a leader before an election; the real timeout is random in [it, 2 * it)."""
    heartbeat_tick: int = 1
    """Ticks between the leader's heartbeats."""
    applied: int = 0
    """The last applied index; entries up to it are not handed out again."""
    conf_index: int = 0
    """The index that the storage's ConfState is from, where that is above `applied`."""
    async_storage_writes: bool = False
    max_size_per_msg: int = 1 << 20
    """Limit of the entries of one append message, so that a probe or a slow link costs little."""
    max_committed_size_per_ready: int = 0
    """Limit of the committed entries under way to be applied; 0: max_size_per_msg."""
    max_uncommitted_entries_size: int = 0
    """Limit of the leader's uncommitted payload, beyond which proposals are refused; 0: none."""
    max_inflight_msgs: int = 256
    """Append messages to one peer that may be unanswered."""
    max_inflight_bytes: int = 0
    """Payload to one peer that may be unanswered; 0: no limit."""
    check_quorum: bool = False
    """The leader steps down when it hears no quorum; followers of a live leader do not vote."""
    pre_vote: bool = False
    """Ask whether an election could be won before the term is raised."""
    read_only_option: ReadOnlyOption = ReadOnlyOption.SAFE
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    step_down_on_removal: bool = False
    """A leader that is removed or demoted becomes follower as soon as it applies that."""
    logger: Logger = field(default_factory=SilentLogger)

    def __post_init__(self) -> None:
        """Raise ConfigError with every problem, and resolve the limits that default to another."""
        problems = [
            Problem(key=f"raft.{key}", message=message, got=getattr(self, key))
            for key, message, wrong in (
                (
                    "id",
                    "must be a positive 64-bit number, and not a storage task's",
                    self.id <= NONE or self.id >= NO_LIMIT or self.id in STORAGE_THREADS,
                ),
                ("heartbeat_tick", "must be greater than 0", self.heartbeat_tick <= 0),
                (
                    "election_tick",
                    "must be greater than heartbeat_tick",
                    self.election_tick <= self.heartbeat_tick,
                ),
                ("applied", "must not be negative", self.applied < 0),
                ("max_size_per_msg", "must not be negative", self.max_size_per_msg < 0),
                (
                    "max_committed_size_per_ready",
                    "must not be negative",
                    self.max_committed_size_per_ready < 0,
                ),
                (
                    "max_uncommitted_entries_size",
                    "must not be negative",
                    self.max_uncommitted_entries_size < 0,
                ),
                ("max_inflight_msgs", "must be greater than 0", self.max_inflight_msgs <= 0),
                (
                    "max_inflight_bytes",
                    "must be 0 or at least max_size_per_msg",
                    self.max_inflight_bytes < 0
                    or 0 < self.max_inflight_bytes < self.max_size_per_msg,
                ),
                (
                    "read_only_option",
                    "lease-based needs check_quorum",
                    self.read_only_option is ReadOnlyOption.LEASE_BASED and not self.check_quorum,
                ),
            )
            if wrong
        ]
        if problems:
            raise ConfigError(problems)
        if self.max_committed_size_per_ready == 0:
            self.max_committed_size_per_ready = self.max_size_per_msg or 1
        if self.max_uncommitted_entries_size == 0:
            self.max_uncommitted_entries_size = NO_LIMIT
