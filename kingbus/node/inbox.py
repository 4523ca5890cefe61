"""Messages from the peers that wait for the loop, within limits.

Beyond the number of messages they are dropped, as on a network; beyond the bytes the transport
reads no more. What this module must not know: what the messages say.
"""

from collections import deque

from kingbus.node.broadcast import Broadcast
from kingbus.raft.types import Message

INBOX_MESSAGES_MAX = 4096
"""As in etcd: what a loop that fell behind finds there is mostly outdated by then."""
INBOX_BYTES_MAX = 32 << 20
"""Appends that wait for the loop: twice what one leader keeps in flight. Beyond, nothing is read
from the append lanes."""


class Inbox:
    """A queue of messages, and the wait for room in it."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._room = Broadcast()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> bool:
        """False when there are too many: it is dropped."""
        if len(self._messages) >= INBOX_MESSAGES_MAX:
            return False
        self._messages.append(message)
        for entry in message.entries:
            self._bytes += len(entry.data)
        if message.snapshot is not None:
            self._bytes += len(message.snapshot.data)
        return True

    def take(self) -> deque[Message]:
        """All that wait, the oldest first; who waits for room goes on when this task pauses."""
        messages, self._messages = self._messages, deque()
        self._bytes = 0
        if messages:
            self._room.notify()
        return messages

    async def wait_room(self) -> None:
        """Wait while too many bytes are in it."""
        while self._bytes > INBOX_BYTES_MAX:
            await self._room.wait()
