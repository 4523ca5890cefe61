"""Members in one process over loopback TCP, with logs in memory."""

import threading
from functools import partial

import pytest
import trio

from kingbus.membership.errors import (
    DuplicateMemberError,
    LastVoterError,
    NotALearnerError,
    RemovedMemberError,
    UnhealthyClusterError,
    UnknownMemberError,
)
from kingbus.node.errors import (
    MembershipBusyError,
    NoLeaderError,
    NotCaughtUpError,
    NotLeaderError,
    ProposalLostError,
    RestartError,
    TransferError,
)
from kingbus.node.node import NodeSettings, Removed
from kingbus.raft.errors import ProposalDroppedError
from kingbus.raft.types import HardState
from tests.support.memory_node import Disk, eventually, loopback_cluster

pytestmark = pytest.mark.slow


async def propose(member, *data):
    """Have these applied on the member that leads."""
    for each in data:
        proposal = await member.node.propose(each)
    await proposal.applied()


async def ended(member):
    with trio.fail_after(20):
        await member.ended.wait()
    return member.result


async def test_a_proposal_reaches_every_member_in_order():
    """What the leader proposes is applied on all members, once, in the same order."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        wanted = [b"entry %d" % number for number in range(100)]
        await propose(leader, *wanted)
        await cluster.wait_equal("a", "b", "c")

        assert leader.machine.data == wanted


async def test_large_entries_travel_whole():
    """Entries of many sizes, up to several messages' worth, arrive byte for byte."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        wanted = [bytes([size % 251]) * size for size in (1, 4095, 1 << 20, 5 << 20, 3, 17 << 20)]
        await propose(leader, *wanted)
        await cluster.wait_equal("a", "b", "c")

        assert cluster.members["b"].machine.data == wanted


async def test_a_stopped_leader_is_replaced_and_catches_up():
    """Two of three go on without the leader; restarted, it has what it missed."""
    async with loopback_cluster("a", "b", "c") as cluster:
        await propose(await cluster.elect("a"), b"one")
        await cluster.members["a"].stop()
        second = await cluster.wait_leader(other_than="a")
        await propose(second, b"two")
        await cluster.restart("a")
        await cluster.wait_equal("a", "b", "c")

        assert cluster.members["a"].machine.data == [b"one", b"two"]


async def test_a_cluster_restarts_from_its_disks():
    """All members stopped and started: members, term and data are those on the disks."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, b"one", b"two")
        term = leader.node.status().term
        for member in list(cluster.running()):
            await member.stop()
        for name in "abc":
            await cluster.restart(name)
        await propose(await cluster.wait_leader(), b"three")
        await cluster.wait_equal("a", "b", "c")

        assert cluster.members["c"].machine.data == [b"one", b"two", b"three"]
        assert cluster.members["c"].node.status().term > term
        assert len(cluster.members["c"].node.cluster) == 3


async def test_only_the_leader_proposes():
    """A follower refuses and names the leader; nothing is forwarded."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        follower = cluster.members["b"].node
        await eventually(lambda: follower.status().leader_id)

        with pytest.raises(NotLeaderError) as caught:
            await follower.propose(b"x")
        assert caught.value.leader_id == leader.node.member_id


async def test_a_proposal_is_lost_with_the_majority():
    """A leader that loses its majority steps down, then tells the waiting proposal so."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await cluster.members["b"].stop()
        await cluster.members["c"].stop()
        proposal = await leader.node.propose(b"never acknowledged")

        with pytest.raises(ProposalLostError) as caught, trio.fail_after(20):
            await proposal.applied()
        assert not caught.value.outcome_known
        assert not leader.node.leadership.is_ready
        with pytest.raises(NoLeaderError):
            await leader.node.read_index()


async def test_leadership_can_be_watched():
    """wait_ready and wait_lost return at the edges, with the term."""
    async with loopback_cluster("a", "b", "c") as cluster:
        node = (await cluster.elect("a")).node
        term = await node.leadership.wait_ready()
        new_leader = await node.handover.transfer(None)
        with trio.fail_after(20):
            await node.leadership.wait_lost(term)

        assert new_leader in (cluster.ids["b"], cluster.ids["c"])
        assert node.leadership.term == 0


async def test_leadership_moves_to_the_member_that_is_named():
    """handover.transfer(member) makes that member the leader, and refuses a stranger."""
    async with loopback_cluster("a", "b", "c") as cluster:
        node = (await cluster.elect("a")).node
        with pytest.raises(UnknownMemberError):
            await node.handover.transfer(12345)

        assert await node.handover.transfer(cluster.ids["c"]) == cluster.ids["c"]
        await eventually(lambda: cluster.members["c"].node.leadership.is_ready)


async def test_a_read_index_covers_what_was_acknowledged():
    """On every member the read index is at or above what the leader has acknowledged."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, b"one")
        acknowledged = leader.node.applied
        for name in "abc":
            node = cluster.members[name].node
            index = await node.read_index()
            await node.wait_applied(index)

            assert index >= acknowledged
            assert cluster.members[name].machine.data == [b"one"]


