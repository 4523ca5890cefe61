"""The stream behind a dump command, made into batches for the log: the pure heart of the receiver.

Owns everything that decides what of a source's stream is stored: framing and sequence numbers,
checksums, positions, file changes, what is dropped on a resume, gaps, transaction boundaries, and
where batches are cut. Bytes go in by `receive` (or are read straight into `free`), complete
batches come out of `take`. Must not know of sockets, clocks, Raft or how a batch is encoded.

Speed: everything is numpy, or one call of zlib, over the run of packets at hand. Events that need
more than that (artificial ones, heartbeats, a file's first two, events of 16 MiB and more) are few,
and taken one by one.

Memory: at most one batch and one packet of 16 MiB are held (`ReceiveBuffer`).

What makes it stop is an error of `binlog/errors.py`, raised by `take` once everything before it
was handed out.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from kingbus.binlog.batch import BatchBuilder, Run
from kingbus.binlog.boundary import CLASS_OF_TYPE, EventClass, Indexes, classify_query
from kingbus.binlog.checksum import CRC_BYTES, are_intact, is_intact
from kingbus.binlog.errors import (
    BeginsInsideError,
    ChecksumMismatchError,
    DifferentFileError,
    EncryptedStreamError,
    EventTooLargeError,
    GapError,
    HeadReceivedError,
    InconsistentTransactionError,
    MalformedEventError,
    MalformedStreamError,
    SourceError,
    SourceLostTailError,
    StreamEndedError,
    error_packet,
)
from kingbus.binlog.event_reader import EventReader
from kingbus.binlog.event_types import (
    HEARTBEAT_TYPES,
    MARIADB_EVENT_TYPES_MIN,
    EventType,
    name_of,
)
from kingbus.binlog.events import (
    FormatDescription,
    Heartbeat,
    Rotate,
    decode_previous_gtids,
    previous_gtids_body,
    query_text,
)
from kingbus.binlog.header import FIRST_POSITION, FLAG_ARTIFICIAL, HEADER_BYTES, EventHeader
from kingbus.binlog.large_event import LargeEvent
from kingbus.binlog.mariadb import decode_gtid_list
from kingbus.binlog.mariadb_gtid import Position
from kingbus.binlog.receive_buffer import PACKET_HEADER, PACKET_LENGTH_MAX, ReceiveBuffer
from kingbus.binlog.resume import HeldTail, ResumePoint
from kingbus.binlog.transactions import Transactions
from kingbus.crc import crc32
from kingbus.pb.command_pb2 import EventBatch, FileStart

__all__ = ["BATCH_BYTES", "ENTRY_BYTES_MAX", "IngestStream", "IngestedBatch", "ResumePoint"]

BATCH_BYTES: Final = 1 << 20
"""About what a batch holds under load: large enough that its fixed costs vanish (a proposal, an
fdatasync, some forty numpy calls), small enough that a batch takes about 10 ms."""

ENTRY_BYTES_MAX: Final = PACKET_LENGTH_MAX + PACKET_HEADER
"""The longest packet must fit into an entry; nothing needs more."""

_U32: Final = 0xFFFF_FFFF
_EVENT: Final = PACKET_HEADER + 1  # where the event lies in a packet, behind the OK byte
_TYPE: Final = _EVENT + 4
_SIZE: Final = _EVENT + 9
_LOG_POS: Final = _EVENT + 13
_FLAGS: Final = _EVENT + 17

_ONE_BY_ONE: Final = np.zeros(256, dtype=np.bool_)
_ONE_BY_ONE[
    [
        EventType.FORMAT_DESCRIPTION,
        EventType.PREVIOUS_GTIDS,
        EventType.GTID_LIST,
        EventType.START_ENCRYPTION,
        *sorted(HEARTBEAT_TYPES),
    ]
] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedBatch:
    """One entry's worth: the meta with session and sequence filled in, and its packets."""

    meta: EventBatch
    packets: bytes
    events: int


