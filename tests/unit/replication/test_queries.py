"""What each client asks, and what it is answered."""

import pytest

from kingbus.mysql.errors import MySQLError
from kingbus.mysql.resultset import ResultSet
from kingbus.replication.queries import ProcessFacts, RegisteredReplica, Session, answer
from kingbus.replication.replica_status import ReceiverFacts
from tests.unit.replication.served_facts import UUID, MemoryConnections, MemorySource

NOW = 1795187460.25


def session(source: MemorySource | None = None, rights: str = "replication") -> Session:
    return Session(
        thread_id=18,
        user="repl",
        host="10.0.0.9",
        rights=frozenset(rights.split()),
        facts=source or MemorySource(),
        clock=lambda: NOW,
    )


async def ask(sql: str, on: Session | None = None, connections=None) -> list[list] | None:
    result = await answer(
        sql, session=on or session(), connections=connections or MemoryConnections()
    )
    return None if result is None else [list(row) for row in result.rows]


async def error(sql: str, on: Session | None = None, connections=None) -> int:
    with pytest.raises(MySQLError) as caught:
        await ask(sql, on, connections)
    return caught.value.code


async def test_a_modern_replica() -> None:
    """Every statement of a 9.7 replica, in its order."""
    on = session()

    assert await ask("SET NAMES utf8mb4", on) is None
    assert await ask("SELECT UNIX_TIMESTAMP()", on) == [[1795187460]]
    assert await ask("SELECT @@GLOBAL.SERVER_ID", on) == [[11]]
    assert (
        await ask(
            "SET @master_heartbeat_period = 2000000000, @source_heartbeat_period = 2000000000", on
        )
        is None
    )
    assert (
        await ask(
            "SET @master_binlog_checksum = @@global.binlog_checksum, "
            "@source_binlog_checksum = @@global.binlog_checksum",
            on,
        )
        is None
    )
    assert await ask("SELECT @source_binlog_checksum", on) == [["CRC32"]]
    assert await ask("SELECT @@GLOBAL.GTID_MODE", on) == [["ON"]]
    assert await ask("SELECT @@GLOBAL.SERVER_UUID", on) == [[UUID]]
    assert await ask(f"SET @slave_uuid = '{UUID}', @replica_uuid = '{UUID}'", on) is None
    assert await error("SELECT @@global.rpl_semi_sync_source_enabled", on) == 1193
    assert on.user_variables.checksum == "CRC32"
    assert on.user_variables.heartbeat_period_s == 2.0
    assert on.user_variables.replica_uuid == UUID


@pytest.mark.parametrize(
    ("sql", "captured"),
    [
        (
            "SELECT UNIX_TIMESTAMP()",
            "0364656600000010554e49585f54494d455354414d502829000c3f0015000000088100000000",
        ),
        (
            "SELECT @@GLOBAL.SERVER_ID",
            "03646566000000124040474c4f42414c2e5345525645525f4944000c3f001500000008a000000000",
        ),
        (
            "SELECT @source_binlog_checksum",
            "036465660000001740736f757263655f62696e6c6f675f636865636b73756d000cff00f4ffff0bfb00001f0000",
        ),
        (
            "SELECT @@GLOBAL.GTID_MODE",
            "03646566000000124040474c4f42414c2e475449445f4d4f4445000cff0054550100fd00001f0000",
        ),
        (
            "SELECT @@GLOBAL.SERVER_UUID",
            "03646566000000144040474c4f42414c2e5345525645525f55554944000cff0054550100fd00001f0000",
        ),
    ],
)
async def test_columns_are_described_as_a_source_does(sql: str, captured: str) -> None:
    """To the byte as a 9.7 source was seen to, for what a replica asks."""
    on = session()
    await ask("SET @source_binlog_checksum = @@global.binlog_checksum", on)
    result = await answer(sql, session=on, connections=MemoryConnections())

    assert result.encode(deprecate_eof=True)[1].hex() == captured


