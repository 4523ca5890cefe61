"""What a node knows because it applied the log: rows, checkpoint, membership, applied index.

Everything here follows from the log, so a write is not synced: after a crash of the machine the
applied index is simply an older one, with the rows that belong to it, and the log is applied again
from there. That holds because each write is one atomic batch. What must not be lost, before log
entries are given up, is written with `sync`, or made durable by `sync()`.

A snapshot takes the place of everything: `begin_install` marks that durably, `finish_install`
writes the new state and takes the mark away in one synced batch. A mark that is found says that
the installation is to be repeated.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from google.protobuf.message import DecodeError, Message

from kingbus.pb import raft_pb2
from kingbus.pb.record_pb2 import BatchRow, FileRow, Members, RelayState
from kingbus.raft.types import ConfState, Snapshot
from kingbus.storage.ballast import Ballast
from kingbus.storage.database import Batch, Database
from kingbus.storage.errors import CorruptRecordError, NewerFormatError
from kingbus.storage.keys import (
    APPLIED,
    CHANNEL_MAX,
    CONF_STATE,
    FORMAT,
    INSTALLING,
    MEMBERS,
    NUMBER_MAX,
    batch_key,
    checkpoint_key,
    file_key,
    number_of,
    start_key,
)
from kingbus.storage.record import (
    conf_state_from_pb,
    conf_state_to_pb,
    snapshot_from_pb,
    snapshot_to_pb,
)

__all__ = ["FORMAT_VERSION", "StateStore", "StateWrite"]

FORMAT_VERSION = 1
FILES_MAX = 1_000_000
"""More files than any reserve holds; bounds the one read that lists them all."""

_APPLIED = struct.Struct("<QQ")
_INDEX = struct.Struct("<Q")
_M = TypeVar("_M", bound=Message)

_FORMAT = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateWrite:
    """What applying entries up to `applied` (of `term`) has changed.

    Deletions happen before puts. `deleted_batches` may name rows that never were; a `range` is
    deleted as one. `checkpoint` replaces the one of the same channel. `starts` are kept with their
    files, by ordinal, and go with them.
    """

    applied: int
    term: int = 0
    channel: int = 0
    batches: Sequence[tuple[int, BatchRow]] = ()
    deleted_batches: Sequence[int] = ()
    files: Sequence[FileRow] = ()
    deleted_files: Sequence[int] = ()
    starts: Sequence[tuple[int, RelayState]] = ()
    checkpoint: RelayState | None = None
    members: Members | None = None
    conf_state: tuple[int, ConfState] | None = None
    others: Sequence["StateWrite"] = ()
    """What the same entries changed in other channels; only rows and checkpoints of them count."""


class StateStore:
    """See the module. Made by `StateStore.open`. Reads from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def path(self) -> Path:
        """The directory of the database."""
        return self._database.path

    @classmethod
    def open(
        cls, directory: Path, *, disk_bytes: int | None = None, ballast: Ballast | None = None
    ) -> Self:
        """Open the database in a directory, or begin one. Blocks.

        `disk_bytes` is what it should do with; `ballast` is given up for it on a full disk.
        DirectoryInUseError, NewerFormatError, NotEnoughSpaceError, StorageError.
        """
        database = Database(directory, disk_bytes=disk_bytes, ballast=ballast)
        try:
            version = database.get(FORMAT)
            if version is None:
                batch = database.new_batch()
                batch.put(FORMAT, _FORMAT.pack(FORMAT_VERSION))
                database.write(batch, sync=True)
            elif (found := _FORMAT.unpack(version)[0]) > FORMAT_VERSION:
                raise NewerFormatError(
                    f"{directory} has format {found}; this version knows up to {FORMAT_VERSION}"
                )
        except BaseException:
            database.close()
            raise
        return cls(database)

    @classmethod
    def open_for_reading(cls, directory: Path) -> Self:
        """Open the database of a stopped node for a tool: nothing on the disk changes. Blocks.

        Errors as `open`.
        """
        database = Database(directory, read_only=True)
        try:
            version = database.get(FORMAT)
            if version is not None and _FORMAT.unpack(version)[0] > FORMAT_VERSION:
                raise NewerFormatError(
                    f"{directory} has format {_FORMAT.unpack(version)[0]}; this version knows up"
                    f" to {FORMAT_VERSION}"
                )
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Let go of it; may be called twice."""
        self._database.close()

    def disk_bytes(self) -> int:
        """What it takes of the disk. Blocks."""
        return self._database.disk_bytes()

    def write(self, changes: StateWrite, *, sync: bool = False) -> None:
        """One atomic batch. Unsynced it is quick enough for the event loop; with `sync` it blocks.

        FatalStorageError when the disk refuses.
        """
        batch = self._database.new_batch()
        for part in (changes, *changes.others):
            self._put_channel(batch, part)
        if changes.members is not None:
            batch.put(MEMBERS, changes.members.SerializeToString())
        if changes.conf_state is not None:
            index, state = changes.conf_state
            encoded = conf_state_to_pb(state).SerializeToString()
            batch.put(CONF_STATE, _INDEX.pack(index) + encoded)
        batch.put(APPLIED, _APPLIED.pack(changes.applied, changes.term))
        self._database.write(batch, sync=sync)

    def _put_channel(self, batch: Batch, changes: StateWrite) -> None:
        channel = changes.channel
        if isinstance(changes.deleted_batches, range) and changes.deleted_batches.step == 1:
            gone = changes.deleted_batches
            if gone:
                batch.delete_range(batch_key(channel, gone.start), batch_key(channel, gone.stop))
        else:
            for index in changes.deleted_batches:
                batch.delete(batch_key(channel, index))
        for ordinal in changes.deleted_files:
            batch.delete(file_key(channel, ordinal))
            batch.delete(start_key(channel, ordinal))
        for index, row in changes.batches:
            batch.put(batch_key(channel, index), row.SerializeToString())
        for file in changes.files:
            batch.put(file_key(channel, file.ordinal), file.SerializeToString())
        for ordinal, start in changes.starts:
            batch.put(start_key(channel, ordinal), start.SerializeToString())
        if changes.checkpoint is not None:
            assert changes.checkpoint.channel == channel, (changes.checkpoint.channel, channel)
            batch.put(checkpoint_key(channel), changes.checkpoint.SerializeToString())

    def replace_members(self, members: Members) -> None:
        """Blocks. Make this the membership, durably; only for a stopped node."""
        batch = self._database.new_batch()
        batch.put(MEMBERS, members.SerializeToString())
        self._database.write(batch, sync=True)

    def sync(self) -> None:
        """Make durable all that was written before. Blocks; may run beside `write`."""
        self._database.sync()

    def begin_install(self, snapshot: Snapshot) -> None:
        """Blocks. Remember durably that this snapshot takes the place of log and state."""
        batch = self._database.new_batch()
        batch.put(INSTALLING, snapshot_to_pb(snapshot).SerializeToString())
        self._database.write(batch, sync=True)

    def installing(self) -> Snapshot | None:
        """The snapshot whose installation was begun and not finished."""
        message = self._message(raft_pb2.Snapshot, INSTALLING)
        return None if message is None else snapshot_from_pb(message)

    def finish_install(self, snapshot: Snapshot, *, state: RelayState, members: Members) -> None:
        """Blocks. Everything here is that of the snapshot from now on, durably, or nothing is.

        `state` is as of the snapshot's index, `members` as of its `conf_index`; with channels each
        state is of an index of its own.
        """
        assert state.index == snapshot.index or state.version > 2, (state.index, snapshot.index)
        batch = self._database.new_batch()
        for key in (batch_key, file_key, start_key):
            batch.delete_range(key(0, 0), key(CHANNEL_MAX, NUMBER_MAX))
        own = RelayState()
        own.CopyFrom(state)
        own.ClearField("others")
        for record in (own, *state.others):
            if record.HasField("file"):  # it was cut, so its start is in the snapshot
                file = file_key(record.channel, record.file.ordinal)
                batch.put(file, record.file.SerializeToString())
                kept = start_key(record.channel, record.file.ordinal)
                batch.put(kept, record.SerializeToString())
            if record is own and own.index != snapshot.index:
                own.applied = snapshot.index
            batch.put(checkpoint_key(record.channel), record.SerializeToString())
        batch.put(MEMBERS, members.SerializeToString())
        encoded = conf_state_to_pb(snapshot.conf_state).SerializeToString()
        batch.put(CONF_STATE, _INDEX.pack(members.index) + encoded)
        batch.put(APPLIED, _APPLIED.pack(snapshot.index, snapshot.term))
        batch.delete(INSTALLING)
        self._database.write(batch, sync=True)

    def start(self, channel: int, ordinal: int) -> RelayState | None:
        """What was kept of the state just before a file began."""
        return self._message(RelayState, start_key(channel, ordinal))

    def applied(self) -> int:
        """The index up to which everything here is; 0 in a new one."""
        return self.applied_with_term()[0]

    def applied_with_term(self) -> tuple[int, int]:
        """That index, and the term of its entry."""
        value = self._database.get(APPLIED)
        if value is None:
            return 0, 0
        index, term = _APPLIED.unpack(value)
        return index, term

    def checkpoint(self, channel: int = 0) -> RelayState | None:
        """The newest checkpoint; its own `index` says as of when."""
        return self._message(RelayState, checkpoint_key(channel))

    def members(self) -> Members | None:
        """The membership as last changed."""
        return self._message(Members, MEMBERS)

    def conf_state(self) -> tuple[int, ConfState] | None:
        """The Raft configuration, and the index of the change that made it."""
        value = self._database.get(CONF_STATE)
        if value is None:
            return None
        state = self._parse(raft_pb2.ConfState, CONF_STATE, value[_INDEX.size :])
        return _INDEX.unpack_from(value)[0], conf_state_from_pb(state)

    def batch_row(self, channel: int, index: int) -> BatchRow | None:
        """The row of the batch in the entry `index`, if there is one."""
        return self._message(BatchRow, batch_key(channel, index))

    def batch_rows(self, channel: int, first_index: int, limit: int) -> list[tuple[int, BatchRow]]:
        """Up to `limit` rows from `first_index` on, in the order of the log."""
        pairs = self._database.scan(
            batch_key(channel, first_index), batch_key(channel, NUMBER_MAX), limit=limit
        )
        return [(number_of(key), self._parse(BatchRow, key, value)) for key, value in pairs]

    def last_batch_row(self, channel: int, index: int) -> tuple[int, BatchRow] | None:
        """The newest row at or before `index`."""
        pair = self._database.last(batch_key(channel, 0), batch_key(channel, index))
        if pair is None:
            return None
        return number_of(pair[0]), self._parse(BatchRow, *pair)

    def file_rows(self, channel: int) -> list[FileRow]:
        """Every file, in order."""
        pairs = self._database.scan(
            file_key(channel, 0), file_key(channel, NUMBER_MAX), limit=FILES_MAX
        )
        return [self._parse(FileRow, key, value) for key, value in pairs]

    def _message(self, kind: type[_M], key: bytes) -> _M | None:
        value = self._database.get(key)
        return None if value is None else self._parse(kind, key, value)

    def _parse(self, kind: type[_M], key: bytes, value: bytes) -> _M:
        try:
            return kind.FromString(value)
        except DecodeError as error:
            raise CorruptRecordError(
                self._database.path, 0, f"key {key.hex()} holds no {kind.__name__}: {error}"
            ) from None
