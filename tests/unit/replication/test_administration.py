"""What administrators ask of a relay: who may, what it becomes, and how it is refused."""

import pytest

from kingbus.mysql.errors import MySQLError
from kingbus.replication.admin_statements import AccountPassword
from kingbus.replication.administration import SourceChange, UserOrder
from kingbus.replication.queries import Session, answer
from kingbus.replication.replica_status import ReceiverFacts
from kingbus.replication.users import (
    ADMIN,
    MONITOR,
    PROCESS,
    REPLICATION,
    RIGHTS_OF_PRIVILEGE,
    privileges_of,
    rights_of,
)
from tests.unit.replication.served_facts import (
    MemoryAdministration,
    MemoryConnections,
    MemorySource,
)
from tests.unit.replication.test_queries import ask, error, process, session


def administrator() -> tuple[Session, MemorySource]:
    source = MemorySource()
    return session(source, rights="admin"), source


CHANGES = [
    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='h'",
    "CHANGE MASTER TO MASTER_HOST='h'",
    "START REPLICA",
    "STOP SLAVE",
    "RESET REPLICA ALL",
    "FLUSH BINARY LOGS",
    "CREATE USER x IDENTIFIED BY 'y'",
    "ALTER USER x IDENTIFIED BY 'y'",
    "DROP USER x",
    "GRANT SUPER ON *.* TO repl",
    "REVOKE SUPER ON *.* FROM x",
    "RESET MASTER",
    "PURGE BINARY LOGS TO 'binlog.000003'",
]


@pytest.mark.parametrize("sql", CHANGES)
@pytest.mark.parametrize("rights", ["", "replication", "replication monitor process"])
async def test_only_administrators_administer(sql: str, rights: str) -> None:
    """Everybody else is told which privilege is missing, and nothing happens."""
    source = MemorySource()

    assert await error(sql, session(source, rights)) == 1227
    assert source.administration.asked == []
    assert not source.administration.is_started
    assert source.purges == []


async def test_how_many_users_one_statement_changes() -> None:
    """Each password is work: one's own is changed once, and an administrator changes a hundred."""
    on, source = administrator()
    users = [f"u{number} IDENTIFIED BY 'x'" for number in range(101)]

    assert await error(f"CREATE USER {', '.join(users)}", on) == 1235
    assert await ask(f"CREATE USER {', '.join(users[:100])}", on) is None
    assert len(source.administration.asked) == 1
    plain = session(source, rights="replication")
    one = f"{plain.user} IDENTIFIED BY 'x'"
    assert await error(f"ALTER USER {one}, {one}", plain) == 1227
    assert await ask(f"ALTER USER {one}", plain) is None
    assert len(source.administration.asked) == 2


async def test_a_source_is_set() -> None:
    """What is said of it and nothing else; the rest is noted or refused, never taken in silence."""
    on, source = administrator()
    await ask(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='10.0.0.1', SOURCE_PORT=3307, SOURCE_USER='u', "
        "SOURCE_PASSWORD='p', SOURCE_SSL=1, SOURCE_SSL_CA='/ca.pem', "
        "SOURCE_SSL_VERIFY_SERVER_CERT=0, SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=10",
        on,
    )
    await ask("CHANGE MASTER TO MASTER_PASSWORD='q'", on)

    assert source.administration.asked == [
        SourceChange(
            host="10.0.0.1",
            port=3307,
            user="u",
            password="p",
            ssl=True,
            ssl_ca="/ca.pem",
            ssl_verify=False,
        ),
        SourceChange(password="q"),
    ]
    assert "q" not in repr(source.administration.asked[1])


async def test_what_has_no_effect_is_noted() -> None:
    """SHOW WARNINGS tells it once, and another statement ends it."""
    on, _ = administrator()
    await ask("CHANGE MASTER TO MASTER_HOST='h', MASTER_CONNECT_RETRY=10", on)

    notes = await ask("SHOW WARNINGS", on)
    assert [note[:2] for note in notes or []] == [["Note", 1105]]
    assert "SOURCE_CONNECT_RETRY" in str(notes)
    assert await ask("SHOW WARNINGS", on) == notes
    assert await ask("SHOW WARNINGS LIMIT 0", on) == []
    await ask("FLUSH BINARY LOGS", on)
    assert "FLUSH BINARY LOGS" in str(await ask("SHOW WARNINGS", on))
    await ask("SELECT 1", on)
    assert await ask("SHOW WARNINGS", on) == []


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("SOURCE_HOST=''", 1210),
        ("SOURCE_HOST='a b'", 1210),
        ("SOURCE_HOST=3", 1210),
        ("SOURCE_PORT=0", 1210),
        ("SOURCE_PORT=65536", 1210),
        ("SOURCE_PORT='3306'", 1210),
        ("SOURCE_SSL=2", 1210),
        ("SOURCE_AUTO_POSITION=0", 1235),
        ("SOURCE_LOG_FILE='binlog.000001'", 1235),
        ("SOURCE_LOG_POS=4", 1235),
        ("SOURCE_DELAY=60", 1235),
        ("IGNORE_SERVER_IDS=(1)", 1235),
        ("SOURCE_SSL_CRL='x'", 1235),
    ],
)
async def test_options_that_a_relay_cannot_follow(option: str, code: int) -> None:
    """One clear error, and nothing is set."""
    on, source = administrator()

    assert await error(f"CHANGE REPLICATION SOURCE TO SOURCE_USER='u', {option}", on) == code
    assert source.administration.asked == []


