"""Batches sent straight from the log's files: the same bytes, and only where nothing can differ."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kingbus.binlog import relay_state
from kingbus.binlog.gtid import GtidSet
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication import dump, dump_session
from kingbus.replication.dump import DumpRequest
from kingbus.replication.served_rows import Row
from kingbus.storage import segment
from tests.support.relay_feed import Feed, begun, perform, step
from tests.support.relay_logs import (
    GTID,
    QUERY,
    ROWS,
    UUID_A,
    BinlogFile,
    gtids,
    numbered,
    packets_of,
)
from tests.support.relay_node import HEARTBEATS, Replica, by_gtid, by_position
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


class NumberedNode(WorkerNode):
    """Numbers the packets of its batches as one connection does, until somebody interferes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.next = 2
        self.breaks = False

    def batch(self, file, packets, *, gap_before: int = 0) -> int:
        count = len(packets)
        at = count // 2 if self.breaks else count
        packets = numbered(packets[:at], self.next) + numbered(packets[at:], self.next + at + 1)
        self.next += count + self.breaks
        self.breaks = False
        return super().batch(file, packets, gap_before=gap_before)


numbering = st.one_of(
    step,
    step,
    st.tuples(st.just("jump"), st.integers(1, 255)),
    st.tuples(st.just("break"), st.none()),
)
"""A session does not begin to count anew here: that is a jump."""


def happen(feed: Feed, actions: Sequence[tuple[str, object]]) -> None:
    for action in actions:
        match action:
            case ("jump", int(count)):
                feed.node.next += count
            case ("break", _):
                feed.node.breaks = True
            case _:
                perform(feed, action)


def requests(feed: Feed, data: st.DataObject) -> DumpRequest:
    """Any replica's: by GTID with any part of what there is, or from where an event begins."""
    more = {"heartbeat_period_s": data.draw(st.sampled_from([None, 3600.0]))}
    more["heartbeat_v2_accepted"] = data.draw(st.booleans())
    if data.draw(st.booleans()):
        known = GtidSet()
        for transaction in feed.visible_transactions():
            if data.draw(st.integers(0, 3)) == 0:
                known.add(*transaction[0].gtid, transaction[0].gtid[2])
        more["gtid_set"] = known
        return DumpRequest(kind="gtid", non_blocking=True, checksum="CRC32", **more)
    name, events = data.draw(st.sampled_from(feed.visible()))
    position = data.draw(st.sampled_from([event.start for event in events] or [4]))
    return by_position(name, position, **more)


def without_beats(replica: Replica) -> list[bytes]:
    """What was sent besides heartbeats, in order."""
    return [event for event in replica.events if event[4] not in HEARTBEATS]


def beats_in_transactions(replica: Replica) -> bool:
    """Whether there is a heartbeat behind an event of a transaction that is not its last."""
    inside = False
    for event in replica.events:
        if event[4] in HEARTBEATS and inside:
            return True
        inside = event[4] in {GTID, QUERY, ROWS} or (inside and event[4] in HEARTBEATS)
    return False


@pytest.mark.slow
@given(actions=st.lists(numbering, max_size=40), data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_arrives_is_what_is_copied(
    actions: list[tuple[str, object]], data: st.DataObject
) -> None:
    """For any log, any numbering and any request, but for heartbeats where they tell nothing."""
    with TemporaryDirectory() as directory:
        feed = begun(NumberedNode(Path(directory)))
        happen(feed, actions)
        for _ in range(2):
            request = requests(feed, data)
            copied = trio.run(here, feed.node, request)
            if data.draw(st.booleans()):
                feed.node.reopen()  # then nothing on the disk has been checked yet
            replica = trio.run(sent, feed.node, request)

            assert str(replica.refusal) == str(copied.refusal)
            assert replica.finished == copied.finished
            assert without_beats(replica) == without_beats(copied)
            replica.check()
            assert not beats_in_transactions(replica)
            assert replica.progress.position == copied.progress.position
            assert replica.progress.last_gtid == copied.progress.last_gtid
            assert replica.progress.last_event_time == copied.progress.last_event_time
            if request.heartbeat_period_s is None:
                assert bytes(replica.raw) == bytes(copied.raw)
        feed.node.close()
