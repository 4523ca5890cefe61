"""The receiver against real sources, over a node that commits at once.

The whole way through three nodes to real replicas is tested elsewhere; here is what only a real
source can show: where its transactions end, what it sends after a restart, and its own words.
"""

import contextlib
import random
from collections.abc import AsyncIterator

import pytest
import trio

from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.ingest import IngestStream, ResumePoint
from kingbus.pb.command_pb2 import SourceConfig
from kingbus.replication import source_facts
from kingbus.replication.candidates import SourceCheckError
from kingbus.replication.receiver import Receiver
from kingbus.replication.served_facts import ClusterIdentity
from kingbus.secrets import SOURCE_PASSWORD, ClusterSecret
from tests.support.event_kinds import every_kind_of_transaction
from tests.support.events import BinlogFile, packets_of
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.solo_node import SoloNode

pytestmark = pytest.mark.mysql

DEADLINE_SECONDS = 60.0


class Pull:
    """A receiver, the node under it, and how it is told to pull."""

    def __init__(self):
        self.node = SoloNode()
        self.key = ClusterSecret.generate()
        self.receiver = Receiver(
            node=self.node,
            relay=self.node.relay,
            identity=ClusterIdentity(1234, lambda: self.node.state),
            secret=lambda: self.key,
            changed=lambda: self.node.changed,
            random=random.Random(1),
        )

    def config(self, *sources, tls="disabled", **changed):
        facts = {
            "started": True,
            "addresses": [f"{source.host}:{source.port}" for source in sources],
            "user": REPLICATION_USER,
            "start_from": "earliest",
            "mode": "gtid",
            "flavor": "mysql",
        }
        config = SourceConfig(**{**facts, **changed})
        config.tls.mode = tls
        config.password.CopyFrom(self.key.seal(REPLICATION_PASSWORD, SOURCE_PASSWORD))
        return config

    async def has_all_of(self, source: MySQLServer) -> None:
        executed = GtidSet.parse(await in_thread(source.gtid_executed))
        file, position = await in_thread(source.binlog_position)
        await self.until(
            lambda: (
                self.node.state.executed == executed
                and (self.node.state.visible.file_name, self.node.state.visible.position)
                == (file, position)
            ),
            f"{file}:{position} with {executed}",
        )

    async def until(self, condition, what):
        with trio.move_on_after(DEADLINE_SECONDS):
            while not condition():  # noqa: ASYNC110 - a server's state has no event
                await trio.sleep(0.02)
            return
        raise AssertionError(f"{what}: {self.node.state.visible} {self.receiver.status()}")


@contextlib.asynccontextmanager
async def pulling(*sources, **options) -> AsyncIterator[Pull]:
    pull = Pull()
    pull.node.lead()
    pull.node.configure(pull.config(*sources, **options))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull.receiver.run)
        yield pull
        nursery.cancel_scope.cancel()


async def in_thread(call, *arguments):
    return await trio.to_thread.run_sync(call, *arguments)


def assert_files_are_those_of(source: MySQLServer, node: SoloNode) -> None:
    """Byte for byte, but for the mark of a file that is not closed."""
    held = node.files()
    assert list(held) == source.binlog_files()[-len(held) :]
    for name, data in held.items():
        real = bytearray(source.binlog_path(name).read_bytes())
        real[4 + 17] &= 0xFE
        assert data == bytes(real), name


