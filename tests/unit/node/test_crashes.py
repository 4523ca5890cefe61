"""Members crash and come back at random while the leader proposes."""

import random
from contextlib import suppress

import pytest
import trio

from kingbus.node.errors import NodeError
from kingbus.raft.errors import ProposalDroppedError
from tests.support.memory_node import loopback_cluster

pytestmark = pytest.mark.slow

CRASHES = 6


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_acknowledged_is_lost(seed):
    """Whatever was acknowledged is applied on every member in the end, in one order, once."""
    choose = random.Random(seed)
    acknowledged = []
    finished = trio.Event()

    async with loopback_cluster("a", "b", "c") as cluster:
        await cluster.elect("a")

        async def write():
            number = 0
            while not finished.is_set():
                number += 1
                leader = await cluster.wait_leader()
                with suppress(NodeError, ProposalDroppedError):
                    data = b"%d" % number
                    await (await leader.node.propose(data)).applied()
                    acknowledged.append(data)

        async def crash():
            for _ in range(CRASHES):
                count = len(acknowledged)
                await cluster.until(lambda count=count: len(acknowledged) > count + 5)
                name = choose.choice("abc")
                await cluster.members[name].stop()
                if choose.random() < 0.5:
                    await cluster.wait_leader()
                await cluster.restart(name)
            finished.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await crash()
        await cluster.wait_equal("a", "b", "c")
        applied = cluster.members["a"].machine.data

        assert len(acknowledged) > 5 * CRASHES
        assert len(set(applied)) == len(applied)
        assert set(acknowledged) <= set(applied)
        kept = set(acknowledged)
        assert [data for data in applied if data in kept] == acknowledged
