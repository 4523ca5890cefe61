"""Frames between a node and a worker: a length and a protobuf message, perhaps a descriptor.

Owns the socket pair's bytes, the limits, and the passing of descriptors (SCM_RIGHTS). Knows no
message. A descriptor leaves with the first byte of its frame and is kept, in order, until the
frame that it belongs to is handed out, so it does not matter how the bytes are cut on the way.
"""

import array
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final, Generic, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from kingbus.errors import KingbusError

FRAME_BYTES_MAX: Final = 64 << 20
"""The largest there is: 256 rows, or all file names of a node; each may have some GTID sets."""
TAKE_SECONDS_MAX: Final = 30.0
"""Whoever does not take a frame for so long hangs. Far longer than any stall of a loop."""
RECEIVE_BYTES: Final = 256 << 10
DESCRIPTORS_MAX: Final = 64
"""In one receive; each belongs to a frame, of which the system does not glue that many."""

_LENGTH_BYTES = 4
_In = TypeVar("_In", bound=Message)
_Out = TypeVar("_Out", bound=Message)


class ChannelError(KingbusError):
    """The other side cannot be talked to any more."""


class Channel(Generic[_Out, _In]):
    """One end. `send` from any task; `frames` in one only."""

    def __init__(self, end: socket.socket, receives: type[_In]) -> None:
        """Takes over the socket, one of a pair of streams."""
        end.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(end)
        self._receives = receives
        self._sending = trio.Lock()  # fair: who comes first sends first
        self._descriptors: deque[int] = deque()
        self._is_broken = False

    async def send(
        self,
        message: _Out,
        *,
        descriptor: int | None = None,
        before: Callable[[], _Out | None] = lambda: None,
    ) -> None:
        """Send a frame whole, or, when cancelled before it begins, nothing.

        `before` is asked when it is this frame's turn: what it gives goes out first. Raises
        ChannelError when the other side is gone or takes nothing.
        """
        async with self._sending:
            first = before()
            frames = _framed(first) if first is not None else b""
            await self._send_all(frames)
            await self._send_all(_framed(message), descriptor)

    async def send_first(self, before: Callable[[], _Out | None]) -> None:
        """Send what `before` gives when it is its turn, if anything."""
        async with self._sending:
            message = before()
            if message is not None:
                await self._send_all(_framed(message))

    async def _send_all(self, data: bytes, descriptor: int | None = None) -> None:
        left = memoryview(data)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + TAKE_SECONDS_MAX):
            try:
                while left and not self._is_broken:
                    control = []
                    if descriptor is not None:
                        rights = array.array("i", [descriptor])
                        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    sent = await self._socket.sendmsg([left], control)
                    left, descriptor = left[sent:], None
            except (OSError, trio.ClosedResourceError):
                self._is_broken = True
        if left:
            self._is_broken = True  # half a frame may be out
            raise ChannelError("the other side is gone, or does not take what is sent")

    async def frames(self) -> AsyncGenerator[_In, None]:
        """What comes, until the other side closes. ChannelError for what is no frame."""
        buffer = bytearray()
        while True:
            while len(buffer) >= _LENGTH_BYTES:
                size = int.from_bytes(buffer[:_LENGTH_BYTES], "little")
                if size > FRAME_BYTES_MAX:
                    raise ChannelError(f"a frame of {size} bytes; {FRAME_BYTES_MAX} are allowed")
                end = _LENGTH_BYTES + size
                if len(buffer) < end:
                    break
                body = bytes(buffer[_LENGTH_BYTES:end])
                del buffer[:end]
                try:
                    message = self._receives.FromString(body)
                except DecodeError as error:
                    raise ChannelError(f"a frame that does not decode: {error}") from None
                yield message
            if not await self._receive(buffer):
                return

    async def _receive(self, buffer: bytearray) -> bool:
        """More bytes, and the descriptors that came with them; False at the end."""
        space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
        try:
            data, control, flags, _ = await self._socket.recvmsg(
                RECEIVE_BYTES, space, socket.MSG_CMSG_CLOEXEC
            )
        except (OSError, trio.ClosedResourceError):
            return False
        for level, kind, rights in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                got = array.array("i")
                got.frombytes(rights[: len(rights) - len(rights) % got.itemsize])
                self._descriptors.extend(got)
        if flags & socket.MSG_CTRUNC:
            raise ChannelError("a descriptor was lost on the way: too many files are open")
        buffer += data
        return bool(data)

    def take_descriptor(self) -> int:
        """The descriptor that came with the frame at hand; ChannelError when none did."""
        if not self._descriptors:
            raise ChannelError("a frame without the descriptor that belongs to it")
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close it, and what nobody took."""
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())


def _framed(message: Message) -> bytes:
    body = message.SerializeToString()
    if len(body) > FRAME_BYTES_MAX:
        raise ChannelError(f"a frame of {len(body)} bytes; {FRAME_BYTES_MAX} are allowed")
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body
