"""The writing half of the log: records into the active segment, and from one segment to the next.

One thread at a time runs it. It changes files, and state that only it sees; what readers must learn
it returns as a `Change`. The order of the lines is the argument for safety:

* everything of the old segment is durable before a new one has its name;
* a new segment's head is durable before the file has its name, and the name before anything in it
  counts as written;
* a file leaves the directory only when a durable newer segment goes on without it.

Any error of the operating system in here leaves the disk in a state that nobody knows, so it ends
the process; the callers turn it into FatalStorageError. One is foreseen: no room. It is looked for
before anything is begun that could not be taken back, and where a write within the segment fails,
the writer goes back to where it was: what reached the file lies behind the end and was promised to
nobody. A sync that fails for want of room is fatal like any other.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kingbus.crc import crc32
from kingbus.raft.types import Entry, EntryType, HardState
from kingbus.storage.at_rest import FORM_BYTES_MAX, AtRest, Keyring, Packed, Packer
from kingbus.storage.errors import NoRoomError, StorageError
from kingbus.storage.files import Buffer, FileSystem, is_no_room, write_all
from kingbus.storage.record import (
    BODY_BYTES_MAX,
    HARD_STATE_BYTES,
    HEADER_BYTES,
    SYNCED_BYTES,
    LogStart,
    RecordKind,
    SyncedMark,
    pack_hard_state,
    pack_header,
    pack_record,
)
from kingbus.storage.segment import (
    NEXT_NAME,
    SYNCED_NAME,
    Segment,
    SegmentHeader,
    SegmentIndex,
    pack_footer,
    segment_name,
)

__all__ = ["Appender", "Change"]

COPY_BYTES_MAX = 4096
"""Smaller bodies are copied behind their headers: one buffer for many records is less work for
the kernel than two for each."""
FOOTER_ROOM_PART = 128
"""A segment's size divided by this must be free before it is closed: its index, 16 bytes for every
128 entries or more, is written behind its records."""


@dataclass(slots=True, kw_only=True)
class Change:
    """What a write has changed; `LogStore.publish` shows it to the readers.

    `segments` is the new list when it is another one; `indexes` are whole indexes of segments that
    were closed or begun, `tail` what the active segment's index gains.
    """

    last_index: int
    hard_state: HardState
    log_start: LogStart
    active: Segment
    end: int
    tail: SegmentIndex | None
    segments: tuple[Segment, ...] | None = None
    indexes: list[tuple[Segment, SegmentIndex, int, int]] = field(default_factory=list)
    obsolete: list[Segment] = field(default_factory=list)


class Appender:
    """Writes records behind the last one of the active segment.

    `load_index` gives the index of a closed segment, reading it where needed; `may_preallocate`
    says whether one more segment may be reserved beside that many bytes of closed ones. `at_rest`
    is the form in which entries are written, `keys` have what seals them; a segment that was begun
    for another form is not written to any more.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        *,
        segment_bytes: int,
        cluster_id: int,
        member_id: int,
        may_preallocate: Callable[[int], bool],
        load_index: Callable[[Segment], SegmentIndex],
        at_rest: AtRest,
        keys: Keyring,
    ) -> None:
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._cluster_id = cluster_id
        self._member_id = member_id
        self._may_preallocate = may_preallocate
        self._load_index = load_index
        self._at_rest = at_rest
        self.packer = Packer(at_rest, keys, files.random_bytes) if at_rest.transforms else None

        self.segments: list[Segment] = []
        self.hard_state = HardState()
        self.log_start = LogStart()
        self.last_index = 0
        self.space_exhausted = False
        self.last_sync_seconds = 0.0

        self._fd = -1
        self._offset = 0
        self._previous = 0
        self._synced = 0  # durable up to here
        self._told = 0  # the newest mark, or the head, ends here
        self._fresh_end = 0  # a record that does not fit behind this one begins a new segment
        self._is_of_form = True  # the active segment may hold what is written from now on
        self._next_ready = False
        self._mark_fd = -1
        self._index = SegmentIndex(1)  # of the active segment, or its tail; see `_indexed_whole`
        self._indexed_whole = True
        self._buffers: list[Buffer] = []
        self._small = bytearray()
        self._start = 0  # offset of the first buffer
        self._change: Change | None = None
        self._rolled = False  # a new segment was begun in this write, or nearly so

    # Beginning

    def create(self) -> None:
        """The first segment of a log that has none."""
        self._open_mark()
        self._indexed_whole = True
        self._begin_segment(
            first_index=self.log_start.index + 1,
            previous=None,
            previous_term=self.log_start.term,
            sequence=1,
        )
        self.last_index = self.log_start.index

    def resume(
        self, *, fd: int, offset: int, previous: int, last_index: int, head_end: int
    ) -> None:
        """Go on behind the last good record of the last segment, which is durable."""
        self._open_mark()
        self._fd = fd
        self._offset = self._start = self._synced = offset
        self._told = 0
        self._previous = previous
        self.last_index = last_index
        self._fresh_end = head_end + SYNCED_BYTES
        header = self.active.header
        self._is_of_form = (header.transforms, header.key_id) == (
            self._at_rest.transforms,
            self._at_rest.key_id,
        )
        self._preallocate_next()

    @property
    def active(self) -> Segment:
        """The segment that is written to."""
        return self.segments[-1]

    @property
    def index(self) -> SegmentIndex:
        """The whole index of a segment that was just created."""
        assert self._indexed_whole
        return self._index

    @property
    def offset(self) -> int:
        """Where the next record of the active segment goes."""
        return self._offset

    # Writing

    def append(
        self,
        entries: Sequence[Entry] = (),
        *,
        hard_state: HardState | None = None,
        log_start: LogStart | None = None,
        restart: bool = False,
        sync: bool = True,
    ) -> Change:
        """One gathered write and, when `sync`, one sync.

        An entry whose index is not above the last one replaces that one and all behind it, also
        when several appends were gathered into one sequence. With `restart` every entry is
        forgotten first, and the log begins again behind `log_start`.
        """
        self._make_room(entries, log_start, restart=restart)
        mark = self._mark()
        self._rolled = False
        try:
            change = self._write(entries, hard_state, log_start, restart=restart)
        except OSError as error:
            if not is_no_room(error) or self._rolled:
                raise
            self._go_back(mark)
            self.space_exhausted = True
            raise self._no_room(str(error)) from error
        if sync:
            self._sync()
        if self._next_ready:
            self.space_exhausted = False
        return self._finish_change(change)

    def _write(
        self,
        entries: Sequence[Entry],
        hard_state: HardState | None,
        log_start: LogStart | None,
        *,
        restart: bool,
    ) -> Change:
        change = self._begin_change()
        if restart:
            assert log_start is not None
            self._restart(change, log_start, hard_state or self.hard_state)
            log_start = hard_state = None  # they stand in the head of the new segment
        if entries or log_start is not None or hard_state is not None:
            self._begin_piece()
            self._put_entries(entries)
            if log_start is not None:
                assert log_start.index >= self.log_start.index, (log_start, self.log_start)
                self.log_start = log_start
                self._put_record(RecordKind.LOG_START, log_start.pack())
            if hard_state is not None:
                assert hard_state.term >= self.hard_state.term, (hard_state, self.hard_state)
                self.hard_state = hard_state
                # Last, so that its commit index never stands without the entries that it counts.
                self._put_record(RecordKind.HARD_STATE, pack_hard_state(hard_state))
            self._flush()
        return change

    # No room

    def _make_room(
        self, entries: Sequence[Entry], log_start: LogStart | None, *, restart: bool
    ) -> None:
        """NoRoomError, with nothing changed, when segments will be needed that cannot be had."""
        # What compression saves is not known yet; what a form adds is.
        around = HEADER_BYTES + (FORM_BYTES_MAX if self.packer is not None else 0)
        needed = SYNCED_BYTES + HARD_STATE_BYTES
        needed += sum(around + len(entry.data) for entry in entries)
        needed += HEADER_BYTES + len(log_start.pack()) if log_start is not None else 0
        below = any(entry.index < self.active.first_index for entry in entries)
        rolls = restart or below or not self._is_of_form
        rest = 0 if rolls else max(0, self._segment_bytes - self._offset)
        if needed <= rest:
            return
        free = self._files.free_bytes(self._directory)
        if not self._next_ready:
            if not self._reserve_next():
                raise self._no_room("no room for another segment")
            free = self._files.free_bytes(self._directory)
        # What the rest of this segment and the next one do not take needs others, which are made
        # on the way; segments that are left with a little room each are not foreseen.
        more = max(0, needed - rest - self._segment_bytes)
        segments = -(-more // self._segment_bytes)
        if free < self._segment_bytes // FOOTER_ROOM_PART + segments * self._segment_bytes:
            self.space_exhausted = True
            raise self._no_room(f"{free} bytes are free")

    def _no_room(self, reason: str) -> NoRoomError:
        return NoRoomError(f"the disk of {self._directory} is full: {reason}")

    def _mark(self) -> "_Mark":
        assert not self._small, "flush first"
        assert not self._buffers
        return _Mark(
            offset=self._offset,
            start=self._start,
            previous=self._previous,
            last_index=self.last_index,
            hard_state=self.hard_state,
            log_start=self.log_start,
            packed=(self.packer.data_bytes, self.packer.stored_bytes) if self.packer else (0, 0),
        )

    def _go_back(self, mark: "_Mark") -> None:
        self._offset = mark.offset
        self._start = mark.start
        self._previous = mark.previous
        self.last_index = mark.last_index
        self.hard_state = mark.hard_state
        self.log_start = mark.log_start
        if self.packer is not None:
            self.packer.data_bytes, self.packer.stored_bytes = mark.packed
        self._small = bytearray()
        self._buffers = []
        self._change = None

    def _restart(self, change: Change, log_start: LogStart, hard_state: HardState) -> None:
        """Begin again with an empty log, in one step: the new segment's name.

        Before it the old log is whole; after it the start, the configuration and the hard state
        are the new ones.
        """
        self.hard_state = hard_state
        self.log_start = log_start
        change.obsolete += self.segments
        sequence = self.active.sequence + 1
        old_fd, self.segments = self._fd, []
        self._begin_segment(
            first_index=log_start.index + 1,
            previous=None,
            previous_term=log_start.term,
            sequence=sequence,
        )
        self._files.close(old_fd)
        self.last_index = log_start.index

    def note_idle(self) -> bool:
        """Say that all of the log is durable; False when that was said already.

        It is said behind the last record, and once more in a file of its own: so damage to the
        newest records is known for what it is even if it reaches over the mark behind them.
        """
        self._preallocate_next()  # there may be room again
        if self._next_ready:
            self.space_exhausted = False
        if self._told == self._offset:
            return False
        self._sync()
        before = self._mark()
        try:
            self._put_mark()
            self._flush()
        except OSError as error:
            if not is_no_room(error):
                raise
            self._go_back(before)
            return False
        self._sync()
        header = self.active.header
        mark = SyncedMark(
            segment_id=header.segment_id, position=header.sequence, synced=self._offset
        )
        record, _ = pack_record(RecordKind.SYNCED, mark.pack(), 0)
        write_all(self._files, self._mark_fd, [record], 0)
        self._files.fdatasync(self._mark_fd)
        self._told = self._offset
        return True

    def _open_mark(self) -> None:
        path = self._directory / SYNCED_NAME
        exists = SYNCED_NAME in self._files.names(self._directory)
        self._mark_fd = self._files.open(path, create=not exists, write=True)

    def close(self) -> None:
        """Let go of the active file; what was written without a sync stays so."""
        for fd in (self._fd, self._mark_fd):
            if fd >= 0:
                self._files.close(fd)
        self._fd = self._mark_fd = -1

    def drop_before(self, index: int) -> list[Segment]:
        """Take segments of which every entry is below `index` out of the list; returns them."""
        keep = max(bisect_right([segment.first_index for segment in self.segments], index) - 1, 0)
        dropped, self.segments = self.segments[:keep], self.segments[keep:]
        return dropped

    # One change

    def _begin_change(self) -> Change:
        assert self._fd >= 0, "the log is closed"
        active = self.active
        assert active.index is not None
        self._index = active.index.tail()
        self._indexed_whole = False
        self._change = Change(
            last_index=self.last_index,
            hard_state=self.hard_state,
            log_start=self.log_start,
            active=active,
            end=self._offset,
            tail=None,
        )
        return self._change

    def _finish_change(self, change: Change) -> Change:
        if self._indexed_whole:
            change.segments = tuple(self.segments)
            change.indexes.append((self.active, self._index, self._offset, self._offset))
        else:
            change.tail = self._index
        change.last_index = self.last_index
        change.hard_state = self.hard_state
        change.log_start = self.log_start
        change.active = self.active
        change.end = self._offset
        self._change = None
        return change

    # Records into buffers

    def _begin_piece(self) -> None:
        """What is written to one segment at a time begins with a mark."""
        room = SYNCED_BYTES + HARD_STATE_BYTES
        is_full = self._offset + room > self._segment_bytes and self._offset > self._fresh_end
        if is_full or not self._is_of_form:
            self._roll(self.last_index + 1)
        self._put_mark()

    def _put_mark(self) -> None:
        mark = SyncedMark(
            segment_id=self.active.header.segment_id, position=self._offset, synced=self._synced
        )
        self._put_record(RecordKind.SYNCED, mark.pack())

    def _put_record(self, kind: RecordKind, body: bytes) -> None:
        record, self._previous = pack_record(kind, body, self._previous)
        self._small += record
        self._offset += len(record)

    def _put_entries(self, entries: Sequence[Entry]) -> None:
        packer = self.packer
        packed: Packed | None = None
        flags = 0
        for entry in entries:
            data = entry.data
            length = len(data)
            index, term = entry.index, entry.term
            if packer is not None:
                packed = self._packed(packer, entry)
                flags, length = (packed.flags, packed.size) if packed else (0, length)
            if length > BODY_BYTES_MAX:
                raise _too_large(index, length)
            assert self.log_start.index < index <= self.last_index + 1, (index, self.last_index)
            size = HEADER_BYTES + length
            if index < self.active.first_index or (
                self._offset + size > self._segment_bytes and self._offset > self._fresh_end
            ):
                self._flush()
                self._roll(index)
                self._put_mark()
            checksum = entry.checksum
            if packed is not None:
                assert packer is not None
                segment_id = self.active.header.segment_id
                data, checksum = packer.finish(
                    packed, segment_id, index=index, term=term, entry_type=entry.type
                )
            elif checksum is None:
                checksum = crc32(data)
            self._index.add(index, term, self._offset)
            header, self._previous = pack_header(
                previous=self._previous,
                body_crc=checksum,
                length=length,
                kind=RecordKind.ENTRY,
                entry_type=entry.type,
                index=index,
                term=term,
                flags=flags,
            )
            self._small += header
            if length <= COPY_BYTES_MAX:
                self._small += data
            else:
                self._buffers += (self._small, data)
                self._small = bytearray()
            self._offset += size
            self.last_index = index

    @staticmethod
    def _packed(packer: Packer, entry: Entry) -> Packed | None:
        """What becomes of commands, batches among them; configurations stay as they are."""
        if entry.type is not EntryType.NORMAL or not entry.data:
            return None
        if len(entry.data) > BODY_BYTES_MAX:
            raise _too_large(entry.index, len(entry.data))
        return packer.pack(entry.data, entry.checksum)

    def _flush(self) -> None:
        """Hand everything gathered to the operating system."""
        self._buffers.append(self._small)
        self._small = bytearray()
        end = write_all(self._files, self._fd, self._buffers, self._start)
        assert end == self._offset, (end, self._offset)
        self._buffers = []
        self._start = end

    def _sync(self) -> None:
        if self._synced == self._start:
            return
        began = time.perf_counter()
        self._files.fdatasync(self._fd)
        self.last_sync_seconds = time.perf_counter() - began
        self._synced = self._start

    # From one segment to the next

    def _roll(self, first_index: int) -> None:
        """Go on in a new segment, whose first entry will be `first_index`.

        When entries below the active segment's first one are replaced, that segment, and any
        before it that begins at or behind the new one's first index, has nothing left to say.
        """
        assert not self._small and not self._buffers, "flush first"
        self._rolled = True
        old_fd, change = self._fd, self._change
        assert change is not None
        sequence = self.active.sequence + 1
        if first_index > self.active.first_index:
            self._close_active(change)
        keep = len(self.segments)
        while keep and self.segments[keep - 1].first_index >= first_index:
            keep -= 1
        change.obsolete += self.segments[keep:]
        self.segments = self.segments[:keep]
        previous = self.segments[-1] if keep else None
        if first_index == self.log_start.index + 1:
            previous_term = self.log_start.term
        else:
            assert previous is not None, (first_index, self.log_start)
            previous_term = self._closed_index(previous).term(first_index - 1)
        self._begin_segment(
            first_index=first_index,
            previous=previous,
            previous_term=previous_term,
            sequence=sequence,
        )
        self._files.close(old_fd)
        self.last_index = first_index - 1

    def _closing(self) -> list[tuple[Segment, SegmentIndex, int, int]]:
        return self._change.indexes if self._change is not None else []

    def _closed_index(self, segment: Segment) -> SegmentIndex:
        for closed, index, _, _ in self._closing():
            if closed is segment:
                return index
        return self._load_index(segment)

    def _end_of(self, segment: Segment) -> int:
        for closed, _, end, _ in self._closing():
            if closed is segment:
                return end
        self._load_index(segment)  # it tells the end
        return segment.end

    def _close_active(self, change: Change) -> None:
        """Write the index behind the records, cut the rest off, make all of it durable."""
        segment = self.active
        if self._indexed_whole:
            whole = self._index
        else:
            assert segment.index is not None
            whole = segment.index.copy()
            whole.merge(self._index)
        end = self._offset
        footer = pack_footer(whole, end, self._previous)
        size = write_all(self._files, self._fd, [footer], end)
        self._files.truncate(self._fd, size)
        self._files.fsync(self._fd)  # the size too, so not fdatasync
        change.indexes.append((segment, whole, end, size))

    def _begin_segment(
        self, *, first_index: int, previous: Segment | None, previous_term: int, sequence: int
    ) -> None:
        header = SegmentHeader(
            sequence=sequence,
            first_index=first_index,
            previous_sequence=previous.sequence if previous else 0,
            previous_term=previous_term,
            previous_end=self._end_of(previous) if previous else 0,
            segment_id=self._files.random_bytes(16),
            cluster_id=self._cluster_id,
            member_id=self._member_id,
            transforms=self._at_rest.transforms,
            key_id=self._at_rest.key_id,
        )
        self._rolled = True
        files, waiting = self._files, self._directory / NEXT_NAME
        if self._next_ready:
            fd = files.open(waiting, write=True)
        else:
            fd = files.open(waiting, create=True)
            files.allocate(fd, self._segment_bytes)
        self._next_ready = False
        head, crc = header.pack()
        start, crc = pack_record(RecordKind.LOG_START, self.log_start.pack(), crc)
        state, crc = pack_record(RecordKind.HARD_STATE, pack_hard_state(self.hard_state), crc)
        end = write_all(files, fd, [head + start + state], 0)
        files.fsync(fd)
        path = self._directory / segment_name(sequence, first_index)
        files.rename(waiting, path)
        files.sync_directory(self._directory)

        segment = Segment(path=path, header=header, index=None, end=end, file_bytes=end)
        self.segments.append(segment)
        self._fd = fd
        self._offset = self._start = self._synced = self._told = end
        self._previous = crc
        self._fresh_end = end + SYNCED_BYTES
        self._index = SegmentIndex(first_index)
        self._indexed_whole = True
        self._is_of_form = True
        self._preallocate_next()

    def _preallocate_next(self) -> None:
        """Reserve room for one more segment; without it the log is full, but goes on."""
        if self._next_ready:
            return
        closing = {segment: size for segment, _, _, size in self._closing()}
        closed = sum(closing.get(segment, segment.file_bytes) for segment in self.segments[:-1])
        if self._may_preallocate(closed):
            self._reserve_next()
        elif self.space_exhausted:
            # The reserve has none to be held, but the disk may have room again.
            free = self._files.free_bytes(self._directory)
            self.space_exhausted = free < self._segment_bytes

    def _reserve_next(self) -> bool:
        """Allocate the file of the next segment; False when the file system is full."""
        path = self._directory / NEXT_NAME
        try:
            fd = self._files.open(path, create=True)
            try:
                self._files.allocate(fd, self._segment_bytes)
            finally:
                self._files.close(fd)
        except OSError as error:
            if not is_no_room(error):
                raise
            if NEXT_NAME in self._files.names(self._directory):
                self._files.unlink(path)
            self.space_exhausted = True
            return False
        self._next_ready = True
        self.space_exhausted = False
        return True


def _too_large(index: int, length: int) -> StorageError:
    return StorageError(
        f"entry {index} has {length} bytes; a record holds at most {BODY_BYTES_MAX}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """Where the writer stood before a write that may have to be taken back.

    `packed` are the bytes that the packer has counted, before and behind it.
    """

    offset: int
    start: int
    previous: int
    last_index: int
    hard_state: HardState
    log_start: LogStart
    packed: tuple[int, int]
