"""The Raft log on disk: segments behind one door, which is also the core's `Storage`.

Threads. One thread at a time, a worker, runs what writes: `write`, `note_idle`, `truncate_before`,
`close`. The event loop runs `publish`, the reads of `raft.storage.Storage`, `cached` and the
setters. `read` runs in any thread, at any time. What `write` does nobody sees before `publish`,
which must follow each `write` before the next one. The few structures that readers share are
changed under a lock that nobody holds while reading or writing a file.

A directory with a log looks like this:

    LOCK                                          held while open
    0000000001-00000000000000000001.segment       sequence number, first index
    0000000002-00000000000000004711.segment
    next.segment                                  room reserved for the next one
    synced                                        how far the log was durable when last idle

Opening reads the headers of the segments and all of the last one. What is behind its last good
record is cut off, unless a mark there says that it had been durable: then data was lost, and the
log does not open.
"""

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Self

from kingbus.raft.storage import (
    CompactedError,
    SnapshotTemporarilyUnavailableError,
    UnavailableError,
)
from kingbus.raft.types import ConfState, Entry, HardState, Snapshot
from kingbus.storage.appender import Appender, Change
from kingbus.storage.at_rest import AS_THEY_ARE, AtRest, AtRestStatus, Keyring
from kingbus.storage.cache import EntryCache
from kingbus.storage.checked import CheckedEntries
from kingbus.storage.errors import (
    CorruptRecordError,
    FatalStorageError,
    NoRoomError,
    NotEnoughSpaceError,
    StorageError,
)
from kingbus.storage.files import DescriptorPool, FileSystem, LocalFileSystem, is_no_room
from kingbus.storage.record import LogStart
from kingbus.storage.recovery import FoundLog, Recovery, check_ids, check_tail, find_log
from kingbus.storage.replay import EntryReader, Replay
from kingbus.storage.segment import (
    NEXT_NAME,
    Segment,
    SegmentIndex,
    read_footer,
    sequence_of,
)
from kingbus.storage.stored_entry import StoredEntry

__all__ = ["LogStore", "LogWrite", "Place", "Recovery"]

CACHE_BYTES = 64 << 20
"""What may be uncommitted (48 MiB) and, behind that, what is under way to a follower (16 MiB): with
less a leader under load reads from its disk what it has yet to send and to apply."""
INDEXES_MAX = 64
"""Indexes of closed segments kept in memory: about 64 KiB each for segments of 256 MiB."""
MARGIN_BYTES_MAX = 64 << 20
"""Kept free for the core's own small entries when the log is full, and for what the end of a
segment leaves unused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite:
    """What is to be made durable in one write.

    `entries` may be several appends one behind the other: an index that is not above the one
    before it replaces that entry and all behind it. `hard_state` None: unchanged. `snapshot` comes
    first: it replaces the whole log by its start. Without `must_sync` the write may be lost in a
    crash, with all that was written after it and before the next sync.
    """

    entries: Sequence[Entry] = ()
    hard_state: HardState | None = None
    snapshot: Snapshot | None = None
    must_sync: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A run of entries in one segment: `first` lies at `offset`, read on until `stop`.

    With `transformed` they may be compressed or sealed, so they have to be read.
    """

    segment: str
    first: int
    offset: int
    stop: int
    large: bool
    transformed: bool = False


