"""The node's state machine: committed entries in, a served binlog out.

Owns the relay state of this node, the order in which an applied run becomes visible (state, one
database write, rows in memory, then the waiting dumps are woken), and the reading of rows and
packets for everybody who serves the log. It must not know of Raft's roles, of MySQL's wire, or of
who reads.

Named channels have a relay of their own each, with the same stores, caches and threads. That of the
default channel is given every entry, and hands those of a channel to its relay: all of it becomes
one write. It alone has an applied index, and all checkpoints are written together; see
decisions/0027-channels.md.

Reading is arranged so that a dump at the end of the log touches neither database nor disk: the
newest rows are kept in memory, and the newest batches, decoded once, in one small cache for all.
Everything else is read in worker threads, a few at a time.

No reader sees a row beyond the visible end that held when its reading began. That is what keeps an
abandoned transaction out of sight even where a row is read while it is being truncated.
"""

# ruff: noqa: SLF001 - what is private is so to the relays of all channels together.

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol, TypeVar, TypeVarTuple

import trio

from kingbus.binlog.command import MalformedCommandError, channel_of, decode
from kingbus.binlog.relay_state import (
    ALREADY_APPLIED,
    CHANNELS_MAX,
    STATE_VERSION,
    Changes,
    RelayState,
    VisibleEnd,
)
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.pb.command_pb2 import Command
from kingbus.pb.record_pb2 import BatchRow, FileRow, Members
from kingbus.pb.record_pb2 import RelayState as StateRecord
from kingbus.raft.errors import CompactedError
from kingbus.raft.types import Entry, EntryType
from kingbus.replication.served_batch import ServedBatch
from kingbus.replication.served_rows import (
    READ_BYTES,
    READ_ENTRIES,
    READERS_MAX,
    SHARED_BYTES,
    InstallingError,
    PurgedWhileReadingError,
    RecentRows,
    Row,
    SharedBatches,
    clipped,
)
from kingbus.replication.stored_packets import StoredPackets
from kingbus.replication.streams import PacketFile
from kingbus.storage.state_store import StateWrite
from kingbus.storage.stored_entry import StoredEntry

CHECKPOINT_BYTES: Final = 64 << 20
"""Applied between two checkpoints at most: what a start must read again, a fraction of a second."""
CHECKPOINT_ENTRIES: Final = 8192
"""The same for small entries: to apply one again takes about 0.1 ms."""
REPLAY_BYTES: Final = 4 << 20
"""Read at once when starting."""

DIGESTS_MAX: Final = 64
"""Hashes that somebody asked for and perhaps never fetched."""

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")

_log = get_logger("replication")


class RelayLoadError(KingbusError):
    """The database and the log of this node do not fit together."""

    hint = "Replace this member: remove it, and add it again with an empty data directory."


class AppliedBatch(Protocol):
    """Committed entries of all types in the order of the log, see node/machine.py."""

    @property
    def entries(self) -> Sequence[Entry]: ...

    @property
    def members(self) -> Mapping[int, Members]: ...


class Database(Protocol):
    """The part of the state store that is used; only `batch_rows` and its kin may be slow."""

    @property
    def path(self) -> Path: ...
    def write(self, changes: StateWrite) -> None: ...
    def applied(self) -> int: ...
    def checkpoint(self, channel: int = 0) -> StateRecord | None: ...
    def file_rows(self, channel: int) -> list[FileRow]: ...
    def batch_rows(
        self, channel: int, first_index: int, limit: int
    ) -> list[tuple[int, BatchRow]]: ...
    def last_batch_row(self, channel: int, index: int) -> tuple[int, BatchRow] | None: ...


class PacketLog(Protocol):
    """The reading half of the log store."""

    def cached(self, lo: int, hi: int, max_size: int) -> list[Entry] | None: ...
    def read(self, lo: int, hi: int, max_bytes: int) -> list[Entry]: ...
    def first_index(self) -> int: ...
    def last_index(self) -> int: ...


