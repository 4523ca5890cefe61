"""Damage on the disk: told from an unfinished write, and never served."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.raft.types import Entry, EntryType, HardState
from kingbus.storage.at_rest import Keyring
from kingbus.storage.errors import CorruptRecordError, StorageError
from kingbus.storage.verify import verify_log
from tests.unit.storage.conftest import Logs, append, commit, entry
from tests.unit.storage.test_log_model import FORMS, KEY, observe

NO_LIMIT = 1 << 60


# Spread evenly, which floats() would not be.
places = st.integers(0, 2**40).map(lambda seed: Random(seed).random())


OPENING = {"segment_bytes": 2048, "keys": Keyring([KEY])}


def filled(seed):
    """A closed log of several segments with truncations, and what it says. Every seed but the
    multiples of 4 has one of the other forms at rest.
    """
    random = Random(seed)
    logs = Logs()
    logs.disk.random.seed(seed)
    store = logs.open(**OPENING, at_rest=FORMS[seed % 4])
    last = committed = 0
    for term in range(1, 12):
        first = max(committed, last - random.randint(0, 4)) + 1
        count = random.randint(1, 6)
        sizes = [random.choice((0, 30, 300, 900)) for _ in range(count)]
        entries = [
            Entry(term, first + n, EntryType.NORMAL, 2 * random.randbytes(size // 2))
            for n, size in enumerate(sizes)
        ]
        last = first + count - 1
        committed = max(committed, last - 5)
        append(store, *entries, hard_state=HardState(term, 1, committed))
    says = observe(store)
    store.close()
    return logs, says


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 30), place=places, bit=st.integers(0, 7))
def test_a_changed_bit_is_never_served(seed, place, bit):
    """Whichever bit of a segment changes: the log says the same as before, or an error."""
    logs, says = filled(seed)
    paths = logs.segment_paths()
    offset = int(sum(map(logs.size, paths)) * place)
    while offset >= logs.size(paths[0]):
        offset -= logs.size(paths.pop(0))
    logs.disk.flip_bit(paths[0], offset, bit)

    try:
        store = logs.open(**OPENING, cache_bytes=0)
        found = observe(store)
        terms = [store.term(index) for index in range(says.start, says.last + 1)]
    except StorageError:
        return

    assert found == says
    assert terms == [says.term(index) for index in range(says.start, says.last + 1)]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 30),
    place=places,
    length=st.integers(1, 3000),
    noise=st.booleans(),
)
def test_a_changed_stretch_is_never_served(seed, place, length, noise):
    """The same for a stretch that became zeros, or noise."""
    logs, says = filled(seed)
    paths = logs.segment_paths()
    path = paths[int(len(paths) * place)]
    data = logs.disk.names_now[path].data
    end = len(data) if path != paths[-1] else len(bytes(data).rstrip(b"\0"))
    start = int(end * place)
    stop = min(start + length, end)
    data[start:stop] = Random(seed).randbytes(stop - start) if noise else bytes(stop - start)

    try:
        found = observe(logs.open(**OPENING, cache_bytes=0))
    except StorageError:
        return

    assert found == says


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 30), place=places, bit=st.integers(0, 7))
def test_verify_finds_every_changed_bit(seed, place, bit):
    """Below the end of the records there is no bit that may change unnoticed."""
    logs, _ = filled(seed)
    assert [report.problem for report in verify_log(logs.directory, files=logs.disk)][-1] is None
    paths = logs.segment_paths()
    ends = [logs.size(path) for path in paths[:-1]]
    ends.append(len(bytes(logs.disk.names_now[paths[-1]].data).rstrip(b"\0")))
    offset = int(sum(ends) * place)
    while offset >= ends[0]:
        offset -= ends.pop(0)
        paths.pop(0)
    logs.disk.flip_bit(paths[0], offset, bit)

    # How far it got says little: what the damaged record had replaced may have been longer.
    *_, last = verify_log(logs.directory, files=logs.disk)

    assert last.problem is not None


def test_damage_above_the_last_mark_is_an_unsynced_tail(logs):
    """Nothing says that the last write was finished, so it is cut off, and that is told."""
    store = logs.open(segment_bytes=8192)
    append(store, entry(1, b"first"))
    end = store.bytes_used
    append(store, entry(2, b"second"))
    logs.disk.kill_process()
    logs.disk.flip_bit(logs.segment_paths()[0], end + 68 + 36 + 2, 3)

    store = logs.open(segment_bytes=8192)

    assert store.last_index() == 1
    assert store.recovery is not None
    assert (store.recovery.offset, store.recovery.reason) == (
        end + 68,
        "the record's body does not verify",
    )


@pytest.mark.parametrize("how", ["bit", "zeros", "noise"])
def test_damage_below_a_mark_is_corruption(logs, how):
    """A second after the last write the log knows that all of it was durable."""
    store = logs.open(segment_bytes=8192)
    append(store, entry(1, b"first"))
    end = store.bytes_used
    append(store, entry(2, b"second"))
    assert store.note_idle()
    logs.disk.kill_process()
    path = logs.segment_paths()[0]
    data = logs.disk.names_now[path].data
    match how:
        case "bit":
            data[end + 70] ^= 1
        case "zeros":
            data[end : end + 100] = bytes(100)
        case "noise":
            data[end : end + 100] = Random(1).randbytes(100)

    for _ in range(2):
        with pytest.raises(CorruptRecordError) as raised:
            logs.open(segment_bytes=8192)
        assert raised.value.path == path
        assert end <= raised.value.offset <= end + 68
        assert f"{path}: corrupt at byte {raised.value.offset}" in str(raised.value)
        assert "add it again with an empty data directory" in raised.value.hint


def test_every_write_vouches_for_the_one_before(logs):
    """Without any idleness too, only the newest write can be taken for unfinished."""
    store = logs.open(segment_bytes=8192)
    append(store, entry(1, b"first"))
    end = store.bytes_used
    append(store, entry(2, b"second"))
    append(store, entry(3, b"third"))
    logs.disk.kill_process()
    logs.disk.flip_bit(logs.segment_paths()[0], end + 70, 0)

    with pytest.raises(CorruptRecordError, match="had been durable up to byte"):
        logs.open(segment_bytes=8192)


def test_a_write_does_not_vouch_for_what_was_never_synced(logs):
    """Of two writes without a sync the disk may have lost the first: that is a tail, no damage."""
    store = logs.open(segment_bytes=8192)
    append(store, entry(1, b"first"))
    end = store.bytes_used
    append(store, entry(2, b"second"), must_sync=False)
    append(store, entry(3, b"third"), must_sync=False)
    logs.disk.kill_process()
    logs.disk.flip_bit(logs.segment_paths()[0], end + 70, 0)

    store = logs.open(segment_bytes=8192)

    assert store.last_index() == 1
    assert store.recovery is not None


def test_a_mark_inside_an_entry_is_not_believed(logs):
    """Data that looks like a mark of this very file does not turn a tail into corruption."""
    store = logs.open(segment_bytes=8192)
    append(store, entry(1, b"first"))
    path = logs.segment_paths()[0]
    end = store.bytes_used
    append(store, entry(2, b"x"))
    store.note_idle()
    mark = bytes(logs.disk.names_now[path].data[end : end + 68])
    real_end = end + 68 + 37 + 68
    append(store, entry(3, b"a" * 300 + mark + b"b" * 3000))
    logs.disk.kill_process()
    logs.disk.flip_bit(path, real_end + 70, 0)

    store = logs.open(segment_bytes=8192)

    assert store.last_index() == 2


def test_damage_in_a_closed_segment_is_found_by_its_reader(logs):
    """Opening does not read closed segments; a read of the bad entry fails, its neighbours work."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 20):
        append(store, entry(index, bytes([index]) * 1000))
    store.close()
    path = logs.segment_paths()[1]
    at = bytes(logs.disk.names_now[path].data).index(bytes([5]) * 1000)
    logs.disk.flip_bit(path, at + 10, 0)
    store = logs.open(segment_bytes=4096)

    assert store.read(4, 5, NO_LIMIT)[0].data == bytes([4]) * 1000
    assert store.read(6, 7, NO_LIMIT)[0].data == bytes([6]) * 1000
    with pytest.raises(CorruptRecordError, match=r"segment: corrupt at byte \d+: the body of ent"):
        store.read(4, 7, NO_LIMIT)


