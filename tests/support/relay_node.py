"""A relay over stores in memory, and a replica that checks what it is sent as a real one does."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
import trio.testing

from kingbus.binlog.command import encode
from kingbus.binlog.events import Heartbeat, Rotate
from kingbus.binlog.gtid import GtidSet
from kingbus.pb.command_pb2 import Command
from kingbus.pb.record_pb2 import BatchRow, FileRow, Members
from kingbus.pb.record_pb2 import RelayState as StateRecord
from kingbus.raft.errors import CompactedError
from kingbus.raft.types import Entry
from kingbus.replication.dump import DumpProgress, DumpRefusedError, DumpRequest, run_dump
from kingbus.replication.relay import Relay
from kingbus.storage.state_store import StateStore, StateWrite
from tests.support.relay_logs import (
    FORMAT_DESCRIPTION,
    ROTATE,
    UUID_A,
    BinlogFile,
    Cutter,
    Packet,
    batch_command,
    gtids,
    packets_of,
    session_command,
)

RELAY_ID = 999
HEARTBEATS = (27, 41)


class MemoryDatabase:
    """The state store's rows in dictionaries; a write deletes before it puts, as the real one."""

    def __init__(self) -> None:
        self.rows: dict[int, BatchRow] = {}
        self.files: dict[int, FileRow] = {}
        self.record: StateRecord | None = None
        self.applied_index = 0
        self.members_record: Members | None = None
        self.reads = 0
        self.path = Path("state")
        self.others: dict[int, MemoryDatabase] = {}

    def _of(self, channel: int) -> "MemoryDatabase":
        return self.others.setdefault(channel, MemoryDatabase()) if channel else self

    def write(self, changes: StateWrite) -> None:
        for part in changes.others:
            self._of(part.channel)._put(part)
        self._put(changes)
        self.members_record = changes.members or self.members_record
        assert changes.applied > self.applied_index
        self.applied_index = changes.applied

    def _put(self, changes: StateWrite) -> None:
        for index in changes.deleted_batches:
            self.rows.pop(index, None)
        for ordinal in changes.deleted_files:
            self.files.pop(ordinal, None)
        self.rows.update(changes.batches)
        self.files.update({row.ordinal: row for row in changes.files})
        self.record = changes.checkpoint or self.record

    def applied(self) -> int:
        return self.applied_index

    def checkpoint(self, channel: int = 0) -> StateRecord | None:
        return self._of(channel).record

    def file_rows(self, channel: int) -> list[FileRow]:
        files = self._of(channel).files
        return [files[ordinal] for ordinal in sorted(files)]

    def batch_rows(self, channel: int, first_index: int, limit: int) -> list[tuple[int, BatchRow]]:
        self.reads += 1
        rows = self._of(channel).rows
        found = [index for index in sorted(rows) if index >= first_index]
        return [(index, rows[index]) for index in found[:limit]]

    def last_batch_row(self, channel: int, index: int) -> tuple[int, BatchRow] | None:
        rows = self._of(channel).rows
        found = [at for at in rows if at <= index]
        return (max(found), rows[max(found)]) if found else None


