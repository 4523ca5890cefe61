"""A member that is behind the start of the log comes back, or joins there, and serves at once."""

import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.relayed_files import assert_same_files, wait_for_end
from tests.support.servers import MySQLServer
from tests.support.stopped_node import purge
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

LOGIN = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}


def follow(replica: MySQLServer, node: KingbusNode) -> None:
    """Point a replica at a node."""
    replica.stop_replica()
    replica.change_source(host="127.0.0.1", port=node.listen_port, **LOGIN)
    replica.start_replica()


def assert_equal(replica: MySQLServer, source: MySQLServer) -> None:
    """The replica gets to have exactly what the source has."""
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    assert source.has_executed(replica.gtid_executed())


def write_files(source: MySQLServer, count: int) -> None:
    """Fill so many files, the last of which is closed, too."""
    for _ in range(count):
        workload.small_transactions(source, 100)
        workload.large_transactions(source, 1)
        source.execute("FLUSH BINARY LOGS")


def purge_all_but(cluster: KingbusCluster, source: MySQLServer, keep: int) -> str:
    """Purge all but so many files, at the source, too; what no node has any more."""
    rows = cluster.leader().get("/binlog/files")
    first = rows[-keep]
    purge(cluster, first["first_index"])
    for node in cluster.running:
        wait_for(
            lambda node=node: node.status()["first_index"] >= first["first_index"],
            what=f"the log of {node.name} to be cut at {first['first_index']}",
            explain=node.status,
        )
    source.execute(f"PURGE BINARY LOGS TO '{first['name']}'")
    return str(first["previous_gtids"])


def dump(node: KingbusNode, gtid_set: str) -> str:
    """How a dump of all that is there ends for who has these transactions already."""
    with RawReader(port=node.listen_port, gtid_set=gtid_set, non_blocking=True, **LOGIN) as reader:
        seen = reader.join()
    assert seen.faults == []
    return str(seen.end)


def test_members_behind_the_start_of_the_log(world: World, modern: Installation) -> None:
    """While a member was away the others purged what it has, and more: it installs a snapshot,
    catches up under load and serves a replica. So does one that joins, of which no log is left
    that reaches back to its beginning."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster()
    cluster.start_receiver(source)
    cluster.start_listeners()
    away, other = cluster.followers()
    replica = world.server(modern, "replica", server_id=2)
    replica.change_source(host="127.0.0.1", port=other.listen_port, **LOGIN)
    replica.start_replica()
    write_files(source, 2)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()
    ended_at = away.status()["last_index"]
    away.stop()

    write_files(source, 3)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    purged = purge_all_but(cluster, source, 2)
    assert cluster.leader().status()["first_index"] > ended_at + 1
    assert_equal(replica, source)

    with workload.Writer(source) as writer:
        writer.wait_for_more(50)
        away.start()
        writer.wait_for_more(200)
        follow(replica, away)
        wait_for(
            lambda: "caught up from a snapshot" in away.output(),
            what=f"{away.name} to catch up",
            explain=cluster.logs,
        )
        # Back as a full member: with it alone the leader has its majority.
        third = next(node for node in cluster if node not in (away, cluster.leader()))
        third.stop()
        writer.wait_for_more(200)
        third.start()
        joined = cluster.newcomer("n4")
        joined.start(via=cluster.leader().admin_url)
        joined.start_listener()
        cluster.wait_voter("n4")
        writer.wait_for_more(100)
    for node in (away, joined):
        assert node.output().count("snapshot installed") == 1, node.output()

    assert_equal(replica, source)
    follow(replica, joined)
    workload.small_transactions(source, 50)
    assert_equal(replica, source)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    wait_for_end(cluster, source)
    cluster.wait_equal()
    for node in cluster:
        assert_same_files(world.directory / f"raw-{node.name}", node, source)
        assert node.status()["purged_gtid_set"] == purged
        # Who lacks something of that is refused, in the words that a replica understands.
        assert dump(node, "").startswith("1236 ")
        assert dump(node, purged) == "eof"
