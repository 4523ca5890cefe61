"""A learner in a far region: whether it follows, what bounds it, whether the voters notice."""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.far_link import FAR, NEAR, far_link
from scripts.benchmark.figures import delays, percentile
from scripts.benchmark.readers import arrivals, attach
from scripts.benchmark.watching import Watch
from scripts.benchmark.workloads import BIG, PacedWriter, binlog_bytes, make_source, make_tables
from tests.support.cluster import KingbusCluster, KingbusNode
from tests.support.processes import Program
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

SETTINGS = {
    "segment-size": "64MB",
    "reserve-data-size": "8GB",
    # The far node has no way to this machine's loopback.
    "auth": {"insecure": True},
}
_CATCH_UP_SECONDS_MAX = 300.0
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What the voters did for a while."""

    p50_ms: float
    p99_ms: float
    mb_per_second: float


def _phase(source: MySQLServer, reader: RawReader, given: argparse.Namespace) -> Phase:
    """Write at the rate asked for; commit latency is that of the reader at the leader."""
    before = binlog_bytes(source)
    began = time.perf_counter()
    writer = PacedWriter(
        source,
        per_second=given.mb_per_second * 1e6 / (BIG.row_bytes + 300),
        row_bytes=BIG.row_bytes,
    )
    with writer:
        time.sleep(given.seconds)
    written = binlog_bytes(source) - before
    rate = written / (time.perf_counter() - began) / 1e6
    last = max(writer.sent)
    wait_for(lambda: last in arrivals(reader), what="the last transaction at the leader")
    came = delays(writer.sent, arrivals(reader))
    return Phase(
        p50_ms=percentile(came, 0.5) * 1000,
        p99_ms=percentile(came, 0.99) * 1000,
        mb_per_second=rate,
    )


def _wait_until_it_has(far: KingbusNode, held: str) -> None:
    wait_for(
        lambda: far.status()["executed_gtid_set"] == held,
        what="the far learner to have everything",
        seconds=_CATCH_UP_SECONDS_MAX,
        tolerate=(OSError, ConnectionError),
        explain=far.output,
    )


def _say(text: str) -> None:
    print(text, flush=True)


def measure(given: argparse.Namespace, directory: Path) -> None:
    """All of it, told line by line."""
    congestion = given.congestion or _CONGESTION.read_text().strip()
    _say(
        f"{given.delay_ms:g} ms each way, loss {given.loss:.2%}, {congestion};"
        f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, Linux {platform.release()}"
    )
    with ExitStack() as stack:
        prefix = stack.enter_context(
            far_link(
                delay_seconds=given.delay_ms / 1000,
                loss=given.loss,
                mb_per_second=given.link_mb_per_second,
                seed=given.seed,
                congestion=congestion,
            )
        )
        source = stack.enter_context(make_source(directory / "source"))
        make_tables(source)
        cluster = stack.enter_context(
            KingbusCluster(directory / "near", settings=SETTINGS, host=NEAR)
        )
        cluster.start_receiver(source, tls={"mode": "disabled"})
        leader = cluster.leader()
        leader.start_listener()
        held = source.gtid_executed()
        cluster.wait_for_gtids(held, source)
        reader = stack.enter_context(attach(leader, held))
        alone = _phase(source, reader, given)
        _say(_told("without it", alone))
        rows = round(given.catch_up_mb * 1e6 / BIG.row_bytes)
        source.execute("CALL bench.fill(%s, %s)", rows, BIG.row_bytes)
        held = source.gtid_executed()
        cluster.wait_for_gtids(held, source)

        far = KingbusNode(
            "far", directory / "far", settings=SETTINGS, program=Program(prefix=prefix), host=FAR
        )
        stack.callback(far.kill9)
        far.start(via=leader.admin_url, learner=True)
        # What was sent before it was ready counts as time, too, but not its start.
        noticed = len(leader.log.read_text())
        began = time.perf_counter()
        with Watch([leader.pid]) as watch:
            _wait_until_it_has(far, held)
        seconds = time.perf_counter() - began
        megabytes = binlog_bytes(source) / 1e6
        _say(
            f"catches up with {megabytes:.0f} MB in {seconds:.1f} s: {megabytes / seconds:.2f} MB/s"
            f" (leader: {watch.usage.anonymous_bytes / 1e6:.0f} MB anonymous)"
        )
        together = _phase(source, reader, given)
        _say(_told("with it", together))
        began = time.perf_counter()
        _wait_until_it_has(far, source.gtid_executed())
        _say(f"it has everything {time.perf_counter() - began:.1f} s after the last transaction")
        # Joining dials it before it listens: that is not meant.
        lost = [
            line
            for line in leader.log.read_text()[noticed:].splitlines()
            if "peer not reached" in line
        ]
        _say(f"links given up since it was ready: {len(lost)}, the same leader: {_same(leader)}")
        for line in lost:
            _say(f"  {line[:160]}")


def _same(leader: KingbusNode) -> str:
    return "yes" if leader.is_leader() else "no"


def _told(when: str, phase: Phase) -> str:
    return (
        f"voters {when}: {phase.mb_per_second:.1f} MB/s, from the statement to the leader's reader"
        f" p50 {phase.p50_ms:.1f} ms, p99 {phase.p99_ms:.1f} ms"
    )


def main(words: Sequence[str]) -> int:
    """Run it in a network namespace of its own."""
    parser = argparse.ArgumentParser(
        prog="scripts/far-learner", description="Measure a learner behind a long way."
    )
    parser.add_argument("--delay-ms", type=float, default=80.0, help="each way (80)")
    parser.add_argument("--loss", type=float, default=0.005, help="of each packet (0.005)")
    parser.add_argument(
        "--link-mb-per-second", type=float, default=0.0, help="of the link; 0: as it comes"
    )
    parser.add_argument("--mb-per-second", type=float, default=3.0, help="written meanwhile (3)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each phase (15)")
    parser.add_argument("--catch-up-mb", type=float, default=60.0, help="there before it joins")
    parser.add_argument("--congestion", default="", help="TCP's control: bbr, cubic, reno")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    directory = Path(tempfile.mkdtemp(prefix="kingbus-far-"))
    try:
        measure(given, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
