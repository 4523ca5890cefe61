"""Properties of the log that the model test does not show."""

import errno
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from kingbus.raft.storage import (
    CompactedError,
    SnapshotTemporarilyUnavailableError,
    UnavailableError,
)
from kingbus.raft.types import ConfState, Entry, EntryType, HardState, Snapshot, entry_size
from kingbus.storage.errors import (
    CorruptRecordError,
    DirectoryInUseError,
    FatalStorageError,
    NoRoomError,
    NotEnoughSpaceError,
    StorageError,
    WrongIdentityError,
)
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.record import BODY_BYTES_MAX, HEADER_BYTES, pack_header
from kingbus.storage.replay import EntryReader, Replay, stored_entry_size
from kingbus.storage.segment import NEXT_NAME, POINT_BYTES, Segment
from tests.unit.storage.conftest import append, commit, entry
from tests.unit.storage.simulated_disk import SimulatedDisk

NO_LIMIT = 1 << 60


def test_a_new_log_is_empty(logs):
    """A log that was just made holds nothing, and says so as the core asks."""
    store = logs.open()

    assert (store.first_index(), store.last_index(), store.term(0)) == (1, 0, 0)
    assert store.initial_state() == (HardState(), ConfState())
    assert store.is_empty
    assert store.entries(1, 1, NO_LIMIT) == []
    with pytest.raises(CompactedError):
        store.entries(0, 1, NO_LIMIT)
    with pytest.raises(UnavailableError):
        store.entries(1, 2, NO_LIMIT)
    with pytest.raises(UnavailableError):
        store.term(1)


def test_one_write_is_one_sync(logs):
    """Entries and hard state of a gathered write are made durable together, by one fdatasync."""
    store = logs.open()
    logs.disk.counts.clear()

    append(store, *[entry(i, b"x" * 50) for i in range(1, 20)], hard_state=commit(3))

    assert logs.disk.counts["fdatasync"] == 1
    assert logs.disk.counts["fsync"] == 0


def test_a_known_checksum_is_not_computed_again(logs):
    """The sum that an entry carries stands in its record: a wrong one is found by the reader."""
    store = logs.open()
    append(store, Entry(1, 1, EntryType.NORMAL, b"abc", checksum=0x12345678))

    with pytest.raises(CorruptRecordError, match="body of entry 1"):
        store.read(1, 2, NO_LIMIT)


def test_entries_carry_their_checksum(logs):
    """What is read comes with the sum that was verified, so that peers need not compute it."""
    store = logs.open(cache_bytes=0)
    append(store, Entry(1, 1, EntryType.NORMAL, b"123456789"))

    assert [e.checksum for e in store.entries(1, 2, NO_LIMIT)] == [0xCBF43926]


@pytest.mark.parametrize("length", [0, 1, 127, 128, 20_000])
@pytest.mark.parametrize("kind", list(EntryType))
def test_sizes_from_headers_are_those_of_entries(kind, length):
    """The limit of a read counts the same bytes whether the entry is in memory or not."""
    made = Entry(300, 70_000, kind, bytes(length))

    assert stored_entry_size(70_000, 300, kind, length) == entry_size(made)


def test_a_size_limit_is_met_exactly(logs):
    """Entries whose sizes sum up to the limit all pass, one byte less leaves the last out."""
    store = logs.open()
    made = [entry(index, bytes(50 * index)) for index in range(1, 6)]
    append(store, *made)
    size = sum(map(entry_size, made[1:4]))

    for read in (store.read, store.cached):
        assert [e.index for e in read(2, 6, size)] == [2, 3, 4]
        assert [e.index for e in read(2, 6, size - 1)] == [2, 3]
        assert [e.index for e in read(2, 6, 0)] == [2]


def test_the_cache_is_bounded_and_serves_without_the_disk(logs):
    """Recent entries come from memory; older ones are not in it, whatever their number."""
    store = logs.open(cache_bytes=10_000, segment_bytes=1 << 20)
    for index in range(1, 101):
        append(store, entry(index, b"x" * 700))

    assert store.cached(100, 101, NO_LIMIT) is not None
    assert store.cached(95, 101, NO_LIMIT) is not None
    assert store.cached(90, 101, NO_LIMIT) is None
    logs.disk.counts.clear()
    store.entries(95, 101, NO_LIMIT)
    assert logs.disk.counts["pread"] == 0


