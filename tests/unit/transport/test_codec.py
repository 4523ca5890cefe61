"""Frames and messages: whatever was encoded is decoded, whatever else is refused."""

import struct
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.pb import peer_pb2, raft_pb2
from kingbus.raft.types import (
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from kingbus.transport.codec import (
    APPEND_LIMITS,
    FRAME_HEADER_BYTES,
    HELLO_LIMITS,
    URGENT_BYTES_MAX,
    URGENT_LIMITS,
    FrameBuffer,
    FrameType,
    decode_message,
    drop_sent,
    encode_frame,
    encode_message,
    gather,
    parse_body,
)
from kingbus.transport.errors import FrameError

u64 = st.integers(0, 2**64 - 1)
index = st.integers(0, 2**63)
kinds = st.sampled_from(
    [
        MessageType.APP_RESP,
        MessageType.VOTE,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT,
        MessageType.HEARTBEAT_RESP,
        MessageType.TIMEOUT_NOW,
        MessageType.READ_INDEX,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE,
        MessageType.TRANSFER_LEADER,
    ]
)
small_messages = st.builds(
    Message,
    type=kinds,
    to=u64,
    from_=u64,
    term=u64,
    log_term=u64,
    index=u64,
    commit=u64,
    vote=u64,
    reject=st.booleans(),
    reject_hint=u64,
    context=st.binary(max_size=40),
)
ids = st.lists(u64, max_size=5).map(tuple)
snapshots = st.builds(
    Message,
    type=st.just(MessageType.SNAP),
    to=u64,
    from_=u64,
    snapshot=st.builds(
        Snapshot,
        index=u64,
        term=u64,
        conf_state=st.builds(
            ConfState,
            voters=ids,
            learners=ids,
            voters_outgoing=ids,
            learners_next=ids,
            auto_leave=st.booleans(),
        ),
        data=st.binary(max_size=200),
        conf_index=u64,
    ),
)


@st.composite
def appends(draw):
    first = draw(index)
    payloads = draw(st.lists(st.binary(max_size=9000), max_size=6))
    entries = [
        Entry(draw(u64), first + number, draw(st.sampled_from(EntryType)), data)
        for number, data in enumerate(payloads, 1)
    ]
    return Message(MessageType.APP, draw(u64), draw(u64), index=first, entries=entries)


messages = st.one_of(small_messages, snapshots, appends())


def feed(data, limits, pieces=()):
    """All frames of `data` as (type, bytes), received in pieces of these sizes, then the rest."""
    buffer = FrameBuffer(limits)
    found = []
    view = memoryview(bytes(data))
    sizes = list(pieces)
    while view:
        space = buffer.space()
        size = min(len(space), len(view), sizes.pop(0) if sizes else len(view))
        space[:size] = view[:size]
        view = view[size:]
        found += [(frame.type, bytes(frame.body)) for frame in buffer.received(size)]
    return found, buffer


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 4000), max_size=30))
def test_messages_survive_the_wire_however_it_is_cut(sent, pieces):
    """Any messages, received in any pieces, are the same messages, entries with checksums."""
    data = b"".join(b"".join(encode_message(message)) for message in sent)
    frames, buffer = feed(data, APPEND_LIMITS, pieces)
    received = [decode_message(memoryview(body)) for _, body in frames]

    assert received == sent
    assert buffer.pending_bytes == 0
    for message in received:
        for entry in message.entries:
            assert entry.checksum == crc32(entry.data)
            assert type(entry.data) is bytes


def test_large_frames_pass_and_the_buffer_shrinks_again():
    """A frame of many MiB passes in small pieces; afterwards its buffer is given back."""
    message = Message(MessageType.APP, 1, 2, entries=[Entry(1, 1, data=b"x" * (17 << 20))])
    data = b"".join(encode_message(message))
    frames, buffer = feed(data, APPEND_LIMITS, [100_000] * 200)

    assert decode_message(memoryview(frames[0][1])) == message
    assert len(buffer.space()) < 1 << 20


def test_a_known_checksum_is_not_computed_again():
    """What storage says about an entry goes out as it is: a wrong one is found by the receiver."""
    message = Message(MessageType.APP, 1, 2, entries=[Entry(1, 1, data=b"abc", checksum=5)])
    frames, _ = feed(b"".join(encode_message(message)), APPEND_LIMITS)
    with pytest.raises(FrameError, match=r"entry 1 .*checksum"):
        decode_message(memoryview(frames[0][1]))


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_refused_or_waited_for(data):
    """Random bytes never give a frame: an error, or too few bytes to tell."""
    try:
        frames, buffer = feed(data, HELLO_LIMITS)
    except FrameError:
        return
    assert frames == []
    assert buffer.pending_bytes == len(data)


