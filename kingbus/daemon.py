"""One node: builds the object graph, owns the tree of tasks and the order in which they stop.

    member nursery                      a crash here ends the process, exit 1
     |- node.run                        Raft; ends by itself when this member was removed
     |- transport.run, transport.serve  lanes to the peers, and what they dial
     |- receiver.run                    pulls while this node leads; restarts its sessions itself
     |- dump_workers.run                processes that perform dumps, where some are wanted
     |- binlog_server.run               a task for each replica; its errors end that replica only
     |- admin, metrics                  HTTP; a request's errors end that request only
     |- keeper                          cluster key, seeding, attributes, listener as stored
     '- proof                           that a new voter is new, where no peer could tell
    signals                             beside it: SIGTERM and SIGINT begin the stop

Start: sockets; directory lock, format and identity; being added to a cluster, if that is wished;
the bootstrap decision; database, log, relay state; the cluster key; then the tasks, and one `ready`
line on stderr. Addresses are bound before
anything is written, so a port in use changes nothing, but the peer port listens only when it can
be served: a peer that asks in vain must be refused at once and not wait.

Stop, within 10 s: (1) leadership is handed over, if this node leads; (2) the listener and its dumps
close; (3) HTTP replies under way end; (4) receiver, node and transport are cancelled; (5) log,
database and directory are closed.
"""

import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from kingbus import __version__, log, metrics
from kingbus.addresses import Address, Url
from kingbus.admin.access import Access, App
from kingbus.admin.app import create_app
from kingbus.admin.cluster_key import CALL_METHOD as KEY_METHOD
from kingbus.admin.cluster_key import ClusterKeyKeeper
from kingbus.admin.leader import LeaderOperations
from kingbus.admin.listener import ListenerControl
from kingbus.admin.operations import CALL_METHOD as ADMIN_METHOD
from kingbus.admin.operations import Operations
from kingbus.admin.serving import (
    ListenError,
    bind,
    bound_address,
    listen,
    metrics_app,
    serve_http,
    start_listening,
)
from kingbus.binlog.command import COMMAND_VERSION
from kingbus.config import Config
from kingbus.errors import ConfigError, KingbusError, Problem
from kingbus.joining import Joining, joined
from kingbus.membership.cluster import Cluster
from kingbus.mysql import auth
from kingbus.node.bootstrap import (
    BootstrapConfig,
    Prepared,
    forgotten,
    mark_forgotten,
    mark_removed,
    prepare,
)
from kingbus.node.calls import register_calls
from kingbus.node.errors import NodeError
from kingbus.node.machine import AppliedBatch
from kingbus.node.node import Node, NodeSettings, Removed
from kingbus.pb.command_pb2 import MemberAttributes, ServerConfig, SourceConfig, TlsOptions
from kingbus.replication.binlog_server import BinlogServer, Dumper
from kingbus.replication.dump import DumpProgress, DumpRequest, DumpSink, run_dump
from kingbus.replication.receiver import Receiver
from kingbus.replication.relay import Relay
from kingbus.replication.served_facts import ReceiverStatus, ServedFacts
from kingbus.replication.snapshots import RelaySnapshots
from kingbus.secrets import ClusterSecret, Secret, SecretError, read_secret_file
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.installing import finish_interrupted
from kingbus.storage.log import LogStore
from kingbus.storage.state_store import StateStore
from kingbus.transport.transport import Transport

if TYPE_CHECKING:
    from kingbus.replication.worker_pool import DumpWorkers

_log = log.get_logger("daemon")

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_SECONDS_MAX = 8.0  # of the 10 that are promised
HANDOVER_SECONDS_MAX = 3.0
KEEPER_SECONDS = 1.0  # what the applied state does not announce is looked at this often
KEY_FILE = "cluster.key"
STANDALONE_FILE = "standalone-peer"
PEER_URL_FILE = "peer-url"
NO_PEER_URL = "http://standalone.invalid:1"
"""Stands for the peer URL of a node that has no peer listener, until one is made up for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one process is started with. `standalone`: no peers, ports may be free ones instead.

    `peer_listen` is where the peer port listens when that is not what peer-url says: a node that
    joined with a wildcard has the peer-url that its cluster saw. `joining` says whom to ask first
    to be added.
    """

    config: Config
    standalone: bool = False
    peer_listen: Address | None = None
    joining: Joining | None = None
    source_password: Secret | None = None
    server_password: Secret | None = None
    token: Secret | None = None
    read_token: Secret | None = None


