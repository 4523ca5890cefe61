"""What a member keeps its data on, and how long its blocking calls take.

Two kinds of machine. `RealDisk`: files of a temporary directory and RocksDB, as in production; a
crash is that of the process, so nothing that was written is lost. `VolatileDisk`: log and database
in memory, which can lose their power in the middle of a write and then keep a random part of what
was not synced. Either one can be slow, or refuse to sync.
"""

import errno
import random
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from kingbus.raft.types import Entry, HardState
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import AS_THEY_ARE, AtRest, Keyring, RestKey
from kingbus.storage.database import Database
from kingbus.storage.directory import DataDirectory
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.recovery import discard_torn, log_holds_anything, log_is_torn
from kingbus.storage.state_store import StateStore
from tests.simulation.storage import CheckedLog
from tests.unit.storage.simulated_disk import PowerLostError, SimulatedDisk

SEGMENT_BYTES = 16 << 10
RESERVE_BYTES = 1 << 30
KEY = RestKey.of(ClusterSecret.of(bytes(range(32))))
FORMS = (AtRest(level=1, key=KEY), AtRest(level=1), AS_THEY_ARE, AtRest(key=KEY))
BEFORE_SHARE = 0.5
"""Of a call's time this much passes before it has any effect."""

__all__ = ["Disk", "Durable", "PowerLostError", "RealDisk", "VirtualRunner", "VolatileDisk"]


class VirtualRunner:
    """Runs blocking calls on the loop and lets virtual time pass before and behind them.

    Like a worker thread it cannot be interrupted by a cancellation, except by `kill`: then the
    process has ended, at whatever point of the call.
    """

    def __init__(self, rng: random.Random, seconds: Callable[[], float]) -> None:
        self._rng = rng
        self._seconds = seconds
        self._shields: dict[trio.CancelScope, None] = {}

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        seconds = self._seconds() * self._rng.expovariate(1)
        with trio.CancelScope(shield=True) as shield:
            self._shields[shield] = None
            try:
                await trio.sleep(seconds * BEFORE_SHARE)
                result = function(*arguments)
                await trio.sleep(seconds * (1 - BEFORE_SHARE))
            finally:
                del self._shields[shield]
        if shield.cancelled_caught:
            await trio.sleep_forever()  # cancelled as well: the process is gone
        return result

    def kill(self) -> None:
        for shield in list(self._shields):
            shield.cancel()


class Durable(CheckedLog):
    """What of a log was made durable, as its writer was told: what a member may rely on."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: LogWrite | None = None
        self.cutting = 0
        """The first entry to keep, while the log is being cut."""

    def take(self, write: LogWrite) -> None:
        state = write.hard_state or self._hard_state
        if write.snapshot is not None:
            self.apply_snapshot(write.snapshot)
            state = HardState(state.term, state.vote, max(state.commit, write.snapshot.index))
        self.append(list(write.entries))
        self.set_hard_state(state)

    def cut(self, index: int) -> None:
        if index > self.first_index():
            self.compact(index - 1)

    def resume(self, store: LogStore) -> None:
        """A process begins with what the disk has: not less than was durable."""
        write, self.under_way = self.under_way, None
        cutting, self.cutting = self.cutting, 0
        first, last = store.first_index(), store.last_index()
        state, _ = store.initial_state()
        found = store.read(first, last + 1, 1 << 62) if last >= first else []
        if write is None:
            if first == cutting:
                self.cut(cutting)
            assert first == self.first_index(), (first, self.first_index())
            assert found == self.held(), (
                f"{len(self.held())} entries were durable, {len(found)} are"
            )
            assert state == self._hard_state, (state, self._hard_state)
            return
        # Part of the write may be there.
        new_from = write.entries[0].index if write.entries else last + 1
        if write.snapshot is None or first <= write.snapshot.index:
            kept = [entry for entry in self.held() if first <= entry.index < new_from]
            assert found[: len(kept)] == kept, "entries that were durable are gone"
        self.set_hard_state(state)
        self.reload(found, first, store.term(first - 1))

    def reload(self, entries: list[Entry], first: int, term: int) -> None:
        self._entries = [Entry(index=first - 1, term=term), *entries]


class WatchedLog(LogStore):
    """The real log; tells what it has made durable, and not unless it was synced."""

    errors: dict[str, int]
    """What its files are about to refuse."""
    durable: Durable
    wrote: Callable[[LogWrite], None]
    was_cut: Callable[[int], None]

    def write(self, write: LogWrite) -> None:
        self.durable.under_way = write
        was_to_fail = "fdatasync" in self.errors
        super().write(write)
        failed = was_to_fail and "fdatasync" not in self.errors
        assert not failed, "a sync has failed, and the write counts as durable"
        self.durable.under_way = None
        self.durable.take(write)
        self.wrote(write)

    def truncate_before(self, index: int) -> None:
        self.durable.cutting = index
        super().truncate_before(index)
        self.durable.cutting = 0
        self.durable.cut(self.first_index())
        self.was_cut(index)


class FaultyFiles(LocalFileSystem):
    """Real files; a sync fails when it was told to."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.errors: dict[str, int] = {}

    def fdatasync(self, fd: int) -> None:
        number = self.errors.pop("fdatasync", None)
        if number is not None:
            raise OSError(number, "injected into fdatasync")
        super().fdatasync(fd)

    def random_bytes(self, length: int) -> bytes:
        return self._rng.randbytes(length)


