"""Exported files are a real source's files, byte for byte, and `mysqlbinlog` reads them."""

import json

import pytest

from tests.support import workload
from tests.support.cluster import run_kingbus
from tests.support.installations import Installation
from tests.support.relayed_files import wait_for_end
from tests.support.servers import assert_same_binlog, mysqlbinlog
from tests.support.world import World

pytestmark = pytest.mark.mysql


def test_export_of_a_running_and_of_a_stopped_node(
    world: World, installation: Installation
) -> None:
    """Closed files, an event of several packets among them, and the open one up to its end."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    cluster.start_receiver(source)
    cluster.start_listeners()
    workload.small_transactions(source, 300)
    source.execute("FLUSH BINARY LOGS")
    workload.giant_row(source)
    source.execute("FLUSH BINARY LOGS")
    workload.small_transactions(source, 5)
    wait_for_end(cluster, source)
    (node,) = cluster.nodes
    names = source.binlog_files()

    target = world.directory / "exported"
    done = node.command("binlog", "export", "--to", str(target), "--json")
    assert done.returncode == 0, done.stderr
    assert [each["name"] for each in json.loads(done.stdout)] == names
    for name in names:
        assert_same_binlog(target / name, source.binlog_path(name), is_open=name == names[-1])
    assert [path.name for path in target.glob("*.open")] == [f"{names[-1]}.open"]

    # What came later is added to what is there, and the row events can be read.
    workload.small_transactions(source, 5)
    source.execute("FLUSH BINARY LOGS")
    wait_for_end(cluster, source)
    assert node.command("binlog", "export", "--to", str(target)).returncode == 0
    assert_same_binlog(target / names[-1], source.binlog_path(names[-1]))
    shown = node.command("binlog", "events", names[-1], "--rows", "--json")
    assert shown.returncode == 0, shown.stderr
    changes = [row for event in json.loads(shown.stdout) for row in event["rows"] or ()]
    assert changes
    assert not [row for row in changes if "error" in row]

    cluster.stop()
    offline = world.directory / "offline"
    command = ["binlog", "export", "--to", str(offline), "--data-dir", str(node.data_dir)]
    done = run_kingbus(*command, "--until", names[-1])
    assert done.returncode == 0, done.stderr
    for name in names:
        assert_same_binlog(offline / name, source.binlog_path(name))
    read = mysqlbinlog("--verify-binlog-checksum", *(str(offline / name) for name in names))
    assert b"DELIMITER" in read.stdout
