"""A batch in the making: what was read of a file since the last batch, and the meta about it.

Owns how an `EventBatch` is put together from runs of packets; knows nothing of sockets, of the
order in which a source sends things, or of what is proposed when. Positions are u64, counted from
the beginning of the file; packets are counted from the beginning of the batch.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kingbus.pb.command_pb2 import EventBatch, FileStart, GtidRun, LastTransaction


@dataclass(slots=True, kw_only=True)
class Run:
    """Consecutive transactions with consecutive numbers; an anonymous one has an empty uuid."""

    uuid: bytes
    tag: str
    first: int
    last: int


@dataclass(slots=True, kw_only=True)
class Visible:
    """Up to the last event of the batch after which no transaction was open."""

    packets: int = 0
    bytes: int = 0
    events: int = 0
    position: int = 0
    last_time: int = 0


@dataclass(slots=True)
class BatchBuilder:
    """Packets that follow each other in a file and in memory, not yet cut off as a batch."""

    start_position: int
    gap_before: int = 0
    begins_in_transaction: bool = False
    begins_in_event: bool = False
    file_start: FileStart | None = None
    packets: int = 0
    bytes: int = 0
    events: int = 0
    first_time: int = 0
    last_time: int = 0
    started: int = 0
    """Transactions that begin in it."""
    closed: int = 0
    """How many of those also end in it: all, or all but the last."""
    closes_transaction: bool = False
    last_transaction: LastTransaction | None = None
    visible: Visible = field(default_factory=Visible)
    runs: list[Run] = field(default_factory=list)
    _offsets: list[NDArray[np.uint32]] = field(default_factory=list)
    _transaction_packets: list[NDArray[np.uint32]] = field(default_factory=list)

    def add_packets(self, offsets: NDArray[np.int64], byte_count: int) -> None:
        """Packets at `offsets` from the batch's first byte, `byte_count` in all."""
        self._offsets.append(offsets.astype(np.uint32))
        self.packets += len(offsets)
        self.bytes += byte_count

    def add_times(self, first: int, last: int) -> None:
        self.first_time = self.first_time or first
        self.last_time = last or self.last_time

    def add_transactions(self, packets: NDArray[np.int64], runs: list[Run]) -> None:
        """Transactions that begin here: the packet of each, and their GTIDs."""
        self._transaction_packets.append(packets.astype(np.uint32))
        self.started += len(packets)
        for run in runs:
            last = self.runs[-1] if self.runs else None
            if (
                last is not None
                and (last.uuid, last.tag) == (run.uuid, run.tag)
                and last.last + 1 == run.first
            ):
                last.last = run.last
            else:
                self.runs.append(run)

    def close_carried(self) -> None:
        """The transaction that was open before the next packets ends in them.

        To be told before the transactions that begin in those packets are added.
        """
        if self.started > self.closed:
            self.closed += 1
        else:
            self.closes_transaction = True

    def mark_visible(self, *, packets: int, byte_count: int, events: int, position: int) -> None:
        """No transaction is open behind the first `packets` packets, up to `position`."""
        self.visible.packets = packets
        self.visible.bytes = byte_count
        self.visible.events = events
        self.visible.position = position

    def open_run(self) -> Run:
        """The GTID of the transaction that began here and goes on."""
        last = self.runs[-1]
        return Run(uuid=last.uuid, tag=last.tag, first=last.last, last=last.last)

    def closed_runs(self) -> list[Run]:
        """The GTIDs of the transactions that began here and ended here."""
        if self.started == self.closed:
            return self.runs
        last = self.runs[-1]
        if last.first == last.last:
            return self.runs[:-1]
        cut = Run(uuid=last.uuid, tag=last.tag, first=last.first, last=last.last - 1)
        return [*self.runs[:-1], cut]

    def describe(self, *, visible_only: bool) -> EventBatch:
        """The meta of the whole or of the visible part, but for file, session and end."""
        packets = self.visible.packets if visible_only else self.packets
        starts = self.closed if visible_only else self.started
        runs = self.closed_runs() if visible_only else self.runs
        return EventBatch(
            start_position=self.start_position,
            packet_offsets=_joined(self._offsets, packets),
            gtid_runs=[
                GtidRun(uuid=run.uuid, tag=run.tag, first=run.first, last=run.last) for run in runs
            ],
            transaction_packets=_joined(self._transaction_packets, starts),
            begins_in_transaction=self.begins_in_transaction,
            begins_in_event=self.begins_in_event,
            visible_packets=self.visible.packets,
            visible_position=self.visible.position if self.visible.packets else self.start_position,
            visible_transactions=self.closed,
            closes_transaction=self.closes_transaction,
            file_start=self.file_start,
            gap_before=self.gap_before,
            first_time=self.first_time,
            last_time=self.visible.last_time if visible_only else self.last_time,
            last_transaction=self.last_transaction,
        )


def _joined(parts: list[NDArray[np.uint32]], count: int) -> bytes:
    """The first `count` numbers, little-endian."""
    if not parts:
        return b""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole[:count].astype("<u4", copy=False).tobytes()
