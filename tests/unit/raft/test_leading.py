"""What a leader does: replication within its limits, snapshots, transfer, reads, changes."""

import pytest

from kingbus.raft.errors import (
    MalformedMessageError,
    ProposalDroppedError,
    SnapshotTemporarilyUnavailableError,
)
from kingbus.raft.read_only import PENDING_MAX
from kingbus.raft.ready import ReadState, Role
from kingbus.raft.types import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from tests.unit.raft.cluster import Cluster


def led(nodes: int = 3, voters: int | None = None, **options: object) -> Cluster:
    """A cluster that node 1 leads."""
    cluster = Cluster(nodes=nodes, voters=voters, **options)
    cluster.settle()
    cluster.elect(1)
    cluster.tick(1)
    cluster.settle()
    return cluster


def elect_by_one_vote(cluster: Cluster, node: int) -> None:
    """Node 3 votes for it; nobody has heard of that, and nothing of the term is committed."""
    cluster[node].campaign()
    cluster.handle_readys(cluster.hosts[node])
    cluster.storage_work([node])
    cluster.pool.clear()
    cluster.step(Message(MessageType.VOTE_RESP, node, 3, term=cluster[node].term))
    assert cluster[node].role is Role.LEADER


def sent(cluster: Cluster, to: int, kind: MessageType) -> list[Message]:
    """What lies in the pool for a node."""
    for host in cluster.hosts.values():
        cluster.handle_readys(host)
    return cluster.take(lambda message: message.to == to and message.type is kind)


def unavailable() -> Snapshot:
    """A storage that has no snapshot at the moment."""
    raise SnapshotTemporarilyUnavailableError


# Flow control


def test_messages_are_limited_in_bytes() -> None:
    """Entries beyond the limit go in further messages, each with at least one."""
    cluster = led(max_size_per_msg=250)
    for _ in range(7):
        cluster[1].propose(b"x" * 100)
    cluster.settle(1, 2)
    cluster.tick(1)
    cluster.step(sent(cluster, 3, MessageType.HEARTBEAT)[0])
    messages: list[Message] = []
    for _ in range(20):
        for message in cluster.take(lambda message: message.to == 1):
            cluster.step(message)
        appends = sent(cluster, 3, MessageType.APP)
        messages += appends
        for message in appends:
            cluster.step(message)
        cluster.storage_work()
    sizes = [sum(len(entry.data) for entry in message.entries) for message in messages]
    assert max(sizes) == 200
    assert cluster[3].last_index == cluster[1].last_index


def test_inflight_messages_are_limited() -> None:
    """A peer that does not answer is sent so many messages and no more."""
    cluster = led(max_inflight_msgs=3)
    for _ in range(10):
        cluster[1].propose(b"x")
    assert len(sent(cluster, 2, MessageType.APP)) == 3
    cluster[1].propose(b"x")
    assert sent(cluster, 2, MessageType.APP) == []


def test_inflight_bytes_are_limited() -> None:
    """Not more than the limit and one message is under way to a peer."""
    cluster = led(max_inflight_bytes=1000, max_size_per_msg=500)
    for _ in range(20):
        cluster[1].propose(b"x" * 400)
    messages = sent(cluster, 2, MessageType.APP)
    assert sum(len(entry.data) for message in messages for entry in message.entries) == 1200
    progress = cluster[1].progress(2)
    assert progress is not None
    assert (progress.inflight_messages, progress.inflight_bytes) == (3, 1200)


def test_a_lost_window_is_found_by_a_heartbeat() -> None:
    """After its answer an empty append is refused, and everything is sent again."""
    cluster = led(max_inflight_msgs=2)
    for _ in range(5):
        cluster[1].propose(b"x")
    assert sent(cluster, 2, MessageType.APP)
    cluster.tick(1)
    cluster.settle(1, 2)
    assert cluster[2].last_index == cluster[1].last_index


