"""The wire form between members: frames, and Raft messages in them. Sans-I/O.

    frame   = length of the body (u32) | type (u8) | CRC32 (u32) | body      all little-endian
    message = length of the header (u32) | protobuf header | entry data, entry after entry

The CRC covers length, type and body; of a message it covers the header only, because every entry
has a CRC32 of its own in it, which is checked on arrival and then travels on with the entry.
Payloads are sent by reference and received into one buffer, out of which each entry is copied
once. What this module must not know: sockets, and who may talk to whom.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message as ProtobufMessage

from kingbus.crc import crc32
from kingbus.pb import raft_pb2
from kingbus.raft.types import (
    LOCAL_MESSAGES,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from kingbus.transport.errors import FrameError

PROTOCOL = 1
"""The version of everything in this module; a hello with another one is refused."""

_FRAME = struct.Struct("<IBI")
_CHECKED_PART = struct.Struct("<IB")
_LENGTH = struct.Struct("<I")
FRAME_HEADER_BYTES = _FRAME.size

ENTRY_BYTES_MAX = (16 << 20) + (2 << 20)
"""One packet of MySQL's largest size with the description of its batch: no entry is larger."""
APPEND_BYTES_MAX = ENTRY_BYTES_MAX + (1 << 20)
"""A message holds one such entry and its header, or many that make about 1 MiB."""
URGENT_BYTES_MAX = 1 << 20
"""Votes, heartbeats and answers are far below a kilobyte; this only bounds a bad peer."""
CALL_BYTES_MAX = (1 << 20) + 4096
"""A body of 1 MiB, as the admin API allows, and its envelope."""
HELLO_BYTES_MAX = 16 << 10
PROBE_BYTES_MAX = 256

_BUFFER_BYTES = 256 << 10  # a few frames of small messages; larger frames get a larger buffer
_BUFFER_BYTES_KEPT = 4 << 20  # a buffer that one huge frame made larger than this is given back
_ROOM_BYTES = 64 << 10  # with less behind a frame, it is moved to the front: fewer, larger reads
_SMALL_BYTES = 4 << 10  # joining below this costs less than one more element of sendmsg

Buffer = bytes | bytearray | memoryview
P = TypeVar("P", bound=ProtobufMessage)


class FrameType(IntEnum):
    """What a frame carries."""

    HELLO = 1
    HELLO_REPLY = 2
    MESSAGE = 3
    PROBE = 4
    PROBE_REPLY = 5
    CALL = 6
    CALL_REPLY = 7


_TYPES = {kind.value: kind for kind in FrameType}

HELLO_LIMITS = {FrameType.HELLO: HELLO_BYTES_MAX, FrameType.HELLO_REPLY: HELLO_BYTES_MAX}
"""What may come before both sides know each other."""
URGENT_LIMITS = {
    FrameType.MESSAGE: URGENT_BYTES_MAX,
    FrameType.PROBE: PROBE_BYTES_MAX,
    FrameType.PROBE_REPLY: PROBE_BYTES_MAX,
}
APPEND_LIMITS = URGENT_LIMITS | {FrameType.MESSAGE: APPEND_BYTES_MAX}
CALL_LIMITS = {FrameType.CALL: CALL_BYTES_MAX, FrameType.CALL_REPLY: CALL_BYTES_MAX}


@dataclass(frozen=True, slots=True)
class Frame:
    """A received frame. `body` lies in the receive buffer: use it before more is received."""

    type: FrameType
    body: memoryview


