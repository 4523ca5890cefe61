"""A real MariaDB server for the tests: what it says otherwise than MySQL, as source and replica.

What its GTIDs are named and asked for, and how it is told to follow a source. How a server is
started, killed and copied is in `servers.py`.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql

from tests.support import installations
from tests.support.servers import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    MySQLServer,
    common_settings,
)


class MariaDBServer(MySQLServer):
    """One mariadbd process and its directory."""

    @property
    def is_old(self) -> bool:
        """It speaks of masters and slaves."""
        return True

    def server_uuid(self) -> str:
        """It has none."""
        raise NotImplementedError

    def gtid_executed(self) -> str:
        """The last GTID of each domain in its binary log."""
        return str(self.value("SELECT @@global.gtid_binlog_pos"))

    def has_executed(self, gtids: str) -> bool:
        """Whether it stands, as a replica, at this position or further."""
        wanted, has = _ends(gtids), _ends(str(self.value("SELECT @@global.gtid_current_pos")))
        return all(has.get(domain, 0) >= number for domain, number in wanted.items())

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
        """Point this server at a source; by GTID it says what it has as `slave_pos`."""
        assert not compression, "it is a setting of the whole server: slave_compressed_protocol"
        options = {
            "HOST": repr(host),
            "PORT": str(port),
            "USER": repr(user),
            "PASSWORD": repr(password),
            "CONNECT_RETRY": "1",
            "HEARTBEAT_PERIOD": str(heartbeat_seconds),
            "USE_GTID": "slave_pos" if auto_position else "no",
            "SSL": str(int(tls)),
            "SSL_VERIFY_SERVER_CERT": "0",
        }
        if file is not None:
            options |= {"LOG_FILE": repr(file), "LOG_POS": str(position or 4)}
        words = [f"MASTER_{name}={value}" for name, value in options.items()]
        self.execute(f"CHANGE MASTER TO {', '.join(words)}")

    def wait_for_position(self, source: MySQLServer, *, seconds: float = 60.0) -> None:
        """Wait until this replica has applied what the source has now; errors end the wait."""
        self.wait_for_gtids(source.gtid_executed(), seconds=seconds)

    def _settings(self) -> list[str]:
        directory = self.directory
        return [
            *common_settings(self.installation, directory, self.data_dir),
            f"port={self.port}",
            "bind_address=127.0.0.1",
            f"server_id={self.server_id}",
            f"log_bin={self.binlog_dir}/mysql-bin",
            f"relay_log={directory}/relay-bin",
            "binlog_format=ROW",
            "binlog_checksum=CRC32",
            "sync_binlog=0",
            "innodb_flush_log_at_trx_commit=2",
            "max_allowed_packet=128M",
            "slave_max_allowed_packet=1G",
            "log_slave_updates=ON",
            "gtid_strict_mode=ON",
            "slave_net_timeout=10",
            "skip_slave_start=ON",
            "character_set_server=utf8mb4",
            *self._extra,
        ]


def _ends(position: str) -> dict[int, int]:
    """The last number of each domain."""
    gtids = [gtid.split("-") for gtid in position.split(",") if gtid]
    return {int(domain): int(number) for domain, _, number in gtids}


def dump(
    port: int,
    *,
    statements: Sequence[str] = (),
    file: str = "",
    position: int = 4,
    flags: int = 3,
    user: str = REPLICATION_USER,
    password: str = REPLICATION_PASSWORD,
) -> list[bytes]:
    """The events of a dump by COM_BINLOG_DUMP to its end; statements come before it.

    The last one is `ERR number text` where the server ends with an error.
    """
    with pymysql.connect(
        host="127.0.0.1", port=port, user=user, password=password, ssl_disabled=True
    ) as connection:
        reader: Any = connection
        with connection.cursor() as cursor:
            cursor.execute("SET @master_binlog_checksum = @@global.binlog_checksum")
            for statement in statements:
                cursor.execute(statement)
        body = position.to_bytes(4, "little") + flags.to_bytes(2, "little")
        body += (4711).to_bytes(4, "little") + file.encode()
        reader._execute_command(0x12, body)
        events: list[bytes] = []
        while True:
            try:
                data = bytes(reader._read_packet().get_all_data())
            except pymysql.err.MySQLError as error:
                return [*events, f"ERR {error.args[0]} {error.args[1]}".encode()]
            if data[0] == 0xFE and len(data) < 9:
                return events
            events.append(data[1:])


def fetch_binlogs(
    names: Sequence[str],
    target: Path,
    *,
    port: int,
    user: str = REPLICATION_USER,
    password: str = REPLICATION_PASSWORD,
) -> list[Path]:
    """Read whole binary logs from a server with `mariadb-binlog --raw` into a directory."""
    target.mkdir(parents=True, exist_ok=True)
    mariadb_binlog(
        "--raw", f"--result-file={target}/", *names, port=port, user=user, password=password
    )
    return [target / name for name in names]


def mariadb_binlog(
    *options: str,
    port: int,
    user: str = REPLICATION_USER,
    password: str = REPLICATION_PASSWORD,
    seconds: float = 120.0,
) -> "subprocess.CompletedProcess[Any]":
    """Run MariaDB's own `mariadb-binlog` against a server."""
    command = [
        *installations.mariadb_tool("mariadb-binlog"),
        "--read-from-remote-server",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--user={user}",
        f"--password={password}",
    ]
    answer = subprocess.run([*command, *options], capture_output=True, timeout=seconds, check=False)
    assert answer.returncode == 0, (options, answer.returncode, answer.stderr.decode())
    return answer
