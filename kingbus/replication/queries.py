"""The answers to the statements that replicas, tools and connectors send to a source.

Owns: evaluating a parsed statement against what this source knows (`ServerFacts`), the connection
that asks (`Session`) and the other connections (`Connections`). Knows nothing of sockets, of the
wire, or of where the facts come from. Follows the answers that real servers were seen to give to
each client; a value that a replica reads is never NULL, because replicas crash at one.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError
from kingbus.binlog.mariadb_gtid import MARIADB
from kingbus.mysql.constants import ColumnFlag, ColumnType, ServerStatus
from kingbus.mysql.errors import (
    MySQLError,
    access_denied_to_database,
    incorrect_datetime,
    malformed_gtid_set,
    no_database_selected,
    no_such_channel,
    not_supported,
    privilege_required,
    result_too_large,
    show_binlog_events_failed,
    syntax_error,
    unknown_database,
    unknown_function,
    wrong_parameter_count,
    wrong_precision,
    wrong_value,
)
from kingbus.mysql.resultset import Column, ResultSet, Value
from kingbus.replication import server_lists
from kingbus.replication.administration import Administration, Note, administer, rights_shown
from kingbus.replication.conditions import compare, matches_like, truth
from kingbus.replication.replica_status import ReceiverFacts, replica_status
from kingbus.replication.sql_tokens import STATEMENT_CHARS_MAX
from kingbus.replication.statements import (
    Administer,
    Assignment,
    Call,
    Do,
    Expression,
    Kill,
    Literal,
    Nothing,
    Operation,
    PurgeLogs,
    Select,
    Set,
    Show,
    Statement,
    SystemVariable,
    Use,
    UserVariable,
    Word,
    parse,
)
from kingbus.replication.status_values import status_values
from kingbus.replication.system_variables import SystemVariables, VariableFacts
from kingbus.replication.user_variables import TooManyVariablesError, UserVariables
from kingbus.replication.users import ADMIN, MONITOR, PROCESS, REPLICATION, privileges_of
from kingbus.units import parse_time

DATABASES = ("information_schema", "mysql", "performance_schema", "sys")
"""Names that a client may connect to or USE; only the first is listed, and none holds a table."""

_VARIABLE_BYTES = 87380
_USER_VARIABLE_BYTES = 201326580
"""What a 9.7 server says of the longest value."""

_COUNT = ColumnFlag.NOT_NULL | ColumnFlag.UNSIGNED

_FRACTION_DIGITS_MAX = 6

_UTC_NAMES = {"SYSTEM", "UTC", "+00:00", "-00:00"}
_LAST_SECOND = 253402300799.0
"""Of the year 9999."""

BINLOG_EVENTS_MAX = 10_000
"""Rows of one SHOW BINLOG EVENTS: about a megabyte; LIMIT walks on from there."""


ARGUMENT_CHARS_MAX = STATEMENT_CHARS_MAX
"""Of all arguments of one call together: as long as a statement may say them. Variables hold more
than the text that names them, and calls in calls would multiply it."""

ROW_CHARS_MAX = 16 << 20
"""Of one row of SELECT: what `@@max_allowed_packet` says."""

# What the answers are made of ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BinlogEventRow:
    """One row of SHOW BINLOG EVENTS."""

    file: str
    position: int
    event_type: str
    server_id: int
    end_position: int
    info: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One row of SHOW PROCESSLIST. `info` is the statement running, without secrets."""

    thread_id: int
    user: str
    host: str
    database: str
    command: str
    seconds: int
    state: str
    info: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredReplica:
    """One row of SHOW REPLICAS."""

    server_id: int
    host: str
    port: int
    uuid: str


