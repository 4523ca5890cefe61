"""A replica that dumps from one member after the other, through the production code's own dump.

It knows the packets only: it takes them apart, and compares all it gets with the source. The next
transaction must be the next one of the source's history, byte for byte, whichever member serves it
and from whichever place, seen before, it goes on.
"""

import random
from typing import TYPE_CHECKING

import trio

from kingbus.binlog.event_types import EventType
from kingbus.binlog.events import Heartbeat, Rotate
from kingbus.binlog.header import FIRST_POSITION, EventHeader
from kingbus.mysql import errors
from kingbus.replication.dump import DumpProgress, DumpRefusedError, DumpRequest, run_dump
from tests.simulation.nodes.member import Identity
from tests.simulation.replica import CRC_BYTES, Place

if TYPE_CHECKING:
    from tests.simulation.nodes.member import Member
    from tests.simulation.nodes.world import World

PAUSE_SECONDS = 0.05
HEARTBEATS = frozenset((EventType.HEARTBEAT, EventType.HEARTBEAT_V2))
PASSING = frozenset((errors.installing_snapshot().code,))
"""Refusals after which one simply asks again."""


class Reader:
    """See the module; `run` goes on until it is cancelled."""

    def __init__(self, world: "World", number: int, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.number = number
        self.place = Place()
        self.seen: list[Place] = []
        self.received = self.refused = 0
        self._scope: trio.CancelScope | None = None
        self._member: Member | None = None

    async def run(self) -> None:
        while True:
            serving = [member for member in self._world.members.values() if member.serves]
            if serving:
                await self._attach(self._rng.choice(serving))
            await trio.sleep(PAUSE_SECONDS * self._rng.uniform(0.5, 1.5))

    def move(self) -> None:
        """The connection breaks; it goes on elsewhere."""
        if self._scope is not None:
            self._scope.cancel()

    def rewind(self) -> None:
        """The same, from a place that was seen before."""
        if self.seen:
            self.place = self._rng.choice(self.seen)
        self.move()

    def is_at_end(self, count: int) -> bool:
        return self.place.count == count

    @property
    def member(self) -> "Member | None":
        """Where it reads."""
        return self._member

    async def _attach(self, member: "Member") -> None:
        """Dump from one member until something ends it; it runs in that one's process."""
        ended, self._scope, self._member = trio.Event(), trio.CancelScope(), member

        async def dump() -> None:
            try:
                with self._scope:
                    await self._dump(member)
            finally:
                ended.set()

        if member.spawn(dump):
            self._world.note("reads", f"reader {self.number}", f"{member.name} {self.place}")
            await ended.wait()
        self._scope = self._member = None

    def _request(self) -> DumpRequest:
        world, place = self._world, self.place
        period = self._rng.choice((None, 0.5, 5.0))
        if not place.file_name or self._rng.random() < 0.5:
            gtids = world.source.history.set_of(place.count).copy()
            return DumpRequest(
                kind="gtid", gtid_set=gtids, checksum="CRC32", heartbeat_period_s=period
            )
        return DumpRequest(
            kind="position",
            file_name=place.file_name,
            position=place.position,
            checksum="CRC32",
            heartbeat_period_s=period,
            heartbeat_v2_accepted=self._rng.random() < 0.5,
        )

    async def _dump(self, member: "Member") -> None:
        world = self._world
        stream = Stream(self, member, self._rng)
        reading = {self.place.file_name}
        try:
            await run_dump(
                member.relay,
                self._request(),
                sink=stream,
                identity=Identity(),
                progress=DumpProgress(),
                catch_up=member.node,
            )
        except DumpRefusedError as refusal:
            if refusal.code not in PASSING:
                with world.watching():
                    self._take_refusal(refusal, reading | {stream.file})

    def _take_refusal(self, refusal: DumpRefusedError, reading: set[str]) -> None:
        """Only what was purged may be refused; the replica is set up anew behind it."""
        self.refused += 1
        checks = self._world.checks
        self._world.note("refused", f"reader {self.number}", str(refusal))
        assert self.place.count < checks.purged_count or reading & checks.purged_files, (
            f"reader {self.number} at {self.place} is refused: {refusal}"
        )
        if self.place.count < checks.purged_count:
            self.place = Place(count=checks.purged_count)
            self.seen.clear()
        else:
            self.place = Place(count=self.place.count)

    def arrive(self, member: "Member", file: str, position: int) -> None:
        """A whole transaction came."""
        world, count = self._world, self.place.count + 1
        self.seen.append(self.place)
        index = world.shown_at(count)
        assert index is not None, f"transaction {count} is served and was applied by nobody"
        world.checks.note_received(count, index)
        self.place = Place(count=count, file_name=file, position=position)


class Stream:
    """What comes of one dump: implements `run_dump`'s sink."""

    def __init__(self, reader: Reader, member: "Member", rng: random.Random) -> None:
        self.file = ""
        self._reader = reader
        self._member = member
        self._world = member.world
        self._rng = rng
        self._buffer = bytearray()
        self._sequence = 1
        self._in_transaction = False
        self._position = 0
        self._created = 0

    async def send(self, buffers: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._rng.random() < 0.2:
            await trio.sleep(self._rng.expovariate(1) * 0.02)  # a slow replica
        self._buffer += buffers
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:3], "little")
            if len(self._buffer) < 4 + size:
                return
            payload = bytes(self._buffer[4 : 4 + size])
            with self._world.watching():
                assert self._buffer[3] == self._sequence & 0xFF, "a packet's number"
                assert payload[0] == 0, payload[:1]
                self._sequence += 1
                del self._buffer[: 4 + size]
                self._take(payload[1:])

    def _take(self, event: bytes) -> None:
        header = EventHeader.decode(event)
        assert header.size == len(event)
        if header.type == EventType.ROTATE and header.is_artificial:
            assert not self._in_transaction, "a file ends inside a transaction"
            rotate = Rotate.decode(event, crc_bytes=CRC_BYTES)
            self.file, self._position = rotate.file_name, rotate.position
        elif header.type == EventType.FORMAT_DESCRIPTION:
            assert not self._in_transaction, "a file begins inside a transaction"
            self._created = header.timestamp
        elif header.type in HEARTBEATS:
            assert not self._in_transaction, "a heartbeat inside a transaction"
            beat = Heartbeat.decode(event, crc_bytes=CRC_BYTES)
            assert beat.file_name == self.file, (beat.file_name, self.file)
        else:
            self._take_stored(header, event)

    def _take_stored(self, header: EventHeader, event: bytes) -> None:
        """An event of the source: the very one, at the place where it belongs."""
        reader, history = self._reader, self._world.source.history
        reader.received += 1
        source = history.files[self._created]
        if header.type == EventType.ROTATE:
            # It names the next file as clients see it, so that only its beginning is the source's.
            assert not self._in_transaction
            last = source.events[-1]
            assert last.event[4] == EventType.ROTATE
            assert last.start == header.log_pos - header.size, f"a ROTATE at {header.log_pos}"
            self.file = Rotate.decode(event, crc_bytes=CRC_BYTES).file_name
            return
        known = history.event_ending(source, header.log_pos)
        assert known.event == event, f"{self.file} at {known.start}: not the source's bytes"
        if self._in_transaction:
            assert known.start == self._position, f"a gap in a transaction at {self._position}"
        assert known.start >= self._position, f"{self.file} goes back to {known.start}"
        self._position = known.end
        if known.begins:
            self._begin(known.gtid)
        elif known.transaction is not None:
            assert self._in_transaction, "a transaction without its begin"
        if known.ends:
            self._in_transaction = False
            reader.arrive(self._member, self.file, self._position)

    def _begin(self, gtid: tuple[bytes, str, int]) -> None:
        assert not self._in_transaction, "a transaction inside another"
        order, count = self._world.source.history.order, self._reader.place.count
        wanted = order[count] if count < len(order) else None
        assert (gtid[0], gtid[2]) == wanted, (
            f"reader {self._reader.number} has {count} transactions and gets {gtid}, not {wanted}"
        )
        self._in_transaction = True


__all__ = ["FIRST_POSITION", "Reader"]
