"""What a member writes in its life, as a fixed list of steps, and what it must say afterwards.

The entries are those of a relay feed: sessions, files cut into batches, purges; with elections,
entries that a new leader replaces, moments of idleness and many rolls. `visible` tells, for every
commit index, which bytes of the source are to be served; it is computed from the source's files
and not by the relay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kingbus.binlog.command import encode
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.raft.types import Entry, EntryType, HardState
from tests.support.relay_logs import (
    UUID_A,
    BinlogFile,
    Cutter,
    Packet,
    batch_command,
    gtids,
    packets_of,
    session_command,
)

OWN = 1
PACKETS = 3
FILES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write of the log; durable when it returns."""

    entries: Sequence[Entry]
    hard_state: HardState


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Everything up to this index."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The log is cut where the machine needs it no more."""

    first_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Nothing happens for a second."""


Step = Write | Apply | Cut | Idle


@dataclass
class History:
    """See the module."""

    steps: list[Step] = field(default_factory=list)
    files: list[BinlogFile] = field(default_factory=list)
    visible: list[int] = field(default_factory=lambda: [0])
    """By index: how many events of all files together are visible then."""
    terms: dict[int, int] = field(default_factory=dict)
    """Of the entries as they are in the end."""

    @property
    def last(self) -> int:
        return len(self.visible) - 1

    def events(self) -> list[tuple[str, bytes]]:
        """All events of the source, with the names of their files, in order."""
        return [(file.name, event.data) for file in self.files for event in file.events]


class _Maker:
    def __init__(self, *, files: int, size: int) -> None:
        self.history = History()
        self.term = 1
        self.committed = 0
        self._waiting: list[Entry] = []
        self._events = 0
        self._pending = 0
        self._firsts: list[int] = []
        self._number = 0
        self._add(b"")
        for number in range(1, files + 1):
            self._file(number, size)
            self._between(number)
        self._flush(1)
        self.history.steps.append(Apply(index=self.committed))

    def _add(self, data: bytes, visible: int = 0) -> int:
        history = self.history
        index = len(history.visible)
        history.visible.append(history.visible[-1] + visible)
        history.terms[index] = self.term
        self._waiting.append(Entry(self.term, index, EntryType.NORMAL, data))
        if len(self._waiting) >= 1 + index % 4:
            self._flush()
        return index

    def _flush(self, lag: int = 2) -> None:
        """Write what waits; what is committed lags behind, as it does with a majority elsewhere."""
        steps, entries = self.history.steps, self._waiting
        if not entries:
            return
        self._waiting = []
        self.committed = max(self.committed, entries[-1].index - lag + 1)
        state = HardState(self.term, OWN, self.committed)
        steps.append(Write(entries=entries, hard_state=state))
        steps.append(Apply(index=self.committed))

    def _elected(self) -> None:
        """Entries of a leader that is deposed are replaced by those of the next one."""
        self._flush(1)
        base = len(self.history.visible)
        lost = [Entry(self.term, base + n, EntryType.NORMAL, b"lost" * 90) for n in range(3)]
        state = HardState(self.term, OWN, self.committed)
        self.history.steps.append(Write(entries=lost, hard_state=state))
        self.term += 1
        self._add(b"")
        self._flush(1)

    def _file(self, number: int, size: int) -> None:
        history = self.history
        if number % 3 == 1:
            session = self._add(encode(session_command(epoch=1)))
            self.cutter = Cutter(session=session, epoch=1)
        previous = f"a:1-{self._number}" if self._number else ""
        file = BinlogFile(f"binlog.{number:06d}", UUID_A, gtids(previous))
        for _ in range(4):
            self._number += 1
            file.transaction(self._number, (size, 30))
        file.rotate(f"binlog.{number + 1:06d}")
        history.files.append(file)
        first = 0
        for packets in _pieces(packets_of(file.events)):
            meta, raw = self.cutter.cut(file, packets)
            index = self._add(encode(batch_command(meta), raw), self._shown(packets))
            first = first or index
        self._firsts.append(first)

    def _shown(self, packets: Sequence[Packet]) -> int:
        """How many events become visible with these."""
        shown = 0
        for packet in packets:
            if not packet.is_last:
                continue
            self._pending += 1
            event = packet.event
            if event.ends or not event.in_transaction:
                shown += self._pending
                self._pending = 0
        return shown

    def _between(self, number: int) -> None:
        steps = self.history.steps
        match number % 4:
            case 1:
                self._flush(1)
                steps.append(Idle())
            case 2:
                self._elected()
                session = self._add(encode(session_command(epoch=1)))
                self.cutter = Cutter(session=session, epoch=1)
            case 0:
                first = self._firsts[number - 2]
                self._add(encode(Command(purge=Purge(first_index=first))))
                self._flush(1)
                steps.append(Apply(index=self.committed))
                steps.append(Cut(first_index=first))


def _pieces(packets: Sequence[Packet]) -> Iterator[Sequence[Packet]]:
    for at in range(0, len(packets), PACKETS):
        yield packets[at : at + PACKETS]


def made(*, files: int = FILES, size: int = 4000) -> History:
    """The history of that many files."""
    return _Maker(files=files, size=size).history
