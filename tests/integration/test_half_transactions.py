"""Whatever dies in the middle of a transaction, nobody ever sees a part of it.

The source is read through a slow proxy, so that its 200 MB transaction takes long to arrive. A
death counts only if it happens inside: the proxy is held, the leader's metric says that a part has
come and not all, and only when every reader has been looked at after the death is it released.
"""

from collections.abc import Iterator

import pymysql
import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.proxy import Proxy
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

_GIANT_BYTES = 200 * workload.MIB
_KILLS = 10
_SLOW = 60e6
_OPEN_BYTES = "kingbus_receiver_open_transaction_bytes"


class Watch:
    """A reader on one node that comes back after the node died, keeping all that it has got."""

    def __init__(self, node: KingbusNode, uuid: str) -> None:
        """Begin to read from the very start."""
        self._node = node
        self._uuid = uuid
        self.transactions: list[str] = []
        self._reader: RawReader | None = None
        self.connect()

    def connect(self) -> None:
        """Attach with everything that was received whole."""
        held = f"{self._uuid}:1-{len(self.transactions)}" if self.transactions else ""
        self._reader = wait_for(
            lambda: RawReader(
                port=self._node.listen_port,
                user=LISTENER_USER,
                password=LISTENER_PASSWORD,
                gtid_set=held,
                server_id=900 + int(self._node.name[1:]),
                heartbeat_seconds=0.2,
            ),
            what=f"a dump from {self._node.name}",
            tolerate=(pymysql.err.MySQLError, OSError),
        )

    def lose(self) -> None:
        """The node died: what came until then must be whole."""
        assert self._reader is not None
        self._reader.join(seconds=10)
        self._take()
        self.connect()

    def _take(self) -> None:
        assert self._reader is not None
        seen = self._reader.seen
        assert seen.faults == []
        assert seen.open_gtid is None, f"{self._node.name} sent a part of {seen.open_gtid}"
        self.transactions += seen.transactions
        self._reader.close()

    def wait_quiet(self) -> list[str]:
        """Wait for a heartbeat: everything that there is has come. The transactions so far."""
        assert self._reader is not None
        reader = self._reader
        before = reader.seen.heartbeats
        wait_for(
            lambda: reader.seen.heartbeats >= before + 2 or not reader.is_alive,
            what=f"heartbeats of {self._node.name}",
            explain=lambda: reader.seen.end,
        )
        assert reader.is_alive, f"{self._node.name} ended the dump: {reader.seen.end}"
        assert reader.seen.faults == []
        assert reader.seen.open_gtid is None
        return self.transactions + reader.seen.transactions

    def has(self, gtid: str) -> bool:
        """Whether a transaction has come whole."""
        assert self._reader is not None
        return gtid in self._reader.seen.transactions or gtid in self.transactions

    def close(self) -> None:
        """End."""
        if self._reader is not None:
            self._reader.close()


class Scene:
    """Source behind a slow proxy, a cluster, a reader on every node."""

    def __init__(self, world: World, installation: Installation) -> None:
        """Everything runs, and ordinary transactions have reached all readers."""
        self.source: MySQLServer = world.server(installation, "source", server_id=1)
        workload.make_tables(self.source)
        self.proxy: Proxy = world.proxy(self.source)
        self.cluster: KingbusCluster = world.cluster(reserve_data_size="30GB")
        self.cluster.start_receiver(self.source, host=self.proxy.host, port=self.proxy.port)
        self.cluster.start_listeners()
        workload.small_transactions(self.source, 20)
        uuid = self.source.server_uuid()
        self.cluster.wait_for_gtids(self.source.gtid_executed(), self.source)
        self.watches = {node.name: Watch(node, uuid) for node in self.cluster}
        self.before = self.complete()
        self.proxy.rate = _SLOW
        self.giant = workload.giant_transaction(self.source, size=_GIANT_BYTES)
        workload.small_transactions(self.source, 20)

    def complete(self) -> list[str]:
        """What every reader has, in order: the same for all."""
        lists = [watch.wait_quiet() for watch in self.watches.values()]
        assert all(one == lists[0] for one in lists)
        return lists[0]

    def wait_inside(self, at_least: int) -> KingbusNode:
        """Wait until the leader has a part of the giant transaction, and hold the rest back."""
        leader = self.cluster.leader()
        self.proxy.release()
        wait_for(
            lambda: leader.metric(_OPEN_BYTES) >= at_least,
            what=f"{at_least} bytes of an open transaction",
            seconds=60,
            explain=lambda: (leader.receiver_status(), leader.metric(_OPEN_BYTES)),
        )
        self.proxy.hold()
        # What was let through before may still be on its way; it is less than what is missing.
        assert 0 < leader.metric(_OPEN_BYTES) < _GIANT_BYTES
        assert self.cluster.leader() is leader
        return leader

    def assert_not_seen(self) -> None:
        """No node shows the giant transaction, and no reader has got any of it."""
        for node in self.cluster.running:
            held = node.status()["executed_gtid_set"]
            assert not self.source_has(held), f"{node.name} shows {held}"
        assert self.complete() == self.before

    def source_has(self, held: str) -> bool:
        """Whether a set contains the giant transaction (asked of any server that runs)."""
        uuid, _, number = self.giant.rpartition(":")
        for part in held.split(","):
            name, *intervals = part.strip().split(":")
            for interval in intervals if name == uuid else []:
                first, _, last = interval.partition("-")
                if int(first) <= int(number) <= int(last or first):
                    return True
        return False

    def finish(self) -> None:
        """Let everything through; all readers end with exactly the source's transactions."""
        self.proxy.rate = None
        self.proxy.release()
        executed = self.source.gtid_executed()
        self.cluster.wait_for_gtids(executed, self.source, seconds=120)
        count = int(executed.rpartition("-")[2])
        uuid = self.source.server_uuid()
        assert self.complete() == [f"{uuid}:{number}" for number in range(1, count + 1)]
        self.cluster.wait_equal()

    def close(self) -> None:
        """End the readers."""
        for watch in self.watches.values():
            watch.close()


@pytest.fixture
def scene(world: World, installation: Installation) -> Iterator[Scene]:
    """The scene, its readers closed at the end."""
    made = Scene(world, installation)
    yield made
    made.close()


def depths() -> list[int]:
    """How deep in the transaction each death comes: from its first bytes to near its end."""
    return [1 + turn * _GIANT_BYTES * 8 // 10 // _KILLS for turn in range(_KILLS)]


def test_source_dies_inside_a_transaction(scene: Scene) -> None:
    """Ten kills of the source, each inside the same transaction: it is seen once, whole."""
    for depth in depths():
        leader = scene.wait_inside(depth)
        scene.source.kill9()
        scene.proxy.cut()
        # The next death must be inside a new attempt, not be taken from what this one left behind.
        wait_for(lambda leader=leader: leader.metric(_OPEN_BYTES) == 0, what="the session's end")
        scene.assert_not_seen()
        scene.source.start()
    scene.finish()


def test_leader_dies_inside_a_transaction(scene: Scene) -> None:
    """Ten kills of the leader, each inside the same transaction: it is seen once, whole."""
    for depth in depths():
        leader = scene.wait_inside(depth)
        leader.kill9()
        leader.start()
        scene.watches[leader.name].lose()
        scene.assert_not_seen()
    scene.finish()
