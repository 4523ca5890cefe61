"""The membership and its changes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.errors import ConfigError
from kingbus.membership.cluster import (
    MEMBERS_MAX,
    ChangeKind,
    Cluster,
    MemberChange,
    parse_initial_cluster,
)
from kingbus.membership.errors import (
    DuplicateMemberError,
    JointConfigurationError,
    LastVoterError,
    MembershipError,
    NotALearnerError,
    NotAVoterError,
    RemovedMemberError,
    UnhealthyClusterError,
    UnknownMemberError,
)
from kingbus.membership.member import Member


def member(number, *, learner=False, promote=False, url=None):
    return Member(
        id=number,
        name=f"n{number}",
        peer_urls=(url or f"http://h:{number}",),
        learner=learner,
        promote=promote,
    )


def cluster_of(*numbers, learners=()):
    found = Cluster(cluster_id=7)
    for index, number in enumerate((*numbers, *learners), 1):
        found = found.apply(index, add(number, learner=number in learners))
    return found


def add(number, **how):
    return MemberChange(kind=ChangeKind.ADD, member=member(number, **how))


def remove(number):
    return MemberChange(kind=ChangeKind.REMOVE, member=Member(id=number, name="", peer_urls=()))


def promote(number):
    return MemberChange(kind=ChangeKind.PROMOTE, member=member(number))


def update(number, url):
    return MemberChange(kind=ChangeKind.UPDATE, member=member(number, url=url))


def swap(number, by):
    """A voter is replaced, in one step."""
    return MemberChange(kind=ChangeKind.REPLACE, member=member(by), replaced=number)


def test_initial_members_agree_without_talking():
    """The same members in any order are the same cluster with the same ids."""
    listed = [("a", ["http://h:1"]), ("b", ["http://h:2"]), ("c", ["http://h:3"])]

    assert Cluster.initial(listed) == Cluster.initial(listed[::-1])
    assert Cluster.initial(listed).cluster_id != Cluster.initial(listed[:2]).cluster_id


def test_a_removed_id_never_comes_back():
    """It is remembered over later changes and through the record, and refused."""
    found = cluster_of(1, 2, 3).apply(10, remove(3)).apply(11, add(4))
    found = Cluster.from_record(found.to_record())

    assert found.removed == {3}
    with pytest.raises(RemovedMemberError):
        found.check(add(3))
    with pytest.raises(RemovedMemberError):
        found.check(remove(3))
    with pytest.raises(RemovedMemberError):
        found.find("3")
    with pytest.raises(RemovedMemberError):
        found.find("n3")


def test_name_and_url_may_return():
    """What a removed member was called, and where it was, may be another's later."""
    found = cluster_of(1, 2, 3).apply(10, remove(3))
    again = Member(id=33, name="n3", peer_urls=("http://h:3",))

    assert found.apply(11, MemberChange(kind=ChangeKind.ADD, member=again)).named("n3").id == 33


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (add(1), DuplicateMemberError),
        (
            MemberChange(kind=ChangeKind.ADD, member=member(9, url="http://h:2")),
            DuplicateMemberError,
        ),
        (
            MemberChange(
                kind=ChangeKind.ADD, member=Member(id=9, name="n1", peer_urls=("http://h:9",))
            ),
            DuplicateMemberError,
        ),
        (
            MemberChange(kind=ChangeKind.ADD, member=Member(id=9, name="n9", peer_urls=())),
            MembershipError,
        ),
        (
            MemberChange(
                kind=ChangeKind.ADD, member=Member(id=9, name="n 9", peer_urls=("http://h:9",))
            ),
            MembershipError,
        ),
        (
            MemberChange(
                kind=ChangeKind.ADD, member=Member(id=9, name="n9", peer_urls=("http://0.0.0.0:9",))
            ),
            MembershipError,
        ),
        (remove(9), UnknownMemberError),
        (promote(9), UnknownMemberError),
        (promote(1), NotALearnerError),
        (update(9, "http://h:9"), UnknownMemberError),
        (update(1, "http://h:2"), DuplicateMemberError),
    ],
)
def test_an_impossible_change_is_refused_and_changes_nothing(change, error):
    """Each impossible change has its error, from check and from apply."""
    found = cluster_of(1, 2, 3)
    with pytest.raises(error):
        found.check(change)
    with pytest.raises(error):
        found.apply(10, change)


def test_the_last_voter_stays():
    """Neither alone nor with learners can the only voter be removed."""
    for found in (cluster_of(1), cluster_of(1, learners=(2, 3))):
        with pytest.raises(LastVoterError):
            found.check(remove(1))


def test_a_promotion_makes_a_voter():
    """Promoting moves the id from the learners to the voters and ends the wait for it."""
    found = cluster_of(1, learners=(2,)).apply(10, promote(2))

    assert (found.voters, found.learners) == ((1, 2), ())
    assert not found.get(2).promote


