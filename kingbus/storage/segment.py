"""One segment file: its name, its header, and the sparse index of where its entries lie.

    header | LOG_START | HARD_STATE | SYNCED ENTRY ... HARD_STATE | SYNCED ENTRY ... | zeros

A closed segment ends with an INDEX record and a trailer that says where that record is, so that
opening a log reads only the headers of closed segments, and a reader finds an entry with two
reads. The index holds a point for every 64 KiB or 128 entries: an idle source makes one entry per
transaction, and ten million of those must not fill the memory.

A segment is a stream that is only ever appended to. An entry whose index is not above the last one
takes that one and all behind it out of the log: the fold over the stream is the log. So a reader
never sees bytes change, and a crash leaves some prefix of the stream whatever was being done.
Entries below the segment's first index are never in it: a truncation that reaches below begins a
new segment, which names the segment that it goes on from.
"""

import struct
import sys
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

from kingbus.crc import crc32
from kingbus.storage.errors import CorruptRecordError, NewerFormatError
from kingbus.storage.files import FileSystem
from kingbus.storage.record import HEADER, HEADER_BYTES, RecordKind, pack_record

__all__ = [
    "FORMAT_VERSION",
    "NEXT_NAME",
    "SEGMENT_HEADER_BYTES",
    "SYNCED_NAME",
    "TRANSFORMED_VERSION",
    "Location",
    "Segment",
    "SegmentHeader",
    "SegmentIndex",
    "pack_footer",
    "read_footer",
    "read_header",
    "segment_name",
    "sequence_of",
]

FORMAT_VERSION = 1
TRANSFORMED_VERSION = 2
"""Of segments that may hold entries in another form than they are: a program that does not know of
it must not take what is stored for the entries' data."""
NEXT_NAME = "next.segment"
"""The preallocated file that the next segment will be made of."""
SYNCED_NAME = "synced"
"""A file with one mark, that of the last idle moment: see `Appender.note_idle`."""

POINT_BYTES = 64 << 10
POINT_ENTRIES = 128

_MAGIC = b"KINGBSEG"
_HEADER = struct.Struct("<8sIIQQQQQQQ16s")
_CRC = struct.Struct("<I")
SEGMENT_HEADER_BYTES = _HEADER.size + _CRC.size
"""Of version 1."""
_KEY_ID = struct.Struct("<8s")
_HEADER_BYTES_MAX = SEGMENT_HEADER_BYTES + _KEY_ID.size


def segment_name(sequence: int, first_index: int) -> str:
    """The file's name; names sort in the order in which the segments were made."""
    return f"{sequence:010d}-{first_index:020d}.segment"


