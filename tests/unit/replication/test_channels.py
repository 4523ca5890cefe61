"""Several channels in one log: each is what it would be alone, and a quiet one gives way."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog.command import decode, encode
from kingbus.binlog.relay_state import CHANNELS_MAX, RelayState
from kingbus.pb.command_pb2 import Channel, Command, MemberAttributes, Purge, ServerConfig
from kingbus.pb.record_pb2 import Members
from kingbus.raft.types import ConfState, Snapshot
from kingbus.replication.relay import Relay
from kingbus.replication.snapshots import RelaySnapshots
from kingbus.storage.installing import pack_snapshot
from kingbus.storage.state_store import StateStore
from tests.support.channel_node import ChannelNode, add_channel, cut
from tests.support.relay_feed import Feed, begun, perform, step
from tests.support.relay_logs import binlog, packets_of
from tests.support.relay_node import (
    Applied,
    MemoryDatabase,
    RelayNode,
    Replica,
    by_gtid,
    by_position,
    run_inline,
)


def alone(node: RelayNode, channel: int) -> RelayState:
    """The state to which the channel comes by its own commands, at their indexes."""
    state = RelayState(channel=channel)
    for entry in node.log.entries:
        command, packets = decode(entry.data)
        kind = command.WhichOneof("kind") or ""
        mine = getattr(getattr(command, kind), "channel", 0) == channel
        if mine and (kind != "channel" or not channel):
            state.apply(entry.index, command, packet_bytes=len(packets))
        else:
            state.skip(entry.index)
    return state


def same(one: RelayState, other: RelayState) -> bool:
    last = max(one.index, other.index)
    for state in (one, other):
        state.skip(last)
    return one.digest() == other.digest()


Actions = Sequence[tuple[int, tuple[str, object]]]

PURGES = [("cut", None), ("mark", None), ("cut at mark", None), ("purge", None)]

actions_of_three = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.one_of(step, step, step, st.sampled_from(PURGES)),
    ),
    max_size=60,
)
"""What happens in which of three channels."""


def mixed(actions: Actions, node: RelayNode) -> list[RelayNode]:
    """Three channels to which all that has happened; the default one is first."""
    nodes = [node, add_channel(node, "one"), add_channel(node, "two")]
    feeds: list[Feed] = [begun(each) for each in nodes]
    for channel, action in actions:
        held = nodes[channel]
        match action[0]:
            case "cut":
                cut(held)
            case "mark":
                cut(held, mark=True)
            case "cut at mark":
                cut(held, first_index=held.relay.state.mark_index + 1)
            case "purge":
                last = held.relay.state.files[-1].first_index
                held.command(Command(purge=Purge(channel=channel, first_index=last)))
            case _:
                perform(feeds[channel], action)
    return nodes


@given(actions_of_three)
def test_mixed_channels_come_to_what_each_comes_to_alone(actions: Actions) -> None:
    """Also those that carry the same file names and the same transactions, and over a restart."""
    node = RelayNode()
    nodes = mixed(actions, node)
    for channel, each in enumerate(nodes):
        assert same(each.relay.state, alone(node, channel))
    again = node.load()
    assert again.applied_index == len(node.log.entries)
    assert same(again.state, node.relay.state)
    for number, relay in node.relay.channels.items():
        assert same(again.channels[number].state, relay.state)


def test_an_idle_channel_is_not_written_again_and_not_read_again() -> None:
    """Its checkpoint is old, and the log behind it may be gone but for the others' entries."""
    node = RelayNode()
    idle = add_channel(node, "idle")
    idle.hold(binlog(1, range(1, 3)))
    node.hold(binlog(1, range(1, 3)))  # a file begins: a checkpoint
    assert isinstance(node.database, MemoryDatabase)
    written = node.database.others[1].record
    node.hold(binlog(2, range(3, 5)))
    assert node.database.others[1].record is written
    assert written is not None
    node.log.first = node.relay.applied_index
    again = node.load()
    assert same(again.channels[1].state, idle.relay.state)


def test_commands_of_a_channel_that_is_not_there_change_nothing() -> None:
    """As every member does it, whatever it was told of before."""
    node = RelayNode()
    before = node.relay.state.digest()
    node.command(Command(purge=Purge(channel=4, first_index=9)))
    node.command(Command(server_config=ServerConfig(channel=4, member_id=1)))
    assert node.relay.channels == {}
    assert node.relay.state.servers == {}
    alone_state = RelayState()
    alone_state.skip(2)
    assert node.relay.state.digest() == alone_state.digest() != before


