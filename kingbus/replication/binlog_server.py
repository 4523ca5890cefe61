"""The replica-facing listener: accepts MySQL clients, lets them in, answers them, dumps to them.

Owns: the listening socket, one task for each connection, deadlines and limits, and how an error
ends a connection. The protocol is `mysql.ServerConnection`, the statements are `queries`, what a
dump sends is `dump.run_dump`; this module only moves bytes between them. Knows nothing of Raft or
storage. A connection's errors end that connection only. Follows the manual's "Connection
Interfaces" and what a source was seen to do at each end of a stream.

The tasks::

    run
     |- listen                one, between start and stop
     |- client                one for each connection, until it is closed
         |- drain             during a dump: notices that the client is gone
"""

import errno
import secrets
import ssl
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Protocol

import trio

from kingbus import metrics
from kingbus.addresses import Address
from kingbus.binlog.gtid import GtidSet, GtidsHad, MalformedGtidSetError
from kingbus.binlog.header import FIRST_POSITION
from kingbus.binlog.mariadb_gtid import MARIADB, Position
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.mysql import auth
from kingbus.mysql.commands import (
    BinlogDump,
    BinlogDumpGtid,
    CloseStatement,
    Execute,
    InitDb,
    Ping,
    Prepare,
    Query,
    Quit,
    RegisterReplica,
    ResetConnection,
    ResetStatement,
    SetOption,
    Statistics,
    UnknownCommand,
)
from kingbus.mysql.constants import (
    CACHING_SHA2_PASSWORD,
    MARIADB_SEND_ANNOTATE_ROWS,
    MYSQL_NATIVE_PASSWORD,
    SALT_SIZE,
    DumpFlag,
)
from kingbus.mysql.errors import (
    MySQLError,
    ProtocolError,
    access_denied,
    gtid_mode_not_on,
    internal_error,
    malformed_gtid_encoding,
    mariadb_replaced,
    next_log_not_found,
    replaced_by_same_replica,
    server_shutdown,
    too_many_connections,
    unknown_command,
)
from kingbus.mysql.server import (
    NEED_DATA,
    CheckPassword,
    Event,
    LoginAccepted,
    LoginRefused,
    LoginRequest,
    Send,
    ServerConnection,
    TlsRequested,
    Wait,
)
from kingbus.replication.compressed_stream import CompressedStream
from kingbus.replication.connections import (
    QUERY,
    SLEEP,
    Connection,
    ConnectionRegistry,
    ReplicaFacts,
    RunningDump,
)
from kingbus.replication.dump_session import (
    DumpProgress,
    DumpRefusedError,
    DumpRequest,
    parse_position,
)
from kingbus.replication.prepared import PreparedStatements
from kingbus.replication.queries import ServerFacts, Session, answer
from kingbus.replication.streams import SendingSink, Stream, accept_tls
from kingbus.replication.users import REPLICATION, FailedLogins, ServerUser, Users

THREAD_ID_BITS = 26
"""Each channel's thread ids begin that far from the next one's: a connection keeps its id when it
is handed over. Should two meet nevertheless the login is refused; the next one has another id."""

CONNECTIONS_MAX = 1024
"""Far above the replicas of one source; bounds tasks and buffers, about 100 KiB each."""

LOGINS_MAX = 128
"""At most so many connections that have not logged in: strangers cannot take every place."""

LOGIN_SECONDS_MAX = 10.0
"""MySQL's connect_timeout."""

IDLE_SECONDS_MAX = 28800.0
"""MySQL's wait_timeout: a connection that says nothing for so long is closed."""

ANSWER_SECONDS_MAX = 60.0
"""MySQL's net_write_timeout, for answers; dumps have a longer one, see `streams`."""

FAREWELL_SECONDS_MAX = 1.0
"""How long the last packet to a connection may take when it is being ended."""

PASSWORD_CHECKS_MAX = 2
"""Each takes 16 MiB and 50 ms of a core; more at once would only take memory."""

RECEIVE_BYTES = 64 * 1024

_log = get_logger("binlog_server")


class AddressInUseError(KingbusError):
    """The address to listen on is taken."""


class ListenError(KingbusError):
    """The address cannot be listened on for another reason."""


