"""Tagged GTID events, all of a run at once in numpy.

Owns the reading of MySQL's serialization format for many events that have the same fields in the
same order, which is what a server writes. Where they differ, or anything is odd, it says so and
nothing else: `events.Gtid` reads them one by one then, and knows what is wrong.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kingbus.binlog.boundary import Indexes
from kingbus.binlog.gtid import GTID_NUMBER_MAX, TAG_LENGTH_MAX
from kingbus.binlog.header import HEADER_BYTES
from kingbus.binlog.receive_buffer import ReceiveBuffer

Words = NDArray[np.uint64]

TAG_WORDS: Final = TAG_LENGTH_MAX // 8
_FIELDS_MAX: Final = 32
"""Of one event; a server of today writes nine."""

# By the first byte of a variable-length integer: how many bytes follow it (its trailing 1 bits),
# and which bits of the eight bytes from it on are its own, if it has no more than those.
_MORE: Final = np.array(
    [((~first & (first + 1)).bit_length() - 1) for first in range(256)], dtype=np.int64
)
_BITS: Final = np.array(
    [(1 << (8 * min(more + 1, 8))) - 1 for more in _MORE.tolist()], dtype=np.uint64
)
_PARTS: Final = np.array([(1 << (8 * count)) - 1 for count in range(9)], dtype=np.uint64)
"""Which bits of a word are its first so many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedGtids:
    """What the events say, one element or row for each; uuids and tags as words of memory."""

    uuids: Words
    tags: Words
    tag_lengths: Indexes
    numbers: Words
    lengths: Words


class _Reader:
    """Reads one value of every event, each from where it stands."""

    def __init__(self, buffer: ReceiveBuffer, at: Indexes) -> None:
        self.at = at
        self._bytes8 = buffer.bytes8
        self._words = buffer.unaligned("<u8")
        self._last = len(self._words) - 2

    def unsigned(self) -> Words:
        at = np.minimum(self.at, self._last)
        first = self._bytes8[at]
        more = _MORE[first]
        short = (self._words[at] & _BITS[first]) >> (more + 1).astype(np.uint64)
        self.at = self.at + 1 + more
        return np.where(more == 8, self._words[at + 1], short)

    def uuids(self) -> Words:
        each = np.empty((len(self.at), 16), dtype=np.uint8)
        for place in range(16):
            each[:, place] = self.unsigned().astype(np.uint8)
        return each.view("<u8")

    def tags(self, lengths: Indexes) -> Words:
        words = np.empty((len(self.at), TAG_WORDS), dtype=np.uint64)
        for word in range(TAG_WORDS):
            at = np.minimum(self.at + 8 * word, self._last)
            words[:, word] = self._words[at] & _PARTS[np.clip(lengths - 8 * word, 0, 8)]
        self.at = self.at + lengths
        return words


def read_tagged(buffer: ReceiveBuffer, places: Indexes, stops: Indexes) -> TaggedGtids | None:
    """The events at `places`, without checksums up to `stops`; None: read them one by one."""
    reader = _Reader(buffer, places + HEADER_BYTES)
    if (reader.unsigned() != 1).any():
        return None
    reader.unsigned()  # size
    reader.unsigned()  # the last field that a reader must know
    count = len(places)
    uuids, tags = np.zeros((0, 2), dtype=np.uint64), np.zeros((count, TAG_WORDS), dtype=np.uint64)
    tag_lengths = np.zeros(count, dtype=np.int64)
    numbers = lengths = np.zeros(count, dtype=np.uint64)
    for _ in range(_FIELDS_MAX):
        if (reader.at >= stops).all():
            break
        fields = reader.unsigned()
        field = int(fields[0])
        if (fields != field).any() or (reader.at > stops).any():
            return None
        if field == 1:
            uuids = reader.uuids()
        elif field == 2:
            numbers = reader.unsigned()
        elif field == 3:
            said = reader.unsigned()
            if (said > TAG_LENGTH_MAX).any():
                return None
            tag_lengths = said.astype(np.int64)
            tags = reader.tags(tag_lengths)
        elif field == 8:
            lengths = reader.unsigned()
        elif field <= 7:
            reader.unsigned()
        else:
            break
        if (reader.at > stops).any():
            return None
    # Numbers have a sign, in the lowest bit.
    if len(uuids) != count or (numbers & np.uint64(1)).any():
        return None
    numbers = numbers >> np.uint64(1)
    if not ((numbers > 0) & (numbers <= GTID_NUMBER_MAX)).all():
        return None
    return TaggedGtids(
        uuids=uuids, tags=tags, tag_lengths=tag_lengths, numbers=numbers, lengths=lengths
    )
