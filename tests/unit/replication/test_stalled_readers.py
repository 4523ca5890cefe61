"""Many clients that take nothing: what each of them costs is bounded, however it is attached."""

import random
import ssl
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from kingbus.binlog.header import HEADER_BYTES
from kingbus.mysql.compression import Algorithm, codec
from kingbus.replication.compressed_stream import CompressedStream
from kingbus.replication.dump import run_dump
from kingbus.replication.dump_session import DumpProgress
from kingbus.replication.streams import SendingSink, Stream, accept_tls
from tests.support.certificates import certificate
from tests.support.relay_logs import ROWS, UUID_A, BinlogFile, gtids
from tests.support.relay_node import RelayNode, by_gtid

READERS = 50
EACH_MAX = 2 << 20
"""A slice of 512 KiB in a form or three, and what tasks take; a fifth of what is to be sent."""


class Stalling:
    """A stream whose other end takes what is sent so many times more, and then nothing."""

    def __init__(self, stream: Stream, gone: trio.Event) -> None:
        self.stalled = trio.Event()
        self.left = 1 << 60
        self._stream = stream
        self._gone = gone

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.left -= 1
        if self.left < 0:
            self.stalled.set()
            await self._gone.wait()
            raise trio.BrokenResourceError
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


Attach = Callable[[Stalling, trio.abc.Stream], Awaitable[Stream]]


async def zlib(near: Stalling, _far: trio.abc.Stream) -> Stream:
    return CompressedStream(near, codec(Algorithm.ZLIB))


async def zstd(near: Stalling, _far: trio.abc.Stream) -> Stream:
    return CompressedStream(near, codec(Algorithm.ZSTD, zstd_level=9))


def tls(directory: Path) -> Attach:
    certificate_file, key_file = certificate(directory)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate_file, key_file)
    theirs = ssl.create_default_context(cafile=str(certificate_file))

    async def attach(near: Stalling, far: trio.abc.Stream) -> Stream:
        client = trio.SSLStream(far, theirs, server_hostname="localhost", https_compatible=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            return await accept_tls(near, ours, unread=b"")
        raise AssertionError

    return attach


@pytest.mark.parametrize("size", [100_000, 10 << 20])
@pytest.mark.parametrize("how", ["zlib", "zstd", "tls", "zstd in tls"])
async def test_stalled_readers_cost_a_slice_each(how: str, size: int, tmp_path: Path) -> None:
    """Not the log, and not one of its largest packets, neither encrypted nor compressed."""
    secure = tls(tmp_path)

    async def both(near: Stalling, far: trio.abc.Stream) -> Stream:
        return CompressedStream(await secure(near, far), codec(Algorithm.ZSTD))

    attach = {"zlib": zlib, "zstd": zstd, "tls": secure, "zstd in tls": both}[how]
    node, file = RelayNode(), BinlogFile("binlog.000001", UUID_A, gtids(""))
    for number in range(1, 2 + (10 << 20) // size):
        file.transaction(number, sizes=[size])
    noise = random.Random(1).randbytes
    for at, event in enumerate(file.events):
        if event.type == ROWS:
            data = event.data[:HEADER_BYTES] + noise(len(event.data) - HEADER_BYTES)
            file.events[at] = replace(event, data=data)
    node.hold(file, size=50)

    gone = trio.Event()

    async def dump(to: SendingSink) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await run_dump(node.relay, by_gtid(), sink=to, identity=node, progress=DumpProgress())

    async with trio.open_nursery() as nursery:

        async def reader() -> None:
            there, far = trio.testing.memory_stream_pair()
            near = Stalling(there, gone)
            stream = await attach(near, far)
            near.left = 3  # ROTATE, what is small, the head of a large packet
            nursery.start_soon(dump, SendingSink(stream))
            await near.stalled.wait()

        await reader()  # whatever is made once
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            async with trio.open_nursery() as attaching:
                for _ in range(READERS):
                    attaching.start_soon(reader)
            now, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        gone.set()
    assert now - before < READERS * EACH_MAX, (now - before) // READERS
