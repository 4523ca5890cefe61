"""What a replica gets next: the decisions of a binlog dump, as values.

Owns where a dump starts, which of a file's events it sends and skips, the events that a source
makes up (ROTATE, heartbeats, a changed FORMAT_DESCRIPTION), and every refusal. Pure: rows, state
and events go in, events and packet ranges come out; `dump.py` performs them. Follows Binlog_sender
of the MySQL server, as observed on the wire.

Three things need care:

* A **skipped stretch**, of transactions that the replica has or of a gap that the relay does not
  hold, is told by one heartbeat with its end position, right before the next event that is sent,
  and at the end of the log.
* After a known transaction everything up to the next GTID is skipped with it, except a ROTATE:
  that is what a source does.
* **Names**: a stored ROTATE names the next file as the source does. Where clients see that file
  under another name the event is sent with that name. Its length changes with it, and so does its
  log_pos: where it begins in its file stays as stored.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from kingbus.binlog.artificial import (
    build_event,
    fake_rotate,
    format_description_for_dump,
    heartbeat_v1,
    heartbeat_v2,
)
from kingbus.binlog.checksum import CRC_BYTES
from kingbus.binlog.event_types import MARIADB_EVENT_TYPES_MIN, EventType
from kingbus.binlog.events import Rotate
from kingbus.binlog.gtid import (
    GtidSet,
    GtidsHad,
    GtidsLeftOut,
    MalformedGtidSetError,
    format_gtid,
)
from kingbus.binlog.header import FIRST_POSITION, BytesLike, EventHeader
from kingbus.binlog.mariadb import UNTIL_REACHED, decode_gtid_list, fake_gtid_list
from kingbus.binlog.mariadb_compat import replacement, types_to_change
from kingbus.binlog.mariadb_gtid import (
    MalformedPositionError,
    Position,
    Window,
    is_key,
    key_of,
    split_key,
)
from kingbus.binlog.relay_state import VisibleEnd
from kingbus.mysql import errors
from kingbus.mysql.errors import MySQLError
from kingbus.pb.command_pb2 import FileStart
from kingbus.pb.record_pb2 import BatchRow, FileRow
from kingbus.replication.served_batch import ServedBatch
from kingbus.replication.served_rows import Row, ServedState, gtids_of

HEARTBEAT_V2_TYPES: Final = 41
"""A FORMAT_DESCRIPTION that lists fewer event types does not know type 41, and neither does a
replica that has it in force."""

HEARTBEAT_V1_POSITION_MAX: Final = 0xFFFF_FFFF
"""Version 1 has 32 bits for the position."""
PHASE_BYTES_MIN: Final = 8 << 20
"""255 heartbeats are about 20 kB and a millisecond: that pays from a few MiB on that follow, and
is done at most once in so many."""

STARTING: Final = "Waiting to start"
WAITING_FOR_FIRST_FILE: Final = "Waiting for the first file of the source"
CATCHING_UP: Final = "Waiting for this node to catch up"
SENDING: Final = "Sending binlog event to replica"
FINISHED_FILE: Final = "Finished reading one binlog; switching to next binlog"
ALL_SENT: Final = "Source has sent all binlog to replica; waiting for more updates"
"""States as MySQL's SHOW PROCESSLIST words them, where it has such a state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpRequest:
    """What the client asked for, and what it said about itself before.

    `kind` is "position" or "gtid"; an empty `file_name` means the oldest file, or the one that the
    set decides. `checksum` is what the client announced to understand: "CRC32", "NONE" or None.
    `skip_tagged` is noted only: a source of today sends tagged transactions all the same. A MariaDB
    replica that follows GTIDs has a `Position` in the place of a set; of its own events a client
    gets those that `mariadb_capability` says, and ANNOTATE_ROWS if it `wants_annotations`. It may
    want to get `until` a position only, and may be `strict`: that its own must be there exactly.
    """

    kind: str
    file_name: str = ""
    position: int = FIRST_POSITION
    gtid_set: GtidsHad | None = None
    non_blocking: bool = False
    heartbeat_v2_accepted: bool = False
    heartbeat_period_s: float | None = None
    checksum: str | None = None
    server_id: int = 0
    replica_uuid: str = ""
    skip_tagged: bool = False
    mariadb_capability: int = 0
    wants_annotations: bool = False
    until: Position | None = None
    strict: bool = False
    semi_sync: bool = False
    """Each event comes with semi-sync's two bytes; now and then an acknowledgement is wanted."""

    def __post_init__(self) -> None:
        assert self.kind in {"position", "gtid"}
        assert (self.gtid_set is not None) == (self.kind == "gtid")
        assert self.checksum in {"CRC32", "NONE", None}
        assert self.until is None or isinstance(self.gtid_set, Position)


