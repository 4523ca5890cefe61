"""GTID events of a whole run at once, against the same events one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog.errors import AnonymousTransactionError, MalformedEventError
from kingbus.binlog.event_reader import EventReader
from kingbus.binlog.receive_buffer import ReceiveBuffer
from tests.support.events import MODERN, OLD, BinlogFile

A, B = bytes(range(120, 136)), bytes(range(16))
CRC = b"\xff\xff\xff\xff"

names = st.tuples(
    st.sampled_from([A, A, B]), st.sampled_from(["", "t", "exactly8", "just_9_it", "x" * 32])
)
numbers = st.one_of(st.integers(1, 300), st.integers(1, (1 << 63) - 60))
rests = st.one_of(st.integers(0, 200), st.integers(0, 1 << 40))


@st.composite
def events(draw, *, version=MODERN, tagged=True):
    """GTID events as a server writes them, often with numbers that follow one another."""
    file, made = BinlogFile("bin.1", version=version), []
    uuid, tag, number = A, "", 0
    for _ in range(draw(st.integers(1, 12))):
        if draw(st.booleans()) or not number:
            uuid, tag = draw(names)
            number = draw(numbers) - 1
        number += 1
        type_, body = file.gtid_event(uuid, number, tag if tagged else "", draw(rests))
        made.append(bytes(4) + bytes((type_,)) + bytes(14) + body)
    return made


def reader_of(made, *, crc=CRC):
    """A reader over a buffer that holds the events, and where they lie."""
    buffer = ReceiveBuffer(bytes_usual=1 << 16, bytes_max=1 << 20)
    places, stops = [], []
    for event in made:
        data = event + crc
        room = buffer.free()
        room[: len(data)] = data
        places.append(buffer.end)
        buffer.wrote(len(data))
        stops.append(buffer.end)
    types = np.array([event[4] for event in made], dtype=np.uint8)
    reader = EventReader(buffer, crc_bytes=len(crc))
    return reader, np.array(places), np.array(stops), types


def at_once(made, *, allow_anonymous=False):
    reader, places, stops, types = reader_of(made)
    try:
        lengths, runs = reader.gtids(places, stops, types, allow_anonymous=allow_anonymous)
    except (MalformedEventError, AnonymousTransactionError) as error:
        return type(error)
    return lengths.tolist(), runs


def one_by_one(made, *, allow_anonymous=False):
    reader, places, stops, types = reader_of(made)
    try:
        lengths, runs = reader._gtids_one_by_one(
            places, stops - len(CRC), types, allow_anonymous=allow_anonymous
        )
    except (MalformedEventError, AnonymousTransactionError) as error:
        return type(error)
    return lengths.tolist(), runs


@given(events())
def test_tagged_and_plain_ones_are_read_alike(made):
    """Lengths and runs are those of each event by itself, in any mixture."""
    assert at_once(made) == one_by_one(made)


@given(events(tagged=True))
def test_what_servers_write_takes_the_quick_way(made):
    """It is taken wherever there is a tag, as otherwise nothing here would test it."""
    reader, places, stops, types = reader_of(made)

    assert reader._gtids_with_tags(places, stops - len(CRC), types) is not None


@given(events(), st.data())
def test_broken_ones_are_told_as_they_are_one_by_one(made, data):
    """Changed and cut anywhere: the same result, or the same error; never another one."""
    at = data.draw(st.integers(0, len(made) - 1))
    broken = bytearray(made[at])
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(19, len(broken) - 1))] = data.draw(st.integers(0, 255))
    made[at] = bytes(broken[: data.draw(st.integers(20, len(broken)))])
    if made[at][4] == 42 or any(event[4] == 42 for event in made):
        assert at_once(made) == one_by_one(made)


@given(events(), st.sampled_from(["Upper", "9", "a b", "\x7f", "\0"]))
def test_a_tag_that_can_be_none_is_refused(made, tag):
    """However many there are beside it: what takes them in could not write a set with it."""
    type_, body = BinlogFile("bin.1").gtid_event(A, 1, tag, 0)
    made.append(bytes(4) + bytes((type_,)) + bytes(14) + body)

    assert at_once(made) is one_by_one(made) is MalformedEventError


@pytest.mark.parametrize("version", [MODERN, OLD])
@pytest.mark.parametrize("also", [False, True])
@given(st.data())
def test_anonymous_ones_are_taken_where_they_may_be(version, also, data):
    """All at once where there are no others; with others in between, too."""
    file = BinlogFile("bin.1", version=version)
    made = []
    for number in range(data.draw(st.integers(1, 8))):
        type_, body = file.gtid_event(b"", number, "", data.draw(rests))
        made.append(bytes(4) + bytes((type_,)) + bytes(14) + body)
    if also:
        made += data.draw(events(version=version, tagged=version == MODERN))

    assert at_once(made, allow_anonymous=True) == one_by_one(made, allow_anonymous=True)
    assert at_once(made) is AnonymousTransactionError
