"""Threads for calls that block. Owns how many; knows nothing of what they do."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")


class Worker:
    """Runs blocking calls in threads of its own, at most `threads` at a time; others wait.

    Who is cancelled waits for the end of the call, unless calls are `abandoned`: those that may
    hang for longer than a stop may take, and of which nothing depends on the end.
    """

    def __init__(self, threads: int, *, abandoned: bool = False) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._abandoned = abandoned

    async def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        return await trio.to_thread.run_sync(
            function, *args, limiter=self._limiter, abandon_on_cancel=self._abandoned
        )
