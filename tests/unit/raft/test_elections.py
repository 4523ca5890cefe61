"""Elections: one leader a term, and who may become it.

The rules that etcd's data files do not prove each have a test here.
"""

import pytest

from kingbus.raft.ready import Role
from kingbus.raft.types import (
    ConfChange,
    ConfChangeType,
    Message,
    MessageType,
)
from tests.unit.raft.cluster import Cluster


def started(nodes: int = 3, **options: object) -> Cluster:
    """A cluster whose members have applied the first configuration."""
    cluster = Cluster(nodes=nodes, **options)
    cluster.settle()
    return cluster


def vote(type_: MessageType, to: int, from_: int, term: int, log: tuple[int, int]) -> Message:
    """A vote request for `term` by a node whose log ends in (term, index)."""
    return Message(type_, to, from_, term=term, log_term=log[0], index=log[1])


def answers(cluster: Cluster, from_: int) -> list[Message]:
    """What a node sends once its writes are durable."""
    cluster.storage_work([from_])
    return cluster.take(lambda message: message.from_ == from_)


def test_one_vote_a_term() -> None:
    """The second candidate of a term is refused, the first may ask again; a restart forgets
    neither.
    """
    cluster = started()
    cluster.step(vote(MessageType.VOTE, 1, 2, term=5, log=(1, 3)))
    assert [message.reject for message in answers(cluster, 1)] == [False]
    for _ in range(2):
        cluster.step(vote(MessageType.VOTE, 1, 3, term=5, log=(9, 9)))
        assert [message.reject for message in answers(cluster, 1)] == [True]
        cluster.step(vote(MessageType.VOTE, 1, 2, term=5, log=(1, 3)))
        assert [message.reject for message in answers(cluster, 1)] == [False]
        cluster.restart(cluster.hosts[1])


def test_a_node_that_knows_the_leader_of_a_term_does_not_vote_in_it() -> None:
    """Also when it has not voted: its vote would be for nothing."""
    cluster = started()
    cluster.step(Message(MessageType.HEARTBEAT, 1, 2, term=5))
    cluster.storage_work([1])
    cluster.pool.clear()
    cluster.step(vote(MessageType.VOTE, 1, 3, term=5, log=(9, 9)))
    assert [message.reject for message in answers(cluster, 1)] == [True]


def test_a_vote_waits_for_the_disk() -> None:
    """Nothing leaves before the vote is durable."""
    cluster = started()
    cluster.step(vote(MessageType.VOTE, 1, 2, term=5, log=(1, 3)))
    assert cluster.pool == []
    assert cluster.hosts[1].append_work[-1].vote == 2
    assert answers(cluster, 1)


def test_granting_a_vote_restarts_the_election_timer() -> None:
    """A node does not campaign against the candidate that it has just voted for."""
    cluster = started()
    cluster[1]._raft.randomized_election_timeout = 10
    cluster.tick(1, 9)
    cluster.step(vote(MessageType.VOTE, 1, 2, term=1, log=(1, 3)))
    cluster.tick(1, 9)
    assert cluster[1].role is Role.FOLLOWER


def test_only_the_first_answer_of_a_voter_counts() -> None:
    """A refusal is not overruled by a later grant, nor the other way round."""
    cluster = started(nodes=5)
    cluster[1].campaign()
    cluster.handle_readys(cluster.hosts[1])
    cluster.storage_work([1])
    for peer, reject in ((2, True), (2, False), (3, False), (3, False)):
        cluster.step(Message(MessageType.VOTE_RESP, 1, peer, term=2, reject=reject))
    assert cluster[1].role is Role.CANDIDATE
    cluster.step(Message(MessageType.VOTE_RESP, 1, 4, term=2))
    assert cluster[1].role is Role.LEADER


def test_the_own_vote_counts_when_it_is_durable() -> None:
    """A candidate of one asks its disk first."""
    cluster = started(nodes=1)
    cluster[1].campaign()
    cluster.handle_readys(cluster.hosts[1])
    assert cluster[1].role is Role.CANDIDATE
    cluster.storage_work()
    assert cluster[1].role is Role.LEADER


