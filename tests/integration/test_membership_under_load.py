"""The cluster is grown, handed over, exchanged and shrunk while rows are written all the time.

What a hand-over costs is measured and printed (`pytest -s`), and nothing is asserted about it: a
test that depends on a time fails on another machine.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.relayed_files import assert_same_files, wait_for_end
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

TRANSFERS = 20
PAUSE_SECONDS = 0.003
"""Between two transactions: a load that never ends, but leaves the processes some of two cores."""
PASSING = ("caught up", "must be up", "is not up", "did not move", "no leader", "try again")
"""In what is refused for a moment only."""
BEHIND = 30
"""Transactions behind a step that must have come before it counts as over: some from the session
of the new leader's receiver, not only what the old one had brought."""


@dataclass
class Steps:
    """What was done under load, when it began, and the gap in the stream that it made."""

    writer: workload.Writer
    reader: RawReader
    done: list[tuple[str, float, float]] = field(default_factory=list)
    """What, how long it took and the gap, both in seconds."""
    _began: tuple[str, float, int] = ("", 0.0, 0)

    def begin(self, what: str) -> None:
        """Until `end`, the longest silence counts as this step's."""
        self._began = what, time.monotonic(), max(0, len(self.reader.seen.transactions) - 1)

    def end(self) -> None:
        """Wait until the reader has gone on behind this moment, and note the gap."""
        what, when, first = self._began
        took = time.monotonic() - when
        self.writer.wait_for_more(BEHIND)
        wanted = self.writer.committed
        seen = self.reader.seen
        wait_for(
            lambda: len(seen.transactions) >= wanted or not self.reader.is_alive,
            what=f"the reader to go on behind: {what}",
            explain=lambda: (len(seen.transactions), wanted, seen.end, seen.faults),
        )
        assert self.reader.is_alive, (what, seen.end, seen.faults)
        gap = max(later - earlier for earlier, later in pairwise(seen.arrived[first:]))
        self.done.append((what, took, gap))

    def table(self) -> str:
        """For the record."""
        lines = [f"{'step':44} {'took s':>8} {'gap s':>8}"]
        lines += [f"{what:44} {took:8.3f} {gap:8.3f}" for what, took, gap in self.done]
        gaps = [gap for what, _, gap in self.done if what.startswith("transfer")]
        lines.append(
            f"{len(gaps)} transfers: gap median {statistics.median(gaps):.3f} s,"
            f" max {max(gaps):.3f} s, mean {statistics.mean(gaps):.3f} s"
        )
        return "\n".join(lines)


class Scene:
    """Source, cluster, the replica and the reader on one node, and the load."""

    def __init__(self, world: World, installation: Installation) -> None:
        """One node that pulls, and one beside it that stays to the end: the replica's."""
        self.refused: list[str] = []
        self.source: MySQLServer = world.server(installation, "source", server_id=1)
        workload.make_tables(self.source)
        self.cluster: KingbusCluster = world.cluster(count=1)
        self.first = self.cluster.nodes[0]
        self.cluster.start_receiver(self.source)
        self.home = self.join("home", learner=True)
        self.home.start_listener()
        self.replica: MySQLServer = world.server(installation, "replica", server_id=2)
        self.replica.change_source(
            host="127.0.0.1",
            port=self.home.listen_port,
            user=LISTENER_USER,
            password=LISTENER_PASSWORD,
        )
        self.replica.start_replica()
        self.reader = RawReader(
            port=self.home.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
        )

    def join(self, name: str, *, learner: bool = False) -> KingbusNode:
        """Start a node with `kingbus join`."""
        node = self.cluster.newcomer(name)
        node.start(via=self.cluster.leader().admin_url, learner=learner)
        return node

    def voters(self) -> set[str]:
        """The names of who votes."""
        members = self.home.get("/members")
        return {each["name"] for each in members if not each["isLearner"]}

    def run(self, *words: str) -> None:
        """Run a `kingbus` command against the replica's node until it is done.

        As an operator would who is told that a learner is still behind, or that a node of a busy
        machine was not heard from for a second; how often that was is in the table.
        """

        def done() -> bool:
            answer = self.home.command(*words)
            if answer.returncode == 0:
                return True
            assert any(reason in answer.stderr for reason in PASSING), (words, answer.stderr)
            self.refused.append(f"{' '.join(words[1:])}: {answer.stderr.strip()}")
            return False

        wait_for(done, what=" ".join(words), explain=self.cluster.logs)

    def lead(self, node: KingbusNode) -> None:
        """Make a node the leader."""
        self.run("member", "transfer-leader", node.name)
        wait_for(node.is_leader, what=f"{node.name} leads", explain=self.cluster.logs)
        assert self.cluster.leader() is node

    def attached(self) -> str:
        """Since when the replica is connected; another time is another connection."""

        def since() -> str:
            replicas = self.home.listener_status()["slaves"]
            return str(next(each["connect_time"] for each in replicas if each["server_id"] == 2))

        return wait_for(since, what="the replica", tolerate=(StopIteration,))

    def close(self) -> None:
        """End the reader."""
        self.reader.close()