class Dumper(Protocol):
    """Sends what a dump request asks for, until its end, an error, or cancellation.

    Raises DumpRefusedError to end the stream with an ERR packet. `sink` gets whole packets,
    numbered from 1; `progress.next_sequence` is always the number of the next one.
    """

    async def __call__(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None: ...


class BinlogServer:
    """The listener of one node. `run` it in a nursery; then `start` and `stop` as often as wanted.

    `facts` is what statements are answered from, `dumper` performs dumps, `ssl_context` is set
    where TLS is offered, and `require_tls` where nobody is let in without. `rsa_key` is made once
    per process.
    """

    def __init__(
        self,
        *,
        facts: ServerFacts,
        dumper: Dumper,
        rsa_key: auth.RsaKey,
        ssl_context: ssl.SSLContext | None = None,
        require_tls: bool = False,
        clock: Callable[[], float] = time.time,
        connections_max: int = CONNECTIONS_MAX,
        logins_max: int = LOGINS_MAX,
        channel: int = 0,
    ) -> None:
        """`channel` is the number of the one that `facts` and `dumper` are of."""
        self.channel = channel
        self.server_of: Callable[[int], BinlogServer | None] = lambda _number: None
        """Set where users of other channels may come: who serves a channel of that number."""
        self._handed_over: set[Connection] = set()
        self.facts = facts
        self.dumper = dumper
        self.rsa_key = rsa_key
        self.ssl_context = ssl_context
        self.require_tls = require_tls
        self.clock = clock
        self.connections_max = connections_max
        self.logins_max = logins_max
        self.users = Users()
        self.failed_logins = FailedLogins()
        self.connections = ConnectionRegistry(
            facts, clock=clock, first_thread_id=channel << THREAD_ID_BITS
        )
        self.semi_sync = metrics.SemiSyncMetrics(facts.channel_name)
        self.password_limiter = trio.CapacityLimiter(PASSWORD_CHECKS_MAX)
        self._nursery: trio.Nursery | None = None
        self._listening: trio.CancelScope | None = None
        self._address: Address | None = None
        self._changing = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks of the listener and of every connection until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._end_connections()
        finally:
            self._nursery = self._listening = self._address = None

    # Listening ---------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._listening is not None

    @property
    def address(self) -> Address | None:
        """Where it listens, with the real port."""
        return self._address

    async def start(self, address: Address) -> Address:
        """Listen there, and no longer where it listened before; open connections stay.

        Returns the address with the real port. Raises AddressInUseError and ListenError, and then
        nothing has changed.
        """
        async with self._changing:
            if self._nursery is None:  # a channel that was just added, or begins again
                raise ListenError(f"{address} is not listened on yet", hint="repeating is safe")
            if self._address is not None and address == self._address:
                return self._address
            listeners = await _open_listeners(address)
            if self._listening is not None:
                self._listening.cancel()
            self._listening = await self._nursery.start(self._listen, listeners)
            port = listeners[0].socket.getsockname()[1]
            self._address = Address(host=address.host, port=port)
            _log.info("listening for replicas", address=str(self._address))
            return self._address

    async def stop(self) -> None:
        """Stop listening and end every connection; returns when they are closed."""
        async with self._changing:
            if self._listening is not None:
                self._listening.cancel()
                self._listening = self._address = None
                _log.info("no longer listening for replicas")
            self._end_connections()
            with trio.move_on_after(2 * FAREWELL_SECONDS_MAX):
                await self.connections.wait_empty()

    async def _listen(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[trio.CancelScope],
    ) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await trio.serve_listeners(self._serve, listeners, handler_nursery=self._nursery)

    def _end_connections(self) -> None:
        for connection in (*self.connections, *self._handed_over):
            connection.stopping = True
            connection.scope.cancel()

    # What the node sets and shows ----------------------------------------------------------------

    def set_users(self, users: Collection[ServerUser]) -> None:
        """The users from now on; connections that are logged in stay."""
        self.users.replace(users)

    def note_handed_over(self, connection: Connection) -> None:
        """It came by this listener, and another server has it now; it ends with either."""
        self._handed_over.add(connection)

    def end_overtaken(self, is_held: Callable[[str], bool]) -> None:
        """End dumps that are stuck in files that are not held; see `ConnectionRegistry`."""
        self.connections.end_overtaken(is_held)

    def reading(self) -> Iterator[tuple[str, str]]:
        """Replica uuid and file of everybody that is being dumped to."""
        return self.connections.reading()

    def replicas(self) -> Collection[ReplicaFacts]:
        """Everybody that is being dumped to."""
        return self.connections.replicas()

    # Connections ---------------------------------------------------------------------------------

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection from accept to close; nothing gets out of here but cancellation."""
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:  # gone before we looked
            await trio.aclose_forcefully(stream)
            return
        stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE, 1)
        connection = self.connections.add(str(host).removeprefix("::ffff:"), port)
        metrics.SERVER_CONNECTIONS.inc()
        client = _Client(self, connection, stream)
        try:
            await client.run()
        except Exception:  # noqa: BLE001 - one connection's failure is not another's
            _log.exception("a connection failed", thread_id=connection.thread_id)
        finally:
            client.server.connections.remove(connection)
            self._handed_over.discard(connection)
            metrics.SERVER_CONNECTIONS.dec()
            await trio.aclose_forcefully(stream)


async def _open_listeners(address: Address) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(
            address.port, host=None if address.host == "*" else address.host
        )
    except OSError as error:
        message = f"listen on {address}: {(error.strerror or str(error)).lower()}"
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(f"listen on {address}: address already in use") from error
        raise ListenError(message) from error


class _ClientGoneError(Exception):
    """The client closed, or takes nothing any more: there is nobody to tell."""


class _Client:
    """Drives one connection."""

    def __init__(
        self, server: BinlogServer, connection: Connection, stream: trio.SocketStream
    ) -> None:
        self._server = server
        self._connection = connection
        self._stream: Stream = stream
        self._compressed: CompressedStream | None = None
        self._prepared = PreparedStatements()
        self._protocol = ServerConnection(
            server_version=greeted_version(server.facts.version),
            thread_id=connection.thread_id,
            salt=auth.make_salt(secrets.token_bytes(SALT_SIZE)),
            rsa_key=server.rsa_key,
            offer_tls=server.ssl_context is not None,
            require_tls=server.require_tls,
            auth_plugin=greeted_plugin(server.facts.flavor),
        )

    @property
    def server(self) -> BinlogServer:
        """Whose it is by now."""
        return self._server

    def _hand_over(self, user: str) -> bool:
        """To the channel that the user is bound to; False where it is not served."""
        server, connection = self._server, self._connection
        bound = server.users.channel(user)
        if not bound or bound == server.channel:
            return True
        other = server.server_of(bound)
        if other is None or not other.connections.take(connection):
            return False
        server.connections.remove(connection)
        server.note_handed_over(connection)
        self._server = other
        return True

    async def run(self) -> None:
        """The whole life of the connection; the caller closes the socket."""
        try:
            with self._connection.scope:
                await self._live()
            if self._connection.stopping and self._connection.command == SLEEP:
                # Idle, so nothing is half sent: it is told. A dump just ends.
                await self._farewell(server_shutdown())
        except (_ClientGoneError, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _live(self) -> None:
        try:
            if await self._admit() and await self._login():
                await self._commands()
        except ProtocolError as error:
            _log.info(
                "a client does not speak the protocol",
                host=self._connection.host,
                error=error.message,
            )
            if self._compressed is not None:
                self._compressed.answer_follows()
            await self._farewell(error)

    # Moving bytes --------------------------------------------------------------------------------

    async def _send(self, data: bytes) -> None:
        with trio.move_on_after(ANSWER_SECONDS_MAX) as deadline:
            await self._stream.send_all(data)
        if deadline.cancelled_caught:
            raise _ClientGoneError

    async def _farewell(self, error: MySQLError) -> None:
        """The last packet of a connection, as far as the client takes it."""
        with trio.move_on_after(FAREWELL_SECONDS_MAX, shield=True):
            await self._stream.send_all(self._protocol.send_error(error))

    async def _event(self) -> Event:
        """The next event that is not mere bytes to send. Raises _ClientGoneError at the end."""
        while True:
            event = self._protocol.next_event()
            if isinstance(event, Wait):
                assert event is NEED_DATA, "an answer is owed"
                data = await self._stream.receive_some(RECEIVE_BYTES)
                if not data:
                    raise _ClientGoneError
                self._protocol.receive_data(data)
            elif isinstance(event, Send):
                await self._send(event.data)
            else:
                return event

    # Login ---------------------------------------------------------------------------------------

    async def _admit(self) -> bool:
        """Whether there is room; greets the client if there is."""
        server, connections = self._server, self._server.connections
        too_many = len(connections) > server.connections_max
        if too_many or connections.logging_in > server.logins_max:
            await self._farewell(too_many_connections())
            return False
        await self._send(self._protocol.greeting())
        return True

    async def _login(self) -> bool:
        with trio.move_on_after(LOGIN_SECONDS_MAX):
            return await self._authenticate()
        _log.info("a client took too long to log in", host=self._connection.host)
        return False

    async def _authenticate(self) -> bool:
        users = self._server.users
        account = auth.Account(user="", verifier=None)
        while True:
            match await self._event():
                case TlsRequested(unread=unread):
                    assert self._server.ssl_context is not None
                    self._stream = await accept_tls(
                        self._stream, self._server.ssl_context, unread=unread
                    )
                    self._protocol.tls_started()
                case LoginRequest(user=user):
                    account = users.account(user)
                    self._protocol.set_account(account)
                case CheckPassword(password=password):
                    matches = await trio.to_thread.run_sync(
                        users.check_password,
                        account,
                        password,
                        limiter=self._server.password_limiter,
                    )
                    if matches:
                        users.remember(account, password)
                    self._protocol.password_checked(matches=matches)
                case LoginAccepted(user=user, database=database):
                    return await self._accept(user, database)
                case LoginRefused() as refused:
                    await self._refuse(refused)
                    return False
                case event:
                    raise AssertionError(event)

    async def _accept(self, user: str, database: str) -> bool:
        connection, rights = self._connection, self._server.users.rights(user)
        self._server.failed_logins.succeeded(connection.host)
        if not self._hand_over(user):
            await self._farewell(access_denied(user, connection.host, using_password=True))
            return False
        server = self._server
        codec = self._protocol.compression()
        session = Session(
            thread_id=connection.thread_id,
            user=user,
            host=connection.host,
            rights=rights,
            facts=server.facts,
            # Each begins to number packets again in its own way; see the decision on compression.
            offers_semi_sync=server.facts.semi_sync and codec is None,
            clock=server.clock,
        )
        try:
            session.use(database)
        except MySQLError as error:
            await self._farewell(error)
            return False
        connection.session = session
        await self._send(self._protocol.accept_login())
        if codec is not None:
            self._stream = self._compressed = CompressedStream(self._stream, codec)
        return True

    async def _refuse(self, refused: LoginRefused) -> None:
        host = self._connection.host
        metrics.SERVER_LOGIN_FAILURES.inc()
        _log.warning("a login was refused", user=refused.user[:64], host=host)
        await trio.sleep(self._server.failed_logins.failed(host))
        error = refused.error or access_denied(
            refused.user, host, using_password=refused.using_password
        )
        await self._farewell(error)

    # Commands ------------------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        assert self._connection.session is not None
        return self._connection.session

    async def _commands(self) -> None:
        while True:
            self._connection.doing(SLEEP, now=self._server.clock())
            event: Event | None = None
            with trio.move_on_after(IDLE_SECONDS_MAX):
                event = await self._event()
            if self._compressed is not None:
                self._compressed.answer_follows()
            match event:
                case None | Quit():
                    return
                case BinlogDump() | BinlogDumpGtid():
                    await self._dump(event)
                    return
                case _:
                    if data := await self._answer(event):
                        await self._send(data)

    async def _answer(self, event: Event) -> bytes:
        protocol = self._protocol
        try:
            match event:
                case Query(sql=sql):
                    return await self._result(sql)
                case Prepare(sql=sql):
                    return protocol.send_prepared(self._prepared.prepare(sql))
                case Execute(statement_id=statement_id):
                    return await self._result(self._prepared.text(statement_id), binary=True)
                case CloseStatement(statement_id=statement_id):
                    self._prepared.close(statement_id)
                    return protocol.send_nothing()
                case ResetStatement(statement_id=statement_id):
                    self._prepared.text(statement_id)
                    return protocol.send_ok()
                case Ping():
                    return protocol.send_ok()
                case InitDb(name=name):
                    self._session.use(name)
                    return protocol.send_ok()
                case ResetConnection():
                    self._session.reset()
                    self._prepared.clear()
                    protocol.status = self._session.status
                    return protocol.send_ok()
                case SetOption():
                    return protocol.send_eof()
                case Statistics():
                    return protocol.send_text(self._statistics())
                case RegisterReplica():
                    return self._register(event)
                case UnknownCommand():
                    raise unknown_command()
                case _:
                    raise AssertionError(event)
        except MySQLError as error:
            return protocol.send_error(error)

    async def _result(self, sql: str, *, binary: bool = False) -> bytes:
        self._connection.doing(QUERY, now=self._server.clock(), info=_shown(sql))
        result = await answer(sql, session=self._session, connections=self._server.connections)
        self._protocol.status = self._session.status
        if result is not None:
            return self._protocol.send_result_set(result, binary=binary)
        return self._protocol.send_ok(warnings=len(self._session.notes))

    def _statistics(self) -> str:
        connections = self._server.connections
        return f"Uptime: {connections.uptime_seconds()}  Threads: {len(connections)}"

    def _register(self, event: RegisterReplica) -> bytes:
        session = self._session
        if REPLICATION not in session.rights:
            # A source says 1045 here and 1227 to a dump.
            raise access_denied(session.user, session.host, using_password=True)
        self._connection.registered = event
        return self._protocol.send_ok()

    # Dumps ---------------------------------------------------------------------------------------

    async def _dump(self, command: BinlogDump | BinlogDumpGtid) -> None:
        """Serve a dump command to its end; the connection is closed after it, whatever the end."""
        try:
            self._session.require(REPLICATION, privilege="REPLICATION SLAVE")
            request = self._dump_request(command)
        except MySQLError as error:
            await self._farewell(error)
            return
        dump = RunningDump(request=request, progress=DumpProgress())
        self._protocol.begin_dump(command)
        self._server.connections.begin_dump(self._connection, dump)
        metrics.DUMP_CLIENTS.inc()
        self._measure_acks(dump)
        _log.info(
            "dump begins",
            thread_id=self._connection.thread_id,
            host=self._connection.host,
            replica_uuid=request.replica_uuid,
            server_id=request.server_id,
        )
        try:
            await self._stream_events(dump)
        finally:
            metrics.DUMP_CLIENTS.dec()
            self._connection.dump = None
            self._measure_acks(dump)
            _log.info("dump ends", thread_id=self._connection.thread_id)

    def _measure_acks(self, dump: RunningDump) -> None:
        """Where a dump that is acknowledged has begun or ended; the same replica may have two."""
        if not dump.request.semi_sync:
            return
        connections, measured = self._server.connections, self._server.semi_sync
        measured.clients(connections.semi_sync_clients())
        if dump.label in connections.acknowledging():
            measured.measure(dump.label, partial(connections.unacknowledged_bytes, dump.label))
        else:
            measured.forget(dump.label)

    def _dump_request(self, command: BinlogDump | BinlogDumpGtid) -> DumpRequest:
        variables = self._session.user_variables
        gtid_set: GtidsHad | None = None
        until: Position | None = None
        is_mariadb = self._server.facts.flavor == MARIADB
        if is_mariadb and isinstance(command, BinlogDumpGtid):
            raise unknown_command()
        if is_mariadb and variables.mariadb_position is not None:
            gtid_set = parse_position(variables.mariadb_position)
            if variables.mariadb_until is not None:
                until = parse_position(variables.mariadb_until)
        elif isinstance(command, BinlogDumpGtid):
            if self._server.facts.gtid_mode != "ON":
                raise gtid_mode_not_on(self._server.facts.gtid_mode)
            try:
                gtid_set = GtidSet.decode(command.gtid_set)
            except MalformedGtidSetError:
                raise malformed_gtid_encoding() from None
        flags = command.flags
        return DumpRequest(
            kind="position" if gtid_set is None else "gtid",
            # A MariaDB replica that comes back says file and position too, and does not mean them.
            file_name="" if isinstance(gtid_set, Position) else command.file,
            position=FIRST_POSITION if isinstance(gtid_set, Position) else command.position,
            gtid_set=gtid_set,
            mariadb_capability=variables.mariadb_capability,
            until=until,
            strict=str(variables.get("slave_gtid_strict_mode") or 0) not in {"0", "OFF"},
            wants_annotations=is_mariadb and bool(flags & MARIADB_SEND_ANNOTATE_ROWS),
            # Without a server id there is nobody to wait for, flag or not.
            non_blocking=bool(flags & DumpFlag.NON_BLOCK) or command.server_id == 0,
            # The same bit means something else to MariaDB's clients.
            heartbeat_v2_accepted=bool(flags & DumpFlag.USE_HEARTBEAT_EVENT_V2)
            and not variables.speaks_mariadb
            and not is_mariadb,
            heartbeat_period_s=variables.heartbeat_period_s,
            checksum=variables.checksum,
            server_id=command.server_id,
            replica_uuid=variables.replica_uuid,
            skip_tagged=bool(flags & DumpFlag.SKIP_TAGGED_GTIDS),
            # A source without the plugin does not mind who asks for it either.
            semi_sync=variables.wants_semi_sync and self._session.offers_semi_sync,
        )

    async def _stream_events(self, dump: RunningDump) -> None:
        sink = SendingSink(self._stream)
        failure: MySQLError | None = None
        finished = False
        with dump.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, dump, sink, nursery.cancel_scope)
                try:
                    await self._server.dumper(dump.request, sink=sink, progress=dump.progress)
                    finished = True
                except DumpRefusedError as error:
                    failure = error
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                except Exception:  # noqa: BLE001 - the replica is told, the others are not touched
                    _log.exception("a dump failed", thread_id=self._connection.thread_id)
                    failure = internal_error("the dump failed; the relay's log says why")
                nursery.cancel_scope.cancel()
        if dump.replaced:
            at, request = dump.progress, dump.request
            is_mariadb = self._server.facts.flavor == MARIADB
            replaced = mariadb_replaced if is_mariadb else replaced_by_same_replica
            failure = replaced(request.file_name, request.position, at.file, at.position)
        elif dump.overtaken:
            failure = self._overtaken(dump)
        self._protocol.continue_at(dump.progress.next_sequence)
        if sink.is_broken:
            return  # the stream stops inside a packet: nothing may follow
        if failure is not None:
            metrics.DUMP_REFUSED.inc()
            _log.warning(
                "a dump was refused",
                thread_id=self._connection.thread_id,
                host=self._connection.host,
                replica_uuid=dump.request.replica_uuid,
                server_id=dump.request.server_id,
                reason=failure.message,
            )
            await self._farewell(failure)
        elif finished:
            await self._send(self._protocol.end_dump())

    def _overtaken(self, dump: RunningDump) -> MySQLError:
        """A replica stops for good at error 1236; what is served elsewhere it may ask for again."""
        at = dump.progress
        if any(name == at.file for name, _ in self._server.facts.binlog_files()):
            return internal_error("the log was purged under the dump; try again later")
        request = dump.request
        return next_log_not_found(request.file_name, request.position, at.file, at.position)

    async def _drain(self, dump: RunningDump, sink: SendingSink, gone: trio.CancelScope) -> None:
        """Read what the client says during a dump, until it closes or the dump ends.

        Acknowledgements of semi-sync are noted, everything else is dropped, as a source does.
        """
        try:
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                if dump.request.semi_sync:
                    dump.acks.receive(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
            pass
        finally:
            sink.hurry()
        gone.cancel()


def greeted_plugin(flavor: str) -> str:
    """The login plugin that a greeting names: MariaDB's clients may not have MySQL's."""
    return MYSQL_NATIVE_PASSWORD if flavor == MARIADB else CACHING_SHA2_PASSWORD


def greeted_version(version: str) -> str:
    """The version as a greeting says it: MariaDB 10 puts before it what old replicas can read."""
    return f"5.5.5-{version}" if version.startswith("10.") and "MariaDB" in version else version


def _shown(sql: str) -> str:
    """The text of a statement for SHOW PROCESSLIST, without what may hold a password."""
    first = sql.lstrip()[:6].upper()
    return sql[:1024] if first.startswith(("SHOW", "SELECT")) else ""
