"""Configuration changes: any sequence keeps the invariants, and a ConfState says all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.raft.confchange import Changer, Configuration, restore
from kingbus.raft.errors import ConfChangeError
from kingbus.raft.progress import Progress, describe_progress
from kingbus.raft.types import (
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
)

singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(0, 5))
changes = st.builds(
    ConfChangeV2, st.sampled_from(ConfChangeTransition), st.lists(singles, max_size=4).map(tuple)
)


def changer(configuration: Configuration, progress: dict[int, Progress]) -> Changer:
    return Changer(configuration, progress, last_index=10, max_inflight_msgs=4)


@given(st.lists(changes, max_size=8))
def test_any_sequence_of_changes(sequence: list[ConfChangeV2]) -> None:
    """A change works as a whole or leaves no trace; two configurations that follow each other share
    a voter in any pair of their quorums; a ConfState restores to the same configuration.
    """
    configuration, progress = restore(ConfState((1, 2, 3)), last_index=10, max_inflight_msgs=4)
    for change in sequence:
        before = (str(configuration), describe_progress(progress))
        try:
            changed = changer(configuration, progress).change(change)
        except ConfChangeError:
            assert (str(configuration), describe_progress(progress)) == before
            continue
        assert (str(configuration), describe_progress(progress)) == before
        old, (configuration, progress) = configuration, changed
        assert configuration.voters.incoming.voters
        if not old.voters.is_joint and not configuration.voters.is_joint:
            difference = old.voters.incoming.voters ^ configuration.voters.incoming.voters
            assert len(difference) <= 1
        elif configuration.voters.is_joint:
            assert configuration.voters.outgoing == old.voters.incoming
        else:
            assert configuration.voters.incoming == old.voters.incoming
        assert list(progress) == sorted(progress)
        restored, fresh = restore(configuration.conf_state, last_index=10, max_inflight_msgs=4)
        assert restored == configuration
        assert {member: peer.is_learner for member, peer in fresh.items()} == {
            member: peer.is_learner for member, peer in progress.items()
        }


def test_progress_of_those_who_stay_is_kept() -> None:
    """Only new members begin anew, and they count as active until the next check."""
    configuration, progress = restore(ConfState((1, 2)), last_index=10, max_inflight_msgs=4)
    progress[2].maybe_update(7)
    progress[2].recent_active = False
    add = ConfChangeV2(changes=(ConfChangeSingle(ConfChangeType.ADD_NODE, 3),))
    configuration, progress = changer(configuration, progress).change(add)
    assert (progress[2].match, progress[2].recent_active) == (7, False)
    assert (progress[3].match, progress[3].next, progress[3].recent_active) == (0, 10, True)


@pytest.mark.parametrize(
    ("conf_state", "change", "message"),
    [
        (ConfState((1,)), ConfChangeV2(), "can't leave a non-joint config"),
        (
            ConfState((1, 2), voters_outgoing=(1,)),
            ConfChangeV2(changes=(ConfChangeSingle(ConfChangeType.ADD_NODE, 3),)),
            "can't apply simple config change in joint config",
        ),
        (
            ConfState((1, 2), voters_outgoing=(1,)),
            ConfChangeV2(ConfChangeTransition.JOINT_EXPLICIT),
            "config is already joint",
        ),
        (ConfState(), ConfChangeV2(ConfChangeTransition.JOINT_EXPLICIT), "zero-voter"),
    ],
)
def test_impossible_changes(conf_state: ConfState, change: ConfChangeV2, message: str) -> None:
    """Each is refused with its reason."""
    configuration, progress = restore(conf_state, last_index=10, max_inflight_msgs=4)
    with pytest.raises(ConfChangeError, match=message):
        changer(configuration, progress).change(change)
