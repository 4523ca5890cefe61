"""What becomes of the snapshots that a leader sends. Pure: times come in as arguments.

The core sends a peer nothing more until it is told what became of its snapshot. That a snapshot
left this node says nothing: it arrived when the peer answers for its index, which it does once it
is durable there; and it is lost when the connection is, or when no answer comes for long.
"""

from dataclasses import dataclass

SNAPSHOT_SECONDS_MAX = 30.0
"""Without an answer for so long a snapshot is sent again, which does no harm to who is still busy
with the first: it is a small message, and installing it one segment and one synced write."""


@dataclass(frozen=True, slots=True)
class _Sent:
    index: int
    give_up_at: float


class SnapshotFates:
    """Snapshots under way, at most one for each peer."""

    def __init__(self) -> None:
        self._sent: dict[int, _Sent] = {}
        self._known: list[tuple[int, bool]] = []

    def sent(self, peer: int, index: int, now: float) -> None:
        """A snapshot at `index` was handed to the transport."""
        self._sent[peer] = _Sent(index, now + SNAPSHOT_SECONDS_MAX)

    def acknowledged(self, peer: int, index: int) -> None:
        """The peer says that it has everything up to `index`, durably."""
        sent = self._sent.get(peer)
        if sent is not None and index >= sent.index:
            self._settle(peer, ok=True)

    def lost(self, peer: int) -> None:
        """The connection that it went over is gone, or it never left."""
        if peer in self._sent:
            self._settle(peer, ok=False)

    def forget(self) -> None:
        """This node does not lead any more: nothing waits."""
        self._sent.clear()
        self._known.clear()

    def take(self, now: float) -> list[tuple[int, bool]]:
        """What the core is to be told: peer, and whether its snapshot arrived."""
        for peer, sent in list(self._sent.items()):
            if now >= sent.give_up_at:
                self._settle(peer, ok=False)
        known, self._known = self._known, []
        return known

    def _settle(self, peer: int, *, ok: bool) -> None:
        del self._sent[peer]
        self._known.append((peer, ok))
