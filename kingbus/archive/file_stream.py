"""An archived file as batches and their rows, in order, as if the log still held it.

Owns making packets of a file's bytes again; the cutting into batches is the receiver's own code.
One chunk, one batch and one packet are in memory at a time. Must not know where chunks come from,
nor who wants the batches.
"""

from collections.abc import Iterator
from typing import Final

from kingbus.archive.catalogue import ArchivedFile
from kingbus.archive.errors import DamagedError
from kingbus.binlog.artificial import fake_rotate, heartbeat_v2
from kingbus.binlog.errors import SourceError
from kingbus.binlog.header import FILE_MAGIC, FIRST_POSITION
from kingbus.binlog.ingest import IngestedBatch, IngestStream, ResumePoint
from kingbus.binlog.relay_state import row_of
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.served_batch import PACKET_PAYLOAD_MAX, ServedBatch
from kingbus.replication.served_rows import Row

SIZE_AT: Final = 9
HEADER_BYTES: Final = 19

INDEX_BASE: Final = 1 << 62
"""Rows of archived files have indexes from here on: no entry of a log does."""
ROW_BITS: Final = 24
"""Of an index, for the number of a row in its file: sixteen million batches of a megabyte."""


def first_index(ordinal: int) -> int:
    """The index of a file's first row, where that is not the last one, too."""
    return INDEX_BASE + (ordinal << ROW_BITS)


def last_index(ordinal: int) -> int:
    """The index of a file's last row."""
    return first_index(ordinal + 1) - 1


def ordinal_at(index: int) -> int:
    """The file in which the row with that index is."""
    return (index - INDEX_BASE) >> ROW_BITS


def served_row(row: FileRow) -> FileRow:
    """A file as its rows are numbered here: how many batches the log had of it is not known."""
    served = FileRow()
    served.CopyFrom(row)
    served.first_index, served.last_index = first_index(row.ordinal), last_index(row.ordinal)
    return served


class FileStream:
    """Bytes go in by `feed`, batches come out. Everything here computes only; any thread.

    The indexes of the rows rise from file to file, and the last row of a file has the last of its
    indexes. They are not those that the batches had in the log, which may have been cut otherwise.
    """

    def __init__(self, file: ArchivedFile, *, gtid_mode: bool = True) -> None:
        self._file = file
        self._packets = _Packets(file)
        self._count = 0
        self._held: IngestedBatch | None = None
        row = file.row
        self._stream = IngestStream(
            ResumePoint(
                channel=0,
                epoch=row.epoch,
                session=0,
                by_position=False,
                file_name="",
                position=0,
                executed=file.before.copy(),
                file_created=0,
                file_start=None,
                last_transaction=None,
                dump_position=0,
                gtid_mode=gtid_mode,
            ),
            first_rotate_has_crc=False,
        )

    def feed(self, data: bytes) -> list[tuple[Row, ServedBatch]]:
        """The next bytes of the file; the batches that are complete. Raises DamagedError."""
        try:
            for packets in self._packets.feed(data):
                self._stream.receive(packets)
            return self._rows(self._stream.take(idle=False), is_last=False)
        except SourceError as error:
            raise self._damaged(str(error)) from error

    def finish(self) -> list[tuple[Row, ServedBatch]]:
        """What is left when all bytes were fed."""
        try:
            if self._packets.is_inside:
                raise self._damaged("it ends inside an event")
            rows = self._rows(self._stream.take(idle=True), is_last=True)
        except SourceError as error:
            raise self._damaged(str(error)) from error
        if not rows or rows[-1][0].row.end_position + self._packets.gap_left != (
            self._file.row.end_position
        ):
            raise self._damaged("it does not end where it should")
        return rows

    def _damaged(self, why: str) -> DamagedError:
        return DamagedError(f"{self._file.key}: {why}")

    def _rows(
        self, batches: list[IngestedBatch], *, is_last: bool
    ) -> list[tuple[Row, ServedBatch]]:
        """One is held back: only the last of the file gets the last of its indexes."""
        found: list[tuple[Row, ServedBatch]] = []
        if self._held is not None:
            batches = [self._held, *batches]
        self._held = None if is_last or not batches else batches.pop()
        first, last = first_index(self._file.row.ordinal), last_index(self._file.row.ordinal)
        for at, batch in enumerate(batches):
            index = first + self._count
            if is_last and at == len(batches) - 1:
                index = last
            assert index <= last
            self._count += 1
            row = row_of(batch.meta, self._file.row.ordinal, len(batch.packets))
            served = ServedBatch.of(batch.packets, batch.meta, memoryview(batch.packets))
            found.append((Row(index, row), served))
        return found


