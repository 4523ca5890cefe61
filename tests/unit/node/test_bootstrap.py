"""Start, join or restart: which it is, and what speaks against it."""

import random
from dataclasses import replace

import pytest

from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.member import Member
from kingbus.node.bootstrap import (
    BootstrapConfig,
    Join,
    Prepared,
    Restart,
    Start,
    check_not_stale,
    decide,
    is_marked_removed,
    mark_removed,
    prepare,
)
from kingbus.node.calls import ClusterAnswer, ask_cluster, register_calls
from kingbus.node.errors import (
    BootstrapError,
    MemberRemovedError,
    RestartError,
    StaleDirectoryError,
)
from kingbus.raft.types import Entry, HardState
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.errors import WrongIdentityError
from kingbus.storage.log import LogStore, LogWrite
from kingbus.transport.errors import PeerUnreachableError
from tests.support.memory_node import eventually, loopback_cluster, run_in_thread

LISTED = (("a", ("http://h:1",)), ("b", ("http://h:2",)), ("c", ("http://h:3",)))
CLUSTER = Cluster.initial(LISTED)
CONFIG = BootstrapConfig(name="a", peer_url="http://h:1", initial_cluster=LISTED)
SEGMENT_BYTES = 1 << 20


@pytest.fixture
def directory(tmp_path):
    with DataDirectory.open_or_create(tmp_path / "data") as opened:
        yield opened


def write_something(directory):
    """Leave a log behind, as a member does that has voted."""
    log = LogStore.open(
        directory.log_path, segment_bytes=SEGMENT_BYTES, reserve_bytes=4 * SEGMENT_BYTES
    )
    write = LogWrite(entries=[Entry(1, 1)], hard_state=HardState(1, 0, 0))
    log.write(write)
    log.publish(write)
    log.close()


def answers(**by_url):
    """Peers that answer with these, by the last digit of their URL; others are unreachable."""
    asked = []

    async def ask(url):
        asked.append(url)
        answer = by_url.get(f"h{url[-1]}")
        if answer is None:
            raise PeerUnreachableError(f"{url}: refused")
        return answer

    ask.asked = asked
    return ask


def answer_of(cluster, *, bootstrapped=()):
    return ClusterAnswer(
        cluster=cluster, member_id=1, leader_id=0, bootstrapped=frozenset(bootstrapped)
    )


def identity_of(name, cluster=CLUSTER):
    return Identity(
        name=name, member_id=cluster.named(name).id, cluster_id=cluster.cluster_id, created="x"
    )


async def prepared(directory, config=CONFIG, *, ask=None, members=None):
    return await prepare(
        config, directory, members=members, runner=run_in_thread, ask=ask or answers()
    )


def test_the_path_follows_from_disk_and_state():
    """A log restarts whatever the state says; without one the state decides."""
    own = identity_of("a")
    existing = replace(CONFIG, is_new=False)

    assert isinstance(decide(CONFIG, identity=None, has_log=False), Start)
    assert isinstance(decide(CONFIG, identity=own, has_log=False), Start)
    assert decide(existing, identity=None, has_log=False) == Join(via=("http://h:2", "http://h:3"))
    for config in (CONFIG, existing):
        assert decide(config, identity=own, has_log=True) == Restart(identity=own)


@pytest.mark.parametrize(
    ("config", "how", "error", "complaint"),
    [
        (CONFIG, {"identity": None, "has_log": True}, RestartError, "whose it is"),
        (CONFIG, {"identity": identity_of("b"), "has_log": True}, RestartError, "belongs to 'b'"),
        (CONFIG, {"identity": identity_of("b"), "has_log": False}, RestartError, "'b'"),
        (
            CONFIG,
            {"identity": identity_of("a"), "has_log": True, "is_removed": True},
            MemberRemovedError,
            "removed",
        ),
        (
            replace(CONFIG, initial_cluster=LISTED[:2]),
            {"identity": replace(identity_of("a"), member_id=5), "has_log": False},
            RestartError,
            "belongs to member 5",
        ),
        (replace(CONFIG, name="z"), {"identity": None, "has_log": False}, BootstrapError, "name"),
        (
            replace(CONFIG, peer_url="http://h:9"),
            {"identity": None, "has_log": False},
            BootstrapError,
            "peer-url says http://h:9",
        ),
        (
            replace(CONFIG, initial_cluster=(*LISTED, ("d", ("http://h:3",)))),
            {"identity": None, "has_log": False},
            BootstrapError,
            "twice",
        ),
        (
            replace(CONFIG, is_new=False, initial_cluster=LISTED[:1]),
            {"identity": None, "has_log": False},
            BootstrapError,
            "no other member",
        ),
    ],
)
def test_what_does_not_fit_is_refused(config, how, error, complaint):
    """Each contradiction between disk and configuration has its error."""
    with pytest.raises(error, match=complaint):
        decide(config, **how)


