"""One node by itself, on a virtual clock: time, and the order of disk and messages."""

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.member import Member
from kingbus.node.changes import to_conf_change
from kingbus.node.core import initial_hard_state
from kingbus.node.errors import (
    EntryTooLargeError,
    NoLeaderError,
    NotLeaderError,
    RestartError,
    StaleDirectoryError,
)
from kingbus.node.node import Node, NodeSettings, Removed
from kingbus.raft.types import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from kingbus.transport.codec import ENTRY_BYTES_MAX
from tests.support.memory_node import Disk, MemoryLog, MemoryMachine

ELECTION_SECONDS = 1.0
VOTERS = (1, 2, 3)
TERM = 2
"""In which the node of a bench leads: what came before is of term 1."""


class RecordingTransport:
    """Takes what a node sends; nobody answers unless the test does."""

    def __init__(self):
        self.sent = []
        self.clusters = []
        self.changed = trio.Event()

    def send(self, messages):
        self.sent += messages
        self.changed.set()
        self.changed = trio.Event()

    async def wait_for(self, kind):
        while kind not in self.kinds():
            await self.changed.wait()

    def set_cluster(self, cluster):
        self.clusters.append(cluster)

    def facts(self, _member_id):
        return None

    def kinds(self):
        return [message.type for message in self.sent]


class GatedRunner:
    """Runs calls on the spot, but only while open."""

    def __init__(self):
        self.opened = trio.Event()
        self.opened.set()

    def close(self):
        self.opened = trio.Event()

    async def __call__(self, function, *arguments):
        await self.opened.wait()
        return function(*arguments)


class Bench:
    """Node 1 of three, whose peers are the test."""

    def __init__(
        self,
        *,
        entries=(),
        applied=0,
        members=VOTERS,
        cluster=None,
        disk=None,
        foreseen=None,
        **settings,
    ):
        cluster = cluster or Cluster(
            cluster_id=7,
            index=applied,
            members=tuple(
                Member(id=n, name=f"n{n}", peer_urls=(f"http://h:{n}",)) for n in members
            ),
        )
        self.disk = disk or Disk(entries=list(entries), applied_index=applied)
        if entries:
            self.disk.hard_state = HardState(1, 0, applied)
        self.log = MemoryLog(self.disk)
        self.machine = MemoryMachine(self.disk)
        self.transport = RecordingTransport()
        self.runner = GatedRunner()
        self.node = Node(
            member_id=1,
            cluster=cluster,
            log=self.log,
            machine=self.machine,
            transport=self.transport,
            random=random.Random(5),
            runner=self.runner,
            settings=NodeSettings(
                heartbeat_seconds=0.1, election_seconds=ELECTION_SECONDS, **settings
            ),
            foreseen=foreseen,
        )

    def hear(self, kind, **fields):
        """A message of leader 2 in term 1."""
        message = Message(kind, to=1, from_=2, **({"term": 1} | fields))
        self.node.receive([message])

    async def elect(self, by=2):
        """The node campaigns and gets the votes of another one."""
        self.node._raw.campaign()
        self.node._wake()
        for kind in (MessageType.PRE_VOTE_RESP, MessageType.VOTE_RESP):
            await wait_all_tasks_blocked()
            self.node.receive([Message(kind, to=1, from_=by, term=TERM)])
        await wait_all_tasks_blocked()

    def append(self, *entries, commit=0):
        first = entries[0].index
        self.hear(
            MessageType.APP,
            index=first - 1,
            log_term=1 if first > 1 else 0,
            entries=list(entries),
            commit=commit,
        )


async def test_ticks_are_due_at_absolute_moments(nursery, autojump_clock):
    """Over a long time no tick is lost and none is added, whatever each pass takes."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    began = trio.current_time()
    await trio.sleep(60.05)

    assert bench.node._ticks == pytest.approx((trio.current_time() - began) / 0.1, abs=1)


async def test_without_a_leader_an_election_begins_in_time(nursery, autojump_clock):
    """Between one and two election timeouts a lonely voter asks the others."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    began = trio.current_time()
    await bench.transport.wait_for(MessageType.PRE_VOTE)

    waited = trio.current_time() - began
    assert ELECTION_SECONDS <= waited <= 2 * ELECTION_SECONDS + 0.2


