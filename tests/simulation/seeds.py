"""The runs that have failed before, and how many runs share the processors."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context

from tests.simulation.layer import Layer, Outcome, SimulationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One line of the file: what failed once, and must never again."""

    seed: int
    length: float
    off: tuple[str, ...]
    reason: str


def past(layer: Layer) -> list[Past]:
    """What stands in its file: seed, length, what was off (- for nothing), and what was wrong."""
    found = []
    for line in layer.seeds.read_text(encoding="utf-8").splitlines():
        facts, _, reason = line.partition("#")
        if facts.strip():
            seed, text, off = facts.split()
            length = type(layer.length)(text)
            names = () if off == "-" else tuple(off.split(","))
            found.append(Past(seed=int(seed), length=length, off=names, reason=reason.strip()))
    return found


def attempt(layer: Layer, seed: int, length: float) -> Outcome | str:
    """The outcome, or the report of the failure; it is sent between processes."""
    try:
        return layer.simulate(seed, length)
    except SimulationError as error:
        return str(error)


def pool() -> ProcessPoolExecutor:
    """One process for each processor that may be used.

    Not forked off this one: other tests have left threads here, of the database among them, and a
    lock that one of them holds at that moment would stay locked in the child for ever.
    """
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("forkserver"))


def attempts(
    runner: ProcessPoolExecutor, layer: Layer, seeds: Iterable[int], length: float
) -> Iterator[tuple[int, Outcome | str]]:
    """Each seed with what came of it, in the order of the seeds."""
    seeds = list(seeds)
    found = runner.map(attempt, repeat(layer), seeds, repeat(length))
    yield from zip(seeds, found, strict=True)


def outcomes(runner: ProcessPoolExecutor, layer: Layer, seeds: Iterable[int]) -> list[Outcome]:
    """Of all these at their usual length; an AssertionError with those that failed."""
    found = dict(attempts(runner, layer, seeds, layer.length))
    failed = {seed: report for seed, report in found.items() if isinstance(report, str)}
    assert not failed, (
        f"seeds {', '.join(map(str, failed))}; the first:\n{next(iter(failed.values()))}"
    )
    return [outcome for outcome in found.values() if isinstance(outcome, Outcome)]
