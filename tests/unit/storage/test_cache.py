"""The cache of recent entries against a dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from kingbus.raft.types import entry_size, limit_size
from kingbus.storage.cache import ENTRY_BYTES, EntryCache
from tests.unit.storage.conftest import entry


@given(
    bytes_max=st.integers(0, 20_000),
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5), st.integers(0, 900))),
    asked=st.tuples(st.integers(1, 60), st.integers(0, 30), st.integers(0, 5000)),
)
def test_it_gives_the_newest_entries_or_nothing(bytes_max, steps, asked):
    """Always those last added for each index, never more bytes than allowed."""
    cache, model, last = EntryCache(bytes_max), {}, 0
    for back, count, size in steps:
        first = max(1, last + 1 - back)
        added = [entry(first + n, bytes(size)) for n in range(count)]
        cache.add(added)
        model = {index: held for index, held in model.items() if index < first}
        model |= {new.index: new for new in added}
        last = first + count - 1
    held = cache.bytes
    assert held <= bytes_max
    assert held == sum(len(kept.data) + ENTRY_BYTES for kept in cache._entries.values())
    lo, length, max_size = asked
    hi = min(lo + length, last + 1)

    found = cache.get(lo, hi, max_size)

    if found is not None:
        assert found == limit_size([model[index] for index in range(lo, hi)], max_size)
        assert all(mine is model[mine.index] for mine in found)
        assert entry_size(found[0]) <= max_size or len(found) == 1
    if last and cache.get(last, last + 1, 0) is None:
        assert len(model[last].data) + ENTRY_BYTES > bytes_max
    cache.clear()
    assert held == 0 or cache.bytes == 0
