"""The receiver against a source in memory: kingbus's own listener, with scripted streams.

The client half is the real one (PyMySQL and the socket), the node commits at once or on demand.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio

from kingbus import metrics
from kingbus.addresses import Address
from kingbus.binlog.command import encode
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.mysql import auth, server
from kingbus.mysql.constants import Capability
from kingbus.mysql.packet import encode_payload
from kingbus.pb.command_pb2 import AcceptGap, Command, ReceiverSession, SourceConfig
from kingbus.replication.binlog_server import BinlogServer
from kingbus.replication.candidates import SourceCheckError
from kingbus.replication.dump_session import DumpProgress, DumpRefusedError, DumpRequest
from kingbus.replication.receiver import Receiver, Timings
from kingbus.replication.served_facts import ClusterIdentity
from kingbus.replication.status_values import status_values
from kingbus.replication.streams import SendingSink
from kingbus.replication.users import new_user, stored_user
from kingbus.secrets import SOURCE_PASSWORD, ClusterSecret
from tests.support.events import MODERN, OLD, BinlogFile, query
from tests.support.mariadb_events import some_of_everything
from tests.support.solo_node import SoloNode
from tests.unit.replication.served_facts import MemoryConnections, MemorySource

PASSWORD = "hunter2-correct"
A = bytes(range(16))
A_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"
SOURCE_UUID = "50b5308f-e4f4-11f1-a9f2-02fc00000001"
RSA_KEY = auth.PrivateKey.generate()
SHORT = Timings(
    retry_min=0.02,
    retry_max=0.05,
    operator_retry=0.1,
    fatal_retry_max=0.2,
    full_retry=0.02,
    full_patience=0.1,
)
DDL = [(2, query(b"CREATE TABLE t (a INT)"))]


@dataclass
class ScriptedSource:
    """Answers each dump with the next script: events, `more` to wait for, and how it ends."""

    facts: MemorySource = field(default_factory=MemorySource)
    scripts: list[Callable[[DumpRequest], list[bytes]]] = field(default_factory=list)
    requests: list[DumpRequest] = field(default_factory=list)
    refusals: list[DumpRefusedError | None] = field(default_factory=list)
    more: trio.Event = field(default_factory=trio.Event)
    later: list[bytes] = field(default_factory=list)
    asks: Callable[[bytes], bool] | None = None
    """Semi-sync's form: for which events an acknowledgement is wanted."""
    server: BinlogServer | None = None
    at_once: bool = False
    """All events of a script in one piece: they are read together."""
    skipped_numbers: bool = False
    ended: int = 0
    address: str = ""

    async def __call__(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None:
        self.requests.append(request)
        number, ended = len(self.requests) - 1, self.ended
        script = self.scripts[min(number, len(self.scripts) - 1)]
        await self._send(script(request), sink, progress)
        if number < len(self.refusals) and (refusal := self.refusals[number]) is not None:
            raise refusal
        while self.ended == ended:
            await self.more.wait()
            self.more = trio.Event()
            later, self.later = self.later, []
            await self._send(later, sink, progress)

    async def _send(self, events, sink, progress):
        pieces = []
        for event in events:
            asks = self.asks is not None and self.asks(event)
            mark = b"" if self.asks is None else bytes((0xEF, asks))
            data, number = encode_payload(b"\0" + mark + event, progress.next_sequence)
            progress.next_sequence = 1 if asks else number + self.skipped_numbers
            pieces.append(data)
        for piece in [b"".join(pieces)] if self.at_once else pieces:
            await sink.send(piece)

    def send(self, *events: bytes) -> None:
        self.later += events
        self.more.set()

    def end(self) -> None:
        """Ends the dumps that run."""
        self.ended += 1
        self.more.set()


@asynccontextmanager
async def serving(source: ScriptedSource) -> AsyncIterator[ScriptedSource]:
    server = BinlogServer(facts=source.facts, dumper=source, rsa_key=RSA_KEY)
    server.set_users([stored_user(new_user("repl", PASSWORD))])
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await server.start(Address(host="127.0.0.1", port=0))
        source.address = str(server.address)
        source.server = server
        yield source
        nursery.cancel_scope.cancel()


class Pull:
    def __init__(self, *, is_full=lambda: False, attached=tuple, lowest_version=2, channel_name=""):
        self.node = SoloNode()
        self.key = ClusterSecret.generate()
        self.identity = ClusterIdentity(1234, lambda: self.node.state)
        self.receiver = Receiver(
            node=self.node,
            relay=self.node.relay,
            identity=self.identity,
            secret=lambda: self.key,
            is_full=is_full,
            attached=attached,
            lowest_version=lambda: lowest_version,
            changed=lambda: self.node.changed,
            random=random.Random(1),
            timings=SHORT,
            channel_name=channel_name,
        )

    def config(self, *addresses, password=PASSWORD, **changed):
        facts = {"started": True, "addresses": addresses, "user": "repl", "mode": "gtid"}
        config = SourceConfig(**{**facts, **changed})
        config.password.CopyFrom(self.key.seal(password, SOURCE_PASSWORD))
        return config

    async def until(self, condition, what=""):
        with trio.move_on_after(20):
            while not condition():  # noqa: ASYNC110 - several objects, none with an event
                await trio.sleep(0.005)
            return
        raise AssertionError(f"{what}: {self.receiver.status()}, {self.node.state.visible}")

    async def until_whole(self, file):
        """All of the file is visible, and held byte for byte."""
        await self.until(lambda: self.node.state.visible.position == file.position)
        assert self.node.files()[file.name] == b"\xfebin" + b"".join(e.event for e in file.events)

    async def until_status(self, status, words=""):
        def is_there():
            now = self.receiver.status()
            return now.status == status and words in now.error

        await self.until(is_there, f"{status} {words}")


@asynccontextmanager
async def pulling(source: ScriptedSource, *more: str, **options) -> AsyncIterator[Pull]:
    """A receiver that pulls from the source."""
    is_full = options.pop("is_full", lambda: False)
    attached = options.pop("attached", tuple)
    lowest_version = options.pop("lowest_version", 2)
    channel_name = options.pop("channel_name", "")
    async with serving(source):
        pull = Pull(
            is_full=is_full,
            attached=attached,
            lowest_version=lowest_version,
            channel_name=channel_name,
        )
        pull.node.lead()
        pull.node.configure(pull.config(*more, source.address, **options))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull.receiver.run)
            yield pull
            nursery.cancel_scope.cancel()