@dataclass(slots=True, kw_only=True)
class DumpProgress:
    """How far a dump is, for status pages; written by the dump alone.

    `file_bytes_sent` counts those of `bytes_sent` that this process never had in memory.
    `next_sequence` is the sequence number of the next packet, so that whoever ends the stream can
    go on with it. `last_send_time` is on trio's clock. While it `is_outside_log` it keeps no file
    of the log's room taken.
    """

    state: str = STARTING
    file: str = ""
    position: int = 0
    bytes_sent: int = 0
    file_bytes_sent: int = 0
    last_send_time: float | None = None
    last_event_time: int = 0
    next_sequence: int = 1
    last_transaction: tuple[bytes, str, int] | None = None
    is_outside_log: bool = False

    @property
    def last_gtid(self) -> str:
        """The last transaction of which something was sent, "" when it has no GTID."""
        if self.last_transaction is None or not self.last_transaction[0]:
            return ""
        return format_gtid(*self.last_transaction)


class DumpRefusedError(MySQLError):
    """The dump ends with this error, before its first event or in the stream."""


def refused(error: MySQLError) -> DumpRefusedError:
    """The same error as the end of a dump."""
    return DumpRefusedError(error.code, error.sqlstate, error.message)


def decode_gtid_set(encoded: BytesLike) -> GtidSet:
    """The set of a dump command; raises DumpRefusedError (1773) when it is none."""
    try:
        return GtidSet.decode(encoded)
    except MalformedGtidSetError:
        raise refused(errors.malformed_gtid_encoding()) from None


def parse_position(text: str) -> Position:
    """The position of a MariaDB replica; raises DumpRefusedError when it is none."""
    try:
        return Position.parse(text)
    except MalformedPositionError as error:
        raise refused(errors.fatal_dump_error(f"Failed to load replica state: {error}")) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """There is no file yet: nothing is sent until there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """The client knows more than this node, which may only lag: that is found out first."""

    refusal: DumpRefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Start in this file, at this position."""

    file: FileRow
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An event that is in no file, or not in this form."""

    event: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Packets `first` to `last` - 1 of the batch at hand, as they are stored."""

    first: int
    last: int


Piece = Made | Stored