def assert_boundaries_are_where_the_next_begins(source: MySQLServer) -> None:
    """Packet by packet: each visible end is the start of a GTID, ROTATE or STOP event, or the end.

    And each GTID event, but for those inside nothing, begins at a visible end.
    """
    executed = GtidSet()
    for name in source.binlog_files():
        data = bytearray(source.binlog_path(name).read_bytes())
        data[4 + 17] &= 0xFE
        events, at = [], 4
        while at < len(data):
            size = int.from_bytes(data[at + 9 : at + 13], "little")
            events.append((at, bytes(data[at : at + size])))
            at += size
        rotate = next(BinlogFile(name).sent_from(4))
        point = ResumePoint(
            channel=0, epoch=1, session=1, by_position=False, file_name="", position=0,
            executed=executed, file_created=0, file_start=None, last_transaction=None,
            dump_position=4,
        )  # fmt: skip
        stream = IngestStream(point, batch_bytes=1)
        ends = {4}
        for packet in packets_of([rotate, *[event for _, event in events]]):
            stream.receive(packet)
            for batch in stream.take(idle=True):
                if batch.meta.visible_packets:
                    ends.add(batch.meta.visible_position)
        starts = {at for at, event in events if event[4] in {33, 34, 42}}
        others = {at for at, event in events if event[4] in {3, 4, 15, 35}}
        assert ends - {len(data)} <= starts | others, name
        assert starts <= ends, name
        assert len(data) in ends, name


@pytest.mark.slow
async def test_what_is_stored_is_what_the_source_wrote(installation, tmp_path) -> None:
    """Every kind of transaction, restarts and a kill: files are equal, boundaries are the source's.

    After each interruption the receiver goes on by position, so that not even the events between
    the transactions are missing.
    """
    with MySQLServer(
        installation, tmp_path / "source", server_id=11, extra=["local_infile=ON"]
    ) as source:
        async with pulling(source) as pull:
            await in_thread(every_kind_of_transaction, source, tmp_path)
            await pull.has_all_of(source)
            assert_files_are_those_of(source, pull.node)
            await in_thread(assert_boundaries_are_where_the_next_begins, source)
            for interrupt in (source.restart, lambda: (source.kill9(), source.start())):
                await in_thread(interrupt)
                await in_thread(source.execute, "INSERT INTO t.i (x) VALUES ('after')")
                await pull.has_all_of(source)
                assert_files_are_those_of(source, pull.node)
            assert pull.receiver.status().status == "running"
            assert pull.node.sessions() == 3

            # Another leader, while the source writes on.
            pull.node.step_down()
            await in_thread(source.execute, "FLUSH LOGS")
            await pull.until(lambda: pull.receiver.status().status == "stopped", "stopped")
            pull.node.lead(2)
            await pull.has_all_of(source)
            assert_files_are_those_of(source, pull.node)


@pytest.mark.slow
async def test_checksums_that_change_and_positions_too_far_for_the_plain_dump(
    installation, tmp_path, monkeypatch
) -> None:
    """A source without checksums, with them, without: files stay equal over each new session.

    Every position counts as past 4 GiB here, so that each resume goes the way that such a file
    would: the GTID form with a position, or on 5.6 the file from its beginning.
    """
    monkeypatch.setattr(source_facts, "_POSITION_MAX", 0)
    with MySQLServer(installation, tmp_path / "source", server_id=11) as source:
        source.execute("SET GLOBAL binlog_checksum = NONE")
        source.execute("CREATE DATABASE t")
        source.execute("CREATE TABLE t.i (id INT AUTO_INCREMENT PRIMARY KEY, x LONGBLOB)")
        source.execute("INSERT INTO t.i (x) VALUES (REPEAT('x', 17000000))")
        async with pulling(source) as pull:
            await pull.has_all_of(source)
            for term, checksum in enumerate(("CRC32", "NONE", "CRC32"), 2):
                pull.node.step_down()
                await in_thread(source.execute, "INSERT INTO t.i (x) VALUES ('before')")
                await in_thread(source.execute, f"SET GLOBAL binlog_checksum = {checksum}")
                await in_thread(source.execute, "INSERT INTO t.i (x) VALUES ('behind')")
                await pull.until(lambda: pull.receiver.status().status == "stopped", "stopped")
                pull.node.lead(term)
                await pull.has_all_of(source)
                assert_files_are_those_of(source, pull.node)
            algorithms = [row.start.checksum_algorithm for row in pull.node.state.files]
            assert algorithms[-4:] == [0, 1, 0, 1]