def source_of(*files: BinlogFile, executed="", purged="", **options) -> ScriptedSource:
    """A source with these files, which sends them by position or from the start."""

    def script(request: DumpRequest) -> list[bytes]:
        sent = []
        for file in files:
            if request.kind == "position" and file.name == request.file_name:
                sent = list(file.sent_from(request.position))
            else:
                sent += file.sent_from(4)
        return sent

    source = ScriptedSource(scripts=[script], **options)
    source.facts.executed, source.facts.purged = executed, purged
    return source


def one_file(count=2) -> BinlogFile:
    file = BinlogFile("bin.000001").begin()
    for number in range(1, count + 1):
        file.transaction(A, number, DDL)
    return file


async def test_a_session_stores_what_comes():
    """First by GTID set; then each transaction as it comes; the metrics follow."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    events = metrics.value("kingbus_receiver_events_total")
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.executed == GtidSet.parse(f"{A_TEXT}:1-2"))
        assert pull.receiver.status().status == "running"
        assert pull.receiver.status().seconds_behind_source == 0
        assert metrics.value("kingbus_receiver_status", status="running") == 1
        (request,) = source.requests
        assert (request.kind, request.file_name, request.position) == ("gtid", "", 4)
        assert request.heartbeat_v2_accepted and request.checksum == "CRC32"
        assert request.heartbeat_period_s == 5
        assert request.server_id == pull.identity.server_id
        assert request.replica_uuid == pull.identity.server_uuid

        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until_whole(file)
        assert metrics.value("kingbus_receiver_events_total") - events == len(file.events)
        recorded = pull.node.state.source
        assert (recorded.source_uuid, recorded.source_id) == (SOURCE_UUID, 11)
        assert (recorded.epoch, recorded.source_version) == (1, "9.7.4-kingbus")


@pytest.mark.parametrize(("version", "is_told"), [(1, False), (2, True)])
async def test_a_session_says_what_every_member_understands(version: int, is_told: bool) -> None:
    """A cluster that is upgraded member by member goes on to pull; the rest is told afterwards."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source, lowest_version=version) as pull:
        await pull.until_whole(file)
        recorded = pull.node.state.source
        assert bool(recorded.mode) == bool(recorded.gtid_mode) == is_told
        assert bool(recorded.variables) == is_told


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
async def test_a_compressed_connection_carries_the_same(compression: str) -> None:
    """Byte for byte, whatever numbers the source's packets have: on a compressed connection real
    ones leave some out, and nobody looks."""
    file = one_file(300)
    source = source_of(file, executed=f"{A_TEXT}:1-301", at_once=True, skipped_numbers=True)
    async with pulling(source, compression=compression) as pull:
        await pull.until_whole(file)
        file.transaction(A, 301, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until_whole(file)
        assert pull.node.sessions() == 1


async def test_compression_that_a_source_does_not_offer_is_refused() -> None:
    """It is an operator's matter, and said in words; nothing is pulled without."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    with pytest.MonkeyPatch.context() as patch:
        offered = server.SERVER_CAPABILITIES & ~Capability.ZSTD_COMPRESSION_ALGORITHM
        patch.setattr(server, "SERVER_CAPABILITIES", offered)
        async with pulling(source, compression="zstd") as pull:
            await pull.until_status("error", "the source does not offer zstd compression")
            assert source.requests == []


async def test_the_dump_is_asked_for_only_after_the_session_is_applied():
    """While the session's entry is not committed no dump command goes out."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    async with serving(source):
        pull = Pull()
        pull.node.lead()
        pull.node.configure(pull.config(source.address))
        pull.node.is_holding = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull.receiver.run)
            await pull.until(lambda: pull.node._waiting, "a proposal")
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert source.requests == []
            pull.node.is_holding = False
            pull.node.commit()
            await pull.until_status("running")
            nursery.cancel_scope.cancel()


