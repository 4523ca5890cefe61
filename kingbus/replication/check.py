"""Whether the database of a stopped node is what its log makes of it.

The log is applied once more, in memory, from the start that was kept of the first file, and every
row that comes of it is compared with the one stored; so is the whole relay state in the end. For
tools. Nothing is changed. Must not know how the stores were opened.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from kingbus.binlog.command import MalformedCommandError, decode
from kingbus.binlog.relay_state import STATE_VERSION, Changes, RelayState
from kingbus.pb.record_pb2 import BatchRow, FileRow
from kingbus.pb.record_pb2 import RelayState as StateRecord
from kingbus.raft.types import Entry, EntryType
from kingbus.storage.errors import StorageError

__all__ = ["StateDiffersError", "apply_entry", "check_state"]

READ_BYTES = 4 << 20
ROWS_READ = 1000


class StateDiffersError(StorageError):
    """The database says something else than the log."""

    hint = (
        "kingbus storage repair, or remove this member from the cluster and add it again with an"
        " empty data directory"
    )


class Database(Protocol):
    """The part of the state store that is read."""

    def applied(self) -> int: ...
    def checkpoint(self, channel: int = 0) -> StateRecord | None: ...
    def start(self, channel: int, ordinal: int) -> StateRecord | None: ...
    def file_rows(self, channel: int) -> list[FileRow]: ...
    def batch_rows(
        self, channel: int, first_index: int, limit: int
    ) -> list[tuple[int, BatchRow]]: ...


class Log(Protocol):
    """The part of the log that is read."""

    def first_index(self) -> int: ...
    def last_index(self) -> int: ...
    def read(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]: ...


def check_state(database: Database, log: Log) -> Iterator[tuple[int, int]]:
    """Compare; yields the index reached and the last one, after every few MiB. Blocks.

    Of each channel in turn, from the beginning again.

    StateDiffersError for the first difference; the stores' own errors where they cannot be read.
    """
    applied = database.applied()
    if applied > log.last_index() or applied + 1 < log.first_index():
        raise StateDiffersError(
            f"the database was applied up to {applied}, the log has {log.first_index()} to"
            f" {log.last_index()}"
        )
    cluster = database.checkpoint(0)
    numbers = [each.number for each in cluster.channels] if cluster is not None else []
    for channel in (0, *numbers):
        yield from _check_channel(database, log, channel, applied)


def _check_channel(
    database: Database, log: Log, channel: int, applied: int
) -> Iterator[tuple[int, int]]:
    record = database.checkpoint(channel)
    stored = RelayState(channel=channel)
    if record is not None:
        try:
            stored = RelayState.from_record(record, database.file_rows(channel))
        except AssertionError as error:
            raise StateDiffersError(f"the stored relay state contradicts itself: {error}") from None
    if stored.index > applied:
        if record is not None and record.version >= STATE_VERSION:
            return  # from a snapshot that was of a later index for this channel
        raise StateDiffersError(f"the checkpoint is of {stored.index}, applied was {applied}")
    yield from _compare(database, log, stored, _begin(database, log, stored), applied)


def _begin(database: Database, log: Log, stored: RelayState) -> RelayState | None:
    """The state from which the log can be applied again; None: nothing was kept of it."""
    if log.first_index() == 1:
        return RelayState(channel=stored.channel)
    if not stored.files:
        return None
    start = database.start(stored.channel, stored.files[0].ordinal)
    if start is None:
        raise StateDiffersError(f"no start is kept of {stored.files[0].served_name}")
    return RelayState.from_record(stored.at_start(start))


def _compare(
    database: Database, log: Log, stored: RelayState, again: RelayState | None, applied: int
) -> Iterator[tuple[int, int]]:
    if again is None:
        return
    # Rows of what was purged are gone, also where the log still has it.
    first = stored.files[0].first_index if stored.files else 0
    rows = _Rows(database, max(first, again.index + 1), stored.channel)
    while again.index < applied:
        for entry in log.read(again.index + 1, applied + 1, READ_BYTES):
            changes = apply_entry(again, entry)
            if changes is not None:
                rows.note(changes)
            if again.index == stored.index and again.digest() != stored.digest():
                raise StateDiffersError(
                    f"the stored relay state of index {stored.index} is not the log's"
                )
        rows.compare(again.visible.index)
        yield again.index, applied
    rows.compare(applied + 1)
    rows.end()


def apply_entry(state: RelayState, entry: Entry) -> Changes | None:
    """As every node applies it; None for an entry that says nothing to the relay state."""
    if entry.type is not EntryType.NORMAL or not entry.data:
        state.skip(entry.index)
        return None
    try:
        command, packets = decode(entry.data)
    except MalformedCommandError:
        state.skip(entry.index)
        return None
    return state.apply(entry.index, command, packet_bytes=len(packets))


class _Rows:
    """Rows that the log makes, until they can no longer change; then they are compared."""

    def __init__(self, database: Database, first: int, channel: int) -> None:
        self._database = database
        self._channel = channel
        self._made: dict[int, BatchRow] = {}
        self._next = first

    def note(self, changes: Changes) -> None:
        """What applying one entry made of the rows."""
        for index in changes.deleted_batches:
            self._made.pop(index, None)
        if changes.truncated_batch is not None:
            index, row = changes.truncated_batch
            self._made[index] = row
        if changes.batch_row is not None:
            self._made[changes.index] = changes.batch_row

    def compare(self, stop: int) -> None:
        """All below `stop` are final."""
        while self._next < stop:
            stored = self._database.batch_rows(self._channel, self._next, ROWS_READ)
            end = stored[-1][0] + 1 if len(stored) == ROWS_READ else stop
            end = min(end, stop)
            found = {index: row for index, row in stored if index < end}
            made = {index: row for index, row in self._made.items() if self._next <= index < end}
            for index in sorted(found.keys() | made.keys()):
                if found.get(index) != made.get(index):
                    raise StateDiffersError(
                        f"the database's row of the batch at index {index} is not the log's"
                    )
            for index in [index for index in self._made if index < end]:
                del self._made[index]
            self._next = end

    def end(self) -> None:
        """Nothing may be stored behind the last."""
        beyond = self._database.batch_rows(self._channel, self._next, 1)
        if beyond:
            raise StateDiffersError(f"the database has a row of index {beyond[0][0]}")
