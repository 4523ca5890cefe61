"""The operations on files that storage needs, as one small object.

The log goes through this door alone, so that a test can count what is read, let a write or a sync
fail, or take the power away between any two operations. `LocalFileSystem` is the real one.
"""

import errno
import fcntl
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Protocol

from kingbus.storage.errors import DirectoryInUseError

__all__ = ["DescriptorPool", "FileSystem", "LocalFileSystem", "is_no_room", "write_all"]

Buffer = bytes | bytearray | memoryview

WRITE_BYTES_MAX = 1 << 30
"""Bytes of one system call: Linux itself stops a little below 2 GiB."""


def is_no_room(error: OSError) -> bool:
    """Whether the operating system has no room for it, on the disk or within a quota."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


class FileSystem(Protocol):
    """File operations; all raise OSError as the operating system does."""

    @property
    def buffers_max(self) -> int:
        """How many buffers one `pwritev` takes."""
        ...

    def open(self, path: Path, *, create: bool = False, write: bool = False) -> int:
        """A descriptor; `create` needs that the file does not exist yet, and implies `write`."""
        ...

    def close(self, fd: int) -> None: ...

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        ...

    def pread_now(self, fd: int, length: int, offset: int) -> bytes | None:
        """The same; None when that would have to wait for a disk, or may have to."""
        ...

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """How many bytes were written: perhaps not all."""
        ...

    def fdatasync(self, fd: int) -> None: ...

    def fsync(self, fd: int) -> None: ...

    def truncate(self, fd: int, size: int) -> None: ...

    def allocate(self, fd: int, size: int) -> None:
        """Reserve room up to `size`; what is new reads as zeros."""
        ...

    def size(self, fd: int) -> int: ...

    def next_data(self, fd: int, offset: int) -> int | None:
        """Where bytes that may differ from zero begin, at `offset` or later; None: nowhere."""
        ...

    def names(self, directory: Path) -> list[str]: ...

    def file_bytes(self, path: Path) -> int: ...

    def make_directory(self, path: Path) -> None:
        """Create it where it is missing."""
        ...

    def rename(self, old: Path, new: Path) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def sync_directory(self, path: Path) -> None: ...

    def free_bytes(self, path: Path) -> int:
        """What an ordinary user may still fill on this file system."""
        ...

    def lock(self, path: Path) -> int:
        """Take the lock file, creating it; DirectoryInUseError when another has it."""
        ...

    def unlock(self, lock: int) -> None: ...

    def random_bytes(self, length: int) -> bytes: ...


class LocalFileSystem:
    """The operating system's own."""

    buffers_max = min(os.sysconf("SC_IOV_MAX"), 1024)

    def open(self, path: Path, *, create: bool = False, write: bool = False) -> int:
        """See FileSystem."""
        flags = os.O_RDWR if write or create else os.O_RDONLY
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return os.open(path, flags | os.O_CLOEXEC, 0o640)

    def close(self, fd: int) -> None:
        """See FileSystem."""
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """See FileSystem."""
        data = os.pread(fd, length, offset)
        while len(data) < length:  # a signal may cut a read short; only the end of the file is 0
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pread_now(self, fd: int, length: int, offset: int) -> bytes | None:
        """See FileSystem."""
        data = bytearray(length)
        try:
            count = os.preadv(fd, [data], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EOPNOTSUPP}:
                return None
            raise
        return bytes(data) if count == length else None

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """See FileSystem."""
        return os.pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        """See FileSystem."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """See FileSystem."""
        os.fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """See FileSystem."""
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        """See FileSystem."""
        os.posix_fallocate(fd, 0, size)

    def size(self, fd: int) -> int:
        """See FileSystem."""
        return os.fstat(fd).st_size

    def next_data(self, fd: int, offset: int) -> int | None:
        """See FileSystem. Preallocated room counts as a hole, so this need not read it."""
        if offset >= self.size(fd):
            return None
        try:
            return os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            return offset  # a file system that cannot tell: everything may be data

    def names(self, directory: Path) -> list[str]:
        """See FileSystem."""
        return sorted(path.name for path in directory.iterdir())

    def file_bytes(self, path: Path) -> int:
        """See FileSystem."""
        return path.stat().st_size

    def make_directory(self, path: Path) -> None:
        """See FileSystem."""
        path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        """See FileSystem."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """See FileSystem."""
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        """See FileSystem."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """See FileSystem."""
        facts = os.statvfs(path)
        return facts.f_bavail * facts.f_frsize

    def lock(self, path: Path) -> int:
        """See FileSystem. The file tells the holder's process id, for the other's error."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
            raise DirectoryInUseError(
                f"data directory {path.parent} is in use by process {holder or '(unknown)'}"
            ) from None
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            if not is_no_room(error):  # the number only helps people
                os.close(fd)
                raise
        return fd

    def unlock(self, lock: int) -> None:
        """See FileSystem. The file stays: to unlink it would let two processes hold a lock."""
        os.close(lock)

    def random_bytes(self, length: int) -> bytes:
        """See FileSystem."""
        return os.urandom(length)


