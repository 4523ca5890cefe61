"""Performs a binlog dump: reads rows and packets, numbers packets, sends, waits, keeps the period.

What is sent is decided by `dump_session`; this module does it. A batch goes out as it is stored
but for the sequence numbers of its packets, which numpy writes into a copy of bounded size; a
packet larger than that is sent from where it lies. Where the numbers are right already nothing is
copied, and a whole batch that needs no look goes from the log's file to the socket. A slow replica
slows only itself: a dump holds one run of batches (about 1 MiB, or one entry), one output buffer,
and awaits the sink.

Whatever the state machine does meanwhile, a dump reads only what was visible when it asked, and
asks again for the row in which it stands: a row that was cut short behind it has nothing more.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, runtime_checkable

import numpy as np
import trio

from kingbus import metrics
from kingbus.binlog.header import FIRST_POSITION
from kingbus.binlog.relay_state import VisibleEnd
from kingbus.binlog.semi_sync import MARK, MARK_BYTES
from kingbus.errors import KingbusError
from kingbus.mysql import errors
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.dump_session import (
    ALL_SENT,
    CATCHING_UP,
    FINISHED_FILE,
    SENDING,
    WAITING_FOR_FIRST_FILE,
    Begin,
    Behind,
    DumpProgress,
    DumpRefusedError,
    DumpRequest,
    DumpSession,
    Hold,
    Made,
    Piece,
    decode_gtid_set,
    refused,
)
from kingbus.replication.served_batch import (
    PACKET_HEADER,
    PACKET_PAYLOAD_MAX,
    LargeMarked,
    ServedBatch,
    marked,
    renumbered,
)
from kingbus.replication.served_rows import (
    InstallingError,
    PurgedWhileReadingError,
    Readable,
    Row,
)
from kingbus.replication.streams import FileNotSendableError, InThread, PacketFile

__all__ = [
    "CatchUp",
    "DumpProgress",
    "DumpRefusedError",
    "DumpRequest",
    "DumpSink",
    "ServedIdentity",
    "decode_gtid_set",
    "dump_from",
    "find_start",
    "refused",
    "run_dump",
]

ROWS: Final = 256
"""Rows looked at between two turns of the loop: a few milliseconds when all of them are skipped.
The first of them may be passed already, so it is at least 2."""
SPARSE: Final = 4
"""Where more entries than this lie between two of a dump's rows, on average, they are another
channel's, and reading them along would cost more than it saves."""
SLICE_BYTES: Final = 512 << 10
"""Copied and sent at once: large enough that a send's fixed cost vanishes, small enough that a
thousand stalled replicas hold half a gigabyte, not a hundred entries of 16 MiB."""
GATHER_BYTES: Final = 64 << 10
"""Small batches are sent together up to this size."""
ASK_BYTES: Final = 1 << 20
"""Sent to a semi-sync replica without an acknowledgement: about what a batch is under load."""
UNASKED: Final = bytes((MARK, 0))
"""Semi-sync's two bytes before an event that is not to be acknowledged."""
CATCH_UP_SECONDS_MAX: Final = 30.0
"""`server.wait-for-catch-up`: how long a replica that is ahead of this node waits for it."""
HEARTBEAT_SECONDS_MIN: Final = 0.001
"""The smallest period that a replica can be told to want; less would only be load."""
RETRY_SECONDS: Final = 0.5
"""Between two questions to a cluster that has no leader at the moment."""


class DumpSink(Protocol):
    """Where the packets go: numbered from 1, whole ones in each call.

    Only a packet that is larger than SLICE_BYTES comes in two calls, header and payload; no
    cancellation gets between them.
    """

    async def send(self, buffers: bytes | bytearray | memoryview) -> None: ...


@runtime_checkable
class FileSink(DumpSink, Protocol):
    """One that may also take packets where they lie; see `streams.SendingSink`."""

    @property
    def connection(self) -> object | None:
        """None where packets have to come through memory."""
        ...

    async def send_file(self, packets: PacketFile, in_thread: InThread) -> None: ...


class ServedIdentity(Protocol):
    """Who this source says it is, in the events that it makes up."""

    @property
    def server_id(self) -> int: ...


