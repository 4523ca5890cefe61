"""The thirteen rules for whoever hosts the Raft core, each by its number.

The core leaves them to the driver, the storage and the state machine; most were learnt from
failures. Those about installing a snapshot and cutting the log have more in test_installing.py;
`pytest -k rule_07` finds all of a rule.
"""

import random
from collections import Counter, deque

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kingbus.binlog.relay_state import RelayState
from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.member import Member
from kingbus.node.changes import to_conf_change
from kingbus.node.core import core_config, initial_hard_state
from kingbus.node.errors import (
    LeaderRemovalError,
    NotLeaderError,
    ProposalLostError,
    RestartError,
)
from kingbus.node.status import NodeSettings
from kingbus.node.writes import gather
from kingbus.pb.command_pb2 import SourceConfig
from kingbus.raft.errors import ProposalDroppedError, SnapshotTemporarilyUnavailableError
from kingbus.raft.raw_node import RawNode
from kingbus.raft.types import (
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from kingbus.replication.receiver import Receiver
from kingbus.replication.served_facts import ClusterIdentity
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.log import LogStore, LogWrite
from kingbus.transport.queues import coalesce
from tests.support.memory_node import Disk, MemoryLog, eventually
from tests.support.relay_logs import (
    UUID_A,
    BinlogFile,
    Cutter,
    batch_command,
    gtids,
    packets_of,
    session_command,
)
from tests.support.solo_node import SoloNode
from tests.unit.node.test_node import TERM, VOTERS, Bench
from tests.unit.raft.cluster import Cluster as CoreCluster


async def lead(bench: Bench, nursery: trio.Nursery) -> None:
    """Node 1 leads, and has applied its first entry."""
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.HEARTBEAT)  # of term 1
    await wait_all_tasks_blocked()
    await bench.elect()
    for peer in (2, 3):
        acknowledge(bench, peer, bench.node._raw.last_index)
    await wait_all_tasks_blocked()
    assert bench.node.leadership.is_ready
    bench.transport.sent.clear()


def acknowledge(bench: Bench, peer: int, index: int) -> None:
    message = Message(MessageType.APP_RESP, to=1, from_=peer, term=TERM, index=index)
    bench.node.receive([message])


def removal_of(bench: Bench, member_id: int, index: int) -> Entry:
    gone = MemberChange(kind=ChangeKind.REMOVE, member=bench.node.cluster.get(member_id))
    return Entry(1, index, EntryType.CONF_CHANGE_V2, to_conf_change(gone).encode())


def stored(path, **options) -> LogStore:
    return LogStore.open(path, segment_bytes=1 << 20, reserve_bytes=16 << 20, **options)


def write(store: LogStore, **parts) -> None:
    what = LogWrite(**parts)
    store.write(what)
    store.publish(what)


# 1. Snapshots must be fresh


def behind_the_start() -> CoreCluster:
    """Three cores of which 3 lacks what the log of leader 1 has no more."""
    cluster = CoreCluster(nodes=3)
    cluster.settle()
    cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"%d" % number, 1, 2)
    cluster.hosts[1].disk.compact(cluster[1].applied)
    return cluster


def test_rule_01_no_snapshot_is_sent_before_there_is_a_fresh_one():
    """While the host has none "temporarily" nothing is sent; later it is asked again."""
    cluster = behind_the_start()
    disk = cluster.hosts[1].disk
    fresh = disk.snapshot

    def unavailable() -> Snapshot:
        raise SnapshotTemporarilyUnavailableError

    disk.snapshot = unavailable
    for _ in range(3):
        cluster.tick(1)
        cluster.settle()
    assert cluster[3].committed < cluster[1].committed
    disk.snapshot = fresh
    for _ in range(3):
        cluster.tick(1)
        cluster.settle()

    assert cluster[3].applied == cluster[1].applied


def test_rule_01_a_snapshot_without_the_receiver_is_of_no_use():
    """It is ignored: so whoever makes one must take the membership of now, not of its index."""
    cluster = behind_the_start()
    disk = cluster.hosts[1].disk
    start = disk.first_index() - 1
    old = Snapshot(start, disk.term(start), ConfState(voters=(1, 2)), b"", start)
    cluster.step(Message(MessageType.SNAP, to=3, from_=1, term=cluster[1].term, snapshot=old))

    assert cluster[3].committed < start
    assert disk.snapshot().conf_state.voters == (1, 2, 3)


