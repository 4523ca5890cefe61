"""Connections to candidates: opened, asked, and compared with what the relay has.

Owns the steps before a session that change nothing: log in, ask, register, compare the sets; so it
also answers what an operator wants to know of a source. The rules are in `source_facts.py`, the
connection is `source_connection.py`'s. Must not know what becomes of a connection afterwards.
"""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, Protocol

import trio

from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import SourceConfig, TlsOptions
from kingbus.replication.source_connection import HEARTBEAT_SECONDS
from kingbus.replication.source_facts import (
    POSITION,
    SourceBehindError,
    SourceFacts,
    SourceRefusedError,
    SourceUnfitError,
    SourceUnreachableError,
    misfit,
    start_set,
    unfit_config,
    unfit_flavor,
    unfit_source,
)
from kingbus.secrets import SOURCE_PASSWORD, ClusterSecret, Secret, SecretError

CHECK_SECONDS_MAX: Final = 10.0
SIZE_SECONDS_MAX: Final = 3.0
"""Somebody waits, and would only be warned."""

MISFIT_TRIES: Final = 3
MISFIT_PAUSE_SECONDS: Final = 0.3
"""A source sends a transaction a moment before its gtid_executed shows it: ask again."""


class SourceCheckError(KingbusError):
    """A source cannot be pulled from, as found before anything was changed."""

    is_behind = False
    """It lacks what the relay has, and may yet get it."""


class Relay(Protocol):
    """The applied log."""

    @property
    def state(self) -> RelayState: ...


class Identity(Protocol):
    """The one server id and uuid of the cluster, under a configuration."""

    def server_id_of(self, config: SourceConfig | None) -> int: ...
    def server_uuid_of(self, config: SourceConfig | None) -> str: ...


