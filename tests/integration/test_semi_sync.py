"""Semi-sync both ways: what a source was told is safe is there, whatever dies."""

import contextlib
from dataclasses import dataclass

import pymysql
import pytest

from tests.support import processes, servers, workload
from tests.support.certificates import certificate
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import MARIADB, MYSQL_9, Installation
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """What a server calls the two sides, and how it gets them."""

    installation: Installation
    flavor: str
    source: str
    replica: str
    source_settings: tuple[str, ...]
    replica_settings: tuple[str, ...]

    def status(self, server: MySQLServer, name: str) -> str:
        """Of the side that the server is, such as `clients` of a source."""
        [row] = server.execute("SHOW GLOBAL STATUS LIKE %s", f"Rpl_semi_sync_{name}")
        return str(row[1])

    def of_source(self, source: MySQLServer, name: str) -> str:
        return self.status(source, f"{self.source}_{name}")

    def of_replica(self, replica: MySQLServer) -> str:
        return self.status(replica, f"{self.replica}_status")

    def switch_on(self, source: MySQLServer) -> None:
        """From now on it waits for as long as it takes: ten minutes are more than any test."""
        source.execute(f"SET GLOBAL rpl_semi_sync_{self.source}_timeout = 600000")
        source.execute(f"SET GLOBAL rpl_semi_sync_{self.source}_enabled = ON")


def new_names() -> Spelling:
    """MySQL from 8.0.26 on: source and replica, plugins."""
    return Spelling(
        installation=servers.modern(),
        flavor="mysql",
        source="source",
        replica="replica",
        source_settings=(
            "plugin_load_add=semisync_source.so",
            "loose_rpl_semi_sync_source_wait_point=AFTER_SYNC",
            "loose_rpl_semi_sync_source_wait_no_replica=ON",
            "loose_rpl_semi_sync_source_enabled=OFF",
        ),
        replica_settings=(
            "plugin_load_add=semisync_replica.so",
            "loose_rpl_semi_sync_replica_enabled=ON",
        ),
    )


def old_names() -> Spelling:
    """Master and slave, as the plugins of MySQL before 8.0.26 had it: MariaDB still does."""
    return Spelling(
        installation=servers.mariadb(),
        flavor="mariadb",
        source="master",
        replica="slave",
        source_settings=(
            "rpl_semi_sync_master_wait_point=AFTER_SYNC",
            "rpl_semi_sync_master_wait_no_slave=ON",
            "rpl_semi_sync_master_enabled=OFF",
        ),
        replica_settings=("rpl_semi_sync_slave_enabled=ON",),
    )


@pytest.fixture(params=[MYSQL_9, MARIADB])
def spelling(request: pytest.FixtureRequest) -> Spelling:
    """New and old names, each with a real server that has them."""
    return old_names() if request.param == MARIADB else new_names()


def begin(
    world: World, spelling: Spelling, *, count: int = 3, **settings: object
) -> tuple[MySQLServer, KingbusCluster]:
    """A source with tables, and a cluster that pulls from it with semi-sync and listens."""
    source = world.server(
        spelling.installation, "source", server_id=1, extra=spelling.source_settings
    )
    workload.make_tables(source)
    cluster = world.cluster(count=count, **settings)
    cluster.start_receiver(source, semi_sync=True, flavor=spelling.flavor)
    cluster.start_listeners()
    return source, cluster


def follow(replica: MySQLServer, node: KingbusNode, **how: object) -> None:
    replica.change_source(
        host="127.0.0.1",
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        **how,  # type: ignore[arg-type]
    )
    replica.start_replica()


def wait_acknowledging(cluster: KingbusCluster, spelling: Spelling, source: MySQLServer) -> None:
    """Until the source counts the relay among those that acknowledge."""
    wait_for(
        lambda: cluster.leader().receiver_status()["semi_sync_active"],
        what="the receiver to take semi-sync's form",
        explain=cluster.logs,
    )
    wait_for(
        lambda: spelling.of_source(source, "clients") == "1",
        what="the source to have one replica that acknowledges",
        explain=lambda: source.execute("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%%'"),
    )


