"""The log's beginning: cutting it, the snapshot that stands for what was cut, and installing one.

A leader makes a snapshot for a member that is behind its log's beginning; that member installs it
in place of its own log and state (storage/installing.py), and has caught up from it once it has
applied what the leader had committed. Without a machine that makes snapshots nothing is cut, none
is made and none is taken. What this module must not know: the core, and what the state is.
"""

import time
from collections.abc import Awaitable, Callable

from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.membership.cluster import Cluster
from kingbus.node.broadcast import Broadcast
from kingbus.node.core import conf_state_of
from kingbus.node.machine import Log, Runner, Snapshots
from kingbus.node.status import CatchUp
from kingbus.raft.errors import SnapshotTemporarilyUnavailableError
from kingbus.raft.types import Message, Snapshot
from kingbus.storage.installing import pack_snapshot, unpack_snapshot
from kingbus.transport.codec import ENTRY_BYTES_MAX

_log = get_logger("node")

SNAPSHOT_BYTES_MAX = ENTRY_BYTES_MAX
"""As an entry, so that it fits a frame; a set of a million intervals does."""


class LogStart:
    """See the module.

    `make`, `can_install` and `note_purge` are for the loop; `cut` and `install` for the append task
    alone, so that the log is never cut or replaced beside a write.
    """

    def __init__(self, *, log: Log, snapshots: Snapshots | None, runner: Runner) -> None:
        self._log = log
        self._snapshots = snapshots
        self._runner = runner
        self._cut_to = 0  # the first entry to keep, while the log still holds more
        self._installing = 0  # the index of the snapshot that is being installed
        self._installed = Broadcast()
        self._began_at = 0  # the index of the snapshot that this node has yet to catch up from
        self._heard_commit = 0

    # Making

    def make(self, cluster: Cluster) -> Snapshot:
        """The state at the log's start, with the membership as of now and the index of that.

        SnapshotTemporarilyUnavailableError while there is none.
        """
        assert self._snapshots is not None
        index, state = self._snapshots.make()
        data = pack_snapshot(cluster.to_record(), state)
        if len(data) > SNAPSHOT_BYTES_MAX:
            _log.error("a snapshot is too large to be sent", bytes=len(data))
            raise SnapshotTemporarilyUnavailableError
        return Snapshot(
            index=index,
            term=self._log.term(index),
            conf_state=conf_state_of(cluster),
            data=data,
            conf_index=cluster.index,
        )

    # Cutting

    def note_purge(self, applied: int) -> bool:
        """Whether the log is to be cut from now on, where the machine needs it no more.

        At most behind `applied`, what the core knows to be applied.
        """
        if self._snapshots is None or self._installing or self._cut_to:
            return False
        first = self._snapshots.first_index
        if not self._log.first_index() < first <= applied + 1:
            return False
        self._cut_to = first
        return True

    @property
    def is_to_be_cut(self) -> bool:
        """True from `note_purge` to `cut`, unless a snapshot replaces the log in between."""
        return self._cut_to != 0

    async def cut(self) -> None:
        """Give up what is not needed, which is durably not needed by then."""
        assert self._snapshots is not None
        first = self._cut_to
        # First that is durable which says that these entries are not needed.
        await self._snapshots.sync()
        await self._runner(self._log.truncate_before, first)
        self._cut_to = 0
        _log.info("the log was cut", first_index=first)

    # Installing

    def can_install(self, message: Message) -> bool:
        """Whether the snapshot that a peer sends may reach the core; if not, the log says why."""
        reason = "the log here is never cut"
        if self._snapshots is not None:
            if message.snapshot is None:
                return True  # the core says what is wrong with it
            try:
                self._snapshots.check(message.snapshot)
                return True
            except KingbusError as error:
                reason = str(error)
        _log.error("snapshot ignored", sender=f"{message.from_:x}", reason=reason)
        return False

    async def install(
        self, snapshot: Snapshot, write: Callable[[], Awaitable[None]], *, applied: int
    ) -> Cluster:
        """Replace log and state; the membership that came with it.

        `write` replaces the log; each step is durable before the next (storage/installing.py).
        """
        assert self._snapshots is not None
        assert snapshot.index > applied, (snapshot.index, applied)
        began = time.perf_counter()
        _log.info("installing a snapshot", index=snapshot.index, applied=applied)
        self._installing = self._began_at = snapshot.index
        members, _ = unpack_snapshot(snapshot)
        await self._snapshots.begin(snapshot)
        await write()
        await self._snapshots.finish(snapshot)
        cluster = Cluster.from_record(members)
        self._cut_to = 0
        self._installing = 0
        _log.info(
            "snapshot installed",
            index=snapshot.index,
            members_index=cluster.index,
            seconds=round(time.perf_counter() - began, 3),
        )
        self._installed.notify()
        return cluster

    async def wait_installed(self) -> None:
        """Wait while a snapshot is being installed."""
        while self._installing:
            await self._installed.wait()

    # Catching up

    def heard_commit(self, index: int) -> None:
        """A leader says that it has committed as much."""
        self._heard_commit = max(self._heard_commit, index)

    def note_applied(self, index: int) -> None:
        """That index is applied here: whoever began from a snapshot may have caught up."""
        if self._began_at and index >= self._heard_commit > self._began_at:
            _log.info("caught up from a snapshot", index=self._began_at, applied=index)
            self._began_at = 0

    def catch_up(self, applied: int) -> CatchUp | None:
        """How far this node has come since its snapshot; None: it needs none, or is done."""
        if not self._began_at:
            return None
        return CatchUp(
            installing=bool(self._installing),
            begin=self._began_at,
            applied=applied,
            end=self._heard_commit,
        )
