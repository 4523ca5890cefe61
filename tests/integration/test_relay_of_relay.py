"""A relay cluster that pulls from another one: the source's bytes, whoever of the two dies."""

import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.relayed_files import assert_same_files, wait_for_end
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def pull_from_relay(tier: KingbusCluster, nodes: list[KingbusNode]) -> None:
    """Have a cluster pull from the listeners of another one's nodes, the first choice first."""
    tier.leader().ask(
        "PUT",
        "/binlog/syncer/start",
        {
            "mysql_addr": nodes[0].listen_address,
            "mysql_addrs": [node.listen_address for node in nodes],
            "mysql_user": LISTENER_USER,
            "mysql_password": LISTENER_PASSWORD,
        },
    )


def begin(
    world: World, installation: Installation
) -> tuple[MySQLServer, KingbusCluster, KingbusCluster, MySQLServer]:
    """A source, three nodes that pull from it, one node that pulls from them, and its replica."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    first = world.cluster(directory="first")
    first.start_receiver(source)
    first.start_listeners()
    second = world.cluster(count=1, directory="second")
    # The leader first: what is killed is what is pulled from.
    pull_from_relay(second, [first.leader(), *first.followers()])
    second.start_listeners()
    replica = world.server(installation, "replica", server_id=2)
    replica.change_source(
        host="127.0.0.1",
        port=second.nodes[0].listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
    )
    replica.start_replica()
    return source, first, second, replica


def wait_pulling(
    tier: KingbusCluster, address: str | None = None, *, but: str = "", seconds: float = 30.0
) -> str:
    """Wait until a cluster's receiver runs, from that address if one is given; the address.

    `but` names one that has just died: what it had sent is read first.
    """

    def running() -> str:
        status = tier.leader().receiver_status()
        found = str(status["current_addr"])
        is_right = address in {None, found} and found != but
        return found if status["status"] == "running" and is_right else ""

    return wait_for(
        running,
        what=f"a receiver that pulls from {address or f'anywhere but {but}'}",
        seconds=seconds,
        explain=lambda: (tier.leader().receiver_status(), tier.logs()),
    )


def test_a_relay_of_a_relay_survives_both(world: World, modern: Installation) -> None:
    """Either tier's process killed under load, the node pulled from and the leader of the first
    at once: the replica has the source's rows once, the second tier the source's files."""
    source, first, second, replica = begin(world, modern)
    lowest = second.nodes[0]
    pulled_from = first.leader()
    assert wait_pulling(second) == pulled_from.listen_address
    workload.giant_row(source)
    with workload.Writer(source) as writer:
        writer.wait_for_more(200)

        lowest.kill9()
        source.execute("FLUSH BINARY LOGS")
        writer.wait_for_more(200)
        lowest.start()
        second.leader()
        assert wait_pulling(second) == pulled_from.listen_address

        pulled_from.kill9()
        writer.wait_for_more(200)
        source.execute("FLUSH BINARY LOGS")
        wait_pulling(second, but=pulled_from.listen_address)
        pulled_from.start()
        writer.wait_for_more(200)
        writer.stop()
        written = writer.committed

    executed = source.gtid_executed()
    replica.wait_for_gtids(executed)
    assert replica.checksums() == source.checksums()
    assert replica.checksums()["shop.orders"][0] == written
    assert source.has_executed(replica.gtid_executed())
    assert replica.replica_errors() == []
    wait_for_end(second, source)
    assert_same_files(world.directory / "raw", lowest, source)

    # Each tier is one source to the next, with an identity of its own.
    identities = [source.server_uuid(), tier_uuid(lowest), replica.replica_status()["Source_UUID"]]
    assert len(set(identities)) == 3, identities


def tier_uuid(node: KingbusNode) -> str:
    """The server uuid of what a node's cluster pulls from."""
    return str(node.receiver_status()["source_uuid"])


def test_a_whole_first_tier_that_restarts_is_pulled_from_again(
    world: World, modern: Installation
) -> None:
    """All its nodes killed at once: what comes back first may lack, for a moment, what was pulled
    from it. That is no reason to wait for an operator."""
    source, first, second, replica = begin(world, modern)
    wait_pulling(second)
    with workload.Writer(source) as writer:
        for _ in range(2):
            writer.wait_for_more(200)
            for node in first:
                node.kill9()
            first.start()
            # Less than what an operator is given before a source is looked at again.
            wait_pulling(second, seconds=20)
        writer.wait_for_more(100)
        writer.stop()
    replica.wait_for_gtids(source.gtid_executed(), seconds=25)
    assert replica.checksums() == source.checksums()
    wait_for_end(second, source)
    assert_same_files(world.directory / "raw", second.nodes[0], source)
