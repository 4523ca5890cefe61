"""Room that is held back, and a database that lives on it when the disk is full."""

import random
import threading
from pathlib import Path

import pytest

from kingbus.pb.record_pb2 import BatchRow
from kingbus.storage.ballast import Ballast, ballast_bytes
from kingbus.storage.database import Batch, Database
from kingbus.storage.errors import FatalStorageError, NotEnoughSpaceError
from kingbus.storage.state_store import StateStore, StateWrite
from tests.support.small_disk import small_disk
from tests.unit.storage.simulated_disk import SimulatedDisk

PATH = Path("/data/ballast")
SIZE = 1000


def test_it_is_taken_given_up_and_taken_again():
    """Only where there is room for it and a little more."""
    disk = SimulatedDisk(capacity=1200)
    ballast = Ballast(PATH, SIZE, files=disk)
    assert not ballast.hold()
    assert disk.names(PATH.parent) == []

    disk.capacity = 1300
    assert ballast.hold()
    assert disk.free_bytes(PATH.parent) == 300
    assert ballast.release()
    assert not ballast.is_held
    assert not ballast.release()
    disk.capacity = 100
    assert not ballast.hold()


def test_what_a_process_before_held_is_held():
    """On a full disk too; one of another size is made anew."""
    disk = SimulatedDisk(capacity=1300)
    assert Ballast(PATH, SIZE, files=disk).hold()
    disk.capacity = 1000

    assert Ballast(PATH, SIZE, files=disk).hold()
    assert Ballast(PATH, SIZE // 2, files=disk).hold()
    assert disk.file_bytes(PATH) == SIZE // 2


def test_its_size_goes_by_the_segments():
    """Enough for the database to be opened, and not much of a small disk."""
    assert ballast_bytes(1 << 20) == 8 << 20
    assert ballast_bytes(256 << 20) == ballast_bytes(4 << 30) == 64 << 20


class FullOnce(Database):
    """RocksDB on a disk that is full until the ballast is given up; then it has room."""

    full = False

    def _write(self, batch, *, sync):
        if self.full and self._ballast is not None and self._ballast.is_held:
            raise RuntimeError("IO error: No space left on device: While appending to file")
        super()._write(batch, sync=sync)


@pytest.fixture
def ballast(tmp_path):
    made = Ballast(tmp_path / "ballast", SIZE)
    assert made.hold()
    return made


def test_a_write_is_made_on_the_ballast(tmp_path, ballast):
    """The database is opened again, has what it had, and takes the same write once."""
    database = FullOnce(tmp_path / "state", ballast=ballast)
    store = StateStore(database)
    store.write(StateWrite(applied=1, batches=[(1, BatchRow(file=1))]))
    database.full = True

    store.write(StateWrite(applied=2, batches=[(2, BatchRow(file=2))], deleted_batches=[7]))

    assert not ballast.is_held
    assert [index for index, _ in store.batch_rows(0, 0, 10)] == [1, 2]
    assert store.applied() == 2
    store.close()


def test_without_a_ballast_it_is_final(tmp_path, ballast):
    """There is nothing left to give up: the process must end, in RocksDB's words."""

    class Full(Database):
        def _write(self, batch, *, sync):
            raise RuntimeError("IO error: No space left on device")

    for each in (None, ballast):
        database = Full(tmp_path / "state", ballast=each)
        with pytest.raises(FatalStorageError, match="No space left"):
            database.write(Batch())
        database.close()
    assert not ballast.is_held


def test_a_database_that_cannot_be_opened_says_why(tmp_path, ballast):
    """It gives the ballast up first."""

    class Closed(Database):
        def _open_at_all(self):
            raise RuntimeError("IO error: No space left on device: MANIFEST")

    with pytest.raises(NotEnoughSpaceError, match="cannot be opened"):
        Closed(tmp_path / "state", ballast=ballast)
    assert not ballast.is_held


@pytest.mark.slow
def test_rocksdb_on_a_disk_that_is_full(tmp_path):
    """The real thing: it goes on with the ballast, is opened again on the full disk, and has all.

    Reads in other threads see nothing of it.
    """
    with small_disk(tmp_path / "disk", megabytes=40) as disk:
        ballast = Ballast(disk.path / "ballast", 8 << 20)
        assert ballast.hold()
        store = StateStore.open(disk.path / "state", ballast=ballast)
        store.write(StateWrite(applied=1, batches=[(1, BatchRow(file=1))]), sync=True)
        disk.fill()
        stop, failures = threading.Event(), []

        def read():
            while not stop.is_set():
                try:
                    assert store.batch_rows(0, 0, 10)[0][0] == 1
                except Exception as error:  # noqa: BLE001 - told to the test
                    failures.append(error)
                    return

        reader = threading.Thread(target=read)
        reader.start()
        index = 1
        while ballast.is_held:
            index += 1
            assert index < 100_000, "the disk is not full"
            row = BatchRow(file=index, gtids=random.Random(index).randbytes(2000))
            store.write(StateWrite(applied=index, batches=[(index, row)]))
        for _ in range(100):
            index += 1
            store.write(StateWrite(applied=index, batches=[(index, BatchRow(file=index))]))
        stop.set()
        reader.join()
        assert failures == []
        store.close()
        store = StateStore.open(disk.path / "state", ballast=ballast)
        assert store.applied() == index
        assert [each for each, _ in store.batch_rows(0, 0, 1 << 20)] == list(range(1, index + 1))
        assert not ballast.hold()
        disk.empty()
        assert ballast.hold()
        store.close()
