"""Binlog dumps as conversations: what a replica is sent, packet by packet."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from kingbus.binlog.command import encode
from kingbus.binlog.semi_sync import SemiSyncStream
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import Command, Purge, SourceConfig
from kingbus.replication import dump
from kingbus.replication.dump import DumpProgress, DumpRefusedError, DumpRequest, run_dump
from kingbus.replication.relay import Relay
from tests.support.relay_logs import (
    FORMAT_DESCRIPTION,
    UUID_A,
    UUID_B,
    BinlogFile,
    batch_command,
    gtids,
    packets_of,
)
from tests.support.relay_node import RelayNode, Replica, by_gtid, by_position


def binlog(number: int, numbers: range, previous: str = "", **more: object) -> BinlogFile:
    """binlog.00000N with these transactions of source a, each of four events."""
    file = BinlogFile(f"binlog.{number:06}", UUID_A, gtids(previous), **more)
    for transaction in numbers:
        file.transaction(transaction)
    return file


def two_files() -> tuple[RelayNode, BinlogFile, BinlogFile]:
    """Transactions 1-3 in the first file, which rotates, 4-5 in the second."""
    node = RelayNode()
    first, second = binlog(1, range(1, 4)), binlog(2, range(4, 6), "a:1-3")
    first.rotate(second.name)
    node.hold(first, second, size=5)
    return node, first, second


async def test_from_the_start_everything_is_sent_as_the_source_sends_it() -> None:
    """ROTATE, FORMAT_DESCRIPTION and the rest of each file, byte for byte."""
    node, first, second = two_files()

    replica = await node.dump(by_position())

    assert replica.finished
    file = [str(event.type) for event in first.events]
    assert replica.kinds == [
        "rotate* binlog.000001:4",
        *file,
        "rotate* binlog.000002:4",
        *[str(event.type) for event in second.events],
    ]
    assert b"".join(replica.stored) == first.bytes() + second.bytes()
    assert replica.progress.file == second.name
    assert replica.progress.position == second.end
    assert replica.progress.last_gtid.endswith(":5")


async def test_the_first_rotate_names_the_requested_position() -> None:
    """Behind position 4 the FORMAT_DESCRIPTION is a copy with created and log_pos 0."""
    node, first, _ = two_files()
    start = first.events[6].start

    replica = await node.dump(by_position(first.name, start))

    assert replica.kinds[:2] == [f"rotate* {first.name}:{start}", str(FORMAT_DESCRIPTION)]
    description = replica.events[1]
    assert description[13:17] == bytes(4)
    assert description[19 + 52 : 19 + 56] == bytes(4)
    assert replica.events[2] == first.events[6].data
    assert len(description) == len(first.events[0].data)


async def test_a_gtid_dump_by_position_keeps_log_pos_in_the_description() -> None:
    """As a source of today does it."""
    node, first, _ = two_files()
    start = first.events[6].start

    replica = await node.dump(by_gtid("a:1", file_name=first.name, position=start))

    assert replica.events[1][13:17] == first.events[0].data[13:17]
    assert replica.events[2] == first.events[6].data


@pytest.mark.parametrize("at", range(2, 14))
async def test_every_event_is_a_place_to_start(at: int) -> None:
    """Wherever the batches were cut."""
    node, first, second = two_files()

    replica = await node.dump(by_position(first.name, first.events[at].start))

    rest = b"".join(event.data for event in first.events[at:])
    assert b"".join(replica.stored[1:]) == rest + second.bytes()


async def test_the_end_of_a_closed_file_is_a_place_to_start() -> None:
    """ROTATE with that position, FORMAT_DESCRIPTION, then the next file."""
    node, first, second = two_files()

    replica = await node.dump(by_position(first.name, first.end))

    assert replica.kinds[:3] == [
        f"rotate* {first.name}:{first.end}",
        str(FORMAT_DESCRIPTION),
        f"rotate* {second.name}:4",
    ]
    assert b"".join(replica.stored[1:]) == second.bytes()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (by_position("binlog.000009"), "Could not find first log file name in binary log index"),
        (by_position("binlog.000001", 3), "from position < 4"),
        (by_position("binlog.000001", 1 << 40), "from position > file size"),
        (by_position("", 1 << 40), "from position > file size"),
        (by_gtid("a:1-9"), "Replica has more GTIDs than the source has"),
        (by_gtid("a:1-9"), f"The source lacks '{gtids('a:6-9')}'"),
        (by_gtid("a:1-2", position=2), "from position < 4"),
        (by_gtid("", file_name="nope"), "Could not find first log file name"),
    ],
)
async def test_what_cannot_be_served_is_refused_before_the_first_event(
    request_: DumpRequest, text: str
) -> None:
    """Error 1236 with MySQL's words, numbered 1."""
    node, _, _ = two_files()

    replica = await node.dump(request_)

    assert replica.refusal is not None
    assert (replica.refusal.code, replica.refusal.sqlstate) == (1236, "HY000")
    assert text in replica.refusal.message
    assert not replica.raw
    assert replica.progress.next_sequence == 1


