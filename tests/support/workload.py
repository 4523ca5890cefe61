"""Work for a source: small and large transactions, giant rows, and a writer that never pauses."""

import contextlib
import threading
from typing import Any, Self

import pymysql

from tests.support.servers import MySQLServer

MIB = 1024 * 1024


def make_tables(source: MySQLServer) -> None:
    """The schema that all workloads use."""
    source.execute("CREATE DATABASE shop CHARACTER SET latin1")
    source.execute(
        "CREATE TABLE shop.orders (id BIGINT AUTO_INCREMENT PRIMARY KEY,"
        " item VARCHAR(64), amount INT, writer INT)"
    )
    source.execute(
        "CREATE TABLE shop.documents (id BIGINT AUTO_INCREMENT PRIMARY KEY, body LONGBLOB)"
    )


def small_transactions(source: MySQLServer, count: int) -> None:
    """`count` transactions of one row each."""
    with contextlib.closing(source.connect()) as connection, connection.cursor() as cursor:
        for number in range(count):
            cursor.execute(
                "INSERT INTO shop.orders (item, amount, writer) VALUES (%s, %s, 0)",
                (f"item {number}", number),
            )


def large_transactions(source: MySQLServer, count: int, *, row_bytes: int = MIB) -> None:
    """`count` transactions of eight rows each: several events, several packets each."""
    with (
        contextlib.closing(source.connect(autocommit=False)) as connection,
        connection.cursor() as cursor,
    ):
        for number in range(count):
            for row in range(8):
                cursor.execute(
                    "INSERT INTO shop.documents (body) VALUES (REPEAT(%s, %s))",
                    (f"{number:06d}{row:02d}", row_bytes // 8),
                )
            connection.commit()


def giant_row(source: MySQLServer, *, size: int = 40 * MIB) -> None:
    """One transaction with one row event of a little more than `size` bytes."""
    source.execute("INSERT INTO shop.documents (body) VALUES (REPEAT('giant***', %s))", size // 8)


def giant_transaction(source: MySQLServer, *, size: int = 200 * MIB) -> str:
    """One transaction of many row events, `size` bytes in all; its GTID."""
    before = source.gtid_executed()
    row_bytes = 8000
    rows = ", ".join([f"(REPEAT('gigantic', {row_bytes // 8}))"] * 100)
    with (
        contextlib.closing(source.connect(autocommit=False)) as connection,
        connection.cursor() as cursor,
    ):
        for _ in range(size // row_bytes // 100):
            cursor.execute(f"INSERT INTO shop.documents (body) VALUES {rows}")
        connection.commit()
    return str(source.value("SELECT GTID_SUBTRACT(@@global.gtid_executed, %s)", before))


class WritingThread:
    """Writes to a source in a thread of its own while its context lasts, or until it is stopped.

    `_write` is what it does, until `_stop` is set; `_ended` is called when it does no more.
    """

    def __init__(self) -> None:
        """Nothing is written before the context is entered."""
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Start writing."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and raise what went wrong in the thread."""
        self.stop()

    def stop(self) -> None:
        """Stop writing, and raise what went wrong in the thread."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the writer does not end"
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:  # noqa: BLE001  # raised again by stop()
            self.failure = error
        self._ended()

    def _write(self) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        pass


class Writer(WritingThread):
    """Commits small transactions without pause until it is stopped.

    `wait_for_more` tells that the load goes on. A source that goes away is waited for: what was
    not acknowledged is written again, under another number, so that rows may be more than commits.
    """

    def __init__(self, source: MySQLServer, *, number: int = 1, pause_seconds: float = 0.0) -> None:
        """Nothing is written before the context is entered; `pause_seconds` slow the load down."""
        super().__init__()
        self._source = source
        self._number = number
        self._pause_seconds = pause_seconds
        self._progress = threading.Condition()
        self.committed = 0

    def wait_for_more(self, count: int, *, seconds: float = 60.0) -> None:
        """Wait until `count` more transactions were acknowledged."""
        with self._progress:
            wanted = self.committed + count
            done = self._progress.wait_for(
                lambda: self.committed >= wanted or self.failure is not None, seconds
            )
        assert done, f"the writer stands at {self.committed}, {wanted} wanted"
        if self.failure is not None:
            raise self.failure

    def _write(self) -> None:
        connection: pymysql.Connection[Any] | None = None
        number = 0
        try:
            while not self._stop.is_set():
                number += 1
                try:
                    if connection is None:
                        connection = self._source.connect(connect_timeout=2)
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "INSERT INTO shop.orders (item, amount, writer) VALUES (%s, %s, %s)",
                            (f"item {number}", number, self._number),
                        )
                except (pymysql.err.OperationalError, pymysql.err.InterfaceError, OSError):
                    if connection is not None:
                        with contextlib.suppress(pymysql.err.Error, OSError):
                            connection.close()
                        connection = None
                    self._stop.wait(0.05)
                    continue
                with self._progress:
                    self.committed += 1
                    self._progress.notify_all()
                if self._pause_seconds:
                    self._stop.wait(self._pause_seconds)
        finally:
            if connection is not None:
                with contextlib.suppress(pymysql.err.Error, OSError):
                    connection.close()

    def _ended(self) -> None:
        with self._progress:
            self._progress.notify_all()
