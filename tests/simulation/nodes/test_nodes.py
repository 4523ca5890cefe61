"""Clusters of real members on a mock clock: seeds that never change, and new ones."""

import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.layer import Outcome
from tests.simulation.nodes.options import FAULTS, draw
from tests.simulation.nodes.run import NODES, simulate
from tests.simulation.seeds import attempts, outcomes

BLOCK = 12
FIXED_BLOCKS = 4
FRESH_BLOCKS = 1
REPEATED = (3, 6, 17, 22)
"""Of both kinds of machine, with a purge and with membership changes."""


FIXED = range(FIXED_BLOCKS * BLOCK)
RARE = ("cut", "ended", "installs", "leads", "refused", "removed")
"""What every block of fixed seeds has to reach: the log is cut, a snapshot installed, ..."""


def check(runner: ProcessPoolExecutor, seeds: range) -> Counter[str]:
    ended = outcomes(runner, NODES, seeds)
    assert sum(found.transactions for found in ended) > 30 * len(ended), "little was committed"
    assert sum(found.received for found in ended) > 300 * len(ended), "little was received"
    return sum((Counter(found.counts) for found in ended), Counter())


@pytest.mark.slow
@pytest.mark.parametrize("block", range(FIXED_BLOCKS))
def test_fixed_seeds_keep_every_promise(runner: ProcessPoolExecutor, block: int) -> None:
    """No fault makes real members break an invariant, and without faults all gets done."""
    reached = check(runner, FIXED[block * BLOCK : (block + 1) * BLOCK])
    assert not [what for what in RARE if not reached[what]], reached


def test_every_fault_is_drawn() -> None:
    """The fixed seeds know all that can go wrong, on both kinds of machine."""
    options = [draw(seed) for seed in FIXED]
    for fault in FAULTS:
        assert sum(fault in each.faults for each in options) >= 3, fault
    for kind in (True, False):
        assert sum(each.volatile is kind for each in options) >= 10
        assert sum(each.forms is kind for each in options) >= 10
    assert {each.voters for each in options} == {1, 3, 4, 5}


@pytest.mark.slow
@pytest.mark.parametrize("block", range(FRESH_BLOCKS))
def test_fresh_seeds_keep_every_promise(runner: ProcessPoolExecutor, block: int) -> None:
    """The same for seeds that nobody has seen; a failure names its seed."""
    first = random.SystemRandom().randrange(10**9, 10**12)
    check(runner, range(first, first + BLOCK))


@pytest.mark.slow
def test_a_seed_gives_the_same_run_twice(runner: ProcessPoolExecutor) -> None:
    """Each line of the trace is the same again, in this process and in another one."""
    elsewhere = dict(attempts(runner, NODES, REPEATED, 5.0))
    for seed in REPEATED:
        found = elsewhere[seed]
        assert isinstance(found, Outcome), found
        assert simulate(seed, 5.0).digest == found.digest, f"seed {seed}"