@pytest.mark.parametrize(
    ("sql", "column", "kind", "flags"),
    [
        ("SHOW BINARY LOGS", "File_size", 0x08, 0xA1),
        ("SHOW BINARY LOG STATUS", "Position", 0x08, 0xA1),
        ("SHOW REPLICAS", "Server_Id", 0x03, 0xA1),
        ("SHOW REPLICAS", "Port", 0x03, 0xA1),
    ],
)
async def test_numbers_in_lists_are_counts(sql: str, column: str, kind: int, flags: int) -> None:
    """Type and flags as a 9.7 source was seen to send them; clients choose their types by these."""
    result = await answer(sql, session=session(), connections=MemoryConnections())
    place = [each.name for each in result.columns].index(column)
    described = result.encode(deprecate_eof=True)[1 + place]

    assert described[-6] == kind
    assert int.from_bytes(described[-5:-3], "little") == flags


async def test_an_old_replica() -> None:
    """Every statement of a 5.6 replica, in its order."""
    on = session()

    assert await ask("SET NAMES latin1", on) is None
    assert await ask("SHOW VARIABLES LIKE 'SERVER_ID'", on) == [["server_id", "11"]]
    assert await ask("SET @master_heartbeat_period= 30000001024", on) is None
    assert await ask("SET @master_binlog_checksum= @@global.binlog_checksum", on) is None
    assert await ask("SELECT @master_binlog_checksum", on) == [["CRC32"]]
    assert await ask("SHOW VARIABLES LIKE 'SERVER_UUID'", on) == [["server_uuid", UUID]]
    assert await ask("SET @slave_uuid= 'D0F3F452-e4f7-11f1-a295-02fc00000001'", on) is None
    assert on.user_variables.heartbeat_period_s == 30.000001024
    assert on.user_variables.replica_uuid == "d0f3f452-e4f7-11f1-a295-02fc00000001"
    assert not on.user_variables.speaks_mariadb


async def test_a_mariadb_replica() -> None:
    """It is told that there are no MariaDB GTIDs and falls back to file and position."""
    on = session()

    assert await ask("SET @mariadb_slave_capability=4", on) is None
    assert await error("SELECT @@GLOBAL.gtid_domain_id", on) == 1193
    assert await error("SELECT binlog_gtid_pos('mdb-bin.000003',805)", on) == 1305
    assert await ask("SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'", on) == []
    assert on.user_variables.speaks_mariadb


async def test_a_mariadb_replica_of_a_mariadb_source() -> None:
    """It is told the domain and positions; MySQL's names for the same are not there."""
    version = "10.11.19-MariaDB-log"
    on = session(MemorySource(flavor="mariadb", version=version, executed="0-1-5", purged="0-1-3"))

    assert await ask("SELECT @@GLOBAL.gtid_domain_id", on) == [[0]]
    assert await ask("SELECT @@GLOBAL.gtid_binlog_pos", on) == [["0-1-5"]]
    assert await ask("SET @slave_connect_state='0-2101-9'", on) is None
    assert await ask("SET @slave_gtid_strict_mode=1", on) is None
    assert on.user_variables.mariadb_position == "0-2101-9"
    assert await ask("SELECT binlog_gtid_pos('binlog.000001',4)", on) == [["0-1-3"]]
    assert await error("SELECT binlog_gtid_pos('binlog.000001',805)", on) == 1305
    for name in ("gtid_mode", "server_uuid", "gtid_executed"):
        assert await error(f"SELECT @@GLOBAL.{name}", on) == 1193
        assert await ask(f"SHOW VARIABLES LIKE '{name}'", on) == []
    assert await ask("SHOW VARIABLES LIKE 'gtid_strict_mode'", on) == [["gtid_strict_mode", "1"]]


async def test_mysqlbinlog() -> None:
    """It asks for the version and wants no checksums in the first event."""
    on = session()

    assert await ask("SELECT VERSION()", on) == [["9.7.4-kingbus"]]
    assert (
        await ask("SET @master_binlog_checksum = 'NONE', @source_binlog_checksum = 'NONE'", on)
        is None
    )
    assert on.user_variables.checksum == "NONE"
    assert on.user_variables.heartbeat_period_s is None
    assert on.user_variables.replica_uuid == ""