async def test_a_lost_connection_is_resumed_by_position():
    """The dump is asked for from the last transaction's start; nothing is stored twice."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        last = file.events[-2].start
        source.end()
        await pull.until(lambda: len(source.requests) >= 2, "a second session")
        assert (source.requests[1].kind, source.requests[1].position) == ("position", last)
        file.transaction(A, 3, DDL)
        await pull.until_status("running")
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until_whole(file)


async def test_stopped_stays_stopped_and_a_start_goes_on():
    """A stop ends the session at once; a new leader does not start it; a start resumes."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source) as pull:
        await pull.until_status("running")
        pull.node.configure(pull.config(source.address, started=False))
        await pull.until_status("stopped")
        assert pull.node.state.session == 0
        pull.node.step_down()
        pull.node.lead(2)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert pull.receiver.status().status == "stopped" and pull.node.sessions() == 1

        pull.node.configure(pull.config(source.address))
        await pull.until_status("running")
        assert pull.node.sessions() == 2


async def test_a_new_leader_goes_on_by_itself():
    """Without leadership it is stopped; with it it pulls as the log says."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source) as pull:
        await pull.until_status("running")
        pull.node.step_down()
        await pull.until_status("stopped")
        pull.node.lead(2)
        await pull.until_status("running")
        assert pull.node.sessions() == 2 and pull.node.state.source.term == 2


async def test_another_session_in_the_log_ends_this_one():
    """When the log refuses a batch the session ends, and a new one takes over."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        foreign = ReceiverSession(epoch=1, source_uuid=SOURCE_UUID, term=1, member_id=9)
        pull.node.held.command(Command(receiver_session=foreign))
        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until(lambda: pull.node.sessions() == 3, "a new session")
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        assert pull.node.state.executed == GtidSet.parse(f"{A_TEXT}:1-3")


async def test_a_batch_that_the_log_refuses_ends_the_session():
    """Everything behind it would be refused too, so a new session sends all of it again."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        await pull.until_status("running")
        commit = pull.node.held.commit

        def damaged(data):
            pull.node.held.commit = commit
            return commit(data[:-100])  # fewer packets than the batch says

        pull.node.held.commit = damaged
        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until(lambda: pull.node.sessions() == 2, "a new session")
        await pull.until_whole(file)


async def test_a_lost_proposal_ends_the_session():
    """Whether it is in the log nobody knows: a new session asks from what is applied."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        await pull.until_status("running")
        pull.node.is_holding = True
        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until(lambda: pull.node.under_way, "a proposal")
        pull.node.is_holding = False
        pull.node.lose()
        await pull.until(lambda: pull.node.sessions() == 2, "a new session")
        await pull.until_whole(file)


async def test_the_open_transactions_size_is_shown_while_it_arrives():
    """The gauge says how much of a transaction is here, and 0 when the session is over."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")

    def gauge():
        return metrics.value("kingbus_receiver_open_transaction_bytes")

    async with pulling(source) as pull:
        await pull.until_status("running")
        before = len(file.events)
        file.transaction(A, 3, [(2, query(b"BEGIN")), (30, bytes(500)), (16, bytes(8))])
        begin, rows = file.events[before : before + 4], file.events[before + 2]
        source.send(begin[0].event)
        await pull.until(lambda: gauge() == begin[0].end - begin[0].start)
        source.send(begin[1].event, rows.event)
        await pull.until(lambda: gauge() == rows.end - begin[0].start)
        assert pull.node.state.visible.position == begin[0].start
        pull.node.step_down()
        await pull.until_status("stopped")
        assert gauge() == 0


async def test_a_different_file_under_the_same_name_begins_an_epoch():
    """The source was set up anew with the same uuid: a new epoch, asked for by GTID set."""
    file, other = one_file(), BinlogFile("bin.000001", created=1_800_000_000)
    executed = GtidSet.parse(f"{A_TEXT}:1-2")
    other.begin(executed).transaction(A, 3, DDL)
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    source.scripts.append(lambda request: list(other.sent_from(request.position)))
    source.scripts.append(lambda _request: list(other.sent_from(4)))
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        source.end()
        await pull.until(lambda: len(source.requests) == 3, "a third session")
        await pull.until(lambda: pull.node.state.executed == GtidSet.parse(f"{A_TEXT}:1-3"))
        assert pull.node.state.epoch == 2
        assert [request.kind for request in source.requests] == ["gtid", "position", "gtid"]
        names = [row.served_name for row in pull.node.state.files]
        assert names == ["bin.000001", "e2-bin.000001"]


async def test_a_file_that_the_source_no_longer_has_is_asked_for_by_set():
    """Error 1236 for the file name: the next session asks by GTID set, in the same epoch."""
    file, follow = one_file(), BinlogFile("bin.000009")
    follow.begin(GtidSet.parse(f"{A_TEXT}:1-2")).transaction(A, 3, DDL)
    unknown = DumpRefusedError(
        1236, "HY000", "Could not find first log file name in binary log index file"
    )
    source = source_of(file, executed=f"{A_TEXT}:1-3", refusals=[None, unknown])
    source.scripts.append(lambda _request: [])
    source.scripts.append(lambda _request: list(follow.sent_from(4)))
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        source.end()
        await pull.until(lambda: len(source.requests) == 3, "a third session")
        await pull.until(lambda: pull.node.state.executed == GtidSet.parse(f"{A_TEXT}:1-3"))
        assert [request.kind for request in source.requests] == ["gtid", "position", "gtid"]
        assert source.requests[2].gtid_set == GtidSet.parse(f"{A_TEXT}:1-2")
        assert pull.node.state.epoch == 1
        await pull.until_status("running")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (DumpRefusedError(1236, "HY000", "the source purged required binary logs"), "purged"),
        (
            DumpRefusedError(
                1236,
                "HY000",
                "Client requested source to start replication from position > file size",
            ),
            "position > file size",
        ),
        (DumpRefusedError(1227, "42000", "Access denied; you need"), "Access denied"),
    ],
)
async def test_what_needs_an_operator_is_an_error_until_it_goes_away(refusal, words):
    """The source's own words are shown; when the cause is gone it runs again by itself."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2", refusals=[refusal, refusal])
    good = source.scripts[0]
    source.scripts = [lambda _request: [], lambda _request: [], good]
    async with pulling(source) as pull:
        await pull.until_status("error", words)
        await pull.until_status("running")
        assert len(source.requests) == 3


