"""What an operator relies on: what was told stays told, and what can be served is served."""

import pymysql
import pytest

from tests.support import processes, workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, run_kingbus
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.servers import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    MySQLServer,
    assert_same_binlog,
    fetch_binlogs,
)
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def begin(world: World, modern: Installation) -> MySQLServer:
    """A source with tables and a few rows."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    workload.small_transactions(source, 10)
    return source


def dumps_at(source: MySQLServer) -> int:
    """How many replicas the source sends its binary log to now."""
    words = "SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog%'"
    return int(source.value(words))


def test_stopped_receiver_stays_stopped(world: World, modern: Installation) -> None:
    """A stop survives a change of the leader and a restart of all; a start then continues."""
    source = begin(world, modern)
    cluster = world.cluster()
    assert cluster.leader().receiver_status()["status"] == "stopped"
    cluster.start_receiver(source)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    assert cluster.leader().receiver_status()["status"] == "running"
    # Any node may be asked; the leader acts.
    cluster.followers()[0].ask("PUT", "/binlog/syncer/stop")
    stopped_at = source.gtid_executed()
    assert cluster.leader().receiver_status()["status"] == "stopped"
    workload.small_transactions(source, 10)

    leader = cluster.leader()
    leader.kill9()
    assert cluster.leader().receiver_status()["status"] == "stopped"
    leader.start()
    cluster.stop()
    cluster.start()
    status = cluster.leader().receiver_status()
    assert status["status"] == "stopped"
    assert status["executed_gtid_set"] == stopped_at
    assert REPLICATION_PASSWORD not in str(status)

    cluster.leader().ask(
        "PUT", "/binlog/syncer/start", {"mysql_addr": f"{source.host}:{source.port}"}
    )
    cluster.wait_for_gtids(source.gtid_executed(), source)


def test_new_leader_goes_on_by_itself(world: World, modern: Installation) -> None:
    """Leadership moved by hand or by a death: the receiver runs on the new leader, and only there.

    The source sees one replica: the dump of the old leader is gone.
    """
    source = begin(world, modern)
    cluster = world.cluster()
    cluster.start_receiver(source)
    for _ in range(3):
        before = cluster.leader()
        after = next(node for node in cluster.running if node is not before)
        before.ask("POST", "/leader/transfer", {"name": after.name})
        wait_for(lambda after=after: cluster.leader() is after, what=f"{after.name} to lead")
        workload.small_transactions(source, 10)
        cluster.wait_for_gtids(source.gtid_executed(), source)
        wait_for(lambda: dumps_at(source) == 1, what="one dump at the source")
    assert cluster.leader().receiver_status()["status"] == "running"


def test_listener_comes_back_as_it_was(world: World, modern: Installation) -> None:
    """On or off, address and password of a listener survive a restart of its node, alone."""
    source = begin(world, modern)
    cluster = world.cluster()
    cluster.start_receiver(source)
    on, off, _ = cluster.nodes
    on.start_listener()
    off.start_listener()
    off.ask("PUT", "/binlog/server/stop")
    # Without a majority, so that nobody can tell the node anything.
    cluster.stop()
    ready = on.start()
    assert ready["listen"] == on.listen_address
    off.start()
    login = {"host": "127.0.0.1", "user": LISTENER_USER, "password": LISTENER_PASSWORD}
    pymysql.connect(port=on.listen_port, ssl_disabled=True, **login).close()
    assert off.listener_status()["status"] == "stopped"
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(port=off.listen_port, ssl_disabled=True, **login)
    # A new password holds at once, and does not end what is attached.
    with RawReader(port=on.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD) as reader:
        cluster.start()
        on.start_listener(password="another-secret-7q")
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            pymysql.connect(port=on.listen_port, ssl_disabled=True, **login)
        login["password"] = "another-secret-7q"
        pymysql.connect(port=on.listen_port, ssl_disabled=True, **login).close()
        workload.small_transactions(source, 5)
        last = f"{source.server_uuid()}:{source.gtid_executed().rpartition('-')[2]}"
        wait_for(lambda: last in reader.seen.transactions, what=last)
        assert reader.seen.faults == []


def test_serving_without_a_majority(world: World, modern: Installation) -> None:
    """With two of three nodes dead the third still serves all that it has applied."""
    source = begin(world, modern)
    cluster = world.cluster()
    cluster.start_receiver(source)
    cluster.start_listeners()
    cluster.wait_for_gtids(source.gtid_executed(), source)
    survivor = cluster.followers()[0]
    assert survivor.request("GET", "/ready").status == 200
    login = {
        "port": survivor.listen_port,
        "user": LISTENER_USER,
        "password": LISTENER_PASSWORD,
        "heartbeat_seconds": 0.3,
    }
    with RawReader(**login) as attached:
        wait_for(lambda: attached.seen.heartbeats > 0, what="the end of the log")
        for node in cluster:
            if node is not survivor:
                node.kill9()
        heartbeats = attached.seen.heartbeats
        wait_for(lambda: attached.seen.heartbeats > heartbeats + 3, what="heartbeats going on")
        assert attached.is_alive
        with RawReader(**login, non_blocking=True) as fresh:
            assert fresh.join().transactions == attached.seen.transactions
        assert attached.seen.faults == []
    wait_for(lambda: survivor.request("GET", "/ready").status == 503, what="/ready to turn 503")
    assert survivor.get("/binlog/files")[0]["name"] == source.binlog_files()[0]
    refused = survivor.request("PUT", "/binlog/syncer/stop")
    assert (refused.status, refused.message) == (503, "no leader")
    replica = world.server(modern, "replica", server_id=2)
    replica.change_source(
        host="127.0.0.1", port=survivor.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()


def test_one_node_without_a_configuration_file(world: World, modern: Installation) -> None:
    """`kingbus run --source` is a whole relay: it pulls at once, serves, and is restarted so."""
    source = begin(world, modern)
    port, data = processes.free_port(), world.directory / "single"
    words = [
        *("run", "--source", f"mysql://{REPLICATION_USER}@{source.host}:{source.port}"),
        *("--data-dir", str(data), "--listen", f"127.0.0.1:{port}"),
        *("--server-user", LISTENER_USER),
    ]
    log = world.directory / "single.log"
    secrets = {
        "KINGBUS_SOURCE_PASSWORD": REPLICATION_PASSWORD,
        "KINGBUS_SERVER_PASSWORD": LISTENER_PASSWORD,
    }
    without = run_kingbus(*words, environment={"KINGBUS_SOURCE_PASSWORD": REPLICATION_PASSWORD})
    assert without.returncode == 2
    assert "Traceback" not in without.stderr
    for _ in range(2):
        process = processes.start_kingbus(words, log=log, environment=secrets)
        try:
            wait_for(
                lambda: f"listen=127.0.0.1:{port}" in log.read_text(),
                what="ready",
                explain=lambda: processes.tail(log),
            )
            assert_single_relays(world, source, port)
        finally:
            status = processes.stop(process)
        assert status == 0, processes.tail(log)
        log.unlink()


def assert_single_relays(world: World, source: MySQLServer, port: int) -> None:
    """What is written now arrives, and all files are the source's."""
    workload.small_transactions(source, 10)
    last = f"{source.server_uuid()}:{source.gtid_executed().rpartition('-')[2]}"
    login = {"port": port, "user": LISTENER_USER, "password": LISTENER_PASSWORD}
    reader = wait_for(
        lambda: RawReader(**login),
        what="the listener",
        tolerate=(pymysql.err.MySQLError, OSError),
    )
    with reader:
        wait_for(lambda: last in reader.seen.transactions, what=last)
        assert reader.seen.faults == []
    for file in fetch_binlogs(source.binlog_files(), world.directory / "raw", **login):
        assert_same_binlog(file, source.binlog_path(file.name), is_open=True)
