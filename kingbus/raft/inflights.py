"""The append messages to one peer that were sent and not yet acknowledged.

Bounded in messages and in payload bytes: together they limit what a slow peer can make the leader
hold in its send queues.
"""


class Inflights:
    """A window of (last index, bytes) in the order of sending."""

    __slots__ = ("_indexes", "_sizes", "bytes", "bytes_max", "messages_max")

    def __init__(self, messages_max: int, bytes_max: int = 0) -> None:
        """`bytes_max` 0 means no limit."""
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.bytes = 0
        self._indexes: list[int] = []
        self._sizes: list[int] = []

    @property
    def count(self) -> int:
        """Messages in the window."""
        return len(self._indexes)

    @property
    def is_full(self) -> bool:
        """True when no further message may be sent; the last one may overshoot the bytes."""
        return len(self._indexes) >= self.messages_max or (
            self.bytes_max != 0 and self.bytes >= self.bytes_max
        )

    def add(self, last_index: int, size: int) -> None:
        """A message whose last entry is at `last_index` with `size` bytes of payload was sent."""
        assert not self.is_full, "cannot add into a full window of in-flight messages"
        assert not self._indexes or self._indexes[-1] < last_index, (self._indexes[-1], last_index)
        self._indexes.append(last_index)
        self._sizes.append(size)
        self.bytes += size

    def free_up_to(self, index: int) -> None:
        """Everything up to and with `index` arrived."""
        indexes = self._indexes
        count = 0
        for last_index in indexes:
            if last_index > index:
                break
            count += 1
        if count:
            self.bytes -= sum(self._sizes[:count])
            del indexes[:count]
            del self._sizes[:count]

    def reset(self) -> None:
        """Forget everything."""
        self._indexes.clear()
        self._sizes.clear()
        self.bytes = 0
