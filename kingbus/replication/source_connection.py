"""The connection to a source: connect, log in, ask what a replica asks, start the dump, read.

Owns the only use of PyMySQL's private parts (`_sock`, `_execute_command`, the TLS fields), which
is why PyMySQL is pinned to its minor version. Everything up to the dump command is PyMySQL's
blocking code in a worker thread; behind it the socket is non-blocking and read on the event loop.
Knows nothing of what the bytes of the dump mean. The questions and their order are those of a
MySQL 9.7 replica, towards MariaDB those of a MariaDB one.

A cancelled call shuts the socket down, which wakes the thread that waits on it.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from ssl import SSLContext
from typing import Any, Final, Protocol, TypeVar, cast

import pymysql
import trio
from pymysql.connections import Connection
from pymysql.constants import CLIENT

from kingbus.addresses import Address
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.mariadb_gtid import MARIADB, Position
from kingbus.mysql.compression import ZSTD_LEVEL_DEFAULT, Algorithm, codec
from kingbus.mysql.constants import Capability
from kingbus.mysql.errors import ProtocolError
from kingbus.pb.command_pb2 import TlsOptions
from kingbus.replication.compressed_socket import CompressedSocket
from kingbus.replication.source_facts import (
    COM_REGISTER_SLAVE,
    SourceFacts,
    SourceRefusedError,
    SourceUnfitError,
    SourceUnreachableError,
    flavor_of,
    mariadb_uuid,
    owned_set,
    register_command,
)
from kingbus.replication.system_variables import SOURCE_VARIABLES
from kingbus.secrets import Secret

CONNECT_SECONDS_MAX: Final = 10.0
ANSWER_SECONDS_MAX: Final = 10.0
"""For each step of the login and each question; a busy source answers in milliseconds."""

HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS_MAX: Final = 30.0
"""Six heartbeats missed: the source or the way to it is gone."""

VARIABLE_CHARS_MAX: Final = 1024
"""None of those that are asked for comes near; all of them are in every stored relay state."""

_TROUBLE: Final = frozenset((1040, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1226))
"""Server errors that pass by themselves: full, stopping, or the network."""

CR_COMPRESSION_WRONGLY_CONFIGURED: Final = 2066
SSL_REQUEST_BYTES: Final = 32

_CLIENT_REFUSALS: Final = frozenset((2026, 2059, 2061, CR_COMPRESSION_WRONGLY_CONFIGURED))
"""Client errors (2000 to 2999) that do not pass: no TLS there, an unknown login plugin, no
compression of that kind."""

_MARIADB_CAPABILITY: Final = 4
"""MariaDB then sends its own events as they are in its files."""
_MARIADB_PREFIX: Final = "5.5.5-"
"""Before the version in greetings of MariaDB 10, for replicas that know no two digits."""

_T = TypeVar("_T")


class _Parts(Protocol):
    """What is used of PyMySQL's Connection beyond its public interface."""

    _sock: socket.socket | CompressedSocket | None
    _rfile: Any
    server_capabilities: int
    _ssl_required: bool
    server_version: str
    client_flag: int
    ssl: bool
    ctx: SSLContext

    def connect(self, sock: socket.socket) -> None: ...
    def _execute_command(self, command: int, sql: bytes) -> None: ...
    def _read_ok_packet(self) -> object: ...
    def _force_close(self) -> None: ...


class _CompressedConnection(Connection):
    """PyMySQL's connection, which knows no compression, with the compressed protocol behind the
    login.
    """

    def __init__(self, algorithm: Algorithm, **options: Any) -> None:
        super().__init__(**options)
        self._algorithm = algorithm
        self._adds_level = False
        flag = Capability.ZSTD_COMPRESSION_ALGORITHM
        self._capability = Capability.COMPRESS if algorithm is Algorithm.ZLIB else flag

    def _request_authentication(self) -> None:
        parts = cast("_Parts", self)
        if not parts.server_capabilities & self._capability:
            raise pymysql.err.OperationalError(
                CR_COMPRESSION_WRONGLY_CONFIGURED,
                f"the source does not offer {self._algorithm.value} compression",
            )
        parts.client_flag |= self._capability
        self._adds_level = self._algorithm is Algorithm.ZSTD
        super()._request_authentication()  # type: ignore[misc]
        assert isinstance(parts._sock, socket.socket)  # noqa: SLF001
        compressed = CompressedSocket(parts._sock, codec(self._algorithm))  # noqa: SLF001
        parts._rfile.close()  # noqa: SLF001
        parts._sock, parts._rfile = compressed, _File(compressed)  # noqa: SLF001

    def write_packet(self, payload: bytes) -> None:
        """The handshake's answer with zstd has the level as its last byte."""
        if self._adds_level and len(payload) != SSL_REQUEST_BYTES:
            self._adds_level = False
            payload += bytes((ZSTD_LEVEL_DEFAULT,))
        super().write_packet(payload)


