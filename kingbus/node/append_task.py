"""The append task: all that the node writes to its log, in the order that the core asks for it.

What waits becomes one write; what depends on a write is handed on once it is durable, and not
before. The same task cuts the log and installs snapshots (`log_start`), so that nothing is ever
done to the log beside a write. On a full disk it waits with what it has, and so nobody is told that
anything of it is durable. What this module must not know: the core, and to whom the responses
go.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from kingbus import metrics
from kingbus.node.log_start import LogStart
from kingbus.node.machine import Log, Room, Runner
from kingbus.node.writes import Gathered, gather
from kingbus.raft.types import HardState, Message, Snapshot
from kingbus.storage.errors import NoRoomError
from kingbus.storage.log import LogWrite

IDLE_SECONDS = 1.0
"""After this long without a write the log is told, so that it can mark its end as durable."""


_T = TypeVar("_T")

Install = Callable[[Snapshot, Callable[[], Awaitable[None]]], Awaitable[None]]
"""Has log, state and membership replaced by a snapshot's; the second is the step that replaces the
log."""


class AppendTask:
    """See the module. `recorded` is the hard state that the log has now.

    `deliver` takes the responses whose writes are durable.
    """

    def __init__(
        self,
        *,
        log: Log,
        log_start: LogStart,
        runner: Runner,
        recorded: HardState,
        install: Install,
        deliver: Callable[[Sequence[Message]], None],
        room: Room | None = None,
    ) -> None:
        self._log = log
        self._log_start = log_start
        self._runner = runner
        self._install = install
        self._deliver = deliver
        self._room = room
        self._saved = recorded
        self._latest = recorded
        self._queue: deque[Message] = deque()
        self._work = trio.Event()

    def put(self, message: Message) -> None:
        """Something to be written, behind all that was before."""
        self._queue.append(message)
        self._work.set()

    def look_again(self) -> None:
        """There may be room on the disk: the log is to look for it when it is idle."""
        self._work.set()

    def cut(self) -> None:
        """The log is to be cut (LogStart.note_purge) once this has come to it."""
        self._work.set()

    async def run(self) -> None:
        """Until cancelled; an error of log or machine ends it."""
        while True:
            with trio.move_on_after(IDLE_SECONDS):
                await self._work.wait()
            if not self._work.is_set():
                await self._write_idle()
                await self._work.wait()
            if self._queue:
                await self._append()
            else:
                self._work = trio.Event()
            if self._log_start.is_to_be_cut:
                await self._when_room(self._log_start.cut)

    async def _append(self) -> None:
        gathered = gather(self._queue, self._saved)
        if not self._queue:
            self._work = trio.Event()
        if gathered.hard_state is not None:
            self._latest = gathered.hard_state
        if gathered.snapshot is not None:
            await self._install(gathered.snapshot, lambda: self._write_gathered(gathered))
        elif gathered.needs_write:
            await self._write_gathered(gathered)
        else:
            await trio.lowlevel.checkpoint()
        # Durable now: what depends on it may be said.
        self._deliver(gathered.responses)

    async def _write_gathered(self, gathered: Gathered) -> None:
        await self._write(
            LogWrite(
                entries=gathered.entries,
                hard_state=self._latest,
                snapshot=gathered.snapshot,
                must_sync=True,
            )
        )

    async def _write(self, write: LogWrite) -> None:
        metrics.STORAGE_FSYNC_SECONDS.observe(
            await self._when_room(lambda: self._runner(self._timed_write, write))
        )
        self._log.publish(write)
        if write.hard_state is not None:
            self._saved = write.hard_state

    async def _when_room(self, action: Callable[[], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await action()
            except NoRoomError as error:
                if self._room is None:
                    raise
                await self._room.for_log(error)

    def _timed_write(self, write: LogWrite) -> float:
        began = time.perf_counter()
        self._log.write(write)
        return time.perf_counter() - began

    async def _write_idle(self) -> None:
        if self._latest != self._saved:
            await self._write(LogWrite(hard_state=self._latest))
        await self._runner(self._log.note_idle)
