"""Proposals under way: each waits for its index to be applied, and looks at the term found there.

An index identifies a proposal only together with its term: after a change of leaders another entry
may stand there. What this module must not know: how entries come to be committed.
"""

from collections.abc import Sequence

import trio

from kingbus.node.errors import ProposalLostError
from kingbus.raft.types import Entry


class Proposal:
    """One entry that this node appended as leader."""

    __slots__ = ("_error", "_event", "_settled", "data_bytes", "index", "term")

    def __init__(self, *, index: int, term: int, data_bytes: int) -> None:
        self.index = index
        self.term = term
        self.data_bytes = data_bytes
        self._event: trio.Event | None = None  # most proposals are never waited for one by one
        self._settled = False
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Proposal index={self.index} term={self.term} settled={self._settled}>"

    @property
    def is_settled(self) -> bool:
        """True when it was applied or lost."""
        return self._settled

    async def applied(self) -> None:
        """Return when it is applied here; ProposalLostError when that cannot be known."""
        if not self._settled:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()
        if self._error is not None:
            raise self._error

    def settle(self, error: Exception | None = None) -> None:
        """Tracker only: it was applied, or `error` says what became of it."""
        assert not self._settled, self
        self._settled = True
        self._error = error
        if self._event is not None:
            self._event.set()


class Proposals:
    """All proposals that wait, and the bytes that they hold."""

    def __init__(self) -> None:
        self._waiting: dict[int, Proposal] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, *, index: int, term: int, data_bytes: int) -> Proposal:
        """Follow an entry that was just appended."""
        assert index not in self._waiting, index
        proposal = Proposal(index=index, term=term, data_bytes=data_bytes)
        self._waiting[index] = proposal
        self.bytes += data_bytes
        return proposal

    def settle(self, entries: Sequence[Entry], *, errors: dict[int, Exception]) -> None:
        """These entries were applied; `errors` tells, by index, of those that were refused."""
        if not self._waiting:
            return
        for entry in entries:
            proposal = self._waiting.pop(entry.index, None)
            if proposal is None:
                continue
            self.bytes -= proposal.data_bytes
            if entry.term == proposal.term:
                proposal.settle(errors.get(entry.index))
            else:
                proposal.settle(
                    ProposalLostError(
                        f"another leader's entry took index {entry.index}", outcome_known=True
                    )
                )

    def fail_all(self, error: Exception) -> None:
        """Nothing is known of what waits any more."""
        waiting, self._waiting = self._waiting, {}
        self.bytes = 0
        for proposal in waiting.values():
            proposal.settle(error)
