"""The bytes of a held file as its source has them on disk: magic number, then event after event.

Owns: where in these bytes the log's batches lie, and taking the packets' headers off. Must not know
who wants the bytes, or what for. Of a file that is held only in part the parts stand one right
behind the other; `position_at` says where in the source's file a byte lies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from kingbus.binlog.header import FILE_MAGIC, FIRST_POSITION
from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.served_batch import PACKET_HEADER, ServedBatch, event_bytes
from kingbus.replication.served_rows import PurgedWhileReadingError, Row

ROWS_AT_ONCE: Final = 64


class PastEndError(KingbusError):
    """More was asked for than the file has."""


class Log(Protocol):
    """What is read: `relay.Relay`."""

    @property
    def state(self) -> RelayState: ...
    async def read_rows(self, after_index: int, limit: int) -> list[Row]: ...
    async def find_row(self, file: FileRow, position: int) -> Row | None: ...
    async def read_batches(self, index: int, through: int) -> Mapping[int, ServedBatch]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChunk:
    """A run of a file's bytes. `total` is how many it had then, `closed` that no more will come."""

    data: bytes
    total: int
    closed: bool


def gaps_of(file: FileRow) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not held, begin and end, in order."""
    if file.cut_position:
        yield FIRST_POSITION, file.cut_position
    for gap in file.gaps:
        if gap.end > file.cut_position:
            yield gap.start, gap.end


def content_bytes(file: FileRow) -> int:
    """How many bytes of a file are held and visible."""
    return file.end_position - sum(end - start for start, end in gaps_of(file))


def position_at(file: FileRow, offset: int) -> int:
    """Where in the source's file the byte at an offset of the held ones lies."""
    for start, end in gaps_of(file):
        if offset < start:
            break
        offset += end - start
    return offset


def _offset_of(file: FileRow, position: int) -> int:
    """The opposite, for a position that is held."""
    return position - sum(end - start for start, end in gaps_of(file) if end <= position)


async def read_chunk(log: Log, name: str, offset: int, size_max: int) -> FileChunk | None:
    """Up to `size_max` bytes of a file, from `offset` on; None for a file that is not held.

    Raises PastEndError, PurgedWhileReadingError, InstallingError.
    """
    found = log.state.file_named(name)
    if found is None:
        return None
    file = FileRow()
    file.CopyFrom(found)  # it goes on growing
    total = content_bytes(file)
    if offset > total:
        raise PastEndError(f"{name} has {total} bytes, and byte {offset} was asked for")
    stop = min(offset + size_max, total)
    data = FILE_MAGIC[offset:stop]
    if stop > max(offset, FIRST_POSITION):
        data += await _Reading(log, file).read(max(offset, FIRST_POSITION), stop)
    return FileChunk(data=data, total=total, closed=file.closed)


class _Reading:
    """One read of a file's events; see `read_chunk`."""

    def __init__(self, log: Log, file: FileRow) -> None:
        self._log = log
        self._file = file
        self._parts: list[bytes] = []

    async def read(self, start: int, stop: int) -> bytes:
        row = await self._find(position_at(self._file, start))
        rows, at = [row], await self._begin_of(row)
        assert at <= start
        while at < stop:
            for each in rows:
                if each.row.file != self._file.ordinal:
                    raise self._purged()
                at = await self._take(each, at, start, stop)
                if at >= stop:
                    break
            else:
                rows = await self._log.read_rows(rows[-1].index, ROWS_AT_ONCE)
                if not rows:
                    raise self._purged()
        return b"".join(self._parts)

    def _purged(self) -> PurgedWhileReadingError:
        return PurgedWhileReadingError(f"{self._file.served_name} has been purged")

    async def _find(self, position: int) -> Row:
        """The row in which the event begins that has the byte at a position."""
        row = await self._log.find_row(self._file, position)
        if row is not None and row.row.begins_in_event:
            row = await self._log.find_row(self._file, row.row.start_position)
        if row is None or row.row.file != self._file.ordinal:
            raise self._purged()
        return row

    async def _begin_of(self, row: Row) -> int:
        """The offset of a row's first byte; an event begins in it."""
        position = row.row.start_position
        if row.row.begins_in_event:
            position = (await self._batch(row)).first_byte
        return _offset_of(self._file, position)

    async def _take(self, row: Row, at: int, start: int, stop: int) -> int:
        """Keeps what is wanted of a row that begins at offset `at`; where it ends."""
        inside = row.row.begins_in_event and row.row.start_position == row.row.end_position
        if inside:
            # Nothing but the middle of one event, and maybe gigabytes of it before what is wanted.
            end = at + row.row.bytes - PACKET_HEADER * row.row.packets
            if end <= start:
                return end
        data = event_bytes(await self._batch(row), row.row.packets)
        self._parts.append(data[max(start - at, 0) : max(stop - at, 0)])
        return at + len(data)

    async def _batch(self, row: Row) -> ServedBatch:
        return (await self._log.read_batches(row.index, row.index))[row.index]
