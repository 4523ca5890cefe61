"""What the benchmark reads from the system, and what it makes of its arguments."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmark import watching
from scripts.benchmark.catchup import longest
from scripts.benchmark.many_readers import drain_by_many
from scripts.benchmark.revisions import (
    RevisionError,
    commit,
    parse_settings,
    same_dependencies,
)
from scripts.benchmark.runs import in_turn, shared_out
from scripts.benchmark.workloads import workloads
from tests.support.processes import free_port


def test_memory_is_split_into_what_is_the_process_s_own_and_what_is_files():
    """Shared memory is nobody else's: it counts as anonymous."""
    status = "VmRSS:\t  130 kB\nRssAnon:\t  100 kB\nRssFile:\t   20 kB\nRssShmem:\t   10 kB\n"
    assert watching.memory_of(status) == (110 * 1024, 20 * 1024)
    assert watching.memory_of("Name:\tkthreadd\n") == (0, 0)


def test_cpu_time_is_found_behind_any_program_name():
    """User and system time, and those of children that ended; a name may look like fields."""
    fields = "S 1 2 3 4 5 6 7 8 9 10 100 50 7 3 20 0 1 0"
    ticks = os.sysconf("SC_CLK_TCK")
    assert watching.cpu_seconds_of(f"42 (a) b (c) {fields}") == 160 / ticks


