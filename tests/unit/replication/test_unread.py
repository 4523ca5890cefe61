"""Batches sent straight from the log's files: the same bytes, and only where nothing can differ."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kingbus.binlog import relay_state
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication import dump, dump_session
from kingbus.replication.dump import DumpRequest
from kingbus.replication.served_rows import Row
from kingbus.storage import segment
from kingbus.storage.errors import CorruptRecordError
from tests.support.relay_feed import Feed, begun, perform, step
from tests.support.relay_logs import (
    GTID,
    QUERY,
    ROWS,
    BinlogFile,
    binlog,
    numbered,
    packets_of,
    session_command,
)
from tests.support.relay_node import HEARTBEATS, Replica, by_gtid, by_position
from tests.support.worker_node import Attached, NotSendable, WorkerNode, here, until


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


def unread(node: WorkerNode) -> int:
    """The bytes of all batches but each file's first and last, which are looked at."""
    seen = {index for file in files(node) for index in (file.first_index, file.last_index)}
    return sum(row.row.bytes for row in rows(node) if row.index not in seen)


def files(node: WorkerNode) -> list[FileRow]:
    return node.relay.state.files


def dumper_of(node: WorkerNode):
    """Dumps by the node itself."""

    async def dumper(request: DumpRequest, *, sink, progress) -> None:
        await dump.run_dump(node.relay, request, sink=sink, identity=node, progress=progress)

    return dumper


async def sent(node: WorkerNode, request: DumpRequest) -> Attached:
    """The dump to a socket, to its end."""
    replica = Attached(request)
    await replica.run(dumper_of(node))
    if replica.failure is not None:
        raise replica.failure
    return replica


@asynccontextmanager
async def attached(node: WorkerNode, *, stop_at: int = 1 << 60) -> AsyncIterator[Attached]:
    """A replica that follows, and stops reading behind so many bytes; the body has 20 s.

    Behind it the dump is ended, as by KILL.
    """
    replica = Attached(by_gtid(non_blocking=False))
    replica.stop_at = stop_at
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.run, dumper_of(node))
        try:
            with trio.fail_after(20):
                yield replica
        finally:
            replica.sink.hurry()
            replica.scope.cancel()


def hold(node: WorkerNode, file: BinlogFile, *, first: int, batch: int) -> None:
    """A file whose packets are numbered from `first` on, in batches of `batch` packets."""
    if node.cutter is None:
        node.session()
    packets = numbered(packets_of(file.events), first)
    for at in range(0, len(packets), batch):
        node.batch(file, packets[at : at + batch])


def test_what_is_in_phase_is_not_read(node: WorkerNode) -> None:
    """Over files; only each file's first and last batch are looked at."""
    first, second = binlog(1, range(1, 100)), binlog(2, range(100, 200))
    first.rotate(second.name)
    hold(node, first, first=2, batch=50)
    hold(node, second, first=(2 + len(first.events) + 1) & 255, batch=50)

    replica = trio.run(sent, node, by_gtid())

    copied = trio.run(here, node, by_gtid())
    assert bytes(replica.raw) == bytes(copied.raw)
    assert replica.progress.bytes_sent == copied.progress.bytes_sent == len(copied.raw)
    assert copied.progress.file_bytes_sent == 0
    assert replica.progress.file_bytes_sent == unread(node) > len(copied.raw) // 2


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


@pytest.mark.parametrize("period", [None, 3600.0])
@pytest.mark.parametrize("known", ["", "a:1-7"])
def test_a_replica_that_wants_heartbeats_is_brought_into_phase(
    node: WorkerNode, period: float | None, known: str
) -> None:
    """By as few as it takes, behind the FORMAT_DESCRIPTION and between transactions; no other."""
    file = binlog(1, range(1, 200))
    hold(node, file, first=77, batch=51)  # the second begins in a transaction

    replica = trio.run(sent, node, by_gtid(known, heartbeat_period_s=period))

    replica.check()
    assert not beats_in_transactions(replica)
    skipped = int(bool(known))
    beats = replica.kinds.count(f"beat1 {file.name}:{beat_position(replica)}")
    if period is None:
        assert not replica.progress.file_bytes_sent
        assert beats == skipped
    else:
        assert 0 < replica.progress.file_bytes_sent <= unread(node)
        assert len(replica.kinds) - len(replica.stored) == 1 + skipped + beats
        assert 0 < beats < 256
    assert b"".join(replica.stored) == stored(file, known)


