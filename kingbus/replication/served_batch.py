"""One event batch of the log as a dump sees it: its packets, where events lie, whose they are.

Owns the arithmetic over the meta's offset arrays, all of it in numpy and lazily, so that a batch
that is only passed on costs next to nothing. Pure; knows nothing of dumps, sockets or files.
Several dumps share one object and nobody changes it.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from kingbus.binlog.command import LENGTH_BYTES, decode
from kingbus.binlog.gtid import GtidsLeftOut
from kingbus.binlog.semi_sync import MARK, MARK_BYTES
from kingbus.pb.command_pb2 import EventBatch

PACKET_HEADER: Final = 4
PACKET_PAYLOAD_MAX: Final = 0xFFFFFF
EVENT_TYPE_AT: Final = 4
EVENT_SIZE_AT: Final = 9

Numbers = npt.NDArray[np.int64]
Span = tuple[int, int, bool]
"""First packet, packet behind the last, and whether they are sent."""


class ServedBatch:
    """`packets` are the raw packets of the entry, each `length(3) sequence(1)` and its payload."""

    def __init__(self, data: bytes | memoryview) -> None:
        """`data` is the entry's; it is parsed when something is asked. See `of` for one parsed."""
        self.data = data
        self._parts: tuple[EventBatch, memoryview] | None = None

    @classmethod
    def of(cls, data: bytes | memoryview, meta: EventBatch, packets: memoryview) -> "ServedBatch":
        batch = cls(data)
        batch._parts = (meta, packets)
        return batch

    @property
    def size(self) -> int:
        """Bytes that it keeps in memory, once parsed: the meta of a file's start may be large."""
        return len(self.data) + int.from_bytes(self.data[:LENGTH_BYTES], "little")

    def _decoded(self) -> tuple[EventBatch, memoryview]:
        if self._parts is None:
            command, packets = decode(self.data)
            assert command.WhichOneof("kind") == "event_batch", "only batches have a row"
            self._parts = (command.event_batch, packets)
        return self._parts

    @cached_property
    def meta(self) -> EventBatch:
        return self._decoded()[0]

    @cached_property
    def packets(self) -> memoryview:
        return self._decoded()[1]

    @cached_property
    def offsets(self) -> Numbers:
        """Where each packet begins, and behind the last: one more than there are packets."""
        offsets = np.empty(self.count + 1, dtype=np.int64)
        offsets[:-1] = np.frombuffer(self.meta.packet_offsets, "<u4")
        offsets[-1] = len(self.packets)
        return offsets

    @property
    def count(self) -> int:
        return len(self.meta.packet_offsets) // 4

    @cached_property
    def _continues(self) -> npt.NDArray[np.bool_]:
        """Which packets go on with the event of the packet before."""
        continues = np.empty(self.count, dtype=np.bool_)
        continues[0] = self.meta.begins_in_event
        lengths = np.diff(self.offsets) - PACKET_HEADER
        continues[1:] = lengths[:-1] == PACKET_PAYLOAD_MAX
        return continues

    def fits_marked(self, packet: int) -> bool:
        """Whether a packet holds an event whole, and would do so with two bytes more."""
        length = int(self.offsets[packet + 1] - self.offsets[packet]) - PACKET_HEADER
        return not self._continues[packet] and length + MARK_BYTES < PACKET_PAYLOAD_MAX

    def goes_on_behind(self, packet: int) -> bool:
        """Whether the event of a packet goes on in the next one, here or in the next batch."""
        length = int(self.offsets[packet + 1] - self.offsets[packet]) - PACKET_HEADER
        return length == PACKET_PAYLOAD_MAX

    def behind_event(self, packet: int) -> int:
        """The next packet that begins an event; behind the last one where none does."""
        begins = np.flatnonzero(self.begins_event[packet + 1 :])
        return packet + 1 + int(begins[0]) if len(begins) else self.count

    @property
    def begins_event(self) -> npt.NDArray[np.bool_]:
        """Which packets begin an event; such a packet has a zero byte before it."""
        return ~self._continues

    @cached_property
    def _positions(self) -> Numbers:
        """Where in the file the event of each packet begins; meaningless for continuations.

        Counted backwards from the end, since where a continued event began is not said here.
        """
        event_bytes = np.diff(self.offsets) - PACKET_HEADER - ~self._continues
        whole = np.cumsum(event_bytes[::-1])[::-1]
        end = self.meta.end_position
        if self.meta.ends_in_event:
            # The event that goes on in the next batch is not counted in the end position.
            begins = np.flatnonzero(~self._continues)
            end += int(whole[begins[-1]]) if len(begins) else 0
        return np.asarray(end - whole, dtype=np.int64)

    def sequence_of(self, packet: int) -> int:
        """The stored number of a packet, from which those behind it run on; -1: not known."""
        if not self.meta.HasField("first_sequence"):
            return -1
        return (self.meta.first_sequence + packet) & 0xFF

    def _continues_event(self, packet: int) -> bool:
        """The same for one packet, without looking at the others."""
        if packet == 0:
            return self.meta.begins_in_event
        length = int(self.offsets[packet] - self.offsets[packet - 1]) - PACKET_HEADER
        return length == PACKET_PAYLOAD_MAX

    def position_of(self, packet: int) -> int:
        """The position of the event that begins with this packet."""
        assert not self._continues[packet]
        return int(self._positions[packet])

    @property
    def first_byte(self) -> int:
        """Where in the file its first byte lies, in the middle of an event or not.

        Some event begins in it: one that lies wholly inside an event cannot tell.
        """
        assert not self._continues.all()
        return int(self._positions[0])

    def packet_at(self, position: int) -> int | None:
        """The packet with which the event at this position begins, if one does."""
        found = np.flatnonzero((self._positions == position) & ~self._continues)
        return int(found[0]) if len(found) else None

    def event(self, packet: int) -> memoryview:
        """The event of one packet, which must be whole in it."""
        start, end = int(self.offsets[packet]), int(self.offsets[packet + 1])
        assert not self._continues_event(packet) and end - start < PACKET_PAYLOAD_MAX
        return self.packets[start + PACKET_HEADER + 1 : end]

    def event_type(self, packet: int) -> int:
        """The type of the event that begins with this packet, -1 when none does."""
        if self._continues_event(packet):
            return -1
        at = int(self.offsets[packet]) + PACKET_HEADER + 1 + EVENT_TYPE_AT
        return self.packets[at]

    @cached_property
    def event_types(self) -> npt.NDArray[np.uint8]:
        """The type of the event that begins with each packet; meaningless for continuations."""
        places = np.minimum(
            self.offsets[:-1] + PACKET_HEADER + 1 + EVENT_TYPE_AT, len(self.packets) - 1
        )
        return np.frombuffer(self.packets, np.uint8)[places]

    @cached_property
    def transaction_packets(self) -> Numbers:
        """The packet with which each transaction begins."""
        return np.frombuffer(self.meta.transaction_packets, "<u4").astype(np.int64)

    def transaction_before(self, packet: int) -> tuple[bytes, str, int] | None:
        """The last transaction that begins before this packet here: uuid, tag, number."""
        return self.last_transaction if packet == self.count else self._transaction_before(packet)

    @cached_property
    def last_transaction(self) -> tuple[bytes, str, int] | None:
        """The same of all packets, which every dump asks for."""
        return self._transaction_before(self.count)

    def _transaction_before(self, packet: int) -> tuple[bytes, str, int] | None:
        left = int(np.searchsorted(self.transaction_packets, packet))
        if not left:
            return None
        for run in self.meta.gtid_runs:
            count = run.last - run.first + 1
            if left <= count:
                return run.uuid, run.tag, run.first + left - 1
            left -= count
        raise AssertionError("each transaction has a GTID run")

    def cut(self, first: int, last: int, excluded: GtidsLeftOut, *, skipping: bool) -> list[Span]:
        """The packets from `first` up to `last`, by whether their transaction is in `excluded`.

        What precedes the first transaction goes with `skipping`, as does, after a transaction,
        whatever follows it before the next one. Neighbouring spans of one kind are one span.
        """
        starts = self.transaction_packets
        spans: list[Span] = []

        def put(start: int, end: int, *, send: bool) -> None:
            assert end <= last
            start = max(start, first)
            if start >= end:
                return
            if spans and spans[-1][2] == send:
                spans[-1] = (spans[-1][0], end, send)
            else:
                spans.append((start, end, send))

        bounds = [*np.minimum(starts, last).tolist(), last]
        put(first, bounds[int(np.searchsorted(starts, first))], send=not skipping)
        begun = 0
        for run in self.meta.gtid_runs:
            end = begun + run.last - run.first + 1
            if not run.uuid or not excluded.overlaps_run(run.uuid, run.tag, run.first, run.last):
                put(bounds[begun], bounds[end], send=True)
            else:
                for at in range(begun, end):
                    known = excluded.contains_gtid(run.uuid, run.tag, run.first + at - begun)
                    put(bounds[at], bounds[at + 1], send=not known)
            begun = end
        return spans


