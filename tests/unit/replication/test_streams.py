"""Sends that leave packets whole, and end in time all the same."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from kingbus.replication import streams
from kingbus.replication.served_rows import PurgedWhileReadingError
from kingbus.replication.streams import (
    FINISH_SECONDS_MAX,
    SEND_SECONDS_MAX,
    FileNotSendableError,
    SendingSink,
)
from kingbus.storage.errors import StorageError
from tests.support.worker_node import NotSendable


async def test_a_cancelled_send_is_finished_first(autojump_clock) -> None:
    """What is under way when the dump is cancelled still goes out, and nothing after it."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    sink = SendingSink(ours)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.send, b"whole")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await theirs.receive_some() == b"whole"

    assert scope.cancelled_caught
    assert not sink.is_broken


async def test_a_send_that_is_not_taken_breaks_the_sink(autojump_clock) -> None:
    """It ends after its limit; half a packet may be out, which is said."""
    ours, _theirs = trio.testing.lockstep_stream_pair()
    sink = SendingSink(ours)
    before = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await sink.send(b"never taken")

    assert trio.current_time() - before == pytest.approx(SEND_SECONDS_MAX)
    assert sink.is_broken


async def test_both_parts_of_a_packet_are_hurried(autojump_clock) -> None:
    """A packet in two parts, shielded, has no more time for the second than for the first."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    sink = SendingSink(ours)

    async def send_packet() -> None:
        with trio.CancelScope(shield=True):
            await sink.send(b"head")
            with pytest.raises(trio.BrokenResourceError):
                await sink.send(b"body")

    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_packet)
        await trio.testing.wait_all_tasks_blocked()
        sink.hurry()
        assert await theirs.receive_some() == b"head"

    assert trio.current_time() - before == pytest.approx(FINISH_SECONDS_MAX)
    assert sink.is_broken


class PacketsIn:
    """Packets in a file of their own, behind something else."""

    def __init__(self, path: Path, data: bytes, *, length: int | None = None) -> None:
        path.write_bytes(b"before" + data)
        self.length = len(data) if length is None else length
        self.open_now = 0
        self.is_resident = True
        self._path = path

    @contextmanager
    def opened(self, *, may_block: bool) -> Iterator[tuple[int, int]]:
        if not may_block and not self.is_resident:
            raise BlockingIOError
        if not self._path.exists():
            raise PurgedWhileReadingError("it is removed")
        fd = os.open(self._path, os.O_RDONLY)
        self.open_now += 1
        try:
            yield fd, len(b"before")
        finally:
            os.close(fd)
            self.open_now -= 1


class Pair:
    """A sink over a socket, and its other end, which reads when it is told to."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.sink = SendingSink(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self.far = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))

    def close(self) -> None:
        self.sink._stream.socket.close()
        self.far.socket.close()

    async def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count and (more := await self.far.receive_some(1 << 16)):
            data += more
        return bytes(data)


@pytest.fixture
async def pairs() -> AsyncIterator[Callable[[], Pair]]:
    """Makes pairs, closed at the end."""
    made: list[Pair] = []

    def make() -> Pair:
        made.append(Pair())
        return made[-1]

    yield make
    for pair in made:
        pair.close()


SMALL = bytes(range(250)) * 200  # no divisor of what a socket takes: the last one is taken in part


async def test_small_buffers_are_whole_although_the_socket_is_full(pairs) -> None:
    """What it does not take at once follows in order as soon as it does."""
    pair, count = pairs(), 100
    with trio.fail_after(20):
        await small_buffers_to_a_full_socket(pair, count)
    assert not pair.sink.is_broken


async def small_buffers_to_a_full_socket(pair: Pair, count: int) -> None:
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for _ in range(count):
                await pair.sink.send(SMALL)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.sink.is_broken, "nothing waits for the socket"
        assert await pair.read(count * len(SMALL)) == count * SMALL


