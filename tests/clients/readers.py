"""Readers of the binary log tried in each way, and what they tell compared with the source's.

What a reader tells of the relay is compared with what the same reader tells of the source itself,
so that a client's own way of showing a value does not matter; how many rows it told of is compared
with how many were written.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.clients import toolchains
from tests.clients.attached import Attached
from tests.clients.reading import Reading, difference
from tests.clients.scene import DATABASE, LOGIN, TABLES, Place, Scene
from tests.clients.table import (
    ATTACH,
    COMPRESSION,
    CONTENT,
    GTID,
    POSITION,
    RESUME,
    TLS,
    Row,
)
from tests.support.servers import ADMIN_PASSWORD, ADMIN_USER

Say = Callable[[str], None]

RECONNECTS = "Came back by itself, through an address that led to another node by then."
RESTARTED = "Started again at another node, from the last whole transaction that it had told."


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One client library behind a program of ours."""

    name: str
    title: str
    command: Callable[[], list[str]]
    modes: tuple[str, ...] = ("gtid", "position")
    options: Mapping[str, str] = field(default_factory=dict)
    reconnects: bool = False
    """Whether it connects again by itself when its connection is lost."""
    repeats_last: bool = False
    """Whether it asks again for its last transaction when it comes back, whatever the server."""
    from_beginning: bool = False
    """Whether it can only begin where the log begins."""
    reads_source: bool = True
    """Whether it can read the source itself; else it is compared with what an undisturbed node
    gives it."""
    compressions: tuple[str, ...] = ()
    apart: Mapping[str, str] = field(default_factory=dict)
    """Columns that do not apply to it, and why."""
    notes: tuple[str, ...] = ()


_NO_COMPRESSION = "The library has no compression of the protocol."
_SCHEMA = (
    "Asks its server for the columns of tables, and a relay has no tables: it is given them by the"
    " program, from the source."
)
_METADATA = (
    "With `binlog_row_metadata=FULL` at the source: otherwise it asks for the columns of tables,"
    " and a relay has no tables."
)
_REPEATS = (
    "When it comes back by itself it asks for its last transaction again, of any server: that"
    " repetition is left out of the comparison."
)
_NOT_OF_THE_SOURCE = (
    "Asks `SHOW MASTER STATUS`, which MySQL 9.7 itself refuses and the relay answers: it is"
    " compared with what it tells of a node where nothing is killed, and with the number of rows"
    " written since the log began."
)

READERS = (
    Reader(
        name="pymysqlreplication",
        title="python-mysql-replication 1.0",
        command=toolchains.python_reader,
        apart={COMPRESSION: _NO_COMPRESSION},
    ),
    Reader(
        name="go-mysql",
        title="go-mysql 1.13 syncer",
        command=toolchains.go_reader,
        options={"client": "syncer"},
        reconnects=True,
        repeats_last=True,
        apart={COMPRESSION: _NO_COMPRESSION},
        notes=(_REPEATS,),
    ),
    Reader(
        name="go-mysql-canal",
        title="go-mysql 1.13 canal",
        command=toolchains.go_reader,
        options={"client": "canal"},
        reconnects=True,
        repeats_last=True,
        apart={COMPRESSION: _NO_COMPRESSION},
        notes=(_SCHEMA, _REPEATS),
    ),
    Reader(
        name="connector-java",
        title="mysql-binlog-connector-java 0.30",
        command=functools.partial(toolchains.java_program, "binlog", "BinlogReader"),
        reconnects=True,
        apart={COMPRESSION: _NO_COMPRESSION},
    ),
    Reader(
        name="zongji",
        title="@vlasky/zongji 0.9 (npm)",
        command=toolchains.node_reader,
        compressions=("zlib",),
        notes=(_METADATA,),
    ),
    Reader(
        name="debezium",
        title="Debezium embedded 2.7",
        command=functools.partial(toolchains.java_program, "debezium", "DebeziumReader"),
        modes=("gtid",),
        reconnects=True,
        from_beginning=True,
        reads_source=False,
        apart={
            POSITION: "Goes by GTID wherever the server has them.",
            COMPRESSION: _NO_COMPRESSION,
        },
        notes=(
            "With `snapshot.mode=never`: a relay has no tables to take a snapshot of.",
            _NOT_OF_THE_SOURCE,
        ),
    ),
    Reader(
        name="canal",
        title="canal 1.1 (Alibaba's), its parser",
        command=functools.partial(toolchains.java_program, "canal", "CanalReader"),
        apart={COMPRESSION: _NO_COMPRESSION, TLS: "The library has no TLS."},
    ),
)


