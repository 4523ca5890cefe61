"""The database of what follows from the log."""

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.pb.command_pb2 import MemberContext
from kingbus.pb.record_pb2 import BatchRow, FileRow, Members, RelayState
from kingbus.raft.types import ConfState, Snapshot
from kingbus.storage.database import Database
from kingbus.storage.errors import (
    CorruptRecordError,
    DirectoryInUseError,
    NewerFormatError,
    StorageError,
)
from kingbus.storage.keys import FORMAT, MEMBERS, batch_key, checkpoint_key, file_key, number_of
from kingbus.storage.state_store import StateStore, StateWrite


@pytest.fixture
def store(tmp_path):
    opened = StateStore.open(tmp_path / "state")
    yield opened
    opened.close()


def rows(*indexes):
    return [(index, BatchRow(file=1, start_position=index)) for index in indexes]


def indexes(found):
    return [index for index, _ in found]


def test_a_new_store_is_empty(store):
    """Nothing applied, nothing known."""
    assert store.applied() == 0
    assert store.checkpoint() is None
    assert store.members() is None
    assert store.conf_state() is None
    assert store.batch_rows(0, 0, 10) == []
    assert store.last_batch_row(0, 10) is None
    assert store.file_rows(0) == []


def test_everything_comes_back(tmp_path):
    """After closing and opening: the applied index and all that was written with it."""
    state = RelayState(version=1, channel=0, index=7, epoch=3, names_used=["a", "b"])
    members = Members(cluster_id=1, index=5, members=[MemberContext(member_id=9, name="n")])
    conf = (5, ConfState((1, 2), (3,), (1,), (2,), True))
    store = StateStore.open(tmp_path)
    store.write(
        StateWrite(
            applied=8,
            term=2,
            batches=rows(7, 8),
            files=[FileRow(ordinal=1, name="binlog.1"), FileRow(ordinal=2, name="binlog.2")],
            checkpoint=state,
            members=members,
            conf_state=conf,
        )
    )
    store.close()

    store = StateStore.open(tmp_path)

    assert store.applied_with_term() == (8, 2)
    assert store.checkpoint() == state
    assert store.members() == members
    assert store.conf_state() == conf
    assert store.batch_rows(0, 0, 10) == rows(7, 8)
    assert store.batch_row(0, 8) == rows(8)[0][1]
    assert store.batch_row(0, 9) is None
    assert [row.name for row in store.file_rows(0)] == ["binlog.1", "binlog.2"]
    store.close()


def test_rows_come_in_the_order_of_the_log(store):
    """Also where indexes get another length in bytes; a limit cuts; channels are apart."""
    wanted = [1, 255, 256, 65_536, 2**32, 2**63]
    store.write(StateWrite(applied=1, batches=rows(*reversed(wanted))))
    store.write(StateWrite(applied=2, channel=1, batches=rows(3)))

    assert indexes(store.batch_rows(0, 0, 100)) == wanted
    assert indexes(store.batch_rows(0, 256, 2)) == [256, 65_536]
    assert indexes(store.batch_rows(1, 0, 100)) == [3]
    assert store.last_batch_row(0, 65_535)[0] == 256
    assert store.last_batch_row(0, 0) is None
    assert store.last_batch_row(1, 2**64 - 1)[0] == 3
    assert store.last_batch_row(2, 9) is None


@pytest.mark.parametrize("gone", [range(3, 6), [3, 4, 5, 99]])
def test_rows_are_deleted_before_others_are_put(store, gone):
    """A range or a list, of rows that may never have been."""
    store.write(StateWrite(applied=8, batches=rows(*range(1, 9)), files=[FileRow(ordinal=4)]))
    store.write(StateWrite(applied=9, deleted_batches=gone, batches=rows(4), deleted_files=[4, 5]))

    assert indexes(store.batch_rows(0, 0, 100)) == [1, 2, 4, 6, 7, 8]
    assert store.file_rows(0) == []


def test_checkpoints_are_per_channel(store):
    """Each channel has its newest."""
    store.write(StateWrite(applied=1, checkpoint=RelayState(index=1)))
    store.write(StateWrite(applied=2, channel=5, checkpoint=RelayState(channel=5, index=2)))
    store.write(StateWrite(applied=3, checkpoint=RelayState(index=3)), sync=True)

    assert store.checkpoint(0).index == 3
    assert store.checkpoint(5).index == 2