class ServerFacts(VariableFacts, Protocol):
    """What this source knows. Everything is of this node, and answers at once, but for
    a purge, the receiver and administration, which are the cluster's.

    `version` is the version string of the greeting, `gtid_mode` and `binlog_checksum` are MySQL's
    words (ON, OFF; CRC32, NONE), `hostname` and `port` are where replicas reach this node. GTID
    sets are text on one line. `semi_sync`: replicas may ask for it. `variable` gives the source's
    own value of a variable where it is known (binlog_format, binlog_row_image, ...), else None.
    """

    @property
    def semi_sync(self) -> bool: ...
    @property
    def channel_name(self) -> str:
        """Empty for the default channel."""
        ...

    def binlog_files(self) -> Sequence[tuple[str, int]]:
        """Names as served and sizes in bytes, oldest first."""
        ...

    def binlog_gtid_pos(self, file: str, position: int) -> str | None:
        """What MariaDB has before a position; None where that is not known at once."""
        ...

    def visible_position(self) -> tuple[str, int] | None:
        """File and position of the visible end; None before the first file."""
        ...

    def bytes_until_purge(self, file: str) -> int | None:
        """What the log takes yet before the reserve makes this file go; None: nobody knows."""
        ...

    async def receiver(self) -> ReceiverFacts | None:
        """The cluster's receiver, which is the leader's; None where no source is set.

        While no leader can be asked it is told as this node knows it.
        """
        ...

    @property
    def channels(self) -> Mapping[str, "ServerFacts"]:
        """This one by its name, and where that is the default channel, whose name is empty, all
        named ones behind it: what is shown and administered here.
        """
        ...

    @property
    def administration(self) -> Administration:
        """Who does what administrators ask."""
        ...

    async def purge_binlogs(self, *, to: str = "", before: float | None = None) -> None:
        """Purge the files before this one, or those last written before a time in seconds.

        On all nodes. Raises error 1373 for a file that is not held, and others.
        """
        ...

    async def binlog_events(
        self, file: str, position: int, offset: int, limit: int
    ) -> Sequence[BinlogEventRow] | None:
        """Events of a file ("" is the oldest) from a position on; None for an unknown file."""
        ...


class Connections(Protocol):
    """The open connections of this node."""

    def processes(self) -> Sequence[ProcessFacts]:
        """All connections, oldest first."""
        ...

    def registered_replicas(self) -> Sequence[RegisteredReplica]:
        """Those that registered themselves."""
        ...

    def uptime_seconds(self) -> int:
        """Since the listener began."""
        ...

    @property
    def channel_name(self) -> str:
        """Whose connections they are; empty for the default channel's."""
        ...

    def semi_sync_clients(self) -> int:
        """Replicas that are asked for acknowledgements."""
        ...

    def acknowledged(self) -> Mapping[str, tuple[str, int]]:
        """How far each of them says that it has everything, file and position, by its uuid."""
        ...

    def kill(self, thread_id: int, *, by: "Session", query_only: bool) -> None:
        """End a connection, or its dump. Raises 1094, and 1095 for somebody else's."""
        ...


@dataclass(slots=True, kw_only=True)
class Session:
    """What a connection is and has set."""

    thread_id: int
    user: str
    host: str
    rights: frozenset[str]
    facts: ServerFacts
    database: str = ""
    offers_semi_sync: bool = False
    clock: Callable[[], float] = time.time
    user_variables: UserVariables = field(default_factory=UserVariables)
    notes: Sequence[Note] = ()
    error: Note | None = None
    system_variables: SystemVariables = field(init=False)

    def __post_init__(self) -> None:
        self.system_variables = SystemVariables(self.facts, offers_semi_sync=self.offers_semi_sync)

    @property
    def status(self) -> ServerStatus:
        """What OK and EOF tell of it."""
        on = self.system_variables.get("autocommit") == "ON"
        return ServerStatus.AUTOCOMMIT if on else ServerStatus(0)

    def reset(self) -> None:
        """COM_RESET_CONNECTION."""
        self.user_variables.clear()
        self.system_variables.clear()

    def use(self, database: str) -> None:
        """Take a database. Raises error 1044 for one that is not there, as for one not allowed."""
        if database and database.lower() not in DATABASES:
            raise access_denied_to_database(self.user, self.host, database)
        self.database = database

    def require(self, *rights: str, privilege: str) -> None:
        """Raises error 1227, naming MySQL's privilege, without one of these rights."""
        if not self.rights.intersection(rights):
            raise privilege_required(privilege)


async def answer(sql: str, *, session: Session, connections: Connections) -> ResultSet | None:
    """The result of a statement; None is OK. Raises MySQLError; the connection stays open."""
    try:
        statement = parse(sql)
        if isinstance(statement, Show) and statement.what in {"warnings", "errors"}:
            return _warnings(statement, session)
        session.notes, session.error = (), None
        return await _done(statement, session, connections)
    except MySQLError as error:
        # Not the error itself: its traceback would keep the statement, and with it a password.
        session.notes, session.error = (), (error.code, error.message)
        raise


