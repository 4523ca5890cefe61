"""Dumps by worker processes: the same bytes, the same ends, and no harm when one dies."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from kingbus.pb.command_pb2 import Command, Purge
from kingbus.replication.dump import DumpProgress, DumpRequest
from kingbus.replication.streams import SendingSink
from kingbus.replication.worker_pool import DumpWorkers
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import AtRest, RestKey
from tests.support.relay_logs import binlog, numbered, packets_of
from tests.support.relay_node import by_gtid, by_position
from tests.support.worker_node import Attached, WorkerNode, here, in_thread, until, working

pytestmark = pytest.mark.slow

KEY = RestKey.of(ClusterSecret.of(bytes(range(32))))


def hold(node: WorkerNode, *, files: int = 3, size: int = 7, bytes_: int = 3000) -> None:
    """Files of 20 transactions, each but the last with a ROTATE, in batches of `size` packets."""
    made = [binlog(n, range(20 * n - 19, 20 * n + 1), size=bytes_) for n in range(1, files + 1)]
    for file, following in pairwise(made):
        file.rotate(following.name)
    node.hold(*made, size=size)


async def dumped(pool, request: DumpRequest) -> Attached:
    replica = Attached(request)
    await replica.run(pool)
    replica.check()
    return replica


async def test_a_worker_sends_what_the_node_itself_sends(tmp_path: Path) -> None:
    """Byte for byte, wherever a dump begins, over segments, files and skipped stretches."""
    async with working(tmp_path) as (node, pool):
        assert (await dumped(pool, by_position())).finished, "nothing is held yet"
        hold(node)
        assert len(list(node.directory.glob("*.segment"))) > 2
        first = node.relay.state.files[0]
        places = range(4, first.end_position, 997)
        requests = [
            by_position(),
            by_position("binlog.000002"),
            by_position("binlog.000001", first.end_position),
            by_position(checksum=None),
            by_gtid(),
            by_gtid("a:1-20"),
            by_gtid("a:1-13:17-41:55"),
            by_gtid("a:1-60"),
            by_gtid("a:1-5", heartbeat_v2_accepted=True, server_id=7),
            *[by_position(first.served_name, place) for place in places],
        ]
        for request in requests:
            theirs, ours = await dumped(pool, request), await here(node, request)
            assert bytes(theirs.raw) == bytes(ours.raw)
            assert theirs.finished == ours.finished
            assert str(theirs.refusal) == str(ours.refusal)
            assert theirs.progress.next_sequence == ours.progress.next_sequence
            assert theirs.progress.bytes_sent == ours.progress.bytes_sent
            assert theirs.progress.last_gtid == ours.progress.last_gtid
            assert theirs.progress.position == ours.progress.position


@pytest.mark.parametrize("form", [AtRest(level=1), AtRest(level=1, key=KEY)])
async def test_a_worker_opens_what_is_compressed_or_sealed(tmp_path: Path, form: AtRest) -> None:
    """With the key that it is told; it sends what the node itself sends, and nothing unread."""
    async with working(tmp_path, at_rest=form) as (node, pool):
        hold(node)
        assert node.store.at_rest_status().stored_bytes < node.store.at_rest_status().data_bytes
        for request in (by_position(), by_gtid("a:1-13:17-41:55"), by_position()):
            theirs, ours = await dumped(pool, request), await here(node, request)
            assert bytes(theirs.raw) == bytes(ours.raw)
            assert theirs.finished
            assert theirs.progress.file_bytes_sent == ours.progress.file_bytes_sent == 0


async def test_what_is_committed_reaches_attached_replicas(tmp_path: Path) -> None:
    """In every worker, without being asked for, whole transactions only, also over many files."""
    async with working(tmp_path, count=2) as (node, pool):
        replicas = [Attached(by_gtid(non_blocking=False)) for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for replica in replicas:
                nursery.start_soon(replica.run, pool)
            file = binlog(1, range(1, 40), size=50)
            file.rotate("binlog.000002")
            node.session()
            packets = packets_of(file.events)
            for at in range(0, len(packets), 3):
                node.batch(file, packets[at : at + 3])
                await _have(replicas, file.bytes(end=node.relay.state.visible.position))
            hold_more = binlog(2, range(40, 45))
            node.hold(hold_more, size=2)
            await _have(replicas, file.bytes() + hold_more.bytes())
            for replica in replicas:
                replica.scope.cancel()
        for replica in replicas:
            replica.check()
            assert not replica.sink.is_broken


@pytest.mark.parametrize("start", [2, 100])
async def test_a_worker_sends_large_batches_from_the_files(tmp_path: Path, start: int) -> None:
    """What it has checked once, in phase or brought into it; the bytes are the same each time."""
    async with working(tmp_path) as (node, pool):
        file = binlog(1, range(1, 121), size=90_000)
        node.session()
        packets = numbered(packets_of(file.events), start)
        node.batch(file, packets[:62])  # the events that begin the file, and whole transactions
        for at in range(62, len(packets), 60):
            node.batch(file, packets[at : at + 60])
        request = by_gtid(heartbeat_period_s=3600.0)
        first, second = await dumped(pool, request), await dumped(pool, request)
        assert first.finished
        assert second.finished
        assert first.raw == second.raw
        assert b"".join(first.stored) == file.bytes()
        assert first.progress.file_bytes_sent == 0
        assert second.progress.file_bytes_sent > len(second.raw) // 2
        assert second.progress.last_gtid == first.progress.last_gtid
        assert second.progress.last_gtid.endswith(":120")
        beats = [kind for kind in second.kinds if kind.startswith("beat")]
        assert bool(beats) == (start != 2)


async def _have(replicas: list[Attached], stored: bytes) -> None:
    await until(lambda: all(b"".join(each.stored) == stored for each in replicas))


async def test_an_abandoned_transaction_is_never_sent(tmp_path: Path) -> None:
    """Not when its rows were there, nor when entries of it lie between those that are sent."""
    async with working(tmp_path) as (node, pool):
        replica = Attached(by_gtid(non_blocking=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.run, pool)
            file = binlog(1, range(1, 4))
            packets = packets_of(file.events)
            node.session()
            node.batch(file, packets[:8])  # the second transaction is open
            node.batch(file, packets[8:9])
            end = node.relay.state.visible.position
            await _have([replica], file.bytes(end=end))
            node.session()
            at = next(n for n, packet in enumerate(packets) if packet.event.start == end)
            node.batch(file, packets[at:])
            await _have([replica], file.bytes())
            replica.scope.cancel()
        again = await dumped(pool, by_gtid())
        assert b"".join(again.stored) == file.bytes()


async def test_a_purge_ends_a_dump_of_what_is_gone(tmp_path: Path) -> None:
    """With error 1236; the worker keeps no removed segment open, dumps or not."""
    async with working(tmp_path) as (node, pool):
        hold(node, bytes_=20_000)
        whole = await dumped(pool, by_gtid())
        assert whole.finished
        async with _stuck(pool) as replica:
            node.command(Command(purge=Purge(first_index=node.relay.state.files[2].first_index)))
            node.purge_log()
            replica.reads.set()
        assert replica.refusal is not None
        assert replica.refusal.code == 1236
        assert not replica.sink.is_broken
        replica.check()
        (process,) = pool.process_ids
        await until(lambda: not _removed_and_open(process))
        assert (await dumped(pool, by_gtid("a:1-40"))).finished


@asynccontextmanager
async def _stuck(pool: DumpWorkers) -> AsyncIterator[Attached]:
    """The first buffer went out, and nothing reads: the next is on its way. Waits for the end."""
    replica = Attached(by_gtid(non_blocking=False))
    replica.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.run, pool)
        await until(lambda: replica.progress.bytes_sent)
        yield replica


def _removed_and_open(process: int) -> list[str]:
    found = []
    for each in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:
            continue
        if target.endswith("(deleted)") and ".segment" in target:
            found.append(target)
    return found


async def test_an_installed_snapshot_ends_dumps(tmp_path: Path) -> None:
    """With error 1105, and what is served afterwards is of the new state alone."""
    async with working(tmp_path) as (node, pool):
        hold(node, files=1)
        replica = Attached(by_gtid(non_blocking=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.run, pool)
            await until(lambda: replica.progress.last_gtid.endswith(":20"))
            record = WorkerNode(tmp_path / "other")
            record.session()
            state = record.relay.state.to_record()
            state.index = 100
            record.close()
            await node.install(state)
        assert replica.refusal is not None
        assert replica.refusal.code == 1105
        replica.check()
        node.cutter = None
        fresh = binlog(1, range(1, 3), size=99)
        node.hold(fresh)
        again = await dumped(pool, by_gtid())
        assert b"".join(again.stored) == fresh.bytes()


async def test_a_dump_that_is_ended_leaves_whole_packets(tmp_path: Path) -> None:
    """And says with which number the next one goes on, so that an error can follow."""
    async with working(tmp_path) as (node, pool):
        hold(node, bytes_=20_000)
        async with _stuck(pool) as replica:
            replica.scope.cancel()
            replica.reads.set()
        assert not replica.sink.is_broken
        assert len(replica.raw) > 0
        replica.check()
        assert (await dumped(pool, by_gtid())).finished


async def test_a_client_that_takes_nothing_cannot_hold_up_the_end(tmp_path: Path) -> None:
    """The packet under way is given up, which is said: nothing may follow."""
    async with working(tmp_path) as (node, pool):
        hold(node, bytes_=60_000)
        async with _stuck(pool) as replica:
            replica.scope.cancel()
            await replica.ended.wait()
        assert replica.sink.is_broken
        assert (await dumped(pool, by_gtid("a:1-55"))).finished


async def test_a_client_that_leaves_ends_its_dump_only(tmp_path: Path) -> None:
    """Whether or not the node has noticed it yet."""
    async with working(tmp_path) as (node, pool):
        hold(node)
        leaving, staying = (Attached(by_gtid(non_blocking=False)) for _ in range(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leaving.run, pool)
            nursery.start_soon(staying.run, pool)
            await until(lambda: all(each.progress.position for each in (leaving, staying)))
            leaving.far.socket.shutdown(2)
            node.hold(binlog(4, range(61, 70)))
            await leaving.ended.wait()
            assert isinstance(leaving.failure, trio.BrokenResourceError)
            await until(lambda: staying.progress.last_gtid.endswith(":69"))
            staying.scope.cancel()
        staying.check()


async def test_a_worker_that_dies_takes_only_its_own_connections(tmp_path: Path) -> None:
    """They are closed without a last packet; another process takes its place."""
    async with working(tmp_path, count=2) as (node, pool):
        hold(node, files=1)
        replicas = [Attached(by_gtid(non_blocking=False)) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for replica in replicas:
                nursery.start_soon(replica.run, pool)
            await until(lambda: all(each.progress.position for each in replicas))
            before = pool.process_ids
            os.kill(before[0], signal.SIGKILL)
            await until(lambda: any(each.ended.is_set() for each in replicas))
            (dead,) = [each for each in replicas if each.ended.is_set()]
            (alive,) = [each for each in replicas if each is not dead]
            assert isinstance(dead.failure, trio.BrokenResourceError)
            assert dead.sink.is_broken
            node.hold(binlog(2, range(21, 25)))
            await until(lambda: alive.progress.last_gtid.endswith(":24"))
            await until(lambda: len(pool.process_ids) == 2)
            assert before[0] not in pool.process_ids
            alive.scope.cancel()
        again = await dumped(pool, by_gtid())
        assert again.progress.last_gtid.endswith(":24")


async def test_a_worker_that_hangs_cannot_keep_a_connection(tmp_path: Path) -> None:
    """Who ends the dump is not kept waiting, and the client sees the end."""
    async with working(tmp_path) as (node, pool):
        hold(node, files=1)
        replica = Attached(by_gtid(non_blocking=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.run, pool)
            await until(lambda: replica.progress.position)
            (process,) = pool.process_ids
            os.kill(process, signal.SIGSTOP)
            replica.scope.cancel()
        assert replica.sink.is_broken
        os.kill(process, signal.SIGCONT)
        assert (await dumped(pool, by_gtid())).finished


async def test_workers_end_with_the_node_and_by_no_signal_to_the_group(tmp_path: Path) -> None:
    """SIGINT and SIGTERM are the node's to deal with; when it lets go nothing is left."""
    async with working(tmp_path, count=2) as (node, pool):
        hold(node, files=1)
        processes = pool.process_ids
        for process in processes:
            os.kill(process, signal.SIGINT)
            os.kill(process, signal.SIGTERM)
        assert (await dumped(pool, by_gtid())).finished
        assert pool.process_ids == processes
    assert not any(os.path.exists(f"/proc/{process}") for process in processes)  # noqa: ASYNC240, PTH110


