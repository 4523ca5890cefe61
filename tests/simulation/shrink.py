"""Makes a failing run small: shorter, and of all that goes wrong only what is needed.

A run that fails otherwise than the first one does counts too as long as it fails in the same way:
by an assertion in the same phase.
"""

from collections.abc import Callable, Sequence

from kingbus.errors import ConfigError
from tests.simulation.layer import Again, Layer, SimulationError

SHARES = (0.25, 0.5, 0.75)


def failure_of(
    layer: Layer, seed: int, length: float, off: Sequence[str]
) -> SimulationError | None:
    """What the run ends with."""
    try:
        layer.simulate(seed, length, off)
    except SimulationError as error:
        return error
    except ConfigError:
        return None  # one option without the other: there is no such run
    return None


def shrink(
    layer: Layer,
    seed: int,
    length: float,
    off: Sequence[str] = (),
    *,
    report: Callable[[str], None] = lambda _: None,
) -> SimulationError | None:
    """The smallest failing run found; None when the first one does not fail."""
    first = failure_of(layer, seed, length, off)
    if first is None:
        return None

    def same(length: float, off: Sequence[str]) -> SimulationError | None:
        found = failure_of(layer, seed, length, off)
        return found if found is not None and found.kind == first.kind else None

    def shorter(error: SimulationError) -> SimulationError:
        found = layer.shorten(error, lambda length: same(length, error.off))
        if found.length < error.length:
            report(f"{found.length} {layer.unit} are enough")
        return found

    best = shorter(first)
    moved = True
    while moved:
        moved = False
        for name in layer.draw(seed).without(best.off).switchable():
            found = same(best.length, (*best.off, name))
            if found is not None:
                report(f"without {name}: fails at {found.where}")
                best, moved = shorter(found), True
    return best


def by_events(error: SimulationError, again: Again) -> SimulationError:
    """Down to the event that broke it; before a failure in the end, by halves."""
    if not error.is_calm:
        return again(error.events + 1) or error
    best = error
    low, high = 0, error.length
    while low < high:
        # Not monotonic: this finds some smaller number, not the smallest.
        middle = (low + high) // 2
        found = again(middle)
        if found is not None:
            best, high = found, middle
        else:
            low = middle + 1
    return best


def by_shares(error: SimulationError, again: Again) -> SimulationError:
    """To a share of the time, as often as one of them is enough."""
    for share in SHARES:
        found = again(round(error.length * share, 3))
        if found is not None:
            return by_shares(found, again)
    return error
