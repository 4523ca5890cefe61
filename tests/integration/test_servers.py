"""The servers and tools that other tests rely on do by themselves what is asked of the relay."""

import pytest

from tests.support import workload
from tests.support.installations import Installation
from tests.support.raw_reader import RawReader
from tests.support.servers import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    assert_same_binlog,
    fetch_binlogs,
)
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def test_replica_follows_its_source_directly(world: World, installation: Installation) -> None:
    """A replica attached to the source, with no relay between, ends equal to it."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    replica = world.server(installation, "replica", server_id=2)
    replica.change_source(host=source.host, port=source.port)
    replica.start_replica()
    workload.small_transactions(source, 100)
    workload.large_transactions(source, 2)
    workload.giant_row(source)
    replica.wait_for_gtids(source.gtid_executed())
    assert replica.checksums() == source.checksums()
    assert replica.checksums()["shop.orders"][0] == 100
    assert replica.replica_errors() == []


def test_raw_reader_finds_no_fault_in_a_source(world: World, installation: Installation) -> None:
    """The reader's own rules hold for what a real source sends, in both kinds of dump."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    workload.small_transactions(source, 20)
    source.execute("FLUSH BINARY LOGS")
    workload.giant_row(source, size=20 * workload.MIB)
    first = source.binlog_files()[0]
    login = {"port": source.port, "user": REPLICATION_USER, "password": REPLICATION_PASSWORD}
    with RawReader(**login, non_blocking=True) as by_gtid:
        seen = by_gtid.join()
    with RawReader(**login, gtid_set=None, file=first, non_blocking=True) as by_position:
        assert by_position.join() == seen
    assert seen.faults == []
    assert seen.end == "eof"
    uuid = source.server_uuid()
    assert seen.transactions == [f"{uuid}:{number}" for number in range(1, 25)]
    with RawReader(**login, gtid_set=f"{uuid}:1-10:12-24", non_blocking=True) as one:
        assert one.join().transactions == [f"{uuid}:11"]


def test_raw_reader_notices_half_a_transaction(world: World, modern: Installation) -> None:
    """Cut inside a transaction that a source sends by itself, the reader holds a part of it."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    giant = workload.giant_transaction(source, size=20 * workload.MIB)
    proxy = world.proxy(source, rate=10e6)
    login = {"port": proxy.port, "user": REPLICATION_USER, "password": REPLICATION_PASSWORD}
    with RawReader(**login) as reader:
        wait_for(lambda: reader.seen.bytes > workload.MIB, what="a part")
        assert reader.seen.open_gtid == giant
        proxy.cut()
        assert reader.join().end == "closed"
        assert reader.seen.open_gtid == giant
        assert giant not in reader.seen.transactions
    proxy.rate = None
    with RawReader(**login, non_blocking=True) as reader:
        assert giant in reader.join().transactions


def test_raw_files_equal_the_sources(world: World, installation: Installation) -> None:
    """What `mysqlbinlog --raw` reads from a source is its file; a changed byte is noticed."""
    source = world.server(installation, "source", server_id=1)
    workload.make_tables(source)
    source.execute("FLUSH BINARY LOGS")
    workload.small_transactions(source, 10)
    names = source.binlog_files()
    files = fetch_binlogs(names, world.directory / "raw", port=source.port)
    for file in files:
        assert_same_binlog(file, source.binlog_path(file.name), is_open=file.name == names[-1])
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes(content)
    with pytest.raises(AssertionError, match="differ at byte"):
        assert_same_binlog(files[0], source.binlog_path(files[0].name))
