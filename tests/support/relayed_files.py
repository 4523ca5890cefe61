"""Whether the files that nodes serve are the source's, byte for byte."""

from pathlib import Path

from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusCluster, KingbusNode
from tests.support.servers import MySQLServer, assert_same_binlog, fetch_binlogs
from tests.support.waiting import wait_for


def wait_for_end(cluster: KingbusCluster, source: MySQLServer) -> None:
    """Wait until every node's last file and position are the source's."""
    end = source.binlog_position()

    def at_end() -> bool:
        return all(
            (status["last_binlog_file"], status["last_file_position"]) == end
            for status in (node.listener_status() for node in cluster.running)
        )

    wait_for(
        at_end,
        what=f"every node to stand at {end}",
        seconds=60,
        explain=lambda: [node.listener_status() for node in cluster.running],
    )


def assert_same_files(directory: Path, node: KingbusNode, source: MySQLServer) -> None:
    """All files of the source, read from the node into a directory, are equal; only the last one
    is open."""
    names = source.binlog_files()
    assert [file["name"] for file in node.get("/binlog/files")] == names
    fetched = fetch_binlogs(
        names,
        directory,
        port=node.listen_port,
        user=LISTENER_USER,
        password=LISTENER_PASSWORD,
    )
    for file in fetched:
        original = source.binlog_path(file.name)
        assert_same_binlog(file, original, is_open=file.name == names[-1])
