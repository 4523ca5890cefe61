"""`python -m kingbus` is the `kingbus` command; the installed one begins here too.

Before anything else is imported, the commands that run a node see to it that a signal ends them as
it does later: cleanly. Nothing is open yet that would have to be closed. They also import without
the garbage collector, which would look at all that stays again and again for a tenth of the time;
`daemon.process` switches it on.
"""

import gc
import os
import signal
import sys


def _end(_number: int, _frame: object) -> None:
    os._exit(0)  # an exception could come up in the middle of an import


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:2] in (["run"], ["join"]):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        gc.disable()
    from kingbus.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
