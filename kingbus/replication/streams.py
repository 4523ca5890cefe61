"""The byte streams of replica-facing connections: TLS, and sends that leave packets whole.

Owns: starting TLS on a connection that has already been talked on, and `SendingSink`, through
which a dump writes. Knows nothing of the protocol's packets but that a buffer holds whole ones.
"""

import ssl
from typing import Protocol

import trio

SEND_SECONDS_MAX = 600.0
"""One buffer of a dump is at most 16 MiB: a replica that has not taken it after ten minutes (it
paused, or its link is slower than 28 kB/s) is better served by connecting again."""

FINISH_SECONDS_MAX = 1.0
"""When a dump is ended in the middle of a buffer, the rest of it may take so long: only between
packets can an error packet follow that tells the replica why."""


class Stream(Protocol):
    """What is needed of a connection, plain or TLS."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def aclose(self) -> None: ...


class _Preceded(trio.abc.Stream):
    """A stream of which some bytes were read already."""

    def __init__(self, stream: Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._first:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._first)
            data, self._first = self._first[:size], self._first[size:]
            return data
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def accept_tls(stream: Stream, context: ssl.SSLContext, *, unread: bytes) -> Stream:
    """TLS over a stream, as its server; `unread` is what already came of the client's hello.

    Raises trio.BrokenResourceError where the handshake fails.
    """
    secure = trio.SSLStream(
        _Preceded(stream, unread), context, server_side=True, https_compatible=True
    )
    await secure.do_handshake()
    return secure


class SendingSink:
    """Where a dump writes. Each buffer holds whole packets, already numbered.

    A cancellation does not cut a packet in two: the buffer under way is finished first. Whoever
    cancels calls `hurry`, which leaves it a second. `is_broken` tells that this did not work out.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sending: trio.CancelScope | None = None
        self._seconds_max = SEND_SECONDS_MAX
        self.is_broken = False

    @property
    def connection(self) -> trio.socket.SocketType | None:
        """The socket, where what is sent goes to it as it is; None under TLS."""
        return self._stream.socket if isinstance(self._stream, trio.SocketStream) else None

    async def send(self, buffers: bytes | bytearray | memoryview) -> None:
        """Send a buffer. Raises trio.BrokenResourceError when the client is gone or too slow."""
        self.is_broken = True
        deadline = trio.current_time() + self._seconds_max
        with trio.CancelScope(shield=True, deadline=deadline) as self._sending:
            await self._stream.send_all(buffers)
            self.is_broken = False
        self._sending = None
        if self.is_broken:
            raise trio.BrokenResourceError("the client did not take the buffer in time")
        await trio.lowlevel.checkpoint_if_cancelled()

    def hurry(self) -> None:
        """The dump is being ended: what is under way has little time left, the rest of a packet
        that is given in two parts included.
        """
        self._seconds_max = FINISH_SECONDS_MAX
        if self._sending is not None:
            deadline = trio.current_time() + FINISH_SECONDS_MAX
            self._sending.deadline = min(self._sending.deadline, deadline)
