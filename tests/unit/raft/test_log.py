"""The log: stable and unstable entries as one sequence, and its marks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.raft.config import SilentLogger
from kingbus.raft.errors import CompactedError, UnavailableError
from kingbus.raft.log import RaftLog
from kingbus.raft.log_unstable import Unstable
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import NO_LIMIT, ConfState, Entry, EntryType, Snapshot, entry_size


def entries(*ids: tuple[int, int]) -> list[Entry]:
    """Entries of these (term, index)."""
    return [Entry(term, index, data=b"x" * 10) for term, index in ids]


def log_of(*terms: int, stable: int = 0, start: int = 0, **options: int) -> RaftLog:
    """A log of entries with these terms after `start`, the first `stable` of them in storage."""
    storage = MemoryStorage()
    if start:
        storage.apply_snapshot(Snapshot(start, 1, ConfState((1,))))
    made = [Entry(term, start + at, data=b"x" * 10) for at, term in enumerate(terms, 1)]
    storage.append(made[:stable])
    log = RaftLog(storage, SilentLogger(), **options)
    if made[stable:]:
        log.append(made[stable:])
    return log


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3), st.data())
def test_stable_and_unstable_are_one_sequence(
    stable: int, unstable: int, start: int, data: st.DataObject
) -> None:
    """Whatever lies in storage, terms and slices are those of the whole."""
    count = stable + unstable
    log = log_of(*range(1, count + 1), stable=stable, start=start)
    assert (log.first_index(), log.last_index()) == (start + 1, start + count)
    for at in range(1, count + 1):
        assert log.term(start + at) == at
    lo = data.draw(st.integers(start + 1, start + count + 1))
    hi = data.draw(st.integers(lo, start + count + 1))
    taken = log.slice(lo, hi, NO_LIMIT)
    assert [entry.index for entry in taken] == list(range(lo, hi))
    limit = data.draw(st.integers(0, 100))
    some = log.slice(lo, hi, limit)
    assert some == taken[: len(some)]
    assert bool(some) == bool(taken)
    assert len(some) <= 1 or sum(map(entry_size, some)) <= limit
    if len(some) < len(taken) and len(some) != stable - (lo - start - 1):
        # Only at the border to the unstable part it may be one entry less than would fit.
        assert sum(map(entry_size, taken[: len(some) + 1])) > limit


def test_ends_of_the_log() -> None:
    """Below it is compacted, above it unavailable; the entry before the first has a term."""
    log = log_of(2, 2, stable=1, start=5)
    assert log.term(5) == 1
    with pytest.raises(CompactedError):
        log.term(4)
    with pytest.raises(UnavailableError):
        log.term(8)
    with pytest.raises(CompactedError):
        log.slice(5, 6, NO_LIMIT)
    assert log.entries(8, NO_LIMIT) == []
    assert (log.term_or_zero(4), log.term_or_zero(8)) == (0, 0)


@pytest.mark.parametrize(
    ("term", "index", "expected"),
    [(2, 3, True), (3, 1, True), (2, 2, False), (1, 9, False), (2, 9, True)],
)
def test_up_to_date_compares_term_then_index(term: int, index: int, expected: bool) -> None:
    """A higher last term wins, then the longer log (paper, 5.4.1)."""
    assert log_of(1, 1, 2).is_up_to_date(term, index) is expected


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([], 0),
        ([(1, 1), (2, 2), (3, 3)], 0),
        ([(2, 2), (3, 3)], 0),
        ([(3, 3), (4, 4)], 4),
        ([(1, 1), (4, 2)], 2),
        ([(9, 1)], 1),
    ],
)
def test_find_conflict(new: list[tuple[int, int]], expected: int) -> None:
    """The first entry that the log does not have, 0 when it has all."""
    assert log_of(1, 2, 3).find_conflict(entries(*new)) == expected


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        (6, 5, (6, 5)),
        (6, 4, (5, 4)),
        (6, 3, (3, 2)),
        (3, 3, (3, 2)),
        (6, 0, (0, 0)),
        (9, 9, (9, 0)),  # not held: unknown
    ],
)
def test_find_conflict_by_term_skips_whole_terms(
    index: int, term: int, expected: tuple[int, int]
) -> None:
    """The highest place at or below that can match."""
    assert log_of(2, 2, 2, 4, 4, 5).find_conflict_by_term(index, term) == expected


def test_append_of_a_leader() -> None:
    """Refused without the entry before; old entries are kept, conflicting ones replaced."""
    log = log_of(1, 2, 3, stable=3)
    assert log.maybe_append(2, 3, entries((4, 4)), 4) is None
    assert log.maybe_append(1, 4, [], 4) is None
    assert log.last_index() == 3

    assert log.maybe_append(1, 1, entries((2, 2)), 0) == 2
    assert log.last_index() == 3, "an old append must not cut what came later"

    assert log.maybe_append(2, 2, entries((4, 3), (4, 4)), 0) == 4
    assert [log.term(index) for index in (1, 2, 3, 4)] == [1, 2, 4, 4]


def test_commit_is_bounded_by_what_was_verified() -> None:
    """Entries behind those of the message may differ from the leader's."""
    log = log_of(1, 1, 1)
    assert log.maybe_append(1, 1, entries((1, 2)), 3) == 2
    assert log.committed == 2


