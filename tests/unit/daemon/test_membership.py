"""Real processes come and go: join with a dial back, promotion, handover, leaving, being replaced.

Without any MySQL server: what the log holds are the cluster's own entries.
"""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import KingbusCluster, KingbusNode, run_kingbus
from tests.support.processes import free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

SMALL = {"reserve-data-size": "64MB", "segment-size": "16MB"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KingbusCluster]:
    with KingbusCluster(tmp_path, settings=SMALL) as made:
        yield made


def absent() -> str:
    """A peer URL at which nobody answers."""
    return f"http://127.0.0.1:{free_port()}"


def names(node: KingbusNode) -> list[tuple[str, str, bool]]:
    """The members as a node lists them: who, where, and whether it votes."""
    listed = node.get("/members")
    return [(each["name"], each["peerURLs"][0], not each["isLearner"]) for each in listed]


def wait_quiet(cluster: KingbusCluster, node: KingbusNode) -> None:
    """Until the leader has not heard from a node for longer than an election takes."""
    leader = cluster.leader()

    def unheard() -> bool:
        answer = leader.request("POST", "/leader/transfer", {"name": node.name})
        return answer.status == 409 and "is not up" in answer.message

    wait_for(unheard, what=f"the leader to miss {node.name}", explain=cluster.logs)


def test_joining_with_a_wildcard_and_leaving(cluster: KingbusCluster, tmp_path: Path) -> None:
    """Its address is the one that it was seen at, over restarts too; it leaves as leader.

    Its directory is of no use any more then, and with an empty one it gets another id.
    """
    via = cluster.followers()[0].admin_url
    node = cluster.newcomer("n4")
    node.configure(peer_url=node.peer_url.replace("127.0.0.1", "0.0.0.0"))
    assert node.start(via=via)["peer"] == node.peer_url
    joined = cluster.wait_voter("n4")
    assert joined["peerURLs"] == [node.peer_url]

    node.kill9()
    ready = node.start(via=via)
    assert (ready["peer"], ready["id"]) == (node.peer_url, joined["Id"])
    assert "belongs to a member already" in node.output()

    cluster.leader()
    moved = node.command("member", "transfer-leader", "n4")
    assert (moved.returncode, moved.stdout.strip()) == (0, "n4 leads"), moved.stderr
    assert cluster.leader() is node
    left = run_kingbus("leave", "--config", str(node.config_file))
    assert left.returncode == 0, left.stderr
    assert node.wait_end() == 0
    assert "removed from the cluster" in node.output()
    assert cluster.member("n4") is None

    node.kill9()
    node.launch(via=via)
    assert node.wait_end() == 1
    assert "removed from the cluster" in node.output()

    node.kill9()
    node.configure(data_dir=str(tmp_path / "anew"))
    assert node.start(via=via)["id"] != joined["Id"]
    cluster.wait_voter("n4")


def test_a_learner_is_promoted_when_it_has_caught_up(
    cluster: KingbusCluster, tmp_path: Path
) -> None:
    """Refused before it runs; `join --learner` stays a learner until it is asked for."""
    leader = cluster.leader()
    added = leader.command("member", "add", "n5", "--peer-url", absent(), "--learner")
    assert added.returncode == 0, added.stderr
    early = leader.command("member", "promote", "n5")
    assert (early.returncode, "caught up" in early.stderr) == (1, True)
    assert leader.request("POST", "/members/promote", {"name": "n5"}).status == 409
    assert leader.command("member", "remove", "n5").returncode == 0
    assert leader.request("DELETE", "/members", {"name": "n5"}).status == 410

    node = cluster.newcomer("n4")
    node.start(via=leader.admin_url, learner=True)
    assert cluster.wait_member("n4")["isLearner"] is True

    def promoted() -> bool:
        return leader.command("member", "promote", "n4").returncode == 0

    wait_for(promoted, what="the promotion", explain=cluster.logs)
    assert cluster.wait_member("n4")["isLearner"] is False
    assert node.status()["role"] == "follower"


def test_a_join_that_is_refused_changes_nothing(cluster: KingbusCluster, tmp_path: Path) -> None:
    """A taken name, and no cluster at all: exit 1, one line, no directory of a member."""
    twin = KingbusNode("n2", tmp_path / "twin", settings=SMALL)
    twin.launch(via=cluster.leader().admin_url)
    assert twin.wait_end() == 1
    assert "n2 exists already" in twin.output()
    assert not (twin.data_dir / "identity.json").exists()

    lost = cluster.newcomer("n4")
    lost.launch(via=absent())
    assert lost.wait_end() == 1
    assert "is that node running, and is --via its admin-url?" in lost.output()
    assert len(cluster.leader().get("/members")) == 3


