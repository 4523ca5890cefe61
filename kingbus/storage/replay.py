"""Reading records: the scan of a whole segment from its start, and a run of entries by place.

A scan takes records as long as each one verifies: its own sums, the chain to the one before, the
order of indexes and terms. Where it stops is the end of the log, or damage; which of the two,
`highest_synced` tells: if a "synced up to" mark behind that place says that the place had been
durable, data was lost.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from kingbus.crc import crc32
from kingbus.raft.types import Entry, HardState, varint_size
from kingbus.storage.at_rest import FORMS, LENGTH_BYTES, SEALED, Keyring, data_length, open_body
from kingbus.storage.errors import CorruptRecordError
from kingbus.storage.files import FileSystem
from kingbus.storage.record import (
    BODY_BYTES_MAX,
    CRC_BYTES,
    ENTRY_TYPES,
    HEADER,
    HEADER_BYTES,
    SYNCED_BYTES,
    LogStart,
    RecordKind,
    SyncedMark,
    unpack_hard_state,
)
from kingbus.storage.segment import SegmentHeader, SegmentIndex, read_header

__all__ = [
    "EntryReader",
    "Replay",
    "Tail",
    "examine_tail",
    "read_idle_mark",
    "stored_entry_size",
]

SCAN_BYTES = 1 << 20
"""One read of a scan: large enough to be quick, small beside the memory of a node."""
READ_BYTES = 64 << 10
"""One read of a reader: the distance of two points of the sparse index."""


class Replay:
    """What one segment says, record after record, up to the first that does not verify.

    Run it by `run()`, or by iterating over `steps()`, which yields the offset reached after each
    block. Then: `index`, `hard_state`, `log_start` are the fold of the records; `end` is the
    offset behind the last good record and `previous` its crc; `fault` says why the next is not
    good ("" when there are zeros, or the file ends); `closed` that the segment's index was there.

    Records are judged by the sums of what is stored. With `keys` what is compressed or sealed is
    opened besides; `unopened` counts those entries whose key is not among them.
    """

    def __init__(
        self,
        files: FileSystem,
        fd: int,
        path: Path,
        header: SegmentHeader,
        *,
        keys: Keyring | None = None,
    ) -> None:
        self._files = files
        self._fd = fd
        self._path = path
        self._header = header
        self._size = files.size(fd)
        self.index = SegmentIndex(header.first_index)
        self.hard_state = HardState()
        self.log_start = LogStart()
        self.head_end = 0  # behind the first hard state, which closes the head
        self.end = header.size
        self.previous = header.crc
        self.fault = ""
        self.closed = False
        self.stored_index: SegmentIndex | None = None
        self.entries = 0
        self.unopened = 0
        self._keys = keys
        self._last_term = header.previous_term
        self._need = 0
        self._stopped = False

    def run(self) -> "Replay":
        """The whole scan; returns itself."""
        for _ in self.steps():
            pass
        return self

    def steps(self) -> Iterator[int]:
        """The scan, block by block: the offset reached after each."""
        while not self._stopped:
            self._need = 0
            block = self._files.pread(self._fd, SCAN_BYTES, self.end)
            self._take(block)
            if self._need > len(block):
                # One record larger than a block.
                block = self._files.pread(self._fd, self._need, self.end)
                self._take(block)
            yield self.end

    def _stop(self, fault: str) -> None:
        self.fault = fault
        self._stopped = True

    def _take(self, block: bytes) -> None:
        """Consume the whole records of a block that begins at `end`."""
        view = memoryview(block)
        start = self.end
        at, limit = 0, len(block)
        while not self._stopped:
            if limit - at < HEADER_BYTES:
                if start + limit >= self._size:
                    self._stop("" if not any(view[at:]) else "the file ends inside a record")
                break
            (
                crc,
                previous,
                body_crc,
                length,
                kind,
                entry_type,
                flags,
                index,
                term,
            ) = HEADER.unpack_from(view, at)
            header = view[at + CRC_BYTES : at + HEADER_BYTES]
            if crc32(header) != crc:
                zeros = not crc and not any(header)
                self._stop("" if zeros else "the record's header does not verify")
                break
            if previous != self.previous:
                self._stop("a record left from before, which does not follow the one before it")
                break
            stop = at + HEADER_BYTES + length
            if length > BODY_BYTES_MAX or start + stop > self._size:
                self._stop(f"a record of {length} bytes, which cannot be")
                break
            if stop > limit:
                self._need = HEADER_BYTES + length
                break
            body = view[at + HEADER_BYTES : stop]
            if crc32(body) != body_crc:
                self._stop("the record's body does not verify")
                break
            if kind == RecordKind.ENTRY:
                if flags and not self._opens(body, flags, index, term, entry_type):
                    break
                if not self._entry(index, term, entry_type, start + at):
                    break
            elif not self._other(kind, bytes(body), start + at):
                break
            self.previous = crc
            at = stop
            self.end = start + at

    def _opens(self, body: memoryview, flags: int, index: int, term: int, entry_type: int) -> bool:
        """Whether an entry in a form of this disk is one, as far as that can be told."""
        key_id, cipher = self._header.key_id, None
        if flags & ~FORMS or (flags & SEALED and not key_id):
            self._stop(f"an entry in the unknown form {flags:#x}")
            return False
        if self._keys is None:
            return True
        if flags & SEALED:
            if key_id not in self._keys:
                self.unopened += 1
                return True
            cipher = self._keys.cipher(key_id, self._header.segment_id)
        try:
            open_body(body, flags, cipher, index=index, term=term, entry_type=entry_type)
        except ValueError as error:
            self._stop(f"entry {index}: {error}")
            return False
        return True

    def _entry(self, index: int, term: int, entry_type: int, offset: int) -> bool:
        last = self.index.last_index
        if index <= last:
            first = self._header.first_index
            before = self.index.term(index - 1) if index > first else self._header.previous_term
        else:
            before = self._last_term
        if not self._header.first_index <= index <= last + 1 or term < before:
            self._stop(
                f"entry {index} of term {term} cannot follow entry {last} of term {self._last_term}"
            )
            return False
        if entry_type >= len(ENTRY_TYPES):
            self._stop(f"an entry of unknown type {entry_type}")
            return False
        self.index.add(index, term, offset)
        self._last_term = term
        self.entries += 1
        return True

    def _other(self, kind: int, body: bytes, offset: int) -> bool:
        try:
            match kind:
                case RecordKind.HARD_STATE:
                    self._hard_state(unpack_hard_state(body))
                    self.head_end = self.head_end or offset + HEADER_BYTES + len(body)
                case RecordKind.LOG_START:
                    self.log_start = LogStart.unpack(body)
                case RecordKind.SYNCED:
                    mark = SyncedMark.unpack(body)
                    if (mark.segment_id, mark.position) != (self._header.segment_id, offset):
                        self._stop("a mark of another place")
                        return False
                case RecordKind.INDEX:
                    self.stored_index = SegmentIndex.decode(body)
                    self.closed = True
                    self._stop("")
                    return False
                case _:
                    self._stop(f"a record of unknown kind {kind}")
                    return False
        except (struct.error, DecodeError, ValueError) as error:
            self._stop(f"a record of kind {kind} that says nothing: {error}")
            return False
        return True

    def _hard_state(self, state: HardState) -> None:
        if state.term < self.hard_state.term:
            raise ValueError(f"term {state.term} after {self.hard_state.term}")
        self.hard_state = state


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What lies behind the last good record of the active segment.

    `synced` is the highest offset that a mark there claims to have been durable (0: none), `bytes`
    how far bytes other than zero reach.
    """

    synced: int
    bytes: int


