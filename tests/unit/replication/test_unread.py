"""Batches sent straight from the log's files: the same bytes, and only where nothing can differ."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from kingbus.binlog import relay_state
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication import dump, dump_session
from kingbus.replication.dump import DumpRequest
from kingbus.replication.served_rows import Row
from kingbus.storage import segment
from tests.support.relay_logs import UUID_A, BinlogFile, Packet, gtids, packets_of
from tests.support.relay_node import by_gtid
from tests.support.worker_node import Attached, WorkerNode, here


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is large enough, and every entry's place is known by itself."""
    monkeypatch.setattr(relay_state, "UNREAD_BYTES_MIN", 1)
    monkeypatch.setattr(segment, "POINT_BYTES", 1)
    monkeypatch.setattr(dump_session, "PHASE_BYTES_MIN", 1)
    monkeypatch.setattr(dump, "GATHER_BYTES", 1)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[WorkerNode]:
    """A relay over stores on disk."""
    node = WorkerNode(tmp_path)
    yield node
    node.close()


def rows(node: WorkerNode) -> list[Row]:
    """All that are held."""
    return trio.run(node.relay.read_rows, 0, 1 << 20)


def files(node: WorkerNode) -> list[FileRow]:
    return node.relay.state.files


def numbered(packets: Sequence[Packet], first: int) -> list[Packet]:
    """The same packets, their sequence numbers running from `first`."""
    return [
        Packet(
            data=packet.data[:3] + bytes(((first + at) & 255,)) + packet.data[4:],
            event=packet.event,
            is_first=packet.is_first,
            is_last=packet.is_last,
        )
        for at, packet in enumerate(packets)
    ]


async def sent(node: WorkerNode, request: DumpRequest) -> Attached:
    """The dump to a socket, by the node itself."""
    replica = Attached(request)

    async def dumper(request: DumpRequest, *, sink, progress) -> None:
        await dump.run_dump(node.relay, request, sink=sink, identity=node, progress=progress)

    await replica.run(dumper)
    if replica.failure is not None:
        raise replica.failure
    return replica


def binlog(number: int, numbers: range, *, size: int = 10) -> BinlogFile:
    """binlog.00000N with these transactions of source a, each of four events."""
    previous = f"a:1-{numbers[0] - 1}" if numbers[0] > 1 else ""
    file = BinlogFile(f"binlog.{number:06}", UUID_A, gtids(previous))
    for transaction in numbers:
        file.transaction(transaction, (size,))
    return file


def hold(node: WorkerNode, file: BinlogFile, *, first: int, batch: int) -> None:
    """A file whose packets are numbered from `first` on, in batches of `batch` packets."""
    if node.cutter is None:
        node.session()
    packets = numbered(packets_of(file.events), first)
    for at in range(0, len(packets), batch):
        node.batch(file, packets[at : at + batch])


def test_what_is_in_phase_is_not_read(node: WorkerNode) -> None:
    """From the first packet on, over files; only each file's last batch is looked at."""
    first, second = binlog(1, range(1, 100)), binlog(2, range(100, 200))
    first.rotate(second.name)
    hold(node, first, first=2, batch=50)
    hold(node, second, first=(2 + len(first.events) + 1) & 255, batch=50)

    replica = trio.run(sent, node, by_gtid())

    copied = trio.run(here, node, by_gtid())
    assert bytes(replica.raw) == bytes(copied.raw)
    assert replica.progress.bytes_sent == copied.progress.bytes_sent == len(copied.raw)
    assert copied.progress.file_bytes_sent == 0
    rest = [row for row in rows(node) if row.index in {f.last_index for f in files(node)}]
    unread = sum(row.row.bytes for row in rows(node)) - sum(row.row.bytes for row in rest)
    assert replica.progress.file_bytes_sent == unread
