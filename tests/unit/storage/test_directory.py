"""The data directory: one process, one format, one identity."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.raft.types import HardState
from kingbus.storage.directory import FORMAT_VERSION, DataDirectory, Identity
from kingbus.storage.errors import (
    CorruptRecordError,
    DirectoryInUseError,
    NewerFormatError,
    StorageError,
    WrongIdentityError,
)
from kingbus.storage.log import LogStore
from kingbus.storage.recovery import discard_torn
from tests.unit.storage.conftest import append, entry

IDENTITY = Identity(name="n1", member_id=0xAB, cluster_id=2**64 - 1, created="2026-01-02T03:04:05Z")

HOLDER = """
import sys
from pathlib import Path
from kingbus.storage.directory import DataDirectory
DataDirectory.open_or_create(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def open_log(directory):
    return LogStore.open(directory.log_path, segment_bytes=4096, reserve_bytes=1 << 20)


def test_an_identity_survives(tmp_path):
    """It is there at the next opening, exactly."""
    with DataDirectory.open_or_create(tmp_path / "a" / "b") as directory:
        assert directory.identity is None
        directory.set_identity(IDENTITY)
        directory.set_identity(IDENTITY)
        assert directory.identity == IDENTITY

    with DataDirectory.open_existing(tmp_path / "a" / "b") as directory:
        assert directory.identity == IDENTITY
    stored = json.loads((tmp_path / "a" / "b" / "identity.json").read_text())
    assert stored["member_id"] == "00000000000000ab"


def test_another_identity_is_refused(tmp_path):
    """Every part is compared, and the error names both."""
    with DataDirectory.open_or_create(tmp_path) as directory:
        directory.check_identity(name="anything")
        directory.set_identity(IDENTITY)
        directory.check_identity(name="n1", member_id=0xAB, cluster_id=2**64 - 1)

        with pytest.raises(WrongIdentityError, match="with name n1, not n2"):
            directory.check_identity(name="n2")
        with pytest.raises(WrongIdentityError, match="member id 00000000000000ab, not 0000000"):
            directory.check_identity(member_id=1)
        with pytest.raises(WrongIdentityError, match="cluster id ffffffffffffffff"):
            directory.check_identity(cluster_id=1)
        with pytest.raises(WrongIdentityError):
            directory.set_identity(Identity(name="n2", member_id=1, cluster_id=1))


def test_a_second_process_is_refused(tmp_path):
    """The error tells which process has the directory; when that ends, the next one may."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            DirectoryInUseError,
            match=f"data directory {tmp_path} is in use by process {holder.pid}",
        ):
            DataDirectory.open_or_create(tmp_path)
        holder.kill()

    DataDirectory.open_or_create(tmp_path).close()


def test_a_log_counts_when_something_was_written(tmp_path):
    """An empty log is no log: a member that never wrote may still start or join."""
    with DataDirectory.open_or_create(tmp_path) as directory:
        assert not directory.has_log
        log = open_log(directory)
        log.close()
        assert not directory.has_log

        log = open_log(directory)
        append(log, hard_state=HardState(1, 0, 0))
        log.close()

        assert directory.has_log


def test_a_first_write_that_was_torn_counts_for_nothing(tmp_path):
    """Entries without a hard state behind them: nobody was told of them, so they may go."""
    with DataDirectory.open_or_create(tmp_path) as directory:
        log = open_log(directory)
        append(log, entry(1), entry(2), hard_state=HardState(1, 0, 2))
        log.abandon()
        (path,) = directory.log_path.glob("*-*.segment")
        whole = path.read_bytes()
        assert directory.has_log
        assert not directory.has_torn_log
        assert not discard_torn(directory.log_path)

        end = len(whole.rstrip(b"\0")) - 10
        path.write_bytes(whole[:end] + bytes(len(whole) - end))
        assert not directory.has_log
        assert directory.has_torn_log
        assert discard_torn(directory.log_path)

        assert not directory.has_torn_log
        open_log(directory).close()
        assert not directory.has_log


def test_damage_to_a_first_write_is_no_torn_write(tmp_path):
    """What had been durable is not forgotten, whatever is left of it."""
    with DataDirectory.open_or_create(tmp_path) as directory:
        log = open_log(directory)
        append(log, entry(1), entry(2), hard_state=HardState(1, 0, 2))
        end = log.bytes_used
        log.close()
        (path,) = directory.log_path.glob("*-*.segment")
        data = bytearray(path.read_bytes())
        data[end - 10] ^= 1
        path.write_bytes(data)

        for question in ("has_log", "has_torn_log"):
            with pytest.raises(CorruptRecordError):
                getattr(directory, question)
        with pytest.raises(CorruptRecordError):
            discard_torn(directory.log_path)


def test_a_long_log_counts_without_being_read(tmp_path):
    """More than one segment is enough."""
    with DataDirectory.open_or_create(tmp_path) as directory:
        log = open_log(directory)
        for index in range(1, 6):
            append(log, entry(index, bytes(3000)))
        log.close()
        for path in directory.log_path.glob("*-*.segment"):
            path.write_bytes(b"")

        assert directory.has_log


def test_a_newer_format_is_refused(tmp_path):
    """And the lock is free afterwards."""
    DataDirectory.open_or_create(tmp_path).close()
    (tmp_path / "FORMAT").write_text("7\n")

    for _ in range(2):
        with pytest.raises(NewerFormatError, match="has format 7; this version knows up to 1"):
            DataDirectory.open_or_create(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FORMAT", "one"),
        ("FORMAT", ""),
        ("FORMAT", "0"),
        ("FORMAT", "1\x1d"),
        ("FORMAT", "1" * 5000),
        ("identity.json", ""),
        ("identity.json", "[]"),
        ("identity.json", '{"name": "a", "member_id": "x", "cluster_id": "1"}'),
        ("identity.json", '{"name": "a", "member_id": 1, "cluster_id": "1"}'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text):
    """One clear error that names the file."""
    DataDirectory.open_or_create(tmp_path).close()
    (tmp_path / name).write_text(text)

    with pytest.raises(CorruptRecordError, match=name):
        DataDirectory.open_or_create(tmp_path)


@given(data=st.one_of(st.binary(max_size=12), st.text("0123456789 \n\t\x1d-+_").map(str.encode)))
def test_a_format_file_of_any_bytes_is_a_version_or_named(tmp_path_factory, data):
    """Nobody meets another error than those two."""
    directory = tmp_path_factory.mktemp("format")
    (directory / "FORMAT").write_bytes(data)

    problem = ""
    try:
        DataDirectory.open_or_create(directory).close()
    except (CorruptRecordError, NewerFormatError) as error:
        problem = str(error)
    if problem:
        assert str(directory) in problem
    else:
        assert int(data) == FORMAT_VERSION


def test_a_file_is_replaced_as_a_whole(tmp_path):
    """With the mode asked for, and without leftovers."""
    with DataDirectory.open_or_create(tmp_path) as directory:
        (tmp_path / "key.new").write_text("left by a crash")
        directory.write_file("key", b"secret", mode=0o600)
        directory.write_file("key", b"other", mode=0o600)

    assert (tmp_path / "key").read_bytes() == b"other"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FORMAT", "LOCK", "key"]


def test_tools_do_not_make_directories(tmp_path):
    """A mistyped path is an error, not a new data directory."""
    with pytest.raises(StorageError, match="not a data directory"):
        DataDirectory.open_existing(tmp_path / "typo")
    with pytest.raises(StorageError, match="not a data directory"):
        DataDirectory.open_existing(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_used_is_one_clear_error(tmp_path):
    """The operating system's own words, and the path."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(StorageError, match="cannot use the data directory"):
        DataDirectory.open_or_create(tmp_path / "file" / "d")


def test_an_identity_after_a_recovery_survives(tmp_path):
    """With the clusters that it was before; replicas are served under the first of them."""
    later = replace(IDENTITY, cluster_id=7, origin_id=5, former_ids=(5, 6))
    with DataDirectory.open_or_create(tmp_path) as directory:
        directory.set_identity(IDENTITY)
        assert directory.identity.served_id == IDENTITY.cluster_id
        directory.replace_identity(later)
    with DataDirectory.open_existing(tmp_path) as directory:
        assert directory.identity == later
        assert directory.identity.served_id == 5


def test_an_identity_that_was_changed_is_refused(tmp_path):
    """Any bit of any value: ids, and what people read. Without a sum it is an earlier version's."""
    whole = IDENTITY.encode()
    for at in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            try:
                found = Identity.decode(bytes(data))
            except ValueError:
                continue
            assert found == IDENTITY, (at, bit)
    fields = json.loads(whole)
    del fields["crc"]
    assert Identity.decode(json.dumps(fields).encode()) == IDENTITY
