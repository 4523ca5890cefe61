"""The events that a source makes up for a connection; they are in no file.

Owns the fake ROTATE, the FORMAT_DESCRIPTION as it looks to a dump that starts past its file's
beginning, and both heartbeats. Knows nothing of packets: each function gives a bare event.
Captured from real servers; see also `Binlog_sender` in the server's source.
"""

from struct import Struct
from typing import Final

from kingbus.binlog.checksum import CRC_BYTES, with_crc
from kingbus.binlog.event_types import EventType
from kingbus.binlog.events import FORMAT_DESCRIPTION_CREATED, FormatDescription
from kingbus.binlog.header import FLAG_ARTIFICIAL, FLAG_IN_USE, HEADER_BYTES, BytesLike, EventHeader

_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_LOG_POS: Final = 13
_FLAGS: Final = 17
_U32_MASK: Final = 0xFFFF_FFFF


def build_event(
    type_: int,
    body: bytes,
    *,
    server_id: int,
    crc: bool,
    timestamp: int = 0,
    log_pos: int = 0,
    flags: int = 0,
) -> bytes:
    """An event of that type and body with the right size, and with its CRC32 if wanted."""
    size = HEADER_BYTES + len(body) + (CRC_BYTES if crc else 0)
    header = EventHeader(
        timestamp=timestamp,
        type=type_,
        server_id=server_id,
        size=size,
        log_pos=log_pos & _U32_MASK,
        flags=flags,
    )
    event = header.encode() + body
    return with_crc(event) if crc else event


def fake_rotate(file_name: str, position: int, *, server_id: int, crc: bool) -> bytes:
    """The ROTATE that tells a client which file and position follow.

    Before the first FORMAT_DESCRIPTION of a connection it has a CRC32 exactly if the client
    announced that it wants one; later ones are as the binlog's own events are.
    """
    return build_event(
        EventType.ROTATE,
        _U64.pack(position) + file_name.encode("utf-8"),
        server_id=server_id,
        crc=crc,
        flags=FLAG_ARTIFICIAL,
    )


def format_description_for_dump(
    event: BytesLike, *, from_start: bool, log_pos: int | None = None
) -> bytes:
    """The stored FORMAT_DESCRIPTION as a source sends it.

    At the beginning of its file (`from_start`) it is sent as it is, apart from the bit that says
    that the file is still written. For a dump that starts further on, `created` is 0, so that the
    replica does not take it for a restart of the source, and so is log_pos (unless `log_pos` says
    otherwise); the CRC is corrected. A CRC is there from 5.6.1 on, whatever the algorithm is.
    """
    changed = bytearray(event)
    flags = int.from_bytes(changed[_FLAGS : _FLAGS + 2], "little") & ~FLAG_IN_USE
    changed[_FLAGS : _FLAGS + 2] = flags.to_bytes(2, "little")
    if not from_start:
        _U32.pack_into(changed, FORMAT_DESCRIPTION_CREATED, 0)
        _U32.pack_into(changed, _LOG_POS, log_pos or 0)
    if _has_crc(event):
        return with_crc(memoryview(changed)[:-CRC_BYTES])
    return bytes(changed)


def _has_crc(event: BytesLike) -> bool:
    described = FormatDescription.decode(event)
    return len(event) > HEADER_BYTES + 57 + described.event_types


def heartbeat_v1(file_name: str, position: int, *, server_id: int, crc: bool) -> bytes:
    """Type 27: the position is the header's, so only its lower 32 bits are sent."""
    return build_event(
        EventType.HEARTBEAT,
        file_name.encode("utf-8"),
        server_id=server_id,
        crc=crc,
        log_pos=position,
    )


def heartbeat_v2(file_name: str, position: int, *, server_id: int, crc: bool) -> bytes:
    """Type 41, for clients that said they know it: name and whole position are in the body."""
    name = file_name.encode("utf-8")
    number = _length_encoded(position)
    body = bytes((1, len(name))) + name + bytes((2, len(number))) + number + b"\0"
    return build_event(EventType.HEARTBEAT_V2, body, server_id=server_id, crc=crc, log_pos=position)


def _length_encoded(number: int) -> bytes:
    if number < 0xFB:
        return bytes((number,))
    if number <= 0xFFFF:
        return b"\xfc" + number.to_bytes(2, "little")
    if number <= 0xFF_FFFF:
        return b"\xfd" + number.to_bytes(3, "little")
    return b"\xfe" + number.to_bytes(8, "little")
