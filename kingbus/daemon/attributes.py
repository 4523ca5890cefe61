"""What the other members are told of this one, by way of the log.

Must not know how it is carried to the leader.
"""

from collections.abc import Awaitable, Callable

from kingbus.daemon.newness import Newness
from kingbus.node.node import Node
from kingbus.pb.command_pb2 import MemberAttributes
from kingbus.replication.relay import Relay


class OwnAttributes:
    """See the module. `store` has them replicated and returns when they are applied here."""

    def __init__(
        self,
        wanted: MemberAttributes,
        *,
        node: Node,
        relay: Relay,
        newness: Newness,
        store: Callable[[MemberAttributes], Awaitable[None]],
    ) -> None:
        self._wanted = wanted
        self._node = node
        self._relay = relay
        self._newness = newness
        self._store = store

    async def announce(self) -> None:
        """Once they differ from what the log holds, and there is a leader. KingbusErrors."""
        wanted = self._wanted
        if not self._newness.is_proven:
            return  # what the log says of this member is what it would be known by
        if self._relay.state.members.get(wanted.member_id) == wanted:
            return
        if self._node.status().leader_id and self._node.cluster.get(wanted.member_id) is not None:
            await self._store(wanted)