def examine_tail(files: FileSystem, fd: int, header: SegmentHeader, end: int) -> Tail:
    """Look for marks and leftovers behind `end`. Preallocated room costs nothing to look at."""
    size = files.size(fd)
    synced = reach = 0
    position = files.next_data(fd, end)
    while position is not None and position < size:
        position = max(position, end)
        block = files.pread(fd, SCAN_BYTES + SYNCED_BYTES, position)
        used = len(block.rstrip(b"\0"))
        if used:
            reach = position + used - end
        at = block.find(header.segment_id)
        while at >= 0:
            mark = _mark_at(block, at - HEADER_BYTES, position, header)
            if mark is not None:
                synced = max(synced, mark.synced)
            at = block.find(header.segment_id, at + 1)
        if position + len(block) >= size:
            break
        # The overlap finds a mark that lies across two blocks.
        position = files.next_data(fd, position + SCAN_BYTES)
    return Tail(synced=synced, bytes=reach)


def read_idle_mark(files: FileSystem, path: Path) -> SyncedMark | None:
    """The mark in the file beside the segments; its `position` is a segment's sequence number.

    None where there is none, or one that a crash left unfinished.
    """
    try:
        fd = files.open(path)
    except FileNotFoundError:
        return None
    try:
        return _parse_mark(files.pread(fd, SYNCED_BYTES, 0))
    finally:
        files.close(fd)


def _mark_at(block: bytes, at: int, position: int, header: SegmentHeader) -> SyncedMark | None:
    mark = _parse_mark(block[max(at, 0) : max(at + SYNCED_BYTES, 0)])
    if mark is None or (mark.segment_id, mark.position) != (header.segment_id, position + at):
        return None
    return mark


