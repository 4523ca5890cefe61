"""The relay as the node's state machine, with an event when configuration was applied.

Owns which parts of the relay state count as configuration of this node. Must not know who waits
for a change, nor what they do then.
"""

from collections.abc import Callable

import trio

from kingbus.node.machine import AppliedBatch
from kingbus.replication.relay import Relay


class Watched:
    """Implements `node.machine.StateMachine`. `changed` is set, and another, at each change."""

    def __init__(self, relay: Relay, member_id: int) -> None:
        self._relay = relay
        self._member_id = member_id
        self.changed = trio.Event()

    @property
    def applied_index(self) -> int:
        """The last entry that the relay has taken."""
        return self._relay.applied_index

    def apply(self, batch: AppliedBatch) -> None:
        """Give it to the relay; tell if configuration became another."""
        before = self._configuration()
        self._relay.apply(batch)
        after = self._configuration()
        if len(before) != len(after) or any(
            old is not new for old, new in zip(before, after, strict=True)
        ):
            self.notify()

    def notify(self) -> None:
        """Wake who waits for a change."""
        self.changed.set()
        self.changed = trio.Event()

    def _configuration(self) -> tuple[object, ...]:
        state = self._relay.state
        own = (
            state.cluster_key,
            state.source_config,
            state.servers.get(self._member_id),
            state.members.get(self._member_id),
            state.users,
        )
        if not self._relay.channels:
            return own
        named = [relay.state for relay in self._relay.channels.values()]
        # Their names, too: a snapshot may bring a channel's state before the log adds the channel.
        return (
            *own,
            *state.channels,
            *(each.source_config for each in named),
            *(each.servers.get(self._member_id) for each in named),
        )


class Feeding(Watched):
    """The same where dumps run in worker processes, which are told what was applied."""

    def __init__(self, relay: Relay, member_id: int, applied: Callable[[], None]) -> None:
        super().__init__(relay, member_id)
        self._applied = applied

    def apply(self, batch: AppliedBatch) -> None:
        """The same, and tell the workers."""
        super().apply(batch)
        self._applied()

    def notify(self) -> None:
        """The same: a snapshot may have been installed."""
        super().notify()
        self._applied()
