"""RocksDB, as little of it as kingbus needs; the only module that imports rocksdict.

Opened in raw mode: keys and values are bytes, nothing is pickled. Memory is bounded by the numbers
below. The binding keeps the interpreter lock while it works, so batches must be small and writes
unsynced on the event loop; a synced write belongs in a worker thread.

A full disk: a write that fails for want of room leaves RocksDB refusing everything. With a ballast
that is given up, the database is opened again, and the write is made once more; whoever writes
then waits until the ballast is back (see `ballast`). Reads, in other threads, wait meanwhile.

Unsynced writes survive a crash of the process, since each reaches the operating system; a crash
of the machine may lose the newest of them, always from the end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from kingbus.log import get_logger
from kingbus.storage.ballast import Ballast
from kingbus.storage.errors import (
    DirectoryInUseError,
    FatalStorageError,
    NotEnoughSpaceError,
    StorageError,
)
from kingbus.storage.rocksdb_log import check_rocksdb_logs

__all__ = ["Batch", "Database"]

_log = get_logger("storage")

_NO_ROOM = ("no space left on device", "disk quota exceeded")
WRITE_BUFFER_BYTES = 8 << 20
WRITE_BUFFER_BYTES_MIN = 256 << 10
SHARE_OF_BUFFER = 8
"""A share of the disk holds so many write buffers: three in its log, and the tables behind them."""
BLOCK_CACHE_BYTES = 8 << 20
WAL_BYTES_MAX = 32 << 20
OPEN_FILES_MAX = 64
INFO_LOG_BYTES = 1 << 20


def _options(disk_bytes: int | None) -> Options:
    buffer = WRITE_BUFFER_BYTES
    if disk_bytes is not None:
        buffer = max(min(buffer, disk_bytes // SHARE_OF_BUFFER), WRITE_BUFFER_BYTES_MIN)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(buffer)
    options.set_max_write_buffer_number(3)  # one filling, one being written out, one to spare
    options.set_max_total_wal_size(min(WAL_BYTES_MAX, 4 * buffer))
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_target_file_size_base(buffer)
    options.set_level_compaction_dynamic_level_bytes(True)
    # The database's own text log is of no use to an operator: keep one small file.
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(INFO_LOG_BYTES)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_max_manifest_file_size(min(4 << 20, buffer))
    options.set_manifest_preallocation_size(64 << 10)  # else 4 MiB of the reserve
    table = BlockBasedOptions()
    table.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    table.set_cache_index_and_filter_blocks(True)
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return options


class Batch:
    """Changes that are written at once and as a whole, in their order. It can be written again."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[..., None], tuple[bytes, ...]]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key."""
        self._steps.append((WriteBatch.put, (key, value)))

    def delete(self, key: bytes) -> None:
        """Forget a key."""
        self._steps.append((WriteBatch.delete, (key,)))

    def delete_range(self, start: bytes, stop: bytes) -> None:
        """Forget start <= key < stop."""
        self._steps.append((WriteBatch.delete_range, (start, stop)))

    def made(self) -> WriteBatch:
        """As RocksDB takes it, once."""
        batch = WriteBatch(raw_mode=True)
        for function, arguments in self._steps:
            function(batch, *arguments)
        return batch