async def _done(
    statement: Statement, session: Session, connections: Connections
) -> ResultSet | None:
    match statement:
        case Select() as select:
            return _select(select, session)
        case Set(assignments=assignments):
            for assignment in assignments:
                _assign(assignment, session)
            return None
        case Show() as show:
            return await _show(show, session, connections)
        case Do(expressions=expressions):
            _values(expressions, session, ROW_CHARS_MAX, of="do")
            return None
        case Kill(thread_id=thread_id, query_only=query_only):
            connections.kill(thread_id, by=session, query_only=query_only)
            return None
        case Use(database=database):
            session.use(database)
            return None
        case Nothing():
            return None
        case PurgeLogs() as purge:
            session.require(ADMIN, privilege="SUPER or BINLOG_ADMIN")
            await _purge(purge, session)
            return None
        case Administer(name=name, privilege=privilege):
            session.require(ADMIN, privilege=privilege)
            raise not_supported(name)
        case administered:
            session.notes = await administer(
                administered, by=session, administration=session.facts.administration
            )
            return None


async def _purge(purge: PurgeLogs, session: Session) -> None:
    if purge.before is None:
        # MySQL takes the name with the directory that it has in its index, too.
        await session.facts.purge_binlogs(to=purge.to.rpartition("/")[2])
        return
    value = _evaluate(purge.before, session)
    is_ours = isinstance(purge.before, Call) and _FUNCTIONS[purge.before.name][2] is _utc
    zone = session.system_variables.get("time_zone")
    if not is_ours and str(zone).upper() not in _UTC_NAMES:
        # Taken as UTC it would be hours away from what is meant, and what is purged is gone.
        raise not_supported("PURGE BEFORE a time with @@time_zone other than '+00:00'")
    try:
        before = min(parse_time(str(value)), _LAST_SECOND)
    except ValueError:
        raise incorrect_datetime("NULL" if value is None else str(value)) from None
    await session.facts.purge_binlogs(before=max(0.0, before - purge.seconds))


# SELECT and SET --------------------------------------------------------------------------------


def _select(select: Select, session: Session) -> ResultSet:
    expressions = [expression for expression, _ in select.items]
    values = _values(expressions, session, ROW_CHARS_MAX, of="select")
    columns = [
        _column(expression, label, value)
        for (expression, label), value in zip(select.items, values, strict=True)
    ]
    return ResultSet(columns=columns, rows=[] if select.limit == 0 else [values])


def _column(expression: Expression, label: str, value: Value) -> Column:
    """As servers describe it: by where the value is from."""
    match expression, value:
        case Literal(value=None), _:
            return Column(name=label, type=ColumnType.NULL)
        case SystemVariable(), int():
            return Column(name=label, type=ColumnType.LONGLONG, flags=ColumnFlag.UNSIGNED)
        case SystemVariable(), _:
            return Column(name=label, length=_VARIABLE_BYTES)
        case UserVariable(), None:
            return Column(name=label, length=_USER_VARIABLE_BYTES)
        case UserVariable(), str():
            return Column(name=label, type=ColumnType.LONG_BLOB, length=_USER_VARIABLE_BYTES)
        case Call(name=name), str() if _FUNCTIONS[name][2] is _utc:
            return Column(name=label, type=ColumnType.DATETIME, flags=ColumnFlag.NOT_NULL)
        case Call(), int():
            return Column(name=label, type=ColumnType.LONGLONG, flags=ColumnFlag.NOT_NULL)
        case Operation(), None:
            return Column(name=label, type=ColumnType.LONGLONG)
        case _, int():
            return Column(name=label, type=ColumnType.LONGLONG)
        case _:
            return Column(name=label)


def _assign(assignment: Assignment, session: Session) -> None:
    name, expression = assignment.name, assignment.value
    variables = session.system_variables
    if assignment.scope == "user":
        value = _evaluate(expression, session)
        try:
            session.user_variables.set(name, value)
        except TooManyVariablesError as error:
            raise wrong_value(name, "") from error
    elif assignment.scope == "names":
        value = _evaluate(expression, session)
        for part in ("client", "connection", "results"):
            variables.set(f"character_set_{part}", value, scope="session")
    elif isinstance(expression, Word):
        if expression.text.upper() == "DEFAULT":
            variables.set_default(name)
        else:
            _set_variable(session, assignment, expression.text)
    else:
        _set_variable(session, assignment, _evaluate(expression, session))