def test_uncommitted_payload_is_limited() -> None:
    """Proposals beyond it are refused; one of any size is taken when nothing is uncommitted; what
    is applied makes room.
    """
    cluster = led(max_uncommitted_entries_size=1000)
    cluster[1].propose(b"x" * 5000)
    with pytest.raises(ProposalDroppedError):
        cluster[1].propose(b"x")
    cluster[1].propose(b"")
    assert cluster[1].uncommitted_size == 5000
    cluster.settle()
    assert cluster[1].uncommitted_size == 0
    for _ in range(10):
        cluster[1].propose(b"x" * 100)
    with pytest.raises(ProposalDroppedError):
        cluster[1].propose(b"x")
    cluster.settle()
    cluster[1].propose(b"x")


def test_an_unreachable_peer_is_probed() -> None:
    """One message at a time until it answers again."""
    cluster = led()
    cluster[1].propose(b"lost")
    sent(cluster, 2, MessageType.APP)
    cluster[1].report_unreachable(2)
    progress = cluster[1].progress(2)
    assert progress is not None
    assert (progress.state, progress.next) == ("StateProbe", progress.match + 1)
    for _ in range(3):
        cluster[1].propose(b"x")
    assert len(sent(cluster, 2, MessageType.APP)) == 1


def test_payloads_are_passed_by_reference() -> None:
    """The core never copies data, nor loses the checksum that comes with it."""
    cluster = led(nodes=1)
    data = b"x" * 100
    index = cluster[1].propose(data, checksum=77)
    cluster.handle_readys(cluster.hosts[1])
    (entry,) = cluster.hosts[1].append_work[-1].entries
    assert entry.data is data
    assert (entry.index, entry.checksum) == (index, 77)
    given = Entry(0, 0, data=data, checksum=5)
    assert cluster[1].propose(given) == index + 1
    assert (given.term, given.index) == (0, 0)


# Proposals


def test_a_follower_forwards_or_refuses() -> None:
    """Forwarding can be switched off; without a leader there is nobody to forward to."""
    cluster = led()
    assert cluster[2].propose(b"forwarded") == 0
    cluster.settle()
    assert cluster.applied[cluster[1].applied][2] == b"forwarded"

    cluster = led(disable_proposal_forwarding=True)
    with pytest.raises(ProposalDroppedError):
        cluster[2].propose(b"x")
    assert sent(cluster, 1, MessageType.PROP) == []

    cluster = Cluster()
    cluster.settle()
    with pytest.raises(ProposalDroppedError):
        cluster[2].propose(b"x")


# Snapshots


def lagging(**options: object) -> Cluster:
    """Node 1 leads and has compacted what node 3 lacks; 3 is known to be active."""
    cluster = led(**options)
    for number in range(5):
        cluster.propose(1, b"%d" % number, 1, 2)
    cluster.hosts[1].disk.compact(cluster[1].applied)
    cluster[1].report_unreachable(3)
    return cluster


def offers(cluster: Cluster) -> list[Message]:
    """The snapshots that node 1 sends to node 3 after a heartbeat."""
    cluster.tick(1)
    cluster.step(sent(cluster, 3, MessageType.HEARTBEAT)[0])
    for message in cluster.take(lambda message: message.to == 1):
        cluster.step(message)
    for message in sent(cluster, 3, MessageType.APP):
        cluster.step(message)
        cluster.storage_work([3])
        for answer in cluster.take(lambda answer: answer.to == 1):
            cluster.step(answer)
    return sent(cluster, 3, MessageType.SNAP)


def offered(cluster: Cluster) -> Message:
    """The one."""
    (snapshot,) = offers(cluster)
    return snapshot


def test_a_peer_behind_the_log_start_gets_a_snapshot_and_goes_on() -> None:
    """Afterwards by ordinary appends, nothing twice, nothing missing."""
    cluster = lagging()
    message = offered(cluster)
    progress = cluster[1].progress(3)
    assert progress is not None
    assert (progress.state, progress.is_paused) == ("StateSnapshot", True)
    cluster.step(message)
    cluster.settle()
    cluster.propose(1, b"after")
    assert cluster.hosts[3].disk.applied == cluster.hosts[1].disk.applied
    assert cluster[3].status().conf_state == cluster[1].conf_state


