"""A cluster in memory as the tests of single rules use it; tests/simulation has the faults."""

import pytest

from tests.unit.raft.cluster import Cluster


@pytest.mark.parametrize("options", [{}, {"pre_vote": True, "check_quorum": True}])
def test_three_nodes_elect_replicate_and_survive_a_crash(options: dict[str, bool]) -> None:
    """What is acknowledged stays, whoever leads; a restarted node catches up."""
    cluster = Cluster(nodes=3, **options)
    cluster.settle()
    cluster.elect(1)
    indexes = [cluster.propose(1, b"%d" % number) for number in range(20)]
    assert {cluster[node].applied for node in (1, 2, 3)} == {indexes[-1]}

    cluster.restart(cluster.hosts[1])
    leader = cluster.wait_for_leader(2, 3)
    last = cluster.propose(leader, b"without 1", 2, 3)
    for _ in range(3):
        cluster.tick(leader)
        cluster.settle()
    assert {cluster[node].applied for node in (1, 2, 3)} == {last}
    assert [cluster.applied[index][2] for index in indexes] == [b"%d" % n for n in range(20)]
