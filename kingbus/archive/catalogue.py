"""What is in an archive: one JSON object for each file, written once the file is whole.

Owns the names of objects, the form of an entry, and a node's view of all entries, which are read
once and never change. An entry has all that a dump has to know of a file without reading it. Must
not know how a file gets into the store.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import zstandard

from kingbus.archive.errors import DamagedError
from kingbus.archive.store import Store
from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError
from kingbus.crc import crc32
from kingbus.pb.command_pb2 import FileStart
from kingbus.pb.record_pb2 import FileRow

VERSION: Final = 1
CATALOGUE: Final = "catalogue/"
FILES: Final = "files/"
ENTRY_BYTES_MAX: Final = 64 << 20
"""A set of a million intervals is about 40 MB of text; larger is no entry."""
CHUNK_BYTES: Final = 4 << 20
"""Of a file's bytes so many are compressed by themselves, so that reading may begin anywhere."""
ZSTD_LEVEL: Final = 3
SUFFIXES: Final = {"none": "", "zstd": ".zst"}


def pack(chunk: bytes, compression: str) -> bytes:
    """A chunk as it is stored."""
    if compression == "none":
        return chunk
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(chunk)


def unpack(data: bytes, compression: str, size: int) -> bytes:
    """The opposite; DamagedError for what does not become `size` bytes."""
    try:
        chunk = data
        if compression != "none":
            chunk = zstandard.ZstdDecompressor().decompress(data, max_output_size=CHUNK_BYTES)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a compressed chunk cannot be read: {error}") from error
    if len(chunk) != size:
        raise DamagedError(f"a chunk has {len(chunk)} bytes instead of {size}")
    return chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedFile:
    """One entry. `row` is as the relay state had it; `size` counts the bytes held of the file.

    `chunks` are the stored sizes of each CHUNK_BYTES of it, `crcs` their CRC32 unpacked; `before`
    and `after` are all that was executed when the file began and when it ended.
    """

    row: FileRow
    size: int
    sha256: str
    before: GtidSet
    after: GtidSet
    compression: str
    chunks: Sequence[int]
    crcs: Sequence[int]

    @property
    def complete(self) -> bool:
        return not self.row.gaps

    @property
    def key(self) -> str:
        """Where the file itself is."""
        return file_key(self.row.served_name, self.compression)

    @property
    def entry_key(self) -> str:
        return entry_key(self.row)

    def chunk_size(self, number: int) -> int:
        """The bytes of a chunk before it was compressed."""
        return min(CHUNK_BYTES, self.size - number * CHUNK_BYTES)

    def chunk(self, store: Store, number: int) -> bytes:
        """Blocks. One chunk of the file, unpacked; StoreError, DamagedError."""
        stored = self.chunks[number]
        data = store.get(self.key, sum(self.chunks[:number]), stored)
        if len(data) != stored:
            raise DamagedError(f"{self.key}: chunk {number} has {len(data)} bytes, not {stored}")
        try:
            chunk = unpack(data, self.compression, self.chunk_size(number))
        except DamagedError as error:
            raise DamagedError(f"{self.key}: {error}") from error
        if crc32(chunk) != self.crcs[number]:
            raise DamagedError(f"{self.key}: chunk {number} is not what was archived")
        return chunk

    def encode(self) -> bytes:
        row = self.row
        fields = {
            "version": VERSION,
            "name": row.served_name,
            "source_name": row.name,
            "epoch": row.epoch,
            "ordinal": row.ordinal,
            "first_index": row.first_index,
            "last_index": row.last_index,
            "size": self.size,
            "end_position": row.end_position,
            "sha256": self.sha256,
            "gtids_before": str(self.before),
            "gtids": str(self.after.subtract(self.before)),
            "gtids_after": str(self.after),
            "first_time": row.first_time,
            "last_time": row.last_time,
            "complete": self.complete,
            "gaps": [[gap.start, gap.end] for gap in row.gaps],
            "created": row.start.created,
            "server_version": row.start.server_version,
            "checksum_algorithm": row.start.checksum_algorithm,
            "event_types": row.start.event_types,
            "object": self.key,
            "compression": self.compression,
            "stored_size": sum(self.chunks),
            "chunk_bytes": CHUNK_BYTES,
            "chunks": list(self.chunks),
            "chunk_crc32": list(self.crcs),
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, key: str) -> Self:
        """DamagedError for what is no entry, or one of a later version."""
        try:
            fields: dict[str, Any] = json.loads(data)
            if fields["version"] != VERSION or fields["chunk_bytes"] != CHUNK_BYTES:
                raise DamagedError(f"{key} has a form that this version does not know")
            file = cls(
                row=_row(fields),
                size=int(fields["size"]),
                sha256=str(fields["sha256"]),
                before=GtidSet.parse(fields["gtids_before"]),
                after=GtidSet.parse(fields["gtids_after"]),
                compression=str(fields["compression"]),
                chunks=tuple(int(each) for each in fields["chunks"]),
                crcs=tuple(int(each) for each in fields["chunk_crc32"]),
            )
        except (ValueError, KeyError, TypeError, MalformedGtidSetError) as error:
            raise DamagedError(f"{key} is no catalogue entry: {error!r}") from error
        count = -(-file.size // CHUNK_BYTES)
        if file.compression not in SUFFIXES or file.size < 1:
            raise DamagedError(f"{key} contradicts itself")
        if not len(file.chunks) == len(file.crcs) == count:
            raise DamagedError(f"{key} contradicts itself")
        return file


def _row(fields: Mapping[str, Any]) -> FileRow:
    row = FileRow(
        ordinal=fields["ordinal"],
        epoch=fields["epoch"],
        name=fields["source_name"],
        served_name=fields["name"],
        first_index=fields["first_index"],
        last_index=fields["last_index"],
        start_position=4,
        end_position=fields["end_position"],
        closed=True,
        first_time=fields["first_time"],
        last_time=fields["last_time"],
        previous_gtids=GtidSet.parse(fields["gtids_before"]).encode(),
        start=FileStart(
            created=fields["created"],
            server_version=fields["server_version"],
            checksum_algorithm=fields["checksum_algorithm"],
            event_types=fields["event_types"],
        ),
    )
    for start, end in fields["gaps"]:
        row.gaps.add(start=start, end=end)
    return row


def file_key(served_name: str, compression: str) -> str:
    """The object of a file; names are unique among all files that a relay ever held."""
    return f"{FILES}{served_name}{SUFFIXES[compression]}"


def entry_key(row: FileRow) -> str:
    """The object of a file's entry; sorted they are in the files' order."""
    return f"{CATALOGUE}{row.ordinal:010}-{row.served_name}.json"


class Catalogue:
    """A node's view of an archive. `load` blocks and belongs into a worker thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.read_at: float | None = None
        """When it was last read whole, on trio's clock; whoever reads it sets it."""
        self.damaged: dict[str, str] = {}
        """Entries that cannot be used, and why."""
        self._keys: set[str] = set()
        self._files: dict[int, ArchivedFile] = {}

    def load(self) -> list[tuple[str, ArchivedFile | DamagedError]]:
        """What came since the last time; `take` takes it in. StoreError."""
        found: list[tuple[str, ArchivedFile | DamagedError]] = []
        for key in self.store.names(CATALOGUE):
            if key in self._keys or not key.endswith(".json"):
                continue
            data = self.store.get(key, 0, ENTRY_BYTES_MAX)
            try:
                found.append((key, ArchivedFile.decode(data, key)))
            except DamagedError as error:
                found.append((key, error))
        return found

    def take(self, found: Sequence[tuple[str, ArchivedFile | DamagedError]]) -> None:
        """Takes in what was loaded or written."""
        for key, file in found:
            self._keys.add(key)
            if isinstance(file, DamagedError):
                self.damaged[key] = str(file)
            else:
                self._files[file.row.ordinal] = file

    def __len__(self) -> int:
        return len(self._files)

    def file(self, ordinal: int) -> ArchivedFile | None:
        return self._files.get(ordinal)

    def files(self) -> list[ArchivedFile]:
        """All of them, oldest first."""
        return [self._files[ordinal] for ordinal in sorted(self._files)]

    def before(self, row: FileRow) -> Iterator[ArchivedFile]:
        """The files right before this one, newest first, as long as one follows on the other."""
        previous = GtidSet.decode(row.previous_gtids) if row.previous_gtids else GtidSet()
        first_index = row.first_index
        ordinal = row.ordinal - 1
        while (file := self._files.get(ordinal)) is not None:
            # It might be another cluster's.
            if file.after != previous or file.row.last_index >= first_index:
                return
            yield file
            previous, first_index, ordinal = file.before, file.row.first_index, ordinal - 1
