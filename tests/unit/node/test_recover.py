"""One member of a lost majority becomes a cluster of its own, through crashes of the recovery."""

from dataclasses import replace

import pytest

from kingbus.membership.cluster import ChangeKind, MemberChange
from kingbus.membership.member import Member
from kingbus.node.bootstrap import BootstrapConfig, prepare
from kingbus.node.changes import taken, to_conf_change
from kingbus.node.errors import RestartError
from kingbus.node.recover import plan
from kingbus.pb import peer_pb2
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.errors import WrongIdentityError
from kingbus.storage.state_store import StateStore
from kingbus.transport.codec import PROTOCOL
from kingbus.transport.hello import Refusal, judge
from tests.support.lost_majority import CLUSTER, LISTED, NEW_ID, OWN, Machine, change_entry
from tests.unit.storage.simulated_disk import PowerLostError


def assert_recovered(machine, *, kept=6):
    identity, hard_state, terms, cluster = machine.found()
    assert identity.cluster_id == cluster.cluster_id == NEW_ID
    assert identity.origin_id == identity.served_id == CLUSTER.cluster_id
    assert identity.member_id == OWN.id
    assert cluster.voters == (OWN.id,)
    assert len(cluster) == 1
    assert {member.id for member in CLUSTER} - {OWN.id} <= cluster.removed
    assert terms[:6] == [1, 1, 1, 1, 2, 2]
    assert len(terms) >= kept
    assert hard_state.commit == len(terms)
    assert hard_state.term == terms[-1] == 3
    assert terms == sorted(terms)


async def restart(machine):
    """What a start would say of the directory."""

    async def runner(function, *arguments):
        return function(*arguments)

    async def ask(url):
        raise AssertionError(url)

    disk = machine.disk

    class Directory(DataDirectory):
        has_log = True

    with Directory.open_existing(machine.path) as directory:
        database = StateStore.open(directory.state_path)
        members = database.members()
        database.close()
        config = BootstrapConfig(name="a", peer_url="http://h:1", initial_cluster=LISTED)
        prepared = await prepare(config, directory, members=members, runner=runner, ask=ask)
    assert disk.locked == set()
    return prepared


async def test_the_log_stays_and_everybody_else_goes(tmp_path):
    """Every entry is kept and committed, the others are removed for good, the ids fit."""
    machine = Machine(tmp_path)
    survivor = machine.examine()
    assert (survivor.last_index, survivor.last_term, survivor.applied) == (6, 2, 4)
    assert not survivor.is_alone
    assert len(survivor.cluster) == 3

    machine.recover()

    assert_recovered(machine)
    prepared = await restart(machine)
    assert prepared.path == "restart"
    assert prepared.identity.cluster_id == NEW_ID
    assert machine.examine().is_alone


async def test_the_old_members_are_of_another_cluster(tmp_path):
    """They are refused as such, and not told that they were removed: they may be recovered too."""
    machine = Machine(tmp_path)
    machine.recover()
    *_, cluster = machine.found()
    hello = peer_pb2.Hello(
        protocol=PROTOCOL,
        cluster_id=CLUSTER.cluster_id,
        sender=CLUSTER.named("b").id,
        receiver=OWN.id,
        lane="urgent",
    )

    assert judge(hello, member_id=OWN.id, cluster=cluster).code == Refusal.CLUSTER
    with pytest.raises(WrongIdentityError):
        machine.log(Identity(name="a", member_id=OWN.id, cluster_id=NEW_ID))


@pytest.mark.parametrize("step", ["identity", "log", "database"])
async def test_a_recovery_that_was_cut_short_is_repeated(tmp_path, step):
    """Before each step: nothing starts on what is half done, and repeating ends it the same."""

    class CrashError(Exception):
        pass

    def crash(at):
        if at == step:
            raise CrashError

    machine = Machine(tmp_path)
    with pytest.raises(CrashError):
        machine.recover(step=crash)
    if step == "identity":
        assert (await restart(machine)).identity.cluster_id == CLUSTER.cluster_id
    else:
        with pytest.raises(RestartError, match="was not finished") as raised:
            await restart(machine)
        assert "storage recover" in raised.value.explain()

    machine.recover(cluster_id=NEW_ID if step == "identity" else 0xDEF)

    assert_recovered(machine)
    assert (await restart(machine)).path == "restart"


@pytest.mark.slow
async def test_power_lost_at_any_write_of_the_log(tmp_path):
    """Whatever part of the changes the disk has kept: the repetition ends with the same members."""
    operations = 0
    done = False
    while not done:
        machine = Machine(tmp_path / str(operations))
        machine.disk.random.seed(operations)
        machine.disk.operations_left = operations
        try:
            machine.recover()
            done = True
        except PowerLostError:
            machine.disk.lose_power()
            machine.recover()
        machine.disk.operations_left = None
        assert_recovered(machine)
        operations += 1
    assert operations > 5


def test_a_learner_is_made_a_voter(tmp_path):
    """A learner may be all that is left."""
    machine = Machine(tmp_path)
    others = [m if m.id != OWN.id else replace(m, learner=True) for m in CLUSTER]
    survivor = replace(machine.examine(), cluster=replace(CLUSTER, index=3, members=tuple(others)))

    entries = plan(survivor)

    cluster = survivor.cluster
    for entry in entries:
        _, cluster, refusal = taken(entry, cluster)
        assert refusal is None
    assert cluster.voters == (OWN.id,)
    assert len(cluster) == 1


def test_changes_in_the_unapplied_log_count(tmp_path):
    """Who was added by an entry that was never applied here is taken away too."""
    new = Member(id=99, name="d", peer_urls=("http://h:4",))
    added = change_entry(7, to_conf_change(MemberChange(kind=ChangeKind.ADD, member=new)), term=2)
    machine = Machine(tmp_path, more=[added])
    assert machine.examine().cluster.get(99) is not None

    machine.recover()

    assert_recovered(machine, kept=7)


def test_a_replacement_under_way_is_ended_first(tmp_path):
    """In a joint configuration; and a member that was just being replaced is refused."""
    new = Member(id=99, name="d", peer_urls=("http://h:4",))

    def replacing(who):
        change = MemberChange(kind=ChangeKind.REPLACE, member=new, replaced=CLUSTER.named(who).id)
        return change_entry(7, to_conf_change(change), term=2)

    machine = Machine(tmp_path / "b", more=[replacing("b")])
    assert machine.examine().cluster.is_joint
    machine.recover()
    assert_recovered(machine, kept=7)

    machine = Machine(tmp_path / "a", more=[replacing("a")])
    with pytest.raises(RestartError, match="not a member of the cluster any more"):
        machine.recover()
    assert machine.examine().identity.cluster_id == CLUSTER.cluster_id


def test_recovered_twice(tmp_path):
    """The second time it is another cluster again; segments of both are known, the origin stays."""
    machine = Machine(tmp_path)
    machine.recover()
    survivor = machine.examine()
    assert survivor.is_alone

    machine.recover(cluster_id=0x123)

    identity, *_ = machine.found()
    assert identity.cluster_id == 0x123
    assert identity.former_ids == (CLUSTER.cluster_id, NEW_ID)
    assert identity.served_id == CLUSTER.cluster_id
