"""Files go to a real S3-compatible store, and come back to replicas that need them."""

import socket
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support import workload
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.installations import Installation
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.support.servers import MySQLServer, assert_same_binlog, fetch_binlogs
from tests.support.stopped_node import purge
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

LOGIN = {"user": LISTENER_USER, "password": LISTENER_PASSWORD}


def write_files(source: MySQLServer, count: int) -> None:
    for _ in range(count):
        workload.small_transactions(source, 60)
        workload.large_transactions(source, 1)
        source.execute("FLUSH BINARY LOGS")


def archive_of(node: KingbusNode) -> dict[str, Any]:
    return dict(node.get("/archive"))


def wait_archived(cluster: KingbusCluster, count: int) -> None:
    wait_for(
        lambda: archive_of(cluster.leader())["files"] >= count,
        what=f"{count} files in the archive",
        seconds=60,
        explain=lambda: [archive_of(node) for node in cluster.running],
    )


def keys(directory: Path) -> dict[str, str]:
    """Files with the keys of the store."""
    made = {}
    for name, text in (("access", ACCESS_KEY), ("secret", SECRET_KEY)):
        path = directory / f"archive.{name}"
        path.write_text(text + "\n")
        made[f"{name}-key-file"] = str(path)
    return made


def test_a_new_replica_begins_with_the_archive(world: World, installation: Installation) -> None:
    """From the oldest file on, which no disk has any more, through any member, and over a change of
    leader; the store was away for a while, and nothing of its keys is in a log."""
    compression = "none" if installation.version >= (8,) else "zstd"
    server = S3Server(world.directory)
    world.started.append(server)
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    archive = {
        "to": f"s3://{BUCKET}/one",
        "endpoint": server.endpoint,
        "compression": compression,
        **keys(world.directory),
    }
    cluster = world.cluster(archive=archive)
    cluster.start_receiver(source)
    cluster.start_listeners()
    write_files(source, 2)
    workload.giant_row(source)
    write_files(source, 1)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    wait_for(
        lambda: archive_of(cluster.leader())["error"],
        what="the leader to say that the store is away",
        explain=cluster.logs,
    )
    server.start()
    wait_archived(cluster, 2)
    cluster.leader().stop()
    write_files(source, 3)
    names = source.binlog_files()
    wait_archived(cluster, len(names) - 1)
    cluster.start()

    for name in names[:-1]:
        stored = server.bucket / "one/files" / name
        if compression == "zstd":
            packed = stored.with_name(f"{name}.zst").read_bytes()
            stored = world.directory / f"unpacked-{name}"
            unpacker = zstandard.ZstdDecompressor()
            stored.write_bytes(unpacker.stream_reader(packed, read_across_frames=True).readall())
        assert_same_binlog(stored, source.binlog_path(name))

    rows = cluster.leader().get("/binlog/files")
    follower, other = cluster.followers()
    other.stop()
    purge(cluster, rows[-2]["first_index"])
    other.start()
    wait_for(
        lambda: [row["name"] for row in follower.get("/binlog/files")] == names[-2:],
        what="the files to be purged",
        explain=follower.status,
    )
    wait_for(
        lambda: archive_of(follower)["files"] == len(names) - 1,
        what="the follower to know the archive",
        explain=lambda: archive_of(follower),
    )
    # By name and position, and by what it lacks.
    fetched = fetch_binlogs(names, world.directory / "raw", port=follower.listen_port, **LOGIN)
    for file in fetched:
        assert_same_binlog(file, source.binlog_path(file.name), is_open=file.name == names[-1])
    replica = world.server(installation, "replica", server_id=2)
    replica.change_source(host="127.0.0.1", port=follower.listen_port, **LOGIN)
    replica.start_replica()
    workload.small_transactions(source, 20)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    assert source.has_executed(replica.gtid_executed())
    assert follower.metric("kingbus_archive_read_bytes_total") > 0

    shown = follower.command("status").stdout
    assert f"s3://{BUCKET}/one/" in shown
    for path in (*world.directory.rglob("*.log"), *world.directory.rglob("*.segment")):
        assert SECRET_KEY.encode() not in path.read_bytes(), path


def test_a_directory_and_a_store_that_is_away(world: World, modern: Installation) -> None:
    """A replica that needs the archive while it is away comes back by itself until it is there, and
    a purge by hand leaves what is not archived; worker processes for dumps change nothing."""
    place = world.directory / "archive"
    place.mkdir()
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1, archive={"to": str(place)}, server={"workers": 1})
    cluster.start_receiver(source)
    cluster.start_listeners()
    write_files(source, 3)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    names = source.binlog_files()
    wait_archived(cluster, len(names) - 1)
    (node,) = cluster.nodes
    purge(cluster, node.get("/binlog/files")[-1]["first_index"])
    for name in names[:-1]:
        assert_same_binlog(place / "files" / name, source.binlog_path(name))

    place.rename(place.with_name("elsewhere"))
    source.execute("FLUSH BINARY LOGS")
    workload.small_transactions(source, 10)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    newest = source.binlog_files()[-1]
    done = node.command("binlog", "purge", "--to", newest)
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in node.get("/binlog/files")] == [names[-1], newest]

    replica = world.server(modern, "replica", server_id=2)
    replica.change_source(host="127.0.0.1", port=node.listen_port, **LOGIN)
    replica.start_replica()
    wait_for(
        lambda: node.metric("kingbus_dump_refused_total") > 0,
        what="the replica to be told that the archive is away",
        seconds=90,
        explain=lambda: [replica.replica_status(), cluster.logs()],
    )
    place.with_name("elsewhere").rename(place)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()


def test_a_store_that_hangs_does_not_hold_up_the_stop(world: World) -> None:
    """It takes connections and never answers; a node with such an archive ends in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        archive = {
            "to": f"s3://{BUCKET}/one",
            "endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}",
            **keys(world.directory),
        }
        node = world.node("n1", archive=archive)
        node.start()
        silent.settimeout(30)
        connection, _ = silent.accept()  # it has asked
        with connection:
            assert node.stop(seconds=10) == 0