async def test_a_starved_disk_does_not_stop_the_leader():
    """While the leader's write hangs, heartbeats flow and followers commit without its disk."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        status = leader.node.status()
        release = threading.Event()
        leader.log.before_write = release.wait
        try:
            proposal = await leader.node.propose(b"one")
            await cluster.ticks("b", 4)
            followers = [cluster.members[name] for name in "bc"]

            assert [f.node.status().term for f in followers] == [status.term] * 2
            assert [f.node.status().leader_id for f in followers] == [leader.node.member_id] * 2
            # Committed by the two others, but not applied where the own disk does not have it.
            assert all(f.machine.data == [b"one"] for f in followers)
            assert not proposal.is_settled
        finally:
            release.set()
        await proposal.applied()


async def test_writes_that_wait_become_one():
    """What is proposed during a slow write goes to the disk in a single next one."""
    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        release = threading.Event()
        leader.log.before_write = release.wait
        before = leader.log.writes
        try:
            proposals = [await leader.node.propose(b"%d" % number) for number in range(50)]
        finally:
            release.set()
        await proposals[-1].applied()

        assert leader.log.writes - before <= 3


async def test_a_failing_disk_ends_the_member():
    """An error of the log ends run() as that very error."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")

        def fail():
            raise OSError("no such luck")

        leader.log.before_write = fail
        proposal = await leader.node.propose(b"x")

        assert isinstance(await ended(leader), OSError)
        with pytest.raises(ProposalLostError):
            await proposal.applied()
        await cluster.wait_leader(other_than="a")


async def test_too_much_uncommitted_holds_proposals_back():
    """propose waits while the limit is reached, propose_now refuses; both go on afterwards."""
    settings = NodeSettings(
        heartbeat_seconds=0.05, election_seconds=1.0, uncommitted_bytes_max=1000
    )
    async with loopback_cluster("a", settings=settings) as cluster:
        leader = await cluster.wait_leader()
        release = threading.Event()
        leader.log.before_write = release.wait
        passed = trio.Event()

        async def second():
            await (await leader.node.propose(b"y" * 600)).applied()
            passed.set()

        try:
            await leader.node.propose(b"x" * 600)
            with pytest.raises(ProposalDroppedError):
                leader.node.propose_now(b"z" * 600)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second)
                await cluster.ticks("a", 0.5)
                assert not passed.is_set()
                assert leader.node.status().uncommitted_bytes == 600
                release.set()
        finally:
            release.set()

        assert [len(data) for data in leader.machine.data] == [600, 600]