def sequence_of(name: str) -> int | None:
    """The sequence number in a segment's file name; None when it is not one."""
    stem, dot, suffix = name.partition(".")
    sequence, dash, first = stem.partition("-")
    if not (dot and dash and suffix == "segment" and sequence.isdigit() and first.isdigit()):
        return None
    return int(sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """The first bytes of a segment file.

    `previous_sequence` is the segment that holds the entry before `first_index` (0: the log starts
    here), `previous_term` that entry's term, and `previous_end` where that file's records end.
    With `transforms` entries in it may be compressed or sealed; `key_id`, in hexadecimal, names the
    cluster key that they are sealed with, and is empty where none is.
    """

    sequence: int
    first_index: int
    previous_sequence: int
    previous_term: int
    previous_end: int
    segment_id: bytes
    cluster_id: int = 0
    member_id: int = 0
    transforms: bool = False
    key_id: str = ""

    @property
    def size(self) -> int:
        """Bytes of the header, behind which the first record lies."""
        return _HEADER_BYTES_MAX if self.transforms else SEGMENT_HEADER_BYTES

    def pack(self) -> tuple[bytes, int]:
        """The bytes, and their CRC32, from which the chain of records starts."""
        fixed = _HEADER.pack(
            _MAGIC,
            TRANSFORMED_VERSION if self.transforms else FORMAT_VERSION,
            self.size,
            self.cluster_id,
            self.member_id,
            self.sequence,
            self.previous_sequence,
            self.first_index,
            self.previous_term,
            self.previous_end,
            self.segment_id,
        )
        if self.transforms:
            fixed += _KEY_ID.pack(bytes.fromhex(self.key_id))
        crc = crc32(fixed)
        return fixed + _CRC.pack(crc), crc

    @property
    def crc(self) -> int:
        """What the first record names as the one before it."""
        return self.pack()[1]


def read_header(files: FileSystem, fd: int, path: Path) -> SegmentHeader:
    """The header of a segment file.

    It is durable before the file gets its name, so damage is CorruptRecordError, never a torn
    write. NewerFormatError for a later version.
    """
    data = files.pread(fd, _HEADER_BYTES_MAX, 0)
    if len(data) < SEGMENT_HEADER_BYTES or data[:8] != _MAGIC:
        raise CorruptRecordError(path, 0, "this is not a segment of a kingbus log")
    (
        _,
        version,
        _,
        cluster_id,
        member_id,
        sequence,
        previous_sequence,
        first_index,
        previous_term,
        previous_end,
        segment_id,
    ) = _HEADER.unpack_from(data)
    if version > TRANSFORMED_VERSION:
        raise NewerFormatError(
            f"{path} has format {version}; this version knows up to {TRANSFORMED_VERSION}"
        )
    transforms = version == TRANSFORMED_VERSION
    summed = _HEADER.size + (_KEY_ID.size if transforms else 0)
    if len(data) < summed + _CRC.size or crc32(data[:summed]) != _CRC.unpack_from(data, summed)[0]:
        raise CorruptRecordError(path, 0, "the segment's header does not verify")
    key_id: bytes = _KEY_ID.unpack_from(data, _HEADER.size)[0] if transforms else b""
    header = SegmentHeader(
        sequence=sequence,
        first_index=first_index,
        previous_sequence=previous_sequence,
        previous_term=previous_term,
        previous_end=previous_end,
        segment_id=segment_id,
        cluster_id=cluster_id,
        member_id=member_id,
        transforms=transforms,
        key_id=key_id.hex() if any(key_id) else "",
    )
    if path.name != segment_name(sequence, first_index):
        raise CorruptRecordError(
            path, 0, f"it holds what {segment_name(sequence, first_index)} should hold"
        )
    return header


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a run of consecutive entries begins: read on from `offset` until `stop` (exclusive).

    `large` says that the run is one entry of many pages, so reading ahead is no use.
    """

    first: int
    offset: int
    stop: int
    large: bool


class SegmentIndex:
    """The sparse index of one segment, or of what one write adds to it (`tail`).

    Points are (entry index, offset); from a point on, entries lie one behind the other until the
    next point. A point is always made where entries were replaced. Beside them the indexes where
    the term changes.
    """

    __slots__ = (
        "_last_point_offset",
        "_since_point",
        "cut",
        "first_index",
        "last_index",
        "last_term",
        "offsets",
        "points",
        "term_starts",
        "terms",
    )

    def __init__(self, first_index: int) -> None:
        self.first_index = first_index
        self.last_index = first_index - 1
        self.last_term = -1  # makes the first entry a start of a term
        self.cut: int | None = None
        self.points = array("Q")
        self.offsets = array("Q")
        self.term_starts = array("Q")
        self.terms = array("Q")
        self._last_point_offset = -POINT_BYTES  # makes the first entry a point
        self._since_point = 0

    def tail(self) -> "SegmentIndex":
        """An empty index that goes on where this one ends, to be merged into it later."""
        tail = SegmentIndex(self.first_index)
        tail.last_index = self.last_index
        tail.last_term = self.last_term
        tail._last_point_offset = self._last_point_offset
        tail._since_point = self._since_point
        return tail

    def copy(self) -> "SegmentIndex":
        """An independent copy."""
        other = self.tail()
        other.cut = self.cut
        other.points = self.points[:]
        other.offsets = self.offsets[:]
        other.term_starts = self.term_starts[:]
        other.terms = self.terms[:]
        return other

    def add(self, index: int, term: int, offset: int) -> None:
        """An entry record at `offset`; at or below `last_index` it replaces what is from there."""
        replaces = index <= self.last_index
        assert replaces or index == self.last_index + 1, (index, self.last_index)
        assert index >= self.first_index, (index, self.first_index)
        if replaces:
            self._cut_from(index)
            self.cut = index if self.cut is None else min(self.cut, index)
        if (
            replaces
            or offset - self._last_point_offset >= POINT_BYTES
            or self._since_point >= POINT_ENTRIES
        ):
            self.points.append(index)
            self.offsets.append(offset)
            self._last_point_offset = offset
            self._since_point = 0
        self._since_point += 1
        if replaces or term != self.last_term:
            self.term_starts.append(index)
            self.terms.append(term)
            self.last_term = term
        self.last_index = index

    def merge(self, tail: "SegmentIndex") -> None:
        """Take over what a tail of this index has gathered."""
        if tail.cut is not None:
            self._cut_from(tail.cut)
        self.points.extend(tail.points)
        self.offsets.extend(tail.offsets)
        self.term_starts.extend(tail.term_starts)
        self.terms.extend(tail.terms)
        self.last_index = tail.last_index
        self.last_term = tail.last_term
        self._last_point_offset = tail._last_point_offset  # noqa: SLF001 - same class
        self._since_point = tail._since_point  # noqa: SLF001 - same class

    def _cut_from(self, index: int) -> None:
        while self.points and self.points[-1] >= index:
            self.points.pop()
            self.offsets.pop()
        while self.term_starts and self.term_starts[-1] >= index:
            self.term_starts.pop()
            self.terms.pop()

    def term(self, index: int) -> int:
        """The term of an entry that this index covers; None is never needed, see `covers`."""
        at = bisect_right(self.term_starts, index) - 1
        assert at >= 0, index
        return self.terms[at]

    def covers(self, index: int) -> bool:
        """Whether `term` knows this index: in a tail only what the tail itself added."""
        return bool(self.term_starts) and self.term_starts[0] <= index <= self.last_index

    def locate(self, index: int) -> Location:
        """The run in which an entry lies."""
        assert self.first_index <= index <= self.last_index, (index, self.last_index)
        at = bisect_right(self.points, index) - 1
        assert at >= 0, index
        first, offset = self.points[at], self.offsets[at]
        if at + 1 == len(self.points):
            return Location(first=first, offset=offset, stop=self.last_index + 1, large=False)
        stop = self.points[at + 1]
        large = stop == first + 1 and self.offsets[at + 1] - offset >= POINT_BYTES
        return Location(first=first, offset=offset, stop=stop, large=large)

    def encode(self) -> bytes:
        """The body of an INDEX record."""
        counts = _COUNTS.pack(
            self.first_index, self.last_index, len(self.points), len(self.term_starts)
        )
        arrays = (self.points, self.offsets, self.term_starts, self.terms)
        return counts + b"".join(_little(values).tobytes() for values in arrays)

    @classmethod
    def decode(cls, body: bytes) -> "SegmentIndex":
        """The reverse; ValueError when the lengths do not fit."""
        if len(body) < _COUNTS.size:
            raise ValueError("too short")
        first_index, last_index, points, terms = _COUNTS.unpack_from(body)
        if len(body) != _COUNTS.size + 16 * (points + terms):
            raise ValueError("wrong length")
        index = cls(first_index)
        at = _COUNTS.size
        for name, count in (
            ("points", points),
            ("offsets", points),
            ("term_starts", terms),
            ("terms", terms),
        ):
            values = array("Q", body[at : at + 8 * count])
            setattr(index, name, _little(values))
            at += 8 * count
        index.last_index = last_index
        index.last_term = index.terms[-1] if terms else -1
        return index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SegmentIndex):
            return NotImplemented
        return self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]  # it changes


_COUNTS = struct.Struct("<QQQQ")


def _little(values: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


@dataclass(slots=True, eq=False, kw_only=True)
class Segment:
    """One segment of an open log, shared by the writer and the readers.

    `index` is None for a closed one that nobody has read from yet; `end` is where its records end
    (for the active one: where they ended when it was last published), `file_bytes` what it counts
    against the reserve.
    """

    path: Path
    header: SegmentHeader
    index: SegmentIndex | None = None
    end: int = 0
    file_bytes: int = 0
    rebuilt: bool = field(default=False)

    @property
    def first_index(self) -> int:
        """The lowest index that this segment can hold."""
        return self.header.first_index

    @property
    def sequence(self) -> int:
        """Its number."""
        return self.header.sequence


_TRAILER = struct.Struct("<QI8s")
_TRAILER_MAGIC = b"KINGBIDX"


def pack_footer(index: SegmentIndex, offset: int, previous: int) -> bytes:
    """What closes a segment whose records end at `offset`."""
    record, _ = pack_record(RecordKind.INDEX, index.encode(), previous)
    place = offset.to_bytes(8, "little")
    return record + _TRAILER.pack(offset, crc32(place), _TRAILER_MAGIC)


def read_footer(files: FileSystem, fd: int) -> tuple[SegmentIndex, int] | None:
    """The index of a closed segment and where its records end; None when it does not verify."""
    size = files.size(fd)
    if size < SEGMENT_HEADER_BYTES + HEADER_BYTES + _TRAILER.size:
        return None
    offset, crc, magic = _TRAILER.unpack(files.pread(fd, _TRAILER.size, size - _TRAILER.size))
    if magic != _TRAILER_MAGIC or crc32(offset.to_bytes(8, "little")) != crc:
        return None
    record = files.pread(fd, size - _TRAILER.size - offset, offset)
    if len(record) < HEADER_BYTES:
        return None
    record_crc, _, body_crc, length, kind, *_ = HEADER.unpack_from(record)
    body = record[HEADER_BYTES:]
    if (
        kind != RecordKind.INDEX
        or length != len(body)
        or crc32(record[4:HEADER_BYTES]) != record_crc
        or crc32(body) != body_crc
    ):
        return None
    try:
        return SegmentIndex.decode(body), offset
    except ValueError:
        return None
