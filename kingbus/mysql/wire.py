"""The basic types of the MySQL protocol: fixed and length-encoded integers and strings.

Owns: `Reader`, which never reads past its packet, and `Writer`. Knows nothing of what the fields
mean. Follows the manual's "Protocol::Integer Types" and "Protocol::String Types".
"""

from typing import Self

from kingbus.mysql.errors import MalformedPacketError


class Reader:
    """Reads fields off one packet's payload, front to back.

    Every method raises MalformedPacketError, naming the field, when the payload is too short.
    """

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data = data
        self._offset = offset

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._offset

    def take(self, count: int, field: str) -> bytes:
        """Exactly `count` bytes."""
        if count > self.remaining:
            raise MalformedPacketError(f"{field} needs {count} bytes, {self.remaining} are left")
        start = self._offset
        self._offset += count
        return self._data[start : self._offset]

    def rest(self) -> bytes:
        """Everything that is left, possibly nothing."""
        return self.take(self.remaining, "rest")

    def uint(self, width: int, field: str) -> int:
        """A little-endian unsigned integer of `width` bytes."""
        return int.from_bytes(self.take(width, field), "little")

    def lenenc_int(self, field: str) -> int:
        """A length-encoded integer."""
        first = self.uint(1, field)
        if first < 0xFB:
            return first
        widths = {0xFC: 2, 0xFD: 3, 0xFE: 8}
        if first not in widths:
            raise MalformedPacketError(f"{field} begins with 0x{first:02x}, which is no length")
        return self.uint(widths[first], field)

    def lenenc_bytes(self, field: str) -> bytes:
        """A string with its length before it, as a length-encoded integer."""
        return self.take(self.lenenc_int(field), field)

    def short_bytes(self, field: str) -> bytes:
        """A string with its length before it in one byte."""
        return self.take(self.uint(1, field), field)

    def nul_bytes(self, field: str) -> bytes:
        """A string up to the next NUL, which is read too."""
        end = self._data.find(b"\0", self._offset)
        if end < 0:
            raise MalformedPacketError(f"{field} has no closing NUL")
        value = self._data[self._offset : end]
        self._offset = end + 1
        return value

    def nul_bytes_or_rest(self) -> bytes:
        """A string up to the next NUL, or to the end of the payload where there is none."""
        end = self._data.find(b"\0", self._offset)
        if end >= 0:
            return self.nul_bytes("string")
        return self.rest()


def lenenc_int(value: int) -> bytes:
    """The length-encoded form of an integer below 2**64."""
    assert 0 <= value < 1 << 64, value
    if value < 0xFB:
        return bytes((value,))
    if value < 1 << 16:
        return b"\xfc" + value.to_bytes(2, "little")
    if value < 1 << 24:
        return b"\xfd" + value.to_bytes(3, "little")
    return b"\xfe" + value.to_bytes(8, "little")


class Writer:
    """Builds one packet's payload, front to back; every method returns the writer itself."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def raw(self, value: bytes) -> Self:
        """Bytes as they are."""
        self._data += value
        return self

    def uint(self, width: int, value: int) -> Self:
        """A little-endian unsigned integer of `width` bytes."""
        self._data += value.to_bytes(width, "little")
        return self

    def lenenc_int(self, value: int) -> Self:
        """A length-encoded integer."""
        self._data += lenenc_int(value)
        return self

    def lenenc_bytes(self, value: bytes) -> Self:
        """A string with its length before it, as a length-encoded integer."""
        self._data += lenenc_int(len(value))
        self._data += value
        return self

    def short_bytes(self, value: bytes) -> Self:
        """A string with its length before it in one byte; at most 255 bytes."""
        assert len(value) <= 0xFF, "longer than its length byte can tell"
        self._data.append(len(value))
        self._data += value
        return self

    def nul_bytes(self, value: bytes) -> Self:
        """A string and a NUL."""
        assert b"\0" not in value, "a NUL inside would end the string early"
        self._data += value
        self._data.append(0)
        return self

    def finish(self) -> bytes:
        """The payload."""
        return bytes(self._data)
