"""What a semi-sync replica acknowledges: reads the packets that it sends in the middle of a dump.

Owns how an acknowledgement is read and what is kept of it. Nothing waits for one: the relay is
durable by its own majority, so it asks only in order to know, and to show. Follows a real source in
that what is no acknowledgement is passed over and the dump goes on.
"""

from typing import Final

from kingbus import metrics
from kingbus.binlog.semi_sync import MARK
from kingbus.mysql.packet import HEADER_SIZE

ACK_BYTES_MAX: Final = 1024
"""A position and the name of a file, of which MySQL's own limit is 512 bytes."""
_NAME_AT: Final = 9  # behind mark and position


class ReplicaAcks:
    """Of one dump. `file` and `position` say how far the replica has everything on its disk."""

    __slots__ = ("_buffer", "_is_lost", "count", "file", "position")

    def __init__(self) -> None:
        self.file = ""
        self.position = 0
        self.count = 0
        self._buffer = bytearray()
        self._is_lost = False

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what the client said; dropped once a packet is longer than any acknowledgement."""
        if self._is_lost:
            return
        buffer = self._buffer
        buffer += data
        while len(buffer) >= HEADER_SIZE:
            end = HEADER_SIZE + int.from_bytes(buffer[:3], "little")
            if end > HEADER_SIZE + ACK_BYTES_MAX:
                self._is_lost = True
                buffer.clear()
            if len(buffer) < end:
                return
            number, payload = buffer[3], bytes(buffer[HEADER_SIZE:end])
            del buffer[:end]
            if number == 0:  # a source passes over what is numbered otherwise
                self._take(payload)

    def _take(self, payload: bytes) -> None:
        if len(payload) <= _NAME_AT or payload[0] != MARK:
            return
        self.position = int.from_bytes(payload[1:_NAME_AT], "little")
        self.file = payload[_NAME_AT:].decode("utf-8", "replace")
        self.count += 1
        metrics.DUMP_SEMI_SYNC_ACKS.inc()
