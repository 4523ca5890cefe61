"""The source is lost, a replica of the relay takes its place, and nobody else has to be touched."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.test_semi_sync import (
    Spelling,
    committing,
    new_names,
    old_names,
    wait_acknowledging,
    wait_held,
    wait_returning,
)
from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def attach(server: MySQLServer, node: KingbusNode, **how: object) -> None:
    """As a replica of the relay, by set unless told otherwise."""
    server.change_source(
        host="127.0.0.1",
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        **how,  # type: ignore[arg-type]
    )
    server.start_replica()


def address(server: MySQLServer) -> str:
    return f"{server.host}:{server.port}"


def promote(server: MySQLServer) -> None:
    server.stop_replica()
    server.execute("RESET REPLICA ALL")


def wait_pulling(cluster: KingbusCluster, source: MySQLServer) -> None:
    """Until the receiver pulls from this candidate, whoever chose it."""

    def is_pulling() -> bool:
        status = cluster.leader().receiver_status()
        return status["current_addr"] == address(source) and status["status"] == "running"

    wait_for(is_pulling, what="the candidate to be the source", seconds=60, explain=cluster.logs)


def assert_equal(replicas: list[MySQLServer], source: MySQLServer) -> None:
    executed = source.gtid_executed()
    for replica in replicas:
        replica.wait_for_gtids(executed)
        assert replica.checksums() == source.checksums()
        assert replica.gtid_executed() == executed
        wait_for(
            lambda replica=replica: replica.replica_errors() == [],
            what="a status without errors",
            explain=replica.replica_errors,
        )


def test_a_promoted_replica_becomes_the_source_and_the_old_one_its_replica(
    world: World, modern: Installation
) -> None:
    """Files of the same names at both; one replica by set and one by file and position stay
    attached and equal; one that lacks what the relay has is refused with the set. Any member can
    be told."""
    old = world.server(modern, "old", server_id=1)
    workload.make_tables(old)
    cluster = world.cluster()
    node = cluster.followers()[0]
    cluster.start_receiver(old)
    cluster.start_listeners()
    new = world.server(modern, "new", server_id=2)
    attach(new, node)
    by_set = world.server(modern, "by_set", server_id=3)
    attach(by_set, node)
    by_position = world.server(modern, "by_position", server_id=4)
    wait_for(lambda: node.get("/binlog/files"), what="a first file")
    first = node.get("/binlog/files")[0]["name"]
    attach(by_position, node, auto_position=False, file=first, position=4)
    workload.small_transactions(old, 30)
    old.execute("FLUSH BINARY LOGS")
    workload.small_transactions(old, 30)
    assert_equal([new, by_set, by_position], old)
    assert set(new.binlog_files()) & set(old.binlog_files())
    connected = {slave["connect_time"] for slave in node.listener_status()["slaves"]}

    new.stop_replica()
    workload.small_transactions(old, 3)
    cluster.wait_for_gtids(old.gtid_executed(), old)
    lacking = str(
        old.value("SELECT GTID_SUBTRACT(%s, %s)", old.gtid_executed(), new.gtid_executed())
    )
    refused = node.request("PUT", "/binlog/syncer/failover", {"to": address(new)})
    assert refused.status == 502 and lacking in refused.message, refused.message
    assert node.receiver_status()["mysql_addr"] == address(old)
    wait_for(lambda: node.receiver_status()["status"] == "running", what="as it was")

    new.start_replica()
    assert_equal([new, by_set, by_position], old)
    old.kill9()
    promote(new)
    done = node.command("source", "failover", "--to", address(new))
    assert done.returncode == 0, done.stderr
    assert address(new) in done.stdout
    workload.small_transactions(new, 20)
    new.execute("FLUSH BINARY LOGS")
    workload.small_transactions(new, 20)
    cluster.wait_for_gtids(new.gtid_executed(), new)
    assert_equal([by_set, by_position], new)
    assert node.receiver_status()["epoch"] == 2
    names = [file["name"] for file in node.get("/binlog/files")]
    assert len(names) == len(set(names))
    slaves = node.listener_status()["slaves"]
    assert {slave["connect_time"] for slave in slaves} <= connected, "nobody connected again"

    old.start()
    attach(old, node)
    workload.small_transactions(new, 10)
    assert_equal([old, by_set, by_position], new)


def test_a_listed_candidate_is_taken_by_itself_when_the_source_is_lost(
    world: World, modern: Installation
) -> None:
    """Only because it is listed, and only when both sets fit; the replica notices nothing."""
    old = world.server(modern, "old", server_id=1)
    workload.make_tables(old)
    new = world.server(modern, "new", server_id=2)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    cluster.start_receiver(old, mysql_addrs=[address(old), address(new)])
    cluster.start_listeners()
    attach(new, node)
    replica = world.server(modern, "replica", server_id=3)
    attach(replica, node)
    workload.small_transactions(old, 20)
    assert_equal([new, replica], old)

    old.kill9()
    promote(new)
    wait_pulling(cluster, new)
    workload.small_transactions(new, 20)
    assert_equal([replica], new)


def test_a_candidate_that_lacks_something_is_taken_once_it_has_it(
    world: World, modern: Installation
) -> None:
    """The set stands in the receiver's status as long as it is missing; nothing else happens."""
    old = world.server(modern, "old", server_id=1)
    workload.make_tables(old)
    new = world.server(modern, "new", server_id=2)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    cluster.start_receiver(old, mysql_addrs=[address(old), address(new)])
    cluster.start_listeners()
    attach(new, node)
    workload.small_transactions(old, 20)
    assert_equal([new], old)
    new.stop_replica()
    before = new.gtid_executed()
    workload.small_transactions(old, 3)
    everything = old.gtid_executed()
    cluster.wait_for_gtids(everything, old)
    lacking = str(old.value("SELECT GTID_SUBTRACT(%s, %s)", everything, before))
    old.kill9()

    def named() -> bool:
        status = node.receiver_status()
        return status["status"] == "error" and lacking in status["error"]

    wait_for(named, what=f"{lacking} to be named", seconds=60, explain=cluster.logs)
    assert node.status()["executed_gtid_set"] == everything
    new.start_replica()
    new.wait_for_gtids(everything)
    promote(new)
    wait_pulling(cluster, new)
    workload.small_transactions(new, 5)
    cluster.wait_for_gtids(new.gtid_executed(), new)


