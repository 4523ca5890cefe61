"""The proof that a voter which begins anew is new, where no peer could tell at its start.

It says nothing of itself before, so whatever the log has of it is from an earlier life. Must not
know what waits for the proof.
"""

from collections.abc import Callable

import trio

from kingbus.daemon.worker import Worker
from kingbus.node.bootstrap import Prepared, forgotten, mark_forgotten
from kingbus.node.errors import NodeError
from kingbus.node.node import Node
from kingbus.replication.relay import Relay
from kingbus.storage.directory import DataDirectory

_RETRY_SECONDS = 1.0  # without a leader there is nothing to compare


class Newness:
    """`is_proven` from the beginning, where there is nothing to prove; `proven` is called else."""

    def __init__(
        self,
        prepared: Prepared,
        directory: DataDirectory,
        *,
        node: Node,
        relay: Relay,
        runner: Worker,
        proven: Callable[[], None],
    ) -> None:
        self._identity = prepared.identity
        self._directory = directory
        self._node = node
        self._relay = relay
        self._runner = runner
        self._proven = proven
        self.is_proven = prepared.path != "start"

    async def prove(self) -> None:
        """Read all that is committed; BootstrapError when the log knows this voter."""
        if self.is_proven:
            return
        applied = False
        while not applied:
            try:
                await self._node.wait_applied(await self._node.read_index())
                applied = True
            except NodeError:
                await trio.sleep(_RETRY_SECONDS)
        if self._identity.member_id in self._relay.state.members:
            await self._runner(mark_forgotten, self._directory)
            raise forgotten(self._identity.name, "the log", took_part_again=True)
        self.is_proven = True
        self._proven()