class IngestStream:
    """See the module. After an error was raised the stream is of no further use."""

    def __init__(
        self,
        resume: ResumePoint,
        *,
        verify_checksums: bool = True,
        batch_bytes: int = BATCH_BYTES,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
        first_rotate_has_crc: bool = True,
        packet_length_max: int = PACKET_LENGTH_MAX,
        is_numbered: bool = True,
        head_only: bool = False,
    ) -> None:
        """`first_rotate_has_crc`: the checksum that the connection announced is not NONE.

        `is_numbered`: packets bear the numbers that follow one another. On compressed connections
        a source leaves numbers out, as nobody looks at them there.

        `head_only`: it ends, with HeadReceivedError, behind what a file begins with.

        `packet_length_max` is the protocol's number; tests set a smaller one, so that events of
        several packets need not be of 16 MiB.
        """
        assert entry_bytes_max >= ENTRY_BYTES_MAX
        assert 0 < batch_bytes <= entry_bytes_max
        self._resume = resume
        self._verify = verify_checksums
        self._batch_bytes = batch_bytes
        self._entry_bytes_max = entry_bytes_max
        self._packet_length_max = packet_length_max
        self._is_numbered = is_numbered
        self._head_only = head_only
        self._buffer = ReceiveBuffer(
            bytes_usual=batch_bytes * 2, bytes_max=batch_bytes + ENTRY_BYTES_MAX
        )
        self._reader = EventReader(self._buffer, crc_bytes=CRC_BYTES if first_rotate_has_crc else 0)
        self._executed = resume.executed
        self._ready: list[IngestedBatch] = []
        self._failure: SourceError | None = None
        self._sequence = 1  # of the next packet; the dump command had 0
        self._batch_sequence = 0

        self._file = ""
        self._wants_description = False
        self._wants_previous_gtids = False
        self._may_leave_positions_out = False
        self._rotated_to = 0
        self._is_held_file = False
        self._created_expected: int | None = None
        self._known = FIRST_POSITION  # up to here the present file is held
        self._cursor = 0  # where in the present file the next event lies
        self._stored = 0  # where in it the batches so far (or what was held) end
        self._tail = HeldTail(resume)
        self._transactions = Transactions(resume.executed, gtid_mode=resume.gtid_mode)
        self._large: LargeEvent | None = None
        self._builder = BatchBuilder(0)

        self.open_transaction_bytes = 0
        """Bytes read of the transaction that is open at the end of what was looked at."""
        self.events = 0
        """Events in the batches made so far."""
        self.bytes = 0
        """Bytes of packets in the batches made so far."""
        self.last_event_time = 0
        """Time (s) in the last event of the batches made so far that has one."""

    # -- bytes in, batches out --------------------------------------------------------------

    def free(self) -> memoryview:
        """Room to read the socket into (256 KiB or more); tell `wrote` how much came."""
        try:
            return self._buffer.free()
        except BufferError:
            self._advance(idle=False)
            return self._buffer.free()

    def wrote(self, count: int) -> None:
        """`count` bytes were read into what `free` gave."""
        self._buffer.wrote(count)
        if self._failure is not None:
            self._buffer.base = self._buffer.end

    @property
    def has_failed(self) -> bool:
        """Whether `take` will raise as soon as all that was before the error is handed out."""
        return self._failure is not None

    @property
    def is_going_on(self) -> bool:
        """Whether the stream has shown that it goes on where the relay ends: all compared."""
        return bool(self._file) and not self._wants_description and self._cursor >= self._known

    def receive(self, data: memoryview | bytearray | bytes) -> None:
        """Takes raw bytes from the socket; copies them."""
        view = memoryview(data)
        while view and self._failure is None:
            room = self.free()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self._buffer.wrote(count)
            view = view[count:]

    def fail(self, error: SourceError) -> None:
        """What fed the stream cannot go on: as if the stream itself had found it."""
        if self._failure is None:
            self._advance(idle=True)
        if self._failure is None:
            self._fail(error)

    def take(self, *, idle: bool) -> list[IngestedBatch]:
        """The batches that are complete.

        `idle` says that the socket has nothing more now: everything up to the last transaction's
        end is handed out; of an open transaction only what fills a batch.
        Raises SourceError when the stream cannot go on and all before it was handed out.
        """
        self._advance(idle=idle)
        ready, self._ready = self._ready, []
        if not ready and self._failure is not None:
            raise self._failure
        return ready

    def _advance(self, *, idle: bool) -> None:
        if self._failure is not None:
            return
        try:
            while self._step(idle=idle):
                pass
            if idle:
                self._emit_visible()
        except SourceError as error:
            self._fail(error)
        except MalformedEventError as error:
            self._fail(MalformedStreamError(f"{error}, {self._place()}"))

    def _fail(self, error: SourceError) -> None:
        """Hands out what was whole before the error; what is behind it will be asked for again."""
        self._failure = error
        try:
            self._emit_visible()
        except SourceError as second:
            self._failure = second
        self._buffer.base = self._buffer.end  # of no use any more, and room for what still comes

    def _place(self) -> str:
        return f"in {self._file or 'the first event'} at position {self._cursor}"

    def _step(self, *, idle: bool) -> bool:
        """Looks at the packets of about one batch; whether there may be more to do."""
        buffer, builder = self._buffer, self._builder
        if not idle and len(buffer) < self._batch_bytes:
            return False
        at = buffer.base + builder.bytes
        offsets, stop = buffer.walk(at, max(at + 1, buffer.base + self._batch_bytes))
        is_full = False
        if len(offsets) and stop - buffer.base > self._entry_bytes_max:
            stop, offsets = int(offsets[-1]), offsets[:-1]  # it needs an entry for itself
            is_full = True
        if len(offsets):
            self._look_at(offsets, stop)
        is_full |= self._builder.bytes >= self._batch_bytes and not self._wants_previous_gtids
        if is_full:
            self._emit_all()
        return is_full or bool(len(offsets))

    # -- packets ----------------------------------------------------------------------------

    def _look_at(self, offsets: Indexes, stop: int) -> None:
        """Takes in the packets at `offsets` (in the buffer), of which the last ends at `stop`."""
        buffer = self._buffer
        bytes8, u32 = buffer.bytes8, buffer.unaligned("<u4")
        numbers = bytes8[offsets + 3]
        wrong = numbers != (np.arange(len(numbers)) + self._sequence).astype(np.uint8)
        if self._is_numbered and wrong.any():
            at = int(wrong.argmax())
            if at:  # what was before it counts
                self._look_at(offsets[:at], int(offsets[at]))
            raise MalformedStreamError(
                f"packet sequence number {numbers[at]} instead of {self._sequence}, {self._place()}"
            )
        self._sequence = (self._sequence + len(numbers)) & 0xFF
        stops = np.append(offsets[1:], stop)
        lengths = stops - offsets - PACKET_HEADER
        full = lengths == self._packet_length_max
        continues = np.empty_like(full)
        continues[0] = self._large is not None
        continues[1:] = full[:-1]
        special = full | continues
        special |= lengths <= HEADER_BYTES
        special |= bytes8[offsets + PACKET_HEADER] != 0
        special |= _ONE_BY_ONE[bytes8[offsets + _TYPE]]
        unplaced = u32[offsets + _LOG_POS] == 0
        if self._may_leave_positions_out:
            unplaced &= (buffer.unaligned("<u2")[offsets + _FLAGS] & FLAG_ARTIFICIAL) != 0
        special |= unplaced
        # Taking out what is not stored moves `base`, never what lies in the buffer.
        first = 0
        for at in np.flatnonzero(special).tolist():
            if first < at:
                self._ordinary(offsets[first:at], stops[first:at])
            self._one(int(offsets[at]), int(stops[at]))
            first = at + 1
        if first < len(offsets):
            self._ordinary(offsets[first:], stops[first:])
        self._note_open_bytes()

    def _note_open_bytes(self) -> None:
        large = 0 if self._large is None else self._large.received
        if self._transactions.open is None:
            self.open_transaction_bytes = 0
        else:
            self.open_transaction_bytes = self._cursor - self._transactions.open_position + large

    def _one(self, at: int, stop: int) -> None:
        """A packet that is not simply stored, or whose event spans several."""
        data, length = self._buffer.data, stop - at - PACKET_HEADER
        if self._large is not None:
            self._continue_large(self._large, at, stop)
            return
        if length == 0:
            raise MalformedStreamError(f"an empty packet, {self._place()}")
        mark = data[at + PACKET_HEADER]
        payload = self._buffer.view[at + PACKET_HEADER : stop]
        if mark == 0xFE and length < 9:
            raise StreamEndedError("the source ended the stream")
        if mark == 0xFF:
            raise _error_packet(bytes(payload))
        if mark != 0 or length <= HEADER_BYTES:
            raise MalformedStreamError(
                f"a packet of {length} bytes that begins with {mark:#04x}, {self._place()}"
            )
        event = payload[1:]
        header = EventHeader.decode(event)
        if length == self._packet_length_max:
            self._begin_large(at, stop, header)
            return
        if header.size != len(event):
            raise MalformedStreamError(
                f"an event of {len(event)} bytes that says {header.size}, {self._place()}"
            )
        self._one_event(at, stop, header, event)

    def _one_event(self, at: int, stop: int, header: EventHeader, event: memoryview) -> None:
        is_rotate = header.type == EventType.ROTATE
        if is_rotate and header.log_pos == 0 and header.is_artificial:
            self._check_crc(event, header.type)
            self._rotate(Rotate.decode(event, crc_bytes=self._reader.crc_bytes))
            self._drop(stop)
        elif not self._file:
            raise MalformedStreamError(
                f"the stream begins with {name_of(header.type)} and not with a rotate event"
            )
        elif header.type == EventType.FORMAT_DESCRIPTION:
            self._format_description(at, stop, header, event)
        elif header.type in HEARTBEAT_TYPES:
            self._check_crc(event, header.type)
            self._heartbeat(Heartbeat.decode(event, crc_bytes=self._reader.crc_bytes))
            self._drop(stop)
        elif header.type == EventType.START_ENCRYPTION:
            raise EncryptedStreamError(
                "an encrypted binary log of a MariaDB source is not available yet: "
                f"a START_ENCRYPTION event, {self._place()}"
            )
        elif header.type == EventType.GTID_LIST and header.is_artificial:
            self._check_crc(event, header.type)
            # What a heartbeat is for MySQL: where a skipped stretch ended.
            self._goes_on_at(self._cursor + ((header.log_pos - self._cursor) & _U32), "GTID_LIST")
            self._drop(stop)
        elif (
            header.log_pos == 0
            and (self._cursor + header.size) & _U32
            and (header.is_artificial or not self._may_leave_positions_out)
        ):
            raise MalformedStreamError(
                f"an artificial {name_of(header.type)} event, {self._place()}"
            )
        else:
            if header.type == EventType.PREVIOUS_GTIDS and self._cursor >= self._known:
                self._previous_gtids(event)
            elif header.type == EventType.GTID_LIST and self._cursor >= self._known:
                self._gtid_list(event)
            self._ordinary(np.array([at]), np.array([stop]))
            if self._head_only and header.type in {EventType.PREVIOUS_GTIDS, EventType.GTID_LIST}:
                raise HeadReceivedError(f"the head of {self._file} was received")

    def _drop(self, stop: int) -> None:
        """Leaves out a packet that ends at `stop`: what is before it becomes a batch."""
        if self._builder.packets:
            self._emit_all()
        self._buffer.base = stop

    def _check_crc(self, event: memoryview, type_: int) -> None:
        if self._verify and self._reader.crc_bytes and not is_intact(event):
            raise ChecksumMismatchError(
                f"the checksum of a {name_of(type_)} event does not fit, {self._place()}"
            )

    # -- files ------------------------------------------------------------------------------

    def _rotate(self, rotate: Rotate) -> None:
        """The source says which file and position come now."""
        if rotate.file_name == self._file and rotate.position == self._cursor:
            return
        resume, is_first = self._resume, not self._file
        if is_first and resume.by_position:
            asked = (resume.file_name, resume.dump_position)
            if (rotate.file_name, rotate.position) != asked:
                raise MalformedStreamError(
                    f"the source begins with {rotate.file_name} at {rotate.position}, asked was "
                    f"{resume.file_name} at {resume.dump_position}"
                )
        if not is_first:
            self._leave_file(rotate)
        self._is_held_file = (
            is_first and bool(resume.file_name) and (rotate.file_name == resume.file_name)
        )
        if self._is_held_file:
            self._known = resume.position
            self._created_expected = resume.file_created
        else:
            self._known = FIRST_POSITION
            self._created_expected = resume.held_files.get(rotate.file_name)
            if rotate.position != FIRST_POSITION and is_first:
                raise BeginsInsideError(rotate.file_name, rotate.position)
            if rotate.position != FIRST_POSITION:
                raise MalformedStreamError(
                    f"the source goes on with {rotate.file_name} at position {rotate.position}"
                )
        self._file = rotate.file_name
        self._cursor = self._rotated_to = rotate.position
        self._stored = self._known
        self._wants_description = True
        self._wants_previous_gtids = False

    def _leave_file(self, rotate: Rotate) -> None:
        if rotate.file_name == self._file:
            raise MalformedStreamError(
                f"the source goes to {rotate.file_name} at {rotate.position}, {self._place()}"
            )
        if self._wants_description:
            raise MalformedStreamError(f"{self._file} has no FORMAT_DESCRIPTION event")
        if self._cursor < self._known:
            raise SourceLostTailError(
                f"{self._file} ends at position {self._cursor} at the source, "
                f"and the relay holds it up to {self._known}"
            )
        if self._transactions.open is not None:
            raise InconsistentTransactionError(
                f"{self._file} ends at position {self._cursor} inside a transaction"
            )
        if self._builder.packets:
            self._wants_previous_gtids = False
            self._emit_all()

    def _format_description(
        self, at: int, stop: int, header: EventHeader, event: memoryview
    ) -> None:
        if not self._wants_description:
            raise MalformedStreamError(f"a second FORMAT_DESCRIPTION, {self._place()}")
        described = FormatDescription.decode(event)
        self._reader.crc_bytes = described.crc_bytes
        # MariaDB from 11.7 on knows, of what it gathers before it writes it, only the end.
        self._may_leave_positions_out = described.event_types >= MARIADB_EVENT_TYPES_MIN
        self._check_crc(event, header.type)
        self._wants_description = False
        self._transactions.begin_file()
        if self._created_expected not in {None, header.timestamp}:
            raise DifferentFileError(
                f"the source's {self._file} was begun at {header.timestamp}, "
                f"the relay's at {self._created_expected}"
            )
        if self._rotated_to != FIRST_POSITION:
            self._drop(stop)  # a copy, sent before the position that was asked for
            return
        if header.log_pos != FIRST_POSITION + header.size:
            raise MalformedStreamError(
                f"the FORMAT_DESCRIPTION of {self._file} says that it ends at {header.log_pos}"
            )
        if self._is_held_file:
            self._cursor += header.size
            self._drop(stop)
            return
        if self._created_expected is not None:
            raise MalformedStreamError(f"the source sends {self._file} again")
        assert not self._builder.packets
        self._begin_batch()
        self._builder.file_start = FileStart(
            created=header.timestamp,
            server_version=described.server_version,
            checksum_algorithm=described.checksum,
            event_types=described.event_types,
        )
        self._wants_previous_gtids = True
        self._cursor += header.size
        self._builder.add_packets(np.array([at - self._buffer.base]), stop - at)
        self._builder.add_times(header.timestamp, header.timestamp)
        self._builder.events += 1
        self._mark_visible()

    def _previous_gtids(self, event: memoryview) -> None:
        self._check_crc(event, EventType.PREVIOUS_GTIDS)
        if not self._wants_previous_gtids:
            raise MalformedStreamError(f"a PREVIOUS_GTIDS event, {self._place()}")
        previous = decode_previous_gtids(event, crc_bytes=self._reader.crc_bytes)
        # While it is wanted it must not be handed out without: so the check comes first.
        if self._resume.gtid_mode and not self._executed.contains(previous):
            raise GapError(previous.subtract(self._executed))
        start = self._builder.file_start
        assert start is not None
        start.previous_gtids = previous_gtids_body(event, crc_bytes=self._reader.crc_bytes)
        self._wants_previous_gtids = False

    def _gtid_list(self, event: memoryview) -> None:
        """What MariaDB has where MySQL has PREVIOUS_GTIDS; kept as a set of the same form."""
        self._check_crc(event, EventType.GTID_LIST)
        if not self._wants_previous_gtids:
            raise MalformedStreamError(f"a GTID_LIST event, {self._place()}")
        previous = decode_gtid_list(event, crc_bytes=self._reader.crc_bytes)
        if not Position.of(self._executed).covers(Position.of(previous)):
            raise GapError(previous.subtract(self._executed))
        start = self._builder.file_start
        assert start is not None
        start.previous_gtids = previous.encode()
        self._wants_previous_gtids = False

    def _heartbeat(self, heartbeat: Heartbeat) -> None:
        """Tells where the source is: behind a skipped stretch that is a gap for us."""
        if heartbeat.file_name != self._file or self._wants_description:
            raise MalformedStreamError(f"a heartbeat for {heartbeat.file_name}, {self._place()}")
        position = heartbeat.position
        if not heartbeat.is_whole:
            position = self._cursor + ((position - self._cursor) & _U32)
        self._goes_on_at(position, "heartbeat")

    def _goes_on_at(self, position: int, what: str) -> None:
        """Behind a skipped stretch, which is a gap for us, or where the stream is anyway."""
        if self._resume.by_position and self._is_held_file and self._cursor < self._known:
            raise SourceLostTailError(
                f"{self._file} ends at position {self._cursor} at the source, "
                f"and the relay holds it up to {self._known}"
            )
        if position == self._cursor:
            return
        if position < self._cursor or self._transactions.open is not None:
            raise MalformedStreamError(f"a {what} at {position}, {self._place()}")
        if self._resume.by_position and self._is_held_file:
            raise MalformedStreamError(
                f"the source skips to {position} in a dump by position, {self._place()}"
            )
        if self._builder.packets:
            self._wants_previous_gtids = False
            self._emit_all()
        self._cursor = position

    # -- events of 16 MiB and more ----------------------------------------------------------

    def _begin_large(self, at: int, stop: int, header: EventHeader) -> None:
        event = self._buffer.view[at + _EVENT : stop]
        if not self._file or self._wants_description:
            raise MalformedStreamError("an event before the FORMAT_DESCRIPTION of its file")
        code = int(CLASS_OF_TYPE[header.type])
        if header.type == EventType.QUERY:
            text = query_text(event, crc_bytes=self._reader.crc_bytes, size=header.size)
            code = classify_query(text)
        if _ONE_BY_ONE[header.type] or code in {EventClass.GTID, EventClass.FILE}:
            # Of these only PREVIOUS_GTIDS can be so large, with a million intervals.
            raise EventTooLargeError(
                f"a {name_of(header.type)} event of {header.size} bytes, {self._place()}"
            )
        if header.size < len(event):
            raise MalformedStreamError(
                f"an event of {len(event)} bytes and more that says {header.size}, {self._place()}"
            )
        large = LargeEvent(header=header, start=self._cursor)
        if self._cursor >= self._known:
            self._begin_batch()
            large.split = self._transactions.begin_large(
                self._builder,
                code,
                position=self._cursor,
                end=self._cursor + header.size,
                file=self._file,
            )
        large.take(event, crc_bytes=self._reader.crc_bytes)
        self._keep_large(large, at, stop)
        self._large = large

    def _continue_large(self, large: LargeEvent, at: int, stop: int) -> None:
        if large.split is not None and not self._builder.packets:
            self._begin_batch()
        large.take(self._buffer.view[at + PACKET_HEADER : stop], crc_bytes=self._reader.crc_bytes)
        is_last = stop - at - PACKET_HEADER < self._packet_length_max
        if large.received > large.header.size or (is_last and large.received != large.header.size):
            raise MalformedStreamError(
                f"an event of {large.received} bytes says that it has {large.header.size}, "
                f"{self._place()}"
            )
        if is_last:
            self._end_large(large, at, stop)
        else:
            self._keep_large(large, at, stop)

    def _keep_large(self, large: LargeEvent, at: int, stop: int) -> None:
        if large.split is None:
            self._drop(stop)
        else:
            offset = np.array([at - self._buffer.base], dtype=np.int64)
            self._builder.add_packets(offset, stop - at)

    def _end_large(self, large: LargeEvent, at: int, stop: int) -> None:
        header, end = large.header, large.start + large.header.size
        is_left_out = header.log_pos == 0 and self._may_leave_positions_out
        if end & _U32 != header.log_pos and not is_left_out:
            raise MalformedStreamError(
                f"an event that ends at {end} says that it ends at {header.log_pos}, "
                f"{self._place()}"
            )
        if self._verify and self._reader.crc_bytes and not large.is_intact:
            raise ChecksumMismatchError(
                f"the checksum of a {name_of(header.type)} event of {header.size} bytes "
                f"does not fit, {self._place()}"
            )
        crc = large.checksum if self._reader.crc_bytes else large.crc
        self._large = None
        self._cursor = end
        if large.split is None:
            self._tail.compare(np.array([large.start]), np.array([end]), lambda _event: crc)
            self._drop(stop)
            return
        self._keep_large(large, at, stop)
        builder = self._builder
        builder.events += 1
        builder.add_times(header.timestamp, header.timestamp)
        self._transactions.end_large(builder, large.split, end=end, crc=crc)
        if self._transactions.open is None:
            self._mark_visible()

    # -- runs of ordinary events ------------------------------------------------------------

    def _ordinary(self, offsets: Indexes, stops: Indexes) -> None:
        """Whole events that are stored as they are: one packet each, none of them artificial."""
        if not self._file or self._wants_description:
            raise MalformedStreamError("an event before the FORMAT_DESCRIPTION of its file")
        sizes = stops - offsets - _EVENT
        ends = self._cursor + np.cumsum(sizes)
        wrong = self._wrong_position(offsets, sizes, ends)
        if wrong is None and self._verify and self._reader.crc_bytes:
            wrong = self._wrong_checksum(offsets, stops, ends)
        if wrong is not None:
            at, error = wrong
            if at:  # what was before it counts
                self._ordinary(offsets[:at], stops[:at])
            raise error
        if self._cursor < self._known:
            count = self._leave_out_known(offsets, stops, sizes, ends)
            offsets, stops, ends = offsets[count:], stops[count:], ends[count:]
        if len(offsets):
            self._store(offsets, stops, ends)

    def _wrong_position(
        self, offsets: Indexes, sizes: Indexes, ends: Indexes
    ) -> tuple[int, SourceError] | None:
        """The first event that lies elsewhere, or has another size, than its header says."""
        u32 = self._buffer.unaligned("<u4")
        said_sizes, said_ends = u32[offsets + _SIZE], u32[offsets + _LOG_POS]
        misplaced = said_ends != (ends & _U32)
        if self._may_leave_positions_out:
            misplaced &= said_ends != 0
        wrong = (said_sizes != sizes) | misplaced
        if not wrong.any():
            return None
        at = int(wrong.argmax())
        return at, MalformedStreamError(
            f"an event of {sizes[at]} bytes in {self._file} that ends at {ends[at]} says that "
            f"it has {said_sizes[at]} bytes and ends at {said_ends[at]}"
        )

    def _wrong_checksum(
        self, offsets: Indexes, stops: Indexes, ends: Indexes
    ) -> tuple[int, SourceError] | None:
        """The first event whose checksum does not fit."""
        buffer = self._buffer
        view, words = buffer.view, buffer.unaligned("<u4")
        if are_intact(view, words, offsets, int(stops[-1])):
            return None
        events = zip((offsets + _EVENT).tolist(), stops.tolist(), strict=True)
        at = next(at for at, (begin, end) in enumerate(events) if not is_intact(view[begin:end]))
        type_ = int(self._buffer.data[int(offsets[at]) + _TYPE])
        return at, ChecksumMismatchError(
            f"the checksum of the {name_of(type_)} event that ends at position {ends[at]} of "
            f"{self._file} does not fit"
        )

    def _leave_out_known(
        self, offsets: Indexes, stops: Indexes, sizes: Indexes, ends: Indexes
    ) -> int:
        """Drops the events up to the known position, comparing the last stored transaction."""
        count = int(np.searchsorted(ends, self._known, side="right"))
        if count < len(ends) and int(ends[count] - sizes[count]) != self._known:
            raise SourceLostTailError(
                f"at the source position {self._known} of {self._file} lies inside an event, "
                "and the relay's last event ends there"
            )
        self._tail.compare(
            (ends - sizes)[:count],
            ends[:count],
            lambda event: self._event_crc(int(offsets[event]), int(stops[event])),
        )
        self._cursor = int(ends[count - 1])
        self._drop(int(stops[count - 1]))
        return count

    def _event_crc(self, at: int, stop: int) -> int:
        """The CRC32 of an event without its checksum, which is its checksum if it has one."""
        if self._reader.crc_bytes:
            return int.from_bytes(self._buffer.view[stop - CRC_BYTES : stop], "little")
        return crc32(self._buffer.view[at + _EVENT : stop])

    def _store(self, offsets: Indexes, stops: Indexes, ends: Indexes) -> None:
        """Adds a run of events to the batch."""
        buffer = self._buffer
        types = buffer.bytes8[offsets + _TYPE]
        codes = CLASS_OF_TYPE[types]
        gtids = np.flatnonzero(codes == EventClass.GTID)
        lengths, runs = self._reader.gtids(
            offsets[gtids] + _EVENT,
            stops[gtids],
            types[gtids],
            allow_anonymous=not self._resume.gtid_mode,
        )
        codes[gtids] = self._reader.gtid_classes(offsets[gtids] + _EVENT, types[gtids])
        self._transactions.note_lengths(lengths, place=self._place())
        if not self._transactions.has_lengths:
            queries = np.flatnonzero(types == EventType.QUERY)
            codes[queries] = self._reader.query_classes(offsets[queries] + _EVENT, stops[queries])
        split = self._transactions.split(
            codes, ends, lengths, position=self._cursor, file=self._file
        )
        if len(split.starts) != len(gtids):
            runs = [Run(uuid=b"", tag="", first=1, last=len(split.starts))]
        # Nothing is refused from here on.
        self._begin_batch()
        builder, first_packet, first_event = (
            self._builder,
            self._builder.packets,
            self._builder.events,
        )
        self._wants_previous_gtids = False
        builder.add_packets(offsets - buffer.base, int(stops[-1] - offsets[0]))
        builder.events += len(offsets)
        self._transactions.add(
            builder,
            split,
            runs,
            ends,
            first_packet=first_packet,
            position=self._cursor,
            crc_of=lambda event: self._event_crc(int(offsets[event]), int(stops[event])),
        )
        self._cursor = int(ends[-1])
        self._add_times(offsets, split.visible)
        if split.visible is None:
            self._mark_visible()
        elif split.visible:
            builder.mark_visible(
                packets=first_packet + split.visible,
                byte_count=int(offsets[split.visible]) - buffer.base,
                events=first_event + split.visible,
                position=int(ends[split.visible - 1]),
            )

    def _add_times(self, offsets: Indexes, visible: int | None) -> None:
        times = self._buffer.unaligned("<u4")[offsets + _EVENT]
        timed = np.flatnonzero(times)
        if not len(timed):
            return
        builder = self._builder
        builder.add_times(int(times[timed[0]]), int(times[timed[-1]]))
        if visible and timed[0] < visible:
            seen = timed[np.searchsorted(timed, visible) - 1]
            builder.visible.last_time = int(times[seen])

    # -- batches ----------------------------------------------------------------------------

    def _begin_batch(self) -> None:
        """Starts a batch at the cursor, unless one is begun."""
        if self._builder.packets:
            return
        assert self._cursor >= self._stored
        self._builder = BatchBuilder(
            self._cursor,
            gap_before=self._cursor - self._stored,
            begins_in_transaction=self._transactions.open is not None,
            begins_in_event=self._large is not None,
        )

    def _mark_visible(self) -> None:
        builder = self._builder
        builder.mark_visible(
            packets=builder.packets,
            byte_count=builder.bytes,
            events=builder.events,
            position=self._cursor,
        )
        builder.visible.last_time = builder.last_time

    def _emit_visible(self) -> None:
        """Cuts a batch behind the last transaction's end; what lies behind is looked at again."""
        builder, visible = self._builder, self._builder.visible
        if not visible.packets or self._wants_previous_gtids:
            return
        if visible.packets == builder.packets:
            self._emit_all()
            return
        meta = builder.describe(visible_only=True)
        meta.end_position = visible.position
        self._sequence = (self._sequence - builder.packets + visible.packets) & 0xFF
        self._cursor = visible.position
        self._transactions.open = None
        self._large = None
        self._emit(meta, byte_count=visible.bytes, events=visible.events)

    def _emit_all(self) -> None:
        """Makes a batch of all that was looked at."""
        builder = self._builder
        if self._wants_previous_gtids:
            raise MalformedStreamError(f"{self._file} has an impossible PREVIOUS_GTIDS event")
        meta = builder.describe(visible_only=False)
        meta.end_position = self._cursor
        meta.ends_in_transaction = self._transactions.open is not None
        meta.ends_in_event = self._large is not None
        self._emit(meta, byte_count=builder.bytes, events=builder.events)

    def _emit(self, meta: EventBatch, *, byte_count: int, events: int) -> None:
        builder, buffer = self._builder, self._buffer
        self._transactions.count(builder, goes_on=meta.ends_in_transaction, place=self._place())
        meta.channel = self._resume.channel
        meta.session = self._resume.session
        meta.sequence = self._batch_sequence
        meta.epoch = self._resume.epoch
        meta.file_name = self._file
        self._note_sequence(meta)
        packets = bytes(buffer.view[buffer.base : buffer.base + byte_count])
        self._batch_sequence += 1
        self._stored = meta.end_position
        self._builder = BatchBuilder(0)
        buffer.base += byte_count
        self.events += events
        self.bytes += byte_count
        self.last_event_time = meta.last_time or self.last_event_time
        self._ready.append(IngestedBatch(meta=meta, packets=packets, events=events))

    def _note_sequence(self, meta: EventBatch) -> None:
        """Says which number the first packet has, if those of all packets run on from it.

        Each was compared with the one before it as it came, and whatever is left out cuts the
        batch; so the last one tells whether one is missing.
        """
        if not self._is_numbered:
            return
        data, base, offsets = self._buffer.data, self._buffer.base, meta.packet_offsets
        first = data[base + 3]
        last = data[base + int.from_bytes(offsets[-4:], "little") + 3]
        if (last - first) & 0xFF == (len(offsets) // 4 - 1) & 0xFF:
            meta.first_sequence = first


def _error_packet(payload: bytes) -> SourceError:
    """An ERR packet: ff, code u16, `#` and five letters of state, text."""
    code = int.from_bytes(payload[1:3], "little")
    state, text = "HY000", payload[3:]
    if text[:1] == b"#":
        state, text = text[1:6].decode("ascii", "replace"), text[6:]
    return error_packet(code, state, text.decode("utf-8", "replace"))
