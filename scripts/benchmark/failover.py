"""How long replicas receive nothing when the leader is killed under load."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from scripts.benchmark import catalogue
from scripts.benchmark.clusters import relaying
from scripts.benchmark.figures import Series, Usage, number_of, silence
from scripts.benchmark.readers import arrivals, attach
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say, shared_out
from scripts.benchmark.watching import Watch
from scripts.benchmark.workloads import PacedWriter, make_source, make_tables
from tests.support.cluster import KingbusCluster
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

PER_SECOND = 500
SETTINGS = {
    "segment-size": "64MB",
    "reserve-data-size": "8GB",
    "heartbeat-interval": "100ms",
    "election-timeout": f"{catalogue.ELECTION_TIMEOUT_SECONDS * 1000:.0f}ms",
}
_SECONDS_MAX = 60.0
"""Longer than any of it may take: what is still missing then is a failure, not a value."""


def measure(products: Sequence[Product], turns: int, directory: Path, *, kills: int) -> Measured:
    """Kill the leader of three nodes `kills` times in all turns together, each time under load."""
    measured = Measured(part="failover", series={product.name: Series() for product in products})
    with make_source(directory / "source") as source:
        make_tables(source)
        say(f"failover: {kills} kills, {PER_SECOND} transactions/s")
        for turn, count in enumerate(shared_out(kills, turns)):
            if not count:
                break
            for product in in_turn(products, turn):
                _turn(source, directory / "three", product, measured.series[product.name], count)
            measured.tell(turn)
    return measured


def _turn(
    source: MySQLServer, directory: Path, product: Product, series: Series, kills: int
) -> None:
    with ExitStack() as stack:
        cluster, _ = stack.enter_context(
            relaying(source, directory, product, count=3, settings=SETTINGS)
        )
        writer = stack.enter_context(PacedWriter(source, per_second=PER_SECOND))
        for _ in range(kills):
            seconds, usage = _kill(cluster, source, writer)
            series.add(catalogue.FAILOVER_SERIES, seconds, usage)


def _kill(cluster: KingbusCluster, source: MySQLServer, writer: PacedWriter) -> tuple[float, Usage]:
    """One kill; the seconds until the replicas of both followers received again."""
    leader = cluster.leader()
    held = source.gtid_executed()
    cluster.wait_for_gtids(held, source)
    followers = cluster.followers()
    with ExitStack() as stack:
        readers = [stack.enter_context(attach(node, held)) for node in followers]
        for reader in readers:
            _wait_for_number(reader, writer.newest, cluster)
        with Watch([node.pid for node in followers]) as watch:
            killed = time.monotonic()
            leader.kill9()
            dead = time.monotonic()
            lengths = [
                _wait_for_end(reader, writer, cluster, killed=killed, dead=dead)
                for reader in readers
            ]
        for reader in readers:
            # Whoever is attached to a follower must not notice anything but the pause.
            assert reader.is_alive, f"the dump of a follower ended: {reader.seen.end}"
            assert not reader.seen.faults, reader.seen.faults
    leader.start()
    wanted = cluster.leader().status()["commit_index"]
    wait_for(
        lambda: leader.status()["applied_index"] >= wanted,
        what=f"{leader.name} to have applied {wanted} after its restart",
        seconds=_SECONDS_MAX,
        tolerate=(httpx.HTTPError,),
        explain=cluster.logs,
    )
    return max(lengths), watch.usage


def _wait_for_number(reader: RawReader, number: int, cluster: KingbusCluster) -> None:
    wait_for(
        lambda: reader.seen.transactions and number_of(reader.seen.transactions[-1]) >= number,
        what=f"a follower's replica to have transaction {number}",
        seconds=_SECONDS_MAX,
        explain=lambda: (reader.seen.end, reader.seen.faults, cluster.logs()),
    )


def _wait_for_end(
    reader: RawReader, writer: PacedWriter, cluster: KingbusCluster, *, killed: float, dead: float
) -> float:
    """How long the reader received nothing new."""
    found = wait_for(
        lambda: silence(writer.sent, arrivals(reader), killed=killed, dead=dead),
        what="a follower's replica to receive again",
        seconds=_SECONDS_MAX,
        explain=lambda: (reader.seen.end, reader.seen.faults, cluster.logs()),
    )
    assert found is not None
    return found
