"""A replica that dumps from one node after the other, and compares all it gets with the source.

What is sent is decided by the production code (`DumpSession`, `ServedBatch`); reading rows and
packets is done here, without waits. The replica knows the source's history: the next transaction
must be the next one of that, byte for byte, whichever node serves it.
"""

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kingbus.binlog.event_types import EventType
from kingbus.binlog.events import Heartbeat, Rotate
from kingbus.binlog.header import FIRST_POSITION, EventHeader
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.dump_session import (
    Begin,
    DumpRefusedError,
    DumpRequest,
    DumpSession,
    Made,
)
from kingbus.replication.relay import Relay
from kingbus.replication.served_batch import ServedBatch
from kingbus.replication.served_rows import Row, clipped

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.world import World

ROWS = 8
SERVER_ID = 999
CRC_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a replica is, between two transactions."""

    count: int = 0
    """Transactions of the source's history that it has."""
    file_name: str = ""
    position: int = FIRST_POSITION


@dataclass(slots=True)
class _Dump:
    """One dump on its way."""

    host: "Host"
    relay: Relay
    """The node's when it began: another after a restart, and after a snapshot was installed."""
    session: DumpSession
    index: int = 0
    packet: int = 0


@dataclass(slots=True)
class Replica:
    """See the module."""

    world: "World"
    number: int
    rng: random.Random
    place: Place = field(default_factory=Place)
    seen: list[Place] = field(default_factory=list)
    received: int = 0
    refused: int = 0
    _dump: _Dump | None = None
    _by_gtid: bool = True
    _in_transaction: bool = False
    _file: str = ""
    _position: int = 0

    # -- where to read --------------------------------------------------------------------------

    def detach(self) -> None:
        """The connection is gone, with what was half received."""
        self._dump = None
        self._in_transaction = False

    def rewind(self) -> None:
        """Go on from a place that was seen before."""
        self.detach()
        if self.seen:
            self.place = self.rng.choice(self.seen)

    def is_at_end(self, count: int) -> bool:
        return self.place.count == count and not self._in_transaction

    def step(self) -> None:
        """Read a little from the node that it is attached to, or attach to one."""
        dump = self._dump
        if dump is not None and not (dump.host.is_up and dump.host.relay is dump.relay):
            self.detach()
        try:
            if self._dump is None:
                self._attach()
            else:
                self._read(self._dump)
        except DumpRefusedError as refusal:
            self._take_refusal(refusal)

    def _attach(self) -> None:
        hosts = [host for host in self.world.hosts.values() if host.serves]
        if not hosts:
            return
        host = self.rng.choice(hosts)
        state, place = host.relay.state, self.place
        self._by_gtid = not place.file_name or self.rng.random() < 0.5
        if self._by_gtid:
            gtids = self.world.source.history.set_of(place.count).copy()
            request = DumpRequest(kind="gtid", gtid_set=gtids, checksum="CRC32")
        else:
            request = DumpRequest(
                kind="position",
                file_name=place.file_name,
                position=place.position,
                checksum="CRC32",
            )
        session = DumpSession(request, server_id=SERVER_ID)
        has_all = host.applied >= self.world.checks.commit_max
        begin = session.start(state, caught_up=has_all)
        if not isinstance(begin, Begin):
            return  # nothing is there yet, or the node is behind: another time, or another node
        dump = _Dump(host, host.relay, session)
        first = begin.file.first_index
        description = bytes(self._batch(dump, first).event(0))
        for made in session.open(begin, description):
            self._take_made(made.event)
        dump.index = first
        if begin.position > FIRST_POSITION:
            self._find(dump, begin)
        self._dump = dump

    def _find(self, dump: _Dump, begin: Begin) -> None:
        state = dump.host.relay.state
        last = min(begin.file.last_index, state.visible.index)
        row = dump.host.relay._search(
            begin.file.ordinal, begin.file.first_index, last, begin.position
        )
        assert row is not None, "a file has a row for each of its visible positions"
        row = clipped(row, state.visible)
        dump.index, dump.packet = row.index, row.row.packets
        if begin.position > row.row.end_position:
            return
        packet = self._batch(dump, row.index).packet_at(begin.position)
        if packet is not None:
            dump.packet = packet
        else:
            assert begin.position == row.row.end_position, "an event begins where one was seen"

    def _take_refusal(self, refusal: DumpRefusedError) -> None:
        """Only what was purged may be refused; the replica is set up anew behind it."""
        reading = {self.place.file_name, self._file}
        self.detach()
        self.refused += 1
        purged = self.world.checks.purged_count
        assert self.place.count < purged or reading & self.world.checks.purged_files, (
            f"replica {self.number} at {self.place} is refused: {refusal}"
        )
        if self.place.count < purged:
            self.place = Place(count=purged)
            self.seen.clear()
        else:
            self.place = Place(count=self.place.count)

    # -- reading --------------------------------------------------------------------------------

    def _batch(self, dump: _Dump, index: int) -> ServedBatch:
        (entry,) = dump.host.log.entries(index, index + 1)
        return ServedBatch(entry.data)

    def _read(self, dump: _Dump) -> None:
        state, database = dump.host.relay.state, dump.host.database
        visible = state.visible
        if state.file(dump.session.file) is None:
            raise dump.session.purged()
        moved = False
        for index, stored in database.batch_rows(0, dump.index, ROWS):
            if index <= visible.index:
                moved |= self._pass(dump, clipped(Row(index, stored), visible))
        if not moved:
            for made in dump.session.at_end(visible):
                self._take_made(made.event)

    def _pass(self, dump: _Dump, row: Row) -> bool:
        first = dump.packet if row.index == dump.index else 0
        if first >= row.row.packets:
            return False
        self.world.checks.note_served(row.index)
        session, state = dump.session, dump.host.relay.state
        file, left = state.file(row.row.file), state.file(session.file)
        if file is None or left is None or file.ordinal > session.file + 1:
            raise session.purged()
        if file.ordinal != session.file:
            for made in session.enter(file, left=left):
                self._take_made(made.event)
        if not session.skips(row, first, file):
            batch = self._batch(dump, row.index)
            for piece in session.pieces(row, batch, first, file, state):
                if isinstance(piece, Made):
                    self._take_made(piece.event)
                else:
                    for packet in range(piece.first, piece.last):
                        self._take_stored(row.index, file, bytes(batch.event(packet)))
        dump.index, dump.packet = row.index, row.row.packets
        return True

    # -- what comes -----------------------------------------------------------------------------

    def _take_made(self, event: bytes) -> None:
        header = EventHeader.decode(event)
        if header.type == EventType.ROTATE:
            rotate = Rotate.decode(event, crc_bytes=CRC_BYTES)
            if header.is_artificial:
                assert not self._in_transaction, "a file ends inside a transaction"
                self._position = rotate.position
            self._file = rotate.file_name
        elif header.type != EventType.FORMAT_DESCRIPTION:
            beat = Heartbeat.decode(event, crc_bytes=CRC_BYTES)
            assert not self._in_transaction, "a heartbeat inside a transaction"
            assert beat.file_name == self._file, (beat.file_name, self._file)

    def _take_stored(self, index: int, file: FileRow, event: bytes) -> None:
        """An event of the source: the very one, at the place where it belongs."""
        self.received += 1
        header = EventHeader.decode(event)
        source = self.world.source.history.files[file.start.created]
        known = self.world.source.history.event_ending(source, header.log_pos)
        assert known.event == event, f"{file.name} at {known.start}: other bytes than the source's"
        assert file.name == source.name
        if header.type == EventType.ROTATE:
            assert not self._in_transaction
            return
        if self._in_transaction:
            assert known.start == self._position, f"a gap in a transaction at {self._position}"
        assert known.start >= self._position, f"{file.name} goes back to {known.start}"
        self._position = known.end
        if known.begins:
            assert not self._in_transaction, "a transaction inside another"
            assert known.gtid is not None
            order, count = self.world.source.history.order, self.place.count
            wanted = order[count] if count < len(order) else None
            assert (known.gtid[0], known.gtid[2]) == wanted, (
                f"replica {self.number} has {count} transactions and gets {known.gtid}, "
                f"not {wanted}"
            )
            self._in_transaction = True
        elif known.transaction is not None:
            assert self._in_transaction, "a transaction without its begin"
        if known.ends:
            self._in_transaction = False
            self._arrive(self.place.count + 1, index)

    def _arrive(self, count: int, index: int) -> None:
        """Only behind a transaction that came do file and position stand for what it has."""
        self.seen.append(self.place)
        self.world.checks.note_received(count, index)
        self.place = Place(count=count, file_name=self._file, position=self._position)
