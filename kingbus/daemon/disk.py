"""What a node's log and index take of its reserve.

Owns the share that the index has: what it takes, and at least what it is entitled to, so that the
log never has to give way all at once. Must not know what is decided from it.
"""

from kingbus.binlog.retention import Usage, index_share
from kingbus.daemon.worker import Worker
from kingbus.storage.log import LogStore
from kingbus.storage.state_store import StateStore


class NodeDisk:
    """See the module. Implements `replication.purger.Disk`."""

    def __init__(self, *, store: LogStore, database: StateStore, runner: Worker) -> None:
        self._store = store
        self._database = database
        self._runner = runner

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

    async def measure(self) -> None:
        """Look at the index's files."""
        taken = await self._runner(self._database.disk_bytes)
        self._store.index_bytes = max(taken, index_share(self._store.reserve_bytes))