async def test_a_start_needs_nobody(directory):
    """With all peers down a new member gets its identity and the entries that begin the log."""
    found = await prepared(directory)

    assert found.path == "start"
    assert found.bootstrap == CLUSTER.members
    assert found.cluster == CLUSTER.emptied()
    assert directory.identity == found.identity
    assert (found.identity.member_id, found.identity.cluster_id) == (
        CLUSTER.named("a").id,
        CLUSTER.cluster_id,
    )


async def test_a_start_may_be_repeated_until_the_log_holds_something(directory):
    """After a crash between identity and first record, the same start happens again."""
    first = await prepared(directory)
    again = await prepared(directory)

    assert replace(again, identity=first.identity) == first


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (
            answer_of(CLUSTER, bootstrapped={CLUSTER.named("a").id}),
            BootstrapError,
            "taken part in the cluster before",
        ),
        (answer_of(Cluster.initial(LISTED[:2])), BootstrapError, "members: "),
        (
            answer_of(
                CLUSTER.apply(9, MemberChange(kind=ChangeKind.REMOVE, member=CLUSTER.named("a")))
            ),
            MemberRemovedError,
            "was removed",
        ),
    ],
)
async def test_a_start_is_refused_when_a_peer_objects(directory, answer, error, complaint):
    """Lost data, another cluster, a removal: one peer that says so is enough."""
    with pytest.raises(error, match=complaint):
        await prepared(directory, ask=answers(h3=answer))
    assert directory.identity is None


async def test_a_start_goes_on_when_peers_know_nothing_bad(directory):
    """Peers of the same cluster that never heard of this member's log are no reason to stop."""
    ask = answers(h2=answer_of(CLUSTER, bootstrapped={CLUSTER.named("b").id}))

    assert (await prepared(directory, ask=ask)).path == "start"
    assert sorted(ask.asked) == ["http://h:2", "http://h:3"]


@pytest.mark.parametrize("known", ["", "5e", "c0ffee"])
@pytest.mark.parametrize("configured", ["", "5e"])
async def test_a_key_that_is_not_the_clusters_is_refused(directory, configured, known):
    """On a start and on a join alike, before anything is written; not if it is not known."""
    for keyless, answer in ((CONFIG, answer_of(CLUSTER)), (JOINING, answer_of(GROWN))):
        ask = answers(h2=replace(answer, key_id=known))
        config = replace(keyless, key_id=configured)
        if configured and known == "c0ffee":
            with pytest.raises(BootstrapError, match="cluster-key-file holds key 5e, http://h:2"):
                await prepared(directory, config, ask=ask)
            assert directory.identity is None
        else:
            assert (await prepared(directory, config, ask=ask)).path in {"start", "join"}
            (directory.path / "identity.json").unlink()
            directory._identity = None


ADDED = Member(id=77, name="d", peer_urls=("http://h:4",), learner=True, promote=True)
GROWN = CLUSTER.apply(12, MemberChange(kind=ChangeKind.ADD, member=ADDED))
JOINING = BootstrapConfig(
    name="d",
    peer_url="http://h:4",
    initial_cluster=(*LISTED, ("d", ("http://h:4",))),
    is_new=False,
)


