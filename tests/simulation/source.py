"""The MySQL source: files that grow, answers to dump commands, restarts, purges and failovers.

All transactions that ever were stand in `History`, in the one order in which replicas must see
them. The files keep their bytes, so that what a relay serves is compared with what was written.
"""

import random
from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from uuid import UUID

from kingbus.binlog import artificial
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.resume import ResumePoint
from kingbus.replication.source_facts import SourceFacts
from tests.support.events import MODERN, BinlogFile, Stored, frame, packets_of, query

SOURCE_ID = 11
_BEGIN = (EventType.QUERY, query(b"BEGIN"))
_XID = (EventType.XID, bytes(8))


@dataclass(slots=True)
class History:
    """Every transaction in the order of commit, and every file by the time it was begun."""

    order: list[tuple[bytes, int]] = field(default_factory=list)
    files: dict[int, BinlogFile] = field(default_factory=dict)
    numbers: dict[bytes, int] = field(default_factory=dict)
    _sets: list[GtidSet] = field(default_factory=lambda: [GtidSet()])

    def commit(self, uuid: bytes) -> int:
        self.numbers[uuid] = number = self.numbers.get(uuid, 0) + 1
        self.order.append((uuid, number))
        after = self._sets[-1].copy()
        after.add(uuid, "", number, number)
        self._sets.append(after)
        return number

    def set_of(self, count: int) -> GtidSet:
        """The first `count` transactions; not to be changed."""
        return self._sets[count]

    def begin(self, file: BinlogFile) -> BinlogFile:
        self.files[file.created] = file
        return file

    def event_ending(self, file: BinlogFile, position: int) -> Stored:
        """The event of a file that ends there."""
        at = bisect_left(file.events, position, key=attrgetter("end"))
        assert at < len(file.events), f"{file.name} has no event that ends at {position}"
        assert file.events[at].end == position, f"{file.name} has no event that ends at {position}"
        return file.events[at]


