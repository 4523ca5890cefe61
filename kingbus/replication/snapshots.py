"""The relay's half of a snapshot: making one of the start of its log, and installing one.

A snapshot holds no binlog bytes. Of each channel it is the relay state just before the first file
that is still held; everything behind it comes by ordinary appends. The log begins where the oldest
of these files does; a channel ignores what is not behind its own state. One without a file is as of
now. What is to be kept for it is written when a file begins, see `RelayState.at_start`. The order
of an installation's steps is told in `storage/installing.py`, the node takes them; here are those
that concern database and readers.
"""

from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import DecodeError

from kingbus.binlog.relay_state import STATE_VERSION, RelayState
from kingbus.log import get_logger
from kingbus.pb.record_pb2 import FileRow, Members
from kingbus.pb.record_pb2 import RelayState as StateRecord
from kingbus.raft.errors import SnapshotTemporarilyUnavailableError
from kingbus.raft.types import Snapshot
from kingbus.replication.relay import Relay, Runner
from kingbus.storage.installing import UnreadableSnapshotError, unpack_snapshot

_log = get_logger("replication")


class SnapshotDatabase(Protocol):
    """The part of the state store that is used; all but `start` block."""

    def start(self, channel: int, ordinal: int) -> StateRecord | None: ...
    def begin_install(self, snapshot: Snapshot) -> None: ...
    def finish_install(
        self, snapshot: Snapshot, *, state: StateRecord, members: Members
    ) -> None: ...
    def sync(self) -> None: ...


class RelaySnapshots:
    """Implements `node.machine.Snapshots` for a relay.

    `installed` is called when the whole state has become another one.
    """

    def __init__(
        self,
        *,
        relay: Relay,
        database: SnapshotDatabase,
        runner: Runner,
        installed: Callable[[], None] = lambda: None,
    ) -> None:
        self._relay = relay
        self._database = database
        self._runner = runner
        self._installed = installed

    @property
    def first_index(self) -> int:
        """The first entry that is still needed: once a file was purged, that of the first left."""
        firsts = self._first_files()
        if not any(row.ordinal > 1 or row.cut_position for row in firsts):
            return 1
        return min(row.first_index for row in firsts)

    def _first_files(self) -> list[FileRow]:
        relay = self._relay
        states = [relay.state, *(each.state for each in relay.channels.values())]
        return [state.files[0] for state in states if state.files]

    def make(self) -> tuple[int, bytes]:
        """The index before the first file of all, and each channel's state at its own.

        SnapshotTemporarilyUnavailableError while this relay holds no file itself.
        """
        firsts = self._first_files()
        if not firsts:
            raise SnapshotTemporarilyUnavailableError
        whole = self._record_of(self._relay.state)
        for _, relay in sorted(self._relay.channels.items()):
            whole.version = STATE_VERSION
            whole.others.append(self._record_of(relay.state))
        return min(row.first_index for row in firsts) - 1, whole.SerializeToString()

    def _record_of(self, state: RelayState) -> StateRecord:
        if not state.files:
            state.skip(self._relay.applied_index)
            return state.to_record()
        first = state.files[0]
        start = self._database.start(state.channel, first.ordinal)
        if start is None:
            _log.error("no start is kept of the first file", file=first.served_name)
            raise SnapshotTemporarilyUnavailableError
        return state.at_start(start)

    def check(self, snapshot: Snapshot) -> None:
        """Whether this could be installed: KingbusError says why not."""
        _state_of(snapshot)

    async def begin(self, snapshot: Snapshot) -> None:
        """No more reading; then the mark, durably."""
        self._relay.begin_install()
        await self._runner(self._database.begin_install, snapshot)

    async def finish(self, snapshot: Snapshot) -> None:
        """The log is the new one: so is the state now, durably, and readers may come again."""
        members, record, (state, *others) = _state_of(snapshot)

        def write() -> None:
            self._database.finish_install(snapshot, state=record, members=members)

        await self._runner(write)
        self._relay.install(state, applied=snapshot.index, others=others)
        self._installed()

    async def sync(self) -> None:
        """Make durable what was applied."""
        await self._runner(self._database.sync)


def _state_of(snapshot: Snapshot) -> tuple[Members, StateRecord, list[RelayState]]:
    """The membership, the record, and the states in it: that of the default channel first."""
    members, encoded = unpack_snapshot(snapshot)
    try:
        record = StateRecord.FromString(encoded)
    except DecodeError:
        raise UnreadableSnapshotError(
            f"the relay state in the snapshot of index {snapshot.index} does not decode"
        ) from None
    try:
        states = [RelayState.from_record(each) for each in (record, *record.others)]
    except AssertionError as error:
        raise UnreadableSnapshotError(
            f"the relay state in the snapshot of index {snapshot.index} contradicts itself: {error}"
        ) from None
    ahead = bool(record.others) or bool(states[0].channels)
    for state in states:
        if state.index < snapshot.index or (state.index > snapshot.index and not ahead):
            raise UnreadableSnapshotError(
                f"the snapshot of index {snapshot.index} has the relay state of index {state.index}"
            )
    return members, record, states