async def test_a_start_by_the_operator_tries_at_once():
    """The same configuration applied again ends the wait in state `error`."""
    refusal = DumpRefusedError(1236, "HY000", "the source purged required binary logs")
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2", refusals=[refusal])
    good = source.scripts[0]
    source.scripts = [lambda _request: [], good]
    async with serving(source):
        pull = Pull()
        pull.receiver._timings = Timings(operator_retry=3600)
        pull.node.lead()
        pull.node.configure(pull.config(source.address))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull.receiver.run)
            await pull.until_status("error")
            pull.node.configure(pull.config(source.address))
            await pull.until_status("running")
            nursery.cancel_scope.cancel()


async def test_a_replaced_dump_makes_it_ask_whether_it_still_leads():
    """Another dump with the cluster's uuid: read-index, then another try; never a stop."""
    replaced = DumpRefusedError(
        1236, "HY000", "A replica with the same server_uuid/server_id as this replica has connected"
    )
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2", refusals=[replaced])
    async with pulling(source) as pull:
        await pull.until(lambda: len(source.requests) == 2, "another try")
        await pull.until_status("running")
        assert pull.node.reads == 1


async def test_a_full_reserve_stops_the_reading_and_goes_on_when_there_is_room():
    """Nothing is proposed beyond the reserve; the words are the pinned ones."""
    full = [False]
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    async with pulling(source, is_full=lambda: full[0]) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        full[0] = True
        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until_status("error")
        assert pull.receiver.status().error == "reserve full"
        assert pull.node.state.executed.count() == 2
        full[0] = False
        await pull.until(lambda: pull.node.state.visible.position == file.position)


async def test_a_reserve_that_is_full_for_a_moment_ends_no_session():
    """A purge makes room: until then it only stops reading."""
    looks = []

    def is_full():
        looks.append(len(looks))
        return 3 <= len(looks) <= 5

    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-3")
    async with pulling(source, is_full=is_full) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        assert len(looks) > 5
        assert pull.node.sessions() == 1


async def test_the_next_candidate_has_its_turn_when_the_first_is_unreachable():
    """Three failures in a row, then the other address."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    with trio.socket.socket() as closed:
        await closed.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{closed.getsockname()[1]}"
        async with pulling(source, dead) as pull:
            await pull.until_status("connecting", "refused")
            await pull.until_status("running")
            assert pull.receiver.status().address == source.address


async def test_a_candidate_that_does_not_fit_is_passed_over():
    """gtid_mode OFF at the first: the second is pulled from; alone it is an error."""
    unfit = source_of(one_file(), executed="")
    unfit.facts.gtid_mode = "OFF"
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    async with serving(unfit), pulling(source, unfit.address) as pull:
        await pull.until_status("running")
        assert pull.receiver.status().address == source.address
        pull.node.configure(pull.config(unfit.address))
        await pull.until_status("error", "gtid_mode=OFF")


async def test_sets_that_do_not_fit_are_an_error_that_names_them():
    """Checked before the session: the log gets no session that could not go on."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.executed.count() == 2)
        sessions = pull.node.sessions()
        source.facts.executed, source.facts.purged = f"{A_TEXT}:1-9", f"{A_TEXT}:1-5"
        source.end()
        await pull.until_status("error", f"{A_TEXT}:3-5")
        source.facts.executed, source.facts.purged = f"{A_TEXT}:1", ""
        await pull.until_status("error", f"that the source lacks: {A_TEXT}:2")
        assert pull.node.sessions() == sessions


