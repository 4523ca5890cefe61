"""Two sources in one cluster, each with replicas of its own, which get its content and no other."""

import json
import socket
import subprocess
from typing import Any

import pymysql
import pymysql.cursors
import pytest

from tests.support import processes, workload
from tests.support.channels import NamedChannel
from tests.support.cluster import (
    LISTENER_PASSWORD,
    LISTENER_USER,
    KingbusCluster,
    KingbusNode,
    run_kingbus,
)
from tests.support.installations import Installation
from tests.support.reserve import CHURN_SETTINGS, churn, is_cut_off, make_churn
from tests.support.servers import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    MySQLServer,
    assert_same_binlog,
)
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def follow(replica: MySQLServer, node: KingbusNode) -> None:
    """The default channel of a node."""
    replica.stop_replica()
    replica.change_source(
        host="127.0.0.1", port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()


def assert_equal(replica: MySQLServer, source: MySQLServer) -> None:
    """The replica gets to have exactly what its source has."""
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    assert source.has_executed(replica.gtid_executed())
    assert replica.replica_errors() == []


def write(*sources: MySQLServer) -> None:
    """Other content at each."""
    for number, source in enumerate(sources, 1):
        workload.small_transactions(source, 30 * number)
        source.execute("FLUSH BINARY LOGS")
        workload.small_transactions(source, 10)


def bind_user(node: KingbusNode) -> None:
    """Make a user of that name by SQL, and bind it to the channel `two`."""
    connection = pymysql.connect(
        host="127.0.0.1", port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER bound IDENTIFIED BY '{LISTENER_PASSWORD}'")
        cursor.execute("GRANT REPLICATION SLAVE ON *.* TO bound")
    bound = node.command("channel", "bind", "bound", "--channel", "two")
    assert bound.returncode == 0, bound.stderr


def assert_readable(node: KingbusNode, source: MySQLServer) -> None:
    """The channel `two` by the command line: itself, its rows, its files byte for byte."""
    status = node.command("status")
    assert status.returncode == 0, status.stderr
    assert "two " in status.stdout.split("CHANNELS")[1].split("REPLICAS")[0]
    listed = node.command("binlog", "list", "--channel", "two", "--json")
    names = [file["name"] for file in json.loads(listed.stdout)]
    assert names == source.binlog_files()
    told = node.command("binlog", "events", names[-1], "--rows", "--json", "--channel", "two")
    assert told.returncode == 0, told.stderr
    rows = [row for event in json.loads(told.stdout) for row in event["rows"] or ()]
    assert rows
    assert not [row for row in rows if "error" in row]
    target = node.data_dir.parent / "exported"
    done = node.command("binlog", "export", "--to", str(target), "--channel", "two")
    assert done.returncode == 0, done.stderr
    for name in names:
        assert_same_binlog(target / name, source.binlog_path(name), is_open=name == names[-1])


def shown(port: int, *, user: str = LISTENER_USER) -> list[dict[str, Any]]:
    """SHOW REPLICA STATUS of a listener."""
    connection = pymysql.connect(
        host="127.0.0.1",
        port=port,
        user=user,
        password=LISTENER_PASSWORD,
        cursorclass=pymysql.cursors.DictCursor,
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SHOW REPLICA STATUS")
        return list(cursor.fetchall())


def purge(cluster: KingbusCluster, channel: NamedChannel) -> None:
    """Both channels, all but the newest file; until the log is cut there on every node."""
    leader = cluster.leader()
    last = leader.get("/binlog/files")[-1]["name"]
    leader.ask("POST", "/binlog/purge", {"to": last})
    last = channel.files(leader)[-1]["name"]
    left = leader.ask("POST", "/binlog/purge", {"to": last, "channel": channel.name})
    assert [file["name"] for file in left] == [last]
    firsts = [files[0]["first_index"] for files in (leader.get("/binlog/files"), left)]
    for node in cluster.running:
        wait_for(
            lambda node=node: node.status()["first_index"] == min(firsts),  # type: ignore[misc]
            what=f"the log of {node.name} to be cut at {min(firsts)}",
            explain=node.status,
        )


def test_two_channels_over_kills_restarts_and_snapshots(world: World, modern: Installation) -> None:
    """Each replica has exactly its source's content: after a kill -9 of the leader, after a start
    from disk, and behind a member that began from a snapshot."""
    one, two = (world.server(modern, f"source{n}", server_id=n) for n in (1, 2))
    workload.make_tables(one)
    workload.make_tables(two)
    cluster = world.cluster()
    channel = NamedChannel(cluster, "two")
    channel.add()
    cluster.start_receiver(one)
    channel.start_receiver(two)
    cluster.start_listeners()
    for node in cluster:
        channel.start_listener(node)
    leader, (follower, _) = cluster.leader(), cluster.followers()
    of_one, of_two = (world.server(modern, f"replica{n}", server_id=10 + n) for n in (1, 2))
    follow(of_one, follower)
    channel.follow(of_two, follower)
    write(one, two)
    assert_equal(of_one, one)
    assert_equal(of_two, two)

    leader.kill9()
    cluster.leader()
    write(one, two)
    assert_equal(of_one, one)
    assert_equal(of_two, two)

    leader.start()
    cluster.stop()
    cluster.start()
    write(one, two)
    assert_equal(of_one, one)
    assert_equal(of_two, two)

    cluster.wait_for_gtids(one.gtid_executed(), one)
    channel.wait_for_gtids(two.gtid_executed(), two)
    purge(cluster, channel)
    joined = cluster.newcomer("n4")
    joined.start(via=cluster.leader().admin_url)
    cluster.wait_voter("n4")
    assert joined.output().count("snapshot installed") == 1, joined.output()
    joined.start_listener()
    channel.start_listener(joined)
    follow(of_one, joined)
    channel.follow(of_two, joined)
    write(one, two)
    assert_equal(of_one, one)
    assert_equal(of_two, two)
    cluster.wait_equal()
    names = {each["name"]: each for each in joined.get("/channels")}
    assert names["two"]["executed_gtid_set"] == channel.server_status(joined)["executed_gtid_set"]
    assert names[""]["executed_gtid_set"] != names["two"]["executed_gtid_set"]


def test_what_breaks_in_one_channel_leaves_the_other_alone(
    world: World, modern: Installation
) -> None:
    """The source of one is gone, and that of the other goes on; by the command line."""
    one, two = (world.server(modern, f"source{n}", server_id=n) for n in (1, 2))
    workload.make_tables(one)
    workload.make_tables(two)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    added = node.command("channel", "add", "two")
    assert added.returncode == 0, added.stderr
    assert "two" in added.stdout
    channel = NamedChannel(cluster, "two")
    cluster.start_receiver(one)
    channel.start_receiver(two)
    login = {"user": LISTENER_USER, "password": LISTENER_PASSWORD, "admin": True}
    node.ask("PUT", "/binlog/server/start", {"addr": node.listen_address, **login})
    channel.start_listener(node)
    of_two = world.server(modern, "replica", server_id=12)
    channel.follow(of_two, node)
    write(one, two)
    assert_equal(of_two, two)

    one.kill9()
    wait_for(
        lambda: node.receiver_status()["status"] == "connecting",
        what="the default channel to notice",
        explain=node.receiver_status,
    )
    write(two)
    assert_equal(of_two, two)
    rows = {row["Channel_Name"]: row for row in shown(node.listen_port)}
    assert [rows[name]["Replica_IO_Running"] for name in ("", "two")] == ["Connecting", "Yes"]
    assert [row["Channel_Name"] for row in shown(channel.ports[node.name])] == ["two"]
    bind_user(node)
    assert [row["Channel_Name"] for row in shown(node.listen_port, user="bound")] == ["two"]
    of_two.stop_replica()
    of_two.change_source(
        host="127.0.0.1", port=node.listen_port, user="bound", password=LISTENER_PASSWORD
    )
    of_two.start_replica()
    write(two)
    assert_equal(of_two, two)
    told = node.command("source", "status", "--channel", "two", "--json")
    assert '"status": "running"' in told.stdout, told.stderr
    stopped = node.command("source", "stop", "--channel", "two")
    assert stopped.returncode == 0, stopped.stderr
    assert node.receiver_status()["status"] == "connecting"
    assert_readable(node, two)
    refused = node.command("channel", "remove", "two")
    assert refused.returncode == 1
    assert "not available yet" in refused.stderr
    unknown = node.command("source", "start", "--channel", "three")
    assert unknown.returncode == 1
    assert "no such channel: three" in unknown.stderr


def test_a_configured_channel_is_there_at_the_first_start(
    world: World, modern: Installation
) -> None:
    """Source and listener too, and a port that is taken costs no other channel anything. Later the
    log counts, and a difference is told."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    node = world.node("n1")
    passwords = {"source": REPLICATION_PASSWORD, "server": LISTENER_PASSWORD}
    for name, password in passwords.items():
        (world.directory / f"{name}.password").write_text(password + "\n")
        (world.directory / f"{name}.password").chmod(0o600)
    port = processes.free_port()
    server = {"user": LISTENER_USER, "password-file": str(world.directory / "server.password")}
    pulled = {
        "addr": f"{source.host}:{source.port}",
        "user": REPLICATION_USER,
        "password-file": str(world.directory / "source.password"),
    }
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        blocked = f"127.0.0.1:{taken.getsockname()[1]}"
        node.configure(
            channels=[
                {"name": "blocked", "server": {"addr": blocked, **server}},
                {
                    "name": "orders",
                    "source": pulled,
                    "server": {"addr": f"127.0.0.1:{port}", **server},
                },
            ]
        )
        node.start()
        replica = world.server(modern, "replica", server_id=2)
        replica.change_source(
            host="127.0.0.1", port=port, user=LISTENER_USER, password=LISTENER_PASSWORD
        )
        replica.start_replica()
        write(source)
        assert_equal(replica, source)
        status = node.get("/binlog/server/status?channel=blocked")
        assert status["status"] == "stopped"
    wait_for(
        lambda: node.get("/binlog/server/status?channel=blocked")["status"] == "running",
        what="the port to be taken once it is free",
        explain=node.output,
    )
    node.configure(channels=[{"name": "orders", "source": pulled | {"semi-sync": True}}])
    node.stop()
    node.start()
    write(source)
    assert_equal(replica, source)
    assert [each["name"] for each in node.get("/channels")] == ["", "blocked", "orders"]
    differs = "channels.orders.source: in the configuration file differs from what the log holds"
    assert [each for each in node.status()["warnings"] if each.startswith(differs)]


def test_a_quiet_channel_gives_way_to_a_busy_one(world: World, modern: Installation) -> None:
    """Replicas that have all of it go on, attached or coming back, by set and by position, also
    after a start; one that lacks something is told which; and the log stays within its reserve."""
    busy = world.server(modern, "busy", server_id=1, extra=("max_binlog_size=4M", *CHURN_SETTINGS))
    quiet = world.server(modern, "quiet", server_id=2)
    make_churn(busy)
    workload.make_tables(quiet)
    workload.small_transactions(quiet, 20)
    cluster = world.cluster(count=1, reserve_data_size="48MB", segment_size="8MB")
    node = cluster.nodes[0]
    channel = NamedChannel(cluster, "quiet")
    channel.add()
    channel.start_receiver(quiet)
    channel.start_listener(node)
    attached, away, placed = (
        world.server(modern, f"replica{n}", server_id=10 + n) for n in range(3)
    )
    for replica in (attached, away, placed):
        channel.follow(replica, node)
        assert_equal(replica, quiet)
    away.stop_replica()
    stood = placed.replica_status()
    placed.stop_replica()
    session = channel.server_status(node)["slaves"][0]["connect_time"]
    cluster.start_receiver(busy)
    held = channel.files(node)[-1]
    assert held["complete"]

    def is_cut() -> bool:
        churn(busy, 4 << 20)
        return not channel.files(node)[-1]["complete"]

    wait_for(is_cut, what="the quiet channel to be cut", seconds=120, explain=cluster.logs)
    (cut,) = channel.files(node)
    assert cut["name"] == held["name"]
    assert cut["gaps"] == [[4, cut["size"]]]
    status = channel.server_status(node)
    assert status["purged_gtid_set"] == status["executed_gtid_set"]
    wait_for(
        lambda: node.status()["first_index"] > held["first_index"],
        what="the log to be cut behind the quiet channel's file",
        explain=node.status,
    )

    def is_behind_the_cut() -> bool:
        churn(busy, 4 << 20)
        return int(node.status()["first_index"]) > int(cut["first_index"])

    wait_for(
        is_behind_the_cut,
        what="the log to be cut again, where nothing came from the quiet channel",
        seconds=120,
        explain=cluster.logs,
    )
    assert channel.files(node)[0]["gaps"] == cut["gaps"]

    workload.small_transactions(quiet, 5)
    assert_equal(attached, quiet)
    assert channel.server_status(node)["slaves"][0]["connect_time"] == session
    away.start_replica()
    assert_equal(away, quiet)
    placed.change_source(
        host="127.0.0.1",
        port=channel.ports[node.name],
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        auto_position=False,
        file=stood["Source_Log_File"],
        position=stood["Read_Source_Log_Pos"],
    )
    placed.start_replica()
    assert_equal(placed, quiet)
    lacking = world.server(modern, "lacking", server_id=20)
    channel.follow(lacking, node)
    wait_for(lambda: is_cut_off(lacking), what="1236", explain=lacking.replica_status)
    assert any(cut["previous_gtids"][:36] in error for error in lacking.replica_errors())

    node.kill9()
    node.start()
    workload.small_transactions(quiet, 5)
    quiet.execute("FLUSH BINARY LOGS")
    workload.small_transactions(quiet, 5)
    for replica in (attached, away, placed):
        assert_equal(replica, quiet)
    checked = run_verify(cluster)
    assert checked.returncode == 0, checked.stderr + checked.stdout


def run_verify(cluster: KingbusCluster) -> "subprocess.CompletedProcess[str]":
    """`kingbus storage verify` of a node that has stopped."""
    node = cluster.nodes[0]
    node.stop()
    return run_kingbus("storage", "verify", "--data-dir", str(node.data_dir))