def test_opening_reads_only_the_last_segment(logs):
    """Of closed segments only the headers are read, however many there are."""
    store = logs.open(segment_bytes=64 << 10)
    for index in range(1, 600):
        append(store, entry(index, b"x" * 5000))
    store.close()
    closed = len(logs.segment_paths()) - 1
    assert closed > 40
    logs.disk.counts.clear()

    store = logs.open(segment_bytes=64 << 10)

    assert logs.disk.counts["bytes read"] <= (64 << 10) * 2 + closed * 200
    assert store.last_index() == 599
    assert store.term(5) == 1  # from the headers alone
    assert logs.disk.counts["bytes read"] <= (64 << 10) * 2 + closed * 200


def test_one_entry_of_a_closed_segment_takes_few_reads(logs):
    """The index at a segment's end leads to any entry, without a scan of the segment."""
    store = logs.open(segment_bytes=1 << 20, cache_bytes=0)
    for first in range(1, 20_001, 100):
        append(store, *[entry(i, i.to_bytes(200, "big")) for i in range(first, first + 100)])
    store.close()
    store = logs.open(segment_bytes=1 << 20, cache_bytes=0)
    logs.disk.counts.clear()

    found = store.read(2345, 2346, NO_LIMIT)

    assert found[0].data == (2345).to_bytes(200, "big")
    assert logs.disk.counts["bytes read"] < 70 << 10


def test_the_index_is_sparse(logs):
    """Ten million small entries must not fill the memory: the index grows with bytes."""
    store = logs.open(segment_bytes=8 << 20, cache_bytes=0)
    for first in range(1, 30_001, 1000):
        append(store, *[entry(i, b"tiny") for i in range(first, first + 1000)])

    index = store._segments[-1].index
    assert 30_000 // 128 <= len(index.points) <= 30_000 // 100
    assert len(index.terms) == 1


def test_indexes_of_closed_segments_in_memory_are_bounded(logs):
    """Reading through a long log does not collect the index of each segment."""
    store = logs.open(segment_bytes=4096, cache_bytes=0)
    for index in range(1, 201):
        append(store, entry(index, b"x" * 3000))
    store.read(1, 201, NO_LIMIT)

    loaded = [segment for segment in store._segments if segment.index is not None]
    assert len(store._segments) > 150
    assert len(loaded) <= 65


def test_an_entry_larger_than_a_segment_is_kept(logs):
    """One entry always passes."""
    store = logs.open(segment_bytes=4096)
    data = Random(1).randbytes(20_000)
    append(store, entry(1, b"small"), entry(2, data), entry(3, b"small"))
    store.close()
    store = logs.open(segment_bytes=4096)

    assert [e.data for e in store.read(1, 4, NO_LIMIT)] == [b"small", data, b"small"]


def test_an_entry_beyond_the_limit_is_refused(logs):
    """A body that no reader would accept is not written."""
    store = logs.open()

    with pytest.raises(StorageError, match="a record holds at most"):
        append(store, entry(1, bytes(BODY_BYTES_MAX + 1)))


def test_votes_alone_do_not_grow_a_segment_for_ever(logs):
    """Hard states without entries go on to a new segment too, and the old one leaves the disk."""
    store = logs.open(segment_bytes=4096)
    for term in range(1, 500):
        append(store, hard_state=HardState(term, 1, 0))
    store.note_idle()

    assert len(logs.segment_paths()) == 1
    assert store.bytes_used < 4096 * 2
    store.close()
    assert logs.open(segment_bytes=4096).initial_state()[0] == HardState(499, 1, 0)


def test_the_same_hard_state_is_not_written_again(logs):
    """A write that changes nothing costs nothing."""
    store = logs.open()
    append(store, hard_state=commit(0, term=3))
    logs.disk.counts.clear()

    append(store, hard_state=commit(0, term=3))

    assert logs.disk.counts["pwritev"] == 0
    assert logs.disk.counts["fdatasync"] == 0