class EntryFiles(Protocol):
    """The part of the log store by which packets are sent from its files."""

    def stored(self, index: int) -> StoredEntry | None: ...


class Runner(Protocol):
    """Runs a blocking call in a worker thread."""

    def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> Awaitable[_T]: ...


class Relay:
    """See the module. Made by `load`, which blocks; everything else belongs on the event loop."""

    def __init__(
        self,
        *,
        database: Database,
        log: PacketLog,
        runner: Runner,
        state: RelayState,
        files: EntryFiles | None = None,
    ) -> None:
        self.state = state
        self.channels: dict[int, Relay] = {}
        """The named ones, by number; of the default channel's relay only."""
        self._applied = state.index
        self._has_unsaved = False  # applied since the last checkpoint of this channel
        self._database = database
        self._packet_log = log
        self._files = files
        self._runner = runner
        self._threads = trio.CapacityLimiter(READERS_MAX)
        self._recent = RecentRows(state.index + 1)
        self._shared = SharedBatches(SHARED_BYTES)
        self._reading: dict[int, trio.Event] = {}
        self._waiting = trio.lowlevel.ParkingLot()
        self._bytes_since_checkpoint = 0
        self._entries_since_checkpoint = 0
        self._digests: dict[int, str] = {}  # at indexes that were asked for; empty: not yet there
        self._digest_made = trio.Event()
        self._is_installing = False
        self._readers: set[trio.CancelScope] = set()

    @classmethod
    def load(
        cls,
        *,
        database: Database,
        log: PacketLog,
        runner: Runner,
        files: EntryFiles | None = None,
    ) -> "Relay":
        """The relay as of the stored applied index. Blocks, for as long as 64 MiB take to read.

        The checkpoint says where the state stood; what was applied after it is applied again, in
        memory only. Without `files` no packets are sent unread. Raises RelayLoadError,
        UnknownStateVersionError and the log's own errors.
        """
        record, applied = database.checkpoint(0), database.applied()
        if record is None:
            state = RelayState()
        else:
            state = RelayState.from_record(record, database.file_rows(0))
        at = record.applied or state.index if record is not None else 0
        if at > applied or applied > log.last_index():
            raise RelayLoadError(
                f"the checkpoint in {database.path} is of index {at}, the database was "
                f"applied up to {applied}, and the log ends at index {log.last_index()}"
            )
        relay = cls(database=database, log=log, runner=runner, state=state, files=files)
        relay._applied = at
        if record is not None and record.version >= STATE_VERSION:
            relay._load_channels()
        relay._replay(applied)
        return relay

    def _load_channels(self) -> None:
        """As of their checkpoints; behind these, up to where they are loaded, there was nothing."""
        for number in range(1, CHANNELS_MAX + 1):
            record = self._database.checkpoint(number)
            if record is not None:
                state = RelayState.from_record(record, self._database.file_rows(number))
                self._add_channel(number, state)
        self._follow_channels()

    def _follow_channels(self) -> None:
        for number in self.state.channels.values():
            if number not in self.channels:
                self._add_channel(number, RelayState(channel=number))

    def _add_channel(self, number: int, state: RelayState) -> None:
        relay = Relay(
            database=self._database,
            log=self._packet_log,
            runner=self._runner,
            state=state,
            files=self._files,
        )
        # Entries have the same indexes for all, and limits are those of the node.
        relay._threads, relay._shared, relay._reading = self._threads, self._shared, self._reading
        relay._is_installing = self._is_installing
        self.channels[number] = relay

    @property
    def named(self) -> Mapping[str, "Relay"]:
        """The named channels, in the order in which they were added."""
        return {name: self.channels[number] for name, number in self.state.channels.items()}

    def _replay(self, applied: int) -> None:
        while self._applied < applied:
            first = self._applied + 1
            if first < self._packet_log.first_index():
                raise RelayLoadError(
                    f"the checkpoint in {self._database.path} is older than the log: it needs "
                    f"entry {first}, and the log begins at index {self._packet_log.first_index()}"
                )
            entries = self._packet_log.read(first, applied + 1, REPLAY_BYTES)
            if not entries:
                raise RelayLoadError(f"the log has no entry {first}")
            for entry in entries:
                decoded = _decoded(entry)
                relay, run = self._relay_of(decoded), _Run()
                relay._apply_decoded(run, entry, decoded)
                relay._remember(run)
                self._note_applied(relay, entry.index)

    def _relay_of(self, decoded: tuple[Command, memoryview] | None) -> "Relay":
        """Whose entry it is. The default channel's has what is of no channel that is there."""
        if not self.channels or decoded is None:
            return self
        channel = channel_of(decoded[0])
        return self.channels.get(channel, self) if channel else self

    def _note_applied(self, relay: "Relay", index: int) -> None:
        self._applied = index
        relay._has_unsaved = True
        if relay is not self:
            self.state.skip(index)
        elif len(self.state.channels) > len(self.channels):
            self._follow_channels()

    # -- applying ---------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        return self._applied

    def apply(self, batch: AppliedBatch) -> None:
        """Applies committed entries; on the loop, without waiting for a disk.

        The order is the promise: the database write that holds the rows comes before anything of
        them is shown, so that no reader meets a row that is not there or not truncated yet.
        """
        if not batch.entries:
            return
        before = self.state.visible
        others = [(relay, relay.state.visible) for relay in self.channels.values()]
        run = _Run()
        for entry in batch.entries:
            assert entry.index == self._applied + 1, (entry.index, self._applied)
            decoded = _decoded(entry)
            relay = self._relay_of(decoded)
            part = run.of(relay.state.channel)
            if part.holds and decoded is not None and relay._may_delete(decoded[0]):
                # It comes in a write of its own: one write deletes before it puts. A crash between
                # the two finds the first, so that one has to be as complete as the last.
                self._finish(run, batch.members)
                run = _Run()
                part = run.of(relay.state.channel)
            next_run = _Run()
            relay._apply_decoded(next_run, entry, decoded)
            self._note_applied(relay, entry.index)
            if self._digests and entry.index in self._digests:
                self._make_digest(entry.index)
            assert part.takes(next_run)
            part.take(next_run)
            run.applied, run.term = entry.index, entry.term
            self._bytes_since_checkpoint += len(entry.data)
            self._entries_since_checkpoint += 1
        self._finish(run, batch.members)
        if self.state.visible != before:
            self._waiting.unpark_all()
        for relay, visible in others:
            if relay.state.visible != visible:
                relay._waiting.unpark_all()

    def _may_delete(self, command: Command) -> bool:
        """Whether applying it may delete rows; of batches, which are many, one behind a gap may."""
        is_batch = command.WhichOneof("kind") == "event_batch"
        return not is_batch or bool(self.state.accepted_gap)

    def _make_digest(self, index: int) -> None:
        self._digests[index] = self.digest()
        self._digest_made.set()
        self._digest_made = trio.Event()

    async def digest_at(self, index: int) -> str | None:
        """The state's hash as of exactly that index, once it is applied; None: it was before."""
        await trio.lowlevel.checkpoint()
        if self._applied == index:
            return self.digest()
        if self._applied < index and index not in self._digests:
            if len(self._digests) >= DIGESTS_MAX:
                del self._digests[next(iter(self._digests))]
            self._digests[index] = ""
        while self._applied < index:
            await self._digest_made.wait()
        return self._digests.get(index) or None

    def digest(self) -> str:
        """As of what is applied, of all channels; without named ones the state's own."""
        if not self.channels:
            return self.state.digest()
        whole = sha256(self.state.digest().encode())
        for number in sorted(self.channels):
            state = self.channels[number].state
            state.skip(self._applied)
            whole.update(state.digest().encode())
        return whole.hexdigest()

    def _finish(self, run: "_Run", members: Mapping[int, Members]) -> None:
        """Writes a run, which ends where the state is, with checkpoint and membership as due."""
        checkpoint = None
        others: dict[int, StateRecord] = {}
        if (
            run.wants_checkpoint
            or any(part.wants_checkpoint for part in run.others.values())
            or self._bytes_since_checkpoint >= CHECKPOINT_BYTES
            or self._entries_since_checkpoint >= CHECKPOINT_ENTRIES
        ):
            checkpoint, others = self._checkpoints()
            self._bytes_since_checkpoint = self._entries_since_checkpoint = 0
        known = max((index for index in members if index <= run.applied), default=0)
        if not run.others and not others:
            self._write(run, checkpoint=checkpoint, members=members.get(known))
            return
        writes = []
        for number in sorted(run.others.keys() | others.keys()):
            part = run.of(number)
            part.applied = run.applied
            writes.append(self.channels[number]._changed(part, checkpoint=others.get(number)))
        self._write(run, checkpoint=checkpoint, members=members.get(known), others=writes)
        for number, part in run.others.items():
            self.channels[number]._remember(part)

    def _checkpoints(self) -> tuple[StateRecord, dict[int, StateRecord]]:
        """Of this channel, and of all others to which something was applied since their last."""
        own = self.state.to_record()
        if self.channels:
            own.version = STATE_VERSION
            if self.state.index != self._applied:
                own.applied = self._applied
        others = {}
        for number, relay in self.channels.items():
            if relay._has_unsaved:
                others[number] = relay.state.to_record()
                relay._has_unsaved = False
        return own, others

    def _apply_decoded(
        self, run: "_Run", entry: Entry, decoded: tuple[Command, memoryview] | None
    ) -> None:
        run.applied, run.term = entry.index, entry.term
        if decoded is None:
            self.state.skip(entry.index)
            return
        command, packets = decoded
        changes = self.state.apply(entry.index, command, packet_bytes=len(packets))
        # Behind a snapshot a channel may be ahead of the log by any number of entries.
        if not changes.accepted and changes.reason != ALREADY_APPLIED:
            kind = command.WhichOneof("kind")
            _log.info("ignored a command", index=entry.index, kind=kind, reason=changes.reason)
        run.note(changes)
        if changes.batch_row is not None:
            run.batches[entry.index] = ServedBatch.of(entry.data, command.event_batch, packets)

    def _write(
        self,
        run: "_Run",
        *,
        checkpoint: StateRecord | None = None,
        members: Members | None = None,
        others: Sequence[StateWrite] = (),
    ) -> None:
        self._database.write(
            self._changed(run, checkpoint=checkpoint, members=members, others=others)
        )
        self._remember(run)

    def _changed(
        self,
        run: "_Run",
        *,
        checkpoint: StateRecord | None = None,
        members: Members | None = None,
        others: Sequence[StateWrite] = (),
    ) -> StateWrite:
        return StateWrite(
            applied=run.applied,
            term=run.term,
            channel=self.state.channel,
            batches=sorted(run.rows.items()),
            deleted_batches=run.deleted,
            files=list(run.files.values()),
            deleted_files=run.deleted_files,
            starts=list(run.starts.items()),
            checkpoint=checkpoint,
            members=members,
            others=others,
        )

    def _remember(self, run: "_Run") -> None:
        self._recent.delete(run.deleted)
        for index, row in sorted(run.rows.items()):
            self._recent.put(index, row)
        for index, batch in run.batches.items():
            self._shared.put(index, batch)

    # -- installing a snapshot --------------------------------------------------------------

    @property
    def is_installing(self) -> bool:
        """Whether a snapshot is taking the place of everything."""
        return self._is_installing

    def begin_install(self) -> None:
        """From now on until `install` nobody reads; who does is stopped."""
        for relay in (self, *self.channels.values()):
            relay._is_installing = True
            for scope in relay._readers:
                scope.cancel()

    def install(
        self, state: RelayState, *, applied: int = 0, others: Sequence[RelayState] = ()
    ) -> None:
        """Go on from this state, which database and log are of by now.

        `others` are those of named channels; with them `applied` may be below a state's index.
        """
        self._shared = SharedBatches(SHARED_BYTES)
        self._install(state)
        self._applied = applied or state.index
        for other in others:
            if other.channel not in self.channels:
                self._add_channel(other.channel, other)
            relay = self.channels[other.channel]
            relay._shared = self._shared
            relay._install(other)
        self._follow_channels()

    def _install(self, state: RelayState) -> None:
        self.state = state
        self._recent = RecentRows(state.index + 1)
        self._bytes_since_checkpoint = self._entries_since_checkpoint = 0
        self._is_installing = False
        self._waiting.unpark_all()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """For who reads on and on: InstallingError as soon as, or if already, that is not possible.

        What is awaited inside is cancelled then.
        """
        if self._is_installing:
            raise InstallingError("a snapshot is being installed")
        with trio.CancelScope() as scope:
            self._readers.add(scope)
            try:
                yield
            finally:
                self._readers.discard(scope)
        if scope.cancelled_caught:
            raise InstallingError("a snapshot is being installed")

    # -- waiting ----------------------------------------------------------------------------

    async def wait_beyond(self, visible: VisibleEnd) -> None:
        """Until something is visible that was not visible as of `visible`.

        Between the look and the parking nothing else can run, so no wake-up is lost.
        """
        while self.state.visible == visible:
            await self._waiting.park()
        await trio.lowlevel.checkpoint()

    # -- reading rows -----------------------------------------------------------------------

    async def read_rows(self, after_index: int, limit: int) -> list[Row]:
        """Up to `limit` rows behind `after_index`, none beyond the visible end.

        The row in which the visible end lies is cut to its visible packets.
        """
        visible = self.state.visible
        rows = self._recent.after(after_index, limit)
        if rows is None:
            async with self._threads:
                stored = await self._runner(
                    self._database.batch_rows, self.state.channel, after_index + 1, limit
                )
            rows = [Row(index, row) for index, row in stored]
        else:
            await trio.lowlevel.checkpoint()
        return [clipped(row, visible) for row in rows if row.index <= visible.index]

    def recent_rows(self, after_index: int, limit: int) -> list[Row] | None:
        """The same at once, where the rows are in memory; None where not all of them may be."""
        visible = self.state.visible
        rows = self._recent.after(after_index, limit)
        if rows is None:
            return None
        return [clipped(each, visible) for each in rows if each.index <= visible.index]

    async def find_row(self, file: FileRow, position: int) -> Row | None:
        """The row of a file in which the event at `position` begins or, between two, would.

        None when the file has no visible row that begins at or before `position`.
        """
        visible = self.state.visible
        last = min(file.last_index, visible.index)
        async with self._threads:
            found = await self._runner(self._search, file.ordinal, file.first_index, last, position)
        return None if found is None else clipped(found, visible)

    def _search(self, ordinal: int, first: int, last: int, position: int) -> Row | None:
        """In a worker thread: a binary search over indexes, of which not all have a row."""
        database, channel = self._database, self.state.channel
        best: Row | None = None
        low, high = first, last
        while low <= high:
            middle = (low + high) // 2
            found = database.last_batch_row(channel, middle)
            if found is None or found[0] < low:
                low = middle + 1
                continue
            row = Row(*found)
            assert row.row.file == ordinal
            if row.row.start_position <= position:
                best, low = row, middle + 1
            else:
                high = row.index - 1
        # The event that goes on in this row began in one before.
        while best and best.row.begins_in_event and best.row.start_position == position:
            before = database.last_batch_row(channel, best.index - 1)
            assert before is not None and before[1].file == ordinal
            best = Row(*before)
        return best

    # -- reading packets --------------------------------------------------------------------

    async def read_batches(self, index: int, through: int) -> Mapping[int, ServedBatch]:
        """The batch of entry `index`, and with it what came along up to entry `through`.

        Batches that are read from the disk are shared with whoever reads the same next. Raises
        PurgedWhileReadingError.
        """
        while (batch := self._shared.get(index)) is None:
            if (reading := self._reading.get(index)) is not None:
                await reading.wait()
                continue
            return await self._read(index, through)
        await trio.lowlevel.checkpoint()
        return {index: batch}

    async def _read(self, index: int, through: int) -> Mapping[int, ServedBatch]:
        done = self._reading[index] = trio.Event()
        through = min(max(index, through), index + READ_ENTRIES - 1, self.state.index)
        log = self._packet_log
        try:
            # A run is in memory whole or not at all; its first entry alone may be.
            entries = log.cached(index, through + 1, READ_BYTES)
            if entries is None and through > index:
                entries = log.cached(index, index + 1, READ_BYTES)
            if entries is None:
                async with self._threads:
                    entries = await self._runner(log.read, index, through + 1, READ_BYTES)
            else:
                await trio.lowlevel.checkpoint()
        except CompactedError as error:
            raise PurgedWhileReadingError(f"entry {index} is purged") from error
        finally:
            del self._reading[index]
            done.set()
        batches = {
            entry.index: ServedBatch(entry.data)
            for entry in entries
            if entry.type is EntryType.NORMAL and entry.data
        }
        for at, batch in batches.items():
            self._shared.put(at, batch)
        return batches

    # -- packets that are not read ------------------------------------------------------------

    def stored(self, row: Row) -> PacketFile | None:
        """All packets of a row, to be sent from the log's file; None where they have to be read."""
        entry = self._files.stored(row.index) if self._files is not None else None
        return StoredPackets(entry, row) if entry is not None else None

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """For what reads the log's files, as the reads here: a few at a time."""
        async with self._threads:
            return await self._runner(function)


