"""The statements of replicas and of readers of the log, asked of a source and of a relay of it."""

import contextlib
from typing import Any

import pymysql
import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER
from tests.support.installations import Installation
from tests.support.relayed_files import wait_for_end
from tests.support.servers import MySQLServer
from tests.support.world import World

pytestmark = pytest.mark.mysql

SAME = (
    "SELECT @source_binlog_checksum",
    "SET @master_heartbeat_period = 2000000000, @source_heartbeat_period = 2000000000",
    "SET @master_heartbeat_period= 2000000000",
    (
        "SET @master_binlog_checksum = @@global.binlog_checksum, @source_binlog_checksum = "
        "@@global.binlog_checksum"
    ),
    "SELECT @source_binlog_checksum",
    "SELECT @master_binlog_checksum",
    "SELECT @@GLOBAL.GTID_MODE",
    (
        "SET @slave_uuid = '6ccd780c-baba-1026-9564-5b8c656024db', @replica_uuid = "
        "'6ccd780c-baba-1026-9564-5b8c656024db'"
    ),
    "SET @master_binlog_checksum='NONE'",
    "SELECT @master_binlog_checksum",
    "SET NAMES utf8mb4",
    "SET NAMES latin1",
    "SET NAMES 'binary'",
    "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
    "SHOW GLOBAL VARIABLES LIKE 'BINLOG_CHECKSUM'",
    "SHOW GLOBAL VARIABLES LIKE 'binlog_row_image'",
    "SHOW GLOBAL VARIABLES LIKE 'binlog_format'",
    "SHOW BINARY LOG STATUS",
    "SELECT @@GLOBAL.GTID_EXECUTED",
    "FLUSH BINARY LOG",
    "show global variables like 'gtid_purged'",
    "set @master_binlog_checksum= @@global.binlog_checksum",
    "set net_write_timeout = 60, net_read_timeout = 60",
    "SET character_set_results = NULL",
    "SET autocommit=1",
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SHOW BINARY LOGS",
    "SHOW VARIABLES LIKE 'log_bin'",
    "SHOW SESSION STATUS LIKE 'Ssl_version'",
    "SHOW STATUS LIKE 'Ssl_version'",
    (
        "SELECT GTID_SUBTRACT('6ccd780c-baba-1026-9564-5b8c656024db:1-5', "
        "'6ccd780c-baba-1026-9564-5b8c656024db:2')"
    ),
    (
        "SELECT GTID_SUBSET('6ccd780c-baba-1026-9564-5b8c656024db:1-5', "
        "'6ccd780c-baba-1026-9564-5b8c656024db:2')"
    ),
    "SELECT 1",
    "SELECT 1 LIMIT 1",
    "SELECT IFNULL(NULL, 'x')",
    "select ifnull(@@global.report_host, '') as a, @@global.log_bin",
    "SHOW VARIABLES LIKE 'lower_case_table_names'",
    "SHOW VARIABLES LIKE 'enforce_gtid_consistency'",
    "SHOW VARIABLES LIKE 'log_slave_updates'",
    "SHOW VARIABLES LIKE 'log_replica_updates'",
    "SHOW VARIABLES LIKE 'gtid_mode'",
    "SHOW VARIABLES LIKE 'binlog_row_image'",
    "SHOW VARIABLES LIKE 'maxscale%'",
    "SHOW GLOBAL VARIABLES LIKE 'rds\\_%'",
    "set wait_timeout=9999999",
    "select @@session.wait_timeout",
    "set @slave_uuid=uuid()",
    "SET @mariadb_slave_capability=4",
    "show binlog events limit 1",
    "show binlog events limit 2, 3",
    "SHOW BINLOG EVENTS IN 'mysql-bin.000001' FROM 4 LIMIT 3",
    "SHOW BINLOG EVENTS IN 'mysql-bin.000001'",
    "SHOW BINLOG EVENTS IN 'mysql-bin.000001' FROM 1",
    "SHOW BINLOG EVENTS IN 'mysql-bin.000001' FROM 5 LIMIT 1",
    "SHOW BINLOG EVENTS IN 'mysql-bin.000001' FROM 128 LIMIT 2",
    "SHOW BINLOG EVENTS IN 'mysql-bin.000001' FROM 200 LIMIT 1",
    "SHOW BINLOG EVENTS IN 'mysql-bin.000001' FROM 1000000000",
    "SHOW BINLOG EVENTS IN 'mysql-bin.999999'",
    "KILL 999999999",
    "KILL CONNECTION 999999999",
    "KILL QUERY 999999999",
    "SELECT @@no_such_variable",
    "SELECT @no_such_variable",
    "SELECT VERSION()",
    "SELECT DATABASE()",
    (
        "select @@global.binlog_row_image, @@global.binlog_row_metadata, "
        "@@session.binlog_row_value_options"
    ),
    "select @@session.transaction_isolation, @@global.time_zone, @@system_time_zone",
    "START TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "BEGIN",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET sql_mode='STRICT_TRANS_TABLES'",
    "SELECT @@sql_mode",
    "SET @a = 1, @b = 'x', @c = NULL, @d = 1.5",
    "PURGE BINARY LOGS TO 'mysql-bin.999999'",
    "RELOAD",
    "SELEC 1",
    "SELECT FROM",
    "SELECT 1; SELECT 2",
    "CREATE USER",
    "SELEC 1",
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SELECT 1 XOR 1 XOR 1, 1 OR 1 XOR 1, NULL OR 0, NULL AND 0, NOT (NULL AND 1)",
    "SELECT 1 IN (NULL, 2), 2 IN (NULL, 2), NULL XOR 1",
    "SHOW COLLATION LIKE 'utf8mb4_0900_ai_ci'",
    "SHOW COLLATION LIKE 'latin1%'",
    (
        "SHOW COLLATION WHERE Charset IN ('utf8mb4', 'utf8mb3', 'latin1', 'binary', 'ascii') "
        "AND `Default` = 'Yes'"
    ),
    (
        "SHOW COLLATION WHERE Collation IN ('utf8mb3_bin', 'utf8mb3_unicode_ci', 'utf8mb4_bin', "
        "'utf8mb4_0900_as_ci', 'utf8mb4_0900_as_cs', 'utf8mb4_0900_bin', 'utf8mb4_general_ci', "
        "'utf8mb4_unicode_520_ci', 'utf8mb4_unicode_ci', 'ascii_bin')"
    ),
    "SHOW COLLATION WHERE Id = 255",
    "SHOW COLLATION WHERE no_such = 1",
    "SHOW CHARACTER SET LIKE 'utf8mb4'",
    "SHOW CHARSET WHERE Charset IN ('utf8mb4', 'utf8mb3', 'latin1', 'binary', 'ascii')",
    "SHOW TABLES",
    "SHOW TABLES FROM no_such_database",
    "SHOW TABLES FROM information_schema LIKE 'no_such%'",
    "SHOW FULL TABLES FROM `INFORMATION_SCHEMA` LIKE 'no_such'",
    "SHOW FULL TABLES IN information_schema WHERE Table_type = 'BASE TABLE'",
    "SHOW DATABASES LIKE 'information\\_schema'",
    "SHOW DATABASES WHERE `Database` = 'no_such'",
    "DO 1, @@version",
    "DO no_such",
    "DO",
    "SHOW ENGINES LIKE 'x'",
    "USE information_schema",
    "SHOW TABLES LIKE 'no_such'",
)
"""What both answer alike, to the last byte."""

