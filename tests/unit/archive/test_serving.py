"""What only the archive has is served as if the log still held it."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.archive import archiver, catalogue
from kingbus.binlog.gtid import GtidSet
from kingbus.replication import dump, served_rows
from kingbus.replication import relay as relay_module
from kingbus.replication.dump import DumpRequest
from tests.support.archived_node import ArchivedNode, small_chunks
from tests.support.relay_feed import Feed, history, step
from tests.support.relay_logs import PACKET_MAX, UUID_A, BinlogFile
from tests.support.relay_node import RelayNode, Replica, by_gtid, by_position
from tests.unit.archive.test_archiver import archived, files_of


async def both(node: ArchivedNode, request: DumpRequest, purged: int) -> tuple[Replica, Replica]:
    """A dump while everything is held, and the same after it was archived and purged."""
    before = await node.node.dump(request)
    await node.archive_all()
    node.purge(purged)
    return before, await node.dump(request)


busy = st.lists(
    st.one_of(
        step,
        st.tuples(st.just("commit"), st.lists(st.integers(0, 400), max_size=3)),
        st.tuples(st.just("send"), st.just(200)),
        st.tuples(st.just("next_file"), st.booleans()),
        st.tuples(st.just("send"), st.just(200)),
    ),
    min_size=15,
    max_size=60,
)
"""What happens, with more files than elsewhere, and more of them whole."""


@given(actions=busy, data=st.data(), size=st.sampled_from([200, 1000, 1 << 22]))
@settings(max_examples=150, deadline=None)
def test_a_dump_is_the_same_with_and_without_the_files(
    actions: list[tuple[str, object]], data: st.DataObject, size: int
) -> None:
    """For any log, however much of it is purged, and any place to begin: the same events, the
    made-up ones included, with the same sequence numbers."""
    feed = history(actions)
    state = feed.node.relay.state
    if len(state.files) < 2:
        return
    request = some_request(feed, data)
    purged = data.draw(st.integers(1, len(state.files) - 1))
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch, size)
        node = ArchivedNode(feed.node, compression=data.draw(st.sampled_from(["none", "zstd"])))
        before, after = trio.run(both, node, request, purged)
    assert before.finished, before.refusal
    assert after.finished, after.refusal
    assert after.events == before.events
    assert after.kinds == before.kinds


def some_request(feed: Feed, data: st.DataObject) -> DumpRequest:
    """By a set, or by a file and a place in it where an event begins."""
    if data.draw(st.booleans()):
        known = GtidSet()
        for transaction in feed.visible_transactions():
            gtid = transaction[0].gtid
            assert gtid is not None
            if data.draw(st.booleans()):
                known.add(*gtid, gtid[2])
        return DumpRequest(kind="gtid", gtid_set=known, non_blocking=True, checksum="CRC32")
    shown = feed.visible()
    at = data.draw(st.integers(0, len(shown) - 1))
    name, events = shown[at]
    ends = [event.start for event in events] + [feed.node.relay.state.files[at].end_position]
    return by_position(name, data.draw(st.sampled_from(ends)))


async def test_the_log_alone_serves_what_it_holds() -> None:
    """The store is not asked; from an archived file on the dump is not the log's."""
    node, _ = archived(count=4)
    await node.archive_all()
    node.purge(2)
    node.store.calls_left = 0
    assert (await node.dump(by_position("binlog.000003"))).finished
    assert (await node.dump(by_gtid("a:1-10"))).finished
    assert node.dumps_of_log == 2
    node.store.calls_left = 1 << 30
    assert (await node.dump(by_position("binlog.000002"))).finished
    assert (await node.dump(by_gtid("a:1-9"))).finished
    assert node.dumps_of_log == 2


async def test_the_oldest_file_is_the_archives() -> None:
    """For who asks for none by name, and in what replicas are told is there."""
    node, files = archived(count=4)
    await node.archive_all()
    node.purge(2)
    replica = await node.dump(by_position())
    assert replica.kinds[0] == "rotate* binlog.000001:4"
    assert len(replica.stored) == sum(len(file.events) for file in files)
    assert [row.served_name for row in node.dumper.files()] == ["binlog.000001", "binlog.000002"]
    assert not node.dumper.state.purged


async def test_another_node_serves_what_the_leader_archived() -> None:
    """It reads the catalogue when a dump asks for what it does not hold."""
    node, _ = archived(count=4)
    await node.archive_all()
    node.purge(2)
    follower = ArchivedNode(node.node, store=node.store)
    follower.leads = False
    assert (await follower.dump(by_gtid())).finished


