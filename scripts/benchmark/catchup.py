"""Three learners that join behind a whole log: how long they take, and whom they hold up."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmark import catalogue
from scripts.benchmark.figures import Series
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say, settle
from scripts.benchmark.watching import Watch
from scripts.benchmark.workloads import Workload, fill, make_source, make_tables
from tests.support.cluster import KingbusCluster, KingbusNode
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

SETTINGS = {"segment-size": "256MB", "reserve-data-size": "20GB"}
JOINING = 3
_TURNS = 'kingbus_loop_turn_seconds_bucket{le="'
_SECONDS_MAX = 300.0


def measure(
    workload: Workload, products: Sequence[Product], turns: int, directory: Path
) -> Measured:
    """Pull a workload with one node, then have the others join it, `turns` times."""
    measured = Measured(part="catch-up", series={product.name: Series() for product in products})
    with make_source(directory / "source") as source:
        say(f"catch-up: writing {workload.transactions} transactions")
        make_tables(source)
        measured.load = fill(source, workload)
        for turn in range(turns):
            for product in in_turn(products, turn):
                _turn(source, directory / "nodes", product, measured.series[product.name])
            measured.tell(turn)
    return measured


def _turn(source: MySQLServer, directory: Path, product: Product, series: Series) -> None:
    with KingbusCluster(
        directory, count=1, settings=product.configured(SETTINGS), program=product.program
    ) as cluster:
        leader = cluster.leader()
        cluster.start_receiver(source, tls={"mode": "disabled"})
        cluster.wait_for_gtids(source.gtid_executed(), source, seconds=_SECONDS_MAX)
        settle()
        before = long_turns(leader)
        with Watch([leader.pid], [leader.data_dir]) as watch:
            began = time.perf_counter()
            learners = [cluster.newcomer(f"learner-{number}") for number in range(JOINING)]
            for learner in learners:
                learner.launch(via=leader.admin_url, learner=True)
            for learner in learners:
                learner.wait_ready()
            wanted = leader.status()["applied_index"]
            wait_for(
                lambda: min(each.status()["applied_index"] for each in learners) >= wanted,
                what=f"all learners to have applied {wanted}",
                seconds=_SECONDS_MAX,
                explain=cluster.logs,
            )
            seconds = time.perf_counter() - began
        series.add(catalogue.CATCH_UP, seconds, watch.usage)
        after = long_turns(leader)
        if after:
            series.add(catalogue.LOOP_TURN, longest(before, after) * 1000)
    shutil.rmtree(directory)


def long_turns(node: KingbusNode) -> dict[float, float]:
    """How many turns of the node's event loop took up to so many seconds; empty: it tells none."""
    found = {}
    for name, count in node.metrics().items():
        if name.startswith(_TURNS):
            found[float(name.removeprefix(_TURNS).removesuffix('"}'))] = count
    return found


def longest(before: dict[float, float], after: dict[float, float]) -> float:
    """The bound in seconds that the longest turn between two looks stayed below."""
    new = {bound: count - before.get(bound, 0.0) for bound, count in sorted(after.items())}
    all_of_them = new[max(new)]
    return min(bound for bound, count in new.items() if count == all_of_them)
