"""Dumps spread over worker processes: starting them, feeding them, handing connections over.

Owns the processes and which of them performs which dump. A connection itself stays the node's: its
task waits here as it would wait for a dump of this process, can be cancelled at any time, and ends
the stream itself. What happens in a worker is `worker_process`; why it is cut so is told in
docs/decisions/0015-dump-workers.md.

The tasks::

    run
     |- worker            one for each, starts its process again
         |- feed          tells the newest state, when there is some
         '- answer        one for each question under way
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

import kingbus
from kingbus import metrics
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.mysql import errors
from kingbus.pb.worker_pb2 import (
    Answer,
    Begin,
    End,
    Ended,
    FromWorker,
    Question,
    ToWorker,
)
from kingbus.pb.worker_pb2 import (
    DumpProgress as ProgressMessage,
)
from kingbus.raft.errors import CompactedError
from kingbus.replication import dump_session
from kingbus.replication.dump import (
    CATCH_UP_SECONDS_MAX,
    ROWS,
    CatchUp,
    DumpProgress,
    DumpRefusedError,
    DumpRequest,
    ServedIdentity,
    find_start,
    refused,
)
from kingbus.replication.relay import Relay, Runner
from kingbus.replication.served_rows import InstallingError, PurgedWhileReadingError, Row
from kingbus.replication.streams import FINISH_SECONDS_MAX, SendingSink
from kingbus.replication.worker_channel import Channel, ChannelError
from kingbus.replication.worker_frames import (
    VERSION,
    Locator,
    News,
    begin_out,
    places_out,
    progress_in,
    rows_out,
)
from kingbus.storage.log import Place

START_SECONDS_MAX: Final = 10.0
"""How long a process may take to say that it is there, and a dump waits for one that is."""
RESTART_SECONDS: Final = 1.0
RESTART_SECONDS_MAX: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""Whoever ran so long is started again without having to wait for its earlier ends."""
END_SECONDS_MAX: Final = FINISH_SECONDS_MAX + 1.0
"""How long a worker may take to say how it left a connection whose dump is ended."""
STOP_SECONDS_MAX: Final = 1.5
"""How long a process may take to end by itself."""
QUESTIONS_MAX: Final = 4096
"""Under way in one worker: each of its dumps has one, and there are not more connections."""

_log = get_logger("dump_workers")


class WorkerDumpError(KingbusError):
    """A dump failed in its worker for a reason that is none of the replica's."""