def test_a_snapshot_that_cannot_be_made_now_is_asked_for_again() -> None:
    """Nothing goes to the peer meanwhile, and it is not taken for one that has a snapshot."""
    cluster = lagging()
    disk = cluster.hosts[1].disk
    make, disk.snapshot = disk.snapshot, unavailable
    assert offers(cluster) == []
    progress = cluster[1].progress(3)
    assert progress is not None
    assert progress.pending_snapshot == 0
    disk.snapshot = make
    assert offered(cluster).snapshot is not None


def test_a_snapshot_is_installed_whatever_the_term_by_then() -> None:
    """The report of the write comes in a newer term: entries may be others now, a snapshot not."""
    cluster = lagging()
    cluster.step(offered(cluster))
    host = cluster.hosts[3]
    cluster.handle_readys(host)
    (work,) = host.append_work
    assert work.snapshot is not None
    cluster.step(Message(MessageType.HEARTBEAT, 3, from_=2, term=cluster[1].term + 1))
    cluster.write(host)
    assert cluster[3].term == cluster[1].term + 1
    assert cluster[3]._raft.log.unstable.snapshot is None
    assert cluster[3]._raft.log.applied == work.snapshot.index


def test_a_snapshot_is_not_sent_to_who_does_not_answer() -> None:
    """It would be for nothing; it goes when the peer is heard again."""
    cluster = lagging(check_quorum=True)
    cluster.tick(1, 10)
    cluster.settle(1, 2)
    for _ in range(3):
        cluster[1].propose(b"x")
    assert sent(cluster, 3, MessageType.SNAP) == []
    assert offered(cluster).snapshot is not None


@pytest.mark.parametrize(("ok", "next_"), [(True, 10), (False, 5)])
def test_the_fate_of_a_snapshot_resumes_the_peer(ok: bool, next_: int) -> None:
    """Behind the snapshot when it arrived, where it was before when not; in either case only after
    the next answer.
    """
    cluster = lagging()
    message = offered(cluster)
    assert message.snapshot is not None
    assert message.snapshot.index == 9
    cluster[1].report_snapshot(3, ok=ok)
    progress = cluster[1].progress(3)
    assert progress is not None
    assert (progress.state, progress.next, progress.is_paused) == ("StateProbe", next_, True)
    assert progress.pending_snapshot == 0


def test_an_old_snapshot_is_ignored() -> None:
    """The answer tells how far this node is."""
    cluster = led()
    cluster.propose(1, b"x")
    committed = cluster[2].committed
    cluster.hosts[2].disk.compact(committed - 1)
    old = Snapshot(2, 1, ConfState((1, 2, 3)))
    cluster.step(Message(MessageType.SNAP, 2, 1, term=2, snapshot=old))
    cluster.storage_work()
    (answer,) = cluster.take(lambda message: message.from_ == 2)
    assert answer.index == committed
    assert cluster[2]._raft.log.unstable.snapshot is None


def test_a_snapshot_of_what_is_here_only_moves_the_commit_index() -> None:
    """The log is kept: what follows in it need not be sent again."""
    cluster = led()
    cluster[1].propose(b"a")
    cluster[1].propose(b"b")
    for message in sent(cluster, 2, MessageType.APP):
        cluster.step(message)
    last = cluster[2].last_index
    assert cluster[2].committed < last - 1
    snapshot = Snapshot(last - 1, 2, ConfState((1, 2, 3)))
    cluster.step(Message(MessageType.SNAP, 2, 1, term=2, snapshot=snapshot))
    assert (cluster[2].committed, cluster[2].last_index) == (last - 1, last)
    assert cluster[2]._raft.log.unstable.snapshot is None


def test_a_snapshot_without_the_receiver_is_ignored() -> None:
    """It would throw the node out of its own configuration."""
    cluster = led()
    foreign = Snapshot(50, 2, ConfState((1, 2)))
    cluster.step(Message(MessageType.SNAP, 3, 1, term=2, snapshot=foreign))
    assert cluster[3].committed < 50


