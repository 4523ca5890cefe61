"""Whole clusters with everything that goes wrong: 300 seeds that never change, 100 new ones, and
all that ever failed in either layer."""

import random
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.layer import Layer
from tests.simulation.nodes.run import NODES
from tests.simulation.run import CORES
from tests.simulation.seeds import Past, outcomes, past

BLOCK = 25
FIXED_BLOCKS = 12
FRESH_BLOCKS = 4


def check(runner: ProcessPoolExecutor, seeds: range) -> None:
    ended = outcomes(runner, CORES, seeds)
    assert sum(found.committed for found in ended) > 50 * len(ended), "little was committed"
    assert sum(found.received for found in ended) > 50 * len(ended), "little was received"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(FIXED_BLOCKS))
def test_fixed_seeds_keep_every_promise(runner: ProcessPoolExecutor, block: int) -> None:
    """No event breaks an invariant, and without faults the cluster gets everything done."""
    check(runner, range(block * BLOCK, (block + 1) * BLOCK))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(FRESH_BLOCKS))
def test_fresh_seeds_keep_every_promise(runner: ProcessPoolExecutor, block: int) -> None:
    """The same for seeds that nobody has seen; a failure names its seed."""
    first = random.SystemRandom().randrange(10**9, 10**12)
    check(runner, range(first, first + BLOCK))


@pytest.mark.parametrize(
    ("layer", "case"),
    [(layer, case) for layer in (CORES, NODES) for case in past(layer)],
    ids=lambda each: each.name if isinstance(each, Layer) else str(each.seed),
)
def test_past_failures_stay_mended(layer: Layer, case: Past) -> None:
    """What failed once, in either layer, does not fail again."""
    layer.simulate(case.seed, case.length, case.off)
