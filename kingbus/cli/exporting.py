"""Writing binlog files to a directory, byte for byte as the source has them.

Owns: which files are meant, and that what is in the directory under a file's name is right: it is
written under another name and renamed when complete, and what is there already is compared before
it is gone on with. Never replaces a file that is another one. Must not know where the bytes come
from, nor how progress is shown.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from kingbus.binlog.gtid import GtidSet
from kingbus.errors import KingbusError
from kingbus.storage.files import LocalFileSystem

READ_BYTES: Final = 4 << 20
"""Asked for at once: what the admin API gives at most."""
HEAD_BYTES: Final = 1 << 10
"""Compared at the beginning: a FORMAT_DESCRIPTION, with the time at which the file was begun."""
TAIL_BYTES: Final = 64 << 10
"""Compared at the end of what is there: what a crash may have left unwritten, and then some."""


class ExportError(KingbusError):
    """The files cannot be written; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFile:
    """A file to be had. `size` counts the bytes that are held; `previous` is what came before."""

    name: str
    size: int
    closed: bool
    complete: bool
    previous: GtidSet


class FileSource(Protocol):
    """Where files come from. All raise KingbusErrors."""

    def files(self) -> list[HeldFile]:
        """Oldest first."""
        ...

    def executed(self) -> GtidSet:
        """What all files together hold, and what came before them."""
        ...

    def read(self, name: str, offset: int, size_max: int) -> bytes:
        """Bytes of a file; none behind its end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What became of one file. `outcome`: `written`, `continued` or `unchanged`."""

    name: str
    size: int
    outcome: str
    open: bool
    complete: bool


def chosen(
    source: FileSource, *, first: str = "", last: str = "", gtids: GtidSet | None = None
) -> list[HeldFile]:
    """The files from `first` to `last` that hold a transaction of `gtids`; not given: all.

    Raises ExportError for a name that is not held.
    """
    files = source.files()
    names = [file.name for file in files]
    for name in (first, last):
        if name and name not in names:
            raise ExportError(f"{name} is not held; `kingbus binlog list` shows what is")
    begin = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(files)
    if begin >= end > 0:
        raise ExportError(f"{first} comes after {last}")
    if gtids is None:
        return files[begin:end]
    if not files:
        return []
    ends = [file.previous for file in files[1:]] + [source.executed()]
    return [
        file
        for file, after in list(zip(files, ends, strict=True))[begin:end]
        if after.subtract(file.previous).overlaps(gtids)
    ]


def export(
    source: FileSource,
    files: Sequence[HeldFile],
    directory: Path,
    *,
    progress: Callable[[str, int], object] = lambda _name, _bytes: None,
) -> Iterator[Exported]:
    """Write files one after the other. `progress` is told how many bytes came to lie there.

    Raises ExportError, and what the source raises; repeating goes on where it ended.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make {directory}: {error}") from error
    for file in files:
        try:
            yield _Export(source, file, directory, progress).run()
        except OSError as error:
            raise ExportError(f"cannot write {file.name} in {directory}: {error}") from error


class _Export:
    """One file on its way."""

    def __init__(
        self,
        source: FileSource,
        file: HeldFile,
        directory: Path,
        progress: Callable[[str, int], object],
    ) -> None:
        if file.name != Path(file.name).name or file.name in {"", ".", ".."}:
            raise ExportError(f"{file.name!r} is no name for a file here")
        self._source = source
        self._file = file
        self._directory = directory
        self._progress = progress
        self._final = directory / file.name
        self._partial = directory / f"{file.name}.partial"
        self._mark = directory / f"{file.name}.open"

    def run(self) -> Exported:
        present = self._present()
        self._progress(self._file.name, present)
        if self._final.exists():
            outcome = "unchanged"
        else:
            outcome = "continued" if present else "written"
            self._write(present)
        self._note_open()
        return Exported(
            name=self._file.name,
            size=self._file.size,
            outcome=outcome,
            open=not self._file.closed,
            complete=self._file.complete,
        )

    def _present(self) -> int:
        """How many right bytes are there; afterwards they are in the partial file, or all."""
        size = _size(self._final)
        if size is not None:
            if size > self._file.size or not self._is_same(self._final, size):
                raise ExportError(
                    f"{self._final} is there already and is another file, or a longer one",
                    hint="remove it, or export to another directory",
                )
            if size < self._file.size:
                self._final.replace(self._partial)
            return size
        size = _size(self._partial)
        if size is None or size > self._file.size or not self._is_same(self._partial, size):
            return 0
        return size

    def _is_same(self, path: Path, size: int) -> bool:
        """Whether a file that is there begins and ends, at that size, as the source's does."""
        with path.open("rb") as opened:
            for start in (0, max(size - TAIL_BYTES, 0)):
                count = min(HEAD_BYTES if not start else TAIL_BYTES, size - start)
                opened.seek(start)
                if opened.read(count) != self._read(start, count):
                    return False
        return True

    def _read(self, offset: int, size: int) -> bytes:
        """All of them, but at the file's end."""
        data = b""
        while len(data) < size:
            more = self._source.read(self._file.name, offset + len(data), size - len(data))
            if not more:
                break
            data += more
        return data

    def _write(self, present: int) -> None:
        with self._partial.open("r+b" if present else "wb") as opened:
            opened.truncate(present)
            opened.seek(present)
            self._copy(opened, present)
            opened.flush()
            os.fsync(opened.fileno())
        self._partial.replace(self._final)
        LocalFileSystem().sync_directory(self._directory)

    def _copy(self, opened: BinaryIO, at: int) -> None:
        while at < self._file.size:
            data = self._read(at, min(READ_BYTES, self._file.size - at))
            if not data:
                raise ExportError(
                    f"{self._file.name} ends at {at} bytes, and {self._file.size} were told"
                )
            opened.write(data)
            at += len(data)
            self._progress(self._file.name, len(data))

    def _note_open(self) -> None:
        """A mark beside a file that may still grow."""
        if self._file.closed:
            self._mark.unlink(missing_ok=True)
        else:
            self._mark.write_text(json.dumps({"exported_bytes": self._file.size}) + "\n")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
