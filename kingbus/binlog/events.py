"""The events that a relay must read, each from its bytes: header, body, checksum if it has one.

Owns the bodies of FORMAT_DESCRIPTION, ROTATE, the three GTID events, PREVIOUS_GTIDS, QUERY (as far
as transaction boundaries need it) and the two heartbeats. Knows nothing of packets or positions.
Layouts: MySQL's `libs/mysql/binlog/event`, checked against captured events; the tagged GTID event
is in MySQL's serialization format (`libs/mysql/serialization`).
"""

import re
from dataclasses import dataclass
from struct import Struct
from typing import Final

from kingbus.binlog.checksum import CRC_BYTES, ChecksumAlgorithm
from kingbus.binlog.errors import MalformedEventError
from kingbus.binlog.event_types import EventType, name_of
from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError, is_tag
from kingbus.binlog.header import HEADER_BYTES, BytesLike

_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_FILE_NAME_BYTES_MAX: Final = 512  # FN_REFLEN, the server's own limit of a path
_NUMBER: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")

# FORMAT_DESCRIPTION: binlog version u16, server version 50, created u32, header length u8, table.
_SERVER_VERSION: Final = slice(HEADER_BYTES + 2, HEADER_BYTES + 52)
FORMAT_DESCRIPTION_CREATED: Final = HEADER_BYTES + 52
_TABLE: Final = HEADER_BYTES + 57
_FIRST_WITH_CHECKSUMS: Final = (5, 6, 1)

# GTID: flags u8, uuid 16, number u64 (all of it in 5.6); 02, two logical clocks u64 (5.7);
# timestamps of 7 bytes, one or two; transaction length (from 8.0.2).
GTID_UUID: Final = HEADER_BYTES + 1
GTID_NUMBER: Final = HEADER_BYTES + 17
GTID_BYTES_MIN: Final = HEADER_BYTES + 25
GTID_TIMESTAMP: Final = HEADER_BYTES + 42
GTID_TIMESTAMP_BYTES: Final = 7

# QUERY: thread u32, time u32, length of schema u8, error u16, length of status variables u16.
QUERY_SCHEMA_LENGTH: Final = HEADER_BYTES + 8
QUERY_STATUS_LENGTH: Final = HEADER_BYTES + 11
QUERY_POST_HEADER: Final = HEADER_BYTES + 13


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatDescription:
    """What a file begins with: who wrote it, when that server started, and how events look."""

    server_version: str
    created: int
    event_types: int
    checksum: ChecksumAlgorithm

    @property
    def crc_bytes(self) -> int:
        """How many bytes of checksum each other event of the file ends in."""
        return CRC_BYTES if self.checksum is ChecksumAlgorithm.CRC32 else 0

    @classmethod
    def decode(cls, event: BytesLike) -> "FormatDescription":
        """Reads it; the algorithm byte and a CRC are there from 5.6.1 on, whatever it says.

        Raises MalformedEventError.
        """
        if len(event) < _TABLE:
            raise MalformedEventError(f"a FORMAT_DESCRIPTION of {len(event)} bytes is too short")
        if event[HEADER_BYTES] != 4 or event[_TABLE - 1] != HEADER_BYTES:
            raise MalformedEventError("a FORMAT_DESCRIPTION that is not of binlog version 4")
        text = bytes(event[_SERVER_VERSION]).split(b"\0", 1)[0].decode("utf-8", "replace")
        number = _NUMBER.match(text)
        if number is None:
            raise MalformedEventError(f"server version {text!r} in a FORMAT_DESCRIPTION")
        algorithm, table_end = ChecksumAlgorithm.NONE, len(event)
        if tuple(int(part) for part in number.groups()) >= _FIRST_WITH_CHECKSUMS:
            table_end -= 1 + CRC_BYTES
            if table_end < _TABLE:
                raise MalformedEventError("a FORMAT_DESCRIPTION without its checksum")
            try:
                algorithm = ChecksumAlgorithm(event[table_end])
            except ValueError:
                raise MalformedEventError(
                    f"unknown checksum algorithm {event[table_end]} in a FORMAT_DESCRIPTION"
                ) from None
        return cls(
            server_version=text,
            created=_U32.unpack_from(event, FORMAT_DESCRIPTION_CREATED)[0],
            event_types=table_end - _TABLE,
            checksum=algorithm,
        )


