"""The benchmark's program: its arguments, the order of its parts, the report that comes of them."""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.benchmark import (
    at_rest,
    catchup,
    failover,
    gtids,
    idle,
    latency,
    replicas,
    startup,
    throughput,
)
from scripts.benchmark.catalogue import PARTS, REPLICAS_ATTACHED, WHOLE_RUN
from scripts.benchmark.comparison import compare
from scripts.benchmark.figures import Load, peaks, summarize
from scripts.benchmark.revisions import (
    Product,
    RevisionError,
    commit,
    parse_settings,
    this_tree,
)
from scripts.benchmark.runs import Measured, say
from scripts.benchmark.tables import comparison_lines, report_lines
from scripts.benchmark.workloads import workloads
from tests.support import servers
from tests.support.installations import MissingServerError

_CALM_LOAD = 0.5


def measure(
    part: str, given: argparse.Namespace, products: Sequence[Product], directory: Path
) -> Measured:
    """Run one part in a directory of its own."""
    turns, scale = given.turns, given.scale
    loads = {workload.name: workload for workload in workloads(scale)}
    if part in loads:
        return throughput.measure(loads[part], products, turns, directory)
    if part == "latency":
        count = max(100, round(2000 * scale))
        return latency.measure(products, turns, directory, transactions=count)
    if part == "failover":
        return failover.measure(products, turns, directory, kills=given.kills)
    if part == "idle":
        return idle.measure(products, turns, directory, seconds=given.idle_seconds)
    if part == "catch-up":
        return catchup.measure(loads["small"], products, turns, directory)
    if part == "replicas":
        count = max(20, round(REPLICAS_ATTACHED * scale))
        return replicas.measure(products, turns, directory, count=count)
    if part == "at-rest":
        count = max(100, round(at_rest.TRANSACTIONS * scale))
        return at_rest.measure(products, turns, directory, transactions=count)
    if part == "gtids":
        count = max(100, round(gtids.TRANSACTIONS * scale))
        return gtids.measure(products, turns, directory, transactions=count)
    return startup.measure(loads["mixed"], products, turns, directory)


def machine() -> dict[str, Any]:
    """What it runs on: figures of two machines are not to be compared."""
    model = "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "mysql": ".".join(str(part) for part in servers.modern().version),
    }


def summaries(name: str, done: Sequence[Measured], turns: int) -> list[dict[str, Any]]:
    """What was measured of one product, with the memory of all parts at the end."""
    results = [
        summarize(measured.part, measured.series[name], measured.load, turns=turns)
        for measured in done
    ]
    memory = peaks(measured.series[name] for measured in done)
    return [*results, summarize(WHOLE_RUN, memory, Load(), turns=turns)]


@contextlib.contextmanager
def products_of(given: argparse.Namespace, directory: Path) -> Iterator[list[Product]]:
    """This tree, and the commit that it is compared with, if any."""
    own = this_tree(given.setting)
    if given.compare is None:
        yield [own]
        return
    with commit(given.compare, directory / "other") as other:
        if other.name == own.name:
            # The same commit twice shows what differences this machine makes by itself.
            own = replace(own, name=f"{own.name} (this tree)")
        yield [own, other]


def run(given: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    runs_on = machine()
    if runs_on["load_before"] > _CALM_LOAD:
        say(f"other work goes on here (load {runs_on['load_before']}): it will be measured, too")
    directory = Path(tempfile.mkdtemp(prefix="kingbus-bench-", dir=given.directory))
    try:
        with products_of(given, directory) as products:
            done, failures = [], {}
            for part in given.only or PARTS:
                place = directory / part
                place.mkdir()
                try:
                    done.append(measure(part, given, products, place))
                except Exception as error:  # noqa: BLE001  # an hour's other parts are not thrown away
                    failures[part] = f"{type(error).__name__}: {error}"
                    say(f"{part} failed: {failures[part]}")
                shutil.rmtree(place, ignore_errors=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    names = [product.name for product in products]
    report: dict[str, Any] = {
        "machine": runs_on,
        "revision": names[0],
        "turns": given.turns,
        "scale": given.scale,
        "results": summaries(names[0], done, given.turns),
        "failures": failures,
    }
    for name in names[1:]:
        other = summaries(name, done, given.turns)
        report["other"] = {"revision": name, "results": other}
        report["comparison"] = compare(report["results"], other, by_turn=True)
    return report


def show(report: dict[str, Any]) -> None:
    """Print the tables of a report."""
    print("\n".join(report_lines(report["results"])))
    if "other" in report:
        other = report["other"]
        print(f"\n{other['revision']}:")
        print("\n".join(report_lines(other["results"])))
        print()
        print(
            "\n".join(comparison_lines(report["comparison"], report["revision"], other["revision"]))
        )


def read(files: Sequence[Path]) -> int:
    """Show reports that were written before; two are compared, though of different runs."""
    try:
        reports = [json.loads(file.read_text()) for file in files]
    except (OSError, ValueError) as error:
        say(f"not a report: {error}")
        return 1
    if len(reports) == 1:
        show(reports[0])
        return 0
    this, other = reports
    rows = compare(this["results"], other["results"], by_turn=False)
    print("\n".join(comparison_lines(rows, *(str(file) for file in files))))
    return 0


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What is asked for; wrong words end the program with exit status 2."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measure kingbus against references, as ratios."
    )
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads (1.0)")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument(
        "--only", action="append", choices=tuple(PARTS), help="this part; may be repeated"
    )
    parser.add_argument("--kills", type=int, default=20, help="leaders killed in all turns (20)")
    parser.add_argument("--idle-seconds", type=float, default=20.0, help="length of idleness (20)")
    parser.add_argument("--compare", metavar="REV", help="measure this commit, too, in turns")
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="FILE", help="show one report, or compare two"
    )
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="configure the nodes of this tree (not of REV) so: server.workers=2",
    )
    given = parser.parse_args(words)
    if given.turns < 1 or given.kills < 1 or given.scale <= 0 or given.idle_seconds <= 0:
        parser.error("--turns, --kills, --scale and --idle-seconds must be above 0")
    if given.read and len(given.read) > 2:
        parser.error("--read takes one report or two")
    try:
        parse_settings(given.setting)
    except ValueError as error:
        parser.error(f"--setting {error}")
    given.only = list(dict.fromkeys(given.only)) if given.only else None
    return given


def main(words: Sequence[str]) -> int:
    """Run it; the exit status."""
    given = arguments(words)
    if given.read:
        return read(given.read)
    # By way of the finally clauses: a worktree and servers' directories are to be removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        servers.modern()
        report = run(given)
    except (RevisionError, MissingServerError) as error:
        say(str(error))
        return 1
    show(report)
    if given.json is None:
        print(json.dumps(report))
    else:
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["failures"] else 0