class DumpSession:
    """One dump. `start` until it gives `Begin`, then `open`, then rows in the log's order."""

    def __init__(self, request: DumpRequest, *, server_id: int) -> None:
        self._request = request
        self._server_id = server_id
        self._excluded: GtidsLeftOut | None = request.gtid_set
        self._reached: dict[int, int] = {}  # of MariaDB's domains, by what was sent or left out
        if isinstance(request.gtid_set, Position) and request.until is not None:
            self._excluded = Window(request.gtid_set, request.until)
            ends = request.gtid_set.last
            self._reached = {domain: number for domain, (_, number) in ends.items()}
        self._first_file = ""  # for error texts
        self._first_position = 0
        # In force for the client: what the last FORMAT_DESCRIPTION said.
        self._crc = request.checksum == "CRC32"
        self._event_types = 0
        self._is_mariadb = False  # the file
        self._adapts = False  # it may have events that this client gets otherwise, or not at all
        self._has_position = isinstance(request.gtid_set, Position)
        # Where the client believes to be: the last ROTATE's file and the last position told.
        self.file_name = ""
        self._has_rotated = False
        # Where the dump is in the relay's log.
        self.file = 0
        self.position = 0
        self._skipping = False
        self._owes_heartbeat = False
        self._to_change = types_to_change(
            request.mariadb_capability, annotate=request.wants_annotations
        )
        self._leaves_out = False  # the event that goes on in the next row
        self._phased = 0, 0  # file and position of the last heartbeats for the numbers' sake
        self._looked_at: Row | None = None
        self._met = False  # by the row that was looked at

    # -- where to start ---------------------------------------------------------------------

    def start(self, state: ServedState, *, caught_up: bool = False) -> Begin | Behind | Hold:
        """Where to begin; `caught_up` says that this node has what the cluster has.

        Raises DumpRefusedError.
        """
        if not state.files:
            return Hold()
        try:
            return self._start(state)
        except _PerhapsBehindError as behind:
            if caught_up:
                raise behind.refusal from None
            return Behind(refusal=behind.refusal)

    def _start(self, state: ServedState) -> Begin:
        request = self._request
        file: FileRow | None = state.files[0]
        if request.file_name:
            file = state.file_named(request.file_name)
        elif request.gtid_set is not None:
            self._check_set(state, request.gtid_set)
            file = state.file_before(request.gtid_set)
        if file is None:
            raise _PerhapsBehindError(errors.unknown_dump_file())
        if request.position < FIRST_POSITION:
            raise refused(errors.position_before_first_event())
        if file.cut_position > request.position:
            if request.gtid_set is None:
                raise refused(errors.unknown_dump_file())  # what comes first is purged
            return Begin(file=file, position=file.cut_position)
        if request.position > file.end_position:
            error = errors.position_past_end()
            raise refused(error) if file.closed else _PerhapsBehindError(error)
        for gap in file.gaps:
            if gap.start < request.position < gap.end:
                raise refused(position_in_gap(file, request.position, gap.start, gap.end))
        return Begin(file=file, position=request.position)

    def _check_set(self, state: ServedState, gtids: GtidsHad) -> None:
        """Whether the replica is ahead of, or too far behind, what is held.

        It sends all uuids that it knows, its own included; only those that were a source of this
        log say something about it.
        """
        if isinstance(gtids, Position):
            self._check_position(state, gtids)
            return
        config = state.source_config
        if config is not None and config.mode == "position":
            raise refused(errors.gtid_mode_not_on("OFF"))  # the listener says it with the mode
        extra = gtids.only(source_uuids(state)).subtract(state.executed)
        if extra:
            raise _PerhapsBehindError(errors.replica_has_more(str(extra)))
        missing = state.purged.subtract(gtids)
        if missing:
            raise refused(errors.purged_required(str(gtids), str(missing)))

    def _check_position(self, state: ServedState, position: Position) -> None:
        """The same for MariaDB's replicas: is their position one of this log's, and still there?

        A domain of which the log knows nothing is another source's.
        """
        ends, purged = Position.of(state.executed).last, Position.of(state.purged)
        if not position.covers(purged):
            raise refused(errors.mariadb_state_purged())
        written = {uuid: last for uuid, _, _, last in state.executed.runs()}
        for domain, (server, sequence) in sorted(position.last.items()):
            if domain not in ends or purged.last.get(domain) == (server, sequence):
                continue
            if state.executed.contains_gtid(key_of(domain, server), "", sequence):
                continue
            gtid = f"{domain}-{server}-{sequence}"
            if sequence <= written.get(key_of(domain, server), 0):
                # The log has numbers before and behind it, and not this one.
                if self._request.strict:
                    raise refused(errors.mariadb_missing(gtid))
                continue
            if sequence <= ends[domain][1]:
                raise refused(errors.mariadb_diverged(gtid))
            raise _PerhapsBehindError(errors.mariadb_not_in_log(gtid))

    # -- files ------------------------------------------------------------------------------

    def open(self, begin: Begin, format_description: BytesLike) -> list[Made]:
        """The first events; FORMAT_DESCRIPTION is among them only when the dump starts behind it.

        `format_description` is the file's, as stored.
        """
        file, position = begin.file, begin.position
        self._first_file, self._first_position = file.served_name, position
        self.file, self.position = file.ordinal, position
        events = [self._rotate_to(file, position)]
        self._describe(file.start)
        if position == FIRST_POSITION:
            return events
        stored_log_pos = EventHeader.decode(format_description).log_pos
        described = format_description_for_dump(
            format_description,
            from_start=False,
            # Only a dump by position must not move the replica's position with this event.
            log_pos=0 if self._excluded is None or file.cut_position else stored_log_pos,
        )
        return [*events, Made(event=described)]

    def enter(self, file: FileRow, *, left: FileRow) -> list[Made]:
        """The dump goes on in the next file; first what is still to be told of the one `left`."""
        assert (left.ordinal, file.ordinal) == (self.file, self.file + 1)
        events = self._end_in(left.end_position)
        self.file, self.position = file.ordinal, FIRST_POSITION
        self._skipping = False
        events.append(self._rotate_to(file, FIRST_POSITION))
        self._describe(file.start)
        return events

    def checksum_refusal(self, file: FileRow, description_bytes: int) -> DumpRefusedError | None:
        """What follows the ROTATE to this file instead of its FORMAT_DESCRIPTION, if anything.

        A client that never spoke of checksums would take them for the ends of events.
        """
        if self._request.checksum is not None or not file.start.checksum_algorithm:
            return None
        end = FIRST_POSITION + description_bytes
        return refused(errors.checksum_not_understood(file.served_name, self._first_position, end))

    def inside_event(self) -> DumpRefusedError:
        """The position asked for is not where an event begins."""
        return refused(
            errors.position_inside_event(
                self._first_file, self._first_position, self._first_position
            )
        )

    def purged(self) -> DumpRefusedError:
        """The file that is being sent was purged under the dump."""
        return refused(
            errors.next_log_not_found(
                self._first_file, self._first_position, self.file_name, self.position
            )
        )

    def _rotate_to(self, file: FileRow, position: int) -> Made:
        self.file_name = file.served_name
        self._has_rotated = False
        event = fake_rotate(file.served_name, position, server_id=self._server_id, crc=self._crc)
        return Made(event=event)

    def _describe(self, start: FileStart) -> None:
        self._crc = bool(start.checksum_algorithm)
        self._event_types = start.event_types
        self._is_mariadb = self._event_types >= MARIADB_EVENT_TYPES_MIN
        self._adapts = self._is_mariadb and bool(self._to_change.any())

    # -- rows -------------------------------------------------------------------------------

    def skips(self, row: Row, first: int, file: FileRow) -> bool:
        """Whether nothing of the row, from packet `first` on, is to be sent.

        Then it is passed over without its packets being read. The last row of a file is always
        looked at: a ROTATE may end it.
        """
        if self._excluded is None or row.index >= file.last_index:
            return False
        if not self._skipping and (first or row.row.first_transaction):
            return False
        gtids = gtids_of(row.row.gtids)
        if gtids:
            if not self._meets(row) or not self._excluded.contains(gtids):
                return False
        elif row.row.first_transaction < row.row.packets:
            return False  # anonymous transactions: in no set
        self._join(row.row, first, file)
        self._skipping = True
        self._owes_heartbeat = True
        self.position = row.row.end_position
        return True

    def pieces(
        self, row: Row, batch: ServedBatch, first: int, file: FileRow, state: ServedState
    ) -> list[Piece]:
        """What of the row, from packet `first` on, is sent, in order."""
        last = row.row.packets
        assert 0 <= first < last <= batch.count
        assert row.row.file == self.file
        self._join(row.row, first, file)
        pieces: list[Piece] = []
        for start, end, send in self._spans(row, batch, first, last):
            if not send:
                self._skipping = self._owes_heartbeat = True
                continue
            self._skipping = False
            if self._owes_heartbeat:
                self.position = batch.position_of(start)
                pieces += self.end_of_stretch()
            pieces.append(Stored(first=start, last=end))
        self.position = row.row.end_position
        if batch.event_type(last - 1) == EventType.ROTATE:
            self._pass_rotate(pieces, batch, last - 1, file, state)
        if isinstance(self._request.gtid_set, Position) and not first:
            pieces = self._with_description(pieces, batch, self._request.gtid_set)
        return self._adapted(pieces, batch) if self._adapts else pieces

    def _with_description(
        self, pieces: list[Piece], batch: ServedBatch, had: Position
    ) -> list[Piece]:
        """Where a file begins before the position its description says nothing of a restart.

        A MariaDB replica would drop temporary tables that what it had already made.
        """
        head = pieces[0] if pieces else None
        if not isinstance(head, Stored) or head.first or batch.count < 2:
            return pieces
        kinds = (batch.event_type(0), batch.event_type(1))
        if kinds != (EventType.FORMAT_DESCRIPTION, EventType.GTID_LIST):
            return pieces
        crc_bytes = CRC_BYTES if self._crc else 0
        if Position.of(decode_gtid_list(batch.event(1), crc_bytes=crc_bytes)).covers(had):
            return pieces
        description = batch.event(0)
        log_pos = EventHeader.decode(description).log_pos
        made = format_description_for_dump(description, from_start=False, log_pos=log_pos)
        rest = [Stored(first=1, last=head.last)] if head.last > 1 else []
        return [Made(event=made), *rest, *pieces[1:]]

    def _adapted(self, pieces: list[Piece], batch: ServedBatch) -> list[Piece]:
        """The same pieces, with every event replaced or left out that the client does not know.

        One of 16 MiB and more, which only an ANNOTATE_ROWS can be, is left out in any case: that
        is a comment, and no client counts bytes any more where positions are in the events.
        """
        packets = np.flatnonzero(self._to_change[batch.event_types] & batch.begins_event)
        held = 0  # the packets before this one are of an event that is left out
        if self._leaves_out:
            held = batch.behind_event(-1)
            self._leaves_out = batch.goes_on_behind(held - 1)
        adapted: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Made):
                adapted.append(piece)
                continue
            first = max(piece.first, held)
            begin, end = np.searchsorted(packets, (first, piece.last))
            for packet in packets[begin:end].tolist():
                if first < packet:
                    adapted.append(Stored(first=first, last=packet))
                if batch.goes_on_behind(packet):
                    first = batch.behind_event(packet)
                    self._leaves_out = batch.goes_on_behind(first - 1)
                    continue
                event = replacement(
                    batch.event(packet), self._request.mariadb_capability, crc=self._crc
                )
                if event is not None:
                    adapted.append(Made(event=event))
                first = packet + 1
            if first < piece.last:
                adapted.append(Stored(first=first, last=piece.last))
        return adapted

    def is_whole(self, row: Row, first: int, file: FileRow) -> bool:
        """Whether all of the row, none of it passed yet, goes out as it is stored.

        Then its packets need not be looked at, and who sends them without calls `pass_whole`. The
        last row of a file is always looked at, as in `skips`.
        """
        each = row.row
        if first or not each.HasField("first_sequence") or row.index >= file.last_index:
            return False
        if self._adapts:
            return False
        if self._has_position and each.start_position == FIRST_POSITION:
            return False
        if self._skipping or self._owes_heartbeat or each.start_position != self.position:
            return False
        return not self._meets(row)

    def _meets(self, row: Row) -> bool:
        """Whether some of the row's transactions may not be sent; asked again for the same row."""
        if self._looked_at is not row:
            self._looked_at = row
            excluded = self._excluded
            self._met = excluded is not None and excluded.meets(gtids_of(row.row.gtids))
        return self._met

    def pass_whole(self, row: Row) -> None:
        """All of the row is sent."""
        self.position = row.row.end_position

    def beats_to_phase(self, row: Row, file: FileRow, sequence: int) -> int:
        """Heartbeats behind which the packets of a whole row bear the numbers that are next.

        `sequence` is the number of the next packet. 0: there is no need, or it may not be. A
        heartbeat tells a replica what it knows, so they are sent where it expects any, and nothing
        is done where too little is left of the file for that to pay.
        """
        missing = (row.row.first_sequence - sequence) & 0xFF
        asked_for = bool(self._request.heartbeat_period_s)
        told_whole = self._beats_v2 or file.end_position <= HEARTBEAT_V1_POSITION_MAX
        if not (missing and asked_for and told_whole):
            return 0
        if self.position == FIRST_POSITION or file.end_position - self.position < PHASE_BYTES_MIN:
            return 0
        if self._phased[0] == self.file and self.position - self._phased[1] < PHASE_BYTES_MIN:
            return 0
        return missing

    def beats(self, count: int) -> list[Made]:
        """So many heartbeats before the next row, which begins outside any transaction."""
        self._phased = self.file, self.position
        return [self.heartbeat()] * count

    def pieces_with_beats(self, row: Row, batch: ServedBatch, count: int) -> list[Piece]:
        """All of a row, with so many heartbeats before the first transaction that begins in it."""
        last, end = row.row.packets, row.row.end_position
        starts = batch.transaction_packets
        if not count or not len(starts):
            self.position = end
            return [Stored(first=0, last=last)]
        start = int(starts[0])
        self.position = batch.position_of(start)
        beats = self.beats(count)
        self.position = end
        return [Stored(first=0, last=start), *beats, Stored(first=start, last=last)]

    def _spans(
        self, row: Row, batch: ServedBatch, first: int, last: int
    ) -> list[tuple[int, int, bool]]:
        excluded = self._excluded
        if excluded is None:
            return [(first, last, True)]
        follows = self._skipping and (first or row.row.first_transaction)
        if not follows and not self._meets(row):
            return [(first, last, True)]
        return batch.cut(first, last, excluded, skipping=self._skipping)

    def _pass_rotate(
        self,
        pieces: list[Piece],
        batch: ServedBatch,
        packet: int,
        file: FileRow,
        state: ServedState,
    ) -> None:
        """A ROTATE is sent even behind what is skipped, and with the name that clients see."""
        event = batch.event(packet)
        crc_bytes = CRC_BYTES if self._crc else 0
        rotate = Rotate.decode(event, crc_bytes=crc_bytes)
        served_name = state.served_name_of(file.epoch, rotate.file_name)
        is_sent = bool(pieces) and isinstance(pieces[-1], Stored) and pieces[-1].last > packet
        if is_sent:
            sent = pieces.pop()
            assert isinstance(sent, Stored)
            if sent.first < packet:
                pieces.append(Stored(first=sent.first, last=packet))
        elif self._owes_heartbeat:
            behind, self.position = self.position, batch.position_of(packet)
            pieces += self.end_of_stretch()
            self.position = behind
        if served_name == rotate.file_name:
            if pieces and isinstance(pieces[-1], Stored) and pieces[-1].last == packet:
                pieces[-1] = Stored(first=pieces[-1].first, last=packet + 1)
            else:
                pieces.append(Stored(first=packet, last=packet + 1))
        else:
            pieces.append(Made(event=renamed_rotate(event, served_name, crc=self._crc)))
        self._owes_heartbeat = False
        self.file_name = served_name
        self._has_rotated = True

    def _join(self, row: BatchRow, first: int, file: FileRow) -> None:
        """Only a gap that the relay state knows may be between what was passed and the row."""
        if first or row.start_position == self.position:
            return
        start, end = self.position, row.start_position
        known = any(gap.start <= start and end <= gap.end for gap in file.gaps)
        assert start < end and known, f"rows of {file.name} do not join: {start} to {end}"
        self.position = end
        self._owes_heartbeat = True

    @property
    def is_skipping(self) -> bool:
        """Between two events, of which the one before was not sent: a heartbeat may be."""
        return self._skipping

    # -- heartbeats -------------------------------------------------------------------------

    def at_end(self, visible: VisibleEnd) -> list[Made]:
        """What is told when everything visible was passed: where a skipped stretch ended."""
        return self._end_in(visible.position) if visible.file == self.file else []

    def _end_in(self, end_position: int) -> list[Made]:
        """Everything of the file was passed; it may end in a gap."""
        if end_position > self.position:
            self.position = end_position
            self._owes_heartbeat = True
        return self.end_of_stretch()

    def end_of_stretch(self) -> list[Made]:
        """A heartbeat if something was skipped since the last event, else nothing."""
        if not self._owes_heartbeat:
            return []
        self._owes_heartbeat = False
        if isinstance(self._request.gtid_set, Position) and not self._has_rotated:
            # Where a skipped stretch ends MariaDB says so, and what the replica has there.
            return [self._gtid_list(self._request.gtid_set)]
        return [self.heartbeat()] if self.may_beat else []

    def _gtid_list(self, position: Position, flags: int = 0) -> Made:
        event = fake_gtid_list(
            position, self.position, server_id=self._server_id, crc=self._crc, flags=flags
        )
        return Made(event=event)

    def note_passed(self, row: BatchRow) -> None:
        """For `last_of_all`: all of this row was sent or left out."""
        for uuid, _, _, last in gtids_of(row.gtids).runs():
            if is_key(uuid):
                domain, _ = split_key(uuid)
                self._reached[domain] = max(last, self._reached.get(domain, 0))

    def last_of_all(self) -> Made | None:
        """What ends the dump here: the replica has what it wanted to have.

        To be asked only where no transaction is open. Rows name those that begin in them, and the
        last one wanted may go on over any number of rows.
        """
        until = self._request.until
        if until is None:
            return None
        if any(self._reached.get(each, 0) < end for each, (_, end) in until.last.items()):
            return None
        return self._gtid_list(until, UNTIL_REACHED)

    @property
    def _beats_v2(self) -> bool:
        knows_v2 = self._event_types >= HEARTBEAT_V2_TYPES and not self._is_mariadb
        return self._request.heartbeat_v2_accepted and knows_v2

    @property
    def _told_position(self) -> int:
        return FIRST_POSITION if self._has_rotated else self.position

    @property
    def may_beat(self) -> bool:
        """Whether a heartbeat can say where the client is.

        The first kind has 32 bits for it, and what is left past 4 GiB looks to a replica as if the
        source had gone back, at which it stops for good. Silence only makes it connect again.
        """
        return self._beats_v2 or self._told_position <= HEARTBEAT_V1_POSITION_MAX

    def heartbeat(self) -> Made:
        """Where the client is, in the words of the last ROTATE; only while it `may_beat`."""
        position = self._told_position
        make = heartbeat_v2 if self._beats_v2 else heartbeat_v1
        return Made(event=make(self.file_name, position, server_id=self._server_id, crc=self._crc))


