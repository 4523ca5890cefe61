"""Dumps that begin before what the log holds: from the archive, and then from the log.

Owns the choice, for each dump, between the log alone and the archive before it, the patience with a
store that is away, and what a replica is told when that ends. Implements `binlog_server.Dumper`,
over the one that serves the log. Must not know of connections or statements.
"""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypeVar, TypeVarTuple

import trio

from kingbus import metrics
from kingbus.archive.catalogue import ArchivedFile, Catalogue
from kingbus.archive.errors import DamagedError, StoreError
from kingbus.archive.longer_log import LongerLog, LongerState
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.log import get_logger
from kingbus.mysql import errors
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.binlog_server import Dumper
from kingbus.replication.dump import (
    DumpProgress,
    DumpRefusedError,
    DumpRequest,
    ServedIdentity,
    refused,
    run_dump,
)
from kingbus.replication.dump_session import Begin, DumpSession
from kingbus.replication.served_rows import Readable
from kingbus.replication.streams import SendingSink

DUMPS_MAX: Final = 16
"""At a time: each holds a chunk and a few batches, 20 MB, and takes time of the node's process."""
PATIENCE_SECONDS: Final = 30.0
"""With a store that is away, while a replica waits. It hears nothing meanwhile, so it is waited no
longer than its heartbeat period: of that a replica's own patience is a multiple."""
RETRY_SECONDS: Final = 1.0
FRESH_SECONDS: Final = 5.0
"""A catalogue read so short a time ago is not read again for a dump that finds nothing in it."""

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")
_log = get_logger("archive")


class Runner(Protocol):
    """Runs a blocking call in a worker thread."""

    def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> Awaitable[_T]: ...


class LiveLog(Readable, Protocol):
    """The node's own log: `relay.Relay`."""

    @property
    def state(self) -> RelayState: ...


class ArchiveDumper:
    """See the module. `refresh` reads what is new in the catalogue; StoreError."""

    def __init__(
        self,
        *,
        log: LiveLog,
        catalogue: Catalogue,
        runner: Runner,
        refresh: Callable[[], Awaitable[None]],
        dumper: Dumper,
        identity: ServedIdentity,
        dumps_max: int = DUMPS_MAX,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._log = log
        self._catalogue = catalogue
        self._runner = runner
        self._refresh = refresh
        self._dumper = dumper
        self._identity = identity
        self._free = dumps_max
        self._patience_seconds = patience_seconds
        self.state = LongerState(lambda: log.state, catalogue)
        """The relay state as replicas see it: what is archived is served."""

    def files(self) -> list[FileRow]:
        """The archived files that a dump may begin in, oldest first."""
        return [file.row for file in self.state.archived()]

    def purged(self) -> GtidSet:
        """What neither archive nor log has."""
        return self.state.purged

    async def __call__(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None:
        if not await self._needs_archive(request):
            try:
                await self._dumper(request, sink=sink, progress=progress)
            except DumpRefusedError as error:
                raise self._better(error) from None
            return
        if not self._free:
            raise _come_back("as many dumps as may be read from the archive already")
        self._free -= 1
        try:
            await self._serve(request, sink=sink, progress=progress)
        finally:
            self._free += 1

    async def _serve(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None:
        def passed() -> None:
            progress.is_outside_log = False

        progress.is_outside_log = True
        log = LongerLog(
            self._log,
            self._catalogue,
            refresh=partial(self._patiently, self._refresh, request),
            fetch=partial(self._fetch, request),
            passed=passed,
        )
        try:
            await run_dump(log, request, sink=sink, identity=self._identity, progress=progress)
        except StoreError as error:
            raise _come_back(f"the archive is not reached: {error}") from error
        except DamagedError as error:
            _log.error("the archive is damaged", error=error.explain())
            raise refused(errors.fatal_dump_error(f"the archive is damaged: {error}")) from error
        except DumpRefusedError as error:
            raise self._better(error) from None

    def _better(self, error: DumpRefusedError) -> DumpRefusedError:
        """A replica stops for good at error 1236; what the archive has it may ask for again."""
        if errors.NEXT_LOG_MISSING not in error.message:
            return error
        if self._catalogue.file(self._log.state.files[0].ordinal - 1) is None:
            return error
        return _come_back("the log was purged under the dump, and goes on from the archive")

    # -- is it needed -----------------------------------------------------------------------

    async def _needs_archive(self, request: DumpRequest) -> bool:
        """Whether a dump begins in an archived file; DumpRefusedError when that cannot be said."""
        if not self._lies_before_log(request):
            return False
        if self._begins_archived(request) or self._is_fresh():
            return self._begins_archived(request)
        try:
            await self._patiently(self._refresh, request)
        except StoreError as error:
            raise _come_back(f"the archive is not reached: {error}") from error
        return self._begins_archived(request)

    def _lies_before_log(self, request: DumpRequest) -> bool:
        """Whether what is asked for, if it is anywhere, is not in the log."""
        state = self._log.state
        if not state.files:
            return False
        if request.file_name:
            return state.file_named(request.file_name) is None
        if request.gtid_set is None:
            return True  # from the oldest file on
        return not request.gtid_set.contains(state.purged)

    def _is_fresh(self) -> bool:
        at = self._catalogue.read_at
        return at is not None and trio.current_time() - at < FRESH_SECONDS

    def _begins_archived(self, request: DumpRequest) -> bool:
        session = DumpSession(request, server_id=self._identity.server_id)
        try:
            found = session.start(self.state)
        except DumpRefusedError:
            return False
        held = self._log.state.files
        return isinstance(found, Begin) and found.file.ordinal < held[0].ordinal

    # -- the store --------------------------------------------------------------------------

    async def _fetch(self, request: DumpRequest, file: ArchivedFile, number: int) -> bytes:
        async def once() -> bytes:
            return await self._runner(file.chunk, self._catalogue.store, number)

        return await self._patiently(once, request)

    async def _patiently(self, call: Callable[[], Awaitable[_T]], request: DumpRequest) -> _T:
        """Again and again, for a while. StoreError."""
        patience = min(self._patience_seconds, request.heartbeat_period_s or math.inf)
        give_up_at = trio.current_time() + patience
        while True:
            try:
                return await call()
            except StoreError:
                metrics.ARCHIVE_ERRORS.inc()
                if trio.current_time() + RETRY_SECONDS > give_up_at:
                    raise
            await trio.sleep(RETRY_SECONDS)


def _come_back(why: str) -> DumpRefusedError:
    """1105, and not 1236: a replica tries again after its connect-retry."""
    return refused(errors.internal_error(f"{why}; try again later"))
