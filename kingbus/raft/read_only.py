"""Read-index requests that wait for the leader's proof that it still leads.

Requests are numbered; every heartbeat carries the number of the newest one, and its answer
acknowledges all up to that number. So many reads share one round (Raft thesis, section 6.4). The
numbers begin anew with every term: answers of an older term never reach the core.
"""

from collections.abc import Callable
from dataclasses import dataclass

CONTEXT_SIZE = 8
PENDING_MAX = 1 << 16
"""Requests that may wait; more than any host has clients, so beyond it something is wrong."""


@dataclass(frozen=True, slots=True)
class PendingRead:
    """A request by `from_` that may read what is applied up to `index`, once confirmed."""

    from_: int
    context: bytes
    index: int


class ReadOnly:
    """The queue of waiting requests, and what each peer acknowledged."""

    __slots__ = ("_acknowledged", "_pending", "_released")

    def __init__(self) -> None:
        self._pending: list[PendingRead] = []
        self._released = 0
        self._acknowledged: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """True when no request more is taken."""
        return len(self._pending) >= PENDING_MAX

    @property
    def last_sequence(self) -> int:
        """The number of the newest request."""
        return self._released + len(self._pending)

    @property
    def heartbeat_context(self) -> bytes:
        """What a heartbeat must carry to prove leadership for every waiting request."""
        return self.last_sequence.to_bytes(CONTEXT_SIZE, "little") if self._pending else b""

    def add(self, read: PendingRead) -> None:
        """Queue a request; the caller sends the heartbeats."""
        assert not self.is_full, "too many waiting reads"
        self._pending.append(read)

    def acknowledge(self, peer: int, context: bytes) -> None:
        """The peer has answered a heartbeat with this context."""
        if len(context) != CONTEXT_SIZE:
            return
        sequence = min(int.from_bytes(context, "little"), self.last_sequence)
        if sequence > self._acknowledged.get(peer, 0):
            self._acknowledged[peer] = sequence

    def acknowledged(self, peer: int) -> int | None:
        """The newest request that the peer acknowledged."""
        return self._acknowledged.get(peer)

    def release(
        self, quorum: Callable[[Callable[[int], int | None]], int], own_id: int
    ) -> list[PendingRead]:
        """Take out the requests that a quorum acknowledged; the node itself always does."""
        if not self._pending:
            return []
        self._acknowledged[own_id] = self.last_sequence
        confirmed = min(quorum(self.acknowledged), self.last_sequence)
        count = confirmed - self._released
        if count <= 0:
            return []
        released = self._pending[:count]
        del self._pending[:count]
        self._released = confirmed
        return released
