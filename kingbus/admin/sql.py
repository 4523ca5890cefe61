"""Administration by SQL: what the statements of administrators do, by the way of the admin API.

It answers `replication.administration`: each order goes to the leader, as an admin request asked
of this node does, and returns when it is applied here. Refusals become MySQL's own errors where it
has one, and 1105 with the leader's words where it has not. Passwords of users become verifiers
here, before anything is sent. Must not know statements or connections.
"""

from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import trio

from kingbus.admin.accounts import users_at
from kingbus.admin.errors import status_of
from kingbus.admin.leader import CHANGE_SOURCE, CHANGE_USERS, FORGET_SOURCE
from kingbus.admin.listener import Runner
from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.mysql.auth import VerifierError
from kingbus.mysql.errors import (
    MySQLError,
    cannot_create_by_grant,
    internal_error,
    not_a_replica,
    receiver_is_running,
    replication_is_running,
    unfit_password,
    unknown_log_file,
    user_operation_failed,
)
from kingbus.pb.command_pb2 import User
from kingbus.replication.admin_statements import AccountPassword
from kingbus.replication.administration import SourceChange, UserAction, UserOrder
from kingbus.replication.served_facts import ReceiverStatus
from kingbus.replication.users import new_user

_OPERATIONS: Final[Mapping[UserAction, str]] = {
    "create": "CREATE USER",
    "password": "ALTER USER",
    "drop": "DROP USER",
    "grant": "GRANT",
    "revoke": "REVOKE",
}
"""As error 1396 names them."""


class Operations(Protocol):
    """The part of `admin.operations` that is used."""

    async def forward(self, method: str, path: str, body: object, *, wait: bool = True) -> Any:
        """Have the leader do it; raises KingbusErrors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _LeadersReceiver:
    status: str
    error: str
    address: str
    seconds_behind_source: int | None


class SqlAdministration:
    """See the module.

    `operations` and `receiver` (this node's own) are asked for at each use; `own_users` gives
    those of this node's listener; `users_applied` is called when the users in the log are others.
    """

    def __init__(
        self,
        *,
        operations: Callable[[], Operations],
        state: Callable[[], RelayState],
        receiver: Callable[[], ReceiverStatus],
        own_users: Callable[[], Sequence[User]],
        users_applied: Callable[[], None],
        runner: Runner,
        channel: str = "",
        cluster: Callable[[], RelayState] | None = None,
    ) -> None:
        """`channel` is the one that is meant, `state` its, `cluster` the default one's."""
        self._channel = channel
        self.named: Callable[[], Mapping[str, SqlAdministration]] = dict
        """Set where there may be named channels: who administers them."""
        self._cluster = cluster or state
        self._operations = operations
        self._state = state
        self._receiver = receiver
        self._own_users = own_users
        self._users_applied = users_applied
        self._runner = runner
        self._hashing = trio.Lock()

    async def _forward(self, method: str, path: str, body: object) -> Any:
        return await self._operations().forward(method, path, self._named(body))

    def _named(self, body: object) -> object:
        if not self._channel:
            return body
        return {**(body if isinstance(body, dict) else {}), "channel": self._channel}

    def of_channel(self, name: str) -> "SqlAdministration | None":
        """Who administers a named channel."""
        return self if name == self._channel else self.named().get(name)

    # --- receiver -------------------------------------------------------------------------------

    async def receiver(self) -> ReceiverStatus:
        """The leader's receiver; this node's own, which is idle then, while no leader answers."""
        try:
            told = await self._operations().forward(
                "GET", "/binlog/syncer/status", self._named(None), wait=False
            )
        except KingbusError:
            return self._receiver()
        return _LeadersReceiver(
            status=told["status"],
            error=told["error"],
            address=told["current_addr"] or "",
            seconds_behind_source=told["seconds_behind_source"],
        )

    @property
    def _is_started(self) -> bool:
        config = self._state().source_config
        return config is not None and config.started

    async def change_source(self, change: SourceChange) -> None:
        """CHANGE REPLICATION SOURCE TO."""
        await self._asked(("PUT", CHANGE_SOURCE, asdict(change)), conflict=receiver_is_running())

    async def start_receiver(self) -> bool:
        """START REPLICA."""
        config = self._state().source_config
        if config is None or not config.addresses:
            raise not_a_replica()
        was_started = config.started
        # Also where it is started: in state `error` this is the operator's "try again".
        await self._asked(("PUT", "/binlog/syncer/start", {}))
        return not was_started

    async def stop_receiver(self) -> bool:
        """STOP REPLICA."""
        was_started = self._is_started
        await self._asked(("PUT", "/binlog/syncer/stop", None))
        return was_started

    async def forget_source(self) -> None:
        """RESET REPLICA ALL."""
        await self._asked(("PUT", FORGET_SOURCE, None), conflict=replication_is_running())

    async def _asked(
        self, request: tuple[str, str, object], *, conflict: MySQLError | None = None
    ) -> None:
        try:
            await self._forward(*request)
        except KingbusError as error:
            if conflict is not None and status_of(error) == 409:
                raise conflict from error
            raise internal_error(error.explain()) from error

    # --- files ----------------------------------------------------------------------------------

    async def purge(self, *, to: str, before: float | None) -> None:
        """PURGE BINARY LOGS."""
        when = datetime.fromtimestamp(before, UTC).isoformat() if before is not None else ""
        body = {"before": when} if when else {"to": to}
        try:
            await self._forward("POST", "/binlog/purge", body)
        except KingbusError as error:
            raise (
                unknown_log_file() if status_of(error) == 404 else internal_error(str(error))
            ) from error

    # --- users ----------------------------------------------------------------------------------

    def users(self) -> Mapping[str, Collection[str]]:
        """Who may log in at this node."""
        known = users_at(self._cluster().users, self._own_users())
        return {user.name: user.rights for user in known}

    async def change_users(self, order: UserOrder) -> Sequence[str]:
        """CREATE, ALTER, DROP USER, GRANT, REVOKE."""
        needs_password = order.action in {"create", "password"}
        body = {
            "action": order.action,
            "users": [
                await self._verifiers(user) if needs_password else {"name": user.user}
                for user in order.users
            ],
            "rights": sorted(order.rights),
            "lenient": order.lenient,
        }
        try:
            left_out: Sequence[str] = await self._operations().forward("PUT", CHANGE_USERS, body)
        except KingbusError as error:
            raise _user_error(order, error) from error
        self._users_applied()
        return left_out

    async def _verifiers(self, user: AccountPassword) -> dict[str, str]:
        assert user.user is not None
        try:
            # One at a time: each takes 50 ms of a core, and the threads are those that dumps read
            # with. Anybody may change their own password, on many connections at once.
            async with self._hashing:
                made = await self._runner(_made, user.user, user.password or "", user.native)
        except VerifierError as error:
            raise unfit_password() from error
        return {
            "name": user.user,
            "sha2": b64encode(made.sha2_verifier).decode(),
            "native": b64encode(made.native_verifier).decode(),
        }


def _made(name: str, password: str, native: bool) -> User:
    return new_user(name, password, (), native=native)


def _user_error(order: UserOrder, error: KingbusError) -> MySQLError:
    accounts = ",".join(f"'{user.user}'@'%'" for user in order.users)
    match status_of(error), order.action:
        case 404, "grant":
            return cannot_create_by_grant()
        case (404, _) | (409, "create"):
            return user_operation_failed(_OPERATIONS[order.action], accounts)
        case _:
            return internal_error(error.explain())
