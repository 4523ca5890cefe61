"""The real file system and the simulated one behave alike."""

import errno
import os
from pathlib import Path
from random import Random

import pytest

from kingbus.storage.errors import DirectoryInUseError
from kingbus.storage.files import DescriptorPool, LocalFileSystem, write_all
from tests.unit.storage.simulated_disk import SimulatedDisk


@pytest.fixture(params=["local", "simulated", "simulated with short writes"])
def place(request, tmp_path):
    """A file system and a directory on it."""
    if request.param == "local":
        return LocalFileSystem(), tmp_path
    return SimulatedDisk(short_writes="short" in request.param), Path("/d")


def open_descriptors():
    return {str(path) for path in Path("/proc/self/fd").iterdir()}


def test_a_file_takes_what_is_written(place):
    """Buffers follow one another, however many there are and however little each call takes."""
    files, directory = place
    fd = files.open(directory / "a", create=True)
    random = Random(1)
    buffers = [random.randbytes(random.randint(0, 40)) for _ in range(3000)]
    whole = b"".join(buffers)

    end = write_all(files, fd, buffers, 10)

    assert end == 10 + len(whole) == files.size(fd)
    assert files.pread(fd, len(whole) + 99, 10) == whole
    assert files.pread(fd, 10, 0) == bytes(10)
    assert files.pread(fd, 10, end) == b""
    files.close(fd)


def test_allocated_room_is_zeros_without_data(place):
    """And truncating takes it away."""
    files, directory = place
    fd = files.open(directory / "a", create=True)
    files.allocate(fd, 1 << 20)
    write_all(files, fd, [b"x" * 10], 0)
    assert files.size(fd) == 1 << 20
    found = files.next_data(fd, 500_000)
    assert found is None or not files.pread(fd, 1 << 20, 500_000).strip(b"\0")

    files.truncate(fd, 5)

    assert files.size(fd) == 5
    assert files.next_data(fd, 5) is None
    assert files.next_data(fd, 2) == 2
    files.fdatasync(fd)
    files.fsync(fd)
    files.close(fd)


def test_names(place):
    """Files are made, renamed, listed and removed; an old name is gone."""
    files, directory = place
    files.make_directory(directory)
    files.close(files.open(directory / "b", create=True))
    files.close(files.open(directory / "a", create=True))
    with pytest.raises(FileExistsError):
        files.open(directory / "a", create=True)
    assert files.names(directory) == ["a", "b"]

    files.rename(directory / "a", directory / "c")
    files.unlink(directory / "b")
    files.sync_directory(directory)

    assert files.names(directory) == ["c"]
    assert files.file_bytes(directory / "c") == 0
    with pytest.raises(FileNotFoundError):
        files.open(directory / "a")
    assert files.free_bytes(directory) > 1 << 20


def test_a_lock_has_one_holder(place):
    """Until it is given back."""
    files, directory = place
    lock = files.lock(directory / "LOCK")
    with pytest.raises(DirectoryInUseError, match=r"is in use by process \d+"):
        files.lock(directory / "LOCK")

    files.unlock(lock)

    files.unlock(files.lock(directory / "LOCK"))


def test_a_write_that_writes_nothing_is_an_error(tmp_path):
    """It would be tried for ever."""

    class Stuck(LocalFileSystem):
        def pwritev(self, fd, buffers, offset):
            return 0

    files = Stuck()
    fd = files.open(tmp_path / "a", create=True)
    with pytest.raises(OSError, match="wrote nothing") as raised:
        write_all(files, fd, [b"x"], 0)
    files.close(fd)
    assert raised.value.errno == errno.EIO


def test_idle_descriptors_are_bounded(tmp_path):
    """The pool keeps a few open, closes the ones used longest ago, and all of them at the end."""
    files = LocalFileSystem()
    paths = [tmp_path / str(number) for number in range(10)]
    for path in paths:
        path.write_bytes(path.name.encode())
    before = open_descriptors()
    pool = DescriptorPool(files, limit=3)

    for path in paths * 2:
        with pool.use(path) as fd, pool.use(path) as other:
            assert files.pread(fd, 9, 0) == files.pread(other, 9, 0) == path.name.encode()
        assert len(open_descriptors() - before) <= 4
    pool.close()

    assert len(open_descriptors() - before) <= 1  # of listing it


def test_descriptors_of_a_removed_file_are_given_up(tmp_path):
    """Idle ones at once, one in use when its reader is done; the reader is not disturbed."""
    files, path = LocalFileSystem(), tmp_path / "a"
    path.write_bytes(b"data")
    pool = DescriptorPool(files)
    with pool.use(path) as first:
        with pool.use(path):
            pass
        path.unlink()
        pool.drop(path)
        assert files.pread(first, 4, 0) == b"data"

    opened = [Path(fd).readlink() for fd in open_descriptors() if os.path.lexists(fd)]
    assert not [name for name in opened if name.name.startswith("a ")]
    with pytest.raises(FileNotFoundError), pool.use(path):
        pass


def test_a_descriptor_that_is_not_open_is_not_opened_against_will(tmp_path):
    """Since opening may wait; one that is open is given at once."""
    path = tmp_path / "file"
    path.write_bytes(b"data")
    pool = DescriptorPool(LocalFileSystem())
    with pytest.raises(BlockingIOError), pool.use(path, may_open=False):
        pass
    with pool.use(path) as first, pytest.raises(BlockingIOError), pool.use(path, may_open=False):
        pass
    with pool.use(path, may_open=False) as again:
        assert again == first
    pool.drop(path)
    with pytest.raises(BlockingIOError), pool.use(path, may_open=False):
        pass
    pool.close()


def test_what_is_in_memory_is_read_at_once(tmp_path):
    """The same bytes, or none where the system cannot tell; never fewer than were asked for."""
    path = tmp_path / "file"
    path.write_bytes(b"some data")
    files = LocalFileSystem()
    fd = files.open(path)
    assert files.pread_now(fd, 4, 5) in {b"data", None}
    assert files.pread_now(fd, 5, 5) is None
    files.close(fd)