def _parse_mark(record: bytes) -> SyncedMark | None:
    if len(record) != SYNCED_BYTES:
        return None
    crc, _, body_crc, length, kind, *_ = HEADER.unpack_from(record)
    body = record[HEADER_BYTES:]
    if (
        kind != RecordKind.SYNCED
        or length != len(body)
        or crc32(record[CRC_BYTES:HEADER_BYTES]) != crc
        or crc32(body) != body_crc
    ):
        return None
    return SyncedMark.unpack(body)


def stored_entry_size(index: int, term: int, entry_type: int, length: int) -> int:
    """`raft.types.entry_size` of an entry of which only the header was read."""
    size = 2 + varint_size(term) + varint_size(index) + (2 if entry_type else 0)
    return size + (1 + varint_size(length) + length if length else 0)


class EntryReader:
    """Gathers entries from several runs until a size limit is reached.

    The limit counts `entry_size`; the first entry always passes. Every header and every body that
    is handed out is verified: CorruptRecordError, never a wrong byte. What is compressed or sealed
    comes out as it was given; SealedLogError where `keys` do not open it.
    """

    def __init__(self, files: FileSystem, max_size: int, *, keys: Keyring | None = None) -> None:
        self._files = files
        self._left = max_size
        self._keys = keys if keys is not None else Keyring()
        self.entries: list[Entry] = []
        self.full = False

    def read_run(
        self, fd: int, path: Path, *, offset: int, first: int, lo: int, hi: int, large: bool
    ) -> None:
        """Entries lo to hi-1 of a run whose first entry, at `offset`, is `first` <= lo."""
        block = self._files.pread(fd, HEADER_BYTES if large else READ_BYTES, offset)
        at, expected = 0, first
        while expected < hi:
            if len(block) - at < HEADER_BYTES:
                offset += at
                at = 0
                block = self._files.pread(fd, READ_BYTES, offset)
                if len(block) < HEADER_BYTES:
                    raise CorruptRecordError(path, offset, f"it ends before entry {expected}")
            crc, _, body_crc, length, kind, entry_type, flags, index, term = HEADER.unpack_from(
                block, at
            )
            if crc32(block[at + CRC_BYTES : at + HEADER_BYTES]) != crc:
                raise CorruptRecordError(path, offset + at, "the record's header does not verify")
            start = at + HEADER_BYTES
            if kind != RecordKind.ENTRY:
                at = start + length
                continue
            if index != expected or entry_type >= len(ENTRY_TYPES):
                raise CorruptRecordError(
                    path, offset + at, f"entry {index} where entry {expected} should be"
                )
            expected += 1
            if index < lo:
                at = start + length
                continue
            size = length if not flags else self._data_length(fd, block, start, offset)
            self._left -= stored_entry_size(index, term, entry_type, size)
            if self._left < 0 and self.entries:
                self.full = True
                return
            if start + length <= len(block):
                data = block[start : start + length]
            else:
                data = self._files.pread(fd, length, offset + start)
            if len(data) != length or crc32(data) != body_crc:
                raise CorruptRecordError(
                    path, offset + at, f"the body of entry {index} does not verify"
                )
            if flags:
                place = (fd, path, offset + at)
                data, body_crc = self._opened(place, data, flags, index, term, entry_type)
            self.entries.append(Entry(term, index, ENTRY_TYPES[entry_type], data, body_crc))
            at = start + length

    def _data_length(self, fd: int, block: bytes, start: int, offset: int) -> int:
        """How long the data of a stored body are: the limit counts them, whatever is stored."""
        told = block[start : start + LENGTH_BYTES]
        if len(told) < LENGTH_BYTES:
            told = self._files.pread(fd, LENGTH_BYTES, offset + start)
        return data_length(told.ljust(LENGTH_BYTES, b"\0"))

    def _opened(
        self,
        place: tuple[int, Path, int],
        stored: bytes,
        flags: int,
        index: int,
        term: int,
        entry_type: int,
    ) -> tuple[bytes, int]:
        """The data of an entry that is not stored as it is, and their checksum."""
        fd, path, offset = place
        cipher = None
        if flags & SEALED:
            header = read_header(self._files, fd, path)
            if not header.key_id:
                raise CorruptRecordError(path, offset, "a sealed entry in a segment without a key")
            self._keys.require(header.key_id, path)
            cipher = self._keys.cipher(header.key_id, header.segment_id)
        try:
            return open_body(stored, flags, cipher, index=index, term=term, entry_type=entry_type)
        except ValueError as error:
            raise CorruptRecordError(path, offset, f"entry {index}: {error}") from None
