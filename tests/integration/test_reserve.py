"""The reserve is kept, whatever is written; who keeps up notices nothing, who does not is told."""

import pytest

from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster
from tests.support.installations import Installation
from tests.support.proxy import Proxy
from tests.support.reserve import (
    CHURN_SETTINGS,
    DiskWatch,
    churn,
    firsts,
    is_cut_off,
    make_churn,
    until_cut_off,
)
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

MIB = 1 << 20
RESERVE = 48 * MIB
SETTINGS = {"reserve_data_size": "48MB", "segment_size": "8MB"}
LOGIN = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}
CHUNK = 4 * MIB


def wait_for_one_first(cluster: KingbusCluster) -> tuple[str, str]:
    """First file and purged set, which all nodes come to have alike."""
    wait_for(lambda: len(firsts(cluster)) == 1, what="the same first file", explain=cluster.states)
    (found,) = firsts(cluster)
    return found


def write(source: MySQLServer, size: int, *, until: MySQLServer) -> int:
    """Write so much, never further ahead of a replica than a chunk; what was written."""
    written = 0
    while written < size:
        written += churn(source, CHUNK)
        until.wait_for_gtids(source.gtid_executed())
    return written


def test_twenty_times_the_reserve(world: World, modern: Installation) -> None:
    """Segments and index stay within the reserve on each node, all have the same first file, a
    replica that keeps up stays attached, one that does not is cut off with 1236, which its metric
    has told before; and a member that was away for longer than is kept comes back by itself."""
    source = world.server(
        modern, "source", server_id=1, extra=("max_binlog_size=4M", *CHURN_SETTINGS)
    )
    make_churn(source)
    cluster = world.cluster(**SETTINGS)
    cluster.start_receiver(source)
    cluster.start_listeners()
    leader, (first, second) = cluster.leader(), cluster.followers()
    quick = world.server(modern, "quick", server_id=2)
    quick.change_source(host="127.0.0.1", port=first.listen_port, **LOGIN)
    slow = world.server(modern, "slow", server_id=3)
    proxy = Proxy("127.0.0.1", second.listen_port)
    world.started.append(proxy)
    slow.change_source(host="127.0.0.1", port=proxy.port, heartbeat_seconds=60, **LOGIN)
    for replica in (quick, slow):
        replica.start_replica()
        replica.wait_for_gtids(source.gtid_executed())
    (shown,) = first.listener_status()["slaves"]
    attached = shown["connect_time"]
    assert 0 < shown["bytes_until_cut_off"] < RESERVE
    slow_uuid = slow.server_uuid()

    with DiskWatch(cluster) as watch:
        proxy.rate = 50_000.0
        left: list[float] = []
        written = 0
        while not left or left[-1] > 0:
            written += write(source, CHUNK, until=quick)
            found = until_cut_off(leader, slow_uuid)
            left += [found] if found is not None else []
            assert written < 2 * RESERVE, left
        assert left[0] > 4 * MIB, left
        assert any(0 < each <= left[0] / 2 for each in left), left
        proxy.rate = None
        wait_for(
            lambda: is_cut_off(slow),
            what="the slow replica to be cut off",
            seconds=60,
            explain=lambda: (slow.replica_status(), cluster.logs()),
        )

        written += write(source, 10 * RESERVE - written, until=quick)
        wait_for_one_first(cluster)
        before = second.status()
        second.stop()
        written += write(source, 2 * RESERVE, until=quick)
        assert leader.status()["first_index"] > before["last_index"]
        second.start()
        wait_for(
            lambda: "caught up from a snapshot" in second.output(),
            what=f"{second.name} to catch up",
            explain=cluster.logs,
        )
        written += write(source, 20 * RESERVE - written, until=quick)
    assert written >= 20 * RESERVE

    largest = watch.largest()
    assert all(24 * MIB < taken <= RESERVE for taken in largest.values()), largest
    name, purged = wait_for_one_first(cluster)
    assert name != "mysql-bin.000001"
    assert purged
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()
    assert quick.checksums() == source.checksums()
    assert first.listener_status()["slaves"][0]["connect_time"] == attached
    assert leader.receiver_status()["status"] == "running"
    assert leader.metric("kingbus_receiver_sessions_total") == 1


