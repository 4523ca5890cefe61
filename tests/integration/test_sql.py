"""A cluster that is administered at a MySQL prompt, by a client library that knows only MySQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
import pytest
from pymysql.cursors import DictCursor

from tests.support import workload
from tests.support.cluster import KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

ADMIN = "operator"
ADMIN_PASSWORD = "operator-secret-2b"
READER = "reader"
READER_PASSWORD = "reader's-\\secret-8k"
ANOTHER_PASSWORD = "another-secret-4c"


class Prompt:
    """One connection; a refusal leaves it usable."""

    def __init__(self, node: KingbusNode, user: str, password: str) -> None:
        self._connection = pymysql.connect(
            host="127.0.0.1",
            port=node.listen_port,
            user=user,
            password=password,
            ssl_disabled=True,
            cursorclass=DictCursor,
        )
        self.thread_id = self._connection.thread_id()

    def close(self) -> None:
        if self._connection.open:
            self._connection.close()

    def rows(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return list(cursor.fetchall())

    def run(self, sql: str, *arguments: object) -> None:
        assert self.rows(sql, *arguments) == []

    def refused(self, sql: str, *arguments: object) -> int:
        with pytest.raises(pymysql.err.MySQLError) as caught:
            self.rows(sql, *arguments)
        assert self.rows("SELECT 1 AS one") == [{"one": 1}]
        return int(caught.value.args[0])

    def status(self) -> dict[str, Any]:
        rows = self.rows("SHOW REPLICA STATUS")
        return rows[0] if rows else {}


@contextmanager
def prompt(
    node: KingbusNode, user: str = ADMIN, password: str = ADMIN_PASSWORD
) -> Iterator[Prompt]:
    opened = Prompt(node, user, password)
    try:
        yield opened
    finally:
        opened.close()


def listen(node: KingbusNode) -> None:
    body = {"addr": node.listen_address, "user": ADMIN, "password": ADMIN_PASSWORD, "admin": True}
    node.ask("PUT", "/binlog/server/start", body)


def may_log_in(node: KingbusNode, user: str, password: str) -> bool:
    try:
        Prompt(node, user, password).close()
    except pymysql.err.OperationalError as error:
        if error.args[0] != 1045:
            raise
        return False
    return True


def begin(world: World, modern: Installation) -> tuple[MySQLServer, KingbusCluster]:
    """A source with rows, and three nodes that listen; the receiver was never told anything."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    workload.small_transactions(source, 10)
    cluster = world.cluster()
    for node in cluster.nodes:
        listen(node)
    return source, cluster


def test_receiver_at_a_prompt(world: World, modern: Installation) -> None:
    """Set, started, watched, stopped and forgotten by SQL on a follower; the leader does it."""
    source, cluster = begin(world, modern)
    follower = cluster.followers()[0]
    with prompt(follower) as on:
        assert on.status() == {}
        assert on.refused("START REPLICA") == 1200
        on.run(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST=%s, SOURCE_PORT=%s, SOURCE_USER=%s, "
            "SOURCE_PASSWORD=%s, SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1",
            source.host,
            source.port,
            REPLICATION_USER,
            "wrong-secret-1a",
        )
        assert [row["Code"] for row in on.rows("SHOW WARNINGS")] == [1105]
        assert on.status()["Replica_IO_Running"] == "No"
        assert on.refused("START REPLICA") == 1105
        on.run("CHANGE MASTER TO MASTER_PASSWORD=%s", REPLICATION_PASSWORD)
        on.run("START REPLICA")
        cluster.wait_for_gtids(source.gtid_executed(), source)
        wait_for(lambda: on.status()["Replica_IO_Running"] == "Yes", what="the receiver to run")
        status = on.status()
        assert (status["Source_Host"], status["Source_Port"]) == (source.host, source.port)
        assert status["Source_UUID"] == source.server_uuid()
        assert status["Executed_Gtid_Set"] == source.gtid_executed()
        assert on.rows("SHOW SLAVE STATUS")[0]["Slave_IO_Running"] == "Yes"
        assert on.refused("CHANGE MASTER TO MASTER_HOST='x'") == 3021
        assert_same_answers(on, source)

        workload.small_transactions(source, 5)
        source.execute("FLUSH BINARY LOGS")
        workload.small_transactions(source, 5)
        cluster.wait_for_gtids(source.gtid_executed(), source)
        files = [row["Log_name"] for row in on.rows("SHOW BINARY LOGS")]
        on.run("PURGE BINARY LOGS TO %s", files[-1])
        assert [row["Log_name"] for row in on.rows("SHOW BINARY LOGS")] == files[-1:]
        assert on.refused("PURGE BINARY LOGS TO 'nothing.000001'") == 1373

        on.run("STOP REPLICA")
        wait_for(lambda: on.status()["Replica_IO_Running"] == "No", what="the receiver to stop")
        assert cluster.leader().receiver_status()["status"] == "stopped"
        on.run("RESET REPLICA ALL")
        assert on.status() == {}
        assert on.refused("START REPLICA") == 1200
        for sql, code in (("HELLO", 1064), ("CREATE TABLE t (a INT)", 1235), ("SELECT @@x", 1193)):
            assert on.refused(sql) == code


