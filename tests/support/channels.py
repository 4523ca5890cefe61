"""A named channel of a real cluster: its source, its listeners, and what its nodes have of it."""

from typing import Any

import httpx

from tests.support import processes
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for


class NamedChannel:
    """One channel of a cluster, by the admin API only."""

    def __init__(self, cluster: KingbusCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.ports: dict[str, int] = {}

    def add(self) -> None:
        """Through any node."""
        self.cluster.nodes[0].ask("POST", "/channels", {"name": self.name})

    def start_receiver(self, source: MySQLServer, **more: object) -> None:
        """Pull from a source."""
        body = {
            "channel": self.name,
            "mysql_addr": f"{source.host}:{source.port}",
            "mysql_user": REPLICATION_USER,
            "mysql_password": REPLICATION_PASSWORD,
            **more,
        }
        self.cluster.leader().ask("PUT", "/binlog/syncer/start", body)

    def receiver_status(self) -> dict[str, Any]:
        """From the leader."""
        return dict(self.cluster.leader().get(f"/binlog/syncer/status?channel={self.name}"))

    def start_listener(self, node: KingbusNode) -> None:
        """Listen for replicas of this channel on a node."""
        port = self.ports.setdefault(node.name, processes.free_port())
        body = {
            "channel": self.name,
            "addr": f"127.0.0.1:{port}",
            "user": LISTENER_USER,
            "password": LISTENER_PASSWORD,
        }
        node.ask("PUT", "/binlog/server/start", body)

    def follow(self, replica: MySQLServer, node: KingbusNode) -> None:
        """Point a replica at this channel of a node."""
        replica.stop_replica()
        replica.change_source(
            host="127.0.0.1",
            port=self.ports[node.name],
            user=LISTENER_USER,
            password=LISTENER_PASSWORD,
        )
        replica.start_replica()

    def files(self, node: KingbusNode) -> list[dict[str, Any]]:
        """Those that a node holds."""
        return list(node.get(f"/binlog/files?channel={self.name}"))

    def server_status(self, node: KingbusNode) -> dict[str, Any]:
        """Of the listener of a node, with the channel's sets."""
        return dict(node.get(f"/binlog/server/status?channel={self.name}"))

    def wait_for_gtids(self, gtids: str, server: MySQLServer) -> None:
        """Until every running node has them in this channel."""

        def all_have() -> bool:
            return all(
                server.value(
                    "SELECT GTID_SUBSET(%s, %s)",
                    gtids,
                    self.server_status(node)["executed_gtid_set"],
                )
                for node in self.cluster.running
            )

        wait_for(
            all_have,
            what=f"channel {self.name} to have {gtids}",
            seconds=60,
            every=0.2,
            tolerate=(httpx.HTTPError,),
            explain=self.cluster.logs,
        )