class Source:
    """One server at a time; after a failover another one with another uuid."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.history = History()
        self.generation = 0
        self.uuid = b""
        self.files: list[BinlogFile] = []
        self.purged = 0
        """How many transactions of the history are in no file any more."""
        self._counts: list[int] = []
        """Per file, how many transactions of the history came before it."""
        self.connection: Connection | None = None
        self.failover(0)

    def failover(self, copied: int) -> None:
        """Another server, which has the last `copied` transactions in a file of its own."""
        self.generation += 1
        self.uuid = UUID(int=(0xA << 124) + self.generation).bytes
        self.files, self._counts = [], []
        again = self.history.order[len(self.history.order) - copied :] if copied else []
        self.purged = len(self.history.order) - copied
        self._new_file()
        for uuid, number in again:
            self.files[-1].transaction(uuid, number, self._parts())
        self.hang_up()

    def _new_file(self) -> None:
        history = self.history
        known = self.purged if not self.files else len(history.order)
        name = f"binlog.{len(self.files) + 1 + self._first:06}"
        file = BinlogFile(name, created=1_700_000_000 + len(history.files))
        file.begin(history.set_of(known))
        self.files.append(history.begin(file))
        self._counts.append(known)

    @property
    def _first(self) -> int:
        return int(self.files[0].name.rpartition(".")[2]) - 1 if self.files else 0

    def _parts(self) -> list[tuple[int, bytes]]:
        rng = self._rng
        rows = [
            (EventType.WRITE_ROWS, bytes((rng.randrange(256),)) * rng.choice((8, 30, 200, 1000)))
            for _ in range(rng.choice((1, 1, 2, 5)))
        ]
        return [_BEGIN, *rows, _XID]

    def commit(self) -> None:
        number = self.history.commit(self.uuid)
        self.files[-1].transaction(self.uuid, number, self._parts())

    def rotate(self) -> None:
        """FLUSH BINARY LOGS."""
        self.files[-1].rotate(f"binlog.{len(self.files) + 1 + self._first:06}")
        self._new_file()

    def restart(self, *, clean: bool) -> None:
        """The connection ends; a new file begins, and a clean stop says so in the old one."""
        if clean:
            self.files[-1].stop()
        self._new_file()
        self.hang_up()

    def purge(self, executed: int) -> None:
        """Give up the oldest files: not what the relay has not got yet, nor what is being sent."""
        sending = self.connection.file if self.connection is not None else None
        while (
            len(self.files) > 1
            and self._counts[1] <= executed
            and self.files[0] is not sending
            and self._rng.random() < 0.7
        ):
            self.purged = self._counts[1]
            del self.files[0], self._counts[0]

    def file_for(self, executed: GtidSet) -> BinlogFile:
        """The newest file that began with nothing beyond that set."""
        found = self.files[0]
        for file, count in zip(self.files, self._counts, strict=True):
            if executed.contains(self.history.set_of(count)):
                found = file
        return found

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.is_closed = True
            self.connection = None

    def facts(self) -> SourceFacts:
        return SourceFacts(
            address="source:3306",
            version=MODERN,
            server_id=SOURCE_ID,
            server_uuid=str(UUID(bytes=self.uuid)),
            gtid_mode="ON",
            has_binlog=True,
            gtid_executed=self.history.set_of(len(self.history.order)).copy(),
            gtid_purged=self.history.set_of(self.purged).copy(),
            checksum="CRC32",
            clock=0,
        )

    def connect(self, point: ResumePoint) -> "Connection":
        """A dump as the resume point asks for it; it ends the one that is under way."""
        if self.connection is not None:
            self.connection.replaced()
        self.connection = Connection(self, point)
        return self.connection


class Connection:
    """The stream behind one dump command."""

    def __init__(self, source: Source, point: ResumePoint) -> None:
        self.is_closed = False
        self.file: BinlogFile | None = None
        """The one that is being sent; None behind an error."""
        self._source = source
        self._skip = None if point.by_position else point.executed.copy()
        self._pending = bytearray()
        self._sequence = 1
        self._at_event = 0
        self._skipping = False
        self._skipped_to = 0
        if not point.by_position:
            self._enter(source.file_for(point.executed))
            return
        self.file = next((each for each in source.files if each.name == point.file_name), None)
        if self.file is None:
            self._refuse(b"Could not find first log file name in binary log index file")
            return
        for event in self.file.sent_from(point.dump_position):
            self._put(event)
        self._at_event = len(self.file.events)

    def _refuse(self, text: bytes) -> None:
        packet, _ = frame(b"\xff" + (1236).to_bytes(2, "little") + b"#HY000" + text, self._sequence)
        self._pending += packet
        self.file = None

    def replaced(self) -> None:
        self._refuse(b"A replica with the same server_uuid/server_id as this one has connected")

    def _put(self, event: bytes) -> None:
        (packet,) = packets_of([event], sequence=self._sequence)
        self._sequence += 1
        self._pending += packet

    def _enter(self, file: BinlogFile) -> None:
        self._put(artificial.fake_rotate(file.name, 4, server_id=SOURCE_ID, crc=True))
        self.file, self._at_event, self._skipping = file, 0, False

    def _advance(self) -> None:
        while (file := self.file) is not None:
            for event in file.events[self._at_event :]:
                if event.begins:
                    assert event.gtid is not None
                    self._skipping = self._skip is not None and self._skip.contains_gtid(
                        *event.gtid
                    )
                elif event.event[4] == EventType.ROTATE:
                    self._skipping = False
                if self._skipping:
                    self._skipped_to = event.end
                else:
                    self._end_stretch(file)
                    self._put(event.event)
            self._at_event = len(file.events)
            self._end_stretch(file)
            if file is self._source.files[-1]:
                return
            self._enter(self._source.files[self._source.files.index(file) + 1])

    def _end_stretch(self, file: BinlogFile) -> None:
        """What was skipped is told by one heartbeat."""
        if self._skipped_to:
            self._put(file.heartbeat(self._skipped_to))
            self._skipped_to = 0

    def read(self, count: int) -> bytes | None:
        """Up to that many bytes; b"" when there is nothing now, None at the end."""
        if self.is_closed:
            return None
        self._advance()
        data = bytes(self._pending[:count])
        del self._pending[:count]
        return data
