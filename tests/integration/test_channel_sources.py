"""A named channel's source may be semi-sync, and may be lost, as that of the default one."""

import contextlib

import pytest

from tests.integration.test_semi_sync import (
    Spelling,
    committing,
    held,
    new_names,
    wait_held,
    wait_returning,
)
from tests.integration.test_source_failover import address, assert_equal, promote
from tests.support import workload
from tests.support.channels import NamedChannel
from tests.support.cluster import KingbusCluster
from tests.support.installations import Installation
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def begin(world: World) -> tuple[KingbusCluster, NamedChannel]:
    """Three members that have a named channel, and listen for its replicas."""
    cluster = world.cluster()
    channel = NamedChannel(cluster, "two")
    channel.add()
    for node in cluster:
        channel.start_listener(node)
    return cluster, channel


def wait_acknowledging(channel: NamedChannel, spelling: Spelling, source: MySQLServer) -> None:
    """Until the source counts the channel among its replicas that acknowledge."""
    wait_for(
        lambda: channel.receiver_status()["semi_sync_active"],
        what="the channel's receiver to take semi-sync's form",
        explain=channel.cluster.logs,
    )
    wait_for(
        lambda: spelling.of_source(source, "clients") == "1",
        what="the source to have one replica that acknowledges",
        explain=channel.cluster.logs,
    )


def test_what_returned_at_a_channels_source_is_in_the_relay(
    world: World, modern: Installation
) -> None:
    """AFTER_SYNC, a timeout that never passes, another source in the default channel: when source
    and leader die at once, what returned is with a replica of each member that is left; and the
    source goes on with the next leader, without having given up waiting."""
    spelling = new_names()
    other = world.server(modern, "other", server_id=1)
    source = world.server(modern, "source", server_id=2, extra=spelling.source_settings)
    for each in (other, source):
        workload.make_tables(each)
    cluster, channel = begin(world)
    cluster.start_receiver(other)
    channel.start_receiver(source, semi_sync=True)
    wait_acknowledging(channel, spelling, source)
    assert not cluster.leader().receiver_status()["semi_sync_active"]
    spelling.switch_on(source)
    writers = committing(source, 0)
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        wait_returning(writers, cluster)
        assert spelling.of_source(source, "no_tx") == "0"
        leader = cluster.leader()
        source.kill9()
        leader.kill9()
    returned = {number for writer in writers for number in writer.returned}
    cluster.leader()
    replica = world.server(modern, "replica", server_id=3)
    for node in cluster.running:
        channel.follow(replica, node)
        wait_held(replica, returned)

    source.start()
    wait_acknowledging(channel, spelling, source)
    spelling.switch_on(source)
    with workload.Writer(source) as writer:
        writer.wait_for_more(20)
    assert spelling.of_source(source, "no_tx") == "0"
    assert returned <= held(source)


def test_another_source_takes_the_place_of_a_channels_source(
    world: World, modern: Installation
) -> None:
    """Told any member by the command line; one that lacks something is refused with the set; its
    replica stays attached and equal; the next leader pulls from the new source, too; and the
    default channel has nothing to do with it."""
    other = world.server(modern, "other", server_id=1)
    old = world.server(modern, "old", server_id=2)
    for each in (other, old):
        workload.make_tables(each)
    cluster, channel = begin(world)
    node = cluster.followers()[0]
    cluster.start_receiver(other)
    channel.start_receiver(old)
    new, replica = (world.server(modern, name, server_id=n) for n, name in ((3, "new"), (4, "by")))
    for each in (new, replica):
        channel.follow(each, node)
    workload.small_transactions(old, 20)
    assert_equal([new, replica], old)
    connected = {each["connect_time"] for each in channel.server_status(node)["slaves"]}

    new.stop_replica()
    workload.small_transactions(old, 3)
    channel.wait_for_gtids(old.gtid_executed(), old)
    lacking = str(
        old.value("SELECT GTID_SUBTRACT(%s, %s)", old.gtid_executed(), new.gtid_executed())
    )
    failover = ("source", "failover", "--channel", "two", "--to", address(new))
    refused = node.command(*failover)
    assert refused.returncode == 1
    assert lacking in refused.stderr
    assert channel.receiver_status()["mysql_addr"] == address(old)

    new.start_replica()
    assert_equal([new], old)
    old.kill9()
    promote(new)
    done = node.command(*failover)
    assert done.returncode == 0, done.stderr
    workload.small_transactions(new, 20)
    new.execute("FLUSH BINARY LOGS")
    assert_equal([replica], new)
    cluster.leader().kill9()
    workload.small_transactions(new, 20)
    assert_equal([replica], new)
    status = channel.receiver_status()
    assert (status["epoch"], status["current_addr"]) == (2, address(new))
    slaves = channel.server_status(node)["slaves"]
    assert {each["connect_time"] for each in slaves} <= connected, "nobody connected again"
    status = cluster.leader().receiver_status()
    assert (status["epoch"], status["mysql_addr"]) == (1, address(other))