def begin_with_lag(
    world: World, modern: Installation
) -> tuple[MySQLServer, MySQLServer, KingbusCluster]:
    """A source, a replica of a follower that lacks its last three transactions, the cluster."""
    old = world.server(modern, "old", server_id=1)
    workload.make_tables(old)
    cluster = world.cluster()
    cluster.start_receiver(old)
    cluster.start_listeners()
    new = world.server(modern, "new", server_id=2)
    attach(new, cluster.followers()[0])
    workload.small_transactions(old, 20)
    assert_equal([new], old)
    new.stop_replica()
    workload.small_transactions(old, 3)
    cluster.wait_for_gtids(old.gtid_executed(), old)
    return old, new, cluster


def test_a_failover_is_made_though_the_leader_dies_under_it(
    world: World, modern: Installation
) -> None:
    """The receiver stands still for the candidate that lags; the leader is killed meanwhile, and
    the member that was asked has the next one do it."""
    old, new, cluster = begin_with_lag(world, modern)
    leader, node = cluster.leader(), cluster.followers()[0]
    everything = old.gtid_executed()
    with ThreadPoolExecutor() as threads:
        words = ("source", "failover", "--to", address(new))
        asked = threads.submit(node.command, *words)
        wait_for(
            lambda: leader.receiver_status()["status"] == "stopped",
            what="the receiver to be stopped",
            every=0.02,
            explain=cluster.logs,
        )
        leader.kill9()
        new.start_replica()
        new.wait_for_gtids(everything)
        done = asked.result()
    if done.returncode:  # no leader was there in time
        assert "repeating is safe" in done.stderr, done.stderr
        done = node.command(*words)
    assert done.returncode == 0, done.stderr
    promote(new)
    wait_pulling(cluster, new)
    workload.small_transactions(new, 20)
    cluster.wait_for_gtids(new.gtid_executed(), new)


