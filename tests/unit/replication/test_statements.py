"""The grammar of what clients send."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.mysql.errors import MySQLError
from kingbus.replication.conditions import compare, matches_like
from kingbus.replication.statements import (
    Administer,
    Call,
    Do,
    Kill,
    Literal,
    Nothing,
    PurgeLogs,
    Select,
    Set,
    Show,
    SystemVariable,
    Use,
    UserVariable,
    parse,
)


def code(sql: str) -> int:
    with pytest.raises(MySQLError) as caught:
        parse(sql)
    return caught.value.code


def outcome(sql: str) -> int:
    """The error's number, or 0 for a statement."""
    try:
        parse(sql)
    except MySQLError as error:
        return error.code
    return 0


def test_a_list_of_expressions() -> None:
    """Names of columns are the text as written, or what AS says, or a bare alias."""
    statement = parse("SELECT @@GLOBAL.SERVER_ID, @a AS `b c`, 'x' 'y', version() v LIMIT 1;")

    assert isinstance(statement, Select)
    labels = [label for _, label in statement.items]
    assert labels == ["@@GLOBAL.SERVER_ID", "b c", "y", "v"]
    assert statement.items[0][0] == SystemVariable("global", "server_id")
    assert statement.items[1][0] == UserVariable("a")
    assert statement.limit == 1


@pytest.mark.parametrize(
    "sql",
    [
        "/* mysql-connector-j-9 */SELECT 1",
        "SELECT 1 -- to the end",
        "SELECT # to the end\n 1",
        "SELECT/**/1",
        "/*!40100 SELECT */ 1",
        "SELECT 1 FROM DUAL;",
        "select 0x1",
    ],
)
def test_comments_and_spaces(sql: str) -> None:
    """Comments are skipped, conditional ones are read."""
    statement = parse(sql)

    assert isinstance(statement, Select)
    assert statement.items[0][0] == Literal(1)


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("'it''s'", "it's"),
        (r"'it\'s'", "it's"),
        (r"'a\\'", "a\\"),
        (r"'\n\0'", "\n\0"),
        (r"'50\%'", r"50\%"),
        ('"a""b"', 'a"b'),
        ("_utf8mb4'ä'", "ä"),
        ("-5", -5),
        ("1.50", "1.50"),
        ("18446744073709551615", 2**64 - 1),
        ("NULL", None),
        ("TRUE", 1),
    ],
)
def test_literals(sql: str, value: object) -> None:
    """Strings with either quote and all escapes, numbers, NULL and truth."""
    assert parse(f"SELECT {sql}").items[0][0] == Literal(value)


@given(st.text(max_size=30))
def test_every_string_can_be_said(text: str) -> None:
    """A quoted text is read back as it was, whatever is in it."""
    quoted = text.replace("\\", "\\\\").replace("'", "''")

    assert parse(f"SET @a = '{quoted}'").assignments[0].value == Literal(text.replace("\\", "\\"))


def test_assignments() -> None:
    """User, session and global variables, in one statement or several, by every spelling."""
    statement = parse(
        "SET @a := 1, @@session.autocommit=0, SESSION sql_mode='', GLOBAL x=1, @@y=2, Z=3"
    )

    assert isinstance(statement, Set)
    assert [(found.scope, found.name) for found in statement.assignments] == [
        ("user", "a"),
        ("session", "autocommit"),
        ("session", "sql_mode"),
        ("global", "x"),
        ("session", "y"),
        ("session", "z"),
    ]
    assert parse("SET NAMES 'utf8mb4' COLLATE utf8mb4_bin").assignments[0].scope == "names"
    assert parse("SET CHARACTER SET utf8").assignments[0].scope == "names"
    assert parse("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED") == Set(assignments=())


