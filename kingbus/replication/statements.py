"""Statements as a closed grammar: text in, a value that says what was asked out.

Owns: the recursive-descent parser for what replicas, tools and connectors send to a source: SET,
SELECT and DO without tables, SHOW, KILL, USE, PURGE, transaction words. What administers receiver
and users is `admin_statements`, the words come from `sql_tokens`. Knows nothing of answers. Follows
the manual's "SQL Statements" for the forms covered; everything else is a MySQLError 1064 (not
understood) or 1235 (known, but nothing that a relay can do). A statement may hold a password, so no
error but the 1064 that goes back to the client quotes it.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from kingbus.mysql.errors import MySQLError, not_supported
from kingbus.mysql.resultset import Value
from kingbus.replication import admin_statements
from kingbus.replication.admin_statements import AdminStatement, SetPassword
from kingbus.replication.sql_tokens import Kind, TokenReader, near, number_value

DEPTH_MAX: Final = 32
"""Parentheses and function calls inside each other."""


# Expressions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; numbers that are no integers stay text."""

    value: Value


@dataclass(frozen=True, slots=True)
class UserVariable:
    """@name."""

    name: str


@dataclass(frozen=True, slots=True)
class SystemVariable:
    """@@[scope.]name; scope is "", "global" or "session"."""

    scope: str
    name: str


@dataclass(frozen=True, slots=True)
class Word:
    """A bare name: a column in WHERE, a value such as ON in SET."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function in lower case and its arguments."""

    name: str
    arguments: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Operation:
    """`or`, `xor` and `and` of two or more, `not`, a comparison, `like`, or `in` (the first operand
    in the others).
    """

    operator: str
    operands: "tuple[Expression, ...]"


Expression = Literal | UserVariable | SystemVariable | Word | Call | Operation


# Statements ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """SELECT of expressions; each with the name of its column."""

    items: tuple[tuple[Expression, str], ...]
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One assignment of SET; scope is "user", "session", "global" or "names"."""

    scope: str
    name: str
    value: Expression = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """SET of one or more variables, in order."""

    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """SHOW of one of `_SHOWS`, filtered by a condition on its columns.

    `user` is whose grants, None for who asks; `database` is whose tables, None for the one in use.
    """

    what: str
    scope: str = ""
    pattern: str | None = None
    where: Expression | None = None
    file: str = ""
    position: int = 4
    offset: int = 0
    limit: int | None = None
    old_words: bool = False
    channel: str = ""
    user: str | None = None
    database: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """DO: expressions that are evaluated and not shown."""

    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """KILL [CONNECTION | QUERY] id."""

    thread_id: int
    query_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """USE name."""

    database: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """BEGIN, COMMIT and their kin: there is nothing to do and that is fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeLogs:
    """PURGE BINARY LOGS TO 'file', or BEFORE a time, which lies `seconds` before `before`."""

    to: str = ""
    before: Expression | None = None
    seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Administer:
    """A statement for administrators that a relay does not do, by its first words only."""

    name: str
    privilege: str


Statement = (
    Select | Set | Show | Do | Kill | Use | Nothing | PurgeLogs | Administer | AdminStatement
)


# Parser ----------------------------------------------------------------------------------------

_COMPARISONS = frozenset({"=", "<", ">", "<=", ">=", "<>", "!=", "<=>"})

_NO_ARGUMENT_WORDS = frozenset(
    {
        "CURRENT_USER",
        "CURRENT_TIMESTAMP",
        "CURRENT_DATE",
        "LOCALTIME",
        "LOCALTIMESTAMP",
        "UTC_TIMESTAMP",
    }
)
"""Functions that may stand without parentheses."""

_INTERVAL_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 604800}
"""Units of an INTERVAL, of those that are of one length."""

