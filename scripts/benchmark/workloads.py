"""What the sources are made to write: whole workloads from inside, or single rows at a rate."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.figures import Load, number_of
from tests.support import servers
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for
from tests.support.workload import WritingThread

SMALL_ROW = 110
BIG_ROW = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One kind of transaction: `inserts` statements of one row each."""

    inserts: int
    row_bytes: int

    @property
    def events(self) -> int:
        """GTID, BEGIN and XID; a table map and a row event for each statement."""
        return 3 + 2 * self.inserts


SMALL = Shape(inserts=1, row_bytes=SMALL_ROW)
BIG = Shape(inserts=1, row_bytes=BIG_ROW)
LONG = Shape(inserts=64, row_bytes=SMALL_ROW)
HEAVY = Shape(inserts=8, row_bytes=16_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Transactions of several shapes, in a pattern that repeats."""

    name: str
    pattern: tuple[tuple[int, Shape], ...]
    """How many of which shape, one after the other."""
    transactions: int

    @property
    def events(self) -> int:
        """Events of all transactions; those that begin and end files are not counted."""
        return sum(count * shape.events for count, shape in self.runs())

    def runs(self) -> list[tuple[int, Shape]]:
        """The pattern once; its counts sum up to all transactions."""
        whole = sum(count for count, _ in self.pattern)
        counts = [count * self.transactions // whole for count, _ in self.pattern]
        # What the rounding lost goes to the first shape.
        counts[0] += self.transactions - sum(counts)
        return [(count, shape) for count, (_, shape) in zip(counts, self.pattern, strict=True)]


def workloads(scale: float) -> list[Workload]:
    """All workloads, at `scale` times their usual sizes."""
    mixed = ((90, SMALL), (8, BIG), (1, LONG), (1, HEAVY))
    return [
        Workload(name="small", pattern=((1, SMALL),), transactions=round(600_000 * scale)),
        Workload(name="rows", pattern=((1, BIG),), transactions=round(120_000 * scale)),
        Workload(name="mixed", pattern=mixed, transactions=round(200_000 * scale)),
    ]


def make_source(directory: Path) -> MySQLServer:
    """A source that syncs nothing: it must not be what is waited for."""
    fast = ("innodb_flush_log_at_trx_commit=0", "max_binlog_size=1G")
    return MySQLServer(servers.modern(), directory, server_id=1, extra=fast)


def make_tables(source: MySQLServer) -> None:
    """The schema that all workloads use, and what writes them."""
    source.execute("CREATE DATABASE bench CHARACTER SET latin1")
    source.execute(
        "CREATE TABLE bench.rows_of_it (id INT AUTO_INCREMENT PRIMARY KEY, v VARBINARY(16000))"
    )
    source.execute(
        "CREATE PROCEDURE bench.fill(IN wanted INT, IN size INT) BEGIN"
        " DECLARE done INT DEFAULT 0; WHILE done < wanted DO"
        " INSERT INTO bench.rows_of_it (v) VALUES (REPEAT(CHAR(97 + done % 26), size));"
        " SET done = done + 1; END WHILE; END"
    )


_WORDS = {
    "city": ("Berlin", "Hamburg", "Bremen", "Leipzig", "Dresden", "Cologne", "Munich", "Stuttgart"),
    "state": ("ordered", "paid", "packed", "sent", "delivered", "returned", "refunded"),
    "note": ("", "", "leave it with the neighbour", "ring twice, please", "call before delivery"),
}
EVENTS_OF_ORDER = SMALL.events


def fill_with_orders(source: MySQLServer, transactions: int) -> Load:
    """Rows of about 230 bytes such as a shop has: a document of words, numbers and a random token
    of 16 bytes in hexadecimal. How far they shrink is what real rows do, about; repeated letters
    would vanish.
    """
    words = "".join(
        f', \',"{name}":"\', ELT(1 + FLOOR(RAND() * {len(given)}), '
        + ", ".join(f"'{word}'" for word in given)
        + "), '\"'"
        for name, given in _WORDS.items()
    )
    source.execute(
        "CREATE PROCEDURE bench.orders(IN wanted INT) BEGIN"
        " DECLARE done INT DEFAULT 0; WHILE done < wanted DO"
        " INSERT INTO bench.rows_of_it (v) VALUES (CONCAT("
        "'{\"order\":', done, ',\"customer\":', FLOOR(RAND() * 1000000),"
        " ',\"token\":\"', LEFT(SHA2(RAND(), 256), 32), '\"',"
        " ',\"amount\":', FLOOR(RAND() * 100000) / 100,"
        " ',\"ordered_at\":\"', FROM_UNIXTIME(1700000000 + done * 7), '\"'"
        f"{words}, ',\"items\":[', FLOOR(RAND() * 90000), ',', FLOOR(RAND() * 90000), ']}}'));"
        " SET done = done + 1; END WHILE; END"
    )
    source.execute("CALL bench.orders(%s)", transactions)
    return Load(
        transactions=transactions,
        events=transactions * EVENTS_OF_ORDER,
        binlog_bytes=binlog_bytes(source),
    )


def fill(source: MySQLServer, workload: Workload) -> Load:
    """Write the workload from inside the server; what all its binary logs hold now."""
    rounds = 1 if len(workload.pattern) == 1 else 100
    left = workload.runs()
    for turn in range(rounds, 0, -1):
        for place, (count, shape) in enumerate(left):
            now = count // turn
            left[place] = (count - now, shape)
            _write(source, shape, now)
    return Load(
        transactions=workload.transactions,
        events=workload.events,
        binlog_bytes=binlog_bytes(source),
    )


def _write(source: MySQLServer, shape: Shape, transactions: int) -> None:
    if shape.inserts == 1:
        source.execute("CALL bench.fill(%s, %s)", transactions, shape.row_bytes)
        return
    for _ in range(transactions):
        source.execute("START TRANSACTION")
        source.execute("CALL bench.fill(%s, %s)", shape.inserts, shape.row_bytes)
        source.execute("COMMIT")


def binlog_bytes(source: MySQLServer) -> int:
    """The size of all binary logs."""
    return sum(source.binlog_path(name).stat().st_size for name in source.binlog_files())


class PacedWriter(WritingThread):
    """A thread that commits one row at a time, at a rate, for as long as it is open.

    `sent` says when each transaction was sent to the source, by its GTID's number, on the monotonic
    clock. Nobody else may write there meanwhile. One that is late goes at once: the rate is kept.
    """

    def __init__(
        self, source: MySQLServer, *, per_second: float, row_bytes: int = SMALL_ROW
    ) -> None:
        super().__init__()
        self.sent: dict[int, float] = {}
        self._source = source
        self._per_second = per_second
        self._row_bytes = row_bytes
        self._next = number_of(source.gtid_executed()) + 1

    @property
    def newest(self) -> int:
        """The number of the last transaction that the source acknowledged."""
        return self._next - 1

    def wait_for(self, count: int, *, seconds: float) -> None:
        """Wait until `count` more transactions were sent."""
        wanted = len(self.sent) + count
        wait_for(
            lambda: len(self.sent) >= wanted or self.failure is not None,
            what=f"the writer to have sent {wanted} transactions",
            seconds=seconds,
        )

    def _write(self) -> None:
        with (
            contextlib.closing(self._source.connect()) as connection,
            connection.cursor() as cursor,
        ):
            began = time.monotonic()
            while True:
                due = began + len(self.sent) / self._per_second
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self.sent[self._next] = time.monotonic()
                cursor.execute(
                    "INSERT INTO bench.rows_of_it (v) VALUES (REPEAT('a', %s))",
                    (self._row_bytes,),
                )
                self._next += 1
