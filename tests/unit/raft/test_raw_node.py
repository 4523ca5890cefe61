"""The door of the core with synchronous storage writes: Ready, advance, bootstrap, restart."""

import random

import pytest

from kingbus.errors import ConfigError
from kingbus.raft.config import RaftConfig, ReadOnlyOption
from kingbus.raft.errors import (
    ConfChangeError,
    RaftError,
    StepLocalMessageError,
    StepPeerNotFoundError,
)
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import Ready, Role, SoftState
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import (
    APPEND_THREAD,
    ConfChange,
    ConfChangeType,
    ConfState,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    decode_conf_change,
)


def make(storage: MemoryStorage | None = None, **options: object) -> tuple[RawNode, MemoryStorage]:
    storage = storage or MemoryStorage()
    config = RaftConfig(id=1, storage=storage, random=random.Random(1), **options)  # type: ignore[arg-type]
    return RawNode(config), storage


def work(node: RawNode, storage: MemoryStorage) -> list[Ready]:
    """Do what every Ready says until there is none."""
    readys = []
    while node.has_ready():
        ready = node.ready()
        readys.append(ready)
        if ready.snapshot is not None:
            storage.apply_snapshot(ready.snapshot)
        storage.append(ready.entries)
        if ready.hard_state is not None:
            storage.set_hard_state(ready.hard_state)
        for entry in ready.committed_entries:
            if entry.type is not EntryType.NORMAL:
                node.apply_conf_change(decode_conf_change(entry), index=entry.index)
        node.advance()
    return readys


def test_bootstrap_makes_a_cluster_that_can_elect() -> None:
    """The members are entries of term 1, committed and active; the first Ready carries them."""
    node, storage = make()
    node.bootstrap([(1, b"a"), (2, b"b")])
    assert node.conf_state == ConfState((1, 2))
    assert (node.term, node.committed, node.last_index, node.applied) == (1, 2, 2, 0)
    (ready,) = work(node, storage)
    assert ready.hard_state == HardState(1, 0, 2)
    assert ready.must_sync
    assert [decode_conf_change(entry) for entry in ready.entries] == [
        ConfChange(ConfChangeType.ADD_NODE, 1, b"a"),
        ConfChange(ConfChangeType.ADD_NODE, 2, b"b"),
    ]
    assert ready.committed_entries == ready.entries
    assert (node.applied, node.conf_index) == (2, 2)
    assert node.conf_state == ConfState((1, 2))
    with pytest.raises(RaftError, match="nonempty"):
        node.bootstrap([(1, b"a")])


def test_bootstrap_needs_members() -> None:
    """A cluster of nobody could never be changed."""
    node, _ = make()
    with pytest.raises(RaftError, match="at least one"):
        node.bootstrap([])


def test_a_single_node_commits_alone() -> None:
    """propose tells the index, and the entry comes back to be applied."""
    node, storage = make()
    node.bootstrap([(1, b"")])
    work(node, storage)
    node.campaign()
    readys = work(node, storage)
    assert SoftState(1, Role.LEADER) in [ready.soft_state for ready in readys]
    index = node.propose(b"x")
    applied = [entry for ready in work(node, storage) for entry in ready.committed_entries]
    assert [(entry.index, entry.data) for entry in applied] == [(index, b"x")]
    assert not node.has_ready()


def test_restart_goes_on_where_it_was() -> None:
    """What is applied is not handed out again; the vote and the term are kept."""
    node, storage = make()
    node.bootstrap([(1, b"")])
    work(node, storage)
    node.campaign()
    work(node, storage)
    index = node.propose(b"x")
    work(node, storage)
    storage.create_snapshot(index, node.conf_state)
    again, _ = make(storage, applied=index)
    assert (again.term, again.applied, again.committed) == (node.term, index, index)
    assert again.basic_status().hard_state == node.basic_status().hard_state
    assert not again.has_ready()
    assert again.conf_index == index


