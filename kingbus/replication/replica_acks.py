"""What a semi-sync replica acknowledges: reads the packets that it sends in the middle of a dump.

Owns how an acknowledgement is read and what is kept of it. Nothing waits for one: the relay is
durable by its own majority, so it asks only in order to know, and to show. Follows a real source in
that what is no acknowledgement is passed over and the dump goes on.
"""

from typing import Final

from kingbus import metrics
from kingbus.binlog.semi_sync import MARK
from kingbus.mysql.errors import ProtocolError
from kingbus.mysql.packet import PacketReader

ACK_BYTES_MAX: Final = 1024
"""A position and the name of a file, of which MySQL's own limit is 512 bytes."""
_HEADER: Final = 9  # mark and position


class ReplicaAcks:
    """Of one dump. `file` and `position` say how far the replica has everything on its disk."""

    def __init__(self) -> None:
        self.file = ""
        self.position = 0
        self.count = 0
        self._reader: PacketReader | None = PacketReader(payload_bytes_max=ACK_BYTES_MAX)

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what the client said; dropped once it has said something that is no packet."""
        reader = self._reader
        if reader is None:
            return
        reader.feed(data)
        try:
            while (packet := reader.next_packet()) is not None:
                reader.expected_sequence = 0
                self._take(packet.payload)
        except ProtocolError:
            self._reader = None  # where the next packet begins cannot be known any more

    def _take(self, payload: bytes) -> None:
        if len(payload) <= _HEADER or payload[0] != MARK:
            return
        self.position = int.from_bytes(payload[1:_HEADER], "little")
        self.file = payload[_HEADER:].decode("utf-8", "replace")
        self.count += 1
        metrics.DUMP_SEMI_SYNC_ACKS.inc()
