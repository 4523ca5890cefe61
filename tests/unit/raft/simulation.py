"""A cluster to which things happen at random, from one seeded generator.

Any message may be delivered late, out of order, twice or never; nodes crash with the loss of what
was not durable, links break one way or both, the configuration changes under load. After every step
the safety of the whole is checked. `recover()` ends all faults and asserts that the cluster gets
going again. A seed always gives the same run.
"""

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kingbus.raft.errors import ProposalDroppedError
from kingbus.raft.ready import Role
from kingbus.raft.types import (
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    MessageType,
)
from tests.unit.raft.cluster import Cluster, Host

MARKER = b"all is well"


def draw_options(draw: random.Random) -> dict[str, Any]:
    """Options of the nodes; limits are often as small as they may be."""
    return {
        "pre_vote": draw.random() < 0.7,
        "check_quorum": draw.random() < 0.7,
        "step_down_on_removal": draw.random() < 0.5,
        "disable_proposal_forwarding": draw.random() < 0.5,
        "max_size_per_msg": draw.choice((1, 40, 1 << 20)),
        "max_committed_size_per_ready": draw.choice((1, 60, 1 << 20)),
        "max_uncommitted_entries_size": draw.choice((60, 1 << 20)),
        "max_inflight_msgs": draw.choice((1, 2, 256)),
    }


