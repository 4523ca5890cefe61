"""The listener with worker processes behind it: what it ends, replaces, shows and refuses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kingbus import metrics
from kingbus.addresses import Address
from kingbus.mysql import auth
from kingbus.mysql.commands import BinlogDumpGtid, encode_dump_gtid
from kingbus.mysql.constants import DumpFlag
from kingbus.replication.binlog_server import BinlogServer
from kingbus.replication.users import new_user, stored_user
from tests.support.relay_logs import UUID_A, BinlogFile, gtids
from tests.support.worker_node import WorkerNode, until, working
from tests.unit.replication.raw_client import RawClient
from tests.unit.replication.served_facts import UUID, MemorySource

pytestmark = pytest.mark.slow

KEY = auth.PrivateKey.generate()
USERS = [
    stored_user(new_user("repl", "hunter2")),
    stored_user(new_user("root", "hunter2", ("replication", "admin"))),
]
REPLICA = "51e89af9-e4f4-11f1-8609-02fc00000001"
OK = bytes.fromhex("00000002000000")
EVENTS = 15  # ROTATE, FORMAT_DESCRIPTION, PREVIOUS_GTIDS, and four for each of three transactions


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[BinlogServer, WorkerNode, object]]:
    async with working(directory) as (node, pool):
        file = BinlogFile("binlog.000001", UUID_A, gtids(""))
        for number in (1, 2, 3):
            file.transaction(number)
        node.hold(file, size=5)
        server = BinlogServer(facts=MemorySource(), dumper=pool, rsa_key=KEY)
        server.set_users(USERS)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await server.start(Address(host="127.0.0.1", port=0))
            yield server, node, pool
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(
    server: BinlogServer, *, user: str = "repl", uuid: str = REPLICA
) -> AsyncIterator[RawClient]:
    assert server.address is not None
    async with RawClient(await trio.open_tcp_stream("127.0.0.1", server.address.port)) as client:
        assert await client.login(user, "hunter2") == OK
        for name, value in (("replica_uuid", uuid), ("master_binlog_checksum", "CRC32")):
            assert await client.execute(f"SET @{name} = '{value}'") == OK
        yield client


async def dump(client: RawClient, known: str = "", *, flags: int = 0) -> None:
    command = BinlogDumpGtid(
        file="", position=4, flags=DumpFlag(flags), server_id=71, gtid_set=gtids(known).encode()
    )
    await client.send(encode_dump_gtid(command))


async def events(client: RawClient, count: int = EVENTS) -> None:
    for _ in range(count):
        assert (await client.payload())[:1] == b"\0"


async def test_a_dump_ends_as_the_node_ends_it(tmp_path: Path) -> None:
    """EOF for a non-blocking one, numbered on; errors before the first event come as ever."""
    async with serving(tmp_path) as (server, _, _pool):
        async with client_of(server) as client:
            await dump(client, flags=DumpFlag.NON_BLOCK)
            await events(client)
            assert (await client.payload())[:1] == b"\xfe"
            assert await client.packet() is None
        async with client_of(server) as client:
            await dump(client, "a:1-9")
            assert (await client.error()).code == 1236


async def test_the_same_replica_replaces_its_older_dump(tmp_path: Path) -> None:
    """The older one is told why in a packet with the next number; the newer one is served."""
    async with serving(tmp_path) as (server, _, _pool), client_of(server) as older:
        await dump(older)
        await events(older)
        async with client_of(server) as newer:
            await dump(newer)
            await events(newer)
            error = await older.error()
            assert (error.code, "same server_uuid" in error.message) == (1236, True)
            assert await older.packet() is None
            assert len(server.replicas()) == 1


async def test_kill_and_the_stop_of_the_listener(tmp_path: Path) -> None:
    """Both close the connection, and leave nothing behind in the worker."""
    async with (
        serving(tmp_path) as (server, _, pool),
        client_of(server) as victim,
        client_of(server, user="root", uuid=UUID) as root,
    ):
        await dump(victim)
        await events(victim)
        assert await root.execute(f"KILL {victim.thread_id}") == OK
        assert await victim.packet() is None
        async with client_of(server) as another:
            await dump(another)
            await events(another)
            await server.stop()
            assert await another.packet() is None
        await until(lambda: not pool._workers[0].load)


async def test_what_is_shown_of_a_replica(tmp_path: Path) -> None:
    """The status routes' facts and the counter of bytes come from the worker."""
    before = metrics.value("kingbus_dump_bytes_total")
    async with serving(tmp_path) as (server, node, _pool), client_of(server) as client:
        await dump(client)
        await events(client)
        await until(lambda: server.replicas()[0].state.startswith("Source has sent all"))
        (shown,) = server.replicas()
        visible = node.relay.state.visible
        assert (shown.file, shown.position) == (visible.served_name, visible.position)
        assert shown.last_gtid.endswith(":3")
        assert shown.uuid == REPLICA
        (facts,) = [each for each in server.connections.processes() if each.state]
        assert facts.command == "Binlog Dump GTID"
    assert metrics.value("kingbus_dump_bytes_total") - before > visible.position


async def test_a_client_that_leaves_is_noticed(tmp_path: Path) -> None:
    """At the end of the log, where nothing is sent that could fail."""
    async with serving(tmp_path) as (server, _, pool):
        async with client_of(server) as client:
            await dump(client)
            await events(client)
        await until(lambda: not len(server.connections))
        assert not pool._workers[0].load
