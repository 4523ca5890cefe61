"""Configurations, and the changes from one to the next.

Simple changes alter at most one voter; larger ones go through a joint configuration (Raft thesis,
sections 4.1 and 4.3). A voter that becomes a learner while the outgoing half still counts its vote
waits in `learners_next` until the joint configuration is left. A change is computed on copies and
either succeeds as a whole or leaves no trace.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kingbus.raft.errors import ConfChangeError
from kingbus.raft.inflights import Inflights
from kingbus.raft.progress import Progress
from kingbus.raft.quorum import JointConfig, MajorityConfig
from kingbus.raft.types import (
    NONE,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who votes and who only learns; the ids of learners_next all vote in the outgoing half."""

    voters: JointConfig = field(default_factory=JointConfig)
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    def __str__(self) -> str:
        text = f"voters={self.voters}"
        if self.learners:
            text += f" learners={MajorityConfig(self.learners)}"
        if self.learners_next:
            text += f" learners_next={MajorityConfig(self.learners_next)}"
        return text + (" autoleave" if self.auto_leave else "")

    @property
    def conf_state(self) -> ConfState:
        """This configuration as it stands in a snapshot."""
        return ConfState(
            voters=tuple(self.voters.incoming),
            learners=tuple(self.learners),
            voters_outgoing=tuple(self.voters.outgoing),
            learners_next=tuple(self.learners_next),
            auto_leave=self.auto_leave,
        )


@dataclass(slots=True)
class _Draft:
    """A configuration and progress map while they are being changed."""

    incoming: set[int]
    outgoing: set[int]
    learners: set[int]
    learners_next: set[int]
    auto_leave: bool
    progress: dict[int, Progress]


class Changer:
    """Computes the configuration and progress map that a change leads to."""

    def __init__(
        self,
        configuration: Configuration,
        progress: Mapping[int, Progress],
        *,
        last_index: int,
        max_inflight_msgs: int,
        max_inflight_bytes: int = 0,
    ) -> None:
        self._configuration = configuration
        self._progress = progress
        self._last_index = last_index
        self._max_inflight_msgs = max_inflight_msgs
        self._max_inflight_bytes = max_inflight_bytes

    def change(self, change: ConfChangeV2) -> tuple[Configuration, dict[int, Progress]]:
        """What the change as a whole asks for: enter, leave, or simple. ConfChangeError."""
        if change.leaves_joint:
            return self.leave_joint()
        if change.enters_joint:
            return self.enter_joint(change.changes, auto_leave=change.auto_leave)
        return self.simple(change.changes)

    def simple(
        self, changes: Iterable[ConfChangeSingle]
    ) -> tuple[Configuration, dict[int, Progress]]:
        """Alter at most one voter and any number of learners. ConfChangeError."""
        draft = self._draft()
        if draft.outgoing:
            raise ConfChangeError("can't apply simple config change in joint config")
        self._apply(draft, changes)
        if len(self._configuration.voters.incoming.voters ^ draft.incoming) > 1:
            raise ConfChangeError("more than one voter changed without entering joint config")
        return self._finish(draft)

    def enter_joint(
        self, changes: Iterable[ConfChangeSingle], *, auto_leave: bool
    ) -> tuple[Configuration, dict[int, Progress]]:
        """Make the present voters the outgoing half and change the incoming one. ConfChangeError.

        The joint configuration decides by both majorities until it is left.
        """
        draft = self._draft()
        if draft.outgoing:
            raise ConfChangeError("config is already joint")
        if not draft.incoming:
            raise ConfChangeError("can't make a zero-voter config joint")
        draft.outgoing = set(draft.incoming)
        self._apply(draft, changes)
        draft.auto_leave = auto_leave
        return self._finish(draft)

    def leave_joint(self) -> tuple[Configuration, dict[int, Progress]]:
        """Drop the outgoing half. ConfChangeError."""
        draft = self._draft()
        if not draft.outgoing:
            raise ConfChangeError("can't leave a non-joint config")
        for member in draft.learners_next:
            draft.learners.add(member)
            draft.progress[member].is_learner = True
        draft.learners_next = set()
        for member in draft.outgoing - draft.incoming - draft.learners:
            del draft.progress[member]
        draft.outgoing = set()
        draft.auto_leave = False
        return self._finish(draft)

    def _draft(self) -> _Draft:
        configuration = self._configuration
        _check(configuration, self._progress)
        return _Draft(
            incoming=set(configuration.voters.incoming),
            outgoing=set(configuration.voters.outgoing),
            learners=set(configuration.learners),
            learners_next=set(configuration.learners_next),
            auto_leave=configuration.auto_leave,
            progress={member: progress.copy() for member, progress in self._progress.items()},
        )

    @staticmethod
    def _finish(draft: _Draft) -> tuple[Configuration, dict[int, Progress]]:
        configuration = Configuration(
            voters=JointConfig(
                MajorityConfig.of(draft.incoming), MajorityConfig.of(draft.outgoing)
            ),
            learners=frozenset(draft.learners),
            learners_next=frozenset(draft.learners_next),
            auto_leave=draft.auto_leave,
        )
        _check(configuration, draft.progress)
        return configuration, {member: draft.progress[member] for member in sorted(draft.progress)}

    def _apply(self, draft: _Draft, changes: Iterable[ConfChangeSingle]) -> None:
        for change in changes:
            member = change.node_id
            if member == NONE:
                continue  # the leader replaced the operation by one that does nothing
            match change.type:
                case ConfChangeType.ADD_NODE:
                    self._make_voter(draft, member)
                case ConfChangeType.ADD_LEARNER_NODE:
                    self._make_learner(draft, member)
                case ConfChangeType.REMOVE_NODE:
                    self._remove(draft, member)
                case ConfChangeType.UPDATE_NODE:
                    pass  # it is about what the context says, not about the configuration
        if not draft.incoming:
            raise ConfChangeError("removed all voters")

    def _make_voter(self, draft: _Draft, member: int) -> None:
        progress = draft.progress.get(member)
        if progress is None:
            draft.progress[member] = self._new_progress(is_learner=False)
        else:
            progress.is_learner = False
            draft.learners.discard(member)
            draft.learners_next.discard(member)
        draft.incoming.add(member)

    def _make_learner(self, draft: _Draft, member: int) -> None:
        progress = draft.progress.get(member)
        if progress is None:
            draft.progress[member] = self._new_progress(is_learner=True)
            draft.learners.add(member)
            return
        if progress.is_learner:
            return
        self._remove(draft, member)
        draft.progress[member] = progress
        if member in draft.outgoing:
            draft.learners_next.add(member)
        else:
            progress.is_learner = True
            draft.learners.add(member)

    @staticmethod
    def _remove(draft: _Draft, member: int) -> None:
        draft.incoming.discard(member)
        draft.learners.discard(member)
        draft.learners_next.discard(member)
        if member not in draft.outgoing:
            draft.progress.pop(member, None)

    def _new_progress(self, *, is_learner: bool) -> Progress:
        # Active from the start: otherwise the leader could step down at the next check of the
        # quorum, before the new member had a chance to answer.
        return Progress(
            match=0,
            next=max(self._last_index, 1),
            inflights=Inflights(self._max_inflight_msgs, self._max_inflight_bytes),
            is_learner=is_learner,
            recent_active=True,
        )


