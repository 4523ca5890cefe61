"""A full disk: what the node waits for, that it says so, and that another one leads meanwhile.

Three things can want room: the log for its next segment, a write that waits for it, and the
database, which has spent its ballast. While any of them does, the receiver takes nothing more, and
a leader hands leadership over. What is applied is served as ever. Once there is room, all goes on
by itself. Must not know how room is found, nor what fills the disk.
"""

from collections.abc import Callable

import trio

from kingbus import log, metrics
from kingbus.daemon.worker import Worker
from kingbus.errors import KingbusError
from kingbus.node.node import Node
from kingbus.storage.ballast import Ballast
from kingbus.storage.errors import NoRoomError
from kingbus.storage.log import LogStore

_log = log.get_logger("daemon")

LOOK_SECONDS = 1.0
"""How often it is looked for: an operator who has freed some does not wait."""
HANDOVER_SECONDS_MIN = 1.0
HANDOVER_SECONDS_MAX = 60.0
"""Between two attempts to hand over, from one to the next twice as long: when every disk is full,
leadership must not go round and round."""


class Room:
    """Implements `node.machine.Room`. `reason` says what waits; empty while there is room."""

    def __init__(self, *, store: LogStore, ballast: Ballast, runner: Worker) -> None:
        self._store = store
        self._ballast = ballast
        self._runner = runner
        self._waiting = ""
        self._waiting_until = 0.0
        self._looked = trio.Event()
        self._told = ""

    @property
    def reason(self) -> str:
        """What has no room, in one sentence."""
        if trio.current_time() < self._waiting_until:
            return f"the disk is full and the log waits: {self._waiting}"
        if not self._ballast.is_held:
            return "the disk is full: what is committed waits for room to be applied"
        if self._store.is_out_of_room:
            return "the disk is full: it has no room for another segment"
        return ""

    async def for_log(self, error: NoRoomError) -> None:
        """See `node.machine.Room`."""
        self._waiting = str(error)
        # Beyond the next try: while that is under way nothing is better yet.
        self._waiting_until = trio.current_time() + 2 * LOOK_SECONDS
        self._tell()
        await trio.sleep(LOOK_SECONDS)

    async def for_state(self) -> None:
        """See `node.machine.Room`."""
        while not self._ballast.is_held:
            await self._looked.wait()

    async def run(self, node: Node, changed: Callable[[], None]) -> None:
        """Look for room again and again; `changed` is called when `reason` comes or goes."""
        pause = HANDOVER_SECONDS_MIN
        next_handover = trio.current_time()
        while True:
            if not self._ballast.is_held:
                await self._look_for_ballast()
            if self._store.is_out_of_room:
                node.look_for_room()
            if self._tell():
                changed()
            if not self.reason:
                pause = HANDOVER_SECONDS_MIN
            elif _can_hand_over(node) and trio.current_time() >= next_handover:
                await _hand_over(node)
                next_handover = trio.current_time() + pause
                pause = min(2 * pause, HANDOVER_SECONDS_MAX)
            await trio.sleep(LOOK_SECONDS)

    async def _look_for_ballast(self) -> None:
        try:
            await self._runner(self._ballast.hold)
        except KingbusError as error:
            _log.warning("no ballast", reason=error.explain())
        self._looked.set()
        self._looked = trio.Event()

    def _tell(self) -> bool:
        """Log and metric; whether it is another state than before."""
        reason = self.reason
        metrics.STORAGE_DISK_FULL.set(bool(reason))
        if bool(reason) == bool(self._told):
            self._told = reason
            return False
        self._told = reason
        if reason:
            _log.error(reason, hint=NoRoomError.hint)
        else:
            _log.info("the disk has room again")
        return True


def _can_hand_over(node: Node) -> bool:
    return node.leadership.is_ready and len(node.cluster.voters) > 1


async def _hand_over(node: Node) -> None:
    try:
        await node.handover.transfer(None)
        _log.info("leadership was handed over: the disk is full")
    except KingbusError as error:
        _log.warning("leadership was not handed over", reason=error.explain())
