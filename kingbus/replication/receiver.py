"""Pulls from the source while this node leads: connect, check, open a session, dump, propose.

Owns the receiver's state for people (`status`), when and where it connects again, and the order of
a session's steps. What of the stream is stored is decided in `binlog/ingest.py`, whether a source
fits in `source_facts.py`; the connection is `source_connection.py`'s.

A session: (1) connect, log in, ask; (2) compare GTID sets; (3) propose a ReceiverSession and wait
until *this node applied it*: that fixes the resume point; (4) only then send the dump command;
(5) propose what comes, with many proposals under way, never forwarded. The session ends with the
first proposal that is refused or lost, with the connection, with leadership, with a change of the
configuration, or with a stop.

What happens after a session ended:
* trouble that passes (network, shutdown, checksum): connect again after 1 s, growing to 10 s; the
  next candidate address has its turn after three failures in a row;
* what an operator must deal with (refused login, gtid_mode, sets that do not fit, 1236, a lost
  tail, an anonymous transaction): state `error`. It is looked at again every 30 s, since the cause
  may have gone away at the source; what only a session can find out (`fatal` errors of the stream)
  with twice that each time, up to 10 min, because each try leaves an entry in the log. A start by
  the operator tries at once;
* the reserve is full: a purge makes room within moments, so for some seconds it only stops reading;
  then state `error`, looked at every second.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Protocol

import trio

from kingbus import log, metrics
from kingbus.binlog.command import encode
from kingbus.binlog.errors import (
    ChecksumMismatchError,
    DifferentFileError,
    ReplacedAtSourceError,
    SourceError,
    StreamEndedError,
    UnknownFileError,
)
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.ingest import BATCH_BYTES, IngestedBatch, IngestStream
from kingbus.binlog.mariadb_gtid import MARIADB
from kingbus.binlog.relay_state import RelayState
from kingbus.binlog.semi_sync import SemiSyncStream
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import Command, ReceiverSession, SourceConfig, TlsOptions
from kingbus.replication.acknowledging import Acknowledger
from kingbus.replication.proposing import Node, Proposal
from kingbus.replication.source_connection import HEARTBEAT_SECONDS, SourceConnection
from kingbus.replication.source_facts import (
    GTID,
    POSITION,
    SourceBehindError,
    SourceFacts,
    SourceRefusedError,
    SourceUnfitError,
    SourceUnreachableError,
    by_gtid,
    dump_command,
    lost_way,
    mariadb_position,
    misfit,
    order_of,
    plan_session,
    reachable,
    start_file,
    start_set,
    unfit_config,
    unfit_flavor,
    unfit_source,
)
from kingbus.secrets import SOURCE_PASSWORD, ClusterSecret, Secret, SecretError

_log = log.get_logger("receiver")

CHECK_SECONDS_MAX: Final = 10.0
SIZE_SECONDS_MAX: Final = 3.0
"""Somebody waits, and would only be warned."""
TURN_FAILURES_MAX: Final = 3
"""Failures in a row before the next candidate address has its turn."""

UNDER_WAY_MAX: Final = 8
"""While this many proposals wait, what has come is gathered into a larger batch instead."""

MISFIT_TRIES: Final = 3
MISFIT_PAUSE_SECONDS: Final = 0.3
"""A source sends a transaction a moment before its gtid_executed shows it: ask again."""

READ_BYTES: Final = 512 << 10
"""Read in one go before other tasks have their turn: a millisecond or two."""

ROOM_SECONDS: Final = 0.02
"""Between two looks for room: a purge takes a little longer, the source's patience is a minute."""

POLL_SECONDS: Final = 0.5  # for changes that nobody announced
RESERVE_FULL: Final = "reserve full"


class ReserveFullError(KingbusError):
    """No more may be stored."""


class SessionOverError(KingbusError):
    """The log took another course: the session is not the valid one any more."""


