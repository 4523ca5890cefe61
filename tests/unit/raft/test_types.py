"""Values: encoding of configuration changes, sizes, names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.raft.errors import DecodeError
from kingbus.raft.types import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MessageType,
    decode_conf_change,
    entry_size,
    limit_size,
    varint_size,
)

ids = st.integers(min_value=0, max_value=2**64 - 1)
singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), ids)
v1_changes = st.builds(ConfChange, st.sampled_from(ConfChangeType), ids, st.binary(), ids)
v2_changes = st.builds(
    ConfChangeV2, st.sampled_from(ConfChangeTransition), st.lists(singles).map(tuple), st.binary()
)


@given(v1_changes)
def test_conf_change_survives_encoding(change: ConfChange) -> None:
    """Decoding gives back what was encoded."""
    entry = Entry(1, 1, EntryType.CONF_CHANGE, change.encode())
    assert decode_conf_change(entry) == change


@given(v2_changes)
def test_conf_change_v2_survives_encoding(change: ConfChangeV2) -> None:
    """Decoding gives back what was encoded."""
    entry = Entry(1, 1, EntryType.CONF_CHANGE_V2, change.encode())
    assert decode_conf_change(entry) == change


def test_encoding_is_protobuf() -> None:
    """The bytes are those of the fields in etcd's raft.proto."""
    v1 = ConfChange(ConfChangeType.REMOVE_NODE, 300, b"c", 5)
    assert v1.encode() == bytes.fromhex("0805 1001 18ac02 220163")
    v2 = ConfChangeV2(
        ConfChangeTransition.JOINT_EXPLICIT,
        (ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 2),),
        b"c",
    )
    assert v2.encode() == bytes.fromhex("0802 1204 08031002 1a0163")
    assert ConfChangeV2().encode() == b""


@given(st.binary(max_size=40))
def test_decoding_anything_gives_a_change_or_one_error(data: bytes) -> None:
    """Bytes from elsewhere raise DecodeError and nothing else."""
    for kind in (ConfChange, ConfChangeV2):
        try:
            kind.decode(data)
        except DecodeError:
            continue


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "cut short"),
        (b"\x08" + b"\xff" * 11, "too long"),
        (b"\x22\x05ab", "field 4 goes past the end"),
        (b"\x10\x09", "unknown value 9"),
        (b"\x0b", "unknown wire type 3"),
    ],
)
def test_decoding_names_what_is_wrong(data: bytes, message: str) -> None:
    """The error says what was wrong."""
    with pytest.raises(DecodeError, match=message):
        ConfChange.decode(data)


def test_unknown_fields_are_skipped() -> None:
    """A field of a newer version does not hinder decoding."""
    data = ConfChange(ConfChangeType.ADD_NODE, 7).encode() + bytes.fromhex(
        "3801 42026869 4d01020304 510102030405060708"
    )
    assert ConfChange.decode(data) == ConfChange(ConfChangeType.ADD_NODE, 7)


def test_what_a_change_asks_for() -> None:
    """Leave without operations, joint for several or when told, simple otherwise."""
    one = (ConfChangeSingle(ConfChangeType.ADD_NODE, 1),)
    two = (*one, ConfChangeSingle(ConfChangeType.ADD_NODE, 2))
    assert ConfChangeV2().leaves_joint
    assert ConfChangeV2(context=b"x").leaves_joint
    assert not ConfChangeV2(changes=one).leaves_joint
    assert not ConfChangeV2(changes=one).enters_joint
    assert ConfChangeV2(changes=two).enters_joint
    assert ConfChangeV2(changes=two).auto_leave
    for transition in (ConfChangeTransition.JOINT_IMPLICIT, ConfChangeTransition.JOINT_EXPLICIT):
        change = ConfChangeV2(transition, one)
        assert change.enters_joint
        assert change.auto_leave == (transition is ConfChangeTransition.JOINT_IMPLICIT)
    explicit_leave = ConfChangeV2(ConfChangeTransition.JOINT_EXPLICIT)
    assert explicit_leave.enters_joint
    assert not explicit_leave.leaves_joint


@pytest.mark.parametrize(
    ("entry", "size"),
    [
        (Entry(0, 0), 4),
        (Entry(1, 127), 4),
        (Entry(1, 128), 5),
        (Entry(1, 1, EntryType.CONF_CHANGE), 6),
        (Entry(1, 1, data=b"x"), 7),
        (Entry(1, 1, data=b"x" * 200), 207),
    ],
)
def test_entry_size_is_its_protobuf_size(entry: Entry, size: int) -> None:
    """One byte of tag for each field, varints as long as they are."""
    assert entry_size(entry) == size


@given(ids)
def test_varint_size(value: int) -> None:
    """Seven bits a byte."""
    size = 1
    while value >> (7 * size):
        size += 1
    assert varint_size(value) == size


@given(st.lists(st.integers(0, 50)), st.integers(0, 300))
def test_limit_size_is_the_longest_prefix_that_fits(lengths: list[int], limit: int) -> None:
    """At least one entry; one more would be too much."""
    entries = [Entry(1, index, data=b"x" * length) for index, length in enumerate(lengths, 1)]
    taken = limit_size(entries, limit)
    assert taken == entries[: len(taken)]
    assert bool(taken) == bool(entries)
    if len(taken) > 1:
        assert sum(map(entry_size, taken)) <= limit
    if len(taken) < len(entries):
        assert sum(map(entry_size, entries[: len(taken) + 1])) > limit


def test_checksum_does_not_take_part_in_equality() -> None:
    """An entry is the same whether or not somebody computed its checksum."""
    assert Entry(1, 2, data=b"x", checksum=5) == Entry(1, 2, data=b"x")


def test_conf_state_sorts_its_members() -> None:
    """Equal configurations are equal values, however they were listed."""
    assert ConfState((3, 1, 2, 1)) == ConfState((1, 2, 3))
    assert ConfState((1,), (4,), (2,), (2,)).members == {1, 2, 4}


def test_hard_state_is_empty_only_when_all_is() -> None:
    """Any part makes it worth saving."""
    assert HardState().is_empty
    for hard_state in (HardState(term=1), HardState(vote=1), HardState(commit=1)):
        assert not hard_state.is_empty


def test_names_are_those_of_the_origin() -> None:
    """The words that appear in logs and data files."""
    assert str(MessageType.APP_RESP) == "MsgAppResp"
    assert str(MessageType.STORAGE_APPEND) == "MsgStorageAppend"
    assert str(EntryType.CONF_CHANGE_V2) == "EntryConfChangeV2"
    assert str(ConfChangeType.ADD_LEARNER_NODE) == "ConfChangeAddLearnerNode"
    assert str(ConfChangeTransition.JOINT_IMPLICIT) == "ConfChangeTransitionJointImplicit"