def test_an_open_file_larger_than_the_reserve(world: World, modern: Installation) -> None:
    """The receiver stops before the reserve is passed, and says so; with more room it goes on by
    itself, and where it is told to exceed the reserve it does not stop."""
    source = world.server(modern, "source", server_id=1, extra=CHURN_SETTINGS)
    make_churn(source)
    cluster = world.cluster(count=1, reserve_data_size="16MB", segment_size="2MB")
    (node,) = cluster.nodes
    cluster.start_receiver(source)
    with DiskWatch(cluster) as watch:
        churn(source, 20 * MIB)
        wait_for(
            lambda: node.receiver_status()["error"] == "reserve full",
            what="the receiver to stop",
            explain=cluster.logs,
        )
    assert 10 * MIB < watch.largest()["n1"] <= 16 * MIB, watch.largest()
    assert any("used up" in each for each in node.status()["warnings"])
    assert any("3 x the source's max_binlog_size" in each for each in node.status()["warnings"])

    for settings in ({"reserve_data_size": "32MB"}, {"reserve_overflow": "exceed"}):
        node.stop()
        node.configure(**settings)
        node.start()
        cluster.wait_for_gtids(source.gtid_executed(), source)
        assert node.receiver_status()["status"] == "running"
        churn(source, 40 * MIB)
    with DiskWatch(cluster) as watch:
        cluster.wait_for_gtids(source.gtid_executed(), source)
        source.execute("FLUSH BINARY LOGS")
        churn(source, 1)
        wait_for(
            lambda: len(node.get("/binlog/files")) == 1,
            what="the large file to be purged",
            explain=cluster.logs,
        )
        wait_for(lambda: watch.look()[0].total <= 32 * MIB, what="the room to be free again")


def test_purging_by_hand(world: World, modern: Installation) -> None:
    """By command, by API and by SQL, on all nodes alike; MySQL's own errors, for who lacks
    the right too."""
    source = world.server(modern, "source", server_id=1)
    make_churn(source)
    cluster = world.cluster()
    cluster.start_receiver(source)
    follower = cluster.followers()[0]
    body = {"addr": follower.listen_address, "admin": True, **LOGIN}
    follower.ask("PUT", "/binlog/server/start", body)
    for _ in range(6):
        churn(source, 1)
        source.execute("FLUSH BINARY LOGS")
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()
    names = [each["name"] for each in follower.get("/binlog/files")]
    assert len(names) >= 7

    done = follower.command("binlog", "purge", "--to", names[1])
    assert done.returncode == 0, done.stderr
    assert names[0] not in done.stdout
    assert names[1] in done.stdout
    left = follower.ask("POST", "/binlog/purge", {"to": names[2]})
    assert [each["name"] for each in left] == names[2:]
    reply = follower.request("POST", "/binlog/purge", {"to": names[0]})
    assert (reply.status, reply.message) == (404, f"no such file: {names[0]}")

    relay = {"host": "127.0.0.1", "port": follower.listen_port, **LOGIN}
    with source.connect(**relay) as connection, connection.cursor() as cursor:
        cursor.execute(f"PURGE BINARY LOGS TO '{names[3]}'")
        cursor.execute("SHOW BINARY LOGS")
        assert [row[0] for row in cursor.fetchall()] == names[3:]
        with pytest.raises(Exception, match="Target log not found in binlog index") as caught:
            cursor.execute(f"PURGE BINARY LOGS TO '{names[0]}'")
        assert caught.value.args[0] == 1373
        cursor.execute("PURGE BINARY LOGS BEFORE NOW() - INTERVAL 1 DAY")
        cursor.execute("SHOW BINARY LOGS")
        assert [row[0] for row in cursor.fetchall()] == names[3:]

    cluster.leader().ask("POST", "/binlog/purge", {"before": "2100-01-01 00:00:00"})
    assert wait_for_one_first(cluster)[0] == names[-1]
    assert source.has_executed(follower.status()["purged_gtid_set"])

    # The right is needed.
    follower.start_listener()
    with source.connect(**relay) as connection, connection.cursor() as cursor:
        with pytest.raises(Exception, match="BINLOG_ADMIN") as caught:
            cursor.execute(f"PURGE BINARY LOGS TO '{names[-1]}'")
        assert caught.value.args[0] == 1227
