"""What three nodes need while nothing happens: pulling from a silent source, a replica on each."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.benchmark import catalogue
from scripts.benchmark.clusters import relaying
from scripts.benchmark.figures import Series
from scripts.benchmark.readers import attach
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say
from scripts.benchmark.watching import Watch
from scripts.benchmark.workloads import make_source, make_tables
from tests.support.servers import MySQLServer

SETTINGS = {"segment-size": "64MB", "reserve-data-size": "8GB"}
_CALM_SECONDS = 3.0
"""What the start and the last requests left behind is done by then."""
_HEARTBEAT_SECONDS = 30.0
"""What a replica asks for by default."""


def measure(
    products: Sequence[Product], turns: int, directory: Path, *, seconds: float
) -> Measured:
    """The CPU time, in per cent of a core, of the node that needs most, over `seconds`."""
    measured = Measured(part="idle", series={product.name: Series() for product in products})
    with make_source(directory / "source") as source:
        make_tables(source)
        say(f"idle: {seconds:.0f} s for each turn")
        for turn in range(turns):
            for product in in_turn(products, turn):
                series = measured.series[product.name]
                _turn(source, directory / "three", product, series, seconds)
            measured.tell(turn)
    return measured


def _turn(
    source: MySQLServer, directory: Path, product: Product, series: Series, seconds: float
) -> None:
    with ExitStack() as stack:
        cluster, held = stack.enter_context(
            relaying(source, directory, product, count=3, settings=SETTINGS)
        )
        for node in cluster:
            stack.enter_context(attach(node, held, heartbeat_seconds=_HEARTBEAT_SECONDS))
        time.sleep(_CALM_SECONDS)
        watch = Watch([node.pid for node in cluster])
        began = time.perf_counter()
        with watch:
            time.sleep(seconds)
        share = watch.most_cpu_seconds / (time.perf_counter() - began)
        series.add(catalogue.IDLE_CPU, share * 100, watch.usage)
