"""A source's binlog made up in memory, and the batches that a receiver would propose of it.

Real event bytes with right positions and checksums, so that what a relay shows can be compared
byte for byte. The cutting into batches is independent of the receiver's own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from kingbus.binlog.artificial import build_event
from kingbus.binlog.gtid import GtidSet
from kingbus.pb.command_pb2 import (
    Command,
    EventBatch,
    FileStart,
    GtidRun,
    LastTransaction,
    ReceiverSession,
)

PACKET_MAX = 0xFFFFFF
QUERY, STOP, ROTATE, FORMAT_DESCRIPTION, XID, GTID, PREVIOUS_GTIDS = 2, 3, 4, 15, 16, 33, 35
ROWS = 30
SERVER_ID = 11
UUID_A = UUID("aaaaaaaa-0000-0000-0000-000000000001").bytes
UUID_B = UUID("bbbbbbbb-0000-0000-0000-000000000002").bytes

Gtid = tuple[bytes, str, int]


def gtids(text: str) -> GtidSet:
    """A set in short form: `a` and `b` stand for the two sources' uuids."""
    return GtidSet.parse(
        text.replace("a:", f"{UUID(bytes=UUID_A)}:").replace("b:", f"{UUID(bytes=UUID_B)}:")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event at its place; `gtid` on the first event of a transaction, `ends` on its last."""

    data: bytes
    start: int
    gtid: Gtid | None = None
    in_transaction: bool = False
    ends: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    @property
    def type(self) -> int:
        return self.data[4]


@dataclass(slots=True)
class BinlogFile:
    """A source's file: events one behind the other from position 4 on."""

    name: str
    uuid: bytes
    previous: GtidSet
    created: int = 1000
    crc: bool = True
    version: str = "9.7.4"
    event_types: int = 42
    events: list[Event] = field(default_factory=list)
    time: int = 1000
    leapt_to: int = 0

    def __post_init__(self) -> None:
        body = b"\x04\x00" + self.version.encode().ljust(50, b"\0")
        body += self.created.to_bytes(4, "little") + bytes((19,)) + bytes(self.event_types)
        body += bytes((int(self.crc),))
        # A FORMAT_DESCRIPTION has its checksum whatever the algorithm.
        self._add(FORMAT_DESCRIPTION, body, crc=True)
        self._add(PREVIOUS_GTIDS, self.previous.encode())

    @property
    def end(self) -> int:
        return max(self.events[-1].end if self.events else 4, self.leapt_to)

    def leap(self, position: int) -> int:
        """What follows lies there, as if the file had grown so far; how many bytes are left out."""
        left_out = position - self.end
        self.leapt_to = position
        return left_out

    def _add(
        self,
        type_: int,
        body: bytes,
        *,
        gtid: Gtid | None = None,
        in_transaction: bool = False,
        ends: bool = False,
        crc: bool | None = None,
    ) -> None:
        crc = self.crc if crc is None else crc
        size = 19 + len(body) + (4 if crc else 0)
        start = self.end
        self.time += 1
        data = build_event(
            type_, body, server_id=SERVER_ID, crc=crc, timestamp=self.time, log_pos=start + size
        )
        event = Event(data=data, start=start, gtid=gtid, in_transaction=in_transaction, ends=ends)
        self.events.append(event)

    def transaction(self, number: int, sizes: Sequence[int] = (10,), *, tag: str = "") -> None:
        """GTID, BEGIN, rows of the given sizes, XID."""
        body = b"\x01" + self.uuid + number.to_bytes(8, "little") + b"\x02" + bytes(16)
        inside = {"in_transaction": True}
        self._add(GTID, body, gtid=(self.uuid, tag, number), **inside)
        self._add(QUERY, bytes(13) + b"\0BEGIN", **inside)
        for size in sizes:
            self._add(ROWS, bytes((number & 255,)) * size, **inside)
        self._add(XID, number.to_bytes(8, "little"), ends=True, **inside)

    def rotate(self, name: str) -> None:
        self._add(ROTATE, (4).to_bytes(8, "little") + name.encode())

    def stop(self) -> None:
        self._add(STOP, b"")

    def start_message(self) -> FileStart:
        return FileStart(
            created=self.created,
            server_version=self.version,
            checksum_algorithm=int(self.crc),
            event_types=self.event_types,
            previous_gtids=self.previous.encode(),
        )

    def bytes(self, start: int = 4, end: int | None = None) -> bytes:
        return b"".join(
            event.data
            for event in self.events
            if start <= event.start and (end is None or event.end <= end)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    data: bytes
    event: Event
    is_first: bool
    is_last: bool


def packets_of(events: Iterable[Event], first_sequence: int = 1) -> list[Packet]:
    """Wire packets in canonical form, sequence numbers as they happened to come."""
    packets: list[Packet] = []
    sequence = first_sequence
    for event in events:
        payload = b"\0" + event.data
        at = 0
        while True:
            piece = payload[at : at + PACKET_MAX]
            is_last = len(piece) < PACKET_MAX
            header = len(piece).to_bytes(3, "little") + bytes((sequence & 255,))
            packets.append(
                Packet(data=header + piece, event=event, is_first=at == 0, is_last=is_last)
            )
            sequence += 1
            at += PACKET_MAX
            if is_last:
                break
    return packets


def numbered(packets: Sequence[Packet], first: int) -> list[Packet]:
    """The same packets, their sequence numbers running from `first`."""
    return [
        replace(packet, data=packet.data[:3] + bytes(((first + at) & 255,)) + packet.data[4:])
        for at, packet in enumerate(packets)
    ]


@dataclass(slots=True, kw_only=True)
class Cutter:
    """Makes the batches of one session; remembers whether a transaction is open between them."""

    session: int
    epoch: int
    sequence: int = 0
    in_transaction: bool = False
    begun_at: int = 0

    def cut(
        self, file: BinlogFile, packets: Sequence[Packet], *, gap_before: int = 0
    ) -> tuple[EventBatch, bytes]:
        """One batch of these packets, all of one file."""
        first, last = packets[0], packets[-1]
        offsets: list[int] = []
        starts: list[int] = []
        started: list[Gtid] = []
        at = visible_packets = closed_here = 0
        visible_position = first.event.start
        was_open, closes = self.in_transaction, False
        transaction: LastTransaction | None = None
        for number, packet in enumerate(packets):
            offsets.append(at)
            at += len(packet.data)
            event = packet.event
            if packet.is_first and event.gtid is not None:
                starts.append(number)
                started.append(event.gtid)
                self.in_transaction = True
                self.begun_at = event.start
            if packet.is_last and event.ends:
                closes = closes or (was_open and not closed_here and len(starts) == 0)
                closed_here += 1
                self.in_transaction = False
                transaction = LastTransaction(start_position=self.begun_at, end_position=event.end)
            if packet.is_last and not self.in_transaction:
                visible_packets = number + 1
                visible_position = event.end
        meta = EventBatch(
            session=self.session,
            sequence=self.sequence,
            epoch=self.epoch,
            file_name=file.name,
            start_position=first.event.start,
            end_position=last.event.end if last.is_last else last.event.start,
            packet_offsets=b"".join(offset.to_bytes(4, "little") for offset in offsets),
            gtid_runs=runs_of(started),
            transaction_packets=b"".join(start.to_bytes(4, "little") for start in starts),
            begins_in_transaction=was_open,
            ends_in_transaction=self.in_transaction,
            begins_in_event=not first.is_first,
            ends_in_event=not last.is_last,
            visible_packets=visible_packets,
            visible_position=visible_position,
            visible_transactions=closed_here - closes,
            closes_transaction=closes,
            gap_before=gap_before,
            first_time=int.from_bytes(first.event.data[:4], "little"),
            last_time=int.from_bytes(last.event.data[:4], "little"),
            last_transaction=transaction,
        )
        numbers = [packet.data[3] for packet in packets]
        if numbers == [(numbers[0] + at) & 255 for at in range(len(numbers))]:
            meta.first_sequence = numbers[0]
        if first.event.type == FORMAT_DESCRIPTION:
            meta.file_start.CopyFrom(file.start_message())
        self.sequence += 1
        return meta, b"".join(packet.data for packet in packets)


def runs_of(started: Iterable[Gtid]) -> list[GtidRun]:
    """Consecutive transactions with consecutive numbers as one run."""
    runs: list[GtidRun] = []
    for uuid, tag, number in started:
        if runs and (runs[-1].uuid, runs[-1].tag, runs[-1].last + 1) == (uuid, tag, number):
            runs[-1].last = number
        else:
            runs.append(GtidRun(uuid=uuid, tag=tag, first=number, last=number))
    return runs


def batch_command(meta: EventBatch) -> Command:
    return Command(event_batch=meta)


def session_command(
    *, epoch: int = 1, uuid: bytes = UUID_A, start_set: GtidSet | None = None, channel: int = 0
) -> Command:
    return Command(
        receiver_session=ReceiverSession(
            channel=channel,
            member_id=1,
            term=1,
            epoch=epoch,
            source_uuid=str(UUID(bytes=uuid)),
            source_id=SERVER_ID,
            source_version="9.7.4",
            flavor="mysql",
            start_set=start_set.encode() if start_set is not None else b"",
        )
    )


def binlog(number: int, numbers: range, *, size: int = 10) -> BinlogFile:
    """binlog.00000N with these transactions of source a, each of four events."""
    previous = f"a:1-{numbers[0] - 1}" if numbers[0] > 1 else ""
    file = BinlogFile(f"binlog.{number:06}", UUID_A, gtids(previous))
    for transaction in numbers:
        file.transaction(transaction, (size,))
    return file