async def test_a_long_stall_is_no_election(nursery, mock_clock):
    """A process that stood still for a minute hears its leader before it takes it for dead."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    await wait_all_tasks_blocked()
    bench.hear(MessageType.HEARTBEAT)
    await wait_all_tasks_blocked()
    assert bench.node.status().leader_id == 2
    mock_clock.jump(60)
    await wait_all_tasks_blocked()

    assert bench.node.status().leader_id == 2
    assert MessageType.PRE_VOTE not in bench.transport.kinds()
    assert MessageType.VOTE not in bench.transport.kinds()


async def test_an_acknowledgement_waits_for_the_disk(nursery, autojump_clock):
    """While a write hangs, heartbeats are answered; the append is acknowledged only after it."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.HEARTBEAT)
    await wait_all_tasks_blocked()
    bench.transport.sent.clear()
    bench.runner.close()
    bench.append(Entry(1, 1, data=b"x"))
    await wait_all_tasks_blocked()
    bench.hear(MessageType.HEARTBEAT, context=b"7")
    await wait_all_tasks_blocked()

    assert bench.transport.kinds() == [MessageType.HEARTBEAT_RESP]
    assert bench.disk.entries == []
    bench.runner.opened.set()
    await wait_all_tasks_blocked()
    assert bench.transport.kinds()[1:] == [MessageType.APP_RESP]
    assert bench.transport.sent[1].index == 1
    assert bench.disk.entries == [Entry(1, 1, data=b"x")]


async def test_a_vote_waits_for_the_disk(nursery, autojump_clock):
    """No vote leaves before term and vote are durable."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    await wait_all_tasks_blocked()
    bench.runner.close()
    bench.node.receive([Message(MessageType.VOTE, to=1, from_=3, term=4)])
    await wait_all_tasks_blocked()
    assert bench.transport.sent == []

    bench.runner.opened.set()
    await wait_all_tasks_blocked()
    [answer] = bench.transport.sent
    assert (answer.type, answer.to, answer.reject) == (MessageType.VOTE_RESP, 3, False)
    assert (bench.disk.hard_state.term, bench.disk.hard_state.vote) == (4, 3)


async def test_a_commit_index_reaches_the_disk_when_there_is_time(nursery, autojump_clock):
    """It needs no sync of its own; after a second of quiet it is written."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.append(Entry(1, 1, data=b"x"))
    await wait_all_tasks_blocked()
    writes = bench.log.writes
    bench.hear(MessageType.HEARTBEAT, commit=1)
    await wait_all_tasks_blocked()
    assert bench.machine.data == [b"x"]
    assert bench.log.writes == writes

    for _ in range(30):
        await trio.sleep(0.1)
        bench.hear(MessageType.HEARTBEAT, commit=1)
    assert bench.disk.hard_state.commit == 1


async def test_a_broken_machine_ends_the_node(autojump_clock):
    """What apply raises is what run raises, by itself and not within a group."""
    bench = Bench()

    def apply(_batch):
        raise ZeroDivisionError

    bench.machine.apply = apply
    bench.append(Entry(1, 1, data=b"x"), commit=1)
    with pytest.raises(ZeroDivisionError):
        await bench.node.run()


@pytest.mark.parametrize("form", ["duplicate", "unreadable"])
async def test_a_change_that_is_impossible_does_nothing(nursery, autojump_clock, form):
    """A committed change that the membership does not allow is passed over by every node alike."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    twin = Member(id=9, name="n2", peer_urls=("http://h:9",))
    change = to_conf_change(MemberChange(kind=ChangeKind.ADD, member=twin)).encode()
    if form == "unreadable":
        change = change[:-3] + b"\xff\xff\xff"
    before = bench.node.cluster
    bench.append(Entry(1, 1, EntryType.CONF_CHANGE_V2, change), Entry(1, 2, data=b"x"), commit=2)
    await wait_all_tasks_blocked()

    assert bench.node.applied == 2
    assert bench.node.cluster == before
    assert bench.node._raw.conf_state == ConfState(voters=VOTERS)
    assert bench.disk.members == before.to_record()


async def test_a_change_is_kept_with_what_was_applied(nursery, autojump_clock):
    """Machine, core, log and transport all go by the new membership after the change."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    member = Member(id=9, name="n9", peer_urls=("http://h:9",), learner=True)
    change = to_conf_change(MemberChange(kind=ChangeKind.ADD, member=member)).encode()
    bench.append(Entry(1, 1, EntryType.CONF_CHANGE_V2, change), commit=1)
    await wait_all_tasks_blocked()
    state = ConfState(voters=VOTERS, learners=(9,))

    assert Cluster.from_record(bench.disk.members) == bench.node.cluster
    assert bench.node._raw.conf_state == state
    assert bench.log.conf == (1, state)
    assert bench.transport.clusters[-1].get(9) == member


