"""The node's state machine: what is written, what is read again, who is woken, what is shared."""

import contextlib
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog.command import encode
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import VisibleEnd
from kingbus.pb.command_pb2 import AcceptGap, Command, MemberAttributes, Purge
from kingbus.pb.record_pb2 import Members
from kingbus.raft.types import Entry, EntryType
from kingbus.replication import relay as relay_module
from kingbus.replication.dump import DumpRequest
from kingbus.replication.relay import PurgedWhileReadingError, Relay, RelayLoadError
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.state_store import StateStore, StateWrite
from tests.support.relay_feed import Feed, history, steps
from tests.support.relay_logs import UUID_A, BinlogFile, batch_command, gtids, packets_of
from tests.support.relay_node import Applied, MemoryDatabase, RelayNode, by_position, run_inline


def binlog(count: int, size: int = 10) -> BinlogFile:
    file = BinlogFile("binlog.000001", UUID_A, gtids(""))
    for number in range(1, count + 1):
        file.transaction(number, [size])
    return file


@given(actions=steps, sizes=st.lists(st.integers(1, 30), min_size=1))
@settings(max_examples=100, deadline=None)
def test_how_entries_are_gathered_makes_no_difference(
    actions: list[tuple[str, object]], sizes: list[int]
) -> None:
    """One at a time or a whole run at once: the same rows, files and state."""
    feed = history(actions)
    entries, single = feed.node.log.entries, feed.node.database
    other = RelayNode()
    at = 0
    for size in sizes * len(entries):
        if at < len(entries):
            other.commit(*[entry.data for entry in entries[at : at + size]])
            at += size
    assert other.database.rows == single.rows
    assert other.database.files == single.files
    assert other.relay.state.digest() == feed.node.relay.state.digest()
    other.restart()
    assert other.relay.state.digest() == feed.node.relay.state.digest()


async def test_fences_that_commit_together_leave_nothing_of_what_they_cut() -> None:
    """Two abandoned transactions and two sessions in one run: the rows of one at a time."""
    single = RelayNode()
    file = binlog(2)
    packets = packets_of(file.events)
    single.session()
    single.batch(file, packets[:2])
    for _ in range(2):
        single.batch(file, packets[2:4])
        single.batch(file, packets[4:5])
        single.session()
    entries = single.log.entries
    assert sorted(single.database.rows) == [2]
    for size in range(1, len(entries) + 1):
        node = RelayNode()
        for at in range(0, len(entries), size):
            node.commit(*[entry.data for entry in entries[at : at + size]])

        assert node.database.rows == single.database.rows
        rows = await node.relay.read_rows(0, 10)
        assert [row.index for row in rows] == [2]


class PowerCutError(Exception):
    """The database takes nothing more."""


class CutDatabase(MemoryDatabase):
    """A database that takes so many writes and no more."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.writes = writes

    def write(self, changes: StateWrite) -> None:
        if not self.writes:
            raise PowerCutError
        self.writes -= 1
        super().write(changes)


@pytest.mark.parametrize("writes", range(5))
def test_a_crash_between_two_writes_of_a_run_leaves_a_whole_state(writes: int) -> None:
    """Each write of a run has the checkpoint and the membership that belong to it.

    The run purges a file, then begins a session that abandons a transaction: one write cannot do
    both. Behind the first one no older checkpoint fits, for the rows of that file are gone.
    """
    node = RelayNode()
    change = Entry(term=1, index=1, type=EntryType.CONF_CHANGE_V2, data=b"a change")
    node.log.entries.append(change)
    node.relay.apply(Applied(entries=[change]))
    feed = Feed(node)
    feed.session()
    feed.commit(5)
    feed.send_all()
    feed.next_file(rotate=True)
    feed.send_all()
    node.command(Command(purge=Purge(first_index=node.relay.state.files[1].first_index)))
    feed.commit(5, 5)
    feed.send(2)  # the transaction stays open
    feed.session()
    feed.send_all()
    entries, members = node.log.entries, Members(cluster_id=7, index=1)

    database = CutDatabase(writes)
    relay = Relay.load(database=database, log=node.log, runner=run_inline)
    with contextlib.suppress(PowerCutError):
        relay.apply(Applied(entries=entries, members={1: members}))
    database.writes = 1000
    again = Relay.load(database=database, log=node.log, runner=run_inline)

    applied = again.applied_index
    assert (applied == len(entries)) == (writes >= 3)
    assert database.members_record == (members if applied else None)
    again.apply(Applied(entries=entries[applied:]))
    assert again.state.digest() == node.relay.state.digest()
    assert (database.rows, database.files) == (node.database.rows, node.database.files)


async def test_every_entry_counts_as_applied() -> None:
    """A new leader's, a membership change, what is no command; the membership is kept with it."""
    node = RelayNode()
    members = Members(cluster_id=7, index=2)
    entries = [
        Entry(term=1, index=1, data=b""),
        Entry(term=1, index=2, type=EntryType.CONF_CHANGE_V2, data=b"whatever"),
        Entry(term=2, index=3, data=b"garbage"),
        Entry(
            term=2,
            index=4,
            data=encode(Command(member_attributes=MemberAttributes(member_id=1, version="1"))),
        ),
    ]
    node.log.entries.extend(entries)
    node.relay.apply(Applied(entries=entries, members={2: members}))

    assert node.relay.applied_index == node.database.applied_index == 4
    assert node.database.members_record == members
    assert list(node.relay.state.members) == [1]
    node.relay.apply(Applied(entries=[]))
    with pytest.raises(AssertionError):
        node.relay.apply(Applied(entries=[Entry(term=2, index=6)]))


