"""One connection to a peer: receive into a buffer, send a list of buffers, both without copies.

Plain sockets use recv_into and sendmsg; a TLS stream copies, as TLS must. The kernel's own tuning
of socket buffers is left alone: setting SO_SNDBUF would cap it at net.core.wmem_max, mostly some
200 KiB, where the tuning reaches 4 MiB. Any other stream of trio's will do as well, if somebody
dials in his own way (`Dial`). What this module must not know: what the bytes mean.
"""

import errno
import socket
import ssl
from collections.abc import Sequence
from typing import Protocol

import trio

from kingbus.membership.member import PeerAddress
from kingbus.transport.codec import Buffer, drop_sent
from kingbus.transport.errors import AddressInUseError, PeerUnreachableError, TransportError

IOV_MAX = 512  # Linux takes 1024 buffers in one sendmsg
BACKLOG = 128

LINK_ERRORS = (
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    TransportError,
)
"""Whatever ends a connection but concerns nobody else."""


class Connection:
    """A connected stream; one task may send while another receives."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.peer_name = "a peer"
        raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        if isinstance(raw, trio.SocketStream):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peer_name = _name(raw.socket)

    async def receive_into(self, space: memoryview) -> int:
        """Receive at least one byte; 0 at the end of the stream."""
        if isinstance(self._stream, trio.SocketStream):
            return await self._stream.socket.recv_into(space)
        data = await self._stream.receive_some(len(space))
        space[: len(data)] = data
        return len(data)

    async def send(self, buffers: Sequence[Buffer], *, stall_seconds: float) -> None:
        """Send all of it; trio.TooSlowError when nothing moves for `stall_seconds`."""
        rest = list(buffers)
        if not isinstance(self._stream, trio.SocketStream):
            for buffer in rest:
                with trio.fail_after(stall_seconds):
                    await self._stream.send_all(buffer)
            return
        while rest:
            with trio.fail_after(stall_seconds):
                sent = await self._stream.socket.sendmsg(rest[:IOV_MAX])
            rest = drop_sent(rest, sent)

    async def aclose(self) -> None:
        """Close at once; nothing is said goodbye to."""
        await trio.aclose_forcefully(self._stream)


def _name(connected: trio.socket.SocketType) -> str:
    try:
        host, port = connected.getpeername()[:2]
    except OSError:
        return "a peer that is gone"
    return f"{host}:{port}"


class Dial(Protocol):
    """Connects to a peer URL; PeerUnreachableError names it and says why not."""

    async def __call__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        ssl_context: ssl.SSLContext | None = None,
    ) -> Connection: ...


async def dial(
    url: str, *, timeout_seconds: float, ssl_context: ssl.SSLContext | None = None
) -> Connection:
    """Connect over TCP; see Dial."""
    address = PeerAddress.parse(url)
    if address.scheme == "https" and ssl_context is None:
        raise PeerUnreachableError(f"{url}: no TLS is configured between peers")
    try:
        with trio.fail_after(timeout_seconds):
            stream = await trio.open_tcp_stream(address.host, address.port)
            try:
                return await _dialled(stream, address, ssl_context)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError:
        raise PeerUnreachableError(f"{url}: no connection within {timeout_seconds:g} s") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise PeerUnreachableError(f"{url}: {_reason(error)}") from None


async def _dialled(
    stream: trio.SocketStream, address: PeerAddress, ssl_context: ssl.SSLContext | None
) -> Connection:
    if address.scheme == "http":
        return Connection(stream)
    assert ssl_context is not None
    secured = trio.SSLStream(stream, ssl_context, server_hostname=address.host)
    await secured.do_handshake()
    return Connection(secured)


def _reason(error: BaseException) -> str:
    inner = error.__cause__ or error
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    # trio repeats the address, which stands before the reason already.
    return text.rpartition("): ")[2] if text.startswith("Error connecting to") else text


async def accept_tls(stream: trio.SocketStream, ssl_context: ssl.SSLContext) -> Connection:
    """The server's half of a TLS handshake."""
    secured = trio.SSLStream(stream, ssl_context, server_side=True)
    await secured.do_handshake()
    return Connection(secured)


async def open_listener(host: str, port: int) -> trio.SocketListener:
    """Listen on one address; AddressInUseError or TransportError says why not."""
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(f"listen on {host}:{port}: address already in use") from None
        raise TransportError(f"listen on {host}:{port}: {_reason(error)}") from None
    for extra in listeners[1:]:  # a name with several addresses: the first one is enough
        await extra.aclose()
    return listeners[0]