def _of_mariadb(name: str) -> Reader:
    """The same reader of a MariaDB source."""
    (found,) = [reader for reader in READERS if reader.name == name]
    return dataclasses.replace(
        found,
        name=f"{name}-of-mariadb",
        title=f"{found.title}, of MariaDB",
        options={**found.options, "flavor": "mariadb"},
        notes=(*found.notes, "Of a MariaDB 10.11 source."),
    )


READERS_OF_MARIADB = tuple(
    _of_mariadb(name) for name in ("pymysqlreplication", "go-mysql", "connector-java", "zongji")
)


def try_reader(reader: Reader, scene: Scene, say: Say) -> Row:
    """All that is to be known of one reader; what fails is in its row."""
    row = Row(client=reader.title)
    try:
        command = reader.command()
    except toolchains.UnreachableError as error:
        row.missing = str(error)
        return row
    for column, note in reader.apart.items():
        row.apart(note, column)
    for note in reader.notes:
        row.note(note)
    row.note(RECONNECTS if reader.reconnects else RESTARTED)
    trial = _Trial(reader, command, scene, row, say)
    for mode in reader.modes:
        trial.through_a_kill(mode)
    if TLS not in reader.apart:
        trial.again(TLS, node_secure=True, tls="yes")
    for algorithm in reader.compressions:
        trial.again(COMPRESSION, node_secure=False, compression=algorithm)
    return row


