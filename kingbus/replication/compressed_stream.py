"""A connection whose bytes travel in compressed frames, once both sides agreed on that.

Owns the numbers of the frames and where the work is done: what is small on the event loop, the
rest in a worker thread, as compressing releases the interpreter. Knows nothing of packets.
"""

from typing import Final

import trio

from kingbus.mysql.compression import BytesLike, Codec, FrameReader, encode_frame, pieces
from kingbus.replication.streams import Stream

AT_ONCE_BYTES: Final = 16 << 10
"""Compressed on the loop: about 0.03 ms, less than a thread's turn takes."""

COMPRESSING_MAX: Final = 4
"""Threads of all connections together; more would only take turns on the cores."""

_threads = trio.CapacityLimiter(COMPRESSING_MAX)


class CompressedStream:
    """Implements `streams.Stream`. One task may send while another one receives."""

    def __init__(self, stream: Stream, codec: Codec) -> None:
        self._stream = stream
        self._codec = codec
        self._reader = FrameReader(codec)
        self._sequence = 0

    def answer_follows(self) -> None:
        """What is sent from now on answers what was received last, and is numbered after it."""
        self._sequence = self._reader.next_sequence

    async def send_all(self, data: BytesLike) -> None:
        """Each call sends whole frames, so what was sent can be read without what follows."""
        for piece in pieces(data):
            if len(piece) <= AT_ONCE_BYTES:
                frame = encode_frame(self._codec, piece, self._sequence)
            else:
                frame = await trio.to_thread.run_sync(
                    encode_frame, self._codec, piece, self._sequence, limiter=_threads
                )
            self._sequence = (self._sequence + 1) & 0xFF
            await self._stream.send_all(frame)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """What the next frame holds, however much that is; empty at the end of the stream.

        Raises ProtocolError for what is no frame.
        """
        while True:
            piece = self._reader.next_piece()
            if piece:
                return piece
            if piece is None:
                data = await self._stream.receive_some(max_bytes)
                if not data:
                    return b""
                self._reader.feed(data)

    async def aclose(self) -> None:
        await self._stream.aclose()
