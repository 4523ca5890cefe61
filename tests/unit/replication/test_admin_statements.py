"""The grammar of what administers receiver and users."""

import contextlib
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kingbus.mysql.errors import MySQLError
from kingbus.replication.admin_statements import (
    PRIVILEGES,
    SOURCE_OPTIONS,
    AccountPassword,
    ChangeGrants,
    ChangeSource,
    ControlReplica,
    CreateUsers,
    DropUsers,
    Flush,
    SetPassword,
)
from kingbus.replication.queries import answer
from kingbus.replication.statements import parse
from kingbus.replication.users import RIGHTS_OF_PRIVILEGE
from tests.unit.replication.served_facts import MemoryConnections, MemorySource
from tests.unit.replication.test_queries import session


def outcome(sql: str) -> int:
    """The error's number, or 0 for a statement."""
    try:
        parse(sql)
    except MySQLError as error:
        return error.code
    return 0


def user(name: str | None, password: str | None = None, *, native: bool = True) -> AccountPassword:
    return AccountPassword(user=name, password=password, native=native)


@pytest.mark.parametrize(
    ("sql", "statement"),
    [
        ("START REPLICA", ControlReplica(action="START")),
        ("start slave io_thread;", ControlReplica(action="START")),
        ("START REPLICA IO_THREAD, SQL_THREAD", ControlReplica(action="START")),
        ("STOP REPLICA FOR CHANNEL 'a'", ControlReplica(action="STOP", channel="a")),
        ("STOP SLAVE", ControlReplica(action="STOP")),
        ("RESET REPLICA", ControlReplica(action="RESET")),
        ("RESET SLAVE ALL FOR CHANNEL ''", ControlReplica(action="RESET", everything=True)),
        ("FLUSH BINARY LOGS", Flush(what="BINARY LOGS")),
        ("FLUSH LOCAL PRIVILEGES, STATUS", Flush(what="PRIVILEGES, STATUS")),
        (
            """CREATE USER 'a'@'%' IDENTIFIED BY 'x',
            `b` IDENTIFIED WITH caching_sha2_password BY 'y',
            c@`%` IDENTIFIED WITH 'mysql_native_password' BY 'z' REQUIRE NONE""",
            CreateUsers(users=(user("a", "x"), user("b", "y", native=False), user("c", "z"))),
        ),
        (
            "CREATE USER IF NOT EXISTS a",
            CreateUsers(users=(user("a"),), if_not_exists=True),
        ),
        (
            "ALTER USER IF EXISTS a IDENTIFIED BY ''",
            SetPassword(users=(user("a", ""),), if_exists=True),
        ),
        ("ALTER USER USER() IDENTIFIED BY 'x'", SetPassword(users=(user(None, "x"),))),
        ("ALTER USER user IDENTIFIED BY 'x'", SetPassword(users=(user("user", "x"),))),
        ("SET PASSWORD = 'x'", SetPassword(users=(user(None, "x"),))),
        ("SET PASSWORD FOR a@'%' = 'x'", SetPassword(users=(user("a", "x"),))),
        ("DROP USER IF EXISTS a, 'b'@'%'", DropUsers(users=("a", "b"), if_exists=True)),
        (
            "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO a, CURRENT_USER()",
            ChangeGrants(privileges=("REPLICATION SLAVE", "REPLICATION CLIENT"), users=("a", None)),
        ),
        (
            "GRANT SELECT, BINLOG_ADMIN ON *.* TO a",
            ChangeGrants(privileges=("SELECT", "BINLOG_ADMIN"), users=("a",)),
        ),
        ("GRANT ALL ON *.* TO a", ChangeGrants(privileges=("ALL",), users=("a",))),
        (
            "REVOKE SUPER ON *.* FROM a",
            ChangeGrants(privileges=("SUPER",), users=("a",), revoke=True),
        ),
        (
            "REVOKE ALL PRIVILEGES, GRANT OPTION FROM a",
            ChangeGrants(privileges=("ALL",), users=("a",), revoke=True),
        ),
    ],
)
def test_statements(sql: str, statement: object) -> None:
    """Each form, the old words and the new."""
    assert parse(sql) == statement


