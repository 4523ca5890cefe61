"""Statements as a closed grammar: text in, a value that says what was asked out.

Owns: the tokenizer and the recursive-descent parser for what replicas, tools and connectors send
to a source: SET, SELECT without tables, SHOW, KILL, USE, transaction words, and the first words of
what only an administrator may do. Knows nothing of answers. Follows the manual's "SQL Statements"
for the forms covered; everything else is a MySQLError 1064 (not understood) or 1235 (known, but
nothing that a relay can do). A statement may hold a password, so no error but the 1064 that goes
back to the client quotes it.
"""

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from kingbus.mysql.errors import MySQLError, not_supported, syntax_error
from kingbus.mysql.resultset import Value

STATEMENT_CHARS_MAX: Final = 4 << 20
"""Two GTID sets of 100,000 intervals in text; parsing more would hold up the event loop."""

TOKENS_MAX: Final = 4096
"""Connector/J's longest statement has about 200."""

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
    """`or`, `and`, `not`, `-`, a comparison, `in` (first operand in the others), or `like`."""

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
    """SHOW of one of `SHOWS`, filtered by a condition on its columns."""

    what: str
    scope: str = ""
    pattern: str | None = None
    where: Expression | None = None
    file: str = ""
    position: int = 4
    offset: int = 0
    limit: int | None = None
    old_words: bool = False


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
    """A statement for administrators, by its first words only."""

    name: str
    privilege: str


Statement = Select | Set | Show | Kill | Use | Nothing | PurgeLogs | Administer


# Tokens ----------------------------------------------------------------------------------------


class _Kind(Enum):
    WORD = auto()
    QUOTED = auto()
    STRING = auto()
    NUMBER = auto()
    USER_VARIABLE = auto()
    SYSTEM_VARIABLE = auto()
    OPERATOR = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    start: int
    end: int
    scope: str = ""

    def is_word(self, *words: str) -> bool:
        return self.kind is _Kind.WORD and self.text.upper() in words