@pytest.mark.parametrize("period", [None, 3600.0])
def test_what_a_replica_has_is_left_out(node: WorkerNode, period: float | None) -> None:
    """In the middle of a batch, over the border of two, and whole batches; told as always."""
    file = binlog(1, range(1, 200))
    hold(node, file, first=2, batch=51)
    known = "a:13:60:100-140:150"  # 13 begins in one batch and ends in the next
    request = by_gtid(known, heartbeat_period_s=period)

    replica, copied = trio.run(sent, node, request), trio.run(here, node, request)

    assert b"".join(replica.stored) == b"".join(copied.stored)
    if period is None:
        assert replica.kinds == copied.kinds
    else:
        assert set(copied.kinds) <= set(replica.kinds)
        assert replica.progress.file_bytes_sent
    replica.check()
    assert not beats_in_transactions(replica)


def beat_position(replica: Replica) -> int:
    """Where the last heartbeat says that the replica is."""
    beats = [kind for kind in replica.kinds if kind.startswith("beat")]
    return int(beats[-1].partition(":")[2]) if beats else 0


def stored(file: BinlogFile, known: str) -> bytes:
    return b"".join(
        event.data
        for number, event in enumerate(file.events)
        if not known or number < 2 or number >= 2 + 4 * 7
    )


def test_what_this_process_did_not_check_is_read_first(node: WorkerNode) -> None:
    """Once, by whoever comes first; nothing of a damaged entry is sent."""
    hold(node, binlog(1, range(1, 200)), first=2, batch=50)
    hold(node, binlog(2, range(200, 210)), first=2, batch=50)
    assert trio.run(sent, node, by_gtid()).progress.file_bytes_sent == unread(node)
    node.reopen()  # which reads the second file
    first = trio.run(sent, node, by_gtid())
    second = trio.run(sent, node, by_gtid())

    assert first.progress.file_bytes_sent == 0
    assert second.progress.file_bytes_sent == unread(node)
    assert first.raw == second.raw

    place = node.store.stored(5)
    assert place is not None
    node.reopen()
    with place.path.open("r+b") as damaged:
        damaged.seek(place.offset + 2000)
        damaged.write(b"damage")
    with pytest.raises(CorruptRecordError):
        trio.run(sent, node, by_gtid())


def test_where_files_cannot_be_sent_everything_comes_through_memory(node: WorkerNode) -> None:
    """What arrives is the same; it is tried once for each dump."""
    hold(node, binlog(1, range(1, 200)), first=2, batch=50)
    hold(node, binlog(2, range(200, 210)), first=2, batch=50)
    usual = trio.run(sent, node, by_gtid())
    assert usual.progress.file_bytes_sent
    refused = NotSendable(1)
    node.relay.stored = lambda _row: refused
    instead = trio.run(sent, node, by_gtid())

    assert instead.raw == usual.raw
    assert not instead.progress.file_bytes_sent
    assert refused.asked == 1


def test_an_open_transaction_is_not_sent_with_its_batch(node: WorkerNode) -> None:
    """Neither while it is open nor when it was abandoned; when it ended its batch goes unread."""
    file = binlog(1, range(1, 40))
    node.session()
    packets = numbered(packets_of(file.events), 2)
    node.batch(file, packets[:10])
    node.batch(file, packets[10:20])  # the fifth transaction has begun
    node.batch(file, packets[20:21])
    shown = trio.run(sent, node, by_gtid())
    assert b"".join(shown.stored) == b"".join(event.data for event in file.events[:18])
    assert not shown.progress.file_bytes_sent
    node.session()
    node.batch(file, packets[18:25])
    node.batch(file, packets[25:40])
    node.batch(file, packets[40:42])

    replica = trio.run(sent, node, by_gtid())

    assert b"".join(replica.stored) == b"".join(event.data for event in file.events[:42])
    unread_rows = [row for row in rows(node) if row.row.HasField("first_sequence")][:-1]
    assert len(unread_rows) == 3, "not the truncated one"
    assert replica.progress.file_bytes_sent == sum(row.row.bytes for row in unread_rows[1:])


