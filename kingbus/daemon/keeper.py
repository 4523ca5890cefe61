"""The task that takes all steps by which what is configured and what is stored come together.

Owns when: after each change that is applied, and now and then. Must not know what a step does;
each looks for itself whether there is anything to do.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from kingbus import log
from kingbus.errors import KingbusError
from kingbus.secrets import SecretError

_log = log.get_logger("daemon")

KEEPER_SECONDS = 1.0  # what the applied state does not announce is looked at this often

Step = Callable[[], Awaitable[None]]


async def keep(steps: Sequence[Step], changed: Callable[[], trio.Event]) -> None:
    """Take the steps in turn, again and again; raises SecretErrors.

    `changed` gives an event that is set when configuration was applied or leadership moved.
    """
    while True:
        next_change = changed()
        for step in steps:
            await _try(step)
        with trio.move_on_after(KEEPER_SECONDS):
            await next_change.wait()


async def _try(step: Step) -> None:
    try:
        await step()
    except SecretError:
        raise  # a key that does not fit: this node cannot do its work
    except KingbusError as error:
        _log.info("put off", what=step.__name__.strip("_"), reason=error.explain())
