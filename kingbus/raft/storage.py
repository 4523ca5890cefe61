"""The stable log as the core reads it, and one kept in memory.

`Storage` is the door to the host's disk: the core only reads through it, what is to be written
stands in a Ready. Calls come from the core's own steps, so they must not block for long; entries
asked for are those that a slow follower needs, or that are to be applied.
"""

from typing import Protocol

from kingbus.raft.errors import (
    CompactedError,
    SnapshotOutOfDateError,
    SnapshotTemporarilyUnavailableError,
    UnavailableError,
)
from kingbus.raft.types import NO_LIMIT, ConfState, Entry, HardState, Snapshot, limit_size

__all__ = [
    "CompactedError",
    "MemoryStorage",
    "SnapshotOutOfDateError",
    "SnapshotTemporarilyUnavailableError",
    "Storage",
    "UnavailableError",
]


class Storage(Protocol):
    """What the core asks of the stable log."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The saved hard state and the configuration to start with."""
        ...

    def entries(self, lo: int, hi: int, max_size: int) -> list[Entry]:
        """Entries lo to hi-1, cut to `max_size` bytes of `entry_size` but at least one.

        CompactedError when lo is below the first index, UnavailableError when hi-1 is above the
        last one.
        """
        ...

    def term(self, index: int) -> int:
        """The term of an entry, also of the one just before the first.

        CompactedError below that, UnavailableError above the last.
        """
        ...

    def first_index(self) -> int:
        """The index of the first entry that is held, or would be."""
        ...

    def last_index(self) -> int:
        """The index of the last entry, first_index() - 1 when there is none."""
        ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot; SnapshotTemporarilyUnavailableError when there is none yet."""
        ...


class MemoryStorage:
    """A log in memory, for tests and examples."""

    def __init__(self) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot()
        # The first element stands for the entry before the first: it has only term and index.
        self._entries = [Entry(0, 0)]

    def initial_state(self) -> tuple[HardState, ConfState]:
        """See Storage."""
        return self._hard_state, self._snapshot.conf_state

    def set_hard_state(self, hard_state: HardState) -> None:
        """Save the hard state."""
        self._hard_state = hard_state

    def entries(self, lo: int, hi: int, max_size: int = NO_LIMIT) -> list[Entry]:
        """See Storage."""
        offset = self._entries[0].index
        if lo <= offset:
            raise CompactedError
        if hi > self.last_index() + 1:
            raise UnavailableError
        return limit_size(self._entries[lo - offset : hi - offset], max_size)

    def term(self, index: int) -> int:
        """See Storage."""
        offset = self._entries[0].index
        if index < offset:
            raise CompactedError
        if index - offset >= len(self._entries):
            raise UnavailableError
        return self._entries[index - offset].term

    def first_index(self) -> int:
        """See Storage."""
        return self._entries[0].index + 1

    def last_index(self) -> int:
        """See Storage."""
        return self._entries[0].index + len(self._entries) - 1

    def snapshot(self) -> Snapshot:
        """See Storage."""
        return self._snapshot

    def append(self, entries: list[Entry]) -> None:
        """Append entries; they replace those that are held from the first new index on."""
        first = self.first_index()
        entries = [entry for entry in entries if entry.index >= first]
        if not entries:
            return
        position = entries[0].index - self._entries[0].index
        assert position <= len(self._entries), (
            f"log would have a gap: last index {self.last_index()}, append at {entries[0].index}"
        )
        del self._entries[position:]
        self._entries += entries

    def compact(self, index: int) -> None:
        """Drop the entries up to and with `index`; CompactedError when they are gone already."""
        offset = self._entries[0].index
        if index <= offset:
            raise CompactedError
        assert index <= self.last_index(), (index, self.last_index())
        del self._entries[: index - offset]
        self._entries[0] = Entry(self._entries[0].term, index)

    def create_snapshot(
        self, index: int, conf_state: ConfState | None = None, data: bytes = b""
    ) -> Snapshot:
        """Keep, and return, a snapshot at an index of the log.

        SnapshotOutOfDateError when the held one is not older.
        """
        if index <= self._snapshot.index:
            raise SnapshotOutOfDateError
        assert index <= self.last_index(), (index, self.last_index())
        if conf_state is None:
            conf_state = self._snapshot.conf_state
        self._snapshot = Snapshot(index, self.term(index), conf_state, data)
        return self._snapshot

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot; SnapshotOutOfDateError when the held one is newer."""
        if self._snapshot.index and self._snapshot.index >= snapshot.index:
            raise SnapshotOutOfDateError
        self._snapshot = snapshot
        self._entries = [Entry(snapshot.term, snapshot.index)]