def test_committed_entries_are_never_replaced() -> None:
    """That would be a broken promise: the node stops."""
    log = log_of(1, 1, 1)
    log.commit_to(2)
    with pytest.raises(AssertionError, match="committed"):
        log.maybe_append(1, 1, entries((2, 2)), 2)
    with pytest.raises(AssertionError, match="committed"):
        log.append(entries((2, 2)))


def test_commit_moves_only_forward_and_within_the_log() -> None:
    """A lower index says nothing, one beyond the log means that entries were lost."""
    log = log_of(1, 1, 1)
    log.commit_to(2)
    log.commit_to(1)
    assert log.committed == 2
    with pytest.raises(AssertionError, match="lost entries"):
        log.commit_to(4)


def test_only_entries_of_the_own_term_are_committed_by_counting() -> None:
    """Older ones go along with them (paper, 5.4.2)."""
    log = log_of(1, 1, 2)
    assert not log.maybe_commit(2, 2)
    assert not log.maybe_commit(2, 2**64 - 1)
    assert log.maybe_commit(2, 3)
    assert not log.maybe_commit(2, 3)


def test_handing_out_committed_entries_is_limited() -> None:
    """At most so many bytes are under way; the rest waits until some are applied."""
    size = entry_size(Entry(1, 1, data=b"x" * 10))
    log = log_of(1, 1, 1, 1, 1, max_applying_size=2 * size)
    log.commit_to(5)
    taken = log.next_committed(allow_unstable=True)
    assert [entry.index for entry in taken] == [1, 2]
    log.accept_applying(2, 2 * size, allow_unstable=True)
    assert log.next_committed(allow_unstable=True) == []
    log.applied_to(1, size)
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [3]
    log.accept_applying(3, size, allow_unstable=True)
    assert not log.has_next_committed(allow_unstable=True)
    log.applied_to(3, 2 * size)
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [4, 5]


def test_what_did_not_fit_waits_even_if_there_is_room() -> None:
    """After a limited page nothing more is handed out before something was applied."""
    size = entry_size(Entry(1, 1, data=b"x" * 10))
    log = log_of(1, 1, 1, max_applying_size=3 * size)
    log.commit_to(3)
    log.accept_applying(1, size, allow_unstable=True)
    assert not log.has_next_committed(allow_unstable=True)
    log.applied_to(1, size)
    assert log.has_next_committed(allow_unstable=True)


def test_unstable_entries_are_applied_only_where_allowed() -> None:
    """With asynchronous writes an entry is applied when it is durable here."""
    log = log_of(1, 1, 1, stable=2)
    log.commit_to(3)
    assert [entry.index for entry in log.next_committed(allow_unstable=False)] == [1, 2]
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [1, 2, 3]


def test_snapshot_takes_the_place_of_the_log() -> None:
    """Its index is committed; nothing is applied before it is."""
    log = log_of(1, 1, stable=2)
    log.commit_to(1)
    log.restore(Snapshot(9, 3, ConfState((1,))))
    assert (log.first_index(), log.last_index(), log.committed) == (10, 9, 9)
    assert log.term(9) == 3
    assert log.last_entry_id() == (3, 9)
    with pytest.raises(CompactedError):
        log.term(2)
    assert not log.has_next_committed(allow_unstable=True)
    assert log.snapshot().index == 9
    log.unstable.stable_snapshot_to(8)
    assert log.unstable.snapshot is not None
    log.unstable.stable_snapshot_to(9)
    assert log.unstable.snapshot is None


