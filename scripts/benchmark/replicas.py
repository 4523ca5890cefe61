"""What a thousand replicas of one node cost that wait, and when transactions reach them all."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark import catalogue
from scripts.benchmark.clusters import relaying
from scripts.benchmark.crowd import HEARTBEAT_SECONDS, Crowd
from scripts.benchmark.figures import Series, Usage, percentile
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say
from scripts.benchmark.watching import Watch
from scripts.benchmark.workloads import PacedWriter, make_source, make_tables
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusNode
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

SETTINGS = {"segment-size": "64MB", "reserve-data-size": "8GB"}
_SECONDS = 12.0
"""Of each trickle: enough transactions for a percentile."""
_ALONE_SECONDS = 3.0
_SLOWLY, _QUICKLY = 1.0, 10.0
"""Transactions a second: one by one, so that each costs what it costs alone; and many."""
_REACH_SECONDS_MAX = 60.0


def measure(products: Sequence[Product], turns: int, directory: Path, *, count: int) -> Measured:
    """One node, alone in its cluster, with so many replicas; silent, then with a little to do."""
    measured = Measured(part="replicas", series={product.name: Series() for product in products})
    with make_source(directory / "source") as source:
        make_tables(source)
        say(f"replicas: {count} at one node")
        for turn in range(turns):
            for product in in_turn(products, turn):
                _turn(source, directory / "one", product, measured.series[product.name], count)
            measured.tell(turn)
    return measured


def _turn(
    source: MySQLServer, directory: Path, product: Product, series: Series, count: int
) -> None:
    with ExitStack() as stack:
        cluster, held = stack.enter_context(
            relaying(source, directory, product, count=1, settings=SETTINGS)
        )
        node = cluster.leader()
        alone = _watched(node, _ALONE_SECONDS)
        crowd = stack.enter_context(
            Crowd(
                port=node.listen_port,
                user=LISTENER_USER,
                password=LISTENER_PASSWORD,
                count=count,
                held=held,
            )
        )
        attached = node.listener_status()["slaves"]
        assert len(attached) == count, f"{len(attached)} of {count} replicas are attached"
        # One heartbeat to each, whenever it was attached.
        silent = _watched(node, HEARTBEAT_SECONDS)
        resting = silent.cpu_seconds / HEARTBEAT_SECONDS
        added = (silent.anonymous_bytes - alone.anonymous_bytes) / count
        series.add(catalogue.REPLICA_MEMORY, added / 1000, silent)
        idle = resting - alone.cpu_seconds / _ALONE_SECONDS
        series.add(catalogue.REPLICAS_SILENT, max(0.0, idle) / count * 1e6, silent)

        slow = _trickle(source, node, crowd, _SLOWLY)
        woken = slow.transactions * count
        waking = slow.usage.cpu_seconds - resting * slow.seconds
        series.add(catalogue.REPLICA_WAKE, waking / woken * 1e6, slow.usage)

        quick = _trickle(source, node, crowd, _QUICKLY)
        share = quick.usage.cpu_seconds / quick.seconds
        series.add(catalogue.REPLICAS_CPU, share * 100, quick.usage)
        series.add(catalogue.REPLICAS_P50, percentile(quick.delays, 0.5) * 1000)
        series.add(catalogue.REPLICAS_P99, percentile(quick.delays, 0.99) * 1000)


def _watched(node: KingbusNode, seconds: float) -> Usage:
    with Watch([node.pid]) as watch:
        time.sleep(seconds)
    return watch.usage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trickled:
    """What a while with a little to do took."""

    usage: Usage
    seconds: float
    delays: list[float]
    transactions: int


def _trickle(source: MySQLServer, node: KingbusNode, crowd: Crowd, per_second: float) -> _Trickled:
    """Write at that rate; from the sending of each statement to its arrival at each replica."""
    crowd.begin()
    writer = PacedWriter(source, per_second=per_second)
    began = time.perf_counter()
    with Watch([node.pid]) as watch:
        with writer:
            time.sleep(_SECONDS)
        executed = source.gtid_executed()
        wait_for(
            lambda: node.status()["executed_gtid_set"] == executed,
            what=f"the node to have {executed}",
            seconds=_REACH_SECONDS_MAX,
        )
        arrivals = _all_arrivals(crowd, len(writer.sent))
    seconds = time.perf_counter() - began
    sent = list(writer.sent.values())
    delays = [at - sent_at for came in arrivals for sent_at, at in zip(sent, came, strict=True)]
    return _Trickled(usage=watch.usage, seconds=seconds, delays=delays, transactions=len(sent))


def _all_arrivals(crowd: Crowd, transactions: int) -> list[list[float]]:
    """Once everything has come to all but the few that were sent a heartbeat, too."""

    def arrived() -> list[list[float]]:
        arrivals = crowd.arrivals()
        everything = [each for each in arrivals if len(each) == transactions]
        return everything if len(everything) * 100 >= crowd.count * 95 else []

    return wait_for(
        arrived,
        what=f"{transactions} transactions at {crowd.count} replicas",
        seconds=_REACH_SECONDS_MAX,
        every=0.2,
    )