def test_a_later_configuration_is_not_undone_by_older_changes() -> None:
    """A snapshot may carry the configuration of a later index: changes up to there are over."""
    cluster = led(nodes=4, voters=3)
    later = Snapshot(20, 2, ConfState((1, 2, 3), learners=(4,)), conf_index=25)
    cluster.step(Message(MessageType.SNAP, 3, 1, term=2, snapshot=later))
    assert cluster[3].conf_index == 25
    remove = ConfChange(ConfChangeType.REMOVE_NODE, 4)
    assert cluster[3].apply_conf_change(remove, index=22).learners == (4,)
    assert cluster[3].apply_conf_change(remove, index=25).learners == (4,)
    assert cluster[3].apply_conf_change(remove, index=26).learners == ()
    assert cluster[3].conf_index == 26


# Transfer


def test_transfer_to_a_peer_that_is_up_to_date() -> None:
    """It is told at once, and wins in spite of the others' lease."""
    cluster = led(check_quorum=True, pre_vote=True)
    cluster[1].transfer_leader(2)
    cluster.settle()
    assert (cluster[2].role, cluster[1].role) == (Role.LEADER, Role.FOLLOWER)


def test_transfer_to_a_peer_that_lags() -> None:
    """It first gets what it lacks; proposals are refused meanwhile."""
    cluster = led(check_quorum=True)
    cluster.propose(1, b"x", 1, 3)
    cluster[1].transfer_leader(2)
    assert cluster[1].lead_transferee == 2
    with pytest.raises(ProposalDroppedError):
        cluster[1].propose(b"y")
    assert sent(cluster, 2, MessageType.TIMEOUT_NOW) == []
    for _ in range(2):
        cluster.tick(1)
        cluster.settle()
    assert cluster[2].role is Role.LEADER
    assert cluster[2].last_index > cluster[3].applied - 1


def test_transfer_ends_after_an_election_timeout() -> None:
    """If the peer does not make it the leader goes on leading."""
    cluster = led()
    cluster[1].transfer_leader(2)
    cluster.tick(1, 9)
    assert cluster[1].lead_transferee == 2
    cluster.tick(1, 1)
    assert cluster[1].lead_transferee == 0
    cluster[1].propose(b"x")


def test_transfer_is_asked_for_at_a_follower_too() -> None:
    """It forwards the wish to the leader."""
    cluster = led()
    cluster[3].transfer_leader(2)
    cluster.settle()
    assert cluster[2].role is Role.LEADER


def test_transfer_to_a_learner_or_to_itself_is_ignored() -> None:
    """Nothing changes."""
    cluster = led(nodes=4, voters=3)
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 4))
    cluster.settle()
    for target in (4, 1, 9):
        cluster[1].transfer_leader(target)
        assert cluster[1].lead_transferee == 0


def test_a_transfer_under_way_may_be_asked_for_again_and_be_changed() -> None:
    """The same target changes nothing, its time runs on; another takes its place, or none."""
    cluster = led()
    cluster[1].transfer_leader(2)
    cluster.tick(1, 9)
    cluster[1].transfer_leader(2)
    cluster.tick(1, 1)
    assert cluster[1].lead_transferee == 0

    cluster[1].transfer_leader(2)
    cluster.tick(1, 9)
    cluster[1].transfer_leader(3)
    cluster.tick(1, 9)
    assert cluster[1].lead_transferee == 3
    cluster[1].transfer_leader(1)
    assert cluster[1].lead_transferee == 0
    cluster[1].propose(b"x")


def test_a_transfer_to_who_is_removed_ends() -> None:
    """Proposals are taken again at once."""
    cluster = led()
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    cluster.handle_readys(cluster.hosts[1])
    cluster[1].transfer_leader(3)
    cluster.settle(1, 2)
    assert cluster[1].lead_transferee == 0
    cluster[1].propose(b"x")


def test_without_a_leader_there_is_nobody_to_ask() -> None:
    """A follower drops a transfer and a read that it is asked for; nothing waits for a leader."""
    cluster = Cluster(nodes=3)
    cluster.settle()
    cluster[3].transfer_leader(2)
    cluster[3].read_index(b"r")
    cluster.settle()
    cluster.elect(1)
    cluster.tick(1)
    cluster.settle()
    assert cluster[1].role is Role.LEADER
    assert cluster.hosts[3].reads == []


