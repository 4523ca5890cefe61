"""Row events are shown as what they change, and what cannot be decoded says why."""

import pytest

from kingbus.binlog.artificial import build_event
from kingbus.replication import decoded_rows
from kingbus.replication.decoded_rows import RowDecoder

TABLE_MAP, WRITE, UPDATE, DELETE, QUERY, PAYLOAD = 19, 30, 31, 32, 2, 40
TABLE_ID = (77).to_bytes(6, "little")
COLUMNS = bytes((3, 15))  # an integer and a VARCHAR


def event(type_: int, body: bytes, *, crc: bool) -> bytes:
    size = 19 + len(body) + 4 * crc
    return build_event(type_, body, server_id=1, crc=crc, timestamp=9, log_pos=size)


def table_map(*, crc: bool) -> bytes:
    body = TABLE_ID + b"\x01\x00" + b"\x04shop\x00" + b"\x05items\x00"
    body += b"\x02" + COLUMNS + b"\x02" + (100).to_bytes(2, "little") + b"\x03"
    return event(TABLE_MAP, body, crc=crc)


def row(number: int, text: str | None) -> bytes:
    null = text is None
    value = b"" if text is None else bytes((len(text.encode()),)) + text.encode()
    return bytes((0b10 * null,)) + number.to_bytes(4, "little", signed=True) + value


def rows_event(type_: int, *rows: bytes, crc: bool) -> bytes:
    images = 2 if type_ == UPDATE else 1
    body = TABLE_ID + b"\x01\x00" + b"\x02\x00" + b"\x02" + b"\x03" * images + b"".join(rows)
    return event(type_, body, crc=crc)


@pytest.mark.parametrize("crc", [True, False])
def test_each_kind_of_change(crc: bool) -> None:
    """With and without checksums; names of columns are known only where the source writes them."""
    decoder = RowDecoder(crc=crc)
    assert decoder.decode(table_map(crc=crc)) is None
    inserted = decoder.decode(rows_event(WRITE, row(1, "früh"), row(-2, None), crc=crc))
    table = {"schema": "shop", "table": "items"}
    assert inserted == [
        {"change": "insert", **table, "values": {"UNKNOWN_COL0": 1, "UNKNOWN_COL1": "früh"}},
        {"change": "insert", **table, "values": {"UNKNOWN_COL0": -2, "UNKNOWN_COL1": None}},
    ]
    (updated,) = decoder.decode(rows_event(UPDATE, row(1, "a"), row(1, "b"), crc=crc)) or []
    assert updated["before"]["UNKNOWN_COL1"] == "a"
    assert updated["after"]["UNKNOWN_COL1"] == "b"
    (deleted,) = decoder.decode(rows_event(DELETE, row(5, "x"), crc=crc)) or []
    assert (deleted["change"], deleted["values"]["UNKNOWN_COL0"]) == ("delete", 5)
    assert decoder.decode(event(QUERY, bytes(13) + b"\0BEGIN", crc=crc)) is None


def test_what_cannot_be_decoded_says_why() -> None:
    """An unknown table, a compressed transaction, an event that is cut: one error, no end."""
    decoder = RowDecoder(crc=True)
    write = rows_event(WRITE, row(1, "a"), crc=True)
    assert "describes its table" in str(decoder.decode(write))
    assert "compressed" in str(decoder.decode(event(PAYLOAD, b"x", crc=True)))
    decoder.decode(table_map(crc=True))
    broken = rows_event(WRITE, row(1, "abc")[:-2], crc=True)
    assert "error" in (decoder.decode(broken) or [{}])[0]
    assert "error" not in (decoder.decode(write) or [{}])[0]


def test_a_large_event_is_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """With how much is left out."""
    monkeypatch.setattr(decoded_rows, "ROWS_MAX", 2)
    decoder = RowDecoder(crc=True)
    decoder.decode(table_map(crc=True))
    shown = decoder.decode(rows_event(WRITE, *(row(n, "a") for n in range(5)), crc=True)) or []
    assert [each.get("error") for each in shown] == [None, None, "3 more rows are not shown"]