class Committing(workload.WritingThread):
    """Inserts its own numbers, and keeps those whose commit came back to it."""

    def __init__(self, source: MySQLServer, first: int) -> None:
        super().__init__()
        self._source = source
        self._next = first
        self.returned: list[int] = []

    def _write(self) -> None:
        with contextlib.closing(self._source.connect()) as connection:
            while not self._stop.is_set():
                try:
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "INSERT INTO shop.orders (id, item) VALUES (%s, 'x')", (self._next,)
                        )
                except (pymysql.err.OperationalError, pymysql.err.InterfaceError, OSError):
                    return  # the source is dead, and whether this one is there nobody knows
                self.returned.append(self._next)
                self._next += 1


def committing(source: MySQLServer, turn: int) -> list[Committing]:
    """Four writers whose numbers no other turn has."""
    return [Committing(source, (1 + turn * 8 + at) * 1_000_000) for at in range(4)]


def wait_returning(writers: list[Committing], cluster: KingbusCluster) -> None:
    """Until the load is on: fifty commits of each have returned."""

    def is_on() -> bool:
        assert not any(each.failure for each in writers)
        return min(len(each.returned) for each in writers) >= 50

    wait_for(is_on, what="commits to return", explain=cluster.logs)


def held(server: MySQLServer) -> set[int]:
    return {int(row[0]) for row in server.execute("SELECT id FROM shop.orders")}


def wait_held(server: MySQLServer, returned: set[int]) -> None:
    """Until it has every row whose commit returned; those that it lacks are named."""
    wait_for(
        lambda: returned <= held(server),
        what=f"{len(returned)} rows that were acknowledged",
        every=0.2,
        tolerate=(pymysql.err.ProgrammingError, pymysql.err.OperationalError),  # no table yet
        explain=server.replica_errors,
    )


def test_what_returned_is_in_the_relay_when_source_and_leader_die(
    world: World, spelling: Spelling
) -> None:
    """AFTER_SYNC, a timeout that never passes; both killed at once under load, twice: every
    transaction whose commit returned is with a replica of each member that is left."""
    source, cluster = begin(world, spelling)
    replicas = [
        world.server(spelling.installation, f"replica{number}", server_id=number)
        for number in (2, 3)
    ]
    returned: set[int] = set()
    for turn in range(2):
        wait_acknowledging(cluster, spelling, source)
        spelling.switch_on(source)
        writers = committing(source, turn)
        with contextlib.ExitStack() as stack:
            for writer in writers:
                stack.enter_context(writer)
            wait_returning(writers, cluster)
            assert spelling.of_source(source, "status") == "ON"
            assert spelling.of_source(source, "no_tx") == "0"
            leader = cluster.leader()
            source.kill9()
            leader.kill9()
        returned |= {number for writer in writers for number in writer.returned}
        assert len(returned) >= 200 * (turn + 1)

        cluster.leader()
        # Nothing is there but the two members that are left.
        for node, replica in zip(cluster.running, replicas, strict=True):
            follow(replica, node)
            wait_held(replica, returned)
            replica.stop_replica()

        leader.start()
        source.start()
    wait_acknowledging(cluster, spelling, source)
    assert returned <= held(source)


def test_a_source_that_waits_goes_on_with_the_next_leader(world: World, spelling: Spelling) -> None:
    """What it sends again is acknowledged although the relay has it: no commit is stuck, and none
    gives up waiting."""
    source, cluster = begin(world, spelling)
    wait_acknowledging(cluster, spelling, source)
    spelling.switch_on(source)
    with workload.Writer(source) as writer:
        writer.wait_for_more(50)
        for _ in range(2):
            leader = cluster.leader()
            leader.kill9()
            writer.wait_for_more(50)
            source.execute("FLUSH BINARY LOGS")
            leader.start()
            writer.wait_for_more(20)
        other = cluster.followers()[0]
        cluster.leader().ask("POST", "/leader/transfer", {"name": other.name})
        writer.wait_for_more(50)
    assert spelling.of_source(source, "no_tx") == "0"
    wait_acknowledging(cluster, spelling, source)


