"""The newest entries in memory: what followers that keep up, and replicas at the end, ask for."""

from collections.abc import Sequence

from kingbus.raft.types import Entry, entry_size

__all__ = ["EntryCache"]

ENTRY_BYTES = 300
"""What an entry costs beside its data, about: the object, its numbers, its place in the table."""


class EntryCache:
    """Consecutive entries up to the last one, as many as fit into `bytes_max`. One thread only."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: dict[int, Entry] = {}
        self._first = 0
        self._last = -1
        self.bytes = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Newer entries; one whose index is held replaces that one and all behind it."""
        held = self._entries
        for entry in entries:
            index = entry.index
            if held and index != self._last + 1:
                self._forget_from(index)
            if not held:
                self._first = index
            held[index] = entry
            self._last = index
            self.bytes += len(entry.data) + ENTRY_BYTES
        while held and self.bytes > self._bytes_max:
            self._forget(self._first)
            self._first += 1

    def get(self, lo: int, hi: int, max_size: int) -> list[Entry] | None:
        """Entries lo to hi-1, cut as in `raft.storage.Storage.entries`; None: not all are here."""
        held = self._entries
        if not held or not self._first <= lo < hi <= self._last + 1:
            return None
        found: list[Entry] = []
        for index in range(lo, hi):
            entry = held[index]
            max_size -= entry_size(entry)
            if max_size < 0 and found:
                break
            found.append(entry)
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0

    def _forget_from(self, index: int) -> None:
        assert index <= self._last, (index, self._last)
        if index <= self._first:
            self.clear()
            return
        while self._last >= index:
            self._forget(self._last)
            self._last -= 1

    def _forget(self, index: int) -> None:
        self.bytes -= len(self._entries.pop(index).data) + ENTRY_BYTES
