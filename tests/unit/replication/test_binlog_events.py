"""SHOW BINLOG EVENTS shows the events of a file, wherever the batches of the log are cut."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog.command import encode
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.mysql.errors import MySQLError
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.binlog_events import read_binlog_events
from kingbus.replication.relay import Row
from kingbus.replication.served_batch import ServedBatch
from tests.support.relay_logs import (
    GTID,
    QUERY,
    UUID_A,
    XID,
    BinlogFile,
    Cutter,
    batch_command,
    gtids,
    packets_of,
    session_command,
)


class MemoryLog:
    """An applied log in memory: a real relay state, and rows and batches in dictionaries."""

    def __init__(self) -> None:
        self.state = RelayState()
        self._rows: dict[int, Row] = {}
        self._batches: dict[int, ServedBatch] = {}
        self.state.apply(1, session_command())
        self._cutter = Cutter(session=1, epoch=1)

    def append(self, file: BinlogFile, cuts: list[int]) -> None:
        """A whole file, in batches that end before these packets."""
        packets = packets_of(file.events)
        bounds = sorted({0, len(packets), *(cut % len(packets) for cut in cuts)})
        for start, end in pairwise(bounds):
            meta, raw = self._cutter.cut(file, packets[start:end])
            index = self.state.index + 1
            changes = self.state.apply(index, batch_command(meta), packet_bytes=len(raw))
            assert changes.accepted, changes.reason
            self._rows[index] = Row(index, changes.batch_row)
            self._batches[index] = ServedBatch(encode(batch_command(meta), raw))

    async def read_rows(self, after_index: int, limit: int) -> list[Row]:
        return [row for index, row in self._rows.items() if index > after_index][:limit]

    async def find_row(self, file: FileRow, position: int) -> Row | None:
        found = [
            row
            for row in self._rows.values()
            if row.row.file == file.ordinal and row.row.start_position <= position
        ]
        return found[-1] if found else None

    async def read_batches(self, index: int, through: int) -> Mapping[int, ServedBatch]:
        del through
        return {index: self._batches[index]}


def two_files() -> tuple[BinlogFile, BinlogFile]:
    first = BinlogFile("binlog.000001", UUID_A, GtidSet())
    for number in (1, 2, 3):
        first.transaction(number)
    first.rotate("binlog.000002")
    second = BinlogFile("binlog.000002", UUID_A, gtids("a:1-3"))
    second.transaction(4)
    return first, second


@given(st.lists(st.integers(0, 50), max_size=6))
def test_all_events_of_a_file_in_order(cuts: list[int]) -> None:
    """Names, places and sizes are the file's, however it was cut; the next file is not shown."""

    async def check() -> None:
        log = MemoryLog()
        first, second = two_files()
        log.append(first, cuts)
        log.append(second, cuts)
        rows = await read_binlog_events(log, "", 4, 0, 1000)

        assert [(row.position, row.end_position) for row in rows] == [
            (event.start, event.end) for event in first.events
        ]
        assert {row.file for row in rows} == {"binlog.000001"}
        from_third = await read_binlog_events(log, "binlog.000001", first.events[2].start, 1, 4)
        assert from_third == rows[3:7]

    trio.run(check)