class _PerhapsBehindError(Exception):
    """Refused, unless this node only lags behind the cluster."""

    def __init__(self, error: MySQLError) -> None:
        super().__init__(str(error))
        self.refusal = refused(error)


def source_uuids(state: ServedState) -> set[bytes]:
    """The server uuids of all that are or were a source of this log."""
    found: set[bytes] = set()
    for text in state.source_uuids:
        digits = text.replace("-", "")
        if len(digits) == 32:
            found.add(bytes.fromhex(digits))
    return found


def position_in_gap(file: FileRow, position: int, start: int, end: int) -> MySQLError:
    """1236 for a position that lies in what the relay was never sent of a file."""
    return errors.fatal_dump_error(
        f"Client requested source to start replication from position {position} of "
        f"{file.served_name}, and this relay does not hold the file from {start} to {end}"
    )


def renamed_rotate(event: BytesLike, file_name: str, *, crc: bool) -> bytes:
    """A stored ROTATE with another file name, and an end that fits; the rest of it stays."""
    header = EventHeader.decode(event)
    rotate = Rotate.decode(event, crc_bytes=CRC_BYTES if crc else 0)
    name, old_name = (
        each.encode("utf-8", "surrogateescape") for each in (file_name, rotate.file_name)
    )
    return build_event(
        EventType.ROTATE,
        rotate.position.to_bytes(8, "little") + name,
        server_id=header.server_id,
        crc=crc,
        timestamp=header.timestamp,
        log_pos=header.log_pos + len(name) - len(old_name),
        flags=header.flags,
    )
