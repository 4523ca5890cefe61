"""The task that takes all steps by which what is configured and what is stored come together.

Owns when: after each change that is applied, and now and then. Must not know what a step does;
each looks for itself whether there is anything to do.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from kingbus import log
from kingbus.errors import KingbusError
from kingbus.secrets import SecretError

_log = log.get_logger("daemon")

KEEPER_SECONDS = 1.0  # what the applied state does not announce is looked at this often

Step = Callable[[], Awaitable[None]]


async def keep(steps: Mapping[str, Step], changed: Callable[[], trio.Event]) -> None:
    """Take the steps in turn, again and again, by what each is about; raises SecretErrors.

    `changed` gives an event that is set when configuration was applied or leadership moved.
    """
    while True:
        next_change = changed()
        for what, step in steps.items():
            try:
                await step()
            except SecretError:
                raise  # a key that does not fit: this node cannot do its work
            except KingbusError as error:
                _log.info("put off", what=what, reason=error.explain())
        with trio.move_on_after(KEEPER_SECONDS):
            await next_change.wait()
