"""The checksum at the end of an event.

Owns the algorithm numbers and how a checksum is computed, checked and put behind an event. The
CRC32 is zlib's, over the event without its last four bytes, stored little-endian.
"""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kingbus.binlog.header import BytesLike
from kingbus.crc import crc32

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


# Many events at once. Behind an intact event the CRC's register always holds the same value, and
# from there the header of the next packet takes it to a value that only depends on that header.
# What lies between that value and the register's first one, put on top of the event's first four
# bytes, makes the register behind them what it would be in a CRC of the event alone. So one CRC of
# the whole run replaces one for each event. It misses nothing that is wrong in one event only, as
# a CRC of that event would not; two wrong ones hide each other with a chance of 2^-32, as one does
# that is wrong by more than a few bits.

_PACKET_HEADER: Final = 5
"""Length, sequence number and OK byte; the last is always 0 here."""
_ALL: Final = 0xFFFF_FFFF
_BEHIND_EVENT: Final = RESIDUE ^ _ALL
_FORTH: Final[NDArray[np.uint32]] = np.array(
    [
        [
            crc32((value << 8 * place).to_bytes(_PACKET_HEADER, "little"), _ALL)
            for value in range(256)
        ]
        for place in range(4)
    ],
    dtype=np.uint32,
) ^ np.uint32(_ALL)
"""For each byte of a word, and each of its values, the register that five bytes lead to from 0."""


def _behind_header(words: NDArray[np.uint32], register: int) -> NDArray[np.uint32]:
    """The register behind packet headers that begin with these words and go on with a zero."""
    mixed = words ^ np.uint32(register)
    found: NDArray[np.uint32] = _FORTH[0][mixed & 0xFF]
    found ^= _FORTH[1][mixed >> 8 & 0xFF]
    found ^= _FORTH[2][mixed >> 16 & 0xFF]
    found ^= _FORTH[3][mixed >> 24]
    return found


def are_intact(
    data: memoryview, words: NDArray[np.unsignedinteger], packets: NDArray[np.int64], stop: int
) -> bool:
    """Whether all these events end in their CRC32, one in each packet, without a gap up to `stop`.

    `words` are the little-endian u32 that begin at each byte of `data`; they are changed for the
    time of the call. Every event has at least four bytes before its checksum.
    """
    headers, events = words[packets], packets + _PACKET_HEADER
    register = _behind_header(headers, _BEHIND_EVENT)
    register[:1] = _behind_header(headers[:1], _ALL)
    kept = words[events]
    words[events] = kept ^ register ^ np.uint32(_ALL)
    try:
        return crc32(data[int(packets[0]) : stop]) == RESIDUE
    finally:
        words[events] = kept
