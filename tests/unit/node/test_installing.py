"""One node and snapshots, on a virtual clock: what comes before what, and what is never done."""

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.member import Member
from kingbus.node.changes import to_conf_change
from kingbus.node.core import conf_state_of
from kingbus.node.fates import SNAPSHOT_SECONDS_MAX
from kingbus.node.node import Node, NodeSettings
from kingbus.raft.errors import SnapshotTemporarilyUnavailableError
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import (
    APPLY_THREAD,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from kingbus.storage.installing import UnreadableSnapshotError, pack_snapshot, unpack_snapshot

CLUSTER = Cluster(
    cluster_id=7,
    index=3,
    members=tuple(Member(id=n, name=f"n{n}", peer_urls=(f"http://h:{n}",)) for n in (1, 2, 3)),
)


class Host:
    """Log, machine, snapshots, transport and worker threads of one node, in one record."""

    def __init__(self, *, applied=3, last=3):
        self.steps = []
        self.log = CutLog(self)
        entries = [Entry(1, index, data=b"%d" % index) for index in range(1, last + 1)]
        self.log.append(entries)
        self.log.set_hard_state(HardState(1, 0, applied))
        self.applied_index = applied
        self.applied_data = []
        self.applied_members = {}
        self.first_index = 1
        self.sent = []
        self.clusters = []
        self.opened = trio.Event()
        self.opened.set()
        self.finishing = trio.Event()
        self.finishing.set()

    # The machine

    def apply(self, batch):
        assert batch.entries[0].index == self.applied_index + 1
        self.applied_index = batch.entries[-1].index
        self.applied_data += [entry.data for entry in batch.entries if entry.type == 0]
        self.applied_members.update(batch.members)

    # Its snapshots

    def make(self):
        if self.first_index == 1:
            raise SnapshotTemporarilyUnavailableError
        return self.first_index - 1, b"state"

    def check(self, snapshot):
        if unpack_snapshot(snapshot)[1] != b"state":
            raise UnreadableSnapshotError("not a state")

    async def begin(self, snapshot):
        self.steps.append(f"mark {snapshot.index}")
        await trio.lowlevel.checkpoint()

    async def finish(self, snapshot):
        await self.finishing.wait()
        self.steps.append(f"state {snapshot.index}")
        self.applied_index = snapshot.index

    async def sync(self):
        self.steps.append("sync")
        await trio.lowlevel.checkpoint()

    # The transport

    def send(self, messages):
        for message in messages:
            if message.type is MessageType.APP_RESP:
                self.steps.append(f"answer {message.index}")
        self.sent += messages

    def set_cluster(self, cluster):
        self.clusters.append(cluster)

    def facts(self, _member_id):
        return None

    def of(self, kind):
        return [message for message in self.sent if message.type is kind]

    # The worker threads

    async def run(self, function, *arguments):
        await self.opened.wait()
        return function(*arguments)


class CutLog(MemoryStorage):
    def __init__(self, host):
        super().__init__()
        self.host = host
        self.writes = []
        self.source = None

    def write(self, write):
        self.writes.append(write)
        what = [] if write.snapshot is None else [f"snapshot {write.snapshot.index}"]
        if write.entries:
            what.append(f"entries {write.entries[0].index}-{write.entries[-1].index}")
        self.host.steps.append(" and ".join(["log", *what]))

    def publish(self, write):
        if write.snapshot is not None:
            self.apply_snapshot(write.snapshot)
        self.append(list(write.entries))
        if write.hard_state is not None:
            self.set_hard_state(write.hard_state)

    def note_idle(self):
        return False

    def set_conf_state(self, index, conf_state): ...

    def set_snapshot_source(self, source):
        self.source = source

    def snapshot(self):
        return self.source()

    def truncate_before(self, index):
        self.host.steps.append(f"cut {index}")
        self.compact(index - 1)


@pytest.fixture
def host():
    return Host()


def node_of(host, *, cluster=CLUSTER, **settings):
    return Node(
        member_id=1,
        cluster=cluster,
        log=host.log,
        machine=host,
        snapshots=host,
        transport=host,
        random=random.Random(5),
        runner=host.run,
        settings=NodeSettings(heartbeat_seconds=0.1, election_seconds=1.0, **settings),
    )


def snapshot_at(index, *, term=1, cluster=CLUSTER, state=b"state"):
    return Snapshot(
        index,
        term,
        conf_state_of(cluster),
        pack_snapshot(cluster.to_record(), state),
        cluster.index,
    )


def message(kind, **fields):
    """Of leader 2 in term 1."""
    return Message(kind, to=1, from_=2, **({"term": 1} | fields))


def snap(index, **options):
    return message(MessageType.SNAP, snapshot=snapshot_at(index, **options))


def append(*entries, commit=0):
    first = entries[0].index
    return message(
        MessageType.APP, index=first - 1, log_term=1, entries=list(entries), commit=commit
    )


def removal(index, member_id):
    change = MemberChange(kind=ChangeKind.REMOVE, member=CLUSTER.require(member_id))
    encoded = to_conf_change(change)
    return Entry(1, index, encoded.entry_type, encoded.encode())


async def test_rule_05_each_step_is_durable_before_the_next(nursery, autojump_clock, host):
    """Mark, log, state, and only then the answer; the commit index is written with the log."""
    node = node_of(host)
    nursery.start_soon(node.run)
    node.receive([snap(50)])
    await wait_all_tasks_blocked()

    assert host.steps == ["mark 50", "log and snapshot 50", "state 50", "answer 50"]
    [write] = host.log.writes
    assert write.hard_state.commit >= 50
    assert node.applied == 50
    assert node.status().catch_up.begin == 50


async def test_nothing_is_said_before_the_state_is_durable(nursery, autojump_clock, host):
    """While an installation hangs, heartbeats are answered, and status says what is going on."""
    node = node_of(host)
    nursery.start_soon(node.run)
    host.finishing = trio.Event()
    node.receive([snap(50)])
    await wait_all_tasks_blocked()
    node.receive([message(MessageType.HEARTBEAT, commit=3, context=b"x")])
    await wait_all_tasks_blocked()

    assert [sent.context for sent in host.of(MessageType.HEARTBEAT_RESP)] == [b"x"]
    assert host.of(MessageType.APP_RESP) == []
    assert node.status().catch_up.installing
    assert node.applied == 3
    host.finishing.set()
    await wait_all_tasks_blocked()
    assert host.steps[-2:] == ["state 50", "answer 50"]
    assert not node.status().catch_up.installing


async def test_rule_04_a_snapshot_and_the_entries_behind_it_in_one_go(
    nursery, autojump_clock, host
):
    """The snapshot is installed, then the entries are there, in one write."""
    node = node_of(host)
    nursery.start_soon(node.run)
    node.receive([snap(50), append(Entry(1, 51, data=b"51"), Entry(1, 52, data=b"52"), commit=52)])
    await wait_all_tasks_blocked()

    assert "log and snapshot 50 and entries 51-52" in host.steps
    assert host.applied_data == [b"51", b"52"]
    assert host.log.first_index() == 51
    assert node.status().catch_up is None


async def test_what_waited_for_the_disk_before_a_snapshot_is_written_before(
    nursery, autojump_clock, host
):
    """Entries of the old log go first, by themselves; none of them is left behind the snapshot."""
    node = node_of(host)
    nursery.start_soon(node.run)
    await wait_all_tasks_blocked()
    host.opened = trio.Event()
    node.receive([append(Entry(1, 4, data=b"4"))])
    await wait_all_tasks_blocked()
    node.receive([append(Entry(1, 5, data=b"5"))])
    await wait_all_tasks_blocked()
    node.receive([snap(50)])
    await wait_all_tasks_blocked()
    host.opened.set()
    await wait_all_tasks_blocked()

    logged = [step for step in host.steps if step.startswith("log")]
    assert logged == ["log and entries 4-4", "log and entries 5-5", "log and snapshot 50"]
    assert host.log.last_index() == 50


async def test_rule_02_what_a_snapshot_overtook_is_never_applied(nursery, autojump_clock, host):
    """Neither while it is installed nor after; the core is told all the same."""
    node = node_of(host)
    nursery.start_soon(node.run)
    host.finishing = trio.Event()
    node.receive([snap(50)])
    await wait_all_tasks_blocked()
    told = Message(MessageType.STORAGE_APPLY_RESP, to=1, from_=APPLY_THREAD)
    told.entries = [removal(4, 3)]
    node._apply_queue.append(
        Message(MessageType.STORAGE_APPLY, to=APPLY_THREAD, entries=told.entries, responses=[told])
    )
    node._apply_work.set()
    await wait_all_tasks_blocked()
    assert (host.applied_index, host.applied_members) == (3, {})
    host.finishing.set()
    await wait_all_tasks_blocked()

    assert host.applied_index == 50
    assert host.applied_members == {}
    assert node.cluster == CLUSTER
    assert not node._apply_queue


async def test_rule_02_changes_that_the_membership_has_already_are_not_made_again(
    nursery, autojump_clock, host
):
    """Up to the index that the snapshot's membership is from; behind it they are."""
    newer = Cluster(cluster_id=7, index=52, members=CLUSTER.members)
    node = node_of(host)
    nursery.start_soon(node.run)
    node.receive([snap(50, cluster=newer)])
    await wait_all_tasks_blocked()
    node.receive([append(Entry(1, 51), removal(52, 3), commit=52)])
    await wait_all_tasks_blocked()
    assert node.applied == 52
    assert node.cluster == newer
    assert node._raw.conf_state == ConfState((1, 2, 3))
    assert host.applied_members[52] == newer.to_record()

    node.receive([append(removal(53, 3), commit=53)])
    await wait_all_tasks_blocked()
    assert node.cluster.removed == {3}
    assert node._raw.conf_state == ConfState((1, 2))


async def test_a_restart_goes_by_the_membership_of_the_snapshot(nursery, autojump_clock):
    """The log has the older change still in front of it; it is not made then either."""
    newer = Cluster(cluster_id=7, index=52, members=CLUSTER.members)
    host = Host()
    host.log.apply_snapshot(snapshot_at(50, cluster=newer))
    host.log.set_hard_state(HardState(1, 0, 50))
    host.applied_index = 50
    node = node_of(host, cluster=newer)
    nursery.start_soon(node.run)
    node.receive([append(Entry(1, 51), removal(52, 3), commit=52)])
    await wait_all_tasks_blocked()

    assert node.applied == 52
    assert node._raw.conf_state == ConfState((1, 2, 3))


async def test_what_cannot_be_read_is_not_installed(nursery, autojump_clock, host):
    """Nothing is touched, and a good one is taken afterwards."""
    node = node_of(host)
    nursery.start_soon(node.run)
    node.receive([snap(50, state=b"other")])
    node.receive([message(MessageType.SNAP, snapshot=Snapshot(50, 1, ConfState((1,)), b"\xff"))])
    await wait_all_tasks_blocked()
    assert (host.steps, node.status().committed) == ([], 3)

    node.receive([snap(50)])
    await wait_all_tasks_blocked()
    assert node.applied == 50


async def test_a_log_that_has_the_entry_needs_no_snapshot(nursery, autojump_clock):
    """It is answered for, and nothing is thrown away."""
    host = Host(last=9)
    node = node_of(host)
    nursery.start_soon(node.run)
    node.receive([snap(7)])
    await wait_all_tasks_blocked()

    assert "mark 7" not in host.steps
    assert "answer 7" in host.steps
    assert node.applied == 7


# The leader's side


async def leading(nursery, host):
    """Node 1 leads; 2 follows closely, 3 is behind the start of the log."""
    node = node_of(host)
    nursery.start_soon(node.run)
    await wait_all_tasks_blocked()
    node._raw.campaign()
    node._wake()
    await wait_all_tasks_blocked()
    term = 2
    for kind in (MessageType.PRE_VOTE_RESP, MessageType.VOTE_RESP):
        node.receive([Message(kind, to=1, from_=2, term=term)])
        await wait_all_tasks_blocked()
    last = node.status().last_index
    node.receive([Message(MessageType.APP_RESP, to=1, from_=2, term=term, index=last)])
    await wait_all_tasks_blocked()
    assert node.leadership.is_ready
    host.first_index = 3
    node._wake()
    await wait_all_tasks_blocked()
    assert host.log.first_index() == 3
    host.sent.clear()
    return node


def from_3(kind, **fields):
    return Message(kind, to=1, from_=3, term=2, **fields)


async def refuse(node, host):
    """3 answers that it has nothing."""
    at = node._raw.progress(3).next - 1
    node.receive([from_3(MessageType.APP_RESP, index=at, reject=True, reject_hint=0)])
    await wait_all_tasks_blocked()
    return host.of(MessageType.SNAP)


async def test_rule_01_a_snapshot_has_the_membership_of_now(nursery, autojump_clock, host):
    """And the index of that, however old the state in it is."""
    node = await leading(nursery, host)
    [sent] = await refuse(node, host)

    assert (sent.to, sent.snapshot.index, sent.snapshot.term) == (3, 2, 1)
    assert sent.snapshot.conf_index == node.cluster.index == 3
    assert sent.snapshot.conf_state == ConfState((1, 2, 3))
    members, state = unpack_snapshot(sent.snapshot)
    assert (Cluster.from_record(members), state) == (node.cluster, b"state")


async def test_a_peer_waits_until_its_snapshot_is_installed(nursery, autojump_clock, host):
    """That it left says nothing; the peer's own answer for its index goes on with entries."""
    node = await leading(nursery, host)
    await refuse(node, host)
    node.report_snapshot(3, ok=True)
    node.receive([from_3(MessageType.APP_RESP, index=1)])
    node.receive([from_3(MessageType.HEARTBEAT_RESP)])
    await wait_all_tasks_blocked()
    assert node.status().peers[3].progress.state == "StateSnapshot"
    assert len(host.of(MessageType.SNAP)) == 1

    node.receive([from_3(MessageType.APP_RESP, index=2)])
    await wait_all_tasks_blocked()
    assert node.status().peers[3].progress.state == "StateReplicate"
    [behind] = [sent for sent in host.of(MessageType.APP) if sent.to == 3 and sent.entries]
    assert behind.entries[0].index == 3


@pytest.mark.parametrize("how", ["never left", "connection lost", "no answer"])
async def test_rule_07_a_lost_snapshot_is_sent_again(nursery, autojump_clock, host, how):
    """However it was lost, the peer does not stay paused."""
    node = await leading(nursery, host)
    await refuse(node, host)
    if how == "never left":
        node.report_snapshot(3, ok=False)
    elif how == "connection lost":
        node.report_unreachable(3)
    else:
        until = trio.current_time() + SNAPSHOT_SECONDS_MAX + 1
        while trio.current_time() < until:
            node.receive([from_3(MessageType.HEARTBEAT_RESP)])
            node.receive([Message(MessageType.HEARTBEAT_RESP, to=1, from_=2, term=2)])
            await trio.sleep(0.3)
    await wait_all_tasks_blocked()
    node.receive([from_3(MessageType.HEARTBEAT_RESP)])
    await wait_all_tasks_blocked()

    assert len(host.of(MessageType.SNAP)) == 2


async def test_without_a_state_there_is_no_snapshot_yet(nursery, autojump_clock, host):
    """The peer is asked again later, and gets it then."""
    node = await leading(nursery, host)
    host.first_index = 1
    assert await refuse(node, host) == []
    host.first_index = 3
    node.receive([from_3(MessageType.HEARTBEAT_RESP)])
    await wait_all_tasks_blocked()

    assert len(host.of(MessageType.SNAP)) == 1


async def test_a_snapshot_too_large_for_a_frame_is_not_made(
    nursery, autojump_clock, host, monkeypatch
):
    """It is said, and the node goes on."""
    node = await leading(nursery, host)
    monkeypatch.setattr("kingbus.node.log_start.SNAPSHOT_BYTES_MAX", 10)
    assert await refuse(node, host) == []
    assert node.leadership.is_ready


# Cutting the log


async def test_rule_06_the_log_is_cut_behind_a_sync_and_at_most_at_what_was_applied(
    nursery, autojump_clock
):
    """What the core has still to read stays, whatever the machine says."""
    host = Host(last=9)
    host.first_index = 8
    node = node_of(host)
    nursery.start_soon(node.run)
    await wait_all_tasks_blocked()
    assert host.steps == []
    node.receive([message(MessageType.HEARTBEAT, commit=6)])
    await wait_all_tasks_blocked()
    assert (node.applied, host.log.first_index()) == (6, 1)

    node.receive([message(MessageType.HEARTBEAT, commit=9)])
    await wait_all_tasks_blocked()
    assert host.steps == ["sync", "cut 8"]
    assert host.log.first_index() == 8


async def test_a_cut_that_a_crash_prevented_is_made_at_start(nursery, autojump_clock):
    """The machine knows that it needs less than the log holds."""
    host = Host(applied=9, last=9)
    host.first_index = 8
    node = node_of(host)
    nursery.start_soon(node.run)
    await wait_all_tasks_blocked()

    assert host.steps == ["sync", "cut 8"]
