"""Waking everybody who waits for something to change."""

import trio


class Broadcast:
    """`notify` wakes all that wait at that moment; who waits checks its condition in a loop."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._waiting = 0

    def notify(self) -> None:
        """Wake all waiters; costs nothing when there are none."""
        if self._waiting:
            event, self._event = self._event, trio.Event()
            event.set()

    async def wait(self) -> None:
        """Until the next `notify`."""
        self._waiting += 1
        try:
            await self._event.wait()
        finally:
            self._waiting -= 1
