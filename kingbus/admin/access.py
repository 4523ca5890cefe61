"""Who may use the admin API, and how large a request may be: a layer of ASGI around the app.

Without a token the API listens on loopback only, so what threatens it there is a browser: requests
of other origins, and host names that an attacker points to 127.0.0.1. Both are refused. With a
token, every route but `/health` and `/ready` needs it (`Authorization: Bearer ...`); tokens are
compared in constant time. A read token may only read. Bodies are read whole before the app runs,
within a size and a time, so that nothing behind this layer waits for a slow client.
"""

import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import trio

from kingbus import metrics
from kingbus.log import get_logger
from kingbus.secrets import Secret

_log = get_logger("admin")

BODY_BYTES_MAX = 1 << 20  # pinned; a GTID set of 100,000 intervals fits
BODY_SECONDS_MAX = 30.0  # a megabyte at modem speed; slower is not a client
OPEN_PATHS = frozenset({"/health", "/ready"})  # load balancers have no tokens
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Tokens, and the host names that a browser may have asked for (None: any)."""

    token: Secret | None = None
    read_token: Secret | None = None
    hosts: frozenset[str] | None = None

    def refuse(self, method: str, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Status and reason when the request is not allowed; None when it is."""
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2] != host:
            return 403, "requests from pages of other origins are refused"
        if self.hosts is not None and not _is_host(host, self.hosts):
            return 403, "this host name is not the admin API's; use its address"
        if self.token is None or path in OPEN_PATHS:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not given:
            return 401, "a bearer token is needed"
        if _same(given, self.token):
            return None
        if self.read_token is not None and _same(given, self.read_token):
            return None if method in _READING else (403, "this token may only read")
        return 401, "the token is wrong"


def _same(given: bytes, token: Secret) -> bool:
    return secrets.compare_digest(given.strip(), token.reveal().encode())


def _is_host(header: str, allowed: frozenset[str]) -> bool:
    """An IP address cannot be re-pointed by anybody's DNS; a name must be a known one."""
    host = header
    if header.startswith("["):
        host = header[1:].partition("]")[0]
    elif header.count(":") == 1:
        host = header.partition(":")[0]
    if not host or host.lower() in allowed:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _TooLargeError(Exception):
    pass


class Guard:
    """The outermost ASGI layer: access, body limits, and a JSON answer to whatever escapes."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                metrics.ADMIN_REQUESTS.labels(scope["method"], str(message["status"])).inc()
            await send(message)

        try:
            await self._guarded(scope, receive, note_start)
        except Exception:  # noqa: BLE001 - a request's error ends that request only
            _log.exception("request failed", method=scope["method"], path=scope["path"])
            if not started:
                await _answer(note_start, 500, "internal error; the log tells more")

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        refusal = self._access.refuse(scope["method"], scope["path"], headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > BODY_BYTES_MAX:
            await _answer(send, 413, f"the body is larger than {BODY_BYTES_MAX} bytes")
            return
        try:
            with trio.fail_after(BODY_SECONDS_MAX):
                body = await _read_body(receive)
        except _TooLargeError:
            await _answer(send, 413, f"the body is larger than {BODY_BYTES_MAX} bytes")
            return
        except trio.TooSlowError:
            await _answer(send, 400, f"the body did not arrive within {BODY_SECONDS_MAX:.0f} s")
            return
        if body is None:
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(_as_json(scope), replay, send)


def _as_json(scope: Scope) -> Scope:
    """The request with JSON as its content type: `curl -d` says that it is a form.

    The type that a browser lets a page send without asking first guards nothing here; pages of
    other origins are refused before.
    """
    others = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-type"]
    return {**scope, "headers": [*others, (b"content-type", b"application/json")]}


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client is gone."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise _TooLargeError
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"message": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="kingbus"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
