"""Semi-sync both ways: what a source was told is safe is there, whatever dies."""

import contextlib

import pymysql
import pytest

from tests.support import processes, workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster
from tests.support.installations import Installation
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

SOURCE_PLUGIN = (
    "plugin_load_add=semisync_source.so",
    "loose_rpl_semi_sync_source_wait_point=AFTER_SYNC",
    "loose_rpl_semi_sync_source_wait_no_replica=ON",
    "loose_rpl_semi_sync_source_enabled=OFF",
)
REPLICA_PLUGIN = (
    "plugin_load_add=semisync_replica.so",
    "loose_rpl_semi_sync_replica_enabled=ON",
)


def switch_on(source: MySQLServer) -> None:
    """From now on it waits for as long as it takes: ten minutes are more than any test."""
    source.execute("SET GLOBAL rpl_semi_sync_source_timeout = 600000")
    source.execute("SET GLOBAL rpl_semi_sync_source_enabled = ON")


def wait_acknowledging(cluster: KingbusCluster, source: MySQLServer) -> None:
    """Until the source counts the relay among those that acknowledge."""
    wait_for(
        lambda: cluster.leader().receiver_status()["semi_sync_active"],
        what="the receiver to take semi-sync's form",
        explain=cluster.logs,
    )
    wait_for(
        lambda: status(source, "Rpl_semi_sync_source_clients") == "1",
        what="the source to have one replica that acknowledges",
    )


def status(server: MySQLServer, name: str) -> str:
    return str(server.execute("SHOW GLOBAL STATUS LIKE %s", name)[0][1])


class Committing(workload.WritingThread):
    """Inserts its own numbers, and keeps those whose commit came back to it."""

    def __init__(self, source: MySQLServer, first: int) -> None:
        super().__init__()
        self._source = source
        self._next = first
        self.returned: list[int] = []

    def _write(self) -> None:
        with contextlib.closing(self._source.connect()) as connection:
            while not self._stop.is_set():
                try:
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "INSERT INTO shop.orders (id, item) VALUES (%s, 'x')", self._next
                        )
                except (pymysql.err.OperationalError, pymysql.err.InterfaceError, OSError):
                    return  # the source is dead, and whether this one is there nobody knows
                self.returned.append(self._next)
                self._next += 1


def test_what_returned_is_in_the_relay_when_source_and_leader_die(
    world: World, modern: Installation
) -> None:
    """AFTER_SYNC, a timeout that never passes; both killed at once under load, twice: every
    transaction whose commit returned is on the members that are left, and with the relay's
    replica."""
    source = world.server(modern, "source", server_id=1, extra=SOURCE_PLUGIN)
    workload.make_tables(source)
    cluster = world.cluster()
    cluster.start_receiver(source, semi_sync=True)
    cluster.start_listeners()
    replica = world.server(modern, "replica", server_id=2)
    returned: set[int] = set()
    for turn in range(2):
        wait_acknowledging(cluster, source)
        switch_on(source)
        writers = [Committing(source, (1 + turn * 8 + at) * 1_000_000) for at in range(4)]
        with contextlib.ExitStack() as stack:
            for writer in writers:
                stack.enter_context(writer)
            wait_for(
                lambda writers=writers: min(len(each.returned) for each in writers) >= 50,
                what="commits to return",
                explain=lambda: (status(source, "Rpl_semi_sync_source_status"), cluster.logs()),
            )
            assert status(source, "Rpl_semi_sync_source_status") == "ON"
            assert status(source, "Rpl_semi_sync_source_no_tx") == "0"
            leader = cluster.leader()
            source.kill9()
            leader.kill9()
        returned |= {number for writer in writers for number in writer.returned}

        survivor = cluster.leader()
        replica.change_source(
            host="127.0.0.1",
            port=survivor.listen_port,
            user=LISTENER_USER,
            password=LISTENER_PASSWORD,
        )
        replica.start_replica()
        replica.wait_for_gtids(str(survivor.status()["executed_gtid_set"]))
        held = {int(row[0]) for row in replica.execute("SELECT id FROM shop.orders")}
        assert len(returned) >= 200 * (turn + 1)
        assert returned <= held, sorted(returned - held)[:10]
        replica.stop_replica()

        leader.start()
        source.start()
    wait_acknowledging(cluster, source)


def test_who_acknowledged_what_is_shown_both_ways(world: World, modern: Installation) -> None:
    """Source to relay to a replica with its plugin: each says what it was told, and the same end
    is told everywhere; the source never waited in vain."""
    source = world.server(modern, "source", server_id=1, extra=SOURCE_PLUGIN)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    cluster.start_receiver(source, semi_sync=True)
    cluster.start_listeners()
    replica = world.server(modern, "replica", server_id=2, extra=REPLICA_PLUGIN)
    replica.change_source(
        host="127.0.0.1", port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()
    wait_acknowledging(cluster, source)
    switch_on(source)
    workload.small_transactions(source, 50)
    workload.large_transactions(source, 2, row_bytes=1 << 20)
    workload.giant_row(source)
    workload.small_transactions(source, 5)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()

    assert int(status(source, "Rpl_semi_sync_source_yes_tx")) >= 58
    assert status(source, "Rpl_semi_sync_source_no_tx") == "0"
    end = source.binlog_position()

    def told() -> bool:
        receiver = node.receiver_status()
        [slave] = node.listener_status()["slaves"]
        return (
            (receiver["acknowledged_file"], receiver["acknowledged_position"]) == end
            and (slave["acknowledged_file"], slave["acknowledged_position"]) == end
            and bool(slave["semi_sync"])
        )

    wait_for(
        told,
        what=f"{end} to be acknowledged by relay and replica",
        explain=lambda: (node.receiver_status(), node.listener_status()),
    )
    assert status(replica, "Rpl_semi_sync_replica_status") == "ON"
    assert node.metric("kingbus_receiver_semi_sync_acks_total") > 0
    assert node.metric("kingbus_dump_semi_sync_acks_total") > 0
    assert node.metric("kingbus_dump_semi_sync_clients") == 1
    assert replica.replica_errors() == []


def test_a_source_without_the_plugin_is_pulled_from_all_the_same(
    world: World, old: Installation
) -> None:
    """It does not know the variable; the receiver says so once, and takes a plain stream."""
    source = world.server(old, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    cluster.start_receiver(source, semi_sync=True)
    workload.small_transactions(source, 20)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    assert not cluster.nodes[0].receiver_status()["semi_sync_active"]
    assert "has no semi-sync" in processes.tail(cluster.nodes[0].log, lines=200)
