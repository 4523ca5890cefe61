"""A node whose disk is full waits with what it has, and says nothing that is not true."""

from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kingbus.node.append_task import AppendTask
from kingbus.raft.types import APPEND_THREAD, Entry, HardState, Message, MessageType
from kingbus.storage.errors import NoRoomError


class Log:
    def __init__(self):
        self.full = True
        self.tried = 0
        self.written = []
        self.published = []

    def write(self, write):
        self.tried += 1
        if self.full:
            raise NoRoomError("the disk of /log is full")
        self.written.append(write)

    def publish(self, write):
        self.published.append(write)

    def note_idle(self):
        return False


class Room:
    def __init__(self):
        self.errors = []
        self.again = trio.Event()

    async def for_log(self, error):
        self.errors.append(str(error))
        await self.again.wait()
        self.again = trio.Event()

    async def for_state(self):
        raise AssertionError("nothing is applied here")


async def inline(function, *arguments):
    await trio.lowlevel.checkpoint()
    return function(*arguments)


def task(log, room, delivered):
    async def install(snapshot, write):
        raise AssertionError("no snapshot")

    return AppendTask(
        log=log,
        log_start=SimpleNamespace(is_to_be_cut=False),
        runner=inline,
        recorded=HardState(),
        install=install,
        deliver=delivered.extend,
        room=room,
    )


def append_message(index):
    response = Message(MessageType.APP_RESP, to=2, index=index)
    return Message(
        MessageType.STORAGE_APPEND,
        to=APPEND_THREAD,
        term=1,
        entries=[Entry(1, index)],
        responses=[response],
    )


async def test_nobody_is_told_before_it_is_written(autojump_clock):
    """The same write is tried again; what came meanwhile follows it, in order."""
    log, room, delivered = Log(), Room(), []
    append = task(log, room, delivered)
    append.put(append_message(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append.run)
        await wait_all_tasks_blocked()
        for tries in (1, 2, 3):
            assert log.tried == tries
            assert delivered == log.published == []
            append.put(append_message(tries + 1))
            log.full = tries < 3
            room.again.set()
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert len(room.errors) == 3
    assert [entry.index for write in log.written for entry in write.entries] == [1, 2, 3, 4]
    assert log.published == log.written
    assert [message.index for message in delivered] == [1, 2, 3, 4]


async def test_without_patience_it_ends(autojump_clock):
    """Who has nobody to wait for room ends with the error, as ever."""
    append = task(Log(), None, [])
    append.put(append_message(1))

    with pytest.raises(NoRoomError):
        await append.run()


async def test_it_looks_for_room_when_idle(autojump_clock):
    """Asked to look again, it asks the log as soon as nothing was written for a second."""
    log = Log()
    noted = []
    log.note_idle = lambda: noted.append(trio.current_time())
    append = task(log, Room(), [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append.run)
        await trio.sleep(10)
        assert len(noted) == 1
        append.look_again()
        await trio.sleep(10)
        assert len(noted) == 2
        nursery.cancel_scope.cancel()
