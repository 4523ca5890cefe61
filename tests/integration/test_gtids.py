"""GTID sets of real servers: purged, ahead, with holes, of many servers, of many intervals."""

import contextlib
import re
from typing import Any
from uuid import UUID

import pymysql
import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader, Seen
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

SERVERS = 1_000
INTERVALS = 100_000


def of_source(source: MySQLServer) -> dict[str, Any]:
    return {"port": source.port, "user": REPLICATION_USER, "password": REPLICATION_PASSWORD}


def of_node(node: KingbusNode) -> dict[str, Any]:
    return {"port": node.listen_port, "user": LISTENER_USER, "password": LISTENER_PASSWORD}


def dump(login: dict[str, Any], gtids: str) -> Seen:
    """What a replica that has `gtids` is sent until the end, or told."""
    with RawReader(**login, gtid_set=gtids, non_blocking=True, heartbeat_seconds=10) as reader:
        return reader.join()


def by_uuid(number: int) -> str:
    return str(UUID(int=number << 64 | 0x8000_0000_0000_0000))


def many_servers() -> str:
    """Each with a hole."""
    return ",".join(f"{by_uuid(number)}:1-5:7-{number + 7}" for number in range(1, SERVERS + 1))


def many_intervals() -> str:
    numbers = ":".join(str(number) for number in range(1, 2 * INTERVALS, 2))
    return f"{by_uuid(1)}:{numbers}"


def follow(replica: MySQLServer, node: KingbusNode) -> None:
    replica.change_source(
        host="127.0.0.1", port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()


def relay_of(
    world: World, source: MySQLServer, **settings: Any
) -> tuple[KingbusCluster, KingbusNode]:
    cluster = world.cluster(server={"wait-for-catch-up": "1s"}, **settings)
    cluster.start_receiver(source)
    cluster.start_listeners()
    cluster.wait_for_gtids(source.gtid_executed(), source)
    return cluster, cluster.followers()[0]


@pytest.mark.slow
@pytest.mark.parametrize("had", [many_servers, many_intervals], ids=["servers", "intervals"])
def test_a_source_that_begins_with_a_large_set(
    world: World, modern: Installation, had: Any
) -> None:
    """Executed and purged of the relay are the source's; who lacks what is purged is told in the
    source's words; who has it gets the rest, and equals the source, over a killed leader, too."""
    gtids = had()
    source = world.server(modern, "source", server_id=1)
    source.execute("SET GLOBAL gtid_purged = %s", f"+{gtids}")
    workload.make_tables(source)
    workload.small_transactions(source, 20)
    cluster, node = relay_of(world, source)
    status = node.status()
    assert status["executed_gtid_set"] == source.gtid_executed()
    assert status["purged_gtid_set"] == source.gtid_purged()
    for wanted in ("gtid_executed", "gtid_purged"):
        with contextlib.closing(connect(node)) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT @@GLOBAL.{wanted}")
            assert cursor.fetchone() == (getattr(source, wanted)(),)

    without = gtids.partition(",")[2] or f"{by_uuid(1)}:1"
    for lacking in ("", without):
        one, other = dump(of_source(source), lacking), dump(of_node(node), lacking)
        assert one.end is not None
        assert one.end.startswith("1236 Cannot replicate because the source purged required")
        assert other.end == one.end

    replica = world.server(modern, "replica", server_id=2)
    replica.execute("SET GLOBAL gtid_purged = %s", f"+{gtids}")
    follow(replica, node)
    replica.wait_for_gtids(source.gtid_executed())
    source.execute("FLUSH BINARY LOGS")
    workload.small_transactions(source, 5)
    cluster.leader().kill9()
    workload.small_transactions(source, 5)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    assert replica.replica_errors() == []


def connect(node: KingbusNode) -> Any:
    return pymysql.connect(
        host="127.0.0.1",
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        ssl_disabled=True,
    )


def test_holes_are_filled_where_they_are(world: World, modern: Installation) -> None:
    """Transactions out of order, and holes in what a replica has: each gets exactly what it lacks,
    as from the source."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    uuid = source.server_uuid()
    with contextlib.closing(source.connect()) as connection, connection.cursor() as cursor:
        for number in (50, 20, 21, 35, 900, 19, 60):
            cursor.execute(f"SET gtid_next='{uuid}:{number}'")
            cursor.execute("INSERT INTO shop.orders (item) VALUES (%s)", (f"{number}",))
        cursor.execute("SET gtid_next='AUTOMATIC'")
    workload.small_transactions(source, 20)
    assert source.gtid_executed().count(":") > 3
    _, node = relay_of(world, source)
    assert node.status()["executed_gtid_set"] == source.gtid_executed()
    for had in ("", f"{uuid}:1-3", f"{uuid}:1-10:20:900", f"{uuid}:35:60", source.gtid_executed()):
        one, other = dump(of_source(source), had), dump(of_node(node), had)
        assert (one.faults, one.end) == ([], "eof")
        assert (other.transactions, other.digest) == (one.transactions, one.digest)
        assert (other.faults, other.end) == ([], "eof")
    replica = world.server(modern, "replica", server_id=2)
    follow(replica, node)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.gtid_executed() == source.gtid_executed()
    assert replica.checksums() == source.checksums()


def test_purged_and_ahead(world: World, modern: Installation) -> None:
    """A relay that purged says what is missing, and only that; a replica with transactions of the
    source that the relay lacks is refused, one with its own is not."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    for _ in range(3):
        workload.small_transactions(source, 4)
        source.execute("FLUSH BINARY LOGS")
    workload.small_transactions(source, 4)
    cluster, node = relay_of(world, source)
    names = source.binlog_files()
    source.execute("PURGE BINARY LOGS TO %s", names[-2])
    cluster.leader().ask("POST", "/binlog/purge", {"to": names[-2]})
    purged = source.gtid_purged()
    for each in cluster.nodes:
        wait_for(
            lambda each=each: each.status()["purged_gtid_set"] == purged,
            what=f"{each.name} to have purged {purged}",
        )
    uuid, last = source.server_uuid(), int(source.gtid_executed().rpartition("-")[2])
    own = by_uuid(77)
    sets = ["", f"{uuid}:1-2", f"{uuid}:1-2,{own}:1-9", f"{purged},{own}:1-9", purged]
    sets += [f"{uuid}:1-{last + 3}", f"{uuid}:1-{last}:{last + 5}"]
    for had in sets:
        one, other = dump(of_source(source), had), dump(of_node(node), had)
        said = re.sub(r" The source lacks '[^']+'\.", "", other.end)
        is_ahead = said != other.end
        # Names the set in MySQL's text, which has an end: so much less of it is there.
        assert one.end.startswith(said) if is_ahead else one.end == said, had
        assert is_ahead == one.end.startswith("1236 Replica has more"), had
        assert other.transactions == one.transactions, had
