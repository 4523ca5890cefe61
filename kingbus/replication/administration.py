"""What the statements of `admin_statements` do, as far as a connection decides it.

Owns: who may, what the options of CHANGE REPLICATION SOURCE mean to a relay, which right a
privilege is, and MySQL's own errors. What is done, and on which node, is an `Administration`'s:
this module knows nothing of the cluster. Passwords go through here and are kept nowhere.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from kingbus.mysql.errors import (
    no_such_channel,
    no_such_grant,
    not_supported,
    privilege_required,
    wrong_source_option,
)
from kingbus.mysql.resultset import Value
from kingbus.replication.admin_statements import (
    AccountPassword,
    AdminStatement,
    ChangeGrants,
    ChangeSource,
    ControlReplica,
    CreateUsers,
    DropUsers,
    Flush,
    SetPassword,
)
from kingbus.replication.users import ADMIN, rights_of

PORT_MAX: Final = 65535
HOST_CHARS_MAX: Final = 255
"""As in MySQL; also the longest name that DNS has."""

USERS_AT_ONCE_MAX: Final = 100
"""Their passwords take 5 s of a core."""

Note = tuple[int, str]
"""Code and text of a row of SHOW WARNINGS, at level Note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChange:
    """What of the source's configuration is to be another; None keeps what is stored."""

    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl: bool | None = None
    ssl_verify: bool | None = None
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None


