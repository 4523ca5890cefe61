"""One seed of the first layer from its draw to its end."""

from collections.abc import Sequence
from pathlib import Path

from tests.simulation.layer import Layer, Outcome, SimulationError
from tests.simulation.options import draw
from tests.simulation.shrink import by_events
from tests.simulation.world import World

STEPS = 3000
"""Events with faults per seed: with 400 seeds the suite takes about two minutes on two cores."""


def simulate(seed: int, steps: int = STEPS, off: Sequence[str] = ()) -> Outcome:
    """Run a seed; SimulationError."""
    world = World(seed, draw(seed).without(off))
    try:
        world.run(steps)
        world.recover()
    except Exception as error:
        raise SimulationError(CORES, world, steps, off, error) from error
    return Outcome(
        seed=seed,
        digest=world.digest(),
        events=world.events,
        seconds=world.now / 1000,
        committed=world.checks.commit_max,
        transactions=world.checks.visible_count,
        received=sum(replica.received for replica in world.replicas),
    )


CORES = Layer(
    name="cores",
    flag="steps",
    unit="events",
    length=STEPS,
    seeds=Path(__file__).with_name("seeds.txt"),
    draw=draw,
    simulate=simulate,
    shorten=by_events,
)
