"""Real kingbus processes: written configuration, `kingbus run`, the admin API, kill and restart.

Everything goes through the command line, the configuration file, the HTTP API and the ports, as an
operator would: nothing of the package is imported here.
"""

import functools
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support import processes
from tests.support.installations import REPOSITORY
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for

LISTENER_USER = "replica"
LISTENER_PASSWORD = "listener-secret-9w"

_READY = re.compile(
    r"^ready name=(?P<name>\S+) id=(?P<id>\S+) role=(?P<role>\S+) peer=(?P<peer>\S+)"
    r" admin=(?P<admin>\S+) listen=(?P<listen>\S*)$",
    re.MULTILINE,
)
_READY_SECONDS = 30.0
_REPLY_SECONDS = 30.0
_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The nodes speak plain HTTP. Left to itself the client reads the system's certificate authorities
for each call: 16 ms of CPU, which a benchmark that polls takes from what it measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the admin API answered."""

    status: int
    message: str
    data: Any


class KingbusNode:
    """One node: its directory, its ports and, while it runs, its process."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        stays: bool = False,
        program: processes.Program = processes.THIS_TREE,
        host: str = "127.0.0.1",
    ) -> None:
        """Choose ports; `settings` are configuration keys over those that the harness writes.

        With another host than loopback the admin API must be told to listen there without a token.
        """
        self.name = name
        self.directory = directory
        self.data_dir = directory / "data"
        self.config_file = directory / "kingbus.yaml"
        self.log = directory / "kingbus.log"
        self.host = host
        self.peer_url = f"http://{host}:{processes.free_port()}"
        self.admin_url = f"http://{host}:{processes.free_port()}"
        self.metrics_port = processes.free_port()
        self.listen_port = processes.free_port()
        self._settings: dict[str, object] = dict(settings or {})
        self._environment = dict(environment or {})
        self._stays = stays
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def listen_address(self) -> str:
        """Where replicas connect."""
        return f"{self.host}:{self.listen_port}"

    @property
    def pid(self) -> int:
        """The process id; the node must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def configure(self, **settings: object) -> None:
        """Change configuration keys (`_` for `-`) for the next start; None removes one."""
        for key, value in settings.items():
            self._settings[key.replace("_", "-")] = value

    def write_config(self) -> None:
        """Write the configuration file; JSON values are YAML."""
        keys: dict[str, object] = {
            "name": self.name,
            "peer-url": self.peer_url,
            "admin-url": self.admin_url,
            "metrics-addr": f"{self.host}:{self.metrics_port}",
            "data-dir": str(self.data_dir),
            "reserve-data-size": "8GB",
            "segment-size": "64MB",
            **self._settings,
        }
        lines = [f"{key}: {json.dumps(value)}" for key, value in keys.items() if value is not None]
        self.config_file.write_text("\n".join(lines) + "\n")

    def launch(self, *, via: str = "", learner: bool = False) -> None:
        """Start the process without waiting for anything; `via` an admin URL it joins."""
        assert not self.is_running
        self.write_config()
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = processes.start_kingbus(
            [
                *(["join", "--via", via] if via else ["run"]),
                *(["--learner"] if learner else []),
                *("--config", str(self.config_file)),
            ],
            log=self.log,
            environment=self._environment,
            stays=self._stays,
            program=self._program,
        )

    def wait_ready(self) -> dict[str, str]:
        """Wait for the `ready` line of the last start and return its fields."""

        def ready() -> dict[str, str] | None:
            found = _READY.search(self.output())
            if found is None:
                assert self.is_running, f"{self.name} ended\n{processes.tail(self.log)}"
                return None
            return found.groupdict()

        return (
            wait_for(
                ready,
                what=f"`ready` of {self.name}",
                seconds=_READY_SECONDS,
                explain=lambda: processes.tail(self.log),
            )
            or {}
        )

    def start(self, *, via: str = "", learner: bool = False) -> dict[str, str]:
        """Start the process and wait for its `ready` line; `via` an admin URL it joins."""
        self.launch(via=via, learner=learner)
        return self.wait_ready()

    def output(self) -> str:
        """What the process has written since its last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as opened:
            opened.seek(self._log_start)
            return opened.read().decode(errors="replace")

    def wait_end(self, *, seconds: float = 30.0) -> int:
        """Wait until the process ends by itself; its exit status."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {seconds:.0f} s\n{processes.tail(self.log)}"
            ) from None

    def stop(self, *, seconds: float = 20.0) -> int:
        """SIGTERM, and its exit status; a node that does not end in time fails the test."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(
                f"{self.name} did not end {seconds:.0f} s after SIGTERM\n{processes.tail(self.log)}"
            ) from None
        self._process = None
        return status

    def kill9(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            processes.kill(self._process)
            self._process = None

    # The admin API.

    def request(
        self, method: str, path: str, body: object = None, *, seconds: float = _REPLY_SECONDS
    ) -> Reply:
        """One call; any status is returned, only a broken connection raises."""
        answer = httpx.request(
            method,
            self.admin_url + path,
            json=body,
            timeout=seconds,
            trust_env=False,
            verify=_NO_AUTHORITIES,
        )
        try:
            content = answer.json()
        except ValueError:
            content = {"message": answer.text}
        return Reply(
            status=answer.status_code,
            message=str(content.get("message", "")),
            data=content.get("data"),
        )

    def ask(
        self, method: str, path: str, body: object = None, *, seconds: float = _REPLY_SECONDS
    ) -> Any:
        """One call that must succeed; its data."""
        reply = self.request(method, path, body, seconds=seconds)
        assert reply.status == 200, (
            f"{method} {path} on {self.name}: {reply.status} {reply.message}"
            f"\n{processes.tail(self.log)}"
        )
        return reply.data

    def get(self, path: str) -> Any:
        """GET, which must succeed."""
        return self.ask("GET", path)

    def status(self) -> dict[str, Any]:
        """`GET /status`."""
        return dict(self.get("/status"))

    def receiver_status(self) -> dict[str, Any]:
        """`GET /binlog/syncer/status`."""
        return dict(self.get("/binlog/syncer/status"))

    def listener_status(self) -> dict[str, Any]:
        """`GET /binlog/server/status`."""
        return dict(self.get("/binlog/server/status"))

    def is_leader(self) -> bool:
        """Whether this node itself says that it leads."""
        try:
            return bool(self.status()["role"] == "leader")
        except httpx.HTTPError:
            return False

    def start_listener(
        self, *, user: str = LISTENER_USER, password: str = LISTENER_PASSWORD
    ) -> None:
        """Listen for replicas on this node."""
        body = {"addr": self.listen_address, "user": user, "password": password}
        self.ask("PUT", "/binlog/server/start", body)

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics` by its name and labels as written."""
        text = httpx.get(
            f"http://{self.host}:{self.metrics_port}/metrics",
            timeout=5,
            trust_env=False,
            verify=_NO_AUTHORITIES,
        ).text
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def metric(self, name: str) -> float:
        """One sample without labels; 0 if it is not there."""
        return self.metrics().get(name, 0.0)

    def command(self, *words: str, seconds: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Run the `kingbus` command against this node's admin API."""
        return run_kingbus(*words, environment={"KINGBUS_ADMIN": self.admin_url}, seconds=seconds)


def run_kingbus(
    *words: str, environment: Mapping[str, str] | None = None, seconds: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    """Run the `kingbus` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "kingbus", *words],
        cwd=REPOSITORY,
        env={**processes.clean_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class KingbusCluster:
    """Several nodes that were started together, and those that joined later."""

    def __init__(
        self,
        directory: Path,
        *,
        count: int = 3,
        settings: Mapping[str, object] | None = None,
        stays: bool = False,
        program: processes.Program = processes.THIS_TREE,
        host: str = "127.0.0.1",
    ) -> None:
        """Prepare `count` nodes named n1, n2, …; nothing runs before `start`."""
        self._directory = directory
        self._host = host
        self._settings = dict(settings or {})
        self._stays = stays
        self._program = program
        self.nodes = [self._node(f"n{i}") for i in range(1, count + 1)]
        self.gone: list[KingbusNode] = []
        self._initial = ",".join(f"{node.name}={node.peer_url}" for node in self.nodes)
        for node in self.nodes:
            node.configure(initial_cluster=self._initial)

    def __enter__(self) -> Self:
        """Start all nodes and wait for a leader."""
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs."""
        for node in self.nodes:
            node.kill9()

    def __iter__(self) -> Iterator[KingbusNode]:
        """The nodes, those that joined included."""
        return iter(self.nodes)

    @property
    def running(self) -> list[KingbusNode]:
        """The nodes whose processes are there."""
        return [node for node in self.nodes if node.is_running]

    def start(self) -> None:
        """Start every node that does not run, and wait for a leader."""
        started = [node for node in self.nodes if not node.is_running]
        for node in started:
            node.launch()
        for node in started:
            node.wait_ready()
        self.leader()

    def stop(self) -> None:
        """SIGTERM to all at once; each must end with exit status 0."""
        running = self.running
        for node in running:
            assert node._process is not None
            node._process.terminate()
        statuses = {node.name: node.stop() for node in running}
        assert set(statuses.values()) <= {0}, (statuses, self.logs())

    def leader(self, *, seconds: float = 30.0) -> KingbusNode:
        """The node that leads, once every running node names it."""

        def agreed() -> KingbusNode | None:
            views = {node.name: node.status() for node in self.running}
            leaders = [node for node in self.running if views[node.name]["role"] == "leader"]
            if len(leaders) != 1:
                return None
            named = {view["leader"] for view in views.values()}
            return leaders[0] if named == {views[leaders[0].name]["id"]} else None

        found = wait_for(
            agreed,
            what="one leader",
            seconds=seconds,
            tolerate=(httpx.HTTPError, AssertionError),
            explain=self.logs,
        )
        assert found is not None
        return found

    def followers(self) -> list[KingbusNode]:
        """The running nodes that do not lead."""
        leader = self.leader()
        return [node for node in self.running if node is not leader]

    def start_receiver(
        self,
        source: MySQLServer,
        *,
        host: str | None = None,
        port: int | None = None,
        **more: object,
    ) -> None:
        """Tell the cluster to pull from a source, possibly through another address."""
        body = {
            "mysql_addr": f"{host or source.host}:{port or source.port}",
            "mysql_user": REPLICATION_USER,
            "mysql_password": REPLICATION_PASSWORD,
            **more,
        }
        self.leader().ask("PUT", "/binlog/syncer/start", body)

    def start_listeners(self) -> None:
        """Listen for replicas on every running node."""
        for node in self.running:
            node.start_listener()

    def wait_for_gtids(self, gtids: str, server: MySQLServer, *, seconds: float = 60.0) -> None:
        """Wait until every running node shows `gtids` as executed; `server` compares the sets."""
        for node in self.running:
            wait_for(
                functools.partial(_has_executed, node, gtids, server),
                what=f"{node.name} to have {gtids}",
                seconds=seconds,
                every=0.2,
                tolerate=(httpx.HTTPError,),
                explain=functools.partial(_why_behind, node),
            )

    def wait_equal(self, *, seconds: float = 30.0) -> None:
        """Wait until all running nodes have applied the same and show the same state."""

        def equal() -> bool:
            views = [node.status() for node in self.running]
            return len({(view["applied_index"], view["state_hash"]) for view in views}) == 1

        wait_for(equal, what="equal states", seconds=seconds, explain=self.states)

    def states(self) -> list[dict[str, Any]]:
        """Every running node's own view."""
        return [node.status() for node in self.running]

    def newcomer(self, name: str) -> KingbusNode:
        """A node with ports and a directory of its own that the cluster does not know yet."""
        node = self._node(name)
        self.nodes.append(node)
        return node

    def _node(self, name: str) -> KingbusNode:
        return KingbusNode(
            name,
            self._directory / name,
            settings=self._settings,
            stays=self._stays,
            program=self._program,
            host=self._host,
        )

    def add_member(self, name: str) -> KingbusNode:
        """Add a node through the API and start it; it joins the running cluster."""
        node = self.newcomer(name)
        leader = self.leader()
        body = {"name": name, "peer_url": node.peer_url, "admin_url": node.admin_url}
        members = leader.ask("POST", "/members", body)
        self.expect(node, members)
        node.start()
        return node

    @staticmethod
    def expect(node: KingbusNode, members: Iterable[Mapping[str, Any]]) -> None:
        """Configure a node that was added already to start as one of these members."""
        known = ",".join(f"{member['name']}={member['peerURLs'][0]}" for member in members)
        node.configure(initial_cluster=known, initial_cluster_state="existing")

    def member(self, name: str) -> dict[str, Any] | None:
        """A member as the leader lists it, if it does."""
        members = self.leader().get("/members")
        return next((dict(each) for each in members if each["name"] == name), None)

    def wait_member(self, name: str) -> dict[str, Any]:
        """Wait until the leader lists a member, and return that."""
        found = wait_for(
            lambda: self.member(name),
            what=f"a member {name}",
            tolerate=(httpx.HTTPError,),
            explain=self.logs,
        )
        assert found is not None
        return found

    def wait_voter(self, name: str, *, seconds: float = 30.0) -> dict[str, Any]:
        """Wait until the member votes; as the leader lists it."""

        def voter() -> dict[str, Any] | None:
            found = self.member(name)
            return found if found is not None and not found["isLearner"] else None

        found = wait_for(
            voter,
            what=f"{name} votes",
            seconds=seconds,
            every=0.2,
            tolerate=(httpx.HTTPError,),
            explain=self.logs,
        )
        assert found is not None
        return found

    def wait_gone(self, node: KingbusNode) -> None:
        """Wait for the end of a node that was removed; the cluster's object forgets it."""
        assert node.wait_end() == 0, processes.tail(node.log)
        assert "removed from the cluster" in node.output()
        self.nodes.remove(node)
        self.gone.append(node)

    def logs(self, *, lines: int = 25) -> str:
        """The last lines of all logs."""
        return "\n".join(
            processes.tail(node.log, lines=lines) for node in (*self.gone, *self.nodes)
        )


def _has_executed(node: KingbusNode, gtids: str, server: MySQLServer) -> bool:
    held = node.status()["executed_gtid_set"]
    return bool(server.value("SELECT GTID_SUBSET(%s, %s)", gtids, held))


def _why_behind(node: KingbusNode) -> str:
    return f"{node.status()}\n{node.receiver_status()}\n{processes.tail(node.log)}"
