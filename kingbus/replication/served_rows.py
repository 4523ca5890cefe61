"""What readers of the applied log share: rows, the limits of reading, a cache of batches, errors.

Owns nothing that changes but the cache. It must not know where rows and packets come from: the
node's own `relay.Relay` has them of its stores, `worker_relay.WorkerRelay` of another process.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, TypeVar

from kingbus.binlog.gtid import GtidSet, GtidsHad
from kingbus.binlog.relay_state import VisibleEnd, forget_unread
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import SourceConfig
from kingbus.pb.record_pb2 import BatchRow, FileRow
from kingbus.replication.served_batch import ServedBatch
from kingbus.replication.streams import PacketFile

RECENT_ROWS: Final = 4096
"""Rows kept in memory, at most twice as many: seconds of full load, or many minutes of trickle."""
SHARED_BYTES: Final = 16 << 20
"""Decoded batches kept for all dumps together."""
READ_BYTES: Final = 1 << 20
"""Read ahead at once: a thread's round trip (0.1 ms) vanishes beside it, and a thousand slow
replicas hold no more than a gigabyte."""
READ_ENTRIES: Final = 1024
"""Entries read ahead at once; below this size of entry the limit in bytes does not matter."""
READERS_MAX: Final = 8
"""Worker threads reading at a time: more would only queue at the disk."""

_T = TypeVar("_T")


class PurgedWhileReadingError(KingbusError):
    """What was to be read next has been purged."""


class InstallingError(KingbusError):
    """This node is replacing all that it holds by a snapshot: nothing can be read meanwhile."""

    hint = "Ask another node, or this one again in a moment."


@dataclass(frozen=True, slots=True)
class Row:
    """One batch of the log: the entry's index, and what the batch index says of it."""

    index: int
    row: BatchRow


class ServedState(Protocol):
    """What a dump asks of the relay state; see `RelayState`, whose words count."""

    @property
    def files(self) -> Sequence[FileRow]: ...
    @property
    def executed(self) -> GtidSet: ...
    @property
    def purged(self) -> GtidSet: ...
    @property
    def visible(self) -> VisibleEnd: ...
    @property
    def source_config(self) -> SourceConfig | None: ...
    @property
    def source_uuids(self) -> Sequence[str]: ...
    def file(self, ordinal: int) -> FileRow | None: ...
    def file_named(self, served_name: str) -> FileRow | None: ...
    def file_before(self, gtids: GtidsHad) -> FileRow | None: ...
    def served_name_of(self, epoch: int, name: str) -> str: ...


class Readable(Protocol):
    """The applied log as dumps read it; see `relay.Relay`, whose words count."""

    @property
    def state(self) -> ServedState: ...
    def reading(self) -> AbstractContextManager[None]: ...
    async def wait_beyond(self, visible: VisibleEnd) -> None: ...
    async def read_rows(self, after_index: int, limit: int) -> list[Row]: ...
    async def find_row(self, file: FileRow, position: int) -> Row | None: ...
    async def read_batches(self, index: int, through: int) -> Mapping[int, ServedBatch]: ...
    def stored(self, row: Row) -> PacketFile | None: ...
    async def in_thread(self, function: Callable[[], _T]) -> _T: ...


@lru_cache(maxsize=4096)
def gtids_of(encoded: bytes) -> GtidSet:
    """The set of a row, decoded once for all dumps that meet it; nobody may change it."""
    return GtidSet.decode(encoded) if encoded else GtidSet()


def clipped(row: Row, visible: VisibleEnd) -> Row:
    """The row without what lies behind the visible end."""
    if row.index != visible.index or row.row.packets <= visible.packets:
        return row
    cut = BatchRow()
    cut.CopyFrom(row.row)
    forget_unread(cut)
    cut.packets = visible.packets
    cut.end_position = visible.position
    return Row(row.index, cut)


class RecentRows:
    """The newest rows, whole from index `first` on; between one and two times RECENT_ROWS."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._indexes: list[int] = []
        self._rows: list[BatchRow] = []

    def put(self, index: int, row: BatchRow) -> None:
        if index < self.first:
            return
        if not self._indexes or index > self._indexes[-1]:
            self._indexes.append(index)
            self._rows.append(row)
        else:
            at = bisect_left(self._indexes, index)
            assert self._indexes[at] == index, "only the last row and a truncated one are written"
            self._rows[at] = row
        if len(self._indexes) >= 2 * RECENT_ROWS:
            del self._indexes[:-RECENT_ROWS]
            del self._rows[:-RECENT_ROWS]
            self.first = self._indexes[0]

    def delete(self, gone: Sequence[int]) -> None:
        if not gone or not self._indexes:
            return
        at = bisect_left(self._indexes, min(gone[0], gone[-1]))
        keep = [n for n in range(at, len(self._indexes)) if self._indexes[n] not in gone]
        self._indexes[at:] = [self._indexes[n] for n in keep]
        self._rows[at:] = [self._rows[n] for n in keep]

    def after(self, index: int, limit: int) -> list[Row] | None:
        """Rows behind `index`; None when not all of them may be here."""
        if index + 1 < self.first:
            return None
        at = bisect_left(self._indexes, index + 1)
        pairs = zip(self._indexes[at : at + limit], self._rows[at : at + limit], strict=True)
        return [Row(found, row) for found, row in pairs]


class SharedBatches:
    """Batches by index, the least recently used going first when there are too many bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._batches: OrderedDict[int, ServedBatch] = OrderedDict()

    def get(self, index: int) -> ServedBatch | None:
        batch = self._batches.get(index)
        if batch is not None:
            self._batches.move_to_end(index)
        return batch

    def put(self, index: int, batch: ServedBatch) -> None:
        # One large entry would push everything else out; it has few packets and decodes at once.
        if index in self._batches or batch.size > self._bytes_max // 4:
            return
        self._batches[index] = batch
        self._bytes += batch.size
        while self._bytes > self._bytes_max:
            _, oldest = self._batches.popitem(last=False)
            self._bytes -= oldest.size