def _check(configuration: Configuration, progress: Mapping[int, Progress]) -> None:
    """Assert what holds between the parts of a configuration and its progress map."""
    voters = configuration.voters
    assert voters.ids | configuration.learners | configuration.learners_next == set(progress), (
        f"progress of {sorted(progress)} does not fit configuration {configuration}"
    )
    assert configuration.learners_next <= voters.outgoing.voters, str(configuration)
    assert not configuration.learners_next & voters.incoming.voters, str(configuration)
    assert not configuration.learners & voters.ids, str(configuration)
    for member, peer in progress.items():
        assert peer.is_learner == (member in configuration.learners), member
    if not voters.is_joint:
        assert not configuration.learners_next, str(configuration)
        assert not configuration.auto_leave, str(configuration)


def restore(
    conf_state: ConfState,
    *,
    last_index: int,
    max_inflight_msgs: int,
    max_inflight_bytes: int = 0,
) -> tuple[Configuration, dict[int, Progress]]:
    """The configuration and fresh progress map of a ConfState. ConfChangeError."""
    configuration, progress = Configuration(), dict[int, Progress]()

    def changer() -> Changer:
        return Changer(
            configuration,
            progress,
            last_index=last_index,
            max_inflight_msgs=max_inflight_msgs,
            max_inflight_bytes=max_inflight_bytes,
        )

    def operations(kind: ConfChangeType, members: Iterable[int]) -> list[ConfChangeSingle]:
        return [ConfChangeSingle(kind, member) for member in members]

    add, learn = ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE
    incoming = [
        *operations(add, conf_state.voters),
        *operations(learn, conf_state.learners),
    ]
    if not conf_state.voters_outgoing:
        one_by_one = incoming
    else:
        one_by_one = operations(add, conf_state.voters_outgoing)
    for operation in one_by_one:
        configuration, progress = changer().simple([operation])
    if conf_state.voters_outgoing:
        # The outgoing voters are taken out of the incoming half first: those that stay are added
        # again, the others remain as outgoing only.
        configuration, progress = changer().enter_joint(
            [
                *operations(ConfChangeType.REMOVE_NODE, conf_state.voters_outgoing),
                *incoming,
                *operations(learn, conf_state.learners_next),
            ],
            auto_leave=conf_state.auto_leave,
        )
    assert configuration.conf_state == conf_state, (
        f"restored {configuration.conf_state} from {conf_state}"
    )
    return configuration, progress
