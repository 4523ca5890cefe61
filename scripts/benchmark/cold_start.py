"""Cold start against the size of the log: full reserves of several sizes, in segments of 64 MB."""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.benchmark.runs import in_turn, say, settle
from scripts.benchmark.startup import start_cold
from scripts.benchmark.tables import aligned
from tests.support.cluster import KingbusCluster
from tests.support.reserve import CHURN_SETTINGS, churn, make_churn, taken_by
from tests.support.servers import MySQLServer, modern

GB = 1 << 30
MB = 1 << 20
STEP_BYTES = 256 << 20
"""Written at a time; a source keeps no more than this and its open file."""
_PULL_SECONDS_MAX = 600.0


def _clusters(sizes: Sequence[int], directory: Path, stack: ExitStack) -> dict[int, KingbusCluster]:
    return {
        size: stack.enter_context(
            KingbusCluster(
                directory / f"of-{size}",
                count=1,
                settings={"reserve-data-size": f"{size}GB"},
            )
        )
        for size in sizes
    }


def _has_purged(cluster: KingbusCluster) -> bool:
    """The log is as large as it gets once something had to leave it."""
    return bool(cluster.nodes[0].status()["purged_gtid_set"])


def _fill(source: MySQLServer, clusters: dict[int, KingbusCluster], row_bytes: int) -> None:
    """Have every node pull until its reserve is full; then it is killed."""
    pulling = dict(clusters)
    written = 0
    while pulling:
        written += churn(source, STEP_BYTES, row_bytes=row_bytes)
        gtids = source.gtid_executed()
        for size, cluster in list(pulling.items()):
            cluster.wait_for_gtids(gtids, source, seconds=_PULL_SECONDS_MAX)
            if _has_purged(cluster):
                cluster.nodes[0].kill9()
                del pulling[size]
                say(f"cold start: the log of {size} GB is full; {written >> 20} MiB were written")
        source.execute("PURGE BINARY LOGS TO %s", source.binlog_files()[-1])


def measure(sizes: Sequence[int], turns: int, row_bytes: int, directory: Path) -> list[list[str]]:
    """The table's lines: reserve, bytes of log and index, then the seconds to `ready`."""
    with ExitStack() as stack:
        extra = ("max_binlog_size=128M", "innodb_flush_log_at_trx_commit=0", *CHURN_SETTINGS)
        source = MySQLServer(modern(), directory / "source", server_id=1, extra=extra)
        stack.enter_context(source)
        make_churn(source)
        clusters = _clusters(sizes, directory, stack)
        for cluster in clusters.values():
            cluster.start_receiver(source)
        _fill(source, clusters, row_bytes)
        source.stop()
        settle()
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for turn in range(turns):
            for size in in_turn(sizes, turn):
                seconds[size].append(start_cold(clusters[size])[0])
            say(
                f"cold start: turn {turn + 1}: "
                + ", ".join(f"{s} GB {t[-1]:.2f}" for s, t in seconds.items())
            )
        return [_line(size, clusters[size], seconds[size], seconds[sizes[0]]) for size in sizes]


def _line(
    size: int, cluster: KingbusCluster, seconds: Sequence[float], first: Sequence[float]
) -> list[str]:
    data_dir = cluster.nodes[0].data_dir
    middle = statistics.median(seconds)
    return [
        f"{size} GB",
        f"{taken_by(data_dir / 'log') / GB:.2f}",
        f"{taken_by(data_dir / 'state') / MB:.1f}",
        str(sum(1 for each in (data_dir / "log").glob("*-*.segment"))),
        f"{middle:.2f}",
        f"{min(seconds):.2f}",
        f"{max(seconds):.2f}",
        f"{middle / statistics.median(first):.2f}",
    ]


HEAD = ["reserve", "log GB", "index MB", "segments", "median s", "low", "high", "times the first"]


def main(words: Sequence[str]) -> int:
    """Run it in a directory of its own."""
    parser = argparse.ArgumentParser(
        prog="scripts/cold-start", description="How long a start takes, by the size of the log."
    )
    parser.add_argument("--gb", type=int, nargs="+", default=[1, 4, 16], help="reserves (1 4 16)")
    parser.add_argument("--turns", type=int, default=5, help="starts of each (5)")
    parser.add_argument(
        "--row-bytes", type=int, default=200_000, help="of each transaction (200000)"
    )
    given = parser.parse_args(words)
    directory = Path(tempfile.mkdtemp(prefix="kingbus-cold-start-"))
    try:
        lines = measure(given.gb, given.turns, given.row_bytes, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.write("\n".join(aligned([HEAD, *lines])) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