class _Packets:
    """The packets of a dump that would bring the file: a ROTATE, its events, gaps as heartbeats."""

    def __init__(self, file: ArchivedFile) -> None:
        self._row = file.row
        self._crc = bool(file.row.start.checksum_algorithm)
        self._gaps = [(gap.start, gap.end) for gap in file.row.gaps]
        self._unread = bytearray()
        self._position = -1  # the magic number is to come
        self._sequence = 1
        # Of an event of several packets: what is to come of it, and of the packet under way.
        self._event_left = 0
        self._packet_left = 0
        self._was_full = False

    @property
    def is_inside(self) -> bool:
        """Whether bytes are left that are no whole event."""
        return bool(self._unread) or bool(self._packet_left)

    @property
    def gap_left(self) -> int:
        """A gap at the file's end; no event comes behind it."""
        return sum(end - start for start, end in self._gaps)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Packets, whole ones or pieces, as far as these bytes go."""
        unread = self._unread
        unread += data
        at = 0
        if self._position < 0:
            if unread[:FIRST_POSITION] != FILE_MAGIC:
                raise self._damaged("is no binlog file")
            at = self._position = FIRST_POSITION
            yield self._packet(fake_rotate(self._row.name, FIRST_POSITION, server_id=1, crc=False))
        while True:
            while self._packet_left and at < len(unread):
                piece = bytes(unread[at : at + self._packet_left])
                at += len(piece)
                yield piece + self._passed(len(piece))
            gathered: list[bytes] = []
            at = self._whole_events(at, gathered)
            yield b"".join(gathered)
            if not (self._packet_left and at < len(unread)):
                break
        del unread[:at]

    def _damaged(self, why: str) -> DamagedError:
        return DamagedError(f"{self._row.served_name} in the archive {why}")

    def _whole_events(self, at: int, gathered: list[bytes]) -> int:
        """Gathers the packets of events from `at` on, up to one that is too large or not whole."""
        unread = self._unread
        while not self._packet_left and len(unread) - at >= HEADER_BYTES:
            size = int.from_bytes(unread[at + SIZE_AT : at + SIZE_AT + 4], "little")
            if size < HEADER_BYTES:
                raise self._damaged(f"has an event of {size} bytes at {self._position}")
            is_large = size + 1 >= PACKET_PAYLOAD_MAX
            if not is_large and len(unread) - at < size:
                break
            if self._gaps and self._position == self._gaps[0][0]:
                self._position = self._gaps.pop(0)[1]
                beat = heartbeat_v2(self._row.name, self._position, server_id=1, crc=self._crc)
                gathered.append(self._packet(beat))
            self._position += size
            if is_large:
                self._event_left = size + 1
                gathered.append(self._header() + b"\0")
                self._packet_left -= 1
                break
            gathered.append(self._packet(unread[at : at + size]))
            at += size
        return at

    def _packet(self, event: bytes | bytearray) -> bytes:
        """An event in one packet."""
        head = len(event) + 1 | (self._sequence & 0xFF) << 24
        self._sequence += 1
        return head.to_bytes(5, "little") + event

    def _header(self) -> bytes:
        """Begins the next packet of a large event."""
        size = min(self._event_left, PACKET_PAYLOAD_MAX)
        self._event_left -= size
        self._packet_left = size
        self._was_full = size == PACKET_PAYLOAD_MAX
        self._sequence += 1
        return size.to_bytes(3, "little") + bytes(((self._sequence - 1) & 0xFF,))

    def _passed(self, size: int) -> bytes:
        """So many bytes of the packet under way were given; what comes between it and the next.

        A packet of full length is followed by another, by an empty one if need be.
        """
        self._packet_left -= size
        if self._packet_left:
            return b""
        return self._header() if self._was_full else b""
