"""From the commit at the source to the event at a replica, there and through three nodes."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.benchmark import catalogue
from scripts.benchmark.clusters import relaying
from scripts.benchmark.figures import Series, delays, number_of, percentile
from scripts.benchmark.readers import arrivals, attach
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say
from scripts.benchmark.watching import Watch
from scripts.benchmark.workloads import PacedWriter, make_source, make_tables
from tests.support.cluster import KingbusNode
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

PER_SECOND = 200
SETTINGS = {"segment-size": "64MB", "reserve-data-size": "8GB"}
_ARRIVAL_SECONDS_MAX = 60.0
_WARM_UP = 50
"""Transactions that are not counted: connections and caches are new then."""
_SWITCH_SECONDS = 0.0002
"""Readers and writer share an interpreter: none may keep it for the usual 5 ms."""


def measure(
    products: Sequence[Product], turns: int, directory: Path, *, transactions: int
) -> Measured:
    """Write one row at a time; readers at the source, the leader and a follower tell when it came.

    A transaction's clock starts when its statement is sent to the source. All readers see the same
    transactions at the same time.
    """
    measured = Measured(part="latency", series={product.name: Series() for product in products})
    with make_source(directory / "source") as source:
        make_tables(source)
        say(f"latency: {transactions} transactions, {PER_SECOND}/s")
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            for turn in range(turns):
                for product in in_turn(products, turn):
                    series = measured.series[product.name]
                    _turn(source, directory / "three", product, series, transactions)
                measured.tell(turn)
        finally:
            sys.setswitchinterval(interval)
    return measured


def _turn(
    source: MySQLServer, directory: Path, product: Product, series: Series, transactions: int
) -> None:
    with ExitStack() as stack:
        cluster, held = stack.enter_context(
            relaying(source, directory, product, count=3, settings=SETTINGS)
        )
        places: dict[str, MySQLServer | KingbusNode] = {
            catalogue.AT_SOURCE: source,
            catalogue.AT_LEADER: cluster.leader(),
            catalogue.AT_FOLLOWER: cluster.followers()[0],
        }
        readers = {
            place: stack.enter_context(attach(server, held)) for place, server in places.items()
        }
        watch = Watch([node.pid for node in cluster.running])
        with watch:
            writer = PacedWriter(source, per_second=PER_SECOND)
            with writer:
                writer.wait_for(transactions + _WARM_UP, seconds=60 + transactions / PER_SECOND * 4)
            last = number_of(source.gtid_executed())
            for place, reader in readers.items():
                _wait_for(reader, last, place)
        first = min(writer.sent) + _WARM_UP
        counted = {number: at for number, at in writer.sent.items() if first <= number <= last}
        for place, reader in readers.items():
            assert not reader.seen.faults, (place, reader.seen.faults)
            seconds = delays(counted, arrivals(reader))
            usage = watch.usage if place == catalogue.AT_LEADER else None
            for share, part in (("p50", 0.50), ("p99", 0.99)):
                name = catalogue.latency_name(share, place)
                series.add(name, percentile(seconds, part) * 1000, usage)


def _wait_for(reader: RawReader, last: int, place: str) -> None:
    wait_for(
        lambda: reader.seen.transactions and number_of(reader.seen.transactions[-1]) >= last,
        what=f"transaction {last} at {place}",
        seconds=_ARRIVAL_SECONDS_MAX,
        explain=lambda: reader.seen.end,
    )