class Database:
    """An open database. Reads from any thread; writes from one at a time."""

    def __init__(
        self,
        path: Path,
        *,
        disk_bytes: int | None = None,
        ballast: Ballast | None = None,
        read_only: bool = False,
    ) -> None:
        """Open it, or create it. DirectoryInUseError, NotEnoughSpaceError, CorruptRecordError, or
        StorageError with RocksDB's own words.

        `disk_bytes` is what it should do with: smaller buffers then, but no limit. `ballast` is
        given up for it on a full disk.
        """
        self.path = path
        self._disk_bytes = disk_bytes
        self._read_only = read_only
        self._ballast = ballast
        self._gate = Condition()
        self._users = 0
        self._closed = False
        self._synced = WriteOptions()
        self._synced.sync = True
        try:
            if not read_only:
                path.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._db = self._open()
        except StorageError:
            raise
        except Exception as error:
            if _says_no_room(error):
                raise NotEnoughSpaceError(
                    f"the disk is full: the database {path} cannot be opened: {error}",
                    hint="free some space; a few MiB are enough to serve what is there",
                ) from error
            if "lock" in str(error).lower():
                raise DirectoryInUseError(f"the database {path} is in use: {error}") from None
            raise StorageError(f"cannot open the database {path}: {error}") from error

    def _open(self) -> Rdict:
        try:
            return self._open_at_all()
        except Exception as error:
            if not _says_no_room(error) or self._ballast is None or not self._ballast.release():
                raise
            _log.error("the disk is full: the ballast was given up to open the database")
            return self._open_at_all()

    def _open_at_all(self) -> Rdict:
        check_rocksdb_logs(self.path)
        options = _options(self._disk_bytes)
        if self._read_only:
            return Rdict(str(self.path), options, access_type=AccessType.read_only())
        return Rdict(str(self.path), options)

    @contextmanager
    def _use(self) -> Iterator[Rdict]:
        with self._gate:
            self._users += 1
        try:
            yield self._db
        finally:
            with self._gate:
                self._users -= 1
                self._gate.notify_all()

    def _regain(self) -> bool:
        """After a write that found no room: whether it may be made once more. Blocks."""
        if self._ballast is None or not self._ballast.release():
            return False
        _log.error("the disk is full: the ballast was given up for the database")
        with self._gate:
            self._gate.wait_for(lambda: not self._users)
            with suppress(Exception):  # it says again what is wrong already
                self._db.close()
            try:
                self._db = self._open_at_all()
            except Exception as error:
                raise self._failure("opening again", error) from error
        return True

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        try:
            with self._use() as db:
                value = db.get(key)
        except Exception as error:
            raise self._failure("reading", error) from error
        assert value is None or isinstance(value, bytes)
        return value

    def scan(self, start: bytes, stop: bytes, *, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs with start <= key < stop, in order."""
        found: list[tuple[bytes, bytes]] = []
        for key, value in self._items(start, backwards=False):
            if len(found) >= limit or key >= stop:
                break
            found.append((key, value))
        return found

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """The pair with the greatest key that start <= key <= stop; None when there is none."""
        for key, value in self._items(stop, backwards=True):
            return (key, value) if key >= start else None
        return None

    def _items(self, key: bytes, *, backwards: bool) -> Iterator[tuple[bytes, bytes]]:
        # The iterator must not outlive this call: it would keep the database's lock.
        try:
            with self._use() as db:
                for found, value in db.items(backwards=backwards, from_key=key):
                    assert isinstance(found, bytes)
                    yield found, value
        except (AssertionError, GeneratorExit):
            raise
        except Exception as error:
            raise self._failure("reading", error) from error

    def new_batch(self) -> Batch:
        """An empty batch, for `write`."""
        return Batch()

    def write(self, batch: Batch, *, sync: bool = False) -> None:
        """Write a batch atomically. FatalStorageError when the disk refuses."""
        try:
            self._write(batch, sync=sync)
        except Exception as error:
            if not _says_no_room(error) or not self._regain():
                raise self._failure("writing", error) from error
            try:
                self._write(batch, sync=sync)
            except Exception as again:
                raise self._failure("writing", again) from again

    def _write(self, batch: Batch, *, sync: bool) -> None:
        made = batch.made()
        with self._use() as db:
            if sync:
                db.write(made, self._synced)
            else:
                db.write(made)

    def sync(self) -> None:
        """Make everything durable that was written before. Blocks; beside other writes, too."""
        try:
            with self._use() as db:
                db.flush_wal(sync=True)
        except Exception as error:
            raise self._failure("syncing", error) from error

    def flush(self) -> None:
        """Write what is in memory to a table file. Blocks."""
        try:
            with self._use() as db:
                db.flush()
        except Exception as error:
            raise self._failure("flushing", error) from error

    def disk_bytes(self) -> int:
        """What it takes of the disk, its log and what it has preallocated included. Blocks."""
        total = 0
        for each in self.path.iterdir():
            with suppress(FileNotFoundError):  # it removes files when it likes
                found = each.stat()
                total += max(found.st_size, found.st_blocks * 512)
        return total

    def close(self) -> None:
        """Let go of the lock; may be called twice."""
        if not self._closed:
            self._closed = True
            self._db.close()

    def _failure(self, operation: str, error: Exception) -> StorageError:
        return FatalStorageError(f"{operation} the database {self.path}: {error}")


def _says_no_room(error: Exception) -> bool:
    return any(words in str(error).lower() for words in _NO_ROOM)
