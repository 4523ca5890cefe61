"""A user that is bound to a channel comes by the default one's port, and is at its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from kingbus.replication.binlog_server import BinlogServer
from tests.unit.replication.served_facts import MemorySource
from tests.unit.replication.test_binlog_server import (
    KEY,
    PASSWORD,
    USERS,
    MemoryDumper,
    begin_dump,
    connect,
    replica,
    serving,
    until,
)

BOUND = replace(USERS[0], name="bound", channel=1)
ELSEWHERE = replace(USERS[0], name="elsewhere", channel=2)


@asynccontextmanager
async def two_channels() -> AsyncIterator[tuple[BinlogServer, BinlogServer]]:
    """The default channel's listener, and the server of a named one, which has a port as well."""
    named = {"facts": MemorySource(executed=""), "dumper": MemoryDumper(), "channel": 1}
    async with serving() as default, serving(**named, rsa_key=KEY) as other:
        default.server_of = lambda number: other if number == 1 else None
        for server in (default, other):
            server.set_users([*USERS, BOUND, ELSEWHERE])
        yield default, other


def dumps(server: BinlogServer) -> int:
    """How many were asked of it."""
    assert isinstance(server.dumper, MemoryDumper)
    return len(server.dumper.requests)


async def test_a_bound_user_reads_its_channel_by_the_common_port() -> None:
    """All that it asks is answered there; who is bound to nothing stays where it came."""
    async with two_channels() as (default, other), await replica(default, "repl") as free:
        async with await replica(default, "bound", "") as bound:
            await begin_dump(bound)
            assert (dumps(default), dumps(other)) == (0, 1)
            assert len(other.replicas()) == 1
            await begin_dump(free)
            assert (dumps(default), dumps(other)) == (1, 1)
            assert len(default.replicas()) == len(other.replicas()) == 1
            threads = [each.thread_id for server in (default, other) for each in server.connections]
            assert len(set(threads)) == 2
        await until(lambda: not len(other.connections))
        assert len(default.connections) == 1


async def test_a_bound_user_is_at_home_at_its_channel_s_port_and_nowhere_else() -> None:
    """At its own port as anybody; where its channel is not served it is refused with 1045."""
    async with two_channels() as (default, other):
        async with await replica(other, "bound") as client:
            await begin_dump(client)
        assert dumps(other) == 1
        for server in (default, other):
            async with await connect(server) as client:
                refusal = await client.login("elsewhere", PASSWORD)
            assert int.from_bytes(refusal[1:3], "little") == 1045
        assert (dumps(default), dumps(other)) == (0, 1)


@pytest.mark.parametrize("stopped", [0, 1], ids=["the port's", "the channel's"])
async def test_what_was_handed_over_ends_with_either_server(stopped: int) -> None:
    """Whoever stops: nobody is left who cannot be stopped."""
    async with two_channels() as servers, await replica(servers[0], "bound") as client:
        await begin_dump(client)
        await servers[stopped].stop()
        with trio.fail_after(10):
            await until(lambda: not len(servers[1].connections))
