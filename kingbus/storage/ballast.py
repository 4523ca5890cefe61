"""A file that only takes room, to be given up when the disk is full.

The database must be able to write a little for what it holds to be served at all: it writes when
it is opened, and cleans up after itself. While the ballast is there it may write; when it is spent
nothing more is applied until there is room for it again. Must not know who fills the disk.
"""

from pathlib import Path

from kingbus.storage.errors import StorageError
from kingbus.storage.files import FileSystem, LocalFileSystem, is_no_room

__all__ = ["Ballast", "ballast_bytes"]

BYTES_MAX = 64 << 20
"""Eight write buffers of the database: what it may have in memory and to merge at a time."""
BYTES_MIN = 8 << 20
SEGMENT_PART = 4


def ballast_bytes(segment_bytes: int) -> int:
    """How much is held back beside segments of that size."""
    return min(BYTES_MAX, max(BYTES_MIN, segment_bytes // SEGMENT_PART))


class Ballast:
    """See the module. Every method blocks; one thread at a time."""

    def __init__(self, path: Path, size: int, *, files: FileSystem | None = None) -> None:
        self._path = path
        self._size = size
        self._files = files or LocalFileSystem()
        self.is_held = False
        """False: spent, or never there was room for it."""

    def hold(self) -> bool:
        """Take the room, if it is there and a little more; whether it is held."""
        if self.is_held:
            return True
        files = self._files
        try:
            if self._path.name in files.names(self._path.parent):
                if files.file_bytes(self._path) == self._size:
                    self.is_held = True
                    return True
                files.unlink(self._path)
            if files.free_bytes(self._path.parent) < self._size + self._size // 4:
                return False
            fd = files.open(self._path, create=True)
            try:
                files.allocate(fd, self._size)
            finally:
                files.close(fd)
        except OSError as error:
            if not is_no_room(error):
                raise StorageError(f"cannot use {self._path}: {error}") from error
            self.release()
            return False
        self.is_held = True
        return True

    def release(self) -> bool:
        """Give the room up; False when there was none to give."""
        self.is_held = False
        try:
            self._files.unlink(self._path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"cannot remove {self._path}: {error}") from error
        return True