def test_without_must_sync_nothing_is_synced(logs):
    """A new commit index alone may be lost, so it need not wait for the disk."""
    store = logs.open()
    append(store, entry(1), hard_state=commit(0))
    logs.disk.counts.clear()

    append(store, hard_state=commit(1), must_sync=False)

    assert logs.disk.counts["fdatasync"] == 0
    assert store.initial_state()[0] == commit(1)


def test_files_of_replaced_segments_leave_the_disk(logs):
    """A truncation across segments unlinks what it replaced, with the next write."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 21):
        append(store, entry(index, b"x" * 1500), hard_state=commit(0))
    assert len(logs.segment_paths()) > 8

    append(store, entry(2, b"y", term=2), hard_state=HardState(2, 0, 0))
    append(store, entry(3, b"z", term=2))

    assert len(logs.segment_paths()) == 2
    assert [e.data[:1] for e in store.read(1, 4, NO_LIMIT)] == [b"x", b"y", b"z"]
    assert store.term(2) == 2


def test_purged_segments_leave_the_disk(logs):
    """What lies wholly below the new start is unlinked, and asking for it is CompactedError."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 21):
        append(store, entry(index, b"x" * 1500), hard_state=commit(index - 1))
    used = store.bytes_used

    store.truncate_before(15)

    assert store.first_index() == 15
    assert store.term(14) == 1
    assert store.bytes_used < used
    assert len(logs.segment_paths()) < 6
    with pytest.raises(CompactedError):
        store.entries(14, 16, NO_LIMIT)
    with pytest.raises(CompactedError):
        store.term(13)
    store.close()
    store = logs.open(segment_bytes=4096)
    assert (store.first_index(), store.last_index()) == (15, 20)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_reader_of_a_removed_segment_is_told(logs, reopened):
    """A read that was under way while its segment was purged ends with CompactedError, whether it
    had come as far as the segment's index or not."""
    store = logs.open(segment_bytes=4096, cache_bytes=0)
    for index in range(1, 21):
        append(store, entry(index, b"x" * 1500), hard_state=commit(index - 1))
    if reopened:
        store.close()
        store = logs.open(segment_bytes=4096, cache_bytes=0)
    located = store._segment_at

    def locate_and_purge(index):
        found = located(index)
        store.truncate_before(15)
        return found

    store._segment_at = locate_and_purge

    with pytest.raises(CompactedError):
        store.read(2, 4, NO_LIMIT)


def test_a_file_that_vanished_is_corruption(logs):
    """Nobody but the log removes its files."""
    store = logs.open(segment_bytes=4096, cache_bytes=0)
    for index in range(1, 21):
        append(store, entry(index, b"x" * 1500), hard_state=commit(index - 1))
    logs.disk.names_now.pop(logs.segment_paths()[1])

    with pytest.raises(CorruptRecordError, match="the file is gone"):
        store.read(1, 10, NO_LIMIT)


def test_a_snapshot_replaces_the_log(logs):
    """After installing one the log begins behind it, with its configuration and a fit commit."""
    store = logs.open()
    append(store, entry(1, b"old"), entry(2, b"old"), hard_state=commit(1))
    snapshot = Snapshot(50, 3, ConfState((1, 2)), b"", 77)

    append(store, entry(51, b"new", term=3), snapshot=snapshot, hard_state=HardState(3, 0, 2))

    for _ in range(2):
        assert (store.first_index(), store.last_index()) == (51, 51)
        assert store.term(50) == 3
        assert store.initial_state() == (HardState(3, 0, 50), ConfState((1, 2)))
        assert store.conf_index == 77
        store.close()
        store = logs.open()


def test_an_older_configuration_is_ignored(logs):
    """A late change must not undo the configuration that came with a snapshot."""
    store = logs.open()
    append(
        store, snapshot=Snapshot(50, 3, ConfState((1, 2)), b"", 77), hard_state=HardState(3, 0, 50)
    )

    store.set_conf_state(60, ConfState((9,)))

    assert store.initial_state()[1] == ConfState((1, 2))


