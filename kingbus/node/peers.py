"""What this node has heard from its peers, and what it makes of that while it leads.

Who is up, who has the log, and whether this node leads for long enough to say so. What this module
must not know: what anybody decides by it.
"""

from collections import deque

import trio

from kingbus.node.status import NodeSettings
from kingbus.raft.raw_node import RawNode


class Peers:
    """Times are the event loop's; the core is only looked at."""

    def __init__(self, *, member_id: int, raw: RawNode, settings: NodeSettings) -> None:
        self._member_id = member_id
        self._raw = raw
        self._settings = settings
        self._ever_heard: set[int] = set()
        self._heard: dict[int, float] = {}
        self._acknowledged: dict[int, tuple[int, int]] = {}
        self._commits: deque[int] = deque(maxlen=settings.election_ticks + 1)

    # What the driver tells

    def arrived(self, member_id: int) -> None:
        """A message of this member was let in, and waits for the loop."""
        self._ever_heard.add(member_id)

    def heard(self, member_id: int, now: float) -> None:
        """The loop has come to a message of this member."""
        self._heard[member_id] = now

    def acknowledged(self, member_id: int, term: int, index: int) -> None:
        """While this node led in `term` that member had its log durable up to `index`."""
        known = self._acknowledged.get(member_id, (0, 0))
        self._acknowledged[member_id] = max(known, (term, index))

    def tick(self) -> None:
        """The core has made a tick."""
        self._commits.append(self._raw.committed)

    def begin_leading(self) -> None:
        """This node has become the leader: what it noted as a follower says nothing."""
        self._commits.clear()

    # What may be asked

    def took_part(self, member_id: int) -> bool:
        """Whether this member took part in Raft since this node runs."""
        return member_id in self._ever_heard

    def acknowledgement(self, member_id: int) -> tuple[int, int]:
        """The newest term and index, in this order, that it acknowledged to this node as leader."""
        return self._acknowledged.get(member_id, (0, 0))

    def silent_seconds(self, member_id: int) -> float | None:
        """How long ago this member was heard from; None: not since this node runs."""
        heard = self._heard.get(member_id)
        return None if heard is None else trio.current_time() - heard

    def active(self) -> set[int]:
        """The members heard from within an election timeout, and this one."""
        since = trio.current_time() - self._settings.election_seconds
        return {self._member_id} | {who for who, when in self._heard.items() if when >= since}

    @property
    def can_judge(self) -> bool:
        """Whether a leader has listened for an election timeout: who is silent now, is down."""
        return len(self._commits) == self._commits.maxlen

    def has_caught_up(self, member_id: int) -> bool:
        """Whether a peer has all that was committed an election timeout ago (thesis, 4.2.1)."""
        progress = self._raw.progress(member_id)
        if progress is None or member_id not in self.active():
            return False
        return self.can_judge and progress.match >= self._commits[0]
