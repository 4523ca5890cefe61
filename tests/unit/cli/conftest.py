"""A running admin API of a pair of members, for commands to talk to."""

import threading
from collections.abc import Iterator
from typing import Self

import pytest
import trio

from kingbus.addresses import Address
from kingbus.admin.access import Access
from kingbus.admin.app import create_app
from kingbus.admin.serving import bound_address, listen, serve_http
from kingbus.secrets import Secret
from tests.unit.admin.fakes import Pair


class RunningApi:
    """n2's admin API (a follower's), over HTTP, in a thread."""

    def __init__(self, token: str = "") -> None:
        self.pair = Pair()
        access = Access(token=Secret(token)) if token else Access()
        self._app = create_app(self.pair.n2.operations, version="1.2.3", access=access)
        self._socket = listen(Address(host="127.0.0.1", port=0), what="admin-url")
        self.url = f"http://{bound_address(self._socket)}"
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_http, self._app, self._socket, self._stop)
            self._started.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningApi]:
    with RunningApi() as running:
        monkeypatch.setenv("KINGBUS_ADMIN", running.url)
        yield running