async def test_a_checkpoint_is_made_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a start never reads more of the log again than that."""
    monkeypatch.setattr(relay_module, "CHECKPOINT_BYTES", 1000)
    node = RelayNode()
    packets = packets_of(binlog(20).events)
    file = binlog(0)
    node.session()
    node.batch(file, packets[:2])
    behind = []
    for at in range(2, len(packets), 4):
        node.batch(file, packets[at : at + 4])
        assert node.database.record is not None
        behind.append(node.database.applied_index - node.database.record.index)
    assert max(behind) == 3
    assert min(behind) == 0


async def test_a_node_whose_parts_do_not_fit_does_not_start() -> None:
    """Both indexes are named, and the database."""
    node = RelayNode()
    node.hold(binlog(3), size=4)
    del node.log.entries[-1]
    with pytest.raises(RelayLoadError, match=r"state .* ends at index 4"):
        node.restart()
    node = RelayNode()
    node.hold(binlog(3), size=4)
    node.log.first = 4
    with pytest.raises(RelayLoadError, match=r"state .* begins at index 4"):
        node.restart()


async def test_a_start_reads_only_what_is_behind_the_checkpoint() -> None:
    """And serves what was applied before the restart."""
    node = RelayNode()
    file = binlog(50)
    node.hold(file, size=4)
    assert node.database.record is not None
    node.database.record = node.relay.state.to_record()
    node.log.reads = 0

    node.restart()

    assert node.log.reads == 0
    request = by_position()
    assert b"".join((await node.dump(request)).stored) == file.bytes()


async def test_nobody_misses_a_wake_up() -> None:
    """Thousands wait; each sees every visible end that it waits for."""
    node = RelayNode()
    file = binlog(10)
    packets = packets_of(file.events)
    seen = [0] * 1000

    async def wait(number: int) -> None:
        visible = VisibleEnd()
        while visible.position < file.end:
            await node.relay.wait_beyond(visible)
            assert node.relay.state.visible != visible
            visible = node.relay.state.visible
            seen[number] += 1

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(len(seen)):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            node.session()
            for at in range(0, len(packets), 3):
                node.batch(file, packets[at : at + 3])
                await trio.testing.wait_all_tasks_blocked()
    assert set(seen) == {11}


async def test_an_open_transaction_wakes_nobody() -> None:
    """Only what became visible does."""
    node = RelayNode()
    file = binlog(2)
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:6])
    woken = trio.Event()

    async def wait() -> None:
        await node.relay.wait_beyond(node.relay.state.visible)
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        node.batch(file, packets[6:8])
        node.session()
        await trio.testing.wait_all_tasks_blocked()
        assert not woken.is_set()
        node.batch(file, packets[6:])
        with trio.fail_after(5):
            await woken.wait()


async def test_rows_never_pass_the_visible_end_of_when_they_were_asked_for() -> None:
    """A row that is read while a fence cuts it short shows nothing of what was cut off."""
    node = RelayNode()
    file = binlog(3)
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:2])
    node.batch(file, packets[2:8])
    node.batch(file, packets[8:9])
    node.relay._recent.first = 1 << 60  # rows come from the database
    read_rows = node.relay.read_rows

    async with trio.open_nursery() as nursery:
        found = []

        async def read() -> None:
            found.extend(await read_rows(0, 100))

        # The reader has its rows of before the fence when the fence and more are applied.
        real = node.database.batch_rows

        def racing(channel: int, first_index: int, limit: int) -> list:
            rows = real(channel, first_index, limit)
            node.session()
            node.batch(file, packets[6:])
            return rows

        node.database.batch_rows = racing  # type: ignore[method-assign]
        nursery.start_soon(read)
    assert [(row.index, row.row.packets) for row in found] == [(2, 2), (3, 4)]
    assert found[-1].row.end_position == file.events[5].end


async def test_one_read_serves_all_who_want_the_batch() -> None:
    """And what was read ahead with it is there for the next."""
    node = RelayNode()
    node.hold(binlog(30), size=4)
    node.restart()
    node.relay._shared._batches.clear()
    node.log.reads = 0
    batches = []

    async def read() -> None:
        batches.append((await node.relay.read_batches(3, 20))[3])

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
    assert node.log.reads == 1
    assert all(batch is batches[0] for batch in batches)
    assert list(await node.relay.read_batches(20, 25)) == [20]
    assert node.log.reads == 1


async def test_shared_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes, and one large entry does not push the others out."""
    monkeypatch.setattr(relay_module, "SHARED_BYTES", 10_000)
    node = RelayNode()
    file = binlog(100)
    node.hold(file, size=4)
    shared = node.relay._shared
    assert 0 < sum(batch.size for batch in shared._batches.values()) <= 10_000
    assert max(shared._batches) == len(node.log.entries)
    count = len(shared._batches)
    large = BinlogFile("binlog.000002", UUID_A, gtids("a:1-100"))
    large.transaction(101, [5000])
    node.hold(large)
    assert len(shared._batches) == count
    batch = (await node.relay.read_batches(len(node.log.entries), 0))[len(node.log.entries)]
    assert batch.count == 6