async def test_a_position_inside_an_event_is_refused_behind_the_description() -> None:
    """As a source does, which finds out when it reads there."""
    node, first, _ = two_files()

    replica = await node.dump(by_position(first.name, first.events[4].start + 1))

    assert len(replica.events) == 2
    assert replica.refusal is not None and replica.refusal.code == 1236
    assert "in the middle of event" in replica.refusal.message
    assert replica.progress.next_sequence == 3


async def test_a_replica_that_lacks_purged_transactions_is_told_which() -> None:
    """Text A names the replica's set and the missing one."""
    node, _, _ = two_files()
    node.command(Command(purge=Purge(first_index=len(node.log.entries) - 1)))
    assert node.relay.state.purged == gtids("a:1-3")

    replica = await node.dump(by_gtid("a:1-2"))

    assert replica.refusal is not None and replica.refusal.code == 1236
    assert f"missing transactions are '{gtids('a:3')}'" in replica.refusal.message
    assert f"sent by the replica is '{gtids('a:1-2')}'" in replica.refusal.message
    assert (await node.dump(by_gtid("a:1-3"))).finished


async def test_with_a_file_name_the_set_is_not_checked() -> None:
    """The set only skips; what is purged or ahead is the client's own business."""
    node, _, second = two_files()

    replica = await node.dump(by_gtid("a:5-9", file_name=second.name))

    assert replica.finished
    assert b"".join(replica.stored) == b"".join(event.data for event in second.events[:6])


async def test_a_gtid_dump_starts_in_the_newest_file_that_can_hold_what_is_missing() -> None:
    """The file before is not even named."""
    node, first, second = two_files()

    assert (await node.dump(by_gtid("a:1-2"))).kinds[0] == f"rotate* {first.name}:4"
    replica = await node.dump(by_gtid("a:1-3"))
    assert replica.kinds[0] == f"rotate* {second.name}:4"
    assert b"".join(replica.stored) == second.bytes()


async def test_a_skipped_stretch_is_told_by_one_heartbeat() -> None:
    """Before the next event, with the end position of the stretch, without any period asked."""
    node, first, second = two_files()

    replica = await node.dump(by_gtid("a:1,a:3,a:4"))

    ends = {number: first.events[1 + 4 * number].end for number in (1, 2, 3)}
    assert replica.kinds == [
        f"rotate* {first.name}:4",
        "15",
        "35",
        f"beat1 {first.name}:{ends[1]}",
        *["33", "2", "30", "16"],
        f"beat1 {first.name}:{ends[3]}",
        "4",
        f"rotate* {second.name}:4",
        "15",
        "35",
        f"beat1 {second.name}:{second.events[5].end}",
        *["33", "2", "30", "16"],
    ]


async def test_batches_skipped_whole_are_told_by_one_heartbeat() -> None:
    """Also when none of them was read."""
    node = RelayNode()
    file = binlog(1, range(1, 20))
    node.hold(file, size=4)

    replica = await node.dump(by_gtid("a:2-10"))

    assert replica.kinds == [
        f"rotate* {file.name}:4",
        *[str(event.type) for event in file.events[:6]],
        f"beat1 {file.name}:{file.events[42].start}",
        *[str(event.type) for event in file.events[42:]],
    ]


async def test_a_stretch_at_the_end_of_the_log_is_told_too() -> None:
    """A replica that has everything is told where the source is."""
    node, _, second = two_files()

    replica = await node.dump(by_gtid("a:1-5"))

    assert replica.kinds == [
        f"rotate* {second.name}:4",
        "15",
        "35",
        f"beat1 {second.name}:{second.end}",
    ]


async def test_what_follows_a_known_transaction_is_skipped_with_it() -> None:
    """A Stop event too, as a source does; the heartbeat comes before the next file's ROTATE."""
    node = RelayNode()
    first, second = binlog(1, range(1, 3)), binlog(2, range(3, 4), "a:1-2")
    first.stop()
    node.hold(first, second, size=3)

    replica = await node.dump(by_gtid("a:1-2", file_name=first.name))

    assert replica.kinds == [
        f"rotate* {first.name}:4",
        "15",
        "35",
        f"beat1 {first.name}:{first.end}",
        f"rotate* {second.name}:4",
        *[str(event.type) for event in second.events],
    ]


async def test_whole_batches_are_skipped_without_being_read() -> None:
    """The row's set decides; only the file's first and last batch are looked at."""
    node = RelayNode()
    node.hold(binlog(1, range(1, 101)), size=4)
    node.restart()
    node.relay._shared._batches.clear()
    node.log.reads = 0

    replica = await node.dump(by_gtid("a:1-100"))

    assert replica.finished
    assert node.log.reads == 2