def test_the_configuration_survives(logs):
    """It goes to the disk with the next write."""
    store = logs.open()
    store.set_conf_state(7, ConfState((1, 2, 3), (4,)))
    append(store, entry(1))
    store.close()
    store = logs.open()

    assert store.initial_state()[1] == ConfState((1, 2, 3), (4,))
    assert store.conf_index == 7


def test_a_snapshot_comes_from_its_source(logs):
    """Until somebody makes them there is none."""
    store = logs.open()
    with pytest.raises(SnapshotTemporarilyUnavailableError):
        store.snapshot()

    store.set_snapshot_source(lambda: Snapshot(5, 1))

    assert store.snapshot() == Snapshot(5, 1)


# Failures of the disk


def test_a_failed_sync_is_final(logs):
    """It is never tried again, and no later write is taken."""
    store = logs.open()
    logs.disk.errors["fdatasync"] = errno.EIO
    write = LogWrite(entries=[entry(1)])
    with pytest.raises(FatalStorageError, match="injected into fdatasync"):
        store.write(write)
    syncs = logs.disk.counts["fdatasync"]

    with pytest.raises(FatalStorageError):
        store.write(write)
    with pytest.raises(FatalStorageError):
        store.note_idle()
    store.close()

    assert logs.disk.counts["fdatasync"] == syncs


def test_a_write_that_finds_no_room_changes_nothing(logs):
    """What was there is read as before, and the same write goes through once there is room."""
    logs.disk.capacity = 3 * 4096
    store = logs.open(reserve_bytes=8 * 4096)
    append(store, entry(1, b"kept"))
    write = LogWrite(entries=[entry(2, bytes(9000))], hard_state=commit(1, term=2))

    for _ in range(3):
        with pytest.raises(NoRoomError, match="is full"):
            store.write(write)
        assert store.last_index() == 1
        assert store.initial_state()[0] == HardState()
        assert store.is_out_of_room
    append(store, entry(2, b"small"))
    logs.disk.capacity = 1 << 20
    store.write(write)
    store.publish(write)

    assert not store.is_out_of_room
    assert [len(e.data) for e in store.read(1, 3, NO_LIMIT)] == [4, 9000]
    store.close()
    assert [len(e.data) for e in logs.open().read(1, 3, NO_LIMIT)] == [4, 9000]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_inside_a_segment(logs, number):
    """A file system that promises more than it has: the write is taken back."""
    store = logs.open(segment_bytes=1 << 16)
    append(store, entry(1, b"kept"))
    for size in (5000, 100):
        logs.disk.errors["pwritev"] = number
        with pytest.raises(NoRoomError):
            append(store, entry(2, bytes(size)), hard_state=commit(1, term=3))
    logs.disk.errors["pwritev"] = number
    assert not store.note_idle()
    assert store.note_idle()

    append(store, entry(2, b"again"), hard_state=commit(1, term=2))
    logs.disk.lose_power()

    store = logs.open(segment_bytes=1 << 16)
    assert [e.data for e in store.read(1, 3, NO_LIMIT)] == [b"kept", b"again"]
    assert store.initial_state()[0].term == 2


def test_a_sync_without_room_is_final(logs):
    """The pages may be gone: it is not tried again."""
    store = logs.open()
    logs.disk.errors["fdatasync"] = errno.ENOSPC
    with pytest.raises(FatalStorageError):
        append(store, entry(1))
    with pytest.raises(FatalStorageError):
        append(store, entry(1))


