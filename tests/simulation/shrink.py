"""Makes a failing run small: fewer events, and of all that goes wrong only what is needed.

A run that fails otherwise than the first one does counts too as long as it fails in the same way:
by an assertion in the same phase.
"""

from collections.abc import Callable, Sequence

from kingbus.errors import ConfigError
from tests.simulation.options import draw
from tests.simulation.run import STEPS, SimulationError, simulate

Report = Callable[[str], None]


def failure_of(seed: int, steps: int, off: Sequence[str]) -> SimulationError | None:
    """What the run ends with."""
    try:
        simulate(seed, steps, off)
    except SimulationError as error:
        return error
    except ConfigError:
        return None  # one option without the other: there is no such run
    return None


def shrink(
    seed: int, steps: int = STEPS, off: Sequence[str] = (), *, report: Report = lambda _: None
) -> SimulationError | None:
    """The smallest failing run found; None when the first one does not fail."""
    best = failure_of(seed, steps, off)
    if best is None:
        return None
    best = _shorter(best, report)
    moved = True
    while moved:
        moved = False
        for name in draw(seed).without(best.off).switchable():
            found = failure_of(seed, best.steps, (*best.off, name))
            if found is not None and found.kind == best.kind:
                report(f"without {name}: fails after {found.events} events")
                best = _shorter(found, report)
                moved = True
    return best


def _shorter(error: SimulationError, report: Report) -> SimulationError:
    """The same run with fewer events of the first phase."""
    if not error.is_calm:
        # It ends with the event that broke it.
        return failure_of(error.seed, error.events, error.off) or error
    best = error
    low, high = 0, error.steps
    while low < high:
        # Not monotonic: this finds some smaller number, not the smallest.
        middle = (low + high) // 2
        found = failure_of(error.seed, middle, error.off)
        if found is not None and found.kind == error.kind:
            report(f"{middle} events are enough")
            best, high = found, middle
        else:
            low = middle + 1
    return best