def assert_same_answers(on: Prompt, source: MySQLServer) -> None:
    """What both answer alike: the log, and the source's own settings."""
    assert on.rows("SHOW BINARY LOGS") == [
        {"Log_name": row[0], "File_size": int(row[1]), "Encrypted": row[2]}
        for row in source.execute("SHOW BINARY LOGS")
    ]
    file = on.rows("SHOW BINARY LOG STATUS")[0]["File"]
    asked = f"SHOW BINLOG EVENTS IN '{file}' LIMIT 3, 4"
    assert [(row["Pos"], row["End_log_pos"]) for row in on.rows(asked)] == [
        (int(row[1]), int(row[4])) for row in source.execute(asked)
    ]
    for name in ("binlog_format", "binlog_row_metadata", "max_binlog_size", "gtid_mode"):
        asked = f"SHOW GLOBAL VARIABLES LIKE '{name}'"
        assert [tuple(row.values()) for row in on.rows(asked)] == [
            tuple(map(str, row)) for row in source.execute(asked)
        ]


def test_users_at_a_prompt(world: World, modern: Installation) -> None:
    """Made on one node, in force on all and after a restart; gone when dropped; never readable."""
    source, cluster = begin(world, modern)
    cluster.start_receiver(source)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    here, there = cluster.followers()
    with prompt(here) as on:
        on.run("CREATE USER %s@'%%' IDENTIFIED BY %s", READER, READER_PASSWORD)
        assert may_log_in(here, READER, READER_PASSWORD), "at once, where it was made"
        assert on.refused("CREATE USER reader IDENTIFIED BY 'x'") == 1396
        assert on.refused("GRANT SUPER ON *.* TO nobody") == 1410
        with prompt(here, READER, READER_PASSWORD) as reader:
            assert reader.refused("SHOW BINARY LOGS") == 1227
        on.run("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO reader")
        assert "REPLICATION SLAVE" in str(on.rows("SHOW GRANTS FOR reader"))
    wait_for(lambda: may_log_in(there, READER, READER_PASSWORD), what="the user elsewhere")
    with RawReader(port=there.listen_port, user=READER, password=READER_PASSWORD) as dump:
        last = f"{source.server_uuid()}:{source.gtid_executed().rpartition('-')[2]}"
        wait_for(lambda: last in dump.seen.transactions, what=last)
        assert dump.seen.faults == []
        with prompt(there) as on:
            assert_killed(on, dump)

    cluster.stop()
    cluster.start()
    assert may_log_in(there, READER, READER_PASSWORD)
    with prompt(there, READER, READER_PASSWORD) as reader:
        assert reader.refused("START REPLICA") == 1227
        reader.run("SET PASSWORD = %s", ANOTHER_PASSWORD)
    assert not may_log_in(there, READER, READER_PASSWORD)
    assert may_log_in(there, READER, ANOTHER_PASSWORD)
    with prompt(there) as on:
        on.run("DROP USER reader")
        assert on.refused("DROP USER reader") == 1396
    for node in cluster.nodes:
        wait_for(
            lambda node=node: not may_log_in(node, READER, ANOTHER_PASSWORD), what="it to be gone"
        )
    assert_nowhere(cluster, READER_PASSWORD, ANOTHER_PASSWORD, ADMIN_PASSWORD, REPLICATION_PASSWORD)


def assert_killed(on: Prompt, dump: RawReader) -> None:
    """KILL ends a replica's dump."""
    dumps = [row for row in on.rows("SHOW PROCESSLIST") if row["User"] == READER]
    assert [row["Command"][:11] for row in dumps] == ["Binlog Dump"]
    on.run(f"KILL {dumps[0]['Id']}")
    wait_for(lambda: not dump.is_alive, what="the dump to end")
    assert on.refused(f"KILL {dumps[0]['Id']}") == 1094


def assert_nowhere(cluster: KingbusCluster, *secrets: str) -> None:
    """No file that a node wrote holds a password; its configuration is the tests'."""
    cluster.stop()
    for node in cluster.nodes:
        for path in node.data_dir.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            found = [secret for secret in secrets if secret.encode() in content]
            assert not found, path
        assert not [secret for secret in secrets if secret in node.output()]