def _file_name(name: bytes) -> str:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text or len(name) > _FILE_NAME_BYTES_MAX:
        raise MalformedEventError(f"an event with the impossible file name {name[:80]!r}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotate:
    """Which file comes next, and where in it the stream goes on."""

    position: int
    file_name: str

    @classmethod
    def decode(cls, event: BytesLike, *, crc_bytes: int) -> "Rotate":
        """Raises MalformedEventError."""
        end = len(event) - crc_bytes
        if end <= HEADER_BYTES + 8:
            raise MalformedEventError("a ROTATE event without a file name")
        name = bytes(event[HEADER_BYTES + 8 : end])
        return cls(position=_U64.unpack_from(event, HEADER_BYTES)[0], file_name=_file_name(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gtid:
    """One of the three GTID events; an anonymous one has an empty uuid and number 0."""

    uuid: bytes
    tag: str
    number: int
    transaction_length: int
    """Bytes of the whole transaction, this event included; 0 before MySQL 8.0.2."""

    @classmethod
    def decode(cls, event: BytesLike, *, crc_bytes: int) -> "Gtid":
        """Raises MalformedEventError."""
        type_, end = event[4], len(event) - crc_bytes
        if type_ == EventType.GTID_TAGGED:
            return _decode_tagged(event, end)
        if end < GTID_BYTES_MIN:
            raise MalformedEventError(f"a {name_of(type_)} event of {len(event)} bytes")
        length = _transaction_length(event, end)
        if type_ == EventType.ANONYMOUS_GTID:
            return cls(uuid=b"", tag="", number=0, transaction_length=length)
        return cls(
            uuid=bytes(event[GTID_UUID : GTID_UUID + 16]),
            tag="",
            number=_U64.unpack_from(event, GTID_NUMBER)[0],
            transaction_length=length,
        )


def _transaction_length(event: BytesLike, end: int) -> int:
    at = GTID_TIMESTAMP + GTID_TIMESTAMP_BYTES
    if at >= end:
        return 0
    if event[at - 1] & 0x80:  # the original commit's timestamp follows the immediate one's
        at += GTID_TIMESTAMP_BYTES
    if at >= end:
        return 0
    first = event[at]
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    if first in {0xFB, 0xFF} or at + 1 + width > end:
        raise MalformedEventError("a GTID event with an impossible transaction length")
    return int.from_bytes(event[at + 1 : at + 1 + width], "little") if width else first


class _VariableLengthReader:
    """MySQL's variable-length integers: the trailing 1 bits of the first byte count the rest."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: BytesLike, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def unsigned(self) -> int:
        at = self.at
        if at >= self.end:
            raise MalformedEventError("a tagged GTID event is cut short")
        first = self.data[at]
        more = (~first & (first + 1)).bit_length() - 1  # trailing ones of the first byte
        if at + 1 + more > self.end:
            raise MalformedEventError("a tagged GTID event is cut short")
        self.at = at + 1 + more
        if more == 8:
            return int.from_bytes(self.data[at + 1 : at + 9], "little")
        return int.from_bytes(self.data[at : at + 1 + more], "little") >> (more + 1)

    def signed(self) -> int:
        value = self.unsigned()
        return (value >> 1) ^ -(value & 1)

    def text(self) -> str:
        length = self.unsigned()
        if self.at + length > self.end:
            raise MalformedEventError("a tagged GTID event is cut short")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode("ascii", "replace")


def _decode_tagged(event: BytesLike, end: int) -> Gtid:
    """Fields come in the order of their ids; those behind the last known one are left alone."""
    reader = _VariableLengthReader(event, HEADER_BYTES, end)
    version = reader.unsigned()
    if version != 1:
        raise MalformedEventError(f"a tagged GTID event of unknown format {version}")
    reader.unsigned()  # size
    reader.unsigned()  # the last field that a reader must know
    uuid, tag, number, length = b"", "", 0, 0
    while reader.at < end:
        field = reader.unsigned()
        if field in {0, 7}:  # flags, original commit timestamp
            reader.unsigned()
        elif field == 1:
            uuid = bytes(reader.unsigned() & 0xFF for _ in range(16))
        elif field == 2:
            number = reader.signed()
        elif field == 3:
            tag = reader.text()
        elif field in {4, 5}:  # logical clocks
            reader.signed()
        elif field == 6:  # immediate commit timestamp
            reader.unsigned()
        elif field == 8:
            length = reader.unsigned()
        else:
            break
    if len(uuid) != 16 or number <= 0:
        raise MalformedEventError("a tagged GTID event without a GTID")
    if tag and not is_tag(tag):
        raise MalformedEventError(f"a tagged GTID event with the impossible tag {tag!r}")
    return Gtid(uuid=uuid, tag=tag, number=number, transaction_length=length)


def previous_gtids_body(event: BytesLike, *, crc_bytes: int) -> bytes:
    """The encoded set in a PREVIOUS_GTIDS event."""
    return bytes(event[HEADER_BYTES : len(event) - crc_bytes])


def decode_previous_gtids(event: BytesLike, *, crc_bytes: int) -> GtidSet:
    """The set in a PREVIOUS_GTIDS event; raises MalformedEventError."""
    try:
        return GtidSet.decode(previous_gtids_body(event, crc_bytes=crc_bytes))
    except MalformedGtidSetError as error:
        raise MalformedEventError(f"a PREVIOUS_GTIDS event: {error}") from error


def query_text(event: BytesLike, *, crc_bytes: int, size: int | None = None) -> bytes:
    """The statement of a QUERY event, or as much of it as is there.

    `size` is the event's full size when `event` is only its beginning. Raises MalformedEventError.
    """
    end = len(event) - crc_bytes if size is None else min(len(event), size - crc_bytes)
    if end < QUERY_POST_HEADER:
        raise MalformedEventError(f"a QUERY event of {len(event)} bytes is too short")
    start = (
        QUERY_POST_HEADER
        + int.from_bytes(event[QUERY_STATUS_LENGTH : QUERY_STATUS_LENGTH + 2], "little")
        + event[QUERY_SCHEMA_LENGTH]
        + 1
    )
    if start > end:
        raise MalformedEventError("a QUERY event whose parts are longer than itself")
    return bytes(event[start:end])


_DDL_XID = 17
_COUNTED_NAMES = 12
_NAMES_NOT_TOLD = 254
_STATUS_BYTES = {
    0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4, 13: 3, 16: 1, 17: 8, 18: 2, 19: 1, 20: 1,
}  # fmt: skip
"""Status variables of a QUERY event by their number, and how many bytes each has behind it."""
_STATUS_STRINGS = {2: (1, 1), 5: (1, 0), 6: (1, 0), 11: (2, 0)}
"""Those of so many strings with a length of one byte each, and so many bytes more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryHead:
    """What a QUERY event says beside its statement."""

    schema: bytes
    """The schema that the statement was run in; empty if there was none."""
    ddl_xid: int | None
    """The number that MySQL (from 8.0) gives a data definition in its storage engine."""

    @classmethod
    def decode(cls, event: BytesLike, *, crc_bytes: int) -> "QueryHead":
        """Raises MalformedEventError."""
        statement = len(query_text(event, crc_bytes=crc_bytes))
        end = len(event) - crc_bytes - statement - 1
        begin = end - event[QUERY_SCHEMA_LENGTH]
        variables = bytes(event[QUERY_POST_HEADER:begin])
        return cls(schema=bytes(event[begin:end]), ddl_xid=_ddl_xid(variables))


def _ddl_xid(variables: bytes) -> int | None:
    """Looked for until the first variable that is not known: their lengths are not in the event."""
    at = 0
    while at < len(variables):
        number = variables[at]
        at += 1
        if number == _DDL_XID:
            found = variables[at : at + 8]
            return int.from_bytes(found, "little") if len(found) == 8 else None
        if number in _STATUS_BYTES:
            at += _STATUS_BYTES[number]
        elif number in _STATUS_STRINGS:
            strings, more = _STATUS_STRINGS[number]
            for _ in range(strings):
                at += 1 + (variables[at] if at < len(variables) else 0)
            at += more
        elif number == _COUNTED_NAMES:
            count = variables[at] if at < len(variables) else 0
            at += 1
            for _ in range(0 if count == _NAMES_NOT_TOLD else count):
                at = variables.find(b"\0", at) + 1
                if at == 0:
                    return None
        else:
            return None
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Where the source is, while it has nothing to send or after a stretch that it skipped."""

    file_name: str
    position: int
    is_whole: bool
    """Whether the position is whole (V2) or only its lower 32 bits (V1)."""

    @classmethod
    def decode(cls, event: BytesLike, *, crc_bytes: int) -> "Heartbeat":
        """Reads either kind; raises MalformedEventError."""
        end = len(event) - crc_bytes
        if end < HEADER_BYTES:
            raise MalformedEventError("a heartbeat without a body")
        if event[4] == EventType.HEARTBEAT:
            return cls(
                file_name=_file_name(bytes(event[HEADER_BYTES:end])),
                position=_U32.unpack_from(event, 13)[0],
                is_whole=False,
            )
        return _decode_heartbeat_v2(event, end)


def _decode_heartbeat_v2(event: BytesLike, end: int) -> Heartbeat:
    at, name, position = HEADER_BYTES, "", -1
    while at + 2 <= end and event[at] != 0:
        kind, length = event[at], event[at + 1]
        field = bytes(event[at + 2 : at + 2 + length])
        at += 2 + length
        if len(field) != length or at > end:
            break
        if kind == 1:
            name = _file_name(field)
        elif kind == 2 and field:
            width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(field[0], 0)
            position = int.from_bytes(field[1 : 1 + width], "little") if width else field[0]
    if position < 0 or not name:
        raise MalformedEventError("a heartbeat without file name and position")
    return Heartbeat(file_name=name, position=position, is_whole=True)