def test_a_member_is_replaced_in_one_step(cluster: KingbusCluster, tmp_path: Path) -> None:
    """The leader itself, by a learner that has caught up: it hands over, stops and stays out."""
    node = cluster.newcomer("n4")
    old = cluster.leader()
    node.start(via=old.admin_url, learner=True)
    early = old.command("member", "replace", old.name, "n9", "--peer-url", old.peer_url)
    assert (early.returncode, "belongs to" in early.stderr) == (1, True)

    # It waits for nobody but itself: who has caught up is one also for the leader that is new.
    wait_for(lambda: node.status()["applied_index"] >= old.status()["commit_index"], what="n4")
    done = node.command("member", "replace", old.name, "n4")
    assert done.returncode == 0, (done.stderr, cluster.logs())
    assert old.wait_end() == 0
    assert "removed from the cluster" in old.output()
    old.kill9()
    members = {each["name"]: each["isLearner"] for each in cluster.leader().get("/members")}
    assert members == dict.fromkeys({"n1", "n2", "n3", "n4"} - {old.name}, False)
    assert node.status()["role"] in {"leader", "follower"}
    cluster.wait_equal()


def test_members_move_one_after_the_other(cluster: KingbusCluster) -> None:
    """Told at the member itself, the leader among them: it is told, then restarted at its new URL.

    While one is away no other moves, and at its old URL it does not start again unnoticed.
    """
    for node in list(cluster):
        new_url = absent()
        moved = node.command("member", "update", node.name, "--peer-url", new_url)
        assert moved.returncode == 0, (moved.stderr, cluster.logs())
        assert new_url in moved.stdout
        cluster.wait_equal()  # it goes on until it is restarted
        node.kill9()
        wait_quiet(cluster, node)
        for other in cluster.running:
            refused = other.command("member", "update", other.name, "--peer-url", absent())
            assert refused.returncode == 1
            assert "2 of the 3 voters after it must be up" in refused.stderr
        node.launch()
        assert node.wait_end() == 1
        assert f"the cluster knows {node.name} at {new_url}" in node.output()
        node.kill9()
        node.peer_url = new_url
        node.configure(
            initial_cluster=None
        )  # ignored once there is a log, but it names the old URL
        assert node.start()["peer"] == new_url
        cluster.wait_equal()


def test_a_leader_that_hangs_is_not_waited_for_in_vain(cluster: KingbusCluster) -> None:
    """A change asked at a follower while the leader is stopped is made by the next one, once."""
    for change, names_after in (
        (("POST", "/members", {"name": "l1", "peer_url": absent(), "learner": True}), 4),
        (("DELETE", "/members", {"name": "l1"}), 3),
    ):
        leader, asked = cluster.leader(), cluster.followers()[0]
        os.kill(leader.pid, signal.SIGSTOP)
        try:
            assert len(asked.ask(*change)) == names_after
        finally:
            os.kill(leader.pid, signal.SIGCONT)
        cluster.wait_equal()
        assert len(leader.get("/members")) == names_after