def test_entries_of_one_run_across_a_gap_leave_no_row_of_before() -> None:
    """The gap, the session and the file behind it are applied together, files before them too; a
    restart finds the same."""
    node = RelayNode()
    feed = Feed(node)
    feed.session()
    feed.commit(5)
    feed.send_all()
    node.command(Command(accept_gap=AcceptGap(gtids=gtids("a:50-60").encode())))
    feed.failover(0)
    feed.session()
    feed.commit(5)
    feed.send_all()
    feed.next_file(rotate=True)
    feed.send_all()
    alone = node.relay.state
    assert [row.epoch for row in alone.files] == [2, 2] and not alone.accepted_gap
    assert min(node.database.rows) == alone.files[0].first_index
    assert sorted(node.database.files) == [row.ordinal for row in alone.files]

    database = MemoryDatabase()
    together = Relay.load(database=database, log=node.log, runner=run_inline)
    together.apply(Applied(entries=node.log.entries))
    assert together.state.digest() == alone.digest()
    assert database.rows == node.database.rows and database.files == node.database.files
    again = Relay.load(database=database, log=node.log, runner=run_inline)
    assert again.state.digest() == alone.digest()


async def test_what_is_purged_is_said_to_be() -> None:
    """Instead of an error that nobody can place."""
    node = RelayNode()
    node.hold(binlog(30), size=4)
    node.relay._shared._batches.clear()
    node.log.first = 10
    with pytest.raises(PurgedWhileReadingError, match="entry 3"):
        await node.relay.read_batches(3, 5)


async def test_a_reader_that_is_cancelled_does_not_leave_the_others_waiting() -> None:
    """Somebody else reads then."""
    node = RelayNode()
    node.hold(binlog(5), size=4)
    node.relay._shared._batches.clear()
    held = trio.Event()

    async def slow(function, *args):  # type: ignore[no-untyped-def]
        if not held.is_set():
            held.set()
            await trio.sleep_forever()
        return function(*args)

    node.relay._runner = slow
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def cancelled() -> None:
                with first:
                    await node.relay.read_batches(3, 3)

            nursery.start_soon(cancelled)
            await held.wait()
            nursery.start_soon(node.relay.read_batches, 3, 3)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()


class StoredNode(RelayNode):
    """The same over the real stores, reading in real threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = LogStore.open(
            directory / "log", segment_bytes=1 << 20, reserve_bytes=64 << 20, cache_bytes=1 << 16
        )
        self.states = StateStore.open(directory / "state")
        super().__init__()
        self.database = MemoryDatabase()

    def load(self) -> Relay:
        return Relay.load(database=self.states, log=self.store, runner=trio.to_thread.run_sync)

    def commit(self, *data: bytes) -> None:
        entries = [self.entry(each) for each in data]
        write = LogWrite(entries=entries)
        self.store.write(write)
        self.store.publish(write)
        self.relay.apply(Applied(entries=entries))

    def batch(self, file, packets, *, gap_before=0):  # type: ignore[no-untyped-def]
        meta, raw = self.cutter.cut(file, packets, gap_before=gap_before)
        self.command(batch_command(meta), raw)
        return len(self.log.entries)

    def close(self) -> None:
        self.store.close()
        self.states.close()


async def test_over_the_real_stores(tmp_path: Path) -> None:
    """Rows and packets from database and segments, a fence, a restart, and a dump that follows."""
    node = StoredNode(tmp_path)
    try:
        feed = Feed(node)
        feed.session()
        for number in range(60):
            feed.commit(20_000, 30_000, number)
            feed.send(7)
            if number % 20 == 19:
                feed.session()
                feed.next_file(rotate=number % 40 == 19)
            if number % 25 == 24:
                feed.failover(2)
                feed.session()
        before = node.relay.state
        node.restart()
        assert node.relay.state.digest() == before.digest()
        node.relay._recent.first = len(node.log.entries)
        known = GtidSet()
        expected = b"".join(event.data for found in feed.visible_transactions() for event in found)

        request = DumpRequest(kind="gtid", gtid_set=known, checksum="CRC32", non_blocking=True)
        with trio.fail_after(30):
            replica = await node.dump(request)
        sent = b"".join(e for e in replica.stored if e[4] not in {3, 4, 15, 35})
        assert sent == expected
        row = node.relay.state.files[0]
        for event in feed.visible()[0][1][5:40:7]:
            found = await node.relay.find_row(row, event.start)
            assert found is not None
            assert found.row.start_position <= event.start < found.row.end_position
    finally:
        node.close()
