"""A relay over a real log and a real database, and worker processes that dump from it.

Nothing of Raft: an entry is written, published and applied at once, or only written, as one that is
not committed yet.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from kingbus.pb.record_pb2 import Members
from kingbus.raft.types import ConfState, Entry, Snapshot
from kingbus.replication.dump import DumpProgress, DumpRefusedError, DumpRequest, run_dump
from kingbus.replication.relay import Relay
from kingbus.replication.streams import SendingSink
from kingbus.replication.worker_pool import DumpWorkers
from kingbus.storage.at_rest import AS_THEY_ARE, AtRest
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.state_store import StateStore
from tests.support.relay_logs import Cutter
from tests.support.relay_node import RELAY_ID, Applied, RelayNode, Replica

SEGMENT_BYTES = 64 << 10


async def in_thread(function, *arguments):
    return await trio.to_thread.run_sync(function, *arguments)


class _Entries:
    """As much of a list as `RelayNode` asks of its log."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return self._store.last_index()


class WorkerNode(RelayNode):
    """`RelayNode` over stores on disk. `applied` is called after each run."""

    def __init__(self, directory: Path, *, at_rest: AtRest = AS_THEY_ARE) -> None:
        self.at_rest = at_rest
        self.store = self._open_log(directory / "log")
        self.rows = StateStore.open(directory / "state")
        self.directory = directory / "log"
        self.log = self
        self.entries = _Entries(self.store)
        self.relay = Relay.load(
            database=self.rows, log=self.store, runner=in_thread, files=self.store
        )
        self.server_id = RELAY_ID
        self.cutter: Cutter | None = None
        self.applied: Callable[[], None] = lambda: None

    def _open_log(self, directory: Path) -> LogStore:
        return LogStore.open(
            directory,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=1 << 30,
            cache_bytes=1,
            at_rest=self.at_rest,
        )

    @property
    def database(self):
        """For the count of rows, which `RelayNode.batch` watches."""
        return self

    def write(self, *entries: Entry, snapshot: Snapshot | None = None) -> None:
        write = LogWrite(entries=entries, snapshot=snapshot)
        self.store.write(write)
        self.store.publish(write)

    def batch(self, file, packets, *, gap_before: int = 0) -> int:
        assert self.cutter is not None
        from tests.support.relay_logs import batch_command

        meta, raw = self.cutter.cut(file, packets, gap_before=gap_before)
        self.command(batch_command(meta), raw)
        index = self.store.last_index()
        assert self.rows.batch_row(0, index) is not None, "accepted"
        return index

    def commit(self, *data: bytes) -> None:
        first = self.relay.state.index + 1
        entries = [Entry(term=1, index=first + at, data=each) for at, each in enumerate(data)]
        self.write(*entries)
        self.relay.apply(Applied(entries=entries))
        self.applied()

    def purge_log(self) -> None:
        """Give up the entries that no file needs any more, as the append task does."""
        self.rows.sync()
        self.store.truncate_before(self.relay.state.files[0].first_index)

    async def install(self, record) -> None:
        """Another state takes the place of everything, as that of a snapshot does."""
        from kingbus.binlog.relay_state import RelayState

        snapshot = Snapshot(index=record.index, term=1, conf_state=ConfState(voters=(1,)))
        self.relay.begin_install()
        self.rows.begin_install(snapshot)
        self.write(snapshot=snapshot)
        self.rows.finish_install(snapshot, state=record, members=Members(index=record.index))
        self.relay.install(RelayState.from_record(record))
        self.applied()

    def reopen(self) -> None:
        """The process ends, and another begins: whatever lies on the disk is unchecked."""
        self.close()
        self.store = self._open_log(self.directory)
        self.rows = StateStore.open(self.directory.parent / "state")
        self.entries = _Entries(self.store)
        self.relay = Relay.load(
            database=self.rows, log=self.store, runner=in_thread, files=self.store
        )

    def close(self) -> None:
        self.store.abandon()
        self.rows.close()


class Attached(Replica):
    """A replica at the other end of a socket; `run` performs its dump by `dumper`.

    Behind `stop_at` bytes it does not read on before `reads` is set.
    """

    def __init__(self, request: DumpRequest) -> None:
        super().__init__(request)
        ours, theirs = socket.socketpair()
        self.far = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.sink = SendingSink(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.reads = trio.Event()
        self.reads.set()
        self.stop_at = 1 << 60
        self.failure: BaseException | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether it waits for `reads`; a dump that is asked earlier may be anywhere."""
        return not self.reads.is_set()

    async def run(self, dumper) -> None:
        """The dump, and the reading of what it sends, to its end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            try:
                with self.scope:
                    await dumper(self.request, sink=self.sink, progress=self.progress)
                    self.finished = True
            except DumpRefusedError as refusal:
                self.refusal = refusal
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.failure = error
            self.ended.set()
            self.reads.set()
            await self.sink._stream.aclose()

    async def _read(self) -> None:
        while True:
            await self.reads.wait()
            data = await self.far.receive_some(1 << 16)
            if not data:
                break
            self.raw += data
            if len(self.raw) >= self.stop_at:
                self.stop_at = 1 << 60
                self.reads = trio.Event()
        await self.far.aclose()


@asynccontextmanager
async def working(
    directory: Path, *, count: int = 1, at_rest: AtRest = AS_THEY_ARE
) -> AsyncIterator[tuple[WorkerNode, DumpWorkers]]:
    """A node with worker processes; what is done with them has 30 s."""
    node = WorkerNode(directory, at_rest=at_rest)

    async def local(request: DumpRequest, *, sink: SendingSink, progress: DumpProgress) -> None:
        raise AssertionError("a worker performs it")

    pool = DumpWorkers(
        count=count,
        relay=node.relay,
        log=node.store,
        directory=node.directory,
        identity=node,
        runner=in_thread,
        local=local,
    )
    node.applied = pool.note
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            assert len(pool.process_ids) == count
            with trio.fail_after(15):
                yield node, pool
            nursery.cancel_scope.cancel()
    finally:
        node.close()


async def here(node: WorkerNode, request: DumpRequest) -> Replica:
    """The same dump by this process."""
    replica = Replica(request)
    try:
        await run_dump(node.relay, request, sink=replica, identity=node, progress=replica.progress)
        replica.finished = True
    except DumpRefusedError as refusal:
        replica.refusal = refusal
    return replica


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the deadline is `working`'s."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.002)


class NotSendable:
    """Packets in what `sendfile` does not serve."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked = 0

    @contextmanager
    def opened(self, *, may_block: bool) -> Iterator[tuple[int, int]]:
        self.asked += 1
        ends = os.pipe()
        try:
            yield ends[0], 0
        finally:
            for end in ends:
                os.close(end)
