"""Everything that one test starts, behind one door that also ends it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import processes
from tests.support.cluster import KingbusCluster, KingbusNode
from tests.support.installations import MARIADB, Installation
from tests.support.mariadb import MariaDBServer
from tests.support.proxy import Proxy
from tests.support.servers import MySQLServer


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Starts what a test needs, by one door, and ends all of it."""

    directory: Path
    started: list[Any]

    def server(
        self, installation: Installation, name: str, *, server_id: int, **options: Any
    ) -> MySQLServer:
        """A running server, of the class that the installation needs."""
        kind = MariaDBServer if installation.name == MARIADB else MySQLServer
        server = kind(installation, self.directory / name, server_id=server_id, **options)
        self.started.append(server)
        return server.start()

    def cluster(
        self, *, count: int = 3, directory: str = "cluster", **settings: Any
    ) -> KingbusCluster:
        """A running cluster with a leader; settings are configuration keys with `_` for `-`.

        A second one needs a directory of its own.
        """
        keys = {key.replace("_", "-"): value for key, value in settings.items()}
        cluster = KingbusCluster(self.directory / directory, count=count, settings=keys)
        self.started.append(cluster)
        cluster.start()
        return cluster

    def node(self, name: str, **settings: Any) -> KingbusNode:
        """A node by itself, not started."""
        keys = {key.replace("_", "-"): value for key, value in settings.items()}
        node = KingbusNode(name, self.directory / name, settings=keys)
        self.started.append(node)
        return node

    def proxy(self, server: MySQLServer, *, rate: float | None = None) -> Proxy:
        """A proxy before a server that can be slow."""
        proxy = Proxy(server.host, server.port, rate=rate)
        self.started.append(proxy)
        return proxy

    def end(self) -> None:
        """Kill everything, the last started first."""
        for thing in reversed(self.started):
            if isinstance(thing, (MySQLServer, KingbusNode)):
                thing.kill9()
            else:
                thing.__exit__()

    def show_logs(self) -> None:
        """The ends of all logs, where pytest shows them."""
        for thing in self.started:
            if isinstance(thing, KingbusCluster):
                sys.stderr.write(thing.logs(lines=60) + "\n")
            elif not isinstance(thing, Proxy):
                sys.stderr.write(processes.tail(thing.log, lines=60) + "\n")
