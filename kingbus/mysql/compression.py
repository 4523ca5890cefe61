"""The compressed protocol: frames around the packets of a connection that is logged in.

Owns: the seven header bytes (compressed length u24, number, plain length u24), what is worth being
compressed, and the limits on what is unpacked. A frame holds any piece of the stream of packets;
where in it they begin and end is not known here. Knows nothing of sockets or threads. Follows the
manual's "Compression" page and, for what it leaves open, the server's `net_serv.cc`: a payload of
zlib is one zlib stream, one of zstd is one zstd frame, and frames have numbers of their own, which
begin at 0 with each command.

zlib comes from ISA-L: at its first level about fifteen times as fast as the system's at the same
size, which decides whether a dump can be compressed at all.
"""

import zlib
from collections.abc import Iterator
from enum import Enum
from typing import Final, Protocol

import zstandard
from isal import isal_zlib

from kingbus.mysql.constants import PACKET_PAYLOAD_MAX, Capability
from kingbus.mysql.errors import MalformedPacketError, PacketsOutOfOrderError

HEADER_SIZE: Final = 7

WORTH_BYTES: Final = 50
"""MIN_COMPRESS_LENGTH of the server: less than so much is sent as it is."""

FRAME_BYTES: Final = 256 << 10
"""Of plain bytes in one frame: about half a millisecond of work, and larger ones save nothing."""

ZSTD_LEVEL_DEFAULT: Final = 3
ZSTD_LEVEL_MAX: Final = 9
"""Clients may ask for up to 22, at which one of them would take a core of the node for 2 MB/s. The
level cannot be told from the frames."""

_ZLIB_LEVEL: Final = 1


class Algorithm(Enum):
    """How payloads are compressed; the values are MySQL's names."""

    ZLIB = "zlib"
    ZSTD = "zstd"


BytesLike = bytes | bytearray | memoryview


class Codec(Protocol):
    """One algorithm at one level. Not for two threads at once."""

    def compress(self, data: BytesLike) -> bytes: ...

    def decompress(self, data: bytes, size: int) -> bytes:
        """The plain bytes, of which there must be `size`. Raises MalformedPacketError."""
        ...


class ZlibCodec:
    """As CLIENT_COMPRESS has it."""

    def compress(self, data: BytesLike) -> bytes:
        compressed: bytes = isal_zlib.compress(data, _ZLIB_LEVEL)
        return compressed

    def decompress(self, data: bytes, size: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            # One more than there should be: at the limit it stops before it has seen the end.
            plain = stream.decompress(data, size + 1)
        except zlib.error as error:
            raise MalformedPacketError(f"a compressed packet: {error}") from None
        if len(plain) != size or not stream.eof or stream.unused_data:
            raise _wrong_size(size)
        return plain


_FREE_COMPRESSORS: Final[dict[int, list[zstandard.ZstdCompressor]]] = {}
"""By level: each keeps 0.8 to 2 MB, so connections share them, and there are never more of a level
than were at work at one time."""


class ZstdCodec:
    """As CLIENT_ZSTD_COMPRESSION_ALGORITHM has it."""

    def __init__(self, level: int = ZSTD_LEVEL_DEFAULT) -> None:
        self._level = level
        self._free = _FREE_COMPRESSORS.setdefault(level, [])
        self._decompressor = zstandard.ZstdDecompressor()

    def compress(self, data: BytesLike) -> bytes:
        try:
            compressor = self._free.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=self._level)
        compressed = compressor.compress(data)
        self._free.append(compressor)
        return compressed

    def decompress(self, data: bytes, size: int) -> bytes:
        try:
            # What the frame says of itself would be taken for the limit.
            said = zstandard.frame_content_size(data)
            if said not in {-1, size}:
                raise _wrong_size(size)
            plain = self._decompressor.decompress(
                data, max_output_size=size, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise MalformedPacketError(f"a compressed packet: {error}") from None
        if len(plain) != size:
            raise _wrong_size(size)
        return plain


def _wrong_size(size: int) -> MalformedPacketError:
    return MalformedPacketError(f"a compressed packet does not hold the {size} bytes that it says")


def algorithm_of(capabilities: Capability) -> Algorithm | None:
    """What the capabilities that both sides have agree on: zlib where both are, as MySQL does."""
    if capabilities & Capability.COMPRESS:
        return Algorithm.ZLIB
    if capabilities & Capability.ZSTD_COMPRESSION_ALGORITHM:
        return Algorithm.ZSTD
    return None


def codec(algorithm: Algorithm, *, zstd_level: int = ZSTD_LEVEL_DEFAULT) -> Codec:
    """For one connection. The level is the client's wish."""
    if algorithm is Algorithm.ZLIB:
        return ZlibCodec()
    return ZstdCodec(min(max(zstd_level, 1), ZSTD_LEVEL_MAX))


def encode_frame(codec: Codec, plain: BytesLike, sequence: int) -> bytes:
    """One frame of at most 16 MiB - 1 plain bytes, compressed where that makes it smaller."""
    size = len(plain)
    assert 0 < size <= PACKET_PAYLOAD_MAX
    if size >= WORTH_BYTES:
        compressed = codec.compress(plain)
        if len(compressed) < size:
            return _header(len(compressed), sequence, size) + compressed
    return _header(size, sequence, 0) + bytes(plain)


def _header(length: int, sequence: int, plain: int) -> bytes:
    number = bytes((sequence & 0xFF,))
    return length.to_bytes(3, "little") + number + plain.to_bytes(3, "little")


def pieces(data: BytesLike) -> Iterator[memoryview]:
    """What goes into one frame each."""
    view = memoryview(data)
    for start in range(0, len(view), FRAME_BYTES):
        yield view[start : start + FRAME_BYTES]


class FrameReader:
    """Frames as bytes arrive, in whatever pieces; what they hold comes out in order."""

    __slots__ = ("_buffer", "_checks_numbers", "_codec", "_next")

    def __init__(self, codec: Codec, *, checks_numbers: bool = True) -> None:
        self._codec = codec
        self._checks_numbers = checks_numbers
        self._buffer = bytearray()
        self._next = 0

    @property
    def next_sequence(self) -> int:
        """The number after the last frame: that of an answer to what was read."""
        return self._next

    def feed(self, data: BytesLike) -> None:
        """Append what came off the wire."""
        self._buffer += data

    def next_piece(self) -> bytes | None:
        """What the next whole frame holds; None while it is not here in full.

        Raises MalformedPacketError and PacketsOutOfOrderError; it is of no use after that.
        """
        buffer = self._buffer
        if len(buffer) < HEADER_SIZE:
            return None
        length = int.from_bytes(buffer[:3], "little")
        sequence = buffer[3]
        size = int.from_bytes(buffer[4:7], "little")
        if self._checks_numbers and sequence not in {0, self._next}:  # 0: a new command
            raise PacketsOutOfOrderError(sequence, self._next)
        end = HEADER_SIZE + length
        if len(buffer) < end:
            return None
        body = bytes(buffer[HEADER_SIZE:end])
        del buffer[:end]
        self._next = (sequence + 1) & 0xFF
        return self._codec.decompress(body, size) if size else body
