"""The listener follows what is stored, and nothing listens that is not."""

from collections.abc import Callable

import pytest

from kingbus.addresses import Address
from kingbus.admin.errors import ConflictError, UnavailableError
from kingbus.admin.listener import ListenerControl
from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import ServerConfig
from kingbus.replication.users import ADMIN, REPLICATION, ServerUser, new_user

ME = 7
HERE = "127.0.0.1:3390"
THERE = "127.0.0.1:3391"


class TakenError(KingbusError):
    """As the binlog server's."""


class Server:
    """Binds in thought."""

    def __init__(self) -> None:
        self.address: Address | None = None
        self.users: list[ServerUser] = []
        self.taken: set[str] = set()

    @property
    def is_running(self) -> bool:
        return self.address is not None

    async def start(self, address: Address) -> Address:
        if str(address) in self.taken:
            raise TakenError(f"listen on {address}: address already in use")
        self.address = address
        return address

    async def stop(self) -> None:
        self.address = None

    def set_users(self, users: list[ServerUser]) -> None:
        self.users = users

    def replicas(self) -> list[object]:
        return []


class Rig:
    def __init__(self) -> None:
        self.server = Server()
        self.state = RelayState()
        self.has_leader = True
        self.stores = 0
        self.control = ListenerControl(
            server=self.server,  # type: ignore[arg-type]
            member_id=ME,
            state=lambda: self.state,
            store=self.store,
            runner=self.run,
        )

    async def store(self, config: ServerConfig) -> None:
        if not self.has_leader:
            raise UnavailableError("no leader")
        self.stores += 1
        self.state.servers[config.member_id] = config

    @staticmethod
    async def run(function: Callable[..., object], *arguments: object) -> object:
        return function(*arguments)

    @property
    def listening(self) -> str | None:
        return str(self.server.address) if self.server.address is not None else None

    def accepts(self, password: str) -> bool:
        return [user.verifier.check_password(password.encode()) for user in self.server.users] == [
            True
        ]


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_start_binds_and_stores(rig: Rig) -> None:
    """Address and user are stored, the password only as a verifier that it opens."""
    await rig.control.start(HERE, "relay", "hunter2")

    assert rig.listening == HERE
    stored = rig.state.servers[ME]
    assert (stored.started, stored.address, stored.users[0].name) == (True, HERE, "relay")
    assert b"hunter2" not in stored.SerializeToString()
    assert rig.accepts("hunter2")
    assert not rig.accepts("hunter3")


async def test_equal_arguments_store_nothing_new(rig: Rig) -> None:
    """The same again is no change; a new password is one, and the address stays."""
    await rig.control.start(HERE, "relay", "hunter2")
    await rig.control.start(HERE, "relay", "hunter2")
    assert rig.stores == 1

    await rig.control.start(HERE, "relay", "hunter3")
    assert rig.stores == 2
    assert rig.accepts("hunter3")
    assert rig.listening == HERE


async def test_a_taken_address_changes_nothing(rig: Rig) -> None:
    """Neither what is stored nor where it listened before."""
    await rig.control.start(HERE, "relay", "hunter2")
    rig.server.taken.add(THERE)

    with pytest.raises(ConflictError, match=f"listen on {THERE}: address already in use"):
        await rig.control.start(THERE, "relay", "hunter2")
    assert rig.listening == HERE
    assert rig.stores == 1


async def test_what_cannot_be_stored_is_not_served(rig: Rig) -> None:
    """Without a leader the listener is as it was before: off, or at the old address."""
    rig.has_leader = False
    with pytest.raises(UnavailableError):
        await rig.control.start(HERE, "relay", "hunter2")
    assert rig.listening is None

    rig.has_leader = True
    await rig.control.start(HERE, "relay", "hunter2")
    rig.has_leader = False
    with pytest.raises(UnavailableError):
        await rig.control.start(THERE, "relay", "hunter2")
    with pytest.raises(UnavailableError):
        await rig.control.stop()
    assert rig.listening == HERE


async def test_a_restart_listens_as_stored(rig: Rig) -> None:
    """Started listens with the stored users, stopped does not; no leader is needed."""
    await rig.control.start(HERE, "relay", "hunter2")
    rig.server = restarted = Server()
    control = ListenerControl(
        server=restarted,  # type: ignore[arg-type]
        member_id=ME,
        state=lambda: rig.state,
        store=rig.store,
        runner=rig.run,
    )
    rig.has_leader = False
    await control.reconcile()
    assert rig.listening == HERE
    assert rig.accepts("hunter2")

    rig.has_leader = True
    await control.stop()
    assert rig.listening is None
    assert rig.state.servers[ME].address == HERE
    await control.reconcile()
    assert rig.listening is None


async def test_a_configured_listener_serves_before_it_is_stored(rig: Rig) -> None:
    """It accepts at once and survives reconciliation until there is a leader to store it."""
    rig.has_leader = False
    await rig.control.open(Address.parse(HERE), "relay", "hunter2")
    assert rig.listening == HERE
    assert rig.accepts("hunter2")
    with pytest.raises(UnavailableError):
        await rig.control.settle()
    await rig.control.reconcile()
    assert rig.listening == HERE

    rig.has_leader = True
    await rig.control.settle()
    assert rig.state.servers[ME].address == HERE
    await rig.control.settle()
    assert rig.stores == 1


async def test_another_node_stopping_its_listener_is_not_mine(rig: Rig) -> None:
    """Only the configuration of this member counts."""
    await rig.control.start(HERE, "relay", "hunter2")
    rig.state.servers[ME + 1] = ServerConfig(member_id=ME + 1, started=False)

    await rig.control.reconcile()
    assert rig.listening == HERE


async def test_users_of_the_cluster_are_let_in(rig: Rig) -> None:
    """Beside the listener's own, which counts where both have a name; dropped ones are not."""
    rig.state.users = {"a": new_user("a", "x", ()), "repl": new_user("repl", "other", (ADMIN,))}
    await rig.control.start(HERE, "repl", "secret")
    assert [user.name for user in rig.server.users] == ["repl", "a"]
    assert rig.server.users[0].verifier.check_password(b"secret")
    assert rig.server.users[0].rights == {REPLICATION}

    rig.state.users = {"b": new_user("b", "x", ())}
    rig.control.apply_users()
    assert [user.name for user in rig.server.users] == ["repl", "b"]
    rig.state.users = {}
    await rig.control.reconcile()
    assert [user.name for user in rig.server.users] == ["repl"]