class _Opened:
    """What a process has opened; its end lets go of it, as the operating system does."""

    def __init__(self) -> None:
        self.directory: DataDirectory | None = None
        self.database: StateStore | None = None
        self.log: WatchedLog | None = None

    def close(self) -> None:
        if self.log is not None:
            self.log.abandon()
        if self.database is not None:
            self.database.close()
        if self.directory is not None:
            self.directory.close()


class Disk(ABC):
    """A member's machine: its files, and what the process that runs has opened of them."""

    can_lose_power: bool
    has_forms = False
    """Whether each opening of the log has another form at rest than the one before it."""

    def __init__(self, path: Path, files: FaultyFiles | SimulatedDisk) -> None:
        self.durable = Durable()
        self._path = path
        self._files = files
        self._opened = _Opened()
        self._openings = sum(path.name.encode())  # members begin with different forms

    @abstractmethod
    def _directory(self) -> DataDirectory: ...

    @abstractmethod
    def _database(self, path: Path) -> StateStore: ...

    def open_directory(self) -> DataDirectory:
        self._opened = _Opened()
        self._opened.directory = self._directory()
        return self._opened.directory

    def open_database(self) -> StateStore:
        assert self._opened.directory is not None
        self._opened.database = self._database(self._opened.directory.state_path)
        return self._opened.database

    def open_log(self, *, cluster_id: int, member_id: int) -> WatchedLog:
        assert self._opened.directory is not None
        self._openings += 1
        form = FORMS[self._openings % len(FORMS)] if self.has_forms else AS_THEY_ARE
        store = self._opened.log = WatchedLog.open(
            self._opened.directory.log_path,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=RESERVE_BYTES,
            cluster_id=cluster_id,
            member_id=member_id,
            files=self._files,
            at_rest=form,
            keys=Keyring([KEY]),
        )
        store.errors = self._files.errors
        store.durable, store.wrote, store.was_cut = self.durable, lambda _: None, lambda _: None
        self.durable.resume(store)
        return store

    def discard_torn(self) -> None:
        """As a start does that begins anew."""
        assert self._opened.directory is not None
        discard_torn(self._opened.directory.log_path, self._files)

    def refuse_syncs(self) -> None:
        self._files.errors["fdatasync"] = errno.EIO

    @abstractmethod
    def fail_in(self, operations: int) -> None: ...

    def process_ended(self) -> None:
        self._opened.close()
        self._files.errors.clear()

    @abstractmethod
    def lose_power(self) -> None: ...


class RealDisk(Disk):
    """See the module."""

    can_lose_power = False

    def __init__(self, path: Path, rng: random.Random) -> None:
        super().__init__(path, FaultyFiles(rng))

    def _directory(self) -> DataDirectory:
        return DataDirectory.open_or_create(self._path)

    def _database(self, path: Path) -> StateStore:
        return StateStore.open(path)

    def fail_in(self, operations: int) -> None:
        """Real files do not fail half way."""

    def lose_power(self) -> None:
        raise AssertionError("this machine never loses its power")


