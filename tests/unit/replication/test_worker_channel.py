"""Frames and descriptors over a socket pair, and the end of a process that hangs on one."""

import os
import socket
import subprocess
import sys
from contextlib import aclosing

import pytest
import trio
import trio.testing

from kingbus.pb.worker_pb2 import Answer, Begin, End, FromWorker, Ready, ToWorker
from kingbus.replication import worker_channel
from kingbus.replication.worker_channel import Channel, ChannelError
from kingbus.replication.worker_frames import VERSION
from tests.support.cluster import REPOSITORY


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    return Channel(ours, FromWorker), Channel(theirs, ToWorker)


async def test_frames_and_descriptors_stay_together() -> None:
    """Whatever their sizes, in the order in which they were sent; each descriptor is a new one."""
    near, far = pair()
    pipes = [os.pipe() for _ in range(40)]
    sent = [ToWorker(begin=Begin(dump=n, gtid_set=bytes(n * 997))) for n in range(len(pipes))]

    async def send() -> None:
        for number, frame in enumerate(sent):
            await near.send(ToWorker(answer=Answer(number=number, failure="x" * (number * 5000))))
            await near.send(frame, descriptor=pipes[number][1])
        near.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        number = 0
        async with aclosing(far.frames()) as frames:
            async for frame in frames:
                if frame.WhichOneof("kind") != "begin":
                    continue
                assert frame == sent[number]
                descriptor = far.take_descriptor()
                assert not os.get_inheritable(descriptor)
                os.write(descriptor, bytes([number]))
                os.close(descriptor)
                assert os.read(pipes[number][0], 9) == bytes([number])
                number += 1
    assert number == len(pipes)
    with pytest.raises(ChannelError):
        far.take_descriptor()
    far.close()
    for each in (end for ends in pipes for end in ends):
        os.close(each)


async def test_what_was_not_told_goes_first() -> None:
    """It is asked for when it is the frame's turn, so an answer is never newer than the state."""
    near, far = pair()
    untold = [ToWorker(end=End(dump=n)) for n in (1, 2)]
    await near.send(ToWorker(answer=Answer(number=7)), before=lambda: untold.pop(0))
    await near.send_first(lambda: untold.pop(0))
    await near.send_first(lambda: None)
    near.close()
    kinds = []
    async with aclosing(far.frames()) as frames:
        async for frame in frames:
            kinds.append(frame.WhichOneof("kind"))
    assert kinds == ["end", "answer", "end"]
    far.close()


@pytest.mark.parametrize(
    "data",
    [
        (worker_channel.FRAME_BYTES_MAX + 1).to_bytes(4, "little"),
        (3).to_bytes(4, "little") + b"\xff\xff\xff",
    ],
)
async def test_what_is_no_frame_is_one_clear_error(data: bytes) -> None:
    """Too long, or not to be decoded."""
    ours, theirs = socket.socketpair()
    far = Channel(theirs, ToWorker)
    ours.send(data)
    ours.close()
    async with aclosing(far.frames()) as frames:
        with pytest.raises(ChannelError, match="frame"):
            await anext(frames)
    far.close()


async def test_who_takes_nothing_is_given_up(autojump_clock) -> None:
    """And a frame that was cut there is never followed by another."""
    ours, theirs = socket.socketpair()
    near = Channel(ours, FromWorker)
    with pytest.raises(ChannelError):
        await near.send(ToWorker(answer=Answer(failure="x" * (4 << 20))))
    theirs.setblocking(False)
    while True:
        try:
            theirs.recv(1 << 20)
        except BlockingIOError:
            break
    with pytest.raises(ChannelError):
        await near.send(ToWorker(end=End(dump=1)))
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    near.close()
    theirs.close()


async def test_a_cancelled_send_is_whole_or_nothing() -> None:
    """The other side never sees a part of a frame."""
    near, far = pair()
    large = ToWorker(answer=Answer(failure="x" * (1 << 20)))
    got = []

    async def read() -> None:
        async with aclosing(far.frames()) as frames:
            async for frame in frames:
                got.append(frame)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, large)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(near.send, ToWorker(end=End(dump=1)))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as inner:
                    inner.start_soon(read)
                    await trio.testing.wait_all_tasks_blocked()
                    await near.send(ToWorker(end=End(dump=2)))
                    near.close()
    assert [frame.WhichOneof("kind") for frame in got] == ["answer", "end"]
    assert got[1].end.dump == 2
    far.close()


@pytest.mark.slow
def test_a_worker_ends_when_the_node_is_gone(tmp_path) -> None:
    """By itself, cleanly, and having loaded no database."""
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    loaded = tmp_path / "loaded"
    with loaded.open("wb") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-X", "importtime", "-m", "kingbus.replication.worker_process"),
                *(str(theirs.fileno()), str(tmp_path)),
            ],
            pass_fds=[theirs.fileno()],
            cwd=REPOSITORY,
            stderr=errors,
        )
    theirs.close()
    try:
        length = int.from_bytes(ours.recv(4), "little")
        assert FromWorker.FromString(ours.recv(length)) == FromWorker(ready=Ready(version=VERSION))
        ours.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    modules = loaded.read_text()
    assert "kingbus.replication.worker_relay" in modules
    assert "rocksdict" not in modules