async def test_a_source_that_only_lagged_is_not_waited_for_as_for_an_operator():
    """A node of another relay cluster, restarted, has less for a moment than was pulled from it."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    async with serving(source):
        pull = Pull()
        pull.receiver._timings = replace(SHORT, operator_retry=3600)
        pull.node.lead()
        pull.node.configure(pull.config(source.address))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull.receiver.run)
            await pull.until(lambda: pull.node.state.executed.count() == 2)
            for _ in range(2):
                source.facts.executed = f"{A_TEXT}:1"
                source.end()
                await pull.until_status("error", f"that the source lacks: {A_TEXT}:2")
                source.facts.executed = f"{A_TEXT}:1-2"
                await pull.until_status("running")
            nursery.cancel_scope.cancel()


async def test_a_mariadb_source_is_asked_as_its_own_replicas_ask():
    """By position told before the first dump, with ANNOTATE_ROWS; by file and position again."""
    first = some_of_everything(gtids=GtidSet.parse("0-1-5"), first=6)
    facts = MemorySource(
        flavor="mariadb", version="10.11.19-MariaDB-log", executed="0-1-12", purged="0-1-5"
    )

    def script(request):
        return list(first.sent_from(4 if request.kind == "gtid" else request.position))

    async with (
        serving(ScriptedSource(facts=facts, scripts=[script])) as source,
        pulling(source, flavor="mariadb") as pull,
    ):
        await pull.until(lambda: pull.node.state.visible.position == first.position)
        source.end()
        await pull.until(lambda: len(source.requests) == 2)
        await pull.until_status("running")
    asked, again = source.requests
    assert (asked.kind, str(asked.gtid_set), asked.wants_annotations) == ("gtid", "0-1-5", True)
    assert asked.mariadb_capability == again.mariadb_capability == 4
    assert (again.kind, again.file_name) == ("position", first.name)
    state = pull.node.state
    assert (str(state.executed), str(state.purged)) == ("0-1-12", "0-1-5")
    assert state.source.source_version == "10.11.19-MariaDB-log"
    assert state.flavor == "mariadb"


@pytest.mark.parametrize("had", ["0-1-5", "0-1-8"])
async def test_the_head_of_a_file_that_begins_inside_is_asked_for_by_position(had: str) -> None:
    """A source with a GTID index leaves it out; then the dump goes on, by GTID where something of
    the file is had already, without a wait between and without an error."""
    first = some_of_everything(gtids=GtidSet.parse("0-1-5"), first=6, gathered=True)
    begins = next(e.start for e in first.events if e.gtid and e.gtid[2] == int(had[4:]) + 1)
    version = "11.8.6-MariaDB-log"
    facts = MemorySource(flavor="mariadb", version=version, executed="0-1-12", purged="0-1-5")

    def script(request):
        if request.kind == "gtid":
            return list(first.begun_inside(begins, GtidSet.parse(had)))
        return list(first.sent_from(request.position))

    async with (
        serving(ScriptedSource(facts=facts, scripts=[script])) as source,
        pulling(source, flavor="mariadb", start_from=had) as pull,
    ):
        await pull.until(lambda: pull.node.state.visible.position == first.position)
        assert pull.receiver.status().error == ""
    kinds = [(each.kind, each.file_name) for each in source.requests]
    by_position = ("position", first.name)
    last = by_position if had == "0-1-5" else ("gtid", "")
    assert kinds == [("gtid", ""), by_position, last]
    assert pull.node.state.visible.position == first.position
    assert str(pull.node.state.executed) == "0-1-12"
    head = b"\xfebin" + b"".join(e.event for e in first.events[:2])
    assert pull.node.files()[first.name].startswith(head)


async def test_a_source_of_the_other_flavor_is_an_error_that_names_both():
    """Whatever of configuration and source is MariaDB's."""
    facts = MemorySource(flavor="mariadb", version="10.11.19-MariaDB-log", executed="", purged="")
    async with serving(ScriptedSource(facts=facts)) as source, pulling(source) as pull:
        await pull.until_status("error", "the source is a mariadb server (10.11.19-MariaDB-log)")
        await pull.until_status("error", "a mysql source is configured")