@pytest.mark.parametrize(
    ("sql", "statement"),
    [
        ("SHOW MASTER STATUS", Show(what="binary log status", old_words=True)),
        ("SHOW BINARY LOG STATUS", Show(what="binary log status")),
        ("show binlog status", Show(what="binary log status")),
        ("SHOW BINARY LOGS", Show(what="binary logs")),
        ("SHOW MASTER LOGS;", Show(what="binary logs", old_words=True)),
        ("SHOW SLAVE HOSTS", Show(what="replicas", old_words=True)),
        ("SHOW REPLICA STATUS FOR CHANNEL 'x'", Show(what="replica status", channel="x")),
        ("SHOW FULL PROCESSLIST", Show(what="full processlist")),
        ("SHOW GRANTS FOR CURRENT_USER()", Show(what="grants")),
        ("SHOW GRANTS FOR 'repl'@'%'", Show(what="grants", user="repl")),
        ("SHOW WARNINGS LIMIT 5", Show(what="warnings", limit=5)),
        ("SHOW ERRORS", Show(what="errors")),
        ("SHOW COLLATION LIKE 'utf8%'", Show(what="collation", pattern="utf8%")),
        ("SHOW CHARACTER SET", Show(what="character set")),
        ("SHOW CHARSET LIKE 'x'", Show(what="character set", pattern="x")),
        ("SHOW STORAGE ENGINES", Show(what="engines")),
        ("SHOW PLUGINS", Show(what="plugins")),
        ("SHOW TABLES", Show(what="tables")),
        (
            "SHOW FULL TABLES IN `a b` LIKE 't%'",
            Show(what="full tables", database="a b", pattern="t%"),
        ),
        ("DO 1, @@version AS x", Do(expressions=(Literal(1), SystemVariable("", "version")))),
        (
            "SHOW BINLOG EVENTS IN 'f' FROM 120 LIMIT 2, 3",
            Show(what="binlog events", file="f", position=120, offset=2, limit=3),
        ),
        (
            "SHOW GLOBAL VARIABLES LIKE 'BINLOG_CHECKSUM'",
            Show(what="variables", scope="global", pattern="BINLOG_CHECKSUM"),
        ),
        ("SHOW SESSION STATUS", Show(what="status", scope="session")),
        ("KILL 16", Kill(thread_id=16, query_only=False)),
        ("KILL CONNECTION 16", Kill(thread_id=16, query_only=False)),
        ("KILL QUERY 16;", Kill(thread_id=16, query_only=True)),
        ("USE `mysql`", Use(database="mysql")),
        ("BEGIN", Nothing()),
        ("START TRANSACTION WITH CONSISTENT SNAPSHOT", Nothing()),
        ("COMMIT WORK", Nothing()),
        ("PURGE BINARY LOGS TO './bin.000002'", PurgeLogs(to="./bin.000002")),
        ("purge master logs to 'x';", PurgeLogs(to="x")),
        (
            "PURGE BINARY LOGS BEFORE '2026-11-21 16:00:00'",
            PurgeLogs(before=Literal("2026-11-21 16:00:00")),
        ),
        (
            "PURGE BINARY LOGS BEFORE NOW() - INTERVAL 3 DAY",
            PurgeLogs(before=Call("now", ()), seconds=3 * 86400),
        ),
        (
            "PURGE BINARY LOGS BEFORE DATE_SUB(NOW(), INTERVAL 90 MINUTE)",
            PurgeLogs(before=Call("now", ()), seconds=5400),
        ),
        ("RESET MASTER", Administer(name="RESET MASTER", privilege="RELOAD")),
    ],
)
def test_statements(sql: str, statement: object) -> None:
    """Each form, the old words and the new."""
    assert parse(sql) == statement


@pytest.mark.parametrize(
    ("sql", "near"),
    [
        ("PURGE LOGS TO 'x'", "LOGS TO 'x'"),
        ("PURGE BINARY LOGS", ""),
        ("PURGE BINARY LOGS TO x", "x"),
        ("PURGE BINARY LOGS TO 'x' 'y'", "'y'"),
        ("PURGE BINARY LOGS BEFORE NOW() - 3", "3"),
        ("PURGE BINARY LOGS BEFORE NOW() - INTERVAL 3 MONTH", "MONTH"),
    ],
)
def test_a_purge_that_is_not_understood(sql: str, near: str) -> None:
    """1064 with the place, never another purge than the one meant."""
    with pytest.raises(MySQLError) as caught:
        parse(sql)
    assert caught.value.code == 1064
    assert f"near '{near}'" in caught.value.message


@pytest.mark.parametrize(
    "sql",
    [
        "CHANGE REPLICATION SOURCE TO SOURCE_USER='u', SOURCE_PASSWORD='hunter2'",
        "CHANGE MASTER TO MASTER_PASSWORD='hunter2' FOR CHANNEL ''",
        "CREATE USER u IDENTIFIED BY 'hunter2'",
        "ALTER USER u IDENTIFIED WITH caching_sha2_password BY 'hunter2'",
        "SET PASSWORD FOR u = 'hunter2'",
        "SET @password = 'hunter2'",
    ],
)
def test_a_password_in_a_statement_is_not_shown(sql: str) -> None:
    """It is in the value that the parser gives, and no repr of that tells it."""
    assert "hunter2" not in repr(parse(sql))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", 1065),
        (";", 1065),
        ("  -- nothing", 1065),
        ("hello", 1064),
        ("SELECT", 1064),
        ("SELECT 1,", 1064),
        ("SELECT 1; SELECT 2", 1064),
        ("SELECT 'open", 1064),
        ("SELECT /* open", 1064),
        ("SELECT 1 */", 1064),
        ("SHOW NOTHING", 1064),
        ("SET a", 1064),
        ("SET = 1", 1064),
        ("KILL me", 1064),
        ("42", 1064),
        ("SELECT " + "(" * 100 + "1" + ")" * 100, 1064),
        ("SELECT " + "1," * 5000 + "1", 1064),
        ("INSERT INTO t VALUES (1)", 1235),
        ("SELECT * FROM t", 1064),
        ("SELECT 1 FROM t", 1235),
        ("SHOW COLUMNS FROM t", 1235),
        ("DO", 1064),
        ("DO 1,", 1064),
        ("SHOW PLUGINS LIKE 'x'", 1064),
    ],
)
def test_what_is_not_understood(sql: str, expected: int) -> None:
    """One error each; 1064 names the place."""
    assert code(sql) == expected


