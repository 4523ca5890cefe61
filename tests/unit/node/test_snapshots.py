"""A member behind the start of the log: real stores, loopback sockets, no source."""

from dataclasses import replace

import pytest
import trio

from kingbus.node.errors import MembershipBusyError
from tests.support.memory_node import eventually, loopback_cluster
from tests.support.relay_logs import gtids
from tests.support.relay_node import Replica, by_position
from tests.support.relay_stores import STEPS, CrashError, Feed, RelayStores

pytestmark = pytest.mark.slow


@pytest.fixture
def open_stores(tmp_path):
    return lambda name: RelayStores(tmp_path / name)


async def change(make):
    """A membership change, again while the core has not heard that the one before is applied."""
    with trio.fail_after(20):
        while True:
            try:
                return await make()
            except MembershipBusyError:
                await trio.lowlevel.checkpoint()


async def same(cluster, *names):
    """Until these members are at the leader's index in every respect."""
    leader = await cluster.wait_leader()
    index = leader.node.applied
    for name in names:
        with trio.fail_after(20):
            await cluster.members[name].node.wait_applied(index)
    mine = leader.stores
    start = mine.snapshots.first_index
    await eventually(lambda: mine.log.first_index() == start, "the leader's cut")
    for name in names:
        member = cluster.members[name]
        theirs = member.stores
        await eventually(
            lambda theirs=theirs: theirs.log.first_index() == start, f"the cut of {name}"
        )
        assert theirs.state.digest() == mine.state.digest(), name
        assert theirs.state.purged == mine.state.purged
        assert theirs.state.files == mine.state.files
        assert theirs.entries() == mine.entries(), name
        assert theirs.database.applied() == mine.database.applied()
        assert theirs.database.file_rows(0) == mine.database.file_rows(0)
        assert theirs.database.batch_rows(0, 0, 1 << 20) == mine.database.batch_rows(0, 0, 1 << 20)
        ordinals = range(1, len(mine.state.files) + mine.state.files[0].ordinal)
        starts = [[s.database.start(0, at) for at in ordinals] for s in (theirs, mine)]
        assert starts[0] == starts[1]
        assert member.node.cluster == leader.node.cluster
        assert member.node._raw.conf_state == leader.node._raw.conf_state
        assert theirs.database.members() == mine.database.members()


async def dumped(member, file):
    """What a replica gets of a file, from its first byte on."""
    replica = Replica(by_position(file.name))
    member.stores.server_id = 999
    await replica.attach(member.stores)
    return replica


async def left_behind(cluster, *, away="c"):
    """One member is down while the log goes on and its beginning is purged; the feed."""
    leader = await cluster.elect("a")
    feed = Feed(leader.node)
    await feed.file()
    await feed.file()
    await cluster.members["b"].node.wait_applied(leader.node.applied)
    await cluster.members[away].node.wait_applied(leader.node.applied)
    await cluster.members[away].stop()
    await feed.file()
    start = await feed.file()
    await feed.file()
    await feed.purge(start)
    await same(cluster, "b")
    assert leader.log.first_index() == start
    return feed


async def test_a_purge_cuts_every_log_at_the_same_entry(open_stores):
    """After a purge all members have the same first file, purged set and first entry."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        feed = Feed((await cluster.elect("a")).node)
        await feed.file()
        second = await feed.file()
        await feed.file()
        segments = {m.name: set(m.log._segments) for m in cluster.running()}
        await feed.purge(second)
        await same(cluster, "a", "b", "c")
        for member in cluster.running():
            stores = member.stores
            assert stores.log.first_index() == second
            assert [row.name for row in stores.state.files] == ["binlog.000002", "binlog.000003"]
            assert stores.state.purged == gtids("a:1-4")
            assert segments[member.name] - set(stores.log._segments)
            assert stores.passed.index("behind the sync") < stores.passed.index("before the cut")


async def test_a_purge_needs_what_follows_it_durable_first(open_stores):
    """A crash before the cut leaves the log whole; it is cut when the member is back."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        feed = Feed((await cluster.elect("a")).node)
        first = await feed.file()
        second = await feed.file()
        await feed.file()
        member = cluster.members["b"]
        member.stores.crash_at = "before the cut"
        await feed.purge(second)
        await member.ended.wait()
        assert isinstance(member.result, CrashError)

        stores = open_stores("b")
        assert stores.log.first_index() <= first
        assert stores.state.files[0].first_index == second
        stores.close()
        await cluster.restart("b")
        await same(cluster, "b", "c")


async def test_a_member_that_was_away_too_long_catches_up(open_stores):
    """It installs the start of the log and gets all that is retained, byte for byte."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        feed = await left_behind(cluster)
        back = await cluster.restart("c")
        await same(cluster, "c")

        assert back.stores.passed == list(STEPS)
        assert back.stores.database.installing() is None
        replica = await dumped(back, feed.files[3])
        assert replica.refusal is None
        assert b"".join(replica.stored) == feed.files[3].bytes() + feed.files[4].bytes()
        assert (await dumped(back, feed.files[2])).refusal.code == 1236
        await feed.file()
        await same(cluster, "b", "c")
        await eventually(lambda: back.node.status().catch_up is None, "caught up")


async def test_a_member_that_caught_up_from_a_snapshot_starts_again(open_stores):
    """What it has on disk fits together, and it can lead: its own snapshots are as good."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        await left_behind(cluster)
        await cluster.restart("c")
        await same(cluster, "c")
        await cluster.members["c"].stop()
        back = await cluster.restart("c")
        await same(cluster, "b", "c")
        assert back.stores.passed == []

        mine = cluster.members["a"].stores.snapshots.make()
        assert back.stores.snapshots.make() == mine