def event_bytes(batch: ServedBatch, packets: int) -> bytes:
    """The first packets without what the protocol puts around events: a piece of their file."""
    offsets = batch.offsets[:packets]
    end = int(batch.offsets[packets])
    raw = np.frombuffer(batch.packets[:end], np.uint8)
    keep = np.ones(end, dtype=np.bool_)
    for at in range(PACKET_HEADER):
        keep[offsets + at] = False
    keep[offsets[batch.begins_event[:packets]] + PACKET_HEADER] = False
    return raw[keep].tobytes()


def marked(
    batch: ServedBatch, first: int, last: int, sequence: int, *, ask: bool
) -> npt.NDArray[np.uint8]:
    """The same as `renumbered` in semi-sync's form: two more bytes before each event.

    `ask`: for the last event an acknowledgement is wanted. Each packet holds one event whole, with
    the two bytes too.
    """
    offsets = batch.offsets[first : last + 1] - batch.offsets[first]
    count, start = last - first, int(batch.offsets[first])
    starts = offsets[:-1] + MARK_BYTES * np.arange(count)
    marks = starts + PACKET_HEADER + 1
    out = np.empty(int(offsets[-1]) + MARK_BYTES * count, dtype=np.uint8)
    stored = np.ones(len(out), dtype=np.bool_)
    stored[marks] = stored[marks + 1] = False
    out[stored] = np.frombuffer(batch.packets[start : start + int(offsets[-1])], np.uint8)
    out[marks], out[marks + 1] = MARK, 0
    out[marks[-1] + 1] = ask
    lengths = np.diff(offsets) - PACKET_HEADER + MARK_BYTES
    for place in range(3):
        out[starts + place] = (lengths >> (8 * place)) & 0xFF
    out[starts + 3] = (sequence + np.arange(count)) & 0xFF
    return out


