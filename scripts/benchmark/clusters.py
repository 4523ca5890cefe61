"""Clusters that a part of the benchmark begins with: new ones, which pull and serve."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmark.revisions import Product
from tests.support.cluster import KingbusCluster
from tests.support.servers import MySQLServer


@contextmanager
def relaying(
    source: MySQLServer,
    directory: Path,
    product: Product,
    *,
    count: int,
    settings: Mapping[str, str],
) -> Iterator[tuple[KingbusCluster, str]]:
    """`count` nodes that listen and have all that the source has executed, and that set.

    At the end, if all went well, their directory is removed.
    """
    with KingbusCluster(
        directory, count=count, settings=product.configured(settings), program=product.program
    ) as cluster:
        cluster.start_receiver(source)
        cluster.start_listeners()
        held = source.gtid_executed()
        cluster.wait_for_gtids(held, source)
        yield cluster, held
    shutil.rmtree(directory)