def test_without_a_majority_nothing_is_acknowledged(world: World, spelling: Spelling) -> None:
    """The leader alone has the transaction: its commit does not return, as long as nobody else has
    it; it does once a majority is there again, and is in it."""
    source, cluster = begin(world, spelling)
    wait_acknowledging(cluster, spelling, source)
    leader = cluster.leader()
    followers = cluster.followers()
    spelling.switch_on(source)
    workload.small_transactions(source, 5)
    asked = leader.metric("kingbus_receiver_semi_sync_asked_total")
    for follower in followers:
        follower.kill9()
    [writer] = committing(source, 0)[:1]
    with writer:
        wait_for(
            lambda: leader.metric("kingbus_receiver_semi_sync_asked_total") > asked,
            what="the leader to be asked for an acknowledgement",
            explain=cluster.logs,
        )
        wait_for(lambda: not leader.is_leader(), what="the leader to find itself alone")
        assert writer.returned == []
        assert spelling.of_source(source, "wait_sessions") == "1"
        for follower in followers:
            follower.start()
        wait_for(lambda: writer.returned, what="the commit to return", explain=cluster.logs)
    assert spelling.of_source(source, "no_tx") == "0"
    replica = world.server(spelling.installation, "replica", server_id=2)
    follow(replica, cluster.followers()[0])
    wait_held(replica, set(writer.returned))


