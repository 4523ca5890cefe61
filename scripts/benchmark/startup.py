"""How long a node takes from its start to `ready`, its files not in the page cache."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.benchmark import catalogue
from scripts.benchmark.figures import Series, Usage
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say
from scripts.benchmark.watching import Watch, drop_from_cache
from scripts.benchmark.workloads import Workload, binlog_bytes, fill, make_source, make_tables
from tests.support.cluster import KingbusCluster
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

# Small segments: there are many, and the last one, which may be scanned, weighs little.
SETTINGS = {"segment-size": "16MB", "reserve-data-size": "20GB"}
SHORT = 8
"""The short log is this part of the whole one."""
_PULL_SECONDS_MAX = 300.0
_READY_SECONDS_MAX = 120.0


def measure(
    workload: Workload, products: Sequence[Product], turns: int, directory: Path
) -> Measured:
    """Each product pulls an eighth of a workload, is started `turns` times, pulls the rest, again.

    Before each start the node was killed and its files were dropped from the page cache.
    """
    measured = Measured(part="startup", series={product.name: Series() for product in products})
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(make_source(directory / "source"))
        make_tables(source)
        clusters = {}
        for number, product in enumerate(products):
            clusters[product.name] = stack.enter_context(
                KingbusCluster(
                    directory / f"one-{number}",
                    count=1,
                    settings=product.configured(SETTINGS),
                    program=product.program,
                )
            )
            clusters[product.name].start_receiver(source)
        short = workload.transactions // SHORT
        pieces = {
            catalogue.START_SHORT: short,
            catalogue.START_WHOLE: workload.transactions - short,
        }
        for name, transactions in pieces.items():
            fill(source, replace(workload, transactions=transactions))
            for cluster in clusters.values():
                if not cluster.running:
                    cluster.start()
                _pull(cluster, source)
                cluster.nodes[0].kill9()
            say(f"startup: {binlog_bytes(source) >> 20} MiB of binary logs")
            for turn in range(turns):
                for product in in_turn(products, turn):
                    _start(clusters[product.name], name, measured.series[product.name])
        measured.tell(turns - 1)
    return measured


def _pull(cluster: KingbusCluster, source: MySQLServer) -> None:
    wanted = source.gtid_executed()
    node = cluster.leader()
    wait_for(
        lambda: node.status()["executed_gtid_set"] == wanted,
        what=f"the node to have {wanted}",
        seconds=_PULL_SECONDS_MAX,
        explain=lambda: (node.status(), node.receiver_status(), cluster.logs()),
    )


def _start(cluster: KingbusCluster, name: str, series: Series) -> None:
    seconds, usage = start_cold(cluster)
    series.add(name, seconds, usage)


def start_cold(cluster: KingbusCluster) -> tuple[float, Usage]:
    """Seconds from the start of its only node, nothing of it in the page cache, to `ready`.

    The node is killed again.
    """
    (node,) = cluster.nodes
    drop_from_cache(node.data_dir)
    began = time.perf_counter()
    node.launch()
    with Watch([node.pid], [node.data_dir]) as watch:
        wait_for(
            lambda: "\nready name=" in "\n" + node.output(),
            what="`ready` of the node",
            seconds=_READY_SECONDS_MAX,
            every=0.005,
            explain=cluster.logs,
        )
        seconds = time.perf_counter() - began
    node.kill9()
    return seconds, watch.usage
