"""A whole cluster of cores in one thread, of which every step is told or drawn by the test.

Every node is the core with asynchronous storage writes over a disk of two layers: what is durable,
and what is queued and lost in a crash. Messages lie in a pool until somebody delivers them. The
safety of the whole is checked by `check()`.

The hosts here follow the duties that RawNode tells, and the shape of kingbus: a snapshot is the
start of the log with the configuration of now, and says from which index that is.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from kingbus.raft.config import RaftConfig
from kingbus.raft.errors import (
    CompactedError,
    ProposalDroppedError,
    StepPeerNotFoundError,
    UnavailableError,
)
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import ReadState, Role
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    ConfState,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    decode_conf_change,
)


class Disk(MemoryStorage):
    """The durable part of a node: log, hard state, configuration, applied index."""

    def __init__(self) -> None:
        super().__init__()
        self.conf_state = ConfState()
        self.conf_index = 0
        self.applied = 0

    def initial_state(self) -> tuple[HardState, ConfState]:
        hard_state, _ = super().initial_state()
        # The commit index need not be durable when entries are applied, so it may lag behind.
        commit = max(hard_state.commit, self.applied)
        return replace(hard_state, commit=commit), self.conf_state

    def snapshot(self) -> Snapshot:
        start = self.first_index() - 1
        return Snapshot(start, self.term(start), self.conf_state, b"", max(self.conf_index, start))

    def store(self, message: Message) -> None:
        """Make everything in a MsgStorageAppend durable."""
        snapshot = message.snapshot
        if snapshot is not None:
            self.apply_snapshot(snapshot)
            self.applied = snapshot.index
            if snapshot.conf_index > self.conf_index:
                self.conf_state, self.conf_index = snapshot.conf_state, snapshot.conf_index
        self.append(message.entries)
        hard_state = HardState(message.term, message.vote, message.commit)
        if not hard_state.is_empty:
            self.set_hard_state(hard_state)


@dataclass(slots=True)
class Host:
    """One node, its disk and its two queues of storage work."""

    id: int
    disk: Disk
    core: RawNode
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    term_seen: int = 0
    commit_seen: int = 0


class Cluster:
    """Nodes 1 to `voters` vote from the start, the others are empty and may be added."""

    def __init__(self, *, nodes: int = 3, voters: int | None = None, **options: Any) -> None:
        self.options = {"election_tick": 10, "heartbeat_tick": 1, **options}
        self.pool: list[Message] = []
        self.applied: dict[int, tuple[int, EntryType, bytes]] = {}
        """What any node applied, by index: all must apply the same."""
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.configurations: dict[int, ConfState] = {}
        self.hosts: dict[int, Host] = {}
        self.members = tuple(range(1, (voters or nodes) + 1))
        for node in range(1, nodes + 1):
            disk = Disk()
            self.hosts[node] = Host(node, disk, self._start(node, disk))

    def _start(self, node: int, disk: Disk) -> RawNode:
        options = {
            "random": random.Random(node),
            "async_storage_writes": True,
            **self.options,
        }
        core = RawNode(
            RaftConfig(
                id=node, storage=disk, applied=disk.applied, conf_index=disk.conf_index, **options
            )
        )
        if node in self.members and disk.last_index() == 0:
            # Also after a crash before the first write: with a part of the initial members in its
            # configuration a node could take itself for a majority.
            core.bootstrap([(member, b"") for member in self.members])
        return core

    def __getitem__(self, node: int) -> RawNode:
        return self.hosts[node].core

    # What hosts do

    def step(self, message: Message) -> None:
        """Deliver a message and do what follows at once."""
        host = self.hosts[message.to]
        try:
            # A copy: nodes in different processes do not share objects.
            host.core.step(replace(message, entries=list(message.entries)))
        except (StepPeerNotFoundError, ProposalDroppedError):
            return
        self.handle_readys(host)

    def handle_readys(self, host: Host) -> None:
        """Send what may be sent, queue the storage work."""
        while host.core.has_ready():
            ready = host.core.ready()
            host.reads += ready.read_states
            for message in ready.messages:
                if message.to == APPEND_THREAD:
                    host.append_work.append(message)
                elif message.to == APPLY_THREAD:
                    host.apply_work.append(message)
                else:
                    self._send(message)

    def _send(self, message: Message) -> None:
        self._note_vote(message)
        self.pool.append(message)

    def _note_vote(self, message: Message) -> None:
        if message.type is MessageType.VOTE_RESP and not message.reject:
            voted = self.votes.setdefault((message.from_, message.term), message.to)
            assert voted == message.to, f"{message.from_} voted twice in term {message.term}"

    def write(self, host: Host) -> None:
        """Make the oldest queued write durable, then send its responses."""
        if not host.append_work:
            return
        message = host.append_work.pop(0)
        host.disk.store(message)
        for response in message.responses:
            if response.to == host.id:
                self._note_vote(response)
                self.step(response)
            else:
                self._send(response)

    def apply(self, host: Host) -> None:
        """Apply the oldest queued entries."""
        if not host.apply_work:
            return
        message = host.apply_work.pop(0)
        disk = host.disk
        for entry in message.entries:
            if entry.index <= disk.applied:
                continue  # a snapshot was faster
            value = (entry.term, entry.type, entry.data)
            assert self.applied.setdefault(entry.index, value) == value, (
                f"{host.id} applies {value} at {entry.index}, others {self.applied[entry.index]}"
            )
            assert entry.index == disk.applied + 1, "a gap in what is applied"
            assert disk.term(entry.index) == entry.term, "applied before it was durable"
            if entry.type is not EntryType.NORMAL:
                conf_state = host.core.apply_conf_change(
                    decode_conf_change(entry), index=entry.index
                )
                disk.conf_state, disk.conf_index = conf_state, host.core.conf_index
                if entry.index > len(self.members):  # the first ones are active from the start
                    known = self.configurations.setdefault(disk.conf_index, conf_state)
                    assert known == conf_state, f"two configurations at {disk.conf_index}"
            disk.applied = entry.index
        for response in message.responses:
            self.step(response)
        self.handle_readys(host)

    def restart(self, host: Host, *, written: int = 0) -> None:
        """What is queued is lost but for the first `written` writes; the node starts again."""
        for message in host.append_work[:written]:
            host.disk.store(message)
        host.append_work.clear()
        host.apply_work.clear()
        host.core = self._start(host.id, host.disk)
        host.term_seen = host.commit_seen = 0

    # For tests that tell each step

    def storage_work(self, nodes: Iterable[int] | None = None) -> None:
        """All writes and applies of these nodes."""
        for node in nodes or self.hosts:
            host = self.hosts[node]
            while host.append_work or host.apply_work:
                self.write(host)
                self.apply(host)

    def take(self, wanted: Callable[[Message], bool]) -> list[Message]:
        """Take messages out of the pool."""
        taken = [message for message in self.pool if wanted(message)]
        self.pool = [message for message in self.pool if not wanted(message)]
        return taken

    def settle(self, *nodes: int) -> None:
        """Deliver and work among these nodes (none: all) until nothing moves, without time.

        Messages to and from the others are lost.
        """
        among = set(nodes or self.hosts)
        for node in among:
            self.handle_readys(self.hosts[node])
        for _ in range(10_000):
            self.storage_work(among)
            messages, self.pool = self.pool, []
            for message in messages:
                if message.from_ in among and message.to in among:
                    self.step(message)
                    if message.type is MessageType.SNAP:
                        host = self.hosts[message.from_]
                        host.core.report_snapshot(message.to, ok=True)
                        self.handle_readys(host)
            self.check()
            busy = any(self.hosts[n].append_work or self.hosts[n].apply_work for n in among)
            if not self.pool and not busy:
                return
        raise AssertionError("messages never end")

    def elect(self, node: int, *among: int) -> None:
        """Make a node leader by the votes of these (none: all)."""
        self[node].campaign()
        self.settle(*among)
        assert self[node].role is Role.LEADER

    def wait_for_leader(self, *among: int) -> int:
        """Let time pass for these nodes until one of them leads; its id."""
        for _ in range(200):
            for node in among:
                self.tick(node)
            self.settle(*among)
            for node in among:
                if self[node].role is Role.LEADER:
                    return node
        raise AssertionError(f"none of {among} became leader")

    def propose(self, node: int, data: bytes, *among: int) -> int:
        """Propose and settle; the index."""
        index = self[node].propose(data)
        self.settle(*among)
        return index

    def tick(self, node: int, count: int = 1) -> None:
        """Let time pass for one node."""
        for _ in range(count):
            self[node].tick()
            self.handle_readys(self.hosts[node])

    # What must hold

    def check(self) -> None:
        """Safety of the whole."""
        for host in self.hosts.values():
            core, log = host.core, host.core._raft.log
            assert core.term >= host.term_seen
            assert core.committed >= host.commit_seen
            host.term_seen, host.commit_seen = core.term, core.committed
            assert log.applied <= log.applying <= log.committed <= log.last_index()
            if core.role is Role.LEADER and self.leaders.get(core.term) != host.id:
                assert core.term not in self.leaders, f"two leaders in term {core.term}"
                self.leaders[core.term] = host.id
                for index, (term, _, _) in self.applied.items():
                    if index >= log.first_index():
                        assert log.term(index) == term, f"leader {host.id} lacks entry {index}"

    def check_logs_match(self) -> None:
        """Equal (index, term) means equal entries up to there (paper, 5.3)."""
        for a in self.hosts.values():
            for b in self.hosts.values():
                self._check_two_logs(a, b)

    @staticmethod
    def _check_two_logs(a: Host, b: Host) -> None:
        agreed = False
        for index in range(min(a.disk.last_index(), b.disk.last_index()), 0, -1):
            try:
                left = a.disk.entries(index, index + 1)
                right = b.disk.entries(index, index + 1)
            except (CompactedError, UnavailableError):
                return
            same = left[0].term == right[0].term
            assert same or not agreed, f"logs of {a.id} and {b.id} part below {index}"
            assert not same or left == right
            agreed = same
