"""The commands of the README do what it says, taken from its own text."""

import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support import processes, workload
from tests.support.installations import REPOSITORY, Installation
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

_PORTS = (9590, 9591, 9592, 9595, 9596, 9597, 2728, 2729, 2730, 3306, 3390)


def block(heading: str, language: str) -> str:
    """The first fenced block of a language under a heading."""
    text = (REPOSITORY / "README.md").read_text()
    section = text.partition(f"## {heading}\n")[2]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None, f"README has no {language} block under {heading}"
    return found.group(1)


def replaced(text: str, ports: dict[int, int]) -> str:
    """The text with every fixed port replaced by a free one."""
    return re.sub(r"(?<=[:=])\d{4}\b", lambda found: str(ports[int(found.group())]), text)


def test_quick_start(world: World, modern: Installation) -> None:
    """Three nodes, receiver and listener started as written; a row written arrives at a replica."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    source.execute("ALTER USER 'repl'@'%' IDENTIFIED BY 'source-password'")
    replica = world.server(modern, "replica", server_id=2)
    ports = {port: processes.free_port() for port in _PORTS} | {3306: source.port}
    place = world.directory / "place"
    (place / "conf/cluster").mkdir(parents=True)
    for file in (REPOSITORY / "conf/cluster").glob("*.yaml"):
        (place / "conf/cluster" / file.name).write_text(replaced(file.read_text(), ports))

    lines = block("Run it", "sh").splitlines()
    assert lines[0] == "scripts/install"
    exported = re.findall(r"(\w+)=(\S+)", lines[1])
    admin = f"http://127.0.0.1:{ports[9595]}"
    environment = processes.clean_environment() | dict(exported) | {"KINGBUS_ADMIN": admin}
    nodes = []
    outputs = []
    try:
        for line in lines[2:]:
            program, *words = replaced(line, ports).removesuffix(" &").split()
            assert program == ".venv/bin/kingbus"
            if line.endswith(" &"):
                log = place / f"{len(nodes)}.log"
                command = [str(REPOSITORY / program), *words]
                nodes.append(processes.start(command, log=log, directory=place))
                wait_for(
                    lambda log=log: "ready name=" in log.read_text(),
                    what=line,
                    explain=lambda log=log: processes.tail(log),
                )
                continue
            wait_for(
                lambda: httpx.get(f"{admin}/health", trust_env=False).status_code == 200,
                what="a leader",
            )
            answer = run(program, words, place, environment)
            assert answer.returncode == 0, (line, answer.stderr)
            outputs.append(answer.stdout)
        assert "kingbus-1" in outputs[-1]
        for statement in replaced(block("Run it", "sql"), ports).split(";")[:2]:
            replica.execute(statement)
        workload.small_transactions(source, 10)
        replica.wait_for_gtids(source.gtid_executed())
        assert replica.checksums() == source.checksums()
    finally:
        for node in nodes:
            processes.stop(node, seconds=15)


def run(
    program: str, words: list[str], place: Path, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """One command to its end."""
    return subprocess.run(
        [str(REPOSITORY / program), *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
