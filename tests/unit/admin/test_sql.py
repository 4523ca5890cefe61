"""Administration by SQL on either of two nodes: what is stored, and MySQL's own refusals."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from kingbus.admin.leader import CHANGE_SOURCE, CHANGE_USERS
from kingbus.admin.sql import SqlAdministration
from kingbus.binlog.relay_state import RelayState
from kingbus.mysql.errors import MySQLError
from kingbus.pb.command_pb2 import (
    MemberAttributes,
    ReceiverSession,
    ServerConfig,
    SourceConfig,
    TlsOptions,
    User,
)
from kingbus.replication.admin_statements import AccountPassword
from kingbus.replication.administration import SourceChange, UserAction, UserOrder
from kingbus.replication.users import ADMIN, REPLICATION, has_password
from kingbus.secrets import SOURCE_PASSWORD
from kingbus.transport.errors import PeerUnreachableError
from tests.unit.admin.fakes import Pair


class Rig:
    """Two members, and administration as it is on each."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.applied = 0
        self.follower = self._on("n2")
        self.leader = self._on("n1")

    def _on(self, name: str) -> SqlAdministration:
        member = getattr(self.pair, name)
        return SqlAdministration(
            operations=lambda: member.operations,
            state=lambda: member.node.state,
            receiver=member.receiver.status,
            own_users=list,
            users_applied=self._note,
            runner=self._run,
        )

    def _note(self) -> None:
        self.applied += 1

    @staticmethod
    async def _run(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    @property
    def state(self) -> RelayState:
        return self.pair.shared.state

    @property
    def source(self) -> SourceConfig:
        config = self.state.source_config
        assert config is not None
        return config

    @property
    def password(self) -> str:
        assert self.pair.secret is not None
        return self.pair.secret.open(self.source.password, SOURCE_PASSWORD)

    async def change(self, action: UserAction, *names: str, **more: Any) -> list[str]:
        passwords = more.pop("passwords", [None] * len(names))
        users = tuple(
            AccountPassword(user=name, password=password, native=more.get("native", True))
            for name, password in zip(names, passwords, strict=True)
        )
        more.pop("native", None)
        return list(await self.follower.change_users(UserOrder(action=action, users=users, **more)))


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def refused(awaitable: Any) -> tuple[int, str]:
    with pytest.raises(MySQLError) as caught:
        await awaitable
    return caught.value.code, caught.value.message


FORGOTTEN = "50b5308f-e4f4-11f1-a9f2-02fc00000009"
FULL = SourceChange(host="10.0.0.1", port=3307, user="u", password="p")


async def test_a_source_is_set_and_changed_in_part(rig: Rig) -> None:
    """On the follower; what is not said stays, the password sealed."""
    await rig.follower.change_source(FULL)
    assert list(rig.source.addresses) == ["10.0.0.1:3307"]
    assert (rig.source.user, rig.password, rig.source.started) == ("u", "p", False)

    await rig.follower.change_source(SourceChange(password="q"))
    await rig.follower.change_source(SourceChange(port=3308))
    assert (list(rig.source.addresses), rig.password) == (["10.0.0.1:3308"], "q")
    await rig.follower.change_source(SourceChange(host="fe80::1", user="v"))
    assert (list(rig.source.addresses), rig.source.user) == (["[fe80::1]:3308"], "v")
    assert rig.password == "q"
    assert b'"q"' not in rig.source.SerializeToString()


@pytest.mark.parametrize(
    "stored",
    [
        SourceConfig(compression="zstd", mode="gtid", flavor="mysql", start_from="now"),
        SourceConfig(semi_sync=True, mode="position", flavor="mysql", start_from="bin.000007"),
        SourceConfig(flavor="mariadb", mode="gtid", start_from="now"),
    ],
)
async def test_whatever_is_not_said_stays_as_it_is(rig: Rig, stored: SourceConfig) -> None:
    """Each setting, those that no statement can say among them, but for the user that is said."""
    config = SourceConfig(
        addresses=["a:1", "b:2"],
        user="u",
        server_id=7,
        server_uuid=FORGOTTEN,
        tls=TlsOptions(mode="verify-ca", ca="/ca", cert="/cert", key="/key"),
    )
    config.MergeFrom(stored)
    rig.state.source_config = config
    await rig.follower.change_source(SourceChange(user="v"))
    found = SourceConfig()
    found.CopyFrom(rig.source)
    found.ClearField("password")
    config.user = "v"
    assert found == config


def test_every_setting_of_a_source_is_among_those_that_stay() -> None:
    """So that one that is new is not forgotten by a change of another."""
    assert set(SourceConfig.DESCRIPTOR.fields_by_name) == {
        *("addresses", "compression", "flavor", "mode", "password", "semi_sync", "server_id"),
        *("server_uuid", "start_from", "tls", "user"),
        *("channel", "started"),  # that of the operations; a started one is refused
    }


@pytest.mark.parametrize(("flavor", "mode"), [("mariadb", "gtid"), ("mysql", "position")])
async def test_a_source_behind_a_forgotten_one_is_of_the_relays_kind(
    rig: Rig, flavor: str, mode: str
) -> None:
    """RESET REPLICA ALL forgets flavor and mode, of which statements cannot speak; the relay has
    both."""
    rig.state.source_config = SourceConfig(addresses=["a:1"], user="u", flavor=flavor, mode=mode)
    rig.state.source = ReceiverSession(flavor=flavor, mode=mode, source_uuid=FORGOTTEN)
    rig.state._names_used = {"binlog.000001": 1}
    await rig.follower.forget_source()
    await rig.follower.change_source(FULL)
    assert (rig.source.flavor, rig.source.mode) == (flavor, mode)


async def test_several_addresses_stay_where_none_is_said(rig: Rig) -> None:
    """Another user does not forget the other candidates; another host is the only one then."""
    rig.state.source_config = SourceConfig(addresses=["a:1", "b:2"], user="u", server_id=7)
    await rig.follower.change_source(SourceChange(user="v"))
    assert list(rig.source.addresses) == ["a:1", "b:2"]
    assert rig.source.server_id == 7
    await rig.follower.change_source(SourceChange(host="c"))
    assert list(rig.source.addresses) == ["c:1"]


@pytest.mark.parametrize(
    ("stored", "change", "mode"),
    [
        ("", {}, ""),
        ("required", {}, "required"),
        ("required", {"ssl": False}, "disabled"),
        ("", {"ssl": True}, "required"),
        ("preferred", {"ssl_ca": "/ca"}, "verify-ca"),
        ("disabled", {"ssl_ca": "/ca"}, "disabled"),
        ("disabled", {"ssl": True, "ssl_ca": "/ca", "ssl_verify": True}, "verify-identity"),
        ("verify-identity", {"ssl_ca": "/other"}, "verify-identity"),
        ("verify-identity", {"ssl_verify": False, "ssl_ca": "/ca"}, "verify-ca"),
    ],
)
async def test_tls_never_gets_weaker_unsaid(
    rig: Rig, stored: str, change: dict[str, Any], mode: str
) -> None:
    """Only SOURCE_SSL=0 switches it off, only VERIFY=0 ends the check of the name."""
    config = SourceConfig(addresses=["a:1"], user="u")
    if stored:
        config.tls.mode = stored
        config.tls.ca = "/stored" if stored.startswith("verify") else ""
    rig.state.source_config = config
    await rig.follower.change_source(SourceChange(user="v", **change))

    assert rig.source.tls.mode == mode


async def test_a_source_that_cannot_be(rig: Rig) -> None:
    """The leader's words, and nothing is stored."""
    code, message = await refused(rig.follower.change_source(SourceChange(user="u")))
    assert code == 1105
    assert "mysql_addr is required" in message
    assert (await refused(rig.follower.change_source(SourceChange(port=1))))[0] == 1105
    rig.state.source_config = SourceConfig(addresses=["a:1"], user="u")
    await_refused = rig.follower.change_source(SourceChange(ssl=True, ssl_cert="/c"))
    assert "cert and key go together" in (await refused(await_refused))[1]


async def test_start_and_stop(rig: Rig) -> None:
    """Checked as the API checks it; without a source, and the second time, as MySQL says it."""
    assert (await refused(rig.follower.start_receiver()))[0] == 1200
    assert not await rig.follower.stop_receiver()
    await rig.follower.change_source(FULL)
    rig.pair.n1.receiver.refusal = "Access denied for user 'u'"
    code, message = await refused(rig.follower.start_receiver())
    assert code == 1105
    assert "Access denied for user 'u'" in message
    assert not rig.source.started

    rig.pair.n1.receiver.refusal = ""
    assert await rig.follower.start_receiver()
    assert rig.pair.n1.receiver.checked[-1] == ("10.0.0.1:3307", "p")
    assert rig.source.started
    assert not await rig.follower.start_receiver()
    assert (await refused(rig.follower.change_source(SourceChange(user="w"))))[0] == 3021
    assert (await refused(rig.follower.forget_source()))[0] == 3081
    assert await rig.follower.stop_receiver()
    assert not rig.source.started


async def test_a_forgotten_source(rig: Rig) -> None:
    """Neither address nor password is left, and it cannot be started; another may be set."""
    await rig.follower.change_source(FULL)
    await rig.follower.forget_source()
    assert not rig.source.addresses
    assert not rig.source.HasField("password")
    assert (await refused(rig.follower.start_receiver()))[0] == 1200
    await rig.follower.forget_source()
    await rig.follower.change_source(FULL)
    assert list(rig.source.addresses) == ["10.0.0.1:3307"]


async def test_the_receiver_is_the_leaders(rig: Rig) -> None:
    """Asked on the follower; without a leader this node's own is told."""
    rig.pair.n1.receiver.now.status = "running"
    rig.pair.n1.receiver.now.seconds_behind_source = 3
    told = await rig.follower.receiver()
    assert (told.status, told.seconds_behind_source) == ("running", 3)

    def unreachable(_target: int) -> None:
        raise PeerUnreachableError("gone", was_sent=False)

    rig.pair.transport.before = unreachable
    assert (await rig.follower.receiver()).status == "stopped"


async def test_purge(rig: Rig) -> None:
    """1373 for a file that is not held."""
    rig.pair.n1.purger.held = {"binlog.000002"}
    await rig.follower.purge(to="binlog.000002", before=None)
    await rig.follower.purge(to="", before=0.0)
    assert rig.pair.n1.purger.asked == ["binlog.000002", 0.0]
    assert (await refused(rig.follower.purge(to="x", before=None)))[0] == 1373


async def test_users_are_made_and_changed(rig: Rig) -> None:
    """In the log, for all members, with verifiers instead of passwords."""
    await rig.change("create", "a", "b", passwords=["x", "y"])
    await rig.change("grant", "a", rights=frozenset({REPLICATION, ADMIN}))
    await rig.change("revoke", "a", rights=frozenset({ADMIN}))
    await rig.change("password", "b", passwords=["z"], native=False)
    users = rig.state.users

    assert {name: list(user.rights) for name, user in users.items()} == {
        "a": [REPLICATION],
        "b": [],
    }
    assert has_password(users["a"], "x")
    assert has_password(users["b"], "z")
    assert users["a"].native_verifier
    assert not users["b"].native_verifier
    assert rig.applied == 4
    assert rig.leader.users().keys() == {"a", "b"}
    await rig.change("drop", "a")
    assert set(rig.state.users) == {"b"}


@pytest.mark.parametrize(
    ("action", "names", "code"),
    [
        ("create", ["a"], 1396),
        ("create", ["new", "a"], 1396),
        ("create", ["listener"], 1396),
        ("password", ["nobody"], 1396),
        ("drop", ["a", "nobody"], 1396),
        ("grant", ["nobody"], 1410),
        ("revoke", ["nobody"], 1396),
        ("drop", ["listener"], 1105),
        ("grant", ["listener"], 1105),
    ],
)
async def test_refusals(rig: Rig, action: UserAction, names: list[str], code: int) -> None:
    """As MySQL numbers them, and nothing of the order is done."""
    await rig.change("create", "a", passwords=["x"])
    rig.state.servers[1] = ServerConfig(member_id=1, users=[User(name="listener")])
    before = dict(rig.state.users)
    passwords = ["x"] * len(names)
    found, _ = await refused(rig.change(action, *names, passwords=passwords))

    assert found == code
    assert rig.state.users == before


async def test_passwords_are_hashed_one_at_a_time(rig: Rig) -> None:
    """However many connections want it, the threads stay with those that read."""
    at_once: list[int] = []
    running = 0

    async def slowly(function: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal running
        running += 1
        at_once.append(running)
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return function(*arguments)

    rig.follower._runner = slowly
    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            order = UserOrder(action="create", users=(AccountPassword(user=name, password="x"),))
            nursery.start_soon(rig.follower.change_users, order)
    assert at_once == [1, 1, 1]
    assert set(rig.state.users) == {"a", "b", "c"}


async def test_lenient_orders_leave_out(rig: Rig) -> None:
    """IF EXISTS and IF NOT EXISTS do the rest, and name who was left out."""
    await rig.change("create", "a", passwords=["x"])
    left_out = await rig.change("create", "a", "b", passwords=["y", "z"], lenient=True)
    assert left_out == ["a"]
    assert has_password(rig.state.users["a"], "x")
    assert await rig.change("drop", "a", "c", lenient=True) == ["c"]
    assert set(rig.state.users) == {"b"}
    index = rig.pair.shared.index
    assert await rig.change("drop", "c", lenient=True) == ["c"]
    assert rig.pair.shared.index == index, "nothing to propose"


@pytest.mark.parametrize("password", ["", None, "x" * 257, "a\0b"])
async def test_passwords_that_cannot_be(rig: Rig, password: str | None) -> None:
    """1819, before anything is sent; a user without a password would let anybody in."""
    code, _ = await refused(rig.change("create", "a", passwords=[password]))
    assert code == 1819
    assert rig.pair.transport.calls == 0


async def test_a_repeated_order_whose_outcome_was_unknown(rig: Rig) -> None:
    """The leader's answer is lost once: the repeat finds it done, and that is success."""
    to_lose = 1

    def lose(_target: int) -> None:
        nonlocal to_lose
        to_lose -= 1
        if to_lose >= 0:
            raise PeerUnreachableError("gone", was_sent=True)

    rig.pair.transport.after = lose
    await rig.change("create", "a", passwords=["x"])
    assert set(rig.state.users) == {"a"}
    to_lose = 1
    await rig.change("drop", "a")
    assert rig.state.users == {}
    await rig.change("create", "a", passwords=["x"])
    to_lose = 1
    code, _ = await refused(rig.change("drop", "a", "nobody"))
    assert code == 1396
    assert set(rig.state.users) == {"a"}, "both attempts were refused"


async def test_nothing_is_ordered_that_a_member_is_too_old_for(rig: Rig) -> None:
    """It would pass over it, or stop: the order is refused by the member's name until it is new."""
    for member, version in ((rig.pair.n1, 2), (rig.pair.n2, 1)):
        rig.state.members[member.node.id] = MemberAttributes(
            member_id=member.node.id, command_version=version
        )
    code, message = await refused(rig.change("create", "ann", passwords=["long-enough-7"]))
    assert code == 1105
    assert "later version of kingbus than n2 runs" in message
    assert not rig.state.users
    await rig.follower.change_source(FULL)
    assert rig.source.user == "u", "what it knows goes on"
    rig.state.members[rig.pair.n2.node.id].command_version = 2
    rig.state.members[99] = MemberAttributes(member_id=99, command_version=1)
    await rig.change("create", "ann", passwords=["long-enough-7"])
    assert "ann" in rig.state.users, "a member that was removed does not count"


@pytest.mark.parametrize("lost", [False, True])
async def test_a_leader_that_is_too_old(rig: Rig, lost: bool) -> None:
    """It knows no users and no orders of SQL: that is said, and is not taken for a user that is not
    there, nor for one that is dropped by now."""
    await rig.change("create", "ann", passwords=["long-enough-7"])
    for path in (CHANGE_USERS, CHANGE_SOURCE):
        rig.pair.n1.operations._leader._routes.pop(("PUT", path))
    orders = [
        lambda: rig.change("create", "bea", passwords=["x"]),
        lambda: rig.change("grant", "ann", rights=frozenset({ADMIN})),
        lambda: rig.change("drop", "ann"),
        lambda: rig.follower.change_source(FULL),
    ]
    for order in orders:
        answers = iter([lost])

        def lose(_target: int, answers: Iterator[bool] = answers) -> None:
            if next(answers, False):
                raise PeerUnreachableError("gone", was_sent=True)

        rig.pair.transport.after = lose
        code, message = await refused(order())
        assert code == 1105
        assert "later version of kingbus than the leader runs" in message
    assert set(rig.state.users) == {"ann"}
