"""The form of one record: a header of 36 bytes and a body.

    crc       u32  CRC32 of the 32 bytes that follow it
    previous  u32  crc of the record before it in this file (of the segment's header for the first)
    body_crc  u32  CRC32 of the body; for an entry without flags the one that it carries already
    length    u32  of the body
    kind      u8   RecordKind
    entry     u8   the entry's type
    flags     u16  of an entry: the form in which its data are stored, see `at_rest`; 0: as they are
    index     u64  of an entry; 0 otherwise
    term      u64  of an entry; 0 otherwise

All numbers are little-endian. `crc` covers `body_crc`, so the two together cover every byte, and
the body's sum need not be computed again where it is known. `previous` chains the records: what an
earlier life of the file left behind a newer record does not fit, and ends a scan. A header of
zeros, as preallocated room has, is no record.

This module knows nothing of files.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from kingbus.crc import crc32
from kingbus.pb import raft_pb2
from kingbus.raft.types import ConfState, EntryType, HardState, Snapshot

__all__ = [
    "BODY_BYTES_MAX",
    "CRC_BYTES",
    "ENTRY_TYPES",
    "HEADER",
    "HEADER_BYTES",
    "LogStart",
    "RecordKind",
    "SyncedMark",
    "conf_state_from_pb",
    "conf_state_to_pb",
    "pack_header",
    "pack_record",
    "snapshot_from_pb",
    "snapshot_to_pb",
]

HEADER = struct.Struct("<IIIIBBHQQ")
HEADER_BYTES = HEADER.size
CRC_BYTES = 4
_CRC = struct.Struct("<I")
_CHECKED = struct.Struct("<IIIBBHQQ")

BODY_BYTES_MAX = 64 << 20
"""A body is an entry's data: 16 MiB of packets and what describes them. The rest is head-room, so
that a length beyond this is damage, not a reason to read on."""

ENTRY_TYPES = tuple(EntryType)
"""By number; they are 0, 1, 2."""


class RecordKind(IntEnum):
    """What a record holds. 0 is left to preallocated room."""

    ENTRY = 1
    HARD_STATE = 2
    LOG_START = 3
    SYNCED = 4
    INDEX = 5


def pack_header(
    *,
    previous: int,
    body_crc: int,
    length: int,
    kind: int,
    entry_type: int,
    index: int,
    term: int,
    flags: int = 0,
) -> tuple[bytes, int]:
    """The header's bytes, and its crc, which the next record names."""
    checked = _CHECKED.pack(previous, body_crc, length, kind, entry_type, flags, index, term)
    crc = crc32(checked)
    return _CRC.pack(crc) + checked, crc


def pack_record(kind: RecordKind, body: bytes, previous: int) -> tuple[bytes, int]:
    """A whole record that is not an entry, and its crc."""
    header, crc = pack_header(
        previous=previous,
        body_crc=crc32(body),
        length=len(body),
        kind=kind,
        entry_type=0,
        index=0,
        term=0,
    )
    return header + body, crc


_HARD_STATE = struct.Struct("<QQQ")


def pack_hard_state(state: HardState) -> bytes:
    """The body of a HARD_STATE record."""
    return _HARD_STATE.pack(state.term, state.vote, state.commit)


def unpack_hard_state(body: bytes) -> HardState:
    """The reverse; struct.error when the length is wrong."""
    return HardState(*_HARD_STATE.unpack(body))


_LOG_START = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStart:
    """Where the log begins, and the newest known configuration.

    `index` and `term` are those of the entry just before the first one held; `conf_state` is as of
    `conf_index`, which may be behind or ahead of `index`.
    """

    index: int = 0
    term: int = 0
    conf_index: int = 0
    conf_state: ConfState = field(default_factory=ConfState)

    def pack(self) -> bytes:
        """The body of a LOG_START record."""
        fixed = _LOG_START.pack(self.index, self.term, self.conf_index)
        return fixed + conf_state_to_pb(self.conf_state).SerializeToString(deterministic=True)

    @classmethod
    def unpack(cls, body: bytes) -> "LogStart":
        """The reverse; struct.error or protobuf's DecodeError when it is not one."""
        index, term, conf_index = _LOG_START.unpack_from(body)
        message = raft_pb2.ConfState.FromString(body[_LOG_START.size :])
        return cls(
            index=index, term=term, conf_index=conf_index, conf_state=conf_state_from_pb(message)
        )


_SYNCED = struct.Struct("<16sQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncedMark:
    """Says that this file was durable up to the offset `synced` when the mark was written.

    It names its file's random id and its own offset, so that it can be found, and believed, behind
    a damaged stretch, where the chain is broken.
    """

    segment_id: bytes
    position: int
    synced: int

    def pack(self) -> bytes:
        """The body of a SYNCED record."""
        return _SYNCED.pack(self.segment_id, self.position, self.synced)

    @classmethod
    def unpack(cls, body: bytes) -> "SyncedMark":
        """The reverse; struct.error when the length is wrong."""
        segment_id, position, synced = _SYNCED.unpack(body)
        return cls(segment_id=segment_id, position=position, synced=synced)


SYNCED_BYTES = HEADER_BYTES + _SYNCED.size
HARD_STATE_BYTES = HEADER_BYTES + _HARD_STATE.size


def conf_state_to_pb(state: ConfState) -> raft_pb2.ConfState:
    """A configuration as peers and records carry it."""
    return raft_pb2.ConfState(
        voters=state.voters,
        learners=state.learners,
        voters_outgoing=state.voters_outgoing,
        learners_next=state.learners_next,
        auto_leave=state.auto_leave,
    )


def conf_state_from_pb(message: raft_pb2.ConfState) -> ConfState:
    """The reverse."""
    return ConfState(
        voters=tuple(message.voters),
        learners=tuple(message.learners),
        voters_outgoing=tuple(message.voters_outgoing),
        learners_next=tuple(message.learners_next),
        auto_leave=message.auto_leave,
    )


def snapshot_to_pb(snapshot: Snapshot) -> raft_pb2.Snapshot:
    """A snapshot as records carry it."""
    return raft_pb2.Snapshot(
        index=snapshot.index,
        term=snapshot.term,
        conf_state=conf_state_to_pb(snapshot.conf_state),
        data=snapshot.data,
        conf_index=snapshot.conf_index,
    )


def snapshot_from_pb(message: raft_pb2.Snapshot) -> Snapshot:
    """The reverse."""
    return Snapshot(
        index=message.index,
        term=message.term,
        conf_state=conf_state_from_pb(message.conf_state),
        data=message.data,
        conf_index=message.conf_index,
    )
