"""A disk that is full to the last byte, of a leader that pulls from a real source."""

import functools

import pytest

from tests.support import workload
from tests.support.cluster import (
    LISTENER_PASSWORD,
    LISTENER_USER,
    KingbusCluster,
    KingbusNode,
    run_kingbus,
)
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

SETTINGS = {"reserve-data-size": "48MB", "segment-size": "4MB"}
LOGIN = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}


def is_told(node: KingbusNode) -> bool:
    """Status, metric and readiness all say it."""
    ready = node.request("GET", "/ready")
    return (
        ready.status == 503
        and "the disk is full" in ready.message
        and any("the disk is full" in each for each in node.status()["warnings"])
        and node.metric("kingbus_storage_disk_full") == 1
    )


def served(node: KingbusNode) -> set[str]:
    """The transactions that a fresh replica of this node gets."""
    with RawReader(port=node.listen_port, **LOGIN, non_blocking=True) as reader:
        seen = reader.join()
    assert seen.faults == []
    return set(seen.transactions)


def test_a_leader_whose_disk_is_full(world: World, modern: Installation) -> None:
    """It says so, another one leads, what it has is served; started again on the full disk it
    serves too. With room it catches up by itself, and not a byte is wrong."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = KingbusCluster(world.directory / "cluster", settings=SETTINGS)
    world.started.append(cluster)
    with small_disk(cluster.nodes[0].data_dir, megabytes=96) as disk:
        fill_and_empty(source, cluster, disk)


def fill_and_empty(source: MySQLServer, cluster: KingbusCluster, disk: SmallDisk) -> None:
    """All of it."""
    full, *others = cluster.nodes
    cluster.start()
    if cluster.leader() is not full:
        cluster.leader().ask("POST", "/leader/transfer", {"name": full.name})
        wait_for(lambda: cluster.leader() is full, what=f"{full.name} to lead")
    cluster.start_receiver(source)
    cluster.start_listeners()
    workload.small_transactions(source, 50)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    before = served(full)
    assert full.request("GET", "/ready").status == 200

    disk.fill()
    with workload.Writer(source) as writer:
        wait_for(lambda: is_told(full), what="the full disk to be told", explain=cluster.logs)
        wait_for(lambda: not full.is_leader(), what="another leader", explain=cluster.logs)
        writer.wait_for_more(200)
        # Health is about the process, which does what it can.
        assert full.request("GET", "/health").status == 200
        assert served(full) >= before
    for node in others:
        wait_for(
            functools.partial(goes_on, node, source),
            what=f"{node.name} to go on",
            explain=cluster.logs,
        )

    full.kill9()
    full.start()
    assert served(full) >= before
    wait_for(lambda: is_told(full), what="it to be told again", explain=cluster.logs)
    assert full.is_running

    disk.empty()
    wait_for(
        lambda: full.request("GET", "/ready").status == 200, what="/ready", explain=cluster.logs
    )
    assert "the disk has room again" in full.output()
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()
    assert served(full) == served(others[0])
    assert full.metric("kingbus_storage_disk_full") == 0
    cluster.stop()
    verified = run_kingbus("storage", "verify", "--data-dir", str(full.data_dir))
    assert verified.returncode == 0, verified


def goes_on(node: KingbusNode, source: MySQLServer) -> bool:
    """Whether the node serves everything."""
    return served(node) >= source_transactions(source)


def source_transactions(source: MySQLServer) -> set[str]:
    """Every transaction of the source's own, one by one."""
    uuid, _, last = source.gtid_executed().rpartition("-")
    return {f"{uuid.partition(':')[0]}:{number}" for number in range(1, int(last) + 1)}
