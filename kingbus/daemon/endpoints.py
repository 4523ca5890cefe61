"""The admin API and the metrics over HTTP, and where the admin API is reached.

Owns who may use them, by the configuration, and their stop. Must not know what is answered.
"""

from collections.abc import Callable

import trio

from kingbus import __version__
from kingbus.admin.access import Access
from kingbus.admin.app import create_app
from kingbus.admin.operations import Operations
from kingbus.admin.serving import bound_address, metrics_app, serve_http
from kingbus.daemon.options import Options
from kingbus.daemon.sockets import Sockets


class Endpoints:
    """On sockets that listen already; `run` takes those for HTTP over."""

    def __init__(self, options: Options, sockets: Sockets) -> None:
        self._options = options
        self._sockets = sockets
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self.admin_url = self._real_admin_url()

    def _real_admin_url(self) -> str:
        """Where the admin API is reached: as configured, unless it had to listen elsewhere."""
        config, bound = self._options.config, bound_address(self._sockets.admin)
        as_configured = config.admin_listen == config.admin_url.address
        if as_configured and bound.port == config.admin_url.address.port:
            return str(config.admin_url)
        return f"http://{bound}"

    async def run(
        self,
        operations: Operations,
        refresh_metrics: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve until `stop`; a request's errors end that request only."""
        app = create_app(operations, version=__version__, access=self._access())
        prometheus = metrics_app(refresh_metrics)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_http, app, self._sockets.admin, self._stop)
            await nursery.start(serve_http, prometheus, self._sockets.metrics, self._stop)
            task_status.started()
        self._stopped.set()

    async def stop(self) -> None:
        """Accept no more, and wait for the replies under way."""
        self._stop.set()
        await self._stopped.wait()

    def _access(self) -> Access:
        config, credentials, hosts = self._options.config, self._options.credentials, None
        if credentials.token is None and not config.auth.insecure:
            hosts = frozenset({"localhost", config.admin_url.address.host.lower()})
        return Access(token=credentials.token, read_token=credentials.read_token, hosts=hosts)
