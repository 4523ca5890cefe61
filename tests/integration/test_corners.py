"""What few clients do, asked of a real source and of a relay of it: both must answer alike."""

import contextlib
import functools
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader, Seen, open_dump
from tests.support.relayed_files import assert_same_files, wait_for_end
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

MIB = workload.MIB
A, B = "0000000a-0000-0000-0000-00000000000a", "0000000b-0000-0000-0000-00000000000b"
STALLED_BYTES = 192 * MIB
"""More than sockets and a node's buffers hold for one reader."""
GIANT_BYTES = 480 * MIB
"""More than a node ever needs, program and libraries included."""
NODE_BYTES_MAX = 250_000_000


def of_source(source: MySQLServer) -> dict[str, Any]:
    return {"port": source.port, "user": REPLICATION_USER, "password": REPLICATION_PASSWORD}


def of_node(node: KingbusNode) -> dict[str, Any]:
    return {"port": node.listen_port, "user": LISTENER_USER, "password": LISTENER_PASSWORD}


def relayed(world: World, source: MySQLServer) -> tuple[KingbusCluster, KingbusNode]:
    """One node that has all of the source."""
    cluster = world.cluster(count=1, server={"wait-for-catch-up": "1s"})
    cluster.start_receiver(source)
    cluster.start_listeners()
    wait_for_end(cluster, source)
    return cluster, cluster.nodes[0]


def starts_of_events(source: MySQLServer, name: str) -> list[int]:
    return [int(row[1]) for row in source.execute(f"SHOW BINLOG EVENTS IN '{name}'")]


def asked(login: dict[str, Any], **request: Any) -> Seen:
    """What a dump that ends by itself brings; heartbeats and times are nobody's promise."""
    with RawReader(**login, non_blocking=True, heartbeat_seconds=10, **request) as reader:
        seen = reader.join()
    return replace(seen, heartbeats=0, arrived=[])


def wait_for_newest(reader: RawReader, source: MySQLServer) -> None:
    last = f"{source.server_uuid()}:{source.gtid_executed().rpartition('-')[2]}"
    wait_for(
        lambda: last in reader.seen.transactions, what=last, seconds=60, explain=lambda: reader.seen
    )


def test_dumps_by_position_are_the_sources(world: World, installation: Installation) -> None:
    """From each event of a file, its first and its last byte, and where nothing begins: the same
    events, end and error."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    workload.small_transactions(source, 3)
    source.execute("FLUSH BINARY LOGS" if not source.is_old else "FLUSH LOGS")
    workload.small_transactions(source, 3)
    _, node = relayed(world, source)
    first, last = source.binlog_files()[-2:]
    starts = starts_of_events(source, first)
    end = source.binlog_position()[1]
    places = [(first, start) for start in (4, *starts[1:])]
    places += [(last, end), (last, end + 1), (last, 1 << 31), (first, 0), (first, 3)]
    places += [("mysql-bin.999999", 4), ("", 4)]
    different = {}
    for file, position in places:
        request = {"gtid_set": None, "file": file, "position": position}
        one, other = asked(of_source(source), **request), asked(of_node(node), **request)
        if source.is_old:
            # A relay refuses in the words of today.
            one, other = (replace(seen, end=(seen.end or "")[:5]) for seen in (one, other))
        if one != other:
            different[file, position] = one, other
    assert different == {}
    inside = {"gtid_set": None, "file": first, "position": starts[-1] + 1}
    one, other = asked(of_source(source), **inside), asked(of_node(node), **inside)
    assert one.end is not None
    assert other.end is not None
    # What a server makes of the bytes there hangs on the bytes; it gives up either way.
    assert one.end[:5] == other.end[:5] == "1236 "


def without_positions(text: str) -> str:
    return re.sub(r" at \d+", " at", text)


_thorough = functools.partial(pytest.param, marks=pytest.mark.thorough)


@pytest.mark.parametrize(
    ("older", "newer", "ends"),
    [
        ({"replica_uuid": A}, {"replica_uuid": A}, True),
        _thorough({"replica_uuid": A}, {"replica_uuid": A, "server_id": 7}, True),
        ({"replica_uuid": A}, {"replica_uuid": B}, False),
        ({"replica_uuid": ""}, {"replica_uuid": ""}, True),
        _thorough({"replica_uuid": ""}, {"replica_uuid": "", "server_id": 7}, False),
        _thorough({"replica_uuid": A}, {"replica_uuid": ""}, False),
    ],
    ids=["same", "other id", "other uuid", "no uuid", "no uuid, other id", "one without"],
)
def test_who_takes_whose_place(
    world: World, modern: Installation, older: Any, newer: Any, ends: bool
) -> None:
    """A second dump of the same replica ends the first, in MySQL's words; of others it does not."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    _, node = relayed(world, source)
    told = []
    for login in (of_source(source), of_node(node)):
        one = RawReader(**login, **older)
        with one:
            wait_for(lambda one=one: one.seen.transactions, what="the older dump to begin")
            two = RawReader(**login, **newer)
            with two:
                wait_for(lambda two=two: two.seen.transactions, what="the newer dump to begin")
                workload.small_transactions(source, 1)
                wait_for_newest(two, source)
                if ends:
                    told.append(one.join().end)
                else:
                    wait_for_newest(one, source)
                assert two.is_alive
                assert one.seen.faults == two.seen.faults == []
    if ends:
        assert told[0] is not None
        assert told[0].startswith("1236 A replica with the same server_uuid/server_id")
        assert told[1] is not None
        words = told[0].replace(str(source.binlog_dir), ".")
        # Each was told with the position that it had come to.
        assert without_positions(told[1]) == without_positions(words)