def test_an_update_only_moves():
    """A member that is updated keeps name, role and admin URLs."""
    found = cluster_of(1, learners=(2,)).apply(10, update(2, "http://other:2"))

    assert found.get(2) == member(2, learner=True, url="http://other:2")
    assert found.at("http://h:2") is None


def test_there_is_a_limit():
    """A cluster takes MEMBERS_MAX members and not one more."""
    found = cluster_of(*range(1, MEMBERS_MAX + 1))
    with pytest.raises(MembershipError, match="at most"):
        found.check(add(MEMBERS_MAX + 1))


@pytest.mark.parametrize(
    ("voters", "change", "active", "allowed"),
    [
        ((1,), add(2), {1}, False),
        ((1,), add(2, learner=True), {1}, True),
        ((1, 2), add(3), {1, 2}, True),
        ((1, 2), add(3), {1}, False),
        ((1, 2, 3), add(4), {1, 2, 3}, True),
        ((1, 2, 3), add(4), {1, 2}, False),
        ((1, 2, 3), remove(3), {1, 2}, True),
        ((1, 2, 3), remove(2), {1, 2}, False),
        ((1, 2), remove(2), {1}, False),  # both have to agree to it
        ((1, 2), remove(2), {1, 2}, True),
        ((1, 2, 3, 4), remove(4), {1, 2, 4}, True),
        ((1, 2, 3, 4), remove(4), {1, 4}, False),
        ((1, 2, 3, 4), remove(4), {1, 2}, False),
        ((1,), update(1, "http://x:1"), {1}, True),
        ((1, 2), update(2, "http://x:1"), {1, 2}, False),
        ((1, 2, 3), update(3, "http://x:1"), {1, 2, 3}, True),
        ((1, 2, 3), update(3, "http://x:1"), {1, 2}, True),
        ((1, 2, 3), update(1, "http://x:1"), {1, 2}, False),
        ((1, 2, 3), update(2, "http://x:1"), {1}, False),
    ],
)
def test_a_majority_must_stay_healthy(voters, change, active, allowed):
    """A change passes exactly when a majority is up of the voters before it, and of those after."""
    found = cluster_of(*voters)
    if allowed:
        found.check_health(change, active)
    else:
        with pytest.raises(UnhealthyClusterError):
            found.check_health(change, active)


def test_a_promoted_learner_counts_when_it_is_up():
    """1 + 1 learner: promoting needs both, as both are needed from then on."""
    found = cluster_of(1, learners=(2,))
    found.check_health(promote(2), {1, 2})
    with pytest.raises(UnhealthyClusterError):
        found.check_health(promote(2), {1})


def test_a_voter_is_replaced_in_two_halves():
    """Both are members until the old half is left; then the old one is removed for ever."""
    joint = cluster_of(1, 2, 3, learners=(4,)).apply(10, swap(3, 4))
    assert (joint.voters, joint.outgoing, joint.learners) == ((1, 2, 4), (1, 2, 3), ())
    assert [each.id for each in joint] == [1, 2, 3, 4]
    for change in (add(5), remove(2), update(1, "http://x:1"), swap(1, 5)):
        with pytest.raises(JointConfigurationError):
            joint.apply(11, change)

    after = joint.left(11)
    assert (after.voters, after.outgoing, after.index) == ((1, 2, 4), (), 11)
    assert after == Cluster.from_record(after.to_record())
    with pytest.raises(RemovedMemberError):
        after.find("n3")
    assert cluster_of(1, 2, 3).apply(10, swap(3, 9)).voters == (1, 2, 9)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (swap(4, 5), NotAVoterError),
        (swap(3, 2), NotALearnerError),
        (swap(3, 3), NotALearnerError),
        (swap(9, 5), UnknownMemberError),
        (
            MemberChange(kind=ChangeKind.REPLACE, member=member(5, url="http://h:3"), replaced=3),
            DuplicateMemberError,
        ),
    ],
)
def test_what_cannot_be_replaced(change, error):
    """Learners, unknown members, by a voter or by somebody at the address of another."""
    with pytest.raises(error):
        cluster_of(1, 2, 3, learners=(4,)).check(change)


def test_both_halves_of_a_replacement_must_be_healthy():
    """The new half counts a learner that is up, but not a member that has not started."""
    found = cluster_of(1, 2, 3, learners=(4,))
    found.check_health(swap(3, 4), {1, 2})
    found.check_health(swap(3, 9), {1, 2})
    found.check_health(swap(3, 4), {1, 3, 4})  # {1, 3} of the old, {1, 4} of the new
    for change, active in ((swap(3, 4), {1, 4}), (swap(3, 9), {1, 3}), (swap(3, 4), {1, 3})):
        with pytest.raises(UnhealthyClusterError):
            found.check_health(change, active)


