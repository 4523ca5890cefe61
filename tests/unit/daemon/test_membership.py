"""Real processes come and go: join with a dial back, promotion, handover, leaving, being replaced.

Without any MySQL server: what the log holds are the cluster's own entries.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
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


def newcomer(cluster: KingbusCluster, path: Path, name: str = "n4") -> KingbusNode:
    """A node with a directory of its own that the cluster does not know yet."""
    node = KingbusNode(name, path / name, settings=SMALL)
    cluster.nodes.append(node)
    return node


def member(cluster: KingbusCluster, name: str) -> dict[str, object]:
    """A member as the leader lists it; empty when it lists none of that name."""
    found = [each for each in cluster.leader().get("/members") if each["name"] == name]
    return found[0] if found else {}


def wait_voter(cluster: KingbusCluster, name: str) -> dict[str, object]:
    """Until the member votes."""

    def voter() -> dict[str, object] | None:
        found = member(cluster, name)
        return found if found and not found["isLearner"] else None

    return wait_for(voter, what=f"{name} votes", tolerate=(httpx.HTTPError,), explain=cluster.logs)


def test_joining_with_a_wildcard_and_leaving(cluster: KingbusCluster, tmp_path: Path) -> None:
    """Its address is the one that it was seen at, over restarts too; it leaves as leader.

    Its directory is of no use any more then, and with an empty one it gets another id.
    """
    via = cluster.followers()[0].admin_url
    node = newcomer(cluster, tmp_path)
    node.configure(peer_url=node.peer_url.replace("127.0.0.1", "0.0.0.0"))
    assert node.start(via=via)["peer"] == node.peer_url
    joined = wait_voter(cluster, "n4")
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
    assert member(cluster, "n4") == {}

    node.kill9()
    node.launch(via=via)
    assert node.wait_end() == 1
    assert "removed from the cluster" in node.output()

    node.kill9()
    node.configure(data_dir=str(tmp_path / "anew"))
    assert node.start(via=via)["id"] != joined["Id"]
    wait_voter(cluster, "n4")


def test_a_learner_is_promoted_when_it_has_caught_up(
    cluster: KingbusCluster, tmp_path: Path
) -> None:
    """Refused before it runs; `join --learner` stays a learner until it is asked for."""
    absent = f"http://127.0.0.1:{free_port()}"
    leader = cluster.leader()
    added = leader.command("member", "add", "n5", "--peer-url", absent, "--learner")
    assert added.returncode == 0, added.stderr
    early = leader.command("member", "promote", "n5")
    assert (early.returncode, "caught up" in early.stderr) == (1, True)
    assert leader.request("POST", "/members/promote", {"name": "n5"}).status == 409
    assert leader.command("member", "remove", "n5").returncode == 0
    assert leader.request("DELETE", "/members", {"name": "n5"}).status == 410

    node = newcomer(cluster, tmp_path)
    node.start(via=leader.admin_url, learner=True)
    assert member(cluster, "n4")["isLearner"] is True

    def promoted() -> bool:
        return leader.command("member", "promote", "n4").returncode == 0

    wait_for(promoted, what="the promotion", explain=cluster.logs)
    assert member(cluster, "n4")["isLearner"] is False
    assert node.status()["role"] == "follower"


def test_a_join_that_is_refused_changes_nothing(cluster: KingbusCluster, tmp_path: Path) -> None:
    """A taken name, and no cluster at all: exit 1, one line, no directory of a member."""
    twin = newcomer(cluster, tmp_path / "twin", "n2")
    twin.launch(via=cluster.leader().admin_url)
    assert twin.wait_end() == 1
    assert "n2 exists already" in twin.output()
    assert not (twin.data_dir / "identity.json").exists()

    lost = newcomer(cluster, tmp_path)
    lost.launch(via=f"http://127.0.0.1:{free_port()}")
    assert lost.wait_end() == 1
    assert "is the node running" in lost.output()
    assert len(cluster.leader().get("/members")) == 3


def test_a_member_is_replaced_in_one_step(cluster: KingbusCluster, tmp_path: Path) -> None:
    """The leader itself, by a learner that has caught up: it hands over, stops and stays out."""
    node = newcomer(cluster, tmp_path)
    old = cluster.leader()
    node.start(via=old.admin_url, learner=True)
    early = old.command("member", "replace", old.name, "n9", "--peer-url", old.peer_url)
    assert (early.returncode, "belongs to" in early.stderr) == (1, True)

    def replaced() -> bool:
        return node.command("member", "replace", old.name, "n4").returncode == 0

    wait_for(replaced, what="the replacement", explain=cluster.logs)
    assert old.wait_end() == 0
    assert "removed from the cluster" in old.output()
    old.kill9()
    members = {each["name"]: each["isLearner"] for each in cluster.leader().get("/members")}
    assert members == dict.fromkeys({"n1", "n2", "n3", "n4"} - {old.name}, False)
    assert node.status()["role"] in {"leader", "follower"}
    cluster.wait_equal()
