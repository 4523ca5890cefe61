"""A look at RocksDB's own logs before RocksDB reads them.

RocksDB 9.8 never returns from opening a database in whose MANIFEST or write-ahead log one byte says
that a record is of the kind which it writes to files that are used again: it reads the same record
for ever. Such files are not made here, so that kind is damage, and is named. All other damage is
left to RocksDB, which has sums of its own. Owns nothing but the walk over the headers of records:
blocks of 32 KiB, in them records of crc u32, length u16, kind u8 and their bytes, none across the
end of a block ("Write Ahead Log File Format" of RocksDB's manual).
"""

import struct
from pathlib import Path
from typing import Final

from kingbus.storage.errors import CorruptRecordError

__all__ = ["check_rocksdb_logs"]

_BLOCK_BYTES: Final = 32 << 10
_HEADER = struct.Struct("<IHB")
_KINDS_OF_REUSED_FILES: Final = frozenset({5, 6, 7, 8, 11})


def check_rocksdb_logs(directory: Path) -> None:
    """CorruptRecordError for a record that RocksDB would read for ever. Blocks; OSError."""
    for path in (*directory.glob("MANIFEST-*"), *directory.glob("*.log")):
        with path.open("rb") as opened:
            begin = 0
            while block := opened.read(_BLOCK_BYTES):
                _check(path, begin, block)
                begin += len(block)


def _check(path: Path, begin: int, block: bytes) -> None:
    at = 0
    while at + _HEADER.size <= len(block):
        _, length, kind = _HEADER.unpack_from(block, at)
        if kind in _KINDS_OF_REUSED_FILES:
            raise CorruptRecordError(
                path, begin + at, f"a record of kind {kind}, which this database never writes"
            )
        if not kind:
            return  # room that was never written, or damage that has a sum against it
        at += _HEADER.size + length
