"""The statements that administer a relay: its receiver and its users. Text in, a value out.

Owns: the grammar of CHANGE REPLICATION SOURCE, START, STOP and RESET REPLICA, CREATE, ALTER and
DROP USER, GRANT, REVOKE, SET PASSWORD and FLUSH, in the new words and the old. Knows nothing of
what they do or of who may. What MySQL's grammar has and a relay has no use for is error 1235 that
names it, so that nothing is taken in silence. Passwords are in fields that no repr shows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from kingbus.mysql.errors import MySQLError, not_supported, user_name_too_long
from kingbus.mysql.resultset import Value
from kingbus.replication.sql_tokens import Kind, TokenReader, number_value

USER_CHARS_MAX: Final = 32
"""As in MySQL."""

ANY_HOST: Final = "%"

_T = TypeVar("_T")


# Statements ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSource:
    """CHANGE REPLICATION SOURCE TO; options by their new names, in order."""

    options: tuple[tuple[str, Value], ...] = field(repr=False)
    channel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReplica:
    """START, STOP or RESET REPLICA; `everything` is RESET's ALL."""

    action: Literal["START", "STOP", "RESET"]
    everything: bool = False
    channel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPassword:
    """A user (None: who asks) with a new password; None leaves it as it is.

    `native` says whether `mysql_native_password` is to work with it.
    """

    user: str | None
    password: str | None = field(default=None, repr=False)
    native: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateUsers:
    """CREATE USER."""

    users: tuple[AccountPassword, ...]
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPassword:
    """ALTER USER ... IDENTIFIED BY, and SET PASSWORD."""

    users: tuple[AccountPassword, ...]
    if_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropUsers:
    """DROP USER."""

    users: tuple[str | None, ...]
    if_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeGrants:
    """GRANT or REVOKE ON *.*; privileges as MySQL names them, in upper case."""

    privileges: tuple[str, ...]
    users: tuple[str | None, ...]
    revoke: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """FLUSH of what a relay need not flush."""

    what: str


AdminStatement = (
    ChangeSource | ControlReplica | CreateUsers | SetPassword | DropUsers | ChangeGrants | Flush
)

_REPLICA_WORDS: Final = ("REPLICA", "SLAVE")

SOURCE_OPTIONS: Final = frozenset(
    {
        "ASSIGN_GTIDS_TO_ANONYMOUS_TRANSACTIONS",
        "GET_SOURCE_PUBLIC_KEY",
        "GTID_ONLY",
        "IGNORE_SERVER_IDS",
        "NETWORK_NAMESPACE",
        "PRIVILEGE_CHECKS_USER",
        "RELAY_LOG_FILE",
        "RELAY_LOG_POS",
        "REQUIRE_ROW_FORMAT",
        "REQUIRE_TABLE_PRIMARY_KEY_CHECK",
        "SOURCE_AUTO_POSITION",
        "SOURCE_BIND",
        "SOURCE_COMPRESSION_ALGORITHMS",
        "SOURCE_CONNECTION_AUTO_FAILOVER",
        "SOURCE_CONNECT_RETRY",
        "SOURCE_DELAY",
        "SOURCE_HEARTBEAT_PERIOD",
        "SOURCE_HOST",
        "SOURCE_LOG_FILE",
        "SOURCE_LOG_POS",
        "SOURCE_PASSWORD",
        "SOURCE_PORT",
        "SOURCE_PUBLIC_KEY_PATH",
        "SOURCE_RETRY_COUNT",
        "SOURCE_SSL",
        "SOURCE_SSL_CA",
        "SOURCE_SSL_CAPATH",
        "SOURCE_SSL_CERT",
        "SOURCE_SSL_CIPHER",
        "SOURCE_SSL_CRL",
        "SOURCE_SSL_CRLPATH",
        "SOURCE_SSL_KEY",
        "SOURCE_SSL_VERIFY_SERVER_CERT",
        "SOURCE_TLS_CIPHERSUITES",
        "SOURCE_TLS_VERSION",
        "SOURCE_USER",
        "SOURCE_ZSTD_COMPRESSION_LEVEL",
    }
)
"""All that MySQL 8.4 and 9 know."""