async def test_readers_of_rows() -> None:
    """pymysqlreplication, zongji, go-mysql and the Java connectors."""
    on = session()
    files = [["binlog.000002", 181, "No"], ["binlog.000003", 774, "No"]]
    status = [["binlog.000003", 774, "", "", f"{UUID}:1-29"]]

    assert await ask("SHOW GLOBAL VARIABLES LIKE 'BINLOG_CHECKSUM'", on) == [
        ["binlog_checksum", "CRC32"]
    ]
    assert await ask("SET AUTOCOMMIT = 0", on) is None
    assert await ask("SELECT @@autocommit", on) == [[0]]
    assert await ask("SHOW VARIABLES LIKE 'BINLOG_ROW_METADATA';", on) == [
        ["binlog_row_metadata", "MINIMAL"]
    ]
    assert await ask("SHOW BINARY LOGS", on) == files
    assert await ask("show master logs", on) == files
    assert await ask("SHOW MASTER STATUS", on) == status
    assert await ask("show binary log status", on) == status
    assert await ask("SELECT @@GLOBAL.gtid_executed AS gtidExecuted", on) == [[f"{UUID}:1-29"]]
    assert await ask("show global variables like 'gtid_purged'", on) == [
        ["gtid_purged", f"{UUID}:1-4"]
    ]
    assert await ask(
        "SHOW VARIABLES WHERE Variable_name IN "
        "('rpl_semi_sync_master_enabled','rpl_semi_sync_source_enabled','gtid_mode')",
        on,
    ) == [["gtid_mode", "ON"]]
    assert await ask("set net_write_timeout=60, net_read_timeout = 30", on) is None
    assert await ask("set wait_timeout=9999999", on) is None
    assert await ask("SET @slave_uuid=uuid()", on) is None
    assert len(on.user_variables.replica_uuid) == 36
    assert await ask(r"show global variables like 'rds\_%'", on) == []
    assert await ask("SHOW STATUS LIKE 'Ssl_version'", on) == [["Ssl_version", ""]]
    assert await ask("SHOW SESSION STATUS LIKE 'Uptime'", on) == [["Uptime", "77"]]
    assert await ask("SHOW STATUS LIKE 'kingbus_semi_sync%'", on) == [
        ["kingbus_semi_sync_acknowledged_a-uuid", ""],
        ["kingbus_semi_sync_acknowledged_server_id_7", "binlog.000002:154"],
    ]
    assert await ask("SELECT DATABASE(), CONNECTION_ID(), USER()", on) == [
        [None, 18, "repl@10.0.0.9"]
    ]
    assert await ask("show binlog events limit 1", on) == [
        ["binlog.000002", 4, "Xid", 11, 35, "COMMIT"]
    ]
    assert await error("show binlog events in 'nosuch'", on) == 1220


async def test_a_java_connector() -> None:
    """Its one long question at the start, and what it sets."""
    on = session()
    names = [
        "auto_increment_increment",
        "character_set_client",
        "character_set_connection",
        "character_set_results",
        "character_set_server",
        "collation_server",
        "collation_connection",
        "init_connect",
        "interactive_timeout",
        "license",
        "lower_case_table_names",
        "max_allowed_packet",
        "net_write_timeout",
        "performance_schema",
        "sql_mode",
        "system_time_zone",
        "time_zone",
        "transaction_isolation",
        "wait_timeout",
    ]
    columns = ", ".join(f"@@session.{name} AS {name}" for name in names)
    comment = "/* mysql-connector-j-9.1.0 (Revision: abc) */"
    result = await answer(
        f"{comment}SELECT  {columns}", session=on, connections=MemoryConnections()
    )

    assert isinstance(result, ResultSet)
    assert [column.name for column in result.columns] == names
    assert None not in result.rows[0]
    assert await ask("SET character_set_results = NULL", on) is None
    assert await ask("SELECT @@character_set_results", on) == [[None]]
    assert await ask("SET autocommit=1", on) is None
    assert await ask("SHOW WARNINGS", on) == []
    assert await ask("SELECT @@hostname, ifnull(@@global.report_host, '') AS h", on) == [
        ["relay-1", ""]
    ]


