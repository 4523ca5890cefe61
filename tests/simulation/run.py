"""One seed from its draw to its end: what pytest and `scripts/simulate` both call."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.options import Options, draw
from tests.simulation.world import World

STEPS = 3000
"""Events with faults per seed: with 400 seeds the suite takes about two minutes on two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    seed: int
    digest: str
    events: int
    seconds: float
    """On the simulated clock."""
    committed: int
    transactions: int
    received: int


class SimulationError(AssertionError):
    """An invariant was broken; everything that is needed to see it again."""

    def __init__(self, world: World, *, steps: int, off: Sequence[str], error: Exception) -> None:
        self.seed, self.steps, self.off = world.seed, steps, tuple(off)
        self.events = world.events
        self.is_calm = world.is_calm
        self.reason = str(error) or repr(error)
        self.kind = f"{type(error).__name__} in the {'end' if world.is_calm else 'run'}"
        self.options = world.options
        self.last = tuple(map(str, world.last))
        super().__init__(self.report())

    @property
    def command(self) -> str:
        off = f" --off {','.join(self.off)}" if self.off else ""
        return f"scripts/simulate --seed {self.seed} --steps {self.steps}{off}"

    def report(self, events: int = 40) -> str:
        """Reason, options, last events, and the command that shows it again."""
        return "\n".join(
            (
                f"seed {self.seed}, event {self.events}: {self.reason}",
                f"options: {self.options}",
                "last events:",
                *self.last[-events:],
                f"again: {self.command}",
            )
        )


def simulate(seed: int, steps: int = STEPS, off: Sequence[str] = ()) -> Outcome:
    """Run a seed; SimulationError."""
    options = draw(seed).without(off)
    return simulate_with(seed, options, steps=steps, off=off)


def simulate_with(seed: int, options: Options, *, steps: int, off: Sequence[str] = ()) -> Outcome:
    """The same with other options than those of the seed."""
    world = World(seed, options)
    try:
        world.run(steps)
        world.recover()
    except Exception as error:
        raise SimulationError(world, steps=steps, off=off, error=error) from error
    return Outcome(
        seed=seed,
        digest=world.digest(),
        events=world.events,
        seconds=world.now / 1000,
        committed=world.checks.commit_max,
        transactions=world.checks.visible_count,
        received=sum(replica.received for replica in world.replicas),
    )