def _set_variable(session: Session, assignment: Assignment, value: Value) -> None:
    session.system_variables.set(
        assignment.name, value, scope=assignment.scope, is_admin=ADMIN in session.rights
    )


def _evaluate(expression: Expression, session: Session) -> Value:
    match expression:
        case Literal(value=value):
            return value
        case UserVariable(name=name):
            return session.user_variables.get(name)
        case SystemVariable(scope=scope, name=name):
            return session.system_variables.select(name, scope)
        case Call(name=name, arguments=arguments):
            values = _values(arguments, session, ARGUMENT_CHARS_MAX, of=name)
            return _call(name, values, session)
        case Operation(operator=operator, operands=operands):
            return compare(operator, _values(operands, session, ARGUMENT_CHARS_MAX, of=operator))
        case Word(text=text):
            raise MySQLError(1054, "42S22", f"Unknown column '{text[:64]}' in 'field list'")


def _values(
    expressions: Sequence[Expression], session: Session, limit: int, *, of: str
) -> list[Value]:
    """All of them. Raises error 1301 where they are longer together than the limit."""
    values: list[Value] = []
    characters = 0
    for expression in expressions:
        value = _evaluate(expression, session)
        characters += len(value) if isinstance(value, str) else 0
        if characters > limit:
            raise result_too_large(of, limit)
        values.append(value)
    return values


def _call(name: str, arguments: list[Value], session: Session) -> Value:
    entry = _FUNCTIONS.get(name)
    if entry is None:
        raise unknown_function(name)
    fewest, most, function = entry
    if not fewest <= len(arguments) <= most:
        raise wrong_parameter_count(name)
    return function(session, arguments)


def _gtids(value: Value) -> GtidSet:
    try:
        return GtidSet.parse(str(value))
    except MalformedGtidSetError:
        raise malformed_gtid_set(str(value)) from None


def _gtid_subset(_session: Session, arguments: list[Value]) -> Value:
    first, second = arguments
    if first is None or second is None:
        return None
    return int(_gtids(second).contains(_gtids(first)))


def _gtid_subtract(_session: Session, arguments: list[Value]) -> Value:
    first, second = arguments
    if first is None or second is None:
        return None
    return str(_gtids(first).subtract(_gtids(second)))


def _binlog_gtid_pos(session: Session, arguments: list[Value]) -> Value:
    """MariaDB's; a replica that gets the error instead goes on without."""
    file, position = arguments
    found: str | None = None
    if session.facts.flavor == MARIADB and str(position).isdigit():
        found = session.facts.binlog_gtid_pos(str(file or ""), int(str(position)))
    if found is None:
        raise unknown_function("binlog_gtid_pos")
    return found


def _utc(session: Session, arguments: list[Value]) -> Value:
    now = session.clock()
    digits = arguments[0] if arguments else 0
    if not isinstance(digits, int) or not 0 <= digits <= _FRACTION_DIGITS_MAX:
        raise wrong_precision(str(digits))
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
    fraction = f"{int(now % 1 * 10**_FRACTION_DIGITS_MAX):0{_FRACTION_DIGITS_MAX}d}"
    return f"{text}.{fraction[:digits]}" if digits else text


def _first_value(_session: Session, arguments: list[Value]) -> Value:
    return next((value for value in arguments if value is not None), None)


def _concat(_session: Session, arguments: list[Value]) -> Value:
    if None in arguments:
        return None
    return "".join(map(str, arguments))


def _account(session: Session, _arguments: list[Value]) -> Value:
    return f"{session.user}@{session.host}"


_Function = Callable[[Session, list[Value]], Value]