async def test_anonymous_transactions_are_in_no_set() -> None:
    """Nobody has them already, so batches of them are sent whatever the replica knows."""
    node = RelayNode()
    file = binlog(1, range(1, 2))
    file.uuid = b""
    file.transaction(1)
    file.transaction(2)
    packets = packets_of(file.events)
    node.session()
    for first, last in ((0, 6), (6, 10), (10, 14)):
        node.batch(file, packets[first:last])

    replica = await node.dump(by_gtid("a:1"))

    assert b"".join(replica.stored).endswith(b"".join(e.data for e in file.events[6:]))


async def test_a_replica_ahead_for_a_foreign_uuid_is_served() -> None:
    """Only uuids that are or were a source of this log say that a replica is ahead."""
    node, _, second = two_files()

    replica = await node.dump(by_gtid("a:1-3,b:1-100"))

    assert b"".join(replica.stored) == second.bytes()


async def test_sources_of_former_epochs_count_too() -> None:
    """After a failover the old source's transactions are still judged."""
    node, _, _ = two_files()
    node.session(epoch=2, uuid=UUID_B)
    node.hold(BinlogFile("binlog.000001", UUID_B, gtids("a:1-5")))

    replica = await node.dump(by_gtid("a:1-6"))

    assert replica.refusal is not None
    assert "more GTIDs" in replica.refusal.message


async def test_a_gtid_dump_of_a_log_without_gtids_is_refused() -> None:
    """With MySQL's own words for gtid_mode."""
    node, _, _ = two_files()
    node.command(Command(source_config=SourceConfig(mode="position", started=True)))

    replica = await node.dump(by_gtid(""))

    assert replica.refusal is not None
    assert "GTID_MODE = OFF" in replica.refusal.message


# -- checksums ------------------------------------------------------------------------------


async def test_a_client_that_announced_none_gets_all_but_the_first_rotate_with_checksums() -> None:
    """Nothing is stripped."""
    node, _, _ = two_files()

    replica = await node.dump(by_position(checksum="NONE"))

    with_crc = await node.dump(by_position())
    assert len(replica.events[0]) == len(with_crc.events[0]) - 4
    assert replica.events[1:] == with_crc.events[1:]


async def test_a_client_that_announced_nothing_is_refused_behind_the_rotate() -> None:
    """It would take the checksums for parts of events; the text names where."""
    node, first, _ = two_files()

    replica = await node.dump(by_position(checksum=None))

    end = first.events[0].end
    assert replica.kinds == [f"rotate* {first.name}:4"]
    assert replica.refusal is not None and replica.refusal.code == 1236
    assert f"the first event '{first.name}' at 4" in replica.refusal.message
    assert f"'./{first.name}' at {end}" in replica.refusal.message


async def test_a_log_without_checksums_is_sent_without() -> None:
    """Only the first ROTATE goes by what the client announced; it may announce nothing."""
    node = RelayNode()
    first = binlog(1, range(1, 3), crc=False)
    second = binlog(2, range(3, 4), "a:1-2")
    node.hold(first, second)

    replica = await node.dump(by_position())
    assert b"".join(replica.stored) == first.bytes() + second.bytes()
    rotates = [event for event in replica.events if event[4] == 4]
    assert [len(event) for event in rotates] == [19 + 8 + 13 + 4, 19 + 8 + 13]

    silent = await node.dump(by_position(checksum=None))
    assert silent.refusal is not None, "the second file has checksums"
    assert silent.kinds[-1] == f"rotate* {second.name}:4"


# -- waiting, heartbeats ----------------------------------------------------------------------


async def test_a_blocking_dump_follows_the_log(autojump_clock: trio.testing.MockClock) -> None:
    """What becomes visible is sent at once, whole transactions only."""
    node = RelayNode(in_memory=100)
    file = binlog(1, range(1, 4))
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:2])

    async with node.dumping(by_gtid("", non_blocking=False)) as replica:
        assert len(replica.events) == 3
        node.batch(file, packets[2:5])
        await trio.testing.wait_all_tasks_blocked()
        assert len(replica.events) == 3
        node.batch(file, packets[5:8])
        await trio.testing.wait_all_tasks_blocked()
        assert replica.stored == [event.data for event in file.events[:6]]
        node.batch(file, packets[8:])
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(replica.stored) == file.bytes()
    assert node.log.reads == 0
    assert node.database.reads == 0


class InterruptedNode(RelayNode):
    """Something happens just after a dump has read that there is nothing new."""

    def __init__(self) -> None:
        super().__init__()
        self.then: list[Callable[[], object]] = []

    def load(self) -> Relay:
        relay = Relay.load(database=self.database, log=self.log, runner=self._run)
        relay._recent.first = 1 << 60  # so that every row is read by the runner
        return relay

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        found = function(*args)
        await trio.lowlevel.checkpoint()
        if function == self.database.batch_rows and len(found) == 1 and self.then:
            self.then.pop()()
        return found


