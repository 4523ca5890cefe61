"""Two reports side by side: what got better, what got worse, what cannot be told apart. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmark.catalogue import row_named
from scripts.benchmark.figures import spread

TURNS_MIN = 3
"""Fewer values say nothing: two runs of the same program agree on an order half of the time."""

Results = Sequence[Mapping[str, Any]]


def compare(this: Results, other: Results, *, by_turn: bool) -> list[dict[str, Any]]:
    """A dictionary for each row that both have: `factor` is the other's value over this one's.

    Above 1 this one is better, as less is better in all units. With `by_turn` the factors are taken
    within each turn; otherwise (two runs, or kills) from the medians, and the two are told apart
    only if their values do not overlap.
    """
    theirs = {
        (part["workload"], row["measurement"]): row
        for part in other
        for row in part["measurements"]
    }
    found = []
    for part in this:
        for row in part["measurements"]:
            key = (part["workload"], row["measurement"])
            known = row_named(*key)
            if key not in theirs or known is None or known.is_reference:
                continue
            paired = by_turn and known.by_turn
            found.append({"workload": key[0], **_compared(row, theirs[key], paired=paired)})
    return found


def _compared(row: Mapping[str, Any], other: Mapping[str, Any], *, paired: bool) -> dict[str, Any]:
    mine, theirs = values_of(row), values_of(other)
    if paired and len(mine) == len(theirs):
        factors = [one / two for one, two in zip(theirs, mine, strict=True) if two]
    elif middle_of(row):
        factors = [middle_of(other) / middle_of(row)]
    else:
        factors = []
    compared: dict[str, Any] = {
        "measurement": row["measurement"],
        "unit": row.get("unit", "s"),
        "this": middle_of(row),
        "other": middle_of(other),
        "verdict": _verdict(mine, theirs, factors if paired else []),
    }
    if factors:
        seen = spread(factors)
        compared["factor"] = round(seen.median, 3)
        if len(factors) > 1:
            compared |= {"factor_low": round(seen.low, 3), "factor_high": round(seen.high, 3)}
    return compared


def _verdict(mine: Sequence[float], theirs: Sequence[float], factors: Sequence[float]) -> str:
    if min(len(mine), len(theirs)) < TURNS_MIN:
        return "too few turns"
    if factors:
        better, worse = min(factors) > 1, max(factors) < 1
    else:
        better, worse = max(mine) < min(theirs), min(mine) > max(theirs)
    return "better" if better else "worse" if worse else "no difference seen"


def values_of(row: Mapping[str, Any]) -> list[float]:
    """All values of a row; in an older report there is only the median."""
    return list(row.get("values", [middle_of(row)]))


def middle_of(row: Mapping[str, Any]) -> float:
    """The value that stands for a row."""
    return float(row["value"] if "value" in row else row["seconds"])
