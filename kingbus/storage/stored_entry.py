"""One entry's data where it lies in a segment, for who hands it on without reading it.

Owns the way to its record, from the place where a run of entries begins, by the headers alone;
each of them is verified, so that a wrong place is noticed before anything of it is used. That the
body is what was written is known elsewhere: see `checked`. It must not know what the data is, nor
where it goes. Data that are compressed or sealed have to be read: of those nobody makes one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kingbus.crc import crc32
from kingbus.storage.errors import CorruptRecordError
from kingbus.storage.files import DescriptorPool, FileSystem
from kingbus.storage.record import BODY_BYTES_MAX, CRC_BYTES, HEADER, HEADER_BYTES, RecordKind

__all__ = ["StoredEntry"]

RECORDS_MAX: Final = 1024
"""Looked at on the way: a run has 128 entries at most, each perhaps with a mark and a hard state
before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """The entry `index` in a run of the segment `path`, whose first entry lies at `offset`."""

    files: FileSystem
    descriptors: DescriptorPool
    path: Path
    first: int
    offset: int
    index: int

    @contextmanager
    def opened(self, *, may_block: bool = True) -> Iterator[tuple[int, int, int]]:
        """A descriptor, where in it the data begin, and how many bytes they are.

        Any thread. While it is open a removed segment stays readable. OSError, of which
        FileNotFoundError says that the segment was removed, and BlockingIOError that it would
        block and may not; CorruptRecordError when something else lies there.
        """
        with self.descriptors.use(self.path, may_open=may_block) as fd:
            yield fd, *self._find(fd, may_block=may_block)

    def _find(self, fd: int, *, may_block: bool) -> tuple[int, int]:
        offset, expected = self.offset, self.first
        for _ in range(RECORDS_MAX):
            kind, flags, index, length = self._header(fd, offset, may_block=may_block)
            if kind == RecordKind.ENTRY:
                if index != expected:
                    raise CorruptRecordError(
                        self.path, offset, f"entry {index} where entry {expected} should be"
                    )
                if index == self.index:
                    if flags:
                        raise CorruptRecordError(
                            self.path, offset, f"entry {index} is not stored as it is"
                        )
                    return offset + HEADER_BYTES, length
                expected += 1
            offset += HEADER_BYTES + length
        raise CorruptRecordError(
            self.path, self.offset, f"entry {self.index} is not near entry {self.first}"
        )

    def _header(self, fd: int, offset: int, *, may_block: bool) -> tuple[int, int, int, int]:
        read = self.files.pread if may_block else self.files.pread_now
        header = read(fd, HEADER_BYTES, offset)
        if header is None:
            raise BlockingIOError(f"{self.path} is not in memory")
        if len(header) < HEADER_BYTES:
            raise CorruptRecordError(
                self.path, offset, f"it ends where entry {self.index} should be"
            )
        crc, _, _, length, kind, _, flags, index, _ = HEADER.unpack(header)
        if crc32(header[CRC_BYTES:]) != crc or length > BODY_BYTES_MAX:
            raise CorruptRecordError(self.path, offset, "the record's header does not verify")
        return int(kind), int(flags), int(index), int(length)
