"""What row events of a node's file change, for `kingbus binlog events --rows`."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from kingbus.cli.common import say

READ_BYTES: Final = 1 << 20
EVENT_BYTES_MAX: Final = 16 << 20
"""Larger events, a blob each, are not fetched to be shown."""
DESCRIPTION_BYTES_MAX: Final = 1 << 10

Read = Callable[[int, int], bytes]
"""Bytes of the file: offset and how many at most."""


def decode_rows(
    events: Sequence[dict[str, Any]], read: Read, *, gaps: Sequence[Sequence[int]]
) -> None:
    """Adds `rows` to each event, null where it is no row event."""
    from kingbus.replication.decoded_rows import RowDecoder

    decoder = RowDecoder(crc=_has_crc(read))
    window = _Window(read)
    for event in events:
        position, size = event["position"], event["end_position"] - event["position"]
        if size > EVENT_BYTES_MAX:
            event["rows"] = [{"error": f"an event of {size} bytes is not fetched"}]
            continue
        missing = sum(end - begin for begin, end in gaps if end <= position)
        event["rows"] = decoder.decode(window.take(position - missing, size))


def _has_crc(read: Read) -> bool:
    """As the file's first event says or, where that one is not held any more, shows itself."""
    from kingbus.binlog.checksum import is_intact
    from kingbus.binlog.event_types import EventType
    from kingbus.binlog.events import FormatDescription
    from kingbus.binlog.header import FIRST_POSITION, EventHeader

    start = read(FIRST_POSITION, DESCRIPTION_BYTES_MAX)
    if not start:
        return True  # nothing is held of it, so there is nothing to decode
    header = EventHeader.decode(start)
    if header.type == EventType.FORMAT_DESCRIPTION:
        return bool(FormatDescription.decode(start[: header.size]).crc_bytes)
    if header.size > len(start):
        start = read(FIRST_POSITION, min(header.size, EVENT_BYTES_MAX))
    return is_intact(start[: header.size])


class _Window:
    """The part of the file that was read last; events follow one another."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._start = 0
        self._data = b""

    def take(self, offset: int, size: int) -> bytes:
        at = offset - self._start
        if at < 0 or at + size > len(self._data):
            self._start, at, self._data = offset, 0, b""
            while len(self._data) < size:
                more = self._read(offset + len(self._data), max(READ_BYTES, size))
                if not more:
                    break
                self._data += more
        return self._data[at : at + size]


def show_rows(event: dict[str, Any]) -> None:
    """A line for each row of an event."""
    for row in event["rows"] or ():
        if "error" in row:
            say(f"    ({row['error']})")
            continue
        table = f"{row['change']} {row['schema']}.{row['table']}"
        parts = [row[key] for key in ("values", "before", "after") if key in row]
        say(f"    {table} {' -> '.join(map(str, parts))}")