async def test_a_joiner_takes_its_ids_from_the_cluster(directory):
    """Of several answers the newest counts; ids come from there, and the log starts empty."""
    ask = answers(h2=answer_of(CLUSTER), h3=answer_of(GROWN))
    found = await prepared(directory, JOINING, ask=ask)

    assert (found.path, found.bootstrap) == ("join", ())
    assert (found.identity.member_id, found.identity.cluster_id) == (77, CLUSTER.cluster_id)
    assert found.foreseen == GROWN
    assert found.cluster == GROWN.emptied()


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        ({"peer_url": "http://h:9"}, ["peer-url is http://h:9", "d at http://h:4"]),
        (
            {"initial_cluster": (*LISTED[:2], ("d", ("http://h:4",)))},
            ["member c .http://h:3. is missing"],
        ),
        (
            {
                "initial_cluster": (
                    ("a", ("http://h:1",)),
                    ("b", ("http://h:8",)),
                    ("x", ("http://h:3",)),
                    ("d", ("http://h:4",)),
                )
            },
            ["names x, which", "gives b the URL http://h:8", "member c .* is missing"],
        ),
    ],
)
async def test_a_join_that_differs_names_every_difference(directory, changes, complaints):
    """Names and URLs must be the cluster's; all that differs is told at once."""
    config = replace(JOINING, **changes)
    with pytest.raises(BootstrapError) as caught:
        await prepared(directory, config, ask=answers(h1=answer_of(GROWN), h3=answer_of(GROWN)))
    for complaint in complaints:
        assert caught.match(complaint)
    assert directory.identity is None


async def test_what_the_cluster_told_may_have_changed_since(directory):
    """Others came, went or moved while this node was being added: it joins, but only as itself."""
    others = (("a", ("http://h:1",)), ("b", ("http://h:8",)), ("x", ("http://h:3",)))
    told = replace(JOINING, initial_cluster=others, lists_all=False)
    elsewhere = replace(told, peer_url="http://h:9")
    with pytest.raises(BootstrapError, match="peer-url is http://h:9, the cluster has d at"):
        await prepared(directory, elsewhere, ask=answers(h1=answer_of(GROWN)))
    found = await prepared(directory, told, ask=answers(h1=answer_of(GROWN)))

    assert (found.path, found.identity.member_id, found.foreseen) == ("join", 77, GROWN)


async def test_a_join_nobody_knows_of_is_refused(directory, autojump_clock):
    """After waiting for a live peer that knows it, the joiner says what is missing."""
    with pytest.raises(BootstrapError, match="add it first"):
        await prepared(directory, JOINING, ask=answers(h1=answer_of(CLUSTER)))
    with pytest.raises(BootstrapError, match="answers"):
        await prepared(directory, JOINING)
    renamed = replace(JOINING, name="e")
    with pytest.raises(BootstrapError, match="under the name d"):
        await prepared(directory, renamed, ask=answers(h1=answer_of(GROWN)))


async def test_nobody_joins_again_without_its_log(directory):
    """It took part before and its directory is empty: refused, be it a voter or a learner."""
    voter = replace(ADDED, learner=False, promote=False)
    promoted = GROWN.apply(13, MemberChange(kind=ChangeKind.PROMOTE, member=voter))
    knows = replace(answer_of(promoted), bootstrapped=frozenset({77}))
    with pytest.raises(BootstrapError, match="taken part in the cluster before"):
        await prepared(directory, JOINING, ask=answers(h1=answer_of(promoted), h2=knows))
    learner = replace(answer_of(GROWN), bootstrapped=frozenset({77}))
    with pytest.raises(BootstrapError, match="taken part in the cluster before"):
        await prepared(directory, JOINING, ask=answers(h1=learner))
    assert directory.identity is None

    never_seen = answer_of(GROWN)
    assert (await prepared(directory, JOINING, ask=answers(h1=never_seen))).path == "join"


async def test_a_join_waits_for_a_peer_that_lags(directory, autojump_clock):
    """A follower that does not know of the new member yet is asked again."""
    turns = iter([CLUSTER, CLUSTER, GROWN])

    async def ask(_url):
        return answer_of(next(turns))

    config = replace(JOINING, initial_cluster=JOINING.initial_cluster)
    one_peer = answers()

    async def only_first(url):
        return await (ask(url) if url.endswith("1") else one_peer(url))

    found = await prepare(config, directory, members=None, runner=run_here, ask=only_first)
    assert found.identity.member_id == 77