async def test_a_member_joins_a_running_cluster():
    """An added voter starts with an empty log and gets everything, the membership included."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, *(b"%d" % number for number in range(50)))
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        cluster.reserve("d")
        member = await leader.node.membership.add("d", [cluster.url("d")])
        await cluster.join("d", leader.node.cluster)
        await propose(leader, b"after")
        await cluster.wait_equal("a", "b", "c", "d")

        assert cluster.members["d"].node.cluster == leader.node.cluster
        assert not member.learner
        assert cluster.members["d"].node.role == "follower"


async def test_the_second_member_begins_as_learner_and_is_promoted():
    """A one-node cluster can decide while the second one comes up, then has two voters."""
    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        cluster.reserve("b")
        member = await leader.node.membership.add("b", [cluster.url("b")])
        assert member.learner
        await propose(leader, b"alone")  # decided although b does not run yet
        with pytest.raises(NotCaughtUpError):
            await leader.node.membership.promote(member.id)
        await cluster.join("b", leader.node.cluster)
        await eventually(lambda: len(leader.node.cluster.voters) == 2, "the promotion")
        await propose(leader, b"together")
        await cluster.wait_equal("a", "b")
        with pytest.raises(NotALearnerError):
            await leader.node.membership.promote(member.id)


async def test_a_learner_stays_one_until_it_is_promoted_by_hand():
    """Added as a learner it is not promoted by itself, cannot lead, and becomes a voter."""
    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        cluster.reserve("b")
        member = await leader.node.membership.add("b", [cluster.url("b")], learner=True)
        await cluster.join("b", leader.node.cluster)
        await eventually(lambda: leader.node.peers.has_caught_up(member.id), "b catches up")
        await cluster.ticks("a", 2)
        assert cluster.members["b"].node.role == "learner"
        with pytest.raises(TransferError):
            await leader.node.handover.transfer(member.id)

        await leader.node.membership.promote(member.id)
        await eventually(lambda: cluster.members["b"].node.role == "follower")


async def test_a_removed_member_stops():
    """run() returns Removed on the removed member; the others go on, its id never comes back."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        gone = cluster.members["c"]
        await leader.node.membership.remove(cluster.ids["c"])

        assert isinstance(await ended(gone), Removed)
        await propose(leader, b"without c")
        assert cluster.ids["c"] in leader.node.cluster.removed
        with pytest.raises(RemovedMemberError):
            await leader.node.membership.remove(cluster.ids["c"])
        # The same name and address come back under another id.
        again = await leader.node.membership.add("c", [cluster.url("c")])
        assert again.id != cluster.ids["c"]


async def test_a_member_removed_while_it_was_down_is_told():
    """Restarted without knowing of its removal, it learns it from a peer's refusal and stops."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        await cluster.members["c"].stop()
        await leader.node.membership.remove(cluster.ids["c"])
        result = await ended(await cluster.restart("c"))

        assert isinstance(result, Removed)
        assert result.told_by in (cluster.ids["a"], cluster.ids["b"])


async def test_the_leader_hands_over_before_it_is_removed():
    """Asked to remove itself the leader transfers and names its successor, who removes it."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        with pytest.raises(NotLeaderError) as caught:
            await leader.node.membership.remove(cluster.ids["a"])
        successor = next(m for m in cluster.running() if m.node.member_id == caught.value.leader_id)
        await eventually(lambda: successor.node.leadership.is_ready)
        await eventually(lambda: len(successor.node.peers.active()) == 3)
        await successor.node.membership.remove(cluster.ids["a"])

        assert isinstance(await ended(leader), Removed)
        await propose(successor, b"without a")
        assert len(successor.node.cluster.voters) == 2


async def test_a_voter_is_replaced_by_a_new_member():
    """A voter that is gone for good and its successor change places in one step, under load."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, b"before")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        await cluster.members["c"].stop()
        cluster.reserve("d")
        member = await leader.node.membership.replace(cluster.ids["c"], "d", [cluster.url("d")])
        assert not member.entering
        assert not leader.node.cluster.is_joint
        assert {each.name for each in leader.node.cluster} == {"a", "b", "d"}
        await propose(leader, b"meanwhile")  # decided by a and b, although d does not run yet
        await cluster.join("d", leader.node.cluster)
        await cluster.wait_equal("a", "b", "d")

        assert cluster.members["d"].machine.data == [b"before", b"meanwhile"]
        assert cluster.members["d"].node.cluster == leader.node.cluster
        assert isinstance(await ended(await cluster.restart("c")), Removed)


async def test_a_voter_is_replaced_by_a_learner_that_has_caught_up():
    """Refused before; then the replaced one stops by itself, and the learner votes."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, b"one")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        cluster.reserve("d")
        await leader.node.membership.add("d", [cluster.url("d")], learner=True)
        with pytest.raises(NotCaughtUpError):
            await leader.node.membership.replace(cluster.ids["c"], "d")
        await cluster.join("d", leader.node.cluster)
        await eventually(lambda: leader.node.peers.has_caught_up(cluster.ids["d"]), "d catches up")
        gone = cluster.members["c"]
        await leader.node.membership.replace(cluster.ids["c"], "d")

        assert isinstance(await ended(gone), Removed)
        assert leader.node.cluster.voters == tuple(sorted(cluster.ids[each] for each in "abd"))
        await propose(leader, b"two")
        await cluster.wait_equal("a", "b", "d")
        with pytest.raises(RemovedMemberError):
            await leader.node.membership.replace(cluster.ids["c"], "d")