class CatchUp(Protocol):
    """What the node says about the rest of the cluster."""

    async def read_index(self) -> int:
        """An index such that all that was committed before the call is at or below it.

        Raises a KingbusError when there is no leader to ask.
        """
        ...

    async def wait_applied(self, index: int) -> None:
        """Until this node has applied that index."""
        ...


async def run_dump(
    relay: Readable,
    request: DumpRequest,
    *,
    sink: DumpSink,
    identity: ServedIdentity,
    progress: DumpProgress,
    catch_up: CatchUp | None = None,
    catch_up_seconds_max: float = CATCH_UP_SECONDS_MAX,
) -> None:
    """Sends what was asked for; returns at the end of a non-blocking dump, else goes on for ever.

    The caller ends the stream: with an EOF packet when this returns, with an ERR packet when it
    raises DumpRefusedError, both numbered `progress.next_sequence`. `catch_up` None: there is no
    cluster to ask, so what this node has is all there is.
    """
    start = _Start(relay, request, server_id=identity.server_id, progress=progress)
    with _reading(relay, start.session):
        begin = await start.wait(catch_up, catch_up_seconds_max)
        if begin is not None:
            dump = _Dump(relay, request, start.session, sink=sink, progress=progress)
            await dump.open(begin)
            await dump.follow()


async def find_start(
    relay: Readable,
    request: DumpRequest,
    *,
    server_id: int,
    progress: DumpProgress,
    catch_up: CatchUp | None = None,
    catch_up_seconds_max: float = CATCH_UP_SECONDS_MAX,
) -> Begin | None:
    """The first half of `run_dump`: where it begins, None for a non-blocking one of an empty log.

    Nothing is sent. To be called with `relay.reading()`.
    """
    start = _Start(relay, request, server_id=server_id, progress=progress)
    return await start.wait(catch_up, catch_up_seconds_max)


async def dump_from(
    relay: Readable,
    request: DumpRequest,
    begin: Begin,
    *,
    sink: DumpSink,
    server_id: int,
    progress: DumpProgress,
) -> None:
    """The second half of `run_dump`, which may be performed by another process."""
    session = DumpSession(request, server_id=server_id)
    with _reading(relay, session):
        dump = _Dump(relay, request, session, sink=sink, progress=progress)
        await dump.open(begin)
        await dump.follow()


@contextmanager
def _reading(relay: Readable, session: DumpSession) -> Iterator[None]:
    """What ends a dump because of what becomes of the log, as the errors of MySQL."""
    try:
        with relay.reading():
            yield
    except PurgedWhileReadingError:
        raise session.purged() from None
    except InstallingError:
        raise refused(errors.installing_snapshot()) from None


class _Start:
    """A dump of which nothing was sent yet."""

    def __init__(
        self, relay: Readable, request: DumpRequest, *, server_id: int, progress: DumpProgress
    ) -> None:
        self.session = DumpSession(request, server_id=server_id)
        self._relay = relay
        self._request = request
        self._progress = progress

    async def wait(self, node: CatchUp | None, seconds_max: float) -> Begin | None:
        """Where to begin; None for a non-blocking dump of an empty log.

        Nothing was sent when this returns or raises DumpRefusedError: a replica that got an event
        and then an error would come back at once, and again.
        """
        caught_up = node is None
        give_up_at = math.inf
        while True:
            visible = self._relay.state.visible
            out_of_time = trio.current_time() >= give_up_at
            match self.session.start(self._relay.state, caught_up=caught_up or out_of_time):
                case Begin() as begin:
                    return begin
                case Hold():
                    if self._request.non_blocking:
                        return None
                    self._progress.state = WAITING_FOR_FIRST_FILE
                    await self._relay.wait_beyond(visible)
                case Behind():
                    assert node is not None
                    self._progress.state = CATCHING_UP
                    if give_up_at == math.inf:
                        give_up_at = trio.current_time() + seconds_max
                    with trio.move_on_at(give_up_at):
                        caught_up = await self._catch_up(node)

    async def _catch_up(self, node: CatchUp) -> bool:
        """Whether this node now has all that the cluster had committed when it was asked."""
        visible = self._relay.state.visible
        try:
            await node.wait_applied(await node.read_index())
        except KingbusError:
            # Nobody to ask; what the replica needs may come nevertheless.
            with trio.move_on_after(RETRY_SECONDS):
                await self._relay.wait_beyond(visible)
            return False
        return True