class MemoryLog:
    """The log store's reads over a list; `cached` has the newest `in_memory` entries."""

    def __init__(self, in_memory: int = 0) -> None:
        self.entries: list[Entry] = []
        self.first = 1
        self.in_memory = in_memory
        self.reads = 0

    def first_index(self) -> int:
        return self.first

    def last_index(self) -> int:
        return len(self.entries)

    def cached(self, lo: int, hi: int, max_size: int) -> list[Entry] | None:
        if lo < self.first:
            raise CompactedError
        if lo <= len(self.entries) - self.in_memory:
            return None
        return self._cut(lo, hi, max_size)

    def read(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        self.reads += 1
        if lo < self.first:
            raise CompactedError
        return self._cut(lo, hi, max_bytes)

    def _cut(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        assert hi <= len(self.entries) + 1
        found: list[Entry] = []
        for entry in self.entries[lo - 1 : hi - 1]:
            max_bytes -= len(entry.data)
            if found and max_bytes < 0:
                break
            found.append(entry)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    entries: Sequence[Entry]
    members: Mapping[int, Members] = field(default_factory=dict)


async def run_inline(function: Callable[..., Any], *args: Any) -> Any:
    """A worker thread that takes one turn of the loop."""
    await trio.lowlevel.checkpoint()
    return function(*args)


class RelayNode:
    """A node's relay with a receiver's hand on it."""

    channel = 0

    def __init__(
        self, *, in_memory: int = 0, database: "MemoryDatabase | StateStore | None" = None
    ) -> None:
        self.database = database or MemoryDatabase()
        self.log = MemoryLog(in_memory)
        self.relay = self.load()
        self.server_id = RELAY_ID
        self.cutter: Cutter | None = None

    def load(self) -> Relay:
        return Relay.load(database=self.database, log=self.log, runner=run_inline)

    def restart(self) -> None:
        """The process dies; what its database and log have is there again."""
        self.relay = self.load()

    def entry(self, data: bytes) -> Entry:
        entry = Entry(term=1, index=len(self.log.entries) + 1, data=data)
        self.log.entries.append(entry)
        return entry

    def commit(self, *data: bytes) -> None:
        """Entries that commit together."""
        self.relay.apply(Applied(entries=[self.entry(each) for each in data]))

    def command(self, command: Command, packets: bytes = b"") -> None:
        self.commit(encode(command, packets))

    def session(
        self, *, epoch: int = 1, uuid: bytes = UUID_A, start_set: GtidSet | None = None
    ) -> Cutter:
        self.command(session_command(epoch=epoch, uuid=uuid, start_set=start_set))
        assert self.relay.state.session == len(self.log.entries)
        self.cutter = Cutter(session=len(self.log.entries), epoch=epoch)
        return self.cutter

    def batch(self, file: BinlogFile, packets: Sequence[Packet], *, gap_before: int = 0) -> int:
        """One batch of the present session; its index."""
        assert self.cutter is not None
        meta, raw = self.cutter.cut(file, packets, gap_before=gap_before)
        self.command(batch_command(meta), raw)
        index = len(self.log.entries)
        found = self.database.last_batch_row(self.channel, index)
        assert found is not None, "accepted"
        assert found[0] == index, "accepted"
        return index

    def hold(self, *files: BinlogFile, size: int = 1 << 30) -> None:
        """Whole files, in batches of `size` packets."""
        if self.cutter is None:
            self.session()
        for file in files:
            packets = packets_of(file.events)
            for at in range(0, len(packets), size):
                self.batch(file, packets[at : at + size])

    @contextlib.asynccontextmanager
    async def dumping(self, request: DumpRequest, **options: Any) -> AsyncIterator["Replica"]:
        """A dump that runs while the body does, from when it waits for the first time."""
        replica = Replica(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: replica.attach(self, **options))
            await trio.testing.wait_all_tasks_blocked()
            yield replica
            nursery.cancel_scope.cancel()
        replica.check()

    async def dump(self, request: DumpRequest, **options: Any) -> "Replica":
        """A dump that ends by itself."""
        replica = Replica(request)
        await replica.attach(self, **options)
        replica.check()
        return replica


def by_position(file: str = "", position: int = 4, **more: Any) -> DumpRequest:
    """As a replica asks that understands checksums; it ends with the log unless told otherwise."""
    more = {"checksum": "CRC32", "non_blocking": True, **more}
    return DumpRequest(kind="position", file_name=file, position=position, **more)


def by_gtid(known: str = "", **more: Any) -> DumpRequest:
    """The same from what it knows on: a set with short names, as `gtids` takes it."""
    more = {"checksum": "CRC32", "non_blocking": True, **more}
    return DumpRequest(kind="gtid", gtid_set=gtids(known), **more)


class Replica:
    """Takes packets, and looks at them as a replica does: sequence numbers, names, positions."""

    def __init__(self, request: DumpRequest) -> None:
        self.request = request
        self.progress = DumpProgress()
        self.raw = bytearray()
        self.refusal: DumpRefusedError | None = None
        self.finished = False
        self.sent_at: list[float] = []
        self.sizes: list[int] = []

    async def attach(self, node: RelayNode, **options: Any) -> None:
        try:
            await run_dump(
                node.relay,
                self.request,
                sink=self,
                identity=node,
                progress=self.progress,
                **options,
            )
            self.finished = True
        except DumpRefusedError as refusal:
            self.refusal = refusal

    async def send(self, buffers: bytes | bytearray | memoryview) -> None:
        self.raw += buffers
        self.sent_at.append(trio.current_time())
        self.sizes.append(len(buffers))
        await trio.lowlevel.checkpoint()

    @property
    def packets(self) -> list[tuple[int, bytes]]:
        """Sequence number and payload of each packet."""
        found, at = [], 0
        while at < len(self.raw):
            length = int.from_bytes(self.raw[at : at + 3], "little")
            assert at + 4 + length <= len(self.raw), "whole packets"
            found.append((self.raw[at + 3], bytes(self.raw[at + 4 : at + 4 + length])))
            at += 4 + length
        return found

    @property
    def events(self) -> list[bytes]:
        """All events, put together."""
        found: list[bytes] = []
        partial = b""
        for _, payload in self.packets:
            partial += payload
            if len(payload) < 0xFFFFFF:
                assert partial[0] == 0
                found.append(partial[1:])
                partial = b""
        return found

    @property
    def kinds(self) -> list[str]:
        """Short names: `rotate* f:4` for an artificial one, `beat f:99`, else the type's number."""
        return [kind for kind, _ in self._described()]

    @property
    def stored(self) -> list[bytes]:
        """What is not artificial, in order."""
        return [event for kind, event in self._described() if kind.isdecimal()]

    def _described(self) -> Iterable[tuple[str, bytes]]:
        crc = 4 if self.request.checksum == "CRC32" else 0
        for event in self.events:
            if event[4] == FORMAT_DESCRIPTION:
                crc = 4 if event[-5] else 0
            if event[4] == ROTATE and event[17] & 0x20:
                rotate = Rotate.decode(event, crc_bytes=crc)
                yield f"rotate* {rotate.file_name}:{rotate.position}", event
            elif event[4] in HEARTBEATS:
                beat = Heartbeat.decode(event, crc_bytes=crc)
                version = 1 + (event[4] == 41)
                yield f"beat{version} {beat.file_name}:{beat.position}", event
            else:
                yield str(event[4]), event

    def check(self) -> None:
        """What a replica drops its connection for."""
        numbers = [number for number, _ in self.packets]
        assert numbers == [(1 + at) & 255 for at in range(len(numbers))]
        assert self.progress.next_sequence == (1 + len(numbers)) & 255
        crc = 4 if self.request.checksum == "CRC32" else 0
        name, position = "", 0
        for event in self.events:
            log_pos = int.from_bytes(event[13:17], "little")
            if event[4] == FORMAT_DESCRIPTION:
                crc = 4 if event[-5] else 0
                assert name, "a FORMAT_DESCRIPTION comes behind a ROTATE"
            if event[4] == ROTATE:
                rotate = Rotate.decode(event, crc_bytes=crc)
                name, position = rotate.file_name, rotate.position
            elif event[4] in HEARTBEATS:
                beat = Heartbeat.decode(event, crc_bytes=crc)
                assert beat.file_name == name
                assert beat.position >= position
                assert beat.position > 0
                position = beat.position
            elif position + len(event) > 0xFFFF_FFFF and event[4] != FORMAT_DESCRIPTION:
                # The header has the lower half of it.
                position += len(event)
                assert log_pos == position & 0xFFFF_FFFF
            elif log_pos and event[4] != FORMAT_DESCRIPTION:
                # A made-up GTID_LIST says where the replica is, as a heartbeat does.
                assert log_pos > position - (event[17] & 0x20 != 0)
                position = log_pos
