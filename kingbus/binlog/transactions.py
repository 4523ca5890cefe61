"""The transactions of a stream: which is open, what ended last, what was executed.

Owns the choice between the ways to find boundaries (`boundary.py`) and what is carried from one
run of events, and one batch, to the next. Knows nothing of packets or of where events lie.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kingbus.binlog import boundary
from kingbus.binlog.batch import BatchBuilder, Run
from kingbus.binlog.boundary import (
    Codes,
    Indexes,
    OpenTransaction,
    OutsideTransactionError,
    Phase,
    Split,
)
from kingbus.binlog.errors import AnonymousTransactionError, InconsistentTransactionError
from kingbus.binlog.gtid import GtidSet, format_gtid
from kingbus.binlog.mariadb_gtid import Position, is_key, split_key
from kingbus.pb.command_pb2 import LastTransaction

_NO_EVENTS: Indexes = np.zeros(0, dtype=np.int64)


@dataclass(slots=True, kw_only=True)
class _Start:
    """Where a transaction begins: position, and the CRC of its first event."""

    position: int
    crc: int


class Transactions:
    """See the module. `executed` is added to as batches are made."""

    __slots__ = (
        "_domain_ends",
        "_executed",
        "_gtid_mode",
        "_open_run",
        "_open_start",
        "has_lengths",
        "open",
    )

    def __init__(self, executed: GtidSet, *, gtid_mode: bool) -> None:
        self._executed = executed
        self._gtid_mode = gtid_mode
        ends = Position.of(executed).last
        self._domain_ends = {domain: sequence for domain, (_, sequence) in ends.items()}
        self.open: OpenTransaction | None = None
        self._open_start = _Start(position=0, crc=0)
        self._open_run: Run | None = None  # of the open one, when it began in a batch before
        self.has_lengths: bool | None = None
        """Whether the file's GTID events say how long their transactions are; None: none came."""

    @property
    def open_position(self) -> int:
        """Where the open transaction begins."""
        return self._open_start.position

    def begin_file(self) -> None:
        assert self.open is None
        self.has_lengths = None

    def note_lengths(self, lengths: Indexes, *, place: str) -> None:
        """Either all GTID events of a file say how long their transactions are, or none.

        Raises InconsistentTransactionError.
        """
        if not len(lengths):
            return
        if self.has_lengths is None:
            self.has_lengths = bool(lengths[0] > 0)
        if ((lengths > 0) != self.has_lengths).any():
            raise InconsistentTransactionError(
                f"only some GTID events say how long their transactions are, {place}"
            )

    def split(
        self, codes: Codes, ends: Indexes, lengths: Indexes, *, position: int, file: str
    ) -> Split:
        """Where transactions begin and end in a run of events; nothing is noted yet.

        Raises AnonymousTransactionError, InconsistentTransactionError.
        """
        try:
            if self.has_lengths:
                return boundary.split_by_length(
                    codes, ends, lengths, position=position, carried=self.open
                )
            if self._gtid_mode:
                return boundary.split_by_rules(codes, carried=self.open)
            return boundary.split_event_by_event(codes, carried=self.open)
        except OutsideTransactionError as error:
            begin = int(ends[error.event - 1]) if error.event else position
            if error.behind_transaction and self.has_lengths:
                raise InconsistentTransactionError(
                    f"a transaction goes on at position {begin} of {file}, "
                    "where it ends by its GTID event"
                ) from error
            raise AnonymousTransactionError(
                f"a transaction without a GTID at position {begin} of {file}"
            ) from error
        except InconsistentTransactionError as error:
            raise InconsistentTransactionError(
                f"{error}, in {file} between positions {position} and {ends[-1]}"
            ) from error

    def add(
        self,
        builder: BatchBuilder,
        split: Split,
        runs: list[Run],
        ends: Indexes,
        *,
        first_packet: int,
        position: int,
        crc_of: Callable[[int], int],
    ) -> None:
        """Notes what begins and ends in a run, of which each event is one packet."""
        start, final = self._open_start, -1
        if split.carried_stop >= 0:
            builder.close_carried()
            final = split.carried_stop - 1
        if len(split.starts):
            builder.add_transactions(split.starts + first_packet, runs)
        closed = len(split.stops)
        builder.closed += closed

        def start_of(transaction: int) -> _Start:
            event = int(split.starts[transaction])
            return _Start(position=int(ends[event - 1]) if event else position, crc=crc_of(event))

        if closed:
            start, final = start_of(closed - 1), int(split.stops[-1]) - 1
        if final >= 0:
            builder.last_transaction = _last(start, int(ends[final]), crc_of(final))
        if len(split.starts) > closed:
            self._open_start = start_of(closed)
        self.open = split.open

    def begin_large(
        self, builder: BatchBuilder, code: int, *, position: int, end: int, file: str
    ) -> Split:
        """Notes the first packet of an event of several, which is about to be added.

        Raises as `split` does.
        """
        codes = np.array([code], dtype=np.uint8)
        split = self.split(codes, np.array([end]), _NO_EVENTS, position=position, file=file)
        if len(split.starts):
            # Only without GTID events: the event is a transaction, or begins one.
            self.open = OpenTransaction(phase=Phase.BEFORE_STATEMENT)
            self._open_start = _Start(position=position, crc=0)
            run = Run(uuid=b"", tag="", first=1, last=1)
            builder.add_transactions(np.array([builder.packets]), [run])
        return split

    def end_large(self, builder: BatchBuilder, split: Split, *, end: int, crc: int) -> None:
        """Notes that the event is whole."""
        if len(split.starts):
            self._open_start.crc = crc
        if len(split.stops) or split.carried_stop >= 0:
            builder.close_carried()
            builder.last_transaction = _last(self._open_start, end, crc)
        self.open = split.open

    def count(self, builder: BatchBuilder, *, goes_on: bool, place: str) -> None:
        """Counts the transactions that end in a batch as executed; each may come only once.

        `goes_on`: the batch ends in the middle of one. Raises InconsistentTransactionError.
        """
        ended = builder.closed_runs()
        if builder.closes_transaction and self._open_run is not None:
            ended = [self._open_run, *ended]
        if goes_on and builder.started > builder.closed:
            self._open_run = builder.open_run()
        self._check_rises(ended, place=place)
        for run in ended:
            if not run.uuid:
                continue
            if self._executed.overlaps_run(run.uuid, run.tag, run.first, run.last):
                raise InconsistentTransactionError(
                    f"the source sends {format_gtid(run.uuid, run.tag, run.first)} or one up to "
                    f"number {run.last} again, {place}"
                )
            self._executed.add(run.uuid, run.tag, run.first, run.last)
            if is_key(run.uuid):
                self._domain_ends[split_key(run.uuid)[0]] = run.last

    def _check_rises(self, runs: list[Run], *, place: str) -> None:
        """In a domain of MariaDB's a position means all before it: so numbers have to rise."""
        ends: dict[int, int] = {}
        for run in runs:
            if not is_key(run.uuid):
                return
            domain, _ = split_key(run.uuid)
            end = ends.get(domain, self._domain_ends.get(domain, 0))
            if run.first <= end:
                raise InconsistentTransactionError(
                    f"the source sends {format_gtid(run.uuid, '', run.first)} behind number {end} "
                    f"of domain {domain}, {place}; set gtid_strict_mode=ON there"
                )
            ends[domain] = run.last


def _last(start: _Start, end: int, crc: int) -> LastTransaction:
    return LastTransaction(
        start_position=start.position,
        end_position=end,
        first_event_crc=start.crc,
        last_event_crc=crc,
    )
