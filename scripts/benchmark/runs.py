"""What all parts of a run share: what they record, whose turn it is, what is told meanwhile."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from scripts.benchmark.figures import Load, Series

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Measured:
    """One part's values of each product, by its name; references stand with every product."""

    part: str
    series: dict[str, Series]
    load: Load = field(default_factory=Load)

    def tell(self, turn: int) -> None:
        """Print the last value of everything."""
        for product, series in self.series.items():
            told = ", ".join(f"{name} {each[-1].value:.2f}" for name, each in series.values.items())
            say(f"{self.part}: turn {turn + 1}: {product}: {told}")


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def settle() -> None:
    """Have everything written that is waiting, so that nobody pays for what came before."""
    os.sync()


def in_turn(things: Sequence[T], turn: int) -> list[T]:
    """Forwards and backwards, turn by turn: none always comes first."""
    return list(things) if turn % 2 == 0 else list(reversed(things))


def shared_out(count: int, turns: int) -> list[int]:
    """A count divided among turns as evenly as it goes, the first ones getting more."""
    each, more = divmod(count, turns)
    return [each + (turn < more) for turn in range(turns)]
