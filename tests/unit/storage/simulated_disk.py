"""A file system in memory that can lose power, refuse a write, or change a bit.

What was written is volatile until the file is synced, and names until the directory is. A power
loss keeps a random part of what was volatile: single sectors of a write, in any order, and some
prefix of the changes of names. `LocalFileSystem` and this one pass the same tests
(`test_files.py`).
"""

import errno
from collections import Counter
from pathlib import Path
from random import Random

from kingbus.storage.errors import DirectoryInUseError

SECTOR = 512


class PowerLostError(Exception):
    """The machine stopped in the middle of an operation."""


class Inode:
    def __init__(self):
        self.data = bytearray()
        self.durable = bytearray()
        self.pending = []  # ("write", offset, bytes) or ("size", bytes)

    def apply(self, target, operation):
        match operation:
            case ("write", offset, data):
                if len(target) < offset + len(data):
                    target.extend(bytes(offset + len(data) - len(target)))
                target[offset : offset + len(data)] = data
            case ("size", size):
                if size < len(target):
                    del target[size:]
                else:
                    target.extend(bytes(size - len(target)))

    def change(self, operation):
        self.apply(self.data, operation)
        self.pending.append(operation)

    def sync(self):
        for operation in self.pending:
            self.apply(self.durable, operation)
        self.pending.clear()

    def crash(self, random, keep):
        for operation in self.pending:
            match operation:
                case ("write", offset, data):
                    at = 0
                    while at < len(data):
                        end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
                        if random.random() < keep:
                            self.apply(self.durable, ("write", offset + at, data[at:end]))
                        at = end
                case _:
                    if random.random() < keep:
                        self.apply(self.durable, operation)
        self.pending.clear()
        self.data = bytearray(self.durable)


class SimulatedDisk:
    """Implements kingbus.storage.files.FileSystem for one directory."""

    buffers_max = 7

    def __init__(self, *, seed=0, short_writes=False, capacity=1 << 40):
        self.random = Random(seed)
        self.short_writes = short_writes
        self.capacity = capacity
        self.names_now = {}
        self.names_durable = {}
        self.names_pending = []
        self.descriptors = {}
        self.next_descriptor = 100
        self.locked = set()
        self.operations_left = None
        self.errors = {}  # operation name -> OSError number, once
        self.counts = Counter()

    # Faults

    def _operation(self, name):
        self.counts[name] += 1
        if self.operations_left is not None:
            if self.operations_left == 0:
                raise PowerLostError(name)
            self.operations_left -= 1
        number = self.errors.pop(name, None)
        if number is not None:
            raise OSError(number, f"injected into {name}")

    def lose_power(self, *, keep=None):
        """Everything stops; `keep` is the share of volatile sectors that reached the disk."""
        if keep is None:
            keep = self.random.choice((0.0, 0.3, 0.7, 0.95, 1.0))
        survivors = self.random.randint(0, len(self.names_pending))
        for operation in self.names_pending[:survivors]:
            self._apply_name(self.names_durable, operation)
        self.names_pending.clear()
        for inode in {id(inode): inode for inode in self.names_durable.values()}.values():
            inode.crash(self.random, keep)
        self.names_now = dict(self.names_durable)
        self.kill_process()

    def kill_process(self):
        """The process dies, the machine goes on: nothing written is lost."""
        self.descriptors.clear()
        self.locked.clear()
        self.operations_left = None

    def flip_bit(self, path, offset, bit):
        inode = self.names_now[path]
        inode.data[offset] ^= 1 << bit
        inode.durable[offset] ^= 1 << bit

    @staticmethod
    def _apply_name(names, operation):
        match operation:
            case ("link", path, inode):
                names[path] = inode
            case ("unlink", path):
                names.pop(path, None)
            case ("rename", old, new):
                if old in names:
                    names[new] = names.pop(old)

    def _change_name(self, operation):
        self._apply_name(self.names_now, operation)
        self.names_pending.append(operation)

    def _used(self):
        return sum(len(inode.data) for inode in self.names_now.values())

    def _need_room(self, inode, size):
        if size > len(inode.data) and self._used() + size - len(inode.data) > self.capacity:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _inode(self, path):
        try:
            return self.names_now[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path)) from None

    # FileSystem

    def open(self, path, *, create=False, write=False):
        if create:
            if path in self.names_now:
                raise FileExistsError(errno.EEXIST, "File exists", str(path))
            self._operation("create")
            self._change_name(("link", path, Inode()))
        inode = self._inode(path)
        self.next_descriptor += 1
        self.descriptors[self.next_descriptor] = inode
        return self.next_descriptor

    def close(self, fd):
        self.descriptors.pop(fd, None)

    def pread(self, fd, length, offset):
        self.counts["pread"] += 1
        data = bytes(self.descriptors[fd].data[offset : offset + length])
        self.counts["bytes read"] += len(data)
        return data

    def pwritev(self, fd, buffers, offset):
        assert len(buffers) <= self.buffers_max
        data = b"".join(bytes(buffer) for buffer in buffers)
        if self.short_writes and len(data) > 1:
            data = data[: self.random.randint(1, len(data))]
        inode = self.descriptors[fd]
        self._need_room(inode, offset + len(data))
        try:
            self._operation("pwritev")
        except PowerLostError:
            inode.change(("write", offset, data))  # some of it was on the way
            raise
        inode.change(("write", offset, data))
        return len(data)

    def fdatasync(self, fd):
        self._operation("fdatasync")
        self.descriptors[fd].sync()

    def fsync(self, fd):
        self._operation("fsync")
        self.descriptors[fd].sync()

    def truncate(self, fd, size):
        self._operation("truncate")
        self.descriptors[fd].change(("size", size))

    def allocate(self, fd, size):
        self._operation("allocate")
        inode = self.descriptors[fd]
        self._need_room(inode, size)
        if size > len(inode.data):
            inode.change(("size", size))

    def size(self, fd):
        return len(self.descriptors[fd].data)

    def next_data(self, fd, offset):
        data = self.descriptors[fd].data
        rest = data[offset:]
        stripped = rest.lstrip(b"\0")
        return len(data) - len(stripped) if stripped else None

    def names(self, directory):
        return sorted(path.name for path in self.names_now if path.parent == directory)

    def file_bytes(self, path):
        return len(self._inode(path).data)

    def make_directory(self, path):
        pass

    def rename(self, old, new):
        self._inode(old)
        self._operation("rename")
        self._change_name(("rename", old, new))

    def unlink(self, path):
        self._inode(path)
        self._operation("unlink")
        self._change_name(("unlink", path))

    def sync_directory(self, path):
        self._operation("sync_directory")
        for operation in self.names_pending:
            self._apply_name(self.names_durable, operation)
        self.names_pending.clear()

    def free_bytes(self, path):
        return self.capacity - self._used()

    def lock(self, path):
        if path in self.locked:
            raise DirectoryInUseError(f"data directory {path.parent} is in use by process 1")
        self.locked.add(path)
        self.next_descriptor += 1
        self.descriptors[self.next_descriptor] = path
        return self.next_descriptor

    def unlock(self, lock):
        self.locked.discard(self.descriptors.pop(lock, Path()))

    def random_bytes(self, length):
        return self.random.randbytes(length)
