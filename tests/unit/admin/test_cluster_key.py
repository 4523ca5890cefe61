"""Every member comes to the one announced key, and a wrong configured one is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kingbus.admin.cluster_key import ClusterKeyKeeper
from kingbus.admin.errors import UnavailableError
from kingbus.secrets import ClusterSecret, WrongKeyError
from kingbus.transport.errors import CallRefusedError, PeerUnreachableError
from tests.unit.admin.fakes import FakeNode, FakeReply, Member1, Pair


class Keys:
    """Carries the question between keepers."""

    def __init__(self) -> None:
        self.keepers: dict[int, ClusterKeyKeeper] = {}

    async def call(self, target: int, _method: str, body: bytes = b"", **_: float) -> FakeReply:
        if target not in self.keepers:
            raise PeerUnreachableError("down")
        try:
            return FakeReply(await self.keepers[target].handle_call(1, body))
        except CallRefusedError as error:
            return FakeReply(b"", status=error.status, message=str(error))


class Rig:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pair = Pair(with_key=False)
        self.transport = Keys()

    def keeper(self, member: Member1, configured: Path | None = None) -> ClusterKeyKeeper:
        node: FakeNode = member.node
        keeper = ClusterKeyKeeper(
            path=self.directory / f"{node.id:x}.key",
            configured=configured,
            node=node,
            transport=self.transport,  # type: ignore[arg-type]
            state=lambda: self.pair.shared.state,
            announce=self.announce,
            runner=self.run,
        )
        self.transport.keepers[node.id] = keeper
        return keeper

    async def announce(self, secret: ClusterSecret) -> None:
        await self.pair.n1.operations._leader.announce_key(secret)

    @staticmethod
    async def run(function: Callable[..., object], *arguments: object) -> object:
        return function(*arguments)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_the_leader_makes_the_key_and_the_others_fetch_it(rig: Rig) -> None:
    """Both end with the same key, each in a private file; the log has only its announcement."""
    leader, follower = rig.keeper(rig.pair.n1), rig.keeper(rig.pair.n2)
    await follower.step()
    assert follower.secret is None

    await leader.step()
    assert leader.secret is None  # announced, and looked at in the next step
    await leader.step()
    await follower.step()

    assert leader.secret is not None
    assert follower.secret == leader.secret
    for node in (rig.pair.n1.node, rig.pair.n2.node):
        assert (rig.directory / f"{node.id:x}.key").stat().st_mode & 0o777 == 0o600
    announced = rig.pair.shared.state.cluster_key
    assert announced is not None
    assert leader.secret.key not in announced.SerializeToString()


async def test_a_restarted_member_has_its_key_at_once(rig: Rig) -> None:
    """From its file, without asking anybody."""
    first = rig.keeper(rig.pair.n1)
    await first.step()
    await first.step()
    rig.transport.keepers.clear()

    again = rig.keeper(rig.pair.n1)
    await again.load()
    assert again.secret == first.secret
    assert await again.wait() == first.secret


async def test_a_made_key_that_lost_the_race_is_given_up(rig: Rig) -> None:
    """A leader that was deposed before its announcement fetches the one that counts."""
    leader, loser = rig.keeper(rig.pair.n1), rig.keeper(rig.pair.n2)
    path = rig.directory / f"{rig.pair.n2.node.id:x}.key"
    ClusterSecret.generate().store(path)
    await leader.step()
    await leader.step()

    await loser.load()
    await loser.step()
    assert loser.secret == leader.secret
    assert ClusterSecret.load(path) == leader.secret


async def test_a_configured_key_must_be_the_announced_one(rig: Rig, tmp_path: Path) -> None:
    """At the start and when the announcement comes later; the file is named."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    ClusterSecret.generate().store(right)
    ClusterSecret.generate().store(wrong)
    leader = rig.keeper(rig.pair.n1, right)
    early = rig.keeper(rig.pair.n2, wrong)
    await early.load()
    await leader.load()
    await leader.step()
    await leader.step()
    assert leader.secret == ClusterSecret.load(right)

    with pytest.raises(WrongKeyError, match="wrong"):
        await early.step()
    with pytest.raises(WrongKeyError, match="wrong"):
        await rig.keeper(rig.pair.n2, wrong).load()
    same = rig.keeper(rig.pair.n2, right)
    await same.load()
    assert same.secret == leader.secret


async def test_a_false_answer_is_not_taken(rig: Rig) -> None:
    """What does not open the announced check is no key, whoever says so."""
    secret = ClusterSecret.generate()
    await rig.announce(secret)
    liar, asker = rig.keeper(rig.pair.n1), rig.keeper(rig.pair.n2)

    async def lie(_caller: int, _body: bytes) -> bytes:
        return ClusterSecret.generate().key

    liar.handle_call = lie  # type: ignore[method-assign]
    await asker.step()
    assert asker.secret is None
    assert not (rig.directory / f"{rig.pair.n2.node.id:x}.key").exists()


async def test_waiting_for_a_key_that_nobody_has_ends(rig: Rig, autojump_clock: object) -> None:
    """With an error that says so, in bounded time."""
    with pytest.raises(UnavailableError, match="cluster key"):
        await rig.keeper(rig.pair.n2).wait()