@pytest.mark.parametrize(
    "kind",
    [
        MessageType.APP_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.SNAP_STATUS,
        MessageType.UNREACHABLE,
        MessageType.TRANSFER_LEADER,
    ],
)
def test_a_leader_takes_nothing_from_who_is_no_member(kind: MessageType) -> None:
    """One that was removed may still be heard of; its word has no effect and sends nothing."""
    cluster = led(nodes=4)
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 4))
    cluster.settle()
    before = cluster[1].status()
    message = Message(kind, 1, from_=4, term=cluster[1].term, index=before.last_index)
    # Past the outer door, which knows the members: a change may be applied between the two.
    cluster[1]._raft.step(message)
    assert not cluster[1].has_ready()
    assert cluster[1].status() == before


# Reads


def test_reads_that_wait_for_the_first_commit_are_limited() -> None:
    """What is more than the limit is dropped."""
    cluster = Cluster(nodes=3)
    cluster.settle()
    elect_by_one_vote(cluster, 1)
    raft = cluster[1]._raft
    for number in range(PENDING_MAX + 1):
        cluster[1].read_index(b"%d" % number)
    assert len(raft.reads_before_commit) == PENDING_MAX


def test_reads_that_wait_for_a_quorum_are_limited() -> None:
    """What is more than the limit is dropped; one round answers all the others."""
    cluster = led()
    for number in range(PENDING_MAX + 1):
        cluster[1].read_index(b"%d" % number)
    cluster.handle_readys(cluster.hosts[1])
    cluster.pool.clear()  # one round is enough for all of them
    cluster.tick(1)
    cluster.settle()
    answered = [read.context for read in cluster.hosts[1].reads]
    assert answered == [b"%d" % number for number in range(PENDING_MAX)]


def test_a_read_is_confirmed_by_a_quorum() -> None:
    """Not by the leader alone, which may have been deposed without knowing."""
    cluster = led()
    cluster[1].read_index(b"r")
    cluster.settle(1)
    assert cluster.hosts[1].reads == []
    cluster.tick(1)
    cluster.settle(1, 2)
    assert cluster.hosts[1].reads == [ReadState(cluster[1].committed, b"r")]


def test_a_read_ends_with_the_leadership_that_it_was_asked_in() -> None:
    """When the node leads again the index may be behind what others acknowledged in between."""
    cluster = led()
    cluster[1].read_index(b"r")
    cluster.settle(1)
    cluster.step(Message(MessageType.HEARTBEAT, 1, 2, term=5))
    cluster.settle(1)
    cluster.elect(1)
    cluster.tick(1)
    cluster.settle()
    assert cluster.hosts[1].reads == []


def test_a_read_waits_for_the_first_commit_of_the_term() -> None:
    """Before it the commit index may be behind what earlier leaders acknowledged."""
    cluster = led()
    index = cluster.propose(1, b"x")
    cluster.restart(cluster.hosts[2])
    elect_by_one_vote(cluster, 2)
    cluster[2].read_index(b"early")
    assert sent(cluster, 3, MessageType.HEARTBEAT) == []
    assert cluster.hosts[2].reads == []
    for _ in range(3):
        cluster.tick(2)
        cluster.settle()
    (read,) = cluster.hosts[2].reads
    assert read.context == b"early"
    assert read.index > index


def test_a_single_node_reads_after_its_first_commit() -> None:
    """Alone it asks nobody, but after a restart its commit index may be behind."""
    cluster = led(nodes=1)
    index = cluster.propose(1, b"x")
    disk = cluster.hosts[1].disk
    disk.applied = index - 2
    disk.set_hard_state(type(disk.initial_state()[0])(2, 1, index - 2))
    cluster.restart(cluster.hosts[1])
    cluster[1].campaign()
    cluster.handle_readys(cluster.hosts[1])
    while cluster[1].role is not Role.LEADER:
        cluster.write(cluster.hosts[1])
    cluster[1].read_index(b"r")
    cluster.handle_readys(cluster.hosts[1])
    assert cluster.hosts[1].reads == []
    cluster.settle()
    (read,) = cluster.hosts[1].reads
    assert read.index >= index