def test_rule_01_the_log_has_no_snapshot_of_its_own(tmp_path):
    """Only a source that knows the present membership can make one; without it none is sent."""
    store = stored(tmp_path)
    with pytest.raises(SnapshotTemporarilyUnavailableError):
        store.snapshot()
    snapshot = Snapshot(7, 1, ConfState(voters=VOTERS), b"", 9)
    store.set_snapshot_source(lambda: snapshot)

    assert store.snapshot() is snapshot
    store.close()


# 2. A conf change applied late must not undo a snapshot


def test_rule_02_a_change_from_before_the_configuration_is_ignored():
    """The core starts from the index that its membership is of, which may be above what is applied;
    what is applied later and lies below it changes nothing.
    """
    members = tuple(Member(id=n, name=f"n{n}", peer_urls=(f"http://h:{n}",)) for n in VOTERS)
    disk = Disk(entries=[Entry(1, index) for index in range(1, 11)])
    log = MemoryLog(disk)
    raw = RawNode(
        core_config(
            member_id=1,
            log=log,
            hard_state=HardState(1, 0, 3),
            cluster=Cluster(cluster_id=7, index=9, members=members),
            applied=3,
            random=random.Random(1),
            settings=NodeSettings(),
        )
    )
    removal = ConfChange(ConfChangeType.REMOVE_NODE, 3)

    assert raw.apply_conf_change(removal, index=9).voters == VOTERS
    assert raw.apply_conf_change(removal, index=10).voters == (1, 2)


