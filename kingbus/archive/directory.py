"""An archive in a directory: a mounted disk, a network file system.

Owns how objects lie there: under their keys, written beside as `.partial`, synced and renamed when
whole. Whoever else looks into the directory sees the files under their own names.
"""

import errno
import os
from pathlib import Path
from typing import IO

from kingbus.archive.errors import ConflictError, StoreError
from kingbus.storage.files import LocalFileSystem

_PARTIAL = ".partial"
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems say that have no second names."""


class DirectoryStore:
    """See `store.Store`."""

    def __init__(self, path: Path, *, owner: str) -> None:
        """`owner` is in the names of what this process has not finished: it alone writes to it."""
        self._path = path
        self._suffix = f".{owner}{_PARTIAL}"

    @property
    def shown(self) -> str:
        return str(self._path)

    def size(self, key: str) -> int | None:
        try:
            return self._file(key).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(self._file(key), error) from error

    def get(self, key: str, start: int, size_max: int) -> bytes:
        path = self._file(key)
        try:
            with path.open("rb") as opened:
                opened.seek(start)
                return opened.read(size_max)
        except OSError as error:
            raise _failed(path, error) from error

    def put(self, key: str, data: bytes) -> None:
        upload = self.upload(key)
        upload.put(data)
        upload.finish()

    def upload(self, key: str) -> "DirectoryUpload":
        path = self._file(key)
        try:
            # The directory itself is not made: an archive that is not mounted would be written
            # to the disk below.
            if not self._path.is_dir():
                raise StoreError(f"{self._path} is not there")
            path.parent.mkdir(parents=True, exist_ok=True)
            return DirectoryUpload(path, path.with_name(path.name + self._suffix))
        except OSError as error:
            raise _failed(path, error) from error

    def names(self, prefix: str) -> list[str]:
        folder = self._file(prefix)
        try:
            if not self._path.is_dir():
                raise StoreError(f"{self._path} is not there")
            if not folder.is_dir():
                return []
            return sorted(
                prefix + each.name for each in folder.iterdir() if each.suffix != _PARTIAL
            )
        except OSError as error:
            raise _failed(folder, error) from error

    def _file(self, key: str) -> Path:
        return self._path / key


class DirectoryUpload:
    """See `store.Upload`."""

    def __init__(self, path: Path, partial: Path) -> None:
        self._path = path
        self._partial = partial
        self._at = 0
        self._present = self._partial.stat().st_size if self._partial.exists() else 0

    def put(self, data: bytes) -> bool:
        try:
            with self._partial.open("r+b" if self._present else "w+b") as opened:
                is_sent = not self._has(opened, data)
                if is_sent:
                    opened.truncate(self._at)
                    opened.seek(self._at)
                    opened.write(data)
                    opened.flush()
                    os.fsync(opened.fileno())
        except OSError as error:
            raise _failed(self._partial, error) from error
        self._at += len(data)
        self._present = max(self._present, self._at) if not is_sent else self._at
        return is_sent

    def _has(self, opened: IO[bytes], data: bytes) -> bool:
        if self._present < self._at + len(data):
            return False
        opened.seek(self._at)
        return opened.read(len(data)) == data

    def finish(self) -> None:
        try:
            with self._partial.open("r+b") as opened:
                opened.truncate(self._at)
                os.fsync(opened.fileno())
            self._name()
            LocalFileSystem().sync_directory(self._path.parent)
        except FileExistsError:
            self._partial.unlink(missing_ok=True)
            raise ConflictError(f"{self._path} is there already") from None
        except OSError as error:
            raise _failed(self._path, error) from error

    def _name(self) -> None:
        """Gives it its name, unless something has that already."""
        try:
            os.link(self._partial, self._path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._path.exists():
                raise FileExistsError from None
            self._partial.rename(self._path)
        else:
            self._partial.unlink()


def _failed(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: {error.strerror or error}")