async def test_the_receiver_is_controlled() -> None:
    """Started and stopped; the second time is noted as MySQL does; other channels are not there."""
    on, source = administrator()
    await ask("START REPLICA", on)
    assert source.administration.is_started
    assert await error("CHANGE REPLICATION SOURCE TO SOURCE_HOST='h'", on) == 3021
    await ask("START SLAVE IO_THREAD", on)
    assert [note[1] for note in await ask("SHOW WARNINGS", on) or []] == [3083]
    await ask("STOP REPLICA", on)
    assert not source.administration.is_started
    await ask("STOP REPLICA", on)
    assert [note[1] for note in await ask("SHOW WARNINGS", on) or []] == [3084]
    for sql in ("START REPLICA", "RESET REPLICA ALL", "SHOW REPLICA STATUS"):
        assert await error(f"{sql} FOR CHANNEL 'x'", on) == 3074
    assert await error("RESET REPLICA", on) == 1235
    await ask("RESET REPLICA ALL", on)
    assert source.administration.asked == ["forget"]


async def test_users_are_changed() -> None:
    """Each statement is one order; CURRENT_USER is who asks."""
    on, source = administrator()
    await ask("CREATE USER IF NOT EXISTS a IDENTIFIED BY 'x'", on)
    await ask("GRANT REPLICATION SLAVE, SELECT ON *.* TO a, CURRENT_USER", on)
    await ask("REVOKE ALL ON *.* FROM a", on)
    await ask("DROP USER a", on)

    assert source.administration.asked == [
        UserOrder(action="create", users=(AccountPassword(user="a", password="x"),), lenient=True),
        UserOrder(
            action="grant",
            users=(AccountPassword(user="a"), AccountPassword(user="repl")),
            rights=frozenset({REPLICATION}),
        ),
        UserOrder(
            action="revoke",
            users=(AccountPassword(user="a"),),
            rights=frozenset({REPLICATION, ADMIN, MONITOR, PROCESS}),
        ),
        UserOrder(action="drop", users=(AccountPassword(user="a"),)),
    ]
    source.administration.left_out = ["a"]
    await ask("CREATE USER IF NOT EXISTS a IDENTIFIED BY 'x'", on)
    assert "'a'@'%'" in str(await ask("SHOW WARNINGS", on))


async def test_a_user_changes_its_own_password_only() -> None:
    """Without any right, by each spelling; another's needs the right."""
    source = MemorySource()
    on = session(source, rights="")
    for sql in ("SET PASSWORD = 'x'", "ALTER USER CURRENT_USER IDENTIFIED BY 'x'"):
        await ask(sql, on)
    await ask("SET PASSWORD FOR repl = 'x'", on)

    assert (
        source.administration.asked
        == [UserOrder(action="password", users=(AccountPassword(user="repl", password="x"),))] * 3
    )
    assert await error("ALTER USER repl IDENTIFIED BY 'x', a IDENTIFIED BY 'y'", on) == 1227


async def test_grants_of_others() -> None:
    """For administrators; 1141 for nobody; a backtick in a name cannot end it."""
    on, source = administrator()
    source.administration.known = {"a`b": {MONITOR}, "c": set()}

    assert await ask("SHOW GRANTS FOR 'a`b'@'%'", on) == [
        ["GRANT REPLICATION CLIENT ON *.* TO `a``b`@`%`"]
    ]
    assert await ask("SHOW GRANTS FOR c", on) == [["GRANT USAGE ON *.* TO `c`@`%`"]]
    assert await error("SHOW GRANTS FOR d", on) == 1141
    assert await error("SHOW GRANTS FOR c", session(source)) == 1227
    own = await ask("SHOW GRANTS", session(source))
    assert own
    assert await ask("SHOW GRANTS FOR repl", session(source)) == own