def test_a_failover_that_dies_with_the_member_that_was_asked_leaves_a_receiver_that_pulls(
    world: World, modern: Installation
) -> None:
    """It was the leader, and waited for a candidate that lags. Nobody is left to do it: the next
    leader goes on with the old source by itself, and may be told again."""
    old, new, cluster = begin_with_lag(world, modern)
    leader, node = cluster.leader(), cluster.followers()[0]
    with ThreadPoolExecutor() as threads:
        words = ("source", "failover", "--to", address(new))
        asked = threads.submit(leader.command, *words)
        wait_for(
            lambda: leader.receiver_status()["status"] == "stopped",
            what="the receiver to be held",
            every=0.02,
            explain=cluster.logs,
        )
        leader.kill9()
        assert asked.result().returncode
    wait_pulling(cluster, old)
    workload.small_transactions(old, 20)
    cluster.wait_for_gtids(old.gtid_executed(), old)
    leader.start()
    new.start_replica()
    assert_equal([new], old)
    promote(new)
    done = node.command(*words)
    assert done.returncode == 0, done.stderr
    wait_pulling(cluster, new)
    workload.small_transactions(new, 20)
    cluster.wait_for_gtids(new.gtid_executed(), new)


def test_divergent_transactions_are_named_and_refused(world: World, modern: Installation) -> None:
    """What only the old source has is told by the failover, refused when it comes back as a
    replica, and in the way of it as a source; the others are not touched."""
    old = world.server(modern, "old", server_id=1)
    workload.make_tables(old)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    cluster.start_receiver(old)
    cluster.start_listeners()
    new = world.server(modern, "new", server_id=2)
    attach(new, node)
    replica = world.server(modern, "replica", server_id=3)
    attach(replica, node)
    workload.small_transactions(old, 20)
    assert_equal([new, replica], old)
    node.ask("PUT", "/binlog/syncer/stop")
    before = old.gtid_executed()
    workload.small_transactions(old, 4)
    alone = str(old.value("SELECT GTID_SUBTRACT(@@global.gtid_executed, %s)", before))

    promote(new)
    done = node.command("source", "failover", "--to", address(new))
    assert done.returncode == 0, done.stderr
    assert f"{address(old)} has transactions that the relay never received: {alone}" in done.stderr
    workload.small_transactions(new, 10)
    assert_equal([replica], new)

    attach(old, node)
    wait_for(
        lambda: any("1236" in error and alone in error for error in old.replica_errors()),
        what=f"the old source to be told of {alone}",
        explain=old.replica_status,
    )
    assert not old.has_executed(new.gtid_executed())
    back = node.command("source", "failover", "--to", address(old))
    assert back.returncode == 1 and new.server_uuid() in back.stderr, back.stderr
    wait_pulling(cluster, new)
    workload.small_transactions(new, 5)
    assert_equal([replica], new)


def test_nothing_that_returned_is_lost_by_a_failover(world: World) -> None:
    """Semi-sync; source and leader die together under load. The candidate gets the rest from the
    relay, is promoted and taken by itself, and has every row whose commit returned; so do the
    replicas, and the old source when it comes back as one."""
    spelling = new_names()
    modern = spelling.installation
    old = world.server(modern, "old", server_id=1, extra=spelling.source_settings)
    workload.make_tables(old)
    new = world.server(modern, "new", server_id=2, extra=spelling.source_settings)
    cluster = world.cluster()
    cluster.start_receiver(old, semi_sync=True, mysql_addrs=[address(old), address(new)])
    cluster.start_listeners()
    wait_acknowledging(cluster, spelling, old)
    spelling.switch_on(old)
    survivors = cluster.followers()
    attach(new, survivors[0])
    replica = world.server(modern, "replica", server_id=3)
    attach(replica, survivors[1])
    writers = committing(old, 0)
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        wait_returning(writers, cluster)
        assert spelling.of_source(old, "no_tx") == "0"
        leader = cluster.leader()
        old.kill9()
        leader.kill9()
    returned = {number for writer in writers for number in writer.returned}
    held = str(cluster.leader().status()["executed_gtid_set"])
    new.wait_for_gtids(held)
    promote(new)
    wait_pulling(cluster, new)
    spelling.switch_on(new)
    wait_acknowledging(cluster, spelling, new)
    workload.small_transactions(new, 20)
    assert spelling.of_source(new, "no_tx") == "0"
    wait_held(new, returned)
    assert_equal([replica], new)

    leader.start()
    old.start()
    attach(old, leader)
    beyond = str(
        new.value("SELECT GTID_SUBTRACT(%s, %s)", old.gtid_executed(), new.gtid_executed())
    )
    if beyond:  # it crashed before anybody was sent that, and nobody was told that it is there
        wait_for(
            lambda: any("1236" in error and beyond in error for error in old.replica_errors()),
            what=f"the old source to be told of {beyond}",
            explain=old.replica_status,
        )
    else:
        assert_equal([old], new)


