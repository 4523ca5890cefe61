"""A blocking or non-blocking socket to a source, whose bytes travel in compressed frames.

Owns the frames of the client's side. It looks like the part of `socket.socket` that is used of it,
so that what talks over a plain socket talks over this one. Knows nothing of packets but that the
fourth byte of what is sent is a packet's number, which begins at 0 with each command.
"""

import socket
from typing import Final

from kingbus.mysql.compression import Codec, FrameReader, encode_frame, pieces

READ_BYTES: Final = 256 << 10
"""From the socket at once: some frames of a source's are as large as its events."""


class CompressedSocket:
    """See the module. Raises ProtocolError for what is no frame, else what the socket raises."""

    def __init__(self, plain: socket.socket, codec: Codec) -> None:
        self._socket = plain
        self._codec = codec
        # A source counts on over a dump; what is lost in between zlib and zstd would notice.
        self._reader = FrameReader(codec, checks_numbers=False)
        self._left = memoryview(b"")
        self._room = bytearray(READ_BYTES)
        self._sequence = 0

    def sendall(self, data: bytes) -> None:
        """One packet, or more of one command."""
        if data[3] == 0:
            self._sequence = 0
        for piece in pieces(data):
            self._socket.sendall(encode_frame(self._codec, piece, self._sequence))
            self._sequence = (self._sequence + 1) & 0xFF

    def recv_into(self, room: bytearray | memoryview) -> int:
        """Bytes written into `room`; 0 at the end. As non-blocking as the socket is."""
        view = memoryview(room)
        while not self._left:
            piece = self._reader.next_piece()
            if piece is None:
                count = self._socket.recv_into(self._room)
                if not count:
                    return 0
                self._reader.feed(memoryview(self._room)[:count])
            else:
                self._left = memoryview(piece)
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def read(self, count: int) -> bytes:
        """Exactly so many bytes from a blocking socket, fewer only at the end."""
        data = bytearray(count)
        have = 0
        while have < count:
            came = self.recv_into(memoryview(data)[have:])
            if not came:
                break
            have += came
        return bytes(data[:have])

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def fileno(self) -> int:
        return self._socket.fileno()

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()
