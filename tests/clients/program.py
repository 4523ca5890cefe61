"""The run that fills the table of clients; docs/testing.md says what it does.

Knows which clients there are and in what order they are tried; how each is tried is in `readers`,
`replicas` and `tools`.
"""

import argparse
import fnmatch
import functools
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.clients import statements
from tests.clients.readers import READERS, READERS_OF_MARIADB, Reader, try_reader
from tests.clients.replicas import (
    MARIADB_OF_MYSQL,
    MARIADB_REPLICA,
    MODERN_REPLICA,
    OLD_REPLICA,
    try_replica,
)
from tests.clients.scene import Scene
from tests.clients.statements import try_statements
from tests.clients.table import Row, markdown
from tests.clients.tools import MARIADB_BINLOG, MYSQLBINLOG, try_tool
from tests.support import servers
from tests.support.installations import Installation, MissingServerError
from tests.support.world import World

_began = time.monotonic()

HEADER = """# Clients

What was seen to work with a kingbus cluster as its source, client by client. `scripts/clients`
makes this table with real servers ([how](testing.md#the-clients)); only the notes, and why a client
was not run, were written by hand.
"""

UNREACHABLE = {
    "Maxwell": "com.zendesk:maxwell 1.41.2 and 1.44.0 could not be fetched from Maven Central"
}
"""Clients that were looked for and cannot be had, and what was asked for."""

Trial = Callable[[Scene], Row]


def say(text: str) -> None:
    sys.stderr.write(f"clients: {time.monotonic() - _began:6.1f} s  {text}\n")
    sys.stderr.flush()


def scenes() -> list[tuple[Callable[[], Installation], list[tuple[str, str, Trial]]]]:
    """The sources, each with the clients that are tried behind it: name, title and trial."""
    readers, readers_of_mariadb = (
        [(each.name, each.title, functools.partial(_read, each)) for each in group]
        for group in (READERS, READERS_OF_MARIADB)
    )
    old_replica, modern_replica, mariadb_replica, mariadb_of_mysql = (
        (replica.name, replica.title, lambda scene, each=replica: try_replica(each, scene, say))
        for replica in (OLD_REPLICA, MODERN_REPLICA, MARIADB_REPLICA, MARIADB_OF_MYSQL)
    )
    mysqlbinlog, mariadb_binlog = (
        (tool.name, tool.title, lambda scene, each=tool: try_tool(each, scene, say))
        for tool in (MYSQLBINLOG, MARIADB_BINLOG)
    )
    connector_j = (statements.NAME, statements.TITLE, lambda scene: try_statements(scene, say))
    return [
        (servers.modern, [mysqlbinlog, modern_replica, *readers, connector_j]),
        (servers.old, [old_replica, mariadb_of_mysql]),
        (servers.mariadb, [mariadb_replica, mariadb_binlog, *readers_of_mariadb]),
    ]


def _read(reader: Reader, scene: Scene) -> Row:
    return try_reader(reader, scene, say)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/clients",
        description="Try every client that reads a binary log against a relay, and tell of each.",
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this client, or a pattern; may be repeated"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to a file")
    parser.add_argument("--list", action="store_true", help="name the clients and end")
    given = parser.parse_args(words)
    chosen = list(_chosen(given.only))
    if given.list:
        names = [name for _, trials in scenes() for name, _, _ in trials]
        sys.stdout.write("\n".join(names) + "\n")
        return 0
    if not chosen:
        parser.error(f"no client is named {', '.join(given.only)}; see --list")
    # An interrupted run ends what it started, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows: list[Row] = []
    try:
        for find, trials in chosen:
            _play(find, trials, rows)
    except KeyboardInterrupt:
        say("interrupted; everything is stopped")
        return 130
    if not given.only:
        rows += [Row(client=title, missing=reason) for title, reason in UNREACHABLE.items()]
    text = markdown(rows, header=HEADER)
    if given.write is not None:
        given.write.write_text(text)
        say(f"wrote {given.write}")
    else:
        sys.stdout.write(text)
    for row in rows:
        if row.missing:
            say(f"{row.client} was not run: {row.missing}")
    return 0 if all(row.is_good for row in rows if row.client not in UNREACHABLE) else 1


def _chosen(
    patterns: Sequence[str] | None,
) -> Iterator[tuple[Callable[[], Installation], list[tuple[str, str, Trial]]]]:
    for find, trials in scenes():
        wanted = [
            trial
            for trial in trials
            if not patterns or any(fnmatch.fnmatch(trial[0], pattern) for pattern in patterns)
        ]
        if wanted:
            yield find, wanted


def _play(
    find: Callable[[], Installation], trials: Sequence[tuple[str, str, Trial]], rows: list[Row]
) -> None:
    """One source and its cluster, and every client behind it in turn."""
    try:
        installation = find()
    except MissingServerError as error:
        rows += [Row(client=title, missing=str(error)) for _, title, _ in trials]
        return
    directory = Path(tempfile.mkdtemp(prefix="kingbus-clients-"))
    world = World(directory=directory, started=[])
    good = False
    began = len(rows)
    try:
        say(f"starting {installation.name} and three nodes in {directory}")
        scene = Scene(world, installation)
        for name, _, trial in trials:
            say(name)
            rows.append(trial(scene))
        good = all(row.is_good for row in rows[began:])
    finally:
        world.end()
        if good:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"logs are in {directory}")
