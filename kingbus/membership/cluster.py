"""The membership of a cluster, and what each change makes of it.

A `Cluster` is a value: `apply` gives the next one, from the old one, the index and the change
alone, so every node comes to the same. The strict checks follow etcd's strict reconfiguration:
they ask of the leader, before it proposes, that a healthy majority remains. What it must not
know: sockets, and how a change is agreed on.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from kingbus.errors import ConfigError, Problem
from kingbus.membership.errors import (
    DuplicateMemberError,
    JointConfigurationError,
    LastVoterError,
    MembershipError,
    NotALearnerError,
    NotAVoterError,
    RemovedMemberError,
    UnhealthyClusterError,
    UnknownMemberError,
)
from kingbus.membership.member import (
    Member,
    check_name,
    derive_cluster_id,
    derive_member_id,
    normalize_url,
    normalize_urls,
)
from kingbus.pb import record_pb2

# Bounds every record and frame that lists members; majorities are of use for far fewer.
MEMBERS_MAX = 64


class ChangeKind(Enum):
    """What a change does to one member."""

    ADD = "add"
    PROMOTE = "promote"
    REMOVE = "remove"
    REPLACE = "replace"
    UPDATE = "update"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberChange:
    """One change; for a removal only the member's id counts.

    REPLACE makes `member` a voter, new or a learner so far, and removes the voter `replaced` in the
    same step: through a joint configuration, which the leader leaves by itself.
    """

    kind: ChangeKind
    member: Member
    replaced: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The members as of `index`, sorted by id, and the ids of all that ever were removed."""

    cluster_id: int
    index: int = 0
    members: tuple[Member, ...] = ()
    removed: frozenset[int] = frozenset()
    removed_names: frozenset[str] = frozenset()
    """What removed members were called; a name may be another member's by now."""

    @classmethod
    def initial(cls, members: Sequence[tuple[str, Sequence[str]]]) -> Self:
        """A new cluster of these (name, peer URLs): its ids follow from them."""
        made = [
            Member(id=derive_member_id(name, urls), name=name, peer_urls=normalize_urls(urls))
            for name, urls in members
        ]
        made.sort(key=lambda member: member.id)
        return cls(cluster_id=derive_cluster_id(m.id for m in made), members=tuple(made))

    @classmethod
    def from_record(cls, record: record_pb2.Members) -> Self:
        """The membership in a stored record."""
        members = sorted(map(Member.from_context, record.members), key=lambda member: member.id)
        return cls(
            cluster_id=record.cluster_id,
            index=record.index,
            members=tuple(members),
            removed=frozenset(record.removed),
            removed_names=frozenset(record.removed_names),
        )

    def to_record(self) -> record_pb2.Members:
        """The membership as a record."""
        return record_pb2.Members(
            cluster_id=self.cluster_id,
            index=self.index,
            members=[member.to_context() for member in self.members],
            removed=sorted(self.removed),
            removed_names=sorted(self.removed_names),
        )

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, member_id: int) -> bool:
        return self.get(member_id) is not None

    def get(self, member_id: int) -> Member | None:
        """The member with this id, if any."""
        return next((member for member in self.members if member.id == member_id), None)

    def named(self, name: str) -> Member | None:
        """The member with this name, if any."""
        return next((member for member in self.members if member.name == name), None)

    def find(self, name_or_id: str) -> Member:
        """The member with this name, or this id in hexadecimal.

        RemovedMemberError for the name or id of a removed one, else UnknownMemberError.
        """
        found = self.named(name_or_id)
        if found is not None:
            return found
        if name_or_id in self.removed_names:
            raise RemovedMemberError(f"member {name_or_id!r} was removed from the cluster")
        try:
            member_id = int(name_or_id, 16)
        except ValueError:
            member_id = 0
        return self.require(member_id, what=f"member {name_or_id!r}")

    def require(self, member_id: int, *, what: str = "") -> Member:
        """The member with this id; otherwise errors as `find`."""
        found = self.get(member_id)
        if found is not None:
            return found
        what = what or f"member {member_id:x}"
        if member_id in self.removed:
            raise RemovedMemberError(f"{what} was removed from the cluster")
        raise UnknownMemberError(f"{what} is unknown")

    def at(self, peer_url: str) -> Member | None:
        """The member with this peer URL in normal form, if any."""
        return next((member for member in self.members if peer_url in member.peer_urls), None)

    @property
    def voters(self) -> tuple[int, ...]:
        """Ids of the members that vote; in a joint configuration, in its new half."""
        return tuple(m.id for m in self.members if not m.learner and not m.leaving)

    @property
    def outgoing(self) -> tuple[int, ...]:
        """Ids of the voters of the old half of a joint configuration; otherwise nobody."""
        if not self.is_joint:
            return ()
        return tuple(m.id for m in self.members if not m.learner and not m.entering)

    @property
    def is_joint(self) -> bool:
        """True while a replacement is under way: both halves must agree to everything."""
        return any(member.entering or member.leaving for member in self.members)

    @property
    def learners(self) -> tuple[int, ...]:
        """Ids of the members that do not vote."""
        return tuple(member.id for member in self.members if member.learner)

    def emptied(self) -> Self:
        """The same cluster before the first of its changes: where a log is replayed from."""
        return replace(self, index=0, members=(), removed=frozenset(), removed_names=frozenset())

    def check(self, change: MemberChange) -> None:
        """Raise the MembershipError that says why the change is not possible here."""
        member = change.member
        if self.is_joint:
            raise JointConfigurationError("another member is being replaced")
        if change.kind is ChangeKind.ADD:
            self._check_new(member)
            return
        if change.kind is ChangeKind.REPLACE:
            self._check_replacement(member, self.require(change.replaced))
            return
        known = self.require(member.id)
        if change.kind is ChangeKind.REMOVE:
            if self.voters == (member.id,):
                raise LastVoterError(f"{known.name} is the last voter of the cluster")
        elif change.kind is ChangeKind.PROMOTE:
            if not known.learner:
                raise NotALearnerError(f"{known.name} is a voter already")
        elif change.kind is ChangeKind.UPDATE:
            self._check_urls(member)

    def _check_replacement(self, member: Member, replaced: Member) -> None:
        if replaced.learner:
            raise NotAVoterError(f"{replaced.name} is a learner")
        known = self.get(member.id)
        if known is None:
            self._check_new(member)
        elif not known.learner:
            raise NotALearnerError(f"{known.name} is a voter already")

    def _check_new(self, member: Member) -> None:
        check_name(member.name)
        if member.id in self.removed:
            raise RemovedMemberError(f"id {member.id:x} was removed and never comes back")
        if member.id in self:
            raise DuplicateMemberError(f"id {member.id:x} exists already")
        if self.named(member.name) is not None:
            raise DuplicateMemberError(f"a member named {member.name} exists already")
        if len(self) >= MEMBERS_MAX:
            raise MembershipError(f"a cluster has at most {MEMBERS_MAX} members")
        self._check_urls(member)

    def _check_urls(self, member: Member) -> None:
        if not member.peer_urls:
            raise MembershipError(f"{member.name} has no peer URL")
        for url in member.peer_urls:
            normalize_url(url)
            owner = self.at(url)
            if owner is not None and owner.id != member.id:
                raise DuplicateMemberError(f"peer URL {url} belongs to {owner.name}")

    def apply(self, index: int, change: MemberChange) -> Self:
        """The membership after the change at `index`; MembershipError when it is not possible.

        Who applies the log keeps the old membership then: every node refuses alike.
        """
        assert index > self.index, (index, self.index)
        self.check(change)
        others = tuple(member for member in self.members if member.id != change.member.id)
        removed, removed_names = self.removed, self.removed_names
        match change.kind:
            case ChangeKind.ADD:
                others = (*others, change.member)
            case ChangeKind.PROMOTE:
                others = (*others, self.require(change.member.id).promoted())
            case ChangeKind.UPDATE:
                others = (*others, self._updated(change.member))
            case ChangeKind.REPLACE:
                known = self.get(change.member.id) or change.member
                replaced = self.require(change.replaced)
                others = (
                    *(member for member in others if member.id != replaced.id),
                    replace(known.promoted(), entering=True),
                    replace(replaced, leaving=True),
                )
            case ChangeKind.REMOVE:
                removed |= {change.member.id}
                removed_names |= {self.require(change.member.id).name}
        members = tuple(sorted(others, key=lambda member: member.id))
        return replace(
            self, index=index, members=members, removed=removed, removed_names=removed_names
        )

    def left(self, index: int) -> Self:
        """The membership after the joint configuration was left: who was leaving is removed."""
        assert self.is_joint
        assert index > self.index, (index, self.index)
        leaving = [member for member in self.members if member.leaving]
        return replace(
            self,
            index=index,
            members=tuple(
                replace(member, entering=False) for member in self.members if not member.leaving
            ),
            removed=self.removed | {member.id for member in leaving},
            removed_names=self.removed_names | {member.name for member in leaving},
        )

    def _updated(self, member: Member) -> Member:
        # An update moves a member to other addresses; it never makes it vote, or stop voting.
        known = self.require(member.id)
        return replace(
            known,
            peer_urls=member.peer_urls,
            admin_urls=member.admin_urls or known.admin_urls,
        )

    def check_health(self, change: MemberChange, active: Collection[int]) -> None:
        """Raise UnhealthyClusterError unless active voters are a majority, before and after.

        `active` are the members heard from lately, the leader itself among them. The voters of now
        have to agree to the change, those after it to everything that follows; in a replacement,
        which is the joint configuration of both, each half by itself. A voter that is only being
        added counts as down, as it has not started yet; so does one that moves, until it has been
        restarted at its new address, unless nobody else votes, who would have to reach it.
        """
        before = set(self.voters)
        after = set(before)
        up = before & set(active)
        away: set[int] = set()
        match change.kind:
            case ChangeKind.UPDATE:
                away = {change.member.id} if len(before) > 1 else set()
            case ChangeKind.ADD if not change.member.learner:
                after.add(change.member.id)
            case ChangeKind.ADD:
                pass
            case ChangeKind.PROMOTE:
                after.add(change.member.id)
            case ChangeKind.REMOVE:
                after.discard(change.member.id)
            case ChangeKind.REPLACE:
                after = before - {change.replaced} | {change.member.id}
        up |= after & set(self.learners) & set(active)
        self._check_majority(change, before, up, "now")
        self._check_majority(change, after, up - away, "after it")

    def _check_majority(
        self, change: MemberChange, voters: set[int], up: set[int], when: str
    ) -> None:
        needed = len(voters) // 2 + 1
        present = sorted(self.require(each).name for each in voters & up)
        if len(present) < needed:
            what = change.member.name or f"{change.member.id:x}"
            if change.kind is ChangeKind.REPLACE:
                what = f"{self.require(change.replaced).name} by {what}"
            raise UnhealthyClusterError(
                f"{change.kind.value} {what}: {needed} of the {len(voters)} voters {when} must be"
                f" up, heard from are {', '.join(present) or 'none'}",
                hint=self._way_out(change, voters, up),
            )

    def _way_out(self, change: MemberChange, voters: set[int], up: set[int]) -> str:
        """What to do instead when nobody is down but who comes or moves; otherwise nothing."""
        if voters - up != {change.member.id}:
            return ""
        if change.kind is ChangeKind.UPDATE:
            return "Let a new member replace it instead, or add a voter first."
        if change.member.id in self:
            return ""  # a learner that is down
        return "It has not started yet: add it as a learner, start it, and let it catch up first."


def parse_initial_cluster(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The (name, peer URLs) of `name=url,name=url`; a name that repeats has several URLs.

    ConfigError with every problem: malformed parts, names or URLs, and a URL of two members.
    """
    problems: list[Problem] = []
    urls: dict[str, list[str]] = {}
    owners: dict[str, str] = {}

    def complain(message: str, got: str) -> None:
        problems.append(Problem(key="initial-cluster", message=message, got=got))

    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, url = part.partition("=")
        if not equals:
            complain("each part is name=url", part)
            continue
        try:
            check_name(name)
            url = normalize_url(url)
        except MembershipError as error:
            complain(error.explain(), part)
            continue
        if url in owners:
            complain(f"the URL is {owners[url]}'s already", part)
            continue
        owners[url] = name
        urls.setdefault(name, []).append(url)
    if not urls and not problems:
        complain("names no member", text)
    if problems:
        raise ConfigError(problems)
    return tuple((name, tuple(sorted(found))) for name, found in urls.items())
