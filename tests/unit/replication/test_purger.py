"""The purger over a real relay in memory: who is asked, what is proposed, who is waited for."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio

from kingbus import metrics
from kingbus.binlog.retention import Policy, Usage, index_share
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import Command, MemberAttributes
from kingbus.replication.purger import Purger, UnknownFileError
from tests.support.relay_logs import binlog
from tests.support.solo_node import SoloNode

SECOND = 2  # the other member's id
LATER = 4e9
UNLIMITED = Policy()


@dataclass
class FixedDisk:
    """Each entry of the log in a segment of its own, 100 bytes large, beside an index."""

    node: SoloNode
    reserve: int = 1 << 30
    measured: int = 0

    def usage(self) -> Usage:
        last = len(self.node.held.log.entries)
        return Usage(
            starts=range(1, last + 1),
            sizes=[100] * last,
            segment_bytes=100,
            reserve_bytes=self.reserve,
            index_bytes=index_share(self.reserve),
        )

    async def measure(self) -> None:
        self.measured += 1
        await trio.lowlevel.checkpoint()


@dataclass
class Answer:
    body: bytes
    status: int = 200


@dataclass
class Members:
    """The other members: what each answers, and what it was told."""

    answers: dict[int, Callable[[], Answer]] = field(default_factory=dict)
    told: list[object] = field(default_factory=list)

    async def call(self, target: int, _method: str, body: bytes = b"", **_: float) -> Answer:
        await trio.lowlevel.checkpoint()
        self.told.append(json.loads(body))
        return self.answers[target]()

    def says(self, member: int, *, first_needed: int = 1, replicas: object = ()) -> None:
        body = json.dumps({"first_needed": first_needed, "replicas": list(replicas)}).encode()
        self.answers[member] = lambda: Answer(body)


class Rig:
    """Four files of four transactions each, in a log of one segment for each entry."""

    def __init__(self, *, policy: Policy = UNLIMITED, others: tuple[int, ...] = ()) -> None:
        self.node = SoloNode()
        self.node.held.hold(
            *(binlog(number, range(4 * number - 3, 4 * number + 1)) for number in range(1, 5)),
            size=1,
        )
        self.disk = FixedDisk(self.node)
        self.members = Members()
        self.attached: list[tuple[str, str]] = []
        self.overtaken: list[Callable[[str], bool]] = []
        self.now = 0.0
        self.purger = Purger(
            node=self.node,
            relay=self.node.relay,
            disk=self.disk,
            calls=self.members,
            others=lambda: others,
            attached=lambda: self.attached,
            end_overtaken=self.overtaken.append,
            policy=policy,
            clock=lambda: self.now,
        )
        self.all = self.files

    @property
    def files(self) -> list[str]:
        return [row.served_name for row in self.node.state.files]

    def index_of(self, number: int) -> int:
        """The first index of the file with this number, from 1."""
        return self.node.state.files[number - 1].first_index

    def reserve_for(self, segments: int) -> None:
        """Just enough room for so many segments, and what is never purged beside them."""
        self.disk.reserve = next(
            size
            for size in range(100, 1 << 20, 4)
            if replace(self.disk.usage(), reserve_bytes=size, index_bytes=index_share(size)).target
            >= 100 * segments
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(30):
            while not condition():  # noqa: ASYNC110 - several objects, none with an event
                await trio.sleep(0.01)
            return
        raise AssertionError(self.files)


@asynccontextmanager
async def running(rig: Rig, *, leads: bool = True) -> AsyncIterator[Rig]:
    if leads:
        rig.node.lead()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.purger.run)
        yield rig
        nursery.cancel_scope.cancel()


async def look(seconds: float = 20.0) -> None:
    """Longer than any pause between two looks."""
    await trio.sleep(seconds)


async def test_the_leader_purges_what_does_not_fit(autojump_clock) -> None:
    """Whole files, as few as will do; the same again changes nothing."""
    rig = Rig()
    rig.reserve_for(len(rig.node.held.log.entries) - rig.index_of(2) + 4)
    async with running(rig):
        await look()
        assert rig.files == rig.all[1:]
        assert str(rig.node.state.purged).endswith(":1-4")
        assert [rig.overtaken[-1](file) for file in rig.all] == [False, True, True, True]
        before = len(rig.node.held.log.entries)
        rig.disk.reserve = 1 << 30  # the log has not been cut here
        await look()
        assert len(rig.node.held.log.entries) == before


async def test_only_a_leader_purges(autojump_clock) -> None:
    """A follower measures and answers."""
    rig = Rig()
    rig.reserve_for(1)
    async with running(rig, leads=False):
        await look()
        assert rig.files == rig.all
        assert rig.disk.measured > 1
        answer = json.loads(await rig.purger.handle_call(SECOND, b'{"replicas": []}'))
    assert answer == {"first_needed": len(rig.node.held.log.entries), "replicas": []}


async def test_a_member_with_less_room_counts(autojump_clock) -> None:
    """By what it says of its own disk, and where it does not answer by the reserve it announced."""
    rig = Rig(others=(SECOND,))
    rig.members.says(SECOND, first_needed=rig.index_of(2))
    async with running(rig):
        await rig.until(lambda: rig.files == rig.all[1:])

        def refuses() -> Answer:
            raise KingbusError("nobody is there")

        rig.members.answers[SECOND] = refuses
        await look()
        assert rig.files == rig.all[1:]
        rig.reserve_for(len(rig.node.held.log.entries) - rig.index_of(2) + 5)
        small, rig.disk.reserve = rig.disk.reserve, 1 << 30
        attributes = MemberAttributes(member_id=SECOND, reserve_bytes=small)
        rig.node.held.command(Command(member_attributes=attributes))
        await rig.until(lambda: rig.files == rig.all[2:])


async def test_a_member_that_answers_nonsense_is_passed_over(autojump_clock) -> None:
    """An older version, or a broken answer, neither stops purging nor ends the node."""
    rig = Rig(others=(SECOND, 3, 4))
    rig.members.answers = {
        SECOND: lambda: Answer(b"", status=404),
        3: lambda: Answer(b"{}"),
        4: lambda: Answer(b'{"first_needed": 1, "replicas": [["r"]]}'),
    }
    rig.reserve_for(1)
    async with running(rig):
        await rig.until(lambda: rig.files == rig.all[-1:])


async def test_age_waits_for_replicas_of_all_members(autojump_clock) -> None:
    """One attached here, one seen on another member a while ago; each as long as it counts."""
    rig = Rig(policy=Policy(keep_seconds=60, replica_seconds=3600), others=(SECOND,))
    rig.now = LATER
    rig.attached = [("here", rig.all[2])]
    rig.members.says(SECOND, replicas=[["there", rig.index_of(2), 3500.0]])
    async with running(rig):
        await rig.until(lambda: rig.files == rig.all[1:])
        rig.members.says(SECOND)
        await look(200)  # it was not seen again
        assert rig.files == rig.all[2:]
        rig.attached = [("here", rig.all[3])]
        await rig.until(lambda: rig.files == rig.all[3:])


async def test_without_an_age_nothing_goes_while_there_is_room(autojump_clock) -> None:
    """However old it is."""
    rig = Rig()
    rig.now = LATER
    async with running(rig):
        await look()
        assert rig.files == rig.all


async def test_the_leader_hands_round_what_it_knows(autojump_clock) -> None:
    """So that whoever leads next waits for the same replicas."""
    rig = Rig(others=(SECOND,))
    rig.attached = [("here", rig.all[1])]
    rig.members.says(SECOND, replicas=[["there", rig.index_of(3), 5.0]])
    async with running(rig):
        await look()
        told = rig.members.told[-1]
    assert isinstance(told, dict)
    names = {name: index for name, index, _ in told["replicas"]}
    assert names == {"here": rig.index_of(2), "there": rig.index_of(3)}


async def test_a_replica_is_told_of_before_it_is_cut_off(autojump_clock) -> None:
    """Its metric falls as the log grows, to 0 when its file is gone."""
    rig = Rig()
    rig.attached = [("slow", rig.all[0]), ("quick", rig.all[3])]
    rig.reserve_for(len(rig.node.held.log.entries) + 2)

    def left(replica: str) -> float:
        rig.purger.show()
        return metrics.value("kingbus_replica_bytes_until_cut_off", replica=replica)

    async with running(rig):
        await look()
        first = left("slow")
        assert 0 < first < left("quick")
        rig.node.held.hold(binlog(5, range(17, 19)), size=1)
        await look()
        assert rig.all[0] not in rig.files
        assert left("slow") == 0 < left("quick")
        assert metrics.value("kingbus_binlog_files") == len(rig.files)
        assert metrics.value("kingbus_binlog_first_file", file=rig.files[0]) == 1


async def test_by_hand(autojump_clock) -> None:
    """To a file or before a time; what is being read stays; an unknown file is an error."""
    rig = Rig(others=(SECOND,))
    rig.members.says(SECOND)
    rig.node.lead()
    with pytest.raises(UnknownFileError, match="no such file"):
        await rig.purger.purge_to("binlog.999999")
    await rig.purger.purge_to(rig.all[1])
    assert rig.files == rig.all[1:]
    rig.members.says(SECOND, replicas=[["there", rig.index_of(2), 1.0]])
    await rig.purger.purge_to(rig.all[3])
    assert rig.files == rig.all[2:]
    await look(10)
    rig.members.says(SECOND)
    await rig.purger.purge_before(LATER)
    assert rig.files == rig.all[3:]
    assert rig.purger.has_purged_all
    await rig.purger.purge_to(rig.all[3])
    assert rig.files == rig.all[3:]
