"""The walk over packets: guessing where they begin finds what following their lengths does."""

import random
from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from kingbus.binlog.receive_buffer import PACKET_HEADER, ReceiveBuffer

CAPACITY = 1 << 20


def buffer_of(data: bytes) -> ReceiveBuffer:
    buffer = ReceiveBuffer(bytes_usual=CAPACITY, bytes_max=CAPACITY)
    buffer.free()[: len(data)] = data
    buffer.wrote(len(data))
    return buffer


def event_packet(body: bytes, sequence: int = 0) -> bytes:
    """A packet with an event of 19 bytes of header and this body."""
    size = 19 + len(body)
    event = bytes(9) + size.to_bytes(4, "little") + bytes(6) + body
    return (size + 1).to_bytes(3, "little") + bytes((sequence & 0xFF, 0)) + event


def other_packet(payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + b"\x07" + payload


def by_lengths(data: bytes, at: int, until: int) -> tuple[list[int], int]:
    offsets = []
    while at < min(until, len(data) - PACKET_HEADER + 1):
        offsets.append(at)
        at += PACKET_HEADER + int.from_bytes(data[at : at + 3], "little")
    if at > len(data):
        at = offsets.pop()
    return offsets, at


def walks(buffer: ReceiveBuffer, data: bytes, until: Sequence[int]) -> int:
    """Walks piece by piece and compares each; how many packets there were."""
    at = count = 0
    for limit in until:
        offsets, stop = buffer.walk(at, limit)
        assert (offsets.tolist(), stop) == by_lengths(data, at, limit)
        at, count = stop, count + len(offsets)
    return count


bodies = st.binary(max_size=40) | st.builds(
    # What looks like a packet, whole or begun, inside of one.
    lambda before, inner, after: before + event_packet(inner) + after,
    st.binary(max_size=5),
    st.binary(max_size=10),
    st.binary(max_size=30),
)
packets = st.lists(
    st.builds(event_packet, bodies, st.integers(0, 255))
    | st.builds(other_packet, st.binary(max_size=60)),
    min_size=1,
    max_size=30,
)


@given(packets, st.integers(0, 40), st.lists(st.integers(0, 3000), max_size=4))
def test_a_guess_finds_what_the_lengths_say(
    parts: list[bytes], cut: int, pieces: list[int]
) -> None:
    """Whatever lies in the packets, and wherever what came so far ends."""
    calm = b"".join(event_packet(b"abc", at) for at in range(50))
    data = calm + b"".join(parts)
    data = data[: len(data) - min(cut, len(data) - len(calm))]
    walks(buffer_of(data), data, [len(calm), *sorted(len(calm) + each for each in pieces)])


def test_a_dense_run_is_guessed() -> None:
    """Not a single packet of small events is walked over, though some hold what looks like one."""
    dice = random.Random(1)
    data = b"".join(
        event_packet(event_packet(b"") if at % 100 == 0 else dice.randbytes(at % 90), at)
        for at in range(5000)
    )
    buffer = buffer_of(data)
    buffer.walk(0, 1000)
    guessed, stop = buffer._guess(0, len(data) - PACKET_HEADER + 1)
    offsets, _ = by_lengths(data, 0, len(data))
    assert buffer._is_dense
    assert (guessed.tolist(), stop) == (offsets, len(data))


def test_lengths_that_cross_a_byte_are_walked_over() -> None:
    """An event of 65,535 bytes has a packet whose length differs in the highest byte."""
    small = b"".join(event_packet(b"x", at) for at in range(1000))
    data = small + event_packet(bytes(0xFFFF - 19)) + small
    assert walks(buffer_of(data), data, [len(small), len(data)]) == 2001


def test_nothing_behind_the_end_counts() -> None:
    """What an earlier life of the memory left there is no packet."""
    packet = event_packet(b"x")
    buffer = buffer_of(packet * 2000)
    buffer.walk(0, 10 * len(packet))
    buffer.base = buffer.end
    buffer.free()[: 3 * len(packet)] = packet * 3
    buffer.wrote(3 * len(packet) - 1)
    offsets, stop = buffer.walk(0, len(buffer.data))
    assert np.array_equal(offsets, [0, len(packet)])
    assert stop == 2 * len(packet)