async def test_a_leader_that_is_replaced_hands_over_first():
    """It names its successor, who replaces it; what was acknowledged is kept."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, b"kept")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        cluster.reserve("d")
        urls = [cluster.url("d")]
        with pytest.raises(NotLeaderError) as caught:
            await leader.node.membership.replace(cluster.ids["a"], "d", urls)
        successor = next(m for m in cluster.running() if m.node.member_id == caught.value.leader_id)
        await eventually(lambda: successor.node.leadership.is_ready)
        await eventually(lambda: len(successor.node.peers.active()) == 3)
        await successor.node.membership.replace(cluster.ids["a"], "d", urls)

        assert isinstance(await ended(leader), Removed)
        await cluster.join("d", successor.node.cluster)
        await propose(successor, b"after")
        await cluster.wait_equal("b", "c", "d")
        assert cluster.members["d"].machine.data == [b"kept", b"after"]


async def moves(cluster, name):
    """Whoever leads gives the member another URL, handing over first if that is itself."""
    cluster.reserve(name)
    for _ in range(2):
        leader = await cluster.wait_leader()
        await eventually(lambda of=leader: len(of.node.peers.active()) == len(of.node.cluster))
        try:
            await leader.node.membership.update(cluster.ids[name], [cluster.url(name)])
        except NotLeaderError as error:
            await eventually(lambda to=error.leader_id: cluster.leader() is cluster.of(to))
        else:
            return leader
    raise AssertionError("nobody moved it")


async def test_members_move_one_after_the_other():
    """Each is told of its new address, is restarted there and heard again; a leader hands over."""
    async with loopback_cluster("a", "b", "c") as cluster:
        await cluster.elect("a")
        for name in "abc":
            leader = await moves(cluster, name)
            assert leader.name != name
            moved = cluster.members[name]
            await eventually(
                lambda name=name, of=moved: of.node.cluster.at(cluster.url(name)), "it is told"
            )
            await propose(leader, name.encode())
            await cluster.wait_equal("a", "b", "c")  # not restarted yet, and not cut off
            await moved.stop()
            await cluster.restart(name)
            await propose(await cluster.wait_leader(), b"back", name.encode())
            await cluster.wait_equal("a", "b", "c")


async def test_who_moves_counts_as_down():
    """Of two voters none can move, of three none while another is down: a wrong address would
    leave nobody to correct it. A single one can, and a wrong address is corrected."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        for port in (9, 10):
            await leader.node.membership.update(cluster.ids["c"], [f"http://127.0.0.1:{port}"])
        await cluster.members["c"].stop()
        await eventually(lambda: len(leader.node.peers.active()) == 2)
        for name in "ab":
            with pytest.raises(UnhealthyClusterError, match="after it"):
                await leader.node.membership.update(cluster.ids[name], ["http://127.0.0.1:11"])
        assert cluster.leader() is leader  # nothing was handed over for nothing
        await leader.node.membership.remove(cluster.ids["c"])
        with pytest.raises(UnhealthyClusterError, match="after it"):
            await leader.node.membership.update(cluster.ids["b"], ["http://127.0.0.1:11"])
        await propose(leader, b"still decides")

    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        await leader.node.membership.update(cluster.ids["a"], ["http://127.0.0.1:11"])
        await propose(leader, b"alone")


