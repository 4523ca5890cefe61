"""Tells a semi-sync source what is safe: committed on a majority, and applied here.

Owns when an acknowledgement goes out and what it names. Nothing that is not in the applied log is
ever named: the position is the relay's visible end. Must not know how the source's bytes are read,
nor how a batch comes into the log.

One acknowledgement tells of everything before it. So while one is being sent, whatever is applied
meanwhile makes one more, and not one for each transaction or batch. The first goes out unasked.
"""

from typing import Protocol

import trio

from kingbus import metrics
from kingbus.binlog.relay_state import RelayState
from kingbus.binlog.semi_sync import SemiSyncStream, acknowledgement


class Relay(Protocol):
    """The applied log."""

    @property
    def state(self) -> RelayState: ...


class Connection(Protocol):
    """The way to the source, in the middle of a dump."""

    async def send(self, data: bytes) -> None: ...


class Acknowledger:
    """For one session. `run` it beside the reading; `stream` says what the source asked for."""

    def __init__(
        self,
        connection: Connection,
        relay: Relay,
        stream: SemiSyncStream,
        *,
        session: int,
        counts: metrics.ReceiverMetrics,
    ) -> None:
        self.file_name = ""
        self.position = 0
        """What was acknowledged last."""
        self.scope = trio.CancelScope()
        """To end `run` with."""
        self._connection = connection
        self._relay = relay
        self._stream = stream
        self._session = session
        self._metrics = counts
        self._due = trio.Event()
        self._asked_counted = 0
        self._has_begun = False

    @property
    def is_active(self) -> bool:
        """Whether the source sends semi-sync's form."""
        return self._stream.is_active is True

    @property
    def wants(self) -> bool:
        """The source waits for something that was read and is not handed on in whole."""
        return self._stream.is_asked

    def handed_on(self, *, is_applied: bool) -> None:
        """All whole transactions that were read are in batches that will be acknowledged.

        `is_applied`: none of them is still under way, as when the source sends again, and waits
        for, what the relay has.
        """
        stream = self._stream
        if stream.asked != self._asked_counted:
            self._metrics.semi_sync_asked.inc(stream.asked - self._asked_counted)
            self._asked_counted = stream.asked
        self._metrics.semi_sync_active.set(self.is_active)
        is_wanted = stream.is_asked
        if is_applied and self.is_active and not self._has_begun:
            # A dump by set leaves out what the relay has, and what the source may wait for since
            # the last leader died.
            self._has_begun = is_wanted = True
        stream.is_asked = False
        if is_wanted and is_applied:
            self.applied()

    def applied(self) -> None:
        """What the source asked for was applied here, and is in the visible part of the log."""
        self._due.set()

    async def run(self) -> None:
        """Sends what is due, until cancelled; raises when the connection is lost."""
        with self.scope:
            await self._run()

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due = trio.Event()
            state = self._relay.state
            visible = state.visible
            if state.session != self._session or not state.holds_epoch:
                # The position would be another source's, who may have files of the same names.
                continue
            await self._connection.send(acknowledgement(visible.file_name, visible.position))
            self.file_name, self.position = visible.file_name, visible.position
            self._metrics.semi_sync_acks.inc()