class RefusedError(KingbusError):
    """The process cannot run like this."""


# --- what the command line needs ----------------------------------------------------------------


def options_of(
    config: Config,
    *,
    standalone: bool = False,
    peer_listen: Address | None = None,
    joining: Joining | None = None,
    source_password: Secret | None = None,
    server_password: Secret | None = None,
) -> Options:
    """Options with the secrets of files and environment. ConfigError for unreadable ones."""
    problems: list[Problem] = []

    def token(key: str, path: Path | None) -> Secret | None:
        found_token = found(key, path, "") if path is not None else None
        if found_token is not None and not found_token:
            problems.append(Problem(key=key, message=f"{path} is empty"))
        return found_token

    def found(key: str, path: Path | None, variable: str) -> Secret | None:
        if path is None:
            text = os.environ.get(variable)
            return Secret(text) if text is not None else None
        try:
            return read_secret_file(path)
        except SecretError as error:
            problems.append(Problem(key=key, message=str(error)))
            return None

    if source_password is None and config.source is not None:
        file = config.source.password_file
        source_password = found("source.password-file", file, "KINGBUS_SOURCE_PASSWORD")
    if server_password is None and config.server is not None and config.server.addr is not None:
        file = config.server.password_file
        server_password = found("server.password-file", file, "KINGBUS_SERVER_PASSWORD")
        if server_password is None and not problems:
            message = "is needed with server.addr (or KINGBUS_SERVER_PASSWORD)"
            problems.append(Problem(key="server.password-file", message=message))
    options = Options(
        config=config,
        standalone=standalone,
        peer_listen=peer_listen,
        joining=joining,
        source_password=source_password,
        server_password=server_password,
        token=token("auth.token-file", config.auth.token_file),
        read_token=token("auth.read-token-file", config.auth.read_token_file),
    )
    if problems:
        raise ConfigError(problems)
    return options


def main(options: Options) -> int:
    """Run the node until it is stopped; the exit code. Raises KingbusErrors before it runs."""
    if sys.flags.optimize:
        raise RefusedError(
            "kingbus does not run under python -O: its assertions hold the invariants"
        )
    config = options.config
    try:
        log.configure(level=config.log_level, directory=config.log_dir)
    except OSError as error:
        raise RefusedError(f"log-dir {config.log_dir}: {error.strerror}") from error
    for warning in config.warnings():
        _log.warning(warning)
    stop = _Stop()
    # Around the loop's own handling: a signal that comes too early counts, one that comes again
    # at the very end must not turn a clean stop into a death by signal.
    for number in _STOP_SIGNALS:
        signal.signal(number, stop.note)
    try:
        return trio.run(_run, options, stop)
    except BaseException as error:
        first = _first(error)
        if not isinstance(first, KingbusError):
            _log.critical("the node ended by an unexpected error", exc_info=error)
        if first is error:
            raise
        raise first from None
    finally:
        # The interpreter's own end would restore the default handlers, but not these.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _first(error: BaseException) -> BaseException:
    """The first real error in a group, which names the reason better than the group does."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# --- building -----------------------------------------------------------------------------------


class _Worker:
    """Runs blocking calls in threads. The append task has a thread of its own always free."""

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)


class _Watched:
    """The relay as the node's state machine, with an event when configuration was applied."""

    def __init__(self, relay: Relay, member_id: int) -> None:
        self._relay = relay
        self._member_id = member_id
        self.changed = trio.Event()

    @property
    def applied_index(self) -> int:
        return self._relay.applied_index

    def apply(self, batch: AppliedBatch) -> None:
        before = self._configuration()
        self._relay.apply(batch)
        after = self._configuration()
        if any(old is not new for old, new in zip(before, after, strict=True)):
            self.notify()

    def notify(self) -> None:
        """Wake who waits for a change."""
        self.changed.set()
        self.changed = trio.Event()

    def _configuration(self) -> tuple[object, ...]:
        state = self._relay.state
        return (
            state.cluster_key,
            state.source_config,
            state.servers.get(self._member_id),
            state.members.get(self._member_id),
        )