class Simulation(Cluster):
    """Five nodes, three of which vote at first."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.blocked: set[tuple[int, int]] = set()
        self.loss = self.random.choice((0.0, 0.02, 0.2))
        self.duplication = self.random.choice((0.0, 0.02))
        self.proposed = 0
        self.read_floors: dict[bytes, int] = {}
        self.reads_answered = 0
        super().__init__(
            nodes=5, voters=3, random=random.Random(seed + 1), **draw_options(self.random)
        )

    def run(self, steps: int) -> None:
        """Let things happen."""
        actions: dict[Callable[[], None], int] = {
            self._tick: 30,
            self._deliver: 150,
            self._write: 80,
            self._apply: 50,
            self._propose: 15,
            self._read: 3,
            self._crash: 1,
            self._cut: 1,
            self._heal: 1,
            self._compact: 1,
            self._transfer: 1,
            self._change: 2,
        }
        for action in self.random.choices(list(actions), list(actions.values()), k=steps):
            action()
            self.check()

    def _any(self) -> Host:
        return self.hosts[self.random.choice(list(self.hosts))]

    def _leading(self) -> Host | None:
        hosts = [host for host in self.hosts.values() if host.core.role is Role.LEADER]
        return self.random.choice(hosts) if hosts else None

    def handle_readys(self, host: Host) -> None:
        super().handle_readys(host)
        for read in host.reads:
            assert read.index >= self.read_floors[read.context], "a read went back in time"
            self.reads_answered += 1
        host.reads.clear()

    # What can happen

    def _tick(self) -> None:
        self.tick(self._any().id)

    def _deliver(self) -> None:
        if not self.pool:
            return
        # Mostly the oldest: reordering is the exception on a connection.
        at = 0 if self.random.random() < 0.8 else self.random.randrange(len(self.pool))
        message = self.pool[at]
        if self.random.random() >= self.duplication:
            del self.pool[at]
        lost = self.random.random() < self.loss or (message.from_, message.to) in self.blocked
        if not lost:
            self.step(message)
        if message.type is MessageType.SNAP:
            sender = self.hosts[message.from_]
            sender.core.report_snapshot(message.to, ok=not lost)
            self.handle_readys(sender)

    def _write(self) -> None:
        self.write(self._any())

    def _apply(self) -> None:
        self.apply(self._any())

    def _propose(self) -> None:
        host = self._leading() or self._any()
        self.proposed += 1
        try:
            host.core.propose(b"%d" % self.proposed * self.random.choice((1, 10)))
        except ProposalDroppedError:
            return
        self.handle_readys(host)

    def _read(self) -> None:
        host = self._any()
        context = b"read %d" % len(self.read_floors)
        # Whatever any node has applied by now must be covered by the answer.
        self.read_floors[context] = max(self.applied, default=0)
        host.core.read_index(context)
        self.handle_readys(host)

    def _crash(self) -> None:
        host = self._any()
        self.restart(host, written=self.random.randint(0, len(host.append_work)))

    def _cut(self) -> None:
        a, b = self._any().id, self._any().id
        self.blocked.add((a, b))
        if self.random.random() < 0.5:
            self.blocked.add((b, a))

    def _heal(self) -> None:
        self.blocked.clear()

    def _compact(self) -> None:
        disk = self._any().disk
        if disk.first_index() <= disk.applied <= disk.last_index():
            disk.compact(self.random.randint(disk.first_index(), disk.applied))

    def _transfer(self) -> None:
        host = self._leading()
        if host is not None:
            host.core.transfer_leader(self.random.choice(list(self.hosts)))
            self.handle_readys(host)

    def _change(self) -> None:
        host = self._leading()
        if host is None:
            return
        # Never the leader itself: a host transfers leadership first.
        others = [node for node in self.hosts if node != host.id]
        kinds = (
            ConfChangeType.ADD_NODE,
            ConfChangeType.ADD_LEARNER_NODE,
            ConfChangeType.REMOVE_NODE,
        )
        changes = tuple(
            ConfChangeSingle(self.random.choice(kinds), node)
            for node in self.random.sample(others, self.random.choice((0, 1, 1, 1, 2)))
        )
        # A quorum of the present voters must stay: one that goes may have become leader, commit the
        # change, and leave before it told the others, who then need votes that nobody gives.
        voters = set(host.core.conf_state.voters)
        going = {c.node_id for c in changes if c.type is not ConfChangeType.ADD_NODE} & voters
        if len(voters - going) <= len(voters) // 2:
            return
        transition = ConfChangeTransition.AUTO
        if len(changes) > 1:
            transition = self.random.choice(list(ConfChangeTransition))
        try:
            host.core.propose_conf_change(ConfChangeV2(transition, changes))
        except ProposalDroppedError:
            return
        self.handle_readys(host)

    # The end

    def recover(self, rounds: int = 400) -> None:
        """Without faults, the members apply a new entry and agree, within some elections."""
        self.blocked.clear()
        self.loss = self.duplication = 0.0
        for _ in range(rounds):
            newest = max(self.hosts.values(), key=lambda host: host.core.conf_index)
            members = newest.core.conf_state.members
            for node in sorted(members):  # hosts ignore whom they know to be removed
                self.tick(node)
            self.settle(*members)
            if self._is_well(members):
                return
        raise AssertionError(f"seed {self.seed}: the cluster did not get going again")

    def _is_well(self, members: frozenset[int]) -> bool:
        leader = next((self[n] for n in sorted(members) if self[n].role is Role.LEADER), None)
        if leader is None:
            return False
        if not any(data == MARKER for _, _, data in self.applied.values()):
            with contextlib.suppress(ProposalDroppedError):
                leader.propose(MARKER)
            return False
        return not leader.conf_state.auto_leave and all(
            self.hosts[node].disk.applied == leader.committed for node in members
        )


def simulate(seed: int, steps: int) -> Simulation:
    """One whole run."""
    simulation = Simulation(seed)
    simulation.run(steps)
    simulation.check_logs_match()
    simulation.recover()
    simulation.check_logs_match()
    return simulation


def trace(seed: int, steps: int) -> list[tuple[object, ...]]:
    """What a run leads to, for comparing two of them."""
    simulation = Simulation(seed)
    simulation.run(steps)
    return [
        (node, core.term, core.committed, core.last_index, core.role, replace(core.conf_state))
        for node, core in ((node, simulation[node]) for node in simulation.hosts)
    ]
