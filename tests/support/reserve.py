"""What nodes take of their disks over time, and a source that writes more than they may keep."""

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.cluster import KingbusCluster, KingbusNode
from tests.support.servers import MySQLServer
from tests.support.workload import WritingThread

LOOK_SECONDS = 0.1
ROW_BYTES = 400_000
TRANSACTION_BYTES = 300
"""What a transaction has beside its row."""
ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one node took of its disk at one moment, in bytes; `seconds` since the watch began."""

    seconds: float
    node: str
    segments: int
    index: int

    @property
    def total(self) -> int:
        """All that the reserve is for."""
        return self.segments + self.index


def taken_by(directory: Path) -> int:
    """Bytes of the files there, with the room that they have preallocated; each file once."""
    found: dict[int, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in list(entries):
            with contextlib.suppress(FileNotFoundError):  # purged meanwhile
                facts = Path(entry.path).stat()
                found[facts.st_ino] = max(facts.st_size, facts.st_blocks * 512)
    return sum(found.values())


class DiskWatch(WritingThread):
    """Looks at the nodes' directories again and again, while its context lasts."""

    def __init__(self, nodes: Iterable[KingbusNode]) -> None:
        super().__init__()
        self.nodes = list(nodes)
        self.samples: list[Taken] = []
        self._began = time.monotonic()

    def look(self) -> list[Taken]:
        """Every node, now."""
        seconds = time.monotonic() - self._began
        return [
            Taken(
                seconds=seconds,
                node=node.name,
                segments=taken_by(node.data_dir / "log"),
                index=taken_by(node.data_dir / "state"),
            )
            for node in self.nodes
        ]

    def _write(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.samples += self.look()

    def largest(self) -> dict[str, int]:
        """The most that each node ever took."""
        return {
            node.name: max(each.total for each in self.samples if each.node == node.name)
            for node in self.nodes
        }


def make_churn(source: MySQLServer) -> None:
    """A table whose rows are only ever replaced: the binlog grows, the table does not."""
    source.execute("CREATE DATABASE IF NOT EXISTS churn")
    source.execute("CREATE TABLE churn.rows_ (id INT PRIMARY KEY, turn INT, body LONGBLOB)")
    for number in range(ROWS):
        source.execute("INSERT INTO churn.rows_ VALUES (%s, 0, '')", number)


def churn(source: MySQLServer, size: int, *, row_bytes: int = ROW_BYTES) -> int:
    """Write about so many bytes of binlog in transactions of one row; how many bytes it was."""
    each = row_bytes + TRANSACTION_BYTES
    count = max(1, size // each)
    for number in range(count):
        source.execute(
            "UPDATE churn.rows_ SET turn = turn + 1,"
            " body = REPEAT(CHAR(97 + RAND() * 25), %s) WHERE id = %s",
            row_bytes,
            number % ROWS,
        )
    return count * each


CHURN_SETTINGS = ("binlog_row_image=minimal", "binlog_expire_logs_seconds=0")
"""Of the source: without them each old row would be in the binlog, too."""


def firsts(cluster: KingbusCluster) -> set[tuple[str, str]]:
    """First file and purged set of every running node; one pair when they agree."""
    found = set()
    for node in cluster.running:
        files, status = node.get("/binlog/files"), node.status()
        found.add((files[0]["name"] if files else "", status["purged_gtid_set"]))
    return found


def until_cut_off(node: KingbusNode, replica_uuid: str) -> float | None:
    """The metric of how far a replica is from being cut off; None where there is none of it."""
    with contextlib.suppress(httpx.HTTPError):
        name = f'kingbus_replica_bytes_until_cut_off{{replica="{replica_uuid}"}}'
        return node.metrics().get(name)
    return None


def is_cut_off(replica: MySQLServer) -> bool:
    """Whether it was told that what it needs is gone: 1236, which it has under its own numbers."""
    return any("fatal error 1236 from source" in error for error in replica.replica_errors())
