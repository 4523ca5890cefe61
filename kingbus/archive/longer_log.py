"""The node's log with the archive's files set before it, for one dump.

Owns: which archived files go on without a gap to what the log holds, and reading them batch by
batch in the order of the log. It looks to a dump as the log itself does, so that whatever is sent
(ROTATE events, positions, what a replica has already) is decided in one place. Where a file is
held, the log is read. Must not know of sockets, nor of how a file got into the archive.

Reading goes forward; going back begins the file anew. A few batches are in memory, no file.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import takewhile
from typing import Final, TypeVar

from kingbus import metrics
from kingbus.archive.catalogue import ArchivedFile, Catalogue
from kingbus.archive.file_stream import (
    INDEX_BASE,
    FileStream,
    first_index,
    ordinal_at,
    served_row,
)
from kingbus.binlog.gtid import GtidSet, GtidsHad
from kingbus.binlog.header import FIRST_POSITION
from kingbus.binlog.relay_state import VisibleEnd
from kingbus.pb.command_pb2 import SourceConfig
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.served_batch import ServedBatch
from kingbus.replication.served_rows import (
    PurgedWhileReadingError,
    Readable,
    Row,
    ServedState,
)
from kingbus.replication.streams import PacketFile

ROWS_MIN: Final = 2
"""Given at least, where there are so many: a dump asks again for the one in which it stands."""

_T = TypeVar("_T")
_Batches = deque[tuple[Row, ServedBatch]]


class LongerState:
    """The relay state as if the archived files were still held. Always as of now."""

    def __init__(self, live: Callable[[], ServedState], catalogue: Catalogue) -> None:
        self._live = live
        self._catalogue = catalogue

    def archived(self) -> list[ArchivedFile]:
        """The archived files that go on without a gap to the first one held, oldest first."""
        held = self._live().files
        return list(self._catalogue.before(held[0]))[::-1] if held else []

    @property
    def files(self) -> Sequence[FileRow]:
        return [*(served_row(file.row) for file in self.archived()), *self._live().files]

    @property
    def executed(self) -> GtidSet:
        return self._live().executed

    @property
    def purged(self) -> GtidSet:
        """What is in neither."""
        archived = self.archived()
        return archived[0].before if archived else self._live().purged

    @property
    def visible(self) -> VisibleEnd:
        return self._live().visible

    @property
    def source_config(self) -> SourceConfig | None:
        return self._live().source_config

    @property
    def source_uuids(self) -> Sequence[str]:
        return self._live().source_uuids

    def file(self, ordinal: int) -> FileRow | None:
        row = self._live().file(ordinal)
        if row is not None:
            return row
        held, archived = self._live().files, self._catalogue.file(ordinal)
        is_before = bool(held) and ordinal < held[0].ordinal
        return served_row(archived.row) if archived is not None and is_before else None

    def file_named(self, served_name: str) -> FileRow | None:
        row = self._live().file_named(served_name)
        if row is not None:
            return row
        for file in self.archived():
            if file.row.served_name == served_name:
                return served_row(file.row)
        return None

    def file_before(self, gtids: GtidsHad) -> FileRow | None:
        row = self._live().file_before(gtids)
        if row is not None:
            return row
        earlier = list(takewhile(lambda file: gtids.contains(file.before), self.archived()))
        return served_row(earlier[-1].row) if earlier else None

    def served_name_of(self, epoch: int, name: str) -> str:
        # The live state would take the name of a file that it has purged for one used before.
        for file in self.archived():
            if (file.row.epoch, file.row.name) == (epoch, name):
                return file.row.served_name
        return self._live().served_name_of(epoch, name)


class LongerLog:
    """Implements `served_rows.Readable` for one dump."""

    def __init__(
        self,
        live: Readable,
        catalogue: Catalogue,
        *,
        refresh: Callable[[], Awaitable[None]],
        fetch: Callable[[ArchivedFile, int], Awaitable[bytes]],
        passed: Callable[[], None] = lambda: None,
    ) -> None:
        """`refresh` reads what is new in the catalogue, `fetch` gives a chunk of a file.

        Both have patience; what they raise ends the dump. `passed` is called once the dump has left
        the archive behind.
        """
        self._passed = passed
        self._live = live
        self._catalogue = catalogue
        self._refresh = refresh
        self._fetch = fetch
        self._state = LongerState(lambda: live.state, catalogue)
        self._file: ArchivedFile | None = None  # the one that is read
        self._stream: FileStream | None = None
        self._next_chunk = 0
        self._window: _Batches = deque()  # from where the dump stands on, of that file or before

    @property
    def state(self) -> LongerState:
        return self._state

    def reading(self) -> AbstractContextManager[None]:
        return self._live.reading()

    async def wait_beyond(self, visible: VisibleEnd) -> None:
        await self._live.wait_beyond(visible)

    def stored(self, row: Row) -> PacketFile | None:
        """Nothing of the archive lies in a segment."""
        return self._live.stored(row) if row.index < INDEX_BASE else None

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        return await self._live.in_thread(function)

    def _is_held(self, ordinal: int) -> bool:
        return self._live.state.file(ordinal) is not None

    # -- rows -------------------------------------------------------------------------------

    async def read_rows(self, after_index: int, limit: int) -> list[Row]:
        """As the log gives them; at the end of an archived file with the next one's.

        Raises PurgedWhileReadingError where a file is in neither, and when the log that was read
        already has been purged: its batches are not those that the archive gives.
        """
        index = after_index + 1
        if index < INDEX_BASE:
            held = self._live.state.files
            if not held or index < held[0].first_index:
                raise PurgedWhileReadingError("what was read of the log is purged")
            self._passed()
            return await self._live.read_rows(after_index, limit)
        if self._file is None:
            self._open_at(index)
        self._drop_before(index)
        while True:
            await self._fill()
            rows = [row for row, _ in self._window][:limit]
            if len(rows) >= ROWS_MIN:
                return rows
            following = await self._following()
            if following is not None:
                self._go_on_with(following)
                continue
            held_rows = await self._first_held(limit)
            if held_rows:
                return rows + held_rows

    async def _following(self) -> ArchivedFile | None:
        """The next file of the archive; None where the log holds it."""
        assert self._file is not None
        ordinal = self._file.row.ordinal + 1
        for fresh in (False, True):
            if self._is_held(ordinal):
                return None
            if fresh:
                await self._refresh()
            found = self._catalogue.file(ordinal)
            if found is not None and found.before == self._file.after:
                return found
        raise PurgedWhileReadingError(f"file {ordinal} is neither held nor in the archive")

    async def _first_held(self, limit: int) -> list[Row]:
        """The first rows of the log; none when they are purged this moment."""
        assert self._file is not None
        row = self._live.state.file(self._file.row.ordinal + 1)
        if row is None:
            return []
        rows = await self._live.read_rows(row.first_index - 1, limit)
        return rows if rows and rows[0].row.file == row.ordinal else []

    async def find_row(self, file: FileRow, position: int) -> Row | None:
        if self._is_held(file.ordinal):
            return await self._live.find_row(file, position)
        archived = self._catalogue.file(file.ordinal)
        if archived is None:
            return None
        self._open(archived)
        best: Row | None = None
        while True:
            for row, _ in self._window:
                begins_before = row.row.begins_in_event and row.row.start_position == position
                if row.row.start_position > position or (best is not None and begins_before):
                    return best
                best = row
                if position < row.row.end_position:
                    return best
            if best is not None:
                self._drop_before(best.index)
            if not await self._load():
                return best

    # -- batches ----------------------------------------------------------------------------

    async def read_batches(self, index: int, through: int) -> Mapping[int, ServedBatch]:
        if index < INDEX_BASE:
            return await self._live.read_batches(index, through)
        found = self._found(index)
        if found is None:
            assert index == first_index(ordinal_at(index)), "rows of the window are asked for"
            self._open_at(index)
            await self._fill()
            # It may be the last one, too, and then have the last index of the file.
            found = self._window[0][1]
        return {index: found}

    def _found(self, index: int) -> ServedBatch | None:
        return next((batch for row, batch in self._window if row.index == index), None)

    def _open_at(self, index: int) -> None:
        file = self._catalogue.file(ordinal_at(index))
        assert file is not None, "what was in the catalogue stays there"
        self._open(file)

    # -- the window -------------------------------------------------------------------------

    def _open(self, file: ArchivedFile) -> None:
        """Begins with a file, unless its beginning is in the window."""
        if self._window and _begins(self._window[0][0], file):
            return
        self._window.clear()
        self._go_on_with(file)

    def _go_on_with(self, file: ArchivedFile) -> None:
        config = self._live.state.source_config
        gtid_mode = config is None or config.mode != "position"
        stream = FileStream(file, gtid_mode=gtid_mode)
        self._file, self._stream, self._next_chunk = file, stream, 0

    async def _fill(self) -> None:
        """Sees to it that the window has enough, as far as the file goes."""
        while len(self._window) < ROWS_MIN and await self._load():
            pass

    def _drop_before(self, index: int) -> None:
        while self._window and self._window[0][0].index < index:
            self._window.popleft()

    async def _load(self) -> bool:
        """Reads on in the file; False at its end."""
        file, stream = self._file, self._stream
        assert file is not None
        if stream is None:
            return False
        if self._next_chunk < len(file.chunks):
            data = await self._fetch(file, self._next_chunk)
            metrics.ARCHIVE_READ_BYTES.inc(len(data))
            self._next_chunk += 1
            self._window += await self._live.in_thread(lambda: stream.feed(data))
        else:
            self._stream = None
            self._window += await self._live.in_thread(stream.finish)
        return True


def _begins(row: Row, file: ArchivedFile) -> bool:
    """Whether a file begins with this row."""
    return (row.row.file, row.row.start_position) == (file.row.ordinal, FIRST_POSITION)
