"""Threads for calls that block. Owns how many; knows nothing of what they do."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")


class Worker:
    """Runs blocking calls in threads of its own, at most `threads` at a time; others wait."""

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
