"""What gives way when the reserve needs the room and several channels share the log."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
import trio

from kingbus.binlog.command import decode
from kingbus.binlog.relay_state import RelayState, VisibleEnd
from kingbus.binlog.retention import Policy
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.purger import IDLE_LOOK_SECONDS, LOOK_SECONDS, Purger
from tests.support.channel_node import ChannelNode, add_channel
from tests.support.relay_logs import BinlogFile, binlog, packets_of
from tests.unit.replication.test_purger import UNLIMITED, Rig, look, running


@dataclass
class HeldChannel:
    """A channel of the rig's node as the purger knows it."""

    node: ChannelNode
    name: str
    readers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.node.channel

    @property
    def state(self) -> RelayState:
        return self.node.relay.state

    def attached(self) -> Iterable[tuple[str, str]]:
        return self.readers

    def end_overtaken(self) -> None:
        pass

    async def wait_beyond(self, visible: VisibleEnd, /) -> None:
        await self.node.relay.wait_beyond(visible)

    async def description(self, _file: FileRow, /) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"described"


class SharedLog(Rig):
    """A named channel with one short open file, then sixteen entries and more of the default one.

    `goes_on`: the named one has its last transaction at the end of the log.
    """

    def __init__(self, *, goes_on: bool, size: int = 10, policy: Policy = UNLIMITED) -> None:
        super().__init__(policy=policy)
        held = self.node.held
        self.named = add_channel(held, "quiet")
        self.file: BinlogFile = binlog(1, range(1, 5), size=size)
        packets = packets_of(self.file.events)
        last = next(at for at, each in enumerate(packets) if each.event.gtid and at > 8)
        self.named.session()
        self.named.batch(self.file, packets[:last])
        more = [binlog(number, range(4 * number - 3, 4 * number + 1)) for number in range(5, 9)]
        held.hold(*more, size=1)
        if goes_on:
            self.named.batch(self.file, packets[last:])
        self.channel = HeldChannel(self.named, "quiet")
        self.all = self.files
        self.purger = Purger(
            node=self.node,
            relay=self.node.relay,
            disk=self.disk,
            calls=self.members,
            others=tuple,
            attached=lambda: self.attached,
            end_overtaken=self.overtaken.append,
            policy=policy,
            clock=lambda: self.now,
            channels=lambda: [self.channel],
        )

    @property
    def row(self) -> FileRow:
        """The named channel's open file."""
        return self.named.relay.state.files[0]

    def first_needed(self) -> int:
        """The first log index that any channel still needs."""
        return min(self.row.first_index, self.node.state.files[0].first_index)


async def test_a_quiet_channel_does_not_hold_the_log(autojump_clock) -> None:
    """Its file is cut, and what it has executed and where it goes on is as before."""
    rig = SharedLog(goes_on=False)
    executed = rig.named.relay.state.executed.copy()
    rig.reserve_for(30)
    wanted = rig.disk.usage().first_needed()
    assert rig.row.first_index < wanted
    async with running(rig):
        await rig.until(lambda: rig.first_needed() >= wanted)
        before = len(rig.node.held.log.entries)
        rig.disk.reserve = 1 << 30
        await look()
        assert len(rig.node.held.log.entries) == before, "the same again changes nothing"
    state = rig.named.relay.state
    assert rig.row.cut_position == state.visible.position == rig.row.end_position
    assert state.purged == state.executed == executed
    assert state.resume_point().by_position


async def test_a_channel_that_goes_on_slowly_does_not_hold_it_either(autojump_clock) -> None:
    """It holds little of what may stay; a batch that comes later is held."""
    rig = SharedLog(goes_on=True)
    rig.reserve_for(60)
    while rig.disk.usage().first_needed() <= rig.row.first_index:
        rig.node.held.session()
    async with running(rig):
        await rig.until(lambda: rig.row.cut_position > 0)
    file = binlog(1, range(1, 7))
    packets = [each for each in packets_of(file.events) if each.event.start >= rig.file.end]
    index = rig.named.batch(file, packets)
    assert [row.index for row in await rig.named.relay.read_rows(0, 9)] == [index]


@pytest.mark.parametrize("named", [True, False])
async def test_the_one_that_fills_the_reserve_is_not_cut(autojump_clock, named: bool) -> None:
    """Neither the named one nor the default one: the receiver stops for it, as it always did."""
    rig = SharedLog(goes_on=True, size=5000 if named else 10)
    rig.reserve_for(3 if not named else 12)
    async with running(rig):
        await look()
        if named:
            assert rig.row.cut_position == 0
            assert rig.named.relay.state.purged != rig.named.relay.state.executed
        else:
            assert rig.node.state.files[-1].cut_position == 0
        assert rig.purger.has_purged_all


async def test_files_of_a_channel_go_by_its_own_replicas(autojump_clock) -> None:
    """Age purges a channel's files once its own replicas have read them, whoever reads others."""
    rig = SharedLog(goes_on=True, policy=Policy(keep_seconds=10))
    rig.named.hold(binlog(2, range(5, 7)))
    rig.attached = [("x", rig.files[0])]
    rig.channel.readers = [("y", "binlog.000001")]
    rig.now = 4e9
    async with running(rig):
        await look()
        assert rig.row.ordinal == 1
        assert rig.files == rig.all, "x still reads"
        rig.channel.readers = [("y", "binlog.000002")]
        await rig.until(lambda: rig.row.ordinal == 2)
        assert rig.files == rig.all


async def test_files_of_a_channel_are_purged_by_hand(autojump_clock) -> None:
    """By their names in that channel."""
    rig = SharedLog(goes_on=True)
    rig.named.hold(binlog(2, range(5, 7)))
    async with running(rig):
        await rig.purger.purge_to("binlog.000002", channel=1)
        assert rig.row.ordinal == 2
        assert rig.files == rig.all