@pytest.mark.parametrize("change", ["promote", "replace"])
async def test_a_new_leader_learns_who_has_caught_up_before_it_judges(change):
    """Asked within milliseconds of a handover to make a learner a voter, it looks, then does it."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, b"kept")
        await cluster.join_learner("d", leader)
        learner = cluster.ids["d"]
        await eventually(lambda: leader.node.peers.has_caught_up(learner), "d catches up")
        if change == "replace":
            with pytest.raises(NotLeaderError) as caught:
                await leader.node.membership.replace(cluster.ids["a"], "d")
            successor = cluster.of(caught.value.leader_id)
        else:
            successor = cluster.of(await leader.node.handover.transfer(None))
        await eventually(lambda: successor.node.leadership.is_ready)
        if change == "replace":
            await successor.node.membership.replace(cluster.ids["a"], "d")
        else:
            await successor.node.membership.promote(learner)

        assert learner in successor.node.cluster.voters
        await propose(successor, b"after")
        await cluster.wait_equal("b", "c", "d")


async def test_what_would_lose_the_majority_is_refused():
    """Removing or adding a voter on an unhealthy cluster is refused; so is the last voter's end."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        await cluster.members["c"].stop()
        await eventually(lambda: len(leader.node.peers.active()) == 2)
        with pytest.raises(UnhealthyClusterError):
            await leader.node.membership.remove(cluster.ids["b"])
        with pytest.raises(UnhealthyClusterError):
            await leader.node.membership.add("d", ["http://127.0.0.1:1"])
        with pytest.raises(DuplicateMemberError):
            await leader.node.membership.add("b", ["http://127.0.0.1:1"])

        await leader.node.membership.remove(cluster.ids["c"])  # the dead one may go
        assert len(leader.node.cluster) == 2


async def test_one_membership_change_at_a_time():
    """While a change is not applied another is refused, not queued and not silently dropped."""
    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        release = threading.Event()
        leader.log.before_write = release.wait
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(leader.node.membership.add, "b", ["http://127.0.0.1:1"], learner=True)
                )
                await eventually(lambda: leader.node._change_index > leader.node.applied)
                with pytest.raises(MembershipBusyError):
                    await leader.node.membership.add("c", ["http://127.0.0.1:2"], learner=True)
                release.set()
        finally:
            release.set()

        assert [member.name for member in leader.node.cluster if member.learner] == ["b"]


async def test_a_change_waits_for_the_one_before_it():
    """Changes asked for at once are made one after the other; nobody is told to try again."""
    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        release = threading.Event()
        leader.log.before_write = release.wait
        names = [f"learner{number}" for number in range(5)]
        try:
            async with trio.open_nursery() as nursery:
                for number, name in enumerate(names, 1):
                    url = f"http://127.0.0.1:{number}"
                    nursery.start_soon(
                        partial(leader.node.membership.add, name, [url], learner=True)
                    )
                await eventually(lambda: leader.node._change_index > leader.node.applied)
                release.set()
        finally:
            release.set()

        learners = [member for member in leader.node.cluster if member.learner]
        assert {member.name for member in learners} == set(names)
        # The id is of the index that the change really took, so it is in no other change.
        assert len({member.id for member in learners}) == len(names)


async def test_changes_right_behind_each_other():
    """Each is proposed in the very moment in which the one before it was seen to be applied."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        for number in range(30):
            member = await leader.node.membership.add(
                "d", [f"http://127.0.0.1:{number + 1}"], learner=True
            )
            await leader.node.membership.update(member.id, ["http://127.0.0.1:99"])
            await leader.node.membership.remove(member.id)

        assert len(leader.node.cluster.removed) == 30


async def test_a_new_leader_gets_to_know_who_is_up_before_it_refuses():
    """Asked the moment it leads it has heard from hardly anybody: the change is made all the same,
    a removal, a promotion and a replacement."""
    async with loopback_cluster("a", "b", "c", "d", "e") as cluster:
        leader = await cluster.elect("a")
        cluster.reserve("x")
        await eventually(lambda: len(leader.node.peers.active()) == 5)
        learner = await leader.node.membership.add("x", [cluster.url("x")], learner=True)
        await cluster.join("x", leader.node.cluster)
        await eventually(lambda: leader.node.peers.has_caught_up(learner.id), "x catches up")

        async def next_leader(name):
            await cluster.leader().node.handover.transfer(cluster.ids[name])
            node = cluster.members[name].node
            with trio.fail_after(20):
                await node.leadership.wait_ready()
            assert not node.peers.can_judge
            return node

        await (await next_leader("b")).membership.promote(learner.id)
        await (await next_leader("x")).membership.remove(cluster.ids["a"])
        cluster.reserve("y")
        node = await next_leader("c")
        await node.membership.replace(cluster.ids["d"], "y", [cluster.url("y")])
        assert {member.name for member in node.cluster} == set("bcexy")


async def test_a_handover_that_fails_holds_proposals_back_and_loses_none():
    """What is proposed meanwhile waits, and is taken when the old leader goes on leading."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await propose(leader, b"before")
        await cluster.members["c"].stop()
        failed = trio.Event()

        async def hand_over():
            with pytest.raises(TransferError):
                await leader.node.handover.transfer(cluster.ids["c"])
            failed.set()

        term = leader.node.status().term
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_over)
            await eventually(lambda: leader.node._raw.lead_transferee)
            with pytest.raises(ProposalDroppedError):
                leader.node.propose_now(b"refused")
            await propose(leader, b"behind")
            await failed.wait()

        assert leader.machine.data == [b"before", b"behind"]
        assert leader.node.leadership.term == term