async def test_what_is_nowhere_is_refused_as_a_source_does() -> None:
    """Error 1236, by set and by name; a hole in the archive counts as purged."""
    node, _ = archived(count=5)
    await node.archiver.step()
    node.purge(2)
    await node.archive_all()
    node.purge(1)
    assert [file.row.ordinal for file in node.catalogue.files()] == [1, 3, 4]
    for request in (by_gtid(), by_gtid("a:1-9"), by_position("binlog.000001")):
        refusal = (await node.dump(request)).refusal
        assert refusal is not None
        assert refusal.code == 1236
    assert (await node.dump(by_gtid("a:1-10"))).finished
    assert [row.ordinal for row in node.dumper.files()] == [3]


async def test_a_store_that_is_away_makes_a_replica_come_back() -> None:
    """1105, at which it tries again, and not 1236, at which it stops for good."""
    node, _ = archived(count=4)
    await node.archive_all()
    node.purge(2)
    node.store.calls_left = 0
    begun = await node.dump(by_gtid())
    assert begun.refusal is not None
    assert begun.refusal.code == 1105
    assert "away" in begun.refusal.message
    other = ArchivedNode(node.node, store=node.store)
    refusal = (await other.dump(by_gtid())).refusal
    assert refusal is not None
    assert refusal.code == 1105
    assert not (await other.dump(by_gtid())).events


async def test_a_store_that_is_away_for_a_moment_is_not_noticed(autojump_clock: object) -> None:
    """It is waited for."""
    node, files = archived(count=4, patience_seconds=20)
    await node.archive_all()
    node.purge(3)
    node.store.calls_left = 1
    replica = Replica(by_gtid())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.attach, replica)
        await trio.sleep(10)
        assert not replica.finished
        node.store.calls_left = 1 << 30
    assert replica.finished
    assert len(replica.stored) == sum(len(file.events) for file in files)


async def test_a_replica_is_not_kept_waiting_until_it_gives_up(autojump_clock: object) -> None:
    """It hears nothing while the store is asked, so that lasts for one heartbeat at most."""
    node, _ = archived(count=4, patience_seconds=30)
    await node.archive_all()
    node.purge(3)
    node.store.calls_left = 0
    began = trio.current_time()
    refusal = (await node.dump(by_gtid(heartbeat_period_s=5.0))).refusal
    assert refusal is not None
    assert refusal.code == 1105
    assert trio.current_time() - began <= 5