PRIVILEGES: Final = frozenset(
    {
        # What a relay gives (see `replication.users`) ...
        "ALL",
        "BINLOG_ADMIN",
        "CONNECTION_ADMIN",
        "CREATE USER",
        "PROCESS",
        "REPLICATION CLIENT",
        "REPLICATION SLAVE",
        "REPLICATION_SLAVE_ADMIN",
        "SUPER",
        # ... and what other programs have their users granted; a relay holds nothing to allow.
        "LOCK TABLES",
        "RELOAD",
        "SELECT",
        "SHOW DATABASES",
        "USAGE",
    }
)


# Receiver --------------------------------------------------------------------------------------


def parse_change(reader: TokenReader) -> ChangeSource:
    """Behind CHANGE."""
    if reader.words("REPLICATION", "FILTER"):
        raise not_supported("CHANGE REPLICATION FILTER: a relay filters nothing")
    if not reader.word("MASTER"):
        reader.expect_words("REPLICATION", "SOURCE")
    reader.expect_word("TO")
    options = [_source_option(reader)]
    while reader.operator(","):
        options.append(_source_option(reader))
    return ChangeSource(options=tuple(options), channel=parse_channel(reader))


def _source_option(reader: TokenReader) -> tuple[str, Value]:
    token = reader.next
    name = token.text.upper().replace("MASTER", "SOURCE")
    if token.kind is not Kind.WORD or name not in SOURCE_OPTIONS:
        raise reader.error()
    reader.take()
    reader.expect_operator("=")
    if name == "IGNORE_SERVER_IDS":
        return name, _id_list(reader)
    value = reader.next
    if value.kind is Kind.NUMBER:
        return name, number_value(reader.take().text)
    if reader.word("NULL"):
        return name, None
    return name, reader.text()


def _id_list(reader: TokenReader) -> str:
    """(1, 2) as the text "1,2"."""
    reader.expect_operator("(")
    if reader.operator(")"):
        return ""
    found = [reader.integer()]
    while reader.operator(","):
        found.append(reader.integer())
    reader.expect_operator(")")
    return ",".join(map(str, found))


def parse_channel(reader: TokenReader) -> str:
    """FOR CHANNEL 'name', if it is there."""
    if not reader.word("FOR"):
        return ""
    reader.expect_word("CHANNEL")
    return reader.string()


def parse_start_stop(reader: TokenReader, action: Literal["START", "STOP"]) -> ControlReplica:
    """Behind START or STOP, from REPLICA on."""
    reader.expect_word(*_REPLICA_WORDS)
    threads = _threads(reader)
    if threads == {"SQL_THREAD"}:
        raise not_supported(f"{action} REPLICA SQL_THREAD: a relay applies nothing")
    for word in ("UNTIL", "USER", "PASSWORD", "DEFAULT_AUTH", "PLUGIN_DIR"):
        if reader.next.is_word(word):
            raise not_supported(f"{action} REPLICA {word}")
    return ControlReplica(action=action, channel=parse_channel(reader))


def _threads(reader: TokenReader) -> set[str]:
    """IO_THREAD, SQL_THREAD."""
    found: set[str] = set()
    while thread := reader.word("IO_THREAD", "RELAY_THREAD", "SQL_THREAD"):
        found.add("SQL_THREAD" if thread == "SQL_THREAD" else "IO_THREAD")
        if not reader.operator(","):
            return found
    if found:
        raise reader.error()  # a comma, and nothing behind it
    return found


def parse_reset(reader: TokenReader) -> ControlReplica:
    """Behind RESET, from REPLICA on."""
    reader.expect_word(*_REPLICA_WORDS)
    everything = bool(reader.word("ALL"))
    return ControlReplica(action="RESET", everything=everything, channel=parse_channel(reader))