class LogStore:
    """See the module. Made by `LogStore.open`."""

    def __init__(
        self,
        directory: Path,
        *,
        files: FileSystem,
        segment_bytes: int,
        reserve_bytes: int,
        index_bytes: int,
        cache_bytes: int,
        at_rest: AtRest = AS_THEY_ARE,
        keys: Keyring | None = None,
    ) -> None:
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self.reserve_bytes = reserve_bytes
        self.index_bytes = index_bytes
        """Of the reserve, what is not the log's; the owner of the index says how much."""
        self._at_rest = at_rest
        self.keys = keys if keys is not None else Keyring()
        self.warnings: list[str] = []
        self.recovery: Recovery | None = None

        self._lock = Lock()
        self._file_lock: int | None = None
        self._segments: tuple[Segment, ...] = ()
        self._starts: list[int] = []
        self._log_start = LogStart()
        self._last_index = 0
        self._hard_state = HardState()
        self._closed_bytes = 0
        self._active_bytes = 0
        self._loaded: OrderedDict[int, Segment] = OrderedDict()
        self._pool = DescriptorPool(files)

        self._snapshot_source: Callable[[], Snapshot] | None = None
        self._conf = (0, ConfState())  # the newest; goes to the disk with the next write
        self._cache = EntryCache(cache_bytes)
        self._checked = CheckedEntries()

        self._appender: Appender | None = None
        self._unpublished: tuple[LogWrite, Change] | None = None
        self._obsolete: deque[Segment] = deque()
        self._failed: FatalStorageError | None = None

    # Opening and closing

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        segment_bytes: int,
        reserve_bytes: int,
        index_bytes: int = 0,
        cache_bytes: int = CACHE_BYTES,
        cluster_id: int = 0,
        member_id: int = 0,
        former_ids: Sequence[int] = (),
        files: FileSystem | None = None,
        at_rest: AtRest = AS_THEY_ARE,
        keys: Keyring | None = None,
    ) -> Self:
        """Open the log of a directory, or begin one where there is none.

        Blocks. The ids are written into new segments and compared with the old ones where both are
        known (not 0); `former_ids` are clusters whose log this one goes on with. `index_bytes` of
        the reserve are not for the log. `warnings` and `recovery` tell what is worth a line in the
        log. `at_rest` is the form in which entries are written; what is there stays as it is.
        `keys` open what was sealed before, the key of `at_rest` does so in any case; `keys` of the
        store are those of them that are used. Raises DirectoryInUseError, NotEnoughSpaceError,
        CorruptRecordError, NewerFormatError, WrongIdentityError, SealedLogError when a segment is
        sealed with another key, and
        StorageError when the directory cannot be used at all.
        """
        if reserve_bytes < 2 * segment_bytes:
            raise StorageError(
                f"a reserve of {reserve_bytes} bytes is less than two segments of {segment_bytes}",
                hint="make reserve-data-size larger or segment-size smaller",
            )
        files = files or LocalFileSystem()
        held = list(keys or ()) + ([at_rest.key] if at_rest.key is not None else [])
        store = cls(
            directory,
            files=files,
            segment_bytes=segment_bytes,
            reserve_bytes=reserve_bytes,
            index_bytes=index_bytes,
            cache_bytes=cache_bytes,
            at_rest=at_rest,
            keys=Keyring(held),
        )
        try:
            files.make_directory(directory)
            store._file_lock = files.lock(directory / "LOCK")
            try:
                store._load(cluster_id, member_id, former_ids)
            except BaseException:
                store.abandon()
                raise
        except OSError as error:
            raise StorageError(f"cannot open the log in {directory}: {error}") from error
        return store

    @classmethod
    def open_for_reading(
        cls, directory: Path, *, files: FileSystem | None = None, keys: Keyring | None = None
    ) -> Self:
        """Open the log of a stopped node for a tool: nothing on the disk changes. Blocks.

        An unsynced tail is passed over, as `open` would cut it. Errors as `open`, SealedLogError
        among them for a segment that none of `keys` opens, and StorageError when there is no log.
        """
        files = files or LocalFileSystem()
        store = cls(
            directory,
            files=files,
            segment_bytes=1,
            reserve_bytes=1,
            index_bytes=0,
            cache_bytes=0,
            keys=keys,
        )
        try:
            store._file_lock = files.lock(directory / "LOCK")
            try:
                store._look()
            except BaseException:
                store.abandon()
                raise
        except OSError as error:
            raise StorageError(f"cannot read the log in {directory}: {error}") from error
        return store

    def _look(self) -> None:
        files, directory = self._files, self._directory
        found = find_log(files, directory)
        if found is None:
            raise StorageError(f"{directory} holds no log")
        replay, last = found.replay, found.segments[-1]
        fd = files.open(last.path)
        try:
            self.recovery = check_tail(files, fd, last, replay)
        finally:
            files.close(fd)
        last.index, last.end = replay.index, replay.end
        self._log_start = replay.log_start
        self._conf = (replay.log_start.conf_index, replay.log_start.conf_state)
        self._hard_state = replay.hard_state
        self._last_index = replay.index.last_index
        self._set_segments(tuple(found.segments))
        self._require_keys(found.segments)

    def _load(self, cluster_id: int, member_id: int, former_ids: Sequence[int]) -> None:
        files, directory = self._files, self._directory
        if NEXT_NAME in files.names(directory):
            # Perhaps with the head of a segment that never got its name.
            files.unlink(directory / NEXT_NAME)
        self._check_space()
        found = find_log(files, directory)
        for segment in found.segments if found else ():
            check_ids(segment, cluster_id=cluster_id, member_id=member_id, former_ids=former_ids)
        self._require_keys(found.segments if found else ())
        newest = found.segments[-1].header if found else None
        self._appender = appender = Appender(
            files,
            directory,
            segment_bytes=self._segment_bytes,
            cluster_id=cluster_id or (newest.cluster_id if newest else 0),
            member_id=member_id or (newest.member_id if newest else 0),
            may_preallocate=self._may_preallocate,
            load_index=self._index_of,
            at_rest=self._at_rest,
            keys=self.keys,
        )
        if found is None:
            appender.create()
            appender.active.index = appender.index
        else:
            self._resume(appender, found)
            for path in found.replaced:
                files.unlink(path)
        appender.active.end = appender.active.file_bytes = appender.offset
        files.sync_directory(directory)
        self._log_start = appender.log_start
        self._conf = (appender.log_start.conf_index, appender.log_start.conf_state)
        self._hard_state = appender.hard_state
        self._last_index = appender.last_index
        self._set_segments(tuple(appender.segments))

    def _require_keys(self, segments: Sequence[Segment]) -> None:
        """Refuse at the start what could not be read later; keep the keys that are needed."""
        needed = {self._at_rest.key_id: self._directory}
        for segment in segments:
            needed.setdefault(segment.header.key_id, segment.path)
        needed.pop("", None)
        for key_id, path in needed.items():
            self.keys.require(key_id, path)
        self.keys = self.keys.only(needed)

    def _resume(self, appender: Appender, found: FoundLog) -> None:
        files, replay = self._files, found.replay
        appender.segments = found.segments
        appender.hard_state = replay.hard_state
        appender.log_start = replay.log_start
        active = appender.active
        active.index = replay.index
        fd = files.open(active.path, write=True)
        try:
            self.recovery = check_tail(files, fd, active, replay)
            # Nothing of an earlier life may stay behind the end. The sync also makes durable what
            # was read: after a crash of the process alone it may never have reached the disk.
            files.truncate(fd, replay.end)
            try:
                files.allocate(fd, max(self._segment_bytes, replay.end))
            except OSError as error:
                if not is_no_room(error):
                    raise
                appender.space_exhausted = True
            files.fsync(fd)
        except BaseException:
            files.close(fd)
            raise
        appender.resume(
            fd=fd,
            offset=replay.end,
            previous=replay.previous,
            last_index=replay.index.last_index,
            head_end=replay.head_end,
        )

    def _check_space(self) -> None:
        files, directory = self._files, self._directory
        held = sum(
            files.file_bytes(directory / name)
            for name in files.names(directory)
            if sequence_of(name) is not None
        )
        free = files.free_bytes(directory)
        if held + free < 2 * self._segment_bytes:
            problem = (
                f"{directory} has {free} bytes free; two segments of {self._segment_bytes} bytes "
                "are needed"
            )
            if not held:
                raise NotEnoughSpaceError(problem)
            # What is there can be served, and the rest can wait.
            self.warnings.append(problem)
        elif held + free < self.reserve_bytes:
            self.warnings.append(
                f"{directory} holds {held} bytes and the file system has {free} bytes free: less "
                f"than the reserve of {self.reserve_bytes}"
            )

    def close(self) -> None:
        """Blocks. Mark everything as durable and let go; may be called twice."""
        try:
            if self._failed is None and self._appender is not None:
                self.note_idle()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of files and lock without writing anything."""
        if self._appender is not None:
            self._appender.close()
            self._appender = None
        self._pool.close()
        if self._file_lock is not None:
            self._files.unlock(self._file_lock)
            self._file_lock = None

    # Writing: one worker thread at a time

    def write(self, write: LogWrite) -> None:
        """Make it durable: one gathered write, one sync. Blocks.

        FatalStorageError when the disk refuses: the process must end. NoRoomError when it is full:
        nothing was changed, and it may be tried again. Nothing is visible before `publish`.
        """
        assert self._unpublished is None, "publish the write before"
        appender = self._usable()
        hard_state = write.hard_state if write.hard_state != appender.hard_state else None
        log_start = self._newer_conf(appender)
        try:
            self._remove_obsolete()
            if write.snapshot is not None:
                log_start = _start_of(write.snapshot)
                hard_state = _committed(hard_state or appender.hard_state, write.snapshot.index)
            change = appender.append(
                write.entries,
                hard_state=hard_state,
                log_start=log_start,
                restart=write.snapshot is not None,
                sync=write.must_sync or write.snapshot is not None,
            )
        except NoRoomError:
            raise
        except OSError as error:
            raise self._fail("writing the log", error) from error
        except (StorageError, AssertionError):
            # Half of a gathered write may be in the file, and the writer's state with it.
            self._failed = FatalStorageError("an earlier write of the log was refused")
            raise
        self._unpublished = (write, change)

    def note_idle(self) -> bool:
        """Blocks. To be called when nothing was written for a second.

        Says in the log that all of it is durable, so that damage to the newest records is known
        for what it is. False when there was nothing to say.
        """
        appender = self._usable()
        try:
            self._remove_obsolete()
            return appender.note_idle()
        except OSError as error:
            raise self._fail("syncing the log", error) from error

    def truncate_before(self, index: int) -> None:
        """Blocks. Give up every entry below `index`; whole segments leave the disk.

        The caller has made durable, in the database, all that followed from those entries. Readers
        see the new start at once. NoRoomError as `write`.
        """
        assert self._unpublished is None, "publish the write before"
        assert index <= self._last_index + 1, (index, self._last_index)
        if index <= self.first_index():
            return
        appender = self._usable()
        old = self._newer_conf(appender) or appender.log_start
        start = LogStart(
            index=index - 1,
            term=self.term(index - 1),
            conf_index=old.conf_index,
            conf_state=old.conf_state,
        )
        try:
            change = appender.append(log_start=start)
            change.obsolete += appender.drop_before(index)
            change.segments = tuple(appender.segments)
            self._show(change)
            with self._lock:
                self._checked.forget_before(index)
            self._remove_obsolete()
        except OSError as error:
            raise self._fail("truncating the log", error) from error

    def _usable(self) -> Appender:
        if self._failed is not None:
            raise self._failed
        if self._appender is None:
            raise StorageError(f"the log in {self._directory} is closed")
        return self._appender

    def _fail(self, operation: str, error: OSError) -> FatalStorageError:
        self._failed = FatalStorageError(f"{operation} in {self._directory}: {error}")
        return self._failed

    def _newer_conf(self, appender: Appender) -> LogStart | None:
        index, state = self._conf
        known = appender.log_start
        if (index, state) == (known.conf_index, known.conf_state):
            return None
        return LogStart(index=known.index, term=known.term, conf_index=index, conf_state=state)

    def _remove_obsolete(self) -> None:
        """Unlink what nothing refers to any more; left over after a crash, opening does it."""
        removed = False
        while self._obsolete:
            segment = self._obsolete.popleft()
            self._files.unlink(segment.path)
            self._pool.drop(segment.path)
            removed = True
        if removed:
            self._files.sync_directory(self._directory)

    def _may_preallocate(self, closed_bytes: int) -> bool:
        return closed_bytes + 2 * self._segment_bytes <= self.reserve_bytes - self.index_bytes

    # On the loop

    def publish(self, write: LogWrite) -> None:
        """Show a write that `write` has made durable to the readers."""
        assert self._unpublished is not None and self._unpublished[0] is write, "not written"
        change, self._unpublished = self._unpublished[1], None
        if write.snapshot is not None:
            self._cache.clear()
            self._conf = (change.log_start.conf_index, change.log_start.conf_state)
        self._show(change)
        self._cache.add(write.entries)
        with self._lock:
            if write.snapshot is not None:
                self._checked.clear()
            if write.entries:
                # Also of replaced ones: what takes their place comes from this process, too.
                indexes = [entry.index for entry in write.entries]
                self._checked.add(min(indexes), max(indexes) + 1)

    def _show(self, change: Change) -> None:
        with self._lock:
            for segment, index, end, size in change.indexes:
                segment.index, segment.end, segment.file_bytes = index, end, size
            if change.tail is not None:
                assert change.active.index is not None
                change.active.index.merge(change.tail)
            change.active.end = change.active.file_bytes = change.end
            self._hard_state = change.hard_state
            self._log_start = change.log_start
            self._last_index = change.last_index
            self._active_bytes = change.end
            if change.segments is not None:
                self._set_segments(change.segments)
        self._obsolete.extend(change.obsolete)

    def _set_segments(self, segments: tuple[Segment, ...]) -> None:
        self._segments = segments
        self._starts = [segment.first_index for segment in segments]
        self._closed_bytes = sum(segment.file_bytes for segment in segments[:-1])
        self._active_bytes = segments[-1].file_bytes
        live = {segment.sequence for segment in segments[:-1]}
        for sequence in [sequence for sequence in self._loaded if sequence not in live]:
            del self._loaded[sequence]
        for segment in segments[:-1]:
            if segment.index is not None and segment.sequence not in self._loaded:
                self._keep_index(segment)

    def set_conf_state(self, index: int, conf_state: ConfState) -> None:
        """The configuration as of an applied index; older than the known one: ignored.

        It goes to the disk with the next write.
        """
        if index >= self._conf[0]:
            self._conf = (index, conf_state)

    def set_snapshot_source(self, source: Callable[[], Snapshot]) -> None:
        """Who makes the snapshot that a follower behind the log's start gets."""
        self._snapshot_source = source

    @property
    def conf_index(self) -> int:
        """The index that the known configuration is from."""
        return self._conf[0]

    @property
    def bytes_used(self) -> int:
        """Bytes of records that the log retains."""
        return self._closed_bytes + self._active_bytes

    def has_room(self, pending_bytes: int) -> bool:
        """Whether more may come beside what is under way and not written yet.

        What counts is what the disk has to give: a segment takes all of its room from its beginning
        on. MARGIN_BYTES_MAX, or half a segment, stays free.
        """
        if self.is_out_of_room:
            return False
        segment = self._segment_bytes
        free = self.reserve_bytes - self.index_bytes - self._closed_bytes
        free -= max(segment, self._active_bytes)
        # Room that the written segment has already is taken from nobody.
        room = max(0, segment - self._active_bytes) + max(0, free // segment) * segment
        return room >= min(MARGIN_BYTES_MAX, segment // 2) + pending_bytes

    def segment_sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First index and bytes of each segment, oldest first, of the last how much is filled."""
        with self._lock:
            sizes = [segment.file_bytes for segment in self._segments[:-1]]
            return tuple(self._starts), (*sizes, self._active_bytes)

    @property
    def segment_bytes(self) -> int:
        """How large a segment becomes."""
        return self._segment_bytes

    def form(self) -> AtRest:
        """A form in which something can be written behind what is there, in the same segment."""
        header = self._segments[-1].header
        key = next((key for key in self.keys if key.key_id == header.key_id), None)
        return AtRest(level=int(header.transforms and key is None), key=key)

    def at_rest_status(self) -> AtRestStatus:
        """How entries are stored here; never blocks."""
        packer = self._appender.packer if self._appender is not None else None
        headers = [segment.header for segment in self._segments]
        return AtRestStatus(
            level=self._at_rest.level,
            key_id=self._at_rest.key_id,
            data_bytes=packer.data_bytes if packer is not None else 0,
            stored_bytes=packer.stored_bytes if packer is not None else 0,
            seconds=packer.seconds if packer is not None else 0.0,
            segments=len(headers),
            transformed_segments=sum(header.transforms for header in headers),
            sealed_segments=sum(bool(header.key_id) for header in headers),
        )

    @property
    def is_out_of_room(self) -> bool:
        """True when the file system had no room for the next segment."""
        return self._appender is not None and self._appender.space_exhausted

    @property
    def last_sync_seconds(self) -> float:
        """How long the last sync took."""
        return self._appender.last_sync_seconds if self._appender is not None else 0.0

    @property
    def is_empty(self) -> bool:
        """True when nothing was ever written: no entry, no hard state, no snapshot."""
        return self._hard_state.is_empty and self._last_index == 0

    # The core's Storage

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The durable hard state, and the newest configuration known; see `conf_index`."""
        return self._hard_state, self._conf[1]

    def first_index(self) -> int:
        """See raft.storage.Storage."""
        return self._log_start.index + 1

    def last_index(self) -> int:
        """See raft.storage.Storage."""
        return self._last_index

    def term(self, index: int) -> int:
        """See raft.storage.Storage.

        Reads the index of a closed segment in the rare case that terms changed in it and nobody
        has used it lately.
        """
        with self._lock:
            if index == self._log_start.index:
                return self._log_start.term
            if index < self._log_start.index:
                raise CompactedError
            if index > self._last_index:
                raise UnavailableError
            at = bisect_right(self._starts, index) - 1
            segment = self._segments[at]
            if at + 1 < len(self._segments):
                last_term = self._segments[at + 1].header.previous_term
                if segment.header.previous_term == last_term:
                    return last_term  # terms never fall
            if segment.index is not None:
                return segment.index.term(index)
        return self._index_of(segment).term(index)

    def entries(self, lo: int, hi: int, max_size: int) -> list[Entry]:
        """See raft.storage.Storage; from the cache where it can, else as `read` does."""
        cached = self.cached(lo, hi, max_size)
        return self.read(lo, hi, max_size) if cached is None else cached

    def snapshot(self) -> Snapshot:
        """See raft.storage.Storage."""
        if self._snapshot_source is None:
            raise SnapshotTemporarilyUnavailableError
        return self._snapshot_source()

    # Reading

    def cached(self, lo: int, hi: int, max_size: int) -> list[Entry] | None:
        """Like `entries`, but None when that would take the disk. On the loop only."""
        self._check_range(lo, hi)
        if lo >= hi:
            return []
        return self._cache.get(lo, hi, max_size)

    def read(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries lo to hi-1, cut to `max_bytes` of `entry_size` but at least one. Any thread.

        Always from the files, so it blocks. CompactedError, UnavailableError as in `entries`;
        CorruptRecordError when what is there is not what was written, StorageError when the
        operating system cannot read it. What is compressed or sealed is opened here.
        """
        self._check_range(lo, hi)
        reader = EntryReader(self._files, max_bytes, keys=self.keys)
        at = lo
        while at < hi and not reader.full:
            segment, stop = self._segment_at(at)
            index = self._index_of(segment)
            with self._lock:
                if at > index.last_index:
                    raise UnavailableError
                place = index.locate(at)
            stop = min(hi, stop, place.stop)
            with self._descriptor(segment) as fd:
                reader.read_run(
                    fd,
                    segment.path,
                    offset=place.offset,
                    first=place.first,
                    lo=at,
                    hi=stop,
                    large=place.large,
                )
            at = stop
        if reader.entries:
            with self._lock:
                self._checked.add(reader.entries[0].index, reader.entries[-1].index + 1)
        return reader.entries

    def stored(self, index: int) -> StoredEntry | None:
        """Where an entry lies whose bytes need not be looked at again.

        Never blocks. None: `read` it, because it is unchecked, or gone, or perhaps not stored as it
        is, or the segment's index is not in memory.
        """
        with self._lock:
            if index not in self._checked:
                return None
        try:
            segment, _ = self._segment_at(index)
        except (CompactedError, UnavailableError):
            return None
        places = segment.index
        if places is None or segment.header.transforms:
            return None
        with self._lock:
            if segment.sequence in self._loaded:
                self._loaded.move_to_end(segment.sequence)
            if not places.first_index <= index <= places.last_index:
                return None
            place = places.locate(index)
        return StoredEntry(
            files=self._files,
            descriptors=self._pool,
            path=segment.path,
            first=place.first,
            offset=place.offset,
            index=index,
        )

    def locate(self, indexes: Sequence[int], *, may_read: bool = False) -> list[Place] | None:
        """Where these committed entries, in rising order, lie, for who opens the files himself.

        One place for all that lie in one run. A place stays true until its file is removed: it
        ends with the last index asked for, since what is behind that may yet be replaced. Any
        thread; with `may_read` it may block, else None when the disk would have to be read.
        CompactedError, UnavailableError.
        """
        places: list[Place] = []
        for at in indexes:
            if places and at < places[-1].stop:
                continue
            segment, stop = self._segment_at(at)
            index = segment.index
            if index is None:
                if not may_read:
                    return None
                index = self._index_of(segment)
            with self._lock:
                if at > index.last_index:
                    raise UnavailableError
                place = index.locate(at)
            places.append(
                Place(
                    segment=segment.path.name,
                    first=place.first,
                    offset=place.offset,
                    stop=min(stop, place.stop, indexes[-1] + 1),
                    large=place.large,
                    transformed=segment.header.transforms,
                )
            )
        return places

    @contextmanager
    def _descriptor(self, segment: Segment) -> Iterator[int]:
        """A descriptor of the segment's file; CompactedError when it was removed meanwhile."""
        try:
            with self._pool.use(segment.path) as fd:
                yield fd
        except FileNotFoundError:
            if segment in self._segments:
                raise CorruptRecordError(segment.path, 0, "the file is gone") from None
            raise CompactedError from None
        except OSError as error:
            raise StorageError(f"cannot read {segment.path}: {error}") from error

    def _check_range(self, lo: int, hi: int) -> None:
        if lo <= self._log_start.index:
            raise CompactedError
        if hi > self._last_index + 1:
            raise UnavailableError

    def _segment_at(self, index: int) -> tuple[Segment, int]:
        """The segment that holds an entry, and the first index that it does not hold any more."""
        with self._lock:
            if index <= self._log_start.index:
                raise CompactedError
            if index > self._last_index:
                raise UnavailableError
            at = bisect_right(self._starts, index) - 1
            stop = self._starts[at + 1] if at + 1 < len(self._starts) else self._last_index + 1
            return self._segments[at], stop

    def _index_of(self, segment: Segment) -> SegmentIndex:
        """The index of a segment, from its end or, where that is damaged, by reading all of it."""
        index = segment.index
        if index is not None:
            with self._lock:
                if segment.sequence in self._loaded:
                    self._loaded.move_to_end(segment.sequence)
            return index
        with self._lock:
            if segment not in self._segments:
                raise CompactedError
            # A closed segment was durable to its end, which the one behind it tells.
            end = self._segments[self._segments.index(segment) + 1].header.previous_end
        with self._descriptor(segment) as fd:
            found = read_footer(self._files, fd)
            rebuilt = found is None or found[1] != end
            if found is None or rebuilt:
                replay = Replay(self._files, fd, segment.path, segment.header).run()
                if replay.end != end:
                    raise CorruptRecordError(
                        segment.path, replay.end, replay.fault or "zeros where a record should be"
                    )
                found = replay.index, replay.end
        with self._lock:
            segment.index, segment.end, segment.rebuilt = *found, rebuilt
            self._keep_index(segment)
        return found[0]

    def _keep_index(self, segment: Segment) -> None:
        self._loaded[segment.sequence] = segment
        self._loaded.move_to_end(segment.sequence)
        if len(self._loaded) > INDEXES_MAX:
            for sequence, old in self._loaded.items():
                if not old.rebuilt:  # a rebuilt one is dear
                    old.index = None
                    del self._loaded[sequence]
                    break


def _start_of(snapshot: Snapshot) -> LogStart:
    return LogStart(
        index=snapshot.index,
        term=snapshot.term,
        conf_index=snapshot.conf_index or snapshot.index,
        conf_state=snapshot.conf_state,
    )


def _committed(state: HardState, index: int) -> HardState:
    """A snapshot is of committed entries, so a commit index below it would be refused at start."""
    return HardState(state.term, state.vote, max(state.commit, index))