async def test_what_is_said_of_each_event() -> None:
    """In the words of the server."""
    log = MemoryLog()
    first, second = two_files()
    log.append(first, [])
    log.append(second, [])
    shown = [
        (row.event_type, row.info) for row in await read_binlog_events(log, first.name, 4, 0, 6)
    ]
    uuid = str(gtids("a:1")).partition(":")[0]

    assert shown == [
        ("Format_desc", "Server ver: 9.7.4, Binlog ver: 4"),
        ("Previous_gtids", ""),
        ("Gtid", f"SET @@SESSION.GTID_NEXT= '{uuid}:1'"),
        ("Query", "BEGIN"),
        ("Write_rows", f"table_id: {0x010101010101} flags: STMT_END_F"),
        ("Xid", "COMMIT /* xid=1 */"),
    ]
    last = (await read_binlog_events(log, first.name, first.events[-1].start, 0, 6))[0]
    assert (last.event_type, last.info) == ("Rotate", "binlog.000002;pos=4")
    assert (await read_binlog_events(log, second.name, 4, 1, 1))[0].info == f"{uuid}:1-3"


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("9.7.4-2", " flags: STMT_END_F NO_FOREIGN_KEY_CHECKS_F USE_SQL_FOREIGN_KEY_F"),
        ("5.6.24-log", " flags: STMT_END_F"),
        ("10.11.18-MariaDB-log", " flags: STMT_END_F"),
    ],
)
async def test_what_is_said_of_statements_and_tables(version: str, flags: str) -> None:
    """The schema, unless it does not matter, and the number of a data definition; names; the text
    behind rows, and the flags of rows that the source's version shows."""
    log = MemoryLog()
    file = BinlogFile("binlog.000001", UUID_A, GtidSet(), version=version)
    inside = {"in_transaction": True}
    gtid = b"\x01" + UUID_A + (1).to_bytes(8, "little") + b"\x02" + bytes(16)
    file._add(GTID, gtid, gtid=(UUID_A, "", 1), **inside)
    variables = b"\x00" + bytes(4) + b"\x11" + (77).to_bytes(8, "little")
    head = bytes(8) + b"\x03" + bytes(2) + len(variables).to_bytes(2, "little")
    file._add(QUERY, head + variables + b"a`b\0CREATE TABLE t (a INT)", **inside)
    table = (9).to_bytes(6, "little") + b"\1\0" + b"\4shop\0" + b"\6orders\0" + b"\1\3\0\0"
    file._add(EventType.TABLE_MAP, table, **inside)
    file._add(EventType.ROWS_QUERY, b"\x08INSERT 1", **inside)
    for value in (0x13, 0):
        rows = (9).to_bytes(6, "little") + bytes((value,)) + bytes(3)
        file._add(EventType.UPDATE_ROWS, rows, **inside)
    file._add(XID, (1).to_bytes(8, "little"), ends=True, **inside)
    file.rotate("binlog.000002")
    log.append(file, [])
    shown = [row.info for row in await read_binlog_events(log, file.name, 4, 3, 5)]

    assert shown == [
        "use `a``b`; CREATE TABLE t (a INT) /* xid=77 */",
        "table_id: 9 (shop.orders)",
        "# INSERT 1",
        f"table_id: 9{flags}",
        "table_id: 9",
    ]


async def test_places_that_are_not_there() -> None:
    """An unknown file is told apart from a position inside an event, and from the end."""
    log = MemoryLog()
    assert await read_binlog_events(log, "", 4, 0, 10) == []
    first, second = two_files()
    log.append(first, [5])
    log.append(second, [])

    assert await read_binlog_events(log, "nosuch", 4, 0, 10) is None
    inside = first.events[3].start + 1
    with pytest.raises(MySQLError, match=f"at position {inside}: no event") as caught:
        await read_binlog_events(log, first.name, inside, 0, 10)
    assert caught.value.code == 1220
    assert await read_binlog_events(log, first.name, first.end, 0, 10) == []
    assert await read_binlog_events(log, first.name, 1 << 70, 0, 10) == []


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(0, 400))
def test_a_position_near_the_begin_is_moved_on(cuts: list[int], position: int) -> None:
    """From anywhere up to the end of the first event behind what every file begins with, the next
    event is the first one shown; behind that a position must be an event's, as MySQL has it."""

    async def check() -> None:
        log = MemoryLog()
        first, second = two_files()
        log.append(first, cuts)
        log.append(second, cuts)
        starts = [event.start for event in first.events]
        if position <= starts[3] or position in starts:
            rows = await read_binlog_events(log, first.name, position, 0, 1000)
            assert [row.position for row in rows] == [at for at in starts if at >= position]
        else:
            with pytest.raises(MySQLError, match="1220"):
                await read_binlog_events(log, first.name, position, 0, 10)

    assert 200 < two_files()[0].events[3].start < 300
    trio.run(check)