def test_what_is_the_cluster_s_is_in_no_channel() -> None:
    """A channel's state ignores it, wherever it came from; its listeners are its own."""
    node = RelayNode()
    named = add_channel(node, "one")
    node.command(Command(member_attributes=MemberAttributes(member_id=7)))
    node.command(Command(server_config=ServerConfig(member_id=7, address="a:1")))
    named.command(Command(server_config=ServerConfig(member_id=7, address="a:2")))
    assert named.relay.state.members == {}
    assert node.relay.state.servers[7].address == "a:1"
    assert named.relay.state.servers[7].address == "a:2"


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "one"), (2, "one"), (3, "two"), (2, "Two"), (2, ""), (2, "a" * 33), (2, "-a"), (0, "two")],
)
def test_a_channel_that_cannot_be_added_is_ignored(number: int, name: str) -> None:
    """A name or number that is taken or impossible; there is one channel as before."""
    node = RelayNode()
    add_channel(node, "one")
    node.command(Command(channel=Channel(number=number, name=name)))
    assert node.relay.state.channels == {"one": 1}


def test_there_are_at_most_so_many_channels() -> None:
    """The next one is ignored."""
    node = RelayNode()
    for number in range(CHANNELS_MAX):
        add_channel(node, f"c{number}")
    node.command(Command(channel=Channel(number=CHANNELS_MAX + 1, name="more")))
    assert len(node.relay.state.channels) == len(node.relay.channels) == CHANNELS_MAX


def test_an_older_program_refuses_commands_and_states_of_channels() -> None:
    """Both say version 3, and only these: what was written without channels is as it was."""
    node = RelayNode()
    node.hold(binlog(1, range(1, 3)))
    assert node.relay.state.to_record().version == 1
    assert all(decode(entry.data)[0].version == 1 for entry in node.log.entries)
    before = len(node.log.entries)
    add_channel(node, "one").hold(binlog(1, range(1, 3)))
    cut(node)  # the default channel, which only gives way to others
    assert all(decode(entry.data)[0].version == 3 for entry in node.log.entries[before:])
    assert node.relay.state.to_record().version == 3
    assert node.relay.channels[1].state.to_record().version == 3


# -- the cut --------------------------------------------------------------------------------------


def quiet_and_busy() -> tuple[RelayNode, ChannelNode]:
    """A channel that says nothing any more, and the default one, which goes on."""
    node = RelayNode()
    quiet = add_channel(node, "quiet")
    quiet.hold(binlog(1, range(1, 3)))
    file = binlog(2, range(3, 6))
    quiet.hold(file)
    node.hold(binlog(1, range(1, 3)), binlog(2, range(3, 5)))
    return node, quiet


def description(node: RelayNode) -> bytes:
    file = binlog(2, range(3, 6))
    return file.events[0].data


def test_a_cut_takes_what_is_held_and_leaves_where_the_channel_stands() -> None:
    """Executed set, session and resume point are as before; the purged set is the executed one."""
    node, quiet = quiet_and_busy()
    state = quiet.relay.state
    before = state.resume_point()
    cut(quiet, description=description(quiet))
    after = state.resume_point()
    assert (after.by_position, after.file_name, after.position, after.session) == (
        before.by_position,
        before.file_name,
        before.position,
        before.session,
    )
    assert after.executed == before.executed == state.purged
    assert [row.name for row in state.files] == ["binlog.000002"]
    assert isinstance(node.database, MemoryDatabase)
    assert node.database.others[1].rows == {}
    assert list(node.database.others[1].files) == [2]


def test_a_cut_that_would_take_more_than_it_says_is_ignored() -> None:
    """Something has come since it was proposed, or a transaction is open."""
    _, quiet = quiet_and_busy()
    state = quiet.relay.state
    cut(quiet, first_index=state.visible.index)
    assert state.files[0].ordinal == 1
    file = binlog(3, range(6, 9))
    packets = packets_of(file.events)
    quiet.batch(file, packets[:4])  # ends inside a transaction
    assert state.in_transaction
    cut(quiet)
    assert state.files[0].ordinal == 1
    quiet.batch(file, packets[4:])
    cut(quiet)
    assert state.files[0].ordinal == 3
    position = state.files[0].cut_position
    cut(quiet, mark=True)
    assert state.mark_index == 0, "nothing is held"
    cut(quiet)
    assert state.files[0].first_index == state.index + 1, "the log may begin later now"
    assert state.files[0].cut_position == position


