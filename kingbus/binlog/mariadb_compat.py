"""MariaDB's own events for replicas that do not know them: replaced or left out, as it does itself.

Owns what becomes of each of the events 160 to 163 under a capability level
(`@mariadb_slave_capability`), and the replacements, which are of the same length, so that positions
stay true (MariaDB's `send_event_to_slave`, `Query_log_event::dummy_event` and `begin_event`). Knows
nothing of packets or of who asks.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kingbus.binlog.checksum import CRC_BYTES, with_crc
from kingbus.binlog.errors import MalformedEventError
from kingbus.binlog.event_types import EventType
from kingbus.binlog.events import QUERY_POST_HEADER
from kingbus.binlog.header import HEADER_BYTES, BytesLike
from kingbus.binlog.mariadb import GTID_BYTES_MIN, GTID_FLAGS, STANDALONE

ANNOTATE: Final = 1
"""From this level on a replica knows ANNOTATE_ROWS and ignores it,"""
TOLERATE_HOLES: Final = 2
"""needs no event in the place of one that is left out,"""
BINLOG_CHECKPOINT: Final = 3
"""knows BINLOG_CHECKPOINT,"""
GTID: Final = 4
"""and GTID and GTID_LIST: all that there is."""

_TYPE: Final = 4
_FLAGS: Final = 17
_THREAD_SPECIFIC: Final = 0x0004
_SUPPRESS_USE: Final = 0x0008
_QUERY_BYTES_MIN: Final = QUERY_POST_HEADER + 2
_USER_VAR_BYTES_MIN: Final = HEADER_BYTES + 6
_GTID_BYTES: Final = HEADER_BYTES + 19
"""Of a GTID without a commit id: `BEGIN` fits exactly."""
_TIME_ZONE: Final = 5
_DUMMY_VARIABLE: Final = b"!dummyvar"


def types_to_change(capability: int, *, annotate: bool) -> NDArray[np.bool_]:
    """Of each type of event whether such a client gets it otherwise than it is stored."""
    table = np.zeros(256, dtype=np.bool_)
    table[EventType.ANNOTATE_ROWS] = not annotate and (
        capability < ANNOTATE or capability >= TOLERATE_HOLES
    )
    table[EventType.BINLOG_CHECKPOINT] = capability < BINLOG_CHECKPOINT
    table[EventType.GTID_MARIADB] = table[EventType.GTID_LIST] = capability < GTID
    return table


def replacement(event: BytesLike, capability: int, *, crc: bool) -> bytes | None:
    """What is sent instead of an event that is to be changed; None: nothing."""
    type_ = event[_TYPE]
    if type_ == EventType.GTID_MARIADB:
        if len(event) < GTID_BYTES_MIN:
            raise MalformedEventError(f"a GTID event of {len(event)} bytes is too short")
        if not event[GTID_FLAGS] & STANDALONE:
            return _begin(event, crc=crc)
    if capability >= TOLERATE_HOLES:
        return None
    return _dummy(event, crc=crc)


def _changed(event: BytesLike, type_: int, *, crc: bool) -> bytearray:
    """A copy without its checksum, with another type and the flags of what is made up."""
    changed = bytearray(event[: len(event) - CRC_BYTES] if crc else event)
    flags = int.from_bytes(changed[_FLAGS:HEADER_BYTES], "little")
    flags = flags & ~_THREAD_SPECIFIC | _SUPPRESS_USE
    changed[_FLAGS:HEADER_BYTES] = flags.to_bytes(2, "little")
    changed[_TYPE] = type_
    return changed


def _begin(event: BytesLike, *, crc: bool) -> bytes:
    """A QUERY of the same length that says BEGIN."""
    changed = _changed(event, EventType.QUERY, crc=crc)
    more = len(changed) - _GTID_BYTES
    if more < 0 or more == 1:
        raise MalformedEventError(f"a GTID event of {len(event)} bytes")
    # A commit id takes two bytes more: those of an empty time zone, and of a longer one.
    status = bytes((_TIME_ZONE, more - 2)) + bytes(more - 2) if more else b""
    body = bytes(11) + len(status).to_bytes(2, "little") + status + b"\0BEGIN"
    changed[HEADER_BYTES:] = body
    return _whole(changed, crc=crc)


def _dummy(event: BytesLike, *, crc: bool) -> bytes:
    """An event of the same length that does nothing: a comment, or a variable that nobody uses."""
    old_type = event[_TYPE]
    changed = _changed(event, EventType.QUERY, crc=crc)
    size = len(changed)
    if size < _USER_VAR_BYTES_MIN:
        raise MalformedEventError(f"an event of {len(event)} bytes cannot be replaced")
    if size < _QUERY_BYTES_MIN:
        changed[_TYPE] = EventType.USER_VAR
        name = _DUMMY_VARIABLE[: size - (_USER_VAR_BYTES_MIN - 1)]
        changed[HEADER_BYTES:] = len(name).to_bytes(4, "little") + name + b"\1"
    else:
        room = size - (_QUERY_BYTES_MIN - 1)
        text = f"# Dummy event replacing event type {old_type} that slave cannot handle."
        changed[HEADER_BYTES:] = bytes(14) + text.encode()[:room].ljust(room)
    assert len(changed) == size
    return _whole(changed, crc=crc)


def _whole(event: bytearray, *, crc: bool) -> bytes:
    return with_crc(event) if crc else bytes(event)
