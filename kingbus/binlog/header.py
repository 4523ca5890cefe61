"""The 19 bytes that every event begins with (binlog version 4).

Owns their layout; knows nothing of what follows them.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias

from kingbus.binlog.errors import MalformedEventError

BytesLike: TypeAlias = bytes | bytearray | memoryview

HEADER_BYTES: Final = 19
FLAG_IN_USE: Final = 0x0001
"""In a FORMAT_DESCRIPTION on disk: the file was not closed. Its CRC is computed without it."""
FLAG_ARTIFICIAL: Final = 0x0020
"""Made up by the sender; it is in no file."""
FILE_MAGIC: Final = b"\xfebin"
FIRST_POSITION: Final = 4
"""Where the first event of a file lies, behind the magic number."""

_LAYOUT: Final = Struct("<IBIIIH")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHeader:
    """timestamp in seconds; size of the whole event; log_pos its end modulo 2^32, 0 artificial."""

    timestamp: int
    type: int
    server_id: int
    size: int
    log_pos: int
    flags: int

    @classmethod
    def decode(cls, event: BytesLike) -> "EventHeader":
        """Reads the header; raises MalformedEventError when the event is too short for one."""
        if len(event) < HEADER_BYTES:
            raise MalformedEventError(f"an event of {len(event)} bytes is too short for a header")
        timestamp, type_, server_id, size, log_pos, flags = _LAYOUT.unpack_from(event)
        return cls(
            timestamp=timestamp,
            type=type_,
            server_id=server_id,
            size=size,
            log_pos=log_pos,
            flags=flags,
        )

    def encode(self) -> bytes:
        return _LAYOUT.pack(
            self.timestamp, self.type, self.server_id, self.size, self.log_pos, self.flags
        )

    @property
    def is_artificial(self) -> bool:
        return bool(self.flags & FLAG_ARTIFICIAL)