class SourceCheckError(KingbusError):
    """A source cannot be pulled from, as found before anything was changed."""

    is_behind = False
    """It lacks what the relay has, and may yet get it."""


class Relay(Protocol):
    """The applied log."""

    @property
    def state(self) -> RelayState: ...


class Identity(Protocol):
    """The one server id and uuid of the cluster, under a configuration."""

    def server_id_of(self, config: SourceConfig | None) -> int: ...
    def server_uuid_of(self, config: SourceConfig | None) -> str: ...


class Connection(Protocol):
    """One connection to a source, see source_connection.py: questions first, then a dump."""

    async def ask(self, *, replica_uuid: str, heartbeat_seconds: float) -> SourceFacts: ...
    async def gtid_sets(self) -> tuple[GtidSet, GtidSet]: ...
    async def newest_file(self) -> str: ...
    async def request_semi_sync(self) -> str: ...
    async def register(self, *, server_id: int, port: int) -> None: ...
    async def go_on_from(self, position: str) -> None: ...
    async def start_dump(self, command: int, body: bytes) -> None: ...
    def read_now(self, room: memoryview) -> int | None: ...
    async def wait_readable(self) -> None: ...
    async def send(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Connect(Protocol):
    """Opens one and logs in; raises as SourceConnection.open does."""

    async def __call__(
        self, address: str, *, user: str, password: Secret, tls: TlsOptions, compression: str
    ) -> Connection: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds; tests set shorter ones."""

    retry_min: float = 1.0
    retry_max: float = 10.0
    operator_retry: float = 30.0
    fatal_retry_max: float = 600.0
    full_retry: float = 1.0
    full_patience: float = 5.0
    """So long a session waits for room."""
    stable: float = 10.0
    """A session that lasted this long, or stored something, makes the next delay short again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverStatus:
    """The words of `/binlog/syncer/status`; `address` is the candidate in use or tried last.

    `semi_sync_active`: the source sends semi-sync's form. `acknowledged` is the file and position
    that it was told of last in this session, empty while there is none.
    """

    status: str
    error: str = ""
    address: str = ""
    seconds_behind_source: int | None = None
    semi_sync_active: bool = False
    acknowledged: tuple[str, int] = ("", 0)


@dataclass(slots=True)
class _Turn:
    """Which candidate is tried, and how often in a row that failed."""

    first: int = 0
    failures: int = 0

    def failed(self) -> None:
        self.failures += 1
        if self.failures % TURN_FAILURES_MAX == 0:
            self.first += 1


class Receiver:
    """See the module. `run` belongs to the member's nursery and ends only with it."""

    def __init__(
        self,
        *,
        node: Node,
        relay: Relay,
        identity: Identity,
        secret: Callable[[], ClusterSecret | None],
        is_full: Callable[[], bool] = lambda: False,
        changed: Callable[[], trio.Event] = trio.Event,
        attached: Callable[[], Collection[str]] = tuple,
        random: Random,
        clock: Callable[[], float] = time.time,
        timings: Timings = Timings(),
        connect: Connect = SourceConnection.open,
        batch_bytes: int = BATCH_BYTES,
        channel_name: str = "",
    ) -> None:
        """`secret` gives the cluster key once it is here, `is_full` says that the reserve is used
        up, `changed` gives an event that is set when configuration was applied or leadership moved
        (without it changes are noticed within half a second), `attached` gives the uuids of the
        cluster's replicas, `clock` is the wall clock, `connect`
        how a source is reached, `batch_bytes` about how large a batch becomes under load.
        `channel_name` is for people; which channel it is the relay says.
        """
        self._node = node
        self._relay = relay
        self._identity = identity
        self._secret = secret
        self._is_full = is_full
        self._changed = changed
        self._attached = attached
        self._random = random
        self._clock = clock
        self._timings = timings
        self._connect = connect
        self._batch_bytes = batch_bytes
        self._metrics = metrics.ReceiverMetrics(channel_name)
        self._named = {"channel": channel_name} if channel_name else {}
        self._status = "stopped"
        self._error = ""
        self._address = ""
        self._stream: IngestStream | None = None
        self._acknowledger: Acknowledger | None = None
        self._is_behind = False
        self._clock_difference = 0.0
        self._proposed = 0
        self._binlog_size = 0
        self._new_epoch = False
        self._ask_by_gtid = False
        self._show("stopped")

    # -- for people -------------------------------------------------------------------------

    def status(self) -> ReceiverStatus:
        """What it does now; on a node that does not lead it is stopped."""
        told = self._acknowledger
        return ReceiverStatus(
            status=self._status,
            error=self._error,
            address=self._address,
            seconds_behind_source=self._seconds_behind(),
            semi_sync_active=told is not None and told.is_active,
            acknowledged=(told.file_name, told.position) if told is not None else ("", 0),
        )

    @property
    def source_binlog_size(self) -> int:
        """The source's max_binlog_size as last heard, in bytes; 0: not known."""
        return self._binlog_size

    def _seconds_behind(self) -> int | None:
        if self._status != "running" or self._stream is None:
            return None
        last = self._stream.last_event_time or self._relay.state.last_event_time
        if not self._is_behind or not last:
            return 0
        return max(0, math.floor(self._clock() + self._clock_difference - last))

    def _show(self, status: str, error: str = "") -> None:
        if (status, error) != (self._status, self._error):
            if error:
                _log.warning(status, reason=error, source=self._address, **self._named)
            else:
                _log.info(status, source=self._address, **self._named)
        self._status, self._error = status, error
        for each in metrics.RECEIVER_STATES:
            self._metrics.status(each).set(each == status)

    # -- running ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Pulls whenever this node leads and the receiver is started."""
        while True:
            term = await self._node.leadership.wait_ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._lead)
                await self._node.leadership.wait_lost(term)
                nursery.cancel_scope.cancel()
            self._show("stopped")

    async def _lead(self) -> None:
        while True:
            config = self._relay.state.source_config
            if config is None or not config.started:
                self._show("stopped")
                await self._wait_for_change(config)
                continue
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pull, config)
                await self._wait_for_change(config)
                nursery.cancel_scope.cancel()

    async def _wait_for_change(self, config: SourceConfig | None) -> None:
        """Until the configuration in force is another one, or was applied anew."""
        while self._relay.state.source_config is config:
            changed = self._changed()
            with trio.move_on_after(POLL_SECONDS):
                await changed.wait()

    async def _pull(self, config: SourceConfig) -> None:
        """Session after session under one configuration."""
        timings = self._timings
        turn, delay, fatal_delay = _Turn(), timings.retry_min, timings.operator_retry
        behind_delay = timings.retry_min
        self._new_epoch = self._ask_by_gtid = False
        self._show("connecting")
        while True:
            started = trio.current_time()
            proposed = self._proposed
            try:
                await self._one_round(config, turn)
            except ReserveFullError:
                self._show("error", RESERVE_FULL)
                await trio.sleep(timings.full_retry)
                continue
            except SourceBehindError as error:
                self._show("error", error.explain())
                await trio.sleep(behind_delay)
                behind_delay = min(behind_delay * 2, timings.operator_retry)
                continue
            except (SourceRefusedError, SourceUnfitError) as error:
                self._show("error", error.explain())
                await trio.sleep(timings.operator_retry)
                continue
            except SourceError as error:
                if error.fatal:
                    self._show("error", error.explain())
                    await trio.sleep(fatal_delay)
                    fatal_delay = min(fatal_delay * 2, timings.fatal_retry_max)
                    continue
                if await self._is_dealt_with(error):
                    continue
                self._show("connecting", error.explain())
            except KingbusError as error:
                self._show("connecting", error.explain())
            if self._proposed > proposed or trio.current_time() - started > timings.stable:
                turn.failures, delay = 0, timings.retry_min
                behind_delay = timings.retry_min
                fatal_delay = timings.operator_retry
            turn.failed()
            # Jitter: clusters that lost one source must not come back to it in step.
            await trio.sleep(delay * self._random.uniform(0.75, 1.25))
            delay = min(delay * 2, timings.retry_max)

    async def _is_dealt_with(self, error: SourceError) -> bool:
        """Errors after which the next session is simply another one."""
        if isinstance(error, DifferentFileError):
            _log.warning("a new epoch begins", reason=str(error))
            self._new_epoch = True
            return True
        if isinstance(error, UnknownFileError):
            _log.warning("the source is asked by GTID set", reason=str(error))
            is_first = not self._ask_by_gtid
            self._ask_by_gtid = True
            return is_first
        if isinstance(error, ChecksumMismatchError):
            self._metrics.checksum_mismatches.inc()
        if isinstance(error, ReplacedAtSourceError):
            # Another node may lead by now: asking a majority shows it, and ends this all.
            with contextlib.suppress(KingbusError):
                await self._node.read_index()
        return False

    async def _one_round(self, config: SourceConfig, turn: _Turn) -> None:
        """A session with the first candidate that can be pulled from.

        The one whose turn it is comes alone, unless an operator is needed for it: then the others
        are looked at, and the first one's error is raised if none fits.
        """
        reason = unfit_config(config) or unfit_flavor(self._relay.state.flavor, config)
        if reason:
            raise SourceUnfitError(reason)
        candidates = order_of(config.addresses, turn.first)
        refusal: KingbusError | None = None
        for address in candidates:
            if self._is_full():
                raise ReserveFullError(RESERVE_FULL)
            try:
                await self._session(config, address)
            except (SourceRefusedError, SourceUnfitError) as error:
                refusal = refusal or error
            except SourceUnreachableError:
                if refusal is None:
                    raise
        if refusal is not None:
            raise refusal

    # -- one session ------------------------------------------------------------------------

    async def _open(
        self, config: SourceConfig, address: str, password: Secret
    ) -> tuple[Connection, SourceFacts]:
        """A connection that has answered everything and is fit; the caller closes it."""
        own_id = self._identity.server_id_of(config)
        own_uuid = self._identity.server_uuid_of(config)
        connection = await self._connect(
            address,
            user=config.user,
            password=password,
            tls=config.tls,
            compression=config.compression,
        )
        try:
            facts = await connection.ask(replica_uuid=own_uuid, heartbeat_seconds=HEARTBEAT_SECONDS)
            reason = unfit_source(
                facts, own_id=own_id, own_uuid=own_uuid, mode=config.mode, flavor=config.flavor
            )
            if reason:
                raise SourceUnfitError(f"{address}: {reason}")
            await connection.register(server_id=own_id, port=0)
            self._binlog_size = facts.max_binlog_size
        except BaseException:
            connection.close()
            raise
        return connection, facts

    def _password(self, config: SourceConfig) -> Secret:
        if not config.HasField("password"):
            return Secret("")
        secret = self._secret()
        if secret is None:
            raise SourceUnreachableError("this node does not have the cluster key yet")
        try:
            return Secret(secret.open(config.password, SOURCE_PASSWORD))
        except SecretError as error:
            raise SourceUnfitError(f"the stored password cannot be read: {error}") from error

    async def _session(self, config: SourceConfig, address: str) -> None:
        """One session; always raises what ended it."""
        if self._address != address:
            self._address = address
            _log.info("connecting", source=address)
        connection, facts = await self._open(config, address, self._password(config))
        try:
            if address != config.addresses[0]:
                self._refuse_replica(facts)
            facts = await self._settled(config, connection, facts)
            self._clock_difference = facts.clock - self._clock()
            if config.semi_sync and not await connection.request_semi_sync():
                _log.warning("the source has no semi-sync: it is not waited for", source=address)
            first_file = ""
            if config.mode == POSITION and self._relay.state.is_empty:
                first_file = await start_file(config, connection.newest_file)
            session = await self._begin_session(config, facts)
            await self._dump(config, connection, facts, session, first_file)
        finally:
            connection.close()
            self._stream = self._acknowledger = None
            self._metrics.open_transaction_bytes.set(0)
            self._metrics.semi_sync_active.set(0)

    def _refuse_replica(self, facts: SourceFacts) -> None:
        """A candidate that still replicates from this relay has all that the relay has, and would
        never get more: it is no source before it is promoted, and the present one may come back.

        Not asked of the first candidate, which an operator chose.
        """
        if facts.server_uuid.lower() in {uuid.lower() for uuid in self._attached()}:
            raise SourceUnreachableError(
                f"{facts.address} replicates from this relay; it is taken once it is promoted"
            )

    async def _settled(
        self, config: SourceConfig, connection: Connection, facts: SourceFacts
    ) -> SourceFacts:
        """The facts, asked for again while the sets do not fit; raises SourceMissesError."""
        tries = 0
        while config.mode != POSITION:
            state, tries = self._relay.state, tries + 1
            has = start_set(config, facts) if state.is_empty else state.executed
            error = misfit(facts, has)
            if error is None:
                return facts
            if tries == MISFIT_TRIES:
                raise error
            await trio.sleep(MISFIT_PAUSE_SECONDS)
            executed, purged = await connection.gtid_sets()
            facts = replace(facts, gtid_executed=executed, gtid_purged=purged)
        return facts

    async def _begin_session(self, config: SourceConfig, facts: SourceFacts) -> int:
        """Proposes the session; its number when this node has applied it."""
        plan = plan_session(self._relay.state, config, facts, new_epoch=self._new_epoch)
        wanted = ReceiverSession(
            channel=self._relay.state.channel,
            member_id=self._node.member_id,
            term=self._node.leadership.term,
            epoch=plan.epoch,
            source_uuid=facts.server_uuid.lower(),
            source_id=facts.server_id,
            source_version=facts.version,
            flavor=facts.flavor,
            start_set=plan.start_set.encode(),
            source_address=facts.address,
            variables=facts.variables,
            mode=config.mode or GTID,
            gtid_mode=facts.gtid_mode.upper(),
        )
        proposal = await self._node.propose(encode(Command(receiver_session=wanted)))
        await proposal.applied()
        if self._relay.state.session != proposal.index:
            raise SessionOverError("the log did not take the receiver's session")
        self._new_epoch = False
        self._metrics.sessions.inc()
        return proposal.index

    async def _dump(
        self,
        config: SourceConfig,
        connection: Connection,
        facts: SourceFacts,
        session: int,
        first_file: str,
    ) -> None:
        point = self._relay.state.resume_point()
        assert point.session == session
        if self._ask_by_gtid:
            point = by_gtid(point)
        point = reachable(point, facts.version, facts.flavor)
        stream = IngestStream(
            point,
            first_rotate_has_crc=facts.checksum != "NONE",
            batch_bytes=self._batch_bytes,
            is_numbered=not config.compression,
        )
        had = mariadb_position(point) if facts.flavor == MARIADB else None
        if had is not None:
            await connection.go_on_from(had)
        command, body = dump_command(
            point,
            server_id=self._identity.server_id_of(config),
            flavor=facts.flavor,
            first_file=first_file,
        )
        await connection.start_dump(command, body)
        _log.info(
            "dump asked for",
            source=facts.address,
            session=session,
            epoch=point.epoch,
            by="gtid set" if point.gtid_mode and not point.by_position else "position",
            file=point.file_name or first_file,
            position=point.dump_position,
        )
        self._stream = stream
        inlet: IngestStream | SemiSyncStream = stream
        pipeline = _Pipeline(self._node, self._relay, session)
        try:
            async with trio.open_nursery() as nursery:
                if config.semi_sync:
                    # Also where it was not granted: what comes shows whether it was.
                    inlet = SemiSyncStream(stream)
                    told = Acknowledger(connection, self._relay, inlet, session=session)
                    self._acknowledger = pipeline.acknowledger = told
                    nursery.start_soon(told.run)
                nursery.start_soon(pipeline.watch)
                try:
                    await self._read(connection, stream, inlet, pipeline)
                except SourceError as error:
                    # What came before it counts; what is under way is not to be thrown away. The
                    # connection may be lost, which is not to be found out instead of the error.
                    if self._acknowledger is not None:
                        self._acknowledger.scope.cancel()
                    await pipeline.settled()
                    if point.gtid_mode:
                        raise
                    raise lost_way(error) from error
        except BaseExceptionGroup as group:
            _raise_first(group)
            raise

    async def _read(
        self,
        connection: Connection,
        stream: IngestStream,
        inlet: IngestStream | SemiSyncStream,
        pipeline: "_Pipeline",
    ) -> None:
        """Reads all there is into `inlet`, cuts batches, proposes them; never returns."""
        while True:
            came, count = 0, None
            while came < READ_BYTES:
                count = connection.read_now(inlet.free())
                if not count:
                    break
                inlet.wrote(count)
                came += count
            is_idle = not count
            # A few small batches under way are enough: what comes meanwhile makes one larger.
            moved = pipeline.moved
            flush = is_idle and (count == 0 or pipeline.under_way < UNDER_WAY_MAX)
            for batch in stream.take(idle=flush):
                await self._wait_for_room()
                await pipeline.propose(batch)
                self._count(batch)
            if flush and stream.is_going_on:
                pipeline.handed_on()
            if stream.has_failed:
                continue  # not to wait for a source that may have nothing more to say
            self._metrics.open_transaction_bytes.set(stream.open_transaction_bytes)
            if stream.is_going_on and self._status != "running":
                self._ask_by_gtid = False
                self._show("running")
            self._is_behind = not is_idle
            if count == 0:
                raise StreamEndedError("the source closed the connection")
            if not is_idle:
                await trio.lowlevel.checkpoint()
            elif flush:
                await connection.wait_readable()
            else:
                await _first_of(connection.wait_readable, moved.wait)

    async def _wait_for_room(self) -> None:
        """While the reserve is full; raises ReserveFullError when it stays so."""
        patience = trio.current_time() + self._timings.full_patience
        while self._is_full():
            if trio.current_time() >= patience:
                raise ReserveFullError(RESERVE_FULL)
            await trio.sleep(ROOM_SECONDS)

    def _count(self, batch: IngestedBatch) -> None:
        self._proposed += 1
        self._metrics.batches.inc()
        self._metrics.events.inc(batch.events)
        self._metrics.bytes.inc(len(batch.packets))
        if batch.meta.last_time:
            self._metrics.last_event_time.set(batch.meta.last_time)

    # -- checking ---------------------------------------------------------------------------

    async def check_source(self, config: SourceConfig, password: str) -> SourceFacts:
        """Connects to the candidates in turn, logs in and checks everything a session would.

        Nothing changes. The facts of the first that fits; takes at most 10 s. Raises
        SourceCheckError with the first candidate's own text when none fits.
        """
        reason = unfit_config(config) or unfit_flavor(self._relay.state.flavor, config)
        if reason:
            raise SourceCheckError(reason)
        first: KingbusError | None = None
        with trio.move_on_after(CHECK_SECONDS_MAX):
            for address in config.addresses:
                try:
                    connection, facts = await self._open(config, address, Secret(password))
                    try:
                        return await self._settled(config, connection, facts)
                    finally:
                        connection.close()
                except (SourceUnreachableError, SourceRefusedError, SourceUnfitError) as error:
                    first = first or error
        raise _check_error(config, first)

    async def ask_facts(self, config: SourceConfig, password: str) -> SourceFacts:
        """What the first candidate that can be asked says of itself; its sets are not compared.

        Nothing changes. Takes at most 10 s. Raises SourceCheckError.
        """
        first: KingbusError | None = None
        with trio.move_on_after(CHECK_SECONDS_MAX):
            for address in config.addresses:
                try:
                    connection, facts = await self._open(config, address, Secret(password))
                except (SourceUnreachableError, SourceRefusedError, SourceUnfitError) as error:
                    first = first or error
                else:
                    connection.close()
                    return facts
        raise _check_error(config, first)

    async def ask_binlog_size(self, config: SourceConfig, password: str) -> int:
        """The source's max_binlog_size; 0 when it does not say it within 3 s."""
        with trio.move_on_after(SIZE_SECONDS_MAX), contextlib.suppress(KingbusError):
            return (await self.check_source(config, password)).max_binlog_size
        return 0


