"""Memory storage, which is the model of what the core expects of a stable log."""

import pytest

from kingbus.raft.errors import CompactedError, SnapshotOutOfDateError, UnavailableError
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import ConfState, Entry, HardState, Snapshot


def filled() -> MemoryStorage:
    """Entries 4 to 6 of terms 4 to 6 behind a snapshot at 3."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(3, 3, ConfState((1,))))
    storage.append([Entry(index, index) for index in (4, 5, 6)])
    return storage


def test_ends() -> None:
    """The entry before the first has a term and cannot be read."""
    storage = filled()
    assert (storage.first_index(), storage.last_index()) == (4, 6)
    assert [storage.term(index) for index in (3, 4, 5, 6)] == [3, 4, 5, 6]
    for index, error in ((2, CompactedError), (7, UnavailableError)):
        with pytest.raises(error):
            storage.term(index)
    with pytest.raises(CompactedError):
        storage.entries(3, 5)
    with pytest.raises(UnavailableError):
        storage.entries(5, 8)
    assert [entry.index for entry in storage.entries(4, 7)] == [4, 5, 6]
    assert [entry.index for entry in storage.entries(4, 7, max_size=1)] == [4]


@pytest.mark.parametrize(
    ("new", "terms"),
    [
        ([(7, 7)], [4, 5, 6, 7]),
        ([(9, 5)], [4, 9]),
        ([(1, 2), (3, 3), (9, 4), (9, 5)], [9, 9]),
        ([(1, 2), (3, 3)], [4, 5, 6]),
        ([], [4, 5, 6]),
    ],
)
def test_append_replaces_from_its_first_index(new: list[tuple[int, int]], terms: list[int]) -> None:
    """What lies before the first entry is left out."""
    storage = filled()
    storage.append([Entry(term, index) for term, index in new])
    assert [storage.term(index) for index in range(4, storage.last_index() + 1)] == terms


def test_append_leaves_no_gap() -> None:
    """A hole would be a lost entry."""
    with pytest.raises(AssertionError, match="gap"):
        filled().append([Entry(9, 8)])


def test_compact() -> None:
    """The index becomes the entry before the first."""
    storage = filled()
    storage.compact(5)
    assert (storage.first_index(), storage.last_index(), storage.term(5)) == (6, 6, 5)
    with pytest.raises(CompactedError):
        storage.compact(5)
    with pytest.raises(AssertionError):
        storage.compact(7)


def test_snapshots() -> None:
    """An older one is refused, a newer one takes the place of everything."""
    storage = filled()
    with pytest.raises(SnapshotOutOfDateError):
        storage.apply_snapshot(Snapshot(3, 3))
    made = storage.create_snapshot(5, data=b"x")
    assert made == Snapshot(5, 5, ConfState((1,)), b"x") == storage.snapshot()
    with pytest.raises(SnapshotOutOfDateError):
        storage.create_snapshot(5)
    storage.apply_snapshot(Snapshot(9, 8, ConfState((2,))))
    assert (storage.first_index(), storage.last_index(), storage.term(9)) == (10, 9, 8)
    storage.set_hard_state(HardState(8, 1, 9))
    assert storage.initial_state() == (HardState(8, 1, 9), ConfState((2,)))