@pytest.mark.parametrize("names", [new_names, old_names])
def test_the_new_source_waits_for_the_relay_and_for_its_next_leader(
    world: World, names: Callable[[], Spelling]
) -> None:
    """In its first file the relay goes on by set, so what the source waits for is not sent again:
    no commit is stuck all the same, nor gives up."""
    spelling = names()
    old = world.server(spelling.installation, "old", server_id=1)
    workload.make_tables(old)
    new = world.server(spelling.installation, "new", server_id=2, extra=spelling.source_settings)
    cluster = world.cluster()
    cluster.start_receiver(old, semi_sync=True, flavor=spelling.flavor)
    cluster.start_listeners()
    attach(new, cluster.followers()[0])
    workload.small_transactions(old, 20)
    assert_equal([new], old)
    old.kill9()
    promote(new)
    done = cluster.leader().command("source", "failover", "--to", address(new))
    assert done.returncode == 0, done.stderr
    wait_acknowledging(cluster, spelling, new)
    spelling.switch_on(new)
    with workload.Writer(new) as writer:
        writer.wait_for_more(20)
        for _ in range(2):
            leader = cluster.leader()
            leader.kill9()
            writer.wait_for_more(50)
            leader.start()
    assert spelling.of_source(new, "no_tx") == "0"


def test_a_promoted_mariadb_replica_becomes_the_source(world: World, mariadb: Installation) -> None:
    """Files of the same names; a replica by GTID and one by file and position stay attached; the
    candidate is not taken while it replicates from the relay; the old source comes back."""
    old = world.server(mariadb, "old", server_id=1)
    workload.make_tables(old)
    new = world.server(mariadb, "new", server_id=2)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    cluster.start_receiver(old, flavor="mariadb", mysql_addrs=[address(old), address(new)])
    cluster.start_listeners()
    attach(new, node)
    by_gtid = world.server(mariadb, "by_gtid", server_id=3)
    attach(by_gtid, node)
    by_position = world.server(mariadb, "by_position", server_id=4)
    wait_for(lambda: node.get("/binlog/files"), what="a first file")
    first = node.get("/binlog/files")[0]["name"]
    attach(by_position, node, auto_position=False, file=first, position=4)
    workload.small_transactions(old, 30)
    old.execute("FLUSH BINARY LOGS")
    workload.small_transactions(old, 30)
    assert_equal([new, by_gtid, by_position], old)
    assert set(new.binlog_files()) & set(old.binlog_files())

    old.kill9()
    wait_for(
        lambda: "it is taken once it is promoted" in node.receiver_status()["error"],
        what="the candidate to be refused while it is a replica",
        seconds=60,
        explain=cluster.logs,
    )
    promote(new)
    wait_pulling(cluster, new)
    workload.small_transactions(new, 20)
    new.execute("FLUSH BINARY LOGS")
    workload.small_transactions(new, 20)
    assert_equal([by_gtid, by_position], new)
    assert node.receiver_status()["epoch"] == 2
    names = [file["name"] for file in node.get("/binlog/files")]
    assert len(names) == len(set(names))

    old.start()
    # It never replicated: what it has is said by what it wrote.
    old.execute(f"SET GLOBAL gtid_slave_pos = '{old.value('SELECT @@global.gtid_binlog_pos')}'")
    attach(old, node)
    workload.small_transactions(new, 10)
    assert_equal([old, by_gtid, by_position], new)


