"""Whole clusters under faults drawn from seeds; a failing seed replays exactly."""

import pytest

from tests.unit.raft.cluster import Cluster
from tests.unit.raft.simulation import simulate, trace


@pytest.mark.parametrize("seed", range(40))
def test_safety_and_recovery(seed: int) -> None:
    """No step breaks a promise, and without faults the cluster gets going again."""
    simulate(seed, 1200)


def test_a_seed_replays_exactly() -> None:
    """The same inputs give the same outputs."""
    assert trace(7, 1500) == trace(7, 1500)
    assert trace(7, 1500) != trace(8, 1500)


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