def test_pre_vote_of_a_lower_term_is_answered() -> None:
    """So that the asker learns of the term, and two such nodes do not wait for each other."""
    cluster = started(pre_vote=True)
    cluster.elect(1)
    cluster.step(vote(MessageType.PRE_VOTE, 2, 3, term=1, log=(1, 3)))
    (answer,) = answers(cluster, 2)
    assert (answer.type, answer.reject, answer.term) == (MessageType.PRE_VOTE_RESP, True, 2)


def test_pre_vote_changes_nothing() -> None:
    """Neither the asker's term nor the vote of whom it asks."""
    cluster = started(pre_vote=True)
    cluster[1].campaign()
    cluster.handle_readys(cluster.hosts[1])
    assert (cluster[1].role, cluster[1].term) == (Role.PRE_CANDIDATE, 1)
    cluster.storage_work()
    for message in cluster.take(lambda message: message.to == 2):
        cluster.step(message)
    assert (cluster[2].term, cluster[2].status().hard_state.vote) == (1, 0)


def test_a_learner_does_not_campaign() -> None:
    """Neither by time nor when told to; it may vote."""
    cluster = with_learner()
    cluster.tick(4, 50)
    cluster[4].campaign()
    cluster.step(Message(MessageType.TIMEOUT_NOW, 4, 1, term=cluster[4].term))
    assert cluster[4].role is Role.FOLLOWER
    assert cluster[4].is_learner
    cluster.step(vote(MessageType.VOTE, 4, 2, term=9, log=(9, 9)))
    assert [message.reject for message in answers(cluster, 4)] == [False]


def with_learner(**options: object) -> Cluster:
    """Three voters of which 1 leads, and 4 as learner."""
    cluster = Cluster(nodes=4, voters=3, **options)
    cluster.settle()
    cluster.elect(1)
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 4))
    cluster.settle()
    return cluster


def test_a_learner_does_not_hold_up_a_leader_without_quorum() -> None:
    """The leader that hears only a learner steps down."""
    cluster = with_learner(check_quorum=True)
    for _ in range(2):
        cluster.tick(1, 10)
        cluster.settle(1, 4)
    assert cluster[1].role is Role.FOLLOWER


def test_a_learner_does_not_make_a_majority() -> None:
    """Its acknowledgement commits nothing."""
    cluster = with_learner()
    index = cluster.propose(1, b"x", 1, 4)
    assert cluster[4].last_index == index
    assert cluster[1].committed < index
    cluster.tick(1)
    cluster.settle(1, 2)
    assert cluster[1].committed == index


def test_a_node_with_an_unapplied_conf_change_does_not_campaign() -> None:
    """It would count votes by a configuration that is over."""
    cluster = with_learner()
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_NODE, 4))
    cluster.handle_readys(cluster.hosts[1])
    for _ in range(10):
        for message in cluster.take(lambda message: True):
            cluster.step(message)
        for host in cluster.hosts.values():
            cluster.write(host)
    host = cluster.hosts[2]
    assert host.apply_work
    assert cluster[2].committed > cluster[2].applied
    cluster[2].campaign()
    assert cluster[2].role is Role.FOLLOWER
    cluster.apply(host)
    cluster[2].campaign()
    assert cluster[2].role is Role.CANDIDATE


def test_a_node_that_installs_a_snapshot_does_not_campaign() -> None:
    """Its log is not there yet."""
    cluster = started()
    cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"%d" % number, 1, 2)
    cluster.hosts[1].disk.compact(cluster[1].applied)
    cluster.tick(1)
    cluster.step(cluster.take(lambda m: m.to == 3 and m.type is MessageType.HEARTBEAT)[0])
    for message in cluster.take(lambda message: message.to == 1):
        cluster.step(message)
    for message in cluster.take(lambda message: message.to == 3):
        cluster.step(message)
    for message in answers(cluster, 3):
        cluster.step(message)
    (snapshot,) = cluster.take(lambda message: message.type is MessageType.SNAP)
    cluster.step(snapshot)
    cluster[3].campaign()
    cluster.tick(3, 50)
    assert cluster[3].role is Role.FOLLOWER
    cluster.storage_work([3])
    cluster.tick(3, 50)
    assert cluster[3].role is Role.CANDIDATE


