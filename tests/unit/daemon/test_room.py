"""A full disk: what is said of it, and who leads meanwhile."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import trio

from kingbus import metrics
from kingbus.daemon.room import HANDOVER_SECONDS_MAX, Room
from kingbus.node.errors import TransferError
from kingbus.storage.ballast import Ballast
from kingbus.storage.errors import NoRoomError
from tests.unit.storage.simulated_disk import SimulatedDisk

SIZE = 1000


class Node:
    """Leads until it could hand over."""

    def __init__(self, *, voters=(1, 2, 3)):
        self.cluster = SimpleNamespace(voters=voters)
        self.leadership = SimpleNamespace(is_ready=True)
        self.handover = self
        self.transfers = []
        self.looks = 0
        self.takes_over = True

    def look_for_room(self):
        self.looks += 1

    async def transfer(self, member_id):
        assert member_id is None
        await trio.lowlevel.checkpoint()
        self.transfers.append(trio.current_time())
        if not self.takes_over:
            raise TransferError("nobody")
        self.leadership.is_ready = False


class World:
    def __init__(self):
        self.disk = SimulatedDisk(capacity=1 << 20)
        self.ballast = Ballast(Path("/ballast"), SIZE, files=self.disk)
        self.ballast.hold()
        self.store = SimpleNamespace(is_out_of_room=False)
        self.room = Room(store=self.store, ballast=self.ballast, runner=self)
        self.changes = 0

    async def __call__(self, function, *arguments):
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    def changed(self):
        self.changes += 1


async def test_a_leader_without_room_for_a_segment_hands_over(autojump_clock):
    """It says so, asks the log to look, and all is well again with the room."""
    world, node = World(), Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.room.run, node, world.changed)
        await trio.sleep(3)
        assert world.room.reason == ""
        assert not node.transfers
        assert not node.looks
        world.store.is_out_of_room = True
        await trio.sleep(3)
        assert "no room for another segment" in world.room.reason
        assert metrics.STORAGE_DISK_FULL._value.get() == 1
        assert len(node.transfers) == 1
        assert node.looks
        assert world.changes == 1
        world.store.is_out_of_room = False
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert world.room.reason == ""
    assert metrics.STORAGE_DISK_FULL._value.get() == 0
    assert world.changes == 2


async def test_leadership_does_not_go_round(autojump_clock):
    """When nobody takes it, the attempts become rare; who is alone does not try."""
    world, node, alone = World(), Node(), Node(voters=(1,))
    node.takes_over = False
    world.store.is_out_of_room = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.room.run, node, world.changed)
        nursery.start_soon(world.room.run, alone, world.changed)
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    assert not alone.transfers
    gaps = [after - before for before, after in pairwise(node.transfers)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= HANDOVER_SECONDS_MAX
    assert len(gaps) < 25


async def test_nothing_is_applied_while_the_ballast_is_spent(autojump_clock):
    """Who applies waits, and goes on with the ballast."""
    world, node = World(), Node()
    await world.room.for_state()
    world.disk.capacity = world.disk._used()
    world.ballast.release()
    applied = []

    async def apply():
        await world.room.for_state()
        applied.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.room.run, node, world.changed)
        nursery.start_soon(apply)
        await trio.sleep(30)
        assert not applied
        assert "waits for room to be applied" in world.room.reason
        assert node.transfers
        world.disk.capacity = 1 << 20
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert applied
    assert world.room.reason == ""


async def test_a_log_that_waits_is_told_until_it_went_through(autojump_clock):
    """Also while it is tried again, so that it does not come and go."""
    world, node = World(), Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.room.run, node, world.changed)
        for _ in range(5):
            await world.room.for_log(NoRoomError("the disk of /log is full"))
            assert "/log" in world.room.reason
        assert world.changes <= 1
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert world.room.reason == ""
