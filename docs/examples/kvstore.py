"""A replicated key-value store over kingbus.raft and kingbus.transport, and nothing else of it.

    python kvstore.py NAME DIRECTORY HTTP_PORT NAME=URL...   one member; the URLs are all members'

`PUT /key` answers once the value is on a majority of disks, `GET /key` with what any member had
acknowledged when it was asked, `GET /` tells whom this member follows; any member may be asked.
README.md beside this file shows it at work and says what it leaves out.
"""

import dataclasses
import fcntl
import json
import os
import random
import sys
import uuid
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import trio

from kingbus import raft
from kingbus.transport import (
    CallRefusedError,
    Cluster,
    SilentEvents,
    Transport,
    TransportError,
    open_listener,
)

TICK_SECONDS = 0.1  # a heartbeat each; an election after ten to twenty without one
ANSWER_SECONDS_MAX = 5.0  # two elections in a row take less
ASK_AGAIN_SECONDS = 0.5  # a read may be lost with the leader
VALUE_BYTES_MAX = 512 << 10  # with its key within the 1 MiB of a call between members
UNCOMMITTED_BYTES_MAX = 16 << 20  # what a leader without a majority holds before it refuses


class Journal:
    """The log as a file that only grows: a line for each Ready that has something to keep."""

    def __init__(self, file: BinaryIO) -> None:
        """From a file opened with mode a+b."""
        self.storage, self._file, good = raft.MemoryStorage(), file, 0
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two processes would vote twice
        file.seek(0)
        for line in file:
            checksum, _, body = line.partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
                break
            self._keep(*json.loads(body))
            good += len(line)
        if file.read(1):
            sys.exit(f"{file.name}: damaged at byte {good}, before its last line")
        file.truncate(good)  # a crash cut the last line: never synced, so told to nobody
        folder = os.open(Path(file.name).parent, os.O_RDONLY)
        os.fsync(folder)  # a new file is durable only with its name
        os.close(folder)

    def _keep(self, state: Sequence[int], entries: Sequence[tuple[int, int, int, str]]) -> None:
        self.storage.set_hard_state(raft.HardState(*state))
        self.storage.append(
            [raft.Entry(t, i, raft.EntryType(k), d.encode("latin-1")) for t, i, k, d in entries]
        )

    def write(self, ready: raft.Ready) -> None:
        """Make it durable. An error ends the process, as it must."""
        state = dataclasses.astuple(ready.hard_state or self.storage.initial_state()[0])
        entries = [(e.term, e.index, int(e.type), e.data.decode("latin-1")) for e in ready.entries]
        body = json.dumps([state, entries]).encode() + b"\n"
        self._file.write(b"%08x " % zlib.crc32(body) + body)
        self._file.flush()
        if ready.must_sync:
            os.fsync(self._file.fileno())
        self._keep(state, entries)


