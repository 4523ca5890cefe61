"""GTID sets against a naive model: a Python set of single identifiers."""

import struct
import time
from itertools import pairwise
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog import gtid
from kingbus.binlog.gtid import (
    GTID_NUMBER_MAX,
    GtidSet,
    MalformedGtidSetError,
    format_gtid,
)

A = UUID("11111111-2222-3333-4444-555555555555").bytes
B_TEXT = "50b5308f-e4f4-11f1-a9f2-02fc00000001"
B = UUID(B_TEXT).bytes
C = UUID("51e89af9-e4f4-11f1-8609-02fc00000001").bytes

runs = st.lists(
    st.tuples(
        st.sampled_from([A, B, C]),
        st.sampled_from(["", "", "tag", "zz_9"]),
        st.integers(1, 40),
        st.integers(0, 6),
    ),
    max_size=14,
)


def build(pieces):
    result, model = GtidSet(), set()
    for uuid, tag, first, more in pieces:
        result.add(uuid, tag, first, first + more)
        model |= {(uuid, tag, number) for number in range(first, first + more + 1)}
    return result, model


def members(gtids):
    return {
        (uuid, tag, number)
        for uuid, tag, first, last in gtids.runs()
        for number in range(first, last + 1)
    }


@given(runs)
def test_add_keeps_the_members_in_normal_form(pieces):
    """Adding in any order gives exactly those members, in disjoint intervals that do not touch."""
    gtids, model = build(pieces)

    assert members(gtids) == model
    assert gtids.count() == len(model)
    assert bool(gtids) == bool(model)
    assert gtids.uuids() == {uuid for uuid, _, _ in model}
    ordered = list(gtids.runs())
    for before, after in pairwise(ordered):
        assert before[:2] < after[:2] or before[3] + 1 < after[2]


@given(runs, runs)
def test_algebra_is_that_of_sets(left, right):
    """Union, subtract, intersect, contains and overlaps agree with Python's sets."""
    one, model_one = build(left)
    two, model_two = build(right)

    assert members(one.union(two)) == model_one | model_two
    assert members(one.subtract(two)) == model_one - model_two
    assert members(one.intersect(two)) == model_one & model_two
    assert one.contains(two) == (model_one >= model_two)
    assert one.overlaps(two) == bool(model_one & model_two)
    assert members(one.only([A, C])) == {m for m in model_one if m[0] in {A, C}}
    assert (one == two) == (model_one == model_two)
    assert one.union(two) == two.union(one)
    assert one.union(two).subtract(two) == one.subtract(two)
    assert members(one) == model_one, "the operands are left alone"


@given(runs, runs)
def test_large_sets_are_computed_with_as_small_ones_are(left, right):
    """What is done in numpy from some size on has the same results at any size."""
    one, model_one = build(left)
    two, model_two = build(right)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gtid, "_BULK", 0)
        assert one.contains(two) == (model_one >= model_two)
        assert one.overlaps(two) == two.overlaps(one) == bool(model_one & model_two)
        assert one.union(two).contains(one)


@given(st.lists(st.tuples(runs, runs), max_size=6))
def test_the_text_follows_every_change(steps):
    """A set is written again and again while it grows at its end, in the middle and by others."""
    gtids, model = GtidSet(), set()
    for single, together in steps:
        for uuid, tag, first, more in single:
            gtids.add(uuid, tag, first, first + more)
            assert GtidSet.parse(str(gtids)) == gtids
        more_of_them, more_model = build(together)
        gtids.update(more_of_them)
        model |= build(single)[1] | more_model
        assert members(GtidSet.parse(str(gtids))) == model
        assert str(gtids.copy()) == str(gtids)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 30)), max_size=60), runs)
def test_a_thousand_uuids_are_a_set_like_any_other(pieces, others):
    """Against sets of a few, in both directions, which is how a dump asks for each batch."""
    many, model = GtidSet(), set()
    for number in range(1000):
        many.add(number.to_bytes(16), "", 1, 3)
        model |= {(number.to_bytes(16), "", each) for each in (1, 2, 3)}
    few, few_model = build(others)
    for number, first in pieces:
        few.add(number.to_bytes(16), "", first, first)
        few_model.add((number.to_bytes(16), "", first))

    assert many.overlaps(few) == few.overlaps(many) == bool(model & few_model)
    assert many.contains(few) == (model >= few_model)
    assert members(few.subtract(many)) == few_model - model
    assert GtidSet.decode(many.encode()) == many == GtidSet.parse(str(many))


