"""Real servers as replicas of a relay, tried in each way, and compared with the source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.clients.readers import RECONNECTS, Say
from tests.clients.scene import LOGIN, Place, Scene
from tests.clients.table import ATTACH, COMPRESSION, CONTENT, GTID, POSITION, RESUME, TLS, Row
from tests.support import installations
from tests.support.installations import Installation, MissingServerError
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for

REPLICA_SECONDS = 90.0
"""How long a replica may take to be where the source is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One kind of server behind one kind of source."""

    name: str
    title: str
    installation: Callable[[], Installation]
    extra: tuple[str, ...] = ()
    by_gtid: bool = True
    compressions: tuple[str, ...] = ("yes",)
    apart: Mapping[str, str] = field(default_factory=dict)
    """Columns that do not apply to it, and why."""
    notes: tuple[str, ...] = ()


MODERN_REPLICA = Replica(
    name="mysql-9",
    title="MySQL 9.7 replica",
    installation=installations.modern,
    extra=("character_set_server=latin1",),
    compressions=("zlib", "zstd"),
)
OLD_REPLICA = Replica(
    name="mysql-5.6",
    title="MySQL 5.6 replica",
    installation=installations.old,
    apart={TLS: "This build has no TLS."},
    notes=("Of a MySQL 5.6 source.",),
)
MARIADB_REPLICA = Replica(
    name="mariadb",
    title="MariaDB 10.11 replica",
    installation=installations.mariadb,
    notes=("Of a MariaDB 10.11 source.",),
)
MARIADB_OF_MYSQL = Replica(
    name="mariadb-of-mysql",
    title="MariaDB 10.11 replica of a MySQL source",
    installation=installations.mariadb,
    by_gtid=False,
    apart={GTID: "MariaDB does not follow MySQL's GTIDs."},
    notes=("Of a MySQL 5.6 source.",),
)


def try_replica(replica: Replica, scene: Scene, say: Say) -> Row:
    """All that is to be known of one kind of replica; what fails is in its row."""
    row = Row(client=replica.title)
    try:
        installation = replica.installation()
    except MissingServerError as error:
        row.missing = str(error)
        return row
    for column, note in replica.apart.items():
        row.apart(note, column)
    for note in (*replica.notes, RECONNECTS):
        row.note(note)
    number = scene.server_id()
    server = scene.world.server(
        installation, f"{replica.name}-{number}", server_id=number, extra=replica.extra
    )
    try:
        trial = _Trial(replica, server, scene, row, say)
        trial.attach()
        if GTID not in row.cells:
            trial.through_a_kill(GTID)
        if POSITION not in row.cells:
            trial.through_a_kill(POSITION)
        if TLS not in row.cells:
            trial.otherwise(TLS)
        for algorithm in replica.compressions if COMPRESSION not in row.cells else ():
            trial.otherwise(COMPRESSION, algorithm)
    finally:
        server.kill9()
    return row


class _Trial:
    def __init__(
        self, replica: Replica, server: MySQLServer, scene: Scene, row: Row, say: Say
    ) -> None:
        self._replica = replica
        self._server = server
        self._scene = scene
        self._row = row
        self._say = say

    def attach(self) -> None:
        """From the beginning of the log, so that it has all tables."""
        try:
            self._scene.all_set()
            first = Place(gtids="", file=self._scene.source.binlog_files()[0], position=4)
            self._follow(GTID if self._replica.by_gtid else POSITION, first)
            self._wait_equal()
            self._row.yes(ATTACH, CONTENT)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong is a cell of the table
            self._failed(error, ATTACH, CONTENT)

    def through_a_kill(self, column: str) -> None:
        """A varied load, the leader killed in the middle of another."""
        scene, columns = self._scene, [column, RESUME, CONTENT]
        self._say(f"{self._replica.name}: by {column}")
        try:
            leader = scene.all_set()
            self._follow(column, scene.here())
            scene.write(giant=column == GTID)
            self._wait_equal()
            self._row.yes(column)
            columns = [RESUME, CONTENT]
            with scene.writing() as writer:
                writer.wait_for_more(100)
                scene.kill_leader(leader)
                writer.wait_for_more(100)
                scene.cluster.leader()
                writer.wait_for_more(100)
            self._wait_equal()
            self._row.yes(RESUME, CONTENT)
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(error, *columns)

    def otherwise(self, column: str, algorithm: str = "") -> None:
        """Over another kind of connection, for what is written then."""
        scene = self._scene
        self._say(f"{self._replica.name}: {column} {algorithm}".rstrip())
        try:
            scene.all_set()
            if column == TLS:
                scene.door.aim(scene.secure.host, scene.secure.listen_port)
            way = GTID if self._replica.by_gtid else POSITION
            self._follow(way, scene.here(), tls=column == TLS, compression=algorithm)
            before, start = scene.door.passed, scene.here()
            scene.write()
            self._wait_equal()
            if algorithm:
                passed, size = scene.door.passed - before, scene.size_since(start)
                assert passed < size / 2, f"{passed} bytes came for {size} of the log"
            self._row.yes(column)
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(error, column)

    def _follow(
        self, column: str, start: Place, *, tls: bool = False, compression: str = ""
    ) -> None:
        """Go on by the door; by file and position from `start`, where the source stands."""
        server = self._server
        server.stop_replica()
        self._compress(compression)
        by_gtid = column == GTID
        place = {} if by_gtid else {"file": start.file, "position": start.position}
        more: dict[str, object] = {}
        if not server.is_old:
            more = {"tls": tls, "compression": compression}
        elif tls:
            more = {"tls": True}
        server.change_source(
            host="127.0.0.1", port=self._scene.door.port, auto_position=by_gtid, **LOGIN,
            **place, **more,
        )  # fmt: skip
        server.start_replica()

    def _compress(self, compression: str) -> None:
        """Servers without the option in CHANGE have a variable."""
        if self._server.is_old:
            self._server.execute(f"SET GLOBAL slave_compressed_protocol={int(bool(compression))}")

    def _wait_equal(self) -> None:
        """Until it stands where the source stands; then its tables have to be the source's."""
        source, server = self._scene.source, self._server
        self._scene.mark()

        def is_there() -> bool:
            # MariaDB writes a checkpoint some time after a file's beginning, too.
            end = source.binlog_position()
            status = server.replica_status()
            stopped = int(status.get("Last_SQL_Errno") or 0)
            assert not stopped, f"it stopped: {status['Last_SQL_Error']}"
            fatal = int(status.get("Last_IO_Errno") or 0)
            assert fatal not in {1236, 13114, 13117}, f"it was refused: {status['Last_IO_Error']}"
            at = status["Relay_Source_Log_File"], int(status["Exec_Source_Log_Pos"])
            return bool(at == end)

        wait_for(
            is_there,
            what="the replica to stand where the source does",
            seconds=REPLICA_SECONDS,
            every=0.1,
            explain=lambda: (source.binlog_position(), server.replica_status()),
        )
        if not self._server.installation.version >= (5, 7):
            # It counts a transaction before others see its rows; the lock waits for its commit.
            server.execute("FLUSH TABLES WITH READ LOCK")
            server.execute("UNLOCK TABLES")
        ours, theirs = server.checksums(), source.checksums()
        different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        assert not different, f"tables differ: {', '.join(different)}"
        if self._replica.by_gtid:
            executed = source.gtid_executed()
            assert server.has_executed(executed), f"{server.gtid_executed()}, not {executed}"

    def _failed(self, error: Exception, *columns: str) -> None:
        self._say(f"{self._replica.name}: {error}")
        self._row.no(error, *columns)