async def test_times() -> None:
    """In UTC, with as many digits behind the point as are asked for."""
    assert await ask("SELECT NOW(), NOW(3), CURRENT_TIMESTAMP(6), CURRENT_TIMESTAMP") == [
        [
            "2026-11-20 15:11:00",
            "2026-11-20 15:11:00.250",
            "2026-11-20 15:11:00.250000",
            "2026-11-20 15:11:00",
        ]
    ]
    assert await error("SELECT NOW(7)") == 1426
    assert await error("SELECT NOW('x')") == 1426


async def test_gtid_functions() -> None:
    """Subset and difference as MySQL computes them."""
    assert await ask(
        f"SELECT GTID_SUBTRACT('{UUID}:1-9','{UUID}:3-5'), GTID_SUBSET('{UUID}:2','{UUID}:1-3')"
    ) == [[f"{UUID}:1-2:6-9", 1]]
    assert await ask(f"SELECT GTID_SUBSET('{UUID}:2-4','{UUID}:1-3'), GTID_SUBSET(NULL,'')") == [
        [0, None]
    ]
    assert await error("SELECT GTID_SUBSET('nonsense','')") == 1772
    assert await error("SELECT GTID_SUBSET('')") == 1582


@pytest.mark.parametrize(
    "name",
    ["SERVER_ID", "SERVER_UUID", "GTID_MODE", "BINLOG_CHECKSUM", "GTID_EXECUTED", "VERSION"],
)
async def test_facts_are_never_null_and_cannot_be_set(name: str) -> None:
    """A replica server crashes at a NULL, so none of these can become one."""
    empty = MemorySource(executed="", purged="", files=[])
    on = session(empty)

    assert None not in (await ask(f"SELECT @@GLOBAL.{name}", on))[0]
    assert await error(f"SET @@session.{name} = NULL", on) == 1238
    assert await error(f"SET {name} = DEFAULT", on) == 1238


async def test_no_variable_shows_null_at_first() -> None:
    """Every variable that is listed has a value, before any source too."""
    rows = await ask("SHOW VARIABLES", session(MemorySource(executed="", purged="", files=[])))

    assert all(isinstance(value, str) for row in rows for value in row)
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})


async def test_unknown_and_forbidden_variables() -> None:
    """1193 for what is not there, 1227 for what belongs to everybody, 1231 for nonsense."""
    assert await error("SELECT @@nosuch") == 1193
    assert await error("SET nosuch = 1") == 1193
    assert await error("SET @@global.nosuch = 1") == 1193
    assert await error("SET GLOBAL wait_timeout = 1") == 1227
    assert await error("SET GLOBAL wait_timeout = 1", session(rights="admin")) == 1235
    assert await error("SET autocommit = 'maybe'") == 1231
    assert await error("SET @a = '" + "x" * (1 << 20) + "y'") == 1231


async def test_one_connection_cannot_set_variables_without_end() -> None:
    """The number of user variables is bounded; those that are there can still be changed."""
    on = session()
    for number in range(256):
        await ask(f"SET @v{number} = 1", on)

    assert await error("SET @one_more = 1", on) == 1231
    assert await ask("SET @v7 = 2", on) is None


async def test_the_values_of_one_connection_are_bounded_together() -> None:
    """Four megabytes in all: a variable that is set again counts once."""
    on = session()
    for number in (1, 2, 3, 4, 4):
        await ask(f"SET @v{number} = '{'x' * (1 << 20)}'", on)

    assert await error("SET @v5 = 'x'", on) == 1231
    await ask("SET @v4 = NULL", on)
    assert await ask("SET @v5 = 'x'", on) is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + ", ".join(["@a"] * 20),
        "SELECT CONCAT(" + ", ".join(["@a"] * 5) + ")",
        "SELECT 1 IN (" + ", ".join(["LOWER(@a)"] * 5) + ")",
        "DO " + ", ".join(["UPPER(@a)"] * 20),
    ],
)
async def test_a_short_statement_makes_no_endless_answer(sql: str) -> None:
    """A variable that is named again and again is not multiplied without end."""
    on = session()
    await ask(f"SET @a = '{'x' * (1 << 20)}'", on)

    assert await error(sql, on) == 1301
    assert await ask("SELECT LOWER(CONCAT(@a, @a)) = UPPER(CONCAT(@a, @a))", on) == [[1]]


