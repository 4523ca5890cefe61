"""Between Raft's configuration changes and membership changes; proposals; leadership."""

from dataclasses import replace
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.errors import MembershipError
from kingbus.membership.member import Member
from kingbus.node.changes import NOTHING, to_conf_change, to_member_change
from kingbus.node.core import conf_state_of, core_config
from kingbus.node.errors import ProposalLostError
from kingbus.node.leadership import Leadership
from kingbus.node.proposals import Proposals
from kingbus.node.status import NodeSettings
from kingbus.raft import MemoryStorage, RaftConfig, RawNode
from kingbus.raft.types import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    HardState,
)

VOTER = Member(id=1, name="a", peer_urls=("http://h:1",), admin_urls=("http://h:2",))
LEARNER = Member(id=2, name="b", peer_urls=("http://h:3",), learner=True, promote=True)
CLUSTER = Cluster(cluster_id=7, index=2, members=(VOTER, LEARNER))
NEW = Member(id=3, name="c", peer_urls=("http://h:5",))


@pytest.mark.parametrize(
    "change",
    [
        MemberChange(kind=ChangeKind.ADD, member=NEW),
        MemberChange(
            kind=ChangeKind.ADD,
            member=Member(id=3, name="c", peer_urls=("http://h:5",), learner=True),
        ),
        MemberChange(kind=ChangeKind.PROMOTE, member=LEARNER.promoted()),
        MemberChange(kind=ChangeKind.REMOVE, member=LEARNER),
        MemberChange(kind=ChangeKind.UPDATE, member=VOTER),
        MemberChange(kind=ChangeKind.REPLACE, member=NEW, replaced=1),
        MemberChange(kind=ChangeKind.REPLACE, member=LEARNER.promoted(), replaced=1),
    ],
)
def test_a_change_survives_the_log(change):
    """Every change, encoded as an entry's data and read back, is the same change."""
    encoded = to_conf_change(change).encode()

    assert to_member_change(ConfChangeV2.decode(encoded), CLUSTER) == change


def test_the_older_form_is_read_too():
    """Bootstrap entries are of the older form."""
    change = ConfChange(ConfChangeType.ADD_NODE, 3, NEW.to_context().SerializeToString())

    assert to_member_change(change, CLUSTER) == MemberChange(kind=ChangeKind.ADD, member=NEW)


def single(kind, number, context=b""):
    return ConfChangeV2(changes=(ConfChangeSingle(kind, number),), context=context)


@pytest.mark.parametrize(
    "change",
    [
        ConfChangeV2(
            changes=(
                ConfChangeSingle(ConfChangeType.REMOVE_NODE, 1),
                ConfChangeSingle(ConfChangeType.REMOVE_NODE, 2),
            )
        ),
        ConfChangeV2(
            changes=(
                ConfChangeSingle(ConfChangeType.REMOVE_NODE, 1),
                ConfChangeSingle(ConfChangeType.ADD_NODE, 3),
            ),
            context=NEW.to_context().SerializeToString(),
        ),
        ConfChangeV2(
            changes=(
                ConfChangeSingle(ConfChangeType.ADD_NODE, 3),
                ConfChangeSingle(ConfChangeType.REMOVE_NODE, 3),
            ),
            context=NEW.to_context().SerializeToString(),
        ),
        ConfChangeV2(
            changes=(
                ConfChangeSingle(ConfChangeType.ADD_NODE, 2),
                ConfChangeSingle(ConfChangeType.REMOVE_NODE, 1),
            ),
            context=LEARNER.to_context().SerializeToString(),
        ),
        single(ConfChangeType.ADD_NODE, 3, b"\xff\xff"),
        single(ConfChangeType.ADD_NODE, 4, NEW.to_context().SerializeToString()),
        single(ConfChangeType.ADD_LEARNER_NODE, 3, NEW.to_context().SerializeToString()),
    ],
)
def test_a_change_of_another_form_is_refused(change):
    """Several members at once, unreadable or contradicting contexts: an error, not a guess."""
    with pytest.raises(MembershipError):
        to_member_change(change, CLUSTER)


