"""One real process: its `ready` line, what it keeps over restarts, and what it refuses."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from kingbus.secrets import ClusterSecret
from tests.support import processes
from tests.support.cluster import REPOSITORY, KingbusNode
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

SMALL = {"reserve-data-size": "64MB", "segment-size": "16MB"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KingbusNode]:
    made = KingbusNode("n1", tmp_path / "n1", settings=SMALL)
    yield made
    made.kill9()


def refusal(node: KingbusNode) -> str:
    """The one line of a start that must fail with exit code 1."""
    node.launch()
    assert node.wait_end() == 1, node.output()
    output = node.output()
    node.kill9()
    assert "Traceback" not in output
    assert "ready " not in output
    return output.splitlines()[-1]


def test_ready_then_a_clean_stop(node: KingbusNode) -> None:
    """`ready` comes once, with real addresses that accept; SIGTERM ends with 0."""
    ready = node.start()

    assert ready["name"] == "n1"
    assert ready["admin"] == node.admin_url
    assert ready["peer"] == node.peer_url
    assert ready["listen"] == "none"
    assert ready["id"] == node.status()["id"]
    assert ready["role"] in {"leader", "follower", "candidate"}
    wait_for(node.is_leader, what="leadership", tolerate=(httpx.HTTPError,))
    wait_for(lambda: node.metric("kingbus_raft_is_leader") == 1.0, what="its metric, a tick later")
    assert node.stop() == 0
    assert node.output().count("\nready ") + node.output().startswith("ready ") == 1


def test_what_is_configured_is_seeded_once(node: KingbusNode, tmp_path: Path) -> None:
    """Listener and source go into the log at the first start; later a difference is only told.

    No password is in any file.
    """
    password = tmp_path / "password"
    password.write_text("hunter2-of-the-test\n")
    source = {"addr": "127.0.0.1:1", "user": "repl", "password-file": str(password)}
    server = {"addr": node.listen_address, "user": "relay", "password-file": str(password)}
    node.configure(source=source, server=server)

    assert node.start()["listen"] == node.listen_address

    def seeded() -> bool:
        return node.get("/binlog/syncer/status")["mysql_user"] == "repl"

    wait_for(seeded, what="the source in the log", tolerate=(AssertionError,))
    wait_for(lambda: node.listener_status()["user"] == "relay", what="the listener in the log")
    node.ask("PUT", "/binlog/syncer/stop")
    assert node.stop() == 0

    node.configure(source=source | {"user": "other"}, server=None)
    assert node.start()["listen"] == node.listen_address
    wait_for(node.is_leader, what="leadership", tolerate=(httpx.HTTPError,))
    status = node.receiver_status()
    assert (status["status"], status["mysql_user"]) == ("stopped", "repl")
    assert any("source" in warning for warning in node.status()["warnings"])
    assert node.stop() == 0
    for file in node.data_dir.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes(), file
    assert "hunter2" not in node.output()


def test_dump_workers_come_and_go_with_the_node(node: KingbusNode, tmp_path: Path) -> None:
    """As many as asked for, none without; a clean stop and a sudden death leave none behind."""
    password = tmp_path / "password"
    password.write_text("hunter2-of-the-test\n")
    server = {"addr": node.listen_address, "user": "relay", "password-file": str(password)}
    node.configure(server=server)
    node.start()
    assert node.metric("kingbus_dump_workers") == 0.0
    assert _children(node) == []
    assert node.stop() == 0

    node.configure(server=server | {"workers": 2})
    for end in (node.stop, node.kill9):
        node.start()
        assert node.metric("kingbus_dump_workers") == 2.0
        children = _children(node)
        assert len(children) == 2
        end()
        wait_for(partial(_have_ended, children), what="the workers' end")


def _children(node: KingbusNode) -> list[int]:
    tasks = Path(f"/proc/{node.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def _have_ended(pids: list[int]) -> bool:
    """Zombies have."""
    for pid in pids:
        try:
            if " Z " not in Path(f"/proc/{pid}/stat").read_text():
                return False
        except (FileNotFoundError, ProcessLookupError):
            continue
    return True


def test_a_wrong_cluster_key_is_refused_at_the_start(node: KingbusNode, tmp_path: Path) -> None:
    """With the file named, before anything listens."""
    right, wrong = tmp_path / "right.key", tmp_path / "wrong.key"
    ClusterSecret.generate().store(right)
    ClusterSecret.generate().store(wrong)
    node.configure(cluster_key_file=str(right))
    node.start()
    wait_for(
        lambda: node.status()["applied_index"] >= 4 or "key announced" in node.output(),
        what="the announcement",
    )
    node.stop()

    node.configure(cluster_key_file=str(wrong))
    assert str(wrong) in refusal(node)
    node.configure(cluster_key_file=str(tmp_path / "missing.key"))
    assert "missing.key" in refusal(node)
    node.configure(cluster_key_file=str(right))
    node.start()


def test_a_sealed_directory_needs_its_key_at_the_start(node: KingbusNode, tmp_path: Path) -> None:
    """Also where nothing is to be sealed any more: refused, with segment and key id named."""
    right, wrong = tmp_path / "right.key", tmp_path / "wrong.key"
    secret = ClusterSecret.generate()
    secret.store(right)
    ClusterSecret.generate().store(wrong)
    sealed = {"compress": "zstd", "encrypt": "cluster-key"}
    node.configure(cluster_key_file=str(right), at_rest=sealed)
    node.start()
    wait_for(lambda: node.status()["executed_gtid_set"] == "", what="an answer")
    told = node.status()["at_rest"]
    assert (told["compress"], told["level"], told["encrypt"]) == ("zstd", 1, "cluster-key")
    assert (told["key_id"], told["segments"], told["sealed_segments"]) == (secret.key_id, 1, 1)
    assert node.status()["warnings"] == []
    assert node.stop() == 0
    segment = f"{1:010d}-{1:020d}.segment is sealed with cluster key {secret.key_id}"

    for settings in ({}, {"at_rest": None}):
        node.configure(cluster_key_file=str(wrong), **settings)
        assert segment in refusal(node)
    node.configure(cluster_key_file=None)
    line = refusal(node)
    assert segment in line
    assert "cluster-key-file" in line
    node.configure(cluster_key_file=str(right))
    node.start()
    wait_for(lambda: node.status()["at_rest"]["transformed_segments"] == 1, what="an answer")
    (node.data_dir / "cluster.key").write_text(secret.key.hex())
    assert node.stop() == 0
    node.configure(at_rest=sealed)
    node.start()
    assert any("remove it if" in warning for warning in node.status()["warnings"])
    assert node.stop() == 0


def test_a_node_without_a_peer_port_stays_alone(tmp_path: Path) -> None:
    """Whoever would join it, be added or take its place is refused: it could not be reached."""
    log = tmp_path / "log"
    words = [
        *("run", "--source", f"mysql://u@127.0.0.1:{processes.free_port()}"),
        *("--data-dir", str(tmp_path / "data"), "--server-user", "r"),
        *("--listen", f"127.0.0.1:{processes.free_port()}"),
    ]
    environment = {"KINGBUS_SERVER_PASSWORD": "x", "KINGBUS_SOURCE_PASSWORD": "x"}
    process = processes.start_kingbus(words, log=log, environment=environment)
    try:
        found = wait_for(
            lambda: re.search(r"peer=none admin=(\S+)", log.read_text()),
            what="ready",
            explain=lambda: processes.tail(log),
        )
        with httpx.Client(base_url=found[1]) as admin:
            name = wait_for(
                lambda: next(each["name"] for each in admin.get("/members").json()["data"]),
                what="the member itself",
                tolerate=(StopIteration,),
            )
            for method, path, body in (
                ("POST", "/members", {"name": "b", "peer_url": "http://h:1", "learner": True}),
                ("POST", "/members", {"name": "b", "peer_url": "http://h:1", "dial_back": "ab"}),
                ("PUT", "/members", {"name": name, "new_peer_url": "http://h:1"}),
                (
                    "POST",
                    "/members/replace",
                    {"name": name, "new_name": "b", "peer_url": "http://h:1"},
                ),
            ):
                reply = admin.request(method, path, json=body)
                assert reply.status_code == 409, (method, path, reply.text)
                assert "no peer port" in reply.json()["message"]
            assert len(admin.get("/members").json()["data"]) == 1
    finally:
        assert processes.stop(process) == 0, processes.tail(log)


def test_tokens_are_asked_for(node: KingbusNode, tmp_path: Path) -> None:
    """With a token file the API wants the token, and the command sends it."""
    token = tmp_path / "token"
    token.write_text("token-of-the-test\n")
    node.configure(auth={"token-file": str(token)})
    node.start()

    assert node.request("GET", "/status").status == 401
    assert node.request("GET", "/health").status == 200
    assert node.command("status").returncode == 1
    assert node.command("status", "--token-file", str(token)).returncode == 0


def test_assertions_are_needed(node: KingbusNode) -> None:
    """Under `python -O` it does not run, since its invariants would not be checked."""
    node.write_config()
    ended = subprocess.run(
        [sys.executable, "-O", "-m", "kingbus", "run", "--config", str(node.config_file)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "python -O" in ended.stderr
    assert not node.data_dir.exists()


_TELLING_COLLECTIONS = f"""#!{sys.executable}
import gc, os, sys
def tell(phase, info):
    imported = hasattr(sys.modules.get("kingbus.daemon"), "main")
    os.write(2, b"collecting behind imports\\n" if imported else b"collecting in imports\\n")