async def test_a_long_search_does_not_look_dead(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """A replica that asks for the end of a large archived file hears heartbeats until it is
    found, and then exactly the rest."""
    small_chunks(monkeypatch, 1 << 20)
    files = files_of(2, transactions=9, size=1 << 20)
    relay = RelayNode()
    relay.hold(*files, size=4)
    node = ArchivedNode(relay)
    await node.archive_all()
    node.purge(1)
    chunk = node.dumper._fetch

    async def slow(*arguments: object) -> bytes:
        await trio.sleep(3)
        return await chunk(*arguments)  # type: ignore[arg-type]

    node.dumper._fetch = slow  # type: ignore[method-assign]
    last = files[0].events[-1]
    request = by_position(files[0].name, last.start, heartbeat_period_s=2.0)
    replica = await node.dump(request)
    assert replica.finished
    assert replica.kinds.count(f"beat1 {files[0].name}:{last.start}") >= 5
    rest = [last, *files[1].events]
    assert replica.stored[1:] == [event.data for event in rest]


@pytest.mark.parametrize("crc", [True, False])
async def test_damage_in_the_archive_is_never_served(crc: bool) -> None:
    """A wrong byte is found, whether its event has a checksum or not, and told."""
    files = files_of(3, crc=crc)
    relay = RelayNode()
    relay.hold(*files, size=4)
    node = ArchivedNode(relay)
    await node.archive_all()
    node.purge(2)
    key = "files/binlog.000002"
    content = bytearray(node.store.objects[key])
    content[-60] ^= 1
    node.store.objects[key] = bytes(content)
    replica = await node.dump(by_position("binlog.000001"))
    assert replica.refusal is not None
    assert replica.refusal.code == 1236
    assert "files/binlog.000002" in replica.refusal.message
    sound = [event.data for file in files for event in file.events]
    assert replica.stored == sound[: len(replica.stored)]


async def test_a_dump_goes_on_when_files_are_purged_under_it() -> None:
    """What it was to read from the log next it finds in the archive."""
    node, files = archived(count=6)
    await node.archive_all()
    node.purge(1)
    replica = PurgingReplica(by_gtid(), node)
    await node.attach(replica)
    assert replica.finished, replica.refusal
    replica.check()
    assert replica.stored == [event.data for file in files for event in file.events]


class PurgingReplica(Replica):
    """All that may go is purged while it takes its first packets, or later ones."""

    def __init__(self, request: DumpRequest, node: ArchivedNode, *, after: int = 0) -> None:
        super().__init__(request)
        self._node = node
        self._after = after

    async def send(self, buffers: bytes | bytearray | memoryview) -> None:
        await super().send(buffers)
        files = self._node.node.relay.state.files
        self._after -= 1
        if len(files) > 1 and self._after < 0:
            self._node.purge(len(files) - 1)


@pytest.mark.parametrize("after", range(0, 40, 3))
async def test_whenever_files_are_purged_under_a_dump(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """In the archive's part, at the seam or in the log's part: nothing is sent twice, or left out,
    or out of order, and where it cannot go on the replica is told to come back."""
    monkeypatch.setattr(dump, "ROWS", 2)
    monkeypatch.setattr(dump, "GATHER_BYTES", 1)
    monkeypatch.setattr(relay_module, "READ_BYTES", 1)
    monkeypatch.setattr(served_rows, "RECENT_ROWS", 1)
    node, files = archived(count=6)
    node.node.relay._shared = served_rows.SharedBatches(0)
    await node.archive_all()
    node.purge(2)
    replica = PurgingReplica(by_gtid(), node, after=after)
    await node.attach(replica)
    replica.check()
    everything = [event.data for file in files for event in file.events]
    assert replica.stored == everything[: len(replica.stored)]
    if replica.refusal is None:
        assert len(replica.stored) == len(everything)
    else:
        assert replica.refusal.code == 1105
        assert "archive" in replica.refusal.message


async def test_a_dump_of_the_log_that_is_overtaken_is_sent_to_the_archive() -> None:
    """It ends with an error after which a replica comes back."""
    node, _ = archived(count=6)
    await node.archive_all()
    replica = PurgingReplica(by_position("binlog.000002"), node)
    await node.attach(replica)
    assert replica.refusal is not None
    assert replica.refusal.code == 1105
    again = await node.dump(by_position("binlog.000002"))
    assert again.finished


async def test_events_of_several_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 MiB and more, one of exactly that size among them."""
    small_chunks(monkeypatch, 3 << 20)
    first, second = files_of(2, transactions=1)
    first.events.pop()
    first.transaction(2, (2 * PACKET_MAX + 77,))
    first.transaction(3, (PACKET_MAX - 19 - 4 - 1,))
    first.rotate("binlog.000002")
    known = GtidSet()
    known.add(UUID_A, "", 1, 3)
    second = BinlogFile("binlog.000002", UUID_A, known)
    second.transaction(4)
    relay = RelayNode()
    relay.hold(first, second, size=3)
    node = ArchivedNode(relay)
    before, after = await both(node, by_gtid(), 1)
    assert after.finished, after.refusal
    assert after.events == before.events
    large = max(first.events, key=lambda event: len(event.data))
    before = [event.data for event in first.events if event.start >= large.start]
    assert (await node.dump(by_position(first.name, large.start))).stored[1 : len(before) + 1] == (
        before
    )


@pytest.mark.parametrize("size", [3, 1 << 20])
async def test_batches_are_not_those_of_the_log(size: int) -> None:
    """A log may have been cut into more of them, or into fewer."""
    files = files_of(3, transactions=6, size=700_000)
    relay = RelayNode()
    relay.hold(*files, size=size)
    node = ArchivedNode(relay)
    before, after = await both(node, by_gtid("a:1-2"), 2)
    assert after.finished, after.refusal
    assert after.events == before.events


async def test_no_file_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is asked for a chunk at a time, and a waiting replica holds back the reading."""
    small_chunks(monkeypatch, 2000)
    files = files_of(2, transactions=400, size=500)
    relay = RelayNode()
    relay.hold(*files, size=40)
    node = ArchivedNode(relay)
    await node.archive_all()
    node.purge(1)
    node.store.largest_get = 0
    assert (await node.dump(by_gtid())).finished
    assert node.store.largest_get <= 2000


async def test_only_so_many_at_a_time() -> None:
    """One more is told to come back; when one has ended it is served."""
    node, _ = archived(count=3)
    await node.archive_all()
    node.purge(1)
    node.dumper._free = 0
    refusal = (await node.dump(by_gtid())).refusal
    assert refusal is not None
    assert refusal.code == 1105
    node.dumper._free = 1
    for _ in range(3):
        assert (await node.dump(by_gtid())).finished


def test_constants_are_patched_where_they_are_used() -> None:
    """`small_chunks` changes nothing for good."""
    assert catalogue.CHUNK_BYTES == archiver.CHUNK_BYTES == 4 << 20