class _Trial:
    def __init__(
        self, reader: Reader, command: list[str], scene: Scene, row: Row, say: Say
    ) -> None:
        self._reader = reader
        self._command = command
        self._scene = scene
        self._row = row
        self._say = say
        self._stretch: tuple[Place, str, Reading, int] | None = None
        """Where the first whole run began, the mark it ended with, what the source told, and how
        many bytes came through the door."""

    def through_a_kill(self, mode: str) -> None:
        """A varied load, the leader killed in the middle of another, and all of it compared."""
        column = {"gtid": GTID, "position": POSITION}[mode]
        columns = [ATTACH, column, RESUME, CONTENT]
        scene = self._scene
        self._say(f"{self._reader.name}: by {column}")
        try:
            start = scene.here()
            before = Counter[str]() if self._reader.from_beginning else Counter(scene.written)
            leader = scene.all_set()
            passed = scene.door.passed
            with self._attached(mode, start, port=scene.door.port) as attached:
                scene.write(giant=mode == "gtid")
                attached.wait_for_mark(scene.mark())
                self._row.yes(ATTACH, column)
                columns = [RESUME, CONTENT]
                with scene.writing() as writer:
                    writer.wait_for_more(100)
                    scene.kill_leader(leader)
                    if not self._reader.reconnects:
                        attached.restart(**self._where(attached.ended(), start))
                    writer.wait_for_more(100)
                    scene.cluster.leader()
                    writer.wait_for_more(100)
                mark = scene.mark()
                attached.wait_for_mark(mark)
                self._row.yes(RESUME)
                columns = [CONTENT]
                told = attached.stopped()
            passed = scene.door.passed - passed
            wanted = self._of_the_source(mode, start, mark)
            self._compare(told, wanted, mark, Counter(scene.written) - before)
            self._row.yes(CONTENT)
            if self._stretch is None:
                self._stretch = (start, mark, wanted, passed)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong is a cell of the table
            self._say(f"{self._reader.name}: {error}")
            self._row.no(error, *columns)

    def again(self, column: str, *, node_secure: bool, **options: object) -> None:
        """What was written in the first run, once more over another kind of connection."""
        scene = self._scene
        if self._stretch is None:
            self._row.no("not reached: nothing was read over a plain connection", column)
            return
        self._say(f"{self._reader.name}: {column} {' '.join(map(str, options.values()))}")
        try:
            start, mark, wanted, plain = self._stretch
            scene.all_set()
            if node_secure:
                scene.door.aim(scene.secure.host, scene.secure.listen_port)
            passed = scene.door.passed
            mode = self._reader.modes[0]
            with self._attached(mode, start, port=scene.door.port, **options) as attached:
                attached.wait_for_mark(mark)
                told = attached.stopped()
            self._compare(told, wanted, mark)
            if column == COMPRESSION:
                passed = scene.door.passed - passed
                assert passed < plain / 2, f"{passed} bytes came, {plain} without compression"
            self._row.yes(column)
        except Exception as error:  # noqa: BLE001  # as above
            self._say(f"{self._reader.name}: {error}")
            self._row.no(error, column)

    def _attached(
        self, mode: str, start: Place, *, port: int, where: str = "relay", **options: object
    ) -> Attached:
        source = self._scene.source
        number = self._scene.server_id()
        known = {
            "host": "127.0.0.1",
            "port": port,
            **LOGIN,
            "server-id": number,
            "mode": mode,
            "gtids": start.gtids,
            "file": start.file,
            "position": start.position,
            "database": DATABASE,
            "tables": " ".join(f"{DATABASE}.{table}" for table in TABLES),
            "schema-host": source.host,
            "schema-port": source.port,
            "schema-user": ADMIN_USER,
            "schema-password": ADMIN_PASSWORD,
        }
        name = f"{self._reader.name}-{mode}-{where}-{number}"
        options = {**known, **self._reader.options, **options}
        return Attached(name, self._command, options, self._scene.directory)

    def _where(self, reading: Reading, start: Place) -> dict[str, object]:
        """The options with which the client goes on behind what it has told."""
        if not reading.transactions:
            return {}
        last = reading.transactions[-1]
        gtids = last.gtids
        if not gtids and self._scene.is_mariadb:
            # Of one domain, which all of the load is.
            gtids = last.gtid or start.gtids
        elif not gtids:
            seen = [start.gtids, *(each.gtid for each in reading.transactions if each.gtid)]
            # The source writes a set shortly.
            gtids = str(
                self._scene.source.value(
                    "SELECT GTID_SUBTRACT(%s, '')", ",".join(filter(None, seen))
                )
            ).replace("\n", "")
        return {"gtids": gtids, "file": last.place[0], "position": last.place[1]}

    def _of_the_source(self, mode: str, start: Place, mark: str) -> Reading:
        """What the same client tells of the source itself."""
        source = self._scene.source
        login = {"user": ADMIN_USER, "password": ADMIN_PASSWORD}
        port = source.port
        if not self._reader.reads_source:
            login, port = LOGIN, self._scene.all_set().listen_port
        attached = self._attached(mode, start, port=port, where="source", **login)
        try:
            with attached:
                attached.wait_for_mark(mark)
                return attached.stopped()
        except AssertionError as error:
            raise AssertionError(f"what it should tell cannot be had: {error}") from error

    def _compare(
        self, told: Reading, wanted: Reading, mark: str, written: Counter[str] | None = None
    ) -> None:
        if self._reader.repeats_last:
            told.drop_repeated()
        different = difference(told.up_to(mark), wanted.up_to(mark))
        assert not different, different
        if written is not None:
            counts = +told.counts
            assert counts == written, f"told of {dict(counts)}, written were {dict(written)}"