async def test_leadership_is_not_offered_to_who_is_not_up():
    """Refused at once, and proposals are never held back for it."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: len(leader.node.peers.active()) == 3)
        await cluster.members["c"].stop()
        await eventually(lambda: len(leader.node.peers.active()) == 2)
        await eventually(lambda: leader.node.peers.can_judge)
        with pytest.raises(TransferError, match="c is not up"):
            await leader.node.handover.transfer(cluster.ids["c"])
        assert not leader.node._raw.lead_transferee

        await cluster.members["b"].stop()
        leader.node.peers._heard.clear()
        with pytest.raises(TransferError, match="no other voter is up"):
            await leader.node.handover.transfer(None)


async def test_of_two_voters_none_is_removed_while_one_is_down():
    """Both have to agree to it: refused at once, where a proposal would hang for good."""
    async with loopback_cluster("a", "b") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: leader.node.peers.can_judge)
        leader.node.peers._heard.clear()
        with pytest.raises(UnhealthyClusterError, match="2 of the 2 voters now"):
            await leader.node.membership.remove(cluster.ids["b"])
        assert len(leader.node.cluster) == 2


async def test_the_last_voter_stays():
    """The only voter cannot be removed."""
    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        with pytest.raises(LastVoterError):
            await leader.node.membership.remove(cluster.ids["a"])


async def test_a_member_moves_to_another_address():
    """After an update the others dial the new URL, and the moved member is back in step."""
    async with loopback_cluster("a", "b", "c") as cluster:
        leader = await cluster.elect("a")
        await cluster.members["c"].stop()
        cluster.reserve("c")
        await leader.node.membership.update(cluster.ids["c"], [cluster.url("c")])
        await cluster.restart("c")
        await propose(leader, b"moved")
        await cluster.wait_equal("a", "b", "c")

        assert cluster.members["c"].node.cluster.named("c").peer_urls == (cluster.url("c"),)


async def test_a_log_that_ends_too_early_is_refused():
    """A restart whose log lacks what was committed or applied names both indexes."""
    async with loopback_cluster("a") as cluster:
        leader = await cluster.wait_leader()
        await propose(leader, b"x")
        await leader.stop()
        disk: Disk = cluster.disks["a"]
        last = disk.applied_index
        del disk.entries[-1]
        disk.hard_state = HardState(disk.hard_state.term, disk.hard_state.vote, 0)

        with pytest.raises(RestartError, match=rf"index {last - 1}.*{last} applied"):
            await cluster.restart("a")


async def test_a_leader_without_followers_cannot_be_removed():
    """With nobody to take over, the removal of the leader is refused and it goes on leading."""
    async with loopback_cluster("a", "b") as cluster:
        leader = await cluster.elect("a")
        await eventually(lambda: leader.node.peers.can_judge)
        leader.node.peers._heard.clear()
        with pytest.raises(UnhealthyClusterError):
            await leader.node.membership.remove(cluster.ids["a"])
        assert leader.node.leadership.is_ready