@pytest.mark.parametrize("operator", ["OR", "XOR", "AND"])
async def test_a_long_condition_is_as_flat_as_it_looks(operator: str) -> None:
    """As many as a statement may have words, in SELECT and in WHERE."""
    many = f" {operator} ".join(["1"] * 2001)

    assert await ask(f"SELECT {many}") == [[1]]
    assert await ask(f"SHOW DATABASES WHERE {many}") == [["information_schema"]]


async def test_words_between_conditions_bind_as_in_mysql() -> None:
    """AND before XOR before OR; NOT before them all."""
    assert await ask("SELECT 1 OR 1 XOR 1") == [[1]]
    assert await ask("SELECT 1 XOR 1 AND 0") == [[1]]
    assert await ask("SELECT NOT 1 XOR 1, 1 XOR 1, NULL XOR 1") == [[1, 0, None]]


async def test_what_went_wrong_is_shown_until_the_next_statement() -> None:
    """SHOW WARNINGS and SHOW ERRORS tell of the last statement only, an error too; a note is no
    error."""
    on = session(rights="admin")
    await ask("FLUSH LOGS", on)

    assert [row[:2] for row in await ask("SHOW WARNINGS", on)] == [["Note", 1105]]
    assert await ask("SHOW ERRORS", on) == []
    assert await error("SELEC 1", on) == 1064
    for sql in ("SHOW WARNINGS", "SHOW ERRORS", "SHOW WARNINGS"):
        assert [row[:2] for row in await ask(sql, on)] == [["Error", 1064]]
    await ask("SELECT 1", on)
    assert await ask("SHOW WARNINGS", on) == []


async def test_lists_of_a_server_without_tables() -> None:
    """What clients ask for on connecting, by every kind of filter."""
    on = session()

    assert (await ask("SHOW COLLATION LIKE 'utf8mb4_0900_ai_ci'", on))[0][:4] == [
        "utf8mb4_0900_ai_ci",
        "utf8mb4",
        255,
        "Yes",
    ]
    defaults = await ask("SHOW COLLATION WHERE `Default` = 'Yes' AND Id <> 63", on)
    sets = await ask("SHOW CHARACTER SET WHERE Charset <> 'binary'", on)
    assert [row[0] for row in defaults] == [row[2] for row in sets]
    assert await error("SHOW COLLATION WHERE nosuch = 1", on) == 1054
    assert await ask("SHOW ENGINES", on) == []
    assert [row[0] for row in await ask("SHOW PLUGINS", on)] == [
        "caching_sha2_password",
        "mysql_native_password",
    ]
    assert await ask("DO 1, @@version", on) is None
    assert await error("DO nosuch", on) == 1054


async def test_tables() -> None:
    """There are none: in no database that is there, nor without one or in another."""
    on = session()

    assert await error("SHOW TABLES", on) == 1046
    assert await error("SHOW TABLES FROM nosuch", on) == 1049
    await ask("USE mysql", on)
    result = await answer("SHOW FULL TABLES LIKE 't%'", session=on, connections=MemoryConnections())
    assert [column.name for column in result.columns] == ["Tables_in_mysql (t%)", "Table_type"]
    assert list(result.rows) == []


async def test_the_source_s_own_settings_are_shown() -> None:
    """What the provider knows of the source goes before MySQL's defaults."""
    known = {
        "binlog_row_metadata": "FULL",
        "max_binlog_size": "4096",
        "binlog_transaction_compression": "ON",
        "autocommit": "OFF",
        "server_id": "1",
    }
    on = session(MemorySource(known=known))

    assert await ask(
        "SELECT @@global.binlog_row_metadata, @@max_binlog_size, @@binlog_transaction_compression",
        on,
    ) == [["FULL", 4096, 1]]
    # These are not the source's to say.
    assert await ask("SELECT @@autocommit, @@server_id", on) == [[1, 11]]
    assert await error("SET @@session.binlog_row_metadata = 'FULL'", on) == 1238