def test_what_cannot_be_is_refused_and_changes_nothing(cluster: KingbusCluster) -> None:
    """Each impossible request has its status and says in its own words what is wrong, whichever
    node is asked; the members are the same afterwards."""
    leader = cluster.leader()
    follower, other = cluster.followers()
    leader.ask("POST", "/members", {"name": "gone", "peer_url": absent(), "learner": True})
    leader.ask("DELETE", "/members", {"name": "gone"})
    leader.ask("POST", "/members", {"name": "l1", "peer_url": absent(), "learner": True})
    before = names(leader)
    name, mine, theirs = follower.name, follower.peer_url, other.peer_url
    joins = {"dial_back": "5" * 32, "promote": True}
    refusals = [
        ("POST /members", {"name": name, "peer_url": absent()}, 409, f"named {name} exists"),
        ("POST /members", {"name": "n9", "peer_url": mine}, 409, f"{mine} belongs to {name}"),
        ("POST /members", {"name": "l1", "peer_url": absent()}, 409, "named l1 exists"),
        ("POST /members", {"name": "a b", "peer_url": absent()}, 400, "'a b' cannot name"),
        ("POST /members", {"name": "n9", "peer_url": "http://0.0.0.0:9"}, 400, "peer_url must be"),
        ("POST /members", {"name": "n9", "peer_url": "10.0.0.1"}, 400, "must be http://HOST:PORT"),
        ("POST /members", {"name": "n9"}, 400, "peer_url is required"),
        ("POST /members", {"name": "n9", "peer_url": absent(), **joins}, 409, "cannot be reached"),
        ("POST /members", {"name": "n9", "peer_url": mine, **joins}, 409, "by somebody else"),
        ("PUT /members", {"name": name, "new_peer_url": theirs}, 409, f"to {other.name}"),
        ("PUT /members", {"name": "n9", "new_peer_url": absent()}, 404, "'n9' is unknown"),
        ("PUT /members", {"name": name, "new_peer_url": "ftp://h:1"}, 400, "must be http"),
        ("DELETE /members", {"name": "n9"}, 404, "'n9' is unknown"),
        ("DELETE /members", {"name": "gone"}, 410, "'gone' was removed"),
        ("DELETE /members", {"name": name, "peer_url": theirs}, 404, f"has no peer URL {theirs}"),
        ("POST /members/promote", {"name": "l1"}, 409, "l1 has not caught up"),
        ("POST /members/promote", {"name": "n9"}, 404, "'n9' is unknown"),
        ("POST /members/promote", {"name": "gone"}, 410, "'gone' was removed"),
        ("POST /members/replace", {"name": name, "new_name": "l1"}, 409, "l1 has not caught up"),
        ("POST /members/replace", {"name": name, "new_name": name}, 409, "is a voter already"),
        ("POST /members/replace", {"name": name, "new_name": "n9"}, 404, "'n9' is unknown"),
        ("POST /members/replace", {"name": name, "new_name": "gone"}, 410, "'gone' was removed"),
        ("POST /members/replace", {"name": "n9", "new_name": "l1"}, 404, "'n9' is unknown"),
        ("POST /members/replace", {"name": "l1", "new_name": name}, 409, "l1 is a learner"),
        ("POST /leader/transfer", {"name": "l1"}, 409, "l1 is a learner and cannot lead"),
        ("POST /leader/transfer", {"name": "n9"}, 404, "'n9' is unknown"),
        ("POST /leader/transfer", {"name": "gone"}, 410, "'gone' was removed"),
    ]
    for route, body, status, words in refusals:
        method, path = route.split()
        for node in (leader, follower):
            answer = node.request(method, path, body)
            assert (answer.status, words in answer.message) == (status, True), (route, body, answer)
    assert names(leader) == before
    # What is so already is no refusal.
    assert leader.ask("POST", "/leader/transfer", {"name": leader.name})["name"] == leader.name
    assert follower.ask("POST", "/members/promote", {"name": name}) == leader.get("/members")
    assert cluster.leader() is leader


def test_a_refusal_at_the_command_line(cluster: KingbusCluster, tmp_path: Path) -> None:
    """Exit code 1, nothing on stdout, one line that begins with the program's name, with a hint."""
    leader = cluster.leader()
    stranger = KingbusNode("n9", tmp_path / "n9", settings=SMALL)
    stranger.write_config()
    leave = ("leave", "--config", str(stranger.config_file))
    alone = run_kingbus(*leave)
    assert alone.returncode == 1
    assert "(if this node does not run, name another member with --via)" in alone.stderr
    leader.ask("POST", "/members", {"name": "l1", "peer_url": absent(), "learner": True})
    for words, what in (
        (("member", "remove", "n9"), "member 'n9' is unknown"),
        (("member", "promote", "l1"), "(Try again when its log has caught up"),
        (("member", "add", "l1", "--peer-url", absent()), "named l1 exists already"),
        (("member", "transfer-leader", "l1"), "cannot lead"),
        (("member", "replace", "l1", "n9", "--peer-url", absent()), "(Remove the learner"),
        (leave, "member 'n9' is unknown"),
        ((*leave, "--via", absent()), "is --via its admin-url?)"),
        ((*leave, "--via", leader.admin_url), "member 'n9' is unknown"),
    ):
        answer = leader.command(*words)
        lines = answer.stderr.splitlines()
        assert (answer.returncode, answer.stdout, len(lines)) == (1, "", 1), (words, answer)
        assert lines[0].startswith("kingbus: "), lines
        assert what in lines[0], lines


