"""Many times the reserve through a cluster: sizes over time, and what became of two replicas."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.proxy import Proxy
from tests.support.reserve import (
    CHURN_SETTINGS,
    DiskWatch,
    churn,
    firsts,
    is_cut_off,
    make_churn,
    until_cut_off,
)
from tests.support.servers import MySQLServer, modern
from tests.support.waiting import DeadlineError, wait_for

MIB = 1 << 20
LOGIN: dict[str, Any] = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}
HEAD = (
    "seconds",
    "written MB",
    "n1 MB",
    "n2 MB",
    "n3 MB",
    "index MB",
    "first file",
    "slow MB left",
)
WIDEST = (*HEAD[:-2], "mysql-bin.000001", HEAD[-1])
LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What takes part."""

    source: MySQLServer
    quick: MySQLServer
    slow: MySQLServer
    cluster: KingbusCluster
    proxy: Proxy
    reserve: int


def _begin(given: argparse.Namespace, directory: Path, stack: ExitStack) -> Run:
    reserve = given.reserve_mb * MIB
    file_size = max(4096, reserve // 12)
    installation = modern()
    extra = (f"max_binlog_size={file_size}", *CHURN_SETTINGS)
    source = MySQLServer(installation, directory / "source", server_id=1, extra=extra)
    stack.enter_context(source)
    make_churn(source)
    settings = {
        "reserve-data-size": f"{given.reserve_mb}MB",
        "segment-size": f"{given.segment_mb}MB",
    }
    cluster = stack.enter_context(KingbusCluster(directory / "cluster", settings=settings))
    cluster.start_receiver(source)
    cluster.start_listeners()
    near, far = cluster.followers()
    proxy = stack.enter_context(Proxy("127.0.0.1", far.listen_port))
    quick = stack.enter_context(MySQLServer(installation, directory / "quick", server_id=2))
    slow = stack.enter_context(MySQLServer(installation, directory / "slow", server_id=3))
    quick.change_source(host="127.0.0.1", port=near.listen_port, **LOGIN)
    slow.change_source(host="127.0.0.1", port=proxy.port, heartbeat_seconds=60, **LOGIN)
    for replica in (quick, slow):
        replica.start_replica()
        replica.wait_for_gtids(source.gtid_executed())
    proxy.rate = given.slow_kb_per_second * 1000.0
    return Run(source=source, quick=quick, slow=slow, cluster=cluster, proxy=proxy, reserve=reserve)


def _line(run: Run, watch: DiskWatch, leader: KingbusNode, written: int) -> list[str]:
    """What is so now."""
    taken = watch.look()
    left = until_cut_off(leader, run.slow.server_uuid())
    files = leader.get("/binlog/files")
    return [
        f"{taken[0].seconds:.0f}",
        f"{written / MIB:.0f}",
        *(f"{each.total / MIB:.1f}" for each in taken),
        f"{max(each.index for each in taken) / MIB:.1f}",
        files[0]["name"] if files else "-",
        "-" if left is None else f"{left / MIB:.1f}",
    ]


def _write(run: Run, watch: DiskWatch, times: float, row_bytes: int) -> list[str]:
    """Write it all; what was wrong."""
    leader, total, written, due = run.cluster.leader(), int(times * run.reserve), 0, 0
    chunk = max(MIB, run.reserve // 12)
    _tell(HEAD)
    _tell(_line(run, watch, leader, 0))
    was_seen_falling = False
    while written < total:
        written += churn(run.source, chunk, row_bytes=row_bytes)
        run.quick.wait_for_gtids(run.source.gtid_executed(), seconds=600)
        left = until_cut_off(leader, run.slow.server_uuid())
        was_seen_falling |= left is not None and 0 < left < run.reserve / 4
        if left == 0:
            run.proxy.rate = None  # so that it hears of it
        if left or written >= due:
            _tell(_line(run, watch, leader, written))
            due = min(written + total // LINES, total)
    return [] if was_seen_falling else ["the metric did not fall before the slow one was cut off"]


def _judge(run: Run, watch: DiskWatch) -> list[str]:
    """What is not as it should be at the end."""
    wrong = [
        f"{node} took {largest} bytes, more than the reserve of {run.reserve}"
        for node, largest in watch.largest().items()
        if largest > run.reserve
    ]
    try:
        wait_for(lambda: len(firsts(run.cluster)) == 1, what="the same first file and purged set")
        run.cluster.wait_equal()
        wait_for(lambda: is_cut_off(run.slow), what="error 1236 at the slow replica", seconds=60)
    except DeadlineError as error:
        wrong.append(str(error))
    if run.quick.checksums() != run.source.checksums():
        wrong.append("the replica that kept up is not equal")
    return wrong


def soak(given: argparse.Namespace, directory: Path) -> int:
    """One run; how many things were wrong."""
    with ExitStack() as stack:
        run = _begin(given, directory, stack)
        began = time.monotonic()
        with DiskWatch(run.cluster) as watch:
            wrong = _write(run, watch, given.times, given.row_bytes)
        wrong += _judge(run, watch)
        for node, largest in watch.largest().items():
            _say(f"{node}: at most {largest / MIB:.1f} MB of {run.reserve / MIB:.0f} MB")
        for error in run.slow.replica_errors():
            _say(f"slow replica: {error[:160]}")
        _say(f"{time.monotonic() - began:.0f} s")
        for each in wrong:
            _say(f"WRONG: {each}")
    return len(wrong)


def _tell(cells: Sequence[str]) -> None:
    """A line of the table, at once: a run may take hours."""
    _say("  ".join(cell.rjust(max(len(head), 6)) for cell, head in zip(cells, WIDEST, strict=True)))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    """Run it in a directory of its own."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description="Write many times the reserve through three nodes."
    )
    parser.add_argument("--reserve-mb", type=int, default=48, help="of each node (48)")
    parser.add_argument("--segment-mb", type=int, default=8, help="of the log (8)")
    parser.add_argument("--times", type=float, default=20, help="the reserve is written (20)")
    parser.add_argument(
        "--row-bytes", type=int, default=400_000, help="of each transaction (400000)"
    )
    parser.add_argument(
        "--slow-kb-per-second", type=int, default=50, help="that the slow replica gets (50)"
    )
    given = parser.parse_args(words)
    directory = Path(tempfile.mkdtemp(prefix="kingbus-soak-"))
    try:
        return 1 if soak(given, directory) else 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