async def test_a_source_without_gtids() -> None:
    """Position mode is OFF for clients, exactly so spelled."""
    on = session(MemorySource(gtid_mode="OFF"))

    assert await ask("SELECT @@GLOBAL.GTID_MODE, @@enforce_gtid_consistency", on) == [
        ["OFF", "OFF"]
    ]


async def test_before_the_first_file() -> None:
    """Nothing to show is an empty result, not an error."""
    on = session(MemorySource(executed="", purged="", files=[]))

    assert await ask("SHOW BINARY LOG STATUS", on) == []
    assert await ask("SHOW BINARY LOGS", on) == []
    assert await ask("SHOW REPLICA STATUS", on) == []


async def test_rights() -> None:
    """Without the replication right nothing of the log is shown; administration needs its own."""
    nobody = session(rights="")
    for sql in ("SHOW BINARY LOGS", "SHOW MASTER STATUS", "SHOW REPLICAS", "SHOW BINLOG EVENTS"):
        assert await error(sql, nobody) == 1227
    assert await ask("SELECT 1", nobody) == [[1]]
    assert await error("FLUSH BINARY LOGS") == 1227
    assert await error("PURGE BINARY LOGS TO 'x'") == 1227


async def test_purge() -> None:
    """By name, with or without the directory, or by time in UTC; in MySQL's own words if not."""
    source = MemorySource()
    on = session(source, rights="admin")
    assert await ask("PURGE BINARY LOGS TO './binlog.000003'", on) is None
    assert await ask("PURGE MASTER LOGS TO 'binlog.000003'", on) is None
    assert await ask("PURGE BINARY LOGS BEFORE '2026-11-21 16:00:00'", on) is None
    assert await ask("PURGE BINARY LOGS BEFORE '2026-11-21'", on) is None
    await ask("PURGE BINARY LOGS BEFORE NOW() - INTERVAL 1 DAY", on)
    assert source.purges[:4] == ["binlog.000003", "binlog.000003", 1795276800.0, 1795219200.0]
    assert source.purges[4] == on.clock() // 1 - 86400

    with pytest.raises(MySQLError) as caught:
        await ask("PURGE BINARY LOGS TO 'binlog.000009'", on)
    assert str(caught.value) == "1373 (HY000): Target log not found in binlog index"
    for wrong in ("'garbage'", "NULL", "0"):
        assert await error(f"PURGE BINARY LOGS BEFORE {wrong}", on) == 1292
    assert len(source.purges) == 5
    with pytest.raises(MySQLError, match="SUPER or BINLOG_ADMIN privilege"):
        await ask("PURGE BINARY LOGS BEFORE 'garbage'", session(source))


async def test_a_purge_by_another_clock_is_refused() -> None:
    """A time that is written down is UTC; in a session with another zone it would be hours off."""
    source = MemorySource()
    on = session(source, rights="admin")
    for zone in ("SYSTEM", "+00:00", "utc"):
        await ask(f"SET time_zone = '{zone}'", on)
        await ask("PURGE BINARY LOGS BEFORE '2026-11-21 16:00:00'", on)
    purged = len(source.purges)
    await ask("SET time_zone = '+08:00'", on)

    assert await error("PURGE BINARY LOGS BEFORE '2026-11-21 16:00:00'", on) == 1235
    assert purged == len(source.purges) == 3
    await ask("PURGE BINARY LOGS BEFORE NOW() - INTERVAL 3 DAY", on)
    await ask("PURGE BINARY LOGS BEFORE '9999-12-31T23:59:59-14:00'", session(source, "admin"))
    assert source.purges[-1] < 253402300800


async def test_grants() -> None:
    """A connection is shown what it may do."""
    assert await ask("SHOW GRANTS FOR CURRENT_USER") == [
        ["GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `repl`@`%`"]
    ]
    assert await ask("SHOW GRANTS", session(rights="")) == [["GRANT USAGE ON *.* TO `repl`@`%`"]]


