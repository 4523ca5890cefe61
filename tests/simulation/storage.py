"""The disks of a node: for each of its two stores what is durable, and what is under way.

`LogModel` is the log: one write at a time is under way, and a crash keeps a random prefix of its
records, in the order in which the real log writes them. `DatabaseModel` is the database, which is
never waited for: a crash keeps a random prefix of all writes since the last sync.
"""

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass

from kingbus.membership.cluster import Cluster
from kingbus.node.core import conf_state_of
from kingbus.pb.record_pb2 import FileRow, Members
from kingbus.pb.record_pb2 import RelayState as StateRecord
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import ConfState, Entry, HardState, Snapshot
from kingbus.storage.log import LogWrite
from kingbus.storage.state_store import StateWrite
from tests.support.relay_node import MemoryDatabase


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The relay state as of the entry before the first that is held."""

    index: int
    record: bytes
    files: tuple[bytes, ...]
    whole_from: int = 0
    """Applied up to here, the state speaks only of files that are still held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotData:
    """What a snapshot carries: the start of the log, and the membership of now."""

    start: Start
    members: bytes
    conf_index: int
    conf_state: ConfState

    def encode(self) -> bytes:
        return pickle.dumps(self)

    @classmethod
    def decode(cls, data: bytes) -> "SnapshotData":
        found = pickle.loads(data)
        assert isinstance(found, cls)
        return found


class CheckedLog(MemoryStorage):
    """A log and hard state as they are durable; what was promised is not taken back."""

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    def has(self, index: int, term: int) -> bool:
        """Whether the entry is durable here, or was before it was purged."""
        if index < self.first_index():
            return True
        return index <= self.last_index() and self.term(index) == term

    def held(self) -> list[Entry]:
        return self._entries[1:]

    def set_hard_state(self, hard_state: HardState) -> None:
        """Invariant 7: term, the vote in a term, and the commit index never fall."""
        old = self._hard_state
        assert hard_state.term >= old.term, f"the term falls: {old} to {hard_state}"
        if hard_state.term == old.term and old.vote:
            assert hard_state.vote == old.vote, f"the vote changes: {old} to {hard_state}"
        assert hard_state.commit >= old.commit, f"the commit falls: {old} to {hard_state}"
        super().set_hard_state(hard_state)


class LogModel(CheckedLog):
    """The durable log and hard state, and the write that is under way."""

    def __init__(self, snapshot_source: Callable[[], Snapshot]) -> None:
        super().__init__()
        self.installed: SnapshotData | None = None
        """What the last snapshot brought: the database may not have got it yet."""
        self._snapshot_source = snapshot_source
        self._write: LogWrite | None = None

    @property
    def is_writing(self) -> bool:
        return self._write is not None

    @property
    def promised_nothing(self) -> bool:
        """The hard state is the last record of the first write: that one was never whole."""
        return self._hard_state.is_empty and self.first_index() == 1

    def snapshot(self) -> Snapshot:
        return self._snapshot_source()

    def begin(self, write: LogWrite) -> None:
        assert self._write is None, "one write at a time"
        self._write = write

    def finish(self) -> LogWrite:
        """What is under way is durable."""
        write, self._write = self._write, None
        assert write is not None
        self._keep(write, _records(write))
        return write

    def crash(self, rng: random.Random) -> None:
        """Of what is under way the first records are kept."""
        write, self._write = self._write, None
        if write is not None:
            self._keep(write, rng.randint(0, _records(write)))

    def _keep(self, write: LogWrite, records: int) -> None:
        if write.snapshot is not None:
            if not records:
                return
            # The head of a new segment: snapshot and hard state come to be in one step.
            state = write.hard_state or self._hard_state
            commit = max(state.commit, write.snapshot.index)
            self.apply_snapshot(write.snapshot)
            self.installed = SnapshotData.decode(write.snapshot.data)
            self.set_hard_state(HardState(state.term, state.vote, commit))
            records -= 1
        self.append(list(write.entries[:records]))
        if write.hard_state is not None and records > len(write.entries):
            self.set_hard_state(write.hard_state)


def _records(write: LogWrite) -> int:
    return len(write.entries) + 1 + (write.snapshot is not None)


class DatabaseModel(MemoryDatabase):
    """What the node reads is the newest; what a crash leaves is somewhere behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conf: tuple[int, ConfState] = (0, ConfState())
        self.starts: dict[int, Start] = {}
        self._durable = self._image()
        self._unsynced: list[tuple[StateWrite, tuple[int, ConfState], dict[int, Start]]] = []
        self._new_starts: dict[int, Start] = {}

    def _image(self) -> tuple[object, ...]:
        return (
            dict(self.rows),
            dict(self.files),
            self.record,
            self.applied_index,
            self.members_record,
            self.conf,
            dict(self.starts),
        )

    def _restore(self, image: tuple[object, ...]) -> None:
        rows, files, record, applied, members, conf, starts = image
        self.rows, self.files, self.starts = dict(rows), dict(files), dict(starts)
        self.record, self.applied_index, self.members_record = record, applied, members
        self.conf = conf

    def note_start(self, start: Start) -> None:
        """Goes with the next write; one that came with a snapshot stays."""
        if start.index not in self.starts:
            self._new_starts[start.index] = start

    def write(self, changes: StateWrite) -> None:
        starts, self._new_starts = self._new_starts, {}
        if changes.members is not None:
            cluster = Cluster.from_record(changes.members)
            self.conf = (cluster.index, conf_state_of(cluster))
        self._unsynced.append((changes, self.conf, starts))
        self._store(changes, self.conf, starts)

    def _store(
        self, changes: StateWrite, conf: tuple[int, ConfState], starts: dict[int, Start]
    ) -> None:
        super().write(changes)
        self.conf = conf
        self.starts.update(starts)

    def sync(self) -> None:
        self._unsynced.clear()
        self._durable = self._image()

    def crash(self, rng: random.Random) -> None:
        kept, self._unsynced = self._unsynced, []
        self._new_starts = {}
        self._restore(self._durable)
        for write in kept[: rng.randint(0, len(kept))]:
            self._store(*write)
        self.sync()

    def drop_starts(self, below: int) -> None:
        for index in [index for index in self.starts if index < below]:
            del self.starts[index]

    def install(self, data: SnapshotData) -> None:
        """Everything is replaced by a snapshot, durably."""
        start = data.start
        self.rows = {}
        self.files = {row.ordinal: row for row in map(FileRow.FromString, start.files)}
        self.record = StateRecord.FromString(start.record)
        self.applied_index = start.index
        self.members_record = Members.FromString(data.members) if data.members else None
        self.conf = (data.conf_index, data.conf_state)
        self.starts = {start.index: start}
        self.sync()
