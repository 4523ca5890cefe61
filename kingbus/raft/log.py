"""The log as Raft sees it: the stable part in storage and the unstable tail, with its marks.

Always applied <= applying <= committed <= last. `applying` is what was handed out to be applied,
`applied` what the host reported back; between them at most `max_applying_size` bytes are under way.
Follows section 5.3 of the Raft paper, with the fast search for the point where two logs part.
"""

from kingbus.raft.config import Logger
from kingbus.raft.errors import CompactedError, UnavailableError
from kingbus.raft.log_unstable import Unstable
from kingbus.raft.storage import Storage
from kingbus.raft.types import (
    NO_LIMIT,
    Entry,
    EntryType,
    Snapshot,
    entries_size,
    limit_size,
)


class RaftLog:
    """Stable and unstable entries as one sequence."""

    def __init__(
        self, storage: Storage, logger: Logger, *, max_applying_size: int = NO_LIMIT
    ) -> None:
        self._storage = storage
        self._logger = logger
        first, last = storage.first_index(), storage.last_index()
        assert first <= last + 1, (first, last)
        self.unstable = Unstable(last + 1, logger)
        self.committed = first - 1
        self.applying = first - 1
        self.applied = first - 1
        self._max_applying_size = max_applying_size
        self._applying_size = 0
        self._applying_paused = False

    def __str__(self) -> str:
        unstable = self.unstable
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={unstable.offset}, "
            f"unstable.offsetInProgress={unstable.in_progress}, "
            f"len(unstable.Entries)={len(unstable.entries)}"
        )

    # Where the log begins and ends

    def first_index(self) -> int:
        """The index of the first entry that is held, or would be."""
        index = self.unstable.first_index()
        return self._storage.first_index() if index is None else index

    def last_index(self) -> int:
        """The index of the last entry."""
        index = self.unstable.last_index()
        return self._storage.last_index() if index is None else index

    def last_entry_id(self) -> tuple[int, int]:
        """(term, index) of the last entry."""
        index = self.last_index()
        return self.term(index), index

    def term(self, index: int) -> int:
        """The term of an entry, also of the one before the first.

        CompactedError below that, UnavailableError above the last.
        """
        term = self.unstable.term(index)
        if term is not None:
            return term
        if index + 1 < self.first_index():
            raise CompactedError
        if index > self.last_index():
            raise UnavailableError
        return self._storage.term(index)

    def term_or_zero(self, index: int) -> int:
        """The term of an entry, 0 when it is not held."""
        try:
            return self.term(index)
        except (CompactedError, UnavailableError):
            return 0

    def match_term(self, term: int, index: int) -> bool:
        """True when this log has the entry (term, index)."""
        try:
            return self.term(index) == term
        except (CompactedError, UnavailableError):
            return False

    def is_up_to_date(self, term: int, index: int) -> bool:
        """True when a log that ends in (term, index) is not behind this one (paper, 5.4.1)."""
        own_term, own_index = self.last_entry_id()
        return term > own_term or (term == own_term and index >= own_index)

    # Growing

    def append(self, entries: list[Entry]) -> int:
        """Append entries, which may replace uncommitted ones; the last index afterwards."""
        if entries:
            assert entries[0].index > self.committed, (
                f"append at {entries[0].index} would replace committed entries, "
                f"committed is {self.committed}"
            )
            self.unstable.truncate_and_append(entries)
        return self.last_index()

    def maybe_append(
        self, prev_term: int, prev_index: int, entries: list[Entry], leader_commit: int
    ) -> int | None:
        """Take over a leader's entries after (prev_term, prev_index), and its commit index.

        The index of the last entry that surely equals the leader's, None when the previous entry
        is not here.
        """
        if not self.match_term(prev_term, prev_index):
            return None
        last_new = prev_index + len(entries)
        conflict = self.find_conflict(entries)
        if conflict != 0:
            assert conflict > self.committed, (
                f"entry {conflict} conflicts with a committed entry, committed is {self.committed}"
            )
            self.append(entries[conflict - prev_index - 1 :])
        self.commit_to(min(leader_commit, last_new))
        return last_new

    def find_conflict(self, entries: list[Entry]) -> int:
        """The index of the first entry that is not in this log, 0 when all are."""
        for entry in entries:
            if not self.match_term(entry.term, entry.index):
                if entry.index <= self.last_index():
                    self._logger.info(
                        "found conflict at index %d [existing term: %d, conflicting term: %d]",
                        entry.index,
                        self.term_or_zero(entry.index),
                        entry.term,
                    )
                return entry.index
        return 0

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The highest (index, term) at or below `index` whose term is not above `term`.

        A log that has (index, term) can match this one only there or below, so whole terms are
        skipped at once. The term is 0 where it is not known.
        """
        while index > 0:
            try:
                own_term = self.term(index)
            except (CompactedError, UnavailableError):
                return index, 0
            if own_term <= term:
                return index, own_term
            index -= 1
        return 0, 0

    def restore(self, snapshot: Snapshot) -> None:
        """The snapshot takes the place of the whole log."""
        self._logger.info(
            "log [%s] starts to restore snapshot [index: %d, term: %d]",
            self,
            snapshot.index,
            snapshot.term,
        )
        assert snapshot.index > self.committed, (snapshot.index, self.committed)
        self.committed = snapshot.index
        self.unstable.restore(snapshot)

    # Committing and applying

    def commit_to(self, index: int) -> None:
        """Everything up to `index` is committed; a lower index than known says nothing."""
        if index <= self.committed:
            return
        last = self.last_index()
        assert index <= last, (
            f"commit index {index} is above the last index {last}: "
            "the log lost entries that were acknowledged, or was mixed up"
        )
        self.committed = index

    def maybe_commit(self, term: int, index: int) -> bool:
        """Commit up to `index` if the entry there is of `term` (paper, 5.4.2)."""
        if index <= self.committed or term == 0 or not self.match_term(term, index):
            return False
        self.commit_to(index)
        return True

    def _max_appliable(self, *, allow_unstable: bool) -> int:
        if allow_unstable:
            return self.committed
        return min(self.committed, self.unstable.offset - 1)

    def has_next_committed(self, *, allow_unstable: bool) -> bool:
        """True when there are committed entries to hand out."""
        return (
            not self._applying_paused
            and self.unstable.snapshot is None  # it is to be applied first
            and self.applying < self._max_appliable(allow_unstable=allow_unstable)
        )

    def next_committed(self, *, allow_unstable: bool) -> list[Entry]:
        """Committed entries that were not handed out, as many as may be under way."""
        if not self.has_next_committed(allow_unstable=allow_unstable):
            return []
        room = self._max_applying_size - self._applying_size
        assert room > 0, (self._max_applying_size, self._applying_size)
        end = self._max_appliable(allow_unstable=allow_unstable) + 1
        entries = self.slice(self.applying + 1, end, room)
        assert entries, (self.applying, end)
        return entries

    def accept_applying(self, index: int, size: int, *, allow_unstable: bool) -> None:
        """Entries up to `index`, of `size` bytes, are handed out to be applied."""
        assert self.applying <= index <= self.committed, (self.applying, index, self.committed)
        self.applying = index
        self._applying_size += size
        # Also paused when this time not all fitted: the rest waits until something was applied,
        # otherwise a large backlog would be handed out one after the other.
        self._applying_paused = (
            self._applying_size >= self._max_applying_size
            or index < self._max_appliable(allow_unstable=allow_unstable)
        )

    def applied_to(self, index: int, size: int) -> None:
        """Entries up to `index` are applied; `size` bytes are no more under way."""
        assert self.applied <= index <= self.committed, (self.applied, index, self.committed)
        self.applied = index
        self.applying = max(self.applying, index)
        self._applying_size = max(self._applying_size - size, 0)
        self._applying_paused = self._applying_size >= self._max_applying_size

    # Reading

    def snapshot(self) -> Snapshot:
        """The newest snapshot; SnapshotTemporarilyUnavailableError."""
        return self.unstable.snapshot or self._storage.snapshot()

    def entries(self, lo: int, max_size: int) -> list[Entry]:
        """Entries from `lo` on, at most `max_size` bytes but at least one. CompactedError."""
        last = self.last_index()
        return [] if lo > last else self.slice(lo, last + 1, max_size)

    def slice(self, lo: int, hi: int, max_size: int) -> list[Entry]:
        """Entries lo to hi-1, at most `max_size` bytes but at least one. CompactedError."""
        if lo < self.first_index():
            raise CompactedError
        assert lo <= hi <= self.last_index() + 1, (lo, hi, self.last_index())
        if lo == hi:
            return []
        offset = self.unstable.offset
        if lo >= offset:
            return limit_size(self.unstable.slice(lo, hi), max_size)
        cut = min(hi, offset)
        stable = self._storage.entries(lo, cut, max_size)
        assert stable, f"storage gave no entries of {lo} to {cut - 1}"
        if hi <= offset or len(stable) < cut - lo:
            return stable
        size = entries_size(stable)
        if size >= max_size:
            return stable
        unstable = limit_size(self.unstable.slice(offset, hi), max_size - size)
        if len(unstable) == 1 and size + entries_size(unstable) > max_size:
            return stable
        return stable + unstable

    def has_unapplied_conf_change(self) -> bool:
        """True when a configuration change is committed and not applied yet."""
        lo, hi = self.applied + 1, self.committed + 1
        if self.unstable.snapshot is not None:
            # What a snapshot covers comes with it: its configuration is active already.
            lo = max(lo, self.unstable.snapshot.index + 1)
        while lo < hi:
            page = self.slice(lo, hi, self._max_applying_size)
            if any(entry.type is not EntryType.NORMAL for entry in page):
                return True
            lo += len(page)
        return False
