"""RocksDB, as little of it as kingbus needs; the only module that imports rocksdict.

Opened in raw mode: keys and values are bytes, nothing is pickled. Memory is bounded by the numbers
below. The binding keeps the interpreter lock while it works, so batches must be small and writes
unsynced on the event loop; a synced write belongs in a worker thread.

Unsynced writes survive a crash of the process, since each reaches the operating system; a crash
of the machine may lose the newest of them, always from the end.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from kingbus.storage.errors import DirectoryInUseError, FatalStorageError, StorageError

__all__ = ["Database", "WriteBatch"]

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


class Database:
    """An open database. Reads from any thread; writes from one at a time."""

    def __init__(self, path: Path, *, disk_bytes: int | None = None) -> None:
        """Open it, or create it. DirectoryInUseError, or StorageError with RocksDB's own words.

        `disk_bytes` is what it should do with: smaller buffers then, but no limit.
        """
        self.path = path
        try:
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._db = Rdict(str(path), _options(disk_bytes))
        except Exception as error:
            if "lock" in str(error).lower():
                raise DirectoryInUseError(f"the database {path} is in use: {error}") from None
            raise StorageError(f"cannot open the database {path}: {error}") from error
        self._closed = False
        self._synced = WriteOptions()
        self._synced.sync = True

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        try:
            value = self._db.get(key)
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
            for found, value in self._db.items(backwards=backwards, from_key=key):
                assert isinstance(found, bytes)
                yield found, value
        except (AssertionError, GeneratorExit):
            raise
        except Exception as error:
            raise self._failure("reading", error) from error

    def new_batch(self) -> WriteBatch:
        """An empty batch; what is put into it is written at once and as a whole by `write`."""
        return WriteBatch(raw_mode=True)

    def write(self, batch: WriteBatch, *, sync: bool = False) -> None:
        """Write a batch atomically. FatalStorageError when the disk refuses."""
        try:
            if sync:
                self._db.write(batch, self._synced)
            else:
                self._db.write(batch)
        except Exception as error:
            raise self._failure("writing", error) from error

    def sync(self) -> None:
        """Make everything durable that was written before. Blocks; beside other writes, too."""
        try:
            self._db.flush_wal(sync=True)
        except Exception as error:
            raise self._failure("syncing", error) from error

    def flush(self) -> None:
        """Write what is in memory to a table file. Blocks."""
        try:
            self._db.flush()
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