def test_a_process_counts_with_what_it_started():
    """As a node does with its workers."""
    script = (
        "import subprocess, sys; print('up', flush=True);"
        " subprocess.run([sys.executable, '-c', 'import sys; print(\"child\", flush=True);"
        " sys.stdin.read()'])"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert [parent.stdout.readline(), parent.stdout.readline()] == ["up\n", "child\n"]
        family = watching.family(parent.pid)
        both = watching.memory(family)
        alone = watching.memory_of(Path(f"/proc/{parent.pid}/status").read_text())
        parent.stdin.close()
    assert len(family) == 2
    assert both[0] > alone[0] > 0


def test_a_process_that_is_gone_needs_nothing():
    """A killed leader is still being watched."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert watching.family(ended.pid) == [ended.pid]
    assert watching.memory([ended.pid]) == (0, 0)
    assert watching.cpu_seconds([ended.pid]) == 0


def test_a_watch_sees_the_memory_and_the_work_of_what_it_watches(tmp_path):
    """It looks at the end, too, so that something short is not missed."""
    (tmp_path / "file").write_bytes(bytes(100_000))
    with watching.Watch([os.getpid()], [tmp_path]) as watch:
        began = watching.cpu_seconds([os.getpid()])
        while watching.cpu_seconds([os.getpid()]) - began < 0.05:
            pass
    usage = watch.usage
    assert usage.anonymous_bytes > 1_000_000
    assert usage.page_cache_bytes >= 100_000
    assert usage.cpu_seconds == watch.most_cpu_seconds >= 0.05


def test_the_page_cache_of_a_directory_is_counted_in_pages(tmp_path):
    """Also of files further down; what was just written is there, what is empty is not."""
    page = os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "one").write_bytes(bytes(10 * page + 1))
    (tmp_path / "none").write_bytes(b"")
    assert watching.cached_bytes(tmp_path) == 11 * page
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1000 * page)
    assert watching.cached_bytes(tmp_path) == 11 * page


def test_turns_alternate():
    """Whoever comes second may find a warmer machine: each does so in half of the turns."""
    assert [in_turn(["a", "b"], turn) for turn in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


@pytest.mark.parametrize(("count", "turns"), [(20, 3), (1, 3), (6, 3)])
def test_kills_are_shared_out_without_losing_any(count, turns):
    """The first turns get what does not divide."""
    shares = shared_out(count, turns)
    assert sum(shares) == count
    assert len(shares) == turns
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("scale", [1.0, 0.01, 0.00123])
def test_a_workload_writes_as_many_transactions_as_it_says(scale):
    """Whatever its pattern and size; the plain ones have five events in each."""
    found = {workload.name: workload for workload in workloads(scale)}
    for workload in found.values():
        assert sum(count for count, _ in workload.runs()) == workload.transactions
        assert min(count for count, _ in workload.runs()) >= 0
    assert found["small"].events == 5 * found["small"].transactions
    assert found["rows"].events == 5 * found["rows"].transactions
    assert found["mixed"].events >= 5 * found["mixed"].transactions


def test_the_full_size_of_the_first_workloads_stays():
    """Otherwise old results could not be compared."""
    small, rows, mixed = workloads(1.0)
    assert (small.name, small.transactions) == ("small", 600_000)
    assert (rows.name, rows.transactions) == ("rows", 120_000)
    assert [shape.row_bytes for _, shape in small.pattern + rows.pattern] == [110, 8192]
    assert (mixed.events, mixed.transactions) == (1_280_000, 200_000)


def test_settings_become_sections():
    """Values are JSON where they are, text otherwise."""
    assert parse_settings([]) == {}
    given = ["server.workers=2", "server.version=8.4", "segment-size=64MB", "tls.source.mode=x=y"]
    assert parse_settings(given) == {
        "server": {"workers": 2, "version": 8.4},
        "segment-size": "64MB",
        "tls": {"source": {"mode": "x=y"}},
    }


@pytest.mark.parametrize("given", [["workers"], ["=2"], ["server.=2"], ["a=1", "a.b=2"]])
def test_text_that_is_no_setting_is_named(given):
    """The one that is wrong stands in the message."""
    with pytest.raises(ValueError, match=repr(given[-1])):
        parse_settings(given)


def test_only_what_is_needed_at_run_time_decides_on_another_environment():
    """Order and the tools of development do not."""
    base = '[project]\nname = "x"\ndependencies = ["trio>=0.30", "numpy"]\n'
    same = '[project]\ndependencies = ["numpy", "trio>=0.30"]\n[tool.ruff]\nline-length = 1\n'
    other = '[project]\ndependencies = ["numpy", "trio>=0.31"]\n'
    assert same_dependencies(base, same)
    assert not same_dependencies(base, other)


def git(repository, *words):
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    command = ["git", "-C", str(repository), *identity, *words]
    subprocess.run(command, check=True, capture_output=True)


def make_repository(directory):
    """Two commits of a package of the product's name, which says which one it is."""
    directory.mkdir()
    git(directory, "init", "--quiet")
    (directory / "kingbus").mkdir()
    for number in (1, 2):
        text = '[project]\nname = "kingbus"\ndependencies = []\n'
        (directory / "pyproject.toml").write_text(text)
        (directory / "kingbus" / "__init__.py").write_text(f"number = {number}\n")
        git(directory, "add", ".")
        git(directory, "commit", "--quiet", "--message", f"number {number}")
    return directory


def test_a_commit_runs_its_own_package_and_is_gone_afterwards(tmp_path):
    """Though another one is installed and in the present directory."""
    repository = make_repository(tmp_path / "repository")
    place = tmp_path / "other"
    with commit("HEAD~1", place, repository=repository) as product:
        answer = subprocess.run(
            [product.program.python, "-c", "import kingbus; print(kingbus.number)"],
            cwd=product.program.tree,
            env=product.program.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert product.program.tree == place
    assert answer.stdout == "1\n"
    assert not place.exists()
    git(repository, "worktree", "add", "--detach", str(place), "HEAD")


def test_a_commit_whose_package_would_not_be_run_is_refused(tmp_path):
    """Nothing is as misleading as a comparison of a tree with itself."""
    repository = make_repository(tmp_path / "repository")
    git(repository, "mv", "kingbus", "elsewhere")
    git(repository, "commit", "--quiet", "--message", "moved")
    place = tmp_path / "other"
    refused = pytest.raises(RevisionError, match="would not run its package")
    with refused, commit("HEAD", place, repository=repository):
        pass
    assert not place.exists()


def test_a_commit_that_is_not_there_is_refused_by_name(tmp_path):
    """Before anything is measured, and leaving nothing behind."""
    with pytest.raises(RevisionError, match="no-such-commit"), commit("no-such-commit", tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_cannot_log_in_ends_the_measurement():
    """Nine of ten readers would look faster than ten."""
    with pytest.raises(AssertionError, match="did not get as far as its dump"):
        drain_by_many(port=free_port(), user="replica", password="wrong", count=1)


def test_the_longest_turn_is_told_by_its_bound() -> None:
    """Only turns since the first look count; one beyond all bounds is infinite."""
    before = {0.01: 5.0, 0.05: 6.0, math.inf: 7.0}
    assert longest(before, {0.01: 9.0, 0.05: 10.0, math.inf: 11.0}) == 0.01
    assert longest(before, {0.01: 9.0, 0.05: 11.0, math.inf: 12.0}) == 0.05
    assert longest(before, {0.01: 9.0, 0.05: 11.0, math.inf: 13.0}) == math.inf
