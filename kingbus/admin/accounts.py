"""What a change of users makes of the users there are: decided on the leader, all of it or nothing.

There are two kinds of users. Those of the cluster are in the log once and may log in at every
member's listener; these are created, changed and dropped here. The user that a listener was started
with is that listener's own, stored with it, and changed where it is started; its name is taken.
Pure: state and order in, the command out. Must not know how anything is replicated.
"""

from base64 import b64decode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kingbus.admin import schema
from kingbus.admin.errors import BadRequestError, ConflictError, NotFoundError
from kingbus.binlog.relay_state import RelayState
from kingbus.mysql.auth import VerifierError
from kingbus.pb.command_pb2 import ServerConfig, User, UserChanges
from kingbus.replication.users import ServerUser, stored_user

USERS_MAX: Final = 1000
"""Each is about 150 bytes of every stored relay state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChange:
    """The command, None where nothing is to be done, and the users that were left out."""

    changes: UserChanges | None
    left_out: list[str] = field(default_factory=list)


def plan_users(state: RelayState, order: schema.ChangeUsers) -> PlannedChange:
    """What is to be proposed.

    Raises NotFoundError for users that are not there (unless `lenient`), ConflictError for those
    that are there already or are a listener's own, BadRequestError for what is no verifier.
    """
    owned = listeners_own(state.servers)
    if order.action == "create":
        return _created(state, order, owned)
    for name in order.names:
        if name in owned:
            raise ConflictError(
                f"user {name} is a listener's own",
                hint="start the listener with other settings instead",
            )
    missing = [name for name in order.names if name not in state.users]
    if missing and not order.lenient:
        raise NotFoundError(f"no user {', '.join(missing)}")
    present = [user for user in order.users if user.name in state.users]
    if not present:
        return PlannedChange(changes=None, left_out=missing)
    if order.action == "drop":
        changes = UserChanges(dropped=[user.name for user in present])
        return PlannedChange(changes=changes, left_out=missing)
    users = [_changed(state.users[user.name], user, order) for user in present]
    return PlannedChange(changes=UserChanges(users=users), left_out=missing)


def _created(state: RelayState, order: schema.ChangeUsers, owned: Collection[str]) -> PlannedChange:
    wanted = {user.name: _new(user) for user in order.users}
    # Equal to the last bit of its random salt: an earlier attempt of the same order got so far.
    done = [name for name, user in wanted.items() if state.users.get(name) == user]
    taken = [name for name in wanted if name not in done and (name in state.users or name in owned)]
    if taken and not order.lenient:
        raise ConflictError(f"user {', '.join(taken)} exists already")
    new = [user for name, user in wanted.items() if name not in taken and name not in done]
    if len(state.users) + len(new) > USERS_MAX:
        raise ConflictError(f"there may be {USERS_MAX} users at most")
    return PlannedChange(changes=UserChanges(users=new) if new else None, left_out=taken)


def _new(user: schema.ChangedUser) -> User:
    return _with_verifiers(User(name=user.name), user)


def _changed(stored: User, user: schema.ChangedUser, order: schema.ChangeUsers) -> User:
    changed = User()
    changed.CopyFrom(stored)
    if order.action == "password":
        return _with_verifiers(changed, user)
    rights = set(stored.rights)
    rights = rights | set(order.rights) if order.action == "grant" else rights - set(order.rights)
    del changed.rights[:]
    changed.rights.extend(sorted(rights))
    return changed


def _with_verifiers(user: User, given: schema.ChangedUser) -> User:
    try:
        user.sha2_verifier = b64decode(given.sha2, validate=True)
        user.native_verifier = b64decode(given.native, validate=True)
        stored_user(user)
    except (ValueError, VerifierError):
        raise BadRequestError(f"user {given.name} has no usable verifier") from None
    return user


def listeners_own(servers: Mapping[int, ServerConfig]) -> set[str]:
    """The names of the users that listeners were started with."""
    return {user.name for server in servers.values() for user in server.users}


def users_at(cluster: Mapping[str, User], own: Sequence[User]) -> list[ServerUser]:
    """Who may log in at a listener: the cluster's users, and its own, which count first."""
    names = {user.name for user in own}
    others = [user for name, user in cluster.items() if name not in names]
    return [stored_user(user) for user in (*own, *others)]
