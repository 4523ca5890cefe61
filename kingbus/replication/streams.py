"""The byte streams of replica-facing connections: TLS, and sends that leave packets whole.

Owns: starting TLS on a connection that has already been talked on, and `SendingSink`, through
which a dump writes. Knows nothing of the protocol's packets but that a buffer holds whole ones.
"""

import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Protocol

import trio

from kingbus.errors import KingbusError
from kingbus.storage.errors import StorageError

SEND_SECONDS_MAX = 600.0
"""One buffer of a dump is at most 16 MiB: a replica that has not taken it after ten minutes (it
paused, or its link is slower than 28 kB/s) is better served by connecting again."""

FINISH_SECONDS_MAX = 1.0
"""When a dump is ended in the middle of a buffer, the rest of it may take so long: only between
packets can an error packet follow that tells the replica why."""


TURN_BYTES = 1 << 20
"""Sent in one turn of the loop: about 0.3 ms from a file, as much as a send from memory takes."""

AT_ONCE_BYTES_MAX = 64 << 10
"""Of a buffer: what waiting dumps get, mostly, fits in; larger ones are worth a stream's ways."""

TLS_BYTES = 512 << 10
"""Encrypted at once: what a dump sends at once but for the largest packets, of which each
connection would hold two copies, and one for as long as it is open."""

SAMPLE_BYTES = 64 << 10
"""Between two looks whether a file's pages are in memory. The kernel reads and forgets them in
larger pieces; where it did not, the loop waits for the disk once."""


class Stream(Protocol):
    """What is needed of a connection, plain or TLS."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def aclose(self) -> None: ...


class PacketFile(Protocol):
    """Whole packets in a file. `length` is in bytes."""

    @property
    def length(self) -> int: ...

    def opened(self, *, may_block: bool) -> AbstractContextManager[tuple[int, int]]:
        """A descriptor, and where in it they begin. Any thread.

        KingbusError; BlockingIOError when it would block and may not.
        """
        ...


class FileNotSendableError(KingbusError):
    """Packets have to come through memory here, for example on some network file systems."""


_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ESPIPE})
"""What `sendfile` says of files, or sockets, that it does not serve."""


class InThread(Protocol):
    """Runs what blocks in a worker thread, and waits for its end whatever happens."""

    async def __call__(self, function: Callable[[], bool]) -> bool: ...


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


class _Secure:
    """TLS, which encrypts all that it is given before any of it is sent."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if len(data) <= TLS_BYTES:
            await self._stream.send_all(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), TLS_BYTES):
            await self._stream.send_all(view[start : start + TLS_BYTES])

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
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
    return _Secure(secure)


class SendingSink:
    """Where a dump writes. Each buffer holds whole packets, already numbered.

    A cancellation does not cut a packet in two: the buffer under way is finished first. Whoever
    cancels calls `hurry`, which leaves it a second. `is_broken` tells that this did not work out.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sending: trio.CancelScope | None = None
        self._seconds_max = SEND_SECONDS_MAX
        self._sent_at_once = 0  # since the other tasks had their turn
        self.is_broken = False

    @property
    def connection(self) -> trio.socket.SocketType | None:
        """The socket, where what is sent goes to it as it is; None under TLS."""
        return self._stream.socket if isinstance(self._stream, trio.SocketStream) else None

    async def send(self, buffers: bytes | bytearray | memoryview) -> None:
        """Send a buffer. Raises trio.BrokenResourceError when the client is gone or too slow."""
        sent = self._at_once(buffers)
        self._sent_at_once += sent
        if sent < len(buffers):
            await self._whole(partial(self._stream.send_all, memoryview(buffers)[sent:]))
        elif self._sent_at_once < TURN_BYTES:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._sent_at_once = 0
            await trio.lowlevel.checkpoint()

    def _at_once(self, buffer: bytes | bytearray | memoryview) -> int:
        """Bytes of a small buffer that the socket takes now, which are all unless it is full.

        Where a thousand replicas wait for each transaction, the ways of a stream cost more.
        """
        connection = self.connection
        if connection is None or len(buffer) > AT_ONCE_BYTES_MAX:
            return 0
        try:
            return os.write(connection.fileno(), buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.is_broken = True
            raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def send_file(self, packets: PacketFile, in_thread: InThread) -> None:
        """The same with packets that lie in a file; only where there is a `connection`.

        Raises also the KingbusErrors of opening it: then nothing was sent.
        """
        connection = self.connection
        assert connection is not None
        sending = _FromFile(packets, connection)
        try:
            await self._whole(partial(sending.run, in_thread))
        except KingbusError:
            self.is_broken = sending.has_begun
            raise
        finally:
            sending.close()

    async def _whole(self, send: Callable[[], Awaitable[None]]) -> None:
        self.is_broken = True
        deadline = trio.current_time() + self._seconds_max
        with trio.CancelScope(shield=True, deadline=deadline) as self._sending:
            await send()
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


class _FromFile:
    """Packets on their way from a file to a socket, without coming into this process's memory.

    What lies in the operating system's memory is sent from the event loop: a thread's turn takes
    about as long as a batch. Everything else is sent in a thread, which may wait for the disk; if
    it gets to the end it also closes the file, as the last close of a removed one takes time.
    """

    def __init__(self, packets: PacketFile, connection: trio.socket.SocketType) -> None:
        self.has_begun = False
        self._packets = packets
        self._connection = connection
        self._stack = ExitStack()
        self._file = -1
        self._offset = 0
        self._left = packets.length

    async def run(self, in_thread: InThread) -> None:
        """All of them."""
        while True:
            if self._is_in_memory():
                is_full = self._send(min(self._left, TURN_BYTES))
                await trio.lowlevel.checkpoint()
            else:
                is_full = await in_thread(self._send_rest)
            if not self._left:
                return
            if is_full:
                await trio.lowlevel.wait_writable(self._connection)

    def close(self) -> None:
        self._stack.close()

    def _is_in_memory(self) -> bool:
        """Whether what would be sent next is, as far as samples tell."""
        try:
            if self._file < 0:
                self._open(may_block=False)
            end = self._offset + min(self._left, TURN_BYTES)
            for at in (*range(self._offset, end, SAMPLE_BYTES), end - 1):
                os.preadv(self._file, [_SAMPLE], at, os.RWF_NOWAIT)
        except OSError:
            return False  # a file system that cannot tell included; what is wrong the thread says
        return True

    def _open(self, *, may_block: bool) -> None:
        opened = self._packets.opened(may_block=may_block)
        self._file, self._offset = self._stack.enter_context(opened)

    def _send_rest(self) -> bool:
        """All that the socket takes, in a thread; whether it is full."""
        if self._file < 0:
            self._open(may_block=True)
        is_full = self._send(self._left)
        if not self._left:
            self._stack.close()
        return is_full

    def _send(self, size: int) -> bool:
        """Up to `size` bytes; whether the socket is full."""
        try:
            while size:
                sent = os.sendfile(self._connection.fileno(), self._file, self._offset, size)
                if not sent:
                    raise StorageError("a segment ends where packets should be")
                self.has_begun = True
                self._offset += sent
                self._left -= sent
                size -= sent
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in _NO_SENDFILE and not self.has_begun:
                raise FileNotSendableError(
                    f"the system does not send this file to a socket: {error}"
                ) from error
            if error.errno == errno.EIO:
                raise StorageError(f"cannot read packets of a segment: {error}") from error
            raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
        return False


_SAMPLE = bytearray(1)
"""Where samples are read to; nobody looks at it."""
