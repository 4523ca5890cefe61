"""Reads that a majority confirms: the questions under way, and their answers.

The core asks the leader, the leader asks a majority whether it still leads; a question or an answer
that is lost is asked anew. What this module must not know: what is read.
"""

import random as random_module
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from kingbus.node.broadcast import Broadcast
from kingbus.node.errors import NoLeaderError
from kingbus.node.status import NodeSettings
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import ReadState

_CONTEXT = struct.Struct(">QQ")


@dataclass(slots=True)
class _Read:
    answered: trio.Event = field(default_factory=trio.Event)
    index: int = 0


class Reads:
    """`progressed` tells of another leader; `wake` has the driver look at what the core holds."""

    def __init__(
        self,
        *,
        member_id: int,
        raw: RawNode,
        settings: NodeSettings,
        random: random_module.Random,
        progressed: Broadcast,
        wake: Callable[[], None],
    ) -> None:
        self._member_id = member_id
        self._raw = raw
        self._settings = settings
        self._progressed = progressed
        self._wake = wake
        self._waiting: dict[bytes, _Read] = {}
        self._number = random.getrandbits(63)  # so that no answer of an earlier life fits

    def answered(self, state: ReadState) -> None:
        """The core has an answer; nobody may wait for it any more."""
        read = self._waiting.pop(state.context, None)
        if read is not None:
            read.index = state.index
            read.answered.set()

    async def index(self) -> int:
        """As Node.read_index."""
        retry = self._settings.election_seconds / 2
        with trio.move_on_after(2 * self._settings.election_seconds):
            while True:
                if not self._raw.leader_id:
                    await self._progressed.wait()
                    continue
                self._number = (self._number + 1) % 2**64
                context = _CONTEXT.pack(self._member_id, self._number)
                read = self._waiting[context] = _Read()
                try:
                    self._raw.read_index(context)
                    self._wake()
                    # The question or the answer may be lost, or the leader with it: ask again.
                    with trio.move_on_after(retry):
                        await read.answered.wait()
                        return read.index
                finally:
                    self._waiting.pop(context, None)
        raise NoLeaderError
