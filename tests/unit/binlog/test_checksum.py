"""One CRC over a run of packets says what a CRC of each event would."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from kingbus.binlog.checksum import are_intact, is_intact, with_crc

PACKET_HEADER = 5


def run_of(bodies: list[bytes], first_sequence: int, before: bytes) -> tuple[bytearray, list[int]]:
    """Bytes, then a packet for each body with its checksum; and where the packets lie."""
    data, places = bytearray(before), []
    for at, body in enumerate(bodies):
        event = with_crc(body)
        places.append(len(data))
        data += (len(event) + 1).to_bytes(3, "little")
        data += bytes(((first_sequence + at) & 0xFF, 0)) + event
    return data, places


def intact(data: bytearray, places: list[int]) -> bool:
    words = np.ndarray((len(data) - 3,), "<u4", data, 0, (1,))
    return are_intact(memoryview(data), words, np.array(places), len(data))


events = st.lists(st.binary(min_size=4, max_size=80), min_size=1, max_size=20)


@given(events, st.integers(0, 255), st.binary(max_size=9))
def test_intact_events_are_intact(bodies: list[bytes], first: int, before: bytes) -> None:
    """Whatever they hold, however long, with whatever sequence numbers; nothing is changed."""
    data, places = run_of(bodies, first, before)
    kept = bytes(data)
    assert intact(data, places)
    assert data == kept


@given(events, st.integers(0, 255), st.data())
def test_a_changed_event_is_noticed(bodies: list[bytes], first: int, draw: st.DataObject) -> None:
    """One changed byte in an event is enough; nothing else is changed."""
    data, places = run_of(bodies, first, b"")
    broken = draw.draw(st.integers(0, len(places) - 1))
    begin = places[broken] + PACKET_HEADER
    end = places[broken + 1] if broken + 1 < len(places) else len(data)
    at = draw.draw(st.integers(begin, end - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    kept = bytes(data)
    assert not is_intact(data[begin:end])
    assert not intact(data, places)
    assert data == kept