def test_whoever_decides_is_up():
    """Every change of up to five voters and a learner, whoever is up: it passes exactly when those
    who are up are a majority in each configuration that it leads through, to the last."""

    def decides(voters, active):
        return not voters or 2 * len(set(voters) & active) > len(voters)

    passed = refused = 0
    changes = [add(9), add(9, learner=True), promote(8), remove(1), remove(8), swap(1, 8)]
    moves = [update(1, "http://x:1"), update(8, "http://x:1")]
    for size, change in itertools.product(range(1, 6), [*changes, *moves, swap(1, 9)]):
        members = (*range(1, size + 1), 8)
        found = cluster_of(*members[:-1], learners=(8,))
        try:
            after = found.apply(99, change)
        except LastVoterError:
            continue
        for up in itertools.product((False, True), repeat=len(members)):
            active = set(itertools.compress(members, up))
            led_through = (found.voters, after.voters, after.outgoing)
            wanted = all(decides(voters, active) for voters in led_through)
            if change.kind is ChangeKind.UPDATE and size > 1:
                # It may be away from then on; a single voter has nobody to be away from.
                wanted &= decides(after.voters, active - {change.member.id})
            try:
                found.check_health(change, active)
            except UnhealthyClusterError:
                assert not wanted, (size, change, active)
                refused += 1
            else:
                assert wanted, (size, change, active)
                passed += 1
    assert passed > 100
    assert refused > 100


@pytest.mark.parametrize(
    ("members", "change", "active", "hint"),
    [
        ((1,), add(2), {1}, "add it as a learner"),
        ((1,), swap(1, 2), {1}, "add it as a learner"),
        ((1, 2), update(2, "http://x:1"), {1, 2}, "replace it instead"),
        ((1, 2), swap(1, 3), {1, 2}, "add it as a learner"),
        ((1, 2, 3), update(2, "http://x:1"), {1, 2}, "that are down"),
        ((1, 2, 3), remove(1), {1, 2}, "that are down"),
        ((1, 2), remove(1), {1}, "that are down"),
    ],
)
def test_the_hint_fits_who_is_missing(members, change, active, hint):
    """It speaks of members that are down only where there are some."""
    with pytest.raises(UnhealthyClusterError) as caught:
        cluster_of(*members).check_health(change, active)
    assert hint in caught.value.hint


def test_who_is_missing_is_told():
    """The refusal says how many voters must be up, when, and which are."""
    with pytest.raises(UnhealthyClusterError, match=r"3 of the 4 voters after it.* are n1, n2$"):
        cluster_of(1, 2, 3, learners=(4,)).check_health(promote(4), {1, 2})


changes = st.one_of(
    st.builds(add, st.integers(1, 6), learner=st.booleans()),
    st.builds(remove, st.integers(1, 6)),
    st.builds(promote, st.integers(1, 6)),
    st.builds(update, st.integers(1, 6), st.sampled_from(["http://h:1", "http://x:9"])),
    st.builds(swap, st.integers(1, 6), st.integers(1, 6)),
    st.none(),  # the joint configuration, if any, is left
)


@given(st.lists(changes, max_size=30))
def test_whatever_happens_the_membership_is_sound(history):
    """Over any history: a voter once there is one, no shared name or URL, no removed id inside,
    the record is faithful, and a refused change changes nothing."""
    found = Cluster(cluster_id=7)
    for index, change in enumerate(history, 1):
        before = found
        try:
            if change is not None:
                found = found.apply(index, change)
            elif found.is_joint:
                found = found.left(index)
            else:
                continue
        except MembershipError:
            assert found == before
            continue
        assert found.index == index
        assert found.voters or not before.voters
        urls = [url for each in found for url in each.peer_urls]
        assert len(urls) == len(set(urls))
        assert len({each.name for each in found}) == len(found)
        assert not {each.id for each in found} & found.removed
        assert found.removed >= before.removed
        assert bool(found.outgoing) == found.is_joint
        assert Cluster.from_record(found.to_record()) == found


def test_members_are_found_by_name_or_id():
    """A name wins, then a hexadecimal id; anything else is unknown."""
    found = cluster_of(10, 11)

    assert found.find("n10").id == 10
    assert found.find("b").id == 11
    for text in ("zzz", "", "ffff"):
        with pytest.raises(UnknownMemberError):
            found.find(text)


def test_initial_cluster_reads_names_and_urls():
    """Repeats of a name give one member several URLs; blanks do not matter."""
    assert parse_initial_cluster(" a=http://h:1, b=http://h:2,a=http://h:3 ") == (
        ("a", ("http://h:1", "http://h:3")),
        ("b", ("http://h:2",)),
    )


def test_initial_cluster_tells_every_problem():
    """All that is wrong is reported at once, each with the part that it is about."""
    with pytest.raises(ConfigError) as caught:
        parse_initial_cluster("a,b=http://0.0.0.0:1,c=http://h:1,d=http://h:1,=http://h:2")
    found = [(problem.key, problem.got) for problem in caught.value.problems]

    assert found == [
        ("initial-cluster", got)
        for got in ("a", "b=http://0.0.0.0:1", "d=http://h:1", "=http://h:2")
    ]
    with pytest.raises(ConfigError, match="names no member"):
        parse_initial_cluster(" , ")
