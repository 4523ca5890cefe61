"""`python -m kingbus` is the `kingbus` command; the installed one begins here too.

What has to be done before anything else is imported, for the commands that run a node:

* A signal ends them as it does later: cleanly. Nothing is open yet that would have to be closed.
* The garbage collector waits: it would look at all that stays again and again, for a tenth of the
  time. `daemon.process` switches it on.
* All threads share one heap; libraries begin threads when they are imported.
"""

import gc
import os
import signal
import sys
from contextlib import suppress

_M_ARENA_MAX = -8
"""Of mallopt(3)."""


def _end(_number: int, _frame: object) -> None:
    os._exit(0)  # an exception could come up in the middle of an import


def _share_heap() -> None:
    """Keep glibc from giving each thread a heap of its own: what is free there is of no use to
    others. With GTID sets of 100,000 intervals that was 40 MB of a node's memory.
    """
    import ctypes

    with suppress(OSError, AttributeError):  # another C library has no such setting
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:2] in (["run"], ["join"]):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        gc.disable()
        _share_heap()
    from kingbus.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