_FLUSH_NOTHING: Final = ("LOGS", "PRIVILEGES", "STATUS", "HOSTS")
_FLUSH_LOGS: Final = ("BINARY", "ENGINE", "ERROR", "GENERAL", "RELAY", "SLOW")


def parse_flush(reader: TokenReader) -> Flush:
    """Behind FLUSH."""
    reader.word("LOCAL", "NO_WRITE_TO_BINLOG")
    found = [_flushed(reader)]
    while reader.operator(","):
        found.append(_flushed(reader))
    return Flush(what=", ".join(found))


def _flushed(reader: TokenReader) -> str:
    kind = reader.word(*_FLUSH_LOGS)
    if kind:
        reader.expect_word("LOGS")
        return f"{kind} LOGS"
    what = reader.word(*_FLUSH_NOTHING)
    if what:
        return what
    for word in ("TABLES", "TABLE", "OPTIMIZER_COSTS", "USER_RESOURCES"):
        if reader.next.is_word(word):
            raise not_supported(f"FLUSH {word}")
    raise reader.error()


# Users -----------------------------------------------------------------------------------------


def parse_create_user(reader: TokenReader) -> CreateUsers:
    """Behind CREATE USER."""
    if_not_exists = bool(reader.words("IF", "NOT", "EXISTS"))
    users = _list(reader, _with_password)
    _no_more_options(reader)
    return CreateUsers(users=users, if_not_exists=if_not_exists)


def parse_alter_user(reader: TokenReader) -> SetPassword:
    """Behind ALTER USER."""
    if_exists = bool(reader.words("IF", "EXISTS"))
    users = _list(reader, _with_password)
    _no_more_options(reader)
    if any(user.password is None for user in users):
        raise not_supported("ALTER USER without a new password")
    return SetPassword(users=users, if_exists=if_exists)


def parse_drop_user(reader: TokenReader) -> DropUsers:
    """Behind DROP USER."""
    if_exists = bool(reader.words("IF", "EXISTS"))
    return DropUsers(users=_list(reader, parse_account), if_exists=if_exists)


def parse_set_password(reader: TokenReader) -> SetPassword:
    """Behind SET PASSWORD."""
    user = parse_account(reader) if reader.word("FOR") else None
    if reader.word("TO"):
        raise not_supported("SET PASSWORD TO RANDOM")
    reader.expect_operator("=")
    password = reader.string()
    _no_more_options(reader)
    return SetPassword(users=(AccountPassword(user=user, password=password),))


def parse_grant(reader: TokenReader) -> ChangeGrants:
    """Behind GRANT."""
    privileges = _privileges(reader)
    _on_everything(reader)
    reader.expect_word("TO")
    users = _list(reader, parse_account)
    if reader.word("WITH"):
        raise not_supported("GRANT ... WITH: who administers may grant, nobody else")
    if reader.word("AS"):
        raise not_supported("GRANT ... AS")
    if reader.word("IDENTIFIED"):
        raise not_supported("GRANT ... IDENTIFIED: use CREATE USER")
    return ChangeGrants(privileges=privileges, users=users)


def parse_revoke(reader: TokenReader) -> ChangeGrants:
    """Behind REVOKE."""
    if reader.words("IF", "EXISTS"):
        raise not_supported("REVOKE IF EXISTS")
    privileges = _privileges(reader)
    if reader.operator(","):
        # Behind ALL only: ALL PRIVILEGES, GRANT OPTION FROM is an older form of ALL ON *.*
        reader.expect_words("GRANT", "OPTION")
    else:
        _on_everything(reader)
    reader.expect_word("FROM")
    return ChangeGrants(privileges=privileges, users=_list(reader, parse_account), revoke=True)


def _list(reader: TokenReader, read: Callable[[TokenReader], _T]) -> tuple[_T, ...]:
    found = [read(reader)]
    while reader.operator(","):
        found.append(read(reader))
    return tuple(found)