from kingbus.__main__ import main
sys.argv = ["kingbus", *sys.argv[3:]]
gc.callbacks.append(tell)
main()
"""


def test_garbage_is_collected_once_all_is_imported(tmp_path: Path) -> None:
    """Not before: that would be a tenth of the time that a start takes."""
    python = tmp_path / "python"
    python.write_text(_TELLING_COLLECTIONS)
    python.chmod(0o755)
    program = processes.Program(python=str(python))
    node = KingbusNode("n1", tmp_path / "n1", settings=SMALL, program=program)
    try:
        node.start()
        wait_for(lambda: "collecting behind imports" in node.output(), what="a collection")
        assert node.stop() == 0
        assert "collecting in imports" not in node.output()
    finally:
        node.kill9()


def test_a_signal_while_starting_is_a_clean_stop(node: KingbusNode) -> None:
    """A node that still looks for the cluster to join stops at once, with 0."""
    node.configure(
        initial_cluster=f"n1={node.peer_url},n2=http://127.0.0.1:1",
        initial_cluster_state="existing",
        log_level="debug",
    )
    node.launch()
    lock = node.data_dir / "LOCK"
    wait_for(lock.exists, what="the start")

    assert node.stop() == 0
    assert re.search(r"^ready ", node.output(), re.MULTILINE) is None