class FrameBuffer:
    """Received bytes in, frames out: `space()` to receive into, `received()` to take frames.

    `limits` gives the largest body of each acceptable type; whatever else comes is a FrameError,
    as soon as its first bytes are here.
    """

    def __init__(self, limits: dict[FrameType, int]) -> None:
        self.limits = limits
        self._data = bytearray(_BUFFER_BYTES)
        self._start = 0
        self._end = 0
        self._wanted = FRAME_HEADER_BYTES  # bytes of the frame at _start, as far as known

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._end - self._start

    def space(self) -> memoryview:
        """Where to receive next; never empty. It ends the life of the bodies given out before."""
        pending = self._end - self._start
        room = len(self._data) - max(self._end, self._start + self._wanted)
        if self._start and (pending == 0 or room < _ROOM_BYTES):
            self._data[:pending] = self._data[self._start : self._end]
            self._start, self._end = 0, pending
        if self._wanted > len(self._data) or (
            len(self._data) > _BUFFER_BYTES_KEPT and pending == 0
        ):
            fresh = bytearray(max(_BUFFER_BYTES, self._wanted))
            fresh[:pending] = self._data[self._start : self._end]
            self._data, self._start, self._end = fresh, 0, pending
        return memoryview(self._data)[self._end :]

    def received(self, count: int) -> list[Frame]:
        """Frames that are complete after `count` more bytes; FrameError for what is none."""
        assert 0 < count <= len(self._data) - self._end, (count, self._end, len(self._data))
        self._end += count
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        pending = self._end - self._start
        if pending < FRAME_HEADER_BYTES:
            self._wanted = FRAME_HEADER_BYTES
            if pending:
                self._look_at_the_type(pending)
            return None
        length, number, checksum = _FRAME.unpack_from(self._data, self._start)
        kind = _TYPES.get(number)
        limit = None if kind is None else self.limits.get(kind)
        if kind is None or limit is None:
            raise FrameError(self._describe_stranger(f"frame type {number} is not expected here"))
        if length > limit:
            text = f"{kind.name} frame of {length} bytes, at most {limit} are allowed"
            raise FrameError(self._describe_stranger(text))
        self._wanted = FRAME_HEADER_BYTES + length
        if pending < self._wanted:
            return None
        begin = self._start + FRAME_HEADER_BYTES
        body = memoryview(self._data)[begin : begin + length].toreadonly()
        if frame_checksum(kind, body) != checksum:
            raise FrameError(f"{kind.name} frame of {length} bytes: checksum mismatch")
        self._start += self._wanted
        self._wanted = FRAME_HEADER_BYTES
        return Frame(kind, body)

    def _look_at_the_type(self, pending: int) -> None:
        # A client of another protocol may send less than a header and wait: refuse it at once.
        if pending > 4 and self._data[self._start + 4] not in _TYPES:
            number = self._data[self._start + 4]
            raise FrameError(self._describe_stranger(f"frame type {number} is unknown"))

    def _describe_stranger(self, text: str) -> str:
        first = bytes(self._data[self._start : min(self._end, self._start + 8)])
        if first[:4] in {b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PRI "}:
            return "an HTTP client came to the peer port"
        if first[:2] == b"\x16\x03":
            return "a TLS client came to the plain peer port"
        return text


def frame_checksum(kind: FrameType, body: Buffer) -> int:
    """The CRC32 of a frame; MalformedFrame for a message whose header is longer than itself."""
    checksum = crc32(_CHECKED_PART.pack(len(body), kind))
    if kind is not FrameType.MESSAGE:
        return crc32(body, checksum)
    if len(body) < _LENGTH.size:
        raise FrameError(f"MESSAGE frame of {len(body)} bytes has no header")
    end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    return crc32(memoryview(body)[:end], checksum)


def encode_frame(kind: FrameType, message: ProtobufMessage) -> bytes:
    """A frame that holds a protobuf message and nothing else."""
    assert kind is not FrameType.MESSAGE
    body = message.SerializeToString()
    return _FRAME.pack(len(body), kind, frame_checksum(kind, body)) + body


def parse_body(into: P, body: Buffer) -> P:
    """`into`, filled from a frame's body; FrameError when that is no such message."""
    try:
        into.ParseFromString(bytes(body))
    except ProtobufDecodeError:
        raise FrameError(f"{type(into).__name__} of {len(body)} bytes does not decode") from None
    return into


def encode_message(message: Message) -> list[Buffer]:
    """The frame of a Raft message as a list of buffers; entry data is in it by reference."""
    header = raft_pb2.Message(
        type=message.type,
        to=message.to,
        sender=message.from_,
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        commit=message.commit,
        vote=message.vote,
        reject=message.reject,
        reject_hint=message.reject_hint,
        context=message.context,
    )
    payload_bytes = 0
    payloads: list[Buffer] = []
    for entry in message.entries:
        data = entry.data
        checksum = crc32(data) if entry.checksum is None else entry.checksum
        header.entries.add(
            index=entry.index,
            term=entry.term,
            type=entry.type,
            length=len(data),
            checksum=checksum,
        )
        if data:
            payloads.append(data)
            payload_bytes += len(data)
    if message.snapshot is not None:
        _put_snapshot(header.snapshot, message.snapshot)
    encoded = header.SerializeToString()
    length = _LENGTH.size + len(encoded) + payload_bytes
    checked = crc32(_CHECKED_PART.pack(length, FrameType.MESSAGE))
    head = _LENGTH.pack(len(encoded)) + encoded
    frame = _FRAME.pack(length, FrameType.MESSAGE, crc32(head, checked))
    return [frame + head, *payloads]


def _put_snapshot(target: raft_pb2.Snapshot, snapshot: Snapshot) -> None:
    target.index = snapshot.index
    target.term = snapshot.term
    target.data = snapshot.data
    target.conf_index = snapshot.conf_index
    conf_state = snapshot.conf_state
    target.conf_state.voters.extend(conf_state.voters)
    target.conf_state.learners.extend(conf_state.learners)
    target.conf_state.voters_outgoing.extend(conf_state.voters_outgoing)
    target.conf_state.learners_next.extend(conf_state.learners_next)
    target.conf_state.auto_leave = conf_state.auto_leave


def decode_message(body: memoryview) -> Message:
    """The Raft message in a frame's body; its entries are copies and carry their checksum.

    FrameError for an unknown or local kind, lengths that do not add up, entries that do not
    follow each other, and an entry whose data does not match its checksum.
    """
    head_end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    if head_end > len(body):
        raise FrameError(f"message header of {head_end} bytes in a body of {len(body)}")
    header = parse_body(raft_pb2.Message(), body[_LENGTH.size : head_end])
    try:
        kind = MessageType(header.type)
    except ValueError:
        raise FrameError(f"message type {header.type} is unknown") from None
    if kind in LOCAL_MESSAGES or kind is MessageType.FORGET_LEADER:
        raise FrameError(f"{kind} never comes from a peer")
    if header.entries and kind is not MessageType.APP:
        # Proposals are never forwarded here, so no other kind carries entries.
        raise FrameError(f"{kind} with entries")
    return Message(
        type=kind,
        to=header.to,
        from_=header.sender,
        term=header.term,
        log_term=header.log_term,
        index=header.index,
        entries=_decode_entries(header, body[head_end:]),
        commit=header.commit,
        vote=header.vote,
        snapshot=_decode_snapshot(header) if header.HasField("snapshot") else None,
        reject=header.reject,
        reject_hint=header.reject_hint,
        context=header.context,
    )


def _decode_entries(header: raft_pb2.Message, payload: memoryview) -> list[Entry]:
    entries: list[Entry] = []
    position, index = 0, header.index
    for described in header.entries:
        index += 1
        if described.index != index:
            raise FrameError(f"entry {described.index} stands where {index} was expected")
        end = position + described.length
        if end > len(payload):
            raise FrameError(f"entry {index} of {described.length} bytes goes past the frame")
        data = bytes(payload[position:end])
        if crc32(data) != described.checksum:
            raise FrameError(f"entry {index} of {described.length} bytes: checksum mismatch")
        try:
            kind = EntryType(described.type)
        except ValueError:
            raise FrameError(f"entry {index}: type {described.type} is unknown") from None
        entries.append(Entry(described.term, index, kind, data, described.checksum))
        position = end
    if position != len(payload):
        raise FrameError(f"{len(payload) - position} bytes follow the last entry")
    return entries


def _decode_snapshot(header: raft_pb2.Message) -> Snapshot:
    found = header.snapshot
    return Snapshot(
        index=found.index,
        term=found.term,
        conf_state=ConfState(
            voters=tuple(found.conf_state.voters),
            learners=tuple(found.conf_state.learners),
            voters_outgoing=tuple(found.conf_state.voters_outgoing),
            learners_next=tuple(found.conf_state.learners_next),
            auto_leave=found.conf_state.auto_leave,
        ),
        data=found.data,
        conf_index=found.conf_index,
    )


def gather(buffers: Iterable[Buffer]) -> list[Buffer]:
    """The same bytes in fewer buffers: neighbours that are small are joined, large ones stay."""
    gathered: list[Buffer] = []
    small: bytearray | None = None
    for buffer in buffers:
        if len(buffer) >= _SMALL_BYTES:
            gathered.append(buffer)
            small = None
        elif small is not None:
            small += buffer
        else:
            small = bytearray(buffer)
            gathered.append(small)
    return gathered


def drop_sent(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    """What is left of the buffers behind the first `count` bytes."""
    for number, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[number + 1 :]]
        count -= len(buffer)
    assert count == 0, f"{count} bytes more were sent than given"
    return []
