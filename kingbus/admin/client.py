"""The other end of the admin API, for the command line: one request, its data or one clear error.

Synchronous: a command asks and prints. It must not know how the facts are shown.
"""

import json
from collections.abc import Mapping
from typing import Any, Self

import httpx

from kingbus.errors import KingbusError
from kingbus.secrets import Secret

CONNECT_SECONDS_MAX = 5.0
# A source check takes 10 s, and a change without a leader waits for one.
REPLY_SECONDS_MAX = 40.0


class AdminApiError(KingbusError):
    """The API could not be reached or refused; `status` is 0 when there was no reply."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class AdminClient:
    """Talks to one node's admin API."""

    def __init__(
        self,
        url: str,
        *,
        token: Secret | None = None,
        hint: str = "is the node running, and is --admin its admin-url?",
    ) -> None:
        """`hint` is for when nobody answers at the URL: what the caller took it from."""
        self.url = url.rstrip("/")
        self._hint = hint
        headers = {"authorization": f"Bearer {token.reveal()}"} if token is not None else {}
        try:
            self._client = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(REPLY_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
                verify=self.url.startswith("https:"),  # loading certificates takes 0.1 s
                trust_env=False,  # a proxy of the environment has no business here
            )
        except httpx.InvalidURL as error:
            raise AdminApiError(f"admin URL {url!r}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(
        self, method: str, path: str, body: object = None, *, seconds: float = REPLY_SECONDS_MAX
    ) -> Any:
        """The reply's data. Raises AdminApiError with the node's own words.

        `seconds` is how long the reply is waited for.
        """
        return self._data(self._request(method, path, body, seconds))

    def fetch(self, path: str) -> tuple[bytes, Mapping[str, str]]:
        """What a route answers that does not answer in JSON, with the reply's headers."""
        reply = self._request("GET", path, None, REPLY_SECONDS_MAX)
        if reply.status_code >= 400:
            self._data(reply)
        return reply.content, reply.headers

    def _request(self, method: str, path: str, body: object, seconds: float) -> httpx.Response:
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS_MAX)
        try:
            return self._client.request(method, path, json=body, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AdminApiError(
                f"admin API {self.url}: {error or type(error).__name__}",
                hint=self._hint,
            ) from error

    def _data(self, reply: httpx.Response) -> Any:
        try:
            content = reply.json()
        except json.JSONDecodeError:
            content = None
        if not isinstance(content, dict) or "message" not in content:
            raise AdminApiError(
                f"{self.url} answered {reply.status_code}, but not as kingbus does",
                status=reply.status_code,
            )
        if reply.status_code >= 400:
            raise AdminApiError(
                content["message"], status=reply.status_code, hint=content.get("hint") or ""
            )
        return content.get("data")