async def test_a_worker_is_told_nothing_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the node was given by the environment is not handed on."""
    monkeypatch.setenv("KINGBUS_SOURCE_PASSWORD", "hunter2")
    monkeypatch.setenv("HARMLESS", "stays")
    async with working(tmp_path) as (_, pool):
        environment = await trio.Path(f"/proc/{pool.process_ids[0]}/environ").read_bytes()
    assert b"hunter2" not in environment
    assert b"HARMLESS=stays" in environment


async def test_what_cannot_be_handed_over_stays_here(tmp_path: Path) -> None:
    """A TLS connection: its keys are this process's."""
    async with working(tmp_path) as (node, pool):
        hold(node, files=1)
        performed = []

        async def local(request, *, sink, progress) -> None:
            performed.append(request)

        pool._local = local
        near, _far = trio.testing.memory_stream_pair()
        request = by_gtid()
        await pool(request, sink=SendingSink(near), progress=DumpProgress())
        assert performed == [request]


async def test_without_a_worker_the_node_dumps_itself(tmp_path: Path, autojump_clock) -> None:
    """When none could be started for a while; nobody waits for ever."""
    node = WorkerNode(tmp_path)
    hold(node, files=1)
    performed = []

    async def local(request, *, sink, progress) -> None:
        performed.append(request)

    pool = DumpWorkers(
        count=1,
        relay=node.relay,
        log=node.store,
        directory=node.directory,
        identity=node,
        runner=in_thread,
        local=local,
    )
    replica = Attached(by_gtid())
    await replica.run(pool)
    assert replica.finished
    assert performed == [replica.request]
    node.close()