# Possessive quantifiers: no input makes these go back over what they have read.
_TOKEN = re.compile(
    r"""
    (?P<space> \s++ | \#[^\n]*+ | --(?=[\s]|\Z)[^\n]*+ | /\*(?!!|M!).*?\*/ )
  | (?P<unclosed> /\*(?!!|M!) )
  | (?P<version> /\*M?!\d*+ )
  | (?P<version_end> \*/ )
  | @@ (?: (?P<scope> global|session|local|persist|persist_only) \s*+ \. \s*+ )?
       (?: `(?P<system_quoted> [^`]++ )` | (?P<system> [A-Za-z_$][\w$.]*+ ) )
  | @  (?: (?P<user> [\w$.]++ ) | (?P<user_quoted> `[^`]++` | '[^']*+' | "[^"]*+" ) )
  | (?P<string> '(?: [^'\\]++ | \\. | '' )*+' | "(?: [^"\\]++ | \\. | "" )*+" )
  | (?P<quoted> `(?: [^`]++ | `` )*+` )
  | (?P<number> 0x[0-9A-Fa-f]++ | \d++(?:\.\d*+)?(?:[eE][+-]?\d++)? )
  | (?P<word> [^\W\d][\w$]*+ )
  | (?P<operator> := | <=> | <= | >= | <> | != | \|\| | && | [(),.=<>;*+\-/%!@] )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)

_ESCAPES = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}
_ESCAPE = {quote: re.compile(rf"\\(.)|{quote * 2}", re.DOTALL) for quote in "'\""}


def _unescape(match: re.Match[str]) -> str:
    letter = match[1]
    if letter is None:  # a quote written twice
        return match[0][0]
    if letter in "%_":
        return "\\" + letter  # kept: it is for LIKE to read
    return _ESCAPES.get(letter, letter)


def _string_value(text: str) -> str:
    escape = _ESCAPE[text[0]]
    return escape.sub(_unescape, text[1:-1])


def _number_value(text: str) -> Value:
    if text[:2].lower() == "0x":
        return int(text, 16) if len(text) <= 18 else text
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else text


def _tokens(sql: str) -> list[_Token]:
    """All tokens, an END last. Raises the 1064 error."""
    if len(sql) > STATEMENT_CHARS_MAX:
        raise syntax_error(sql[:80])
    tokens: list[_Token] = []
    position, in_version = 0, False
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        group = match.lastgroup if match is not None else None
        if match is None or group == "unclosed" or (group == "version_end" and not in_version):
            raise _near(sql, position)
        start, position = position, match.end()
        if group == "space":
            continue
        if group in {"version", "version_end"}:
            in_version = group == "version"
            continue
        tokens.append(_token(match, start))
        if len(tokens) > TOKENS_MAX:
            raise _near(sql, start)
    tokens.append(_Token(_Kind.END, "", len(sql), len(sql)))
    return tokens


def _token(match: re.Match[str], start: int) -> _Token:
    end = match.end()
    if (name := match["system"] or match["system_quoted"]) is not None:
        scope = (match["scope"] or "").lower()
        scope = {"local": "session", "persist_only": "global", "persist": "global"}.get(
            scope, scope
        )
        return _Token(_Kind.SYSTEM_VARIABLE, name.lower(), start, end, scope)
    if (name := match["user"]) is not None:
        return _Token(_Kind.USER_VARIABLE, name, start, end)
    if (name := match["user_quoted"]) is not None:
        return _Token(_Kind.USER_VARIABLE, name[1:-1], start, end)
    if (text := match["quoted"]) is not None:
        return _Token(_Kind.QUOTED, text[1:-1].replace("``", "`"), start, end)
    assert match.lastgroup is not None
    kind = {
        "string": _Kind.STRING,
        "number": _Kind.NUMBER,
        "word": _Kind.WORD,
        "operator": _Kind.OPERATOR,
    }[match.lastgroup]
    return _Token(kind, match[0], start, end)


def _near(sql: str, position: int) -> MySQLError:
    return syntax_error(sql[position : position + 80], sql.count("\n", 0, position) + 1)


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
        "DO",
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


class _Parser:
    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._tokens = _tokens(sql)
        self._index = 0
        self._depth = 0

    # Reading tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _error(self) -> MySQLError:
        return _near(self._sql, self._next.start)

    def _take(self) -> _Token:
        token = self._next
        if token.kind is not _Kind.END:
            self._index += 1
        return token

    def _word(self, *words: str) -> str:
        """Take one of these words if it is next; "" if not."""
        if self._next.is_word(*words):
            return self._take().text.upper()
        return ""

    def _words(self, *words: str) -> bool:
        """Take these words if they are next, all of them, in order."""
        end = self._index + len(words)
        ahead = self._tokens[self._index : end]
        if len(ahead) == len(words) and all(
            token.is_word(word) for token, word in zip(ahead, words, strict=True)
        ):
            self._index = end
            return True
        return False

    def _operator(self, *operators: str) -> str:
        if self._next.kind is _Kind.OPERATOR and self._next.text in operators:
            return self._take().text
        return ""

    def _expect_operator(self, operator: str) -> None:
        if not self._operator(operator):
            raise self._error()

    def _integer(self) -> int:
        value = _number_value(self._next.text) if self._next.kind is _Kind.NUMBER else None
        if not isinstance(value, int):
            raise self._error()
        self._take()
        return value

    def _text(self) -> str:
        """A string, or a name in its place."""
        token = self._next
        if token.kind is _Kind.STRING:
            return _string_value(self._take().text)
        if token.kind in {_Kind.WORD, _Kind.QUOTED}:
            return self._take().text
        raise self._error()

    def _end(self) -> None:
        while self._operator(";"):
            pass
        if self._next.kind is not _Kind.END:
            raise self._error()

    # Statements

    def statement(self) -> Statement:
        if self._next.kind is _Kind.END or self._operator(";"):
            raise MySQLError(1065, "42000", "Query was empty")
        parsed = self._statement()
        self._end()
        return parsed

    def _statement(self) -> Statement:
        token = self._take()
        first = token.text.upper() if token.kind is _Kind.WORD else ""
        match first:
            case "SELECT":
                return self._select()
            case "SET":
                return self._set()
            case "SHOW":
                return self._show()
            case "KILL":
                return self._kill()
            case "USE":
                return self._use()
            case "START" if not self._next.is_word("TRANSACTION"):
                return self._administer(first, "REPLICATION_SLAVE_ADMIN")
            case "BEGIN" | "START" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE":
                return self._transaction()
            case "STOP" | "CHANGE":
                return self._administer(first, "REPLICATION_SLAVE_ADMIN")
            case "RESET" | "FLUSH":
                return self._administer(first, "RELOAD")
            case "PURGE":
                return self._purge()
            case _ if first in _KNOWN_ELSEWHERE:
                raise not_supported(first)
            case _:
                raise _near(self._sql, token.start)

    def _select(self) -> Select:
        while self._word("ALL", "DISTINCT", "SQL_NO_CACHE"):
            pass
        items = [self._select_item()]
        while self._operator(","):
            items.append(self._select_item())
        if self._word("FROM") and not self._word("DUAL"):
            raise not_supported("SELECT from a table: a relay holds none")
        if self._word("INTO"):
            raise not_supported("SELECT ... INTO")
        _, limit = self._limit()
        return Select(items=tuple(items), limit=limit)

    def _select_item(self) -> tuple[Expression, str]:
        start = self._next.start
        expression = self._expression()
        label = self._sql[start : self._tokens[self._index - 1].end]
        if isinstance(expression, Literal) and isinstance(expression.value, str):
            label = expression.value
        named = self._word("AS")
        ahead = self._next
        if (
            named
            or ahead.kind in {_Kind.STRING, _Kind.QUOTED}
            or (ahead.kind is _Kind.WORD and not ahead.is_word("FROM", "LIMIT", "INTO", "WHERE"))
        ):
            label = self._text()
        return expression, label

    def _limit(self) -> tuple[int, int | None]:
        if not self._word("LIMIT"):
            return 0, None
        first = self._integer()
        if self._operator(","):
            return first, self._integer()
        if self._word("OFFSET"):
            return self._integer(), first
        return 0, first

    def _set(self) -> Set:
        assignments = self._assignment()
        while self._operator(","):
            assignments += self._assignment()
        return Set(assignments=tuple(assignments))

    def _assignment(self) -> list[Assignment]:
        if self._word("NAMES") or self._words("CHARACTER", "SET") or self._word("CHARSET"):
            value = Literal(self._text())
            if self._word("COLLATE"):
                self._text()
            return [Assignment(scope="names", name="", value=value)]
        for word in ("PASSWORD", "ROLE", "RESOURCE"):
            if self._next.is_word(word):
                raise not_supported(f"SET {word}")
        scope = self._word("GLOBAL", "PERSIST", "PERSIST_ONLY", "SESSION", "LOCAL")
        if self._word("TRANSACTION"):
            # Isolation and access mode: there are no transactions to have any.
            self._transaction()
            return []
        token = self._take()
        if token.kind is _Kind.USER_VARIABLE and not scope:
            kind = "user"
        elif token.kind is _Kind.SYSTEM_VARIABLE and not scope:
            kind = "global" if token.scope == "global" else "session"
        elif token.kind in {_Kind.WORD, _Kind.QUOTED}:
            kind = "session" if scope in {"", "SESSION", "LOCAL"} else "global"
        else:
            self._index -= 1
            raise self._error()
        if not self._operator("=", ":="):
            raise self._error()
        name = token.text if kind == "user" else token.text.lower()
        return [Assignment(scope=kind, name=name, value=self._expression())]

    def _show(self) -> Show:
        old_words = self._next.is_word("MASTER", "SLAVE")
        for words, what in _SHOWS:
            if self._words(*words):
                return self._show_rest(what, old_words=old_words)
        scope = self._word("GLOBAL", "SESSION", "LOCAL")
        what = self._word("VARIABLES", "STATUS")
        if what:
            show_scope = "global" if scope == "GLOBAL" else "session"
            return self._show_filter(what.lower(), scope=show_scope)
        if self._next.kind is _Kind.WORD and not scope:
            for word in _OTHER_SHOWS:
                if self._next.is_word(word):
                    raise not_supported(f"SHOW {word}")
        raise self._error()

    def _show_rest(self, what: str, *, old_words: bool) -> Show:
        match what:
            case "binlog events":
                file = self._text() if self._word("IN") else ""
                position = self._integer() if self._word("FROM") else 4
                offset, limit = self._limit()
                return Show(what=what, file=file, position=position, offset=offset, limit=limit)
            case "replica status":
                if self._words("FOR", "CHANNEL"):
                    self._text()
                self._word("NONBLOCKING")
                return Show(what=what, old_words=old_words)
            case "grants":
                # Whose grants does not matter: a connection is shown its own.
                if self._word("FOR"):
                    while self._next.kind is not _Kind.END:
                        self._take()
                return Show(what=what)
            case "warnings":
                offset, limit = self._limit()
                return Show(what=what, offset=offset, limit=limit)
            case "databases":
                return self._show_filter(what)
            case _:
                return Show(what=what, old_words=old_words)

    def _show_filter(self, what: str, *, scope: str = "") -> Show:
        if self._word("LIKE"):
            if self._next.kind is not _Kind.STRING:
                raise self._error()
            return Show(what=what, scope=scope, pattern=self._text())
        if self._word("WHERE"):
            return Show(what=what, scope=scope, where=self._expression())
        return Show(what=what, scope=scope)

    def _kill(self) -> Kill:
        kind = self._word("CONNECTION", "QUERY", "HARD", "SOFT")
        return Kill(thread_id=self._integer(), query_only=kind == "QUERY")

    def _use(self) -> Use:
        return Use(database=self._text())

    def _transaction(self) -> Nothing:
        # WORK, TRANSACTION READ ONLY, AND NO CHAIN, TO SAVEPOINT x ...
        while self._next.kind in {_Kind.WORD, _Kind.QUOTED} or self._operator(","):
            if self._next.kind in {_Kind.WORD, _Kind.QUOTED}:
                self._take()
        return Nothing()

    def _purge(self) -> PurgeLogs:
        if not (self._word("BINARY", "MASTER") and self._word("LOGS")):
            raise self._error()
        if self._word("TO"):
            if self._next.kind is not _Kind.STRING:
                raise self._error()
            return PurgeLogs(to=self._text())
        if not self._word("BEFORE"):
            raise self._error()
        if self._word("DATE_SUB", "SUBDATE"):
            self._expect_operator("(")
            before = self._expression()
            self._expect_operator(",")
            seconds = self._interval()
            self._expect_operator(")")
            return PurgeLogs(before=before, seconds=seconds)
        before = self._expression()
        return PurgeLogs(before=before, seconds=self._interval() if self._operator("-") else 0)

    def _interval(self) -> int:
        """INTERVAL n unit, in seconds."""
        if not self._word("INTERVAL"):
            raise self._error()
        number = self._integer()
        unit = self._word(*_INTERVAL_SECONDS)
        if not unit:
            raise self._error()
        return number * _INTERVAL_SECONDS[unit]

    def _administer(self, first: str, privilege: str) -> Administer:
        """The first words name the statement; the rest, passwords and all, is not looked at."""
        name = [first]
        while self._next.kind is _Kind.WORD and len(name) < 3:
            name.append(self._take().text.upper())
        while self._next.kind is not _Kind.END:
            self._take()
        return Administer(name=" ".join(name), privilege=privilege)

    # Expressions

    def _expression(self) -> Expression:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error()
        left = self._conjunction()
        while self._word("OR", "XOR") or self._operator("||"):
            left = Operation("or", (left, self._conjunction()))
        self._depth -= 1
        return left

    def _conjunction(self) -> Expression:
        left = self._negation()
        while self._word("AND") or self._operator("&&"):
            left = Operation("and", (left, self._negation()))
        return left

    def _negation(self) -> Expression:
        negated = False
        while self._word("NOT") or self._operator("!"):
            negated = not negated
        expression = self._comparison()
        return Operation("not", (expression,)) if negated else expression

    def _comparison(self) -> Expression:
        left = self._value()
        if operator := self._operator(*_COMPARISONS):
            return Operation(operator, (left, self._value()))
        negated = bool(self._word("NOT"))
        compared: Expression
        if self._word("IN"):
            compared = Operation("in", (left, *self._arguments()))
        elif self._word("LIKE"):
            compared = Operation("like", (left, self._value()))
        elif not negated and self._word("IS"):
            negated = bool(self._word("NOT"))
            if not self._word("NULL"):
                raise self._error()
            compared = Operation("<=>", (left, Literal(None)))
        elif negated:
            raise self._error()
        else:
            return left
        return Operation("not", (compared,)) if negated else compared

    def _arguments(self) -> tuple[Expression, ...]:
        self._expect_operator("(")
        if self._operator(")"):
            return ()
        arguments = [self._expression()]
        while self._operator(","):
            arguments.append(self._expression())
        self._expect_operator(")")
        return tuple(arguments)

    def _value(self) -> Expression:
        token = self._next
        match token.kind:
            case _Kind.STRING:
                return Literal(self._text())
            case _Kind.NUMBER:
                return Literal(_number_value(self._take().text))
            case _Kind.USER_VARIABLE:
                return UserVariable(self._take().text)
            case _Kind.SYSTEM_VARIABLE:
                self._take()
                return SystemVariable(token.scope, token.text)
            case _Kind.QUOTED:
                return Word(self._take().text)
            case _Kind.WORD:
                return self._word_value()
            case _:
                return self._operator_value()

    def _operator_value(self) -> Expression:
        if self._operator("("):
            expression = self._expression()
            self._expect_operator(")")
            return expression
        if sign := self._operator("-", "+"):
            token = self._next
            value = _number_value(token.text) if token.kind is _Kind.NUMBER else None
            if value is None:
                raise self._error()
            self._take()
            if sign == "+":
                return Literal(value)
            return Literal(-value if isinstance(value, int) else f"-{value}")
        raise self._error()

    def _word_value(self) -> Expression:
        token = self._take()
        word = token.text.upper()
        if self._next.kind is _Kind.OPERATOR and self._next.text == "(":
            return Call(word.lower(), self._arguments())
        if word.startswith("_") and self._next.kind is _Kind.STRING:
            return Literal(self._text())  # a character set before a string
        match word:
            case "NULL":
                return Literal(None)
            case "TRUE":
                return Literal(1)
            case "FALSE":
                return Literal(0)
            case "FROM" | "LIMIT" | "WHERE" | "AS" | "SELECT":
                self._index -= 1
                raise self._error()
            case _ if word in _NO_ARGUMENT_WORDS:
                return Call(word.lower(), ())
            case _:
                return Word(token.text)


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
    (("ERRORS",), "warnings"),
    (("PROCESSLIST",), "processlist"),
    (("FULL", "PROCESSLIST"), "full processlist"),
    (("DATABASES",), "databases"),
    (("SCHEMAS",), "databases"),
)

_OTHER_SHOWS = (
    "TABLES",
    "COLUMNS",
    "FIELDS",
    "CREATE",
    "ENGINES",
    "ENGINE",
    "STORAGE",
    "PLUGINS",
    "COLLATION",
    "CHARACTER",
    "CHARSET",
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
