"""The basic types survive a round trip and never read past their packet."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.mysql.errors import MalformedPacketError
from kingbus.mysql.wire import Reader, Writer


@given(st.integers(0, 2**64 - 1))
def test_length_encoded_integers_round_trip(value: int) -> None:
    """Every 64-bit integer is read back as written, with nothing left over."""
    reader = Reader(Writer().lenenc_int(value).finish())

    assert value == reader.lenenc_int("value")
    assert reader.remaining == 0


@pytest.mark.parametrize(
    ("value", "size"), [(0xFA, 1), (0xFB, 3), (0xFFFF, 3), (0x10000, 4), (0x1000000, 9)]
)
def test_length_encoded_integers_take_the_shortest_form(value: int, size: int) -> None:
    """The width changes exactly where the protocol says."""
    assert size == len(Writer().lenenc_int(value).finish())


@given(st.binary(max_size=300).filter(lambda data: b"\0" not in data), st.binary(max_size=300))
def test_strings_round_trip(text: bytes, data: bytes) -> None:
    """NUL-terminated and length-encoded strings follow each other without loss."""
    written = Writer().nul_bytes(text).lenenc_bytes(data).short_bytes(data[:255]).finish()
    reader = Reader(written)

    assert text == reader.nul_bytes("text")
    assert data == reader.lenenc_bytes("data")
    assert data[:255] == reader.short_bytes("data")


@given(st.binary(max_size=40), st.integers(0, 5))
def test_reading_garbage_stays_inside_the_packet(data: bytes, kind: int) -> None:
    """Whatever the bytes, a read gives bytes of the packet or a MalformedPacketError."""
    reader = Reader(data)
    reads = [
        lambda: reader.take(7, "x"),
        lambda: reader.uint(4, "x"),
        lambda: reader.lenenc_int("x"),
        lambda: reader.lenenc_bytes("x"),
        lambda: reader.nul_bytes("x"),
        lambda: reader.short_bytes("x"),
    ]
    with contextlib.suppress(MalformedPacketError):
        reads[kind]()
    assert 0 <= reader.remaining <= len(data)


@pytest.mark.parametrize("first", [0xFB, 0xFF])
def test_bytes_that_are_no_length_are_refused(first: int) -> None:
    """NULL and ERR markers are not taken for lengths."""
    with pytest.raises(MalformedPacketError, match="no length"):
        Reader(bytes((first,)) + bytes(9)).lenenc_int("count")