def replacing(index, old, new):
    """The entry that replaces a voter by a new one."""
    member = Member(id=new, name=f"n{new}", peer_urls=(f"http://h:{new}",))
    change = MemberChange(kind=ChangeKind.REPLACE, member=member, replaced=old)
    return Entry(1, index, EntryType.CONF_CHANGE_V2, to_conf_change(change).encode())


async def test_a_replacement_is_kept_joint_until_it_is_left(nursery, autojump_clock):
    """Both halves are on the disk, and a restart goes on with both; then the old one is removed."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.append(replacing(1, 3, 9), commit=1)
    await wait_all_tasks_blocked()
    joint = ConfState(voters=(1, 2, 9), voters_outgoing=VOTERS, auto_leave=True)
    assert bench.node._raw.conf_state == joint
    assert bench.log.conf == (1, joint)
    assert bench.transport.clusters[-1].get(3) is not None

    again = Bench(cluster=Cluster.from_record(bench.disk.members), disk=bench.disk)
    assert again.node._raw.conf_state == joint
    nursery.start_soon(again.node.run)
    again.append(Entry(1, 2, EntryType.CONF_CHANGE_V2), Entry(1, 3, data=b"x"), commit=3)
    await wait_all_tasks_blocked()
    assert again.node._raw.conf_state == ConfState(voters=(1, 2, 9))
    assert list(again.disk.members.removed) == [3]
    assert again.transport.clusters[-1].get(3) is None
    assert not again.node.cluster.is_joint

    # Nothing is joint any more: another such entry is passed over.
    again.append(Entry(1, 4, EntryType.CONF_CHANGE_V2), commit=4)
    await wait_all_tasks_blocked()
    assert again.node.applied == 4
    assert again.node._raw.conf_state == ConfState(voters=(1, 2, 9))


async def test_a_sole_new_half_does_not_elect_itself(nursery, autojump_clock):
    """While the old half still counts, the only voter of the new one waits as any follower does."""
    learner = Member(id=1, name="n1", peer_urls=("http://h:1",), learner=True)
    voter = Member(id=2, name="n2", peer_urls=("http://h:2",))
    cluster = Cluster(cluster_id=7, members=(learner, voter))
    change = MemberChange(kind=ChangeKind.REPLACE, member=learner.promoted(), replaced=2)
    bench = Bench(cluster=cluster.apply(1, change))
    assert bench.node.cluster.voters == (1,)
    nursery.start_soon(bench.node.run)
    await trio.sleep(ELECTION_SECONDS / 2)
    assert bench.node.role == "follower"
    await trio.sleep(3 * ELECTION_SECONDS)
    assert bench.node.role == "candidate"


def adding(index, number):
    """The entry that adds a voter."""
    member = Member(id=number, name=f"n{number}", peer_urls=(f"http://h:{number}",))
    change = to_conf_change(MemberChange(kind=ChangeKind.ADD, member=member))
    return Entry(1, index, EntryType.CONF_CHANGE_V2, change.encode())


async def test_a_joiner_goes_by_what_it_was_told_until_it_knows(nursery, autojump_clock):
    """While it applies the log's old memberships it keeps talking to the members of today."""
    today = Cluster(
        cluster_id=7,
        index=3,
        members=tuple(Member(id=n, name=f"n{n}", peer_urls=("http://new:1",)) for n in VOTERS),
    )
    bench = Bench(members=(), foreseen=today)
    nursery.start_soon(bench.node.run)
    bench.append(adding(1, 2), adding(2, 3), adding(3, 1), commit=2)
    await wait_all_tasks_blocked()
    assert len(bench.node.cluster) == 2
    assert set(bench.transport.clusters) == {today}

    bench.hear(MessageType.HEARTBEAT, commit=3)
    await wait_all_tasks_blocked()
    assert bench.transport.clusters[-1] == bench.node.cluster
    assert bench.node.cluster.get(1).peer_urls == ("http://h:1",)


async def test_applying_its_own_removal_ends_a_node(autojump_clock):
    """run() returns Removed, and the machine has kept the membership without it."""
    bench = Bench()
    gone = MemberChange(kind=ChangeKind.REMOVE, member=bench.node.cluster.get(1))
    change = to_conf_change(gone).encode()
    bench.append(Entry(1, 1, EntryType.CONF_CHANGE_V2, change), commit=1)

    assert await bench.node.run() == Removed()
    assert list(bench.disk.members.removed) == [1]


