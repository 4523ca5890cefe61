"""The events of a file as SHOW BINLOG EVENTS lists them, read from the applied log.

Owns: finding the event at a position, walking on from it, and describing each event in the words
of the server. Knows nothing of statements or connections. Follows the manual's "SHOW BINLOG EVENTS
Statement"; of what it does not decode it says only the type.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from kingbus.binlog.errors import MalformedEventError
from kingbus.binlog.event_types import ROWS_TYPES, EventType, name_of
from kingbus.binlog.events import (
    FormatDescription,
    Gtid,
    QueryHead,
    Rotate,
    decode_previous_gtids,
    query_text,
)
from kingbus.binlog.gtid import format_gtid
from kingbus.binlog.header import FIRST_POSITION, HEADER_BYTES, EventHeader
from kingbus.binlog.mariadb import STANDALONE, MariaDBGtid, decode_gtid_list
from kingbus.binlog.relay_state import RelayState
from kingbus.mysql.constants import PACKET_PAYLOAD_MAX
from kingbus.mysql.errors import show_binlog_events_failed
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.queries import BinlogEventRow
from kingbus.replication.served_batch import PACKET_HEADER, ServedBatch
from kingbus.replication.served_rows import Row

INFO_CHARS_MAX = 1024
"""Of a statement as much is shown; ten thousand rows of it are ten megabytes at most."""

ROWS_AT_ONCE = 64

_CRC_BYTES = 4
_TABLE_ID_BYTES = 6
_STATEMENT_ENDS = {0x01: "STMT_END_F"}
_ROW_FLAGS = {
    **_STATEMENT_ENDS,
    0x02: "NO_FOREIGN_KEY_CHECKS_F",
    0x04: "RELAXED_UNIQUE_CHECKS_F",
    0x10: "USE_SQL_FOREIGN_KEY_F",
    0x08: "COMPLETE_ROWS_F",
}
"""Flags of an event of rows. MySQL 9 shows all of them, older servers and MariaDB the first."""
_INTVARS = {1: "LAST_INSERT_ID", 2: "INSERT_ID"}
_WITHOUT_USE = 0x0008
"""A flag of a QUERY event: the schema does not matter to it."""

_OF_EVERY_FILE = {EventType.FORMAT_DESCRIPTION, EventType.PREVIOUS_GTIDS}

_NAMES = {
    EventType.FORMAT_DESCRIPTION: "Format_desc",
    EventType.PREVIOUS_GTIDS: "Previous_gtids",
    EventType.GTID: "Gtid",
    EventType.ANONYMOUS_GTID: "Anonymous_Gtid",
    EventType.GTID_TAGGED: "Gtid_tagged",
    EventType.GTID_MARIADB: "Gtid",
    EventType.WRITE_ROWS_V1: "Write_rows_v1",
    EventType.UPDATE_ROWS_V1: "Update_rows_v1",
    EventType.DELETE_ROWS_V1: "Delete_rows_v1",
    EventType.USER_VAR: "User var",
    EventType.RAND: "RAND",
    EventType.XA_PREPARE: "XA_prepare",
}
"""Where the server's name is not the number's name with one capital."""


class Log(Protocol):
    """What is read: `relay.Relay`."""

    @property
    def state(self) -> RelayState: ...
    async def read_rows(self, after_index: int, limit: int) -> list[Row]: ...
    async def find_row(self, file: FileRow, position: int) -> Row | None: ...
    async def read_batches(self, index: int, through: int) -> Mapping[int, ServedBatch]: ...


async def read_binlog_events(
    log: Log, file: str, position: int, offset: int, limit: int
) -> Sequence[BinlogEventRow] | None:
    """Up to `limit` visible events of a file, from the event at `position` on, after `offset` more.

    `file` is the name as served, "" the oldest. None for a file that is not held. Raises MySQLError
    1220 for a position where no event begins; as in MySQL, one near the file's begin is moved on to
    the next event.
    """
    state = log.state
    if file:
        row = state.file_named(file)
    else:
        row = state.files[0] if state.files else None
        if row is None:
            return []
    if row is None:
        return None
    position = max(position, FIRST_POSITION)
    walk = _Walk(row, offset=offset, limit=limit)
    if await _walk_from(log, row, position, walk):
        return walk.rows
    moved = await _moved_on(log, row, position)
    if moved != position and await _walk_from(log, row, moved, walk):
        return walk.rows
    raise show_binlog_events_failed(
        f"Error reading Log_event at position {position}: no event begins there"
    )


async def _walk_from(log: Log, row: FileRow, position: int, walk: "_Walk") -> bool:
    """Collect the rows; False where no event begins at the position, and it is not the end."""
    first = await log.find_row(row, position)
    if first is None:
        begins = max(row.start_position, row.cut_position)
        if position > begins:
            return False
        # A file that is held only from its middle on is shown from where it begins.
        position = begins
        first = await log.find_row(row, position)
        if first is None:
            return True
    rows = [first]
    while rows:
        for found in rows:
            if found.row.file != row.ordinal:
                return True
            batch = (await log.read_batches(found.index, found.index))[found.index]
            if walk.take(batch, found.row.packets, position):
                return True
            if not walk.found:
                # No event begins there, or the position is the end of the file.
                return position >= row.end_position
        rows = await log.read_rows(rows[-1].index, ROWS_AT_ONCE)
    return True


async def _moved_on(log: Log, row: FileRow, position: int) -> int:
    """Where MySQL goes on.

    Whatever the position, it first reads what every file begins with, and one event more.
    """
    first = await log.find_row(row, FIRST_POSITION)
    rows = [] if first is None else [first]
    while rows:
        for found in rows:
            if found.row.file != row.ordinal:
                return position
            batch = (await log.read_batches(found.index, found.index))[found.index]
            for packet in range(found.row.packets):
                type_ = batch.event_type(packet)
                if type_ < 0:
                    continue
                begin = batch.position_of(packet)
                if begin >= position:
                    return begin
                if type_ not in _OF_EVERY_FILE:
                    return max(position, begin + _header(batch, packet).size)
        rows = await log.read_rows(rows[-1].index, ROWS_AT_ONCE)
    return position


def _header(batch: ServedBatch, packet: int) -> EventHeader:
    begin = int(batch.offsets[packet]) + PACKET_HEADER + 1
    return EventHeader.decode(batch.packets[begin : begin + HEADER_BYTES])


class _Walk:
    """Collects the rows of one answer, batch by batch."""

    def __init__(self, file: FileRow, *, offset: int, limit: int) -> None:
        self.rows: list[BinlogEventRow] = []
        self.found = False
        self._file = file
        self._crc_bytes = _CRC_BYTES if file.start.checksum_algorithm else 0
        version = file.start.server_version
        self._row_flags = _ROW_FLAGS if version.startswith("9.") else _STATEMENT_ENDS
        self._offset = offset
        self._limit = limit

    def take(self, batch: ServedBatch, packets: int, position: int) -> bool:
        """Go through the first `packets` of a batch, from the event at `position` on.

        Whether that was enough.
        """
        start = 0
        if not self.found:
            at = batch.packet_at(position)
            if at is None or at >= packets:
                return False
            self.found, start = True, at
        for packet in range(start, packets):
            if len(self.rows) >= self._limit:
                return True
            if batch.event_type(packet) < 0:
                continue
            if self._offset:
                self._offset -= 1
            else:
                self.rows.append(self._row(batch, packet))
        return len(self.rows) >= self._limit

    def _row(self, batch: ServedBatch, packet: int) -> BinlogEventRow:
        begin = int(batch.offsets[packet]) + PACKET_HEADER + 1
        event = batch.packets[begin : int(batch.offsets[packet + 1])]
        header = _header(batch, packet)
        position = batch.position_of(packet)
        info = ""
        if len(event) + 1 < PACKET_PAYLOAD_MAX:
            # What cannot be read is shown without a description.
            with suppress(MalformedEventError, UnicodeDecodeError, IndexError):
                info = _info(event, header.type, self._crc_bytes, self._row_flags)
        return BinlogEventRow(
            file=self._file.served_name,
            position=position,
            event_type=_type_name(header.type),
            server_id=header.server_id,
            end_position=position + header.size,
            info=info[:INFO_CHARS_MAX],
        )


def _type_name(number: int) -> str:
    for type_, name in _NAMES.items():
        if number == type_:
            return name
    return name_of(number).capitalize()


def _info(event: memoryview, type_: int, crc_bytes: int, row_flags: Mapping[int, str]) -> str:
    match type_:
        case EventType.FORMAT_DESCRIPTION:
            return f"Server ver: {FormatDescription.decode(event).server_version}, Binlog ver: 4"
        case EventType.PREVIOUS_GTIDS:
            return str(decode_previous_gtids(event, crc_bytes=crc_bytes))
        case EventType.ROTATE:
            rotate = Rotate.decode(event, crc_bytes=crc_bytes)
            return f"{rotate.file_name};pos={rotate.position}"
        case EventType.ANONYMOUS_GTID:
            return "SET @@SESSION.GTID_NEXT= 'ANONYMOUS'"
        case EventType.GTID | EventType.GTID_TAGGED:
            gtid = Gtid.decode(event, crc_bytes=crc_bytes)
            text = format_gtid(gtid.uuid, gtid.tag, gtid.number)
            return f"SET @@SESSION.GTID_NEXT= '{text}'"
        case EventType.GTID_MARIADB:
            made = MariaDBGtid.decode(event)
            begin = "" if made.flags & STANDALONE else "BEGIN "
            return f"{begin}GTID {made.domain}-{made.server}-{made.sequence}"
        case EventType.GTID_LIST:
            return f"[{decode_gtid_list(event, crc_bytes=crc_bytes)}]"
        case EventType.BINLOG_CHECKPOINT:
            return bytes(event[HEADER_BYTES + 4 : len(event) - crc_bytes]).decode()
        case EventType.ANNOTATE_ROWS:
            return bytes(event[HEADER_BYTES : len(event) - crc_bytes]).decode(errors="replace")
        case EventType.QUERY:
            return _query_info(event, crc_bytes)
        case EventType.TABLE_MAP:
            return _table_info(event)
        case EventType.ROWS_QUERY:
            # The byte before it is a length that does not count where the text is longer.
            statement = bytes(event[HEADER_BYTES + 1 : len(event) - crc_bytes])
            return f"# {statement.decode('utf-8', errors='replace')}"
        case _ if type_ in ROWS_TYPES:
            flags = event[HEADER_BYTES + _TABLE_ID_BYTES]
            shown = [name for bit, name in row_flags.items() if flags & bit]
            return " ".join(
                [f"table_id: {_table_id(event)}", *(["flags:", *shown] if shown else [])]
            )
        case EventType.INTVAR:
            name = _INTVARS.get(event[HEADER_BYTES], "")
            return f"{name}={int.from_bytes(event[HEADER_BYTES + 1 : HEADER_BYTES + 9], 'little')}"
        case EventType.RAND:
            one = int.from_bytes(event[HEADER_BYTES : HEADER_BYTES + 8], "little")
            two = int.from_bytes(event[HEADER_BYTES + 8 : HEADER_BYTES + 16], "little")
            return f"rand_seed1={one},rand_seed2={two}"
        case EventType.XID:
            xid = int.from_bytes(event[HEADER_BYTES : HEADER_BYTES + 8], "little")
            return f"COMMIT /* xid={xid} */"
        case _:
            return ""


def _query_info(event: memoryview, crc_bytes: int) -> str:
    head = QueryHead.decode(event, crc_bytes=crc_bytes)
    text = query_text(event, crc_bytes=crc_bytes).decode("utf-8", errors="replace")
    if head.schema and not EventHeader.decode(event[:HEADER_BYTES]).flags & _WITHOUT_USE:
        schema = head.schema.decode("utf-8", errors="replace").replace("`", "``")
        text = f"use `{schema}`; {text}"
    return text if head.ddl_xid is None else f"{text} /* xid={head.ddl_xid} */"


def _table_info(event: memoryview) -> str:
    names = []
    at = HEADER_BYTES + _TABLE_ID_BYTES + 2
    for _ in ("schema", "table"):
        end = at + 1 + event[at]
        names.append(bytes(event[at + 1 : end]).decode("utf-8", errors="replace"))
        at = end + 1
    return f"table_id: {_table_id(event)} ({'.'.join(names)})"


def _table_id(event: memoryview) -> int:
    return int.from_bytes(event[HEADER_BYTES : HEADER_BYTES + _TABLE_ID_BYTES], "little")
