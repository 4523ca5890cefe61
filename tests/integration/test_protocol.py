"""Every kind of event over every kind of connection, between real servers."""

from pathlib import Path

import pytest

from tests.support import workload
from tests.support.certificates import certificate
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusNode
from tests.support.event_kinds import an_incident, every_kind_of_transaction
from tests.support.installations import Installation
from tests.support.relayed_files import assert_same_files, wait_for_end
from tests.support.servers import MySQLServer, mysqlbinlog
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def follow(replica: MySQLServer, node: KingbusNode, **how: object) -> None:
    """The replica goes on by what the node serves."""
    replica.change_source(
        host="127.0.0.1",
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
        **how,  # type: ignore[arg-type]
    )
    replica.start_replica()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compression", "tls"), [("", False), ("", True), ("zlib", False), ("zstd", True)]
)
def test_every_kind_of_event_reaches_a_replica(
    world: World, modern: Installation, compression: str, tls: bool
) -> None:
    """Files are the source's byte for byte, and the replica has what the source has.

    Both connections are compressed, or none is; where TLS is required nobody comes in without.
    """
    cert, key = certificate(world.directory)
    section = {"server": {"cert": str(cert), "key": str(key), "require": True}} if tls else {}
    source = world.server(modern, "source", server_id=1, extra=["local_infile=ON"])
    cluster = world.cluster(count=1, tls=section)
    cluster.start_receiver(source, compression=compression)
    cluster.start_listeners()
    (node,) = cluster.nodes
    replica = world.server(modern, "replica", server_id=2)
    follow(replica, node, tls=tls, compression=compression)
    every_kind_of_transaction(source, world.directory)
    workload.make_tables(source)
    workload.small_transactions(source, 500)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    assert source.has_executed(replica.gtid_executed())

    # A tool sees the same, compressed or not; and a replica's content says nothing of an incident,
    # at which it stops.
    replica.stop_replica()
    an_incident(source)
    wait_for_end(cluster, source)
    if not tls:
        assert_same_files(world.directory / "fetched", node, source)
    names = source.binlog_files()
    raw = world.directory / "raw"
    raw.mkdir()
    mysqlbinlog(
        "--raw",
        f"--result-file={raw}/",
        f"--ssl-mode={'REQUIRED' if tls else 'DISABLED'}",
        f"--compression-algorithms={compression or 'uncompressed'}",
        *names,
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
    )
    for name in names[:-1]:
        assert (raw / name).read_bytes() == source.binlog_path(name).read_bytes()
    # The source begins another file behind it.
    ends = [str(raw / name) for name in names[-2:]]
    assert b"LOST_EVENTS" in mysqlbinlog("--base64-output=DECODE-ROWS", *ends).stdout
    if tls:
        refused = mysqlbinlog(
            *names[:1],
            port=node.listen_port,
            user=LISTENER_USER,
            password=LISTENER_PASSWORD,
            check=False,
        )
        assert b"insecure transport" in refused.stderr


def wait_at(replica: MySQLServer, source: MySQLServer) -> None:
    """The replica has executed up to where the source's log ends."""
    end = source.binlog_position()

    def is_there() -> bool:
        status = replica.replica_status()
        return (status["Relay_Source_Log_File"], int(status["Exec_Source_Log_Pos"])) == end

    wait_for(is_there, what=f"{end}", seconds=60, explain=replica.replica_status)


@pytest.mark.slow
def test_a_source_without_gtids_by_file_and_position(
    world: World, installation: Installation
) -> None:
    """A replica from the beginning, one from the middle of a file, over a killed leader: both have
    what the source has, and every file is the source's. A dump by set is refused."""
    source = world.server(installation, "source", server_id=1, gtid=False)
    cluster = world.cluster()
    cluster.start_receiver(source, mode="position")
    cluster.start_listeners()
    first = source.binlog_files()[0]
    follower = cluster.followers()[0]
    whole = world.server(installation, "whole", server_id=2, gtid=False)
    follow(whole, follower, auto_position=False, file=first, position=4)
    workload.make_tables(source)
    wait_at(whole, source)
    later = world.server(installation, "later", server_id=3, gtid=False)
    workload.make_tables(later)
    file, position = source.binlog_position()
    assert position > 4
    follow(later, follower, auto_position=False, file=file, position=position)
    with workload.Writer(source) as writer:
        writer.wait_for_more(300)
        source.execute("FLUSH LOGS")
        cluster.leader().kill9()
        writer.wait_for_more(300)
        cluster.leader()
        writer.wait_for_more(300)
        writer.stop()
    workload.giant_row(source)
    for replica in (whole, later):
        wait_at(replica, source)
        assert replica.checksums() == source.checksums()
        assert replica.replica_errors() == []
    wait_for_end(cluster, source)
    assert_same_files(world.directory / "fetched", follower, source)

    by_set = world.server(installation, "by_set", server_id=4)
    follow(by_set, follower)
    wait_for(
        lambda: any("GTID" in each.upper() for each in by_set.replica_errors()),
        what="a refusal that names the mode",
        seconds=30,
        explain=by_set.replica_status,
    )


@pytest.mark.slow
def test_a_certificate_that_is_missing_is_told_at_the_start(tmp_path: Path, world: World) -> None:
    """By its key and file, and nothing runs."""
    node = world.node("n1", tls={"server": {"cert": str(tmp_path / "no"), "key": "no"}})
    node.launch()
    assert node.wait_end() == 2
    assert "tls.server.cert" in node.output()