def test_a_purge_without_room_waits(logs):
    """The log is not cut, and is cut once there is room."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 8):
        append(store, entry(index, bytes(1500)), hard_state=commit(index))
    logs.disk.errors["pwritev"] = errno.ENOSPC
    with pytest.raises(NoRoomError):
        store.truncate_before(6)
    assert store.first_index() == 1

    store.truncate_before(6)

    assert store.first_index() == 6


def test_no_room_for_the_segment_ahead_only_fills_the_log(logs):
    """The log goes on in the room it has, says that it is full, and recovers when there is room."""
    logs.disk.capacity = 11_000
    store = logs.open(reserve_bytes=1 << 20)
    append(store, entry(1, bytes(3000)), entry(2, bytes(3000)))
    assert not store.has_room(0)

    append(store, entry(3, b"the core's own"))
    logs.disk.capacity = 1 << 20
    store.note_idle()

    assert store.has_room(0)


def test_room_is_seen_again_where_the_reserve_has_none_to_hold(logs):
    """No segment ahead is made, and the log does not stay full for the want of one."""
    logs.disk.capacity = 11_000
    store = logs.open(reserve_bytes=1 << 20)
    append(store, entry(1, bytes(3000)), entry(2, bytes(3000)))
    store.index_bytes = 1 << 20
    store.note_idle()
    assert store.is_out_of_room

    logs.disk.capacity = 1 << 20
    store.note_idle()

    assert not store.is_out_of_room
    assert NEXT_NAME not in logs.disk.names(logs.directory)


def test_the_reserve_fills_up_and_empties(logs):
    """The receiver must stop before the reserve is used up; a purge makes room."""
    store = logs.open(segment_bytes=4096, reserve_bytes=5 * 4096)
    index = 0
    while store.has_room(0):
        assert index < 100
        index += 1
        append(store, entry(index, bytes(500)), hard_state=commit(index - 1))
    assert 3 * 4096 < store.bytes_used < 5 * 4096

    append(store, entry(index + 1, b"the core's own"), hard_state=commit(index))
    store.truncate_before(index - 5)

    assert store.has_room(0)


def test_what_the_log_takes_of_the_disk_stays_within_its_part(logs):
    """Index and what is under way counted in, as long as it is written only while there is room."""
    reserve, index_bytes, pending = 20 * 4096, 3 * 4096, 1000
    store = logs.open(segment_bytes=4096, reserve_bytes=reserve, index_bytes=index_bytes)
    index, largest = 0, 0
    while store.has_room(pending):
        assert index < 400
        for _ in range(2):
            index += 1
            append(store, entry(index, bytes(400)), hard_state=commit(index - 1))
        taken = sum(logs.size(logs.directory / name) for name in logs.disk.names(logs.directory))
        largest = max(largest, taken)
    assert 15 * 4096 < largest <= reserve - index_bytes
    assert not store.has_room(pending)
    starts, sizes = store.segment_sizes()
    assert (starts[0], sum(sizes)) == (1, store.bytes_used)

    store.index_bytes = 0
    assert store.has_room(pending)


def test_too_little_space_is_refused(logs):
    """Below two segments of free space a log does not open; below the reserve it warns."""
    logs.disk.capacity = 7000
    with pytest.raises(NotEnoughSpaceError, match="7000 bytes free"):
        logs.open(segment_bytes=4096, reserve_bytes=1 << 20)
    logs.disk.capacity = 20_000

    store = logs.open(segment_bytes=4096, reserve_bytes=1 << 20)

    assert "less than the reserve" in store.warnings[0]
    append(store, entry(1, b"kept"))
    store.close()
    logs.disk.capacity = 4200
    store = logs.open(segment_bytes=4096, reserve_bytes=1 << 20)
    assert "are needed" in store.warnings[0], "what is there can be served"
    assert store.is_out_of_room
    assert store.read(1, 2, NO_LIMIT)[0].data == b"kept"
    store.close()
    with pytest.raises(StorageError, match="less than two segments"):
        logs.open(segment_bytes=4096, reserve_bytes=5000)


def test_what_is_held_counts_for_the_space_check(logs):
    """A full disk that is full of this very log must not stop it from starting."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 21):
        append(store, entry(index, bytes(1500)))
    store.close()
    logs.disk.capacity = logs.disk._used() + 100

    logs.open(segment_bytes=4096)


def test_another_cluster_or_member_is_refused(logs):
    """A segment tells whose it is; unknown ids are not compared."""
    logs.open(cluster_id=0xABC, member_id=1).close()

    with pytest.raises(WrongIdentityError, match="belongs to cluster abc, not def"):
        logs.open(cluster_id=0xDEF, member_id=1)
    with pytest.raises(WrongIdentityError, match="belongs to member 1, not 2"):
        logs.open(cluster_id=0xABC, member_id=2)
    logs.open().close()


