"""Kinds of events and of sources beside those of `test_protocol`: old servers, and a group."""

import pytest

from tests.support import processes
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusNode
from tests.support.event_kinds import an_incident, every_kind_of_transaction
from tests.support.installations import Installation
from tests.support.relayed_files import assert_same_files, wait_for_end
from tests.support.servers import MySQLServer, modern, old
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = [pytest.mark.mysql, pytest.mark.slow]

GROUP = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"


def follow(replica: MySQLServer, node: KingbusNode) -> None:
    replica.change_source(
        host="127.0.0.1", port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()


def test_every_kind_of_an_old_source(world: World) -> None:
    """Statement, mixed and row format, files loaded, XA and giant rows of MySQL 5.6: replicas of
    5.6 and of 9.7 have what the source has, and the files are its own."""
    source = world.server(old(), "source", server_id=1, extra=["local_infile=ON"])
    cluster = world.cluster(count=1)
    cluster.start_receiver(source)
    cluster.start_listeners()
    (node,) = cluster.nodes
    replicas = [
        world.server(installation, f"replica-{number}", server_id=number)
        for number, installation in ((2, old()), (3, modern()))
    ]
    for replica in replicas:
        follow(replica, node)
    every_kind_of_transaction(source, world.directory)
    for replica in replicas:
        replica.wait_for_gtids(source.gtid_executed())
        assert replica.checksums() == source.checksums()
        replica.stop_replica()
    an_incident(source)
    wait_for_end(cluster, source)
    assert_same_files(world.directory / "fetched", node, source)
    # A replica stops at it, as it would at the source.
    for replica in replicas:
        replica.start_replica()
        wait_for(
            lambda replica=replica: any("incident" in each for each in replica.replica_errors()),
            what="the replica to stop at the incident",
            explain=replica.replica_status,
        )


def test_a_group_as_the_source(world: World, modern: Installation) -> None:
    """Transactions of a group bear the group's uuid, not the server's: relayed, served, counted,
    and none is missed when the leader dies."""
    port = processes.free_port()
    extra = [
        "plugin_load_add=group_replication.so",
        f"loose-group_replication_group_name={GROUP}",
        f"loose-group_replication_local_address=127.0.0.1:{port}",
        f"loose-group_replication_group_seeds=127.0.0.1:{port}",
        "loose-group_replication_start_on_boot=OFF",
        "loose-group_replication_bootstrap_group=ON",
        "report_host=127.0.0.1",
        "local_infile=ON",
    ]
    source = world.server(modern, "source", server_id=1, extra=extra)
    source.execute("START GROUP_REPLICATION")
    cluster = world.cluster()
    cluster.start_receiver(source)
    cluster.start_listeners()
    node = cluster.followers()[0]
    replica = world.server(modern, "replica", server_id=2)
    follow(replica, node)
    source.execute("CREATE DATABASE t")
    source.execute("CREATE TABLE t.i (id INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(200))")
    for _ in range(20):
        source.execute("INSERT INTO t.i (x) VALUES ('x')")
    assert source.gtid_executed() == f"{GROUP}:1-22"
    replica.wait_for_gtids(source.gtid_executed())
    cluster.leader().kill9()
    source.execute("FLUSH BINARY LOGS")
    for _ in range(20):
        source.execute("INSERT INTO t.i (x) VALUES ('y')")
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    wait_for_end(cluster, source)
    assert_same_files(world.directory / "fetched", node, source)
