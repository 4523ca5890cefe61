"""Text result sets: column definitions and rows.

Owns: `Column`, `ResultSet`, and their payloads with either ending (EOF packets, or one OK under
DEPRECATE_EOF). Knows nothing of statements. Follows the manual's "Text Resultset" page.
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
        self, *, deprecate_eof: bool, status: ServerStatus = ServerStatus.AUTOCOMMIT
    ) -> list[bytes]:
        """The payloads, one a packet, in order."""
        payloads = [Writer().lenenc_int(len(self.columns)).finish()]
        payloads.extend(column.encode() for column in self.columns)
        if not deprecate_eof:
            payloads.append(encode_eof(status))
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