def test_a_second_opener_is_refused(logs):
    """One process at a time; and the lock is free again after a failed opening."""
    store = logs.open()
    with pytest.raises(DirectoryInUseError):
        logs.open()
    store.close()
    logs.disk.flip_bit(logs.segment_paths()[0], 3, 0)
    for _ in range(2):
        with pytest.raises(CorruptRecordError, match="not a segment"):
            logs.open()


def test_a_closed_log_refuses_to_write(logs):
    """And may be closed twice."""
    store = logs.open()
    store.close()
    store.close()

    with pytest.raises(StorageError, match="closed"):
        store.write(LogWrite(entries=[entry(1)]))


def test_a_gap_is_a_broken_invariant(logs):
    """The core never asks for it, so it ends the process instead of becoming an error."""
    store = logs.open()

    with pytest.raises(AssertionError):
        store.write(LogWrite(entries=[entry(2)]))
    with pytest.raises(FatalStorageError):
        store.write(LogWrite(entries=[entry(1)]))


# Records of an earlier life


def test_opening_clears_what_is_behind_the_end(logs):
    """The bytes of a cut tail are gone before anything is appended."""
    store = logs.open(segment_bytes=8192)
    append(store, entry(1, b"one"))
    end = store.bytes_used
    append(store, entry(2, b"x" * 2000), entry(3, b"two"), must_sync=False)
    path = logs.segment_paths()[0]
    logs.disk.names_now[path].data[end : end + 512] = bytes(512)  # a lost sector
    logs.disk.kill_process()

    store = logs.open(segment_bytes=8192)

    assert store.recovery is not None
    assert store.recovery.cut_bytes > 1500
    assert not any(logs.disk.names_now[path].data[end:])
    assert store.last_index() == 1


def test_an_old_record_behind_a_new_one_is_not_taken(logs):
    """It verifies by itself and its index fits, but it does not follow the record before it."""
    store = logs.open(segment_bytes=8192)
    path = logs.segment_paths()[0]
    start = store.bytes_used
    append(store, entry(1, b"old old old"))
    old_end = store.bytes_used
    append(store, entry(2, b"to come back?"), must_sync=False)
    data = logs.disk.names_now[path].data
    old_tail = bytes(data[old_end:])
    data[start:] = bytes(len(data) - start)
    logs.disk.kill_process()
    store = logs.open(segment_bytes=8192)
    append(store, entry(1, b"new new new"))
    assert store.bytes_used == old_end
    data = logs.disk.names_now[path].data
    data[old_end:] = old_tail
    logs.disk.kill_process()

    store = logs.open(segment_bytes=8192)

    assert store.last_index() == 1
    assert store.read(1, 2, NO_LIMIT)[0].data == b"new new new"
    assert store.recovery is not None
    assert "left from before" in store.recovery.reason


def test_terms_never_fall_in_a_scan(logs):
    """A record that is whole and chained, but of an older term than the one before it, ends it."""
    store = logs.open()
    append(store, entry(1, term=5))
    appender = store._appender
    header, _ = pack_header(
        previous=appender._previous,
        body_crc=0,
        length=0,
        kind=1,
        entry_type=0,
        index=2,
        term=4,
    )
    path = logs.segment_paths()[0]
    end = store.bytes_used
    logs.disk.names_now[path].data[end : end + len(header)] = header
    segment: Segment = store._segments[-1]
    fd = logs.disk.open(path)

    replay = Replay(logs.disk, fd, path, segment.header).run()

    assert replay.end == end
    assert "cannot follow" in replay.fault


# Readers and the writer at the same time, on real files