def test_the_place_of_an_error() -> None:
    """The rest of the statement from the word that was not understood, and its line."""
    with pytest.raises(MySQLError, match="near 'FORM dual' at line 2"):
        parse("SELECT 1 x\nFORM dual")


@given(st.text(max_size=60))
def test_any_text_is_a_statement_or_an_error(sql: str) -> None:
    """Nothing but MySQLError comes out of the parser."""
    assert outcome(sql) in {0, 1064, 1065, 1235}


words = st.sampled_from(
    [
        "SELECT",
        "SET",
        "SHOW",
        "@a",
        "@@x",
        "@@global.x",
        "'x'",
        "(",
        ")",
        ",",
        "=",
        "LIKE",
        "IN",
        "NOT",
        "AND",
        "OR",
        "WHERE",
        "VARIABLES",
        "1",
        "-1",
        "VERSION",
        "(",
        ")",
        "AS",
        "x",
        ";",
        "LIMIT",
        "KILL",
        "GRANTS",
        "FOR",
        "NAMES",
        "TRANSACTION",
        "/*!40101",
        "*/",
        "`",
        '"',
        "'",
    ]
)


@given(st.lists(words, max_size=14))
def test_any_words_are_a_statement_or_an_error(found: list[str]) -> None:
    """Nor out of words that it knows, in any order."""
    assert outcome(" ".join(found)) in {0, 1064, 1065, 1235}


@pytest.mark.parametrize(
    "sql",
    ["SELECT " + "/*" * 1_000_000, "SELECT '" + "\\" * 4_000_000, "@" * 4_000_000, "-" * 4_000_000],
)
def test_no_text_takes_long(sql: str) -> None:
    """The work is bounded by the length of the text, not by its square."""
    started = time.monotonic()
    code(sql)

    assert time.monotonic() - started < 2


def naive_like(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(naive_like(pattern[1:], text[index:]) for index in range(len(text) + 1))
    return bool(text) and pattern[0] in {"_", text[0]} and naive_like(pattern[1:], text[1:])


@given(st.text("ab%_", max_size=8), st.text("ab_", max_size=8))
def test_like_agrees_with_its_definition(pattern: str, text: str) -> None:
    """The fast match and the plain one agree."""
    assert naive_like(pattern, text) == matches_like(pattern, text)


def test_like_escapes_and_ignores_case() -> None:
    """A backslash makes a wildcard a letter; case does not count."""
    assert matches_like(r"rds\_%", "RDS_x")
    assert not matches_like(r"rds\_%", "rdsxx")


@pytest.mark.parametrize(
    ("operator", "values", "result"),
    [
        ("=", ["on", "ON"], 1),
        ("=", [1, "1"], 1),
        ("=", [None, 1], None),
        ("<=>", [None, None], 1),
        ("in", ["b", "A", "B"], 1),
        ("in", ["c", "A", "B"], 0),
        ("not", [0], 1),
        ("not", [None], None),
        ("in", ["c", "A", None], None),
        ("in", ["a", "A", None], 1),
        ("or", [0, None, "2"], 1),
        ("or", [0, None], None),
        ("or", [0, 0], 0),
        ("and", [1, 0], 0),
        ("and", [1, None], None),
        ("and", [0, None], 0),
        ("and", [1, 2, "3"], 1),
        ("xor", [1, 1], 0),
        ("xor", [1, 0, 0], 1),
        ("xor", [1, 1, 1], 1),
        ("xor", [1, None], None),
        ("<", [2, "10"], 1),
        ("<", ["2", "10"], 0),
        (">=", [3, 3], 1),
    ],
)
def test_comparisons(operator: str, values: list, result: object) -> None:
    """As MySQL compares: text without case, numbers as numbers, NULL with nothing."""
    assert compare(operator, values) == result