async def test_a_small_buffer_is_finished_although_it_is_cancelled(pairs) -> None:
    """Whether it went at once or waits for the socket: nothing follows, and nothing is cut."""
    pair, sent = pairs(), 0

    async def send() -> None:
        nonlocal sent
        while True:
            sent += len(SMALL)
            await pair.sink.send(SMALL)

    with trio.CancelScope() as scope:
        scope.cancel()
        await send()
    assert sent == len(SMALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(20):
            assert await pair.read(sent) == SMALL * (sent // len(SMALL))
    assert not pair.sink.is_broken


async def test_a_client_that_is_gone_breaks_the_sink(pairs) -> None:
    """At the latest with the second small buffer."""
    pair = pairs()
    await pair.far.aclose()

    async def send_two() -> None:
        for _ in range(2):
            await pair.sink.send(SMALL)

    with pytest.raises(trio.BrokenResourceError):
        await send_two()
    assert pair.sink.is_broken


def in_thread(function):
    return trio.to_thread.run_sync(function)


LARGE = bytes(range(256)) * (64 << 10)  # 16 MiB: far more than a socket takes at once


@pytest.mark.parametrize("is_resident", [True, False])
@pytest.mark.parametrize("size", [1, 5000, len(LARGE)])
async def test_packets_go_from_a_file_to_the_socket(
    tmp_path: Path, pairs, size: int, *, is_resident: bool
) -> None:
    """All of them and nothing else, however many turns it takes; the file is closed behind it."""
    pair, packets = pairs(), PacketsIn(tmp_path / "file", LARGE[:size])
    packets.is_resident = is_resident
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.sink.send_file, packets, in_thread)
        assert await pair.read(size) == LARGE[:size]
    assert not pair.sink.is_broken
    assert not packets.open_now


async def test_a_file_that_cannot_be_sent_is_refused_with_nothing_sent(pairs) -> None:
    """The sink is as good as before: the packets may come through memory."""
    pair = pairs()
    with pytest.raises(FileNotSendableError):
        await pair.sink.send_file(NotSendable(5), in_thread)
    assert not pair.sink.is_broken
    await pair.sink.send(b"whole")
    assert await pair.read(5) == b"whole"


async def test_a_cancelled_send_from_a_file_is_finished_first(tmp_path: Path, pairs) -> None:
    """As any other, though the socket was full; a removed file is no obstacle."""
    pair, packets = pairs(), PacketsIn(tmp_path / "file", LARGE)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.sink.send_file, packets, in_thread)
            first = await pair.read(1)
            (tmp_path / "file").unlink()
            scope.cancel()
            with trio.move_on_after(20, shield=True):
                rest = await pair.read(len(LARGE) - len(first))
    assert scope.cancelled_caught
    assert first + rest == LARGE
    assert not pair.sink.is_broken
    assert not packets.open_now


async def test_a_send_from_a_file_that_is_not_taken_breaks_the_sink(
    tmp_path: Path, pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time of one buffer, or sooner when the dump is being ended."""
    monkeypatch.setattr(streams, "FINISH_SECONDS_MAX", 0.05)
    pair, packets = pairs(), PacketsIn(tmp_path / "file", LARGE)
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await pair.sink.send_file(packets, in_thread)

        nursery.start_soon(send)
        await pair.read(1)
        pair.sink.hurry()
    assert pair.sink.is_broken
    assert not packets.open_now


async def test_a_client_that_is_gone_ends_a_send_from_a_file(tmp_path: Path, pairs) -> None:
    """Before it or in its middle, as a send of bytes ends."""
    for first in (0, 1):
        pair, packets = pairs(), PacketsIn(tmp_path / "file", LARGE)
        async with trio.open_nursery() as nursery:

            async def send(pair: Pair = pair, packets: PacketsIn = packets) -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await pair.sink.send_file(packets, in_thread)

            if first:
                nursery.start_soon(send)
                await pair.read(first)
                await pair.far.aclose()
            else:
                await pair.far.aclose()
                nursery.start_soon(send)
        assert pair.sink.is_broken
        assert not packets.open_now


async def test_a_file_that_is_not_there_breaks_nothing(tmp_path: Path, pairs) -> None:
    """Nothing of it was sent, so the client can still be told."""
    pair, packets = pairs(), PacketsIn(tmp_path / "file", b"packets")
    (tmp_path / "file").unlink()
    with pytest.raises(PurgedWhileReadingError):
        await pair.sink.send_file(packets, in_thread)
    assert not pair.sink.is_broken
    await pair.sink.send(b"why")
    assert await pair.read(3) == b"why"


async def test_a_file_that_ends_too_soon_breaks_the_sink(tmp_path: Path, pairs) -> None:
    """Half a packet may be out."""
    pair, packets = pairs(), PacketsIn(tmp_path / "file", b"packets", length=100)
    with pytest.raises(StorageError, match="ends where packets should be"):
        await pair.sink.send_file(packets, in_thread)
    assert pair.sink.is_broken
    assert not packets.open_now