@pytest.mark.slow
def test_readers_see_whole_entries_while_the_log_is_written(tmp_path):
    """Threads that read committed entries get what was written, across rolls and truncations."""
    store = LogStore.open(tmp_path, segment_bytes=64 << 10, reserve_bytes=1 << 30, cache_bytes=0)
    committed = 0
    done = threading.Event()
    problems, reads = [], []

    def data_of(index):
        return Random(index).randbytes(index * 37 % 5000)

    def read(seed):
        random = Random(seed)
        count = 0
        while not done.is_set() or not count:
            top = committed
            if not top:
                continue
            lo = random.randint(1, top)
            found = store.read(lo, min(lo + 30, top + 1), 50_000)
            count += 1
            if any(e.data != data_of(e.index) for e in found) or found[0].index != lo:
                problems.append(lo)
        reads.append(count)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    try:
        for first in range(1, 1001, 5):
            term = 1 + first // 100
            wrong = [entry(i, b"wrong" * 50, term=term) for i in range(first, first + 9)]
            append(store, *wrong, must_sync=False)
            right = [entry(i, data_of(i), term=term + 1) for i in range(first, first + 5)]
            append(store, *right, hard_state=commit(first + 4, term=term + 1))
            committed = first + 4
    finally:
        done.set()
        for thread in threads:
            thread.join()
    store.close()

    assert problems == []
    assert len(reads) == 2


@pytest.mark.slow
def test_the_same_works_on_a_real_file_system(tmp_path):
    """Rolls, truncation, purge and reopening, through the operating system."""

    def open_log():
        return LogStore.open(tmp_path / "log", segment_bytes=1 << 16, reserve_bytes=1 << 30)

    store = open_log()
    data = {i: Random(i).randbytes(i * 991 % 9000) for i in range(1, 201)}
    for index, body in data.items():
        append(store, entry(index, body), hard_state=commit(index - 1))
    for index in range(200, 211):
        data[index] = b"again" * index
    append(store, *[entry(i, data[i], term=2) for i in range(200, 211)])
    store.truncate_before(50)
    store.close()
    store = open_log()

    assert {e.index: e.data for e in store.read(50, 211, NO_LIMIT)} == {
        index: body for index, body in data.items() if index >= 50
    }
    assert store.recovery is None
    store.close()
    names = {path.name for path in (tmp_path / "log").iterdir()}
    assert {"LOCK", "next.segment"} <= names


def test_a_directory_that_cannot_be_used_is_one_clear_error(tmp_path):
    """The operating system's own words, and where."""
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(StorageError, match="cannot open the log in"):
        LogStore.open(
            tmp_path / "file" / "log",
            segment_bytes=4096,
            reserve_bytes=8192,
            files=LocalFileSystem(),
        )


def test_the_simulated_disk_loses_what_was_not_synced():
    """The fake can fail: without a sync nothing survives the harshest power loss."""
    disk = SimulatedDisk()
    path = Path("/log/x")
    fd = disk.open(path, create=True)
    disk.pwritev(fd, [b"data"], 0)
    disk.sync_directory(path.parent)
    disk.lose_power(keep=0.0)

    assert disk.file_bytes(path) == 0


def test_places_lead_to_the_entries(logs):
    """Over segments; one place for a run, none of them behind the last index asked for."""
    store = logs.open()
    for index in range(1, 60):
        append(store, entry(index, b"%d" % index * 100))
    assert len(logs.segment_paths()) > 2
    asked = [1, 2, 9, 30, 31, 58]
    places = store.locate(asked)
    assert len(places) < 59
    assert _entries_at(logs, places, asked) == [store.read(at, at + 1, 1)[0] for at in asked]
    assert places[-1].stop == 59


def test_a_place_never_reaches_what_may_be_replaced(logs):
    """An entry that is not committed lies in the same run, until another takes its index."""
    store = logs.open()
    append(store, entry(1, b"one"), entry(2, b"old"), entry(3, b"old"))
    (place,) = store.locate([1])
    assert place.stop == 2
    append(store, entry(2, b"new", term=2))
    assert _entries_at(logs, [*store.locate([1, 2])], [1, 2])[1].data == b"new"


def test_places_of_a_closed_segment_may_take_the_disk(logs):
    """Which is said, so that it happens in a thread."""
    store = logs.open()
    for index in range(1, 60):
        append(store, entry(index, b"x" * 200))
    store.close()
    store = logs.open()
    assert store.locate([2]) is None
    assert store.locate([2], may_read=True)[0].stop == 3
    assert store.locate([2]) is not None
    with pytest.raises(UnavailableError):
        store.locate([60])