async def test_a_wrong_checksum_is_counted_and_read_again():
    """Nothing of a corrupt event is stored; the next session reads it right."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    good = source.scripts[0]

    def corrupt(request):
        sent = good(request)
        sent[-1] = sent[-1][:30] + bytes((sent[-1][30] ^ 1,)) + sent[-1][31:]
        return sent

    source.scripts = [corrupt, good]
    before = metrics.value("kingbus_receiver_checksum_mismatches_total")
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        assert metrics.value("kingbus_receiver_checksum_mismatches_total") == before + 1
        assert pull.node.files()[file.name] == b"\xfebin" + b"".join(e.event for e in file.events)


def wrong_checksum(event):
    return event[:30] + bytes((event[30] ^ 1,)) + event[31:]


def wrong_size(event):
    return event[:9] + b"\0\0\0\0" + event[13:]


@pytest.mark.parametrize("broken", [wrong_checksum, wrong_size])
async def test_an_error_right_behind_a_transaction_is_acted_on_at_once(broken):
    """Both are read together, and the source has nothing more to say: it is asked again."""
    file = one_file(3)
    source = source_of(file, executed=f"{A_TEXT}:1-3", at_once=True)
    good = source.scripts[0]

    def breaks_off(request):
        sent = good(request)
        return [*sent[:-1], broken(sent[-1])]

    source.scripts = [breaks_off, good]
    async with pulling(source) as pull:
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        assert len(source.requests) == 2
        assert pull.node.files()[file.name] == b"\xfebin" + b"".join(e.event for e in file.events)


async def test_what_comes_while_proposals_wait_is_gathered():
    """When commits are slow, a few proposals wait and the rest makes larger batches."""
    file = one_file(1)
    source = source_of(file, executed=f"{A_TEXT}:1-60")
    async with pulling(source) as pull:
        await pull.until_status("running")
        pull.node.is_holding = True
        for number in range(2, 61):
            file.transaction(A, number, DDL)
            source.send(*[e.event for e in file.events[-2:]])
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert len(pull.node._waiting) <= 8
        pull.node.is_holding = False
        pull.node.commit()
        await pull.until(lambda: pull.node.state.visible.position == file.position)
        assert len(pull.node.batches()) < 20


async def test_a_check_says_no_in_the_sources_own_words():
    """Wrong password, unreachable, no MySQL server: one sentence, no password, nothing changed."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    async with serving(source):
        pull = Pull()
        facts = await pull.receiver.check_source(pull.config(source.address), PASSWORD)
        assert facts.server_uuid == SOURCE_UUID and str(facts.gtid_executed) == f"{A_TEXT}:1-2"
        with pytest.raises(SourceCheckError, match="Access denied for user 'repl'"):
            await pull.receiver.check_source(pull.config(source.address), "wrong")
        with pytest.raises(SourceCheckError, match="must be HOST:PORT"):
            await pull.receiver.check_source(pull.config("nowhere"), PASSWORD)
        assert source.requests == [] and pull.node.sessions() == 0

    async def talk_nonsense(stream):
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, talk_nonsense, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(SourceCheckError, match=f"127.0.0.1:{port}"):
            await pull.receiver.check_source(pull.config(f"127.0.0.1:{port}"), PASSWORD)
        nursery.cancel_scope.cancel()


async def test_a_password_sealed_with_another_key_is_an_error():
    """It is said which key is missing, never what was sealed."""
    source = source_of(one_file(), executed=f"{A_TEXT}:1-2")
    async with pulling(source) as pull:
        await pull.until_status("running")
        foreign = pull.config(source.address)
        foreign.password.CopyFrom(ClusterSecret.generate().seal("secret", SOURCE_PASSWORD))
        pull.node.configure(foreign)
        await pull.until_status("error", "the stored password cannot be read")


# Without GTIDs -----------------------------------------------------------------------------------


def anonymous_file(name="bin.000001", *, old=False) -> BinlogFile:
    """Of a source with gtid_mode OFF; one of 5.6 has no GTID events at all."""
    file = BinlogFile(name, version=OLD if old else MODERN)
    if not old:
        return file.begin().transaction(b"", 0, DDL).transaction(b"", 0, DDL)
    file.format_description()
    for _ in range(2):
        file.add(EventType.QUERY, query(b"BEGIN")).add(EventType.QUERY, query(b"INSERT"))
        file.add(EventType.XID, bytes(8)).add(EventType.QUERY, query(b"CREATE TABLE u (a INT)"))
    return file


@pytest.mark.parametrize("old", [False, True])
async def test_a_source_without_gtids_is_pulled_by_position(old: bool):
    """From its oldest file on; after a lost connection from where the relay ends; no set is ever
    asked for, and nothing is counted as executed."""
    file = anonymous_file(old=old)
    source = source_of(file)
    source.facts.gtid_mode = "OFF"
    async with pulling(source, mode="position") as pull:
        await pull.until_whole(file)
        assert pull.receiver.status().status == "running"
        source.end()
        await pull.until(lambda: len(source.requests) >= 2, "a second session")
        file.add(EventType.QUERY, query(b"DROP TABLE t")) if old else file.transaction(b"", 0, DDL)
        await pull.until_status("running")
        source.send(*[e.event for e in file.events[-1 if old else -2 :]])
        await pull.until_whole(file)
        assert [request.kind for request in source.requests] == ["position"] * 2
        first, second = source.requests
        assert (first.file_name, first.position) == ("", 4)
        assert (second.file_name, second.position > 4) == (file.name, True)
        assert not pull.node.state.executed
        assert (pull.node.state.source.mode, pull.node.state.source.gtid_mode) == (
            "position",
            "OFF",
        )


async def test_now_is_the_file_that_a_source_without_gtids_is_writing():
    """It is asked for by name, from its beginning."""
    file = anonymous_file("binlog.000003")
    source = source_of(anonymous_file("binlog.000002"), file)
    source.facts.gtid_mode = "OFF"
    async with pulling(source, mode="position", start_from="now") as pull:
        await pull.until_whole(file)
        assert [each.name for each in pull.node.state.files] == [file.name]
        assert source.requests[0].file_name == file.name


async def test_without_gtids_a_lost_file_is_an_operators_matter():
    """A source that purged the file of the relay cannot be gone on with, and no set can be asked
    for instead."""
    file = anonymous_file()
    source = source_of(file)
    source.facts.gtid_mode = "OFF"
    gone = DumpRefusedError(
        1236, "HY000", "Could not find first log file name in binary log index file"
    )
    source.refusals = [None, *[gone] * 50]
    async with pulling(source, mode="position") as pull:
        await pull.until_whole(file)
        source.scripts = [source.scripts[0], lambda _: []]
        source.end()
        await pull.until_status("error", "nobody can tell where to go on")
        assert {request.kind for request in source.requests} == {"position"}
        assert pull.node.state.epoch == 1


