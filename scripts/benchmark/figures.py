"""From values to figures: medians and spreads, percentiles, ratios within a turn, targets met.

Pure: no clock, no files, no processes. The report is made of plain dictionaries, as it is written
to JSON; a key, once there, keeps its meaning, so that old reports can be read.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmark.catalogue import How, Row, floors_of, rows_of

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle of several values and the outermost two."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the nodes needed while something was measured; the memory of that node with the most."""

    anonymous_bytes: int = 0
    file_bytes: int = 0
    """Mapped files: the interpreter and its libraries, mostly."""
    page_cache_bytes: int = 0
    """What of its data directory lay in the page cache at the end."""
    cpu_seconds: float = 0.0
    """Of all nodes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value in its row's unit, and what it took, where that was looked at."""

    value: float
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a part carried: nothing, where bytes are not the point."""

    transactions: int = 0
    events: int = 0
    binlog_bytes: int = 0


@dataclass(slots=True)
class Series:
    """All values of one part by their names, one for each turn, in order."""

    values: dict[str, list[Value]] = field(default_factory=dict)

    def add(self, name: str, value: float, usage: Usage | None = None) -> None:
        """Record one more."""
        self.values.setdefault(name, []).append(Value(value=value, usage=usage))

    def plain(self, name: str) -> list[float]:
        """The bare values of a name; none if it was not measured."""
        return [each.value for each in self.values.get(name, [])]


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of at least one value."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest of the values that at least `share` (above 0, up to 1) of them do not pass."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values to take a percentile of")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def against(row: Row, own: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The row's values seen against those of its reference, turn by turn.

    Both were taken in the same turn: a slow minute of the machine slows both sides.
    """
    if len(own) != len(reference):
        raise ValueError(f"{row.name}: {len(own)} values, {len(reference)} of {row.reference}")
    pairs = list(zip(own, reference, strict=True))
    if row.how is How.SPEED:
        return [row.reads * other / mine for mine, other in pairs]
    if row.how is How.FACTOR:
        return [mine / other for mine, other in pairs]
    if row.how is How.ADDED:
        return [mine - other for mine, other in pairs]
    raise ValueError(f"{row.name} has no reference")


def is_met(row: Row, figure: float) -> bool:
    """Whether a figure is what the row's target asks for."""
    return figure >= row.target if row.how is How.SPEED else figure <= row.target


def summarize(part: str, series: Series, load: Load, *, turns: int) -> dict[str, Any]:
    """The report of one part: what it carried, and a dictionary for each of its rows."""
    result: dict[str, Any] = {"workload": part, "turns": turns}
    if load.binlog_bytes:
        result |= {
            "transactions": load.transactions,
            "events": load.events,
            "binlog_bytes": load.binlog_bytes,
            "bytes_per_transaction": round(load.binlog_bytes / load.transactions, 1),
        }
        ratio = _dump_to_mysqlbinlog(series)
        if ratio is not None:
            result["dump_to_mysqlbinlog_ratio"] = ratio
    rows = [_summary_of(part, row, series, load) for row in rows_of(part)]
    result["measurements"] = [row for row in rows if row is not None]
    return result


def _dump_to_mysqlbinlog(series: Series) -> float | None:
    fetched, dumped = series.plain("mysqlbinlog --raw"), series.plain("dump")
    if not fetched or not dumped:
        return None
    return round(statistics.median(fetched) / statistics.median(dumped), 3)


def _summary_of(part: str, row: Row, series: Series, load: Load) -> dict[str, Any] | None:
    recorded = series.values.get(row.source, [])
    if not recorded:
        return None
    own = [each.value for each in recorded]
    seen = spread(own)
    figure = seen.high if row.takes_longest else seen.median
    summary: dict[str, Any] = {
        "measurement": row.name,
        "unit": row.unit,
        "value": round(figure, 3),
        "low": round(seen.low, 3),
        "high": round(seen.high, 3),
        "values": [round(each, 4) for each in own],
    }
    if load.binlog_bytes and row.unit == "s":
        summary |= _rates(part, row, figure, load)
    if row.reference:
        others = series.plain(row.reference)
        if others:
            summary |= _judged_against(row, own, others)
    elif row.how is How.LIMIT:
        summary |= {"target": row.target, "met": is_met(row, figure)}
    usages = [each.usage for each in recorded if each.usage is not None]
    return summary | _usage(row, usages, load)


def _rates(part: str, row: Row, seconds: float, load: Load) -> dict[str, Any]:
    rates: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "mb_per_second": round(row.reads * load.binlog_bytes / seconds / MB, 1),
        "events_per_second": round(row.reads * load.events / seconds),
    }
    floors = [
        {
            "quantity": floor.quantity,
            "at_least": floor.at_least,
            "met": rates[floor.quantity] >= floor.at_least,
        }
        for floor in floors_of(part, row.name)
    ]
    return rates | ({"floors": floors} if floors else {})


def _judged_against(row: Row, own: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    seen = spread(against(row, own, others))
    name = "added" if row.how is How.ADDED else "ratio"
    return {
        "reference": row.reference,
        name: round(seen.median, 3),
        f"{name}_low": round(seen.low, 3),
        f"{name}_high": round(seen.high, 3),
        "target": row.target,
        "met": is_met(row, seen.median),
    }


def _usage(row: Row, usages: Sequence[Usage], load: Load) -> dict[str, Any]:
    if not usages:
        return {}
    told: dict[str, Any] = {
        "peak_anonymous_mb": round(max(each.anonymous_bytes for each in usages) / MB, 1),
        "peak_file_mb": round(max(each.file_bytes for each in usages) / MB, 1),
        "page_cache_mb": round(max(each.page_cache_bytes for each in usages) / MB, 1),
        "cpu_seconds": round(statistics.median(each.cpu_seconds for each in usages), 3),
    }
    if load.binlog_bytes and row.unit == "s":
        carried = row.reads * load.binlog_bytes / MB
        told["cpu_ms_per_mb"] = round(told["cpu_seconds"] * 1000 / carried, 3)
    return told


def peaks(parts: Iterable[Series]) -> Series:
    """The highest anonymous memory of a node in each measurement of a run, in MB."""
    found = Series()
    for series in parts:
        for values in series.values.values():
            usages = [each.usage for each in values if each.usage is not None]
            if usages:
                most = max(each.anonymous_bytes for each in usages)
                found.add(rows_of("memory")[0].source, most / MB)
    return found


def delays(sent: Mapping[int, float], arrived: Mapping[int, float]) -> list[float]:
    """Seconds from sending to arrival of each transaction that came, matched by their numbers."""
    return [arrived[number] - at for number, at in sent.items() if number in arrived]


def silence(
    sent: Mapping[int, float], arrived: Mapping[int, float], *, killed: float, dead: float
) -> float | None:
    """Seconds from a kill to the arrival of the first transaction that was sent after the death.

    None while none has come. What was sent before may still be on its way, and proves nothing.
    """
    after = [at for number, at in arrived.items() if sent.get(number, dead) > dead]
    return min(after) - killed if after else None


def number_of(gtid: str) -> int:
    """The last transaction number of a GTID or of a set with one uuid and one interval."""
    return int(gtid.rpartition(":")[2].rpartition("-")[2])
