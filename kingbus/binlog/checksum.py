"""The checksum at the end of an event.

Owns the algorithm numbers and how a checksum is computed, checked and put behind an event. The
CRC32 is zlib's, over the event without its last four bytes, stored little-endian.
"""

from enum import IntEnum
from typing import Final
from zlib import crc32

from kingbus.binlog.header import BytesLike

CRC_BYTES: Final = 4

RESIDUE: Final = 0x2144DF1C
"""What zlib's crc32 gives over any bytes followed by their own CRC32: no field to cut off."""


class ChecksumAlgorithm(IntEnum):
    """The numbers in a FORMAT_DESCRIPTION event."""

    NONE = 0
    CRC32 = 1


def is_intact(event: BytesLike) -> bool:
    """Whether the last four bytes of the event are its CRC32."""
    return crc32(event) == RESIDUE


def with_crc(event_without: BytesLike) -> bytes:
    """The event with its CRC32 behind it; the size in its header must count it already."""
    return bytes(event_without) + crc32(event_without).to_bytes(CRC_BYTES, "little")
