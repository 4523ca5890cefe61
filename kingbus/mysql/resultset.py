"""Result sets: column definitions and rows.

Owns: `Column`, `ResultSet`, and their payloads with either ending (EOF packets, or one OK under
DEPRECATE_EOF), rows as text or, for prepared statements, in binary. Knows nothing of statements.
Follows the manual's "Text Resultset" and "Binary Protocol Resultset" pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kingbus.mysql.constants import (
    CHARSET_BINARY,
    CHARSET_UTF8MB4,
    ColumnFlag,
    ColumnType,
    ServerStatus,
)
from kingbus.mysql.messages import encode_eof, encode_result_end
from kingbus.mysql.wire import Writer

_NO_FLAGS = ColumnFlag(0)
_TEXTS = {ColumnType.VAR_STRING, ColumnType.STRING, ColumnType.LONG_BLOB}
_WIDTHS = {ColumnType.LONG: 4, ColumnType.LONGLONG: 8}
"""Bytes of a number in a binary row."""

_DIGITS = {
    ColumnType.LONG: 11,
    ColumnType.NULL: 0,
    ColumnType.LONGLONG: 21,
    ColumnType.DATETIME: 26,
}
"""How wide a number or a time is shown, as servers say it."""

Value = str | int | None
"""One cell. NULL is None: never answer one where a replica expects a value, it crashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its name, type and what clients show it as.

    `length` is bytes, of text only; `flags` are those besides BINARY, which every number has, and
    every time.
    """

    name: str
    type: ColumnType = ColumnType.VAR_STRING
    length: int = 1024
    table: str = ""
    flags: ColumnFlag = _NO_FLAGS

    def encode(self) -> bytes:
        """The payload (ColumnDefinition41)."""
        text = self.type in _TEXTS
        flags = self.flags if text else self.flags | ColumnFlag.BINARY
        return (
            Writer()
            .lenenc_bytes(b"def")
            .lenenc_bytes(b"")
            .lenenc_bytes(self.table.encode())
            .lenenc_bytes(self.table.encode())
            .lenenc_bytes(self.name.encode())
            .lenenc_bytes(b"")
            .lenenc_int(0x0C)
            .uint(2, CHARSET_UTF8MB4 if text else CHARSET_BINARY)
            .uint(4, self.length if text else _DIGITS[self.type])
            .uint(1, self.type)
            .uint(2, flags)
            .uint(1, 31 if text else 0)
            .uint(2, 0)
            .finish()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSet:
    """Columns and rows; every row has one value per column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]] = ()

    def __post_init__(self) -> None:
        assert self.columns, "a result set has at least one column"
        assert all(len(row) == len(self.columns) for row in self.rows)

    def encode(
        self,
        *,
        deprecate_eof: bool,
        status: ServerStatus = ServerStatus.AUTOCOMMIT,
        binary: bool = False,
    ) -> list[bytes]:
        """The payloads, one a packet, in order; rows in `binary` are those of an execute."""
        payloads = [Writer().lenenc_int(len(self.columns)).finish()]
        payloads.extend(column.encode() for column in self.columns)
        if not deprecate_eof:
            payloads.append(encode_eof(status))
        if binary:
            payloads.extend(_binary_row(self.columns, row) for row in self.rows)
        else:
            payloads.extend(_row(row) for row in self.rows)
        payloads.append(encode_result_end(status) if deprecate_eof else encode_eof(status))
        return payloads


def _row(values: Sequence[Value]) -> bytes:
    writer = Writer()
    for value in values:
        if value is None:
            writer.raw(b"\xfb")
        else:
            writer.lenenc_bytes(str(value).encode())
    return writer.finish()


_NULLS_FROM = 2
"""The first bits of a binary row's NULL bitmap stand for nothing."""


def _binary_row(columns: Sequence[Column], values: Sequence[Value]) -> bytes:
    nulls = bytearray((len(columns) + _NULLS_FROM + 7) // 8)
    writer = Writer()
    for number, (column, value) in enumerate(zip(columns, values, strict=True), _NULLS_FROM):
        if value is None:
            nulls[number // 8] |= 1 << number % 8
        elif column.type in _WIDTHS:
            width = _WIDTHS[column.type]
            writer.raw((int(value) & (1 << 8 * width) - 1).to_bytes(width, "little"))
        elif column.type is ColumnType.DATETIME:
            writer.raw(_binary_time(str(value)))
        else:
            writer.lenenc_bytes(str(value).encode())
    return b"\0" + bytes(nulls) + writer.finish()


def _binary_time(text: str) -> bytes:
    """Of `2026-11-21 16:00:00`, with up to six digits behind a point."""
    whole, _, digits = text.partition(".")
    year, *parts = whole.replace(" ", "-").replace(":", "-").split("-")
    microseconds = int(digits.ljust(6, "0"))
    writer = Writer().uint(1, 11 if microseconds else 7).uint(2, int(year))
    for part in parts:
        writer.uint(1, int(part))
    return (writer.uint(4, microseconds) if microseconds else writer).finish()
