"""Connector/J, which asks and reads no log: its answers compared with the source's."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.clients import toolchains
from tests.clients.readers import Say
from tests.clients.scene import LOGIN, Scene
from tests.clients.table import ATTACH, COMPRESSION, CONTENT, GTID, POSITION, RESUME, TLS, Row
from tests.support.servers import ADMIN_PASSWORD, ADMIN_USER

NAME = "connector-j"
TITLE = "Connector/J 9.1"

ANSWER_SECONDS = 60.0
"""How long all statements may take, the start of the Java machine among it."""

# Not among them is SHOW MASTER STATUS: MySQL 9 refuses it, and a relay answers its older clients.
STATEMENTS = (
    "SELECT 1",
    "SELECT VERSION(), @@version, @@global.gtid_mode, @@global.gtid_executed",
    "SELECT @@global.binlog_checksum, @@global.binlog_format, @@global.binlog_row_image",
    "SHOW BINARY LOGS",
    "SHOW BINARY LOG STATUS",
    "SHOW BINLOG EVENTS LIMIT 200",
    "SHOW GLOBAL VARIABLES LIKE 'gtid_executed'",
    "SHOW VARIABLES WHERE Variable_name IN ('log_bin', 'gtid_mode', 'binlog_format')",
    "SELECT GTID_SUBSET('', @@global.gtid_executed), GTID_SUBTRACT(@@global.gtid_executed, '')",
    "SELECT @@no_such_variable",
)

FAILED_OVER = "Given both addresses; it takes the second when the first does not answer."
NO_LOG = "Asks statements and reads no log: its answers are compared with the source's."


def try_statements(scene: Scene, say: Say) -> Row:
    """All that is to be known of it; what fails is in its row."""
    row = Row(client=TITLE)
    try:
        command = toolchains.java_program("binlog", "Statements")
    except toolchains.UnreachableError as error:
        row.missing = str(error)
        return row
    row.apart(NO_LOG, GTID, POSITION)
    row.note(FAILED_OVER)
    leader = scene.all_set()
    scene.write()
    scene.here()
    source = scene.source
    admin = {"user": ADMIN_USER, "password": ADMIN_PASSWORD}
    plain = f"{scene.door.host}:{scene.door.port}"
    others = [f"{node.host}:{node.listen_port}" for node in scene.cluster.nodes[:2]]

    def answers(address: str, **options: str) -> list[Any]:
        return _ask(scene, command, address, {**LOGIN, **options})

    def same(column: str, *, address: str = plain, **options: str) -> None:
        say(f"{NAME}: {column}")
        waiting = column
        try:
            ours = answers(address, **options)
            row.yes(column)
            waiting = CONTENT
            theirs = answers(f"{source.host}:{source.port}", **admin)
            for one, other in zip(ours, theirs, strict=True):
                assert one == other, f"{one['statement']}: {_apart(one, other)}"
            row.yes(CONTENT)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong is a cell of the table
            say(f"{NAME}: {error}")
            row.no(error, waiting)

    before = scene.door.passed
    same(ATTACH)
    plain_bytes = scene.door.passed - before
    same(TLS, address=f"{scene.secure.host}:{scene.secure.listen_port}", tls="yes")
    before = scene.door.passed
    same(COMPRESSION, compression="zlib")
    passed = scene.door.passed - before
    if not passed < plain_bytes / 2:
        row.no(f"{passed} bytes came, {plain_bytes} without compression", COMPRESSION)
    order = others if leader is scene.cluster.nodes[0] else others[::-1]
    scene.kill_leader(leader)
    scene.cluster.leader()
    same(RESUME, address=",".join(order))
    scene.all_set()
    return row


def _ask(scene: Scene, command: Sequence[str], address: str, options: dict[str, str]) -> list[Any]:
    lines = {"address": address, **options}
    lines |= {f"statement{number}": text for number, text in enumerate(STATEMENTS)}
    file = scene.directory / f"{NAME}-{scene.server_id()}.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    answer = subprocess.run(
        [*command, str(file)], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
    )
    told = answer.stderr.strip().splitlines()
    assert answer.returncode == 0, f"exit {answer.returncode}: {' '.join(told[:2])}"
    return [json.loads(line) for line in answer.stdout.splitlines()]


def _apart(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first row or field in which two answers differ."""
    for name in sorted({*one, *other}):
        ours, theirs = one.get(name), other.get(name)
        if isinstance(ours, list) and isinstance(theirs, list):
            pairs = zip(ours, theirs, strict=False)
            ours, theirs = next((pair for pair in pairs if pair[0] != pair[1]), (ours, theirs))
        if ours != theirs:
            return f"{name} {ours}, of the source {theirs}"[:400]
    return "other fields"
