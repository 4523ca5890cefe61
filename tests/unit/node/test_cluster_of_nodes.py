"""Three members in one process over loopback TCP."""

import pytest
import trio

from tests.support.memory_node import eventually, loopback_cluster

pytestmark = pytest.mark.slow


async def test_a_proposal_reaches_every_member_in_order():
    """What the leader proposes is applied on all members, once, in the same order."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.wait_leader()
        for number in range(100):
            proposal = await leader.node.propose(b"entry %d" % number)
        await proposal.applied()
        await cluster.wait_equal("a", "b", "c")

        assert leader.machine.data == [b"entry %d" % number for number in range(100)]