async def run_here(function, *arguments):
    """Where the clock is a mock, a thread would let it jump."""
    return function(*arguments)


async def test_members_of_two_clusters_are_not_mixed(directory):
    """When the listed members belong to different clusters, a joiner chooses none."""
    other = replace(GROWN, cluster_id=1)
    with pytest.raises(BootstrapError, match="different clusters"):
        await prepared(directory, JOINING, ask=answers(h1=answer_of(GROWN), h2=answer_of(other)))


async def test_a_restart_goes_by_the_disk(directory):
    """With a log, the identity and members on disk count and the initial cluster does not."""
    directory.set_identity(identity_of("a"))
    write_something(directory)
    config = replace(CONFIG, initial_cluster=(("a", ("http://h:1",)),), is_new=False)
    found = await prepared(directory, config, members=GROWN.to_record())

    assert (found.path, found.cluster, found.bootstrap) == ("restart", GROWN, ())
    assert found.identity == identity_of("a")
    assert any("ignored" in note for note in found.notes)


async def test_a_restart_before_anything_was_applied(directory):
    """A joiner that crashed early knows its cluster's id and nothing else, which is enough."""
    directory.set_identity(identity_of("a"))
    write_something(directory)
    found = await prepared(directory)

    assert found.cluster == Cluster(cluster_id=CLUSTER.cluster_id)
    assert found.foreseen is None


async def test_a_joiner_remembers_whom_it_joined(directory):
    """Restarted before it applied anything it dials them: one that was removed is told so then."""
    joined = await prepared(directory, JOINING, ask=answers(h1=answer_of(GROWN)))
    write_something(directory)
    found = await prepared(directory, JOINING)
    assert (found.path, found.foreseen) == ("restart", GROWN)
    assert found.foreseen == joined.foreseen
    assert found.cluster == Cluster(cluster_id=CLUSTER.cluster_id)

    found = await prepared(directory, JOINING, members=GROWN.to_record())
    assert found.foreseen is None, "what is applied counts"


@pytest.mark.parametrize("kept", [b"", b"\xff", CLUSTER.to_record().SerializeToString()])
async def test_what_a_joiner_remembers_may_be_lost(directory, kept):
    """Damaged, or not of this member: the leader comes by itself."""
    await prepared(directory, JOINING, ask=answers(h1=answer_of(GROWN)))
    write_something(directory)
    (directory.path / "joined.members").write_bytes(kept)
    assert (await prepared(directory, JOINING)).foreseen is None


async def test_a_moved_peer_url_needs_the_clusters_consent(directory):
    """Changed in the file alone it is refused, pointing to the update; agreed on it is fine."""
    directory.set_identity(identity_of("a"))
    write_something(directory)
    config = replace(CONFIG, peer_url="http://h:9")
    with pytest.raises(RestartError, match="http://h:9") as caught:
        await prepared(directory, config, members=CLUSTER.to_record())
    assert "member update a --peer-url http://h:9" in caught.value.hint

    moved = CLUSTER.apply(
        9,
        MemberChange(
            kind=ChangeKind.UPDATE,
            member=replace(CLUSTER.named("a"), peer_urls=("http://h:9",)),
        ),
    )
    ask = answers(h3=answer_of(moved))
    found = await prepared(directory, config, members=CLUSTER.to_record(), ask=ask)
    assert found.path == "restart"


async def test_a_removed_member_does_not_start_again(directory):
    """Neither where it applied its removal, nor where it was only told of it."""
    directory.set_identity(identity_of("a"))
    write_something(directory)
    gone = CLUSTER.apply(9, MemberChange(kind=ChangeKind.REMOVE, member=CLUSTER.named("a")))
    with pytest.raises(MemberRemovedError):
        await prepared(directory, members=gone.to_record())

    assert not is_marked_removed(directory)
    mark_removed(directory, told_by=5)
    assert is_marked_removed(directory)
    with pytest.raises(MemberRemovedError):
        await prepared(directory, members=CLUSTER.to_record())


