"""Checking a whole log."""

import pytest

from kingbus.storage.directory import DataDirectory
from kingbus.storage.errors import CorruptRecordError, DirectoryInUseError, StorageError
from kingbus.storage.log import LogStore
from kingbus.storage.verify import verify_log
from tests.unit.storage.conftest import append, commit, entry


def test_a_good_log_is_reported_as_good(logs):
    """Progress rises to the whole, every entry is counted, and nothing is changed."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 21):
        append(store, entry(index, bytes(1500)), hard_state=commit(index - 1))
    append(store, entry(20, b"other", term=2))
    store.close()
    before = {path: bytes(inode.data) for path, inode in logs.disk.names_now.items()}

    reports = list(verify_log(logs.directory, files=logs.disk))

    done = [report.done_bytes for report in reports]
    assert done == sorted(done)
    assert done[-1] == reports[-1].total_bytes
    assert (reports[-1].entries, reports[-1].last_index) == (21, 20)
    assert reports[-1].problem is None
    assert reports[-1].tail_bytes == 0
    assert {path: bytes(inode.data) for path, inode in logs.disk.names_now.items()} == before


def test_the_first_bad_place_is_named(logs):
    """File and offset; what is behind it is not read."""
    store = logs.open(segment_bytes=4096)
    for index in range(1, 21):
        append(store, entry(index, bytes(1500)))
    store.close()
    path = logs.segment_paths()[3]
    logs.disk.flip_bit(path, 2000, 1)

    *_, last = verify_log(logs.directory, files=logs.disk)

    assert isinstance(last.problem, CorruptRecordError)
    assert last.problem.path == path
    assert last.problem.offset <= 2000
    assert "the record's body does not verify" in str(last.problem)
    assert last.last_index < 12


def test_an_unsynced_tail_is_no_problem(logs):
    """It is told, and opening would cut it."""
    store = logs.open(segment_bytes=8192)
    append(store, entry(1))
    append(store, entry(2, bytes(500)))
    end = store.bytes_used
    logs.disk.kill_process()
    logs.disk.flip_bit(logs.segment_paths()[0], end - 3, 1)

    *_, last = verify_log(logs.directory, files=logs.disk)

    assert last.problem is None
    assert 0 < last.tail_bytes < 600
    assert last.last_index == 1


def test_a_log_in_use_or_absent_is_refused(tmp_path):
    """One clear error, before anything is read."""
    with DataDirectory.open_or_create(tmp_path) as directory:
        log = LogStore.open(directory.log_path, segment_bytes=4096, reserve_bytes=8192)
        with pytest.raises(DirectoryInUseError):
            list(verify_log(directory.log_path))
        log.close()

    assert [report.problem for report in verify_log(tmp_path / "log")][-1] is None
    with pytest.raises(StorageError, match="cannot read the log"):
        list(verify_log(tmp_path / "typo"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="holds no log"):
        list(verify_log(tmp_path / "empty"))
