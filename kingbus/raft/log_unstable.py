"""The tail of the log that is not known to be durable yet, and a snapshot in the same condition.

`offset` is the index of the first entry here. What was handed out in a Ready stays until the host
reports that it is durable; `in_progress` marks how far that goes, so that nothing is handed out
twice.
"""

from kingbus.raft.config import Logger
from kingbus.raft.types import Entry, Snapshot


class Unstable:
    """Entries and a snapshot on their way to the stable log."""

    __slots__ = (
        "_logger",
        "entries",
        "in_progress",
        "offset",
        "snapshot",
        "snapshot_in_progress",
    )

    def __init__(self, offset: int, logger: Logger) -> None:
        self.snapshot: Snapshot | None = None
        self.entries: list[Entry] = []
        self.offset = offset
        self.in_progress = offset
        """The first index that was not handed out."""
        self.snapshot_in_progress = False
        self._logger = logger

    def first_index(self) -> int | None:
        """The first index of the whole log, when a snapshot here decides it."""
        return None if self.snapshot is None else self.snapshot.index + 1

    def last_index(self) -> int | None:
        """The last index of the whole log, when it lies here."""
        if self.entries:
            return self.offset + len(self.entries) - 1
        return None if self.snapshot is None else self.snapshot.index

    def term(self, index: int) -> int | None:
        """The term at an index, when it is known here."""
        position = index - self.offset
        if position >= 0:
            return self.entries[position].term if position < len(self.entries) else None
        if self.snapshot is not None and self.snapshot.index == index:
            return self.snapshot.term
        return None

    def next_entries(self) -> list[Entry]:
        """Entries that were not handed out yet."""
        return self.entries[self.in_progress - self.offset :]

    @property
    def has_next_entries(self) -> bool:
        """True when there are entries to hand out."""
        return self.in_progress < self.offset + len(self.entries)

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, unless it was handed out."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept_in_progress(self) -> None:
        """Everything here is handed out."""
        self.in_progress = self.offset + len(self.entries)
        if self.snapshot is not None:
            self.snapshot_in_progress = True

    def stable_to(self, term: int, index: int) -> None:
        """Entries up to (term, index) are durable.

        When another entry took the place in the meantime the report is about one that is gone, and
        says nothing: with asynchronous writes both may be on their way.
        """
        held = self.term(index)
        if held is None:
            self._logger.info("entry at index %d missing from unstable log; ignoring", index)
            return
        if index < self.offset:
            self._logger.info("entry at index %d matched unstable snapshot; ignoring", index)
            return
        if held != term:
            self._logger.info(
                "entry at (index,term)=(%d,%d) mismatched with entry at (%d,%d) in unstable log; "
                "ignoring",
                index,
                term,
                index,
                held,
            )
            return
        del self.entries[: index + 1 - self.offset]
        self.offset = index + 1
        self.in_progress = max(self.in_progress, self.offset)

    def stable_snapshot_to(self, index: int) -> None:
        """The snapshot at `index` is durable."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """The snapshot takes the place of everything."""
        self.offset = self.in_progress = snapshot.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def truncate_and_append(self, entries: list[Entry]) -> None:
        """Append entries; from their first index on they replace what is held."""
        start = entries[0].index
        end = self.offset + len(self.entries)
        assert start <= end, f"gap in the log: {end} is the next index, not {start}"
        if start == end:
            self.entries += entries
        elif start <= self.offset:
            self._logger.info("replace the unstable entries from index %d", start)
            self.entries = list(entries)
            self.offset = self.in_progress = start
        else:
            self._logger.info("truncate the unstable entries before index %d", start)
            # A new list: slices handed out stay as they are.
            self.entries = self.entries[: start - self.offset] + entries
            self.in_progress = min(self.in_progress, start)

    def slice(self, lo: int, hi: int) -> list[Entry]:
        """Entries lo to hi-1, all of which are held here."""
        assert self.offset <= lo <= hi <= self.offset + len(self.entries), (lo, hi, self.offset)
        return self.entries[lo - self.offset : hi - self.offset]
