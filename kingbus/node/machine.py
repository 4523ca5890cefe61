"""What the node asks of the layers around it: the state machine, the log, the worker threads.

The node is the consumer, so these protocols live here; replication/ and storage/ implement them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, TypeVarTuple

from kingbus.pb import record_pb2
from kingbus.raft.storage import Storage
from kingbus.raft.types import ConfState, Entry, Snapshot
from kingbus.storage.errors import NoRoomError
from kingbus.storage.log import LogWrite

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedBatch:
    """Committed entries, of all types and without a gap, in the order of the log.

    `members` gives, for the index of each configuration change among them, the membership that
    results (an unchanged one where the change was refused). The machine keeps each in the same
    database write as its entry, or a later one that replaces it.
    """

    entries: Sequence[Entry]
    members: Mapping[int, record_pb2.Members] = field(default_factory=dict)


class StateMachine(Protocol):
    """What committed entries act on."""

    @property
    def applied_index(self) -> int:
        """The last index that was applied, durable or not."""
        ...

    def apply(self, batch: AppliedBatch) -> None:
        """Apply a batch, on the event loop: it must not block.

        The first entry's index is `applied_index + 1`. An exception ends the node.
        """
        ...


class Room(Protocol):
    """Whether the disk has room; a node without one ends when it has not."""

    async def for_log(self, error: NoRoomError) -> None:
        """A write of the log found no room and changed nothing; return to try it again."""
        ...

    async def for_state(self) -> None:
        """Return when what was applied can be written."""
        ...


class Log(Storage, Protocol):
    """The stable log: the reads of raft.Storage and two steps to write."""

    def write(self, write: LogWrite) -> None:
        """Make it durable; blocking, in a worker thread, one at a time.

        NoRoomError on a full disk: nothing was changed.
        """
        ...

    def publish(self, write: LogWrite) -> None:
        """Show it to readers; on the event loop, after `write` returned."""
        ...

    def note_idle(self) -> bool:
        """Nothing was written for a second; blocking, in a worker thread, never beside `write`."""
        ...

    def set_conf_state(self, index: int, conf_state: ConfState) -> None:
        """The membership as applied, and the index of the change that made it."""
        ...

    def set_snapshot_source(self, source: Callable[[], Snapshot]) -> None:
        """Who makes the snapshot that a follower behind the log's start gets."""
        ...

    def truncate_before(self, index: int) -> None:
        """Give up every entry below; blocking, in a worker thread, never beside `write`."""
        ...


class Snapshots(Protocol):
    """The half of a snapshot that is the machine's, where its log is ever cut at the beginning.

    A snapshot stands for what lies before the first entry that is still held; its data is as
    `storage.installing.pack_snapshot` makes it. The node installs one by `begin`, a write of the
    log, `finish`, with nothing else written or applied in between.
    """

    @property
    def first_index(self) -> int:
        """The first entry that the machine needs, as of what it applied; 1: all of them."""
        ...

    def make(self) -> tuple[int, bytes]:
        """The index before the first entry that is needed, and the machine's state there.

        SnapshotTemporarilyUnavailableError while it cannot be told.
        """
        ...

    def check(self, snapshot: Snapshot) -> None:
        """KingbusError when this could not be installed here."""
        ...

    async def begin(self, snapshot: Snapshot) -> None:
        """Stop the machine's readers and remember, durably, that this is being installed."""
        ...

    async def finish(self, snapshot: Snapshot) -> None:
        """Make the machine's state durably the snapshot's, and forget that it was begun."""
        ...

    async def sync(self) -> None:
        """Make durable what was applied, before the log gives up what it came from."""
        ...


class Runner(Protocol):
    """Runs a blocking call in a worker thread."""

    def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> Awaitable[_T]: ...