def test_closing_lets_go_of_the_lock(tmp_path):
    """Iterators are not left behind: after any read the directory can be opened again."""
    for _ in range(3):
        store = StateStore.open(tmp_path)
        store.write(StateWrite(applied=1, batches=rows(1, 2, 3)))
        assert len(store.batch_rows(0, 0, 1)) == 1
        assert store.last_batch_row(0, 2) is not None
        with pytest.raises(DirectoryInUseError):
            StateStore.open(tmp_path)
        store.close()
        store.close()
        gc.collect()


def test_a_newer_format_is_refused(tmp_path):
    """And the lock is free afterwards."""
    StateStore.open(tmp_path).close()
    database = Database(tmp_path)
    batch = database.new_batch()
    batch.put(FORMAT, (2).to_bytes(4, "little"))
    database.write(batch)
    database.close()

    for _ in range(2):
        with pytest.raises(NewerFormatError, match="has format 2"):
            StateStore.open(tmp_path)


def test_a_value_that_says_nothing_is_named(tmp_path):
    """The key and the kind."""
    StateStore.open(tmp_path).close()
    database = Database(tmp_path)
    batch = database.new_batch()
    batch.put(MEMBERS, b"\xff\xff\xff")
    database.write(batch)
    database.close()
    store = StateStore.open(tmp_path)

    with pytest.raises(CorruptRecordError, match="key 6d holds no Members"):
        store.members()
    store.close()


def test_a_path_that_cannot_be_used_is_one_clear_error(tmp_path):
    """The path, and the words of who refused."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(StorageError, match="cannot open the database"):
        StateStore.open(tmp_path / "file" / "state")


def test_the_database_keeps_few_files_of_its_own(tmp_path):
    """Its text log is one small file, also after many openings."""
    for _ in range(4):
        StateStore.open(tmp_path).close()

    assert len([path for path in tmp_path.iterdir() if path.name.startswith("LOG")]) == 1


@settings(max_examples=50)
@given(
    first=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)),
    second=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)),
)
def test_keys_sort_as_their_numbers(first, second):
    """By channel, then by number; and the kinds of rows never meet."""
    for make in (batch_key, file_key):
        assert (make(*first) < make(*second)) == (first < second)
        assert number_of(make(*first)) == first[1]
    assert len({batch_key(*first)[:1], file_key(*first)[:1], checkpoint_key(first[0])[:1]}) == 3


SNAPSHOT = Snapshot(50, 3, ConfState((1, 2), (3,)), b"data", 60)


def fill(store):
    store.write(
        StateWrite(
            applied=8,
            term=2,
            batches=rows(7, 8),
            files=[FileRow(ordinal=1), FileRow(ordinal=2)],
            starts=[(1, RelayState(index=3)), (2, RelayState(index=6))],
            checkpoint=RelayState(index=8),
            members=Members(index=1),
        )
    )


def test_a_start_goes_with_its_file(store):
    """Kept by ordinal, until the file is purged."""
    fill(store)
    assert store.start(0, 2) == RelayState(index=6)
    assert store.start(1, 2) is None

    store.write(StateWrite(applied=9, deleted_files=[1]))

    assert store.start(0, 1) is None
    assert store.start(0, 2) == RelayState(index=6)


def test_an_installation_replaces_everything_at_once(tmp_path):
    """The mark stays over a restart, until the state is the snapshot's and nothing else's."""
    store = StateStore.open(tmp_path)
    fill(store)
    assert store.installing() is None
    store.begin_install(SNAPSHOT)
    store.close()
    store = StateStore.open(tmp_path)
    assert store.installing() == SNAPSHOT
    assert store.applied() == 8
    assert indexes(store.batch_rows(0, 0, 10)) == [7, 8]

    state, members = RelayState(index=50, epoch=4), Members(cluster_id=1, index=60)
    store.finish_install(SNAPSHOT, state=state, members=members)

    for _ in range(2):
        assert store.installing() is None
        assert store.applied_with_term() == (50, 3)
        assert store.checkpoint() == state
        assert store.members() == members
        assert store.conf_state() == (60, SNAPSHOT.conf_state)
        assert store.batch_rows(0, 0, 10) == []
        assert store.file_rows(0) == []
        assert store.start(0, 1) is store.start(0, 2) is None
        store.close()
        store = StateStore.open(tmp_path)
    store.close()


def test_a_sync_may_run_beside_writes(store):
    """It makes durable what came before, and disturbs nothing."""
    fill(store)
    store.sync()
    store.write(StateWrite(applied=9))
    assert store.applied() == 9
