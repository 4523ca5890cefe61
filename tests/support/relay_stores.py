"""A relay's stores on disk, as one process has them open, which can crash between two steps."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import trio

from kingbus.binlog.command import encode
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.raft.types import Entry
from kingbus.replication.relay import Relay
from kingbus.replication.snapshots import RelaySnapshots
from kingbus.storage.installing import finish_interrupted
from kingbus.storage.log import LogStore
from kingbus.storage.state_store import StateStore
from tests.support.relay_logs import (
    UUID_A,
    BinlogFile,
    Cutter,
    batch_command,
    gtids,
    packets_of,
    session_command,
)

SEGMENT_BYTES = 16 << 10
STEPS = (
    "before the mark",
    "behind the mark",
    "before the log",
    "behind the log",
    "before the state",
    "behind the state",
)
"""Of an installation, in their order."""


class CrashError(Exception):
    """The process died here."""


class SteppedDatabase(StateStore):
    at: Callable[[str], None] = staticmethod(lambda _step: None)

    def begin_install(self, snapshot):
        self.at("before the mark")
        super().begin_install(snapshot)
        self.at("behind the mark")

    def finish_install(self, snapshot, *, state, members):
        self.at("before the state")
        super().finish_install(snapshot, state=state, members=members)
        self.at("behind the state")

    def sync(self):
        self.at("before the sync")
        super().sync()
        self.at("behind the sync")


class SteppedLog(LogStore):
    at: Callable[[str], None] = staticmethod(lambda _step: None)

    def write(self, write):
        if write.snapshot is not None:
            self.at("before the log")
        super().write(write)
        if write.snapshot is not None:
            self.at("behind the log")

    def truncate_before(self, index):
        self.at("before the cut")
        super().truncate_before(index)
        self.at("behind the cut")


class RelayStores:
    """Everything of one member that is open. `crash_at` names the step where it ends."""

    def __init__(self, directory: Path, *, files=None) -> None:
        self.crash_at = ""
        self.hold_at = ""
        self.held = trio.Event()
        self.passed: list[str] = []
        self.log = SteppedLog.open(
            directory / "log",
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=1 << 30,
            **({} if files is None else {"files": files}),
        )
        self.database = SteppedDatabase.open(directory / "state")
        self.finished = finish_interrupted(self.database, self.log)
        self.relay = Relay.load(database=self.database, log=self.log, runner=run_in_thread)
        self.machine = self.relay
        self.snapshots = RelaySnapshots(
            relay=self.relay, database=self.database, runner=run_in_thread
        )
        self.members = self.database.members()
        self.log.at = self.database.at = self._at

    def _at(self, step: str) -> None:
        self.passed.append(step)
        if step == self.crash_at:
            raise CrashError(step)
        if step == self.hold_at:
            trio.from_thread.run_sync(self.held.set)
            trio.from_thread.run(trio.sleep_forever)

    @property
    def state(self):
        return self.relay.state

    def entries(self) -> list[Entry]:
        found: list[Entry] = []
        last = self.log.last_index()
        while (first := found[-1].index + 1 if found else self.log.first_index()) <= last:
            found += self.log.read(first, last + 1, 1 << 20)
        return found

    def close(self) -> None:
        self.log.abandon()
        self.database.close()


async def run_in_thread(function, *arguments):
    return await trio.to_thread.run_sync(function, *arguments)


class Feed:
    """What a receiver on the leader would propose: a session, then whole files."""

    def __init__(self, node) -> None:
        self.node = node
        self.cutter: Cutter | None = None
        self.files: list[BinlogFile] = []
        self.number = 0

    async def propose(self, command: Command, packets: bytes = b"") -> int:
        proposal = await self.node.propose(encode(command, packets))
        await proposal.applied()
        return proposal.index

    async def session(self, *, epoch: int = 1) -> None:
        index = await self.propose(session_command(epoch=epoch))
        self.cutter = Cutter(session=index, epoch=epoch)

    async def file(self, *, transactions: int = 4, size: int = 3000) -> int:
        """One more file; the index with which it begins."""
        if self.cutter is None:
            await self.session()
        previous = f"a:1-{self.number}" if self.number else ""
        file = BinlogFile(f"binlog.{len(self.files) + 1:06d}", UUID_A, gtids(previous))
        for _ in range(transactions):
            self.number += 1
            file.transaction(self.number, (size,))
        file.rotate(f"binlog.{len(self.files) + 2:06d}")
        self.files.append(file)
        first = 0
        for packets in _pieces(packets_of(file.events), 5):
            meta, raw = self.cutter.cut(file, packets)
            index = await self.propose(batch_command(meta), raw)
            first = first or index
        return first

    async def purge(self, first_index: int) -> int:
        return await self.propose(Command(purge=Purge(first_index=first_index)))


def _pieces(packets: Sequence, count: int) -> Iterator[Sequence]:
    for at in range(0, len(packets), count):
        yield packets[at : at + count]
