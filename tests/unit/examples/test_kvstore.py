"""The key-value example: three real processes, the loss of the leader, and what a disk holds."""

import ast
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from kingbus.raft import Entry, HardState, Ready
from tests.support.installations import REPOSITORY
from tests.support.processes import free_port, kill, start, tail
from tests.support.waiting import wait_for

SCRIPT = REPOSITORY / "docs" / "examples" / "kvstore.py"
NAMES = ("a", "b", "c")


class Store:
    """The three processes, each with a directory of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.http = {name: free_port() for name in NAMES}
        self.members = [f"{name}=http://127.0.0.1:{free_port()}" for name in NAMES]
        self.running = {}

    def start(self, name: str) -> None:
        """Start a member; the disk it has is the one it had."""
        command = [sys.executable, str(SCRIPT), name, str(self.path / name), str(self.http[name])]
        self.running[name] = start(
            [*command, *self.members],
            log=self.path / f"{name}.log",
            # The script lies elsewhere: without this, an installed kingbus would be taken.
            environment={"PYTHONPATH": str(REPOSITORY)},
        )

    def kill9(self, *names: str) -> None:
        for name in names:
            kill(self.running.pop(name))

    def url(self, name: str, key: str) -> str:
        return f"http://127.0.0.1:{self.http[name]}/{key}"

    def ask(self, name: str, key: str, value: bytes | None = None) -> httpx.Response:
        """One GET, or one PUT."""
        method = "GET" if value is None else "PUT"
        return httpx.request(method, self.url(name, key), content=value, timeout=20)

    def answer(self, name: str, key: str, value: bytes | None = None) -> httpx.Response:
        """The same, repeated while there is no leader (503), as a client would."""

        def answered() -> httpx.Response | None:
            found = self.ask(name, key, value)
            return None if found.status_code == 503 else found

        return wait_for(answered, what=f"an answer of {name}", explain=self.logs)

    def put(self, name: str, key: str, value: bytes) -> int:
        return self.answer(name, key, value).status_code

    def get(self, name: str, key: str) -> bytes | None:
        answer = self.answer(name, key)
        assert answer.status_code in {200, 404}, answer.text
        return answer.content if answer.status_code == 200 else None

    def leader(self) -> str | None:
        """Whom all running members follow, and who runs."""
        seen = {httpx.get(self.url(name, ""), timeout=20).json()["leader"] for name in self.running}
        return next(iter(seen)) if len(seen) == 1 and seen < {*self.running} else None

    def wait_leader(self) -> str:
        return wait_for(
            self.leader, what="a leader", tolerate=(httpx.TransportError,), explain=self.logs
        )

    def logs(self) -> str:
        return "\n".join(tail(self.path / f"{name}.log", lines=15) for name in NAMES)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    for name in NAMES:
        made.start(name)
    yield made
    made.kill9(*list(made.running))


@pytest.mark.slow
def test_what_was_put_survives_the_leader_and_a_restart(store: Store) -> None:
    """After kill -9 of the leader, and then of all: every value acknowledged before is read."""
    first = store.wait_leader()
    other = next(name for name in NAMES if name != first)
    values = {f"key-{number}": b"before %d\r\n\0\xff" % number for number in range(20)}
    for name, (key, value) in zip(itertools.cycle(NAMES), values.items(), strict=False):
        assert store.put(name, key, value) == 200
    store.kill9(first)

    second = store.wait_leader()
    assert second != first
    assert {key: store.get(other, key) for key in values} == values
    assert store.put(other, "key-0", b"after") == 200
    values["key-0"] = b"after"

    store.start(first)
    store.wait_leader()
    assert {key: store.get(first, key) for key in values} == values

    store.kill9(*NAMES)
    for name in NAMES:
        store.start(name)
    store.wait_leader()
    for name in NAMES:
        assert {key: store.get(name, key) for key in values} == values


@pytest.mark.slow
def test_a_read_sees_what_another_member_acknowledged(store: Store) -> None:
    """Whoever is asked: the read index covers a put that was answered a moment ago elsewhere."""
    store.wait_leader()
    ring = itertools.cycle(NAMES)
    writer = next(ring)
    for number in range(60):
        reader = next(ring)
        assert store.put(writer, "key", b"%d" % number) == 200
        assert store.get(reader, "key") == b"%d" % number
        writer = reader
    assert store.get(writer, "other") is None


@pytest.mark.slow
def test_without_a_majority_nothing_is_answered(store: Store) -> None:
    """The survivor of three, though it led, neither takes a value nor shows one."""
    leader = store.wait_leader()
    assert store.put(leader, "key", b"old") == 200
    store.kill9(*[name for name in NAMES if name != leader])

    assert store.ask(leader, "key", b"new").status_code == 503
    assert store.ask(leader, "key").status_code == 503

    for name in NAMES:
        if name != leader:
            store.start(name)
    store.wait_leader()
    assert store.get(leader, "key") in {b"old", b"new"}


@pytest.mark.slow
def test_bad_requests_are_refused(store: Store) -> None:
    """No key, no length, or too much: 400, and the member goes on."""
    member = store.wait_leader()
    assert store.put(member, "", b"x") == 400
    assert store.put(member, "key", b"x" * ((512 << 10) + 1)) == 400
    assert httpx.put(store.url(member, "key"), content=iter([b"x"]), timeout=20).status_code == 400
    assert store.put(member, "key", b"x" * (512 << 10)) == 200


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kvstore", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def written(module: ModuleType, path: Path) -> None:
    """A journal of three writes: the third replaces the entry of the second, in another term."""
    with path.open("a+b") as file:
        journal = module.Journal(file)
        for term, index, data in ((1, 1, b"one\xff"), (1, 2, b"two"), (2, 2, b"other")):
            entry = Entry(term=term, index=index, data=data)
            state = HardState(term, 7, index - 1)
            journal.write(Ready(entries=[entry], hard_state=state, must_sync=True))


def content(module: ModuleType, path: Path) -> tuple[HardState, list[bytes]]:
    with path.open("a+b") as file:
        storage = module.Journal(file).storage
    last = storage.last_index()
    entries = storage.entries(1, last + 1) if last else []
    return storage.initial_state()[0], [entry.data for entry in entries]


def test_a_journal_reads_back_what_was_written(module: ModuleType, tmp_path: Path) -> None:
    """Entries, replaced ones too, and the last hard state; twice the same."""
    path = tmp_path / "journal"
    written(module, path)

    for _ in range(2):
        assert content(module, path) == (HardState(2, 7, 1), [b"one\xff", b"other"])


def test_a_cut_line_is_dropped_wherever_it_was_cut(module: ModuleType, tmp_path: Path) -> None:
    """Cut at every byte of the last line, the two before it count, and it goes on behind them."""
    path = tmp_path / "journal"
    written(module, path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole) - len(lines[-1]), len(whole)):
        path.write_bytes(whole[:length])
        assert content(module, path) == (HardState(1, 7, 1), [b"one\xff", b"two"])
        assert path.read_bytes() == b"".join(lines[:-1])


def test_a_damaged_journal_is_refused(module: ModuleType, tmp_path: Path) -> None:
    """A flipped byte before the last line is damage, not a crash: the place is named."""
    path = tmp_path / "journal"
    written(module, path)
    found = bytearray(path.read_bytes())
    found[20] ^= 1
    path.write_bytes(found)

    with pytest.raises(SystemExit, match="damaged at byte 0"):
        content(module, path)
    assert path.read_bytes() == found


def test_two_processes_do_not_share_a_journal(module: ModuleType, tmp_path: Path) -> None:
    """The second one fails at the start: it would vote with the first one's vote unseen."""
    path = tmp_path / "journal"
    with path.open("a+b") as file:
        module.Journal(file)
        with pytest.raises(BlockingIOError):
            content(module, path)


def test_it_stands_on_the_two_packages_only() -> None:
    """Of kingbus it imports raft and transport; the rest is trio and the standard library."""
    tree = ast.parse(SCRIPT.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "kingbus":
            found |= {f"kingbus.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)

    ours = {name for name in found if name.split(".")[0] == "kingbus"}
    assert ours == {"kingbus.raft", "kingbus.transport"}
    others = {name.split(".")[0] for name in found - ours}
    assert others - sys.stdlib_module_names == {"trio"}
