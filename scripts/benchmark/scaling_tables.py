"""The tables of docs/operating/scaling.md, as Markdown. Pure; the figures are `scaling`'s.

A table stands in the page between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from scripts.benchmark.scaling import (
    Calibration,
    Limit,
    Shape,
    cached_seconds,
    far_limits,
    limit,
    load,
    plan,
    trickle,
)

REPLICAS = (1, 10, 100, 1000)
NODES = (1, 3, 5)
WORKERS = (0, 1, 2, 4, 8)
NETWORKS = (1.0, 10.0, 25.0)
RATES = (1.0, 10.0, 50.0)
"""MB of binary log a second: a busy server, a very busy one, and about the most there is."""
TRICKLE_PER_SECOND = 10.0
ROUND_TRIPS_MS = (20, 80, 160, 300)
LOSSES = (0.0001, 0.005)
TCP_WINDOW_BYTES = 3 << 20
"""Half of Linux's usual limit of 6 MiB for a receive buffer: the rest of it is overhead."""
CACHES_GB = (4.0, 16.0, 64.0)

_Cells = Sequence[str]
_PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(head: _Cells, rows: Sequence[_Cells]) -> str:
    """A table; the first column says what a row is about."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def rate(mb_per_second: float) -> str:
    """Two digits are more than a model knows."""
    if mb_per_second >= 10:
        return f"{mb_per_second:.0f}"
    return f"{mb_per_second:.1f}" if mb_per_second >= 1 else f"{mb_per_second:.2f}"


def percent(value: float) -> str:
    """Of a core."""
    return f"{value:.0f} %" if value >= 1 else "< 1 %"


def seconds_text(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _limited(found: Limit) -> str:
    return f"{rate(found.mb_per_second)} ({found.by})"


def calibration_table(costs: Calibration) -> str:
    """What was measured."""
    rows = [
        ("revision", f"`{costs.revision}`"),
        ("machine", costs.machine),
        ("one node pulls, checks, syncs, applies", f"{rate(costs.pull_mb_per_second)} MB/s"),
        ("CPU for that", f"{costs.pull_cpu_ms_per_mb:.1f} ms for each MB"),
        (
            "CPU of each further member, both ends",
            f"{costs.member_cpu_ms_per_mb:.1f} ms for each MB",
        ),
        ("CPU to send to a replica", f"{costs.dump_cpu_ms_per_mb:.2f} ms for each MB"),
        ("CPU to wake a replica for one transaction", f"{costs.wake_cpu_us:.0f} µs"),
        ("CPU of a silent replica", f"{costs.replica_idle_cpu_us_per_second:.0f} µs each second"),
        ("memory of a busy node", f"{costs.node_mb:.0f} MB"),
        ("memory of each replica", f"{costs.replica_kb:.0f} kB"),
    ]
    return markdown(("measured", "figure"), rows)


def replicas_table(costs: Calibration) -> str:
    """The rate that all replicas keep up with."""
    head = ("replicas", "nodes", *(f"{gbit:g} Gbit/s" for gbit in NETWORKS))
    rows = [
        (
            str(replicas),
            str(nodes),
            *(_limited(limit(costs, Shape(nodes=nodes, gbit=gbit), replicas)) for gbit in NETWORKS),
        )
        for replicas in REPLICAS
        for nodes in NODES
    ]
    return markdown(head, rows)


def workers_table(costs: Calibration) -> str:
    """The same, by dump workers of three nodes with 25 Gbit/s, so that the cores are seen."""
    head = ("workers of a node", *(f"replicas: {replicas}" for replicas in REPLICAS))
    rows = [
        (
            str(workers),
            *(
                _limited(limit(costs, Shape(workers=workers, gbit=25), replicas))
                for replicas in REPLICAS
            ),
        )
        for workers in WORKERS
    ]
    return markdown(head, rows)


def load_table(costs: Calibration) -> str:
    """What the leader of three nodes needs at 10 MB/s, as far as it can."""
    head = ("replicas", "workers", "in", "out", "node's core", "dump cores", "memory")
    rows = []
    for replicas in REPLICAS:
        for workers in (0, 4):
            shape = Shape(workers=workers)
            needs = load(costs, shape, replicas, 10.0)
            rows.append(
                (
                    str(replicas),
                    str(workers),
                    f"{needs.in_mb_per_second * 0.008:.2f} Gbit/s",
                    f"{needs.out_mb_per_second * 0.008:.2f} Gbit/s",
                    percent(needs.core_percent),
                    percent(needs.dump_percent) if workers else "",
                    f"{needs.memory_mb:.0f} MB",
                )
            )
    return markdown(head, rows)


def trickle_table(costs: Calibration) -> str:
    """Ten small transactions a second to replicas that wait for them at one node."""
    head = ("replicas of a node", "workers", "first to last replica", "each core that sends")
    rows = []
    for replicas in REPLICAS:
        for workers in (0, 4):
            found = trickle(costs, Shape(nodes=1, workers=workers), replicas, TRICKLE_PER_SECOND)
            rows.append(
                (
                    str(replicas),
                    str(workers),
                    f"{found.spread_ms:.0f} ms" if found.spread_ms >= 1 else "< 1 ms",
                    percent(found.core_percent) if found.core_percent <= 100 else "full",
                )
            )
    return markdown(head, rows)


def tiers_table(costs: Calibration) -> str:
    """What to put behind three nodes."""
    head = ("replicas", "MB/s", *(f"{gbit:g} Gbit/s" for gbit in NETWORKS))
    rows = [
        (
            str(replicas),
            f"{each:g}",
            *(_planned(costs, Shape(workers=4, gbit=gbit), replicas, each) for gbit in NETWORKS),
        )
        for replicas in REPLICAS
        for each in RATES
    ]
    return markdown(head, rows)


def _planned(costs: Calibration, shape: Shape, replicas: int, mb_per_second: float) -> str:
    found = plan(costs, shape, replicas, mb_per_second)
    if found is None:
        return "not possible"
    return " + ".join(("3 nodes", *(f"{count} relays" for count in found.relays)))


def far_table(_: Calibration) -> str:
    """A member behind a long way."""
    head = ("round trip", "in flight", "TCP window", *(f"loss {loss:.2%}" for loss in LOSSES))
    rows = []
    for milliseconds in ROUND_TRIPS_MS:
        found = [
            far_limits(rtt_seconds=milliseconds / 1000, loss=loss, window_bytes=TCP_WINDOW_BYTES)
            for loss in LOSSES
        ]
        cells = [*(each.mb_per_second for each in found[0]), found[1][-1].mb_per_second]
        rows.append((f"{milliseconds} ms", *(rate(each) for each in cells)))
    return markdown(head, rows)


def cache_table(_: Calibration) -> str:
    """How far behind is still memory."""
    head = ("MB/s", *(f"{size:g} GB for the page cache" for size in CACHES_GB))
    rows = [
        (
            f"{each:g}",
            *(
                seconds_text(cached_seconds(cache_gb=size, mb_per_second=each))
                for size in CACHES_GB
            ),
        )
        for each in RATES
    ]
    return markdown(head, rows)


TABLES: Mapping[str, Callable[[Calibration], str]] = {
    "calibration": calibration_table,
    "replicas": replicas_table,
    "workers": workers_table,
    "load": load_table,
    "trickle": trickle_table,
    "tiers": tiers_table,
    "far": far_table,
    "cache": cache_table,
}


def filled(page: str, costs: Calibration) -> str:
    """The page with its tables made anew; KeyError for a table that is not known."""
    return _PLACE.sub(lambda found: found[1] + TABLES[found[2]](costs) + found[3], page)


def names_in(page: str) -> list[str]:
    """The tables that a page asks for."""
    return [found[2] for found in _PLACE.finditer(page)]
