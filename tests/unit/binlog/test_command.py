"""Entry data: one command, and raw packets behind an event batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog.command import (
    COMMAND_VERSION,
    MalformedCommandError,
    UnknownCommandVersionError,
    decode,
    encode,
    split,
)
from kingbus.pb.command_pb2 import Command, EventBatch, Purge


@given(packets=st.binary(max_size=200), sequence=st.integers(0, 2**64 - 1))
def test_what_was_encoded_comes_back(packets: bytes, sequence: int) -> None:
    """Command and packets survive the round trip, and split finds the packets without parsing."""
    data = encode(Command(event_batch=EventBatch(sequence=sequence)), packets)

    command, raw = decode(data)
    body, offset = split(data)

    assert (command.version, command.event_batch.sequence) == (1, sequence)
    assert bytes(raw) == packets == data[offset:]
    assert Command.FromString(bytes(body)) == command


def test_packets_are_a_view_of_the_entry() -> None:
    """The bulk bytes are not copied on the way out."""
    data = bytearray(encode(Command(event_batch=EventBatch(sequence=1)), b"abc"))

    _, raw = decode(data)
    data[-1] = ord("z")

    assert bytes(raw) == b"abz"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00\x00",
        b"\x05\x00\x00\x00abc",
        b"\xff\xff\xff\xffabc",
        b"\x03\x00\x00\x00\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x02\x00\x00\x00\x08\x01",
        encode(Command(purge=Purge(first_index=1))) + b"tail",
    ],
)
def test_what_is_no_command_is_malformed(data: bytes) -> None:
    """Short, oversized, unparsable and kindless data give one clear error."""
    with pytest.raises(MalformedCommandError):
        decode(data)


def test_a_later_version_is_refused_by_name() -> None:
    """A command of a later version is not passed over, even when its kind is unknown here."""
    body = Command(version=COMMAND_VERSION + 1).SerializeToString()

    with pytest.raises(UnknownCommandVersionError, match=f"version {COMMAND_VERSION + 1}"):
        decode(len(body).to_bytes(4, "little") + body)


@given(st.binary(max_size=64))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    """Whatever the bytes are, the answer is a command or one of the two errors."""
    try:
        command, _ = decode(data)
    except (MalformedCommandError, UnknownCommandVersionError):
        return
    assert command.WhichOneof("kind") is not None
