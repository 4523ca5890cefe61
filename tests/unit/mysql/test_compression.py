"""Frames of the compressed protocol, against what zlib and zstd themselves make of them."""

import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kingbus.mysql.compression import (
    FRAME_BYTES,
    HEADER_SIZE,
    ZSTD_LEVEL_MAX,
    Algorithm,
    Codec,
    FrameReader,
    ZlibCodec,
    ZstdCodec,
    algorithm_of,
    codec,
    encode_frame,
    pieces,
)
from kingbus.mysql.constants import Capability
from kingbus.mysql.errors import MalformedPacketError, PacketsOutOfOrderError
from kingbus.mysql.messages import HandshakeResponse, decode_handshake_response

CODECS: list[Codec] = [ZlibCodec(), ZstdCodec()]
FLAGS = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH


@pytest.mark.parametrize("each", CODECS)
@given(
    data=st.one_of(
        st.binary(min_size=1, max_size=300),
        st.integers(1, 3000).map(lambda size: b"abcd" * size),
    ),
    cut=st.integers(0, 12000),
)
def test_what_goes_into_frames_comes_out(each: Codec, data: bytes, cut: int) -> None:
    """Whatever it is, and in whatever pieces it arrives."""
    frame = encode_frame(each, data, 0)
    reader = FrameReader(each)
    out = b""
    for part in (frame[:cut], frame[cut:]):
        reader.feed(part)
        out += reader.next_piece() or b""

    assert out == data
    assert len(frame) <= len(data) + HEADER_SIZE
    assert reader.next_piece() is None
    assert reader.next_sequence == 1


def test_the_bytes_are_those_of_the_protocol() -> None:
    """Short things as they are, with 0 for the plain length; others as a zlib or zstd stream."""
    assert encode_frame(ZlibCodec(), b"x" * 49, 7) == b"\x31\0\0\x07\0\0\0" + b"x" * 49
    plain = b"x" * 0x10203
    zipped = encode_frame(ZlibCodec(), plain, 256)
    assert zipped[3:7] == b"\x00\x03\x02\x01"
    assert int.from_bytes(zipped[:3], "little") == len(zipped) - HEADER_SIZE
    assert zlib.decompress(zipped[HEADER_SIZE:]) == plain
    packed = encode_frame(ZstdCodec(5), plain, 1)
    assert zstandard.decompress(packed[HEADER_SIZE:]) == plain


def test_large_buffers_become_frames_of_a_bounded_size() -> None:
    """Nothing is lost at the cuts."""
    data = bytes(range(256)) * 3000
    parts = list(pieces(data))

    assert b"".join(parts) == data
    assert [len(part) for part in parts] == [FRAME_BYTES, FRAME_BYTES, len(data) - 2 * FRAME_BYTES]


@pytest.mark.parametrize("each", CODECS)
@pytest.mark.parametrize("wrong", ["short", "more", "less", "garbage", "trailing", "bomb"])
def test_frames_that_lie_are_refused(each: Codec, wrong: str) -> None:
    """A payload that does not hold exactly what its header says; no more than that is unpacked."""
    body = {
        "short": each.compress(b"a" * 100)[:-3],
        "more": each.compress(b"a" * 101),
        "less": each.compress(b"a" * 99),
        "garbage": b"garbage",
        "trailing": each.compress(b"a" * 100) + b"z",
        "bomb": each.compress(bytes(1 << 24)),
    }[wrong]
    reader = FrameReader(each)
    reader.feed(len(body).to_bytes(3, "little") + b"\0" + (100).to_bytes(3, "little") + body)

    with pytest.raises(MalformedPacketError, match="a compressed packet"):
        reader.next_piece()


def test_frames_are_numbered() -> None:
    """One after the other, over 255, or from 0 again with a new command."""
    reader = FrameReader(ZlibCodec())
    for number in [*range(256), 0, 1, 0, 1, 2]:
        reader.feed(encode_frame(ZlibCodec(), b"x", number))
        assert reader.next_piece() == b"x"
    reader.feed(encode_frame(ZlibCodec(), b"x", 4))
    with pytest.raises(PacketsOutOfOrderError):
        reader.next_piece()


@pytest.mark.parametrize(
    ("flags", "algorithm"),
    [
        (Capability(0), None),
        (Capability.COMPRESS, Algorithm.ZLIB),
        (Capability.ZSTD_COMPRESSION_ALGORITHM, Algorithm.ZSTD),
        (Capability.COMPRESS | Capability.ZSTD_COMPRESSION_ALGORITHM, Algorithm.ZLIB),
    ],
)
def test_what_is_agreed_on(flags: Capability, algorithm: Algorithm | None) -> None:
    """As libmysqlclient has it: zlib where both would do."""
    assert algorithm_of(FLAGS | flags) is algorithm


@pytest.mark.parametrize(("level", "taken"), [(0, 1), (1, 1), (3, 3), (22, ZSTD_LEVEL_MAX)])
def test_no_client_asks_for_too_much_work(level: int, taken: int) -> None:
    """What it gets at a level above the highest is what the highest makes."""
    data = b"".join(b"%d," % (each * each) for each in range(9000))
    wanted = zstandard.ZstdCompressor(level=taken).compress(data)

    assert codec(Algorithm.ZSTD, zstd_level=level).compress(data) == wanted


def test_the_level_stands_behind_everything_else() -> None:
    """One byte at the end of the handshake's answer; a client may leave it out."""
    flags = FLAGS | Capability.CONNECT_ATTRS | Capability.ZSTD_COMPRESSION_ALGORITHM
    response = HandshakeResponse(
        capabilities=flags,
        user="u",
        auth_response=b"x",
        auth_plugin="p",
        attributes={"a": "b"},
        zstd_level=7,
    )
    payload = response.encode()

    assert decode_handshake_response(payload) == response
    shorter = decode_handshake_response(payload[:-1])
    assert isinstance(shorter, HandshakeResponse)
    assert (shorter.zstd_level, shorter.attributes) == (0, {"a": "b"})
