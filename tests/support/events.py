"""A small builder of binlog files and of the packets that a source sends of them.

What it builds has the shape of real servers' files, so that the stream's tests need no server:
MySQL 9.7's (GTID events with lengths, tagged ones too) and 5.6's (without). Each stored event
remembers what a test must know of it: its place, and which transaction it belongs to.
"""

from dataclasses import dataclass

from kingbus.binlog import artificial
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.header import FIRST_POSITION

MODERN = "9.7.4"
OLD = "5.6.24-log"
SERVER_ID = 11
PACKET_LENGTH_MAX = 0xFFFFFF


@dataclass(frozen=True, slots=True)
class Stored:
    """An event of a file."""

    event: bytes
    start: int
    end: int
    transaction: int | None = None
    """Which one of the file's transactions it belongs to, from 0."""
    begins: bool = False
    ends: bool = False
    gtid: tuple[bytes, str, int] | None = None


class BinlogFile:
    """One file in the making; `events` is what lies in it behind the magic number."""

    def __init__(
        self,
        name,
        *,
        version=MODERN,
        crc=True,
        created=1_700_000_000,
        first_position=FIRST_POSITION,
    ):
        self.name = name
        self.version = version
        self.crc = crc
        self.created = created
        self.events: list[Stored] = []
        self.transactions = 0
        self.position = first_position
        self.time = created

    @property
    def crc_bytes(self):
        return 4 if self.crc else 0

    def add(self, type_, body, *, timestamp=None, flags=0, **facts):
        size = 19 + len(body) + self.crc_bytes
        end = self.position + size
        event = artificial.build_event(
            type_,
            body,
            server_id=SERVER_ID,
            crc=self.crc,
            timestamp=self.time if timestamp is None else timestamp,
            log_pos=end,
            flags=flags,
        )
        self.events.append(Stored(event, self.position, end, **facts))
        self.position = end
        return self

    def format_description(self):
        types = 42 if self.version == MODERN else 35
        body = b"\4\0" + self.version.encode().ljust(50, b"\0") + self.created.to_bytes(4, "little")
        body += b"\x13" + bytes(types) + bytes((self.crc,))
        size = 19 + len(body) + 4
        event = artificial.build_event(
            EventType.FORMAT_DESCRIPTION,
            body,
            server_id=SERVER_ID,
            crc=True,
            timestamp=self.created,
            log_pos=self.position + size,
        )
        self.events.append(Stored(event, self.position, self.position + size))
        self.position += size
        return self

    def previous_gtids(self, gtids=None):
        return self.add(EventType.PREVIOUS_GTIDS, (gtids or GtidSet()).encode(), flags=0x80)

    def begin(self, gtids=None):
        """FORMAT_DESCRIPTION and PREVIOUS_GTIDS."""
        return self.format_description().previous_gtids(gtids)

    def transaction(self, uuid, number, parts, *, tag="", closed=True):
        """A GTID event and what follows it: a list of (type, body)."""
        rest = sum(19 + len(body) + self.crc_bytes for _, body in parts)
        type_, body = self.gtid_event(uuid, number, tag, rest)
        which, self.transactions = self.transactions, self.transactions + 1
        self.time += 1
        gtid = (uuid, tag, number if uuid else 1)
        ends = closed and not parts
        self.add(type_, body, transaction=which, begins=True, ends=ends, gtid=gtid)
        for at, (part_type, part) in enumerate(parts, 1):
            self.add(part_type, part, transaction=which, ends=closed and at == len(parts))
        return self

    def gtid_event(self, uuid, number, tag, rest):
        """Type and body, the transaction's length counted in where the version has it."""
        if tag:
            return EventType.GTID_TAGGED, self._tagged(uuid, number, tag, rest)
        type_ = EventType.GTID if uuid else EventType.ANONYMOUS_GTID
        body = b"\0" + (uuid or bytes(16)) + number.to_bytes(8, "little")
        if self.version == OLD:
            return type_, body
        body += b"\2" + number.to_bytes(8, "little") * 2
        # Every third transaction came from another server: both timestamps are there.
        body += b"\1" * 6 + (b"\x81" + b"\2" * 7 if number % 3 == 0 else b"\1")
        for width in (1, 3, 4, 9):
            total = 19 + len(body) + width + 4 + self.crc_bytes + rest
            if len(length_encoded(total)) == width:
                return type_, body + length_encoded(total) + (90704).to_bytes(4, "little")
        raise AssertionError

    def _tagged(self, uuid, number, tag, rest):
        fields = varlen(0) + varlen(0)
        fields += varlen(1) + b"".join(varlen(byte) for byte in uuid)
        fields += varlen(2) + varlen(number * 2)
        fields += varlen(3) + varlen(len(tag)) + tag.encode()
        fields += varlen(4) + varlen(2) + varlen(5) + varlen(4)
        fields += varlen(6) + varlen(1_795_187_521_000_000)
        tail = varlen(9) + varlen(90704)
        for width in range(1, 10):
            # The size field counts the whole body; 3 bytes of head as in captured events.
            total = 19 + 3 + len(fields) + 1 + width + len(tail) + self.crc_bytes + rest
            if len(varlen(total)) == width:
                body = fields + varlen(8) + varlen(total) + tail
                return varlen(1) + (59 * 2).to_bytes(1, "little") + varlen(0) + body
        raise AssertionError

    def rotate(self, next_name):
        return self.add(EventType.ROTATE, FIRST_POSITION.to_bytes(8, "little") + next_name.encode())

    def stop(self):
        return self.add(EventType.STOP, b"")

    def visible_ends(self):
        """Positions behind events after which no transaction is open."""
        return [e.end for e in self.events if e.transaction is None or e.ends]

    def sent_from(self, position):
        """What a dump by position sends of the file: rotate, description, events from there."""
        yield artificial.fake_rotate(self.name, position, server_id=SERVER_ID, crc=self.crc)
        if position > FIRST_POSITION:
            yield artificial.format_description_for_dump(self.events[0].event, from_start=False)
        yield from (e.event for e in self.events if e.start >= position)

    def heartbeat(self, position, *, v2=True):
        build = artificial.heartbeat_v2 if v2 else artificial.heartbeat_v1
        return build(self.name, position, server_id=SERVER_ID, crc=self.crc)