SHAPES = (
    "SHOW VARIABLES WHERE Variable_name IN ('rpl_semi_sync_master_enabled','rpl_semi_sync_none')",
    (
        "/* mysql-connector-j-8.0.33 (Revision: 7d6b0800528b6b25c68b52dc10d6c1c8429c100c) "
        "*/SELECT @@session.auto_increment_increment AS auto_increment_increment, "
        "@@character_set_client AS character_set_client, @@character_set_connection AS "
        "character_set_connection, @@character_set_results AS character_set_results, "
        "@@character_set_server AS character_set_server, @@collation_server AS collation_server, "
        "@@collation_connection AS collation_connection, @@init_connect AS init_connect, "
        "@@interactive_timeout AS interactive_timeout, @@license AS license, "
        "@@lower_case_table_names AS lower_case_table_names, @@max_allowed_packet AS "
        "max_allowed_packet, @@net_write_timeout AS net_write_timeout, @@performance_schema AS "
        "performance_schema, @@sql_mode AS sql_mode, @@system_time_zone AS system_time_zone, "
        "@@time_zone AS time_zone, @@transaction_isolation AS transaction_isolation, "
        "@@wait_timeout AS wait_timeout"
    ),
    "SELECT GTID_SUBTRACT('nonsense', '')",
    "show replica status",
    "SHOW REPLICAS",
    "SHOW COLLATION",
    "SHOW CHARACTER SET",
    "SHOW ENGINES",
    "SHOW STORAGE ENGINES",
    "SHOW PLUGINS",
    "SHOW PROCESSLIST",
    "SHOW FULL PROCESSLIST",
    "show databases",
    "SELECT UNIX_TIMESTAMP()",
    "SELECT NOW()",
    "SELECT CONNECTION_ID()",
    "SELECT UUID()",
    "SELECT USER()",
    "SELECT CURRENT_USER()",
    "SELECT @@GLOBAL.SERVER_ID",
    "SELECT @@GLOBAL.SERVER_UUID",
    "SHOW VARIABLES LIKE 'SERVER_ID'",
    "SHOW VARIABLES LIKE 'SERVER_UUID'",
    "select @@version_comment limit 1",
    (
        "select @@hostname, @@server_id, @@global.server_uuid, @@global.version, "
        "@@global.read_only, @@global.binlog_format, @@global.port"
    ),
    "show global status like 'Uptime'",
    "SHOW STATUS LIKE 'Threads_connected'",
    "SHOW GRANTS",
    "SHOW GRANTS FOR CURRENT_USER",
    "SHOW GRANTS FOR CURRENT_USER()",
    "SET NO_SUCH=1",
    "USE no_such_database",
)
"""What both answer in the same columns of the same types, or by the same error: the values are each
server's own."""