def parse_account(reader: TokenReader) -> str | None:
    """'user'[@'host'] or CURRENT_USER; the name, None for who asks. Any host but '%' is 1235."""
    if reader.next.kind is Kind.WORD and reader.next.text.upper() in {"CURRENT_USER", "USER"}:
        word = reader.take().text.upper()
        if reader.operator("("):
            reader.expect_operator(")")
            return None
        if word == "CURRENT_USER":
            return None
        reader.index -= 1
    name = reader.text()
    if len(name) > USER_CHARS_MAX:
        raise user_name_too_long(name)
    if reader.next.kind is Kind.USER_VARIABLE:  # @'host' reads like one
        host = reader.take().text
        if host != ANY_HOST:
            raise not_supported("a user with another host than '%'")
    return name


def _with_password(reader: TokenReader) -> AccountPassword:
    user = parse_account(reader)
    if not reader.word("IDENTIFIED"):
        return AccountPassword(user=user)
    native = True
    if reader.word("WITH"):
        plugin = reader.text().lower()
        if plugin not in {"caching_sha2_password", "mysql_native_password"}:
            raise _unknown_plugin(plugin)
        native = plugin == "mysql_native_password"
        if reader.next.is_word("AS"):
            raise not_supported("IDENTIFIED ... AS: a relay stores verifiers of its own")
    reader.expect_word("BY")
    if reader.word("RANDOM"):
        raise not_supported("IDENTIFIED BY RANDOM PASSWORD")
    if reader.word("PASSWORD"):
        raise not_supported("IDENTIFIED BY PASSWORD: a relay stores verifiers of its own")
    return AccountPassword(user=user, password=reader.string(), native=native)


def _unknown_plugin(plugin: str) -> MySQLError:
    return MySQLError(1524, "HY000", f"Plugin '{plugin[:64]}' is not loaded")


_USER_OPTIONS: Final = (
    "ACCOUNT",
    "ADD",
    "AND",
    "ATTRIBUTE",
    "COMMENT",
    "DEFAULT",
    "DISCARD",
    "DROP",
    "FAILED_LOGIN_ATTEMPTS",
    "MODIFY",
    "PASSWORD",
    "PASSWORD_LOCK_TIME",
    "REPLACE",
    "RETAIN",
    "WITH",
)


def _no_more_options(reader: TokenReader) -> None:
    if reader.word("REQUIRE") and not reader.word("NONE"):
        raise not_supported("a user with REQUIRE")
    for word in _USER_OPTIONS:
        if reader.next.is_word(word):
            raise not_supported(f"a user with {word}")


def _privileges(reader: TokenReader) -> tuple[str, ...]:
    found = [_privilege(reader)]
    # REVOKE ALL PRIVILEGES, GRANT OPTION: the comma is the caller's.
    while found != ["ALL"] and reader.operator(","):
        found.append(_privilege(reader))
    return tuple(found)


def _privilege(reader: TokenReader) -> str:
    """One privilege: one word or two."""
    first = reader.next
    if first.kind is not Kind.WORD:
        raise reader.error()
    reader.take()
    name = first.text.upper()
    if name == "ALL":
        reader.word("PRIVILEGES")
        return name
    if reader.next.kind is Kind.WORD and not reader.next.is_word("ON", "TO", "FROM"):
        name = f"{name} {reader.take().text.upper()}"
    if reader.next.kind is Kind.OPERATOR and reader.next.text == "(":
        raise not_supported("privileges on columns")
    if name not in PRIVILEGES:
        raise not_supported(f"privilege {name}")
    return name


def _on_everything(reader: TokenReader) -> None:
    """ON *.*; roles have no ON."""
    if reader.next.is_word("TO", "FROM"):
        raise not_supported("roles")
    reader.expect_word("ON")
    if not reader.operator("*"):
        raise not_supported("privileges on anything but *.*")
    if not reader.operator("."):
        raise not_supported("privileges on anything but *.*")
    reader.expect_operator("*")
