"""What came from a socket and is not yet in a batch: one piece of memory, and the packet walk.

Owns the memory and where packets lie in it; knows nothing of events. The receiver reads from the
socket straight into `free()`; a batch's packets are copied out once, when the batch is made.

The walk over packet lengths is the one place where Python looks at every packet by itself.
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

_first_word: Final = Struct("<I").unpack_from


class ReceiveBuffer:
    """Bytes from `base` to `end`; what lies before `base` is done with.

    `bytes_max` is the most that it may hold; it grows up to that only when a packet needs it.
    """

    __slots__ = ("_capacity_max", "_capacity_usual", "base", "bytes8", "data", "end", "view")

    def __init__(self, *, bytes_usual: int, bytes_max: int) -> None:
        self._capacity_usual = bytes_usual + READ_BYTES_MIN + _SLACK
        self._capacity_max = max(bytes_max, bytes_usual) + READ_BYTES_MIN + _SLACK
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

    def walk(self, at: int, until: int) -> tuple[list[int], int]:
        """The whole packets from `at` on that begin before `until`: where each lies, and the end.

        The last one may end behind `until`.
        """
        offsets: list[int] = []
        append, data, word = offsets.append, self.data, _first_word
        limit = min(until, self.end - PACKET_HEADER + 1)
        while at < limit:
            append(at)
            at += (word(data, at)[0] & PACKET_LENGTH_MAX) + PACKET_HEADER
        if at > self.end:
            at = offsets.pop()
        return offsets, at

    def unaligned(self, dtype: str) -> NDArray[np.uint64]:
        """The memory as integers of that type, one beginning at each byte; a view.

        The element type in the signature is the widest one: indexing gives unsigned integers.
        """
        width = np.dtype(dtype).itemsize
        return np.ndarray((len(self.data) - width + 1,), dtype, self.data, 0, (1,))