async def test_what_comes_between_reading_and_waiting_is_sent() -> None:
    """The wait is for what was not visible when the rows were read."""
    node = InterruptedNode()
    file = binlog(1, range(1, 4))
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:6])
    async with node.dumping(by_gtid("", non_blocking=False)) as replica:
        node.then.append(lambda: node.batch(file, packets[10:]))
        node.batch(file, packets[6:10])
        await trio.testing.wait_all_tasks_blocked()

        assert not node.then
        assert b"".join(replica.stored) == file.bytes()


async def test_an_abandoned_transaction_is_never_seen() -> None:
    """A dump that stands in the very batch goes on with what the next session brings."""
    node = RelayNode()
    file = binlog(1, range(1, 4))
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:8])

    async with node.dumping(by_gtid("", non_blocking=False)) as replica:
        assert replica.stored == [event.data for event in file.events[:6]]
        node.session()
        node.batch(file, packets[6:9])
        node.session()
        node.batch(file, packets[6:])
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(replica.stored) == file.bytes()


async def test_heartbeats_keep_the_period(autojump_clock: trio.testing.MockClock) -> None:
    """Counted from the last packet sent, with the last ROTATE's name and the end position."""
    node = RelayNode()
    file = binlog(1, range(1, 3))
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:6])

    request = by_gtid("", non_blocking=False, heartbeat_period_s=2.5, heartbeat_v2_accepted=True)
    async with node.dumping(request) as replica:
        begun = trio.current_time()
        await trio.sleep(6)
        node.batch(file, packets[6:])
        await trio.sleep(3)
    position = file.events[5].end
    assert replica.kinds[7:] == [
        f"beat2 {file.name}:{position}",
        f"beat2 {file.name}:{position}",
        *["33", "2", "30", "16"],
        f"beat2 {file.name}:{file.end}",
    ]
    assert [at - begun for at in replica.sent_at[-4:]] == [2.5, 5.0, 6.0, 8.5]


async def test_without_a_period_there_is_no_heartbeat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Silence was asked for."""
    node, _, _ = two_files()
    async with node.dumping(by_gtid("a:1-5", non_blocking=False)) as replica:
        count = len(replica.events)
        await trio.sleep(3600)
        assert len(replica.events) == count


@pytest.mark.parametrize(
    ("types", "accepted", "kind"), [(42, False, 1), (35, True, 1), (42, True, 2)]
)
async def test_the_second_kind_of_heartbeat_needs_both_sides(
    types: int, accepted: bool, kind: int, autojump_clock: trio.testing.MockClock
) -> None:
    """The client's flag, and a FORMAT_DESCRIPTION that knows the type."""
    node = RelayNode()
    node.hold(binlog(1, range(1, 2), event_types=types))
    request = by_position(
        non_blocking=False, heartbeat_period_s=1.0, heartbeat_v2_accepted=accepted
    )
    async with node.dumping(request) as replica:
        await trio.sleep(1.5)
    assert replica.kinds[-1].startswith(f"beat{kind} ")


FAR = 1 << 32


def far_file() -> tuple[RelayNode, BinlogFile, list[int]]:
    """Two transactions, and three more around 4 GiB; where each event of those begins."""
    node, file = RelayNode(), binlog(1, range(1, 3))
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets)
    gap = file.leap(FAR - 250)
    for number in (3, 4, 5):
        file.transaction(number)
    far = file.events[len(packets) :]
    for at in range(0, len(far), 2):
        node.batch(file, packets_of(far[at : at + 2]), gap_before=0 if at else gap)
    assert far[0].start < FAR < far[-1].start
    return node, file, [event.start for event in far]


@pytest.mark.parametrize("at", range(12))
async def test_positions_past_4_gib_are_places_to_start(at: int) -> None:
    """In the form that has room for them: what begins there is sent, and nothing before it."""
    node, file, starts = far_file()
    request = by_gtid(file_name=file.name, position=starts[at])
    replica = await node.dump(request)
    assert replica.kinds[0] == f"rotate* {file.name}:{starts[at]}"
    assert b"".join(replica.stored[1:]) == file.bytes(start=starts[at])
    assert replica.finished
    beyond = await node.dump(by_gtid(file_name=file.name, position=file.end + 1))
    assert beyond.refusal is not None
    assert "position > file size" in beyond.refusal.message