def length_encoded(number):
    if number < 0xFB:
        return bytes((number,))
    for lead, width in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        if number < 1 << (8 * width):
            return bytes((lead,)) + number.to_bytes(width, "little")
    raise AssertionError


def varlen(number):
    """MySQL's variable-length integer: trailing 1 bits of the first byte count the rest."""
    for more in range(8):
        if number < 1 << (7 * (more + 1)):
            return ((number << (more + 1)) | ((1 << more) - 1)).to_bytes(more + 1, "little")
    return b"\xff" + number.to_bytes(8, "little")


def query(text, schema=b"test"):
    """The body of a QUERY event."""
    status = b"\0\0\0\0\0"
    return (
        bytes(8)
        + bytes((len(schema),))
        + bytes(2)
        + len(status).to_bytes(2, "little")
        + status
        + schema
        + b"\0"
        + text
    )


def frame(payload, sequence, *, length_max=PACKET_LENGTH_MAX):
    """The packets of one payload: (bytes, next sequence)."""
    packets = bytearray()
    at = 0
    while True:
        part = payload[at : at + length_max]
        packets += len(part).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + part
        sequence += 1
        at += len(part)
        if len(part) < length_max:
            return bytes(packets), sequence


def packets_of(events, *, sequence=1, length_max=PACKET_LENGTH_MAX):
    """The packets of these events, each behind its OK byte."""
    packets = []
    for event in events:
        framed, sequence = frame(b"\0" + event, sequence, length_max=length_max)
        packets.append(framed)
    return packets
