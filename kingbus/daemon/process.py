"""One process: from its options to its exit code.

Owns the event loop's run, the log's set-up, what is said of an error that ends it, and that what
was opened is closed at last. Must not know what a node consists of.
"""

import gc
import sys
from contextlib import ExitStack
from functools import partial

import trio

from kingbus import log
from kingbus.daemon.member import Member
from kingbus.daemon.options import Options, RefusedError
from kingbus.daemon.signals import Stop
from kingbus.daemon.sockets import open_sockets
from kingbus.daemon.start import open_ground
from kingbus.daemon.turns import TurnWatch
from kingbus.daemon.worker import Worker
from kingbus.errors import KingbusError
from kingbus.node.bootstrap import mark_removed

_log = log.get_logger("daemon")


def main(options: Options) -> int:
    """Run the node until it is stopped; the exit code. Raises KingbusErrors before it runs."""
    if sys.flags.optimize:
        raise RefusedError(
            "kingbus does not run under python -O: its assertions hold the invariants"
        )
    # What was imported stays. `__main__` did that without the collector, which begins here.
    gc.freeze()
    gc.enable()
    config = options.config
    try:
        log.configure(level=config.log_level, directory=config.log_dir)
    except OSError as error:
        raise RefusedError(f"log-dir {config.log_dir}: {error.strerror}") from error
    for warning in config.warnings():
        _log.warning(warning)
    stop = Stop()
    with stop.noting_signals():
        try:
            trio.run(_run, options, stop, instruments=[TurnWatch()])
        except BaseException as error:
            first = _first(error)
            if not isinstance(first, KingbusError):
                _log.critical("the node ended by an unexpected error", exc_info=error)
            if first is error:
                raise
            raise first from None
    return 0


def _first(error: BaseException) -> BaseException:
    """The first real error in a group, which names the reason better than the group does."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(options: Options, stop: Stop) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.catch_signals)
        await _start_and_run(options, stop)
        nursery.cancel_scope.cancel()


async def _start_and_run(options: Options, stop: Stop) -> None:
    worker = Worker(32)
    with ExitStack() as stack:
        sockets = open_sockets(options, stack)
        with stop.starting:
            ground = await open_ground(options, worker, stack)
            member = Member(ground, sockets, worker)
            await member.load_key()
        if stop.starting.cancelled_caught:
            return
        removed = await member.run(stop)
        if removed is not None:
            await worker(partial(mark_removed, ground.directory, told_by=removed.told_by))
            sys.stderr.write("removed from the cluster\n")
        # Closing joins threads and syncs; the loop has nothing else to do any more.
        await worker(stack.close)