OLDER = (
    "SHOW MASTER STATUS",
    "SHOW BINLOG STATUS",
    "SHOW MASTER LOGS",
    "show slave status",
    "SHOW SLAVE HOSTS",
)
"""Words that 9.7 has forgotten, and older clients have not."""


def connected(port: int, user: str, password: str) -> Any:
    return pymysql.connect(
        host="127.0.0.1", port=port, user=user, password=password, ssl_disabled=True
    )


def answer(connection: Any, sql: str) -> tuple[Any, ...]:
    """Error number; or names and types of the columns, and the rows."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(sql)
        except pymysql.err.MySQLError as error:
            return ("error", *error.args)
        if cursor.description is None:
            return ("ok",)
        columns = [(column[0], column[1]) for column in cursor.description]
        return "rows", columns, cursor.fetchall()


def shape(told: tuple[Any, ...]) -> tuple[Any, ...]:
    kind, facts, *_ = (*told, None)
    if kind == "rows" and len(facts) == 1:
        return kind, facts[0][1]  # the name may have the user's in it
    return kind, facts


def apart(one: tuple[Any, ...], other: tuple[Any, ...]) -> list[Any]:
    """Only what differs: of two tables of one size the cells."""
    if one[:2] != other[:2] or one[0] != "rows" or len(one) < 3 or len(one[2]) != len(other[2]):
        return [one, other]
    rows = zip(one[2], other[2], strict=True)
    return [cells for row in rows for cells in zip(*row, strict=True) if cells[0] != cells[1]]


def begin(world: World, modern: Installation) -> tuple[MySQLServer, Any, Any]:
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    source.execute("CREATE USER reader IDENTIFIED BY 'reader-password-1'")
    source.execute("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO reader")
    workload.small_transactions(source, 2)
    cluster = world.cluster(count=1)
    cluster.start_receiver(source)
    cluster.start_listeners()
    wait_for_end(cluster, source)
    of_source = connected(source.port, "reader", "reader-password-1")
    of_relay = connected(cluster.nodes[0].listen_port, LISTENER_USER, LISTENER_PASSWORD)
    return source, of_source, of_relay


def test_a_relay_answers_as_its_source(world: World, modern: Installation) -> None:
    """Columns, their types, rows and errors, statement by statement on one connection each."""
    _, one, other = begin(world, modern)
    with contextlib.closing(one), contextlib.closing(other):
        different = {}
        for sql in (*SAME, *SHAPES):
            told = answer(one, sql), answer(other, sql)
            if sql in SHAPES:
                told = shape(told[0]), shape(told[1])
            if told[0] != told[1]:
                different[sql] = apart(*told)
        assert different == {}
        for sql in OLDER:
            assert answer(one, sql)[:2] == ("error", 1064)
            assert answer(other, sql)[0] == "rows"