@pytest.mark.parametrize("packets", [1, 3])
def test_an_attached_replica_gets_what_comes(node: WorkerNode, packets: int) -> None:
    """In and out of phase, at the end of the log and behind it."""

    async def main() -> None:
        file = binlog(1, range(1, 60))
        hold(node, file, first=2, batch=40)
        async with attached(node) as replica:
            more = binlog(1, range(1, 90))
            coming = packets_of(more.events)[len(file.events) :]
            for at in range(0, len(coming), packets):
                node.batch(more, coming[at : at + packets])
                end = node.relay.state.visible.position
                await until(lambda end=end: b"".join(replica.stored) == more.bytes(end=end))
        replica.check()
        assert replica.progress.last_gtid.endswith(":89")

    trio.run(main)


def large(node: WorkerNode, *, count: int = 4) -> list[BinlogFile]:
    """Files of batches that no socket takes at once, in phase from the first packet on."""
    made, first = [], 2
    for number in range(1, count + 1):
        file = binlog(number, range(20 * number - 19, 20 * number + 1), size=60_000)
        if number < count:
            file.rotate(f"binlog.{number + 1:06}")
        hold(node, file, first=first & 255, batch=40)
        made.append(file)
        first += len(file.events) + 1
    return made


def test_a_purge_under_a_send_ends_the_dump_behind_it(node: WorkerNode) -> None:
    """The batch under way comes whole out of the removed file; then error 1236."""

    async def main() -> None:
        large(node)
        async with attached(node, stop_at=600_000) as replica:
            await until(lambda: replica.has_stopped and files_in_use(node))
            (removed,) = files_in_use(node)
            node.command(Command(purge=Purge(first_index=files(node)[2].first_index)))
            node.purge_log()
            assert not removed.exists()
            replica.reads.set()
            await replica.ended.wait()
        assert replica.refusal is not None
        assert replica.refusal.code == 1236
        assert not replica.sink.is_broken
        replica.check()
        assert sum(map(len, replica.stored)) > 1 << 20

    trio.run(main)


def files_in_use(node: WorkerNode) -> list[Path]:
    """Segments from which a send is under way."""
    return list(node.store._pool._used)


def test_a_purge_just_before_a_send_ends_the_dump(node: WorkerNode) -> None:
    """Between the decision and the opening of the file; the error has the right number."""

    async def main() -> None:
        large(node)
        relay_stored = node.relay.stored
        left = 3

        def stored_and_purge(row: Row):
            nonlocal left
            found = relay_stored(row)
            left -= 1
            if not left:
                node.command(Command(purge=Purge(first_index=files(node)[3].first_index)))
                node.purge_log()
            return found

        node.relay.stored = stored_and_purge
        async with attached(node) as replica:
            await replica.ended.wait()
        assert not left
        assert replica.refusal is not None
        assert replica.refusal.code == 1236
        assert not replica.sink.is_broken
        replica.check()

    trio.run(main)


def test_an_installed_snapshot_under_a_send_ends_the_dump_behind_it(node: WorkerNode) -> None:
    """The batch under way comes whole out of the old log; then error 1105."""

    async def main() -> None:
        large(node)
        async with attached(node, stop_at=600_000) as replica:
            await until(lambda: replica.has_stopped and files_in_use(node))
            (removed,) = files_in_use(node)
            state = RelayState()
            state.apply(1, session_command())
            record = state.to_record()
            record.index = 1000
            await node.install(record)
            node.store.note_idle()
            assert not removed.exists()
            replica.reads.set()
            await replica.ended.wait()
        assert replica.refusal is not None
        assert replica.refusal.code == 1105
        assert not replica.sink.is_broken
        replica.check()

    trio.run(main)


@pytest.mark.slow
@given(at=st.integers(0, 3_000_000))
@settings(max_examples=15, deadline=None)
def test_a_cancelled_dump_ends_behind_a_whole_packet(
    at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At any moment, and the number of the packet that may follow is right."""
    node = WorkerNode(tmp_path_factory.mktemp("node"))
    large(node, count=2)

    async def main() -> None:
        async with attached(node) as replica:
            await until(lambda: len(replica.raw) >= min(at, 2_300_000))
        assert not replica.sink.is_broken
        replica.check()

    trio.run(main)
    node.close()