@given(runs, st.integers(1, 50), st.integers(0, 8))
def test_runs_are_asked_for_as_in_the_model(pieces, first, more):
    """contains_run, contains_gtid and overlaps_run agree with the model."""
    gtids, model = build(pieces)
    asked = {(B, "tag", number) for number in range(first, first + more + 1)}

    assert gtids.contains_run(B, "tag", first, first + more) == (asked <= model)
    assert gtids.overlaps_run(B, "tag", first, first + more) == bool(asked & model)
    assert gtids.contains_gtid(B, "tag", first) == ((B, "tag", first) in model)


@given(runs)
def test_text_and_binary_forms_round_trip(pieces):
    """What is written is read back the same, and the tagged form is used only with tags."""
    gtids, _ = build(pieces)

    assert GtidSet.parse(str(gtids)) == gtids
    encoded = gtids.encode()
    assert GtidSet.decode(encoded) == gtids
    assert (encoded[7] == 1) == gtids.has_tags()
    assert gtids.copy() == gtids


@given(st.binary(max_size=120))
def test_garbage_is_refused_with_the_one_error(data):
    """Any bytes are either a set or a MalformedGtidSetError, never another exception."""
    try:
        gtids = GtidSet.decode(data)
    except MalformedGtidSetError:
        return

    assert GtidSet.decode(gtids.encode()) == gtids


@given(runs, st.data())
def test_a_cut_or_longer_encoding_is_refused(pieces, data):
    """No proper prefix of an encoding and no encoding with a byte behind it is accepted."""
    encoded = build(pieces)[0].encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))

    with pytest.raises(MalformedGtidSetError):
        GtidSet.decode(encoded[:cut])
    with pytest.raises(MalformedGtidSetError):
        GtidSet.decode(encoded + b"\0")


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 5)],
        [(5, 5)],
        [(6, 5)],
        [(1, GTID_NUMBER_MAX + 2)],
        [(0, 2), (5, 6)],
        [(1, 3), (3, 4)],
        [(4, 5), (1, 2)],
        [(1, 2), (9, GTID_NUMBER_MAX + 2)],
    ],
)
def test_intervals_that_no_set_has_are_refused(pairs):
    """Empty ones, touching ones, numbers that there are not; one alone as well as several."""
    data = struct.pack("<Q16sQ", 1, A, len(pairs))
    for start, end in pairs:
        data += struct.pack("<QQ", start, end)
    with pytest.raises(MalformedGtidSetError, match="out of order"):
        GtidSet.decode(data)
    whole = struct.pack("<Q16sQQQ", 1, A, 1, 1, GTID_NUMBER_MAX + 1)
    assert GtidSet.decode(whole).count() == GTID_NUMBER_MAX


def test_the_captured_encodings_of_a_real_server():
    """The bytes that a 9.7 server and replica sent mean what their text form said."""
    tagged = bytes.fromhex(
        "01040000000000 01".replace(" ", "")
        + "11111111222233334444555555555555 00 0200000000000000"
        " 0500000000000000 0600000000000000 0700000000000000 0800000000000000"
        "11111111222233334444555555555555 0c 726570746167 0100000000000000"
        " 0300000000000000 0400000000000000"
        "50b5308fe4f411f1a9f202fc00000001 00 0100000000000000"
        " 0100000000000000 1e00000000000000"
        "51e89af9e4f411f1860902fc00000001 00 0100000000000000"
        " 0100000000000000 0400000000000000".replace(" ", "")
    )
    text = (
        "11111111-2222-3333-4444-555555555555:5:7:reptag:3,"
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:1-29,51e89af9-e4f4-11f1-8609-02fc00000001:1-3"
    )

    assert str(GtidSet.decode(tagged)) == text
    assert GtidSet.parse(text).encode() == tagged
    assert GtidSet.decode(bytes(8)) == GtidSet.parse("") == GtidSet()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (
            " 50B5308F-E4F4-11F1-A9F2-02FC00000001 : 1 - 5 : 7 ,\n" + B_TEXT + ":6",
            B_TEXT + ":1-7",
        ),
        (
            "50b5308fe4f411f1a9f202fc00000001:TAG:3:1,50b5308f-e4f4-11f1-a9f2-02fc00000001:9",
            "50b5308f-e4f4-11f1-a9f2-02fc00000001:9:tag:1:3",
        ),
        (",,", ""),
    ],
)
def test_text_is_read_as_the_server_reads_it(text, same):
    """Case, white space, order, line breaks and empty parts make no difference."""
    assert str(GtidSet.parse(text)) == same


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:0",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:5-3",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:9223372036854775807",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:tag",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:tag:other:5",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:ta-g:5",
        "50b5308f-e4f4-11f1-a9f2-02fc00000001:" + "t" * 33 + ":5",
        "50b5308f-e4f4-11f1-a9f2-02fc0000001:5",
    ],
)
def test_wrong_text_is_refused(text):
    """A text that is no set is refused and the message names the part."""
    with pytest.raises(MalformedGtidSetError, match="GTID set"):
        GtidSet.parse(text)


