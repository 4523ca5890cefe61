"""Members with different forms at rest serve the same bytes, and the sealed disk tells nothing."""

from pathlib import Path

import pytest

from kingbus.secrets import ClusterSecret
from tests.integration.test_end_to_end import assert_equal, attach
from tests.support import servers, workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.world import World

pytestmark = pytest.mark.mysql

NEEDLE = "the-needle-in-the-row"
TIMES = 4000


def write(source: MySQLServer, first: int, last: int) -> None:
    """Rows of 100 KB, each a text that none of the others has, and small ones."""
    for number in range(first, last):
        text = f"{NEEDLE}-{number:05d}"
        source.execute(f"INSERT INTO shop.documents (body) VALUES (REPEAT('{text}', {TIMES}))")
    workload.small_transactions(source, 200)


def segments(node: KingbusNode) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((node.data_dir / "log").iterdir()))


def dumped(port: int, user: str, password: str) -> tuple[int, int, str | None]:
    """All events from the first on: their digest, how many transactions, how it ended."""
    with RawReader(port=port, user=user, password=password, non_blocking=True) as reader:
        seen = reader.join()
    assert seen.faults == []
    return seen.digest, len(seen.transactions), seen.end


def assert_dumps_equal(cluster: KingbusCluster, source: MySQLServer) -> None:
    """Every member sends from the beginning what the source sends."""
    cluster.wait_for_gtids(source.gtid_executed(), source)
    wanted = dumped(source.port, servers.REPLICATION_USER, servers.REPLICATION_PASSWORD)
    for node in cluster.nodes:
        assert dumped(node.listen_port, LISTENER_USER, LISTENER_PASSWORD) == wanted, node.name


def test_plain_compressed_and_sealed_members_serve_the_same(
    world: World, modern: Installation, tmp_path: Path
) -> None:
    """Replicas of each equal the source, also when all members were killed and started again, each
    with another form. No row, nor the key, is in a file of the one that was always sealed.
    """
    key_file = tmp_path / "cluster.key"
    secret = ClusterSecret.generate()
    secret.store(key_file)
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    settings = {"cluster-key-file": str(key_file), "segment-size": "1MB"}
    cluster = KingbusCluster(world.directory / "cluster", settings=settings)
    world.started.append(cluster)
    plain, compressed, sealed = cluster.nodes
    compressed.configure(at_rest={"compress": "zstd", "level": 3})
    sealed.configure(at_rest={"compress": "zstd", "encrypt": "cluster-key"}, server={"workers": 1})
    cluster.start()
    cluster.start_receiver(source)
    cluster.start_listeners()
    replicas = [
        attach(world, modern, node, server_id=number) for number, node in enumerate(cluster, 2)
    ]
    write(source, 0, 40)
    for replica in replicas:
        assert_equal(replica, source)
    assert_dumps_equal(cluster, source)
    told = [node.status()["at_rest"] for node in cluster]
    assert [facts["compress"] for facts in told] == ["none", "zstd", "zstd"]
    assert [facts["encrypt"] for facts in told] == ["none", "none", "cluster-key"]
    assert [facts["key_id"] for facts in told] == [None, None, secret.key_id]
    assert told[0]["ratio"] is None
    assert max(told[1]["ratio"], told[2]["ratio"]) < 0.5
    assert told[2]["segments"] == told[2]["sealed_segments"]

    for node in cluster:
        node.kill9()
    needle = f"{NEEDLE}-00007".encode()
    assert segments(plain).count(needle) >= TIMES
    assert segments(compressed).count(needle) < TIMES // 100
    plain.configure(at_rest={"compress": "zstd"})
    compressed.configure(at_rest={"encrypt": "cluster-key"})
    sealed.configure(at_rest={"encrypt": "cluster-key"})
    cluster.start()
    write(source, 40, 60)
    for replica in replicas:
        assert_equal(replica, source)
    assert_dumps_equal(cluster, source)
    told = [node.status()["at_rest"] for node in cluster]
    assert 0 < told[0]["transformed_segments"] < told[0]["segments"]
    assert 0 < told[1]["sealed_segments"] < told[1]["segments"]

    cluster.stop()
    whole = b"".join(path.read_bytes() for path in sealed.data_dir.rglob("*") if path.is_file())
    assert NEEDLE.encode() not in whole
    assert b"item 199" not in whole
    for node in cluster:
        for path in node.data_dir.rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            assert secret.key not in data, path
            assert secret.key.hex().encode() not in data, path
