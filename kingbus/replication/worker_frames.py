"""What node and worker process say to each other, as values of either side and as messages.

Pure conversions, and `News`: what a worker has not been told yet of the state. Owns what a worker
gets to know; that has no verifier and no password in it, nor the cluster key, but what is derived
from it to open sealed segments, which a worker reads itself.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from kingbus.binlog.gtid import GtidSet, GtidsHad
from kingbus.binlog.mariadb_gtid import Position
from kingbus.binlog.relay_state import RelayState, VisibleEnd
from kingbus.pb import worker_pb2 as pb
from kingbus.pb.command_pb2 import FileStart
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.dump_session import DumpProgress, DumpRequest
from kingbus.replication.served_rows import Row
from kingbus.storage.at_rest import Keyring
from kingbus.storage.log import Place

VERSION: Final = 2
NEWS_ROWS_MAX: Final = 256
"""Rows told unasked: more are seconds of full load, and whoever lags so far asks."""


class RecentRelay(Protocol):
    """The part of `relay.Relay` that is told."""

    @property
    def state(self) -> RelayState: ...
    def recent_rows(self, after_index: int, limit: int) -> list[Row] | None: ...


class Locator(Protocol):
    """The part of the log store that is used; see `storage.log.LogStore`."""

    @property
    def keys(self) -> Keyring: ...
    def locate(self, indexes: Sequence[int], *, may_read: bool = False) -> list[Place] | None: ...


class News:
    """What is to be told to one worker, as differences to what was told before."""

    def __init__(self, relay: RecentRelay, log: Locator) -> None:
        self._relay = relay
        self._log = log
        self._state: RelayState | None = None
        self._visible = VisibleEnd()
        self._first = 0

    def __call__(self) -> pb.ToWorker | None:
        """What is untold, which counts as told from now on; None when that is nothing."""
        state = self._relay.state
        whole = state is not self._state
        visible = state.visible
        first = state.files[0].ordinal if state.files else 0
        if not whole and visible == self._visible and first == self._first:
            return None
        news = pb.State(
            whole=whole,
            first_file=first,
            visible_index=visible.index,
            visible_packets=visible.packets,
            visible_file=visible.file,
            visible_position=visible.position,
        )
        if whole:
            news.names.extend(state.names_given)
            news.name_epochs.extend(state.names_given.values())
            news.keys.extend(pb.Key(id=key.key_id, key=key.key) for key in self._log.keys)
        # The file that was the last one may have grown, or been closed; those before never change.
        known = 0 if whole else max(0, self._visible.file - first)
        news.files.extend(_told(row) for row in state.files[known:])
        if not whole:
            self._add_rows(news)
        self._state, self._visible, self._first = state, visible, first
        return pb.ToWorker(state=news)

    def _add_rows(self, news: pb.State) -> None:
        after = max(0, self._visible.index - 1)  # the last row may have grown
        rows = self._relay.recent_rows(after, NEWS_ROWS_MAX + 1)
        if not rows or len(rows) > NEWS_ROWS_MAX:
            return
        places = self._log.locate([row.index for row in rows])
        if places is not None:
            news.rows_after = after
            news.rows.extend(rows_out(rows))
            news.places.extend(places_out(places))


def _told(row: FileRow) -> FileRow:
    """A file without its GTID sets, which may be large and decide only where a dump starts."""
    start = FileStart(
        checksum_algorithm=row.start.checksum_algorithm, event_types=row.start.event_types
    )
    return FileRow(
        ordinal=row.ordinal,
        epoch=row.epoch,
        name=row.name,
        served_name=row.served_name,
        first_index=row.first_index,
        last_index=row.last_index,
        start_position=row.start_position,
        end_position=row.end_position,
        closed=row.closed,
        start=start,
        gaps=row.gaps,
        cut_position=row.cut_position,
        description=row.description,
    )


def rows_out(rows: Sequence[Row]) -> list[pb.Row]:
    """Rows as messages."""
    return [pb.Row(index=row.index, row=row.row) for row in rows]


def places_out(places: Sequence[Place]) -> list[pb.Place]:
    """Places as messages."""
    return [
        pb.Place(
            segment=place.segment,
            first=place.first,
            offset=place.offset,
            stop=place.stop,
            large=place.large,
            transformed=place.transformed,
        )
        for place in places
    ]


def begin_out(
    number: int,
    request: DumpRequest,
    *,
    file: int,
    position: int,
    next_sequence: int,
    server_id: int,
) -> pb.Begin:
    """A dump that begins in the file with this ordinal, at this position."""
    had = request.gtid_set
    return pb.Begin(
        dump=number,
        by_gtid=had is not None,
        gtid_set=had.encode() if isinstance(had, GtidSet) else b"",
        has_mariadb_position=isinstance(had, Position),
        mariadb_position=str(had) if isinstance(had, Position) else "",
        mariadb_capability=request.mariadb_capability,
        wants_annotations=request.wants_annotations,
        mariadb_until=str(request.until or ""),
        file_name=request.file_name,
        position=request.position,
        non_blocking=request.non_blocking,
        heartbeat_v2_accepted=request.heartbeat_v2_accepted,
        heartbeat_period=request.heartbeat_period_s or 0.0,
        checksum=request.checksum or "",
        server_id=request.server_id,
        replica_uuid=request.replica_uuid,
        begin_file=file,
        begin_position=position,
        next_sequence=next_sequence,
        own_server_id=server_id,
        semi_sync=request.semi_sync,
    )


def request_in(begin: pb.Begin) -> DumpRequest:
    """What the client asked for."""
    had: GtidsHad | None = None
    if begin.has_mariadb_position:
        had = Position.parse(begin.mariadb_position)
    elif begin.by_gtid:
        had = GtidSet.decode(begin.gtid_set)
    return DumpRequest(
        kind="gtid" if begin.by_gtid else "position",
        file_name=begin.file_name,
        position=begin.position,
        gtid_set=had,
        mariadb_capability=begin.mariadb_capability,
        wants_annotations=begin.wants_annotations,
        until=Position.parse(begin.mariadb_until) if begin.mariadb_until else None,
        non_blocking=begin.non_blocking,
        heartbeat_v2_accepted=begin.heartbeat_v2_accepted,
        heartbeat_period_s=begin.heartbeat_period or None,
        checksum=begin.checksum or None,
        server_id=begin.server_id,
        replica_uuid=begin.replica_uuid,
        semi_sync=begin.semi_sync,
    )


def progress_out(number: int, progress: DumpProgress) -> pb.DumpProgress:
    """How far a dump is."""
    uuid, tag, last = progress.last_transaction or (b"", "", 0)
    return pb.DumpProgress(
        dump=number,
        state=progress.state,
        file=progress.file,
        position=progress.position,
        bytes_sent=progress.bytes_sent,
        last_event_time=progress.last_event_time,
        next_sequence=progress.next_sequence,
        last_uuid=uuid,
        last_tag=tag,
        last_number=last,
        file_bytes_sent=progress.file_bytes_sent,
    )


def progress_in(message: pb.DumpProgress, progress: DumpProgress) -> None:
    """The same, into what the node shows."""
    progress.state = message.state
    progress.file = message.file
    progress.position = message.position
    progress.bytes_sent = message.bytes_sent
    progress.file_bytes_sent = message.file_bytes_sent
    progress.last_event_time = message.last_event_time
    progress.next_sequence = message.next_sequence
    progress.last_transaction = (
        (message.last_uuid, message.last_tag, message.last_number) if message.last_number else None
    )
