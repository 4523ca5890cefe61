"""A source, three relay nodes, and a door before them: where every client is tried.

The clients connect to the door, an address that leads to one node and, after that is killed, to
another, as an operator's load balancer would. Nodes n1 and n2 take plain connections and lead in
turn; n3 lets nobody in without TLS, which proves that a client that came in used it.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import workload
from tests.support.certificates import certificate
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import MARIADB, Installation
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.world import World

DATABASE = "shop"
TABLES = ("orders", "documents", "kinds", "marks", "notes")

LOGIN = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the log of the source ended at some moment, in both ways of saying it."""

    gtids: str
    file: str
    position: int


class Scene:
    """Everything that runs but the clients themselves, until its world ends."""

    def __init__(self, world: World, installation: Installation) -> None:
        """Start source and cluster."""
        self.world = world
        self.is_mariadb = installation.name == MARIADB
        self.has_json = not self.is_mariadb and installation.version >= (8,)
        # Names and bytes that servers of all versions understand.
        extra = [] if self.is_mariadb or not self.has_json else ["character_set_server=latin1"]
        extra += ["binlog_row_metadata=FULL"] if self.has_json or self.is_mariadb else []
        self.source = world.server(installation, "source", server_id=1, extra=extra)
        workload.make_tables(self.source)
        self._make_tables()
        self.cluster = self._start_cluster()
        self.door = Proxy(self.source.host, self.cluster.nodes[0].listen_port)
        world.started.append(self.door)
        self.written: Counter[str] = Counter()
        self._marks = itertools.count(1)
        self._ids = itertools.count(100)

    @property
    def directory(self) -> Path:
        """Where clients may keep files."""
        return self.world.directory

    @property
    def secure(self) -> KingbusNode:
        """The node that requires TLS."""
        return self.cluster.nodes[2]

    def server_id(self) -> int:
        """One that no other client has."""
        return next(self._ids)

    def here(self) -> Place:
        """Where the source's log ends, once every node has all of it; nothing may be written."""

        def is_there() -> Place | None:
            # MariaDB writes a checkpoint some time after a file's beginning, too.
            end = self.source.binlog_position()
            views = [node.listener_status() for node in self.cluster.running]
            ends = {(view["last_binlog_file"], view["last_file_position"]) for view in views}
            if ends != {end}:
                return None
            return Place(gtids=self.source.gtid_executed(), file=end[0], position=end[1])

        found = wait_for(is_there, what="every node where the source is", seconds=60)
        assert found is not None
        return found

    def size_since(self, place: Place) -> int:
        """How many bytes the source's log has behind a place."""
        names = self.source.binlog_files()
        files = names[names.index(place.file) :]
        return sum(self.source.binlog_path(name).stat().st_size for name in files) - place.position

    def all_set(self) -> KingbusNode:
        """Start what was killed; the leader, one of the two plain nodes, behind the door."""
        self.cluster.start()
        leader = self.cluster.leader()
        if leader is self.secure:
            leader.ask("POST", "/leader/transfer", {"name": self.cluster.nodes[0].name})
            leader = self.cluster.leader()
        assert leader is not self.secure
        self.door.aim(leader.host, leader.listen_port)
        return leader

    def kill_leader(self, leader: KingbusNode) -> None:
        """SIGKILL it; the door leads to the other plain node from now on."""
        other = next(node for node in self.cluster.nodes[:2] if node is not leader)
        self.door.aim(other.host, other.listen_port)
        leader.kill9()

    @contextlib.contextmanager
    def writing(self) -> Iterator[workload.Writer]:
        """Small transactions without an end while the context lasts."""
        with workload.Writer(self.source, pause_seconds=0.002) as writer:
            try:
                yield writer
            finally:
                writer.stop()
                self.written["insert"] += writer.committed

    def mark(self) -> str:
        """Write a text that comes once, in a transaction of its own."""
        name = f"mark-{next(self._marks)}."
        self.source.execute("INSERT INTO shop.marks (name) VALUES (%s)", name)
        self.written["insert"] += 1
        return name

    def write(self, *, giant: bool = False) -> None:
        """A varied load: rows of all kinds, several in a transaction, large ones, statements."""
        source, number = self.source, next(self._marks)
        workload.small_transactions(source, 40)
        workload.large_transactions(source, 2, row_bytes=workload.MIB // 8)
        self.written["insert"] += 40 + 2 * 8
        kinds = ", ".join(
            ["('text ''\"\\\\', -5, 1.25, '2024-02-29 23:59:58', 'b', 0.5, NULL)"] * 6
        )
        first = source.value("SELECT COALESCE(MAX(id), 0) FROM shop.kinds")
        with source.connect(autocommit=False, charset="latin1") as connection:
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO shop.kinds (words, number, price, made, letter, ratio, nothing)"
                    f" VALUES {kinds}"
                )
                cursor.execute("UPDATE shop.kinds SET number = id * 7 WHERE id > %s", (first,))
                cursor.execute("SAVEPOINT here")
                cursor.execute("INSERT INTO shop.marks (name) VALUES ('never')")
                cursor.execute("ROLLBACK TO here")
                cursor.execute("DELETE FROM shop.kinds WHERE id > %s LIMIT 2", (first,))
            connection.commit()
        self.written.update({"insert": 6, "update": 6, "delete": 2})
        with source.connect() as connection, connection.cursor() as cursor:
            # The flags of an event of rows.
            cursor.execute("SET foreign_key_checks = 0, unique_checks = 0")
            cursor.execute("INSERT INTO shop.marks (name) VALUES ('unchecked')")
        self.written["insert"] += 1
        source.execute(f"CREATE TABLE shop.more_{number} (id INT PRIMARY KEY, x VARCHAR(20))")
        source.execute(f"INSERT INTO shop.more_{number} VALUES (1, 'before')")
        source.execute(f"ALTER TABLE shop.more_{number} ADD COLUMN y INT NOT NULL DEFAULT 3")
        source.execute(f"INSERT INTO shop.more_{number} VALUES (2, 'after', 4)")
        source.execute(f"CREATE TABLE shop.gone_{number} (id INT PRIMARY KEY)")
        source.execute(f"DROP TABLE shop.gone_{number}")
        self.written["insert"] += 2
        source.execute("FLUSH BINARY LOGS")
        if self.has_json:
            source.execute("""INSERT INTO shop.notes (note) VALUES ('{"a": ["new", "b", null]}')""")
            source.execute("UPDATE shop.notes SET note = JSON_SET(note, '$.a[0]', %s)", number)
            self.written["insert"] += 1
            self.written["update"] += int(source.value("SELECT COUNT(*) FROM shop.notes"))
        if giant:
            # More than one packet of the protocol.
            workload.giant_row(source, size=17 * workload.MIB)
            self.written["insert"] += 1

    def _make_tables(self) -> None:
        self.source.execute(
            "CREATE TABLE shop.marks (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60))"
        )
        self.source.execute(
            "CREATE TABLE shop.kinds (id INT AUTO_INCREMENT PRIMARY KEY, words VARCHAR(60),"
            " number INT, price DECIMAL(10,2), made DATETIME, letter ENUM('a','b'), ratio DOUBLE,"
            " nothing INT)"
        )
        if self.has_json:
            self.source.execute(
                "CREATE TABLE shop.notes (id INT AUTO_INCREMENT PRIMARY KEY, note JSON)"
            )

    def _start_cluster(self) -> KingbusCluster:
        cert, key = certificate(self.directory)
        cluster = KingbusCluster(self.directory / "cluster")
        tls = {"server": {"cert": str(cert), "key": str(key), "require": True}}
        cluster.nodes[2].configure(tls=tls)
        self.world.started.append(cluster)
        cluster.start()
        cluster.start_receiver(self.source, **({"flavor": "mariadb"} if self.is_mariadb else {}))
        cluster.start_listeners()
        return cluster
