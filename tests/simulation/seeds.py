"""The runs that have failed before, and how many runs share the processors."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.run import STEPS, Outcome, SimulationError, simulate

PAST = Path(__file__).with_name("seeds.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One line of the file: what failed once, and must never again."""

    seed: int
    steps: int
    off: tuple[str, ...]
    reason: str


def past() -> list[Past]:
    """What stands in the file: seed, steps, what was off (- for nothing), and what was wrong."""
    found = []
    for line in PAST.read_text(encoding="utf-8").splitlines():
        facts, _, reason = line.partition("#")
        if facts.strip():
            seed, steps, off = facts.split()
            names = () if off == "-" else tuple(off.split(","))
            found.append(Past(seed=int(seed), steps=int(steps), off=names, reason=reason.strip()))
    return found


def attempt(seed: int, steps: int = STEPS) -> Outcome | str:
    """The outcome, or the report of the failure; it is sent between processes."""
    try:
        return simulate(seed, steps)
    except SimulationError as error:
        return str(error)


def pool() -> ProcessPoolExecutor:
    """One process for each processor that may be used.

    Not forked off this one: other tests have left threads here, of the database among them, and a
    lock that one of them holds at that moment would stay locked in the child for ever.
    """
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("forkserver"))


def attempts(
    runner: ProcessPoolExecutor, seeds: Iterable[int], steps: int = STEPS
) -> Iterator[tuple[int, Outcome | str]]:
    """Each seed with what came of it, in the order of the seeds."""
    seeds = list(seeds)
    yield from zip(seeds, runner.map(attempt, seeds, [steps] * len(seeds)), strict=True)