@settings(max_examples=300)
@given(messages, st.data())
def test_any_flipped_bit_is_noticed(message, data):
    """One damaged bit anywhere in a message is an error, or leaves the frame incomplete."""
    encoded = bytearray(b"".join(encode_message(message)))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        frames, buffer = feed(encoded, APPEND_LIMITS)
        for _, body in frames:
            decode_message(memoryview(body))
    except FrameError:
        return
    assert frames == []
    assert buffer.pending_bytes == len(encoded)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"POST /members HTTP/1.1\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "TLS"),
        (b"\x00" * 9, "type 0"),
        (struct.pack("<IBI", 1 << 31, FrameType.HELLO, 0), "2147483648 bytes"),
        (struct.pack("<IBI", 10, FrameType.MESSAGE, 0), "not expected"),
    ],
)
def test_strangers_are_recognized(data, complaint):
    """Other protocols, unknown types and excessive lengths are named in the error at once."""
    with pytest.raises(FrameError, match=complaint):
        feed(data, HELLO_LIMITS)


def test_a_client_that_sends_five_wrong_bytes_is_not_waited_for():
    """The type decides as soon as it is here, before the header is complete."""
    with pytest.raises(FrameError):
        feed(b"\x00\x00\x00\x00\xff", HELLO_LIMITS)


def test_each_lane_has_its_limit():
    """A message above 1 MiB passes on the append lane only."""
    message = Message(MessageType.APP, 1, 2, entries=[Entry(1, 1, data=b"x" * URGENT_BYTES_MAX)])
    data = b"".join(encode_message(message))
    assert len(feed(data, APPEND_LIMITS)[0]) == 1
    with pytest.raises(FrameError, match="at most"):
        feed(data[:100], URGENT_LIMITS)


def frame_of(header, payload=b""):
    encoded = header.SerializeToString()
    return memoryview(struct.pack("<I", len(encoded)) + encoded + payload)


def entry_header(number, data, **more):
    return raft_pb2.EntryHeader(index=number, length=len(data), checksum=crc32(data), **more)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (frame_of(raft_pb2.Message(type=99)), "type 99 is unknown"),
        (frame_of(raft_pb2.Message(type=MessageType.HUP)), "never comes from a peer"),
        (frame_of(raft_pb2.Message(type=MessageType.STORAGE_APPEND)), "never comes"),
        (frame_of(raft_pb2.Message(type=MessageType.FORGET_LEADER)), "never comes"),
        (
            frame_of(raft_pb2.Message(type=MessageType.PROP, entries=[entry_header(1, b"")])),
            "with entries",
        ),
        (
            frame_of(
                raft_pb2.Message(type=MessageType.APP, index=4, entries=[entry_header(6, b"a")]),
                b"a",
            ),
            "entry 6 stands where 5",
        ),
        (
            frame_of(
                raft_pb2.Message(type=MessageType.APP, entries=[entry_header(1, b"abc")]), b"ab"
            ),
            "past the frame",
        ),
        (
            frame_of(
                raft_pb2.Message(type=MessageType.APP, entries=[entry_header(1, b"a")]), b"ab"
            ),
            "follow the last",
        ),
        (
            frame_of(
                raft_pb2.Message(type=MessageType.APP, entries=[entry_header(1, b"a", type=7)]),
                b"a",
            ),
            "type 7 is unknown",
        ),
        (memoryview(struct.pack("<I", 50) + b"short"), "header of 54"),
        (memoryview(struct.pack("<I", 4) + b"\xff\xff\xff\xff"), "does not decode"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(body, complaint):
    """What the checksums cannot know, a message's own rules do."""
    with pytest.raises(FrameError, match=complaint):
        decode_message(body)


def test_other_frames_hold_protobuf_and_nothing_else():
    """A hello reads back; a body that is none is refused."""
    hello = peer_pb2.Hello(protocol=1, cluster_id=2, sender=3, receiver=4, lane="urgent")
    data = encode_frame(FrameType.HELLO, hello)
    frames, _ = feed(data, HELLO_LIMITS)

    assert frames == [(FrameType.HELLO, hello.SerializeToString())]
    assert parse_body(peer_pb2.Hello(), frames[0][1]) == hello
    with pytest.raises(FrameError):
        parse_body(peer_pb2.Hello(), b"\xff\xff")
    assert len(data) == FRAME_HEADER_BYTES + hello.ByteSize()


@given(st.lists(st.binary(max_size=6000), max_size=12))
def test_gathering_changes_no_byte(buffers):
    """Joined buffers hold the same bytes, and no two small neighbours stay apart."""
    gathered = gather(buffers)

    assert b"".join(gathered) == b"".join(buffers)
    for one, two in pairwise(gathered):
        assert len(one) >= 4096 or len(two) >= 4096


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_a_partial_send_leaves_the_rest(buffers, data):
    """After any number of sent bytes exactly the others are left."""
    whole = b"".join(buffers)
    count = data.draw(st.integers(0, len(whole)))

    assert b"".join(drop_sent(buffers, count)) == whole[count:]
