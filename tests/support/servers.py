"""Real MySQL servers for the tests: start, ask, kill, restart, attach as replica.

Each server has its own directory and port and is stopped by its own process id. A data directory
is initialized once per version and kept in the cache; every server starts on a copy of it. The
logs survive a kill of the process (not of the machine): that is all that tests can do to a server.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pymysql
import pymysql.cursors
import pytest

from tests.support import installations, processes
from tests.support.installations import Installation, MissingServerError
from tests.support.waiting import wait_for

ADMIN_USER = "tester"
ADMIN_PASSWORD = "tester-secret"
REPLICATION_USER = "repl"
REPLICATION_PASSWORD = "repl-secret-5up"

_START_SECONDS = 120.0
_SYSTEM_SCHEMAS = ("mysql", "information_schema", "performance_schema", "sys", "test")


def modern() -> Installation:
    """MySQL 9 (or what KINGBUS_MYSQLD names); a missing one fails, or skips if that is allowed."""
    return _or_skip(installations.modern)


def old() -> Installation:
    """MySQL 5.6; a missing one fails, or skips if that is allowed."""
    return _or_skip(installations.old)


def mariadb() -> Installation:
    """MariaDB; a missing one fails, or skips if that is allowed."""
    return _or_skip(installations.mariadb)


def _or_skip(find: Any) -> Installation:
    try:
        installation: Installation = find()
    except MissingServerError as error:
        if os.environ.get("KINGBUS_ALLOW_SKIP") == "1":
            pytest.skip(str(error))
        raise
    return installation


class MySQLServer:
    """One mysqld process and its directory."""

    def __init__(
        self,
        installation: Installation,
        directory: Path,
        *,
        server_id: int,
        gtid: bool = True,
        extra: Sequence[str] = (),
        stays: bool = False,
    ) -> None:
        """Prepare the directory; nothing runs before `start`. `extra` are lines of [mysqld]."""
        self.installation = installation
        self.directory = directory
        self.server_id = server_id
        self.host = "127.0.0.1"
        self.port = processes.free_port()
        self.log = directory / "mysqld.log"
        self.data_dir = directory / "data"
        self.binlog_dir = directory / "binlog"
        self._gtid = gtid
        self._extra = tuple(extra)
        self._stays = stays
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: pymysql.Connection[Any] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.binlog_dir.mkdir()
        (directory / "tmp").mkdir()
        _copy_template(installation, self.data_dir)

    @property
    def is_old(self) -> bool:
        """Whether this server speaks of masters and slaves (before 8.0.22)."""
        return self.installation.version < (8, 0, 22)

    @property
    def pid(self) -> int:
        """The process id; the server must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the process and wait until it answers a query."""
        assert not self.is_running
        self._launch(self._settings())
        return self

    def stop(self) -> None:
        """Clean shutdown; it fails if the server does not end properly."""
        self._disconnect()
        if self._process is not None:
            status = processes.stop(self._process, seconds=90)
            assert status == 0, f"mysqld ended with {status}\n{processes.tail(self.log)}"
            self._process = None

    def kill9(self) -> None:
        """SIGKILL, as a crash of the process would be."""
        self._disconnect()
        if self._process is not None:
            processes.kill(self._process)
            self._process = None

    def restart(self) -> None:
        """Clean shutdown and start on the same port."""
        self.stop()
        self.start()

    def set_extra(self, extra: Sequence[str]) -> None:
        """Other lines of [mysqld] for the next start."""
        self._extra = tuple(extra)

    def __enter__(self) -> Self:
        if not self.is_running:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill9()

    def connect(self, **options: Any) -> "pymysql.Connection[Any]":
        """A new connection of the administrator; the caller closes it."""
        given: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": ADMIN_USER,
            "password": ADMIN_PASSWORD,
            "charset": "utf8mb4",
            "autocommit": True,
            "connect_timeout": 10,
            "max_allowed_packet": 256 * 1024 * 1024,
            # PyMySQL takes TLS wherever it is offered; the tests need none to a local server.
            "ssl_disabled": True,
        }
        return pymysql.connect(**(given | options))

    def execute(self, statement: str, *arguments: Any) -> tuple[tuple[Any, ...], ...]:
        """Run one statement on the shared connection and return its rows."""
        if self._connection is None:
            self._connection = self.connect()
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, arguments or None)
                return tuple(cursor.fetchall())
        except (pymysql.err.OperationalError, pymysql.err.InterfaceError):
            self._disconnect()
            raise

    def value(self, statement: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        return self.execute(statement, *arguments)[0][0]

    def record(self, statement: str) -> dict[str, Any]:
        """The first row by column names; empty if there is none."""
        if self._connection is None:
            self._connection = self.connect()
        with self._connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(statement)
            return dict(cursor.fetchone() or {})

    def server_uuid(self) -> str:
        """`@@server_uuid`."""
        return str(self.value("SELECT @@global.server_uuid"))

    def gtid_executed(self) -> str:
        """`@@gtid_executed` on one line."""
        return str(self.value("SELECT @@global.gtid_executed")).replace("\n", "")

    def gtid_purged(self) -> str:
        """`@@gtid_purged` on one line."""
        return str(self.value("SELECT @@global.gtid_purged")).replace("\n", "")

    def has_executed(self, gtids: str) -> bool:
        """Whether every transaction of `gtids` is in `@@gtid_executed`."""
        return bool(self.value("SELECT GTID_SUBSET(%s, @@global.gtid_executed)", gtids))

    def binlog_files(self) -> list[str]:
        """The names of the binary logs, oldest first."""
        return [str(row[0]) for row in self.execute("SHOW BINARY LOGS")]

    def binlog_position(self) -> tuple[str, int]:
        """The open binary log and the position at its end."""
        words = "SHOW MASTER STATUS" if self.is_old else "SHOW BINARY LOG STATUS"
        row = self.execute(words)[0]
        return str(row[0]), int(row[1])

    def binlog_path(self, name: str) -> Path:
        """The file of a binary log."""
        return self.binlog_dir / name

    def checksums(self) -> dict[str, tuple[Any, ...]]:
        """For every table of the user: its number of rows and a sum over all its values.

        It is the same for equal tables on different versions, unlike CHECKSUM TABLE.
        """
        marks = ", ".join(["%s"] * len(_SYSTEM_SCHEMAS))
        columns = self.execute(
            "SELECT table_schema, table_name, column_name FROM information_schema.columns"
            f" WHERE table_schema NOT IN ({marks}) ORDER BY 1, 2, ordinal_position",
            *_SYSTEM_SCHEMAS,
        )
        tables: dict[tuple[str, str], list[str]] = {}
        for schema, table, column in columns:
            tables.setdefault((schema, table), []).append(column)
        result = {}
        for (schema, table), names in tables.items():
            values = ", ".join(f"IFNULL(CRC32(`{name}`), 'null')" for name in names)
            result[f"{schema}.{table}"] = self.execute(
                f"SELECT COUNT(*), COALESCE(SUM(CRC32(CONCAT_WS('#', {values}))), 0)"
                f" FROM `{schema}`.`{table}`"
            )[0]
        return result

    # As a replica.

    def change_source(
        self,
        *,
        host: str,
        port: int,
        user: str = REPLICATION_USER,
        password: str = REPLICATION_PASSWORD,
        auto_position: bool = True,
        file: str | None = None,
        position: int | None = None,
        heartbeat_seconds: float = 1.0,
        tls: bool = False,
        compression: str = "",
    ) -> None:
        """Point this server at a source; retries come every second, for as long as it takes.

        `tls` and `compression` are for new servers only.
        """
        old = self.is_old
        prefix = "MASTER" if old else "SOURCE"
        options = {
            "HOST": repr(host),
            "PORT": str(port),
            "USER": repr(user),
            "PASSWORD": repr(password),
            "CONNECT_RETRY": "1",
            "RETRY_COUNT": "86400",
            "HEARTBEAT_PERIOD": str(heartbeat_seconds),
            "AUTO_POSITION": "1" if auto_position else "0",
        }
        if file is not None:
            options |= {"LOG_FILE": repr(file), "LOG_POS": str(position or 4)}
        words = [f"{prefix}_{name}={value}" for name, value in options.items()]
        if not old:
            words += [f"SOURCE_SSL={int(tls)}", f"GET_SOURCE_PUBLIC_KEY={int(not tls)}"]
            words += [f"SOURCE_COMPRESSION_ALGORITHMS='{compression or 'uncompressed'}'"]
        verb = "CHANGE MASTER TO" if old else "CHANGE REPLICATION SOURCE TO"
        with _quiet():
            self.execute(f"{verb} {', '.join(words)}")

    def start_replica(self) -> None:
        """START REPLICA."""
        with _quiet():
            self.execute("START SLAVE" if self.is_old else "START REPLICA")

    def stop_replica(self) -> None:
        """STOP REPLICA."""
        with _quiet():
            self.execute("STOP SLAVE" if self.is_old else "STOP REPLICA")

    def replica_status(self) -> dict[str, Any]:
        """SHOW REPLICA STATUS by the names of MySQL 9, also for an old server."""
        row = self.record("SHOW SLAVE STATUS" if self.is_old else "SHOW REPLICA STATUS")
        return {
            name.replace("Master", "Source").replace("Slave", "Replica"): value
            for name, value in row.items()
        }

    def replica_errors(self) -> list[str]:
        """What the replica's status says is wrong, now."""
        status = self.replica_status()
        return [
            f"{name}: {status[f'Last_{name}_Errno']} {status[f'Last_{name}_Error']}"
            for name in ("IO", "SQL")
            if int(status.get(f"Last_{name}_Errno") or 0)
        ]

    def wait_for_gtids(self, gtids: str, *, seconds: float = 60.0) -> None:
        """Wait until this replica has executed `gtids`; an SQL error ends the wait at once."""

        def caught_up() -> bool:
            status = self.replica_status()
            stopped = int(status.get("Last_SQL_Errno") or 0)
            assert not stopped, f"replica stopped: {status['Last_SQL_Error']}"
            fatal = int(status.get("Last_IO_Errno") or 0)
            assert fatal != 1236, f"replica refused: {status['Last_IO_Error']}"
            return self.has_executed(gtids)

        wait_for(
            caught_up,
            what=f"replica on port {self.port} to execute {gtids}",
            seconds=seconds,
            every=0.2,
            explain=lambda: (self.gtid_executed(), self.replica_errors()),
        )
        if self.installation.version < (5, 7):
            # It counts a transaction before others see its rows; the lock waits for its commit.
            self.execute("FLUSH TABLES WITH READ LOCK")
            self.execute("UNLOCK TABLES")

    # Below: how it is run.

    def _settings(self) -> list[str]:
        return _settings(self)

    def _launch(self, settings: Sequence[str]) -> None:
        config = self.directory / "my.cnf"
        config.write_text("[mysqld]\n" + "\n".join(settings) + "\n")
        self._process = processes.start(
            [*self.installation.mysqld, f"--defaults-file={config}"],
            log=self.log,
            environment=self.installation.environment,
            directory=self.installation.directory,
            stays=self._stays,
        )
        try:
            wait_for(
                self._answers,
                what=f"mysqld on port {self.port} to answer",
                seconds=_START_SECONDS,
                tolerate=(pymysql.err.OperationalError, OSError),
            )
        except BaseException:
            self.kill9()
            sys.stderr.write(processes.tail(self.log))
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"mysqld ended\n{processes.tail(self.log)}"
        return bool(self.value("SELECT 1"))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(pymysql.err.Error, OSError):
                connection.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Notes and warnings of replication statements (passwords over plain connections) are known."""
    yield


def _settings(server: MySQLServer) -> list[str]:
    directory = server.directory
    lines = [
        *common_settings(server.installation, directory, server.data_dir),
        f"port={server.port}",
        "bind_address=127.0.0.1",
        f"server_id={server.server_id}",
        f"log_bin={server.binlog_dir}/mysql-bin",
        f"relay_log={directory}/relay-bin",
        "binlog_format=ROW",
        "binlog_checksum=CRC32",
        "sync_binlog=0",
        # 2 and not 0: after a kill of the process the tables must have what the binlog has.
        "innodb_flush_log_at_trx_commit=2",
        "max_allowed_packet=128M",
        "relay_log_recovery=ON",
    ]
    if server.is_old:
        lines += [
            "log_slave_updates=ON",
            "slave_net_timeout=10",
            "slave_max_allowed_packet=1G",
            "skip_slave_start=ON",
            "master_info_repository=TABLE",
            "relay_log_info_repository=TABLE",
            "character_set_server=utf8mb4",
        ]
    else:
        lines += ["replica_net_timeout=10", "skip_replica_start=ON", "replica_parallel_workers=1"]
    switch = "ON" if server._gtid else "OFF"
    lines += [f"gtid_mode={switch}", f"enforce_gtid_consistency={switch}"]
    return [*lines, *server._extra]


def common_settings(installation: Installation, directory: Path, data: Path) -> list[str]:
    lines = [
        *installation.settings,
        f"datadir={data}",
        f"tmpdir={directory}/tmp",
        f"pid_file={directory}/mysqld.pid",
        # Relative to the data directory: a socket's path may not pass 107 bytes.
        "socket=mysqld.sock",
        "innodb_buffer_pool_size=64M",
        "performance_schema=OFF",
        "max_connections=64",
        "table_open_cache=200",
    ]
    if os.geteuid() == 0:
        lines.append("user=root")
    if installation.name == installations.MARIADB:
        lines += ["innodb_log_file_size=224M", "innodb_use_native_aio=OFF", "ssl=0"]
    elif installation.version >= (8,):
        lines += ["mysqlx=OFF", "secure_file_priv=NULL", "innodb_redo_log_capacity=64M"]
        lines += ["innodb_use_native_aio=OFF"]
    else:
        # One row may fill a tenth of the redo log: 40 MiB needs this much (else error 1118).
        lines += ["innodb_log_file_size=224M", "innodb_use_native_aio=OFF", "ssl=0"]
    return lines


def _copy_template(installation: Installation, target: Path) -> None:
    """Copy a fresh data directory with the tests' users in it, made once per version."""
    number = ".".join(str(part) for part in installation.version)
    # The number after the version goes up when the template is built differently.
    template = installations.cache_directory() / f"data-{number}-4"
    template.parent.mkdir(parents=True, exist_ok=True)
    with template.with_name(template.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            _build_template(installation, template)
    # Most of the redo log is empty: as holes it costs neither time nor disk.
    copy = ["cp", "--archive", "--sparse=always", "--reflink=auto", str(template), str(target)]
    subprocess.run(copy, check=True)


def _build_template(installation: Installation, template: Path) -> None:
    work = template.with_name(template.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    (work / "tmp").mkdir(parents=True)
    data = work / "data"
    port = processes.free_port()
    settings = [
        *common_settings(installation, work, data),
        f"port={port}",
        "bind_address=127.0.0.1",
    ]
    if installation.scripts:
        # The package's own data directory has InnoDB tables without their dictionary, which a
        # crash recovery refuses: the system tables are made anew, as mysql_install_db would.
        (data / "mysql").mkdir(parents=True)
        (data / "test").mkdir()
        script = work / "system.sql"
        parts = [each.read_bytes() for each in installation.scripts]
        script.write_bytes(b"\n".join([b"USE mysql;", *parts]))
        _run_once(installation, work, settings, ["--bootstrap"], script=script)
        old_user = "IDENTIFIED BY"
        users = "global_priv" if installation.name == installations.MARIADB else "user"
        statements = [f"DELETE FROM mysql.{users} WHERE user = ''", "FLUSH PRIVILEGES"]
    else:
        settings.append("disable_log_bin")
        old_user = "IDENTIFIED WITH caching_sha2_password BY"
        statements = []
        _run_once(installation, work, settings, ["--initialize-insecure"])
    statements += [
        f"CREATE USER '{ADMIN_USER}'@'%' {old_user} '{ADMIN_PASSWORD}'",
        f"GRANT ALL PRIVILEGES ON *.* TO '{ADMIN_USER}'@'%' WITH GRANT OPTION",
        f"CREATE USER '{REPLICATION_USER}'@'%' {old_user} '{REPLICATION_PASSWORD}'",
        f"GRANT REPLICATION SLAVE ON *.* TO '{REPLICATION_USER}'@'%'",
        "FLUSH PRIVILEGES",
    ]
    script = work / "users.sql"
    script.write_text(";\n".join(statements) + ";\n")
    config = work / "my.cnf"
    config.write_text("\n".join(["[mysqld]", *settings, "server_id=1", f"init_file={script}"]))
    log = work / "mysqld.log"
    process = processes.start(
        [*installation.mysqld, f"--defaults-file={config}"],
        log=log,
        environment=installation.environment,
        directory=installation.directory,
    )
    try:
        wait_for(
            lambda: _users_are_there(port, process, log),
            what="mysqld to make the users of the template",
            seconds=_START_SECONDS,
            tolerate=(pymysql.err.OperationalError, OSError),
        )
    finally:
        status = processes.stop(process)
    assert status == 0, f"mysqld ended with {status}\n{processes.tail(log)}"
    # Each server invents its own uuid.
    (data / "auto.cnf").unlink(missing_ok=True)
    data.rename(template)
    shutil.rmtree(work)


def _users_are_there(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, f"mysqld ended\n{processes.tail(log)}"
    pymysql.connect(
        host="127.0.0.1",
        port=port,
        user=REPLICATION_USER,
        password=REPLICATION_PASSWORD,
        ssl_disabled=True,
    ).close()
    return True


def _run_once(
    installation: Installation,
    work: Path,
    settings: Sequence[str],
    options: Sequence[str],
    *,
    script: Path | None = None,
) -> None:
    config = work / "initialize.cnf"
    config.write_text("\n".join(["[mysqld]", *settings]) + "\n")
    log = work / "initialize.log"
    process = processes.start(
        [*installation.mysqld, f"--defaults-file={config}", *options],
        log=log,
        environment=installation.environment,
        directory=installation.directory,
        script=script,
    )
    assert process.wait(_START_SECONDS) == 0, f"initializing failed\n{processes.tail(log)}"


def mysqlbinlog(
    *options: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    user: str = REPLICATION_USER,
    password: str = REPLICATION_PASSWORD,
    seconds: float = 120.0,
    check: bool = True,
) -> "subprocess.CompletedProcess[bytes]":
    """Run MySQL's own `mysqlbinlog`; with a port it reads from that server."""
    command = [*installations.tool("mysqlbinlog")]
    if port is not None:
        command += [
            "--read-from-remote-server",
            f"--host={host}",
            f"--port={port}",
            f"--user={user}",
            f"--password={password}",
            "--ssl-mode=DISABLED",
            "--get-server-public-key",
        ]
    answer = subprocess.run([*command, *options], capture_output=True, timeout=seconds, check=False)
    if check and answer.returncode != 0:
        raise AssertionError(
            f"mysqlbinlog {' '.join(options)} on port {port} ended with {answer.returncode}:"
            f" {answer.stderr.decode(errors='replace')}"
        )
    return answer


def fetch_binlogs(
    names: Sequence[str],
    target: Path,
    *,
    port: int,
    user: str = REPLICATION_USER,
    password: str = REPLICATION_PASSWORD,
) -> list[Path]:
    """Read whole binary logs from a server with `mysqlbinlog --raw` into a directory."""
    target.mkdir(parents=True, exist_ok=True)
    mysqlbinlog(
        "--raw", f"--result-file={target}/", *names, port=port, user=user, password=password
    )
    return [target / name for name in names]


_IN_USE_BYTE = 4 + 17
"""Where the flags of the first event (FORMAT_DESCRIPTION) lie: after the magic, 17 bytes in."""


def assert_same_binlog(one: Path, other: Path, *, is_open: bool = False) -> None:
    """Two binary logs are equal byte for byte; an open one apart from its in-use flag."""
    first, second = bytearray(one.read_bytes()), bytearray(other.read_bytes())
    if is_open:
        for content in (first, second):
            content[_IN_USE_BYTE : _IN_USE_BYTE + 2] = b"\0\0"
    if first == second:
        return
    shorter = min(len(first), len(second))
    place = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    raise AssertionError(
        f"{one} ({len(first)} bytes) and {other} ({len(second)} bytes) differ at byte {place}:"
        f" {bytes(first[place : place + 24]).hex()} / {bytes(second[place : place + 24]).hex()}"
    )
