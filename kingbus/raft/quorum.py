"""Majorities: what a quorum has acknowledged, and how a vote stands.

A joint configuration (Raft thesis, section 4.3) decides only where both of its halves decide the
same. An empty half agrees to everything.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Self

INFINITE_INDEX = 2**64 - 1
"""The committed index of an empty configuration, which puts no bound on anything."""


class VoteResult(Enum):
    """How a vote stands."""

    PENDING = "VotePending"
    LOST = "VoteLost"
    WON = "VoteWon"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class MajorityConfig:
    """A set of voters of which more than half decide."""

    voters: frozenset[int] = frozenset()

    @classmethod
    def of(cls, ids: Iterable[int] = ()) -> Self:
        """The configuration of these voters."""
        return cls(frozenset(ids))

    def __str__(self) -> str:
        return "(" + " ".join(f"{voter:x}" for voter in sorted(self.voters)) + ")"

    def __contains__(self, voter: object) -> bool:
        return voter in self.voters

    def __len__(self) -> int:
        return len(self.voters)

    def __iter__(self) -> Iterator[int]:
        return iter(self.voters)

    def committed_index(self, acknowledged: Callable[[int], int | None]) -> int:
        """The highest index that a majority acknowledged; None counts as 0."""
        if not self.voters:
            return INFINITE_INDEX
        indexes = sorted([acknowledged(voter) or 0 for voter in self.voters])
        count = len(indexes)
        return indexes[count - (count // 2 + 1)]

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """How the vote stands after these answers."""
        if not self.voters:
            return VoteResult.WON
        quorum = len(self.voters) // 2 + 1
        granted = missing = 0
        for voter in self.voters:
            vote = votes.get(voter)
            if vote is None:
                missing += 1
            elif vote:
                granted += 1
        if granted >= quorum:
            return VoteResult.WON
        if granted + missing >= quorum:
            return VoteResult.PENDING
        return VoteResult.LOST

    def describe(self, acknowledged: Callable[[int], int | None]) -> str:
        """A table of who acknowledged how much, with bars that show the order."""
        if not self.voters:
            return "<empty majority quorum>"
        count = len(self.voters)
        by_index = sorted((acknowledged(voter) or 0, voter) for voter in self.voters)
        bars: dict[int, int] = {}
        for position, (index, voter) in enumerate(by_index):
            if position == 0:
                bars[voter] = 0
            elif index > by_index[position - 1][0]:
                bars[voter] = position
            else:
                bars[voter] = bars[by_index[position - 1][1]]
        lines = [" " * count + "    idx\n"]
        for voter in sorted(self.voters):
            index_or_none = acknowledged(voter)
            if index_or_none is None:
                bar = "?" + " " * count
            else:
                bar = "x" * bars[voter] + ">" + " " * (count - bars[voter])
            lines.append(f"{bar} {index_or_none or 0:5d}    (id={voter:x})\n")
        return "".join(lines)


@dataclass(frozen=True, slots=True)
class JointConfig:
    """Two majorities that must both agree; in ordinary times the outgoing one is empty."""

    incoming: MajorityConfig = MajorityConfig()
    outgoing: MajorityConfig = MajorityConfig()

    def __str__(self) -> str:
        return f"{self.incoming}&&{self.outgoing}" if self.outgoing.voters else str(self.incoming)

    def __contains__(self, voter: object) -> bool:
        return voter in self.incoming.voters or voter in self.outgoing.voters

    @property
    def ids(self) -> frozenset[int]:
        """The voters of either half."""
        return self.incoming.voters | self.outgoing.voters

    @property
    def is_joint(self) -> bool:
        """True between the two halves of a change."""
        return bool(self.outgoing.voters)

    def committed_index(self, acknowledged: Callable[[int], int | None]) -> int:
        """The highest index that both majorities acknowledged."""
        index = self.incoming.committed_index(acknowledged)
        if not self.outgoing.voters:
            return index
        return min(index, self.outgoing.committed_index(acknowledged))

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """Won when both halves are won, lost when one is lost."""
        results = {self.incoming.vote_result(votes), self.outgoing.vote_result(votes)}
        if VoteResult.LOST in results:
            return VoteResult.LOST
        if VoteResult.PENDING in results:
            return VoteResult.PENDING
        return VoteResult.WON

    def describe(self, acknowledged: Callable[[int], int | None]) -> str:
        """The table over the voters of both halves."""
        return MajorityConfig(self.ids).describe(acknowledged)