def test_a_removed_leader_asks_the_only_voter() -> None:
    """Being a leader of a configuration of one does not mean to be that one."""
    cluster = led(nodes=2)
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    cluster.settle()
    assert cluster[1].conf_state.voters == (2,)
    assert cluster[1].role is Role.LEADER
    cluster[1].read_index(b"r")
    cluster.settle(1)
    assert cluster.hosts[1].reads == []


def test_a_follower_asks_the_leader() -> None:
    """And gets the answer as a read state."""
    cluster = led()
    cluster[3].read_index(b"r")
    cluster.settle()
    assert cluster.hosts[3].reads == [ReadState(cluster[1].committed, b"r")]


def test_lease_based_reads_are_answered_at_once() -> None:
    """Where that is chosen."""
    from kingbus.raft.config import ReadOnlyOption

    cluster = led(check_quorum=True, read_only_option=ReadOnlyOption.LEASE_BASED)
    cluster[1].read_index(b"r")
    cluster.handle_readys(cluster.hosts[1])
    assert cluster.hosts[1].reads == [ReadState(cluster[1].committed, b"r")]


# Membership


def changes_in_log(cluster: Cluster, node: int) -> list[EntryType]:
    log = cluster[node]._raft.log
    return [entry.type for entry in log.entries(log.first_index(), 1 << 30)]


def test_one_change_at_a_time() -> None:
    """The second one becomes an empty entry while the first is not applied."""
    cluster = led(nodes=5, voters=3)
    for node in (4, 5):
        cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, node))
    assert changes_in_log(cluster, 1)[-2:] == [EntryType.CONF_CHANGE, EntryType.NORMAL]
    cluster.settle()
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 5))
    cluster.settle()
    assert cluster[1].conf_state.learners == (4, 5)


def test_a_new_leader_takes_its_tail_for_pending_changes() -> None:
    """It proposes none before all that it took over is applied."""
    cluster = led(nodes=4, voters=3)
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 4))
    for message in sent(cluster, 2, MessageType.APP):
        cluster.step(message)
    cluster.storage_work([2])
    cluster.pool.clear()
    cluster[2].campaign()
    cluster.handle_readys(cluster.hosts[2])
    cluster.storage_work([2])
    cluster.step(Message(MessageType.VOTE_RESP, 2, 3, term=cluster[2].term))
    assert cluster[2].role is Role.LEADER
    cluster[2].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    assert changes_in_log(cluster, 2)[-1] is EntryType.NORMAL
    cluster.pool.clear()
    for _ in range(3):
        cluster.tick(2)
        cluster.settle(2, 3)
    cluster[2].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    assert changes_in_log(cluster, 2)[-1] is EntryType.CONF_CHANGE


def test_a_change_that_cannot_be_applied_is_not_proposed() -> None:
    """Committed, it would stop every node."""
    cluster = led(nodes=1)
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    assert changes_in_log(cluster, 1)[-1] is EntryType.NORMAL
    cluster[1].propose(Entry(0, 0, EntryType.CONF_CHANGE, b"\xff"))
    assert changes_in_log(cluster, 1)[-1] is EntryType.NORMAL
    cluster.settle()


def test_a_refused_change_does_not_block_the_next() -> None:
    """Neither one that was replaced nor one for which there was no room."""
    cluster = led(nodes=4, voters=3, max_uncommitted_entries_size=10)
    cluster[1].propose(b"x" * 10)
    with pytest.raises(ProposalDroppedError):
        cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 4))
    cluster.settle()
    cluster[1].propose_conf_change(ConfChangeV2())
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 4))
    cluster.settle()
    assert cluster[1].conf_state.learners == (4,)


