"""Real processes that join or leave although something is wrong: the cluster must not suffer.

A member that was added and cannot start is a voter down, or one that waits to be one.
"""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from kingbus.secrets import ClusterSecret
from tests.support.cluster import KingbusCluster, KingbusNode, run_kingbus
from tests.support.installations import REPOSITORY
from tests.support.processes import free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

SMALL = {"reserve-data-size": "64MB", "segment-size": "16MB"}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KingbusCluster]:
    """A cluster of one, which no test changes: the smallest thing that a joiner can break."""
    with KingbusCluster(tmp_path_factory.mktemp("one"), count=1, settings=SMALL) as made:
        wait_for(
            lambda: "cluster key announced" in made.nodes[0].output(),
            what="the key to be announced",
        )
        yield made


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[KingbusNode]:
    made = KingbusNode("n2", tmp_path / "n2", settings=SMALL)
    yield made
    made.kill9()


def refused(node: KingbusNode, *, via: str, learner: bool = False, code: int = 1) -> str:
    """The last lines of a join that must end with this code, before it was `ready`."""
    node.launch(via=via, learner=learner)
    assert node.wait_end() == code, node.output()
    output = node.output()
    node.kill9()
    assert "Traceback" not in output
    assert "ready name=" not in output
    return "\n".join(output.splitlines()[-2:])


def member_names(cluster: KingbusCluster) -> list[str]:
    return [each["name"] for each in cluster.leader().get("/members")]


def other_key(directory: Path) -> str:
    """The file of a key that no cluster has."""
    path = directory / "other.key"
    ClusterSecret.generate().store(path)
    return str(path)


@pytest.mark.parametrize("configured", [False, True])
def test_a_joiner_with_another_key_is_not_added(tmp_path: Path, configured: bool) -> None:
    """Whether the cluster made its key or was given it; with the right one the node joins."""
    key = tmp_path / "cluster.key"
    ClusterSecret.generate().store(key)
    settings = {**SMALL, "cluster-key-file": str(key) if configured else None}
    with KingbusCluster(tmp_path, count=1, settings=settings) as cluster:
        leader = cluster.leader()
        node = cluster.newcomer("n2")
        node.configure(cluster_key_file=other_key(tmp_path))
        assert "n2 has cluster key" in refused(node, via=leader.admin_url)
        assert member_names(cluster) == ["n1"]
        assert leader.request("GET", "/ready").status == 200

        node.configure(cluster_key_file=str(key) if configured else None)
        node.start(via=leader.admin_url)
        cluster.wait_voter("n2")


def test_an_added_member_with_another_key_does_not_start(tmp_path: Path) -> None:
    """One that was added beforehand finds out before it takes part, so it is never promoted."""
    with KingbusCluster(tmp_path, count=1, settings=SMALL) as cluster:
        leader = cluster.leader()
        wait_for(lambda: "key announced" in leader.output(), what="the key to be announced")
        node = cluster.newcomer("n2")
        body = {"name": "n2", "peer_url": node.peer_url}
        cluster.expect(node, leader.ask("POST", "/members", body))
        node.configure(cluster_key_file=other_key(tmp_path))
        node.launch()
        assert node.wait_end() == 1
        assert "cluster-key-file holds key" in node.output()
        assert "ready name=" not in node.output()
        assert not (node.data_dir / "identity.json").exists()
        node.kill9()
        assert cluster.wait_member("n2")["isLearner"] is True
        leader.ask("DELETE", "/members", {"name": "n2"})
        assert member_names(cluster) == ["n1"]


def _no_password(node: KingbusNode, _directory: Path, _taken: int) -> None:
    node.configure(server={"addr": node.listen_address, "user": "u"})


def _no_source_password(node: KingbusNode, directory: Path, _taken: int) -> None:
    file = str(directory / "missing")
    node.configure(source={"addr": "127.0.0.1:1", "user": "u", "password-file": file})


def _no_key_file(node: KingbusNode, directory: Path, _taken: int) -> None:
    node.configure(cluster_key_file=str(directory / "missing"))


def _no_key(node: KingbusNode, directory: Path, _taken: int) -> None:
    key = directory / "malformed"
    key.write_text("no key\n")
    key.chmod(0o600)
    node.configure(cluster_key_file=str(key))


def _taken_admin(node: KingbusNode, _directory: Path, taken: int) -> None:
    node.configure(admin_url=f"http://127.0.0.1:{taken}")


def _taken_metrics(node: KingbusNode, _directory: Path, taken: int) -> None:
    node.configure(metrics_addr=f"127.0.0.1:{taken}")


def _taken_peer(node: KingbusNode, _directory: Path, taken: int) -> None:
    node.configure(peer_url=f"http://127.0.0.1:{taken}")


def _taken_listener(node: KingbusNode, directory: Path, taken: int) -> None:
    password = directory / "password"
    password.write_text("p\n")
    server = {"addr": f"127.0.0.1:{taken}", "user": "u", "password-file": str(password)}
    node.configure(server=server)