def test_a_damaged_index_is_rebuilt(logs):
    """The index of a closed segment is only a help: without it the segment is read once."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 20):
        append(
            store, entry(index, bytes([index]) * 1000, term=index), hard_state=commit(0, term=index)
        )
    store.close()
    path = logs.segment_paths()[1]
    logs.disk.flip_bit(path, logs.size(path) - 30, 0)
    store = logs.open(segment_bytes=4096, cache_bytes=0)

    assert [e.data[0] for e in store.read(1, 20, NO_LIMIT)] == list(range(1, 20))
    assert [store.term(index) for index in range(1, 20)] == list(range(1, 20))


def test_an_index_is_not_rebuilt_from_damaged_entries(logs):
    """When the records do not reach to where the next segment says, nothing is guessed."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 20):
        append(store, entry(index, bytes([index]) * 1000), hard_state=commit(index - 1))
    store.close()
    path = logs.segment_paths()[1]
    logs.disk.flip_bit(path, logs.size(path) - 30, 0)
    logs.disk.flip_bit(path, 1500, 0)
    store = logs.open(segment_bytes=4096, cache_bytes=0)

    with pytest.raises(CorruptRecordError):
        store.read(5, 6, NO_LIMIT)


def test_a_missing_segment_stops_the_opening(logs):
    """A hole in the middle of the log is not overlooked."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 20):
        append(store, entry(index, bytes(1500)))
    store.close()
    logs.disk.names_now.pop(logs.segment_paths()[2])

    with pytest.raises(CorruptRecordError, match="number 3, is missing"):
        logs.open(segment_bytes=4096)


def test_a_segment_under_another_name_stops_the_opening(logs):
    """Each file says which one it is."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 20):
        append(store, entry(index, bytes(1500)))
    store.close()
    paths = logs.segment_paths()
    logs.disk.names_now[paths[2]] = logs.disk.names_now[paths[3]]

    with pytest.raises(CorruptRecordError, match="it holds what"):
        logs.open(segment_bytes=4096)


def test_a_missing_last_segment_is_noticed(logs):
    """When the log was idle or closed since, the segment that it ended in must be there."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 20):
        append(store, entry(index, bytes(1500)))
    store.close()
    logs.disk.names_now.pop(logs.segment_paths()[-1])

    with pytest.raises(CorruptRecordError, match="the segment behind it, number"):
        logs.open(segment_bytes=4096)
