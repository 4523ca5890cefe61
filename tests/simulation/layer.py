"""What a layer of the simulator is, what comes of one of its runs, and how a run fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulation.drawn import DrawnOptions


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
    counts: dict[str, int] = field(default_factory=dict)
    """How often each kind of line stands in the trace, where that is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What pytest and `scripts/simulate` run; all of it can be sent to another process."""

    name: str
    flag: str
    """What names the length of a run on the command line."""
    unit: str
    """What the length counts: an int of events, or a float of simulated seconds."""
    length: float
    """Of the phase with faults, unless it is told."""
    seeds: Path
    """The file of the runs that failed once."""
    draw: Callable[[int], DrawnOptions]
    simulate: Callable[..., Outcome]
    """Runs a seed, for how long, and without what; SimulationError."""
    shorten: "Callable[[SimulationError, Again], SimulationError]"
    """Finds a shorter run that fails like this one; this one when there is none."""


class SimulationError(AssertionError):
    """A promise was broken; everything that is needed to see it again."""

    def __init__(
        self, layer: Layer, world: Any, length: float, off: Sequence[str], error: BaseException
    ) -> None:
        self.layer, self.seed, self.length, self.off = layer, world.seed, length, tuple(off)
        self.events = world.events
        self.where: str = world.where
        self.is_calm = world.is_calm
        self.reason = str(error) or repr(error)
        self.kind = f"{type(error).__name__} in the {'end' if world.is_calm else 'run'}"
        self.options = world.options
        self.last = tuple(map(str, world.last))
        super().__init__(self.report())

    @property
    def command(self) -> str:
        off = f" --off {','.join(self.off)}" if self.off else ""
        run = f"--layer {self.layer.name} --seed {self.seed} --{self.layer.flag} {self.length}"
        return f"scripts/simulate {run}{off}"

    def report(self, events: int = 40) -> str:
        """Reason, options, last events, and the command that shows it again."""
        return "\n".join(
            (
                f"seed {self.seed}, {self.where}: {self.reason}",
                f"options: {self.options}",
                "last events:",
                *self.last[-events:],
                f"again: {self.command}",
            )
        )


Again = Callable[[float], SimulationError | None]
"""The same run of another length: how it fails, if it does in the same way."""