class _Feeding(_Watched):
    """The same where dumps run in worker processes, which are told what was applied."""

    def __init__(self, relay: Relay, member_id: int, applied: Callable[[], None]) -> None:
        super().__init__(relay, member_id)
        self._applied = applied

    def apply(self, batch: AppliedBatch) -> None:
        super().apply(batch)
        self._applied()

    def notify(self) -> None:
        super().notify()
        self._applied()


@dataclass(slots=True, kw_only=True)
class _Sockets:
    """Bound addresses; `peer` does not listen yet, and is None for a standalone node."""

    peer: socket.socket | None
    admin: socket.socket
    metrics: socket.socket

    def close(self) -> None:
        for each in (self.peer, self.admin, self.metrics):
            if each is not None:
                each.close()


def _open_sockets(options: Options) -> _Sockets:
    """Raises ListenError: one line that names key and address."""
    config = options.config
    with ExitStack() as opened:

        def keep(each: socket.socket) -> socket.socket:
            opened.callback(each.close)
            return each

        def default_or_free(address: Address, what: str) -> socket.socket:
            try:
                return keep(listen(address, what=what))
            except ListenError:
                if not options.standalone:
                    raise
                return keep(listen(Address(host=address.host, port=0), what=what))

        peer = None
        if not options.standalone:
            peer = keep(bind(options.peer_listen or config.peer_url.address, what="peer-url"))
        sockets = _Sockets(
            peer=peer,
            admin=default_or_free(config.admin_listen, "admin-url"),
            metrics=default_or_free(config.metrics_addr, "metrics-addr"),
        )
        opened.pop_all()
    return sockets


def _bootstrap_config(options: Options, directory: DataDirectory, key_id: str) -> BootstrapConfig:
    """Blocks: a standalone node's made-up peer URL is kept in the directory."""
    config = options.config
    if not options.standalone:
        return BootstrapConfig(
            name=config.name,
            peer_url=str(config.peer_url),
            initial_cluster=config.cluster,
            is_new=config.initial_cluster_state == "new",
            lists_all=options.joining is None,
            key_id=key_id,
        )
    identity = directory.identity
    name = identity.name if identity is not None else config.name
    file = directory.path / STANDALONE_FILE
    if not file.exists():
        # Two nodes on hosts of one name must not take themselves for the same cluster.
        url = f"http://{random.SystemRandom().randbytes(8).hex()}.standalone.invalid:1"
        directory.write_file(STANDALONE_FILE, (url + "\n").encode())
    url = file.read_text(encoding="ascii").strip()
    return BootstrapConfig(name=name, peer_url=url, initial_cluster=((name, (url,)),))


def _with_peer_url(options: Options, directory: DataDirectory, database: StateStore) -> Options:
    """The same with the peer-url that the cluster knows in place of a wildcard. Blocks.

    It is kept in the directory when the node has just joined, for the time until the membership
    that names it is applied here.
    """
    config, file = options.config, directory.path / PEER_URL_FILE
    if options.peer_listen is None or not options.peer_listen.is_wildcard:
        return options
    if not config.peer_url.address.is_wildcard:
        directory.write_file(PEER_URL_FILE, f"{config.peer_url}\n".encode())
        return options
    members, identity = database.members(), directory.identity
    known = Cluster.from_record(members) if members is not None else None
    own = known.get(identity.member_id) if known is not None and identity is not None else None
    if own is None and not file.exists():
        raise RefusedError(
            f"peer-url: {config.peer_url} is a wildcard, and the cluster's view of it is not known",
            hint="Write the address that the other members dial.",
        )
    text = own.peer_urls[0] if own is not None else file.read_text(encoding="ascii").strip()
    return replace(options, config=config.model_copy(update={"peer_url": Url.parse(text)}))


class _Stop:
    """The wish to stop: `starting` is cancelled while nothing runs yet, then `requested` counts."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.starting = trio.CancelScope()
        self._noted = False

    def note(self, _number: int, _frame: object) -> None:
        """A signal outside of the loop."""
        self._noted = True

    def request(self) -> None:
        """Stop, whatever is going on."""
        self.requested.set()
        self.starting.cancel()

    async def catch_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled, SIGTERM and SIGINT are this wish."""
        with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
            task_status.started()
            if self._noted:
                self.request()
            async for number in signals:
                _log.info("stopping", signal=signal.Signals(number).name)
                self.request()


async def _run(options: Options, stop: _Stop) -> int:
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.catch_signals)
        await _start_and_run(options, stop)
        nursery.cancel_scope.cancel()
    return 0