async def test_rule_02_the_core_is_told_the_index_of_each_change(nursery, autojump_clock):
    """So that it can tell an old one."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.append(Entry(1, 1, data=b"x"), removal_of(bench, 3, 2), commit=2)
    await wait_all_tasks_blocked()

    assert bench.node._raw.conf_state == ConfState(voters=(1, 2))
    assert bench.node._raw.conf_index == 2


# 3. Never remove or demote the leader directly


async def test_rule_03_the_leader_is_not_removed(nursery, autojump_clock):
    """It asks another to take over, and proposes nothing; when nobody does, it is an error.

    More: test_cluster_of_nodes.py::test_the_leader_hands_over_before_it_is_removed.
    """
    bench = Bench()
    await lead(bench, nursery)
    last = bench.node._raw.last_index
    with pytest.raises(LeaderRemovalError):
        await bench.node.membership.remove(1)

    assert MessageType.TIMEOUT_NOW in bench.transport.kinds()
    assert bench.node._raw.last_index == last


# 4. A Ready can carry a snapshot and entries


def test_rule_04_a_snapshot_goes_before_the_entries_behind_it(tmp_path):
    """Both in one message, both in one write, and both there after a restart."""
    snapshot = Snapshot(20, 3, ConfState(voters=VOTERS))
    behind = [Entry(3, 21, data=b"a"), Entry(3, 22, data=b"b")]
    message = Message(
        MessageType.STORAGE_APPEND, term=3, vote=1, commit=20, snapshot=snapshot, entries=behind
    )
    store = stored(tmp_path)
    write(store, entries=[Entry(1, 1), Entry(1, 2)], hard_state=HardState(1, 0, 2))
    gathered = gather(deque([message]), HardState(1, 0, 2))
    write(
        store,
        snapshot=gathered.snapshot,
        entries=gathered.entries,
        hard_state=gathered.hard_state,
    )
    store.close()
    store = stored(tmp_path)

    assert (store.first_index(), store.last_index()) == (21, 22)
    assert [entry.data for entry in store.read(21, 23, 1 << 20)] == [b"a", b"b"]
    assert store.initial_state() == (HardState(3, 1, 20), ConfState(voters=VOTERS))
    store.close()


# 5. A snapshot index above the durable commit index makes a restart fail


@pytest.mark.parametrize("recorded", [None, HardState(3, 1, 4)])
def test_rule_05_a_snapshot_raises_the_commit_index_with_it(tmp_path, recorded):
    """In the same write, whatever hard state comes along; so the node starts again."""
    store = stored(tmp_path)
    write(store, entries=[Entry(1, 1)], hard_state=HardState(1, 0, 1))
    write(store, snapshot=Snapshot(20, 3, ConfState(voters=VOTERS)), hard_state=recorded)
    store.close()
    store = stored(tmp_path)
    hard_state, _ = store.initial_state()

    assert hard_state.commit == 20
    assert initial_hard_state(hard_state, applied=20, log=store).commit == 20
    store.close()


# 6. Compact at most to the applied index


def test_rule_06_a_log_that_begins_behind_what_was_applied_is_refused():
    """Entries that were given up before they were applied are a gap: the node does not start."""
    log = MemoryLog(Disk(entries=[Entry(1, index) for index in range(1, 11)]))
    log.compact(7)

    assert initial_hard_state(HardState(1, 0, 10), applied=7, log=log).commit == 10
    with pytest.raises(RestartError, match="begins at index 8, but only 6"):
        initial_hard_state(HardState(1, 0, 10), applied=6, log=log)


def test_rule_06_the_log_is_given_up_only_below_the_index(tmp_path):
    """What is asked for is kept whole: `truncate_before` never takes the entry that it names."""
    store = stored(tmp_path)
    data = b"x" * 100_000
    write(store, entries=[Entry(1, index, data=data) for index in range(1, 41)])
    store.truncate_before(25)

    assert store.first_index() == 25
    assert [entry.index for entry in store.read(25, 41, 1 << 30)] == list(range(25, 41))
    store.close()


# 7. Always report a snapshot's fate


@pytest.mark.parametrize(
    ("arrived", "following"), [(True, ("StateReplicate", 7)), (False, ("StateProbe", 1))]
)
async def test_rule_07_the_fate_of_a_snapshot_reaches_the_core(
    nursery, autojump_clock, arrived, following
):
    """The peer leaves the snapshot state either way, and goes on behind what it surely has.

    More: test_fates.py; what the transport reports: test_transport.py.
    """
    bench = Bench(entries=[Entry(1, index, data=b"x") for index in range(1, 6)], applied=5)
    bench.log.create_snapshot(5, ConfState(voters=VOTERS))
    bench.log.compact(5)
    nursery.start_soon(bench.node.run)
    await lead_with_two_behind(bench)
    assert bench.node.status().peers[2].progress.state == "StateSnapshot"
    assert MessageType.SNAP in bench.transport.kinds()

    if arrived:
        bench.hear(MessageType.APP_RESP, term=TERM, index=5)
    else:
        bench.node.report_snapshot(2, ok=False)
    await wait_all_tasks_blocked()
    progress = bench.node.status().peers[2].progress
    assert (progress.state, progress.next) == following


async def lead_with_two_behind(bench: Bench) -> None:
    """Node 1 leads by the vote of 3; 2 has an empty log."""
    await wait_all_tasks_blocked()
    await bench.elect(by=3)
    bench.hear(MessageType.APP_RESP, term=TERM, index=5, reject=True)
    await wait_all_tasks_blocked()


async def test_rule_07_a_lost_append_reaches_the_core(nursery, autojump_clock):
    """What the transport dropped is not streamed behind: the leader probes."""
    bench = Bench()
    await lead(bench, nursery)
    assert bench.node.status().peers[2].progress.state == "StateReplicate"
    bench.node.report_unreachable(2)
    await wait_all_tasks_blocked()

    assert bench.node.status().peers[2].progress.state == "StateProbe"


# 8. Storage work strictly in order, responses after the sync


async def test_rule_08_writes_keep_their_order_and_answers_wait_for_them(nursery, autojump_clock):
    """Appends that wait for one disk become one write in their order; then each is acknowledged.

    More: test_writes.py, test_node.py::test_an_acknowledgement_waits_for_the_disk.
    """
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.runner.close()
    for index in (1, 2, 3):
        bench.append(Entry(1, index, data=b"%d" % index))
        await wait_all_tasks_blocked()
    # The second replaces what the third append brought.
    replaced = Entry(2, 3, data=b"of term 2")
    bench.hear(MessageType.APP, term=2, index=2, log_term=1, entries=[replaced])
    await wait_all_tasks_blocked()
    assert MessageType.APP_RESP not in bench.transport.kinds()

    bench.runner.opened.set()
    await wait_all_tasks_blocked()
    assert [entry.data for entry in bench.disk.entries] == [b"1", b"2", b"of term 2"]
    answers = [m for m in bench.transport.sent if m.type is MessageType.APP_RESP]
    assert [(m.term, m.index) for m in answers] == [(1, 1), (1, 2), (1, 3), (2, 3)]


async def test_rule_08_entries_are_applied_in_order(autojump_clock):
    """Also when several runs of them wait."""
    bench = Bench(entries=[Entry(1, index, data=b"%d" % index) for index in range(1, 5)])
    node = bench.node
    for commit in (2, 4):
        bench.hear(MessageType.HEARTBEAT, commit=commit)
        node._take_inputs()
        while node._raw.has_ready():
            node._handle(node._raw.ready())
    assert len(node._apply_queue) == 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert bench.machine.data == [b"1", b"2", b"3", b"4"]


async def test_rule_08_a_restart_applies_only_what_was_not(nursery, autojump_clock):
    """What the machine has kept is not given to it again."""
    bench = Bench(entries=[Entry(1, index, data=b"%d" % index) for index in range(1, 5)], applied=2)
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.HEARTBEAT, commit=4)
    await wait_all_tasks_blocked()

    assert bench.machine.data == [b"3", b"4"]


async def test_rule_08_a_change_acts_only_after_it_is_kept(nursery, autojump_clock):
    """When the machine keeps a change, the core still goes by the old configuration."""
    bench = Bench()
    seen = []
    apply = bench.machine.apply

    def watched(batch):
        seen.append(bench.node._raw.conf_state.voters)
        apply(batch)

    bench.machine.apply = watched
    nursery.start_soon(bench.node.run)
    bench.append(removal_of(bench, 3, 1), commit=1)
    await wait_all_tasks_blocked()

    assert seen == [VOTERS]
    assert bench.node._raw.conf_state.voters == (1, 2)


# 9. Outgoing: nothing to removed members, no needless acknowledgement, and late heartbeats are told


async def test_rule_09_nothing_goes_to_a_removed_member(nursery, autojump_clock):
    """The transport is told as soon as the removal is applied, and the core names it no more."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.append(removal_of(bench, 3, 1), commit=1)
    await wait_all_tasks_blocked()
    assert bench.transport.clusters[-1].get(3) is None
    assert 3 in bench.transport.clusters[-1].removed

    bench.transport.sent.clear()
    await bench.transport.wait_for(MessageType.PRE_VOTE)
    assert {message.to for message in bench.transport.sent} == {2}