async def test_a_slow_channel_keeps_what_it_got_lately(autojump_clock) -> None:
    """It is marked now and then, and cut at the last mark: its newest batches stay."""
    rig = SharedLog(goes_on=False)
    rig.reserve_for(len(rig.node.held.log.entries) + 40)
    state = rig.named.relay.state
    async with running(rig):
        for turn in range(3, 40):
            more = binlog(1, range(1, turn + 2))
            at = state.visible.position
            packets = [each for each in packets_of(more.events) if each.event.start >= at]
            rig.named.batch(more, packets)
            number = 100 + turn
            rig.node.held.session()
            rig.node.held.hold(binlog(number, range(4 * number - 3, 4 * number + 1)), size=6)
            await look(3.0)
            if rig.row.cut_position:
                break
        assert 4 < rig.row.cut_position < rig.row.end_position
        kept = [row.index for row in await rig.named.relay.read_rows(0, 100)]
        assert kept
        assert kept[-1] == state.visible.index
        assert rig.row.first_index >= rig.disk.usage().first_needed()
        assert state.purged != state.executed


async def test_a_channel_that_stays_quiet_gives_way_again(autojump_clock) -> None:
    """Nothing of it is held since it was cut, and yet the log cannot begin behind it: as the log
    goes on it is cut anew, at the same position, each time that the reserve needs the room."""
    rig = SharedLog(goes_on=False)
    rig.reserve_for(30)
    state = rig.named.relay.state
    executed, position = state.executed.copy(), rig.row.end_position
    async with running(rig):
        for number in range(9, 39):
            rig.node.held.session()
            rig.node.held.hold(binlog(number, range(4 * number - 3, 4 * number + 1)), size=6)
            wanted = rig.disk.usage().first_needed()
            await rig.until(lambda wanted=wanted: rig.first_needed() >= wanted)
    commands = [decode(each.data)[0] for each in rig.node.held.log.entries]
    cuts = [each for each in commands if each.purge.channel and each.purge.description]
    assert 1 < len(cuts) < 20, "once for about as much as may stay"
    assert rig.row.cut_position == rig.row.end_position == position
    assert state.purged == state.executed == executed
    assert state.session
    rig.named.restart()
    assert rig.named.relay.state.digest() == state.digest()


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_transaction_that_does_not_end_does_not_hold_the_log(
    autojump_clock, goes_on: bool
) -> None:
    """Its source died in the middle, or all receivers wait for room, this channel's among them: it
    is dropped, and gets from its start to whoever pulls next."""
    rig = SharedLog(goes_on=False)
    state = rig.named.relay.state
    packets = packets_of(binlog(1, range(1, 7)).events)
    packets = [each for each in packets if each.event.start >= rig.row.end_position]
    gtids = [at for at, each in enumerate(packets) if each.event.gtid]
    begun, rest = packets[: gtids[1] + 1], packets[gtids[1] + 1 :]
    if not goes_on:
        rig.named.batch(rig.file, begun)
    rig.node.held.session()
    rig.node.held.hold(binlog(9, range(33, 37)), size=1)
    if goes_on:
        rig.named.batch(rig.file, begun)
    assert state.in_transaction
    executed = state.executed.copy()
    rig.reserve_for(60 if goes_on else 10)
    wanted = rig.disk.usage().first_needed()
    assert (state.files[-1].last_index >= wanted) is goes_on
    async with running(rig):
        await rig.until(lambda: rig.row.first_index >= wanted)
    assert not state.in_transaction
    assert state.executed == executed
    assert rest
    rig.named.session()
    index = rig.named.batch(rig.file, packets[gtids[1] :])
    assert [row.index for row in await rig.named.relay.read_rows(0, 9)] == [index]


async def test_files_behind_one_that_fills_the_reserve_make_no_room(autojump_clock) -> None:
    """Where the log begins with an open file that is not to be cut, the reserve is exceeded, if it
    may be at all, whatever files others hold behind it; not where a cut makes room."""
    rig = SharedLog(goes_on=True, size=5000)
    rig.reserve_for(73)
    assert rig.row.first_index < rig.disk.usage().first_needed() <= rig.index_of(5)
    async with running(rig):
        await rig.until(lambda: rig.files == rig.all[4:])
        assert rig.purger.has_purged_all
        assert rig.row.cut_position == 0
    slow = SharedLog(goes_on=True)
    slow.reserve_for(73)
    slow.node.held.command(Command(purge=Purge(first_index=slow.index_of(5))))
    assert slow.first_needed() == slow.row.first_index
    assert not slow.purger.has_purged_all


async def test_a_log_that_grows_by_a_named_channel_is_looked_at_as_often(autojump_clock) -> None:
    """As by the default one, of which nothing has come for long."""
    rig = SharedLog(goes_on=True)
    async with running(rig):
        for number in range(2, 6):
            await look(2 * IDLE_LOOK_SECONDS + 0.3)
            measured = rig.disk.measured
            rig.named.hold(binlog(number, range(4 * number - 3, 4 * number + 1)), size=1)
            await look(LOOK_SECONDS + 0.1)
            assert rig.disk.measured > measured


async def test_replicas_of_one_channel_are_none_of_another(autojump_clock) -> None:
    """So that what replicates from one channel may be a source of another."""
    rig = SharedLog(goes_on=True)
    rig.attached = [("x", rig.files[0])]
    rig.channel.readers = [("y", "binlog.000001")]
    assert rig.purger.replicas_seen() == {"x"}
    assert rig.purger.replicas_seen(1) == {"y"}
