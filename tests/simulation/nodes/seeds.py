"""Runs of the second layer: those that failed before, and many at a time."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.nodes.run import SECONDS, NodeSimulationError, Outcome, simulate

PAST = Path(__file__).with_name("seeds.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One line of the file: what failed once, and must never again."""

    seed: int
    seconds: float
    off: tuple[str, ...]
    reason: str


def past() -> list[Past]:
    """What stands in the file: seed, seconds, what was off (- for nothing), and what was wrong."""
    found = []
    for line in PAST.read_text(encoding="utf-8").splitlines():
        facts, _, reason = line.partition("#")
        if facts.strip():
            seed, seconds, off = facts.split()
            names = () if off == "-" else tuple(off.split(","))
            found.append(
                Past(seed=int(seed), seconds=float(seconds), off=names, reason=reason.strip())
            )
    return found


def attempt(seed: int, seconds: float = SECONDS) -> Outcome | str:
    """The outcome, or the report of the failure; it is sent between processes."""
    try:
        return simulate(seed, seconds)
    except NodeSimulationError as error:
        return str(error)


def attempts(
    runner: ProcessPoolExecutor, seeds: Iterable[int], seconds: float = SECONDS
) -> Iterator[tuple[int, Outcome | str]]:
    """Each seed with what came of it, in the order of the seeds."""
    seeds = list(seeds)
    yield from zip(seeds, runner.map(attempt, seeds, [seconds] * len(seeds)), strict=True)
