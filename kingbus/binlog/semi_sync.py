"""The semi-sync form of a stream, made into the plain one before anything else looks at it.

With semi-sync the source puts two bytes before each event, `0xef` and whether it waits for an
acknowledgement, and begins to number its packets again after each event for which it does. Owns
taking that off, so that what is stored is what a connection without semi-sync would have carried,
byte for byte; and the form of an acknowledgement. Must not know what an event says, nor when an
acknowledgement may be sent.

A run of whole packets is changed by a few numpy calls, whether acknowledgements are wanted in it or
not. Only events that do not fit into one packet, with the two bytes or without them, are taken
apart packet by packet: without the two bytes they are split elsewhere.
"""

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

from kingbus.binlog.boundary import Indexes
from kingbus.binlog.errors import MalformedStreamError, SourceError
from kingbus.binlog.receive_buffer import PACKET_HEADER, PACKET_LENGTH_MAX, ReceiveBuffer

MARK: Final = 0xEF
MARK_BYTES: Final = 2
BUFFER_BYTES: Final = 1 << 20
"""As much as is read in one go, twice: packets are small but for a few."""

_MARK_AT: Final = PACKET_HEADER + 1  # behind the OK byte
_WANTED_AT: Final = _MARK_AT + 1
_SIZE_AT: Final = PACKET_HEADER + 1 + MARK_BYTES + 9  # the event's own size
_SMALLEST: Final = _SIZE_AT + 4 - PACKET_HEADER
"""Length of a packet in which an event's size can be read; no event is shorter."""


def acknowledgement(file_name: str, position: int) -> bytes:
    """The packet that says: everything up to this position of the source's file is safe."""
    payload = bytes((MARK,)) + position.to_bytes(8, "little") + file_name.encode()
    return len(payload).to_bytes(3, "little") + b"\0" + payload


class PlainStream(Protocol):
    """Where the plain packets go; see `ingest.IngestStream`."""

    def free(self) -> memoryview: ...
    def wrote(self, count: int) -> None: ...
    def receive(self, data: memoryview | bytearray | bytes) -> None: ...
    def fail(self, error: SourceError) -> None: ...


