"""The bytes of held files are those of the source's files, from any byte on."""

import random

import pytest

from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.header import FILE_MAGIC
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.replication.file_content import PastEndError, content_bytes, position_at, read_chunk
from kingbus.replication.served_rows import PurgedWhileReadingError
from tests.support.relay_logs import PACKET_MAX, UUID_A, BinlogFile, packets_of
from tests.support.relay_node import RelayNode


def two_files() -> tuple[BinlogFile, BinlogFile]:
    first = BinlogFile("binlog.000001", UUID_A, GtidSet())
    for number in range(1, 8):
        first.transaction(number, (10, 200 * number))
    first.rotate("binlog.000002")
    second = BinlogFile(
        "binlog.000002", UUID_A, GtidSet.parse("aaaaaaaa-0000-0000-0000-000000000001:1-7")
    )
    second.transaction(8)
    return first, second


async def test_each_byte_of_a_file_is_read_by_its_offset() -> None:
    """Whatever the batches are, any range of a file is the same range of the source's."""
    files = two_files()
    node = RelayNode()
    node.hold(*files, size=3)
    chooser = random.Random(7)
    for file in files:
        whole = FILE_MAGIC + file.bytes()
        for _ in range(60):
            start = chooser.randrange(len(whole) + 1)
            size = chooser.randrange(1, 900)
            chunk = await read_chunk(node.relay, file.name, start, size)
            assert chunk is not None
            assert chunk.data == whole[start : start + size]
            assert chunk.total == len(whole)
            assert chunk.closed == (file is files[0])


async def test_an_event_of_several_packets_is_put_together() -> None:
    """Its packets may lie in several batches, and a read may begin inside any of them."""
    file = BinlogFile("binlog.000001", UUID_A, GtidSet())
    file.transaction(1)
    file.transaction(2, (2 * PACKET_MAX + 77,))
    file.transaction(3, (PACKET_MAX - 19 - 4 - 1,))  # an empty packet ends it
    node = RelayNode()
    node.hold(file, size=1)
    whole = FILE_MAGIC + file.bytes()
    large = max(file.events, key=lambda event: len(event.data))
    for start in (0, large.start - 1, large.start + 5, large.start + PACKET_MAX + 1, large.end - 3):
        for size in (10, PACKET_MAX, len(whole)):
            chunk = await read_chunk(node.relay, file.name, start, size)
            assert chunk is not None
            assert chunk.data == whole[start : start + size]


async def test_a_large_event_is_not_read_up_to_the_byte_wanted() -> None:
    """Batches wholly inside an event are passed over by their rows."""
    file = BinlogFile("binlog.000001", UUID_A, GtidSet())
    file.transaction(1, (5 * PACKET_MAX,))
    node = RelayNode()
    node.hold(file, size=1)
    reads = node.log.reads
    end = content_bytes(node.relay.state.files[0])
    await read_chunk(node.relay, file.name, end - 40, 10)
    # What the event begins in, what is wanted and what lies around it, of five times 16 MiB.
    assert node.log.reads - reads <= 4


async def test_what_is_held_in_part_has_no_hole() -> None:
    """The parts stand one behind the other, and each byte's position is known."""
    file = BinlogFile("binlog.000001", UUID_A, GtidSet())
    for number in range(1, 5):
        file.transaction(number)
    packets = packets_of(file.events)
    node = RelayNode()
    node.session()
    node.batch(file, packets[:2])
    hole = packets[10].event.start - packets[1].event.end
    node.batch(file, packets[10:], gap_before=hole)
    whole = FILE_MAGIC + file.bytes(end=packets[1].event.end) + file.bytes(packets[10].event.start)
    for start in range(0, len(whole), 13):
        chunk = await read_chunk(node.relay, file.name, start, 29)
        assert chunk is not None
        assert chunk.data == whole[start : start + 29]
    row = node.relay.state.files[0]
    assert content_bytes(row) == len(whole)
    assert position_at(row, packets[1].event.end) == packets[10].event.start
    assert position_at(row, packets[1].event.end - 1) == packets[1].event.end - 1


async def test_an_open_transaction_is_no_part_of_the_file() -> None:
    """A file ends where the visible end is, also in the middle of a batch."""
    file = BinlogFile("binlog.000001", UUID_A, GtidSet())
    file.transaction(1)
    end = file.end
    file.transaction(2)
    node = RelayNode()
    node.session()
    node.batch(file, packets_of(file.events)[:-1])
    chunk = await read_chunk(node.relay, file.name, 0, 1 << 20)
    assert chunk is not None
    assert chunk.data == FILE_MAGIC + file.bytes(end=end)


async def test_what_is_not_there_is_said() -> None:
    """An unknown file, a byte behind the end, a file that was purged: each by its own answer."""
    first, second = two_files()
    node = RelayNode()
    node.hold(first, second)
    assert await read_chunk(node.relay, "binlog.000009", 0, 10) is None
    with pytest.raises(PastEndError, match=f"{second.end} bytes"):
        await read_chunk(node.relay, second.name, second.end + 1, 10)
    row = node.relay.state.file_named(first.name)
    assert row is not None
    node.command(Command(purge=Purge(first_index=node.relay.state.files[1].first_index)))
    node.relay.state.files.insert(0, row)  # as seen by who asked just before
    with pytest.raises(PurgedWhileReadingError, match=first.name):
        await read_chunk(node.relay, first.name, 0, 100)
