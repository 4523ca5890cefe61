"""What a node's log and index take of its reserve.

Owns the share that the index has: at least what it is entitled to, so that the log never has to
give way all at once, and where it takes more, the most that it took lately. RocksDB rewrites its
tables from time to time, and has them twice then; so what it takes now says little of what it takes
a moment later. Must not know what is decided from it.
"""

from collections.abc import Callable
from typing import Final, Protocol

from kingbus.binlog.retention import Usage, index_share
from kingbus.daemon.worker import Worker

FORGETTING: Final = 0.9995
"""Of the most that was seen, left after one look; half of it after some twenty minutes of them."""
HEADROOM: Final = 8
"""The share's part that is kept free above the most that was seen."""


class Log(Protocol):
    """The log store."""

    reserve_bytes: int
    index_bytes: int

    @property
    def segment_bytes(self) -> int: ...
    def has_room(self, pending_bytes: int) -> bool: ...
    def segment_sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]: ...


class Index(Protocol):
    """The database."""

    def disk_bytes(self) -> int: ...


class NodeDisk:
    """See the module. Implements `replication.purger.Disk`."""

    def __init__(
        self, *, store: Log, database: Index, runner: Worker, exceeds: bool = False
    ) -> None:
        """`exceeds`: the open file may be larger than the reserve."""
        self._store = store
        self._database = database
        self._runner = runner
        self._exceeds = exceeds
        self._share = index_share(store.reserve_bytes)
        self._most = 0.0

    def usage(self) -> Usage:
        """As of now."""
        store = self._store
        starts, sizes = store.segment_sizes()
        return Usage(
            starts=starts,
            sizes=sizes,
            segment_bytes=store.segment_bytes,
            reserve_bytes=store.reserve_bytes,
            index_bytes=store.index_bytes,
        )

    def is_full(self, pending_bytes: int, *, only_open_left: Callable[[], bool]) -> bool:
        """Whether nothing more may come beside what is proposed and not written yet.

        `only_open_left` says whether no purge can make room, and is asked only then;
        where that may be, the reserve is exceeded.
        """
        if self._store.has_room(pending_bytes):
            return False
        return not (self._exceeds and only_open_left())

    async def measure(self) -> None:
        """Look at the index's files; to be called about once a second."""
        try:
            taken = await self._runner(self._database.disk_bytes)
        except OSError:
            return  # what is wrong with the disk is told by who writes to it
        self._most = max(float(taken), self._most * FORGETTING)
        self._store.index_bytes = max(self._share, int(self._most) + self._share // HEADROOM)