@pytest.mark.parametrize("transition", list(ConfChangeTransition))
def test_joint_change(transition: ConfChangeTransition) -> None:
    """Several members at once; left by itself unless it was asked to stay."""
    cluster = led(nodes=5, voters=3)
    swap = (
        ConfChangeSingle(ConfChangeType.REMOVE_NODE, 3),
        ConfChangeSingle(ConfChangeType.ADD_NODE, 4),
        ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 5),
    )
    cluster[1].propose_conf_change(ConfChangeV2(transition, swap))
    cluster.settle()
    if transition is ConfChangeTransition.JOINT_EXPLICIT:
        assert cluster[1].conf_state.voters_outgoing == (1, 2, 3)
        cluster[1].propose_conf_change(ConfChangeV2())
        cluster.settle()
    assert cluster[1].conf_state == ConfState((1, 2, 4), learners=(5,))
    cluster.propose(1, b"x")
    assert cluster.hosts[5].disk.applied == cluster[1].applied


def test_a_joint_configuration_needs_both_majorities() -> None:
    """The new members alone commit nothing, nor do the old ones."""
    cluster = led(nodes=5, voters=3)
    change = ConfChangeV2(
        ConfChangeTransition.JOINT_EXPLICIT,
        (
            ConfChangeSingle(ConfChangeType.REMOVE_NODE, 2),
            ConfChangeSingle(ConfChangeType.REMOVE_NODE, 3),
            ConfChangeSingle(ConfChangeType.ADD_NODE, 4),
            ConfChangeSingle(ConfChangeType.ADD_NODE, 5),
        ),
    )
    cluster[1].propose_conf_change(change)
    cluster.settle()
    for halves in ((1, 2, 3), (1, 4, 5)):
        index = cluster.propose(1, b"x", *halves)
        assert cluster[1].committed < index
    cluster.tick(1)
    cluster.settle()
    assert cluster[1].committed == cluster[1].last_index


def test_a_smaller_quorum_commits_at_once() -> None:
    """What the remaining members have is committed when the removal is applied."""
    cluster = led(nodes=4)
    removal = cluster[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 4))
    for peer in (2, 3):
        for message in sent(cluster, peer, MessageType.APP):
            cluster.step(message)
    for node in (1, 2, 3):
        while cluster.hosts[node].append_work:
            cluster.write(cluster.hosts[node])
    for message in cluster.take(lambda message: message.to == 1):
        cluster.step(message)
    assert cluster[1].committed == removal
    assert cluster[1].applied < removal
    index = cluster[1].propose(b"x")
    for message in sent(cluster, 2, MessageType.APP):
        cluster.step(message)
    for node in (1, 2):
        while cluster.hosts[node].append_work:
            cluster.write(cluster.hosts[node])
    for message in cluster.take(lambda message: message.to == 1):
        cluster.step(message)
    assert cluster[1].committed == removal
    cluster.apply(cluster.hosts[1])
    assert cluster[1].committed == index


@pytest.mark.parametrize("steps_down", [True, False])
def test_a_removed_leader_takes_no_proposals(steps_down: bool) -> None:
    """It becomes follower where that is chosen, and refuses in either case."""
    cluster = led(step_down_on_removal=steps_down)
    cluster[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    cluster.settle()
    assert cluster[1].role is (Role.FOLLOWER if steps_down else Role.LEADER)
    with pytest.raises(ProposalDroppedError):
        cluster[1].propose(b"x")


# Bad input


def test_malformed_messages_are_refused_as_a_whole() -> None:
    """One error that says what was wrong; the node goes on."""
    cluster = led()
    before = cluster[2].last_index
    with pytest.raises(MalformedMessageError, match="has entries 9 to 9"):
        cluster[2].step(
            Message(MessageType.APP, 2, 1, term=2, log_term=2, index=before, entries=[Entry(2, 9)])
        )
    with pytest.raises(MalformedMessageError, match="has no snapshot"):
        cluster[2].step(Message(MessageType.SNAP, 2, 1, term=2))
    with pytest.raises(MalformedMessageError, match="acknowledged index 99"):
        cluster[1].step(Message(MessageType.APP_RESP, 1, 2, term=2, index=99))
    with pytest.raises(MalformedMessageError, match="no term"):
        cluster[1].step(Message(MessageType.VOTE, 1, 2))
    with pytest.raises(MalformedMessageError, match="no entries"):
        cluster[1].step(Message(MessageType.PROP, 1, 2))
    assert cluster[2].last_index == before
    cluster.propose(1, b"x")
    assert cluster[2].applied == before + 1
