"""Whole clusters with everything that goes wrong: 300 seeds that never change, 100 new ones, and
all that ever failed."""

import random
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.run import Outcome, simulate
from tests.simulation.seeds import Past, attempts, past

BLOCK = 25
FIXED_BLOCKS = 12
FRESH_BLOCKS = 4


def check(runner: ProcessPoolExecutor, seeds: range) -> None:
    outcomes = dict(attempts(runner, seeds))
    failed = {seed: found for seed, found in outcomes.items() if isinstance(found, str)}
    if failed:
        pytest.fail(
            f"seeds {', '.join(map(str, failed))}; the first:\n{next(iter(failed.values()))}"
        )
    ended = [found for found in outcomes.values() if isinstance(found, Outcome)]
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


@pytest.mark.parametrize("case", past(), ids=lambda case: str(case.seed))
def test_past_failures_stay_mended(case: Past) -> None:
    """What failed once does not fail again."""
    simulate(case.seed, case.steps, case.off)