def test_a_follower_of_a_live_leader_does_not_vote() -> None:
    """With check-quorum a member that cannot hear the leader cannot disturb it; when the lease is
    over it gets its votes.
    """
    cluster = started(check_quorum=True)
    cluster.elect(1)
    cluster.step(vote(MessageType.VOTE, 2, 3, term=9, log=(9, 9)))
    assert answers(cluster, 2) == []
    assert cluster[2].term == 2
    cluster.tick(2, 9)
    cluster.step(vote(MessageType.VOTE, 2, 3, term=9, log=(9, 9)))
    assert answers(cluster, 2) == []
    # One tick more, unless the node's own timeout is as short.
    cluster[2]._raft.randomized_election_timeout = 15
    cluster.tick(2, 1)
    cluster.step(vote(MessageType.VOTE, 2, 3, term=9, log=(9, 9)))
    assert [message.reject for message in answers(cluster, 2)] == [False]


def test_election_timeouts_are_random() -> None:
    """In [election_tick, 2 * election_tick), drawn anew with each role."""
    cluster = started()
    raft = cluster[1]._raft
    drawn = set()
    for _ in range(300):
        raft.become_follower(raft.term, 0)
        drawn.add(raft.randomized_election_timeout)
    assert drawn == set(range(10, 20))


def test_entries_of_older_terms_are_not_committed_by_counting() -> None:
    """The case of figure 8 in the paper: on a majority, and still not safe."""
    cluster = started(nodes=5, max_size_per_msg=0)  # one entry in a message
    cluster.elect(1)
    old = cluster.propose(1, b"old", 1, 2)
    cluster.restart(cluster.hosts[1])
    # Node 1 leads again, in a later term; of its messages only those with the old entry arrive.
    cluster[1].campaign()
    cluster.handle_readys(cluster.hosts[1])
    cluster.storage_work([1])
    cluster.pool.clear()
    term = cluster[1].term
    for peer in (4, 5):
        cluster.step(Message(MessageType.VOTE_RESP, 1, peer, term=term))
    leader = cluster[1]
    assert leader.role is Role.LEADER
    cluster.storage_work([1])
    for peer in (3, 4):
        cluster.step(Message(MessageType.APP_RESP, 1, peer, term=term, index=old))
    progress = [leader.progress(node) for node in (1, 3, 4)]
    assert all(peer is not None and peer.match >= old for peer in progress)
    assert leader.committed < old, "on a majority, but of an older term"
    for peer in (3, 4):
        cluster.step(Message(MessageType.APP_RESP, 1, peer, term=term, index=old + 1))
    assert leader.committed == old + 1


def test_a_leader_without_quorum_steps_down() -> None:
    """After an election timeout in which no majority answered."""
    cluster = started(check_quorum=True)
    cluster.elect(1)
    for _ in range(2):
        cluster.tick(1, 10)
        cluster.settle(1)
    assert cluster[1].role is Role.FOLLOWER
    assert cluster[1].leader_id == 0


@pytest.mark.parametrize("option", ["check_quorum", "pre_vote"])
def test_a_leader_of_a_lower_term_learns_of_the_higher_one(option: str) -> None:
    """A member with a higher term could not come back otherwise."""
    cluster = started(**{option: True})
    cluster.step(Message(MessageType.HEARTBEAT, 2, 1, term=7))
    cluster.storage_work()
    cluster.pool.clear()
    cluster.step(Message(MessageType.HEARTBEAT, 2, 3, term=3))
    (answer,) = answers(cluster, 2)
    assert (answer.type, answer.term, answer.to) == (MessageType.APP_RESP, 7, 3)


def test_a_leader_forgotten_frees_the_vote() -> None:
    """A follower that forgets its leader may grant a pre-vote at once."""
    cluster = started(check_quorum=True, pre_vote=True)
    cluster.elect(1)
    cluster[2].forget_leader()
    assert cluster[2].leader_id == 0
    cluster.step(vote(MessageType.PRE_VOTE, 2, 3, term=3, log=(9, 9)))
    assert [message.reject for message in answers(cluster, 2)] == [False]
