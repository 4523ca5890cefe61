"""Putting damaged stretches of a stopped node's log right, with entries from a peer.

Nothing is taken on trust. In the last segment, which alone holds votes, a record is only written
back where the chain proves that it is, byte for byte, what was there: the header of the next
record names its sum. Of a closed segment only the entries matter; it is written anew, with every
entry that still verifies here and the others from the peer, to the length that the next segment
says, and takes the place of the old one by its name. What follows from the log alone, the index at
a segment's end, needs no peer. A segment that may hold compressed or sealed entries gets none of a
peer's. Whatever cannot be proven is refused with the place: then the member has to be replaced.
Must not know how a peer is asked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from kingbus.crc import crc32
from kingbus.errors import KingbusError
from kingbus.raft.types import Entry, HardState
from kingbus.storage.errors import CorruptRecordError, StorageError
from kingbus.storage.files import FileSystem, LocalFileSystem, write_all
from kingbus.storage.record import (
    BODY_BYTES_MAX,
    CRC_BYTES,
    ENTRY_TYPES,
    HEADER,
    HEADER_BYTES,
    SYNCED_BYTES,
    RecordKind,
    SyncedMark,
    pack_hard_state,
    pack_header,
    pack_record,
)
from kingbus.storage.recovery import check_tail, find_log
from kingbus.storage.replay import Replay, read_idle_mark
from kingbus.storage.segment import (
    SEGMENT_HEADER_BYTES,
    SYNCED_NAME,
    Segment,
    SegmentHeader,
    SegmentIndex,
    pack_footer,
    read_footer,
)

__all__ = ["CannotRepairError", "Fetch", "Repaired", "repair_log"]

REPAIR_NAME = "repair.segment"
FILLER_BYTES_MAX = 32 << 20
FETCH_ENTRIES = 256
COMMITS_TRIED_MAX = 1 << 12
"""A hard state is found by trying; with more tries one could fit by chance."""

_OF_OTHER_FORM = (
    "entries of this segment are compressed or sealed, and putting a peer's in their place is not"
    " available yet"
)

Fetch = Callable[[int, int], Sequence[Entry]]
"""Entries lo to hi-1 of a peer, at least one, cut as it likes; raises a KingbusError."""


class CannotRepairError(CorruptRecordError):
    """What was there cannot be proven from what is left."""

    hint = (
        "remove this member from the cluster and add it again with an empty data directory; check"
        " the disk first"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """One thing that was put right; `entries` came from the peer."""

    path: Path
    what: str
    entries: int = 0


def repair_log(
    directory: Path, fetch: Fetch, *, files: FileSystem | None = None
) -> Iterator[Repaired]:
    """Put right what can be, reporting each thing once it is durable. Blocks.

    Each step may be interrupted, and the whole be repeated. DirectoryInUseError, CannotRepairError,
    CorruptRecordError for the head of a segment or a segment that is missing, and what `fetch`
    raises.
    """
    files = files or LocalFileSystem()
    lock = files.lock(directory / "LOCK")
    try:
        if REPAIR_NAME in files.names(directory):
            files.unlink(directory / REPAIR_NAME)
        # First the last one, whose records say where the log begins.
        yield from _repair_last(files, directory, fetch)
        found = find_log(files, directory)
        if found is None:
            raise StorageError(f"{directory} holds no log")
        for segment, after in zip(found.segments, found.segments[1:], strict=False):
            yield from _repair_closed(files, segment, after.header, fetch)
    finally:
        files.unlock(lock)


# Closed segments


def _repair_closed(
    files: FileSystem, segment: Segment, after: SegmentHeader, fetch: Fetch
) -> Iterator[Repaired]:
    fd = files.open(segment.path, write=True)
    try:
        replay = Replay(files, fd, segment.path, segment.header).run()
        footer = read_footer(files, fd)
        if replay.end == after.previous_end:
            if footer != (replay.index, replay.end):
                _write_footer(files, fd, replay.index, replay.end, replay.previous)
                yield Repaired(path=segment.path, what="the index at its end was written again")
            return
        if segment.header.transforms:
            raise CannotRepairError(
                segment.path, replay.end, f"{replay.fault or 'it ends too early'}; {_OF_OTHER_FORM}"
            )
        index = footer[0] if footer is not None and footer[1] == after.previous_end else None
        whole = _Rebuilt(files, fd, segment, after, index=index, fetch=fetch)
        entries = whole.write()
    finally:
        files.close(fd)
    yield Repaired(
        path=segment.path,
        what=f"written again, damaged at byte {replay.end}: {replay.fault or 'it ends too early'}",
        entries=entries,
    )


def _write_footer(files: FileSystem, fd: int, index: SegmentIndex, end: int, previous: int) -> None:
    size = write_all(files, fd, [pack_footer(index, end, previous)], end)
    files.truncate(fd, size)
    files.fsync(fd)


class _Rebuilt:
    """A closed segment in the making: header, filler, entries, index."""

    def __init__(
        self,
        files: FileSystem,
        fd: int,
        segment: Segment,
        after: SegmentHeader,
        *,
        index: SegmentIndex | None,
        fetch: Fetch,
    ) -> None:
        self._files = files
        self._old = fd
        self._segment = segment
        self._after = after
        self._index = index
        self._fetch = fetch
        self._fetched: dict[int, Entry] = {}
        self._taken = 0

    def write(self) -> int:
        """Blocks. How many entries came from the peer."""
        files, segment, after = self._files, self._segment, self._after
        first, stop = segment.first_index, after.first_index
        places = _salvaged(files, self._old, segment, self._index)
        sizes = sum(self._size(index, places) for index in range(first, stop))
        room = after.previous_end - SEGMENT_HEADER_BYTES - sizes
        if room and room < HEADER_BYTES:
            raise self._refusal(f"its entries leave {room} bytes, which no record fits into")
        path = segment.path.parent / REPAIR_NAME
        fd = files.open(path, create=True)
        try:
            end, index, previous = self._fill(fd, places, room)
            if end != after.previous_end:
                raise self._refusal(f"its entries end at {end}, not at {after.previous_end}")
            _write_footer(files, fd, index, end, previous)
        except KingbusError:
            files.unlink(path)
            raise
        finally:
            files.close(fd)
        files.rename(path, segment.path)
        files.sync_directory(path.parent)
        return self._taken

    def _refusal(self, what: str) -> CannotRepairError:
        return CannotRepairError(self._segment.path, SEGMENT_HEADER_BYTES, what)

    def _size(self, index: int, places: dict[int, tuple[int, int]]) -> int:
        if index in places:
            return HEADER_BYTES + places[index][1]
        return HEADER_BYTES + len(self._of_peer(index).data)

    def _of_peer(self, index: int) -> Entry:
        if index not in self._fetched:
            stop = min(self._after.first_index, index + FETCH_ENTRIES)
            self._fetched = {entry.index: entry for entry in self._fetch(index, stop)}
        try:
            return self._fetched[index]
        except KeyError:
            raise self._refusal(f"the peer does not give entry {index}") from None

    def _fill(
        self, fd: int, places: dict[int, tuple[int, int]], room: int
    ) -> tuple[int, SegmentIndex, int]:
        header, previous = self._segment.header.pack()
        at = write_all(self._files, fd, [header], 0)
        index = SegmentIndex(self._segment.first_index)
        first, term = self._segment.first_index, self._segment.header.previous_term
        while room:
            # An entry that the next one replaces, as after an election.
            size = room if room <= FILLER_BYTES_MAX else FILLER_BYTES_MAX // 2
            filler = Entry(term, first, data=bytes(size - HEADER_BYTES))
            index.add(first, term, at)
            at, previous = self._put(fd, filler, at, previous)
            room -= size
        for number in range(first, self._after.first_index):
            entry = self._entry(number, places)
            if entry.term < term or entry.term > self._after.previous_term:
                raise self._refusal(f"entry {number} of term {entry.term} cannot be there")
            term = entry.term
            index.add(number, term, at)
            at, previous = self._put(fd, entry, at, previous)
        if term != self._after.previous_term:
            raise self._refusal(
                f"its last entry is of term {term}, not {self._after.previous_term}:"
                " the peer has another log"
            )
        self._files.fsync(fd)
        return at, index, previous

    def _entry(self, index: int, places: dict[int, tuple[int, int]]) -> Entry:
        if index in places:
            offset, length = places[index]
            record = self._files.pread(self._old, HEADER_BYTES + length, offset)
            _, _, body_crc, _, _, entry_type, _, _, term = HEADER.unpack_from(record)
            return Entry(term, index, ENTRY_TYPES[entry_type], record[HEADER_BYTES:], body_crc)
        entry = self._of_peer(index)
        if self._index is not None and entry.term != self._index.term(index):
            raise self._refusal(
                f"entry {index} is of term {entry.term} at the peer, and was of term"
                f" {self._index.term(index)} here"
            )
        self._taken += 1
        return entry

    def _put(self, fd: int, entry: Entry, at: int, previous: int) -> tuple[int, int]:
        header, crc = _entry_header(entry, previous)
        return write_all(self._files, fd, [header, entry.data], at), crc


def _entry_header(entry: Entry, previous: int) -> tuple[bytes, int]:
    return pack_header(
        previous=previous,
        body_crc=crc32(entry.data),
        length=len(entry.data),
        kind=RecordKind.ENTRY,
        entry_type=entry.type,
        index=entry.index,
        term=entry.term,
    )


def _salvaged(
    files: FileSystem, fd: int, segment: Segment, index: SegmentIndex | None
) -> dict[int, tuple[int, int]]:
    """Offset and length of the entries that verify and are of the right term.

    Without the segment's index nothing says which of two entries of one number counts.
    """
    places: dict[int, tuple[int, int]] = {}
    if index is None:
        return places
    size = files.size(fd)
    for number, begin in enumerate(index.offsets):
        more = number + 1 < len(index.offsets)
        end = index.offsets[number + 1] if more else size
        at = begin
        while at + HEADER_BYTES <= end:
            header = files.pread(fd, HEADER_BYTES, at)
            if len(header) < HEADER_BYTES or crc32(header[CRC_BYTES:]) != HEADER.unpack(header)[0]:
                break  # the next point is where it can be read on
            _, _, body_crc, length, kind, entry_type, _, found, term = HEADER.unpack(header)
            if length > BODY_BYTES_MAX or kind == RecordKind.INDEX:
                break
            if (
                kind == RecordKind.ENTRY
                and entry_type < len(ENTRY_TYPES)
                and segment.first_index <= found <= index.last_index
                and index.term(found) == term
            ):
                body = files.pread(fd, length, at + HEADER_BYTES)
                if len(body) == length and crc32(body) == body_crc:
                    places[found] = at, length
            at += HEADER_BYTES + length
    return places


# The last segment


def _repair_last(files: FileSystem, directory: Path, fetch: Fetch) -> Iterator[Repaired]:
    while True:
        found = find_log(files, directory)
        if found is None:
            raise StorageError(f"{directory} holds no log")
        segment, replay = found.segments[-1], found.replay
        fd = files.open(segment.path, write=True)
        try:
            try:
                check_tail(files, fd, segment, replay)
                return
            except CorruptRecordError:
                idle = read_idle_mark(files, directory / SYNCED_NAME)
                if idle is not None and idle.position > segment.sequence:
                    raise  # there was a later segment: this is not the last one
            last = _LastSegment(files, fd, segment, replay, fetch)
            what, record, taken = last.proven()
            write_all(files, fd, [record], replay.end)
            files.fdatasync(fd)
        finally:
            files.close(fd)
        yield Repaired(path=segment.path, what=f"{what} at byte {replay.end}", entries=taken)


class _LastSegment:
    """Finds what stood behind the last good record, and proves it."""

    def __init__(
        self, files: FileSystem, fd: int, segment: Segment, replay: Replay, fetch: Fetch
    ) -> None:
        self._files = files
        self._fd = fd
        self._segment = segment
        self._replay = replay
        self._fetch = fetch
        self._at = replay.end
        self._previous = replay.previous

    def proven(self) -> tuple[str, bytes, int]:
        """What it is, its bytes, and how many entries the peer gave for it."""
        for candidates in (self._marks, self._hard_states, self._entries):
            for what, record, crc, taken in candidates():
                if self._fits(record, crc):
                    return what, record, taken
        fault = self._replay.fault or "zeros where a record should be"
        transforms = self._segment.header.transforms
        why = _OF_OTHER_FORM if transforms else "what stood there cannot be proven"
        raise CannotRepairError(self._segment.path, self._at, f"{fault}; {why}")

    def _fits(self, record: bytes, crc: int) -> bool:
        """Whether the next record names this one; or the log ends here, as was marked."""
        end = self._at + len(record)
        header = self._files.pread(self._fd, HEADER_BYTES, end)
        if len(header) == HEADER_BYTES:
            found_crc, previous, *_ = HEADER.unpack(header)
            if crc32(header[CRC_BYTES:]) == found_crc and previous == crc:
                return True
            if crc32(header[CRC_BYTES:]) == found_crc and found_crc:
                return False
        # The header here, if it is whole, names the sum of its body and its own.
        own = self._files.pread(self._fd, HEADER_BYTES, self._at)
        if len(own) == HEADER_BYTES and own == record[:HEADER_BYTES]:
            return True
        idle = read_idle_mark(self._files, self._segment.path.parent / SYNCED_NAME)
        return (
            idle is not None
            and idle.segment_id == self._segment.header.segment_id
            and idle.synced == end
        )

    def _marks(self) -> Iterator[tuple[str, bytes, int, int]]:
        idle = _ends_here(self._files, self._segment, self._at + SYNCED_BYTES)
        begin = self._segment.header.size
        ends = [self._at] if idle else _boundaries(self._files, self._fd, begin, self._at)
        for synced in ends:
            mark = SyncedMark(
                segment_id=self._segment.header.segment_id, position=self._at, synced=synced
            )
            record, crc = pack_record(RecordKind.SYNCED, mark.pack(), self._previous)
            yield "a mark", record, crc, 0

    def _hard_states(self) -> Iterator[tuple[str, bytes, int, int]]:
        known, index = self._replay.hard_state, self._replay.index
        terms = {known.term, max(known.term, index.last_term)}
        stop = min(index.last_index, known.commit + COMMITS_TRIED_MAX) + 1
        for term, vote, commit in product(terms, {known.vote, 0}, range(known.commit, stop)):
            body = pack_hard_state(HardState(term, vote, commit))
            record, crc = pack_record(RecordKind.HARD_STATE, body, self._previous)
            yield "a hard state", record, crc, 0

    def _entries(self) -> Iterator[tuple[str, bytes, int, int]]:
        if self._segment.header.transforms:
            return
        # The next one, or after an election one that replaced what was not committed. Of those
        # that were replaced the peer knows nothing.
        stop = self._replay.index.last_index + 2
        first = max(self._replay.hard_state.commit + 1, self._segment.first_index)
        first = min(max(first, stop - FETCH_ENTRIES), stop - 1)
        for number in range(stop - 1, first - 1, -1):
            for entry in self._fetch(number, number + 1):
                if entry.index == number:
                    header, crc = _entry_header(entry, self._previous)
                    yield f"entry {number}", header + entry.data, crc, 1


def _ends_here(files: FileSystem, segment: Segment, end: int) -> bool:
    idle = read_idle_mark(files, segment.path.parent / SYNCED_NAME)
    return idle is not None and idle.segment_id == segment.header.segment_id and idle.synced == end


def _boundaries(files: FileSystem, fd: int, begin: int, end: int) -> list[int]:
    """Where records from `begin` on end, newest first: what a mark can say that was durable."""
    found = []
    at = begin
    while at <= end:
        found.append(at)
        header = files.pread(fd, HEADER_BYTES, at)
        if len(header) < HEADER_BYTES:
            break
        at += HEADER_BYTES + HEADER.unpack(header)[3]
    return found[::-1]