def _decoded(entry: Entry) -> tuple[Command, memoryview] | None:
    """The command of an entry; None where there is none."""
    if entry.type is not EntryType.NORMAL or not entry.data:
        return None
    try:
        return decode(entry.data)
    except MalformedCommandError as error:
        # The same bytes on every node, so every node passes over it.
        _log.error("ignored an entry", index=entry.index, reason=str(error))
        return None


class _Run:
    """What entries changed, gathered for one database write, which deletes before it puts."""

    def __init__(self) -> None:
        self.applied = 0
        self.term = 0
        self.rows: dict[int, BatchRow] = {}
        self.deleted: Sequence[int] = ()
        self.files: dict[int, FileRow] = {}
        self.deleted_files: list[int] = []
        self.others: dict[int, _Run] = {}  # of named channels, by number
        self.starts: dict[int, StateRecord] = {}
        self.batches: dict[int, ServedBatch] = {}
        self.wants_checkpoint = False

    def of(self, channel: int) -> "_Run":
        """The part of a channel, this one for the default channel."""
        if not channel:
            return self
        return self.others.setdefault(channel, _Run())

    def note(self, changes: Changes) -> None:
        """The changes of one command."""
        self.deleted = changes.deleted_batches
        if changes.truncated_batch is not None:
            index, row = changes.truncated_batch
            self.rows[index] = row
        if changes.batch_row is not None:
            self.rows[changes.index] = changes.batch_row
        self.deleted_files = changes.deleted_files
        for file_row in changes.file_rows:
            self.files[file_row.ordinal] = file_row
        if changes.start is not None:
            ordinal, start = changes.start
            self.starts[ordinal] = start
        self.wants_checkpoint = changes.checkpoint

    @property
    def holds(self) -> bool:
        """Whether anything but the applied index is to be written."""
        return bool(self.rows or self.files or self.deleted or self.deleted_files)

    def takes(self, other: "_Run") -> bool:
        """Whether one write can do both: it deletes one range only, and that one first."""
        return not (self.holds and (other.deleted or other.deleted_files))

    def take(self, other: "_Run") -> None:
        """Adds what a later entry changed."""
        self.applied, self.term = other.applied, other.term
        self.rows.update(other.rows)
        self.deleted = other.deleted or self.deleted
        self.files.update(other.files)
        self.starts.update(other.starts)
        self.deleted_files = other.deleted_files or self.deleted_files
        self.batches.update(other.batches)
        self.wants_checkpoint |= other.wants_checkpoint