async def test_a_cut_at_a_mark_leaves_what_came_behind_it() -> None:
    """Who has what came before goes on, with the rest of the file; others get 1236."""
    node, quiet = quiet_and_busy()
    end = quiet.relay.state.visible.position
    cut(quiet, mark=True, description=description(quiet))
    marked = quiet.relay.state.mark_index
    assert marked == len(node.log.entries)
    assert quiet.relay.state.files[0].ordinal == 1, "nothing is dropped by a mark"
    more = binlog(2, range(3, 9))
    events = more.events[len(binlog(2, range(3, 6)).events) :]
    packets = packets_of(events)
    quiet.batch(more, packets[:2])
    quiet.batch(more, packets[2:])
    cut(quiet, first_index=marked + 1)
    state = quiet.relay.state
    assert (state.files[0].cut_position, state.mark_index) == (end, 0)
    assert len(await quiet.relay.read_rows(0, 9)) == 2
    behind = await quiet.dump(by_gtid("a:1-6"))
    assert behind.refusal is None
    missing = await quiet.dump(by_gtid("a:1-4"))
    assert missing.refusal is not None
    for request in (by_gtid("a:1-5"), by_position("binlog.000002", end)):
        fit = await quiet.dump(request)
        assert fit.stored[1:] == [event.data for event in events]


def test_a_mark_is_forgotten_with_its_file() -> None:
    """And kept over a restart until then."""
    node, quiet = quiet_and_busy()
    cut(quiet, mark=True)
    marked = quiet.relay.state.mark_index
    node.restart()
    again = ChannelNode(node, 1)
    assert again.relay.state.mark_index == marked > 0
    again.session()
    again.hold(binlog(3, range(6, 8)))
    assert again.relay.state.mark_index == 0
    cut(again, first_index=marked + 1)
    assert [row.ordinal for row in again.relay.state.files] == [1, 2, 3]


@pytest.mark.parametrize("cuts", [1, 2])
async def test_who_has_all_goes_on_over_a_cut_and_others_get_1236(cuts: int) -> None:
    """By set and by position, attached or coming; the missing set is named. Over another one, too,
    before which nothing came."""
    _, quiet = quiet_and_busy()
    end = quiet.relay.state.visible.position
    name = "binlog.000002"
    async with quiet.dumping(by_gtid("", non_blocking=False)) as attached:
        described = description(quiet)
        for _ in range(cuts):
            cut(quiet, description=described)
            await trio.testing.wait_all_tasks_blocked()
        more = binlog(2, range(3, 9))
        events = more.events[len(binlog(2, range(3, 6)).events) :]
        quiet.batch(more, packets_of(events))
        await trio.testing.wait_all_tasks_blocked()
    assert attached.refusal is None
    whole = [event.data for file in (binlog(1, range(1, 3)), more) for event in file.events]
    assert attached.stored == whole

    late = await quiet.dump(by_gtid("a:1-4"))
    assert late.refusal is not None
    assert (late.refusal.code, "a" * 8 in late.refusal.message) == (1236, True)
    for position in (4, end - 1):
        refused = await quiet.dump(by_position(name, position))
        assert refused.refusal is not None and refused.refusal.code == 1236

    begun_with, *rest = [event.data for event in events]
    for request in (by_gtid("a:1-5"), by_position(name, end)):
        fit = await quiet.dump(request)
        assert fit.refusal is None
        first, *stored = fit.stored
        assert first[4] == described[4]
        assert stored == [begun_with, *rest]


async def test_a_dump_right_behind_a_cut_waits_for_what_comes() -> None:
    """Nothing is held of the file then, and nothing is missing either."""
    _, quiet = quiet_and_busy()
    end = quiet.relay.state.visible.position
    described = description(quiet)
    for _ in range(2):
        cut(quiet, description=described)
    for request in (by_gtid("a:1-5"), by_position("binlog.000002", end)):
        empty = await quiet.dump(request)
        assert empty.refusal is None
        assert len(empty.stored) == 1


async def test_a_dump_that_was_behind_when_it_was_cut_ends_with_1236() -> None:
    """It is told no position that it does not have; also where nothing follows."""
    _, quiet = quiet_and_busy()

    class Slow(Replica):
        async def send(self, buffers: bytes | bytearray | memoryview) -> None:
            await super().send(buffers)
            if not done:
                done.append(True)
                cut(quiet, description=description(quiet))

    done: list[bool] = []
    slow = Slow(by_gtid("", non_blocking=False))
    with trio.fail_after(10):
        await slow.attach(quiet)
    assert slow.refusal is not None
    assert slow.refusal.code == 1236


# -- snapshots ------------------------------------------------------------------------------------


class Inert:
    """A snapshot on its way from one node to another."""

    def __init__(self, path: Path) -> None:
        self.node = RelayNode(database=StateStore.open(path))

    @property
    def snapshots(self) -> RelaySnapshots:
        assert isinstance(self.node.database, StateStore)
        return RelaySnapshots(relay=self.node.relay, database=self.node.database, runner=run_inline)


