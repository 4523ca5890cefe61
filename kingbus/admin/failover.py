"""Taking another source, and accepting a gap: what an operator decides when a source is lost.

Owns the order of the steps, which is what makes them safe: everything is compared before anything
is changed, and while the receiver is held nothing can come from the old source any more, and it is
seen whether the new one has all of it. Must not know HTTP, nor how a source is asked.

At every step the log says that the receiver is to pull, from the old source or from the new one:
the hold is this process's alone. Whoever leads next goes on by itself if this one dies in between.
"""

import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import trio

from kingbus.admin.errors import (
    BadRequestError,
    ConflictError,
    SourceRefusedError,
    UnavailableError,
)
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.mariadb_gtid import MARIADB
from kingbus.binlog.relay_state import RelayState
from kingbus.log import get_logger
from kingbus.pb.command_pb2 import AcceptGap, Command, SourceConfig
from kingbus.replication.candidates import SourceCheckError
from kingbus.replication.source_facts import POSITION, SourceFacts

_log = get_logger("admin")

CHECK_SECONDS_MAX: Final = 5.0
WAIT_SECONDS_MAX: Final = 5.0
"""So long the receiver stands still for the new source to get what the relay has. The two together
must come to an end before another member stops waiting for the leader's answer."""
LOOK_BACK_SECONDS_MAX: Final = 2.0
HALT_SECONDS_MAX: Final = 2.0
"""Until the receiver has let go of a source; it closes a connection."""
_POLL_SECONDS: Final = 0.3


class Receiver(Protocol):
    """Asks sources, and can be held."""

    def held(self) -> AbstractContextManager[None]: ...
    async def halted(self) -> None: ...
    def take_first(self) -> None: ...
    async def check_source(self, config: SourceConfig, password: str) -> SourceFacts: ...
    async def ask_facts(self, config: SourceConfig, password: str) -> SourceFacts: ...


class Relay(Protocol):
    """The applied log."""

    @property
    def state(self) -> RelayState: ...