def renumbered(batch: ServedBatch, first: int, last: int, sequence: int) -> npt.NDArray[np.uint8]:
    """A copy of the packets first to last - 1 with sequence ids from `sequence` on."""
    offsets = batch.offsets
    start, end = int(offsets[first]), int(offsets[last])
    scratch = np.frombuffer(batch.packets[start:end], np.uint8).copy()
    scratch[offsets[first:last] - (start - 3)] = (sequence + np.arange(last - first)) & 0xFF
    return scratch


class LargeMarked:
    """An event of 16 MiB and more in semi-sync's form, whose packets end elsewhere than stored.

    Each packet is put together before it is sent, so at most one is held: whoever is cancelled
    between two has sent whole ones only.
    """

    def __init__(self, payload: memoryview) -> None:
        """`payload` is that of the first stored packet, with the zero byte that it begins with."""
        size_at = 1 + EVENT_SIZE_AT
        size = int.from_bytes(payload[size_at : size_at + 4], "little")
        self.is_done = False
        self._left = 1 + MARK_BYTES + size
        self._part = bytearray(PACKET_HEADER) + bytes((0, MARK, 0))

    def take(self, payload: memoryview) -> Iterator[bytearray]:
        """The packets that are whole now, but for their numbers."""
        while not self.is_done:
            length = min(PACKET_PAYLOAD_MAX, self._left)
            now = payload[: length + PACKET_HEADER - len(self._part)]
            self._part += now
            payload = payload[len(now) :]
            if len(self._part) < length + PACKET_HEADER:
                return
            self._part[:3] = length.to_bytes(3, "little")
            self._left -= length
            self.is_done = length < PACKET_PAYLOAD_MAX  # a full one always goes on
            part, self._part = self._part, bytearray(PACKET_HEADER)
            yield part
