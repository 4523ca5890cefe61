"""Ingest and dump of a whole binary log: by the references, by one node and by three."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmark import catalogue
from scripts.benchmark.figures import Series
from scripts.benchmark.many_readers import drain_by_many
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say, settle
from scripts.benchmark.watching import Watch
from scripts.benchmark.workloads import Workload, fill, make_source, make_tables
from tests.support import servers
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.raw_reader import Drained, drain
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

SETTINGS = {"segment-size": "256MB", "reserve-data-size": "20GB"}
INGEST_SECONDS_MAX = 300.0
_ARTIFICIAL_BYTES = 1000
"""Two servers' artificial events at the beginning and at each file may differ by as much."""
_HEARTBEAT_BYTES = 256 * 100
"""Heartbeats that a server may put in before the events, to have them begin where it likes."""


def measure(
    workload: Workload, products: Sequence[Product], turns: int, directory: Path
) -> Measured:
    """Write the workload to a source, then measure everything once for each turn."""
    measured = Measured(part=workload.name, series={product.name: Series() for product in products})
    with make_source(directory / "source") as source:
        say(f"{workload.name}: writing {workload.transactions} transactions")
        make_tables(source)
        measured.load = fill(source, workload)
        for turn in range(turns):
            carried = _references(source, directory / "raw", measured)
            for product in in_turn(products, turn):
                series = measured.series[product.name]
                _one_node(source, directory / "one", product, series, carried)
                _three_nodes(source, directory / "three", product, series)
            measured.tell(turn)
    return measured


def _references(source: MySQLServer, directory: Path, measured: Measured) -> int:
    """`mysqlbinlog --raw` of all files, and the source's own dump; the bytes of that."""
    settle()
    began = time.perf_counter()
    servers.fetch_binlogs(source.binlog_files(), directory, port=source.port)
    fetched = time.perf_counter() - began
    shutil.rmtree(directory)
    drained = drain(
        port=source.port, user=servers.REPLICATION_USER, password=servers.REPLICATION_PASSWORD
    )
    for series in measured.series.values():
        series.add(catalogue.MYSQLBINLOG, fetched)
        series.add(catalogue.SOURCE_DUMP, drained.seconds)
    return drained.bytes


def ingest(source: MySQLServer, cluster: KingbusCluster, name: str, series: Series) -> KingbusNode:
    """How long a fresh cluster takes until its leader shows every transaction of the source."""
    wanted = source.gtid_executed()
    leader = cluster.leader()
    settle()
    with watched(cluster) as watch:
        began = time.perf_counter()
        cluster.start_receiver(source, tls={"mode": "disabled"})
        wait_for(
            lambda: leader.status()["executed_gtid_set"] == wanted,
            what=f"the leader to have {wanted}",
            seconds=INGEST_SECONDS_MAX,
            explain=lambda: (leader.status(), leader.receiver_status(), cluster.logs()),
        )
        seconds = time.perf_counter() - began
    series.add(name, seconds, watch.usage)
    return leader


def watched(cluster: KingbusCluster) -> Watch:
    running = cluster.running
    return Watch([node.pid for node in running], [node.data_dir for node in running])


def _three_nodes(source: MySQLServer, directory: Path, product: Product, series: Series) -> None:
    with KingbusCluster(
        directory, count=3, settings=product.configured(SETTINGS), program=product.program
    ) as cluster:
        ingest(source, cluster, catalogue.INGEST_THREE, series)
    shutil.rmtree(directory)


def _one_node(
    source: MySQLServer, directory: Path, product: Product, series: Series, carried: int
) -> None:
    """Ingest, and then the dumps: what was just written lies in the page cache."""
    slack = _ARTIFICIAL_BYTES * len(source.binlog_files())
    with KingbusCluster(
        directory, count=1, settings=product.configured(SETTINGS), program=product.program
    ) as cluster:
        node = ingest(source, cluster, catalogue.INGEST_ONE, series)
        node.start_listener()
        with watched(cluster) as watch:
            drained = drain_node(node)
        series.add(catalogue.DUMP, drained.seconds, watch.usage)
        _require_equal(drained.bytes, carried, slack)
        with watched(cluster) as watch:
            endless = drain_node(node, at_least=drained.bytes - slack)
        series.add(catalogue.DUMP_AS_REPLICA, endless.seconds, watch.usage)
        _require_equal(endless.bytes, carried, slack + _HEARTBEAT_BYTES)
        with watched(cluster) as watch:
            seconds = _drain_by_many(node, carried, slack)
        series.add(catalogue.DUMP_TO_MANY, seconds, watch.usage)
    shutil.rmtree(directory)


def drain_node(node: KingbusNode, *, at_least: int | None = None) -> Drained:
    return drain(
        port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD, at_least=at_least
    )


def _drain_by_many(node: KingbusNode, carried: int, slack: int) -> float:
    """Seconds from the first of several readers' beginning to the end of the last."""
    drained = drain_by_many(
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        count=catalogue.READERS,
    )
    for each in drained:
        _require_equal(each.bytes, carried, slack)
    return max(each.ended for each in drained) - min(each.began for each in drained)


def _require_equal(came: int, carried: int, slack: int) -> None:
    """A fast dump that leaves something out is not fast."""
    if abs(came - carried) >= slack:
        raise AssertionError(f"a dump of {came} bytes, where the source's own has {carried}")