@pytest.fixture
def scene(world: World, modern: Installation) -> Iterator[Scene]:
    """The scene, its reader closed at the end."""
    made = Scene(world, modern)
    yield made
    made.close()


def grow(scene: Scene, steps: Steps) -> dict[str, KingbusNode]:
    """1 -> 3 -> 5 voters, promoted by themselves and by command; the nodes by name."""
    nodes = {"n1": scene.first, "home": scene.home}
    for name in ("n2", "n3"):
        steps.begin(f"join {name}")
        nodes[name] = scene.join(name)
        scene.cluster.wait_voter(name)
        steps.end()
    assert scene.voters() == {"n1", "n2", "n3"}
    steps.begin("promote home")
    scene.run("member", "promote", "home")
    steps.end()
    steps.begin("join n4")
    nodes["n4"] = scene.join("n4")
    scene.cluster.wait_voter("n4")
    steps.end()
    assert scene.voters() == {"n1", "n2", "n3", "n4", "home"}
    return nodes


def transfer(scene: Scene, steps: Steps, nodes: dict[str, KingbusNode]) -> None:
    """Hand leadership round; the reader's node stays a follower."""
    ring = [nodes[name] for name in ("n2", "n3", "n4", "n1")]
    for turn in range(TRANSFERS):
        target = ring[turn % len(ring)]
        steps.begin(f"transfer {turn + 1} to {target.name}")
        scene.lead(target)
        steps.end()
        if turn % 7 == 3:
            scene.source.execute("FLUSH BINARY LOGS")


def exchange(scene: Scene, steps: Steps, nodes: dict[str, KingbusNode]) -> None:
    """The three voters of the beginning are replaced: a follower, one by a new member, the
    leader."""
    cluster = scene.cluster
    scene.lead(nodes["n3"])

    steps.begin("replace n1 by the learner n5")
    nodes["n5"] = scene.join("n5", learner=True)
    scene.run("member", "replace", "n1", "n5")
    cluster.wait_gone(nodes.pop("n1"))
    steps.end()

    steps.begin("replace n2 by the new n6")
    new = cluster.newcomer("n6")
    scene.run("member", "replace", "n2", "n6", "--peer-url", new.peer_url)
    cluster.wait_gone(nodes.pop("n2"))
    cluster.expect(new, scene.home.get("/members"))
    new.start()
    nodes["n6"] = new
    steps.end()

    steps.begin("replace the leader n3 by the learner n7")
    nodes["n7"] = scene.join("n7", learner=True)
    assert cluster.leader() is nodes["n3"]
    scene.run("member", "replace", "n3", "n7")
    cluster.wait_gone(nodes.pop("n3"))
    steps.end()
    assert scene.voters() == {"home", "n4", "n5", "n6", "n7"}


def shrink(scene: Scene, steps: Steps, nodes: dict[str, KingbusNode]) -> None:
    """5 -> 3: one leaves while it leads, one is removed."""
    scene.lead(nodes["n4"])
    steps.begin("the leader n4 leaves")
    leaving = nodes.pop("n4")
    left = leaving.command("leave", "--config", str(leaving.config_file))
    assert left.returncode == 0, left.stderr
    scene.cluster.wait_gone(leaving)
    steps.end()

    steps.begin("remove n5")
    scene.run("member", "remove", "n5")
    scene.cluster.wait_gone(nodes.pop("n5"))
    steps.end()
    assert scene.voters() == {"home", "n6", "n7"}


def test_membership_under_load(world: World, scene: Scene) -> None:
    """1 -> 3 -> 5 members, 20 hand-overs, every original member replaced, back to 3: the replica
    never notices, nothing that the source acknowledged is lost, the files are the source's."""
    source, cluster, replica = scene.source, scene.cluster, scene.replica
    with workload.Writer(source, pause_seconds=PAUSE_SECONDS) as writer:
        writer.wait_for_more(100)
        attached = scene.attached()
        steps = Steps(writer, scene.reader)
        nodes = grow(scene, steps)
        transfer(scene, steps, nodes)
        exchange(scene, steps, nodes)
        shrink(scene, steps, nodes)
        writer.stop()
        written = writer.committed
    refused = "".join(f"\nrefused: {line}" for line in scene.refused)
    sys.stdout.write(f"\n{written} transactions{refused}\n{steps.table()}\n")

    executed = source.gtid_executed()
    replica.wait_for_gtids(executed)
    assert scene.attached() == attached, "the replica came back on another connection"
    assert source.has_executed(replica.gtid_executed())
    assert replica.checksums() == source.checksums()
    assert replica.checksums()["shop.orders"][0] == written
    assert replica.replica_errors() == []

    cluster.wait_for_gtids(executed, source)
    cluster.wait_equal()
    assert {node.name for node in cluster} == {"home", "n6", "n7"}
    for node in cluster:
        if node is not scene.home:
            node.start_listener()
    wait_for_end(cluster, source)
    for node in cluster:
        assert_same_files(world.directory / f"raw-{node.name}", node, source)
    seen = scene.reader.seen
    assert scene.reader.is_alive, seen.end
    assert seen.faults == []
    uuid, _, last = executed.rpartition(":1-")
    assert seen.transactions == [f"{uuid}:{number}" for number in range(1, int(last) + 1)]
