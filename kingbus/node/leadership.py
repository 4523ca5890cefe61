"""Whether this node leads, as those see it who act for the leader.

Leadership counts from the moment that the leader has applied an entry of its own term: only then
does it know all that was committed before (the origin's rule for reads, and swarmkit's for its
leader's tasks). It is withdrawn before the waiting proposals are told that they are lost, so that
nobody proposes anew in between.
"""

from kingbus.node.broadcast import Broadcast


class Leadership:
    """A value that changes, with waits for both edges."""

    def __init__(self) -> None:
        self._term = 0
        self._changed = Broadcast()

    @property
    def is_ready(self) -> bool:
        """True while this node leads and has applied an entry of its own term."""
        return self._term != 0

    @property
    def term(self) -> int:
        """The term that this node leads in; 0 when it does not."""
        return self._term

    def set(self, term: int) -> None:
        """Node only: the term led in, 0 for none."""
        if term != self._term:
            self._term = term
            self._changed.notify()

    async def wait_ready(self) -> int:
        """Until this node leads; the term."""
        while not self._term:
            await self._changed.wait()
        return self._term

    async def wait_lost(self, term: int) -> None:
        """Until this node does not lead in that term."""
        while self._term == term:
            await self._changed.wait()
