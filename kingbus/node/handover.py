"""Handing leadership over, on the leader: to whom, and whether it arrived.

What this module must not know: why it is handed over.
"""

from collections.abc import Callable

import trio

from kingbus.node.errors import TransferError
from kingbus.node.peers import Peers
from kingbus.node.turns import Driver, Turns
from kingbus.raft.raw_node import RawNode
from kingbus.transport.peer import PeerFacts


class Handover:
    """See the module. The core is only looked at; `facts` gives those of the link to a member."""

    def __init__(
        self,
        *,
        driver: Driver,
        raw: RawNode,
        peers: Peers,
        turns: Turns,
        facts: Callable[[int], PeerFacts | None],
    ) -> None:
        self._driver = driver
        self._raw = raw
        self._peers = peers
        self._turns = turns
        self._facts = facts

    async def transfer(self, member_id: int | None = None) -> int:
        """Hand leadership to a voter, or to the one that is furthest; the new leader's id.

        TransferError when there is none to take it, or it did not within two election timeouts.
        One that is not up is not tried: nothing can be proposed meanwhile.
        """
        driver = self._driver
        driver.check_leader()
        if member_id is not None and driver.cluster.require(member_id).learner:
            name = driver.cluster.require(member_id).name
            raise TransferError(f"{name} is a learner and cannot lead")
        if member_id == driver.member_id:
            return member_id
        target = await self._turns.when_possible(
            lambda: self._successor() if member_id is None else self._present(member_id)
        )
        member = driver.cluster.require(target)
        driver.begin_transfer(target)
        with trio.move_on_after(2 * driver.settings.election_seconds):
            while self._raw.leader_id in {0, driver.member_id}:
                await driver.progressed()
        leader_id = self._raw.leader_id
        if leader_id in {0, driver.member_id} or (member_id is not None and leader_id != target):
            raise TransferError(f"leadership did not move to {member.name}")
        return leader_id

    def _present(self, member_id: int) -> int:
        member = self._driver.cluster.require(member_id)
        if member_id not in self._peers.active():
            raise TransferError(f"{member.name} is not up")
        return member_id

    def _successor(self) -> int:
        active = self._peers.active()
        best: tuple[int, float, int] | None = None
        for member_id in self._driver.cluster.voters:
            progress = self._raw.progress(member_id)
            if member_id == self._driver.member_id or member_id not in active or progress is None:
                continue
            facts = self._facts(member_id)
            since = facts.connected_since if facts is not None else None
            # Furthest first, then longest connected, as swarmkit does.
            rank = (progress.match, -(since if since is not None else float("inf")), member_id)
            if best is None or rank > best:
                best = rank
        if best is None:
            raise TransferError(
                "no other voter is up to take over", hint="Bring another voter up, or add one."
            )
        return best[2]
