"""Installing a snapshot through crashes: a real database, a disk that loses power."""

import pytest

from kingbus.pb.record_pb2 import Members, RelayState
from kingbus.raft.types import ConfState, HardState, Snapshot
from kingbus.storage.errors import StorageError
from kingbus.storage.installing import (
    UnreadableSnapshotError,
    finish_interrupted,
    pack_snapshot,
    unpack_snapshot,
)
from kingbus.storage.log import LogWrite
from kingbus.storage.state_store import StateStore, StateWrite
from tests.unit.storage.conftest import append, entry
from tests.unit.storage.simulated_disk import PowerLostError

MEMBERS = Members(cluster_id=1, index=60)
STATE = RelayState(version=1, index=50, epoch=4)
SNAPSHOT = Snapshot(50, 3, ConfState((1, 2)), pack_snapshot(MEMBERS, STATE.SerializeToString()), 60)
VOTE = HardState(7, 2, 30)


@pytest.fixture
def database(tmp_path):
    opened = StateStore.open(tmp_path / "state")
    yield opened
    opened.close()


def test_what_is_packed_is_unpacked():
    """Membership and state; anything else is refused, also of a later version."""
    assert unpack_snapshot(SNAPSHOT) == (MEMBERS, STATE.SerializeToString())
    for data in (b"\xff\xff", b"", b"\x08\x02"):
        with pytest.raises(UnreadableSnapshotError, match="index 5"):
            unpack_snapshot(Snapshot(5, 1, ConfState(), data))


def test_nothing_begun_is_nothing_done(logs, database):
    """Without a mark neither log nor database changes."""
    store = logs.open()
    append(store, entry(1), hard_state=VOTE.__class__(7, 2, 1))
    assert finish_interrupted(database, store) is None
    assert (store.first_index(), store.last_index(), database.applied()) == (1, 1, 0)


def filled(logs):
    store = logs.open()
    for index in range(1, 31):
        append(store, entry(index, b"x" * 500, term=7), hard_state=HardState(7, 2, index))
    return store


def test_power_lost_at_any_operation_of_the_log(logs, database, tmp_path):
    """The old log or the new one is there, its vote with it; the next start does the rest."""
    crashes = 0
    while True:
        logs.disk = type(logs.disk)(seed=crashes)
        store = filled(logs)
        database.write(StateWrite(applied=30, term=7))
        database.begin_install(SNAPSHOT)
        logs.disk.operations_left = crashes
        try:
            write = LogWrite(snapshot=SNAPSHOT, hard_state=HardState(7, 2, 50))
            store.write(write)
            store.publish(write)
            store.note_idle()
            lost = False
        except (PowerLostError, StorageError):
            lost = True
        logs.disk.lose_power()

        again = logs.open()
        assert again.initial_state()[0].term == 7
        assert again.initial_state()[0].vote == 2
        if again.first_index() == 1:
            assert [each.index for each in again.read(1, 31, 1 << 30)] == list(range(1, 31))
        # And once more, in the middle of repeating it.
        logs.disk.operations_left = crashes // 2
        try:
            finish_interrupted(database, again)
        except (PowerLostError, StorageError):
            assert database.installing() == SNAPSHOT
        logs.disk.lose_power()

        last = logs.open()
        finish_interrupted(database, last)
        assert database.installing() is None
        assert (last.first_index(), last.last_index(), last.term(50)) == (51, 50, 3)
        assert last.initial_state() == (HardState(7, 2, 50), ConfState((1, 2)))
        assert (database.applied(), database.checkpoint()) == (50, STATE)
        assert database.members() == MEMBERS
        last.close()
        assert len(logs.segment_paths()) == 1
        crashes += 1
        if not lost:
            break
    assert crashes > 5


def test_entries_behind_an_installed_snapshot_stay(logs, database):
    """Where only the state is missing, the log is left alone."""
    store = filled(logs)
    database.begin_install(SNAPSHOT)
    append(store, entry(51, b"new", term=3), snapshot=SNAPSHOT, hard_state=HardState(7, 2, 51))
    store.abandon()
    store = logs.open()

    assert finish_interrupted(database, store) == SNAPSHOT
    assert (store.first_index(), store.last_index()) == (51, 51)
    assert store.initial_state()[0] == HardState(7, 2, 51)
    assert database.applied() == 50