class _Dump:
    """One dump on its way; see `run_dump`."""

    def __init__(
        self,
        relay: Readable,
        request: DumpRequest,
        session: DumpSession,
        *,
        sink: DumpSink,
        progress: DumpProgress,
    ) -> None:
        self.session = session
        self._relay = relay
        self._request = request
        self._out = _Output(sink, progress, marks=request.semi_sync)
        self._progress = progress
        self._index = 0  # the entry in which the dump stands,
        self._packet = 0  # and how many of its packets it has passed
        self._ahead: dict[int, ServedBatch] = {}

    async def open(self, begin: Begin) -> None:
        """Sends the first events and finds the first packet."""
        file = begin.file
        description: bytes | memoryview = file.description
        if not description:
            description = (await self._look_at(file.first_index, file.first_index)).event(0)
        events = self.session.open(begin, description)
        refusal = self.session.checksum_refusal(file, len(description))
        if refusal is not None:
            await self._out.send(events[:1])
            raise refusal
        await self._out.send(events)
        self._index, self._packet = file.first_index, 0
        if begin.position > FIRST_POSITION:
            await self._find(begin)
        self._progress.file, self._progress.position = file.served_name, begin.position

    async def _find(self, begin: Begin) -> None:
        row = await self._row_at(begin)
        if row is None:
            if begin.position == begin.file.cut_position:
                return  # nothing is held of the file yet behind the cut
            raise self.session.purged()
        self._index, self._packet = row.index, row.row.packets
        if begin.position > row.row.end_position:
            return  # behind a gap, and what follows it is not visible yet
        packet = (await self._look_at(row.index, row.index)).packet_at(begin.position)
        if packet is not None:
            self._packet = packet
        elif begin.position < row.row.end_position:
            raise self.session.inside_event()

    async def _row_at(self, begin: Begin) -> Row | None:
        """Where to begin in a file. It may take long to find, so heartbeats are kept up."""
        found: Row | None = None
        failure: Exception | None = None
        ended = trio.Event()

        async def find() -> None:
            nonlocal found, failure
            try:
                found = await self._relay.find_row(begin.file, begin.position)
            except KingbusError as error:
                failure = error
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(find)
            while not ended.is_set():
                with trio.move_on_at(self._heartbeat_at):
                    await ended.wait()
                if ended.is_set():
                    break
                try:
                    await self._out.send([self.session.heartbeat()])
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    failure = error
                    nursery.cancel_scope.cancel()
                    break
        if failure is not None:
            raise failure
        return found

    # -- the stream -------------------------------------------------------------------------

    async def follow(self) -> None:
        """Sends row after row, and at the end of the log waits for more."""
        is_bounded = self._request.until is not None
        while True:
            visible = self._relay.state.visible
            rows = await self._relay.read_rows(self._index - 1, ROWS)
            moved = False
            sparse = rows and rows[-1].index - rows[0].index > SPARSE * len(rows)
            for row in rows:
                if is_bounded and row.index > self._index and not row.row.begins_in_transaction:
                    last = self.session.last_of_all()
                    if last is not None:
                        await self._out.send([last])
                        return
                moved |= await self._pass(row, row.index if sparse else rows[-1].index)
            await self._out.flush()
            if moved:
                await self._keep_alive()
                continue
            self._check_held()
            last = self.session.last_of_all()
            if last is not None:
                await self._out.send([last])
                return
            await self._out.send(self.session.at_end(visible))
            self._progress.state = ALL_SENT
            if self._request.non_blocking:
                return
            await self._wait_beyond(visible)
            self._progress.state = SENDING

    def _check_held(self) -> None:
        """Nothing is left to be sent; it may have been cut off without anything behind it."""
        file = self._relay.state.file(self.session.file)
        if file is None or file.cut_position > self.session.position:
            raise self.session.purged()

    async def _pass(self, row: Row, last_index: int) -> bool:
        """Sends what is to be sent of a row; False when it was passed before."""
        first = self._packet if row.index == self._index else 0
        if first >= row.row.packets:
            return False
        session, state = self.session, self._relay.state
        file, left = state.file(row.row.file), state.file(session.file)
        if file is None or left is None or left.cut_position > session.position:
            raise session.purged()
        if file.ordinal != session.file:
            await self._enter(file, left, row, last_index)
        self._progress.state = SENDING
        if not session.skips(row, first, file):
            if self._out.takes_files and session.is_whole(row, first, file):
                await self._pass_whole(row, file, last_index)
            else:
                batch = await self._batch(row.index, last_index)
                await self._send(session.pieces(row, batch, first, file, state), batch, row)
        if self._request.until is not None:
            session.note_passed(row.row)
        self._index, self._packet = row.index, row.row.packets
        self._progress.file, self._progress.position = file.served_name, session.position
        return True

    async def _enter(self, file: FileRow, left: FileRow, row: Row, last_index: int) -> None:
        """The dump goes on in a file that begins with this row."""
        session = self.session
        self._progress.state = FINISHED_FILE
        self._out.add(session.enter(file, left=left))
        description = (await self._look_at(row.index, last_index)).event(0)
        refusal = session.checksum_refusal(file, len(description))
        if refusal is not None:
            await self._out.flush()
            raise refusal

    async def _pass_whole(self, row: Row, file: FileRow, last_index: int) -> None:
        """Sends all of a row, from the log's file if that is possible.

        In phase it is also cheaper to send what has to be read.
        """
        session, out = self.session, self._out
        beats = session.beats_to_phase(row, file, out.next_sequence)
        if beats and not row.row.begins_in_transaction:
            out.add(session.beats(beats))
            beats = 0
        packets: PacketFile | None = None
        if out.next_sequence == row.row.first_sequence and row.index not in self._ahead:
            packets = self._relay.stored(row)
        if packets is None or not await out.send_unread(
            packets, row.row.packets, self._relay.in_thread
        ):
            batch = await self._batch(row.index, last_index)
            await self._send(session.pieces_with_beats(row, batch, beats), batch, row)
            return
        session.pass_whole(row)
        self._progress.last_event_time = row.row.last_time or self._progress.last_event_time
        if row.row.HasField("last_gtid"):
            gtid = row.row.last_gtid
            self._progress.last_transaction = gtid.uuid, gtid.tag, gtid.last

    async def _send(self, pieces: Sequence[Piece], batch: ServedBatch, row: Row) -> None:
        """Sends what is to be sent of a batch, which ends with this row."""
        asked = self._asked(batch, row) if self._out.marks else 0
        for piece in pieces:
            if isinstance(piece, Made):
                self._out.add([piece])
            else:
                first = piece.first
                if first < asked <= piece.last:
                    await self._out.send_stored(batch, first, asked, ask=True)
                    first = asked
                await self._out.send_stored(batch, first, piece.last)
        self._progress.last_event_time = batch.meta.last_time or self._progress.last_event_time
        transaction = batch.transaction_before(row.row.packets)
        if transaction is not None:
            self._progress.last_transaction = transaction

    def _asked(self, batch: ServedBatch, row: Row) -> int:
        """Behind which packet a semi-sync replica is to say that it has all up to there; 0: none.

        At the end of the log, and now and then on the way to it: an acknowledgement tells of
        everything before it, so there need not be one for each transaction.
        """
        out, meta = self._out, batch.meta
        is_last = row.index >= self._relay.state.visible.index
        if not (is_last or out.unasked_bytes >= ASK_BYTES):
            return 0
        ends_transaction = bool(meta.visible_transactions) or meta.closes_transaction
        return meta.visible_packets if ends_transaction else 0

    async def _batch(self, index: int, through: int) -> ServedBatch:
        batch = self._ahead.pop(index, None)
        if batch is None:
            batches = await self._relay.read_batches(index, through)
            batch = batches.get(index)
            assert batch is not None, f"entry {index} has a row and is no batch"
            self._ahead = dict(batches) if len(batches) > 1 else {}
            self._ahead.pop(index, None)
        return batch

    async def _look_at(self, index: int, through: int) -> ServedBatch:
        """The same of a batch that will be sent later."""
        batch = self._ahead[index] = await self._batch(index, through)
        return batch

    # -- waiting ----------------------------------------------------------------------------

    @property
    def _heartbeat_at(self) -> float:
        """The period counts from the last packet; without one there is no heartbeat."""
        period = self._request.heartbeat_period_s
        if not self.session.may_beat:
            return math.inf
        return self._out.sent_at + max(period, HEARTBEAT_SECONDS_MIN) if period else math.inf

    async def _keep_alive(self) -> None:
        """A long stretch that is skipped must not look like a dead source."""
        if self.session.is_skipping and trio.current_time() >= self._heartbeat_at:
            await self._out.send([self.session.heartbeat()])

    async def _wait_beyond(self, visible: VisibleEnd) -> None:
        while True:
            with trio.move_on_at(self._heartbeat_at) as until_heartbeat:
                await self._relay.wait_beyond(visible)
            if not until_heartbeat.cancelled_caught:
                return
            await self._out.send([self.session.heartbeat()])