class Connection(Protocol):
    """One connection to a source, see source_connection.py: questions first, then a dump."""

    async def ask(self, *, replica_uuid: str, heartbeat_seconds: float) -> SourceFacts: ...
    async def gtid_sets(self) -> tuple[GtidSet, GtidSet, GtidSet]: ...
    async def newest_file(self) -> str: ...
    async def request_semi_sync(self) -> str: ...
    async def register(self, *, server_id: int, port: int) -> None: ...
    async def go_on_from(self, position: str) -> None: ...
    async def start_dump(self, command: int, body: bytes) -> None: ...
    def read_now(self, room: memoryview) -> int | None: ...
    async def wait_readable(self) -> None: ...
    async def send(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Connect(Protocol):
    """Opens one and logs in; raises as SourceConnection.open does."""

    async def __call__(
        self, address: str, *, user: str, password: Secret, tls: TlsOptions, compression: str
    ) -> Connection: ...


class Candidates:
    """See the module. `binlog_size` is the max_binlog_size last heard, in bytes; 0: not known."""

    def __init__(
        self,
        *,
        relay: Relay,
        identity: Identity,
        secret: Callable[[], ClusterSecret | None],
        attached: Callable[[], Collection[str]],
        connect: Connect,
    ) -> None:
        """`secret` gives the cluster key once it is here, `attached` the uuids of the cluster's
        replicas, `connect` is how a source is reached.
        """
        self.binlog_size = 0
        self._relay = relay
        self._identity = identity
        self._secret = secret
        self._attached = attached
        self._connect = connect

    async def open(
        self, config: SourceConfig, address: str, password: Secret
    ) -> tuple[Connection, SourceFacts]:
        """A connection that has answered everything and is fit; the caller closes it."""
        own_id = self._identity.server_id_of(config)
        own_uuid = self._identity.server_uuid_of(config)
        connection = await self._connect(
            address,
            user=config.user,
            password=password,
            tls=config.tls,
            compression=config.compression,
        )
        try:
            facts = await connection.ask(replica_uuid=own_uuid, heartbeat_seconds=HEARTBEAT_SECONDS)
            reason = unfit_source(
                facts, own_id=own_id, own_uuid=own_uuid, mode=config.mode, flavor=config.flavor
            )
            if reason:
                raise SourceUnfitError(f"{address}: {reason}")
            await connection.register(server_id=own_id, port=0)
            self.binlog_size = facts.max_binlog_size
        except BaseException:
            connection.close()
            raise
        return connection, facts

    def password(self, config: SourceConfig) -> Secret:
        """The stored one. Raises SourceUnreachableError, SourceUnfitError."""
        if not config.HasField("password"):
            return Secret("")
        secret = self._secret()
        if secret is None:
            raise SourceUnreachableError("this node does not have the cluster key yet")
        try:
            return Secret(secret.open(config.password, SOURCE_PASSWORD))
        except SecretError as error:
            raise SourceUnfitError(f"the stored password cannot be read: {error}") from error

    def refuse_replica(self, facts: SourceFacts) -> None:
        """A candidate that still replicates from this relay has all that the relay has, and would
        never get more: it is no source before it is promoted, and the present one may come back.

        Not asked of the first candidate when an operator has just chosen it.
        """
        if facts.server_uuid.lower() in {uuid.lower() for uuid in self._attached()}:
            raise SourceUnreachableError(
                f"{facts.address} replicates from this relay; it is taken once it is promoted"
            )

    async def settled(
        self, config: SourceConfig, connection: Connection, facts: SourceFacts
    ) -> SourceFacts:
        """The facts, asked for again while the sets do not fit; raises SourceMissesError."""
        tries = 0
        while config.mode != POSITION:
            state, tries = self._relay.state, tries + 1
            has = start_set(config, facts) if state.is_empty else state.executed
            error = misfit(facts, has, known=state.source)
            if error is None:
                return facts
            if tries == MISFIT_TRIES:
                raise error
            await trio.sleep(MISFIT_PAUSE_SECONDS)
            executed, purged, owned = await connection.gtid_sets()
            facts = replace(facts, gtid_executed=executed, gtid_purged=purged, gtid_owned=owned)
        return facts

    # -- for an operator ----------------------------------------------------------------------

    async def check_source(self, config: SourceConfig, password: str) -> SourceFacts:
        """Connects to the candidates in turn, logs in and checks everything a session would.

        Nothing changes. The facts of the first that fits; takes at most 10 s. Raises
        SourceCheckError with the first candidate's own text when none fits.
        """
        reason = unfit_config(config) or unfit_flavor(self._relay.state.flavor, config)
        if reason:
            raise SourceCheckError(reason)
        first: KingbusError | None = None
        with trio.move_on_after(CHECK_SECONDS_MAX):
            for address in config.addresses:
                try:
                    connection, facts = await self.open(config, address, Secret(password))
                    try:
                        return await self.settled(config, connection, facts)
                    finally:
                        connection.close()
                except (SourceUnreachableError, SourceRefusedError, SourceUnfitError) as error:
                    first = first or error
        raise _check_error(config, first)

    async def ask_facts(self, config: SourceConfig, password: str) -> SourceFacts:
        """What the first candidate that can be asked says of itself; its sets are not compared.

        Nothing changes. Takes at most 10 s. Raises SourceCheckError.
        """
        first: KingbusError | None = None
        with trio.move_on_after(CHECK_SECONDS_MAX):
            for address in config.addresses:
                try:
                    connection, facts = await self.open(config, address, Secret(password))
                except (SourceUnreachableError, SourceRefusedError, SourceUnfitError) as error:
                    first = first or error
                else:
                    connection.close()
                    return facts
        raise _check_error(config, first)

    async def ask_binlog_size(self, config: SourceConfig, password: str) -> int:
        """The source's max_binlog_size; 0 when it does not say it within 3 s."""
        with trio.move_on_after(SIZE_SECONDS_MAX), contextlib.suppress(KingbusError):
            return (await self.check_source(config, password)).max_binlog_size
        return 0


def _check_error(config: SourceConfig, first: KingbusError | None) -> SourceCheckError:
    """That none of the candidates will do: the reason of the first, or that none answered."""
    if first is None:
        return SourceCheckError(
            f"{config.addresses[0]}: no answer within {CHECK_SECONDS_MAX:.0f} s"
        )
    error = SourceCheckError(str(first), hint=first.hint)
    error.is_behind = isinstance(first, SourceBehindError)
    error.__cause__ = first
    return error
