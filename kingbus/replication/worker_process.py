"""A process that performs dumps for a node: `-m kingbus.replication.worker_process FD DIRECTORY`.

Owns the sockets that it is handed and one task for each dump. FD is its end of a pair of sockets,
DIRECTORY that of the log's segments. It ends with that pair, whatever ends it, and by no signal
that a terminal or a service manager sends to the whole group. It knows nothing of logins, users
and Raft, and it sends a connection's last packet never: that is the node's.
"""

import os
import signal
import socket
import sys
import traceback
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from kingbus.pb.worker_pb2 import (
    Begin,
    DumpProgress,
    Ended,
    FromWorker,
    Progress,
    Ready,
    ToWorker,
)
from kingbus.replication import dump_session
from kingbus.replication.dump import DumpRefusedError, dump_from
from kingbus.replication.dump_session import DumpSession
from kingbus.replication.streams import SendingSink
from kingbus.replication.worker_channel import Channel, ChannelError
from kingbus.replication.worker_frames import VERSION, progress_out, request_in
from kingbus.replication.worker_relay import WorkerRelay

PROGRESS_SECONDS: Final = 0.5
"""Between two reports: what status pages show is this old at most."""
FAILURE_CHARACTERS_MAX: Final = 4096


@dataclass(slots=True, kw_only=True)
class _Running:
    """One dump."""

    number: int
    sink: SendingSink
    progress: dump_session.DumpProgress
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    reported: DumpProgress | None = None

    def end(self) -> None:
        self.sink.hurry()
        self.scope.cancel()


class Worker:
    """See the module; `run` returns when the node closes its end."""

    def __init__(self, channel: Channel[FromWorker, ToWorker], directory: Path) -> None:
        self._channel = channel
        self._relay = WorkerRelay(directory, channel.send)
        self._running: dict[int, _Running] = {}
        self._has_dumps = trio.Event()

    async def run(self) -> None:
        """Raises ChannelError when the node talks nonsense."""
        await self._channel.send(FromWorker(ready=Ready(version=VERSION)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report)
            async with aclosing(self._channel.frames()) as frames:
                async for frame in frames:
                    self._take(frame, nursery)
            for running in self._running.values():
                running.end()
            nursery.cancel_scope.cancel()

    def _take(self, frame: ToWorker, nursery: trio.Nursery) -> None:
        match frame.WhichOneof("kind"):
            case "state":
                self._relay.told(frame.state)
            case "answer":
                self._relay.answered(frame.answer)
            case "begin":
                nursery.start_soon(self._dump, frame.begin, self._channel.take_descriptor())
            case "end":
                running = self._running.get(frame.end.dump)
                if running is not None:
                    running.end()
            case kind:
                raise ChannelError(f"a frame of kind {kind}")

    async def _dump(self, begin: Begin, descriptor: int) -> None:
        connection = trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))
        running = _Running(
            number=begin.dump,
            sink=SendingSink(trio.SocketStream(connection)),
            progress=dump_session.DumpProgress(next_sequence=begin.next_sequence),
        )
        self._running[begin.dump] = running
        self._has_dumps.set()
        ended = Ended()
        try:
            with running.scope:
                await self._perform(begin, running)
                ended.finished = True
        except DumpRefusedError as error:
            ended.error_code, ended.sql_state = error.code, error.sqlstate
            ended.error_message = error.message
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            running.sink.is_broken = True
        except Exception:  # noqa: BLE001 - the node logs it, the other dumps are not touched
            ended.failure = traceback.format_exc()[-FAILURE_CHARACTERS_MAX:]
        finally:
            connection.close()  # the node has its own
            del self._running[begin.dump]
        ended.is_broken = running.sink.is_broken
        ended.progress.CopyFrom(progress_out(begin.dump, running.progress))
        await self._channel.send(FromWorker(ended=ended))

    async def _perform(self, begin: Begin, running: _Running) -> None:
        request, relay = request_in(begin), self._relay
        file = relay.state.file(begin.begin_file)
        if file is None:
            raise DumpSession(request, server_id=begin.own_server_id).purged()
        await dump_from(
            relay,
            request,
            dump_session.Begin(file=file, position=begin.begin_position),
            sink=running.sink,
            server_id=begin.own_server_id,
            progress=running.progress,
        )

    async def _report(self) -> None:
        """How far the dumps are, where that has changed; without dumps nothing wakes this."""
        while True:
            if not self._running:
                self._has_dumps = trio.Event()
                await self._has_dumps.wait()
            await trio.sleep(PROGRESS_SECONDS)
            report = Progress()
            for running in self._running.values():
                progress = progress_out(running.number, running.progress)
                if progress != running.reported:
                    running.reported = progress
                    report.dumps.append(progress)
            if report.dumps:
                await self._channel.send(FromWorker(progress=report))


def main(arguments: list[str]) -> int:
    """The exit code: 0 when the node has closed its end."""
    if sys.flags.optimize:
        return 2  # as the node itself: assertions hold the invariants
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = socket.socket(fileno=int(arguments[0]))
    os.set_inheritable(end.fileno(), False)
    trio.run(_run, end, Path(arguments[1]))
    return 0


async def _run(end: socket.socket, directory: Path) -> None:
    channel: Channel[FromWorker, ToWorker] = Channel(end, ToWorker)
    try:
        await Worker(channel, directory).run()
    except* ChannelError:
        pass  # the node is gone, and knows why
    finally:
        channel.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