@pytest.mark.parametrize("first", ["CHANGE REPLICATION SOURCE", "change master"])
def test_source_options(first: str) -> None:
    """Options by their new names, with text, number, word, list or NULL, in their order."""
    old = "source" not in first.lower()
    word = "MASTER" if old else "SOURCE"
    parsed = parse(
        f"{first} TO {word}_HOST='h', {word}_PORT = 3307, {word}_HEARTBEAT_PERIOD=2.5, "
        f"GET_{word}_PUBLIC_KEY=1, IGNORE_SERVER_IDS=(1, 2), PRIVILEGE_CHECKS_USER=NULL, "
        "REQUIRE_TABLE_PRIMARY_KEY_CHECK=STREAM FOR CHANNEL 'c'"
    )

    assert parsed == ChangeSource(
        options=(
            ("SOURCE_HOST", "h"),
            ("SOURCE_PORT", 3307),
            ("SOURCE_HEARTBEAT_PERIOD", "2.5"),
            ("GET_SOURCE_PUBLIC_KEY", 1),
            ("IGNORE_SERVER_IDS", "1,2"),
            ("PRIVILEGE_CHECKS_USER", None),
            ("REQUIRE_TABLE_PRIMARY_KEY_CHECK", "STREAM"),
        ),
        channel="c",
    )


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("CHANGE REPLICATION SOURCE TO", 1064),
        ("CHANGE REPLICATION SOURCE TO SOURCE_HOST 'h'", 1064),
        ("CHANGE REPLICATION SOURCE TO SOURCE_NAME='h'", 1064),
        ("CHANGE REPLICATION SOURCE TO 'SOURCE_HOST'='h'", 1064),
        ("CHANGE REPLICATION SOURCE TO SOURCE_HOST='h',", 1064),
        ("CHANGE REPLICATION SOURCE TO SOURCE_HOST='h' FOR", 1064),
        ("CHANGE REPLICATION FILTER REPLICATE_DO_DB=(a)", 1235),
        ("START", 1064),
        ("START REPLICA IO_THREAD,", 1064),
        ("START REPLICA SQL_THREAD", 1235),
        ("START REPLICA UNTIL SQL_BEFORE_GTIDS='x'", 1235),
        ("START REPLICA USER='x' PASSWORD='y'", 1235),
        ("STOP ME", 1064),
        ("RESET", 1064),
        ("FLUSH TABLES WITH READ LOCK", 1235),
        ("FLUSH", 1064),
        ("FLUSH BINARY", 1064),
        ("CREATE USER", 1064),
        ("CREATE USER a IDENTIFIED", 1064),
        ("CREATE USER a IDENTIFIED BY x", 1064),
        ("CREATE USER a IDENTIFIED WITH sha256_password BY 'x'", 1524),
        ("CREATE USER a IDENTIFIED WITH mysql_native_password AS '*00'", 1235),
        ("CREATE USER a IDENTIFIED BY RANDOM PASSWORD", 1235),
        ("CREATE USER a IDENTIFIED BY 'x' REQUIRE SSL", 1235),
        ("CREATE USER a IDENTIFIED BY 'x' ACCOUNT LOCK", 1235),
        ("CREATE USER a@'10.0.0.1' IDENTIFIED BY 'x'", 1235),
        (f"CREATE USER {'a' * 33} IDENTIFIED BY 'x'", 1470),
        ("ALTER USER a", 1235),
        ("SET PASSWORD FOR a TO RANDOM", 1235),
        ("DROP USER", 1064),
        ("GRANT role TO a", 1235),
        ("GRANT REPLICATION SLAVE TO a", 1235),
        ("GRANT REPLICATION SLAVE ON shop.* TO a", 1235),
        ("GRANT REPLICATION SLAVE ON *.t TO a", 1064),
        ("GRANT SELECT (x) ON *.* TO a", 1235),
        ("GRANT SYSTEM_USER ON *.* TO a", 1235),
        ("GRANT SUPER ON *.* TO a WITH GRANT OPTION", 1235),
        ("GRANT SUPER ON *.* FROM a", 1064),
        ("REVOKE SUPER, GRANT OPTION ON *.* FROM a", 1235),
        ("REVOKE ALL, SUPER FROM a", 1064),
        ("CREATE TABLE t (a INT)", 1235),
        ("DROP DATABASE x", 1235),
    ],
)
def test_what_is_not_done(sql: str, code: int) -> None:
    """1064 for what is no statement, 1235 for what only a server of tables does; never silence."""
    assert outcome(sql) == code


def test_every_privilege_has_its_right() -> None:
    """What the grammar takes and what is mapped are the same names."""
    assert set(RIGHTS_OF_PRIVILEGE) == PRIVILEGES


KNOWN = """
SHOW STATUS GRANTS WARNINGS VARIABLES LIKE WHERE
CHANGE REPLICATION SOURCE MASTER TO START STOP RESET REPLICA SLAVE ALL FOR CHANNEL CREATE ALTER
DROP USER IF NOT EXISTS IDENTIFIED BY WITH GRANT REVOKE ON FROM OPTION SUPER SELECT SET PASSWORD
FLUSH LOGS BINARY CURRENT_USER IO_THREAD NULL REQUIRE
'a' `a` @'%' @x a 1 2.5 ( ) , = * . *.* ;
"""
words = st.sampled_from([*KNOWN.split(), *sorted(SOURCE_OPTIONS)[:8]])


@given(st.lists(words, max_size=16))
def test_any_words_are_a_statement_or_an_error(found: list[str]) -> None:
    """Nothing but MySQLError comes out of the parser, in whatever order the words come."""
    assert outcome(" ".join(found)) in {0, 1064, 1065, 1235, 1470, 1524}


@given(st.lists(words, max_size=16), st.sampled_from(["", "admin"]))
def test_any_words_are_answered_or_refused(found: list[str], rights: str) -> None:
    """Nor out of what is answered, whoever asks."""
    on = session(MemorySource(), rights)
    with contextlib.suppress(MySQLError):
        trio.run(partial(answer, session=on, connections=MemoryConnections()), " ".join(found))


@given(st.text(max_size=40))
def test_a_password_is_read_as_it_was_written(password: str) -> None:
    """Whatever is in it."""
    quoted = password.replace("'", "''").replace("\\", "\\\\")
    parsed = parse(f"CREATE USER a IDENTIFIED BY '{quoted}'")

    assert isinstance(parsed, CreateUsers)
    assert parsed.users[0].password == password