def moves():
    """A change of a small membership, or None to leave a joint configuration."""

    def made(kind, number, other, learner):
        who = Member(id=number, name=f"n{number}", peer_urls=(f"http://h:{number}",))
        if kind is ChangeKind.ADD:
            who = replace(who, learner=learner)
        return MemberChange(
            kind=kind, member=who, replaced=other if kind is ChangeKind.REPLACE else 0
        )

    numbers = st.integers(1, 6)
    return st.none() | st.builds(made, st.sampled_from(ChangeKind), numbers, numbers, st.booleans())


@given(st.lists(moves(), max_size=20))
def test_the_core_and_the_membership_agree(history):
    """What the membership accepts the core accepts, and both come to the same configuration."""
    cluster = Cluster(cluster_id=7)
    raw = RawNode(RaftConfig(id=1, storage=MemoryStorage(), random=Random(1)))
    first = MemberChange(kind=ChangeKind.ADD, member=VOTER)  # as every cluster begins
    for index, move in enumerate([first, *history], 1):
        try:
            if move is not None:
                change = to_conf_change(move)
                cluster = cluster.apply(index, move)
            elif cluster.is_joint:
                change, cluster = ConfChangeV2(), cluster.left(index)
            else:
                continue
        except MembershipError:
            continue
        assert raw.apply_conf_change(change, index=index) == conf_state_of(cluster)
        again = RawNode(
            core_config(
                member_id=1,
                log=MemoryStorage(),
                hard_state=HardState(),
                cluster=Cluster.from_record(cluster.to_record()),
                applied=0,
                random=Random(1),
                settings=NodeSettings(),
            )
        )
        assert again.conf_state == raw.conf_state


def test_a_change_about_nobody():
    """The no-op that refused changes become, and the end of a joint configuration."""
    assert to_member_change(NOTHING, CLUSTER) is None
    assert to_member_change(ConfChangeV2(), CLUSTER) is None


async def test_a_proposal_is_settled_by_its_term():
    """The same index in another term is another entry: the proposal is known to be lost."""
    proposals = Proposals()
    mine = proposals.add(index=5, term=2, data_bytes=10)
    other = proposals.add(index=6, term=2, data_bytes=10)
    refused = proposals.add(index=7, term=2, data_bytes=0)
    assert proposals.bytes == 20
    proposals.settle([Entry(2, 5), Entry(3, 6), Entry(2, 7)], errors={7: MembershipError("no")})

    await mine.applied()
    with pytest.raises(ProposalLostError) as caught:
        await other.applied()
    assert caught.value.outcome_known
    with pytest.raises(MembershipError):
        await refused.applied()
    assert (len(proposals), proposals.bytes) == (0, 0)


async def test_waiting_proposals_are_woken_by_a_loss():
    """All that wait get the error; what was settled before keeps its answer."""
    proposals = Proposals()
    done = proposals.add(index=1, term=1, data_bytes=1)
    lost = proposals.add(index=2, term=1, data_bytes=1)
    proposals.settle([Entry(1, 1)], errors={})
    outcomes = []

    async def wait():
        try:
            await lost.applied()
        except ProposalLostError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        proposals.fail_all(ProposalLostError("gone"))
    await done.applied()

    assert [str(error) for error in outcomes] == ["gone"]
    assert proposals.bytes == 0


async def test_leadership_edges_are_seen():
    """Who waits for the other edge is woken by it, and by that term's only."""
    leadership = Leadership()
    seen = []

    async def watch():
        term = await leadership.wait_ready()
        seen.append(term)
        await leadership.wait_lost(term)
        seen.append(-term)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        assert seen == []
        leadership.set(3)
        await wait_all_tasks_blocked()
        assert (seen, leadership.is_ready) == ([3], True)
        leadership.set(4)  # led again, but not without a break
        await wait_all_tasks_blocked()
    assert seen == [3, -3]
