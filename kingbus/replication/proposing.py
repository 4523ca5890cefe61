"""What receiver and purger ask of the Raft node: who leads, and to take an entry into the log."""

from typing import Protocol


class Proposal(Protocol):
    """An entry on its way into the log."""

    @property
    def index(self) -> int: ...

    async def applied(self) -> object:
        """Returns when it is applied here; raises when that cannot be known."""


class Leadership(Protocol):
    """Whether this node leads and has applied an entry of its own term."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def term(self) -> int: ...
    async def wait_ready(self) -> int: ...
    async def wait_lost(self, term: int) -> None: ...


class Node(Protocol):
    """The Raft node."""

    @property
    def member_id(self) -> int: ...
    @property
    def leadership(self) -> Leadership: ...
    async def propose(self, data: bytes) -> Proposal:
        """Waits while too much is uncommitted; raises KingbusErrors."""
        ...

    async def read_index(self) -> int: ...
