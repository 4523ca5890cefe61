"""Acting as the leader: what the node is asked for it, and the wait until it is possible.

Both `membership` and `handover` act through these, and nothing else of the driver is open to them.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from kingbus.membership.cluster import Cluster
from kingbus.membership.errors import JointConfigurationError, UnhealthyClusterError
from kingbus.node.errors import MembershipBusyError, NotCaughtUpError, TransferError
from kingbus.node.leadership import Leadership
from kingbus.node.peers import Peers
from kingbus.node.proposals import Proposal
from kingbus.node.status import NodeSettings
from kingbus.raft.types import ConfChangeV2

_T = TypeVar("_T")


class Driver(Protocol):
    """The node, as those see it who act for it while it leads."""

    @property
    def member_id(self) -> int: ...
    @property
    def settings(self) -> NodeSettings: ...
    @property
    def leadership(self) -> Leadership: ...
    @property
    def cluster(self) -> Cluster:
        """The membership as applied here."""
        ...

    def check_leader(self) -> None:
        """NotLeaderError where this node does not lead, or not any more."""
        ...

    def propose_change(self, change: ConfChangeV2) -> Proposal:
        """Append a membership change, which the caller has found to be possible now."""
        ...

    def begin_transfer(self, member_id: int) -> None:
        """Have the core hand leadership to this voter; nothing can be proposed meanwhile."""
        ...

    async def progressed(self) -> None:
        """Until role, term, leader or what is applied have changed."""
        ...

    async def turned(self) -> None:
        """Until the loop has gone round once more: anything may have changed."""
        ...


class Turns:
    """Waits for a leader's turn to do something."""

    def __init__(self, *, driver: Driver, peers: Peers) -> None:
        self._driver = driver
        self._peers = peers

    async def when_possible(self, attempt: Callable[[], _T]) -> _T:
        """What `attempt` returns, which is tried again while it is refused for what soon passes.

        For at most two election timeouts, as long as a request waits for a leader. Two things pass
        by themselves: another change or a handover under way, and the ignorance of a new leader,
        which has not heard the others for long enough to judge them.
        """
        driver = self._driver
        with trio.move_on_after(2 * driver.settings.election_seconds):
            while True:
                driver.check_leader()
                try:
                    return attempt()
                except (MembershipBusyError, JointConfigurationError):
                    pass
                except (UnhealthyClusterError, NotCaughtUpError, TransferError):
                    if self._peers.can_judge:
                        raise
                await driver.turned()
        driver.check_leader()
        return attempt()