class _Output:
    """Frames and numbers packets; small ones are gathered, so `flush` before any wait."""

    def __init__(self, sink: DumpSink, progress: DumpProgress, *, marks: bool) -> None:
        """`marks`: semi-sync's two bytes come before each event; so nothing goes out as it lies."""
        self.sent_at = trio.current_time()
        self.unasked_bytes = 0
        """Of stored packets, since an acknowledgement was asked for."""
        self._sink = sink
        self._file_sink: FileSink | None = None
        if isinstance(sink, FileSink) and sink.connection is not None and not marks:
            self._file_sink = sink
        self.marks = marks
        self._large: LargeMarked | None = None
        self._progress = progress
        self._sequence = progress.next_sequence
        self._gathered = bytearray()

    @property
    def takes_files(self) -> bool:
        """Whether `send_unread` is possible."""
        return self._file_sink is not None

    @property
    def next_sequence(self) -> int:
        """The number of the next packet, 0 to 255."""
        return self._sequence & 0xFF

    def add(self, events: Sequence[Made]) -> None:
        """Takes events that were made up; they are far smaller than a packet may be."""
        for made in events:
            size = 1 + len(made.event) + (MARK_BYTES if self.marks else 0)
            assert size < PACKET_PAYLOAD_MAX
            self._gathered += size.to_bytes(3, "little")
            self._gathered.append(self._sequence & 0xFF)
            self._gathered.append(0)
            if self.marks:
                self._gathered += UNASKED
            self._gathered += made.event
            self._sequence += 1

    async def send(self, events: Sequence[Made]) -> None:
        """Sends them at once, with what was gathered before."""
        self.add(events)
        await self.flush()

    async def flush(self) -> None:
        """Sends what was gathered, if anything."""
        if self._gathered:
            gathered, self._gathered = self._gathered, bytearray()
            await self._put(gathered)

    async def send_stored(
        self, batch: ServedBatch, first: int, last: int, *, ask: bool = False
    ) -> None:
        """Sends packets `first` to `last` - 1 of a batch; small ones wait for the next `flush`.

        `ask`: a semi-sync replica is to acknowledge the last one.
        """
        offsets = batch.offsets
        if self.marks:
            self.unasked_bytes += int(offsets[last] - offsets[first])
            await self._send_marked(batch, first, last, ask=ask)
            return
        if len(self._gathered) + int(offsets[last] - offsets[first]) <= GATHER_BYTES:
            # What a waiting dump gets, mostly: a transaction.
            self._gathered += renumbered(batch, first, last, self._sequence).data
            self._sequence += last - first
            return
        while first < last:
            start = int(offsets[first])
            stop = int(np.searchsorted(offsets, start + SLICE_BYTES, side="right")) - 1
            stop = min(stop, last)
            if stop == first:
                await self._send_large(batch, first)
                first += 1
                continue
            size = int(offsets[stop]) - start
            if len(self._gathered) + size > GATHER_BYTES:
                await self.flush()
            if size > GATHER_BYTES and batch.sequence_of(first) == self.next_sequence:
                self._sequence += stop - first
                await self._put(batch.packets[start : start + size])
                first = stop
                continue
            packets = renumbered(batch, first, stop, self._sequence)
            self._sequence += stop - first
            if size > GATHER_BYTES:
                await self._put(packets.data)
            else:
                self._gathered += packets.data
            first = stop

    async def _send_marked(self, batch: ServedBatch, first: int, last: int, *, ask: bool) -> None:
        """The same in semi-sync's form."""
        offsets = batch.offsets
        while first < last:
            if not batch.fits_marked(first):
                await self._send_large_marked(batch, first)
                first += 1
                continue
            start = int(offsets[first])
            stop = int(np.searchsorted(offsets, start + SLICE_BYTES, side="right")) - 1
            stop = min(max(stop, first + 1), last)
            asks = ask and stop == last
            packets = marked(batch, first, stop, self._sequence, ask=asks)
            self._sequence += stop - first
            if asks:
                # Both sides begin to count again behind an event that asks.
                self._sequence, self.unasked_bytes = 1, 0
            if len(self._gathered) + len(packets) > GATHER_BYTES:
                await self.flush()
            self._gathered += packets.data
            first = stop
        if len(self._gathered) > GATHER_BYTES:
            await self.flush()

    async def _send_large_marked(self, batch: ServedBatch, packet: int) -> None:
        """A packet of an event that spans packets, in this form or as it is stored."""
        await self.flush()
        start, end = int(batch.offsets[packet]), int(batch.offsets[packet + 1])
        payload = batch.packets[start + PACKET_HEADER : end]
        if self._large is None:
            if not batch.begins_event[packet]:
                return  # empty: it ends an event of full packets only, and that is sent by now
            self._large = LargeMarked(payload)
            payload = payload[1:]
        for part in self._large.take(payload):
            part[3] = self._sequence & 0xFF
            self._sequence += 1
            await self._put(part)
        if self._large.is_done:
            self._large = None

    async def _send_large(self, batch: ServedBatch, packet: int) -> None:
        """One packet of up to 16 MiB, from where it lies."""
        await self.flush()
        start, end = int(batch.offsets[packet]), int(batch.offsets[packet + 1])
        header = bytearray(batch.packets[start : start + PACKET_HEADER])
        header[3] = self._sequence & 0xFF
        self._sequence += 1
        with trio.CancelScope(shield=True):
            await self._put(header)
            await self._put(batch.packets[start + PACKET_HEADER : end])
        await trio.lowlevel.checkpoint_if_cancelled()

    async def send_unread(self, packets: PacketFile, count: int, in_thread: InThread) -> bool:
        """Sends `count` packets that lie in a file and bear the numbers that are next.

        False when that is not possible here, and never will be: nothing was sent then.
        """
        assert self._file_sink is not None
        await self.flush()
        before = self._sequence
        self._sequence += count
        self._progress.next_sequence = self.next_sequence
        try:
            await self._file_sink.send_file(packets, in_thread)
        except KingbusError as error:
            self._sequence = before  # nothing of it was sent
            self._progress.next_sequence = self.next_sequence
            if isinstance(error, FileNotSendableError):
                self._file_sink = None
                return False
            raise
        self._sent(packets.length)
        self._progress.file_bytes_sent += packets.length
        metrics.DUMP_FILE_BYTES.inc(packets.length)
        return True

    async def _put(self, data: bytearray | memoryview) -> None:
        # Before it is sent: a cancelled sink has sent the whole buffer or is of no further use.
        self._progress.next_sequence = self.next_sequence
        await self._sink.send(data)
        self._sent(len(data))

    def _sent(self, size: int) -> None:
        self.sent_at = self._progress.last_send_time = trio.current_time()
        self._progress.bytes_sent += size
        metrics.DUMP_BYTES.inc(size)
