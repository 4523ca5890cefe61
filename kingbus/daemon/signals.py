"""SIGTERM and SIGINT as the wish to stop, from before the event loop to after it.

Owns the handlers of these signals. Must not know what stops, nor in which order.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from kingbus import log

_log = log.get_logger("daemon")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """The wish to stop: `starting` is cancelled while nothing runs yet, then `requested` counts."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.starting = trio.CancelScope()
        self._noted = False

    @contextmanager
    def noting_signals(self) -> Iterator[None]:
        """Around the loop's own handling: a signal that comes too early counts, one that comes
        again at the very end must not turn a clean stop into a death by signal.
        """
        for number in _STOP_SIGNALS:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            # The interpreter's own end would restore the default handlers, but not these.
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def _note(self, _number: int, _frame: object) -> None:
        self._noted = True

    def request(self) -> None:
        """Stop, whatever is going on."""
        self.requested.set()
        self.starting.cancel()

    async def catch_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled, SIGTERM and SIGINT are this wish."""
        with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
            task_status.started()
            if self._noted:
                self.request()
            async for number in signals:
                _log.info("stopping", signal=signal.Signals(number).name)
                self.request()
