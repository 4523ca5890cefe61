"""Waiting for a condition with a deadline: the only place of the tests that ever sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineError(AssertionError):
    """What was waited for did not come in time."""


def wait_for(
    condition: Callable[[], T],
    *,
    what: str,
    seconds: float = 30.0,
    every: float = 0.05,
    tolerate: tuple[type[BaseException], ...] = (),
    explain: Callable[[], object] | None = None,
) -> T:
    """Ask `condition` until it gives something true, and return that.

    `tolerate` names exceptions that count as "not yet". After `seconds` a DeadlineError tells what
    was waited for, the last answer or exception, and what `explain` says.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            answer = condition()
        except tolerate as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        if time.monotonic() >= deadline:
            more = "" if explain is None else f"\n{explain()}"
            raise DeadlineError(f"{what}: not within {seconds:.0f} s; last: {last!r}{more}")
        time.sleep(every)
