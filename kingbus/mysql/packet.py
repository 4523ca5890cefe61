"""Framing: payloads to packets and back.

Owns: the four header bytes (length u24, sequence number), the split of payloads of 16 MiB - 1 and
more with the empty packet that follows an exact multiple, and the limits on what is buffered.
Knows nothing of what a payload says. Follows the manual's "MySQL Packets" page.
"""

from dataclasses import dataclass

from kingbus.mysql.constants import PACKET_PAYLOAD_MAX
from kingbus.mysql.errors import PacketsOutOfOrderError, PacketTooLargeError

HEADER_SIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One logical payload, joined; `sequence` is the number of its last packet."""

    sequence: int
    payload: bytes


def encode_payload(payload: bytes, sequence: int) -> tuple[bytes, int]:
    """The packets of one payload, the first numbered `sequence`, and the number after the last."""
    if len(payload) < PACKET_PAYLOAD_MAX:
        header = len(payload).to_bytes(3, "little") + bytes((sequence & 0xFF,))
        return header + payload, (sequence + 1) & 0xFF
    out = bytearray()
    for start in range(0, len(payload) + 1, PACKET_PAYLOAD_MAX):
        part = payload[start : start + PACKET_PAYLOAD_MAX]
        out += len(part).to_bytes(3, "little")
        out.append(sequence & 0xFF)
        out += part
        sequence += 1
    return bytes(out), sequence & 0xFF


class PacketReader:
    """Joins packets to payloads as bytes arrive, in whatever pieces.

    Checks each sequence number against the one expected and each announced length against the
    limit, before anything of that packet is waited for.
    """

    __slots__ = ("_buffer", "_parts", "_parts_size", "expected_sequence", "payload_bytes_max")

    def __init__(self, *, payload_bytes_max: int, expected_sequence: int = 0) -> None:
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._parts_size = 0
        self.payload_bytes_max = payload_bytes_max
        self.expected_sequence = expected_sequence

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append what came off the wire."""
        self._buffer += data

    @property
    def mid_payload(self) -> bool:
        """Whether a packet has begun that is not complete."""
        return bool(self._buffer or self._parts)

    def next_packet(self) -> Packet | None:
        """The next complete payload, or None while it is not here in full.

        Raises PacketsOutOfOrderError and PacketTooLargeError; the reader is of no use after that.
        """
        while len(self._buffer) >= HEADER_SIZE:
            length = int.from_bytes(self._buffer[:3], "little")
            sequence = self._buffer[3]
            if sequence != self.expected_sequence:
                raise PacketsOutOfOrderError(sequence, self.expected_sequence)
            if self._parts_size + length > self.payload_bytes_max:
                raise PacketTooLargeError(self._parts_size + length, self.payload_bytes_max)
            end = HEADER_SIZE + length
            if len(self._buffer) < end:
                return None
            part = bytes(self._buffer[HEADER_SIZE:end])
            del self._buffer[:end]
            self.expected_sequence = (sequence + 1) & 0xFF
            if length == PACKET_PAYLOAD_MAX:
                self._parts.append(part)
                self._parts_size += length
                continue
            if self._parts:
                self._parts.append(part)
                part = b"".join(self._parts)
                self._parts, self._parts_size = [], 0
            return Packet(sequence=sequence, payload=part)
        return None

    def take_unread(self) -> bytes:
        """Everything buffered but not read as a packet; the buffer is empty afterwards."""
        unread = bytes(self._buffer)
        self._buffer.clear()
        return unread
