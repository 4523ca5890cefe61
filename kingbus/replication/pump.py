"""A dump on its way into the log: reads the source's socket, cuts batches, proposes them in order.

Owns one session from its dump command on: how much is read at once, how many batches are under way,
the wait for room, and that the first batch that is refused or lost ends it all. What of the stream
is stored is decided in `binlog/ingest.py`, what is acknowledged in `acknowledging.py`. Must not
know how a connection was opened, nor what follows when it ends.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from kingbus import metrics
from kingbus.binlog.command import encode
from kingbus.binlog.errors import SourceError, StreamEndedError
from kingbus.binlog.ingest import IngestedBatch, IngestStream
from kingbus.binlog.relay_state import RelayState
from kingbus.binlog.semi_sync import SemiSyncStream
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import Command
from kingbus.replication.acknowledging import Acknowledger
from kingbus.replication.proposing import Node, Proposal

UNDER_WAY_MAX: Final = 8
"""While this many proposals wait, what has come is gathered into a larger batch instead."""

READ_BYTES: Final = 512 << 10
"""Read in one go before other tasks have their turn: a millisecond or two."""

ROOM_SECONDS: Final = 0.02
"""Between two looks for room: a purge takes a little longer, the source's patience is a minute."""

RESERVE_FULL: Final = "reserve full"


class ReserveFullError(KingbusError):
    """No more may be stored."""


class SessionOverError(KingbusError):
    """The log took another course: the session is not the valid one any more."""


class Relay(Protocol):
    """The applied log."""

    @property
    def state(self) -> RelayState: ...


class Connection(Protocol):
    """The way to the source, in the middle of a dump."""

    def read_now(self, room: memoryview) -> int | None: ...
    async def wait_readable(self) -> None: ...
    async def send(self, data: bytes) -> None: ...


class Pump:
    """See the module. For one session, whose dump was asked for; `run` it once."""

    def __init__(
        self,
        connection: Connection,
        stream: IngestStream,
        *,
        node: Node,
        relay: Relay,
        session: int,
        semi_sync: bool,
        is_full: Callable[[], bool],
        patience: float,
        going_on: Callable[[], None],
        counts: metrics.ReceiverMetrics,
    ) -> None:
        """`semi_sync`: it was asked for. `is_full` says that the reserve is used up, `patience` for
        how many seconds room is waited for; `going_on` is called while events come.
        `counts` are the receiver's metrics.
        """
        self._metrics = counts
        self.stream = stream
        self.acknowledger: Acknowledger | None = None
        self.is_behind = False
        """More was there to be read when it was last looked."""
        self.proposed = 0
        """Batches."""
        self._connection = connection
        self._pipeline = _Pipeline(node, relay, session)
        self._inlet: IngestStream | SemiSyncStream = stream
        self._is_full = is_full
        self._patience = patience
        self._going_on = going_on
        if semi_sync:
            # Also where it was not granted: what comes shows whether it was.
            self._inlet = inlet = SemiSyncStream(stream)
            told = Acknowledger(connection, relay, inlet, session=session, counts=counts)
            self.acknowledger = self._pipeline.acknowledger = told

    async def run(self) -> None:
        """Never returns; raises what ended the dump."""
        try:
            async with trio.open_nursery() as nursery:
                if self.acknowledger is not None:
                    nursery.start_soon(self.acknowledger.run)
                nursery.start_soon(self._pipeline.watch)
                try:
                    await self._read()
                except SourceError:
                    # What came before it counts; what is under way is not to be thrown away. The
                    # connection may be lost, which is not to be found out instead of the error.
                    if self.acknowledger is not None:
                        self.acknowledger.scope.cancel()
                    await self._pipeline.settled()
                    raise
        except BaseExceptionGroup as group:
            _raise_first(group)
            raise

    async def _read(self) -> None:
        """Reads all there is, cuts batches, proposes them; never returns."""
        connection, pipeline = self._connection, self._pipeline
        stream, inlet = self.stream, self._inlet
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
            if stream.is_going_on:
                self._going_on()
            self.is_behind = not is_idle
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
        patience = trio.current_time() + self._patience
        while self._is_full():
            if trio.current_time() >= patience:
                raise ReserveFullError(RESERVE_FULL)
            await trio.sleep(ROOM_SECONDS)

    def _count(self, batch: IngestedBatch) -> None:
        self.proposed += 1
        self._metrics.batches.inc()
        self._metrics.events.inc(batch.events)
        self._metrics.bytes.inc(len(batch.packets))
        if batch.meta.last_time:
            self._metrics.last_event_time.set(batch.meta.last_time)


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
