"""The sparse index and the file forms of a segment."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.storage.errors import CorruptRecordError, NewerFormatError
from kingbus.storage.segment import (
    SegmentHeader,
    SegmentIndex,
    pack_footer,
    read_footer,
    read_header,
    segment_name,
    sequence_of,
)
from tests.unit.storage.simulated_disk import SimulatedDisk

HEADER = SegmentHeader(
    sequence=3,
    first_index=70,
    previous_sequence=2,
    previous_term=5,
    previous_end=999,
    segment_id=b"0123456789abcdef",
    cluster_id=2**64 - 1,
    member_id=7,
)
TRANSFORMED = replace(HEADER, transforms=True, key_id="00c0ffee00c0ffee")
PATH = Path("/log") / segment_name(3, 70)

# (how many entries to take back, size of the new one, rise of the term)
steps = st.lists(
    st.tuples(st.integers(0, 20), st.integers(40, 100_000), st.integers(0, 1)), max_size=300
)


def apply(index, records, steps, offset=100):
    """Adds entries as steps say; `records` is the naive index: entry index -> (term, offset)."""
    term = max((term for term, _ in records.values()), default=1)
    for back, size, rise in steps:
        term += rise
        entry = max(index.first_index, index.last_index + 1 - (back if back > 15 else 0))
        index.add(entry, term, offset)
        for gone in [held for held in records if held >= entry]:
            del records[gone]
        records[entry] = (term, offset)
        offset += size
    return offset


def check(index, records):
    assert index.last_index == max(records, default=index.first_index - 1)
    for entry, (term, offset) in records.items():
        assert index.term(entry) == term
        place = index.locate(entry)
        assert place.first <= entry < place.stop
        assert records[place.first][1] == place.offset <= offset
        # Everything between the point and the entry lies in one unbroken run.
        run = [records[held][1] for held in range(place.first, entry + 1)]
        assert run == sorted(run)


@given(steps=steps)
def test_every_entry_is_found(steps):
    """From the point before it, through records in order, to any entry that was not replaced."""
    index, records = SegmentIndex(70), {}
    apply(index, records, steps)

    check(index, records)


@given(first=steps, second=steps)
def test_a_tail_merges_to_the_same(first, second):
    """What a write gathers aside and merges later equals what it would have added directly."""
    index, records = SegmentIndex(70), {}
    offset = apply(index, records, first)
    tail = index.tail()
    before = index.encode()
    apply(tail, records, second, offset)
    assert index.encode() == before

    index.merge(tail)

    check(index, records)
    again = index.tail()
    assert (again.last_index, again.last_term) == (index.last_index, index.last_term)


@given(steps=steps)
def test_an_index_survives_its_encoding(steps):
    """The footer gives back the same index and the place where the records end."""
    index = SegmentIndex(70)
    apply(index, {}, steps)
    disk = SimulatedDisk()
    fd = disk.open(PATH, create=True)
    disk.pwritev(fd, [b"records " * 20 + pack_footer(index, 160, 12345)], 0)

    assert read_footer(disk, fd) == (index, 160)


@given(data=st.binary(max_size=200))
def test_noise_is_no_index(data):
    """Whatever stands at the end of a file, it is taken only when it verifies."""
    disk = SimulatedDisk()
    fd = disk.open(PATH, create=True)
    disk.pwritev(fd, [data + b"."], 0)

    assert read_footer(disk, fd) is None


def test_a_header_survives():
    """Every field comes back."""
    disk = SimulatedDisk()
    fd = disk.open(PATH, create=True)
    disk.pwritev(fd, [HEADER.pack()[0]], 0)

    assert read_header(disk, fd, PATH) == HEADER


def test_a_newer_format_is_refused():
    """The version is judged before anything else is believed."""
    disk = SimulatedDisk()
    fd = disk.open(PATH, create=True)
    data = bytearray(HEADER.pack()[0])
    data[8] = 3
    disk.pwritev(fd, [data], 0)

    with pytest.raises(NewerFormatError, match="has format 3; this version knows up to 2"):
        read_header(disk, fd, PATH)


@pytest.mark.parametrize("header", [HEADER, TRANSFORMED])
def test_a_header_comes_back(header):
    """With what it says of the form of its entries; `size` is where the first record lies."""
    disk = SimulatedDisk()
    fd = disk.open(PATH, create=True)
    packed, _ = header.pack()
    disk.pwritev(fd, [packed, bytes(100)], 0)

    assert read_header(disk, fd, PATH) == header
    assert len(packed) == header.size


@given(
    header=st.sampled_from([HEADER, TRANSFORMED]),
    offset=st.integers(8, 200),
    bit=st.integers(0, 7),
)
def test_a_damaged_header_is_refused(header, offset, bit):
    """Any bit."""
    disk = SimulatedDisk()
    fd = disk.open(PATH, create=True)
    data = bytearray(header.pack()[0])
    data[offset % len(data)] ^= 1 << bit
    disk.pwritev(fd, [data], 0)

    with pytest.raises((CorruptRecordError, NewerFormatError)):
        read_header(disk, fd, PATH)


def test_names_sort_in_the_order_of_sequence():
    """And only segments have such names."""
    assert sequence_of(segment_name(12, 4711)) == 12
    assert segment_name(9, 900) < segment_name(10, 5)
    for name in ("next.segment", "LOCK", "synced", "1-2", "a-2.segment", "1-2.segment.old", ""):
        assert sequence_of(name) is None