@pytest.mark.slow
async def test_what_an_operator_must_deal_with_is_said_in_one_sentence(modern, tmp_path) -> None:
    """Wrong password, TLS, gtid_mode, own uuid, purged logs, a source that lost its log."""
    with MySQLServer(modern, tmp_path / "source", server_id=11) as source:
        pull = Pull()

        async def refusal(config, password=REPLICATION_PASSWORD) -> str:
            with pytest.raises(SourceCheckError) as caught:
                await pull.receiver.check_source(config, password)
            assert REPLICATION_PASSWORD not in caught.value.explain()
            return str(caught.value)

        facts = await pull.receiver.check_source(
            pull.config(source, tls="required"), REPLICATION_PASSWORD
        )
        assert facts.server_uuid == source.server_uuid() and facts.version.startswith("9.")
        assert "Access denied for user 'repl'" in await refusal(pull.config(source), "wrong")
        own = pull.config(source, server_uuid=source.server_uuid())
        assert "own server uuid" in await refusal(own)
        assert "equal server ids" in await refusal(pull.config(source, server_id=11))
        nobody = pull.config(source, addresses=["127.0.0.1:1"])
        assert "refused" in (await refusal(nobody)).lower()
        missing = pull.config(source, tls="verify-ca")
        missing.tls.ca = str(tmp_path / "none.pem")
        assert "none.pem" in await refusal(missing)
        untrusted = pull.config(source, tls="verify-ca")
        assert "certificate verify failed" in (await refusal(untrusted)).lower()

        await in_thread(source.execute, "CREATE DATABASE held")
        async with pulling(source) as pull:
            await pull.has_all_of(source)
            pull.node.step_down()
            await in_thread(source.execute, "CREATE DATABASE lost")
            for statement in ("FLUSH LOGS", "PURGE BINARY LOGS TO 'mysql-bin.000002'"):
                await in_thread(source.execute, statement)
            pull.node.lead(2)
            await pull.until(lambda: pull.receiver.status().status == "error", "a gap")
            lost = str(GtidSet.parse(source.gtid_purged()).subtract(pull.node.state.executed))
            assert lost and lost in pull.receiver.status().error
            assert "purged" in pull.receiver.status().error

            # The other way round: the source has forgotten everything.
            await in_thread(source.execute, "RESET BINARY LOGS AND GTIDS")
            pull.node.configure(pull.config(source))
            held = f"the relay has transactions that the source lacks: {pull.node.state.executed}"
            await pull.until(lambda: held in pull.receiver.status().error, held)


@pytest.mark.slow
async def test_a_relay_that_starts_later_tells_of_the_gap_in_its_first_file(
    modern, tmp_path
) -> None:
    """`start_from: now` begins inside a file; another source gets a new epoch, nothing twice."""
    with (
        MySQLServer(modern, tmp_path / "one", server_id=11) as one,
        MySQLServer(modern, tmp_path / "two", server_id=12) as two,
    ):
        await in_thread(one.execute, "CREATE DATABASE early")
        await in_thread(_follow, two, one)
        _, begins_at = one.binlog_position()
        async with pulling(one, start_from="now") as pull:
            await pull.until(lambda: pull.receiver.status().status == "running", "running")
            assert pull.node.state.executed == GtidSet.parse(one.gtid_executed())
            assert pull.node.state.purged == pull.node.state.executed
            await in_thread(one.execute, "CREATE DATABASE later")
            await pull.has_all_of(one)
            (gap,) = pull.node.state.files[-1].gaps
            assert gap.end == begins_at
            executed = one.gtid_executed()
            await in_thread(two.wait_for_gtids, executed)
            await in_thread(two.stop_replica)
            await in_thread(two.execute, "CREATE DATABASE elsewhere")
            pull.node.configure(pull.config(two))
            await pull.has_all_of(two)
            assert pull.node.state.epoch == 2
            assert len({row.served_name for row in pull.node.state.files}) == len(
                pull.node.state.files
            )


def _follow(replica: MySQLServer, source: MySQLServer) -> None:
    replica.change_source(host=source.host, port=source.port)
    replica.start_replica()
