"""MariaDB: its source, the relay, its replicas; the whole way, and what only a real one shows."""

import contextlib
from pathlib import Path

import pytest

from kingbus.binlog.gtid import GtidSet
from tests.integration.test_receiver import Pull, assert_files_are_those_of, in_thread, pulling
from tests.support import mariadb as support
from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.mariadb import MariaDBServer
from tests.support.relayed_files import wait_for_end
from tests.support.servers import MySQLServer, assert_same_binlog
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def begin(
    world: World, mariadb: Installation, *, count: int = 3
) -> tuple[MySQLServer, KingbusCluster]:
    """A MariaDB source with tables, and a cluster that pulls from it and listens on every node."""
    source = world.server(mariadb, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=count)
    cluster.start_receiver(source, flavor="mariadb")
    cluster.start_listeners()
    return source, cluster


def attach(
    world: World, mariadb: Installation, node: KingbusNode, *, server_id: int, by_gtid: bool
) -> MySQLServer:
    """A replica that follows the relay through one node, from the beginning."""
    replica = world.server(mariadb, f"replica{server_id}", server_id=server_id)
    replica.change_source(
        host="127.0.0.1",
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        auto_position=by_gtid,
    )
    replica.start_replica()
    return replica


def assert_equal(replica: MySQLServer, source: MySQLServer) -> None:
    """The replica gets to stand where the source stands, with the same rows, and no error."""
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    wait_for(
        lambda: replica.replica_errors() == [],
        what="a status without errors",
        seconds=20,
        explain=replica.replica_errors,
    )