async def test_a_candidate_that_replicates_from_this_relay_is_no_source_yet():
    """It has all that the relay has and would never get more; once promoted it is taken. An
    operator who puts it first knows better."""
    file, attached = one_file(), {SOURCE_UUID.upper()}
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source, "127.0.0.1:1", attached=lambda: attached) as pull:
        await pull.until_status("connecting", "once it is promoted")
        assert pull.node.sessions() == 0
        attached.clear()
        await pull.until_whole(file)
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source, attached=lambda: {SOURCE_UUID}) as pull:
        await pull.until_whole(file)


async def test_a_source_that_came_back_as_a_replica_of_the_relay_is_not_pulled_from():
    """Though it is the first candidate: it has all that the relay has, and nothing else ever. Only
    who has just chosen it knows better."""
    file, attached = one_file(), set()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source, attached=lambda: attached) as pull:
        await pull.until_whole(file)
        attached.add(SOURCE_UUID)
        sessions = pull.node.sessions()
        source.end()
        await pull.until_status("connecting", "once it is promoted")
        assert pull.node.sessions() == sessions
        pull.receiver.take_first()
        await pull.until_status("running")
        source.end()
        await pull.until_status("connecting", "once it is promoted")


async def test_a_new_leader_goes_on_with_the_present_source():
    """And not with the first of the candidates, which was lost, and is there again; a new order of
    them is taken at its word."""
    file = one_file()
    first = source_of(file, executed=f"{A_TEXT}:1-2")
    first.facts.gtid_mode = "OFF"
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with serving(first), pulling(source, first.address) as pull:
        await pull.until_status("running")
        assert pull.receiver.status().address == source.address
        first.facts.gtid_mode = "ON"
        pull.node.step_down()
        await pull.until_status("stopped")
        pull.node.lead(2)
        await pull.until_status("running")
        assert (pull.receiver.status().address, first.requests) == (source.address, [])
        pull.node.configure(pull.config(source.address, first.address))
        pull.node.configure(pull.config(first.address, source.address))
        await pull.until(lambda: first.requests)


async def test_while_it_is_held_nothing_is_pulled_and_then_it_goes_on():
    """What was under way may yet come; nothing is proposed any more, whatever the source sends.
    Nothing of it is in the log: a start in between does not end it, and another leader is free."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source) as pull:
        await pull.until_whole(file)
        with pull.receiver.held():
            await pull.receiver.halted()
            await pull.until_status("stopped")
            entries, asked = len(pull.node.held.log.entries), len(source.requests)
            source.facts.executed = f"{A_TEXT}:1-3"
            file.transaction(A, 3, DDL)
            source.send(*(event.event for event in file.events[-2:]))
            pull.node.configure(pull.config(source.address))
            pull.node.step_down()
            pull.node.lead(2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(pull.node.held.log.entries) == entries + 1
            assert len(source.requests) == asked
            assert pull.receiver.status().status == "stopped"
        await pull.until_whole(file)
        await pull.until_status("running")


async def test_what_was_under_way_is_compared_before_a_session_goes_on():
    """A batch of the session before is committed only after the next source was looked at, which
    lacks it: to go on there would part the replicas from it. No dump is asked for."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source) as pull:
        await pull.until_whole(file)
        pull.node.is_holding = True
        events = len(file.events)
        file.transaction(A, 3, DDL)
        source.send(*(event.event for event in file.events[events:]))
        await pull.until(lambda: pull.node.under_way == 1)
        with pull.receiver.held():
            await pull.receiver.halted()
        await pull.until(lambda: pull.node.under_way == 2, "a session behind the batch")
        pull.node.is_holding = False
        pull.node.commit()
        await pull.until_status("error", f"that the source lacks: {A_TEXT}:3")
        assert pull.node.state.executed.count() == 3
        assert len(source.requests) == 1
        source.facts.executed = f"{A_TEXT}:1-3"
        await pull.until_status("running")