_KNOWN_ELSEWHERE = frozenset(
    [
        "ALTER",
        "ANALYZE",
        "CALL",
        "CHECK",
        "CHECKSUM",
        "CREATE",
        "DELETE",
        "DESC",
        "DESCRIBE",
        "DROP",
        "EXECUTE",
        "EXPLAIN",
        "GRANT",
        "HANDLER",
        "IMPORT",
        "INSERT",
        "INSTALL",
        "LOAD",
        "LOCK",
        "MERGE",
        "OPTIMIZE",
        "PREPARE",
        "RENAME",
        "REPAIR",
        "REPLACE",
        "REVOKE",
        "SHUTDOWN",
        "TABLE",
        "TRUNCATE",
        "UNINSTALL",
        "UNLOCK",
        "UPDATE",
        "VALUES",
        "WITH",
        "XA",
        "DEALLOCATE",
        "CACHE",
        "BINLOG",
        "RESTART",
        "HELP",
    ]
)
"""First words that MySQL knows and a relay has no use for: 1235 instead of 1064."""


class _Parser(TokenReader):
    # Statements

    def statement(self) -> Statement:
        if self.next.kind is Kind.END or self.operator(";"):
            raise MySQLError(1065, "42000", "Query was empty")
        parsed = self._statement()
        self.end()
        return parsed

    def _statement(self) -> Statement:
        token = self.take()
        first = token.text.upper() if token.kind is Kind.WORD else ""
        match first:
            case "SELECT":
                return self._select()
            case "SET":
                return self._set()
            case "SHOW":
                return self._show()
            case "DO":
                return self._do()
            case "KILL":
                return self._kill()
            case "USE":
                return self._use()
            case "BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE":
                return self._transaction()
            case "START" if self.next.is_word("TRANSACTION"):
                return self._transaction()
            case "PURGE":
                return self._purge()
            case "START" | "STOP" | "RESET" | "CHANGE" | "FLUSH":
                return self._control(first)
            case "CREATE" | "ALTER" | "DROP" if self.word("USER"):
                return self._users(first)
            case "GRANT":
                return admin_statements.parse_grant(self)
            case "REVOKE":
                return admin_statements.parse_revoke(self)
            case _ if first in _KNOWN_ELSEWHERE:
                raise not_supported(first)
            case _:
                raise near(self.sql, token.start)

    def _control(self, first: str) -> Statement:
        match first:
            case "CHANGE":
                return admin_statements.parse_change(self)
            case "FLUSH":
                return admin_statements.parse_flush(self)
            case _ if self.next.is_word("GROUP_REPLICATION"):
                return self._administer(first, "GROUP_REPLICATION_ADMIN")
            case "START" | "STOP":
                return admin_statements.parse_start_stop(
                    self, "START" if first == "START" else "STOP"
                )
            case _ if self.next.is_word("MASTER", "BINARY", "QUERY", "PERSIST"):
                return self._administer(first, "RELOAD")
            case _:
                return admin_statements.parse_reset(self)

    def _users(self, first: str) -> Statement:
        match first:
            case "CREATE":
                return admin_statements.parse_create_user(self)
            case "ALTER":
                return admin_statements.parse_alter_user(self)
            case _:
                return admin_statements.parse_drop_user(self)

    def _select(self) -> Select:
        while self.word("ALL", "DISTINCT", "SQL_NO_CACHE"):
            pass
        items = [self._select_item()]
        while self.operator(","):
            items.append(self._select_item())
        if self.word("FROM") and not self.word("DUAL"):
            raise not_supported("SELECT from a table: a relay holds none")
        if self.word("INTO"):
            raise not_supported("SELECT ... INTO")
        _, limit = self._limit()
        return Select(items=tuple(items), limit=limit)

    def _select_item(self) -> tuple[Expression, str]:
        start = self.next.start
        expression = self._expression()
        label = self.sql[start : self.tokens[self.index - 1].end]
        if isinstance(expression, Literal) and isinstance(expression.value, str):
            label = expression.value
        named = self.word("AS")
        ahead = self.next
        if (
            named
            or ahead.kind in {Kind.STRING, Kind.QUOTED}
            or (ahead.kind is Kind.WORD and not ahead.is_word("FROM", "LIMIT", "INTO", "WHERE"))
        ):
            label = self.text()
        return expression, label

    def _limit(self) -> tuple[int, int | None]:
        if not self.word("LIMIT"):
            return 0, None
        first = self.integer()
        if self.operator(","):
            return first, self.integer()
        if self.word("OFFSET"):
            return self.integer(), first
        return 0, first

    def _set(self) -> Set | SetPassword:
        if self.word("PASSWORD"):
            return admin_statements.parse_set_password(self)
        assignments = self._assignment()
        while self.operator(","):
            assignments += self._assignment()
        return Set(assignments=tuple(assignments))

    def _assignment(self) -> list[Assignment]:
        if self.word("NAMES") or self.words("CHARACTER", "SET") or self.word("CHARSET"):
            value = Literal(self.text())
            if self.word("COLLATE"):
                self.text()
            return [Assignment(scope="names", name="", value=value)]
        for word in ("ROLE", "RESOURCE"):
            if self.next.is_word(word):
                raise not_supported(f"SET {word}")
        scope = self.word("GLOBAL", "PERSIST", "PERSIST_ONLY", "SESSION", "LOCAL")
        if self.word("TRANSACTION"):
            # Isolation and access mode: there are no transactions to have any.
            self._transaction()
            return []
        token = self.take()
        if token.kind is Kind.USER_VARIABLE and not scope:
            kind = "user"
        elif token.kind is Kind.SYSTEM_VARIABLE and not scope:
            kind = "global" if token.scope == "global" else "session"
        elif token.kind in {Kind.WORD, Kind.QUOTED}:
            kind = "session" if scope in {"", "SESSION", "LOCAL"} else "global"
        else:
            self.index -= 1
            raise self.error()
        if not self.operator("=", ":="):
            raise self.error()
        name = token.text if kind == "user" else token.text.lower()
        return [Assignment(scope=kind, name=name, value=self._expression())]

    def _show(self) -> Show:
        old_words = self.next.is_word("MASTER", "SLAVE")
        for words, what in _SHOWS:
            if self.words(*words):
                return self._show_rest(what, old_words=old_words)
        scope = self.word("GLOBAL", "SESSION", "LOCAL")
        what = self.word("VARIABLES", "STATUS")
        if what:
            show_scope = "global" if scope == "GLOBAL" else "session"
            return self._show_filter(what.lower(), scope=show_scope)
        if self.next.kind is Kind.WORD and not scope:
            for word in _OTHER_SHOWS:
                if self.next.is_word(word):
                    raise not_supported(f"SHOW {word}")
        raise self.error()

    def _show_rest(self, what: str, *, old_words: bool) -> Show:
        match what:
            case "binlog events":
                file = self.text() if self.word("IN") else ""
                position = self.integer() if self.word("FROM") else 4
                offset, limit = self._limit()
                return Show(what=what, file=file, position=position, offset=offset, limit=limit)
            case "replica status":
                channel = admin_statements.parse_channel(self)
                self.word("NONBLOCKING")
                return Show(what=what, old_words=old_words, channel=channel)
            case "grants":
                user = admin_statements.parse_account(self) if self.word("FOR") else None
                return Show(what=what, user=user)
            case "warnings" | "errors":
                offset, limit = self._limit()
                return Show(what=what, offset=offset, limit=limit)
            case "databases" | "collation" | "character set":
                return self._show_filter(what)
            case "tables" | "full tables":
                database = self.text() if self.word("FROM", "IN") else None
                return replace(self._show_filter(what), database=database)
            case _:
                return Show(what=what, old_words=old_words)

    def _show_filter(self, what: str, *, scope: str = "") -> Show:
        if self.word("LIKE"):
            return Show(what=what, scope=scope, pattern=self.string())
        if self.word("WHERE"):
            return Show(what=what, scope=scope, where=self._expression())
        return Show(what=what, scope=scope)

    def _do(self) -> Do:
        expressions = [self._select_item()[0]]
        while self.operator(","):
            expressions.append(self._select_item()[0])
        return Do(expressions=tuple(expressions))

    def _kill(self) -> Kill:
        kind = self.word("CONNECTION", "QUERY", "HARD", "SOFT")
        return Kill(thread_id=self.integer(), query_only=kind == "QUERY")

    def _use(self) -> Use:
        return Use(database=self.text())

    def _transaction(self) -> Nothing:
        # WORK, TRANSACTION READ ONLY, AND NO CHAIN, TO SAVEPOINT x ...
        while self.next.kind in {Kind.WORD, Kind.QUOTED} or self.operator(","):
            if self.next.kind in {Kind.WORD, Kind.QUOTED}:
                self.take()
        return Nothing()

    def _purge(self) -> PurgeLogs:
        self.expect_word("BINARY", "MASTER")
        self.expect_word("LOGS")
        if self.word("TO"):
            return PurgeLogs(to=self.string())
        self.expect_word("BEFORE")
        if self.word("DATE_SUB", "SUBDATE"):
            self.expect_operator("(")
            before = self._expression()
            self.expect_operator(",")
            seconds = self._interval()
            self.expect_operator(")")
            return PurgeLogs(before=before, seconds=seconds)
        before = self._expression()
        return PurgeLogs(before=before, seconds=self._interval() if self.operator("-") else 0)

    def _interval(self) -> int:
        """INTERVAL n unit, in seconds."""
        self.expect_word("INTERVAL")
        number = self.integer()
        return number * _INTERVAL_SECONDS[self.expect_word(*_INTERVAL_SECONDS)]

    def _administer(self, first: str, privilege: str) -> Administer:
        """The first words name the statement; the rest, passwords and all, is not looked at."""
        name = [first]
        while self.next.kind is Kind.WORD and len(name) < 3:
            name.append(self.take().text.upper())
        while self.next.kind is not Kind.END:
            self.take()
        return Administer(name=" ".join(name), privilege=privilege)

    # Expressions

    def _expression(self) -> Expression:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise self.error()
        operands = [self._exclusion()]
        while self.word("OR") or self.operator("||"):
            operands.append(self._exclusion())
        self.depth -= 1
        return _joined("or", operands)

    def _exclusion(self) -> Expression:
        operands = [self._conjunction()]
        while self.word("XOR"):
            operands.append(self._conjunction())
        return _joined("xor", operands)

    def _conjunction(self) -> Expression:
        operands = [self._negation()]
        while self.word("AND") or self.operator("&&"):
            operands.append(self._negation())
        return _joined("and", operands)

    def _negation(self) -> Expression:
        negated = False
        while self.word("NOT") or self.operator("!"):
            negated = not negated
        expression = self._comparison()
        return Operation("not", (expression,)) if negated else expression

    def _comparison(self) -> Expression:
        left = self._value()
        if operator := self.operator(*_COMPARISONS):
            return Operation(operator, (left, self._value()))
        negated = bool(self.word("NOT"))
        compared: Expression
        if self.word("IN"):
            compared = Operation("in", (left, *self._arguments()))
        elif self.word("LIKE"):
            compared = Operation("like", (left, self._value()))
        elif not negated and self.word("IS"):
            negated = bool(self.word("NOT"))
            if not self.word("NULL"):
                raise self.error()
            compared = Operation("<=>", (left, Literal(None)))
        elif negated:
            raise self.error()
        else:
            return left
        return Operation("not", (compared,)) if negated else compared

    def _arguments(self) -> tuple[Expression, ...]:
        self.expect_operator("(")
        if self.operator(")"):
            return ()
        arguments = [self._expression()]
        while self.operator(","):
            arguments.append(self._expression())
        self.expect_operator(")")
        return tuple(arguments)

    def _value(self) -> Expression:
        token = self.next
        match token.kind:
            case Kind.STRING:
                return Literal(self.text())
            case Kind.NUMBER:
                return Literal(number_value(self.take().text))
            case Kind.USER_VARIABLE:
                return UserVariable(self.take().text)
            case Kind.SYSTEM_VARIABLE:
                self.take()
                return SystemVariable(token.scope, token.text)
            case Kind.QUOTED:
                return Word(self.take().text)
            case Kind.WORD:
                return self._word_value()
            case _:
                return self._operator_value()

    def _operator_value(self) -> Expression:
        if self.operator("("):
            expression = self._expression()
            self.expect_operator(")")
            return expression
        if sign := self.operator("-", "+"):
            token = self.next
            value = number_value(token.text) if token.kind is Kind.NUMBER else None
            if value is None:
                raise self.error()
            self.take()
            if sign == "+":
                return Literal(value)
            return Literal(-value if isinstance(value, int) else f"-{value}")
        raise self.error()

    def _word_value(self) -> Expression:
        token = self.take()
        word = token.text.upper()
        if self.next.kind is Kind.OPERATOR and self.next.text == "(":
            return Call(word.lower(), self._arguments())
        if word.startswith("_") and self.next.kind is Kind.STRING:
            return Literal(self.text())  # a character set before a string
        match word:
            case "NULL":
                return Literal(None)
            case "TRUE":
                return Literal(1)
            case "FALSE":
                return Literal(0)
            case "FROM" | "LIMIT" | "WHERE" | "AS" | "SELECT":
                self.index -= 1
                raise self.error()
            case _ if word in _NO_ARGUMENT_WORDS:
                return Call(word.lower(), ())
            case _:
                return Word(token.text)