async def _start_and_run(options: Options, stop: _Stop) -> None:
    worker = _Worker(32)
    sockets = _open_sockets(options)
    with ExitStack() as stack:
        stack.callback(sockets.close)
        with stop.starting:
            member = await _build(options, sockets, worker, stack)
        if stop.starting.cancelled_caught:
            return
        removed = await member.run(stop)
        if removed is not None:
            await worker(partial(mark_removed, member.directory, told_by=removed.told_by))
            sys.stderr.write("removed from the cluster\n")
        # Closing joins threads and syncs; the loop has nothing else to do any more.
        await worker(stack.close)


async def _build(
    options: Options, sockets: _Sockets, worker: _Worker, stack: ExitStack
) -> "_Member":
    """From the directory to the object graph; what is opened is closed by `stack`."""
    directory = await worker(DataDirectory.open_or_create, options.config.data_dir)
    stack.callback(directory.close)
    database = await worker(StateStore.open, directory.state_path)
    stack.callback(database.close)
    await worker(_finish_install, options.config, directory, database)
    key_file = options.config.cluster_key_file
    secret = await worker(ClusterSecret.load, key_file) if key_file is not None else None
    key_id = secret.key_id if secret is not None else ""
    options = await _joined(options, directory, key_id)
    options = await worker(_with_peer_url, options, directory, database)
    bootstrap = await worker(_bootstrap_config, options, directory, key_id)
    prepared = await prepare(bootstrap, directory, members=database.members(), runner=worker)
    for note in prepared.notes:
        _log.info(note)
    store = await worker(_open_log, options.config, directory, prepared.identity)
    stack.callback(store.close)
    relay = await worker(partial(Relay.load, database=database, log=store, runner=worker))
    member = _Member(
        options=options,
        prepared=prepared,
        directory=directory,
        store=store,
        database=database,
        relay=relay,
        sockets=sockets,
        worker=worker,
    )
    await member.load_key()
    return member


async def _joined(options: Options, directory: DataDirectory, key_id: str) -> Options:
    """The same, as the cluster knows this node once it was asked to add it, if that is wished."""
    if options.joining is None:
        return options
    config = await joined(
        options.joining,
        options.config,
        directory,
        listens=options.peer_listen or options.config.peer_url.address,
        key_id=key_id,
    )
    return replace(options, config=config)


def _finish_install(config: Config, directory: DataDirectory, database: StateStore) -> None:
    """Before anything is decided by what log and database hold: they may not fit together yet."""
    if database.installing() is None:
        return
    assert directory.identity is not None, "a snapshot is installed by a member"
    store = _open_log(config, directory, directory.identity)
    try:
        snapshot = finish_interrupted(database, store)
    finally:
        store.close()
    assert snapshot is not None
    _log.info("finished installing a snapshot", index=snapshot.index)


def _open_log(config: Config, directory: DataDirectory, identity: Identity) -> LogStore:
    store = LogStore.open(
        directory.log_path,
        segment_bytes=config.segment_size,
        reserve_bytes=config.reserve_data_size,
        cluster_id=identity.cluster_id,
        member_id=identity.member_id,
    )
    for warning in store.warnings:
        _log.warning(warning)
    if store.recovery is not None:
        found = store.recovery
        _log.warning(
            "an unsynced tail was cut off",
            file=str(found.path),
            offset=found.offset,
            bytes=found.cut_bytes,
            reason=found.reason,
        )
    return store


