"""Two of three directories are gone: the third goes on as a cluster of its own."""

import shutil

import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusNode, run_kingbus
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.servers import assert_same_binlog, fetch_binlogs
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def own_uuid(node: KingbusNode) -> object:
    """The server uuid that a replica of this node is told."""
    return node.receiver_status()["syncer_uuid"]


def test_a_survivor_goes_on_as_a_new_cluster(world: World, modern: Installation) -> None:
    """It keeps what it has, pulls on from there, serves under the same server uuid, and new members
    join it; a replica that was attached gets everything once, and an old member is refused."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    workload.small_transactions(source, 20)
    cluster = world.cluster()
    cluster.start_receiver(source)
    cluster.start_listeners()
    cluster.wait_for_gtids(source.gtid_executed(), source)
    survivor, *others = cluster.nodes
    replica = world.server(modern, "replica", server_id=2)
    replica.change_source(
        host="127.0.0.1", port=survivor.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()
    replica.wait_for_gtids(source.gtid_executed())
    uuid, old_id = own_uuid(survivor), survivor.status()["cluster_id"]
    for node in cluster:
        node.kill9()
    gone, old = others
    shutil.rmtree(gone.data_dir)
    workload.small_transactions(source, 20)

    words = ("storage", "recover", "--force-new-cluster", "--data-dir", str(survivor.data_dir))
    refused = run_kingbus(*words)
    assert refused.returncode == 2, refused
    assert source.server_uuid() in refused.stdout
    done = run_kingbus(*words, "--yes-i-am", survivor.name)
    assert done.returncode == 0, done

    for node in others:
        cluster.nodes.remove(node)
    survivor.start()
    cluster.leader()
    assert survivor.status()["cluster_id"] != old_id
    assert [member["name"] for member in survivor.get("/members")] == [survivor.name]
    assert own_uuid(survivor) == uuid
    cluster.wait_for_gtids(source.gtid_executed(), source)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()

    # Somebody starts the other old member after all.
    old.start()
    wait_for(
        lambda: "cluster-mismatch" in old.output() or "this is a member of" in old.output(),
        what="the old member to be refused",
        explain=old.output,
    )
    old.kill9()
    assert [member["name"] for member in survivor.get("/members")] == [survivor.name]

    for name in ("n4", "n5"):
        joined = cluster.newcomer(name)
        joined.start(via=survivor.admin_url)
        joined.start_listener()
        cluster.wait_voter(name)
    workload.small_transactions(source, 20)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()
    login = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}
    for node in cluster:
        assert own_uuid(node) == uuid
        with RawReader(port=node.listen_port, **login, non_blocking=True) as reader:
            seen = reader.join()
        assert seen.faults == []
        files = fetch_binlogs(
            source.binlog_files(),
            world.directory / f"raw-{node.name}",
            port=node.listen_port,
            **login,
        )
        for file in files:
            assert_same_binlog(file, source.binlog_path(file.name), is_open=True)
    # It is a cluster like any other: the recovered member may go.
    survivor.kill9()
    workload.small_transactions(source, 5)
    cluster.leader()
    cluster.wait_for_gtids(source.gtid_executed(), source)
