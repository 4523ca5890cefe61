"""Source, three members, replicas: the whole way, with the failures that the relay is for."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import workload
from tests.support.cluster import (
    LISTENER_PASSWORD,
    LISTENER_USER,
    KingbusCluster,
    KingbusNode,
)
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def begin(
    world: World, installation: Installation, **settings: object
) -> tuple[MySQLServer, KingbusCluster]:
    """A source with tables, and a cluster that pulls from it and listens on every node."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(**settings)
    cluster.start_receiver(source)
    cluster.start_listeners()
    return source, cluster


def attach(
    world: World, installation: Installation, node: KingbusNode, *, server_id: int
) -> MySQLServer:
    """A replica that follows the relay through one node."""
    replica = world.server(installation, f"replica{server_id}", server_id=server_id)
    replica.change_source(
        host="127.0.0.1", port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()
    return replica


def assert_equal(replica: MySQLServer, source: MySQLServer, *, seconds: float = 60.0) -> None:
    """The replica gets to have exactly what the source has, and no error stands in its status."""
    executed = source.gtid_executed()
    replica.wait_for_gtids(executed, seconds=seconds)
    assert replica.checksums() == source.checksums()
    # Nothing but the source's own transactions, each of them once.
    assert source.has_executed(replica.gtid_executed())
    wait_for(
        lambda: replica.replica_errors() == [],
        what="a status without errors",
        seconds=20,
        explain=replica.replica_errors,
    )


def test_replica_on_a_follower_equals_the_source(world: World, installation: Installation) -> None:
    """Small, large and giant transactions reach a replica that asks a follower, all of them."""
    source, cluster = begin(world, installation)
    replica = attach(world, installation, cluster.followers()[0], server_id=2)
    workload.small_transactions(source, 2000)
    workload.large_transactions(source, 20)
    workload.giant_row(source)
    assert_equal(replica, source)
    assert replica.checksums()["shop.orders"][0] == 2000
    assert replica.checksums()["shop.documents"][0] == 161
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()
    # The replica sees one source with an identity of its own, and the source sees one replica.
    status = replica.replica_status()
    assert status["Source_UUID"] != source.server_uuid()
    assert int(status["Source_Server_Id"]) != source.server_id


def test_a_replica_of_a_worker_process_equals_the_source(
    world: World, installation: Installation
) -> None:
    """The giant row included; when the worker dies the replica comes back and misses nothing."""
    source, cluster = begin(world, installation, count=1, server={"workers": 1})
    node = cluster.nodes[0]
    replica = attach(world, installation, node, server_id=2)
    workload.small_transactions(source, 500)
    workload.giant_row(source)
    assert_equal(replica, source)
    tasks = Path(f"/proc/{node.pid}/task").iterdir()
    (worker,) = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    os.kill(worker, signal.SIGKILL)
    workload.large_transactions(source, 5)
    wait_for(lambda: node.metric("kingbus_dump_worker_ends_total") == 1.0, what="the worker's end")
    assert_equal(replica, source)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_replica_that_comes_back_is_brought_into_phase(
    world: World, installation: Installation, workers: int
) -> None:
    """By heartbeats that change nothing for it; it gets the rest unread, and equals the source."""
    source, cluster = begin(world, installation, count=1, server={"workers": workers})
    node = cluster.nodes[0]
    replica = attach(world, installation, node, server_id=2)
    for number in (50, 7):
        workload.small_transactions(source, number)
        assert_equal(replica, source)
        replica.stop_replica()
        workload.large_transactions(source, 20, row_bytes=256 * 1024)
        cluster.wait_for_gtids(source.gtid_executed(), source)
        if workers:  # which serves only what it has checked itself
            with RawReader(
                port=node.listen_port,
                user=LISTENER_USER,
                password=LISTENER_PASSWORD,
                non_blocking=True,
            ) as reader:
                assert reader.join().faults == []
        before = node.metric("kingbus_dump_file_bytes_total")
        replica.start_replica()
        assert_equal(replica, source)
        unread = node.metric("kingbus_dump_file_bytes_total") - before
        assert unread > 20 * workload.MIB
    assert replica.replica_errors() == []


def test_leader_killed_under_load(world: World, installation: Installation) -> None:
    """kill -9 of the leader while rows are written: replicas on other nodes do not even notice."""
    source, cluster = begin(world, installation)
    leader = cluster.leader()
    follower = cluster.followers()[0]
    replica = attach(world, installation, follower, server_id=2)
    beside = attach(world, installation, leader, server_id=3)
    with workload.Writer(source) as writer:
        writer.wait_for_more(300)
        leader.kill9()
        writer.wait_for_more(300)
        new_leader = cluster.leader()
        assert new_leader is not leader
        writer.wait_for_more(300)
        leader.start()
        writer.wait_for_more(300)
        writer.stop()
        written = writer.committed
    assert_equal(replica, source)
    # The one whose node was killed comes back to that node, where the listener came back by itself.
    assert_equal(beside, source)
    assert replica.checksums()["shop.orders"][0] == written
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()


def test_cluster_goes_on_after_a_full_stop(world: World, installation: Installation) -> None:
    """All nodes stopped and started: receiver and listeners go on without being told."""
    source, cluster = begin(world, installation)
    replica = attach(world, installation, cluster.nodes[1], server_id=2)
    with workload.Writer(source) as writer:
        writer.wait_for_more(200)
        cluster.stop()
        writer.wait_for_more(200)
        cluster.start()
        writer.wait_for_more(200)
        writer.stop()
    assert_equal(replica, source)
    # And so after a crash of all of them at once.
    with workload.Writer(source, number=2) as writer:
        writer.wait_for_more(200)
        for node in cluster:
            node.kill9()
        writer.wait_for_more(200)
        cluster.start()
        writer.wait_for_more(200)
        writer.stop()
    assert_equal(replica, source)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()


def test_fourth_node_joins_serves_and_leaves(world: World, installation: Installation) -> None:
    """A node added to a running cluster serves the whole log; removed, it stops by itself."""
    source, cluster = begin(world, installation)
    workload.small_transactions(source, 500)
    source.execute("FLUSH BINARY LOGS")
    workload.large_transactions(source, 4)
    cluster.wait_for_gtids(source.gtid_executed(), source)

    fourth = cluster.add_member("n4")
    fourth.start_listener()
    cluster.wait_for_gtids(source.gtid_executed(), source)
    names = {member["name"] for member in fourth.get("/members")}
    assert names == {"n1", "n2", "n3", "n4"}
    replica = attach(world, installation, fourth, server_id=2)
    with workload.Writer(source) as writer:
        writer.wait_for_more(200)
        writer.stop()
    assert_equal(replica, source)
    login = {"user": LISTENER_USER, "password": LISTENER_PASSWORD, "non_blocking": True}
    cluster.wait_equal()
    with (
        RawReader(port=fourth.listen_port, **login) as new,
        RawReader(port=cluster.nodes[0].listen_port, **login) as other,
    ):
        assert new.join().digest == other.join().digest
        assert new.seen.transactions == other.seen.transactions
        assert new.seen.faults == other.seen.faults == []

    members = cluster.leader().ask("DELETE", "/members", {"name": "n4"})
    assert {member["name"] for member in members} == {"n1", "n2", "n3"}
    assert fourth.wait_end() == 0
    assert "removed from the cluster" in fourth.output()
    fourth.launch()
    assert fourth.wait_end() == 1
    cluster.nodes.remove(fourth)
    again = cluster.leader().request("DELETE", "/members", {"name": "n4"})
    assert again.status == 410
    # The three go on, and the replica with them once it is pointed at one of them.
    replica.stop_replica()
    replica.change_source(
        host="127.0.0.1",
        port=cluster.nodes[0].listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
    )
    replica.start_replica()
    workload.small_transactions(source, 50)
    assert_equal(replica, source)