_FUNCTIONS: dict[str, tuple[int, int, _Function]] = {
    "binlog_gtid_pos": (2, 2, _binlog_gtid_pos),
    "coalesce": (1, 64, _first_value),
    "concat": (1, 64, _concat),
    "connection_id": (0, 0, lambda session, _: session.thread_id),
    "current_timestamp": (0, 1, _utc),
    "current_user": (0, 0, lambda session, _: f"{session.user}@%"),
    "database": (0, 0, lambda session, _: session.database or None),
    "gtid_subset": (2, 2, _gtid_subset),
    "gtid_subtract": (2, 2, _gtid_subtract),
    "if": (3, 3, lambda _, values: values[1] if truth(values[0]) else values[2]),
    "ifnull": (2, 2, _first_value),
    "localtime": (0, 1, _utc),
    "localtimestamp": (0, 1, _utc),
    "lower": (1, 1, lambda _, values: None if values[0] is None else str(values[0]).lower()),
    "now": (0, 1, _utc),
    "schema": (0, 0, lambda session, _: session.database or None),
    "session_user": (0, 0, _account),
    "system_user": (0, 0, _account),
    "unix_timestamp": (0, 0, lambda session, _: int(session.clock())),
    "upper": (1, 1, lambda _, values: None if values[0] is None else str(values[0]).upper()),
    "user": (0, 0, _account),
    "utc_timestamp": (0, 1, _utc),
    "uuid": (0, 0, lambda _session, _: str(uuid.uuid4())),
    "version": (0, 0, lambda session, _: session.facts.version),
}
"""Fewest and most arguments, and the function. Times are UTC, which `@@system_time_zone` says."""


# SHOW ------------------------------------------------------------------------------------------


async def _show(show: Show, session: Session, connections: Connections) -> ResultSet:
    match show.what:
        case "variables":
            variables = session.system_variables
            rows: list[list[Value]] = [
                [name, _shown(variables.get(name, show.scope))] for name in variables.names()
            ]
            return _filtered(show, _texts("Variable_name", "Value"), rows)
        case "status":
            return _filtered(show, _texts("Variable_name", "Value"), _status(connections))
        case "databases":
            name = server_lists.filtered_name("Database", show.pattern)
            return _filtered(show, _texts(name), [[DATABASES[0]]])
        case "collation" | "character set" | "engines" | "plugins" | "tables" | "full tables":
            return _server_list(show, session)
        case "grants":
            return _grants(show, session)
        case "processlist" | "full processlist":
            return _processlist(session, connections, full=show.what.startswith("full"))
        case _:
            session.require(REPLICATION, MONITOR, ADMIN, privilege="SUPER, REPLICATION CLIENT")
            return await _show_replication(show, session.facts, connections)


async def _show_replication(show: Show, facts: ServerFacts, connections: Connections) -> ResultSet:
    match show.what:
        case "binary log status":
            return _binary_log_status(facts)
        case "binary logs":
            return _binary_logs(facts)
        case "binlog events":
            return await _binlog_events(show, facts)
        case "replicas":
            return _replicas(show, facts, connections)
        case "replica status":
            channels = facts.channels
            if show.channel:
                meant = channels.get(show.channel.lower())
                if meant is None:
                    raise no_such_channel(show.channel)
                channels = {show.channel: meant}
            receivers = [await each.receiver() for each in channels.values()]
            return replica_status(receivers, old_words=show.old_words)
        case what:
            raise AssertionError(what)


def _server_list(show: Show, session: Session) -> ResultSet:
    match show.what:
        case "collation":
            found = server_lists.collations()
        case "character set":
            found = server_lists.character_sets()
        case "engines":
            found = server_lists.engines()
        case "plugins":
            license_name = str(session.system_variables.get("license"))
            found = server_lists.plugins(
                semi_sync=session.offers_semi_sync, license_name=license_name
            )
        case _:
            database = session.database if show.database is None else show.database
            if not database:
                raise no_database_selected()
            if database.lower() not in DATABASES:
                raise unknown_database(database)
            found = server_lists.tables(
                database, pattern=show.pattern, full=show.what.startswith("full")
            )
    return _filtered(show, found.columns, found.rows)


def _shown(value: Value) -> str:
    return "" if value is None else str(value)


def _texts(*names: str) -> list[Column]:
    return [Column(name=name) for name in names]


def _number(name: str) -> Column:
    return Column(name=name, type=ColumnType.LONGLONG, flags=_COUNT)


def _small_number(name: str) -> Column:
    return Column(name=name, type=ColumnType.LONG, flags=_COUNT)


def _filtered(show: Show, columns: Sequence[Column], rows: Sequence[Sequence[Value]]) -> ResultSet:
    if show.pattern is not None:
        rows = [row for row in rows if matches_like(show.pattern, str(row[0]))]
    elif show.where is not None:
        names = [column.name.lower() for column in columns]
        rows = [
            row for row in rows if truth(_where(show.where, dict(zip(names, row, strict=True))))
        ]
    return ResultSet(columns=columns, rows=rows)