def assert_same_files(directory: Path, node: KingbusNode, source: MySQLServer) -> None:
    """All files of the source, read from the node by MariaDB's own tool, are equal."""
    names = source.binlog_files()
    assert [file["name"] for file in node.get("/binlog/files")] == names
    fetched = support.fetch_binlogs(
        names, directory, port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    for file in fetched:
        original = source.binlog_path(file.name)
        assert_same_binlog(file, original, is_open=file.name == names[-1])


def test_replicas_of_both_kinds_equal_the_source(world: World, mariadb: Installation) -> None:
    """By GTID on one node, by file and position on another, while the leader is killed and comes
    back; files that were closed meanwhile are the source's on every node."""
    source, cluster = begin(world, mariadb)
    leader = cluster.leader()
    followers = cluster.followers()
    by_gtid = attach(world, mariadb, followers[0], server_id=2, by_gtid=True)
    by_position = attach(world, mariadb, leader, server_id=3, by_gtid=False)
    workload.large_transactions(source, 5)
    workload.giant_row(source, size=20 * workload.MIB)
    with workload.Writer(source) as writer:
        writer.wait_for_more(100)
        source.execute("FLUSH BINARY LOGS")
        leader.kill9()
        writer.wait_for_more(100)
        source.execute("FLUSH BINARY LOGS")
        cluster.leader()
        writer.wait_for_more(100)
        leader.start()
        writer.stop()
    assert_equal(by_gtid, source)
    assert_equal(by_position, source)
    wait_for_end(cluster, source)
    cluster.wait_equal()
    for node in cluster.running:
        assert_same_files(world.directory / f"raw-{node.name}", node, source)
    # One that comes back says file and position beside its GTIDs, and means the GTIDs.
    by_gtid.stop_replica()
    workload.small_transactions(source, 50)
    by_gtid.start_replica()
    assert_equal(by_gtid, source)
    # And one may want to get to a position only.
    by_gtid.stop_replica()
    workload.small_transactions(source, 10)
    middle = source.gtid_executed()
    workload.small_transactions(source, 10)
    by_gtid.execute(f"START SLAVE UNTIL master_gtid_pos='{middle}'")
    wait_for(
        lambda: by_gtid.replica_status()["Replica_SQL_Running"] == "No",
        what="the replica to stop by itself",
        explain=by_gtid.replica_status,
    )
    assert by_gtid.value("SELECT @@global.gtid_slave_pos") == middle
    by_gtid.start_replica()
    assert_equal(by_gtid, source)


def test_a_cluster_keeps_its_flavor(
    world: World, mariadb: Installation, modern: Installation
) -> None:
    """A source of the other flavor is refused with both named, before and after the first file."""
    source = world.server(mariadb, "source", server_id=1)
    other = world.server(modern, "other", server_id=2)
    cluster = world.cluster(count=1)
    node = cluster.leader()
    body = {"mysql_user": "repl", "mysql_password": support.REPLICATION_PASSWORD}

    def refused(server: MySQLServer, flavor: str) -> str:
        address = {"mysql_addr": f"{server.host}:{server.port}", "flavor": flavor}
        reply = node.request("PUT", "/binlog/syncer/start", body | address)
        assert reply.status in {400, 502}, reply
        return reply.message

    assert "a mariadb server" in (text := refused(source, "mysql")) and "a mysql source" in text
    cluster.start_receiver(source, flavor="mariadb")
    wait_for(lambda: node.get("/binlog/files") != [], what="the first file")
    assert "relays a mariadb source" in (text := refused(other, "mysql"))
    assert "a mysql source" in text


def every_kind_of_transaction(source: MySQLServer, directory: Path) -> None:
    """What MariaDB writes that looks unlike a plain transaction."""
    loaded = directory / "load.txt"
    loaded.write_text("1000\tone\n")
    source.execute("CREATE DATABASE t")
    source.execute("CREATE TABLE t.i (id INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(200))")
    source.execute("CREATE TABLE t.m (id INT AUTO_INCREMENT PRIMARY KEY, x TEXT) ENGINE=MyISAM")
    source.execute("CREATE SEQUENCE t.s")
    with contextlib.closing(source.connect(autocommit=False, local_infile=True)) as connection:

        def run(*statements: str) -> None:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

        insert = "INSERT INTO t.i (x) VALUES ('x')"
        run("SAVEPOINT a", insert, "SAVEPOINT b", insert, "ROLLBACK TO b", "COMMIT")
        run("XA START 'p'", insert, "XA END 'p'", "XA PREPARE 'p'", "XA COMMIT 'p'")
        run("XA START 'q'", insert, "XA END 'q'", "XA PREPARE 'q'", "XA ROLLBACK 'q'")
        run("XA START 'r'", insert, "XA END 'r'", "XA COMMIT 'r' ONE PHASE")
        for form in ("STATEMENT", "MIXED", "ROW"):
            run(f"SET SESSION binlog_format={form}", "SET @u = 'user'")
            run("CREATE TEMPORARY TABLE t.tmp (a INT)", "DROP TEMPORARY TABLE t.tmp")
            run(insert, "INSERT INTO t.i (x) VALUES (@u)", "COMMIT")
            run("INSERT INTO t.m (x) VALUES (@u)", "INSERT INTO t.m (x) VALUES (RAND())", "COMMIT")
            run(insert, "ROLLBACK", insert, "INSERT INTO t.m (x) VALUES ('m')", "ROLLBACK")
            for table in ("t.i", "t.m"):
                run(f"LOAD DATA LOCAL INFILE '{loaded}' INTO TABLE {table} (x)", "COMMIT")
            run("DROP TABLE IF EXISTS t.nothing", "DELETE FROM t.m WHERE id = 1", "COMMIT")
            run(f"CREATE TABLE t.of_{form} (a INT)", f"TRUNCATE t.of_{form}")
            run(f"CREATE TABLE t.ctas_{form} AS SELECT * FROM t.i", "COMMIT")
        run("SELECT NEXTVAL(t.s)", "COMMIT")
        run("FLUSH LOGS")
        run("SET SESSION binlog_annotate_row_events=OFF", insert, "COMMIT")
        run("SET SESSION gtid_domain_id=7", insert, "COMMIT", "SET SESSION gtid_domain_id=0")
        run("SET SESSION gtid_seq_no=1000", insert, "COMMIT", insert, "COMMIT")
        run("SET GLOBAL log_bin_compress=ON", "SET GLOBAL log_bin_compress_min_len=10")
        run("INSERT INTO t.i (x) SELECT REPEAT('z', 200) FROM t.i", insert, "COMMIT")
        run(f"CREATE TABLE t.long (a INT COMMENT '{'c' * 900}')")
        run("SET GLOBAL log_bin_compress=OFF")
    source.execute("CREATE TABLE t.big (b LONGBLOB)")
    source.execute("INSERT INTO t.big VALUES (REPEAT('g', %s))", 16777100)


async def has_all_of(pull: Pull, source: MySQLServer) -> None:
    """Until the node holds what the source has now."""
    executed = GtidSet.parse(await in_thread(source.value, "SELECT @@global.gtid_binlog_state"))
    end = await in_thread(source.binlog_position)
    await pull.until(
        lambda: (pull.node.state.visible.file_name, pull.node.state.visible.position) == end,
        f"{end} with {executed}",
    )
    held = {key: last for key, _, _, last in pull.node.state.executed.runs()}
    assert held == {key: last for key, _, _, last in executed.runs()}


async def test_what_is_stored_is_what_mariadb_wrote(mariadb: Installation, tmp_path: Path) -> None:
    """Every kind of transaction, a restart and a kill: the files are equal, and it goes on."""
    with MariaDBServer(
        mariadb, tmp_path / "source", server_id=11, extra=["local_infile=ON"]
    ) as source:
        async with pulling(source, flavor="mariadb") as pull:
            await in_thread(every_kind_of_transaction, source, tmp_path)
            await has_all_of(pull, source)
            assert_files_are_those_of(source, pull.node)
            for interrupt in (source.restart, lambda: (source.kill9(), source.start())):
                await in_thread(interrupt)
                await in_thread(source.execute, "INSERT INTO t.i (x) VALUES ('after')")
                await has_all_of(pull, source)
                assert_files_are_those_of(source, pull.node)
            assert pull.receiver.status().status == "running"
            assert pull.node.state.flavor == "mariadb"


async def test_an_empty_relay_begins_where_it_is_told_to(
    mariadb: Installation, tmp_path: Path
) -> None:
    """Behind what was purged, at a position in the middle of a file, and at the end."""
    with MariaDBServer(mariadb, tmp_path / "source", server_id=11) as source:
        for number in range(4):
            source.execute(f"CREATE TABLE test.t{number} (a INT)")
            source.execute("FLUSH BINARY LOGS")
        source.execute(f"PURGE BINARY LOGS TO '{source.binlog_files()[2]}'")
        source.execute("INSERT INTO test.t0 VALUES (1)")
        middle = source.gtid_executed()
        source.execute("INSERT INTO test.t0 VALUES (2)")
        for start in ("earliest", middle, "now"):
            async with pulling(source, flavor="mariadb", start_from=start) as pull:
                await pull.until(lambda: pull.receiver.status().status == "running", "running")
                await in_thread(source.execute, "INSERT INTO test.t0 VALUES (3)")
                await has_last_of(pull, source)
                # And once more, by another session.
                pull.node.step_down()
                await pull.until(lambda: pull.receiver.status().status == "stopped", "stopped")
                await in_thread(source.execute, "INSERT INTO test.t0 VALUES (4)")
                pull.node.lead(2)
                await has_last_of(pull, source)


async def has_last_of(pull: Pull, source: MySQLServer) -> None:
    """Until the node stands at the source's end."""
    end = await in_thread(source.binlog_position)
    await pull.until(
        lambda: (pull.node.state.visible.file_name, pull.node.state.visible.position) == end,
        f"to stand at {end}",
    )


def comparable(events: list[bytes]) -> list[bytes]:
    """Artificial events without the id of who made them, and their checksum."""
    return [
        event[:5] + event[9:-4] if len(event) > 19 and event[17] & 0x20 else event
        for event in events
    ]


def assert_same(ours: list[bytes], theirs: list[bytes], what: object) -> None:
    """Event by event, so that the first that differs is seen."""
    pairs = zip(comparable(ours), comparable(theirs), strict=False)
    for at, (one, other) in enumerate(pairs):
        assert one.hex() == other.hex(), (what, at)
    assert len(ours) == len(theirs), what


def test_older_clients_are_sent_what_a_source_sends_them(
    world: World, mariadb: Installation
) -> None:
    """At each capability, with ANNOTATE_ROWS and without, by position and by GTID: byte for byte,
    but for the server id in what is made up.

    A source of 11.4 on looks GTIDs up in an index, unless told not to, and begins inside a file;
    one without and the relay begin at its beginning.
    """
    source, cluster = begin(world, mariadb, count=1)
    if mariadb.version >= (11, 4):
        source.execute("SET GLOBAL binlog_gtid_index = OFF")
    workload.small_transactions(source, 5)
    source.execute("CREATE TABLE shop.more (a INT)")
    workload.small_transactions(source, 5)
    wait_for_end(cluster, source)
    (node,) = cluster.nodes
    login = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}
    file = source.binlog_files()[0]
    end = source.gtid_executed()
    domain, server, last = end.split("-")
    for capability in (None, 0, 1, 2, 3, 4):
        for flags in (1, 3):
            told = [] if capability is None else [f"SET @mariadb_slave_capability={capability}"]
            theirs = support.dump(source.port, statements=told, file=file, flags=flags)
            ours = support.dump(node.listen_port, statements=told, file=file, flags=flags, **login)
            assert_same(ours, theirs, (capability, flags))
    for number in (
        "",
        f"{domain}-{server}-1",
        f"{domain}-{server}-7",
        end,
        f"{domain}-{server}-999",
    ):
        told = [
            "SET @mariadb_slave_capability=4",
            f"SET @slave_connect_state='{number}'",
            "SET @slave_gtid_strict_mode=1",
        ]
        theirs = support.dump(source.port, statements=told)
        ours = support.dump(node.listen_port, statements=told, **login)
        assert_same(ours, theirs, number)
    assert int(last) > 7
