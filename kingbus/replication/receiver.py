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

While it is `held` nothing is pulled. That is a matter of this process and not in the log: whatever
becomes of who holds it, or of the leadership, the next one to lead pulls as the log says.
"""

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from kingbus import log, metrics
from kingbus.binlog.command import COMMAND_VERSION, encode, in_older_words, version_needed
from kingbus.binlog.errors import (
    BeginsInsideError,
    ChecksumMismatchError,
    DifferentFileError,
    HeadReceivedError,
    ReplacedAtSourceError,
    SourceError,
    UnknownFileError,
)
from kingbus.binlog.ingest import BATCH_BYTES, IngestStream
from kingbus.binlog.mariadb_gtid import MARIADB
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import Command, ReceiverSession, SourceConfig
from kingbus.replication.candidates import Candidates, Connect, Connection, Identity, Relay
from kingbus.replication.proposing import Node
from kingbus.replication.pump import RESERVE_FULL, Pump, ReserveFullError, SessionOverError
from kingbus.replication.source_connection import SourceConnection
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
    for_head,
    head_command,
    lost_way,
    mariadb_position,
    misfit,
    order_of,
    plan_session,
    reachable,
    start_file,
    unfit_config,
    unfit_flavor,
)
from kingbus.secrets import ClusterSecret

_log = log.get_logger("receiver")

TURN_FAILURES_MAX: Final = 3
"""Failures in a row before the next candidate address has its turn."""

POLL_SECONDS: Final = 0.5  # for changes that nobody announced


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
        lowest_version: Callable[[], int] = lambda: COMMAND_VERSION,
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
        cluster's replicas, `lowest_version` what version of commands all members understand,
        `clock` is the wall clock, `connect` how a source is reached, `batch_bytes` about how large
        a batch becomes under load. `channel_name` is for people; which channel it is the relay
        says.
        """
        self._node = node
        self._relay = relay
        self._identity = identity
        self._candidates = Candidates(
            relay=relay, identity=identity, secret=secret, attached=attached, connect=connect
        )
        self._is_full = is_full
        self._changed = changed
        self._lowest_version = lowest_version
        self._random = random
        self._clock = clock
        self._timings = timings
        self._batch_bytes = batch_bytes
        self._metrics = metrics.ReceiverMetrics(channel_name)
        self._named = {"channel": channel_name} if channel_name else {}
        self._status = "stopped"
        self._error = ""
        self._address = ""
        self._pump: Pump | None = None
        self._clock_difference = 0.0
        self._proposed = 0
        self._new_epoch = False
        self._ask_by_gtid = False
        self._head_of = ""
        self._head_is_wanted = False
        self._holds = 0
        self._takes_first = False
        self._halted = trio.Event()
        """Set while nothing is pulled."""
        self._halted.set()
        self._looking = trio.CancelScope()
        self._show("stopped")

    # -- for people -------------------------------------------------------------------------

    def status(self) -> ReceiverStatus:
        """What it does now; on a node that does not lead it is stopped."""
        told = self._pump.acknowledger if self._pump is not None else None
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
        return self._candidates.binlog_size

    def _seconds_behind(self) -> int | None:
        pump = self._pump
        if self._status != "running" or pump is None:
            return None
        last = pump.stream.last_event_time or self._relay.state.last_event_time
        if not pump.is_behind or not last:
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

    # -- for who takes another source ---------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts nothing is pulled; see `halted`."""
        self._holds += 1
        self._looking.cancel()
        try:
            yield
        finally:
            self._holds -= 1
            self._looking.cancel()

    async def halted(self) -> None:
        """While it is held: until nothing more is proposed. What was may yet be applied."""
        await self._halted.wait()

    def take_first(self) -> None:
        """The first candidate was chosen by an operator: it is tried first, whatever it is."""
        self._takes_first = True

    # -- running ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Pulls whenever this node leads and the receiver is started."""
        while True:
            term = await self._node.leadership.wait_ready()
            self._takes_first = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._lead)
                await self._node.leadership.wait_lost(term)
                nursery.cancel_scope.cancel()
            self._show("stopped")

    async def _lead(self) -> None:
        while True:
            config = self._relay.state.source_config
            if config is None or not config.started or self._holds:
                self._show("stopped")
                await self._wait_for_change(config)
                continue
            self._halted = trio.Event()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pull, config)
                    await self._wait_for_change(config)
                    nursery.cancel_scope.cancel()
            finally:
                self._halted.set()

    async def _wait_for_change(self, config: SourceConfig | None) -> None:
        """Until the configuration in force is another one, or was applied anew, or it is held, or
        no longer.
        """
        is_held = self._holds > 0
        while self._relay.state.source_config is config and (self._holds > 0) == is_held:
            changed = self._changed()
            with trio.move_on_after(POLL_SECONDS) as self._looking:
                await changed.wait()

    async def _pull(self, config: SourceConfig) -> None:
        """Session after session under one configuration."""
        timings = self._timings
        turn = _Turn(first=self._first(config))
        delay, fatal_delay = timings.retry_min, timings.operator_retry
        behind_delay = timings.retry_min
        self._new_epoch = self._ask_by_gtid = self._head_is_wanted = False
        self._head_of = ""
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

    def _first(self, config: SourceConfig) -> int:
        """The candidate to begin with: the present source, and the first of a new configuration.

        A new leader must not go back to a source that was lost, and came back as something else.
        """
        state, addresses = self._relay.state, list(config.addresses)
        if self._takes_first or not state.session or state.source is None:
            return 0
        present = state.source.source_address
        return addresses.index(present) if present in addresses else 0

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
        if isinstance(error, HeadReceivedError):
            return True
        if isinstance(error, BeginsInsideError):
            is_another = error.file_name != self._head_of
            self._head_of, self._head_is_wanted = error.file_name, True
            return is_another
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

    async def _session(self, config: SourceConfig, address: str) -> None:
        """One session; always raises what ended it."""
        if self._address != address:
            self._address = address
            _log.info("connecting", source=address)
        candidates = self._candidates
        connection, facts = await candidates.open(config, address, candidates.password(config))
        try:
            state = self._relay.state
            if address != config.addresses[0] or (state.session and not self._takes_first):
                candidates.refuse_replica(facts)
            facts = await candidates.settled(config, connection, facts)
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
            if self._pump is not None:
                self._proposed += self._pump.proposed
                self._pump = None
            self._metrics.open_transaction_bytes.set(0)
            self._metrics.semi_sync_active.set(0)

    async def _begin_session(self, config: SourceConfig, facts: SourceFacts) -> int:
        """Proposes the session; its number when this node has applied it."""
        known = self._relay.state.source
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
        if self._lowest_version() < version_needed(Command(receiver_session=wanted)):
            in_older_words(wanted)
        proposal = await self._node.propose(encode(Command(receiver_session=wanted)))
        await proposal.applied()
        state = self._relay.state
        if state.session != proposal.index:
            raise SessionOverError("the log did not take the receiver's session")
        self._new_epoch = self._takes_first = False
        if config.mode != POSITION:
            # What an earlier session had under way came before this one, and is compared only now.
            error = misfit(facts, state.executed, known=known)
            if error is not None:
                raise error
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
        head_only, self._head_is_wanted = self._head_is_wanted, False
        if head_only:
            point, first_file = for_head(point), self._head_of
        stream = IngestStream(
            point,
            first_rotate_has_crc=facts.checksum != "NONE",
            batch_bytes=self._batch_bytes,
            is_numbered=not config.compression,
            head_only=head_only,
        )
        server_id = self._identity.server_id_of(config)
        if head_only:
            command, body = head_command(first_file, server_id=server_id)
        else:
            had = mariadb_position(point) if facts.flavor == MARIADB else None
            if had is not None:
                await connection.go_on_from(had)
            command, body = dump_command(
                point, server_id=server_id, flavor=facts.flavor, first_file=first_file
            )
        await connection.start_dump(command, body)
        by_position = point.by_position or head_only
        _log.info(
            "dump asked for",
            source=facts.address,
            session=session,
            epoch=point.epoch,
            by="gtid set" if point.gtid_mode and not by_position else "position",
            file=point.file_name or first_file,
            position=point.dump_position,
        )
        self._pump = Pump(
            connection,
            stream,
            node=self._node,
            relay=self._relay,
            session=session,
            semi_sync=config.semi_sync,
            is_full=self._is_full,
            patience=self._timings.full_patience,
            going_on=self._goes_on,
            counts=self._metrics,
        )
        try:
            await self._pump.run()
        except SourceError as error:
            if point.gtid_mode:
                raise
            raise lost_way(error) from error

    def _goes_on(self) -> None:
        """Events come."""
        if self._status != "running":
            self._ask_by_gtid = False
            self._head_of = ""
            self._show("running")

    # -- checking ---------------------------------------------------------------------------

    async def check_source(self, config: SourceConfig, password: str) -> SourceFacts:
        """See `Candidates.check_source`. Raises SourceCheckError."""
        return await self._candidates.check_source(config, password)

    async def ask_facts(self, config: SourceConfig, password: str) -> SourceFacts:
        """See `Candidates.ask_facts`. Raises SourceCheckError."""
        return await self._candidates.ask_facts(config, password)

    async def ask_binlog_size(self, config: SourceConfig, password: str) -> int:
        """See `Candidates.ask_binlog_size`."""
        return await self._candidates.ask_binlog_size(config, password)
