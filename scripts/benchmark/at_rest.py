"""What compressed and sealed segments save and cost: ingest, dump and disk, form by form."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.benchmark import catalogue
from scripts.benchmark.figures import Series
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say
from scripts.benchmark.throughput import SETTINGS, drain_node, ingest, watched
from scripts.benchmark.workloads import fill_with_orders, make_source, make_tables
from tests.support.cluster import KingbusCluster
from tests.support.servers import MySQLServer

TRANSACTIONS = 600_000
"""300 MB of binary log: a node has the newest 64 MB in memory, which no form is opened for."""
_KNOWS_FORMS = "kingbus/storage/at_rest.py"
_KEY = bytes(range(32))
"""Of nothing that is worth anything."""


def measure(
    products: Sequence[Product], turns: int, directory: Path, *, transactions: int
) -> Measured:
    """One node by itself pulls orders of a shop and gives them to a reader, once for each form.

    A commit from before there were forms has nothing to tell.
    """
    able = [each for each in products if (each.program.tree / _KNOWS_FORMS).exists()]
    measured = Measured(part="at-rest", series={product.name: Series() for product in products})
    key_file = directory / "cluster.key"
    key_file.touch(mode=0o600)
    key_file.write_text(_KEY.hex() + "\n")
    forms = list(catalogue.FORMS_AT_REST.items())
    with make_source(directory / "source") as source:
        say(f"at-rest: writing {transactions} transactions")
        make_tables(source)
        measured.load = fill_with_orders(source, transactions)
        for turn in range(turns):
            for product in in_turn(able, turn):
                for name, section in in_turn(forms, turn):
                    settings = SETTINGS | {"cluster-key-file": str(key_file), "at-rest": section}
                    series = measured.series[product.name]
                    held = _one_form(source, directory / "one", product, series, name, settings)
                    share = 100 * held / measured.load.binlog_bytes
                    series.add(catalogue.at_rest_name("on disk", name), share)
            measured.tell(turn)
    return measured


def _one_form(
    source: MySQLServer,
    directory: Path,
    product: Product,
    series: Series,
    form: str,
    settings: Mapping[str, object],
) -> float:
    """Bytes of segments in the end."""
    with KingbusCluster(
        directory, count=1, settings=product.configured(settings), program=product.program
    ) as cluster:
        node = ingest(source, cluster, catalogue.at_rest_name("ingest", form), series)
        node.start_listener()
        with watched(cluster) as watch:
            drained = drain_node(node)
        series.add(catalogue.at_rest_name("dump", form), drained.seconds, watch.usage)
        held = node.metric("kingbus_storage_bytes")
    shutil.rmtree(directory)
    return held
