"""Clusters of real members on a mock clock: seeds that never change, new ones, all that failed."""

import random
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.nodes.run import Outcome, simulate
from tests.simulation.nodes.seeds import Past, attempts, past

BLOCK = 12
FIXED_BLOCKS = 4
FRESH_BLOCKS = 1
REPEATED = (3, 6, 17, 22)
"""Of both kinds of machine, with a purge and with membership changes."""


def check(runner: ProcessPoolExecutor, seeds: range) -> None:
    outcomes = dict(attempts(runner, seeds))
    failed = {seed: found for seed, found in outcomes.items() if isinstance(found, str)}
    if failed:
        pytest.fail(
            f"seeds {', '.join(map(str, failed))}; the first:\n{next(iter(failed.values()))}"
        )
    ended = [found for found in outcomes.values() if isinstance(found, Outcome)]
    assert sum(found.transactions for found in ended) > 30 * len(ended), "little was committed"
    assert sum(found.received for found in ended) > 300 * len(ended), "little was received"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(FIXED_BLOCKS))
def test_fixed_seeds_keep_every_promise(runner: ProcessPoolExecutor, block: int) -> None:
    """No fault makes real members break an invariant, and without faults all gets done."""
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
    simulate(case.seed, case.seconds, case.off)


@pytest.mark.slow
def test_a_seed_gives_the_same_run_twice(runner: ProcessPoolExecutor) -> None:
    """Each line of the trace is the same again, in this process and in another one."""
    elsewhere = dict(attempts(runner, REPEATED, 5.0))
    for seed in REPEATED:
        found = elsewhere[seed]
        assert isinstance(found, Outcome), found
        assert simulate(seed, 5.0).digest == found.digest, f"seed {seed}"
