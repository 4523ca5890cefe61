"""What must be read of many events at once: GTIDs, lengths of transactions, classes of queries.

Owns the numpy side of the event layouts in `events.py`; each answer is an array over the events
asked for. Knows nothing of the order of events, of positions or of batches.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kingbus.binlog.batch import Run
from kingbus.binlog.boundary import QUERY_HEAD, Codes, EventClass, Indexes, classify_query
from kingbus.binlog.errors import AnonymousTransactionError, MalformedEventError
from kingbus.binlog.event_types import EventType
from kingbus.binlog.events import (
    GTID_BYTES_MIN,
    GTID_NUMBER,
    GTID_TIMESTAMP,
    GTID_TIMESTAMP_BYTES,
    GTID_UUID,
    QUERY_POST_HEADER,
    QUERY_SCHEMA_LENGTH,
    QUERY_STATUS_LENGTH,
    Gtid,
)
from kingbus.binlog.gtid import GTID_NUMBER_MAX, is_tag
from kingbus.binlog.mariadb import (
    COMPLETED_XA,
    GTID_DOMAIN,
    GTID_FLAGS,
    GTID_SEQUENCE,
    GTID_SERVER,
    STANDALONE,
)
from kingbus.binlog.mariadb import GTID_BYTES_MIN as MARIADB_GTID_BYTES_MIN
from kingbus.binlog.mariadb_gtid import key_of
from kingbus.binlog.receive_buffer import ReceiveBuffer
from kingbus.binlog.tagged_gtids import TAG_WORDS, read_tagged

LENGTH_MAX: Final = 1 << 62
"""Of a transaction in bytes: sums with positions stay within 64 bits."""

_BEGIN: Final = int.from_bytes(b"BEGI", "little")
_COMMIT: Final = int.from_bytes(b"COMM", "little")
_COMMIT_END: Final = int.from_bytes(b"IT", "little")
_MAY_MATTER: Final = np.zeros(256, dtype=np.bool_)
_MAY_MATTER[list(b"BCRXbcrx")] = True


class EventReader:
    """Reads events where they lie in a receive buffer; each lies in one packet.

    `crc_bytes` is how many bytes of checksum the events of the present file end in. Places are
    those of the events' first bytes in the buffer, stops those behind their last.
    """

    __slots__ = ("_buffer", "crc_bytes")

    def __init__(self, buffer: ReceiveBuffer, *, crc_bytes: int) -> None:
        self._buffer = buffer
        self.crc_bytes = crc_bytes

    def gtids(
        self, places: Indexes, stops: Indexes, types: Codes, *, allow_anonymous: bool
    ) -> tuple[Indexes, list[Run]]:
        """Of GTID events: the length of each one's transaction (0: not said), and their GTIDs.

        Raises MalformedEventError, AnonymousTransactionError.
        """
        if not len(places):
            return places, []
        stops = stops - self.crc_bytes
        if types[0] == EventType.GTID_MARIADB and (types == EventType.GTID_MARIADB).all():
            return np.zeros(len(places), dtype=np.int64), self._mariadb_gtids(places, stops)
        if (types != EventType.GTID).any():
            if allow_anonymous and (types == EventType.ANONYMOUS_GTID).all():
                if (stops - places < GTID_BYTES_MIN).any():
                    raise MalformedEventError("a GTID event that is too short")
                anonymous = Run(uuid=b"", tag="", first=1, last=len(places))
                return self._lengths(places, stops), [anonymous]
            found = self._gtids_with_tags(places, stops, types)
            if found is not None:
                return found
            return self._gtids_one_by_one(places, stops, types, allow_anonymous=allow_anonymous)
        if (stops - places < GTID_BYTES_MIN).any():
            raise MalformedEventError("a GTID event that is too short")
        u64 = self._buffer.unaligned("<u8")
        high, low = u64[places + GTID_UUID], u64[places + GTID_UUID + 8]
        numbers = u64[places + GTID_NUMBER]
        if (numbers - 1 > GTID_NUMBER_MAX - 1).any():  # 0 wraps around
            raise MalformedEventError("an impossible GTID")
        changes = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        changes |= numbers[1:] != numbers[:-1] + 1
        firsts = [0, *(np.flatnonzero(changes) + 1).tolist()]
        lasts = [*(first - 1 for first in firsts[1:]), len(places) - 1]
        runs = [
            Run(
                uuid=bytes(self._buffer.view[place : place + 16]),
                tag="",
                first=int(numbers[first]),
                last=int(numbers[last]),
            )
            for first, last, place in zip(
                firsts, lasts, (places[firsts] + GTID_UUID).tolist(), strict=True
            )
        ]
        return self._lengths(places, stops), runs

    def _gtids_with_tags(
        self, places: Indexes, stops: Indexes, types: Codes
    ) -> tuple[Indexes, list[Run]] | None:
        """For runs of events of which some, or all, have tags; None where it is not that easy."""
        tagged = np.flatnonzero(types == EventType.GTID_TAGGED)
        plain = np.flatnonzero(types == EventType.GTID)
        if len(tagged) + len(plain) < len(places):
            return None
        found = read_tagged(self._buffer, places[tagged], stops[tagged])
        if found is None or (found.lengths > LENGTH_MAX).any():
            return None
        if (stops[plain] - places[plain] < GTID_BYTES_MIN).any():
            return None
        u64, at = self._buffer.unaligned("<u8"), places[plain]
        # One row for each event: uuid, tag and its length, which together name a run, and number.
        rows = np.zeros((len(places), 2 + TAG_WORDS + 2), dtype=np.uint64)
        rows[plain, 0], rows[plain, 1] = u64[at + GTID_UUID], u64[at + GTID_UUID + 8]
        rows[plain, -1] = u64[at + GTID_NUMBER]
        rows[tagged, :2], rows[tagged, 2 : 2 + TAG_WORDS] = found.uuids, found.tags
        rows[tagged, -2], rows[tagged, -1] = found.tag_lengths, found.numbers
        if (rows[:, -1] - np.uint64(1) > np.uint64(GTID_NUMBER_MAX - 1)).any():
            return None
        lengths = np.zeros(len(places), dtype=np.int64)
        lengths[plain] = self._lengths(places[plain], stops[plain])
        lengths[tagged] = found.lengths.astype(np.int64)
        changes = (rows[1:, :-1] != rows[:-1, :-1]).any(axis=1)
        changes |= rows[1:, -1] != rows[:-1, -1] + np.uint64(1)
        firsts = [0, *(np.flatnonzero(changes) + 1).tolist()]
        lasts = [*(first - 1 for first in firsts[1:]), len(places) - 1]
        names = [rows[first, :-1].tobytes() for first in firsts]
        runs = [
            Run(
                uuid=name[:16],
                tag=name[16 : 16 + name[-8]].decode("ascii", "replace"),
                first=int(rows[first, -1]),
                last=int(rows[last, -1]),
            )
            for name, first, last in zip(names, firsts, lasts, strict=True)
        ]
        if not all(map(is_tag, {run.tag for run in runs} - {""})):
            return None
        return lengths, runs

    def _mariadb_gtids(self, places: Indexes, stops: Indexes) -> list[Run]:
        if (stops - places < MARIADB_GTID_BYTES_MIN).any():
            raise MalformedEventError("a GTID event that is too short")
        u32, u64 = self._buffer.unaligned("<u4"), self._buffer.unaligned("<u8")
        domains, servers = u32[places + GTID_DOMAIN], u32[places + GTID_SERVER]
        numbers = u64[places + GTID_SEQUENCE]
        if (numbers - 1 > GTID_NUMBER_MAX - 1).any():  # 0 wraps around
            raise MalformedEventError("an impossible GTID")
        changes = (domains[1:] != domains[:-1]) | (servers[1:] != servers[:-1])
        changes |= numbers[1:] != numbers[:-1] + 1
        firsts = [0, *(np.flatnonzero(changes) + 1).tolist()]
        lasts = [*(first - 1 for first in firsts[1:]), len(places) - 1]
        return [
            Run(
                uuid=key_of(int(domains[first]), int(servers[first])),
                tag="",
                first=int(numbers[first]),
                last=int(numbers[last]),
            )
            for first, last in zip(firsts, lasts, strict=True)
        ]

    def gtid_classes(self, places: Indexes, types: Codes) -> Codes:
        """The class of each GTID event: MariaDB's is a BEGIN too, unless it says otherwise."""
        classes = np.full(len(places), EventClass.GTID, dtype=np.uint8)
        if not len(places):
            return classes
        flags = self._buffer.bytes8[places + GTID_FLAGS]
        begins = (types == EventType.GTID_MARIADB) & ((flags & (STANDALONE | COMPLETED_XA)) == 0)
        classes[begins] = EventClass.GTID_BEGIN
        return classes

    def _gtids_one_by_one(
        self, places: Indexes, stops: Indexes, types: Codes, *, allow_anonymous: bool
    ) -> tuple[Indexes, list[Run]]:
        """For runs of events with tagged or anonymous transactions."""
        lengths: list[int] = []
        runs: list[Run] = []
        view = self._buffer.view
        if (types == EventType.GTID_MARIADB).any():
            raise MalformedEventError("GTID events of MySQL and of MariaDB in one file")
        for place, stop in zip(places.tolist(), stops.tolist(), strict=True):
            gtid = Gtid.decode(view[place:stop], crc_bytes=0)
            if not gtid.uuid and not allow_anonymous:
                raise AnonymousTransactionError("a transaction without a GTID")
            last = (
                runs[-1]
                if runs and (runs[-1].uuid, runs[-1].tag) == (gtid.uuid, gtid.tag)
                else None
            )
            number = gtid.number if gtid.uuid else 1 if last is None else last.last + 1
            if not 0 < number <= GTID_NUMBER_MAX or gtid.transaction_length > LENGTH_MAX:
                raise MalformedEventError("an impossible GTID or transaction length")
            if last is not None and last.last + 1 == number:
                last.last = number
            else:
                runs.append(Run(uuid=gtid.uuid, tag=gtid.tag, first=number, last=number))
            lengths.append(gtid.transaction_length)
        return np.array(lengths, dtype=np.int64), runs

    def _lengths(self, places: Indexes, stops: Indexes) -> Indexes:
        """The length-encoded integer behind the one or two timestamps of a GTID event."""
        bytes8 = self._buffer.bytes8
        at = places + (GTID_TIMESTAMP + GTID_TIMESTAMP_BYTES)
        has_length = at < stops
        at += (bytes8[at - 1] >> 7).astype(np.int64) * GTID_TIMESTAMP_BYTES
        has_length &= at < stops
        lead = bytes8[at]
        lengths: NDArray[np.uint64] = lead.astype(np.uint64)
        if (lead >= 0xFB).any():
            wide = self._buffer.unaligned("<u8")[at + 1]
            lengths = np.where(lead == 0xFC, wide & 0xFFFF, lengths)
            lengths = np.where(lead == 0xFD, wide & 0xFF_FFFF, lengths)
            lengths = np.where(lead == 0xFE, wide, lengths)
        lengths[~has_length] = 0
        if (lengths > LENGTH_MAX).any():
            raise MalformedEventError("an impossible transaction length")
        return lengths.astype(np.int64)

    def query_classes(self, places: Indexes, stops: Indexes) -> Codes:
        """The class of each QUERY event by its statement; raises MalformedEventError."""
        classes = np.full(len(places), EventClass.STATEMENT, dtype=np.uint8)
        if not len(places):
            return classes
        buffer = self._buffer
        bytes8, u16 = buffer.bytes8, buffer.unaligned("<u2")
        if (stops - places < QUERY_POST_HEADER + 1 + self.crc_bytes).any():
            raise MalformedEventError("a QUERY event that is too short")
        stops = stops - self.crc_bytes
        texts = places + (QUERY_POST_HEADER + 1)
        texts += u16[places + QUERY_STATUS_LENGTH]
        texts += bytes8[places + QUERY_SCHEMA_LENGTH]
        lengths = stops - texts
        if (lengths < 0).any():
            raise MalformedEventError("a QUERY event whose parts are longer than itself")
        words = buffer.unaligned("<u4")[texts]
        is_begin = (lengths == 5) & (words == _BEGIN) & (bytes8[texts + 4] == ord("N"))
        is_commit = (lengths == 6) & (words == _COMMIT) & (u16[texts + 4] == _COMMIT_END)
        classes[is_begin] = EventClass.BEGIN
        classes[is_commit] = EventClass.END
        # What else matters begins with one of a few letters, in either case.
        rest = _MAY_MATTER[bytes8[texts]] & ~is_begin & ~is_commit
        for query in np.flatnonzero(rest).tolist():
            start, stop = int(texts[query]), int(stops[query])
            classes[query] = classify_query(
                bytes(buffer.view[start : min(stop, start + QUERY_HEAD)])
            )
        return classes
