"""How the Raft core is set up: its parameters, its view of the log, its logger, its first state.

What this module must not know: the loop that drives the core.
"""

import logging
import random as random_module
from collections.abc import Callable

from kingbus.membership.cluster import Cluster
from kingbus.node.errors import RestartError
from kingbus.node.machine import Log
from kingbus.node.status import NodeSettings
from kingbus.raft.config import RaftConfig
from kingbus.raft.types import ConfState, HardState, Snapshot


class CoreLogger:
    """The core's lines, which the origin's test data fix word by word, one level down."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("kingbus.raft")

    def debug(self, msg: str, /, *args: object) -> None:
        """Per-message detail: not even at debug level."""

    def info(self, msg: str, /, *args: object) -> None:
        self._logger.debug(msg, *args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._logger.info(msg, *args)

    def error(self, msg: str, /, *args: object) -> None:
        self._logger.error(msg, *args)


class CoreStorage:
    """The log as the core sees it, with the state that the node begins from."""

    def __init__(self, log: Log, hard_state: HardState, conf_state: ConfState) -> None:
        self._initial = hard_state, conf_state
        self.entries = log.entries
        self.term = log.term
        self.first_index = log.first_index
        self.last_index = log.last_index
        self.snapshot: Callable[[], Snapshot] = log.snapshot

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._initial


def conf_state_of(cluster: Cluster) -> ConfState:
    """The configuration that a membership stands for; a joint one the leader leaves by itself."""
    return ConfState(
        voters=cluster.voters,
        learners=cluster.learners,
        voters_outgoing=cluster.outgoing,
        auto_leave=cluster.is_joint,
    )


def initial_hard_state(recorded: HardState, *, applied: int, log: Log) -> HardState:
    """The hard state to start from: what was applied was committed, recorded or not.

    RestartError when the log does not reach that far, naming both.
    """
    commit = max(recorded.commit, applied)
    first, last = log.first_index(), log.last_index()
    if commit > last:
        raise RestartError(
            f"the log ends at index {last}, but index {commit} was committed and"
            f" {applied} applied: entries are missing",
            hint="The log was damaged or replaced. Remove this member and add it anew.",
        )
    if applied + 1 < first:
        raise RestartError(
            f"the log begins at index {first}, but only {applied} was applied",
            hint="The database was damaged or replaced. Remove this member and add it anew.",
        )
    return HardState(recorded.term, recorded.vote, commit)


def core_config(
    *,
    member_id: int,
    log: Log,
    hard_state: HardState,
    cluster: Cluster,
    applied: int,
    random: random_module.Random,
    settings: NodeSettings,
) -> RaftConfig:
    """The core's parameters: what a cluster of kingbus runs with, whatever is configured.

    Pre-vote and check-quorum are on, proposals are never forwarded (only the leader knows what to
    propose), and a leader that is removed steps down as soon as it applies that.
    """
    return RaftConfig(
        id=member_id,
        storage=CoreStorage(log, hard_state, conf_state_of(cluster)),
        random=random,
        election_tick=settings.election_ticks,
        heartbeat_tick=1,
        applied=applied,
        conf_index=cluster.index,
        async_storage_writes=True,
        max_size_per_msg=settings.message_bytes_max,
        max_committed_size_per_ready=settings.apply_bytes_max,
        max_uncommitted_entries_size=settings.uncommitted_bytes_max,
        max_inflight_msgs=settings.inflight_messages_max,
        max_inflight_bytes=settings.inflight_bytes_max,
        check_quorum=True,
        pre_vote=True,
        disable_proposal_forwarding=True,
        step_down_on_removal=True,
        logger=CoreLogger(),
    )