async def transferred(old: Inert, new: Inert) -> int:
    """The second begins from the snapshot of the first, and has its log; the snapshot's index."""
    index, state = old.snapshots.make()
    snapshot = Snapshot(
        index=index,
        term=1,
        conf_state=ConfState(voters=(1,)),
        data=pack_snapshot(Members(cluster_id=1, index=index), state),
        conf_index=index,
    )
    new.snapshots.check(snapshot)
    await new.snapshots.begin(snapshot)
    new.node.log.entries = old.node.log.entries
    new.node.log.first = index + 1
    await new.snapshots.finish(snapshot)
    assert new.node.relay.applied_index == index
    return index


@settings(max_examples=40, deadline=None)
@given(actions=actions_of_three, restarts=st.booleans())
async def test_whatever_has_happened_a_snapshot_leads_to_the_same_state(
    actions: Actions, restarts: bool
) -> None:
    """Of all channels, in memory and in the database, over restarts."""
    with TemporaryDirectory() as directory:
        old, new = Inert(Path(directory) / "old"), Inert(Path(directory) / "new")
        mixed(actions, old.node)
        index = await transferred(old, new)
        for entry in old.node.log.entries[index:]:
            new.node.relay.apply(Applied(entries=[entry]))
            if restarts and entry.index % 7 == 0:
                new.node.restart()
        last = old.node.relay.applied_index
        assert await new.node.relay.digest_at(last) == await old.node.relay.digest_at(last)
        again = new.node.load()
        assert await again.digest_at(last) == await old.node.relay.digest_at(last)
        for number, relay in [(0, old.node.relay), *old.node.relay.channels.items()]:
            other = new.node.relay.channels[number] if number else new.node.relay
            assert await other.read_rows(0, 1000) == await relay.read_rows(0, 1000)
            database = new.node.database
            assert [row.ordinal for row in database.file_rows(number)] == [
                row.ordinal for row in relay.state.files
            ]
        for each in (old, new):
            assert isinstance(each.node.database, StateStore)
            each.node.database.close()


@pytest.mark.parametrize("how", ["purged", "cut", "empty"])
async def test_a_member_that_begins_from_a_snapshot_comes_to_the_same_state(
    tmp_path: Path, how: str
) -> None:
    """With a channel that was purged, one that was cut, one without files; over a restart, too."""
    old, new = Inert(tmp_path / "old"), Inert(tmp_path / "new")
    node = old.node
    one = add_channel(node, "one")
    two = add_channel(node, "two")
    one.hold(binlog(1, range(1, 3)))
    if how != "empty":
        node.hold(binlog(1, range(1, 3)))
    three = add_channel(node, "three")
    three.session()
    one.hold(binlog(2, range(3, 6)))
    if how == "cut":
        two.hold(binlog(1, range(1, 4)))
        cut(two, description=b"described")
        cut(two, description=b"described")
    first = one.relay.state.files[1].first_index
    one.command(Command(purge=Purge(first_index=first)))
    if how != "empty":
        node.hold(binlog(2, range(3, 5)))
        second = node.relay.state.files[1].first_index
        node.command(Command(purge=Purge(first_index=second)))
    first_index = old.snapshots.first_index
    index = await transferred(old, new)
    assert index + 1 == first_index
    one.hold(binlog(3, range(6, 8)))
    two_more = binlog(1, range(1, 6))
    if how == "cut":
        events = two_more.events[len(binlog(1, range(1, 4)).events) :]
        two.batch(two_more, packets_of(events))
    three.hold(binlog(1, range(1, 3)))
    rest = node.log.entries[index:]
    middle = len(rest) // 2
    new.node.relay.apply(Applied(entries=rest[:middle]))
    new.node.restart()
    assert new.node.relay.applied_index == index + middle
    new.node.relay.apply(Applied(entries=rest[middle:]))
    last = node.relay.applied_index
    assert await new.node.relay.digest_at(last) == await node.relay.digest_at(last)
    assert new.node.relay.state.channels == {"one": 1, "two": 2, "three": 3}
    again: Relay = new.node.load()
    assert await again.digest_at(last) == await node.relay.digest_at(last)
    rows = new.node.relay.channels[1]
    assert [each.index for each in await rows.read_rows(0, 100)] == [
        each.index for each in await one.relay.read_rows(0, 100)
    ]


def test_an_encoded_command_says_its_channel_s_version() -> None:
    """Whoever makes it need not think of it."""
    data = encode(Command(channel=Channel(number=1, name="one")))
    assert decode(data)[0].version == 3