def shown(node: KingbusNode, sql: str) -> dict[str, str]:
    """Name and value as the relay's own listener shows them."""
    with (
        contextlib.closing(
            pymysql.connect(
                host="127.0.0.1",
                port=node.listen_port,
                user=LISTENER_USER,
                password=LISTENER_PASSWORD,
                ssl_disabled=True,
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
        return {str(name): str(value) for name, value in cursor.fetchall()}


def test_who_acknowledged_what_is_shown_both_ways(world: World, spelling: Spelling) -> None:
    """Source to relay to a replica that acknowledges: each says what it was told, and the same end
    is told everywhere; the source never waited in vain."""
    source, cluster = begin(world, spelling, count=1)
    node = cluster.nodes[0]
    replica = world.server(
        spelling.installation, "replica", server_id=2, extra=spelling.replica_settings
    )
    follow(replica, node)
    wait_acknowledging(cluster, spelling, source)
    spelling.switch_on(source)
    workload.small_transactions(source, 50)
    workload.large_transactions(source, 2, row_bytes=1 << 20)
    workload.giant_row(source)
    workload.small_transactions(source, 5)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()

    assert int(spelling.of_source(source, "yes_tx")) >= 58
    assert spelling.of_source(source, "no_tx") == "0"
    end = source.binlog_position()

    def told() -> bool:
        receiver = node.receiver_status()
        [slave] = node.listener_status()["slaves"]
        return (
            (receiver["acknowledged_file"], receiver["acknowledged_position"]) == end
            and (slave["acknowledged_file"], slave["acknowledged_position"]) == end
            and bool(slave["semi_sync"])
        )

    wait_for(
        told,
        what=f"{end} to be acknowledged by relay and replica",
        explain=lambda: (node.receiver_status(), node.listener_status()),
    )
    assert spelling.of_replica(replica) == "ON"
    status = shown(node, "SHOW GLOBAL STATUS LIKE '%semi_sync%'")
    assert status[f"Rpl_semi_sync_{spelling.source}_clients"] == "1"
    assert status[f"Rpl_semi_sync_{spelling.source}_status"] == "ON"
    assert status[f"Rpl_semi_sync_{spelling.replica}_status"] == "ON"
    acknowledged = [value for name, value in status.items() if name.startswith("kingbus_")]
    assert acknowledged == [f"{end[0]}:{end[1]}"]
    enabled = shown(node, "SHOW VARIABLES LIKE 'rpl_semi_sync%enabled'")
    assert enabled[f"rpl_semi_sync_{spelling.source}_enabled"] == "ON"
    assert node.metric("kingbus_receiver_semi_sync_active") == 1
    assert node.metric("kingbus_receiver_semi_sync_acks_total") > 0
    assert node.metric("kingbus_dump_semi_sync_acks_total") > 0
    assert node.metric("kingbus_dump_semi_sync_clients") == 1
    left = [
        value
        for name, value in node.metrics().items()
        if name.startswith("kingbus_replica_unacknowledged_bytes")
    ]
    assert left == [0]
    assert replica.replica_errors() == []

    # A MariaDB replica that stops ends its dump by KILL, on a second connection.
    replica.stop_replica()
    wait_for(
        lambda: (
            shown(node, "SHOW STATUS LIKE 'Rpl_semi_sync%clients'")
            == {f"Rpl_semi_sync_{side}_clients": "0" for side in ("master", "source")}
        ),
        what="the dump to end",
        explain=node.listener_status,
    )
    workload.small_transactions(source, 5)
    replica.start_replica()
    replica.wait_for_gtids(source.gtid_executed())
    assert spelling.of_replica(replica) == "ON"


@pytest.mark.parametrize(
    ("workers", "tls"),
    [
        (0, False),
        (1, True),
        pytest.param(0, True, marks=pytest.mark.thorough),
        pytest.param(1, False, marks=pytest.mark.thorough),
    ],
)
def test_a_compressed_replica_is_not_offered_semi_sync(
    world: World, workers: int, tls: bool
) -> None:
    """It replicates all the same, and believes in no semi-sync; its neighbour has it and says how
    far it is, whatever process its dump runs in."""
    spelling = new_names()
    cert, key = certificate(world.directory)
    section = {"server": {"cert": str(cert), "key": str(key), "require": True}} if tls else {}
    source, cluster = begin(world, spelling, count=1, server={"workers": workers}, tls=section)
    node = cluster.nodes[0]
    plain, compressed = (
        world.server(spelling.installation, name, server_id=number, extra=spelling.replica_settings)
        for name, number in (("plain", 2), ("compressed", 3))
    )
    follow(plain, node, tls=tls)
    follow(compressed, node, tls=tls, compression="zstd")
    workload.small_transactions(source, 50)
    workload.giant_row(source)
    for replica in (plain, compressed):
        replica.wait_for_gtids(source.gtid_executed())
        assert replica.checksums() == source.checksums()
        assert replica.replica_errors() == []
    assert spelling.of_replica(plain) == "ON"
    assert spelling.of_replica(compressed) == "OFF"
    offered = {slave["server_id"]: slave["semi_sync"] for slave in node.listener_status()["slaves"]}
    assert offered == {2: True, 3: False}
    end = source.binlog_position()
    wait_for(
        lambda: (
            [
                (slave["acknowledged_file"], slave["acknowledged_position"])
                for slave in sorted(
                    node.listener_status()["slaves"], key=lambda at: at["server_id"]
                )
            ]
            == [end, ("", 0)]
        ),
        what="only the plain one to acknowledge",
        explain=node.listener_status,
    )


def test_semi_sync_from_a_compressed_source_is_refused(world: World, modern: Installation) -> None:
    """With one sentence that names both, and nothing is stored."""
    source = world.server(modern, "source", server_id=1)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    body = {
        "mysql_addr": f"{source.host}:{source.port}",
        "mysql_user": REPLICATION_USER,
        "mysql_password": REPLICATION_PASSWORD,
        "semi_sync": True,
        "compression": "zlib",
    }
    refused = node.request("PUT", "/binlog/syncer/start", body)
    assert refused.status == 400, refused
    assert "semi-sync over a compressed connection" in refused.message
    assert node.receiver_status()["mysql_addr"] == ""


def test_a_source_without_the_plugin_is_pulled_from_all_the_same(
    world: World, installation: Installation
) -> None:
    """It does not know the variable; the receiver says so once, and takes a plain stream."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    cluster.start_receiver(source, semi_sync=True)
    workload.small_transactions(source, 20)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    assert not cluster.nodes[0].receiver_status()["semi_sync_active"]
    assert "has no semi-sync" in processes.tail(cluster.nodes[0].log, lines=200)
