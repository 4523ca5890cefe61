"""The users of the replica-facing listener: what is stored of them, and how they are let in.

Owns: `ServerUser`, its form in the replicated log, the memory-only digests of the fast path, and
how failed logins are counted and slowed. Knows nothing of connections. Follows MySQL's own caching
of `caching_sha2_password` (dropped when the password changes).
"""

import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kingbus.mysql import auth
from kingbus.mysql.constants import SALT_SIZE
from kingbus.pb import command_pb2

REPLICATION = "replication"
"""The right to register, to dump, and to see binlogs and replicas."""

ADMIN = "admin"
"""The right to see and end everybody's connections, to purge, to administer receiver and users."""

MONITOR = "monitor"
"""The right to see binlogs, replicas and the receiver, without a dump."""

PROCESS = "process"
"""The right to see everybody's connections."""

_ALL = frozenset({REPLICATION, ADMIN, MONITOR, PROCESS})
_NOTHING: frozenset[str] = frozenset()

RIGHTS_OF_PRIVILEGE: Mapping[str, frozenset[str]] = {
    "ALL": _ALL,
    "BINLOG_ADMIN": frozenset({ADMIN}),
    "CONNECTION_ADMIN": frozenset({ADMIN}),
    "CREATE USER": frozenset({ADMIN}),
    "LOCK TABLES": _NOTHING,
    "PROCESS": frozenset({PROCESS}),
    "RELOAD": _NOTHING,
    "REPLICATION CLIENT": frozenset({MONITOR}),
    "REPLICATION SLAVE": frozenset({REPLICATION}),
    "REPLICATION_SLAVE_ADMIN": frozenset({ADMIN}),
    "SELECT": _NOTHING,
    "SHOW DATABASES": _NOTHING,
    "SUPER": frozenset({ADMIN}),
    "USAGE": _NOTHING,
}
"""What MySQL's privileges give here. Those that administer are one right; those that give nothing
are for tables, which a relay has none of: the grants of a CDC client's manual are taken as they
are, and make nobody an administrator."""

_SHOWN = (
    (REPLICATION, ("REPLICATION SLAVE", "REPLICATION CLIENT")),
    (MONITOR, ("REPLICATION CLIENT",)),
    (PROCESS, ("PROCESS",)),
    (
        ADMIN,
        (
            "PROCESS",
            "SUPER",
            "CREATE USER",
            "BINLOG_ADMIN",
            "CONNECTION_ADMIN",
            "REPLICATION_SLAVE_ADMIN",
        ),
    ),
)


def rights_of(privileges: Iterable[str]) -> frozenset[str]:
    """The rights that these privileges of `RIGHTS_OF_PRIVILEGE` give together."""
    return _NOTHING.union(*(RIGHTS_OF_PRIVILEGE[name] for name in privileges))


def privileges_of(rights: Collection[str]) -> list[str]:
    """The rights in MySQL's words, each once; none is USAGE."""
    names = [name for right, names in _SHOWN if right in rights for name in names]
    return list(dict.fromkeys(names)) or ["USAGE"]


HOSTS_MAX = 1024
"""Hosts whose failures are remembered; the one longest without a failure is forgotten first."""

FREE_FAILURES = 3
"""Somebody who mistypes is not made to wait."""

PENALTY_SECONDS_MAX = 4.0
"""Below the deadline of a login, so that the error still arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUser:
    """One user: name, verifier, rights."""

    name: str
    verifier: auth.Verifier
    rights: frozenset[str]
    channel: int = 0
    """The only one that it may read, by whichever port it comes; 0: that of the port."""


def new_user(
    name: str, password: str, rights: Iterable[str] = (REPLICATION,), *, native: bool = True
) -> command_pb2.User:
    """A user as it is stored; takes 50 ms. Raises VerifierError for an impossible password.

    `native` says whether `mysql_native_password` is to work.
    """
    salt = auth.make_salt(secrets.token_bytes(SALT_SIZE))
    verifier = auth.make_verifier(password.encode(), salt=salt, native=native)
    return command_pb2.User(
        name=name,
        native_verifier=verifier.native or b"",
        sha2_verifier=verifier.sha2,
        rights=list(rights),
    )


def stored_user(user: command_pb2.User) -> ServerUser:
    """A user read back from the log. Raises VerifierError."""
    verifier = auth.Verifier.stored(sha2=user.sha2_verifier, native=user.native_verifier)
    return ServerUser(
        name=user.name,
        verifier=verifier,
        rights=frozenset(user.rights),
        channel=user.channel,
    )


def has_password(user: command_pb2.User, password: str) -> bool:
    """Whether a stored user has this password; takes 50 ms. Raises VerifierError."""
    return stored_user(user).verifier.check_password(password.encode())


class Users:
    """The users in force, and the fast digests of those that have logged in in full."""

    def __init__(self) -> None:
        self._users: dict[str, ServerUser] = {}
        self._fast_digests: dict[str, bytes] = {}
        # What an unknown user's password is checked against, so that it takes as long.
        self._nobody = auth.Verifier(
            salt=secrets.token_bytes(SALT_SIZE),
            digest=secrets.token_bytes(auth.SHA256_SIZE),
            native=None,
        )

    def replace(self, users: Collection[ServerUser]) -> None:
        """These users and no others; a changed password needs a full login again."""
        new = {user.name: user for user in users}
        for name, user in self._users.items():
            if name not in new or new[name].verifier != user.verifier:
                self._fast_digests.pop(name, None)
        self._users = new

    def account(self, name: str) -> auth.Account:
        """The user as authentication sees it; one that no password opens for an unknown name."""
        user = self._users.get(name)
        if user is None:
            return auth.Account(user=name, verifier=None)
        return auth.Account(
            user=name, verifier=user.verifier, fast_digest=self._fast_digests.get(name)
        )

    def rights(self, name: str) -> frozenset[str]:
        """What a user may do."""
        user = self._users.get(name)
        return user.rights if user is not None else frozenset()

    def channel(self, name: str) -> int:
        """The number of the only channel that a user may read; 0: any."""
        user = self._users.get(name)
        return user.channel if user is not None else 0

    def check_password(self, account: auth.Account, password: bytes) -> bool:
        """Whether this is the account's password; takes 50 ms, known user or not."""
        if account.verifier is None:
            self._nobody.check_password(password)
            return False
        return account.verifier.check_password(password)

    def remember(self, account: auth.Account, password: bytes) -> None:
        """The password was right: the next login takes the fast path."""
        user = self._users.get(account.user)
        if user is not None and user.verifier == account.verifier:
            self._fast_digests[account.user] = auth.sha2_fast_digest(password)


class FailedLogins:
    """Counts failed logins by host and says how long the next answer is held back."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, int] = OrderedDict()

    def failed(self, host: str) -> float:
        """One more failure from there; seconds to wait before saying so."""
        failures = self._failures.pop(host, 0) + 1
        self._failures[host] = failures
        if len(self._failures) > HOSTS_MAX:
            self._failures.popitem(last=False)
        if failures <= FREE_FAILURES:
            return 0.0
        return min(0.125 * 2.0 ** min(failures - FREE_FAILURES, 10), PENALTY_SECONDS_MAX)

    def succeeded(self, host: str) -> None:
        """A login from there that was right ends its count."""
        self._failures.pop(host, None)
