"""The files that the relay serves are the source's files, byte for byte, whatever happened."""

import pytest

from tests.support import workload
from tests.support.installations import Installation
from tests.support.relayed_files import assert_same_files, wait_for_end
from tests.support.world import World

pytestmark = pytest.mark.mysql


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
        assert_same_files(world.directory / f"raw-before-{node.name}", node, source)
    fourth = cluster.add_member("n4")
    fourth.start_listener()
    wait_for_end(cluster, source)
    assert_same_files(world.directory / "raw-joined", fourth, source)


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
    assert_same_files(world.directory / "raw-after", cluster.nodes[0], source)