@pytest.mark.parametrize("accepted", [True, False])
async def test_heartbeats_past_4_gib_are_whole_or_none(
    accepted: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Half a position would stop a replica for good, so a client of the first kind gets silence."""
    node, file, starts = far_file()
    request = by_gtid(
        file_name=file.name,
        position=starts[8],
        non_blocking=False,
        heartbeat_period_s=0.4,
        heartbeat_v2_accepted=accepted,
    )
    async with node.dumping(request) as replica:
        before = len(replica.events)
        await trio.sleep(1)
        beats = [f"beat2 {file.name}:{file.end}"] * 2 if accepted else []
        assert replica.kinds[before:] == beats
    # And behind a stretch that is skipped.
    replica = await node.dump(by_gtid("a:1-5", heartbeat_v2_accepted=accepted))
    assert [kind for kind in replica.kinds if kind.startswith("beat")] == (
        [f"beat2 {file.name}:{file.end}"] if accepted else []
    )


async def test_behind_a_rotate_a_heartbeat_names_the_next_file(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A real source never stands there; a replica compares with the last ROTATE it got."""
    node = RelayNode()
    first = binlog(1, range(1, 2))
    first.rotate("binlog.000002")
    node.hold(first)
    async with node.dumping(by_position(non_blocking=False, heartbeat_period_s=1.0)) as replica:
        await trio.sleep(1.5)
        assert replica.kinds[-1] == "beat1 binlog.000002:4"
        second = binlog(2, range(2, 3), "a:1")
        node.hold(second)
        await trio.testing.wait_all_tasks_blocked()
    assert b"".join(replica.stored) == first.bytes() + second.bytes()


async def test_an_empty_log_is_held_until_the_first_file(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """No event, no heartbeat; a non-blocking dump just ends."""
    node = RelayNode()
    assert (await node.dump(by_gtid("a:1"))).finished
    request = by_gtid("a:1", non_blocking=False, heartbeat_period_s=1.0)
    async with node.dumping(request) as replica:
        await trio.sleep(100)
        assert not replica.raw
        file = binlog(1, range(1, 3))
        node.hold(file)
        await trio.testing.wait_all_tasks_blocked()
        assert replica.stored == [event.data for event in file.events[:2] + file.events[6:]]


async def test_a_long_skipped_stretch_does_not_look_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """While nothing is sent heartbeats keep coming, also when there is much to pass over."""

    class SlowNode(RelayNode):
        def load(self):  # type: ignore[no-untyped-def]
            relay = super().load()
            read_rows = relay.read_rows

            async def slow(after_index, limit):  # type: ignore[no-untyped-def]
                await trio.sleep(0.4)
                return await read_rows(after_index, min(limit, 4))

            relay.read_rows = slow
            return relay

    node = SlowNode()
    node.hold(binlog(1, range(1, 30)), size=4)
    replica = await node.dump(by_gtid("a:1-29", heartbeat_period_s=1.0))
    beats = [kind for kind in replica.kinds if kind.startswith("beat")]
    assert len(beats) >= 3


# -- catching up ------------------------------------------------------------------------------


class Cluster:
    """What a node knows of the rest: here, entries that it has not applied yet."""

    def __init__(self, node: RelayNode, *, leader_after: int = 0) -> None:
        self.node = node
        self.waiting: list[bytes] = []
        self.questions = 0
        self.leader_after = leader_after

    async def read_index(self) -> int:
        await trio.lowlevel.checkpoint()
        self.questions += 1
        if self.questions <= self.leader_after:
            raise KingbusError("no leader")
        return len(self.node.log.entries) + len(self.waiting)

    async def wait_applied(self, index: int) -> None:
        await trio.sleep(1)
        self.node.commit(*self.waiting)
        self.waiting.clear()
        assert index == len(self.node.log.entries)


def behind() -> tuple[RelayNode, BinlogFile, bytes]:
    """A node that lacks the last of three transactions, and the entry that brings it."""

    node = RelayNode()
    file = binlog(1, range(1, 4))
    packets = packets_of(file.events)
    cutter = node.session()
    node.batch(file, packets[:10])
    meta, raw = cutter.cut(file, packets[10:])
    return node, file, encode(batch_command(meta), raw)


async def test_what_catching_up_cannot_change_is_refused_at_once() -> None:
    """A closed file does not grow."""
    node, first, _ = two_files()
    cluster = Cluster(node)

    replica = await node.dump(by_position(first.name, first.end + 1), catch_up=cluster)

    assert replica.refusal is not None and "position > file size" in replica.refusal.message
    assert cluster.questions == 0


@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("leader_after", [0, 3])
async def test_a_replica_ahead_of_a_lagging_node_waits_for_it(
    position: bool, leader_after: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Without an event before; it may take until there is a leader again."""
    node, file, entry = behind()
    cluster = Cluster(node, leader_after=leader_after)
    cluster.waiting.append(entry)
    request = by_position(file.name, file.end) if position else by_gtid("a:1-3")

    replica = await node.dump(request, catch_up=cluster)

    assert replica.finished
    assert replica.progress.position == file.end


async def test_a_replica_that_is_really_ahead_is_refused_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """When this node has all that the cluster has, waiting is of no use."""
    node, _, entry = behind()
    cluster = Cluster(node)
    cluster.waiting.append(entry)
    begun = trio.current_time()

    replica = await node.dump(by_gtid("a:1-4"), catch_up=cluster)

    assert replica.refusal is not None and "more GTIDs" in replica.refusal.message
    assert cluster.questions == 1
    assert trio.current_time() - begun < 2


async def test_catching_up_has_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    """Without a leader it is refused after the configured time, and nothing was sent."""
    node, _, _ = behind()
    begun = trio.current_time()

    replica = await node.dump(
        by_gtid("a:1-3"), catch_up=Cluster(node, leader_after=10**9), catch_up_seconds_max=7.0
    )

    assert replica.refusal is not None and not replica.raw
    assert 7 <= trio.current_time() - begun <= 8


async def test_what_arrives_meanwhile_ends_the_wait(autojump_clock: trio.testing.MockClock) -> None:
    """Also without a leader, when the missing entry comes by itself."""
    node, file, entry = behind()
    request = by_gtid("a:1-3", non_blocking=False)
    async with node.dumping(request, catch_up=Cluster(node, leader_after=10**9)) as replica:
        assert not replica.raw
        node.commit(entry)
        await trio.sleep(0.1)
        assert replica.kinds[-1] == f"beat1 {file.name}:{file.end}"


# -- names, gaps, purge -------------------------------------------------------------------------


async def test_files_of_another_epoch_have_names_of_their_own() -> None:
    """In artificial ROTATEs and in the stored ones, which is all that differs from the source."""
    node, first, second = two_files()
    node.session(epoch=2, uuid=UUID_B)
    other = BinlogFile("binlog.000001", UUID_B, gtids("a:1-5"))
    other.transaction(1)
    other.rotate("binlog.000002")
    after = BinlogFile("binlog.000002", UUID_B, gtids("a:1-5,b:1"))
    after.transaction(2)
    node.hold(other)

    early = await node.dump(by_position())
    node.hold(after)
    late = await node.dump(by_position())

    assert late.events[: len(early.events)] == early.events
    rotates = [kind for kind in late.kinds if kind.startswith("rotate")]
    assert rotates == [
        "rotate* binlog.000001:4",
        "rotate* binlog.000002:4",
        "rotate* e2-binlog.000001:4",
        "rotate* e2-binlog.000002:4",
    ]
    renamed = [event for event in late.stored if b"e2-binlog.000002" in event]
    stored = other.events[-1].data
    (event,) = renamed
    assert event[:9] == stored[:9]
    assert int.from_bytes(event[9:13], "little") == len(event) == len(stored) + 3
    end = int.from_bytes(event[13:17], "little")
    assert end == int.from_bytes(stored[13:17], "little") + 3, "where it ends as it is sent"
    wanted = first.bytes() + second.bytes() + other.bytes() + after.bytes()
    assert b"".join(late.stored).replace(event, stored) == wanted


async def test_a_file_is_asked_for_by_its_served_name() -> None:
    """The newest of that name, which is the only one."""
    node, _, _ = two_files()
    node.session(epoch=2, uuid=UUID_B)
    other = BinlogFile("binlog.000001", UUID_B, gtids("a:1-5"))
    node.hold(other)

    replica = await node.dump(by_position("e2-binlog.000001"))

    assert b"".join(replica.stored) == other.bytes()


def with_gap() -> tuple[RelayNode, BinlogFile]:
    """Of 1-4 the relay began with 1-2 known, so the source skipped them."""
    node = RelayNode()
    file = binlog(1, range(1, 5))
    node.session(start_set=gtids("a:1-2"))
    packets = packets_of(file.events)
    node.batch(file, packets[:2])
    node.batch(file, packets[10:], gap_before=file.events[9].end - file.events[1].end)
    return node, file


async def test_a_dump_across_a_gap_is_told_where_it_ends() -> None:
    """One heartbeat, as behind a stretch that a source skips."""
    node, file = with_gap()

    replica = await node.dump(by_position())

    assert replica.kinds[:4] == [
        f"rotate* {file.name}:4",
        "15",
        "35",
        f"beat1 {file.name}:{file.events[10].start}",
    ]
    assert b"".join(replica.stored) == b"".join(e.data for e in file.events[:2] + file.events[10:])


async def test_a_position_inside_a_gap_is_refused() -> None:
    """Its two ends are fine."""
    node, file = with_gap()
    begin, end = file.events[2].start, file.events[10].start

    inside = await node.dump(by_position(file.name, file.events[6].start))
    assert inside.refusal is not None and inside.refusal.code == 1236
    assert str(begin) in inside.refusal.message and str(end) in inside.refusal.message
    for position in (begin, end):
        replica = await node.dump(by_position(file.name, position))
        assert b"".join(replica.stored[1:]) == b"".join(e.data for e in file.events[10:])


async def test_a_gap_at_the_end_is_told_before_anything_follows_it() -> None:
    """The transaction behind it is still open, or was abandoned."""
    node = RelayNode()
    file = binlog(1, range(1, 5))
    node.session(start_set=gtids("a:1-2"))
    packets = packets_of(file.events)
    node.batch(file, packets[:2])
    node.batch(file, packets[10:12], gap_before=file.events[9].end - file.events[1].end)
    behind_gap = file.events[10].start

    replica = await node.dump(by_gtid("a:1-2"))
    assert replica.kinds[-1] == f"beat1 {file.name}:{behind_gap}"
    assert (await node.dump(by_position(file.name, behind_gap))).finished

    node.session()
    node.batch(file, packets[10:])
    replica = await node.dump(by_position())
    assert b"".join(replica.stored) == b"".join(e.data for e in file.events[:2] + file.events[10:])


async def test_a_gap_at_the_end_of_a_closed_file_is_told_before_the_next() -> None:
    """The receiver died there, and came back when the source had another file."""
    node = RelayNode()
    file = binlog(1, range(1, 5))
    node.session(start_set=gtids("a:1-2"))
    packets = packets_of(file.events)
    node.batch(file, packets[:2])
    node.batch(file, packets[10:12], gap_before=file.events[9].end - file.events[1].end)
    node.session(epoch=2, uuid=UUID_B)
    node.hold(BinlogFile("other.000001", UUID_B, gtids("a:1-2")))

    replica = await node.dump(by_position())

    assert replica.kinds == [
        f"rotate* {file.name}:4",
        "15",
        "35",
        f"beat1 {file.name}:{file.events[10].start}",
        "rotate* other.000001:4",
        "15",
        "35",
    ]


@pytest.mark.parametrize("kept", [2, 3])
async def test_a_dump_inside_a_purged_file_ends(kept: int) -> None:
    """It never goes on silently in a later one."""
    node, _, _ = two_files()
    third = binlog(3, range(6, 7), "a:1-5")

    class Stalled:
        """A sink that takes the first packets only when it is told to."""

        def __init__(self) -> None:
            self.go = trio.Event()

        async def send(self, buffers: bytes) -> None:
            await self.go.wait()

    sink, refused = Stalled(), []

    async def stalled() -> None:
        try:
            await run_dump(
                node.relay, by_position(), sink=sink, identity=node, progress=DumpProgress()
            )
        except DumpRefusedError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalled)
        await trio.testing.wait_all_tasks_blocked()
        node.hold(third)
        first_index = node.relay.state.files[kept - 1].first_index
        node.command(Command(purge=Purge(first_index=first_index)))
        assert node.relay.state.files[0].ordinal == kept
        sink.go.set()
    assert [error.code for error in refused] == [1236]
    assert "could not find next log" in refused[0].message


# -- large events, slow replicas ------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16 << 20) - 4 - 1 - 23, 0xFFFFFF - 1 - 23, 20 << 20])
async def test_events_of_16_mib_go_out_in_the_packets_they_came_in(size: int) -> None:
    """Sequence numbers are ours, everything else is as stored; over several entries."""
    node = RelayNode()
    file = binlog(1, range(1, 2))
    file.transaction(2, sizes=[100, size, 50])
    file.transaction(3)
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:7])
    for packet in packets[7:-6]:
        node.batch(file, [packet])
    node.batch(file, packets[-6:])

    replica = await node.dump(by_position())

    assert [payload for _, payload in replica.packets[1:]] == [p.data[4:] for p in packets]
    skipping = await node.dump(by_gtid("a:1-2"))
    assert b"".join(skipping.stored[2:]) == b"".join(event.data for event in file.events[-4:])
    resumed = await node.dump(by_position(file.name, file.events[9].start))
    assert b"".join(resumed.stored[1:]) == b"".join(event.data for event in file.events[9:])


async def test_a_slow_replica_slows_only_itself() -> None:
    """Another dump of the same log ends while it stands."""
    node, first, second = two_files()
    stalled = trio.Event()

    class Stalled:
        async def send(self, buffers: bytes) -> None:
            stalled.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:

        async def slow() -> None:
            await run_dump(
                node.relay, by_position(), sink=Stalled(), identity=node, progress=DumpProgress()
            )

        nursery.start_soon(slow)
        await stalled.wait()
        assert b"".join((await node.dump(by_position())).stored) == first.bytes() + second.bytes()
        nursery.cancel_scope.cancel()


async def test_small_batches_go_out_together() -> None:
    """A log of single transactions does not cost a send each."""
    node = RelayNode()
    file = binlog(1, range(1, 1001))
    node.hold(file, size=4)

    replica = await node.dump(by_position())

    assert b"".join(replica.stored) == file.bytes()
    assert len(replica.sent_at) < 20
    assert max(replica.sizes) <= 64 << 10


async def test_a_large_batch_goes_out_in_slices() -> None:
    """What a dump copies at once is bounded, whatever an entry holds."""
    node = RelayNode()
    file = binlog(1, range(1, 2))
    file.transaction(2, sizes=[100 << 10] * 40)
    file.transaction(3, sizes=[600 << 10, 10])
    node.hold(file)

    replica = await node.dump(by_position())

    assert b"".join(replica.stored) == file.bytes()
    assert 512 << 10 < max(replica.sizes) <= 601 << 10, "one packet alone is not cut"
    assert sorted(replica.sizes)[-2] <= 512 << 10


async def test_a_large_packet_is_not_cut_by_cancellation() -> None:
    """Header and payload are two sends, and nothing comes between them."""
    node = RelayNode()
    file = binlog(1, range(1, 2))
    file.transaction(2, sizes=[1 << 20])
    node.hold(file)
    replica = Replica(by_position())

    class Sink:
        async def send(self, buffers: bytes) -> None:
            if len(buffers) == 4:
                scope.cancel()
            await replica.send(buffers)

    with trio.CancelScope() as scope:
        await run_dump(
            node.relay, by_position(), sink=Sink(), identity=node, progress=replica.progress
        )

    assert scope.cancelled_caught
    replica.check()
    assert len(replica.packets[-1][1]) > 1 << 20


async def test_a_heartbeat_never_interrupts_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the period is, and however long the event takes to be sent."""
    monkeypatch.setattr(dump, "ROWS", 2)
    monkeypatch.setattr(dump, "HEARTBEAT_SECONDS_MIN", -1)
    node = RelayNode()
    file = binlog(1, range(1, 2))
    file.transaction(2, sizes=[17 << 20])
    packets = packets_of(file.events)
    node.session()
    node.batch(file, packets[:8])
    for packet in packets[8:]:
        node.batch(file, [packet])

    replica = await node.dump(by_position(heartbeat_period_s=-1.0))

    assert b"".join(replica.stored) == file.bytes()


async def test_an_event_of_two_packets_inside_a_batch_has_a_position() -> None:
    """And so have the events around it."""
    node = RelayNode()
    file = binlog(1, range(1, 2))
    file.transaction(2, sizes=[100, 17 << 20, 50])
    file.transaction(3)
    node.hold(file)

    for at in (8, 9, 10, 12):
        replica = await node.dump(by_position(file.name, file.events[at].start))
        assert b"".join(replica.stored[1:]) == b"".join(e.data for e in file.events[at:])


# Semi-sync -------------------------------------------------------------------------------------


class Plain:
    """Takes what `SemiSyncStream` makes of a dump."""

    def __init__(self) -> None:
        self.data = bytearray()

    def free(self) -> memoryview:
        raise AssertionError("the dump bears marks")

    def wrote(self, count: int) -> None:
        raise AssertionError("the dump bears marks")

    def receive(self, data: memoryview | bytearray | bytes) -> None:
        self.data += data

    def fail(self, error: Exception) -> None:
        raise error


def unmarked(raw: bytes | bytearray) -> tuple[SemiSyncStream, bytearray]:
    """The plain form of a dump in semi-sync's; its numbers are checked on the way."""
    plain = Plain()
    stream = SemiSyncStream(plain)
    rest = memoryview(raw)
    while rest:
        room = stream.free()
        count = min(len(room), len(rest))
        room[:count] = rest[:count]
        stream.wrote(count)
        rest = rest[count:]
    assert stream.is_active
    return stream, plain.data


async def marked_dump(node: RelayNode, request: DumpRequest) -> bytes:
    """All that is sent; `Replica` does not know the marks."""
    replica = Replica(request)
    await replica.attach(node)
    assert replica.finished
    return bytes(replica.raw)


async def test_a_semi_sync_replica_gets_the_same_events_with_marks() -> None:
    """Two bytes more before each; asked for is the end of the log; numbers begin again there."""
    node, *_ = two_files()
    plain = await node.dump(by_gtid("a:1"))
    stream, data = unmarked(await marked_dump(node, by_gtid("a:1", semi_sync=True)))
    assert data == plain.raw
    assert stream.asked == 1


FULL = 0xFFFFFF
"""Of a packet's payload, of which the OK byte, header and checksum take 24."""


@pytest.mark.parametrize(
    "size",
    [FULL - 30, *range(FULL - 29, FULL - 20), FULL, *range(2 * FULL - 27, 2 * FULL - 22), 2 * FULL],
)
async def test_large_events_are_split_anew_for_the_marks(size: int) -> None:
    """Around 16 MiB two bytes more are a packet more, wherever the batches were cut."""
    node, file = RelayNode(), BinlogFile("binlog.000001", UUID_A, gtids(""))
    file.transaction(1, sizes=(size, 10))
    node.hold(file, size=3)
    plain = await node.dump(by_position())
    stream, data = unmarked(await marked_dump(node, by_position(semi_sync=True)))
    assert data == plain.raw
    assert stream.asked == 1


async def test_acknowledgements_are_asked_for_now_and_then_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not for each transaction of a long way, but each time so much was sent, and at the end."""
    node, file = RelayNode(), binlog(1, range(1, 200))
    node.hold(file, size=4)
    monkeypatch.setattr(dump, "ASK_BYTES", file.end // 4)
    stream, _ = unmarked(await marked_dump(node, by_position(semi_sync=True)))
    assert 4 <= stream.asked <= 6
