"""How long the event loop is kept busy by one turn, in which nobody else is heard.

A turn runs every task that could run when it began; heartbeats and elections wait for its end, so
the longest is what bounds them. Must not know what the tasks do.
"""

import time
from collections.abc import Callable

import trio

from kingbus import metrics

NOTED_SECONDS = 0.005
"""Shorter turns hold nobody up, and are most of them."""


class TurnWatch(trio.abc.Instrument):
    """Notes the loop's long turns in the metrics. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._longest = 0.0

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """A turn begins."""
        self._began = self._clock()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """The turn is over."""
        seconds = self._clock() - self._began
        if seconds >= NOTED_SECONDS:
            metrics.LOOP_TURN_SECONDS.observe(seconds)
        if seconds > self._longest:
            self._longest = seconds
            metrics.LOOP_TURN_LONGEST_SECONDS.set(seconds)
