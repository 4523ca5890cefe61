"""One entry's data where it lies in a segment, for who hands it on without reading it.

Owns the look at the record's header, by which a wrong place is noticed before anything of it is
used. That the body is what was written is known elsewhere: see `checked`. It must not know what
the data is, nor where it goes.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kingbus.storage.errors import CorruptRecordError
from kingbus.storage.files import DescriptorPool, FileSystem
from kingbus.storage.record import BODY_BYTES_MAX, CRC_BYTES, HEADER, HEADER_BYTES, RecordKind

__all__ = ["StoredEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """The entry `index`, whose record begins at `offset` of the segment `path`."""

    files: FileSystem
    descriptors: DescriptorPool
    path: Path
    offset: int
    index: int

    @contextmanager
    def opened(self, *, may_block: bool = True) -> Iterator[tuple[int, int, int]]:
        """A descriptor, where in it the data begin, and how many bytes they are.

        Any thread. While it is open a removed segment stays readable. OSError, of which
        FileNotFoundError says that the segment was removed, and BlockingIOError that it would
        block and may not; CorruptRecordError when another record lies there.
        """
        with self.descriptors.use(self.path, may_open=may_block) as fd:
            yield fd, self.offset + HEADER_BYTES, self._length(fd, may_block=may_block)

    def _length(self, fd: int, *, may_block: bool) -> int:
        read = self.files.pread if may_block else self.files.pread_now
        header = read(fd, HEADER_BYTES, self.offset)
        if header is None:
            raise BlockingIOError(f"{self.path} is not in memory")
        if len(header) < HEADER_BYTES:
            raise CorruptRecordError(
                self.path, self.offset, f"it ends where entry {self.index} should be"
            )
        crc, _, _, length, kind, _, _, index, _ = HEADER.unpack(header)
        if zlib.crc32(header[CRC_BYTES:]) != crc or length > BODY_BYTES_MAX:
            raise CorruptRecordError(self.path, self.offset, "the record's header does not verify")
        if (kind, index) != (RecordKind.ENTRY, self.index):
            raise CorruptRecordError(
                self.path,
                self.offset,
                f"a record of kind {kind} and index {index} where entry {self.index} should be",
            )
        return int(length)