def test_a_quorum_of_present_voters_stays(cluster: KingbusCluster) -> None:
    """With one of three down nothing is done that needs it, and it may go itself; then the two are
    taken apart down to the last, which stays."""
    leader = cluster.leader()
    follower, down = cluster.followers()
    down.kill9()
    wait_quiet(cluster, down)
    before = names(leader)
    by = {"new_name": "n9", "peer_url": absent()}
    for method, path, body, words in (
        ("DELETE", "/members", {"name": follower.name}, "2 of the 2 voters after it must be up"),
        ("DELETE", "/members", {"name": leader.name}, "2 of the 2 voters after it must be up"),
        ("POST", "/members", {"name": "n9", "peer_url": absent()}, "3 of the 4 voters after it"),
        ("POST", "/members/replace", {"name": follower.name, **by}, f"{follower.name} by n9: 2 of"),
        ("POST", "/members/replace", {"name": leader.name, **by}, f"{leader.name} by n9: 2 of"),
        ("POST", "/leader/transfer", {"name": down.name}, f"{down.name} is not up"),
    ):
        answer = follower.request(method, path, body)
        assert (answer.status, words in answer.message) == (409, True), (path, body, answer)
    assert names(leader) == before
    assert cluster.leader() is leader  # nobody handed over what could not be done

    follower.ask("DELETE", "/members", {"name": down.name})
    cluster.nodes.remove(down)
    leader.ask("DELETE", "/members", {"name": leader.name})
    cluster.wait_gone(leader)
    for words in (
        ("member", "remove", follower.name),
        ("leave", "--config", str(follower.config_file)),
    ):
        answer = follower.command(*words)
        assert answer.returncode == 1
        assert f"{follower.name} is the last voter of the cluster" in answer.stderr
    alone = follower.command("member", "transfer-leader")
    assert (alone.returncode, "no other voter is up" in alone.stderr) == (1, True)
    assert cluster.leader() is follower


def test_changes_behind_each_other_are_not_refused(cluster: KingbusCluster) -> None:
    """Asked for all at once at different nodes, each is made; so is one right behind a handover."""
    wanted = {f"l{number}": absent() for number in range(6)}

    def add(number: int) -> int:
        name, url = list(wanted.items())[number]
        body = {"name": name, "peer_url": url, "learner": True}
        return cluster.nodes[number % 3].request("POST", "/members", body).status

    with ThreadPoolExecutor() as pool:
        assert set(pool.map(add, range(len(wanted)))) == {200}
    leader = cluster.leader()
    assert {(name, url) for name, url, votes in names(leader) if not votes} == set(wanted.items())
    for name in wanted:
        target = cluster.followers()[0]
        leader.ask("POST", "/leader/transfer", {"name": target.name})
        leader.ask("DELETE", "/members", {"name": name})
        assert cluster.leader() is target
        leader = target
    assert len(names(leader)) == 3


def test_several_join_and_leave_at_once(tmp_path: Path) -> None:
    """One node becomes five, and is one again, without anybody waiting for anybody else."""
    with KingbusCluster(tmp_path, count=1, settings=SMALL) as cluster:
        first = cluster.nodes[0]
        joining = [cluster.newcomer(f"x{number}") for number in range(4)]
        for node in joining:
            node.launch(via=first.admin_url)
        for node in joining:
            node.wait_ready()
        for node in joining:
            cluster.wait_voter(node.name)
        assert len(names(first)) == 5

        def leave(node: KingbusNode) -> int:
            return run_kingbus("leave", "--config", str(node.config_file)).returncode

        with ThreadPoolExecutor() as pool:
            assert set(pool.map(leave, joining)) == {0}
        for node in joining:
            cluster.wait_gone(node)
        assert [name for name, _, _ in names(first)] == [first.name]
        assert cluster.leader() is first


def test_a_directory_of_another_cluster_does_not_join(
    cluster: KingbusCluster, tmp_path: Path
) -> None:
    """Refused by naming both clusters; where nobody answers it goes on as the member that it is."""
    with KingbusCluster(tmp_path / "other", count=1, settings=SMALL) as elsewhere:
        node = elsewhere.nodes[0]
        theirs, ours = (each.leader().status()["cluster_id"] for each in (elsewhere, cluster))
        node.stop()
        node.launch(via=cluster.leader().admin_url)
        assert node.wait_end() == 1
        assert f"a member of cluster {theirs}" in node.output()
        assert f"the cluster asked is {ours}" in node.output()
        assert len(names(cluster.leader())) == 3
        node.kill9()
        node.start(via=absent())
        assert node.status()["cluster_id"] == theirs
