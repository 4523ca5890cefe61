"""An event of 16 MiB and more, which comes in several packets and is never put together.

Owns what has to be kept of it between its packets: how much came, and its CRC32 so far.
"""

from dataclasses import dataclass

from kingbus.binlog.boundary import Split
from kingbus.binlog.checksum import CRC_BYTES
from kingbus.binlog.header import EventHeader
from kingbus.crc import crc32


@dataclass(slots=True, kw_only=True)
class LargeEvent:
    """`crc` is over what came of it, without the checksum that it ends in; that is `checksum`."""

    header: EventHeader
    start: int
    split: Split | None = None
    """What it does to transactions; None: it is already held and only compared."""
    received: int = 0
    crc: int = 0
    checksum: int = 0

    def take(self, part: memoryview, *, crc_bytes: int) -> None:
        """Counts the next part of it in."""
        checksum_at = self.header.size - crc_bytes
        body = max(0, min(len(part), checksum_at - self.received))
        self.crc = crc32(part[:body], self.crc)
        for place, value in enumerate(part[body : body + CRC_BYTES], self.received + body):
            # The four bytes may lie in two packets.
            self.checksum |= value << (8 * (place - checksum_at)) if place < self.header.size else 0
        self.received += len(part)

    @property
    def is_intact(self) -> bool:
        """Of a whole event that ends in a checksum: whether it fits."""
        return self.crc == self.checksum