async def test_databases() -> None:
    """The names that clients connect to by habit are there; others are refused as MySQL does."""
    on = session()

    assert await ask("USE information_schema", on) is None
    assert await ask("SELECT DATABASE()", on) == [["information_schema"]]
    assert await error("USE shop", on) == 1044
    assert await ask("SHOW DATABASES", on) == [["information_schema"]]


def process(thread_id: int, user: str, info: str = "") -> ProcessFacts:
    return ProcessFacts(
        thread_id=thread_id,
        user=user,
        host="10.0.0.9:5000",
        database="",
        command="Binlog Dump GTID",
        seconds=5,
        state="",
        info=info,
    )


async def test_connections() -> None:
    """One sees and kills one's own connections; administrators see all."""
    connections = MemoryConnections(open=[process(1, "repl", "x" * 300), process(2, "other")])

    assert [row[0] for row in await ask("SHOW PROCESSLIST", None, connections)] == [1]
    assert len((await ask("SHOW PROCESSLIST", None, connections))[0][7]) == 100
    assert len((await ask("SHOW FULL PROCESSLIST", None, connections))[0][7]) == 300
    everything = await ask("SHOW PROCESSLIST", session(rights="admin"), connections)
    assert [row[0] for row in everything] == [1, 2]
    assert await error("KILL 3", None, connections) == 1094
    assert await error("KILL 2", None, connections) == 1095
    assert await ask("KILL 1", None, connections) is None
    assert [found.thread_id for found in connections.open] == [2]


async def test_replicas() -> None:
    """Registered replicas, in the new words and the old."""
    found = RegisteredReplica(server_id=71, host="rep", port=33071, uuid=UUID)
    connections = MemoryConnections(replicas=[found])
    rows = [[71, "rep", 33071, 11, UUID]]

    assert await ask("SHOW REPLICAS", None, connections) == rows
    assert await ask("SHOW SLAVE HOSTS", None, connections) == rows
    result = await answer("SHOW SLAVE HOSTS", session=session(), connections=connections)
    assert [column.name for column in result.columns] == [
        "Server_id",
        "Host",
        "Port",
        "Master_id",
        "Slave_UUID",
    ]


async def test_the_receiver_as_a_replica() -> None:
    """SHOW REPLICA STATUS tells of the receiver, in the words that were used to ask."""
    receiver = ReceiverFacts(
        state="running",
        host="10.0.0.1",
        port=3306,
        user="relay",
        file="binlog.000003",
        position=774,
        source_id=1,
        source_uuid=UUID,
        executed=f"{UUID}:1-29",
        seconds_behind=0,
    )
    on = session(MemorySource(source=receiver))
    for sql, running, host in (
        ("SHOW REPLICA STATUS", "Replica_IO_Running", "Source_Host"),
        ("SHOW SLAVE STATUS", "Slave_IO_Running", "Master_Host"),
    ):
        result = await answer(sql, session=on, connections=MemoryConnections())
        row = dict(zip([column.name for column in result.columns], result.rows[0], strict=True))
        assert (row[running], row[host]) == ("Yes", "10.0.0.1")
        assert len(row) == len(result.columns) == 60
        old = "Master" in host
        assert not any(("Source" in name) == old for name in row if "Source" in name)
        assert not any("Replica_" in name for name in row) or not old
        wanted = {
            "Slave_SQL_Running" if old else "Replica_SQL_Running": "Yes",
            "Seconds_Behind_Master" if old else "Seconds_Behind_Source": 0,
            "Last_IO_Errno": 0,
            "Last_SQL_Error": "",
            "Executed_Gtid_Set": f"{UUID}:1-29",
            "Auto_Position": 1,
            "Channel_Name": "",
        }
        assert wanted.items() <= row.items()


async def test_a_reset_connection_forgets() -> None:
    """User variables and settings are as at the start."""
    on = session()
    await ask("SET @a = 1, autocommit = 0", on)
    on.reset()

    assert await ask("SELECT @a, @@autocommit", on) == [[None, 1]]