class _File:
    """What PyMySQL reads from, in place of a file object over its socket."""

    def __init__(self, compressed: CompressedSocket) -> None:
        self._compressed = compressed

    def read(self, count: int) -> bytes:
        return self._compressed.read(count)

    def close(self) -> None:
        """The socket is closed by itself."""


class SourceConnection:
    """One connection to a source; made by `open`."""

    def __init__(self, connection: "Connection[Any]", address: str) -> None:
        self._connection = connection
        self._parts = cast("_Parts", connection)
        self._socket: socket.socket | CompressedSocket | None = None
        self.address = address

    @classmethod
    async def open(
        cls, address: str, *, user: str, password: Secret, tls: TlsOptions, compression: str = ""
    ) -> "SourceConnection":
        """Connects and logs in; `compression` is empty, or zlib or zstd, and then it must be there.

        Raises SourceUnreachableError, SourceRefusedError (with the source's own text) and
        SourceUnfitError (TLS files).
        """
        try:
            target = Address.parse(address)
        except ValueError as error:
            raise SourceUnfitError(f"source address {address!r} {error}") from None
        options: dict[str, Any] = {
            "host": target.host,
            "port": target.port,
            "user": user,
            # Bytes: PyMySQL would encode text in latin-1, and MySQL's are UTF-8.
            "password": password.reveal().encode(),
            "charset": "utf8mb4",
            "autocommit": None,
            "connect_timeout": int(CONNECT_SECONDS_MAX),
            "read_timeout": ANSWER_SECONDS_MAX,
            "write_timeout": ANSWER_SECONDS_MAX,
            "program_name": "kingbus",
            "ssl_disabled": True,  # unless we say how
            "defer_connect": True,
        }
        connection: Connection[Any] = (
            _CompressedConnection(Algorithm(compression), **options)
            if compression
            else Connection(**options)
        )
        self = cls(connection, address)
        if tls.mode != "disabled":
            # It reads files; those of the system's authorities take a tenth of a second.
            await trio.to_thread.run_sync(_set_tls, self._parts, tls)
        opened = await _connect(target)
        try:
            await _in_thread(opened, lambda: _mapped(address, lambda: self._parts.connect(opened)))
        except BaseException:
            opened.close()
            raise
        return self

    # -- asking -----------------------------------------------------------------------------

    async def ask(self, *, replica_uuid: str, heartbeat_seconds: float) -> SourceFacts:
        """Asks and tells what a replica asks and tells before it registers.

        Raises SourceUnreachableError, SourceRefusedError.
        """
        return await self._run(
            lambda: self._ask(replica_uuid=replica_uuid, heartbeat_seconds=heartbeat_seconds)
        )

    async def gtid_sets(self) -> tuple[GtidSet, GtidSet, GtidSet]:
        """The source's gtid_executed, gtid_purged and gtid_owned, now."""
        return await self._run(self._gtid_sets)

    async def newest_file(self) -> str:
        """The name of the file that the source is writing. Needs REPLICATION CLIENT there."""
        return await self._run(self._newest_file)

    def _newest_file(self) -> str:
        try:
            return self._value("SHOW BINARY LOG STATUS")
        except pymysql.err.ProgrammingError:  # before 8.2 it has another name
            return self._value("SHOW MASTER STATUS")

    async def request_semi_sync(self) -> str:
        """Asks for semi-sync; the name by which the source has it, "" when it does not have it.

        A source that has it sends its two bytes from then on, whether it is switched on or not.
        """
        return await self._run(self._request_semi_sync)

    def _request_semi_sync(self) -> str:
        # New and old plugins at a source differ in both names; it looks only at its own.
        for name in ("source", "master"):
            if self._value(f"SELECT @@GLOBAL.RPL_SEMI_SYNC_{name.upper()}_ENABLED", unknown=""):
                self._query("SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1")
                return name
        return ""

    async def register(self, *, server_id: int, port: int) -> None:
        """COM_REGISTER_SLAVE; it also shows whether the user may replicate."""
        body = register_command(server_id=server_id, host=socket.gethostname(), port=port)

        def register() -> None:
            self._parts._execute_command(COM_REGISTER_SLAVE, body)  # noqa: SLF001
            self._parts._read_ok_packet()  # noqa: SLF001

        await self._run(register)

    async def go_on_from(self, position: str) -> None:
        """Tells MariaDB what the relay has, so that the dump begins behind it."""

        def tell() -> None:
            self._query(f"SET @slave_connect_state = '{position}'")
            self._query("SET @slave_gtid_strict_mode = 1")
            self._query("SET @slave_gtid_ignore_duplicates = 0")

        await self._run(tell)

    @property
    def _flavor(self) -> str:
        return flavor_of(self._parts.server_version)

    def _ask(self, *, replica_uuid: str, heartbeat_seconds: float) -> SourceFacts:
        period = int(heartbeat_seconds * 1_000_000_000)
        clock = int(self._value("SELECT UNIX_TIMESTAMP()"))
        server_id = int(self._value("SELECT @@GLOBAL.SERVER_ID"))
        # Older servers know the first name of each pair; user variables may have any.
        self._query(f"SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}")
        self._query(
            "SET @master_binlog_checksum = @@global.binlog_checksum, "
            "@source_binlog_checksum = @@global.binlog_checksum"
        )
        checksum = self._value("SELECT @source_binlog_checksum")
        if self._flavor == MARIADB:
            return self._ask_mariadb(clock=clock, server_id=server_id, checksum=checksum)
        gtid_mode = self._value("SELECT @@GLOBAL.GTID_MODE", unknown="OFF")
        server_uuid = self._value("SELECT @@GLOBAL.SERVER_UUID", unknown="")
        self._query(f"SET @slave_uuid = '{replica_uuid}', @replica_uuid = '{replica_uuid}'")
        has_binlog = self._value("SELECT @@GLOBAL.LOG_BIN") in {"1", "ON"}
        binlog_size = self._value("SELECT @@GLOBAL.MAX_BINLOG_SIZE", unknown="0")
        read_only = self._value("SELECT @@GLOBAL.READ_ONLY", unknown="0")
        executed, purged, owned = GtidSet(), GtidSet(), GtidSet()
        if gtid_mode.upper() == "ON":
            executed, purged, owned = self._gtid_sets()
        return SourceFacts(
            address=self.address,
            version=self._parts.server_version,
            server_id=server_id,
            server_uuid=server_uuid,
            gtid_mode=gtid_mode,
            has_binlog=has_binlog,
            gtid_executed=executed,
            gtid_purged=purged,
            gtid_owned=owned,
            checksum=checksum.upper(),
            clock=clock,
            max_binlog_size=int(binlog_size) if binlog_size.isdigit() else 0,
            read_only=read_only in {"1", "ON"},
            variables=self._variables(),
        )

    def _variables(self) -> dict[str, str]:
        names = ", ".join(f"'{name}'" for name in SOURCE_VARIABLES)
        rows = self._query(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")
        return {str(name).lower(): str(value)[:VARIABLE_CHARS_MAX] for name, value in rows}

    def _ask_mariadb(self, *, clock: int, server_id: int, checksum: str) -> SourceFacts:
        self._query(f"SET @mariadb_slave_capability = {_MARIADB_CAPABILITY}")
        has_binlog = self._value("SELECT @@GLOBAL.LOG_BIN") in {"1", "ON"}
        binlog_size = self._value("SELECT @@GLOBAL.MAX_BINLOG_SIZE", unknown="0")
        read_only = self._value("SELECT @@GLOBAL.READ_ONLY", unknown="0")
        executed, purged = GtidSet(), GtidSet()
        if has_binlog:
            executed, purged, _ = self._gtid_sets()
        return SourceFacts(
            address=self.address,
            version=self._parts.server_version.removeprefix(_MARIADB_PREFIX),
            server_id=server_id,
            server_uuid=mariadb_uuid(server_id),
            gtid_mode="ON",  # it always writes GTIDs
            has_binlog=has_binlog,
            gtid_executed=executed,
            gtid_purged=purged,
            checksum=checksum.upper(),
            clock=clock,
            max_binlog_size=int(binlog_size) if binlog_size.isdigit() else 0,
            read_only=read_only in {"1", "ON"},
            variables=self._variables(),
        )

    def _gtid_sets(self) -> tuple[GtidSet, GtidSet, GtidSet]:
        if self._flavor == MARIADB:
            # Its oldest file begins behind what is purged; asked first, as it only grows.
            oldest = self._query("SELECT BINLOG_GTID_POS('', 4)")[0][0] or b""
            text = oldest.decode() if isinstance(oldest, bytes) else str(oldest)
            state = GtidSet.parse(self._value("SELECT @@GLOBAL.GTID_BINLOG_STATE"))
            return state, GtidSet.parse(str(Position.parse(text))), GtidSet()
        # Before gtid_executed: what has left the one by then is in the other.
        owned = owned_set(self._value("SELECT @@GLOBAL.GTID_OWNED", unknown=""))
        purged = GtidSet.parse(self._value("SELECT @@GLOBAL.GTID_PURGED"))
        return GtidSet.parse(self._value("SELECT @@GLOBAL.GTID_EXECUTED")), purged, owned

    def _query(self, statement: str) -> tuple[tuple[Any, ...], ...]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return tuple(cursor.fetchall())

    def _value(self, statement: str, *, unknown: str | None = None) -> str:
        """The only value of a statement as text; `unknown` where there is no such variable."""
        try:
            rows = self._query(statement)
        except pymysql.err.MySQLError as error:
            if unknown is not None and error.args[:1] == (1193,):
                return unknown
            raise
        value = rows[0][0] if rows and rows[0] else None
        if value is None:
            raise SourceRefusedError(f"{self.address}: no answer to {statement}")
        return value.decode() if isinstance(value, bytes) else str(value)

    # -- the dump ---------------------------------------------------------------------------

    async def start_dump(self, command: int, body: bytes) -> None:
        """Sends a dump command; from here on only `read_now` and `wait_readable` are of use."""

        def send() -> None:
            self._parts._execute_command(command, body)  # noqa: SLF001

        await self._run(send)
        opened = self._parts._sock  # noqa: SLF001
        assert opened is not None, "the command was sent"
        opened.setblocking(False)
        self._socket = opened

    def read_now(self, room: memoryview) -> int | None:
        """Bytes read into `room`: None when there is nothing now, 0 when the source closed.

        A TLS connection gives at most one record, 16 KiB. Raises SourceUnreachableError.
        """
        assert self._socket is not None, "the dump was started"
        try:
            return self._socket.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0
        except OSError as error:
            raise SourceUnreachableError(f"{self.address}: connection lost ({error})") from error
        except ProtocolError as error:
            raise SourceUnreachableError(f"{self.address}: {error.message}") from error

    async def wait_readable(self) -> None:
        """Until there is something to read.

        Raises SourceUnreachableError when the source was silent for too long.
        """
        assert self._socket is not None, "the dump was started"
        with trio.move_on_after(SILENCE_SECONDS_MAX):
            await trio.lowlevel.wait_readable(self._socket)
            return
        raise SourceUnreachableError(
            f"{self.address}: nothing came for {SILENCE_SECONDS_MAX:.0f} s, not even a heartbeat"
        )

    async def send(self, data: bytes) -> None:
        """Sends to the source in the middle of a dump; one caller at a time.

        A cancellation may leave the rest unsent: the connection is of no use then. Raises
        SourceUnreachableError.
        """
        assert self._socket is not None, "the dump was started"
        assert not isinstance(self._socket, CompressedSocket), "see unfit_config"
        rest = memoryview(data)
        with trio.move_on_after(SILENCE_SECONDS_MAX):
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except (BlockingIOError, ssl.SSLWantWriteError):
                    await trio.lowlevel.wait_writable(self._socket)
                except OSError as error:
                    raise SourceUnreachableError(
                        f"{self.address}: connection lost ({error})"
                    ) from error
            await trio.lowlevel.checkpoint()
            return
        raise SourceUnreachableError(
            f"{self.address}: took nothing for {SILENCE_SECONDS_MAX:.0f} s"
        )

    def close(self) -> None:
        """Says goodbye, but not behind a dump: as a real replica does."""
        if self._socket is not None:
            self._parts._force_close()  # noqa: SLF001
        else:
            with contextlib.suppress(pymysql.err.MySQLError):
                self._connection.close()

    async def _run(self, call: Callable[[], _T]) -> _T:
        opened = self._parts._sock  # noqa: SLF001
        if opened is None:
            raise SourceUnreachableError(f"{self.address}: connection lost")
        return await _in_thread(opened, lambda: _mapped(self.address, call))


def _set_tls(parts: _Parts, tls: TlsOptions) -> None:
    """PyMySQL's own options cannot say `preferred` and give a certificate at once."""
    mode = tls.mode or "preferred"
    try:
        # Not the default context: MySQL's own certificates lack what its strict check asks for.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = mode == "verify-identity"
        verifies = mode in {"verify-ca", "verify-identity"}
        context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
        if tls.ca:
            context.load_verify_locations(tls.ca)
        elif verifies:
            context.load_default_certs()
        if tls.cert:
            context.load_cert_chain(tls.cert, keyfile=tls.key or None)
    except (OSError, ValueError) as error:
        files = ", ".join(path for path in (tls.ca, tls.cert, tls.key) if path)
        raise SourceUnfitError(f"TLS towards the source ({files or mode}): {error}") from error
    parts.ctx = context
    parts.ssl = True
    parts._ssl_required = mode != "preferred"  # noqa: SLF001
    if parts._ssl_required:  # noqa: SLF001
        parts.client_flag |= CLIENT.SSL


async def _connect(target: Address) -> socket.socket:
    """A connected, blocking socket; raises SourceUnreachableError."""
    try:
        with trio.fail_after(CONNECT_SECONDS_MAX):
            stream = await trio.open_tcp_stream(target.host, target.port)
    except trio.TooSlowError:
        raise SourceUnreachableError(
            f"{target}: no connection within {CONNECT_SECONDS_MAX:.0f} s"
        ) from None
    except OSError as error:
        raise SourceUnreachableError(f"{target}: {_reason(error)}") from error
    opened = socket.socket(fileno=stream.socket.detach())
    opened.settimeout(ANSWER_SECONDS_MAX)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return opened


def _reason(error: OSError) -> str:
    """What the system says; the loop wraps the errors of the addresses that a name has."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError):
        return _reason(cause)
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


async def _in_thread(opened: socket.socket | CompressedSocket, call: Callable[[], _T]) -> _T:
    """Runs a blocking call on a socket; a cancellation shuts the socket down and waits for it."""

    async def wake_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not is_done:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    is_done = False
    outcome: list[_T] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery
            failure.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake_when_cancelled)
        await trio.to_thread.run_sync(run)
        is_done = True
        nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]
    return outcome[0]


def _mapped(address: str, call: Callable[[], _T]) -> _T:
    """Errors of PyMySQL as ours; whatever a peer that is no MySQL server provokes, too."""
    try:
        return call()
    except pymysql.err.MySQLError as error:
        raise _error_of(address, error) from error
    except OSError as error:
        raise SourceUnreachableError(f"{address}: {_reason(error)}") from error
    except ProtocolError as error:
        raise SourceUnreachableError(f"{address}: {error.message}") from error
    except (SourceRefusedError, SourceUnreachableError):
        raise
    except (ValueError, LookupError, AssertionError, TypeError, RuntimeError) as error:
        raise SourceUnreachableError(
            f"{address} does not answer as a MySQL server does ({error})"
        ) from error


def _error_of(address: str, error: pymysql.err.MySQLError) -> Exception:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    is_trouble = code in _TROUBLE or 2000 <= code < 3000 or code == 0
    if is_trouble and code not in _CLIENT_REFUSALS:
        return SourceUnreachableError(f"{address}: {text}")
    return SourceRefusedError(f"{address}: {text} (error {code})")