async def test_an_identity_never_changes(directory):
    """A directory whose identity was written for other ids is refused, not rewritten."""
    directory.set_identity(identity_of("d", GROWN))
    other = replace(GROWN, members=(*CLUSTER.members, replace(ADDED, id=78)))
    with pytest.raises(WrongIdentityError):
        await prepared(directory, JOINING, ask=answers(h1=answer_of(other)))


async def test_members_answer_what_is_asked_of_them():
    """Over real sockets: a live member tells its cluster, and who has taken part."""
    async with loopback_cluster("a", "b") as cluster:
        leader = await cluster.elect("a")
        for process in cluster.running():
            register_calls(process.transport, process.node, took_part=lambda _: False)
        await eventually(lambda: len(cluster.members["b"].node.cluster) == 2)
        answer = await ask_cluster(cluster.url("b"))

        assert answer.cluster == leader.node.cluster
        assert answer.member_id == cluster.ids["b"]
        assert answer.leader_id == cluster.ids["a"]
        assert answer.bootstrapped == set(cluster.ids.values())


def test_an_answer_reads_back():
    """What a member says of its cluster survives the call; nonsense is a ValueError."""
    answer = answer_of(GROWN, bootstrapped={1, 2})

    assert ClusterAnswer.decode(answer.encode()) == answer
    for nonsense in (b"", b"[]", b"{}", b'{"cluster_id": 5}', random.Random(1).randbytes(50)):
        with pytest.raises(ValueError, match="not an answer"):
            ClusterAnswer.decode(nonsense)


async def test_a_torn_first_write_starts_anew(directory):
    """Also when the others have heard of this member; who joins goes on with what there is."""
    log = LogStore.open(
        directory.log_path, segment_bytes=SEGMENT_BYTES, reserve_bytes=4 * SEGMENT_BYTES
    )
    write = LogWrite(entries=[Entry(1, 1)])
    log.write(write)
    log.abandon()
    own = CLUSTER.named("a")
    directory.set_identity(identity_of("a"))
    answer = ClusterAnswer(
        cluster=CLUSTER, member_id=2, leader_id=2, bootstrapped=frozenset({own.id})
    )
    ask = answers(h2=answer)

    assert (await prepared(directory, ask=ask)).path == "start"
    joining = replace(CONFIG, is_new=False)
    assert (await prepared(directory, joining, ask=ask)).path == "restart"


@pytest.mark.parametrize(
    ("term", "last", "stale"),
    [(5, 10, True), (4, 99, True), (5, 11, False), (6, 1, False)],
)
async def test_an_older_copy_of_a_directory_is_noticed(term, last, stale):
    """A leader that still runs knows what was acknowledged to it; another cluster's does not."""
    own = CLUSTER.named("a")
    answer = ClusterAnswer(
        cluster=CLUSTER,
        member_id=2,
        leader_id=2,
        bootstrapped=frozenset(),
        acknowledged={own.id: (5, 11)},
    )
    assert ClusterAnswer.decode(answer.encode()) == answer
    found = Prepared(path="restart", identity=identity_of("a"), cluster=CLUSTER)
    ask = answers(h2=answer)

    if stale:
        with pytest.raises(StaleDirectoryError, match="in term 5, that it had index 11"):
            await check_not_stale(found, HardState(term, 0, 0), last, ask=ask)
    else:
        await check_not_stale(found, HardState(term, 0, 0), last, ask=ask)
    other = answers(h2=replace(answer, cluster=replace(CLUSTER, cluster_id=9)))
    await check_not_stale(found, HardState(1, 0, 0), 1, ask=other)
    await check_not_stale(found, HardState(1, 0, 0), 1, ask=answers())


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_database_without_its_log_is_not_begun_with(directory, is_new):
    """Whoever loses the log alone lost what it promised, like whoever loses all."""
    config = replace(CONFIG, is_new=is_new)

    with pytest.raises(RestartError, match="its log is empty"):
        await prepared(directory, config, members=CLUSTER.to_record())
