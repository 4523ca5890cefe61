"""The semi-sync form of a stream becomes the plain one, whatever it is cut into."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog.errors import MalformedStreamError
from kingbus.binlog.semi_sync import SemiSyncStream, acknowledgement

SHORT = 60  # instead of 16 MiB - 1


class Collected:
    """Takes the plain stream."""

    def __init__(self):
        self.data = bytearray()
        self.room = bytearray(1 << 16)
        self.error = None

    def free(self):
        return memoryview(self.room)

    def wrote(self, count):
        self.data += self.room[:count]

    def receive(self, data):
        self.data += data

    def fail(self, error):
        self.error = error


def event(size, fill=7):
    """An event of `size` bytes that says so where events do."""
    assert size >= 19
    return bytes((fill,)) * 9 + size.to_bytes(4, "little") + bytes((fill,)) * (size - 13)


def framed(payload, number, length_max=SHORT):
    """The packets of a payload, and the number behind them."""
    out = b""
    for start in range(0, len(payload) + 1, length_max):
        part = payload[start : start + length_max]
        out += len(part).to_bytes(3, "little") + bytes((number & 0xFF,)) + part
        number += 1
    return out, number


def plain(events, length_max=SHORT):
    out, number = b"", 1
    for each, _ in events:
        packets, number = framed(b"\0" + each, number, length_max)
        out += packets
    return out


def marked(events, length_max=SHORT):
    """As a source sends it: it numbers from 1 again behind each event that asks."""
    out, number = b"", 1
    for each, asks in events:
        payload = b"\0\xef" + bytes((asks,)) + each
        packets, number = framed(payload, number, length_max)
        out += packets
        number = 1 if asks else number
    return out


def converted(data, cuts=(), length_max=SHORT):
    sink = Collected()
    stream = SemiSyncStream(sink, packet_length_max=length_max)
    for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
        rest = data[start:stop]
        while rest:
            room = stream.free()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            stream.wrote(count)
            rest = rest[count:]
    return stream, sink


EVENTS = st.lists(st.tuples(st.integers(19, 3 * SHORT), st.booleans()), min_size=1, max_size=30)


@settings(deadline=None)
@given(EVENTS, st.lists(st.integers(0, 3000), max_size=6))
def test_the_plain_stream_comes_out_of_any_cut(shape, cuts):
    """Same events, same split as without semi-sync, numbers that run on, however it is read."""
    events = [(event(size, fill=at), asks) for at, (size, asks) in enumerate(shape)]
    data = marked(events)
    stream, sink = converted(data, sorted(min(cut, len(data)) for cut in cuts))

    assert sink.error is None
    assert bytes(sink.data) == plain(events)
    assert stream.asked == sum(asks for _, asks in shape)
    assert stream.is_asked == bool(stream.asked)
    assert stream.is_active


@pytest.mark.parametrize("size", range(SHORT - 4, SHORT + 3))
def test_events_around_the_size_of_a_packet_are_split_where_a_plain_connection_would(size):
    """Two bytes less make one packet of two, or an empty packet of a short one."""
    events = [(event(size), True), (event(30), False)]
    assert bytes(converted(marked(events))[1].data) == plain(events)


def test_the_packets_of_16_mib_are_those_of_the_protocol():
    """With the real size of a packet, where the guess over small ones works on what is around."""
    largest = 0xFFFFFF
    events = [(event(40), False)] * 2000 + [(event(largest - 1), True)] + [(event(40), True)] * 2000
    stream, sink = converted(marked(events, largest), length_max=largest)
    assert sink.error is None
    assert bytes(sink.data) == plain(events, largest)
    assert stream.asked == 2001


def test_a_source_that_does_not_mark_is_taken_as_it_is():
    """The first event of a plain stream has time 0 and cannot be taken for a mark."""
    events = [(event(30, fill=0), False), (event(30, fill=0xEF), False)]
    data = plain(events)
    stream, sink = converted(data, [3, 5, 40])
    assert bytes(sink.data) == data
    assert stream.is_active is False and not stream.is_asked


def test_an_error_packet_has_no_mark():
    """It ends a stream at any place, the first included, and goes through as it is."""
    error, _ = framed(b"\xff\xd4\x04#HY000no", 1)
    assert bytes(converted(error)[1].data) == error
    begun = [(event(30), False)]
    behind, _ = framed(b"\xff\xd4\x04#HY000no", 2)
    assert bytes(converted(marked(begun) + behind)[1].data) == plain(begun) + behind


def test_what_breaks_the_form_ends_the_stream_behind_what_was_whole():
    """A missing mark, a number that does not begin again, an event of another size."""
    good = [(event(30), True)]
    unmarked, _ = framed(b"\0" + event(30), 1)
    not_again, _ = framed(b"\0\xef\0" + event(30), 2)
    other_size = framed(b"\0\xef\0" + event(200)[:100], 1)[0]
    for bad, words in (
        (unmarked, "without the semi-sync mark"),
        (not_again, "sequence number 2 instead of 1"),
        (other_size, "200 bytes"),
    ):
        _, sink = converted(marked(good) + bad)
        assert isinstance(sink.error, MalformedStreamError) and words in str(sink.error)
        assert bytes(sink.data).startswith(plain(good))


def test_an_acknowledgement_is_that_of_a_real_replica():
    """The captured one."""
    assert acknowledgement("binlog.000006", 0x255) == (
        bytes.fromhex("160000 00 ef 5502000000000000") + b"binlog.000006"
    )
