"""Framing: what is split is joined again, and nothing beyond the limits is buffered."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.mysql.constants import PACKET_PAYLOAD_MAX
from kingbus.mysql.errors import PacketsOutOfOrderError, PacketTooLargeError
from kingbus.mysql.packet import Packet, PacketReader, encode_payload

FULL = PACKET_PAYLOAD_MAX


def packets_of(data: bytes, reader: PacketReader) -> list[Packet]:
    reader.feed(data)
    packets = []
    while (packet := reader.next_packet()) is not None:
        packets.append(packet)
    return packets


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(0, 400), max_size=20))
def test_packets_do_not_depend_on_how_bytes_arrive(payloads: list[bytes], cuts: list[int]) -> None:
    """Any split of the bytes gives the same payloads, in order."""
    data, sequence = b"", 250  # wraps inside longer examples
    for payload in payloads:
        packet, sequence = encode_payload(payload, sequence)
        data += packet
    reader = PacketReader(payload_bytes_max=50, expected_sequence=250)
    got = []
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(bounds):
        got.extend(packets_of(data[start:end], reader))

    assert payloads == [packet.payload for packet in got]
    assert not reader.mid_payload


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (FULL - 1, [FULL - 1]),
        (FULL, [FULL, 0]),
        (FULL + 1, [FULL, 1]),
        (2 * FULL, [FULL, FULL, 0]),
    ],
)
def test_long_payloads_are_split_and_joined(size: int, parts: list[int]) -> None:
    """A payload of an exact multiple of 16 MiB - 1 ends with an empty packet."""
    payload = b"k" * size
    data, after = encode_payload(payload, 255)
    sizes, offset = [], 0
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 3], "little")
        sizes.append(length)
        offset += 4 + length

    assert parts == sizes
    assert after == (255 + len(parts)) & 0xFF
    reader = PacketReader(payload_bytes_max=2 * FULL, expected_sequence=255)
    [packet] = packets_of(data, reader)
    assert payload == packet.payload


def test_a_gap_in_the_sequence_is_refused() -> None:
    """The number of every packet must be the next one."""
    data, _ = encode_payload(b"x", 2)

    with pytest.raises(PacketsOutOfOrderError, match="sequence number 2, expected 1"):
        packets_of(data, PacketReader(payload_bytes_max=10, expected_sequence=1))


def test_an_announced_length_over_the_limit_is_refused_before_it_arrives() -> None:
    """Four header bytes suffice to refuse; the payload is not waited for."""
    reader = PacketReader(payload_bytes_max=10)

    with pytest.raises(PacketTooLargeError, match="11"):
        packets_of(b"\x0b\x00\x00\x00", reader)


def test_the_limit_counts_all_parts_of_a_payload() -> None:
    """A payload cannot grow past the limit by coming in parts."""
    data, _ = encode_payload(b"k" * (FULL + 11), 0)

    with pytest.raises(PacketTooLargeError):
        packets_of(data, PacketReader(payload_bytes_max=FULL + 10))
