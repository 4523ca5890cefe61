"""Majorities and joint majorities against what the definition says."""

from hypothesis import given
from hypothesis import strategies as st

from kingbus.raft.quorum import INFINITE_INDEX, JointConfig, MajorityConfig, VoteResult

members = st.integers(1, 9)
configs = st.frozensets(members, max_size=7).map(MajorityConfig)
indexes = st.dictionaries(members, st.integers(0, 12))
votes = st.dictionaries(members, st.booleans())


def naive_committed(config: MajorityConfig, acknowledged: dict[int, int]) -> int:
    """The highest index at which more than half have acknowledged."""
    if not config.voters:
        return INFINITE_INDEX
    return max(
        index
        for index in (0, *acknowledged.values())
        if 2 * sum(acknowledged.get(voter, 0) >= index for voter in config) > len(config)
    )


@given(configs, indexes)
def test_committed_index_of_a_majority(
    config: MajorityConfig, acknowledged: dict[int, int]
) -> None:
    """It is the highest index that more than half acknowledged."""
    assert config.committed_index(acknowledged.get) == naive_committed(config, acknowledged)


@given(configs, configs, indexes)
def test_committed_index_of_two_majorities(
    incoming: MajorityConfig, outgoing: MajorityConfig, acknowledged: dict[int, int]
) -> None:
    """It is the highest index that both have; the halves may be swapped."""
    expected = min(naive_committed(incoming, acknowledged), naive_committed(outgoing, acknowledged))
    assert JointConfig(incoming, outgoing).committed_index(acknowledged.get) == expected
    assert JointConfig(outgoing, incoming).committed_index(acknowledged.get) == expected


@given(configs, votes)
def test_vote_of_a_majority(config: MajorityConfig, given_votes: dict[int, bool]) -> None:
    """Won or lost when the missing votes can no more change it, pending before."""
    granted = sum(given_votes.get(voter, False) for voter in config)
    refused = sum(not given_votes.get(voter, True) for voter in config)
    missing = len(config) - granted - refused
    result = config.vote_result(given_votes)
    if not config.voters or 2 * granted > len(config):
        assert result is VoteResult.WON
    elif 2 * (granted + missing) > len(config):
        assert result is VoteResult.PENDING
    else:
        assert result is VoteResult.LOST


@given(configs, configs, votes)
def test_vote_of_two_majorities(
    incoming: MajorityConfig, outgoing: MajorityConfig, given_votes: dict[int, bool]
) -> None:
    """Both must win; one that loses decides."""
    halves = {incoming.vote_result(given_votes), outgoing.vote_result(given_votes)}
    result = JointConfig(incoming, outgoing).vote_result(given_votes)
    if VoteResult.LOST in halves:
        assert result is VoteResult.LOST
    else:
        assert (result is VoteResult.WON) == (halves == {VoteResult.WON})
    assert JointConfig(outgoing, incoming).vote_result(given_votes) is result


@given(configs, votes)
def test_joint_with_itself_is_the_majority(
    config: MajorityConfig, given_votes: dict[int, bool]
) -> None:
    """A configuration that does not change decides as before."""
    assert JointConfig(config, config).vote_result(given_votes) is config.vote_result(given_votes)


@given(configs, configs)
def test_any_two_quorums_of_overlapping_configurations_meet(
    incoming: MajorityConfig, outgoing: MajorityConfig
) -> None:
    """Won by a set of voters means not won by the others alone."""
    config = JointConfig(incoming, outgoing)
    everybody = sorted(config.ids)
    for chosen in range(1 << min(len(everybody), 6)):
        inside = {voter: bool(chosen >> position & 1) for position, voter in enumerate(everybody)}
        outside = {voter: not vote for voter, vote in inside.items()}
        if everybody and config.vote_result(inside) is VoteResult.WON:
            assert config.vote_result(outside) is VoteResult.LOST


def test_text() -> None:
    """Ids in hexadecimal, halves joined by &&."""
    assert str(JointConfig(MajorityConfig.of((17, 2)), MajorityConfig.of((1,)))) == "(2 11)&&(1)"
    assert str(JointConfig(MajorityConfig.of((1,)))) == "(1)"
