"""Listening for HTTP: sockets that we open, served by hypercorn's trio worker.

Opening the socket here gives one clear line when a port is in use, and lets port 0 be told. Used
for the admin API and for the metrics endpoint.
"""

import logging
import socket
from collections.abc import Callable
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from kingbus import metrics
from kingbus.addresses import Address
from kingbus.admin.access import App, Receive, Scope, Send
from kingbus.errors import KingbusError

BACKLOG = 64  # operators and scrapers, not users
HEADER_BYTES_MAX = 64 << 10
IDLE_SECONDS_MAX = 75.0
SHUTDOWN_SECONDS_MAX = 1.0  # replies under way; the whole stop has 10 s


class ListenError(KingbusError):
    """An address that cannot be listened on."""


def listen(address: Address, *, what: str) -> socket.socket:
    """A listening socket. Raises ListenError: `listen on A: address already in use`."""
    opened = bind(address, what=what)
    start_listening(opened, address, what=what)
    return opened


def start_listening(opened: socket.socket, address: Address, *, what: str) -> None:
    """Let a bound socket accept; it is closed when that fails. Raises ListenError."""
    try:
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        reason = (error.strerror or str(error)).lower()
        raise ListenError(f"{what}: listen on {address}: {reason}") from error


def bind(address: Address, *, what: str) -> socket.socket:
    """A bound socket that does not accept yet: who connects is refused. Raises ListenError."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError(f"{what}: listen on {address}: {error.strerror}") from error
    family, kind, protocol, _, place = found[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        reason = (error.strerror or str(error)).lower()
        raise ListenError(f"{what}: listen on {address}: {reason}") from error
    return opened


def bound_address(opened: socket.socket) -> Address:
    """Where a socket really listens."""
    host, port = opened.getsockname()[:2]
    return Address(host=host, port=port)


async def serve_http(
    app: App,
    opened: socket.socket,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set; takes the socket over. A request's error ends that request."""
    config = Config()
    config.bind = [f"fd://{opened.detach()}"]
    config.backlog = BACKLOG
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.keep_alive_timeout = IDLE_SECONDS_MAX
    config.graceful_timeout = SHUTDOWN_SECONDS_MAX
    config.shutdown_timeout = SHUTDOWN_SECONDS_MAX
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    config.errorlog.setLevel(logging.WARNING)
    config.accesslog = None
    async with trio.open_nursery() as nursery:
        await nursery.start(_hypercorn, app, config, stop)
        task_status.started()


async def _hypercorn(
    app: App,
    config: Config,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:
    await hypercorn_serve(
        cast("Any", app), config, shutdown_trigger=stop.wait, task_status=task_status
    )


def metrics_app(refresh: Callable[[], None]) -> App:
    """The application of `metrics-addr`: `/metrics` and nothing else. `refresh` sets gauges."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            return
        found = scope["path"] == "/metrics" and scope["method"] in {"GET", "HEAD"}
        if found:
            refresh()
        body = metrics.exposition() if found else b'{"message": "only GET /metrics is here"}'
        kind = metrics.CONTENT_TYPE if found else "application/json"
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        status = 200 if found else 404
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    return app
