"""Puts closed files into the archive, oldest first, while this node leads.

Owns: what is to be done, the order (first the file, then its entry), patience with a store that is
away, and what is told of it. What an earlier try left is used again. Must not know what kind of
store it is, nor how it is found out who leads.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar, TypeVarTuple

import trio

from kingbus import metrics
from kingbus.archive.catalogue import CHUNK_BYTES, ArchivedFile, Catalogue, file_key, pack
from kingbus.archive.errors import ArchiveError, ConflictError, DamagedError, StoreError
from kingbus.archive.store import Store, Upload
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.crc import crc32
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.file_content import FileChunk, content_bytes, read_chunk
from kingbus.replication.file_content import Log as FileLog
from kingbus.replication.served_rows import PurgedWhileReadingError

PART_BYTES: Final = 8 << 20
"""Sent at once: S3 wants 5 MiB at least, and ten thousand of them are the most for an object."""
LOOK_SECONDS: Final = 1.0
"""Between two looks for a closed file; files are closed every few minutes at most."""
REFRESH_SECONDS: Final = 30.0
"""Between two looks at what others have put there."""
RETRY_SECONDS_MIN: Final = 1.0
RETRY_SECONDS_MAX: Final = 60.0

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")
_log = get_logger("archive")


class Runner(Protocol):
    """Runs a blocking call in a worker thread."""

    def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> Awaitable[_T]: ...


class Log(FileLog, Protocol):
    """What is archived: `relay.Relay`."""

    @property
    def state(self) -> RelayState: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveStatus:
    """What an operator wants to know. `error` is of the last try, "" after a success."""

    target: str
    serving: bool
    archiving: bool
    files: int
    files_behind: int
    oldest: str
    newest: str
    last_success: float | None
    error: str
    errors: int
    files_missing: int
    """Purged before they were archived; nothing before the last of them is served."""
    damaged: list[str]


class Archiver:
    """See the module. `leads` says whether this node is the one to do it, at the moment."""

    def __init__(
        self,
        *,
        log: Log,
        catalogue: Catalogue,
        runner: Runner,
        leads: Callable[[], bool],
        compression: str = "none",
        serving: bool = True,
    ) -> None:
        self._log = log
        self._catalogue = catalogue
        self._store: Store = catalogue.store
        self._runner = runner
        self._leads = leads
        self._compression = compression
        self._serving = serving
        self._last_success: float | None = None
        self._error = ""
        self._errors = 0

    # -- what is told -----------------------------------------------------------------------

    def behind(self) -> list[FileRow]:
        """Closed files that are held and not archived, oldest first; none that was cut."""
        closed = [row for row in self._log.state.files if row.closed and not row.cut_position]
        return [row for row in closed if not self.has(row)]

    def has(self, row: FileRow) -> bool:
        """Whether a file is in the archive: that one, and no other of its number."""
        file = self._catalogue.file(row.ordinal)
        return file is not None and _is_same(file.row, row)

    def files(self) -> list[ArchivedFile]:
        """What is in the archive, oldest first."""
        return self._catalogue.files()

    def status(self) -> ArchiveStatus:
        files = self._catalogue.files()
        return ArchiveStatus(
            target=self._store.shown,
            serving=self._serving,
            archiving=self._leads(),
            files=len(files),
            files_behind=len(self.behind()),
            oldest=files[0].row.served_name if files else "",
            newest=files[-1].row.served_name if files else "",
            last_success=self._last_success,
            error=self._error,
            errors=self._errors,
            files_missing=self._missing(),
            damaged=list(self._catalogue.damaged.values()),
        )

    def _missing(self) -> int:
        """Files that are behind the oldest archived one and neither archived nor held."""
        archived, held = self._catalogue.files(), self._log.state.files
        if not archived or not held:
            return 0
        first, end = archived[0].row.ordinal, held[0].ordinal
        there = sum(1 for file in archived if file.row.ordinal < end)
        return max(end - first, there) - there

    # -- doing it ---------------------------------------------------------------------------

    async def run(self) -> None:
        """For as long as the node runs."""
        patience = RETRY_SECONDS_MIN
        while True:
            try:
                await self.step()
            except Exception as error:  # noqa: BLE001 - nothing of an archive ends the node
                self._note(error, patience)
                await trio.sleep(patience)
                patience = min(patience * 2, RETRY_SECONDS_MAX)
            else:
                self._error = ""
                patience = RETRY_SECONDS_MIN
                await trio.sleep(LOOK_SECONDS)
            metrics.ARCHIVE_FILES_BEHIND.set(len(self.behind()))

    async def step(self) -> bool:
        """Reads what is new in the catalogue, if it is time, and archives one file.

        Whether there was one. Raises ArchiveErrors.
        """
        at = self._catalogue.read_at
        if at is None or trio.current_time() - at >= REFRESH_SECONDS:
            await self.refresh()
        behind = self.behind() if self._leads() else []
        if not behind:
            return False
        if at is not None:
            await self.refresh()  # the leader before may have done it meanwhile
            behind = self.behind()
        if behind:
            await self._archive(behind[0])
        return bool(behind)

    async def refresh(self) -> None:
        """Reads what is new in the catalogue. StoreError."""
        self._catalogue.take(await self._runner(self._catalogue.load))
        self._catalogue.read_at = trio.current_time()

    def _note(self, error: Exception, patience: float) -> None:
        metrics.ARCHIVE_ERRORS.inc()
        self._errors += 1
        is_foreseen = isinstance(error, KingbusError)
        told = error.explain() if isinstance(error, KingbusError) else repr(error)
        if told != self._error:
            self._error = told
            _log.warning(
                "archiving failed",
                error=told,
                again_in_seconds=patience,
                exc_info=None if is_foreseen else error,
            )

    async def _archive(self, row: FileRow) -> None:
        held = FileRow()
        held.CopyFrom(self._log.state.whole_row(row))
        following = self._log.state.file(row.ordinal + 1)
        assert following is not None, "a closed file is followed by another"
        after = GtidSet.decode(self._log.state.previous_gtids(following))
        known = self._catalogue.file(row.ordinal)
        if known is not None:
            raise ConflictError(
                f"{known.entry_key} in {self._store.shown} is of another file than "
                f"{held.served_name} here"
            )
        try:
            file = await _Archiving(self._log, self._store, self._runner, held).run(
                after, self._compression, self._leads
            )
        except PurgedWhileReadingError:
            _log.error("a file was purged before it was archived", file=held.served_name)
            return
        if file is None:
            return
        await self._enter(file)
        self._last_success = time.time()
        metrics.ARCHIVE_LAST_SUCCESS.set(self._last_success)
        _log.info("archived a file", file=file.row.served_name, bytes=file.size)

    async def _enter(self, file: ArchivedFile) -> None:
        entry = file.encode()
        file = ArchivedFile.decode(entry, file.entry_key)  # as everybody else will know it
        try:
            await self._runner(self._store.put, file.entry_key, entry)
        except ConflictError:
            # The leader before was faster, or an answer was lost.
            found = await self._runner(self._store.get, file.entry_key, 0, len(entry) + 1)
            if ArchivedFile.decode(found, file.entry_key) != file:
                raise
        self._catalogue.take([(file.entry_key, file)])


def _is_same(one: FileRow, other: FileRow) -> bool:
    return (one.served_name, one.first_index, one.end_position, one.start.created) == (
        other.served_name,
        other.first_index,
        other.end_position,
        other.start.created,
    )


class _Archiving:
    """One file on its way into the store."""

    def __init__(self, log: Log, store: Store, runner: Runner, row: FileRow) -> None:
        self._log = log
        self._store = store
        self._runner = runner
        self._row = row
        self._size = content_bytes(row)
        self._sum = hashlib.sha256()
        self._chunks: list[int] = []
        self._crcs: list[int] = []

    async def run(
        self, after: GtidSet, compression: str, may_go_on: Callable[[], bool]
    ) -> ArchivedFile | None:
        """The entry of the file, once it lies there whole; None when this is not ours any more."""
        key = file_key(self._row.served_name, compression)
        there = await self._runner(self._store.size, key)
        target: Upload = (
            _Comparison(self._store, key)
            if there is not None
            else await self._runner(self._store.upload, key)
        )
        part = bytearray()
        for at in range(0, self._size, CHUNK_BYTES):
            if not may_go_on():
                return None
            part += await self._chunk(at, compression)
            while len(part) >= PART_BYTES:
                await self._put(target, bytes(part[:PART_BYTES]))
                del part[:PART_BYTES]
        if part:
            await self._put(target, bytes(part))
        await self._runner(target.finish)
        await self._check(key)
        return ArchivedFile(
            row=self._row,
            size=self._size,
            sha256=self._sum.hexdigest(),
            before=GtidSet.decode(self._row.previous_gtids),
            after=after,
            compression=compression,
            chunks=tuple(self._chunks),
            crcs=tuple(self._crcs),
        )

    async def _chunk(self, at: int, compression: str) -> bytes:
        """The stored form of CHUNK_BYTES of the file."""
        try:
            found: FileChunk | None = await read_chunk(
                self._log, self._row.served_name, at, CHUNK_BYTES
            )
        except ArchiveError:
            raise
        except PurgedWhileReadingError:
            raise
        except KingbusError as error:
            raise StoreError(f"{self._row.served_name} cannot be read: {error}") from error
        if found is None:
            raise PurgedWhileReadingError(f"{self._row.served_name} has been purged")
        return await self._runner(partial(self._pack, found.data, compression))

    def _pack(self, data: bytes, compression: str) -> bytes:
        self._sum.update(data)
        packed = pack(data, compression)
        self._chunks.append(len(packed))
        self._crcs.append(crc32(data))
        return packed

    async def _put(self, target: Upload, data: bytes) -> None:
        if await self._runner(target.put, data):
            metrics.ARCHIVE_BYTES.inc(len(data))

    async def _check(self, key: str) -> None:
        size, wanted = await self._runner(self._store.size, key), sum(self._chunks)
        if size != wanted:
            raise DamagedError(f"{key} in {self._store.shown} has {size} bytes, not {wanted}")


class _Comparison:
    """Takes the place of an upload where the object is there: it must be the same."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._at = 0

    def put(self, data: bytes) -> bool:
        if self._store.get(self._key, self._at, len(data)) != data:
            raise self._conflict()
        self._at += len(data)
        return False

    def finish(self) -> None:
        if self._store.size(self._key) != self._at:
            raise self._conflict()

    def _conflict(self) -> ConflictError:
        return ConflictError(
            f"{self._key} in {self._store.shown} is there and is not the file that is to be "
            "archived"
        )
