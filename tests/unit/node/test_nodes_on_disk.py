"""Members whose logs are real segments on disk."""

import pytest

from kingbus.node.machine import Log
from kingbus.storage.log import LogStore
from tests.support.memory_node import loopback_cluster

pytestmark = pytest.mark.slow

SEGMENT_BYTES = 1 << 20


@pytest.fixture
def make_log(tmp_path):
    def make(name, _disk) -> Log:
        return LogStore.open(
            tmp_path / name, segment_bytes=SEGMENT_BYTES, reserve_bytes=64 * SEGMENT_BYTES
        )

    return make


async def propose(member, entries):
    for data in entries:
        proposal = await member.node.propose(data)
    await proposal.applied()


async def test_a_cluster_lives_on_its_segments(make_log):
    """Through a leader's end, a full restart and over many segments nothing is lost or changed."""
    first = [b"%07d" % number * 1000 for number in range(500)]
    second = [b"second %d" % number for number in range(200)]
    async with loopback_cluster("a", "b", "c", make_log=make_log) as cluster:
        leader = await cluster.elect("a")
        await propose(leader, first)
        await leader.stop()
        await propose(await cluster.wait_leader(other_than="a"), second)
        for member in list(cluster.running()):
            await member.stop()
        for name in "abc":
            await cluster.restart(name)
        await propose(await cluster.wait_leader(), [b"last"])
        await cluster.wait_equal("a", "b", "c")

        assert cluster.members["a"].machine.data == [*first, *second, b"last"]
        assert len(list(cluster.members["a"].log._segments)) > 3


async def test_a_state_behind_the_log_is_applied_again(make_log):
    """What the database forgot in a crash is applied anew from the log, the members included."""
    async with loopback_cluster("a", "b", "c", make_log=make_log) as cluster:
        leader = await cluster.elect("a")
        await propose(leader, [b"%d" % number for number in range(20)])
        await cluster.wait_equal("b")
        await cluster.members["b"].stop()
        disk = cluster.disks["b"]
        disk.applied_index, disk.applied, disk.members = 0, [], None
        await cluster.restart("b")
        await cluster.wait_equal("a", "b", "c")

        assert cluster.members["b"].node.cluster == leader.node.cluster
