"""What waits to be sent to a member: which lane takes it, what may be left out, how much may wait.

Nothing here sends. Every queue is bounded in messages and bytes; one message always fits, or the
largest entry could never leave.
"""

from collections import deque
from collections.abc import Sequence

import trio

from kingbus.raft.types import Message, MessageType
from kingbus.transport.hello import Lane

APPEND_QUEUE_BYTES_MAX = 40 << 20
"""The core keeps 16 MiB in flight to a peer and one more entry; twice that, as it may probe."""
URGENT_QUEUE_BYTES_MAX = 4 << 20
QUEUE_MESSAGES_MAX = 4096
"""As in etcd: far more than the 512 in flight, and than heartbeats can gather in a second."""


def message_bytes(message: Message) -> int:
    """About what a message takes in a queue; entry data counts in full."""
    size = 128 + len(message.context)
    if message.entries:
        size += sum(len(entry.data) + 48 for entry in message.entries)
    if message.snapshot is not None:
        size += len(message.snapshot.data)
    return size


def lane_of(message: Message) -> Lane:
    """Every MsgApp goes the same way, empty ones too, or they would overtake those with entries."""
    if message.type in {MessageType.APP, MessageType.SNAP}:
        return Lane.APPEND
    return Lane.URGENT


def coalesce(messages: Sequence[Message]) -> list[Message]:
    """The same messages without the AppResp that a later one to the same peer makes needless.

    Only plain acknowledgements of one term are left out: a rejection always says something.
    """
    kept: list[Message] = []
    acknowledged: set[tuple[int, int]] = set()
    for message in reversed(messages):
        if message.type is MessageType.APP_RESP and not message.reject:
            key = (message.to, message.term)
            if key in acknowledged:
                continue
            acknowledged.add(key)
        kept.append(message)
    kept.reverse()
    return kept


class LaneQueue:
    """Messages that wait for a lane, bounded in number and bytes; one always fits."""

    def __init__(self, *, bytes_max: int, messages_max: int = QUEUE_MESSAGES_MAX) -> None:
        self._bytes_max = bytes_max
        self._messages_max = messages_max
        self._messages: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._filled = trio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def bytes(self) -> int:
        """What is queued, counted by `message_bytes`."""
        return self._bytes

    def push(self, message: Message) -> bool:
        """Queue it, or say False when there is no room."""
        size = message_bytes(message)
        if self._messages and (
            len(self._messages) >= self._messages_max or self._bytes + size > self._bytes_max
        ):
            return False
        self._messages.append((message, size))
        self._bytes += size
        self._filled.set()
        return True

    def take(self, bytes_max: int) -> list[Message]:
        """The oldest messages, as many as stay within `bytes_max`, but at least one."""
        taken: list[Message] = []
        size = 0
        while self._messages and (not taken or size + self._messages[0][1] <= bytes_max):
            message, weight = self._messages.popleft()
            taken.append(message)
            size += weight
        self._bytes -= size
        if not self._messages:
            self._filled = trio.Event()
        return taken

    async def wait(self) -> None:
        """Until there is something to take."""
        await self._filled.wait()
