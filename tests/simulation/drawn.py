"""What the options of every layer are: a swarm of faults, and fields with a default.

Most faults are off in most runs: together they would drown each other, and a run in which nothing
but one thing goes wrong finds other defects than one in which everything does.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

Faults = dict[str, tuple[float, float, float]]
"""By name: how likely a seed has it at all, and the shortest and longest mean time between two, in
milliseconds of the simulated clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnOptions:
    """All that a run is drawn from, but for the draws during the run itself."""

    known: ClassVar[Faults]
    faults: dict[str, float] = field(default_factory=dict)
    """Mean milliseconds between two of a kind; what is not in it does not happen."""

    def _changed(self) -> dict[str, Any]:
        """The other fields that are not at their default."""
        calm = type(self)()
        names = [each.name for each in fields(self) if each.name != "faults"]
        found = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value != getattr(calm, name)}

    def without(self, names: Iterable[str]) -> Self:
        """These switched off: a fault, or a field put back to its default; ValueError."""
        changed, calm = self, type(self)()
        for name in names:
            if name in self.known:
                kept = {key: rate for key, rate in changed.faults.items() if key != name}
                changed = replace(changed, faults=kept)
            elif name != "faults" and name in {each.name for each in fields(self)}:
                changed = replace(changed, **{name: getattr(calm, name)})
            else:
                raise ValueError(f"there is nothing called {name!r} to be switched off")
        return changed

    def switchable(self) -> list[str]:
        """Everything here that can still be switched off."""
        return [*self.faults, *self._changed()]

    def __str__(self) -> str:
        changed = [f"{name}={value}" for name, value in self._changed().items()]
        return " ".join([*changed, *(f"{name}~{ms:.0f}ms" for name, ms in self.faults.items())])


def draw_faults(rng: random.Random, known: Faults) -> dict[str, float]:
    return {
        name: rng.uniform(shortest, longest)
        for name, (chance, shortest, longest) in known.items()
        if rng.random() < chance
    }
