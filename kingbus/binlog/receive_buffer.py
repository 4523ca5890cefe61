"""What came from a socket and is not yet in a batch: one piece of memory, and the packet walk.

Owns the memory and where packets lie in it; knows nothing of events. The receiver reads from the
socket straight into `free()`; a batch's packets are copied out once, when the batch is made.

Where packets are small the walk over their lengths guesses: an event names its own size, so the
packet of one begins where two places 14 bytes apart agree (16 in semi-sync's form), and numpy finds
all those at once. What counts is the chain: each packet has to begin where the one before it ends.
"""

from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

PACKET_HEADER: Final = 4
PACKET_LENGTH_MAX: Final = 0xFF_FFFF
"""A packet of this length goes on in the next one."""

READ_BYTES_MIN: Final = 256 << 10
"""Less room than this is not worth a read: at 500 MB/s a read brings about this much."""

_SLACK: Final = 64
"""Bytes behind the end that may be looked at (and mean nothing): a header's worth and more, so
that gathering fixed fields needs no check for short packets."""

_DENSE_BYTES: Final = 160
"""A packet on average, up to which guessing is faster: it costs what a walk over packets of 210
bytes does, and a guess that fails costs both."""

_GUESS_BYTES_MIN: Final = 16 << 10
"""A walk over less is faster than the beginning of a guess."""

_SIZE: Final = PACKET_HEADER + 1 + 9
"""Where in the packet of an event the event's own size stands."""

_NONE: Final = np.zeros(0, dtype=np.int64)

_first_word: Final = Struct("<I").unpack_from


class ReceiveBuffer:
    """Bytes from `base` to `end`; what lies before `base` is done with.

    `bytes_max` is the most that it may hold; it grows up to that only when a packet needs it.
    """

    __slots__ = (
        "_capacity_max",
        "_capacity_usual",
        "_is_dense",
        "_prefix",
        "base",
        "bytes8",
        "data",
        "end",
        "view",
    )

    def __init__(self, *, bytes_usual: int, bytes_max: int, prefix_bytes: int = 0) -> None:
        """`prefix_bytes` stand between the OK byte and each event."""
        self._prefix = prefix_bytes
        self._capacity_usual = bytes_usual + READ_BYTES_MIN + _SLACK
        self._capacity_max = max(bytes_max, bytes_usual) + READ_BYTES_MIN + _SLACK
        self._is_dense = False
        self.base = 0
        self.end = 0
        self.view = memoryview(b"")
        self._allocate(self._capacity_usual)

    def _allocate(self, capacity: int) -> None:
        held = self.view[self.base : self.end]
        data = bytearray(capacity)
        data[: len(held)] = held
        self.data = data
        self.view = memoryview(data)
        self.bytes8: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
        self.base, self.end = 0, len(held)

    def __len__(self) -> int:
        return self.end - self.base

    def free(self) -> memoryview:
        """Room to read into, at least READ_BYTES_MIN; call `wrote` with what was written there.

        Positions in the buffer may change. Raises BufferError when it is full: its owner did not
        take out what it could.
        """
        held, capacity = len(self), len(self.data)
        if not held:
            self.base = self.end = 0
        is_at_end = capacity - _SLACK - self.end < READ_BYTES_MIN
        fits_usual = held + READ_BYTES_MIN + _SLACK <= self._capacity_usual
        if capacity > self._capacity_usual and fits_usual and (is_at_end or not held):
            self._allocate(self._capacity_usual)
        elif is_at_end:
            self.view[:held] = self.view[self.base : self.end]
            self.base, self.end = 0, held
            if capacity - _SLACK - held < READ_BYTES_MIN:
                if capacity >= self._capacity_max:
                    raise BufferError("the receive buffer is full")
                self._allocate(min(capacity * 2, self._capacity_max))
        return self.view[self.end : len(self.data) - _SLACK]

    def wrote(self, count: int) -> None:
        self.end += count
        assert self.end <= len(self.data) - _SLACK

    def walk(self, at: int, until: int) -> tuple[NDArray[np.int64], int]:
        """The whole packets from `at` on that begin before `until`: where each lies, and the end.

        The last one may end behind `until`.
        """
        limit = min(until, self.end - PACKET_HEADER + 1)
        if at >= limit:
            return np.zeros(0, dtype=np.int64), at
        first = at
        may_guess = self._is_dense and limit - at >= _GUESS_BYTES_MIN
        guessed, at = self._guess(at, limit) if may_guess else (_NONE, at)
        walked: list[int] = []
        append, data, word = walked.append, self.data, _first_word
        while at < limit:
            append(at)
            at += (word(data, at)[0] & PACKET_LENGTH_MAX) + PACKET_HEADER
        offsets = np.concatenate((guessed, np.array(walked, dtype=np.int64)))
        if at > self.end:
            at, offsets = int(offsets[-1]), offsets[:-1]
        self._is_dense = at - first <= _DENSE_BYTES * len(offsets)
        return offsets, at

    def _guess(self, at: int, limit: int) -> tuple[NDArray[np.int64], int]:
        """The first packets of a walk, as far as all of them are events, and where they end."""
        low, words = self.bytes8, self.unaligned("<u4")
        # Two bytes of each tell most places apart; only what is left is looked at.
        more, size = 1 + self._prefix, _SIZE + self._prefix
        may_be = low[at:limit] - np.uint8(more) == low[at + size : limit + size]
        may_be &= low[at + 2 : limit + 2] == low[at + size + 2 : limit + size + 2]
        places = np.flatnonzero(may_be) + at
        lengths = words[places].astype(np.int64) & PACKET_LENGTH_MAX
        events = (lengths - more == words[places + size]) & (low[places + PACKET_HEADER] == 0)
        places = places[events]
        stops = places + lengths[events] + PACKET_HEADER
        if not len(places) or places[0] != at:
            return _NONE, at
        chain: list[NDArray[np.int64]] = []
        first, last = 0, len(places) - 1
        for last_before in [*np.flatnonzero(stops[:-1] != places[1:]).tolist(), last]:
            if last_before < first:
                continue  # it only looked like a packet, inside of one
            chain.append(places[first : last_before + 1])
            at = int(stops[last_before])
            first = int(np.searchsorted(places, at))
            if first > last or places[first] != at:
                break
        return np.concatenate(chain), at

    def unaligned(self, dtype: str) -> NDArray[np.uint64]:
        """The memory as integers of that type, one beginning at each byte; a view.

        The element type in the signature is the widest one: indexing gives unsigned integers.
        """
        width = np.dtype(dtype).itemsize
        return np.ndarray((len(self.data) - width + 1,), dtype, self.data, 0, (1,))