@pytest.mark.thorough
@pytest.mark.parametrize("semi_sync", [False, True])
def test_an_event_of_hundreds_of_megabytes(
    world: World, modern: Installation, semi_sync: bool
) -> None:
    """It is not gathered in anybody's memory, and files and rows are the source's in the end."""
    room = ["innodb_redo_log_capacity=2G", "max_allowed_packet=1G"]
    extra = [*room]
    if semi_sync:
        extra += ["plugin_load_add=semisync_source.so", "rpl_semi_sync_source_enabled=ON"]
        extra += ["rpl_semi_sync_source_timeout=60000"]
    source = world.server(modern, "source", server_id=1, extra=extra)
    cluster, node = relayed(world, source)
    if semi_sync:
        cluster.start_receiver(source, semi_sync=True)
        wait_for(lambda: node.receiver_status()["status"] == "running", what="semi-sync")
    replica = world.server(modern, "replica", server_id=2, extra=room)
    replica.change_source(
        host="127.0.0.1", port=node.listen_port, user=LISTENER_USER, password=LISTENER_PASSWORD
    )
    replica.start_replica()
    workload.make_tables(source)
    for size in (16 * MIB, GIANT_BYTES):
        workload.giant_row(source, size=size)
        replica.wait_for_gtids(source.gtid_executed(), seconds=120)
    peak = resident_bytes(node, "VmHWM")
    assert replica.checksums() == source.checksums()
    wait_for_end(cluster, source)
    assert_same_files(world.directory / "fetched", node, source)
    assert peak < GIANT_BYTES, peak


def resident_bytes(node: KingbusNode, which: str) -> int:
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {which}")


def reset(sock: socket.socket) -> None:
    """As a machine that is switched off and on again: no goodbye."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def clients(node: KingbusNode) -> int:
    return int(node.metric("kingbus_dump_clients"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("vanish", [socket.socket.close, reset], ids=["closes", "resets"])
def test_readers_that_stall_or_vanish(
    world: World, modern: Installation, workers: int, vanish: Callable[[socket.socket], None]
) -> None:
    """One that takes nothing holds up nobody and costs no memory; gone, it is forgotten at once."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1, server={"workers": workers} if workers else {})
    cluster.start_receiver(source)
    cluster.start_listeners()
    (node,) = cluster.nodes
    login = of_node(node)
    with contextlib.ExitStack() as stack:
        stalled = [open_dump(**login, gtid_set="", heartbeat_seconds=1.0) for _ in range(3)]
        for each in stalled:
            stack.callback(each.close)
        going = stack.enter_context(RawReader(**login))
        wait_for(lambda: clients(node) == 4, what="all dumps")
        workload.large_transactions(source, STALLED_BYTES // (8 * MIB))
        wait_for_newest(going, source)
        assert going.seen.faults == []
        assert resident_bytes(node, "RssAnon") < NODE_BYTES_MAX
        assert clients(node) == 4, "a reader that is slow is not cut off"
        for each in stalled:
            vanish(each)
        wait_for(lambda: clients(node) == 1, what="the dumps of those who are gone to end")
        assert [each["server_id"] for each in node.listener_status()["slaves"]] == [990]
        workload.small_transactions(source, 1)
        wait_for_newest(going, source)


def test_a_killed_dump_ends_without_a_word(world: World, modern: Installation) -> None:
    """KILL by a reader's own user closes its dump's socket, as a source does it."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    _, node = relayed(world, source)
    ends = []
    for login in (of_source(source), of_node(node)):
        with RawReader(**login) as reader:
            wait_for(lambda reader=reader: reader.seen.transactions, what="the dump to begin")
            connection = pymysql.connect(host="127.0.0.1", ssl_disabled=True, **login)
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute(f"KILL {reader.thread_id}")
            ends.append(reader.join().end)
    assert ends[0] == ends[1] == "closed"