def write_all(files: FileSystem, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
    """Write all the buffers one behind the other at `offset`; returns the offset behind them."""
    waiting = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    at = 0
    while at < len(waiting):
        end, size = at, 0
        while end < len(waiting) and end - at < files.buffers_max:
            size += len(waiting[end])
            end += 1
            if size >= WRITE_BYTES_MAX:
                break
        written = files.pwritev(fd, waiting[at:end], offset)
        if written <= 0:
            raise OSError(errno.EIO, "a write wrote nothing")
        offset += written
        while at < end and written >= len(waiting[at]):
            written -= len(waiting[at])
            at += 1
        if written:
            waiting[at] = waiting[at][written:]
    return offset


class DescriptorPool:
    """Descriptors for reading, kept open for the next reader, at most `limit` of them idle.

    Safe from any thread. A descriptor in use is never closed under its reader.
    """

    def __init__(self, files: FileSystem, *, limit: int = 32) -> None:
        self._files = files
        self._limit = limit
        self._lock = Lock()
        self._idle: OrderedDict[Path, list[int]] = OrderedDict()
        self._used: Counter[Path] = Counter()
        self._gone: set[Path] = set()  # removed files that are still being read

    @contextmanager
    def use(self, path: Path, *, may_open: bool = True) -> Iterator[int]:
        """A descriptor of this file for the duration of the block.

        BlockingIOError where it would have to be opened and may not.
        """
        with self._lock:
            if not may_open and path not in self._idle:
                raise BlockingIOError(f"{path} is not open")
            self._used[path] += 1
            idle = self._idle.get(path)
            fd = idle.pop() if idle else None
            if idle is not None and not idle:
                del self._idle[path]
        try:
            if fd is None:
                fd = self._files.open(path)
            yield fd
        finally:
            self._give_back(path, fd)

    def drop(self, path: Path) -> None:
        """The file was removed: close its descriptors, those in use as soon as they come back."""
        with self._lock:
            if path in self._used:
                self._gone.add(path)
            closing = self._idle.pop(path, [])
        for fd in closing:
            self._files.close(fd)

    def close(self) -> None:
        """Close every idle descriptor, and those in use as soon as they come back."""
        with self._lock:
            closing = [fd for idle in self._idle.values() for fd in idle]
            self._idle.clear()
            self._limit = 0
        for fd in closing:
            self._files.close(fd)

    def _give_back(self, path: Path, fd: int | None) -> None:
        closing = []
        with self._lock:
            if fd is not None:
                self._idle.setdefault(path, []).append(fd)
                self._idle.move_to_end(path)
            self._used[path] -= 1
            if not self._used[path]:
                del self._used[path]
            if path in self._gone:
                closing += self._idle.pop(path, [])
                if path not in self._used:
                    self._gone.discard(path)
            while sum(map(len, self._idle.values())) > self._limit:
                oldest = next(iter(self._idle))
                closing.append(self._idle[oldest].pop())
                if not self._idle[oldest]:
                    del self._idle[oldest]
        for old in closing:
            self._files.close(old)