async def test_a_gap_that_is_accepted_under_a_session_begins_an_epoch():
    """The session was planned before, and comes behind it in the log: nothing is asked for in the
    file that ends at the gap."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-9")
    async with pulling(source) as pull:
        await pull.until_whole(file)
        pull.node.is_holding = True
        gap = AcceptGap(gtids=GtidSet.parse(f"{A_TEXT}:3-5").encode())
        await pull.node.propose(encode(Command(accept_gap=gap)))
        source.end()
        await pull.until(lambda: pull.node.under_way == 2, "a session behind the gap")
        pull.node.is_holding = False
        pull.node.commit()
        await pull.until(lambda: pull.node.state.epoch == 2)
        await pull.until(lambda: len(source.requests) > 1, "a dump")
        assert [request.kind for request in source.requests[1:]] == ["gtid"]


# Semi-sync -------------------------------------------------------------------------------------


def asks_for_transactions(event: bytes) -> bool:
    """Each of `DDL` ends its transaction."""
    return event[4] == 2


def semi_sync_source(file: BinlogFile, **options) -> ScriptedSource:
    source = source_of(file, asks=asks_for_transactions, **options)
    source.facts.semi_sync = True
    return source


def acknowledged(source: ScriptedSource) -> tuple[str, int]:
    """What the dump that runs was told of last."""
    assert source.server is not None
    for replica in source.server.replicas():
        return replica.acknowledged_file, replica.acknowledged_position
    return "", 0


async def test_nothing_is_acknowledged_before_it_is_committed():
    """The source waits as long as the entry does, and is then told the end of what is visible."""
    file = one_file()
    source = semi_sync_source(file, executed=f"{A_TEXT}:1-3")
    async with pulling(source, semi_sync=True) as pull:
        await pull.until_whole(file)
        held = file.position
        await pull.until(lambda: acknowledged(source) == (file.name, held), "the first ones")
        assert source.requests[0].semi_sync
        pull.node.is_holding = True
        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until(lambda: pull.node.under_way, "a proposal")
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert acknowledged(source) == (file.name, held)

        pull.node.is_holding = False
        pull.node.commit()
        await pull.until(lambda: acknowledged(source) == (file.name, file.position), "the last")
        status = pull.receiver.status()
        assert status.semi_sync_active and status.acknowledged == (file.name, file.position)
        await pull.until_whole(file)


@pytest.mark.parametrize(("name", "other"), [("", "second"), ("second", "")])
async def test_each_channel_counts_its_own_acknowledgements(name: str, other: str):
    """Whether the source is acknowledged, and how often, is not written over another channel's."""

    def counted(channel: str) -> list[float]:
        kind, labels = ("channel_receiver", {"channel": channel}) if channel else ("receiver", {})
        words = ("active", "asked_total", "acks_total")
        return [metrics.value(f"kingbus_{kind}_semi_sync_{word}", **labels) for word in words]

    before, others = counted(name), counted(other)
    source = semi_sync_source(one_file(), executed=f"{A_TEXT}:1-2")
    async with pulling(source, semi_sync=True, channel_name=name) as pull:
        await pull.until(lambda: counted(name)[2] > before[2], "an acknowledgement")
        assert counted(name)[0] == 1 and counted(name)[1] > before[1]
        for channel in (name, other):
            connections = MemoryConnections(channel_name=channel)
            shown = status_values(connections)["Rpl_semi_sync_replica_status"]
            assert shown == ("ON" if channel == name else "OFF")
    assert counted(name)[0] == 0
    assert counted(other) == others


async def test_what_the_relay_has_already_is_acknowledged_when_it_is_sent_again():
    """A source may wait for the transaction that a dead leader committed and did not tell of."""
    file = one_file()
    source = semi_sync_source(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source, semi_sync=True) as pull:
        await pull.until_whole(file)
        source.end()
        await pull.until(lambda: len(source.requests) >= 2, "a second session")
        assert source.requests[1].kind == "position"
        await pull.until(
            lambda: len(source.requests) == 2 and acknowledged(source)[1] == file.position,
            "what was sent again",
        )
        assert pull.node.state.executed == GtidSet.parse(f"{A_TEXT}:1-2")


async def test_what_the_relay_has_is_acknowledged_though_it_is_not_sent_again():
    """By set it is left out of the dump, and nothing asks: each session tells once by itself."""
    file = one_file()
    source = semi_sync_source(file, executed=f"{A_TEXT}:1-2")
    source.asks = lambda event: False
    async with pulling(source, semi_sync=True) as pull:
        await pull.until_whole(file)
        source.end()
        await pull.until(
            lambda: (
                len(source.requests) == 2 and acknowledged(source) == (file.name, file.position)
            ),
            "what nobody asked for",
        )


async def test_a_lost_proposal_is_not_acknowledged():
    """Only the session that stored it tells of it, when the source has sent it again."""
    file = one_file()
    source = semi_sync_source(file, executed=f"{A_TEXT}:1-3")
    acks = metrics.value("kingbus_receiver_semi_sync_acks_total")
    async with pulling(source, semi_sync=True) as pull:
        held = file.position
        await pull.until(lambda: acknowledged(source) == (file.name, held))
        assert metrics.value("kingbus_receiver_semi_sync_acks_total") > acks
        pull.node.is_holding = True
        file.transaction(A, 3, DDL)
        source.send(*[e.event for e in file.events[-2:]])
        await pull.until(lambda: pull.node.under_way, "a proposal")
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert acknowledged(source) == (file.name, held)
        pull.node.is_holding = False
        pull.node.lose()
        await pull.until(lambda: acknowledged(source) == (file.name, file.position), "at last")
        await pull.until_whole(file)


async def test_semi_sync_that_the_source_does_not_have_is_done_without():
    """It answers 1193, as a source without the plugin: the stream is a plain one, and is taken."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    async with pulling(source, semi_sync=True) as pull:
        await pull.until_whole(file)
        await pull.until_status("running")
        assert not source.requests[0].semi_sync
        assert not pull.receiver.status().semi_sync_active
        assert acknowledged(source) == ("", 0)


async def test_semi_sync_is_asked_for_only_where_it_is_configured():
    """Though the source has it."""
    file = one_file()
    source = source_of(file, executed=f"{A_TEXT}:1-2")
    source.facts.semi_sync = True
    async with pulling(source) as pull:
        await pull.until_whole(file)
        assert not source.requests[0].semi_sync