def test_divergent_transactions_of_a_mariadb_source_are_named_and_refused(
    world: World, mariadb: Installation
) -> None:
    """As with MySQL, by the last GTIDs; a gap of such a source is not accepted, in words."""
    old = world.server(mariadb, "old", server_id=1)
    workload.make_tables(old)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    cluster.start_receiver(old, flavor="mariadb")
    cluster.start_listeners()
    new = world.server(mariadb, "new", server_id=2)
    attach(new, node)
    replica = world.server(mariadb, "replica", server_id=3)
    attach(replica, node)
    workload.small_transactions(old, 20)
    assert_equal([new, replica], old)
    node.ask("PUT", "/binlog/syncer/stop")
    workload.small_transactions(old, 4)
    alone = old.gtid_executed()

    promote(new)
    done = node.command("source", "failover", "--to", address(new))
    assert done.returncode == 0, done.stderr
    told = f"{address(old)} has transactions that the relay never received: 0-1-"
    assert told in done.stderr and alone.rpartition("-")[2] in done.stderr, done.stderr
    workload.small_transactions(new, 10)
    assert_equal([replica], new)

    old.execute(f"SET GLOBAL gtid_slave_pos = '{alone}'")
    attach(old, node)
    wait_for(
        lambda: any("1236" in error and alone in error for error in old.replica_errors()),
        what=f"the old source to be told of {alone}",
        explain=old.replica_status,
    )
    back = node.command("source", "failover", "--to", address(old))
    assert back.returncode == 1 and new.gtid_executed() in back.stderr, back.stderr
    gap = node.command("source", "accept-gap", f"{new.server_id}-1-1")
    assert gap.returncode == 1 and "not available yet" in gap.stderr, gap.stderr
    wait_pulling(cluster, new)
    workload.small_transactions(new, 5)
    assert_equal([replica], new)


def begin_with_gap(
    world: World, installation: Installation
) -> tuple[MySQLServer, KingbusCluster, list[MySQLServer], str]:
    """A source that purged what the stopped relay lacks; the relay's replicas, by set and by file
    and position; and the gap."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    cluster.start_receiver(source)
    cluster.start_listeners()
    replica = world.server(installation, "replica", server_id=2)
    attach(replica, node)
    by_position = world.server(installation, "by_position", server_id=3)
    wait_for(lambda: node.get("/binlog/files"), what="a first file")
    first = node.get("/binlog/files")[0]["name"]
    attach(by_position, node, auto_position=False, file=first, position=4)
    workload.small_transactions(source, 10)
    assert_equal([replica, by_position], source)
    node.ask("PUT", "/binlog/syncer/stop")
    before = source.gtid_executed()
    workload.small_transactions(source, 5)
    gap = str(source.value("SELECT GTID_SUBTRACT(@@global.gtid_executed, %s)", before))
    source.execute("FLUSH BINARY LOGS")
    source.execute(f"PURGE BINARY LOGS TO '{source.binlog_files()[-1]}'")
    workload.small_transactions(source, 5)
    return source, cluster, [replica, by_position], gap


def test_a_gap_is_named_accepted_and_told_to_replicas(world: World, modern: Installation) -> None:
    """The start is refused with the set; accepted is only that; replicas get error 1236 and not
    what follows; one that has the gap from elsewhere goes on."""
    source, cluster, replicas, gap = begin_with_gap(world, modern)
    node = cluster.nodes[0]
    refused = node.request("PUT", "/binlog/syncer/start", {})
    assert refused.status == 502 and gap in refused.message, refused.message
    assert gap not in str(node.status()["executed_gtid_set"])

    too_much = f"{source.server_uuid()}:1-100000"
    wrong = node.command("source", "accept-gap", too_much)
    assert wrong.returncode == 1 and gap in wrong.stderr, wrong.stderr
    done = node.command("source", "accept-gap", gap)
    assert done.returncode == 0, done.stderr
    node.ask("PUT", "/binlog/syncer/start", {})
    cluster.wait_for_gtids(source.gtid_executed(), source)
    view = node.status()
    assert source.value("SELECT GTID_SUBSET(%s, %s)", gap, view["purged_gtid_set"])
    before = source.value("SELECT GTID_SUBTRACT(@@global.gtid_executed, %s)", gap)
    for replica in replicas:
        wait_for(
            lambda replica=replica: any("1236" in error for error in replica.replica_errors()),
            what="the replica to be told",
            explain=replica.replica_status,
        )
        assert not replica.has_executed(gap)
        assert not replica.has_executed(str(before)), "nor what comes behind it"

    # The gap comes from elsewhere: empty transactions stand for it.
    replica = replicas[0]
    replica.stop_replica()
    first, _, last = gap.rpartition(":")[2].partition("-")
    for number in range(int(first), int(last or first) + 1):
        replica.execute(f"SET gtid_next = '{source.server_uuid()}:{number}'")
        replica.execute("BEGIN")
        replica.execute("COMMIT")
    replica.execute("SET gtid_next = 'AUTOMATIC'")
    attach(replica, node)
    replica.wait_for_gtids(source.gtid_executed())