class SourceFailover:
    """See the module. `propose` returns when the command is applied here."""

    def __init__(
        self, *, relay: Relay, receiver: Receiver, propose: Callable[[Command], Awaitable[None]]
    ) -> None:
        self._relay = relay
        self._receiver = receiver
        self._propose = propose

    # -- another source ---------------------------------------------------------------------

    async def fail_over(
        self, stored: SourceConfig, password: str, *, present: str, to: str
    ) -> tuple[str, list[str]]:
        """Pull from `to`, empty: the candidate after the present one. Where, and what is to do.

        The other candidates stay, behind it. When it refuses, or lacks what the relay has and does
        not get it soon, everything is as it was: SourceRefusedError with the set.
        """
        if stored.mode == POSITION:
            raise ConflictError(
                "without GTIDs nobody can tell where to go on at another server",
                hint="begin again with an empty relay",
            )
        address = _chosen(list(stored.addresses), present or stored.addresses[0], to)
        wanted = _with_addresses(stored, [address, *(a for a in stored.addresses if a != address)])
        wanted.started = True
        alone = _with_addresses(stored, [address])
        await self._check(alone, password, may_lag=True)
        with self._receiver.held():
            mark = await self._stand_still(stored)
            facts = await self._wait_until_fit(alone, password)
            if self._relay.state.source_config is not mark:
                # Another member led meanwhile, and was told something else.
                raise ConflictError("the source's settings were changed meanwhile")
            await self._propose(Command(source_config=wanted))
            self._receiver.take_first()
        _log.warning("source failover", source=address, before=present)
        notes = _promotion(address, facts)
        if present and present != address:
            notes += await self._left_behind(_with_addresses(stored, [present]), password)
        return address, notes

    async def _left_behind(self, old: SourceConfig, password: str) -> list[str]:
        """What the old source has and nobody got, if it can still be asked."""
        facts: SourceFacts | None = None
        with trio.move_on_after(LOOK_BACK_SECONDS_MAX), contextlib.suppress(SourceCheckError):
            facts = await self._receiver.ask_facts(old, password)
        if facts is None:
            return []
        left = facts.gtid_executed.subtract(self._relay.state.executed)
        if not left:
            return []
        return [f"{facts.address} has transactions that the relay never received: {left}"]

    async def _check(
        self, alone: SourceConfig, password: str, *, may_lag: bool
    ) -> SourceFacts | None:
        """The source's facts; None where it lacks what the relay has, and that is allowed."""
        try:
            with trio.fail_after(CHECK_SECONDS_MAX):
                return await self._receiver.check_source(alone, password)
        except SourceCheckError as error:
            if may_lag and error.is_behind:
                return None
            raise SourceRefusedError(str(error), hint=error.hint) from error
        except trio.TooSlowError:
            raise SourceRefusedError(
                f"{alone.addresses[0]} did not answer within {CHECK_SECONDS_MAX:.0f} s"
            ) from None

    async def _stand_still(self, stored: SourceConfig) -> SourceConfig | None:
        """Until all that the held receiver proposed is applied; the configuration in force.

        It is the same as before, applied anew: in the log it comes behind what was under way.
        """
        try:
            with trio.fail_after(HALT_SECONDS_MAX):
                await self._receiver.halted()
        except trio.TooSlowError:
            raise UnavailableError(
                f"the receiver did not stop within {HALT_SECONDS_MAX:.0f} s",
                hint="repeating is safe",
            ) from None
        if stored.started:
            await self._propose(Command(source_config=stored))
        return self._relay.state.source_config

    async def _wait_until_fit(self, alone: SourceConfig, password: str) -> SourceFacts:
        """Nothing comes into the relay any more: until the source has all that is in it."""
        give_up_at = trio.current_time() + WAIT_SECONDS_MAX
        while True:
            is_late = trio.current_time() >= give_up_at
            facts = await self._check(alone, password, may_lag=not is_late)
            if facts is not None:
                return facts
            await trio.sleep(_POLL_SECONDS)

    # -- a gap ------------------------------------------------------------------------------

    async def accept_gap(
        self, stored: SourceConfig, password: str, gtids: GtidSet, *, running: str = ""
    ) -> None:
        """Go on behind exactly this set, which the source has purged and the relay lacks.

        ConflictError where the set is another one: what the source still has would be lost. So it
        would be where another candidate has it, which the relay pulls from: `running`.
        """
        if stored.flavor == MARIADB or stored.mode == POSITION:
            raise ConflictError(
                "accepting a gap is not available yet for MariaDB, nor for a source without GTIDs"
            )
        try:
            facts = await self._receiver.ask_facts(stored, password)
        except SourceCheckError as error:
            raise SourceRefusedError(str(error), hint=error.hint) from error
        state = self._relay.state
        if state.is_empty:
            raise ConflictError(
                "the relay is empty and has no gap", hint="say where it begins: --start-from"
            )
        missing = facts.gtid_purged.subtract(state.executed)
        if not missing:
            raise ConflictError(f"{facts.address} has purged nothing that the relay lacks")
        if running:
            raise ConflictError(
                f"the relay pulls from {running}, where nothing is missing",
                hint="wait, or first stop it: kingbus source stop",
            )
        wanted = gtids.subtract(state.executed)
        if wanted != missing:
            raise ConflictError(
                f"the gap at {facts.address} is {missing}, and not {wanted or 'empty'}",
                hint="accept exactly that set, or pull from a source that still has it",
            )
        await self._propose(Command(accept_gap=AcceptGap(gtids=missing.encode())))
        _log.warning("a gap was accepted", gtids=str(missing), source=facts.address)
        if stored.started:
            # The receiver waits for an operator: this is one, who says to try again.
            await self._propose(Command(source_config=stored))


def _chosen(addresses: list[str], present: str, to: str) -> str:
    """The address to take."""
    if to:
        if to == present and to == addresses[0]:
            raise ConflictError(f"the cluster pulls from {to} already")
        return to
    others = [each for each in addresses if each != present]
    if not others:
        raise BadRequestError("no other candidate is stored; say which: to")
    if present not in addresses:
        return others[0]
    behind = addresses[addresses.index(present) + 1 :]
    return (behind or others)[0]


def _with_addresses(config: SourceConfig, addresses: list[str]) -> SourceConfig:
    copy = SourceConfig()
    copy.CopyFrom(config)
    del copy.addresses[:]
    copy.addresses.extend(addresses)
    return copy


def _promotion(address: str, facts: SourceFacts) -> list[str]:
    """How to make it a source, where it does not look like one."""
    if not facts.read_only:
        return []
    note = (
        f"{address} is read-only. Promote it, unless that is under way: STOP REPLICA; RESET "
        "REPLICA ALL; SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF"
    )
    return [note]
