"""Changing the membership, on the leader: whether a change may be made now, and making it.

A change is checked against the membership as applied, against who is up, and that no other is
under way; then it is proposed, and done when it is applied here. What a change does to a membership
is not known here (kingbus.membership), nor how the log carries it (`changes`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import trio

from kingbus.log import get_logger
from kingbus.membership.cluster import ChangeKind, MemberChange
from kingbus.membership.errors import MembershipError
from kingbus.membership.member import Member, derive_member_id, normalize_urls
from kingbus.node.changes import to_conf_change
from kingbus.node.errors import (
    LeaderRemovalError,
    MembershipBusyError,
    NotCaughtUpError,
    NotLeaderError,
    TransferError,
)
from kingbus.node.handover import Handover
from kingbus.node.peers import Peers
from kingbus.node.proposals import Proposal
from kingbus.node.turns import Driver, Turns
from kingbus.raft.errors import ProposalDroppedError
from kingbus.raft.raw_node import RawNode

_log = get_logger("node")


class Membership:
    """One change of a member at a time; see the module. The core is only looked at."""

    def __init__(
        self, *, driver: Driver, raw: RawNode, peers: Peers, turns: Turns, handover: Handover
    ) -> None:
        self._driver = driver
        self._raw = raw
        self._peers = peers
        self._turns = turns
        self._handover = handover

    async def add(
        self,
        name: str,
        peer_urls: Sequence[str],
        admin_urls: Sequence[str] = (),
        *,
        learner: bool = False,
        promote: bool = False,
    ) -> Member:
        """Add a voter; or a learner, which with `promote` becomes a voter once it has caught up.

        Where a single voter would need the new one's vote before it has even started, the new
        one begins as a learner that is promoted. Errors: MembershipError and its kin,
        UnhealthyClusterError, MembershipBusyError, NotLeaderError, ProposalLostError.
        """
        urls = normalize_urls(peer_urls)

        def change() -> MemberChange:
            member = self._newcomer(name, urls, admin_urls)
            if learner:
                member = replace(member, learner=True, promote=promote)
            elif len(self._driver.cluster.voters) == 1:
                member = replace(member, learner=True, promote=True)
            return MemberChange(kind=ChangeKind.ADD, member=member)

        done = await self._change(change)
        return self._driver.cluster.require(done.member.id)

    def _newcomer(self, name: str, urls: Sequence[str], admin_urls: Sequence[str]) -> Member:
        # The index that the change will take is part of the id, so that no id ever comes twice.
        index = self._raw.last_index + 1
        return Member(
            id=derive_member_id(name, urls, index=index),
            name=name,
            peer_urls=tuple(urls),
            admin_urls=normalize_urls(admin_urls),
        )

    async def promote(self, member_id: int) -> None:
        """Make a learner a voter; NotCaughtUpError while it is behind, else as `add`."""

        def change() -> MemberChange:
            member = self._driver.cluster.require(member_id)
            change = MemberChange(kind=ChangeKind.PROMOTE, member=member.promoted())
            self._driver.cluster.check(change)
            self._check_caught_up(member)
            return change

        await self._change(change)

    def _check_caught_up(self, member: Member) -> None:
        if not self._peers.has_caught_up(member.id):
            raise NotCaughtUpError(f"{member.name} has not caught up with the leader's log yet")

    async def remove(self, member_id: int) -> None:
        """Remove a member; errors as `add`.

        A leader never removes itself: it hands leadership over and raises NotLeaderError with
        the new leader, who is to be asked then; LeaderRemovalError when nobody can take over.
        """
        self._driver.check_leader()
        member = self._driver.cluster.require(member_id)

        def change() -> MemberChange:
            present = self._driver.cluster.require(member_id)
            return MemberChange(kind=ChangeKind.REMOVE, member=present)

        if member_id == self._driver.member_id:
            await self._hand_over_to_be_changed(member, change)
        await self._change(change)

    async def replace(
        self,
        member_id: int,
        name: str,
        peer_urls: Sequence[str] = (),
        admin_urls: Sequence[str] = (),
    ) -> Member:
        """Make another member a voter and remove a voter, in one step: both, or neither.

        With peer URLs the other is added, otherwise it is the learner of that name, which must have
        caught up. Returns when the old half of the joint configuration is left, or an election
        timeout later: from the moment that the change is committed, every leader sees to that.
        Errors: as `add`, `promote` and `remove`.
        """
        driver = self._driver
        driver.check_leader()
        replaced = driver.cluster.require(member_id)
        urls = normalize_urls(peer_urls)

        def change() -> MemberChange:
            by = self._newcomer(name, urls, admin_urls) if urls else driver.cluster.find(name)
            change = MemberChange(kind=ChangeKind.REPLACE, member=by.promoted(), replaced=member_id)
            driver.cluster.check(change)
            if not urls:
                self._check_caught_up(by)
            return change

        if member_id == driver.member_id:
            await self._hand_over_to_be_changed(replaced, change)
        done = await self._change(change)
        with trio.move_on_after(driver.settings.election_seconds):
            while replaced.id in driver.cluster:
                await driver.progressed()
        return driver.cluster.require(done.member.id)

    async def update(self, member_id: int, peer_urls: Sequence[str]) -> None:
        """Give a member other peer URLs, where it is dialled as soon as its connections end.

        That is when it is restarted there. Until then it counts as down, and a leader hands over
        first. Errors: as `remove`.
        """
        self._driver.check_leader()
        known = self._driver.cluster.require(member_id)
        member = Member(id=member_id, name=known.name, peer_urls=normalize_urls(peer_urls))

        def change() -> MemberChange:
            return MemberChange(kind=ChangeKind.UPDATE, member=member)

        if member_id == self._driver.member_id and len(self._driver.cluster.voters) > 1:
            await self._hand_over_to_be_changed(known, change)
        await self._change(change)

    def promote_who_caught_up(self) -> None:
        """Propose to promote one learner that was added to be promoted, if one has caught up."""
        for member in self._driver.cluster:
            if not (member.learner and member.promote and self._peers.has_caught_up(member.id)):
                continue
            try:
                self._propose(MemberChange(kind=ChangeKind.PROMOTE, member=member.promoted()))
            except (MembershipBusyError, MembershipError, ProposalDroppedError) as error:
                _log.debug("promotion postponed", member=member.name, reason=str(error))
            return

    async def _hand_over_to_be_changed(
        self, member: Member, change: Callable[[], MemberChange]
    ) -> NoReturn:
        """Only when the new leader could make the change, so that nothing moves for nothing."""
        await self._turns.when_possible(lambda: self._check(change()))
        try:
            leader_id = await self._handover.transfer(None)
        except TransferError as error:
            raise LeaderRemovalError(f"{member.name} leads, and {error}") from error
        raise NotLeaderError(leader_id)

    async def _change(self, make: Callable[[], MemberChange]) -> MemberChange:
        """Propose the change that `make` gives, once that may be; it is applied here then.

        `make` is asked again after each wait: what it looked at may have changed meanwhile, and so
        has the index that the change will take.
        """

        def attempt() -> tuple[MemberChange, Proposal]:
            change = make()
            return change, self._propose(change)

        change, proposal = await self._turns.when_possible(attempt)
        await proposal.applied()
        return change

    def _propose(self, change: MemberChange) -> Proposal:
        self._check(change)
        proposal = self._driver.propose_change(to_conf_change(change))
        _log.info("membership change proposed", kind=change.kind.value, member=change.member.name)
        return proposal

    def _check(self, change: MemberChange) -> None:
        driver = self._driver
        driver.check_leader()
        driver.cluster.check(change)
        driver.cluster.check_health(change, self._peers.active())
        if not driver.leadership.is_ready or self._raw.may_have_pending_change:
            # The core would put an empty entry in its place.
            raise MembershipBusyError("another membership change may be under way")
        if self._raw.lead_transferee:
            raise MembershipBusyError("leadership is being handed over")
