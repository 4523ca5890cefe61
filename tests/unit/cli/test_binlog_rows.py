"""`kingbus binlog events --rows`: the rows of a file of which not everything is held."""

from typing import Any

import pytest

from kingbus.binlog.header import FILE_MAGIC
from kingbus.cli.binlog_rows import READ_BYTES, decode_rows
from tests.unit.replication.test_decoded_rows import QUERY, WRITE, event, row, rows_event, table_map


@pytest.mark.parametrize("crc", [True, False])
@pytest.mark.parametrize("first_bytes", [10, 5000, 2 * READ_BYTES])
def test_rows_behind_a_cut_are_decoded(crc: bool, first_bytes: int) -> None:
    """The file's description is not held any more, so the first event shows by itself whether it
    has a checksum; a large one, too."""
    first = event(QUERY, bytes(13) + b"\0" + bytes(first_bytes), crc=crc)
    events = [first, table_map(crc=crc), rows_event(WRITE, row(7, "seven"), crc=crc)]
    held, cut = FILE_MAGIC + b"".join(events), 900
    shown: list[dict[str, Any]] = []
    at = cut
    for each in events:
        shown.append({"position": at, "end_position": at + len(each)})
        at += len(each)
    decode_rows(shown, lambda offset, size: held[offset : offset + size], gaps=[(4, cut)])
    assert [each["rows"] for each in shown[:2]] == [None, None]
    (inserted,) = shown[2]["rows"]
    assert list(inserted["values"].values()) == [7, "seven"]


def test_of_a_file_of_which_nothing_is_held_nothing_is_decoded() -> None:
    """It was cut, and nothing came since."""
    decode_rows([], lambda offset, size: FILE_MAGIC[offset : offset + size], gaps=[(4, 900)])
