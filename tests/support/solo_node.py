"""A node alone: it leads when it is told to, and commits what is proposed at once or on demand.

What the receiver sees of Raft, over a real relay in memory: a proposal has an index and is applied
later, refused, or lost with leadership.
"""

from collections import deque
from typing import Self

import trio

from kingbus.binlog.command import decode
from kingbus.node.errors import NotLeaderError, ProposalLostError
from kingbus.node.leadership import Leadership
from kingbus.node.proposals import Proposal
from kingbus.pb.command_pb2 import Command, EventBatch, SourceConfig
from tests.support.relay_node import RelayNode


class SoloNode:
    """The receiver's `Node` and, through `relay`, its `Relay`."""

    member_id = 1

    def __init__(self) -> None:
        self.held = RelayNode()
        self.leadership = Leadership()
        self.is_holding = False
        """While true nothing commits."""
        self.reads = 0
        self.changed = trio.Event()
        self._waiting: deque[tuple[bytes, Proposal]] = deque()

    @property
    def relay(self):
        return self.held.relay

    @property
    def state(self):
        return self.held.relay.state

    def lead(self, term: int = 1) -> Self:
        """Leadership is ready; what waits is lost when it ends."""
        self.leadership.set(term)
        self.notify()
        return self

    def step_down(self) -> None:
        self.leadership.set(0)
        self.lose()
        self.notify()

    @property
    def under_way(self) -> int:
        """Proposals that wait."""
        return len(self._waiting)

    def lose(self) -> None:
        """All that waits is lost."""
        while self._waiting:
            self._waiting.popleft()[1].settle(ProposalLostError("leadership was lost"))

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def configure(self, config: SourceConfig) -> None:
        """As if an operator's request had been applied."""
        self.held.command(Command(source_config=config))
        self.notify()

    async def propose(self, data: bytes) -> Proposal:
        await trio.lowlevel.checkpoint()
        if not self.leadership.is_ready:
            raise NotLeaderError(0)
        index = len(self.held.log.entries) + len(self._waiting) + 1
        proposal = Proposal(index=index, term=self.leadership.term, data_bytes=len(data))
        self._waiting.append((data, proposal))
        if not self.is_holding:
            self.commit()
        return proposal

    def commit(self) -> None:
        """Commits all that waits."""
        while self._waiting:
            data, proposal = self._waiting.popleft()
            self.held.commit(data)
            proposal.settle()

    async def read_index(self) -> int:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        return len(self.held.log.entries)

    def batches(self) -> list[tuple[int, EventBatch, bytes]]:
        """Every batch in the log: index, meta, packets."""
        found = []
        for entry in self.held.log.entries:
            command, packets = decode(entry.data)
            if command.WhichOneof("kind") == "event_batch":
                found.append((entry.index, command.event_batch, bytes(packets)))
        return found

    def sessions(self) -> int:
        """How many receiver sessions the log has."""
        return sum(
            decode(entry.data)[0].WhichOneof("kind") == "receiver_session"
            for entry in self.held.log.entries
        )

    def files(self) -> dict[str, bytes]:
        """What the relay holds of each file, up to the visible end, as the file would be."""
        metas = {index: (meta, packets) for index, meta, packets in self.batches()}
        names = {row.ordinal: row.served_name for row in self.state.files}
        found: dict[str, bytearray] = {name: bytearray(b"\xfebin") for name in names.values()}
        partial = bytearray()
        for index in sorted(self.held.database.rows):
            row = self.held.database.rows[index]
            meta, packets = metas[index]
            end = row.packets
            if index == self.state.visible.index:
                end = self.state.visible.packets
            if index > self.state.visible.index:
                break
            offsets = [
                int.from_bytes(meta.packet_offsets[at : at + 4], "little")
                for at in range(0, len(meta.packet_offsets), 4)
            ]
            for offset in offsets[:end]:
                length = int.from_bytes(packets[offset : offset + 3], "little")
                payload = packets[offset + 4 : offset + 4 + length]
                partial += payload if partial else payload[1:]
                if length < 0xFFFFFF:
                    found[names[row.file]] += partial
                    partial = bytearray()
        return {name: bytes(data) for name, data in found.items()}
