"""Makes a failing run of the second layer small: less time, and only the faults that it needs."""

from collections.abc import Callable, Sequence

from tests.simulation.nodes.options import draw
from tests.simulation.nodes.run import SECONDS, NodeSimulationError, simulate

SHARES = (0.25, 0.5, 0.75)


def failure_of(seed: int, seconds: float, off: Sequence[str]) -> NodeSimulationError | None:
    """What the run ends with."""
    try:
        simulate(seed, seconds, off)
    except NodeSimulationError as error:
        return error
    return None


def shrink(
    seed: int,
    seconds: float = SECONDS,
    off: Sequence[str] = (),
    *,
    report: Callable[[str], None] = lambda _: None,
) -> NodeSimulationError | None:
    """The smallest failing run found; None when the first one does not fail."""
    best = failure_of(seed, seconds, off)
    if best is None:
        return None
    moved = True
    while moved:
        moved = False
        for share in SHARES:
            found = failure_of(seed, round(best.seconds * share, 3), best.off)
            if found is not None and found.kind == best.kind:
                report(f"{found.seconds:g} s are enough")
                best, moved = found, True
                break
        for name in draw(seed).without(best.off).switchable():
            found = failure_of(seed, best.seconds, (*best.off, name))
            if found is not None and found.kind == best.kind:
                report(f"without {name}: fails at {found.at:.3f} s")
                best, moved = found, True
    return best
