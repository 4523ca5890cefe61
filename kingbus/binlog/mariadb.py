"""The bodies of MariaDB's own events that a relay must read or make: GTID and GTID_LIST.

Owns their layouts (MariaDB's `sql/log_event.h`), checked against captured events. Knows nothing of
packets, of files or of what a source does with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from kingbus.binlog.artificial import build_event
from kingbus.binlog.errors import MalformedEventError
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.header import FLAG_ARTIFICIAL, HEADER_BYTES, BytesLike
from kingbus.binlog.mariadb_gtid import SEQUENCE_MAX, Position, key_of

# GTID: sequence u64, domain u32, flags u8; then a commit id, padding, an XID. The server is the
# header's.
GTID_SERVER: Final = 5
GTID_SEQUENCE: Final = HEADER_BYTES
GTID_DOMAIN: Final = HEADER_BYTES + 8
GTID_FLAGS: Final = HEADER_BYTES + 12
GTID_BYTES_MIN: Final = HEADER_BYTES + 13

STANDALONE: Final = 0x01
"""A single statement follows, with nothing that ends it."""
COMPLETED_XA: Final = 0x80
"""XA COMMIT or XA ROLLBACK follows, a statement that ends itself."""

_ENTRY: Final = Struct("<IIQ")
_COUNT: Final = Struct("<I")
_COUNT_MASK: Final = 0x0FFF_FFFF
"""The highest four bits are flags."""

UNTIL_REACHED: Final = 1 << 28
"""The flag that tells a replica that it has what START SLAVE UNTIL asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MariaDBGtid:
    """One GTID event."""

    domain: int
    server: int
    sequence: int
    flags: int

    @classmethod
    def decode(cls, event: BytesLike) -> "MariaDBGtid":
        """Raises MalformedEventError; the checksum need not be told."""
        if len(event) < GTID_BYTES_MIN:
            raise MalformedEventError(f"a GTID event of {len(event)} bytes is too short")
        return cls(
            domain=int.from_bytes(event[GTID_DOMAIN : GTID_DOMAIN + 4], "little"),
            server=int.from_bytes(event[GTID_SERVER : GTID_SERVER + 4], "little"),
            sequence=int.from_bytes(event[GTID_SEQUENCE : GTID_SEQUENCE + 8], "little"),
            flags=event[GTID_FLAGS],
        )

    @property
    def key(self) -> bytes:
        """What stands for domain and server in sets."""
        return key_of(self.domain, self.server)


def decode_gtid_list(event: BytesLike, *, crc_bytes: int) -> GtidSet:
    """The set in a GTID_LIST: for each domain and server everything up to its last number.

    Raises MalformedEventError.
    """
    end = len(event) - crc_bytes
    if end < HEADER_BYTES + _COUNT.size:
        raise MalformedEventError(f"a GTID_LIST event of {len(event)} bytes is too short")
    count = _COUNT.unpack_from(event, HEADER_BYTES)[0] & _COUNT_MASK
    at = HEADER_BYTES + _COUNT.size
    if at + count * _ENTRY.size > end:
        raise MalformedEventError(f"a GTID_LIST event without room for its {count} entries")
    gtids = GtidSet()
    for _ in range(count):
        domain, server, sequence = _ENTRY.unpack_from(event, at)
        at += _ENTRY.size
        if sequence > SEQUENCE_MAX:
            raise MalformedEventError("an impossible GTID in a GTID_LIST")
        if sequence:
            gtids.add(key_of(domain, server), "", 1, sequence)
    return gtids


def fake_gtid_list(
    position: Position, log_pos: int, *, server_id: int, crc: bool, flags: int = 0
) -> bytes:
    """The GTID_LIST that tells a replica what it has at a position of the file."""
    entries: Sequence[bytes] = [
        _ENTRY.pack(domain, server, sequence)
        for domain, (server, sequence) in sorted(position.last.items())
    ]
    return build_event(
        EventType.GTID_LIST,
        # The server's own has at least one entry's room.
        _COUNT.pack(len(entries) | flags) + (b"".join(entries) or b"\0\0"),
        server_id=server_id,
        crc=crc,
        log_pos=log_pos,
        flags=FLAG_ARTIFICIAL,
    )