async def test_rights_that_only_look() -> None:
    """REPLICATION CLIENT shows the log and the receiver, PROCESS everybody's connections."""
    connections = MemoryConnections(open=[process(1, "repl"), process(2, "other")])
    monitor, watcher = session(rights=MONITOR), session(rights=PROCESS)

    assert await ask("SHOW BINARY LOGS", monitor)
    assert await ask("SHOW REPLICA STATUS", monitor) == []
    assert await error("SHOW BINARY LOGS", watcher) == 1227
    assert len(await ask("SHOW PROCESSLIST", monitor, connections) or []) == 1
    assert len(await ask("SHOW PROCESSLIST", watcher, connections) or []) == 2
    assert await error("KILL 2", watcher, connections) == 1095


def test_what_is_shown_as_granted_gives_the_same_rights() -> None:
    """SHOW GRANTS of any rights, granted again, gives these rights and what they imply."""
    for rights in ({ADMIN}, {REPLICATION}, {MONITOR}, {PROCESS}, {ADMIN, MONITOR}, set()):
        again = rights_of(privileges_of(rights))
        assert rights <= again
        assert privileges_of(again) == privileges_of(rights)


@pytest.mark.parametrize(
    "manual",
    [
        "SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT, LOCK TABLES",
        "SELECT, REPLICATION SLAVE, REPLICATION CLIENT",
        "PROCESS, REPLICATION CLIENT, SELECT",
    ],
)
def test_what_programs_ask_to_be_granted_makes_no_administrator(manual: str) -> None:
    """The grants in the manuals of CDC clients and exporters are taken, and give no more."""
    rights = rights_of(manual.split(", "))
    assert ADMIN not in rights
    assert (REPLICATION in rights) == ("SLAVE" in manual)


def test_every_right_can_be_granted() -> None:
    """And ALL is all of them."""
    every = frozenset().union(*RIGHTS_OF_PRIVILEGE.values())
    assert every == RIGHTS_OF_PRIVILEGE["ALL"] == {REPLICATION, ADMIN, MONITOR, PROCESS}


async def test_no_error_tells_a_password() -> None:
    """Whatever is wrong with the rest of the statement."""
    on, _ = administrator()
    for sql in (
        "CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD='hunter2', SOURCE_DELAY=3",
        "CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD='hunter2', SOURCE_PORT='x'",
        "CREATE USER a IDENTIFIED BY 'hunter2' REQUIRE SSL",
    ):
        with pytest.raises(MySQLError) as caught:
            await answer(sql, session=on, connections=MemoryConnections())
        assert "hunter2" not in str(caught.value)


async def test_a_statement_for_a_channel_is_for_no_other() -> None:
    """Whatever the case of the name; START, STOP, RESET and CHANGE leave the default one alone."""
    on, source = administrator()
    named = source.administration.named["orders"] = MemoryAdministration()
    await ask("CHANGE REPLICATION SOURCE TO SOURCE_HOST='h' FOR CHANNEL 'orders'", on)
    await ask("START REPLICA FOR CHANNEL 'Orders'", on)
    assert (named.is_started, source.administration.is_started) == (True, False)
    await ask("START REPLICA FOR CHANNEL 'orders'", on)
    (note,) = await ask("SHOW WARNINGS", on) or []
    assert "channel 'orders'" in str(note[2])
    await ask("STOP REPLICA FOR CHANNEL 'orders'", on)
    await ask("RESET REPLICA ALL FOR CHANNEL 'orders'", on)
    assert len(named.asked) == 2
    assert source.administration.asked == []


async def test_the_receivers_of_all_channels_are_shown() -> None:
    """A row for each with a source, or the one that is named; an unknown one is an error."""
    on, source = administrator()
    facts = {"state": "running", "port": 3306, "user": "u"}
    source.source = ReceiverFacts(host="one", **facts)  # type: ignore[arg-type]
    two = ReceiverFacts(host="two", channel="orders", **facts)  # type: ignore[arg-type]
    source.named = {"orders": MemorySource(source=two), "empty": MemorySource()}
    rows = await ask("SHOW REPLICA STATUS", on) or []
    assert [row[1] for row in rows] == ["one", "two"]
    assert [row.count("orders") for row in rows] == [0, 1]
    (row,) = await ask("SHOW REPLICA STATUS FOR CHANNEL 'ORDERS'", on) or []
    assert row[1] == "two"
    assert await ask("SHOW REPLICA STATUS FOR CHANNEL 'empty'", on) == []
    assert await error("SHOW REPLICA STATUS FOR CHANNEL 'x'", on) == 3074