async def test_a_fresh_member_joins_behind_the_purge_point(open_stores):
    """An added member begins with the snapshot, is promoted, and can be restarted."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        await left_behind(cluster)
        leader = await cluster.wait_leader()
        joined = await cluster.join_learner("d", leader)
        await same(cluster, "d")
        assert joined.stores.passed == list(STEPS)

        await eventually(
            lambda: leader.node.peers.has_caught_up(joined.node.member_id), "caught up"
        )
        await leader.node.membership.promote(joined.node.member_id)
        await same(cluster, "b", "d")
        await cluster.members["d"].stop()
        await cluster.restart("d")
        await same(cluster, "d")
        assert cluster.members["d"].node.role == "follower"


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_while_installing(open_stores, step):
    """Whatever step it comes at, the member starts again and catches up."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        await left_behind(cluster)
        stores = open_stores("c")
        voted = stores.log.initial_state()[0]
        applied = stores.relay.applied_index
        stores.close()

        crashed = await cluster.restart("c")
        crashed.stores.crash_at = step
        with trio.fail_after(20):
            await crashed.ended.wait()
        assert isinstance(crashed.result, CrashError)

        stores = open_stores("c")
        found = stores.log.initial_state()[0]
        assert (found.term, found.vote) >= (voted.term, voted.vote)
        assert found.commit >= stores.log.first_index() - 1
        untouched = STEPS.index(step) == 0
        assert (stores.relay.applied_index == applied) == untouched
        assert (stores.finished is not None) == (step not in {STEPS[0], STEPS[-1]})
        assert stores.database.installing() is None
        stores.close()

        back = await cluster.restart("c")
        await same(cluster, "b", "c")
        assert bool(back.stores.passed) == untouched


async def test_a_crash_of_a_fresh_member_while_installing(open_stores):
    """It has neither log nor members yet; what the mark says is enough to go on."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        await left_behind(cluster)
        leader = await cluster.wait_leader()
        joined = await cluster.join_learner("d", leader)
        joined.stores.crash_at = "behind the mark"
        with trio.fail_after(20):
            await joined.ended.wait()
        back = await cluster.restart("d")
        assert back.node.cluster == leader.node.cluster
        await same(cluster, "d")


async def test_a_membership_newer_than_the_snapshot(open_stores):
    """Changes that lie between its index and that of its membership are not applied again."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        feed = await left_behind(cluster)
        leader = await cluster.wait_leader()
        cluster.reserve("d")
        cluster.reserve("e")
        node = leader.node
        added = await node.membership.add("d", [cluster.url("d")], learner=True)
        await change(lambda: node.membership.remove(added.id))
        await change(lambda: node.membership.add("e", [cluster.url("e")], learner=True))
        await feed.file()
        assert leader.node.cluster.index >= leader.log.first_index()

        back = await cluster.restart("c")
        seen = []
        told = back.transport.set_cluster
        back.transport.set_cluster = lambda known: (seen.append(known), told(known))
        await same(cluster, "c")

        assert added.id in back.node.cluster.removed
        assert all(added.id not in known for known in seen)
        assert back.node._raw.conf_index >= leader.node.cluster.index
        changed = await change(lambda: node.membership.add("d", [cluster.url("d")], learner=True))
        await same(cluster, "b", "c")
        assert changed.id in back.node.cluster


async def test_a_purge_while_a_snapshot_is_on_its_way(open_stores):
    """The log is cut again before the member has what follows its snapshot: it gets another."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        feed = await left_behind(cluster)
        later = await feed.file()
        await feed.file()
        back = await cluster.restart("c")
        back.stores.hold_at = "before the log"
        with trio.fail_after(20):
            await back.stores.held.wait()
        status = back.node.status()
        assert status.catch_up is not None
        assert status.catch_up.installing
        assert status.catch_up.share == 0.0
        assert (await dumped(back, feed.files[0])).refusal.code == 1105
        await feed.purge(later)
        await same(cluster, "b")
        await back.stop()
        back = await cluster.restart("c")
        assert back.log.first_index() < later
        await same(cluster, "b", "c")
        assert back.stores.passed == list(STEPS)
        assert back.log.first_index() == later


async def test_a_snapshot_that_is_not_understood_is_not_installed(open_stores):
    """Refused before anything is touched, and the member goes on as it is."""
    async with loopback_cluster("a", "b", "c", open_stores=open_stores) as cluster:
        await left_behind(cluster)
        leader = await cluster.wait_leader()
        good = leader.log.snapshot()
        make = leader.stores.log._snapshot_source
        sent = trio.Event()

        def newer():
            sent.set()
            return replace(good, data=b"\x08\x63")

        leader.log.set_snapshot_source(newer)
        back = await cluster.restart("c")
        await eventually(sent.is_set, "a snapshot was made")
        await cluster.ticks("c", 2)
        assert not back.ended.is_set()
        assert back.stores.passed == []
        leader.log.set_snapshot_source(make)
        leader.node._fates.lost(back.node.member_id)
        await same(cluster, "c")
