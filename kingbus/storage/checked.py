"""Which entries' bytes need no look any more: this process wrote them, or has verified them once.

Owns merged ranges of indexes, of a bounded number. It must not know of files: whoever writes,
verifies or gives up entries says so. Not safe for several threads at once.
"""

from bisect import bisect_left, bisect_right
from typing import Final

__all__ = ["CheckedEntries"]

RANGES_MAX: Final = 1024
"""Readers go forward, so each makes one range that grows; forgetting one costs a look at it."""


class CheckedEntries:
    """A set of indexes; when it gets too ragged it forgets its shortest range."""

    def __init__(self, ranges_max: int = RANGES_MAX) -> None:
        self._ranges_max = ranges_max
        self._firsts: list[int] = []
        self._stops: list[int] = []

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self._firsts, index) - 1
        return at >= 0 and index < self._stops[at]

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._firsts)

    def add(self, first: int, stop: int) -> None:
        """Entries `first` to `stop` - 1."""
        assert first < stop, (first, stop)
        begin = bisect_left(self._stops, first)
        end = bisect_right(self._firsts, stop)
        if begin < end:
            first = min(first, self._firsts[begin])
            stop = max(stop, self._stops[end - 1])
        self._firsts[begin:end] = [first]
        self._stops[begin:end] = [stop]
        if len(self._firsts) > self._ranges_max:
            lengths = [last - each for each, last in zip(self._firsts, self._stops, strict=True)]
            at = lengths.index(min(lengths))
            del self._firsts[at], self._stops[at]

    def forget_before(self, index: int) -> None:
        """What is below `index` is gone."""
        gone = bisect_right(self._stops, index)
        del self._firsts[:gone], self._stops[:gone]
        if self._firsts and self._firsts[0] < index:
            self._firsts[0] = index

    def clear(self) -> None:
        """Forget everything."""
        self._firsts.clear()
        self._stops.clear()