async def test_leadership_counts_from_an_entry_of_its_own_term(nursery, autojump_clock):
    """While a new leader still applies what others had committed, it is not ready."""
    old = [Entry(1, index, data=b"x" * 100) for index in range(1, 4)]
    bench = Bench(entries=old, apply_bytes_max=50)  # one entry at a time
    ready = []
    apply = bench.machine.apply

    def watched(batch):
        ready.append(bench.node.leadership.is_ready)
        apply(batch)

    bench.machine.apply = watched
    nursery.start_soon(bench.node.run)
    await wait_all_tasks_blocked()
    await bench.elect()
    bench.hear(MessageType.APP_RESP, term=2, index=4)
    await wait_all_tasks_blocked()

    assert bench.node.applied == 4
    assert ready == [False] * 4
    assert bench.node.leadership.term == 2


async def test_a_follower_does_nothing_for_the_leader(nursery, autojump_clock):
    """Proposals and changes are refused with the leader's id; reads end in NoLeaderError."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.HEARTBEAT)
    await wait_all_tasks_blocked()
    node = bench.node
    for attempt in (
        node.propose(b"x"),
        node.membership.add("n9", ["http://h:9"]),
        node.membership.remove(3),
        node.membership.promote(3),
        node.membership.update(3, ["http://h:9"]),
        node.handover.transfer(3),
    ):
        with pytest.raises(NotLeaderError) as caught:
            await attempt
        assert caught.value.leader_id == 2
    assert bench.transport.kinds() == [MessageType.HEARTBEAT_RESP]

    began = trio.current_time()
    with pytest.raises(NoLeaderError):
        await node.read_index()
    assert trio.current_time() - began == pytest.approx(2 * ELECTION_SECONDS)


async def test_an_entry_that_no_frame_holds_is_refused(nursery, autojump_clock):
    """Nothing enters the log that could never be sent to a peer."""
    bench = Bench()
    with pytest.raises(EntryTooLargeError):
        bench.node.propose_now(b"x" * (ENTRY_BYTES_MAX + 1))


async def test_the_inbox_is_bounded(nursery, autojump_clock):
    """Messages beyond the limit are dropped; large appends make the lane wait for room."""
    bench = Bench()
    for _ in range(5000):
        bench.hear(MessageType.HEARTBEAT)
    assert len(bench.node._inbox) == 4096
    bench = Bench()
    bench.append(*(Entry(1, index, data=b"x" * (9 << 20)) for index in range(1, 5)))
    with trio.move_on_after(1) as scope:
        await bench.node.wait_room()
    assert scope.cancelled_caught

    nursery.start_soon(bench.node.run)
    with trio.fail_after(1):
        await bench.node.wait_room()


async def test_a_snapshot_from_a_peer_is_not_taken(nursery, autojump_clock):
    """A node whose log is never cut has nothing to install one with."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.SNAP, snapshot=Snapshot(50, 1, ConfState(voters=VOTERS)))
    await wait_all_tasks_blocked()

    assert bench.node.status().committed == 0


def test_the_start_goes_by_what_was_applied():
    """Applied but not recorded as committed counts as committed; beyond the log it is refused."""
    log = MemoryLog(Disk(entries=[Entry(1, index) for index in range(1, 11)]))
    recorded = HardState(3, 2, 4)

    assert initial_hard_state(recorded, applied=7, log=log) == HardState(3, 2, 7)
    assert initial_hard_state(recorded, applied=2, log=log) == recorded
    with pytest.raises(RestartError, match=r"ends at index 10.*11"):
        initial_hard_state(recorded, applied=11, log=log)
    log.compact(8)
    with pytest.raises(RestartError, match="begins at index 9"):
        initial_hard_state(HardState(3, 2, 9), applied=7, log=log)


async def test_a_sole_voter_campaigns_once_while_its_disk_is_slow(nursery, autojump_clock):
    """Its vote for itself waits for the disk, however long; no tick begins the election anew."""
    bench = Bench(members=(1,))
    bench.runner.close()
    nursery.start_soon(bench.node.run)
    await trio.sleep(ELECTION_SECONDS * 0.9)

    assert bench.node.status().term == 1
    bench.runner.opened.set()
    await wait_all_tasks_blocked()
    assert bench.node.role == "leader"


async def test_a_leader_that_knows_more_of_this_log_than_there_is(autojump_clock):
    """Its heartbeat commits what this member had acknowledged: an older copy was put back."""
    bench = Bench(entries=[Entry(1, index) for index in (1, 2, 3)], applied=3)
    bench.hear(MessageType.HEARTBEAT, commit=3)
    bench.hear(MessageType.HEARTBEAT, commit=5)

    with pytest.raises(StaleDirectoryError, match="log here ends at index 3"):
        await bench.node.run()