def _joined(operator: str, operands: list[Expression]) -> Expression:
    """One operation of all of them, however many: a chain would be as deep as it is long."""
    return operands[0] if len(operands) == 1 else Operation(operator, tuple(operands))


_SHOWS: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("MASTER", "STATUS"), "binary log status"),
    (("BINARY", "LOG", "STATUS"), "binary log status"),
    (("BINLOG", "STATUS"), "binary log status"),
    (("BINARY", "LOGS"), "binary logs"),
    (("MASTER", "LOGS"), "binary logs"),
    (("BINLOG", "EVENTS"), "binlog events"),
    (("SLAVE", "HOSTS"), "replicas"),
    (("REPLICAS",), "replicas"),
    (("SLAVE", "STATUS"), "replica status"),
    (("REPLICA", "STATUS"), "replica status"),
    (("GRANTS",), "grants"),
    (("WARNINGS",), "warnings"),
    (("ERRORS",), "errors"),
    (("PROCESSLIST",), "processlist"),
    (("FULL", "PROCESSLIST"), "full processlist"),
    (("DATABASES",), "databases"),
    (("SCHEMAS",), "databases"),
    (("COLLATION",), "collation"),
    (("CHARACTER", "SET"), "character set"),
    (("CHARSET",), "character set"),
    (("CHAR", "SET"), "character set"),
    (("ENGINES",), "engines"),
    (("STORAGE", "ENGINES"), "engines"),
    (("PLUGINS",), "plugins"),
    (("TABLES",), "tables"),
    (("FULL", "TABLES"), "full tables"),
    (("EXTENDED", "TABLES"), "tables"),
    (("EXTENDED", "FULL", "TABLES"), "full tables"),
)

_OTHER_SHOWS = (
    "COLUMNS",
    "FIELDS",
    "CREATE",
    "ENGINE",
    "INDEX",
    "KEYS",
    "OPEN",
    "PRIVILEGES",
    "PROFILES",
    "PROCEDURE",
    "FUNCTION",
    "TRIGGERS",
    "EVENTS",
    "RELAYLOG",
    "ALL",
    "FULL",
    "TABLE",
    "COUNT",
)


def parse(sql: str) -> Statement:
    """What a statement asks. Raises MySQLError: 1064, 1065 (empty), 1235."""
    return _Parser(sql).statement()
