"""What real servers write that looks unlike a plain transaction."""

import contextlib
from pathlib import Path

import pymysql

from tests.support.servers import MySQLServer


def every_kind_of_transaction(source: MySQLServer, directory: Path) -> None:
    """Into a database `t`, over several files. The source needs `local_infile=ON`, and GTIDs."""
    loaded = directory / "load.txt"
    loaded.write_text("1000\tone\n")
    source.execute("CREATE DATABASE t")
    source.execute("CREATE TABLE t.i (id INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(200))")
    source.execute("CREATE TABLE t.m (id INT AUTO_INCREMENT PRIMARY KEY, x TEXT) ENGINE=MyISAM")
    source.execute("CREATE TEMPORARY TABLE t.tmp (a INT)")
    source.execute("DROP TEMPORARY TABLE t.tmp")
    with contextlib.closing(source.connect(autocommit=False, local_infile=True)) as connection:

        def run(*statements: str) -> None:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

        insert = "INSERT INTO t.i (x) VALUES ('x')"
        run("SAVEPOINT a", insert, "SAVEPOINT b", insert, "ROLLBACK TO b", "COMMIT")
        run(insert, "SAVEPOINT b", insert, "ROLLBACK TO b", insert, "COMMIT")
        run("XA START 'p'", insert, "XA END 'p'", "XA PREPARE 'p'", "XA COMMIT 'p'")
        run("XA START 'q'", insert, "XA END 'q'", "XA PREPARE 'q'", "XA ROLLBACK 'q'")
        run("XA START 'r'", insert, "XA END 'r'", "XA COMMIT 'r' ONE PHASE")
        for form in ("STATEMENT", "MIXED", "ROW"):
            run(f"SET SESSION binlog_format={form}", "SET @u = 'user'")
            run(insert, "INSERT INTO t.i (x) VALUES (@u)", "COMMIT")
            run("INSERT INTO t.m (x) VALUES (@u)", "INSERT INTO t.m (x) VALUES (RAND())", "COMMIT")
            run(insert, "ROLLBACK")
            for table in ("t.i", "t.m"):
                run(f"LOAD DATA LOCAL INFILE '{loaded}' INTO TABLE {table} (x)", "COMMIT")
            run("DROP TABLE IF EXISTS t.nothing", "DELETE FROM t.m WHERE id = 1", "COMMIT")
            run(f"CREATE TABLE t.of_{form} (a INT)", f"TRUNCATE t.of_{form}")
        run("FLUSH LOGS")
        run("SET SESSION binlog_rows_query_log_events=ON", insert, "COMMIT")
        run("CREATE FUNCTION t.f() RETURNS INT DETERMINISTIC RETURN 1")
        run(f"SET gtid_next='{source.server_uuid()}:777'", "BEGIN", "COMMIT")
        run("SET gtid_next='AUTOMATIC'")
        if not source.is_old:
            run("CREATE TABLE t.ctas AS SELECT * FROM t.i")
            run("SET SESSION binlog_transaction_compression=ON")
            run("INSERT INTO t.i (x) SELECT REPEAT('z', 200) FROM t.i", insert, "COMMIT")
            run("SET SESSION binlog_transaction_compression=OFF")
            run("SET gtid_next='AUTOMATIC:tagged'", insert, "COMMIT", "SET gtid_next='AUTOMATIC'")
            run("FLUSH LOGS")
            run("CREATE TABLE t.j (j JSON)", """INSERT INTO t.j VALUES ('{"a": "b"}')""", "COMMIT")
            run("SET SESSION binlog_row_value_options=PARTIAL_JSON")
            run("UPDATE t.j SET j = JSON_SET(j, '$.a', 'y')", "COMMIT")
    source.execute("CREATE TABLE t.big (b LONGBLOB)")
    for size in (16777100, 40 << 20):
        source.execute("INSERT INTO t.big VALUES (REPEAT('g', %s))", size)


def an_incident(source: MySQLServer) -> None:
    """The source notes that events are lost: what cannot be rolled back did not fit its cache."""
    source.execute("CREATE TABLE t.lost (b LONGBLOB) ENGINE=MyISAM")
    source.execute("SET GLOBAL max_binlog_stmt_cache_size = 4096")
    try:
        rows = ", ".join(["(REPEAT('l', 20000))"] * 20)
        # The size counts for connections that begin later.
        with (
            contextlib.closing(source.connect()) as connection,
            connection.cursor() as cursor,
            contextlib.suppress(pymysql.err.MySQLError),
        ):
            cursor.execute(f"INSERT INTO t.lost VALUES {rows}")
    finally:
        source.execute("SET GLOBAL max_binlog_stmt_cache_size = DEFAULT")