class _Member:
    """The object graph of one running node."""

    def __init__(
        self,
        *,
        options: Options,
        prepared: Prepared,
        directory: DataDirectory,
        store: LogStore,
        database: StateStore,
        relay: Relay,
        sockets: _Sockets,
        worker: _Worker,
    ) -> None:
        config = options.config
        self._options = options
        self._config = config
        self._worker = worker
        self._store = store
        self._relay = relay
        self._sockets = sockets
        self.directory = directory
        self._identity = prepared.identity
        self._is_unproven = prepared.path == "start"
        self._source_seeded = False
        self._difference_logged = ""
        self._http_stop = trio.Event()
        self._http_stopped = trio.Event()

        member_id = prepared.identity.member_id
        generator = random.SystemRandom()
        self._dump_workers: DumpWorkers | None = None
        if self._workers_wanted:
            self._watched: _Watched = _Feeding(relay, member_id, self._note_applied)
        else:
            self._watched = _Watched(relay, member_id)
        self._transport = Transport(
            member_id=member_id,
            cluster=prepared.foreseen or prepared.cluster,
            random=generator,
            command_version=COMMAND_VERSION,
        )
        self._node = Node(
            member_id=member_id,
            cluster=prepared.cluster,
            log=store,
            machine=self._watched,
            transport=self._transport,
            random=generator,
            runner=_Worker(4),  # appends never wait behind readers for a thread
            settings=NodeSettings(
                heartbeat_seconds=config.heartbeat_interval,
                election_seconds=config.election_timeout,
            ),
            bootstrap=prepared.bootstrap,
            foreseen=prepared.foreseen,
            snapshots=RelaySnapshots(
                relay=relay,
                database=database,
                runner=worker,
                installed=self._watched.notify,
            ),
        )
        self._transport.attach(self._node)
        self._facts = ServedFacts(
            cluster_id=prepared.identity.cluster_id,
            relay=relay,
            receiver=self._receiver_status,
            listening=lambda: self._server.address,
            hostname=socket.gethostname(),
            version=config.server.version if config.server is not None else "",
        )
        self._build_replication()
        self._build_admin()

    def _build_replication(self) -> None:
        self._receiver = Receiver(
            node=self._node,
            relay=self._relay,
            identity=self._facts,
            secret=self._cluster_secret,
            is_full=lambda: self._store.is_full,
            changed=lambda: self._watched.changed,
            random=random.SystemRandom(),
        )
        dumper: Dumper = self._dump
        if self._workers_wanted:
            dumper = self._dump_workers = self._make_dump_workers()
        self._server = BinlogServer(
            facts=self._facts, dumper=dumper, rsa_key=auth.PrivateKey.generate()
        )

    @property
    def _workers_wanted(self) -> int:
        return self._config.server.workers if self._config.server is not None else 0

    def _make_dump_workers(self) -> "DumpWorkers":
        # Nothing of it is loaded where it is not wanted.
        from kingbus.replication.worker_pool import DumpWorkers

        server = self._config.server
        assert server is not None
        return DumpWorkers(
            count=server.workers,
            relay=self._relay,
            log=self._store,
            directory=self.directory.log_path,
            identity=self._facts,
            runner=self._worker,
            local=self._dump,
            catch_up=self._node,
            catch_up_seconds_max=server.wait_for_catch_up,
        )

    def _note_applied(self) -> None:
        if self._dump_workers is not None:
            self._dump_workers.note()

    def _build_admin(self) -> None:
        config, relay, node = self._config, self._relay, self._node
        self._keys = ClusterKeyKeeper(
            path=self.directory.path / KEY_FILE,
            configured=config.cluster_key_file,
            node=node,
            transport=self._transport,
            state=lambda: relay.state,
            announce=self._announce_key,
            runner=self._worker,
        )
        self._leader = LeaderOperations(
            node=node,
            relay=relay,
            receiver=self._receiver,
            identity=self._facts,
            keys=self._keys,
        )
        self._listener = ListenerControl(
            server=self._server,
            member_id=node.member_id,
            state=lambda: relay.state,
            store=self._store_server,
            runner=self._worker,
        )
        self._operations = Operations(
            name=self._identity.name,
            version=__version__,
            node=node,
            relay=relay,
            listener=self._listener,
            transport=self._transport,
            leader=self._leader,
            identity=self._facts,
            election_timeout=config.election_timeout,
            events=self._facts.binlog_events,
            warnings=self._warnings,
        )
        register_calls(
            self._transport,
            node,
            took_part=lambda each: each in relay.state.members,
            key_id=self._announced_key_id,
        )
        self._transport.register(ADMIN_METHOD, self._operations.handle_call)
        self._transport.register(KEY_METHOD, self._keys.handle_call)

    # These stand between objects that need each other.

    async def _dump(self, request: DumpRequest, *, sink: DumpSink, progress: DumpProgress) -> None:
        server = self._config.server
        await run_dump(
            self._relay,
            request,
            sink=sink,
            identity=self._facts,
            progress=progress,
            catch_up=self._node,
            catch_up_seconds_max=server.wait_for_catch_up if server is not None else 30.0,
        )

    def _announced_key_id(self) -> str:
        announced = self._relay.state.cluster_key
        return announced.key_id if announced is not None else ""

    def _receiver_status(self) -> ReceiverStatus:
        return self._receiver.status()

    def _cluster_secret(self) -> ClusterSecret | None:
        return self._keys.secret

    async def _announce_key(self, secret: ClusterSecret) -> None:
        await self._leader.announce_key(secret)

    async def _store_server(self, wanted: ServerConfig) -> None:
        await self._operations.store_server(wanted)

    async def load_key(self) -> None:
        """The cluster key as far as it is here; raises SecretErrors."""
        await self._keys.load()

    def _warnings(self) -> Iterator[str]:
        yield from self._config.warnings()
        yield from self._store.warnings
        if self._store.is_full:
            yield "reserve-data-size is used up: the receiver takes nothing more"
        difference = self._source_difference()
        if difference:
            yield difference

    # --- running --------------------------------------------------------------------------------

    async def run(self, stop: _Stop) -> Removed | None:
        """Run until SIGTERM, SIGINT or removal. Raises what ended a task."""
        removed: Removed | None = None

        async def run_node() -> None:
            nonlocal removed
            removed = await self._node.run()
            self._operations.node_ended.set()
            stop.requested.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(self._transport.run)
            await self._serve_peers(nursery)
            nursery.start_soon(run_node)
            if self._dump_workers is not None:
                await nursery.start(self._dump_workers.run)
            await nursery.start(self._server.run)
            nursery.start_soon(self._receiver.run)
            await self._listener.reconcile()
            await self._open_configured_listener()
            await self._serve_http(nursery)
            nursery.start_soon(self._keep)
            if self._is_unproven:
                nursery.start_soon(self._prove_new)
            nursery.start_soon(self._watch_leadership)
            self._say_ready()
            await stop.requested.wait()
            with trio.move_on_after(STOP_SECONDS_MAX) as patience:
                await self._wind_down(removed=removed is not None)
            if patience.cancelled_caught:
                _log.warning("the stop took too long; what is left is cut off")
            nursery.cancel_scope.cancel()
        return removed

    async def _serve_peers(self, nursery: trio.Nursery) -> None:
        opened = self._sockets.peer
        if opened is None:
            return
        address = self._options.peer_listen or self._config.peer_url.address
        start_listening(opened, address, what="peer-url")
        self._sockets.peer = None
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(opened))
        await nursery.start(self._transport.serve, listener)

    async def _serve_http(self, nursery: trio.Nursery) -> None:
        self._admin_url = self._real_admin_url()
        app = create_app(self._operations, version=__version__, access=self._access())
        prometheus = metrics_app(self._refresh_metrics)
        await nursery.start(self._http_until_stopped, app, prometheus)

    async def _http_until_stopped(
        self, app: App, prometheus: App, *, task_status: trio.TaskStatus[None]
    ) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_http, app, self._sockets.admin, self._http_stop)
            await nursery.start(serve_http, prometheus, self._sockets.metrics, self._http_stop)
            task_status.started()
        self._http_stopped.set()

    def _real_admin_url(self) -> str:
        """Where the admin API is reached: as configured, unless it had to listen elsewhere."""
        configured, bound = self._config.admin_url, bound_address(self._sockets.admin)
        as_configured = self._config.admin_listen == configured.address
        if as_configured and bound.port == configured.address.port:
            return str(configured)
        return f"http://{bound}"

    def _access(self) -> Access:
        options, hosts = self._options, None
        if options.token is None and not self._config.auth.insecure:
            hosts = frozenset({"localhost", self._config.admin_url.address.host.lower()})
        return Access(token=options.token, read_token=options.read_token, hosts=hosts)

    def _say_ready(self) -> None:
        listening = self._server.address
        peer = "none" if self._options.standalone else str(self._config.peer_url)
        status = self._node.status()
        sys.stderr.write(
            f"ready name={self._identity.name} id={status.member_id:x} role={status.role} "
            f"peer={peer} admin={self._admin_url} "
            f"listen={listening if listening is not None else 'none'}\n"
        )
        sys.stderr.flush()

    async def _wind_down(self, *, removed: bool) -> None:
        if self._node.leadership.is_ready and len(self._node.cluster.voters) > 1 and not removed:
            with trio.move_on_after(HANDOVER_SECONDS_MAX):
                try:
                    await self._node.handover.transfer(None)
                except KingbusError as error:
                    _log.warning("leadership was not handed over", reason=str(error))
        await self._server.stop()
        self._http_stop.set()
        await self._http_stopped.wait()

    def _refresh_metrics(self) -> None:
        metrics.STORAGE_BYTES.set(self._store.bytes_used)
        metrics.STORAGE_RESERVE_BYTES.set(self._store.reserve_bytes)
        metrics.BUILD_INFO.labels(__version__).set(1)
        metrics.READY.set(self._operations.is_ready)

    # --- keeping what is configured and what is stored together -----------------------------------

    async def _keep(self) -> None:
        """Everything that follows from the applied configuration, or has to get into it."""
        while True:
            changed = self._watched.changed
            for step in (
                self._keys.step,
                self._listener.settle,
                self._announce_attributes,
                self._seed_source,
            ):
                await self._try(step)
            with trio.move_on_after(KEEPER_SECONDS):
                await changed.wait()

    async def _prove_new(self) -> None:
        """End a voter that begins anew although the log knows it; no peer was up to tell so.

        It says nothing of itself before, so whatever the log has of it is from an earlier life.
        """
        applied = False
        while not applied:
            try:
                await self._node.wait_applied(await self._node.read_index())
                applied = True
            except NodeError:
                await trio.sleep(KEEPER_SECONDS)  # without a leader there is nothing to compare
        if self._identity.member_id in self._relay.state.members:
            await self._worker(mark_forgotten, self.directory)
            raise forgotten(self._identity.name, "the log", took_part_again=True)
        self._is_unproven = False
        self._watched.notify()

    async def _watch_leadership(self) -> None:
        while True:
            term = await self._node.leadership.wait_ready()
            self._watched.notify()
            await self._node.leadership.wait_lost(term)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except SecretError:
            raise  # a key that does not fit: this node cannot do its work
        except KingbusError as error:
            _log.info("put off", what=step.__name__.strip("_"), reason=error.explain())

    async def _announce_attributes(self) -> None:
        if self._is_unproven:
            return
        wanted = MemberAttributes(
            member_id=self._identity.member_id,
            admin_urls=[self._admin_url],
            version=__version__,
            command_version=COMMAND_VERSION,
            reserve_bytes=self._config.reserve_data_size,
        )
        if self._relay.state.members.get(wanted.member_id) == wanted:
            return
        if self._node.status().leader_id and self._node.cluster.get(wanted.member_id) is not None:
            await self._operations.store_attributes(wanted)

    def _configured_source(self) -> SourceConfig | None:
        source = self._config.source
        if source is None:
            return None
        wanted = SourceConfig(
            started=True,
            addresses=[str(each) for each in source.addresses],
            user=source.user,
            semi_sync=source.semi_sync,
            server_id=source.server_id,
            server_uuid=source.server_uuid.lower(),
            start_from=source.start_from,
            mode=source.mode,
            flavor=source.flavor,
        )
        tls = self._config.source_tls
        paths = {"ca": str(tls.ca or ""), "cert": str(tls.cert or ""), "key": str(tls.key or "")}
        wanted.tls.CopyFrom(TlsOptions(mode=tls.mode, **paths))
        return wanted

    async def _seed_source(self) -> None:
        """Once, on the leader of a log without a source; a standalone node's arguments win."""
        wanted = self._configured_source()
        if wanted is None or not self._node.leadership.is_ready or self._keys.secret is None:
            return
        password = (self._options.source_password or Secret("")).reveal()
        if self._relay.state.source_config is None:
            await self._leader.seed_source(wanted, password)
        elif self._options.standalone and not self._source_seeded:
            await self._leader.replace_source(wanted, password)
        self._source_seeded = True
        difference = self._source_difference()
        if difference != self._difference_logged:
            self._difference_logged = difference
            if difference:
                _log.warning(difference)

    def _source_difference(self) -> str:
        wanted = self._configured_source()
        if wanted is None or self._relay.state.source_config is None:
            return ""
        if self._leader.is_stored(wanted, None):
            return ""
        return "source: in the configuration file differs from what the log holds; the log counts"

    async def _open_configured_listener(self) -> None:
        """Before `ready` is said: the listener of the configuration, if the log has none yet.

        A standalone node's arguments win over what its log holds.
        """
        server, password = self._config.server, self._options.server_password
        if server is None or server.addr is None or password is None:
            return
        if self._listener.stored is None or self._options.standalone:
            await self._listener.open(server.addr, server.user, password.reveal())
