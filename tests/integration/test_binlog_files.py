"""The files that the relay serves are the source's files, byte for byte, whatever happened."""

import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.servers import MySQLServer, assert_same_binlog, fetch_binlogs
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def wait_for_end(cluster: KingbusCluster, source: MySQLServer) -> None:
    """Wait until every node's last file and position are the source's."""
    end = source.binlog_position()

    def at_end() -> bool:
        return all(
            (status["last_binlog_file"], status["last_file_position"]) == end
            for status in (node.listener_status() for node in cluster.running)
        )

    wait_for(
        at_end,
        what=f"every node to stand at {end}",
        seconds=60,
        explain=lambda: [node.listener_status() for node in cluster.running],
    )


def assert_same_files(world: World, node: KingbusNode, source: MySQLServer, turn: str) -> None:
    """All files of the source, read from the node, are equal; only the last one is open."""
    names = source.binlog_files()
    assert [file["name"] for file in node.get("/binlog/files")] == names
    fetched = fetch_binlogs(
        names,
        world.directory / f"raw-{turn}-{node.name}",
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
    )
    for file in fetched:
        original = source.binlog_path(file.name)
        assert_same_binlog(file, original, is_open=file.name == names[-1])


def test_files_are_identical_on_every_node(world: World, installation: Installation) -> None:
    """Files closed while the relay was down, while its leader died, by the source's restart and by
    its crash are all identical on all nodes, one that joined afterwards included."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster()
    cluster.start_receiver(source)
    cluster.start_listeners()

    # Closed while all is well, with an event of more than one packet.
    workload.small_transactions(source, 200)
    workload.giant_row(source)
    source.execute("FLUSH BINARY LOGS")
    workload.large_transactions(source, 3)
    wait_for_end(cluster, source)

    # Closed while the relay is down: twice, so that one whole file comes and goes meanwhile.
    cluster.stop()
    workload.small_transactions(source, 50)
    source.execute("FLUSH BINARY LOGS")
    workload.small_transactions(source, 50)
    source.execute("FLUSH BINARY LOGS")
    workload.small_transactions(source, 50)
    cluster.start()
    wait_for_end(cluster, source)

    # Closed while the leader is dying.
    with workload.Writer(source) as writer:
        writer.wait_for_more(100)
        leader = cluster.leader()
        source.execute("FLUSH BINARY LOGS")
        leader.kill9()
        source.execute("FLUSH BINARY LOGS")
        writer.wait_for_more(100)
        source.execute("FLUSH BINARY LOGS")
        cluster.leader()
        writer.wait_for_more(100)
        leader.start()
        writer.stop()
    wait_for_end(cluster, source)

    # Closed by a clean restart of the source.
    source.restart()
    workload.small_transactions(source, 50)
    wait_for_end(cluster, source)

    # Left open by a crash of the source, under load.
    with workload.Writer(source, number=2) as writer:
        writer.wait_for_more(100)
        source.kill9()
        source.start()
        writer.wait_for_more(100)
        writer.stop()
    wait_for_end(cluster, source)

    for node in cluster.running:
        assert_same_files(world, node, source, "before")
    fourth = cluster.add_member("n4")
    fourth.start_listener()
    wait_for_end(cluster, source)
    assert_same_files(world, fourth, source, "joined")


def test_restart_of_the_source_while_the_relay_is_away(
    world: World, installation: Installation
) -> None:
    """The source's clean restart writes a Stop event that only a dump by position ever sends."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    cluster.start_receiver(source)
    cluster.start_listeners()
    workload.small_transactions(source, 20)
    wait_for_end(cluster, source)
    cluster.stop()
    source.restart()
    workload.small_transactions(source, 20)
    source.kill9()
    source.start()
    workload.small_transactions(source, 20)
    cluster.start()
    wait_for_end(cluster, source)
    assert_same_files(world, cluster.nodes[0], source, "after")