def _check_error(config: SourceConfig, first: KingbusError | None) -> SourceCheckError:
    """That none of the candidates will do: the reason of the first, or that none answered."""
    if first is None:
        return SourceCheckError(
            f"{config.addresses[0]}: no answer within {CHECK_SECONDS_MAX:.0f} s"
        )
    error = SourceCheckError(str(first), hint=first.hint)
    error.is_behind = isinstance(first, SourceBehindError)
    error.__cause__ = first
    return error


class _Pipeline:
    """Batches under way into the log, in order; the first that is refused or lost ends it."""

    def __init__(self, node: Node, relay: Relay, session: int) -> None:
        self._node = node
        self._relay = relay
        self._session = session
        self._waiting: deque[tuple[Proposal, int, bool]] = deque()
        self.acknowledger: Acknowledger | None = None
        """Where the source is to be told of what was applied."""
        self.moved = trio.Event()
        """Set when a batch was proposed or applied; then there is a new one."""

    @property
    def under_way(self) -> int:
        return len(self._waiting)

    async def propose(self, batch: IngestedBatch) -> None:
        """Raises what the node raises: another leader, or none."""
        data = encode(Command(event_batch=batch.meta), batch.packets)
        told = self.acknowledger
        proposal = await self._node.propose(data)
        self._waiting.append((proposal, batch.meta.sequence, told is not None and told.wants))
        self._notify()

    def handed_on(self) -> None:
        """Every whole transaction that was read is under way or applied."""
        if self.acknowledger is None:
            return
        if self.acknowledger.wants and self._waiting:
            proposal, sequence, _ = self._waiting[-1]
            self._waiting[-1] = proposal, sequence, True
        self.acknowledger.handed_on(is_applied=not self._waiting)

    def _notify(self) -> None:
        self.moved.set()
        self.moved = trio.Event()

    async def watch(self) -> None:
        """Follows the batches; raises when one is not applied as it was meant."""
        while True:
            while not self._waiting:
                await self.moved.wait()
            proposal, sequence, is_awaited = self._waiting[0]
            await proposal.applied()
            state = self._relay.state
            if state.session != self._session:
                raise SessionOverError("the receiver's session is over")
            if state.next_sequence <= sequence:
                raise SessionOverError(f"the log refused batch {sequence} of the session")
            self._waiting.popleft()
            if is_awaited and self.acknowledger is not None:
                self.acknowledger.applied()
            self._notify()

    async def settled(self) -> None:
        """Until nothing is under way any more."""
        while self._waiting:
            await self.moved.wait()


async def _first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Until one of them returns; what it raises is raised."""
    try:
        async with trio.open_nursery() as nursery:

            async def run(wait: Callable[[], Awaitable[object]]) -> None:
                await wait()
                nursery.cancel_scope.cancel()

            for wait in waits:
                nursery.start_soon(run, wait)
    except BaseExceptionGroup as group:
        _raise_first(group)
        raise


def _raise_first(group: BaseExceptionGroup[BaseException]) -> None:
    """Raises the first of our own errors in a group; returns when there is none."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _raise_first(error)
        elif isinstance(error, KingbusError):
            raise error from None
