"""What a GTID set of many intervals costs the stream: ingest, dump, and one transaction at a time.

Two sources write the same. One was made with a set of a single interval of another server's
transactions, one with every second of those, which is as many intervals; everything is measured
with both in each turn, one right after the other.
"""

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pymysql

from scripts.benchmark import catalogue
from scripts.benchmark.figures import Load, Series
from scripts.benchmark.revisions import Product
from scripts.benchmark.runs import Measured, in_turn, say, settle
from scripts.benchmark.throughput import INGEST_SECONDS_MAX, SETTINGS, watched
from scripts.benchmark.workloads import (
    SMALL,
    SMALL_ROW,
    binlog_bytes,
    make_source,
    make_tables,
)
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.raw_reader import Drained, RawReader, drain
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for

TRANSACTIONS = 600_000
ONE_BY_ONE = 5_000
_ELSEWHERE = UUID(int=0x1111_1111_1111_1111_1111_1111_1111_1111)
"""The server whose transactions the sources had before they wrote their own."""
_FILE_BYTES = 128 << 20
"""Each file begins with the whole set, as MySQL writes it: 1.6 MB of that in this many."""
_DUMPS = 5
"""Of which the median counts: one takes 50 ms, and often another half of that by chance."""
_LOOK_SECONDS = 0.01
"""Between two looks at what a node has: what is timed takes a hundred times as long."""
_SLACK = 300_000
"""Of a dump's bytes: artificial events and heartbeats, which are not the same in each."""


def text_of(intervals: int) -> str:
    """A set of so many intervals, all of one server's transactions."""
    if intervals == 1:
        return f"{_ELSEWHERE}:1-{2 * catalogue.INTERVALS}"
    numbers = ":".join(str(number) for number in range(1, 2 * intervals, 2))
    return f"{_ELSEWHERE}:{numbers}"


def measure(
    products: Sequence[Product], turns: int, directory: Path, *, transactions: int
) -> Measured:
    """One node by itself pulls from each of the sources and gives all of it to a replica."""
    measured = Measured(part="gtids", series={product.name: Series() for product in products})
    with contextlib.ExitStack() as stack:
        sources = {}
        for name, intervals in catalogue.SETS.items():
            say(f"gtids: writing {transactions} transactions, {name}")
            source = stack.enter_context(make_source(directory / f"source-{intervals}"))
            had = text_of(intervals)
            _write(source, had, transactions)
            sources[name] = source, had
        measured.load = Load(
            transactions=transactions,
            events=transactions * SMALL.events,
            binlog_bytes=binlog_bytes(sources[catalogue.SINGLE][0]),
        )
        for turn in range(turns):
            for product in in_turn(products, turn):
                for name, (source, had) in in_turn(list(sources.items()), turn):
                    _turn(
                        source, had, directory / "one", product, measured.series[product.name], name
                    )
            measured.tell(turn)
    return measured


def _write(source: MySQLServer, had: str, transactions: int) -> None:
    source.execute("SET GLOBAL max_binlog_size = %s", _FILE_BYTES)
    source.execute("SET GLOBAL gtid_purged = %s", f"+{had}")
    source.execute("FLUSH BINARY LOGS")
    source.execute("PURGE BINARY LOGS TO %s", source.binlog_files()[-1])
    make_tables(source)
    source.execute("CALL bench.fill(%s, %s)", transactions, SMALL_ROW)


def _turn(
    source: MySQLServer, had: str, directory: Path, product: Product, series: Series, name: str
) -> None:
    def row(what: str) -> str:
        return catalogue.gtids_name(what, name)

    with KingbusCluster(
        directory, count=1, settings=product.configured(SETTINGS), program=product.program
    ) as cluster:
        node = cluster.leader()
        node.start_listener()
        settle()
        with contextlib.closing(_prompt(node)) as prompt, watched(cluster) as watch:
            ordered = time.perf_counter()
            cluster.start_receiver(source, tls={"mode": "disabled"})
            wait_for(lambda: _files(prompt), what="the node to have a file", every=_LOOK_SECONDS)
            began = time.perf_counter()
            _wait_for_files(prompt, source)
            seconds = time.perf_counter() - began
        series.add(row("ingest"), seconds, watch.usage)
        series.add(row("order to pull to first file"), (began - ordered) * 1000)
        theirs = _dump(source.port, REPLICATION_USER, REPLICATION_PASSWORD, had)
        series.add(row("the source's own dump"), theirs.ended - theirs.first)
        drained = _dump(node.listen_port, LISTENER_USER, LISTENER_PASSWORD, had)
        series.add(row("dump as a replica"), drained.ended - drained.first)
        series.add(row("dump command to first byte"), (drained.first - drained.began) * 1000)
        # A replica is attached that has all of it, and sees each transaction at once.
        with (
            RawReader(
                port=node.listen_port,
                user=LISTENER_USER,
                password=LISTENER_PASSWORD,
                gtid_set=source.gtid_executed(),
            ) as reader,
            contextlib.closing(_prompt(node)) as prompt,
        ):
            wait_for(lambda: reader.seen.events >= 2, what="the dump to begin")
            with watched(cluster) as watch:
                _insert(source, ONE_BY_ONE)
                wait_for(
                    lambda: len(reader.seen.transactions) == ONE_BY_ONE,
                    what="the replica to have received all",
                    explain=lambda: reader.seen.end,
                )
        series.add(row("CPU of a transaction"), watch.usage.cpu_seconds / ONE_BY_ONE * 1e6)
    shutil.rmtree(directory)


def _prompt(node: KingbusNode) -> "pymysql.Connection":
    return pymysql.connect(
        host=node.host,
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        ssl_disabled=True,
    )


def _wait_for_files(prompt: "pymysql.Connection", source: MySQLServer) -> None:
    """Until the node has the end of the source's last file: asked for without any set in it."""
    wanted = [(row[0], int(row[1])) for row in source.execute("SHOW BINARY LOGS")]
    wait_for(
        lambda: _files(prompt) == wanted,
        what=f"the node to have {wanted}",
        seconds=INGEST_SECONDS_MAX,
        every=_LOOK_SECONDS,
    )


def _files(prompt: "pymysql.Connection") -> list[tuple[str, int]]:
    with prompt.cursor() as cursor:
        cursor.execute("SHOW BINARY LOGS")
        return [(row[0], int(row[1])) for row in cursor.fetchall()]


def _dump(port: int, user: str, password: str, had: str) -> Drained:
    """To a replica that has what the source had before it wrote anything."""

    def read(at_least: int | None = None) -> Drained:
        return drain(
            port=port,
            user=user,
            password=password,
            gtid_set=had,
            at_least=at_least,
        )

    whole = read().bytes
    endless = [read(whole - _SLACK) for _ in range(_DUMPS)]
    for dump in endless:
        if abs(dump.bytes - whole) > _SLACK:
            raise AssertionError(f"a dump of {dump.bytes} bytes, where another had {whole}")
    return sorted(endless, key=lambda dump: dump.ended - dump.first)[_DUMPS // 2]


def _insert(source: MySQLServer, transactions: int) -> None:
    with contextlib.closing(source.connect()) as connection, connection.cursor() as cursor:
        for _ in range(transactions):
            cursor.execute(
                "INSERT INTO bench.rows_of_it (v) VALUES (REPEAT('a', %s))", (SMALL_ROW,)
            )
