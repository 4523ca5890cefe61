"""The report as text. Pure; reads what `figures` and `comparison` made, older reports too."""

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmark.catalogue import How, row_named
from scripts.benchmark.comparison import middle_of

HEAD = (
    *("", "median", "low", "high", "MB/s", "events/s", "against", "target", ""),
    *("anon MB", "cache MB", "CPU ms/MB"),
)
COMPARISON_HEAD = ("", "this", "other", "unit", "factor", "low", "high", "")
LEGEND = """\
median, low, high: of the turns, in the unit behind the name. "against": how many times as fast as
the reference (target ≥), or what is added to it (+ ≤), or how many times as long (times ≤).
Reference: mysqlbinlog --raw for ingest, the source's own dump for dumps, one reader for several,
the same reader at the source for latency. "anon": highest anonymous memory of a node; "cache": its
data in the page cache at the end; CPU: of all nodes, for each MB of binary log carried."""


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right.

    A row with a single cell stands across the columns.
    """
    wide = [line for line in lines if len(line) > 1]
    widths = [max(len(line[i]) for line in wide) for i in range(len(wide[0]))] if wide else []
    text = []
    for line in lines:
        if len(line) == 1:
            text.append(line[0])
            continue
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    return text


def report_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of one report, its legend behind it."""
    lines: list[Sequence[str]] = [HEAD]
    for part in results:
        title = part["workload"]
        if "transactions" in part:
            title += (
                f": {part['transactions']} transactions,"
                f" {part['bytes_per_transaction']:.0f} bytes each"
            )
        lines.append((title,))
        lines += [_cells(part["workload"], row) for row in part["measurements"]]
        lines += [
            (f"  {row['measurement']}: {_floor(floor, row)}",)
            for row in part["measurements"]
            for floor in row.get("floors", ())
        ]
    return [*aligned(lines), *LEGEND.splitlines()]


def _floor(floor: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    unit = str(floor["quantity"]).replace("_per_second", "/s").replace("mb/", "MB/")
    return (
        f"{row[floor['quantity']]:.0f} {unit}, at least {floor['at_least']:.0f} wanted on two"
        f" cores: {met_word(floor['met'])}"
    )


def _cells(part: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    known = row_named(part, row["measurement"])
    seen = row.get("ratio", row.get("added"))
    # An older report has no unit and no word on whether its target was met.
    unit = row.get("unit", "s")
    sign = known.how.value if known is not None else How.SPEED.value
    return (
        f"  {row['measurement']} ({unit})",
        number(middle_of(row)),
        number(row.get("low")),
        number(row.get("high")),
        number(row.get("mb_per_second")),
        str(row.get("events_per_second", "")),
        number(seen),
        f"{sign} {number(row['target'])}" if "target" in row else "",
        met_word(row["met"]) if "met" in row else "",
        number(row.get("peak_anonymous_mb")),
        number(row.get("page_cache_mb")),
        number(row.get("cpu_ms_per_mb")),
    )


def comparison_lines(rows: Sequence[Mapping[str, Any]], this: str, other: str) -> list[str]:
    """The table of a comparison."""
    lines: list[Sequence[str]] = [
        (f"this: {this}; other: {other}; factor: other over this, above 1 this is better",),
        COMPARISON_HEAD,
    ]
    part = None
    for row in rows:
        if row["workload"] != part:
            part = row["workload"]
            lines.append((part,))
        lines.append(
            (
                f"  {row['measurement']}",
                number(row["this"]),
                number(row["other"]),
                row["unit"],
                number(row.get("factor")),
                number(row.get("factor_low")),
                number(row.get("factor_high")),
                row["verdict"],
            )
        )
    return aligned(lines)


def met_word(is_met: bool) -> str:
    """How the table says whether a target was met."""
    return "met" if is_met else "MISSED"


def number(value: float | None) -> str:
    """Three digits that count, or all of those before the point; empty for None."""
    if value is None:
        return ""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