@given(
    numbers=st.lists(
        st.one_of(
            st.integers(0, 40).map(str),
            st.tuples(st.integers(0, 40), st.integers(0, 40)).map("{0[0]}-{0[1]}".format),
            st.sampled_from(["1-2-3", "", "-5", "7-", "tag", "9223372036854775806", "9" * 19]),
        ),
        min_size=2,
        max_size=8,
    ),
    is_sorted=st.booleans(),
)
def test_many_intervals_are_read_as_few_are(numbers, is_sorted):
    """By the run, where it is done, comes the same set; else it is left to what names the fault."""
    if is_sorted:
        numbers.sort(key=lambda each: int("0" + each.partition("-")[0].strip("tag")))
    text = f"{UUID(bytes=A)}:{':'.join(numbers)}"
    in_bulk = GtidSet()
    if in_bulk._parse_bulk(text):
        assert in_bulk == GtidSet.parse(text)
    else:
        assert not in_bulk


def test_a_set_of_a_server_with_many_holes_is_read_in_bulk():
    """The form in which servers tell it, and text with white space gives the same."""
    text = f"{UUID(bytes=A)}:" + ":".join(f"{at}-{at + 1}" for at in range(1, 4000, 4))
    assert GtidSet()._parse_bulk(text)
    read = GtidSet.parse(text)
    assert str(read) == text
    assert GtidSet.parse(text.replace(":", " : ")) == read
    assert GtidSet.parse(f"{text},{UUID(bytes=A)}:3-4").count() == read.count() + 2


def test_the_largest_number_survives():
    """The last number that a server can give survives both forms."""
    gtids = GtidSet()
    gtids.add(A, "", GTID_NUMBER_MAX, GTID_NUMBER_MAX)

    assert GtidSet.decode(gtids.encode()) == GtidSet.parse(str(gtids)) == gtids


def test_a_gtid_is_written_with_its_tag():
    """The text of a single identifier is the one of the set that holds it."""
    assert format_gtid(A, "", 5) == str(GtidSet.parse("11111111-2222-3333-4444-555555555555:5"))
    assert format_gtid(A, "t", 5) == "11111111-2222-3333-4444-555555555555:t:5"


@pytest.mark.slow
def test_sets_of_a_hundred_thousand_intervals_stay_usable():
    """Every operation on 100,000 intervals takes far less than a second, single ones no time."""
    pieces = [(A, "", 3 * number + 1, 0) for number in range(100_000)]
    started = time.perf_counter()
    one, _ = build([])
    for uuid, tag, first, more in pieces:
        one.add(uuid, tag, first, first + more)
    two = GtidSet()
    for number in range(100_000):
        two.add(A, "", 3 * number + 2, 3 * number + 2)
    both = one.union(two)
    assert both.count() == 200_000
    assert both.contains(one) and both.contains(two) and not one.overlaps(two)
    assert both.subtract(one) == two and both.intersect(two) == two
    assert GtidSet.decode(both.encode()) == both == GtidSet.parse(str(both))
    for number in range(1000):
        one.add(A, "", 300 * number + 3, 300 * number + 3)
        assert one.contains_gtid(A, "", 300 * number + 3)

    # Ten times what it takes on a slow core: quadratic behaviour would be a thousand times.
    assert time.perf_counter() - started < 20


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 9)), max_size=30))
def test_a_server_that_is_named_often_is_joined_once(pieces):
    """No server encodes it so, but a client can, in a request of megabytes: not piece by piece."""
    uuid = bytes(range(16))
    encoded = struct.pack("<Q", len(pieces))
    expected, joined = GtidSet(), []
    for first, count in pieces:
        encoded += uuid + struct.pack("<QQQ", 1, first, first + count)
        expected.add(uuid, "", first, first + count - 1)
    argsort = np.argsort

    def counted(values, **options):
        joined.append(len(values))
        return argsort(values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "argsort", counted)
        assert GtidSet.decode(encoded) == expected
    assert sum(joined) <= len(pieces)