class Member(SilentEvents):
    """The loop around the Raft core, and what its log makes of the values."""

    def __init__(self, name: str, cluster: Cluster, directory: Path) -> None:
        self.id = next(member.id for member in cluster if member.name == name)
        self.cluster = cluster
        self.values: dict[bytes, bytes] = {}
        self.applied = 0
        path = directory / f"{cluster.cluster_id:x}-{self.id:x}.journal"  # others: another file
        self.journal = Journal(path.open("a+b"))
        config = raft.RaftConfig(id=self.id, storage=self.journal.storage, random=random.Random())
        config.check_quorum = config.pre_vote = config.disable_proposal_forwarding = True
        config.max_uncommitted_entries_size = UNCOMMITTED_BYTES_MAX
        self.raw = raft.RawNode(config)
        if not self.journal.storage.last_index():
            self.raw.bootstrap([(member.id, b"") for member in cluster])
        self.transport = Transport(member_id=self.id, cluster=cluster, random=random.Random())
        self.transport.attach(self)
        self.transport.register("put", self._propose)
        self._work = trio.Event()
        self._waiting: dict[bytes, trio.Event] = {}  # puts and gets, by 16 random bytes
        self._reads: list[raft.ReadState] = []  # confirmed, but not applied that far yet

    def receive(self, messages: Sequence[raft.Message]) -> None:
        for message in messages:
            with suppress(raft.RaftError):  # of a member that is behind the times
                self.raw.step(message)
        self._work.set()

    def report_unreachable(self, member_id: int) -> None:
        self.raw.report_unreachable(member_id)

    async def run(self) -> None:
        """Tick; save, then send, then apply."""
        tick_at = trio.current_time()
        while True:
            with trio.move_on_at(tick_at):
                await self._work.wait()
            self._work = trio.Event()
            if trio.current_time() >= tick_at:
                self.raw.tick()
                tick_at = trio.current_time() + TICK_SECONDS
            while self.raw.has_ready():
                ready = self.raw.ready()
                if ready.entries or ready.hard_state is not None:
                    self.journal.write(ready)
                self.transport.send(ready.messages)
                for entry in ready.committed_entries:
                    self._apply(entry)
                self._reads += ready.read_states
                self.raw.advance()
            for read in [read for read in self._reads if read.index <= self.applied]:
                self._reads.remove(read)
                self._wake(read.context)

    def _apply(self, entry: raft.Entry) -> None:
        if entry.type is not raft.EntryType.NORMAL:
            self.raw.apply_conf_change(raft.decode_conf_change(entry), index=entry.index)
        elif entry.data:  # the first entry of a new leader is empty
            key, _, value = entry.data[16:].partition(b"\0")
            self.values[key] = value
            self._wake(entry.data[:16])
        self.applied = entry.index

    def _wake(self, request: bytes) -> None:
        if request in self._waiting:
            self._waiting[request].set()

    async def _ask(self, question: Callable[[bytes], object], seconds: float) -> bool:
        request = uuid.uuid4().bytes
        self._waiting[request] = trio.Event()
        try:
            question(request)
            self._work.set()
            with trio.move_on_after(seconds):
                await self._waiting[request].wait()
            return self._waiting[request].is_set()
        finally:
            del self._waiting[request]

    async def _propose(self, _caller: int, data: bytes) -> bytes:
        """On the leader: for a request of its own, or a call of another member."""
        try:
            if await self._ask(
                lambda request: self.raw.propose(request + data), ANSWER_SECONDS_MAX
            ):
                return b""
        except raft.ProposalDroppedError:
            raise CallRefusedError(503, "no leader: not done") from None
        raise CallRefusedError(503, "no majority: the outcome is unknown")

    async def put(self, key: bytes, value: bytes) -> tuple[int, bytes]:
        """HTTP status and body."""
        leader, data = self.raw.leader_id, key + b"\0" + value
        try:
            if leader in {0, self.id}:
                return 200, await self._propose(self.id, data)
            seconds = ANSWER_SECONDS_MAX + 1  # so that the leader says first what went wrong
            reply = await self.transport.call(leader, "put", data, seconds)
        except (CallRefusedError, TransportError) as error:
            return 503, f"{error}\n".encode()
        return reply.status, reply.message.encode()

    async def get(self, key: bytes) -> tuple[int, bytes]:
        """HTTP status and body, behind a read index: a leader that was deposed cannot answer."""
        if not key:
            leader = self.cluster.get(self.raw.leader_id)
            facts = {"leader": leader.name if leader else "", "applied": self.applied}
            return 200, json.dumps(facts).encode() + b"\n"
        for _ in range(int(ANSWER_SECONDS_MAX / ASK_AGAIN_SECONDS)):
            if await self._ask(self.raw.read_index, ASK_AGAIN_SECONDS):
                return (200, self.values[key]) if key in self.values else (404, b"no such key\n")
        return 503, b"no majority: try again\n"


class Http(BaseHTTPRequestHandler):
    """One request, in a thread of its own; the answer comes from the loop."""

    timeout = 10.0  # for a client that dawdles
    member: Member
    token: trio.lowlevel.TrioToken

    def do_GET(self) -> None:
        self._reply(self.member.get, self.path[1:].encode())

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > 7 or int(length) > VALUE_BYTES_MAX:
            return self.send_error(400, f"a Content-Length of at most {VALUE_BYTES_MAX} is needed")
        if self.path == "/" or "\0" in self.path:
            return self.send_error(400, "a key is needed: PUT /key")
        value = self.rfile.read(int(length))
        return self._reply(self.member.put, self.path[1:].encode(), value)

    def _reply(self, ask: Callable[..., Awaitable[tuple[int, bytes]]], *words: bytes) -> None:
        status, body = trio.from_thread.run(ask, *words, trio_token=self.token)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


async def main(*words: str) -> None:
    """Run one member until the process is ended."""
    name, directory, http_port, *members = words
    urls = dict(member.split("=", 1) for member in members)
    member = Member(name, Cluster.initial([(n, [u]) for n, u in urls.items()]), Path(directory))
    address = urlsplit(urls[name])
    peers = await open_listener(str(address.hostname), int(address.port or 0))
    Http.member, Http.token = member, trio.lowlevel.current_trio_token()
    http = ThreadingHTTPServer((str(address.hostname), int(http_port)), Http)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.run)
        nursery.start_soon(member.transport.run)
        nursery.start_soon(member.transport.serve, peers)
        await trio.to_thread.run_sync(http.serve_forever, abandon_on_cancel=True)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    trio.run(main, *sys.argv[1:])
