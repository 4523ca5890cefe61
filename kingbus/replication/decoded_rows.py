"""The rows in row events, decoded for people by pymysqlreplication.

Owns: handing that library single events, without a connection, and what its values are as text.
Must not know where the events come from. Nothing of it is used where events are only passed on.
What the library cannot decode is said, event by event, and is no error of the whole.
"""

from typing import Any, Final

from pymysqlreplication.packet import BinLogPacketWrapper
from pymysqlreplication.row_event import (
    DeleteRowsEvent,
    PartialUpdateRowsEvent,
    TableMapEvent,
    UpdateRowsEvent,
    WriteRowsEvent,
)

from kingbus.binlog.event_types import ROWS_TYPES, EventType

ROWS_MAX: Final = 1000
"""Shown of one event; it may hold millions."""

_ROW_EVENTS: Final = (WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent, PartialUpdateRowsEvent)
_CHECKSUM: Final = 4

Decoded = list[dict[str, Any]]


class _NoConnection:
    """Stands for the connection from which the library wants to know character set and server."""

    charset = "utf8mb4"

    def _get_dbms(self) -> str:
        return "mysql"


class _Packet:
    """One event as the library reads packets: a zero byte, then the event."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def read(self, size: int) -> bytes:
        data = self._data[self._position : self._position + size]
        if len(data) < size:
            raise ValueError("the event is shorter than what it says to hold")
        self._position += size
        return data

    def advance(self, size: int) -> None:
        self._position += size

    def rewind(self, size: int = 0) -> None:
        self._position -= size


class RowDecoder:
    """Takes a file's events in order and keeps the table maps that row events refer to."""

    def __init__(self, *, crc: bool) -> None:
        self._crc = crc
        self._tables: dict[int, Any] = {}

    def decode(self, event: bytes) -> Decoded | None:
        """The changes of a row event; None for any other. `{"error": ...}` where it cannot be."""
        if event[4] == EventType.TRANSACTION_PAYLOAD:
            return [{"error": "the transaction is compressed; its rows are not decoded"}]
        try:
            found = self._wrapped(event).event
            if isinstance(found, _ROW_EVENTS):
                return _changes(found)
        except Exception as error:  # noqa: BLE001 - whatever a library raises for one event
            return [{"error": f"{type(error).__name__}: {error}"}]
        if event[4] in ROWS_TYPES:
            return [{"error": "the event that describes its table lies before the first one shown"}]
        return None

    def _wrapped(self, event: bytes) -> Any:
        # The library counts a checksum in everywhere it asks how much is left.
        raw = b"\0" + event + (b"" if self._crc else bytes(_CHECKSUM))
        return BinLogPacketWrapper(
            _Packet(raw),
            self._tables,
            _NoConnection(),
            (0, 0, 0),
            self._crc,
            frozenset({TableMapEvent, *_ROW_EVENTS}),
            None,
            None,
            None,
            None,
            False,
            False,
            False,
            True,
            False,
        )


def _changes(event: Any) -> Decoded:
    kind = {WriteRowsEvent: "insert", DeleteRowsEvent: "delete"}.get(type(event), "update")
    shown: Decoded = []
    for row in event.rows[:ROWS_MAX]:
        change: dict[str, Any] = {"change": kind, "schema": event.schema, "table": event.table}
        if kind == "update":
            change["before"] = _plain(row["before_values"])
            change["after"] = _plain(row["after_values"])
        else:
            change["values"] = _plain(row["values"])
        shown.append(change)
    if len(event.rows) > ROWS_MAX:
        shown.append({"error": f"{len(event.rows) - ROWS_MAX} more rows are not shown"})
    return shown


def _plain(value: Any) -> Any:
    """As JSON has it; bytes that are no text as hexadecimal digits."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                return f"0x{value.hex()}"
        case dict():
            return {str(_plain(key)): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case set() | frozenset():
            return sorted(str(_plain(each)) for each in value)
        case _:
            return str(value)  # times, decimals and the library's own
