"""This node's replica-facing listener as the log wants it: bind first, then replicate.

What is stored (address, users, on or off) is replicated; what is bound is this node's. `start`
binds before it proposes, so that a taken port changes nothing; `reconcile` makes the bound state
follow the stored one, at a restart and whenever the applied state changes.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol, TypeVar, TypeVarTuple

import trio

from kingbus.addresses import Address
from kingbus.admin.accounts import users_at
from kingbus.admin.errors import BadRequestError, ConflictError
from kingbus.admin.protocols import Replica
from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.pb.command_pb2 import ServerConfig, User
from kingbus.replication.users import (
    ADMIN,
    REPLICATION,
    ServerUser,
    has_password,
    new_user,
)

_log = get_logger("admin")

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")


class Runner(Protocol):
    """Runs a blocking call in a worker thread."""

    def __call__(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> Awaitable[_T]: ...


class BinlogServer(Protocol):
    """The part of the binlog server that is controlled here."""

    @property
    def is_running(self) -> bool: ...
    @property
    def address(self) -> Address | None: ...

    async def start(self, address: Address) -> Address: ...
    async def stop(self) -> None: ...
    def set_users(self, users: Collection[ServerUser]) -> None: ...
    def replicas(self) -> Collection[Replica]: ...


class ListenerControl:
    """See the module. `store` replicates a configuration and returns when it is applied here."""

    def __init__(
        self,
        *,
        server: BinlogServer,
        member_id: int,
        state: Callable[[], RelayState],
        store: Callable[[ServerConfig], Awaitable[None]],
        runner: Runner,
        channel: int = 0,
        cluster: Callable[[], RelayState] | None = None,
    ) -> None:
        """`channel` is the one it serves, `state` that channel's, `cluster` the default one's."""
        self._channel = channel
        self._cluster = cluster or state
        self._server = server
        self._member_id = member_id
        self._state = state
        self._store = store
        self._runner = runner
        # Binding and storing belong together; a reconciliation must not come in between.
        self._lock = trio.Lock()
        self._pending: ServerConfig | None = None

    @property
    def is_running(self) -> bool:
        """Whether it accepts connections."""
        return self._server.is_running

    @property
    def address(self) -> Address | None:
        """Where, with the real port."""
        return self._server.address

    def replicas(self) -> Sequence[Replica]:
        """Who is attached."""
        return list(self._server.replicas())

    @property
    def stored(self) -> ServerConfig | None:
        """What the log says of this node's listener."""
        return self._state().servers.get(self._member_id)

    async def start(self, address: str, user: str, password: str, *, admin: bool = False) -> None:
        """Bind, have it stored, serve. ConflictError when the address cannot be had; errors of
        `store`, after which the listener is as it was.
        """
        wanted = Address.parse(address)
        async with self._lock:
            before = self._server.address
            await self._bind(wanted)
            try:
                config = await self._config(address, user, password, admin=admin)
                if config != self.stored:
                    await self._store(config)
            except BaseException:
                # Also when cancelled: nothing may listen that is not stored.
                with trio.CancelScope(shield=True):
                    await self._restore(before)
                raise
            self._set_users(config)
            self._pending = None

    async def stop(self) -> None:
        """Have it stored as stopped, then close it and its dumps."""
        async with self._lock:
            self._pending = None
            stored = self.stored
            if stored is not None and stored.started:
                config = ServerConfig()
                config.CopyFrom(stored)
                config.started = False
                await self._store(config)
            await self._server.stop()

    async def reconcile(self) -> None:
        """Listen as stored, or not at all. KingbusErrors of binding."""
        async with self._lock:
            stored = self.stored
            if stored is None:
                return
            if not stored.started:
                if self._server.is_running:
                    await self._server.stop()
                return
            self._set_users(stored)
            await self._server.start(Address.parse(stored.address))

    async def open(self, address: Address, user: str, password: str) -> None:
        """Serve as configured before the log says so; `settle` has it stored later.

        KingbusErrors of binding.
        """
        async with self._lock:
            await self._server.start(address)
            self._pending = await self._config(str(address), user, password)
            self._set_users(self._pending)

    async def settle(self) -> None:
        """Have stored what `open` began, and otherwise follow what is stored."""
        async with self._lock:
            pending = self._pending
            if pending is not None:
                if pending != self.stored:
                    await self._store(pending)
                self._pending = None
        await self.reconcile()

    async def _bind(self, address: Address) -> None:
        try:
            await self._server.start(address)
        except KingbusError as error:
            raise ConflictError(str(error)) from error

    async def _restore(self, before: Address | None) -> None:
        try:
            if before is None:
                await self._server.stop()
            else:
                await self._server.start(before)
        except KingbusError as error:
            _log.error("listener lost", address=str(before), reason=str(error))

    async def _config(
        self, address: str, user: str, password: str, *, admin: bool = False
    ) -> ServerConfig:
        """The stored form; the stored verifier is kept where user and password are the same."""
        stored = self.stored
        users: list[User] = []
        if stored is not None:
            users = [each for each in stored.users if each.name == user]
        rights = (REPLICATION, ADMIN) if admin else (REPLICATION,)
        if users and tuple(users[0].rights) != rights:
            users = []
        if not users or not await self._runner(has_password, users[0], password):
            try:
                users = [await self._runner(new_user, user, password, rights)]
            except KingbusError as error:
                raise BadRequestError(f"password: {error}") from error
        return ServerConfig(
            member_id=self._member_id,
            started=True,
            address=address,
            users=users[:1],
            channel=self._channel,
        )

    @property
    def own_users(self) -> Sequence[User]:
        """Those that this listener was started with."""
        config = self._pending or self.stored
        return config.users if config is not None else ()

    def apply_users(self) -> None:
        """Let in who is in the log by now; those of the cluster are not this listener's own."""
        self._server.set_users(users_at(self._cluster().users, self.own_users))

    def _set_users(self, config: ServerConfig) -> None:
        self._server.set_users(users_at(self._cluster().users, config.users))