def _log_is_a_file(node: KingbusNode, directory: Path, _taken: int) -> None:
    (directory / "file").touch()
    node.configure(log_dir=str(directory / "file"))


def _data_is_a_file(node: KingbusNode, directory: Path, _taken: int) -> None:
    (directory / "file").touch()
    node.configure(data_dir=str(directory / "file"))


def _newer_directory(node: KingbusNode, _directory: Path, _taken: int) -> None:
    node.data_dir.mkdir()
    (node.data_dir / "FORMAT").write_text("99\n")


def _removed_before(node: KingbusNode, _directory: Path, _taken: int) -> None:
    node.data_dir.mkdir()
    (node.data_dir / "removed.json").write_text("{}\n")


def _of_another_member(node: KingbusNode, _directory: Path, _taken: int) -> None:
    node.data_dir.mkdir()
    identity = '{"name": "n7", "member_id": "7", "cluster_id": "7"}'
    (node.data_dir / "identity.json").write_text(identity)


def _of_another_cluster(node: KingbusNode, _directory: Path, _taken: int) -> None:
    node.data_dir.mkdir()
    identity = '{"name": "n2", "member_id": "7", "cluster_id": "7"}'
    (node.data_dir / "identity.json").write_text(identity)


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (_no_password, 2, "server.password-file"),
        (_no_source_password, 2, "source.password-file"),
        (_no_key_file, 1, "missing: No such file"),
        (_no_key, 1, "malformed is not a line of 64"),
        (_taken_admin, 1, "admin-url: listen on"),
        (_taken_metrics, 1, "metrics-addr: listen on"),
        (_taken_peer, 1, "peer-url: listen on"),
        (_taken_listener, 1, "server.addr: listen on"),
        (_log_is_a_file, 1, "log-dir"),
        (_data_is_a_file, 1, "cannot use the data directory"),
        (_newer_directory, 1, "format 99"),
        (_removed_before, 1, "n2 was removed from the cluster"),
        (_of_another_member, 1, "belongs to 'n7'"),
        (_of_another_cluster, 1, "belongs to a member of cluster 7"),
    ],
)
def test_what_is_wrong_here_is_found_before_the_cluster_is_asked(
    one: KingbusCluster,
    newcomer: KingbusNode,
    tmp_path: Path,
    spoil: Callable[[KingbusNode, Path, int], None],
    code: int,
    words: str,
) -> None:
    """Each local fault ends the join with one line that names it, and nobody was added."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        spoil(newcomer, tmp_path, holder.getsockname()[1])
        line = refused(newcomer, via=one.nodes[0].admin_url, code=code)
    assert words in line
    assert line.startswith("kingbus: ")
    assert member_names(one) == ["n1"]


def test_whom_nobody_answers_goes_on_as_the_member_it_is(tmp_path: Path) -> None:
    """And says in the log that its cluster was not compared."""
    with KingbusCluster(tmp_path, count=1, settings=SMALL) as cluster:
        node = cluster.nodes[0]
        node.stop()
        node.start(via=f"http://127.0.0.1:{free_port()}")
        assert "does not tell which cluster it is of" in node.output()


def test_all_that_a_join_logs_is_in_the_logs_own_form(tmp_path: Path) -> None:
    """From its first line on, that a connection to its peer port was refused included."""
    with KingbusCluster(tmp_path, count=1, settings=SMALL) as cluster:
        node = cluster.newcomer("n2")
        node.start(via=cluster.leader().admin_url, learner=True)
        for line in node.output().splitlines():
            assert re.match(r"(timestamp=\S+ level=\w+ |ready name=)", line), line


def test_a_new_learner_says_that_it_is_one(tmp_path: Path) -> None:
    """From the `ready` line of its first start on, before its log tells it so."""
    with KingbusCluster(tmp_path, count=1, settings=SMALL) as cluster:
        via = cluster.leader().admin_url
        node = cluster.newcomer("n2")
        assert node.start(via=via, learner=True)["role"] == "learner"
        assert node.status()["role"] == "learner"
        assert cluster.newcomer("n3").start(via=via)["role"] == "learner"
        cluster.wait_voter("n3")


def test_who_joins_again_gets_what_it_asks_for(tmp_path: Path) -> None:
    """With an emptied directory: not silently a learner, or a voter, for what was asked for.

    Nor is it taken for the member that had acknowledged what is gone now.
    """
    with KingbusCluster(tmp_path, count=1, settings=SMALL) as cluster:
        via = cluster.leader().admin_url
        node = cluster.newcomer("n2")
        first = node.start(via=via, learner=True)
        cluster.wait_equal()
        node.kill9()
        node.configure(data_dir=str(tmp_path / "anew"))
        assert "is a learner already" in refused(node, via=via)
        assert "taken part in the cluster before" in refused(node, via=via, learner=True)
        cluster.leader().ask("DELETE", "/members", {"name": "n2"})
        assert node.start(via=via, learner=True)["id"] != first["id"]
        cluster.wait_equal()


def test_leaving_removes_this_node_and_nobody_of_its_name(tmp_path: Path) -> None:
    """Not the one that has the name by now, and none of another cluster."""
    with (
        KingbusCluster(tmp_path / "a", count=1, settings=SMALL) as cluster,
        KingbusCluster(tmp_path / "b", count=1, settings=SMALL) as elsewhere,
    ):
        leader = cluster.leader()
        old = cluster.newcomer("n2")
        old.start(via=leader.admin_url, learner=True)
        old.kill9()
        leader.ask("DELETE", "/members", {"name": "n2"})
        cluster.nodes.remove(old)
        new = KingbusNode("n2", tmp_path / "new", settings=SMALL)
        cluster.nodes.append(new)
        new.start(via=leader.admin_url, learner=True)

        def leave(node: KingbusNode, via: KingbusNode) -> tuple[int, str]:
            words = ("leave", "--config", str(node.config_file), "--via", via.admin_url)
            left = run_kingbus(*words)
            return left.returncode, left.stderr

        code, said = leave(old, leader)
        assert (code, "was removed from the cluster" in said) == (1, True), said
        code, said = leave(new, elsewhere.leader())
        assert (code, "belongs to a member of cluster" in said) == (1, True), said
        assert member_names(cluster).count("n2") == 1
        assert leave(new, leader)[0] == 0
        cluster.wait_gone(new)
        assert member_names(cluster) == ["n1"]


def test_an_original_voter_without_its_log_is_refused(tmp_path: Path) -> None:
    """It forgot its votes and what it acknowledged; with its log it comes back."""
    with KingbusCluster(tmp_path, settings=SMALL) as cluster:
        node = cluster.followers()[0]

        def announced() -> bool:
            known = {each["name"]: each["version"] for each in cluster.leader().get("/members")}
            return bool(known[node.name])

        wait_for(announced, what=f"{node.name} to announce itself", tolerate=(httpx.HTTPError,))
        node.kill9()
        node.configure(data_dir=str(tmp_path / "emptied"))
        # Even when nobody that is up has heard from it: what the log knows counts.
        others = cluster.running
        for each in others:
            each.kill9()
        for each in others:
            each.start()
        cluster.leader()
        node.launch()
        assert node.wait_end() == 1
        assert "has taken part in the cluster before" in node.output()
        node.kill9()
        node.configure(data_dir=str(node.data_dir))
        node.start()
        cluster.leader()


def test_an_original_voter_without_its_log_ends_when_the_others_come(tmp_path: Path) -> None:
    """When nobody was up to tell it, the log does; then and whenever it is started again."""
    with KingbusCluster(tmp_path, settings=SMALL) as cluster:
        node, other = cluster.followers()
        third = cluster.leader()

        def announced() -> bool:
            members = third.get("/members")
            return all(each["version"] for each in members)

        wait_for(announced, what="all to announce themselves")
        cluster.wait_equal()
        for each in (node, other, third):
            each.kill9()
        node.configure(data_dir=str(tmp_path / "emptied"))
        node.start()
        other.start()
        third.start()
        assert node.wait_end() == 1, node.output()
        assert "has taken part in the cluster before" in node.output()
        node.kill9()
        assert cluster.leader() in {other, third}
        for _ in range(2):
            node.launch()
            assert node.wait_end() == 1
            assert "has taken part in the cluster before" in node.output()
            node.kill9()
        leader = cluster.leader()
        leader.ask("DELETE", "/members", {"name": node.name})
        node.configure(data_dir=str(tmp_path / "anew"))
        node.start(via=leader.admin_url)
        cluster.wait_voter(node.name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_cluster_is_asked_is_a_clean_stop(
    newcomer: KingbusNode, number: signal.Signals
) -> None:
    """A member that hangs does not keep a join from stopping, with 0 and without a traceback."""
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        hanging.settimeout(30)
        newcomer.launch(via=f"http://127.0.0.1:{hanging.getsockname()[1]}")
        connection, _ = hanging.accept()
        with connection:
            assert newcomer._process is not None
            newcomer._process.send_signal(number)
            assert newcomer.wait_end() == 0, newcomer.output()
    assert "Traceback" not in newcomer.output()


_SIGNAL_AT_IMPORT = """
import os, sys
class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == "kingbus.cli.main":
            os.kill(os.getpid(), int(sys.argv.pop()))
sys.meta_path.insert(0, Sender())
from kingbus.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("command", "clean"), [("run", True), ("join", True), ("config check", False)]
)
def test_a_signal_during_the_imports(number: signal.Signals, command: str, clean: bool) -> None:
    """Ends what runs a node with 0; another command dies by it, as commands do."""
    words = [sys.executable, "-c", _SIGNAL_AT_IMPORT, *command.split(), str(int(number))]
    ended = subprocess.run(
        words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode == 0) is clean, ended
    assert not (clean and ended.stderr), ended.stderr