def test_must_sync_only_when_something_must_be_durable() -> None:
    """A new commit index alone may be lost; a vote may not."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(3, 1, ConfState((1, 2, 3))))
    storage.set_hard_state(HardState(1, 0, 3))
    node, _ = make(storage)
    node.step(Message(MessageType.VOTE, 1, 2, term=1, log_term=1, index=3))
    (ready,) = work(node, storage)
    assert ready.hard_state == HardState(1, 2, 3)
    assert ready.must_sync
    assert [message.type for message in ready.messages] == [MessageType.VOTE_RESP]

    node.campaign()
    work(node, storage)
    node.step(Message(MessageType.VOTE_RESP, 1, 2, term=2))
    work(node, storage)
    node.step(Message(MessageType.APP_RESP, 1, 2, term=2, index=4))
    (ready,) = work(node, storage)
    assert ready.hard_state == HardState(2, 1, 4)
    assert not ready.must_sync


def test_ready_waits_for_advance() -> None:
    """With synchronous writes one Ready is done before the next."""
    node, _ = make()
    node.bootstrap([(1, b"")])
    node.ready()
    with pytest.raises(AssertionError, match="advance"):
        node.ready()


def test_what_may_not_come_from_outside() -> None:
    """Local messages are the node's own, responses come from peers."""
    node, _ = make()
    node.bootstrap([(1, b"")])
    for kind in (MessageType.HUP, MessageType.BEAT, MessageType.STORAGE_APPEND_RESP):
        with pytest.raises(StepLocalMessageError):
            node.step(Message(kind, 1, 2))
    with pytest.raises(StepPeerNotFoundError):
        node.step(Message(MessageType.APP_RESP, 1, 9, term=1))
    node.step(Message(MessageType.STORAGE_APPEND_RESP, 1, APPEND_THREAD, term=1))


def test_update_and_impossible_changes() -> None:
    """An update leaves the configuration; what cannot be applied raises and leaves it too."""
    node, _ = make()
    node.bootstrap([(1, b"")])
    update = ConfChange(ConfChangeType.UPDATE_NODE, 1, b"new address")
    assert node.apply_conf_change(update, index=5) == ConfState((1,))
    assert node.conf_index == 5
    with pytest.raises(ConfChangeError, match="removed all voters"):
        node.apply_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1), index=6)
    assert node.conf_state == ConfState((1,))
    assert node.conf_index == 5


def test_status_shows_progress_on_the_leader_only() -> None:
    """Copies, which do not change later."""
    node, storage = make()
    node.bootstrap([(1, b"")])
    work(node, storage)
    assert node.status().progress == {}
    node.campaign()
    work(node, storage)
    status = node.status()
    assert status.progress[1].match == status.last_index == node.last_index
    assert status.progress[1] == node.progress(1)
    assert node.progress(7) is None
    assert (status.leader_id, status.role, status.id) == (1, Role.LEADER, node.id)
    node.propose(b"x")
    assert status.last_index < node.last_index


def test_hard_state_must_fit_the_log() -> None:
    """A commit index beyond the log means that entries were lost."""
    storage = MemoryStorage()
    storage.set_hard_state(HardState(2, 0, 7))
    with pytest.raises(AssertionError, match="commit 7 is not in the log"):
        make(storage)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"id": 0}, "raft.id"),
        ({"id": 2**64 - 1}, "raft.id"),
        ({"heartbeat_tick": 0}, "raft.heartbeat_tick"),
        ({"election_tick": 1}, "raft.election_tick"),
        ({"applied": -1}, "raft.applied"),
        ({"max_inflight_msgs": 0}, "raft.max_inflight_msgs"),
        ({"max_inflight_bytes": 5}, "raft.max_inflight_bytes"),
        ({"max_uncommitted_entries_size": -1}, "raft.max_uncommitted_entries_size"),
        ({"read_only_option": ReadOnlyOption.LEASE_BASED}, "raft.read_only_option"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, object], key: str) -> None:
    """One error with all that is wrong."""
    values: dict[str, object] = {
        "id": 1,
        "storage": MemoryStorage(),
        "random": random.Random(1),
        **options,
    }
    with pytest.raises(ConfigError) as caught:
        RaftConfig(**values)  # type: ignore[arg-type]
    assert [problem.key for problem in caught.value.problems] == [key]