def test_applied_never_passes_committed() -> None:
    """Reports beyond what was handed out are a mistake of the host."""
    log = log_of(1, 1)
    log.commit_to(1)
    with pytest.raises(AssertionError):
        log.applied_to(2, 0)
    with pytest.raises(AssertionError):
        log.accept_applying(2, 0, allow_unstable=True)


def test_unapplied_conf_change_is_found() -> None:
    """Among committed entries that are not applied, over any number of pages."""
    log = log_of(1, 1, 1, stable=2, max_applying_size=1)
    log.append([Entry(1, 4, EntryType.CONF_CHANGE), Entry(1, 5)])
    log.commit_to(3)
    assert not log.has_unapplied_conf_change()
    log.commit_to(5)
    assert log.has_unapplied_conf_change()
    log.applied_to(4, 0)
    assert not log.has_unapplied_conf_change()


# The unstable tail alone


def unstable(*ids: tuple[int, int], in_progress: int = 0) -> Unstable:
    tail = Unstable(ids[0][1], SilentLogger())
    tail.entries = entries(*ids)
    tail.in_progress = in_progress or tail.offset
    return tail


def test_entries_are_handed_out_once() -> None:
    """What was handed out stays until it is durable, and is not handed out again."""
    tail = unstable((1, 5), (1, 6))
    assert [entry.index for entry in tail.next_entries()] == [5, 6]
    tail.accept_in_progress()
    assert not tail.has_next_entries
    tail.truncate_and_append(entries((1, 7)))
    assert [entry.index for entry in tail.next_entries()] == [7]
    tail.stable_to(1, 6)
    assert (tail.offset, len(tail.entries)) == (7, 1)
    assert [entry.index for entry in tail.next_entries()] == [7]


def test_report_about_replaced_entries_says_nothing() -> None:
    """Only a report of the very entry that is held makes it durable."""
    tail = unstable((2, 5), (2, 6), in_progress=7)
    tail.stable_to(1, 6)
    assert len(tail.entries) == 2
    tail.stable_to(2, 9)
    assert len(tail.entries) == 2
    tail.stable_to(2, 4)
    assert len(tail.entries) == 2
    tail.stable_to(2, 5)
    assert (tail.offset, len(tail.entries), tail.in_progress) == (6, 1, 7)


@pytest.mark.parametrize(
    ("new", "expected", "in_progress"),
    [
        ([(1, 7)], [(1, 5), (1, 6), (1, 7)], 7),
        ([(2, 5), (2, 6)], [(2, 5), (2, 6)], 5),
        ([(2, 3), (2, 4)], [(2, 3), (2, 4)], 3),
        ([(2, 6)], [(1, 5), (2, 6)], 6),
    ],
)
def test_append_replaces_from_its_first_index(
    new: list[tuple[int, int]], expected: list[tuple[int, int]], in_progress: int
) -> None:
    """And what is replaced has to be handed out again."""
    tail = unstable((1, 5), (1, 6), in_progress=7)
    handed_out = tail.slice(5, 7)
    tail.truncate_and_append(entries(*new))
    assert [(entry.term, entry.index) for entry in tail.entries] == expected
    assert tail.in_progress == in_progress
    assert [entry.term for entry in handed_out] == [1, 1], "slices do not change behind the back"


def test_gap_is_refused() -> None:
    """Entries follow each other."""
    with pytest.raises(AssertionError, match="gap"):
        unstable((1, 5)).truncate_and_append(entries((1, 7)))


def test_snapshot_is_handed_out_once() -> None:
    """As entries are."""
    tail = unstable((1, 5))
    tail.restore(Snapshot(8, 2))
    assert tail.next_snapshot() == Snapshot(8, 2)
    assert (tail.first_index(), tail.last_index(), tail.term(8)) == (9, 8, 2)
    tail.accept_in_progress()
    assert tail.next_snapshot() is None
    assert tail.snapshot is not None
    tail.stable_to(2, 8)
    assert tail.snapshot is not None
