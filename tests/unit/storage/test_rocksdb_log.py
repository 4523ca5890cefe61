"""Damage of RocksDB's own logs: whatever a byte becomes, opening the database ends."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from kingbus.storage.database import Database
from kingbus.storage.errors import CorruptRecordError
from kingbus.storage.rocksdb_log import check_rocksdb_logs

_HEADER = struct.Struct("<IHB")
BLOCK = 32 << 10
SECONDS_MAX = 120

# RocksDB would keep the interpreter lock for ever, so that only another process can notice it.
OPENING = """
import sys
from pathlib import Path
from kingbus.storage.database import Database
from kingbus.storage.errors import StorageError
path, place = Path(sys.argv[1]), int(sys.argv[2])
whole = path.read_bytes()
for kind in range(256):
    path.write_bytes(whole[:place] + bytes((kind,)) + whole[place + 1 :])
    for other in path.parent.iterdir():
        if other != path and other.name not in sys.argv[3:]:
            other.unlink()
    try:
        Database(path.parent, read_only=True).close()
    except StorageError as error:
        assert str(path.parent) in str(error), error
    print(kind, flush=True)
"""


def headers(path: Path) -> list[tuple[int, int]]:
    """Where each record's header begins, and its kind."""
    data, at, found = path.read_bytes(), 0, []
    while at + _HEADER.size <= len(data):
        if BLOCK - at % BLOCK < _HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        if not kind:
            break
        found.append((at, kind))
        at += _HEADER.size + length
    return found


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The directory of a database that was not closed, with a MANIFEST and a log of two blocks."""
    database = Database(tmp_path / "open")
    for number in range(60):
        batch = database.new_batch()
        batch.put(b"key %d" % number, bytes(1000))
        database.write(batch)
    shutil.copytree(tmp_path / "open", tmp_path / "killed")
    database.close()
    return tmp_path / "killed"


def test_logs_as_rocksdb_writes_them_are_sound(killed: Path) -> None:
    """Also where a record goes on in the next block, or the end is torn anywhere."""
    (log,) = killed.glob("*.log")
    assert {kind for _, kind in headers(log)} > {1}
    whole = log.read_bytes()
    for end in range(0, len(whole), 97):
        log.write_bytes(whole[:end])
        check_rocksdb_logs(killed)


@pytest.mark.parametrize("kind", [5, 6, 7, 8, 11])
@pytest.mark.parametrize("pattern", ["MANIFEST-*", "*.log"])
def test_a_record_that_would_be_read_for_ever_is_named(
    killed: Path, pattern: str, kind: int
) -> None:
    """Every one of the file, with its place."""
    (path,) = killed.glob(pattern)
    whole = path.read_bytes()
    for at, _ in headers(path):
        path.write_bytes(whole[: at + 6] + bytes((kind,)) + whole[at + 7 :])
        with pytest.raises(CorruptRecordError, match=f"{path.name}: corrupt at byte {at}:"):
            Database(killed)


@pytest.mark.parametrize("pattern", ["MANIFEST-*", "*.log"])
def test_opening_ends_whatever_the_kind_of_a_record_becomes(killed: Path, pattern: str) -> None:
    """With the database, or with an error that names it."""
    (path,) = killed.glob(pattern)
    kept = sorted(each.name for each in killed.iterdir())
    place = headers(path)[1][0] + 6
    done = subprocess.run(
        [sys.executable, "-c", OPENING, str(path), str(place), *kept],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.stdout.split() == [str(kind) for kind in range(256)], done.stderr