def _entries_at(logs, places, indexes):
    found = []
    for index in indexes:
        (place,) = [each for each in places if each.first <= index < each.stop]
        path = logs.directory / place.segment
        fd = logs.disk.open(path)
        reader = EntryReader(logs.disk, 1 << 20)
        reader.read_run(
            fd,
            path,
            offset=place.offset,
            first=place.first,
            lo=index,
            hi=index + 1,
            large=place.large,
        )
        logs.disk.close(fd)
        found += reader.entries
    return found


BIG = b"x" * (POINT_BYTES + 1)


def _data_of(logs, stored):
    """What whoever is given a place finds there."""
    with stored.opened() as (fd, offset, length):
        return logs.disk.pread(fd, length, offset)


def test_what_was_written_lies_where_it_is_said(logs):
    """Over segments, until it is given up, and also what was written in place of something."""
    store = logs.open(segment_bytes=1 << 20)
    for index in range(1, 30):
        append(store, entry(index, BIG + b"%d" % index))
    for index in range(20, 25):
        append(store, entry(index, BIG + b"another %d" % index, term=2))
    assert len(logs.segment_paths()) > 1
    for index in range(1, 25):
        (read,) = store.read(index, index + 1, 1)
        assert _data_of(logs, store.stored(index)) == read.data
    assert store.stored(25) is None
    store.truncate_before(15)
    assert store.stored(14) is None
    assert _data_of(logs, store.stored(15)) == BIG + b"15"


@pytest.mark.parametrize("cached", [True, False])
def test_what_nobody_looked_at_has_no_place(logs, cached):
    """After a start, until it is read; in a snapshot's place everything begins anew."""
    store = logs.open(segment_bytes=1 << 20)
    for index in range(1, 30):
        append(store, entry(index, BIG))
    store.close()
    store = logs.open(segment_bytes=1 << 20, cache_bytes=(1 << 20) * cached)
    assert [store.stored(index) for index in range(1, 30)] == [None] * 29
    store.read(3, 5, NO_LIMIT)
    found = [index for index in range(1, 30) if store.stored(index)]
    assert found == [3, 4]
    append(store, entry(30, BIG))
    assert _data_of(logs, store.stored(30)) == BIG
    append(store, entry(51, BIG, term=3), snapshot=Snapshot(50, 3, ConfState((1,)), b"", 50))
    assert [index for index in range(1, 60) if store.stored(index)] == [51]


def test_an_entry_inside_a_run_is_found(logs):
    """By the headers of the records before it, marks and hard states among them."""
    store = logs.open(segment_bytes=1 << 20)
    for index in range(1, 300):
        append(store, entry(index, b"small %d" % index), hard_state=commit(index - 1))
    append(store, entry(300, BIG), entry(301, b"behind"))
    for index in range(1, 302):
        (read,) = store.read(index, index + 1, 1)
        assert _data_of(logs, store.stored(index)) == read.data
    assert len({store.stored(index).offset for index in range(1, 302)}) < 10


def test_a_removed_segment_stays_readable_while_it_is_open(logs):
    """And is gone for whoever comes later, who is told so."""
    store = logs.open(segment_bytes=1 << 20)
    for index in range(1, 30):
        append(store, entry(index, BIG + b"%d" % index))
    stored = store.stored(1)
    with stored.opened() as (fd, offset, length):
        store.truncate_before(29)
        assert logs.disk.pread(fd, length, offset) == BIG + b"1"
    with pytest.raises(FileNotFoundError), stored.opened():
        pass


def test_another_record_at_the_place_is_noticed(logs):
    """Before anything of it is handed out: a wrong index, no entry, no record, nothing."""
    store = logs.open(segment_bytes=1 << 20)
    for index in range(1, 4):
        append(store, entry(index, BIG))
    stored = store.stored(2)
    for wrong in (
        replace(stored, first=3, index=3),
        replace(stored, first=1, index=2),
        replace(stored, index=1),
        replace(stored, offset=stored.offset + 1),
        replace(stored, offset=stored.offset + HEADER_BYTES + len(BIG)),
        replace(stored, offset=1 << 21),
    ):
        with pytest.raises(CorruptRecordError), wrong.opened():
            pass