UserAction = Literal["create", "password", "drop", "grant", "revoke"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserOrder:
    """A change of users, all of it or nothing.

    `rights` are those to give or take; `lenient` leaves out users that are there already (create)
    or are not (password, drop).
    """

    action: UserAction
    users: tuple[AccountPassword, ...]
    rights: frozenset[str] = frozenset()
    lenient: bool = False


class Administration(Protocol):
    """Does to the cluster what a statement asks; each returns when it is applied on this node.

    Raises MySQLErrors.
    """

    def of_channel(self, name: str) -> "Administration | None":
        """The same for a named channel, with the name in small letters; None: there is none."""
        ...

    async def change_source(self, change: SourceChange) -> None:
        """Store it, without starting. 3021 while the receiver runs."""
        ...

    async def start_receiver(self) -> bool:
        """Check the source and start; False if it ran already. 1200 without a source."""
        ...

    async def stop_receiver(self) -> bool:
        """Stop; False if it did not run."""
        ...

    async def forget_source(self) -> None:
        """Forget address, user and password. 3081 while the receiver runs."""
        ...

    async def change_users(self, order: UserOrder) -> Sequence[str]:
        """The users left out by `lenient`. 1396, 1410, 1819."""
        ...

    def users(self) -> Mapping[str, Collection[str]]:
        """Everybody who may log in at this node, with their rights."""
        ...


class Administrator(Protocol):
    """Who asks."""

    @property
    def user(self) -> str: ...
    @property
    def rights(self) -> frozenset[str]: ...


async def administer(
    statement: AdminStatement, *, by: Administrator, administration: Administration
) -> Sequence[Note]:
    """Do it, if who asks may; what there is to be noted. Raises MySQLError."""
    match statement:
        case Flush():
            _require_admin(by, "RELOAD")
            # A relay's files are the source's, and end where they end there.
            return [(1105, f"FLUSH {statement.what} has no effect on a relay")]
        case ChangeSource() | ControlReplica():
            _require_admin(by, "SUPER or REPLICATION_SLAVE_ADMIN")
            if statement.channel:
                found = administration.of_channel(statement.channel.lower())
                if found is None:
                    raise no_such_channel(statement.channel)
                administration = found
            if isinstance(statement, ControlReplica):
                return await _control(statement, administration)
            change, notes = source_change(statement.options)
            await administration.change_source(change)
            return notes
        case SetPassword(users=(only,)) if _is_oneself(only.user, by):
            pass  # anybody may change their own
        case CreateUsers() | SetPassword() | DropUsers() | ChangeGrants():
            _require_admin(by, "CREATE USER")
    if len(statement.users) > USERS_AT_ONCE_MAX:
        raise not_supported(f"more than {USERS_AT_ONCE_MAX} users in one statement")
    left_out = await administration.change_users(_order(statement, by))
    return [(3162, f"Authorization ID '{name}'@'%' is left as it is.") for name in left_out]


def _require_admin(by: Administrator, privilege: str) -> None:
    if ADMIN not in by.rights:
        raise privilege_required(privilege)


def _is_oneself(user: str | None, by: Administrator) -> bool:
    return user is None or user == by.user


async def _control(statement: ControlReplica, administration: Administration) -> Sequence[Note]:
    match statement.action:
        case "START":
            if not await administration.start_receiver():
                return [(3083, _already(statement, "running"))]
        case "STOP":
            if not await administration.stop_receiver():
                return [(3084, _already(statement, "stopped"))]
        case "RESET":
            if not statement.everything:
                raise not_supported(
                    "RESET REPLICA without ALL: a relay's log is what it serves, see PURGE"
                )
            await administration.forget_source()
    return []


def _already(statement: ControlReplica, how: str) -> str:
    return f"Replication thread(s) for channel '{statement.channel}' are already {how}."


# Users -----------------------------------------------------------------------------------------


def _order(
    statement: CreateUsers | SetPassword | DropUsers | ChangeGrants, by: Administrator
) -> UserOrder:
    def named(names: Sequence[str | None]) -> tuple[AccountPassword, ...]:
        return tuple(AccountPassword(user=by.user if name is None else name) for name in names)

    def meant(users: Sequence[AccountPassword]) -> tuple[AccountPassword, ...]:
        return tuple(
            AccountPassword(user=by.user, password=each.password, native=each.native)
            if each.user is None
            else each
            for each in users
        )

    match statement:
        case CreateUsers(users=users, if_not_exists=lenient):
            return UserOrder(action="create", users=meant(users), lenient=lenient)
        case SetPassword(users=users, if_exists=lenient):
            return UserOrder(action="password", users=meant(users), lenient=lenient)
        case DropUsers(users=names, if_exists=lenient):
            return UserOrder(action="drop", users=named(names), lenient=lenient)
        case ChangeGrants(privileges=privileges, users=names, revoke=revoke):
            return UserOrder(
                action="revoke" if revoke else "grant",
                users=named(names),
                rights=rights_of(privileges),
            )


def rights_shown(
    user: str | None, *, by: Administrator, administration: Administration
) -> tuple[str, Collection[str]]:
    """Whose grants, and the rights, for SHOW GRANTS. Raises 1227 and 1141."""
    if _is_oneself(user, by):
        return by.user, by.rights
    assert user is not None
    _require_admin(by, "CREATE USER")
    rights = administration.users().get(user)
    if rights is None:
        raise no_such_grant(user)
    return user, rights


# CHANGE REPLICATION SOURCE ---------------------------------------------------------------------

_OWN_WAY: Final = {
    "GET_SOURCE_PUBLIC_KEY": "a relay asks the source for its key where it needs it",
    "SOURCE_CONNECT_RETRY": "a relay connects again after 1 s, growing to 10 s",
    "SOURCE_HEARTBEAT_PERIOD": "a relay asks for heartbeats of its own period",
    "SOURCE_RETRY_COUNT": "a relay goes on trying",
}
"""Options that replicas are set up with and that change nothing of what arrives: noted."""

_ONLY_AS_IT_IS: Final[Mapping[str, tuple[Value, ...]]] = {
    "ASSIGN_GTIDS_TO_ANONYMOUS_TRANSACTIONS": ("OFF",),
    "GTID_ONLY": (0, 1),
    "IGNORE_SERVER_IDS": ("",),
    "NETWORK_NAMESPACE": ("",),
    "PRIVILEGE_CHECKS_USER": (None,),
    "REQUIRE_ROW_FORMAT": (0,),
    "REQUIRE_TABLE_PRIMARY_KEY_CHECK": ("STREAM", "OFF"),
    "SOURCE_AUTO_POSITION": (1,),
    "SOURCE_BIND": ("",),
    "SOURCE_COMPRESSION_ALGORITHMS": ("UNCOMPRESSED",),
    "SOURCE_CONNECTION_AUTO_FAILOVER": (0,),
    "SOURCE_DELAY": (0,),
}
"""Options with the values at which a relay does what they say."""


def source_change(options: Sequence[tuple[str, Value]]) -> tuple[SourceChange, list[Note]]:
    """What the options ask for, and notes on those without effect.

    Raises 1210 for a wrong value, 1235 for what a relay does not do.
    """
    wanted: dict[str, Value] = {}
    notes: list[Note] = []
    for option, value in options:
        known = _KNOWN_OPTIONS.get(option)
        if known is not None:
            name, read = known
            wanted[name] = read(option, value)
        elif option in _OWN_WAY:
            notes.append((1105, f"{option} has no effect: {_OWN_WAY[option]}"))
        else:
            allowed = _ONLY_AS_IT_IS.get(option, ())
            said = value.upper() if isinstance(value, str) else value
            if said not in allowed:
                raise not_supported(f"{option} with this value in CHANGE REPLICATION SOURCE")
    return SourceChange(**wanted), notes  # type: ignore[arg-type]


def _text(option: str, value: Value) -> str:
    if not isinstance(value, str):
        raise wrong_source_option(option, "it takes a string")
    return value


def _host(option: str, value: Value) -> str:
    host = _text(option, value)
    if not host or len(host) > HOST_CHARS_MAX or any(sign in host for sign in " \t\r\n/@"):
        raise wrong_source_option(option, "it takes the name or address of a host")
    return host


def _port(option: str, value: Value) -> int:
    if not isinstance(value, int) or not 0 < value <= PORT_MAX:
        raise wrong_source_option(option, f"it takes a number from 1 to {PORT_MAX}")
    return value


def _switch(option: str, value: Value) -> bool:
    if not isinstance(value, int) or value not in {0, 1}:
        raise wrong_source_option(option, "it takes 0 or 1")
    return bool(value)


_KNOWN_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str, Value], Value]]]] = {
    "SOURCE_HOST": ("host", _host),
    "SOURCE_PASSWORD": ("password", _text),
    "SOURCE_PORT": ("port", _port),
    "SOURCE_SSL": ("ssl", _switch),
    "SOURCE_SSL_CA": ("ssl_ca", _text),
    "SOURCE_SSL_CERT": ("ssl_cert", _text),
    "SOURCE_SSL_KEY": ("ssl_key", _text),
    "SOURCE_SSL_VERIFY_SERVER_CERT": ("ssl_verify", _switch),
    "SOURCE_USER": ("user", _text),
}

TAKEN_OPTIONS: Final = frozenset({*_KNOWN_OPTIONS, *_OWN_WAY})
"""Options that are taken whatever their value says."""
