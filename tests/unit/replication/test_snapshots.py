"""The relay's half of a snapshot: what readers get while one is installed, and what it gives."""

import pytest
import trio

from kingbus.binlog.relay_state import RelayState
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.pb.record_pb2 import Members
from kingbus.raft.errors import SnapshotTemporarilyUnavailableError
from kingbus.raft.types import ConfState, Snapshot
from kingbus.replication.relay import InstallingError, PurgedWhileReadingError
from kingbus.replication.snapshots import RelaySnapshots
from kingbus.storage.installing import UnreadableSnapshotError, pack_snapshot
from tests.support.relay_logs import UUID_A, BinlogFile, gtids
from tests.support.relay_node import RelayNode, Replica, by_gtid, run_inline


def files(count):
    made = []
    for number in range(1, count + 1):
        before = f"a:1-{number - 1}" if number > 1 else ""
        file = BinlogFile(f"binlog.{number:06d}", UUID_A, gtids(before))
        file.transaction(number)
        made.append(file)
    return made


async def test_a_dump_is_refused_before_its_first_event(autojump_clock):
    """With an error after which a replica comes back; it is served when all is done."""
    node = RelayNode()
    node.hold(*files(2))
    node.relay.begin_install()
    refused = await node.dump(by_gtid())
    assert (refused.refusal.code, bytes(refused.raw)) == (1105, b"")

    node.relay.install(node.relay.state)
    assert (await node.dump(by_gtid())).finished


@pytest.mark.parametrize("held", [0, 2])
async def test_a_dump_that_waits_is_ended(autojump_clock, held):
    """At the end of the log, or for its first file."""
    node = RelayNode()
    node.hold(*files(held))
    async with node.dumping(by_gtid(non_blocking=False)) as replica:
        assert replica.refusal is None
        node.relay.begin_install()
        await trio.testing.wait_all_tasks_blocked()
        assert replica.refusal.code == 1105
        assert not node.relay._readers


async def test_a_dump_to_a_slow_replica_is_ended(autojump_clock):
    """It holds nothing of the old log while its replica takes its time."""
    node = RelayNode()
    node.hold(*files(2))

    async def stuck(_buffers):
        await trio.sleep_forever()

    replica = Replica(by_gtid(non_blocking=False))
    replica.send = stuck
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.attach, node)
        await trio.testing.wait_all_tasks_blocked()
        assert node.relay._readers
        node.relay.begin_install()
    assert replica.refusal.code == 1105


async def test_reading_says_why_it_ended(autojump_clock):
    """Cancellation from elsewhere is not taken for it."""
    node = RelayNode()
    with trio.move_on_after(1) as scope, node.relay.reading():
        await trio.sleep_forever()
    assert scope.cancelled_caught
    node.relay.begin_install()
    with pytest.raises(InstallingError), node.relay.reading():
        await trio.sleep_forever()


def test_only_a_purge_makes_the_beginning_needless():
    """What lies before the first file ever held may still be of use to a member far behind."""
    node = RelayNode()
    snapshots = RelaySnapshots(relay=node.relay, database=Starts({}), runner=run_inline)
    with pytest.raises(SnapshotTemporarilyUnavailableError):
        snapshots.make()
    node.hold(*files(3))
    assert node.relay.state.files[0].first_index > 1
    assert snapshots.first_index == 1

    second = node.relay.state.files[1].first_index
    node.command(Command(purge=Purge(first_index=second)))
    assert snapshots.first_index == second
    with pytest.raises(SnapshotTemporarilyUnavailableError):
        snapshots.make()


class Starts:
    """Nothing but the starts of files."""

    def __init__(self, starts):
        self.starts = starts

    def start(self, channel, ordinal):
        assert channel == 0
        return self.starts.get(ordinal)

    def begin_install(self, snapshot): ...
    def finish_install(self, snapshot, *, state, members): ...
    def sync(self): ...


def snapshot_of(state, *, index=50, members=None):
    return Snapshot(index, 1, ConfState((1,)), pack_snapshot(members or Members(), state), 60)


def test_what_could_not_be_installed_is_found_before():
    """Of another index, of a later version, or no relay state at all."""
    snapshots = RelaySnapshots(relay=RelayNode().relay, database=Starts({}), runner=run_inline)
    record = RelayState().to_record()
    record.index = 50
    snapshots.check(snapshot_of(record.SerializeToString()))
    with pytest.raises(UnreadableSnapshotError, match="51 has the relay state of index 50"):
        snapshots.check(snapshot_of(record.SerializeToString(), index=51))
    with pytest.raises(UnreadableSnapshotError, match="does not decode"):
        snapshots.check(snapshot_of(b"\xff\xff"))
    record.visible_index = 4
    record.first_file = 7
    record.file.ordinal = 9
    with pytest.raises(UnreadableSnapshotError, match="contradicts itself"):
        snapshots.check(snapshot_of(record.SerializeToString()))


async def test_an_installed_state_is_served(autojump_clock):
    """Everything of before is gone from memory, and who waits looks again."""
    node = RelayNode(in_memory=100)
    node.hold(*files(2))
    held = node.relay.state.files[0].first_index
    assert held in await node.relay.read_batches(held, held)
    assert await node.relay.read_rows(0, 10)
    told = []
    snapshots = RelaySnapshots(
        relay=node.relay, database=Starts({}), runner=run_inline, installed=lambda: told.append(1)
    )
    record = RelayState().to_record()
    record.index = 50
    snapshot = snapshot_of(record.SerializeToString())
    waited = trio.Event()

    async def wait(visible):
        await node.relay.wait_beyond(visible)
        waited.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, node.relay.state.visible)
        await trio.testing.wait_all_tasks_blocked()
        await snapshots.begin(snapshot)
        assert node.relay.is_installing
        await snapshots.finish(snapshot)
    assert waited.is_set()
    assert told == [1]
    assert not node.relay.is_installing
    assert node.relay.applied_index == 50
    # As the real stores are by now.
    node.database.rows.clear()
    node.log.first = 51
    assert await node.relay.read_rows(0, 10) == []
    with pytest.raises(PurgedWhileReadingError):
        await node.relay.read_batches(held, held)