def _where(expression: Expression, row: dict[str, Value]) -> Value:
    match expression:
        case Literal(value=value):
            return value
        case Word(text=text):
            if text.lower() not in row:
                raise MySQLError(1054, "42S22", f"Unknown column '{text[:64]}' in 'where clause'")
            return row[text.lower()]
        case Operation(operator=operator, operands=operands):
            return compare(operator, [_where(operand, row) for operand in operands])
        case _:
            raise syntax_error("WHERE")


def _status(connections: Connections) -> list[list[Value]]:
    return [[name, _shown(value)] for name, value in status_values(connections).items()]


def _warnings(show: Show, session: Session) -> ResultSet:
    columns = [*_texts("Level"), _small_number("Code"), *_texts("Message")]
    last = None if show.limit is None else show.offset + show.limit
    rows: list[list[Value]] = []
    if show.what == "warnings":
        rows = [["Note", code, text] for code, text in session.notes]
    if session.error is not None:
        rows.append(["Error", *session.error])
    return ResultSet(columns=columns, rows=rows[show.offset : last])


def _grants(show: Show, session: Session) -> ResultSet:
    user, rights = rights_shown(show.user, by=session, administration=session.facts.administration)
    account = user.replace("`", "``")
    grant = f"GRANT {', '.join(privileges_of(rights))} ON *.* TO `{account}`@`%`"
    return ResultSet(columns=_texts(f"Grants for {user}@%"), rows=[[grant]])


def _processlist(session: Session, connections: Connections, *, full: bool) -> ResultSet:
    everybody = session.rights.intersection({ADMIN, PROCESS})
    columns = [
        _number("Id"),
        *_texts("User", "Host", "db", "Command"),
        _small_number("Time"),
        *_texts("State"),
        Column(name="Info", type=ColumnType.LONG_BLOB) if full else Column(name="Info"),
    ]
    rows: list[list[Value]] = [
        [
            process.thread_id,
            process.user,
            process.host,
            process.database or None,
            process.command,
            process.seconds,
            process.state,
            (process.info if full else process.info[:100]) or None,
        ]
        for process in connections.processes()
        if everybody or process.user == session.user
    ]
    return ResultSet(columns=columns, rows=rows)


def _binary_log_status(facts: ServerFacts) -> ResultSet:
    columns = [
        *_texts("File"),
        _number("Position"),
        *_texts("Binlog_Do_DB", "Binlog_Ignore_DB", "Executed_Gtid_Set"),
    ]
    end = facts.visible_position()
    rows: list[list[Value]] = [] if end is None else [[*end, "", "", facts.gtid_executed()]]
    return ResultSet(columns=columns, rows=rows)


def _binary_logs(facts: ServerFacts) -> ResultSet:
    columns = [*_texts("Log_name"), _number("File_size"), *_texts("Encrypted")]
    return ResultSet(
        columns=columns, rows=[[name, size, "No"] for name, size in facts.binlog_files()]
    )


async def _binlog_events(show: Show, facts: ServerFacts) -> ResultSet:
    limit = BINLOG_EVENTS_MAX if show.limit is None else min(show.limit, BINLOG_EVENTS_MAX)
    events = await facts.binlog_events(show.file, show.position, show.offset, limit)
    if events is None:
        raise show_binlog_events_failed("Could not find target log")
    columns = [
        *_texts("Log_name"),
        _number("Pos"),
        *_texts("Event_type"),
        _small_number("Server_id"),
        _number("End_log_pos"),
        *_texts("Info"),
    ]
    rows: list[list[Value]] = [
        [row.file, row.position, row.event_type, row.server_id, row.end_position, row.info]
        for row in events
    ]
    return ResultSet(columns=columns, rows=rows)


def _replicas(show: Show, facts: ServerFacts, connections: Connections) -> ResultSet:
    source, replica = (
        ("Master_id", "Slave_UUID") if show.old_words else ("Source_Id", "Replica_UUID")
    )
    columns = [
        _small_number("Server_id" if show.old_words else "Server_Id"),
        *_texts("Host"),
        _small_number("Port"),
        _small_number(source),
        *_texts(replica),
    ]
    rows: list[list[Value]] = [
        [found.server_id, found.host, found.port, facts.server_id, found.uuid]
        for found in connections.registered_replicas()
    ]
    return ResultSet(columns=columns, rows=rows)
