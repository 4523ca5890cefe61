"""The named channels of a node: what serves each of them, and the tasks that it runs in.

Owns: when a channel's parts are made (once it is in the log), and that a failure of one of them
ends that channel's tasks only, which begin again. Must not know what a part decides; `member`
builds them, see `Parts`.

    channels.run
     |- run_channel               one for each named channel; begins again after a failure
         |- server.run            its listener on this node
         |- receiver.run          pulls while this node leads
         '- keep                  listener as stored, source as configured
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final

import trio

from kingbus import log
from kingbus.admin.leader import LeaderOperations
from kingbus.admin.listener import ListenerControl
from kingbus.admin.sql import SqlAdministration
from kingbus.binlog.relay_state import RelayState, VisibleEnd
from kingbus.daemon.keeper import keep
from kingbus.errors import KingbusError
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.binlog_server import BinlogServer
from kingbus.replication.file_content import FileChunk, read_chunk
from kingbus.replication.queries import BinlogEventRow
from kingbus.replication.receiver import Receiver
from kingbus.replication.relay import Relay
from kingbus.replication.served_facts import ServedFacts

_log = log.get_logger("daemon")

RESTART_SECONDS: Final = 5.0
"""After a failure that nobody foresaw: often enough to heal, too seldom to fill a log."""


def id_of_channel(cluster_id: int, number: int) -> int:
    """What server id and uuid of a channel are derived from, as the cluster's are of its id."""
    text = b"kingbus channel" + cluster_id.to_bytes(8, "big") + number.to_bytes(4, "big")
    return int.from_bytes(sha256(text).digest()[:8], "big")


async def description_of(relay: Relay, file: FileRow) -> bytes:
    """The FORMAT_DESCRIPTION event of a file that is held; empty where it is not there any more."""
    if file.cut_position:
        return file.description
    index = file.first_index
    try:
        batches = await relay.read_batches(index, index)
    except KingbusError:
        return b""
    return bytes(batches[index].event(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What serves one named channel on this node. `keep` are the steps of its keeper, by name,
    `difference` says that the log holds another source than the configuration, if it does.

    Implements `replication.purger.Channel` and `admin.protocols.ChannelDoor`.
    """

    name: str
    number: int
    relay: Relay
    facts: ServedFacts
    administration: SqlAdministration
    receiver: Receiver
    server: BinlogServer
    listener: ListenerControl
    leader: LeaderOperations
    keep: Mapping[str, Callable[[], Awaitable[None]]]
    difference: Callable[[], str]

    @property
    def state(self) -> RelayState:
        """As applied here."""
        return self.relay.state

    def attached(self) -> Iterable[tuple[str, str]]:
        """Replica uuid and file."""
        return self.server.reading()

    def end_overtaken(self) -> None:
        """End dumps that are stuck in files that are not held."""
        self.server.end_overtaken(lambda file: self.state.file_named(file) is not None)

    async def description(self, file: FileRow, /) -> bytes:
        """The FORMAT_DESCRIPTION event of a file."""
        return await description_of(self.relay, file)

    async def wait_beyond(self, visible: VisibleEnd, /) -> None:
        """Until something is visible that was not."""
        await self.relay.wait_beyond(visible)

    async def events(
        self, file: str, position: int, offset: int, limit: int
    ) -> Sequence[BinlogEventRow] | None:
        """Events of a file."""
        return await self.facts.binlog_events(file, position, offset, limit)

    async def content(self, file: str, offset: int, size_max: int) -> FileChunk | None:
        """Bytes of a file."""
        return await read_chunk(self.relay, file, offset, size_max)


class Channels:
    """See the module. `build` makes a channel's parts, `changed` is as `keeper.keep` has it."""

    def __init__(
        self,
        *,
        relay: Relay,
        build: Callable[[str, int, Relay], Parts],
        changed: Callable[[], trio.Event],
    ) -> None:
        self._relay = relay
        self._build = build
        self._changed = changed
        self.parts: dict[str, Parts] = {}

    def all(self) -> Iterable[Parts]:
        """Those that are served here, in the order in which they were added."""
        return list(self.parts.values())

    def leaders(self) -> Mapping[str, LeaderOperations]:
        """What the leader does for each."""
        self.follow()
        return {name: each.leader for name, each in self.parts.items()}

    def doors(self) -> Mapping[str, Parts]:
        """What this node shows of each."""
        self.follow()
        return self.parts

    def server_of(self, number: int) -> BinlogServer | None:
        """Who serves the channel of that number here."""
        self.follow()
        return next((each.server for each in self.parts.values() if each.number == number), None)

    def facts(self) -> Mapping[str, ServedFacts]:
        """What each tells of itself in SQL."""
        self.follow()
        return {name: each.facts for name, each in self.parts.items()}

    def administrations(self) -> Mapping[str, SqlAdministration]:
        """What administrators order each to do in SQL."""
        self.follow()
        return {name: each.administration for name, each in self.parts.items()}

    def follow(self) -> None:
        """Make the parts of channels that are in the log by now; their tasks begin soon after."""
        for name, relay in self._relay.named.items():
            if name not in self.parts:
                self.parts[name] = self._build(name, relay.state.channel, relay)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks of all channels; the listeners of those that are there are tried first."""
        running: set[str] = set()
        async with trio.open_nursery() as nursery:
            while True:
                next_change = self._changed()
                self.follow()
                for name, parts in list(self.parts.items()):
                    if name not in running:
                        running.add(name)
                        await nursery.start(partial(self._run_channel, parts))
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await next_change.wait()

    async def _run_channel(
        self, parts: Parts, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(parts.server.run)
                    nursery.start_soon(parts.receiver.run)
                    await self._open(parts)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await keep(parts.keep, self._changed)
            except Exception:  # noqa: BLE001 - what breaks in one channel ends that one only
                _log.exception("a channel's tasks failed and begin again", channel=parts.name)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await trio.sleep(RESTART_SECONDS)

    @staticmethod
    async def _open(parts: Parts) -> None:
        try:
            await parts.listener.reconcile()
        except KingbusError as error:
            _log.warning("a channel's listener", channel=parts.name, reason=error.explain())

    async def stop_serving(self) -> None:
        """Close all listeners and end their dumps."""
        async with trio.open_nursery() as nursery:
            for parts in self.parts.values():
                nursery.start_soon(parts.server.stop)