class VolatileDisk(Disk):
    """See the module. Only the identity and the like, small and synced at once, are real files."""

    can_lose_power = True
    _files: SimulatedDisk

    def __init__(self, path: Path, rng: random.Random) -> None:
        seed, short_writes = rng.getrandbits(32), rng.random() < 0.5
        super().__init__(path, SimulatedDisk(seed=seed, short_writes=short_writes))
        self._image = VolatileImage(rng)

    def _directory(self) -> DataDirectory:
        files = self._files

        class Directory(DataDirectory):
            @property
            def has_log(self) -> bool:
                return log_holds_anything(self.log_path, files)

            @property
            def has_torn_log(self) -> bool:
                return log_is_torn(self.log_path, files)

        return Directory.open_or_create(self._path)

    def _database(self, path: Path) -> StateStore:
        return StateStore(VolatileDatabase(self._image, path))

    def fail_in(self, operations: int) -> None:
        self._files.operations_left = operations

    def process_ended(self) -> None:
        super().process_ended()
        self._files.kill_process()

    def lose_power(self) -> None:
        super().process_ended()
        self._files.lose_power()
        self._image.lose_power()


class Batch:
    """A database write in the making; as RocksDB's."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, bytes, bytes]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.steps.append(("put", key, value))

    def delete(self, key: bytes) -> None:
        self.steps.append(("delete", key, b""))

    def delete_range(self, start: bytes, stop: bytes) -> None:
        self.steps.append(("range", start, stop))


class VolatileImage:
    """Sorted pairs, of which the newest writes are lost with the power unless they were synced."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.pairs: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self._durable: dict[bytes, bytes] = {}
        self._unsynced: list[Batch] = []
        self.counts: Counter[str] = Counter()

    def write(self, batch: Batch) -> None:
        self._unsynced.append(batch)
        self._take(batch)

    def _take(self, batch: Batch) -> None:
        for kind, key, value in batch.steps:
            if kind == "put":
                if key not in self.pairs:
                    insort(self.keys, key)
                self.pairs[key] = value
                continue
            stop = key + b"\0" if kind == "delete" else value
            low, high = bisect_left(self.keys, key), bisect_left(self.keys, stop)
            for gone in self.keys[low:high]:
                del self.pairs[gone]
            del self.keys[low:high]

    def sync(self) -> None:
        self._durable = dict(self.pairs)
        self._unsynced.clear()

    def lose_power(self) -> None:
        """A random prefix of what was not synced stays."""
        writes, self._unsynced = self._unsynced, []
        self.pairs = dict(self._durable)
        self.keys = sorted(self.pairs)
        for batch in writes[: self._rng.randint(0, len(writes))]:
            self._take(batch)
        self.sync()


class VolatileDatabase(Database):
    """The door of storage/database.py over such an image."""

    def __init__(self, image: VolatileImage, path: Path) -> None:
        self.path = path
        self._image = image

    def get(self, key: bytes) -> bytes | None:
        return self._image.pairs.get(key)

    def scan(self, start: bytes, stop: bytes, *, limit: int) -> list[tuple[bytes, bytes]]:
        keys, pairs = self._image.keys, self._image.pairs
        low, high = bisect_left(keys, start), bisect_left(keys, stop)
        return [(key, pairs[key]) for key in keys[low : min(high, low + limit)]]

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        keys = self._image.keys
        at = bisect_right(keys, stop) - 1
        if at < 0 or keys[at] < start:
            return None
        return keys[at], self._image.pairs[keys[at]]

    def new_batch(self) -> Any:
        return Batch()

    def write(self, batch: Any, *, sync: bool = False) -> None:
        self._image.write(batch)
        if sync:
            self._image.sync()

    def sync(self) -> None:
        self._image.sync()

    def flush(self) -> None:
        """Nothing is kept elsewhere."""

    def close(self) -> None:
        """Nothing is open."""