def test_rule_09_of_several_acknowledgements_the_last_counts():
    """Per peer and term; what refuses always says something."""

    def response(to, index, *, term=1, reject=False):
        return Message(MessageType.APP_RESP, to=to, term=term, index=index, reject=reject)

    messages = [
        response(2, 1),
        response(3, 1),
        response(2, 2, reject=True),
        response(2, 3),
        response(2, 4, term=2),
        response(2, 5, term=2),
    ]

    assert coalesce(messages) == [messages[1], messages[2], messages[3], messages[5]]


async def test_rule_09_late_heartbeats_are_told(nursery, mock_clock, caplog):
    """A leader whose loop stood still says so, at most every ten seconds."""
    bench = Bench()
    await lead(bench, nursery)
    for _ in range(3):
        mock_clock.jump(0.5)
        await wait_all_tasks_blocked()

    told = [record for record in caplog.records if "heartbeats are late" in record.message]
    assert len(told) == 1


async def test_rule_09_a_stall_does_not_hide_the_heartbeat_in_the_inbox(nursery, mock_clock):
    """What came before the tick is heard before the tick."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    await wait_all_tasks_blocked()
    bench.hear(MessageType.HEARTBEAT)
    await wait_all_tasks_blocked()
    bench.node._raw._raft.randomized_election_timeout = bench.node.settings.election_ticks
    for _ in range(8):
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked()
    # The loop stands still until long after its time, and a heartbeat comes meanwhile.
    mock_clock.jump(60)
    bench.hear(MessageType.HEARTBEAT)
    await wait_all_tasks_blocked()

    assert bench.node.status().leader_id == 2
    assert MessageType.PRE_VOTE not in bench.transport.kinds()


# 10. Bound what a slow disk can queue


async def test_rule_10_too_much_uncommitted_is_refused(nursery, autojump_clock):
    """While nobody acknowledges, a leader takes only so much; then proposals wait."""
    bench = Bench(uncommitted_bytes_max=1000)
    await lead(bench, nursery)
    for _ in range(10):
        bench.node.propose_now(b"x" * 100)
    with pytest.raises(ProposalDroppedError):
        bench.node.propose_now(b"x")
    assert bench.node.status().uncommitted_bytes == 1000
    with trio.move_on_after(1) as waiting:
        await bench.node.propose(b"x")
    assert waiting.cancelled_caught

    await wait_all_tasks_blocked()
    acknowledge(bench, 2, bench.node._raw.last_index)
    with trio.fail_after(1):
        await bench.node.propose(b"x")


async def test_rule_10_what_is_under_way_to_a_follower_is_bounded(nursery, autojump_clock):
    """A follower that does not answer gets so many bytes of entries and no more."""
    bench = Bench(message_bytes_max=100, inflight_bytes_max=500)
    await lead(bench, nursery)
    for _ in range(50):
        bench.node.propose_now(b"x" * 100)
        await wait_all_tasks_blocked()

    under_way = Counter()
    for message in bench.transport.sent:
        under_way[message.to] += sum(len(entry.data) for entry in message.entries)
    assert under_way == {2: 500, 3: 500}


# 11. A refused or lost proposal has an unknown outcome: applying twice must do nothing


def test_rule_11_a_batch_that_is_proposed_again_is_dropped():
    """The same session and sequence at another index changes nothing, byte for byte.

    More: test_relay_state.py::test_only_the_valid_session_and_the_next_sequence_count.
    """
    state = RelayState()
    state.apply(1, session_command())
    file = BinlogFile("binlog.000001", UUID_A, gtids(""))
    file.transaction(1)
    meta, packets = Cutter(session=1, epoch=state.epoch).cut(file, packets_of(file.events))
    command = batch_command(meta)
    assert state.apply(2, command, packet_bytes=len(packets)).accepted
    before = state.to_record()
    again = state.apply(3, command, packet_bytes=len(packets))
    assert not again.accepted
    after = state.to_record()
    after.index = before.index

    assert after == before
    assert not state.apply(2, command, packet_bytes=len(packets)).accepted


async def test_rule_11_proposals_are_not_forwarded(nursery, autojump_clock):
    """Neither the node's own nor another's: whoever proposes must be able to follow the outcome."""
    bench = Bench()
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.HEARTBEAT)
    await wait_all_tasks_blocked()
    bench.transport.sent.clear()
    forwarded = Message(MessageType.PROP, to=1, from_=3, entries=[Entry(0, 0, data=b"x")])
    bench.node.receive([forwarded])
    await wait_all_tasks_blocked()
    with pytest.raises(NotLeaderError):
        bench.node.propose_now(b"x")

    assert MessageType.PROP not in bench.transport.kinds()


# 12. Only a leader that has applied an entry of its term pulls, and it stops before it steps down


async def test_rule_12_leadership_counts_from_an_applied_entry_of_its_term(nursery, autojump_clock):
    """An elected leader that has not committed anything yet is not ready.

    More: test_node.py::test_leadership_counts_from_an_entry_of_its_own_term.
    """
    bench = Bench(entries=[Entry(1, index, data=b"x") for index in range(1, 4)], applied=1)
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.HEARTBEAT, commit=2)
    await wait_all_tasks_blocked()
    bench.node._raw.forget_leader()
    await bench.elect()
    assert bench.node.role == "leader"
    assert bench.node.applied == 2
    assert not bench.node.leadership.is_ready
    acknowledge(bench, 2, 4)
    await wait_all_tasks_blocked()

    assert bench.node.leadership.term == TERM


async def test_rule_12_who_is_told_of_a_lost_proposal_does_not_lead(nursery, autojump_clock):
    """All that wait are told at once, and find that leadership is over."""
    bench = Bench()
    await lead(bench, nursery)
    found = []

    async def wait(proposal):
        with pytest.raises(ProposalLostError):
            await proposal.applied()
        found.append(bench.node.leadership.is_ready)

    for _ in range(3):
        nursery.start_soon(wait, bench.node.propose_now(b"x"))
    await wait_all_tasks_blocked()
    bench.hear(MessageType.HEARTBEAT, term=TERM + 1)
    await wait_all_tasks_blocked()

    assert found == [False] * 3


async def test_rule_12_leadership_ends_before_the_new_leader_is_answered(nursery, autojump_clock):
    """When the first message of another term leaves, nobody here acts for the leader any more."""
    bench = Bench()
    await lead(bench, nursery)
    ready = []
    send = bench.transport.send

    def watched(messages):
        ready.extend(bench.node.leadership.is_ready for m in messages if m.term > TERM)
        send(messages)

    bench.transport.send = watched
    bench.hear(MessageType.HEARTBEAT, term=TERM + 1)
    await wait_all_tasks_blocked()

    assert ready == [False]


async def test_rule_12_only_a_leader_pulls(nursery):
    """No source is looked at before leadership, nor after it.

    More: test_receiver.py::test_a_new_leader_goes_on_by_itself.
    """
    node = SoloNode()
    receiver = Receiver(
        node=node,
        relay=node.relay,
        identity=ClusterIdentity(1234, lambda: node.state),
        secret=lambda: None,
        changed=lambda: node.changed,
        random=random.Random(1),
    )
    node.configure(SourceConfig(started=True, addresses=["127.0.0.1:1"], user="u", mode="gtid"))
    nursery.start_soon(receiver.run)
    await wait_all_tasks_blocked()
    assert (receiver.status().status, receiver.status().address) == ("stopped", "")

    node.lead()
    await eventually(lambda: receiver.status().address)
    assert receiver.status().status == "connecting"
    node.step_down()
    await eventually(lambda: receiver.status().status == "stopped")


# 13. One sync for hard state and entries, and a vote is durable before it leaves


class CountingFiles(LocalFileSystem):
    """Counts the waits for the disk."""

    def __init__(self) -> None:
        self.syncs = 0

    def fdatasync(self, fd: int) -> None:
        self.syncs += 1
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self.syncs += 1
        super().fsync(fd)


def test_rule_13_hard_state_and_entries_share_a_sync(tmp_path):
    """What was gathered from several appends, votes among them, waits for the disk once."""
    files = CountingFiles()
    store = stored(tmp_path, files=files)
    messages = [
        Message(MessageType.STORAGE_APPEND, entries=[Entry(1, 1, data=b"a")], term=1, commit=0),
        Message(MessageType.STORAGE_APPEND, term=2, vote=3, commit=1),
        Message(MessageType.STORAGE_APPEND, entries=[Entry(2, 2, data=b"b")]),
    ]
    gathered = gather(deque(messages), HardState())
    files.syncs = 0
    write(store, entries=gathered.entries, hard_state=gathered.hard_state)
    assert files.syncs == 1
    store.abandon()
    store = stored(tmp_path)

    assert store.initial_state()[0] == HardState(2, 3, 1)
    assert [entry.data for entry in store.read(1, 3, 100)] == [b"a", b"b"]
    store.close()


@pytest.mark.parametrize("vote", [2, 3])
async def test_rule_13_a_vote_is_on_disk_when_it_leaves(nursery, autojump_clock, vote):
    """Also for a term that is known already: then only the vote is new.

    More: test_node.py::test_a_vote_waits_for_the_disk.
    """
    bench = Bench()
    durable = []
    send = bench.transport.send

    def watched(messages):
        votes = [message for message in messages if message.type is MessageType.VOTE_RESP]
        durable.extend(bench.disk.hard_state for _ in votes)
        send(messages)

    bench.transport.send = watched
    nursery.start_soon(bench.node.run)
    bench.hear(MessageType.APP_RESP, term=4)
    await wait_all_tasks_blocked()
    assert bench.disk.hard_state == HardState(4, 0, 0)
    bench.node.receive([Message(MessageType.VOTE, to=1, from_=vote, term=4)])
    await wait_all_tasks_blocked()

    assert durable == [HardState(4, vote, 0)]