class LocalDumper(Protocol):
    """Performs a dump in this process."""

    async def __call__(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None: ...


class DumpWorkers:
    """Implements `binlog_server.Dumper`. `run` it; `note` that something was applied.

    `directory` is that of the log's segments. `local` performs what cannot be handed over.
    """

    def __init__(
        self,
        *,
        count: int,
        relay: Relay,
        log: Locator,
        directory: Path,
        identity: ServedIdentity,
        runner: Runner,
        local: LocalDumper,
        catch_up: CatchUp | None = None,
        catch_up_seconds_max: float = CATCH_UP_SECONDS_MAX,
    ) -> None:
        self.count = count
        self.relay = relay
        self.log = log
        self.directory = directory.absolute()
        self.runner = runner
        self._identity = identity
        self._local = local
        self._catch_up = catch_up
        self._catch_up_seconds_max = catch_up_seconds_max
        self._workers: list[_Worker] = []
        self._changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the processes running until cancelled; started when all are there, or are late."""
        async with trio.open_nursery() as nursery:
            for _ in range(self.count):
                nursery.start_soon(self._keep_one)
            with trio.move_on_after(START_SECONDS_MAX):
                while len(self._workers) < self.count:
                    await self._changed.wait()
            task_status.started()

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that are there."""
        return [worker.process_id for worker in self._workers]

    def note(self) -> None:
        """The state may have changed."""
        for worker in self._workers:
            worker.dirty.set()

    # -- processes ----------------------------------------------------------------------------

    async def _keep_one(self) -> None:
        pause = RESTART_SECONDS
        while True:
            began = trio.current_time()
            worker = _Worker(self)
            try:
                await worker.run()
            except* (OSError, ChannelError) as group:
                reasons = "; ".join(str(error) for error in group.exceptions)
                _log.error("a dump worker cannot be used", reason=reasons)
            metrics.DUMP_WORKER_ENDS.inc()
            _log.error("a dump worker ended", code=worker.exit_code, again_in_seconds=pause)
            if trio.current_time() - began >= STEADY_SECONDS:
                pause = RESTART_SECONDS
            await trio.sleep(pause)
            pause = min(2 * pause, RESTART_SECONDS_MAX)

    def is_there(self, worker: "_Worker") -> None:
        """A process takes dumps from now on."""
        self._workers.append(worker)
        _log.info("a dump worker is there", process=worker.process_id)
        self._notify()

    def is_gone(self, worker: "_Worker") -> None:
        """A process takes none any more."""
        if worker in self._workers:
            self._workers.remove(worker)
            self._notify()

    def _notify(self) -> None:
        metrics.DUMP_WORKERS.set(len(self._workers))
        self._changed.set()
        self._changed = trio.Event()

    # -- dumps --------------------------------------------------------------------------------

    async def __call__(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None:
        """See `binlog_server.Dumper`."""
        connection = sink.connection
        if connection is None:
            await self._local(request, sink=sink, progress=progress)
            return
        server_id = self._identity.server_id
        try:
            with self.relay.reading():
                begin = await find_start(
                    self.relay,
                    request,
                    server_id=server_id,
                    progress=progress,
                    catch_up=self._catch_up,
                    catch_up_seconds_max=self._catch_up_seconds_max,
                )
                if begin is None:
                    return
                worker = await self._least_busy()
                if worker is not None:
                    await worker.perform(
                        request, begin, connection, sink=sink, progress=progress, own_id=server_id
                    )
                    return
        except InstallingError:
            raise refused(errors.installing_snapshot()) from None
        await self._local(request, sink=sink, progress=progress)

    async def _least_busy(self) -> "_Worker | None":
        with trio.move_on_after(START_SECONDS_MAX):
            while not self._workers:
                await self._changed.wait()
        return min(self._workers, key=lambda worker: worker.load, default=None)


@dataclass(slots=True, kw_only=True)
class _Handed:
    """A dump that a worker performs. `done` without `ended`: the worker is gone."""

    progress: DumpProgress
    ended: Ended | None = None
    done: trio.Event = field(default_factory=trio.Event)

    def reached(self, message: ProgressMessage) -> None:
        metrics.DUMP_BYTES.inc(max(0, message.bytes_sent - self.progress.bytes_sent))
        metrics.DUMP_FILE_BYTES.inc(max(0, message.file_bytes_sent - self.progress.file_bytes_sent))
        progress_in(message, self.progress)


class _Worker:
    """One process, from its start to its end."""

    def __init__(self, pool: DumpWorkers) -> None:
        self.dirty = trio.Event()
        self.process_id = 0
        self.exit_code: int | None = None
        self._pool = pool
        self._relay = pool.relay
        self._news = News(pool.relay, pool.log)
        self._handed: dict[int, _Handed] = {}
        self._last_number = 0
        self._questions = 0
        self._scope = trio.CancelScope()
        self._channel: Channel[ToWorker, FromWorker] | None = None

    @property
    def load(self) -> int:
        """How many dumps it performs."""
        return len(self._handed)

    # -- the process --------------------------------------------------------------------------

    async def run(self) -> None:
        """Start it and talk to it until it ends. OSError, ChannelError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await _start(theirs, self._pool.directory)
            except BaseException:
                ours.close()
                raise
        self.process_id = process.pid
        self._channel = Channel(ours, FromWorker)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._feed)
                    await self._listen(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            self._pool.is_gone(self)
            for handed in self._handed.values():
                handed.done.set()
            self._channel.close()
            self.exit_code = await _end(process)

    async def _listen(self, nursery: trio.Nursery) -> None:
        assert self._channel is not None
        ready = trio.current_time() + START_SECONDS_MAX
        with trio.CancelScope(deadline=ready) as patience:
            async with aclosing(self._channel.frames()) as frames:
                async for frame in frames:
                    match frame.WhichOneof("kind"):
                        case "ready":
                            if frame.ready.version != VERSION:
                                raise ChannelError("the worker is of another version")
                            patience.deadline = float("inf")
                            self._pool.is_there(self)
                        case "question":
                            if self._questions >= QUESTIONS_MAX:
                                raise ChannelError("the worker asks too much")
                            self._questions += 1
                            nursery.start_soon(self._answer, frame.question)
                        case "progress":
                            for progress in frame.progress.dumps:
                                if (handed := self._handed.get(progress.dump)) is not None:
                                    handed.reached(progress)
                        case "ended":
                            self._ended(frame.ended)
                        case kind:
                            raise ChannelError(f"a frame of kind {kind}")
        if patience.cancelled_caught:
            raise ChannelError("the worker did not say that it is there")

    async def _send(self, frame: ToWorker, *, descriptor: int | None = None) -> None:
        """What is untold of the state goes before it. ChannelError: and then this worker ends."""
        assert self._channel is not None
        try:
            await self._channel.send(frame, descriptor=descriptor, before=self._news)
        except ChannelError:
            self._scope.cancel()
            raise

    async def _feed(self) -> None:
        assert self._channel is not None
        while True:
            await self._channel.send_first(self._news)
            await self.dirty.wait()
            self.dirty = trio.Event()

    # -- dumps --------------------------------------------------------------------------------

    async def perform(
        self,
        request: DumpRequest,
        begin: dump_session.Begin,
        connection: trio.socket.SocketType,
        *,
        sink: SendingSink,
        progress: DumpProgress,
        own_id: int,
    ) -> None:
        """A dump from its beginning to its end, as `dump.dump_from`."""
        self._last_number += 1
        number = self._last_number
        message = begin_out(
            number,
            request,
            file=begin.file.ordinal,
            position=begin.position,
            next_sequence=progress.next_sequence,
            server_id=own_id,
        )
        handed = self._handed[number] = _Handed(progress=progress)
        try:
            await self._begin(message, connection)
            try:
                await handed.done.wait()
            except trio.Cancelled:
                with trio.move_on_after(END_SECONDS_MAX, shield=True):
                    await self._end(number, handed)
                _take_back(handed, connection, sink)
                raise
        finally:
            del self._handed[number]
        _take_back(handed, connection, sink)
        _raise_end(handed.ended)

    async def _begin(self, message: Begin, connection: trio.socket.SocketType) -> None:
        try:
            await self._send(ToWorker(begin=message), descriptor=connection.fileno())
        except ChannelError as error:
            # Whether the worker has the connection is not known, so nothing more is sent on it.
            _shut_down(connection)
            raise trio.BrokenResourceError(str(error)) from None

    async def _end(self, number: int, handed: _Handed) -> None:
        with suppress(ChannelError):
            await self._send(ToWorker(end=End(dump=number)))
            await handed.done.wait()

    def _ended(self, ended: Ended) -> None:
        handed = self._handed.get(ended.progress.dump)
        if handed is not None:
            handed.reached(ended.progress)
            handed.ended = ended
            handed.done.set()

    # -- questions ----------------------------------------------------------------------------

    async def _answer(self, question: Question) -> None:
        answer = Answer(number=question.number)
        try:
            with self._relay.reading():
                await self._look_up(question, answer)
        except InstallingError:
            answer.installing = True
        except (PurgedWhileReadingError, CompactedError):
            answer.purged = True
        except Exception as error:  # noqa: BLE001 - the dump that asked ends, no other
            _log.exception("a dump worker's question cannot be answered")
            answer.failure = f"{type(error).__name__}: {error}"
        self._questions -= 1
        with suppress(ChannelError):
            await self._send(ToWorker(answer=answer))

    async def _look_up(self, question: Question, answer: Answer) -> None:
        relay = self._relay
        rows: Sequence[Row] = ()
        match question.WhichOneof("kind"):
            case "rows":
                limit = min(question.rows.limit, ROWS)
                rows = await relay.read_rows(question.rows.after_index, limit)
            case "find":
                file = relay.state.file(question.find.file)
                if file is None:
                    raise PurgedWhileReadingError(f"file {question.find.file} is purged")
                row = await relay.find_row(file, question.find.position)
                rows = [row] if row is not None else []
            case "place":
                answer.places.extend(places_out(await self._locate([question.place])))
            case kind:
                raise ChannelError(f"a question of kind {kind}")
        if rows:
            answer.rows.extend(rows_out(rows))
            answer.places.extend(places_out(await self._locate([row.index for row in rows])))

    async def _locate(self, indexes: Sequence[int]) -> list[Place]:
        log = self._pool.log
        places = log.locate(indexes)
        if places is None:
            places = await self._pool.runner(partial(log.locate, indexes, may_read=True))
        assert places is not None
        return places


async def _start(end: socket.socket, directory: Path) -> trio.Process:
    """The same interpreter with the same modules; nothing else is open in it."""
    here = str(Path(kingbus.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    paths = here if not inherited else f"{here}{os.pathsep}{inherited}"
    arguments = [sys.executable, "-P", "-m", "kingbus.replication.worker_process"]
    return await trio.lowlevel.open_process(
        [*arguments, str(end.fileno()), str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[end.fileno()],
        env={**_harmless_environment(), "PYTHONPATH": paths},
    )


def _harmless_environment() -> dict[str, str]:
    """This process's, without the passwords and tokens that it may have been given there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KINGBUS_")}


async def _end(process: trio.Process) -> int | None:
    """Its exit code. It ends by itself, its socket pair being closed, or is killed."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(STOP_SECONDS_MAX):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode


def _take_back(handed: _Handed, connection: trio.socket.SocketType, sink: SendingSink) -> None:
    """The connection is this process's alone again: what state is it in?"""
    if handed.ended is None:
        sink.is_broken = True  # a packet may be half sent
        _shut_down(connection)
    else:
        sink.is_broken = handed.ended.is_broken


def _shut_down(connection: trio.socket.SocketType) -> None:
    """For whoever has a descriptor of it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _raise_end(ended: Ended | None) -> None:
    """As the dump itself would have ended here."""
    if ended is None:
        raise trio.BrokenResourceError("the dump worker is gone")
    if ended.error_code:
        raise DumpRefusedError(ended.error_code, ended.sql_state, ended.error_message)
    if ended.failure:
        raise WorkerDumpError(f"the dump failed in its worker: {ended.failure}")
    if not ended.finished:
        raise trio.BrokenResourceError("the connection is broken")
