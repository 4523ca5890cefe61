"""The applied log as a worker process sees it: told and asked over a channel, read from the files.

Owns the worker's copy of what a dump looks at, the questions under way, where entries lie, and the
batches that its dumps share. It must not know of databases or of Raft. The other half, which
answers, is `worker_pool`. What is asked is never older than the state that was told before it: the
node tells the one before it answers the other.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from kingbus.binlog.relay_state import RelayState, VisibleEnd
from kingbus.errors import KingbusError
from kingbus.pb.record_pb2 import FileRow
from kingbus.pb.worker_pb2 import Answer, Find, FromWorker, Place, Question, Rows, State
from kingbus.pb.worker_pb2 import Row as IndexedRow
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
)
from kingbus.replication.stored_packets import StoredPackets
from kingbus.replication.streams import PacketFile
from kingbus.storage.at_rest import Keyring, RestKey
from kingbus.storage.checked import CheckedEntries
from kingbus.storage.errors import CorruptRecordError, StorageError
from kingbus.storage.files import DescriptorPool, LocalFileSystem
from kingbus.storage.replay import EntryReader
from kingbus.storage.stored_entry import StoredEntry

PLACES_MAX: Final = 16384
"""Entries whose place is known: 64 dumps, each with the rows that it asks for at once."""


_T = TypeVar("_T")


class NodeAnswerError(KingbusError):
    """The node cannot answer; its log says why."""


class WorkerRelay:
    """Implements `served_rows.Readable`. `send` sends a frame to the node."""

    def __init__(self, directory: Path, send: Callable[[FromWorker], Awaitable[None]]) -> None:
        self.state = RelayState()
        self._directory = directory
        self._send = send
        self._files = LocalFileSystem()
        self._descriptors = DescriptorPool(self._files)
        self._opened: set[Path] = set()
        self._threads = trio.CapacityLimiter(READERS_MAX)
        self._recent = RecentRows(1)
        self._shared = SharedBatches(SHARED_BYTES)
        self._reading: dict[int, trio.Event] = {}
        self._places: OrderedDict[int, Place] = OrderedDict()
        self._keys = Keyring()
        self._checked = CheckedEntries()  # by this process; the node's word is not taken for it
        self._waiting = trio.lowlevel.ParkingLot()
        self._readers: set[trio.CancelScope] = set()
        self._asked: dict[int, _Asked] = {}
        self._last_number = 0

    # -- what the node says -------------------------------------------------------------------

    def told(self, news: State) -> None:
        """The state has become another one."""
        before = self.state.visible
        if news.whole:
            for scope in self._readers:
                scope.cancel()
            self.state = RelayState()
            self._shared = SharedBatches(SHARED_BYTES)
            self._places.clear()
            self._checked.clear()
            self._keys = Keyring(RestKey(key_id=key.id, key=key.key) for key in news.keys)
            self._recent = RecentRows(news.visible_index + 1)
        first = self.state.files[0].ordinal if self.state.files else 0
        rows = {row.ordinal: row for row in (*self.state.files, *news.files)}
        file = rows.get(news.visible_file)
        self.state.follow(
            names=dict(zip(news.names, news.name_epochs, strict=True)),
            files=news.files,
            first_file=news.first_file,
            visible=VisibleEnd(
                index=news.visible_index,
                packets=news.visible_packets,
                file=news.visible_file,
                file_name=file.name if file is not None else "",
                served_name=file.served_name if file is not None else "",
                position=news.visible_position,
            ),
        )
        if news.whole or first != news.first_file:
            self._give_up_descriptors()
            if self.state.files:
                self._checked.forget_before(self.state.files[0].first_index)
        self._take_rows(news, before)
        if self.state.visible != before:
            self._waiting.unpark_all()

    def _take_rows(self, news: State, before: VisibleEnd) -> None:
        """The newest rows, if they join those that are here: then nobody has to ask for them."""
        if not news.rows:
            if self.state.visible != before:
                self._recent = RecentRows(self.state.visible.index + 1)
            return
        if news.rows_after > before.index:
            self._recent = RecentRows(news.rows_after + 1)
        for row in news.rows:
            self._recent.put(row.index, row.row)
        self._remember(news.rows, news.places)

    def _give_up_descriptors(self) -> None:
        """A removed file keeps its room on the disk for as long as anybody has it open."""
        for path in self._opened:
            self._descriptors.drop(path)
        self._opened.clear()

    def answered(self, answer: Answer) -> None:
        """The node answers a question; who asked may be gone."""
        asked = self._asked.pop(answer.number, None)
        if asked is not None:
            asked.answer = answer
            asked.done.set()

    # -- asking -------------------------------------------------------------------------------

    async def _ask(self, question: Question) -> Answer:
        self._last_number += 1
        question.number = self._last_number
        asked = self._asked[question.number] = _Asked()
        try:
            await self._send(FromWorker(question=question))
            await asked.done.wait()
        finally:
            self._asked.pop(question.number, None)
        answer = asked.answer
        assert answer is not None
        if answer.installing:
            raise InstallingError("a snapshot is being installed")
        if answer.purged:
            raise PurgedWhileReadingError("what was asked for is purged")
        if answer.failure:
            raise NodeAnswerError(answer.failure)
        self._remember(answer.rows, answer.places)
        return answer

    def _remember(self, rows: Sequence[IndexedRow], places: Sequence[Place]) -> None:
        """Where the entries of these rows lie."""
        rest = iter(places)
        place = next(rest, None)
        for row in rows:
            while place is not None and row.index >= place.stop:
                place = next(rest, None)
            if place is None:
                return
            self._places[row.index] = place
            self._places.move_to_end(row.index)
        while len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)

    # -- served_rows.Readable -----------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """InstallingError as soon as the whole state becomes another one."""
        with trio.CancelScope() as scope:
            self._readers.add(scope)
            try:
                yield
            finally:
                self._readers.discard(scope)
        if scope.cancelled_caught:
            raise InstallingError("a snapshot was installed")

    async def wait_beyond(self, visible: VisibleEnd) -> None:
        """Until something is visible that was not visible as of `visible`."""
        while self.state.visible == visible:
            await self._waiting.park()
        await trio.lowlevel.checkpoint()

    async def read_rows(self, after_index: int, limit: int) -> list[Row]:
        """Up to `limit` rows behind `after_index`, none beyond the visible end.

        The node cut them there, and told that visible end before it gave them.
        """
        rows = self._recent.after(after_index, limit)
        if rows is None:
            answer = await self._ask(Question(rows=Rows(after_index=after_index, limit=limit)))
            rows = [Row(each.index, each.row) for each in answer.rows]
        else:
            await trio.lowlevel.checkpoint()
        return rows

    async def find_row(self, file: FileRow, position: int) -> Row | None:
        """The row of a file in which the event at `position` begins or, between two, would."""
        answer = await self._ask(Question(find=Find(file=file.ordinal, position=position)))
        return Row(answer.rows[0].index, answer.rows[0].row) if answer.rows else None

    async def read_batches(self, index: int, through: int) -> Mapping[int, ServedBatch]:
        """The batch of entry `index`, and with it what came along up to entry `through`."""
        while (batch := self._shared.get(index)) is None:
            if (reading := self._reading.get(index)) is not None:
                await reading.wait()
                continue
            return await self._read(index, through)
        await trio.lowlevel.checkpoint()
        return {index: batch}

    async def _read(self, index: int, through: int) -> Mapping[int, ServedBatch]:
        done = self._reading[index] = trio.Event()
        shared = self._shared
        try:
            if index not in self._places:
                answer = await self._ask(Question(place=index))
                self._places[index] = answer.places[0]
            places = self._run(index, through)
            self._opened.update(self._directory / place.segment for place, _, _ in places)
            entries = await trio.to_thread.run_sync(
                partial(self._read_places, places), limiter=self._threads
            )
        finally:
            del self._reading[index]
            done.set()
        self._checked.add(entries[0].index, entries[-1].index + 1)
        batches = {
            entry.index: ServedBatch(entry.data)
            for entry in entries
            if entry.type is EntryType.NORMAL and entry.data
        }
        for at, batch in batches.items():
            shared.put(at, batch)
        return batches

    def _run(self, index: int, through: int) -> list[tuple[Place, int, int]]:
        """The places from `index` on, as far as they are known and join, each with its part."""
        found: list[tuple[Place, int, int]] = []
        at, end = index, min(max(index, through) + 1, index + READ_ENTRIES)
        while at < end and (place := self._places.get(at)) is not None:
            stop = min(place.stop, end)
            found.append((place, at, stop))
            at = stop
        return found

    def _read_places(self, places: list[tuple[Place, int, int]]) -> list[Entry]:
        """In a thread."""
        reader = EntryReader(self._files, READ_BYTES, keys=self._keys)
        for place, lo, hi in places:
            if reader.full:
                break
            path = self._directory / place.segment
            try:
                with self._descriptors.use(path) as fd:
                    reader.read_run(
                        fd,
                        path,
                        offset=place.offset,
                        first=place.first,
                        lo=lo,
                        hi=hi,
                        large=place.large,
                    )
            except FileNotFoundError:
                raise PurgedWhileReadingError(f"{path.name} is removed") from None
            except OSError as error:
                raise StorageError(f"cannot read {path}: {error}") from error
        if not reader.entries:
            place, lo, _ = places[0]
            path = self._directory / place.segment
            raise CorruptRecordError(path, place.offset, f"no entry {lo} there")
        return reader.entries

    def stored(self, row: Row) -> PacketFile | None:
        """All packets of a row, to be sent from the log's file; None where they have to be read."""
        place = self._places.get(row.index)
        if place is None or place.transformed or row.index not in self._checked:
            return None
        path = self._directory / place.segment
        self._opened.add(path)
        entry = StoredEntry(
            files=self._files,
            descriptors=self._descriptors,
            path=path,
            first=place.first,
            offset=place.offset,
            index=row.index,
        )
        return StoredPackets(entry, row)

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """For what reads the log's files, as the reads here: a few at a time."""
        return await trio.to_thread.run_sync(function, limiter=self._threads)


class _Asked:
    """A question under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Answer | None = None
