"""Asking a member something: one connection, one question, one answer.

This is the asking side, also for who is no member yet and knows an address only (a node that
joins). What it must not know: what the methods mean.
"""

import ssl
from dataclasses import dataclass

import trio

from kingbus import __version__
from kingbus.pb import peer_pb2
from kingbus.transport.codec import (
    CALL_LIMITS,
    HELLO_LIMITS,
    PROTOCOL,
    Frame,
    FrameBuffer,
    FrameType,
    encode_frame,
    parse_body,
)
from kingbus.transport.connection import LINK_ERRORS, Connection, Dial, dial
from kingbus.transport.errors import FrameError, HelloRefusedError, PeerUnreachableError
from kingbus.transport.hello import Lane

BODY_BYTES_MAX = 1 << 20  # the admin API's own limit, whose requests are forwarded this way
DIAL_SECONDS_MAX = 2.0  # a connection in a cluster's network takes milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReply:
    """An answer: `status` is 200 or an HTTP-like code, then `message` says why."""

    status: int
    message: str = ""
    body: bytes = b""


def stranger_hello() -> peer_pb2.Hello:
    """The hello of who belongs to no cluster yet."""
    return peer_pb2.Hello(protocol=PROTOCOL, lane=Lane.CALL.value, version=__version__)


async def call_url(
    url: str,
    method: str,
    body: bytes = b"",
    *,
    timeout_seconds: float,
    hello: peer_pb2.Hello | None = None,
    ssl_context: ssl.SSLContext | None = None,
    dial: Dial = dial,
) -> CallReply:
    """Ask whoever listens at a peer URL.

    HelloRefusedError when it does not talk to us; PeerUnreachableError when there is no
    connection, no answer in time, or nonsense: whether the call was received is then unknown,
    unless it was not even sent.
    """
    if len(body) > BODY_BYTES_MAX:
        return CallReply(status=413, message=f"body of {len(body)} bytes is above 1 MiB")
    seconds = min(timeout_seconds, DIAL_SECONDS_MAX)
    was_sent = False
    try:
        with trio.fail_after(timeout_seconds):
            connection = await dial(url, timeout_seconds=seconds, ssl_context=ssl_context)
            try:
                await greet(connection, hello or stranger_hello(), seconds)
                was_sent = True
                return await _ask(connection, method, body, timeout_seconds)
            finally:
                await connection.aclose()
    except (HelloRefusedError, PeerUnreachableError):
        raise
    except trio.TooSlowError:
        if was_sent:
            problem = f"no answer within {timeout_seconds:g} s"
        else:
            problem = f"connected, but no answer within {seconds:g} s"
        raise PeerUnreachableError(f"{url}: {problem}", was_sent=was_sent) from None
    except LINK_ERRORS as error:
        problem = str(error) or type(error).__name__
        raise PeerUnreachableError(f"{url}: {problem}", was_sent=was_sent) from None


async def greet(connection: Connection, hello: peer_pb2.Hello, timeout_seconds: float) -> None:
    """Send the hello and await the reply; HelloRefusedError with the other side's reason."""
    await connection.send([encode_frame(FrameType.HELLO, hello)], stall_seconds=timeout_seconds)
    with trio.fail_after(timeout_seconds):
        frame = await receive_one(connection, FrameBuffer(HELLO_LIMITS))
    reply = parse_body(peer_pb2.HelloReply(), frame.body)
    if frame.type is not FrameType.HELLO_REPLY:
        raise FrameError(f"{frame.type.name} came instead of an answer to the hello")
    if not reply.accepted:
        raise HelloRefusedError(reply.code, reply.reason)


async def _ask(
    connection: Connection, method: str, body: bytes, timeout_seconds: float
) -> CallReply:
    question = encode_frame(FrameType.CALL, peer_pb2.Call(method=method, body=body))
    await connection.send([question], stall_seconds=timeout_seconds)
    frame = await receive_one(connection, FrameBuffer(CALL_LIMITS))
    if frame.type is not FrameType.CALL_REPLY:
        raise FrameError(f"{frame.type.name} came instead of a reply")
    reply = parse_body(peer_pb2.CallReply(), frame.body)
    return CallReply(status=reply.status, message=reply.message, body=reply.body)


async def receive_one(connection: Connection, buffer: FrameBuffer) -> Frame:
    """The next frame, with nothing behind it; FrameError otherwise or at the end of the stream."""
    while True:
        count = await connection.receive_into(buffer.space())
        if count == 0:
            raise FrameError("the connection was closed")
        frames = buffer.received(count)
        if frames:
            if len(frames) > 1 or buffer.pending_bytes:
                raise FrameError("more came than was asked for")
            return frames[0]