class SemiSyncStream:
    """See the module. Read the socket into `free`, tell `wrote` how much came.

    A source that does not send the two bytes after all is found out at its first packet; from then
    on everything goes to the plain stream as it is.
    """

    def __init__(self, plain: PlainStream, *, packet_length_max: int = PACKET_LENGTH_MAX) -> None:
        """`packet_length_max` is the protocol's number; tests set a smaller one."""
        self.is_active: bool | None = None
        """Whether the source sends the two bytes; None before its first packet."""
        self.is_asked = False
        """An acknowledgement was asked for; whoever sees to it sets it back."""
        self.asked = 0
        """How many were asked for in all."""
        self._plain = plain
        self._length_max = packet_length_max
        self._buffer = ReceiveBuffer(
            bytes_usual=BUFFER_BYTES,
            bytes_max=BUFFER_BYTES + PACKET_LENGTH_MAX + PACKET_HEADER,
            prefix_bytes=MARK_BYTES,
        )
        self._came = 1  # the number that the source's next packet must have
        self._sent = 1  # the number of the next plain one
        self._large: _Large | None = None

    # -- bytes in ---------------------------------------------------------------------------

    def free(self) -> memoryview:
        """Room to read the socket into."""
        return self._plain.free() if self.is_active is False else self._buffer.free()

    def wrote(self, count: int) -> None:
        """`count` bytes were read into what `free` gave."""
        if self.is_active is False:
            self._plain.wrote(count)
            return
        self._buffer.wrote(count)
        if self.is_active is None and not self._find_out():
            return
        if not self.is_active:
            self._hand_over()
            return
        try:
            self._convert()
        except MalformedStreamError as error:
            self._plain.fail(error)
            self._buffer.base = self._buffer.end

    def _find_out(self) -> bool:
        """Whether the first packet is here so far as to tell."""
        buffer = self._buffer
        if len(buffer) <= _MARK_AT:
            return False
        first = buffer.data[buffer.base + PACKET_HEADER]
        # A plain stream begins with an artificial ROTATE, of time 0; an error has no mark.
        self.is_active = first != 0 or buffer.data[buffer.base + _MARK_AT] == MARK
        return True

    def _hand_over(self) -> None:
        buffer = self._buffer
        self._plain.receive(buffer.view[buffer.base : buffer.end])
        buffer.base = buffer.end

    # -- packets ----------------------------------------------------------------------------

    def _convert(self) -> None:
        """Changes all whole packets that are here."""
        buffer = self._buffer
        offsets, stop = buffer.walk(buffer.base, buffer.end)
        if not len(offsets):
            return
        lengths = np.diff(offsets, append=stop) - PACKET_HEADER
        full = np.flatnonzero(lengths >= self._length_max)
        first = 0
        if self._large is not None:
            first = self._large_packets(offsets, lengths, 0)
        for at in full.tolist():
            if at < first:
                continue
            self._run(offsets[first:at], int(offsets[at]))
            first = self._large_packets(offsets, lengths, at)
        if first < len(offsets):
            self._run(offsets[first:], stop)
        buffer.base = stop

    def _run(self, offsets: Indexes, stop: int) -> None:
        """Packets of one event each, of which the last ends at `stop`."""
        if not len(offsets):
            return
        bytes8 = self._buffer.bytes8
        lengths = np.diff(offsets, append=stop) - PACKET_HEADER
        is_event = bytes8[offsets + PACKET_HEADER] == 0
        marked = is_event & (lengths >= _SMALLEST)
        # An ERR or EOF packet ends the stream, and bears no mark.
        wrong = is_event & ~(marked & (bytes8[offsets + _MARK_AT] == MARK))
        wanted = np.flatnonzero(marked & (bytes8[offsets + _WANTED_AT] != 0))
        numbers = self._numbers(len(offsets), wanted)
        wrong |= bytes8[offsets + 3] != numbers
        if wrong.any():
            at = int(wrong.argmax())
            self._run(offsets[:at], int(offsets[at]))
            self._refuse(int(offsets[at]), int(numbers[at]))
        self._came = (int(numbers[-1]) + 1) & 0xFF
        if len(wanted):
            self._came = (len(offsets) - int(wanted[-1])) & 0xFF
            self._note_asked(len(wanted))
        self._write_headers(offsets, lengths - MARK_BYTES * marked)
        first = int(offsets[0])
        keep = np.ones(stop - first, dtype=np.bool_)
        marks = offsets[marked] - first + _MARK_AT
        keep[marks] = keep[marks + 1] = False
        self._plain.receive(bytes8[first:stop][keep].data)

    def _numbers(self, count: int, wanted: Indexes) -> Indexes:
        """What the packets must be numbered: from 1 again behind each that asks."""
        places = np.arange(count)
        numbers = places + self._came
        if len(wanted):
            asked_before = np.searchsorted(wanted, places)  # how many of them before each packet
            behind = asked_before > 0
            numbers[behind] = places[behind] - wanted[asked_before[behind] - 1]
        return numbers & 0xFF

    def _write_headers(self, offsets: Indexes, lengths: Indexes) -> None:
        """The packets' new lengths, and numbers that run on."""
        bytes8 = self._buffer.bytes8
        for place in range(3):
            bytes8[offsets + place] = (lengths >> (8 * place)).astype(np.uint8)
        bytes8[offsets + 3] = (np.arange(len(offsets)) + self._sent).astype(np.uint8)
        self._sent = (self._sent + len(offsets)) & 0xFF

    def _refuse(self, at: int, number: int) -> None:
        found = self._buffer.data[at + 3]
        if found != number:
            raise MalformedStreamError(f"packet sequence number {found} instead of {number}")
        raise MalformedStreamError("an event without the semi-sync mark in a stream that has it")

    def _note_asked(self, count: int) -> None:
        self.is_asked = True
        self.asked += count

    # -- events that span packets -----------------------------------------------------------

    def _large_packets(self, offsets: Indexes, lengths: Indexes, at: int) -> int:
        """Packets from `at` on, up to the end of an event; how many packets are done with."""
        buffer = self._buffer
        while at < len(offsets):
            start, length = int(offsets[at]), int(lengths[at])
            number = buffer.data[start + 3]
            if number != self._came:
                self._refuse(start, self._came)
            self._came = (self._came + 1) & 0xFF
            part = buffer.view[start + PACKET_HEADER : start + PACKET_HEADER + length]
            if self._large is None:
                self._large = self._begin_large(start, part)
                part = part[1 + MARK_BYTES :]
            is_last = length < self._length_max
            for piece in self._large.split(part, is_last=is_last):
                self._plain.receive(self._header(piece) if isinstance(piece, int) else piece)
            at += 1
            if is_last:
                if self._large.is_wanted:
                    self._came = 1
                    self._note_asked(1)
                self._large = None
                break
        return at

    def _begin_large(self, start: int, part: memoryview) -> "_Large":
        if part[0] != 0 or part[1] != MARK:
            self._refuse(start, self._buffer.data[start + 3])
        size_at = start + _SIZE_AT
        size = int.from_bytes(self._buffer.view[size_at : size_at + 4], "little")
        return _Large(size=size, is_wanted=part[2] != 0, length_max=self._length_max)

    def _header(self, length: int) -> bytes:
        """Of the next plain packet."""
        number, self._sent = self._sent, (self._sent + 1) & 0xFF
        return length.to_bytes(3, "little") + bytes((number,))


class _Large:
    """An event on its way that spans packets; without the two bytes it is split elsewhere."""

    def __init__(self, *, size: int, is_wanted: bool, length_max: int) -> None:
        self.is_wanted = is_wanted
        self._size = size
        self._length_max = length_max
        self._event_left = size
        self._payload_left = 1 + size  # what no plain packet was begun for
        self._packet_left = 0
        self._was_full = False

    def split(self, part: memoryview, *, is_last: bool) -> Iterator[int | memoryview | bytes]:
        """The plain packets of what came: for each header its length, and then what is in it."""
        if len(part) > self._event_left or (is_last and len(part) != self._event_left):
            raise MalformedStreamError(
                f"an event that says it has {self._size} bytes comes with another size"
            )
        if self._payload_left == 1 + self._size:
            yield self._begin_packet()
            yield b"\0"
            self._packet_left -= 1
        while part:
            if not self._packet_left:
                yield self._begin_packet()
            now = part[: self._packet_left]
            yield now
            self._packet_left -= len(now)
            self._event_left -= len(now)
            part = part[len(now) :]
        if is_last and not self._packet_left and self._was_full:
            yield self._begin_packet()  # an empty one: a full packet always goes on

    def _begin_packet(self) -> int:
        length = min(self._payload_left, self._length_max)
        self._payload_left -= length
        self._packet_left = length
        self._was_full = length == self._length_max
        return length
