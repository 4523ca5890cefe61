"""The listener with real clients over loopback, and a small source in memory behind it."""

import random
import ssl
import uuid as uuids
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pymysql
import pytest
import trio
import trio.testing

from kingbus import metrics
from kingbus.addresses import Address
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.semi_sync import acknowledgement
from kingbus.mysql import auth
from kingbus.mysql.commands import (
    BinlogDump,
    BinlogDumpGtid,
    RegisterReplica,
    encode_dump,
    encode_dump_gtid,
    encode_register,
)
from kingbus.mysql.constants import PACKET_PAYLOAD_MAX, Capability, ColumnType, DumpFlag
from kingbus.mysql.errors import MySQLError
from kingbus.mysql.packet import encode_payload
from kingbus.mysql.resultset import Column, ResultSet
from kingbus.replication.binlog_server import (
    AddressInUseError,
    BinlogServer,
    ListenError,
    greeted_plugin,
    greeted_version,
)
from kingbus.replication.dump_session import DumpProgress, DumpRefusedError, DumpRequest
from kingbus.replication.prepared import PreparedStatements
from kingbus.replication.streams import SendingSink
from kingbus.replication.users import new_user, stored_user
from tests.support.certificates import certificate
from tests.unit.replication.raw_client import FLAGS, Framed, RawClient
from tests.unit.replication.served_facts import UUID, MemorySource

KEY = auth.PrivateKey.generate()
PASSWORD = "hunter2"
USERS = [
    stored_user(new_user("repl", PASSWORD)),
    stored_user(new_user("reader", PASSWORD, ())),
    stored_user(new_user("root", PASSWORD, ("replication", "admin"))),
]
LOCAL = Address(host="127.0.0.1", port=0)
REPLICA = "51e89af9-e4f4-11f1-8609-02fc00000001"
OK = bytes.fromhex("00000002000000")


@dataclass
class MemoryDumper:
    """Dumps a fixed list of events, then ends, waits for ever, or fails."""

    events: list[bytes] = field(default_factory=lambda: [b"rotate", b"format", b"event"])
    failure: Exception | None = None
    requests: list[DumpRequest] = field(default_factory=list)

    async def __call__(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None:
        self.requests.append(request)
        progress.file, progress.position = "binlog.000003", 700
        progress.last_transaction = (uuids.UUID(UUID).bytes, "", 28)
        progress.last_event_time = 940
        for event in self.events:
            data, progress.next_sequence = encode_payload(b"\0" + event, progress.next_sequence)
            await sink.send(data)
        if self.failure is not None:
            raise self.failure
        if not request.non_blocking:
            await trio.sleep_forever()


@asynccontextmanager
async def serving(**options: object) -> AsyncIterator[BinlogServer]:
    """A listener on a free port of loopback."""
    arguments = {"facts": MemorySource(), "dumper": MemoryDumper(), "rsa_key": KEY} | options
    server = BinlogServer(**arguments)
    server.set_users(USERS)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await server.start(LOCAL)
        with trio.fail_after(20):
            yield server
        nursery.cancel_scope.cancel()


async def connect(server: BinlogServer) -> RawClient:
    assert server.address is not None
    return RawClient(await trio.open_tcp_stream("127.0.0.1", server.address.port))


async def replica(server: BinlogServer, user: str = "repl", uuid: str = REPLICA) -> RawClient:
    """A client that is logged in and has said what replicas say."""
    client = await connect(server)
    assert await client.login(user, PASSWORD) == OK
    if uuid:
        assert await client.execute(f"SET @slave_uuid = '{uuid}', @replica_uuid = '{uuid}'") == OK
    return client


async def until(condition) -> None:
    """Wait for a condition; the deadline is `serving`'s."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.001)


def dump_gtid(gtid_set: bytes = bytes(8), *, flags: int = 2, server_id: int = 71) -> bytes:
    return encode_dump_gtid(
        BinlogDumpGtid(
            file="", position=4, flags=DumpFlag(flags), server_id=server_id, gtid_set=gtid_set
        )
    )


def dump_position(file: str = "", position: int = 4) -> bytes:
    """COM_BINLOG_DUMP as a MariaDB replica sends it."""
    head = b"\x12" + position.to_bytes(4, "little") + b"\2\0" + (71).to_bytes(4, "little")
    return head + file.encode()


async def begin_dump(client: RawClient, payload: bytes | None = None) -> None:
    await client.send(payload or dump_gtid())
    for event in (b"rotate", b"format", b"event"):
        assert await client.payload() == b"\0" + event


def login(server: BinlogServer, **arguments: object) -> list:
    """Log in with a real client and ask something; what it got."""
    options = {"user": "repl", "password": PASSWORD, "read_timeout": 10} | arguments
    with (
        pymysql.connect(host="127.0.0.1", port=server.address.port, **options) as client,
        client.cursor() as cursor,
    ):
        cursor.execute("SELECT @@server_id, @@server_uuid")
        return list(cursor.fetchall())


# Login -----------------------------------------------------------------------------------------


async def test_a_second_login_takes_the_fast_path() -> None:
    """The first one is checked against the verifier, and remembered until the password changes."""
    async with serving() as server:
        assert server.users.account("repl").fast_digest is None
        for _ in range(2):
            assert await trio.to_thread.run_sync(login, server) == [(11, UUID)]
            assert server.users.account("repl").fast_digest is not None
        server.set_users([stored_user(new_user("repl", "other"))])
        assert server.users.account("repl").fast_digest is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"password": "wrong"}, 1045),
        ({"password": ""}, 1045),
        ({"user": "nobody"}, 1045),
        ({"database": "shop"}, 1044),
    ],
)
async def test_logins_that_are_refused(arguments: dict, code: int) -> None:
    """A wrong password, none, an unknown user, a database that is not there."""
    async with serving() as server:
        with pytest.raises(pymysql.MySQLError) as caught:
            await trio.to_thread.run_sync(lambda: login(server, **arguments))

        assert caught.value.args[0] == code
        assert PASSWORD not in str(caught.value)


async def test_failed_logins_are_slowed(autojump_clock) -> None:
    """The more failures in a row from one host, the later the answer; a right login ends it."""
    async with serving() as server:
        waits = []
        for password in ["wrong"] * 9 + [PASSWORD, "wrong"]:
            async with await connect(server) as client:
                before = trio.current_time()
                await client.login("repl", password)
                waits.append(round(trio.current_time() - before, 3))

        assert waits == [0, 0, 0, 0.25, 0.5, 1, 2, 4, 4, 0, 0]


async def test_a_client_that_says_nothing_is_dropped(autojump_clock) -> None:
    """After ten seconds without a login the connection is closed."""
    async with serving() as server, await connect(server) as client:
        await client.payload()
        before = trio.current_time()
        assert await client.packet() is None

        assert trio.current_time() - before == pytest.approx(10, abs=0.1)
        await until(lambda: not len(server.connections))


async def test_strangers_cannot_take_every_place() -> None:
    """Beyond a number of connections without a login, and beyond one of all, there is 1040."""
    async with serving(logins_max=2, connections_max=3) as server:
        strangers = [await connect(server) for _ in range(2)]
        await until(lambda: server.connections.logging_in == 2)
        async with await connect(server) as client:
            assert (await client.payload())[:3] == b"\xff\x10\x04"
            assert await client.packet() is None
        for stranger in strangers:
            assert await stranger.login("repl", PASSWORD) == OK
        async with await replica(server), await connect(server) as client:
            assert (await client.payload())[:3] == b"\xff\x10\x04"
        for stranger in strangers:
            await stranger.stream.aclose()


async def test_garbage_gets_one_error_and_harms_nobody() -> None:
    """A client that speaks something else is told once; the others go on."""
    async with serving() as server, await replica(server) as other:
        async with await connect(server) as client:
            await client.payload()
            await client.stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert (await client.stream.receive_some())[4:7] == b"\xff\x84\x04"
            assert await client.stream.receive_some() == b""
        assert await other.execute("SET @a = 1") == OK


async def test_login_through_tls(tmp_path: Path) -> None:
    """Where a certificate is configured TLS is offered, and the password travels inside."""
    certificate_file, key_file = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    async with serving(ssl_context=context) as server:
        for _ in range(2):  # in full, then fast
            got = await trio.to_thread.run_sync(
                lambda: login(server, ssl_ca=str(certificate_file), ssl_verify_identity=False)
            )
            assert got == [(11, UUID)]
        # Without TLS it goes on as before.
        assert await trio.to_thread.run_sync(lambda: login(server, ssl_disabled=True))


@pytest.mark.parametrize("plugin", ["native", "switched to native", "full sha2", "fast sha2"])
async def test_every_way_to_log_in_goes_through_tls(tmp_path: Path, plugin: str) -> None:
    """Then a dump comes the same way, packet for packet."""
    certificate_file, key_file = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    async with serving(ssl_context=context, require_tls=True) as server:
        if plugin == "fast sha2":
            server.users.remember(server.users.account("repl"), PASSWORD.encode())
        async with await connect(server) as client:
            await client.start_tls(ssl.create_default_context(cafile=str(certificate_file)))
            assert await client.login("repl", PASSWORD, plugin=plugin) == OK
            await begin_dump(client)


async def test_where_tls_is_required_nobody_comes_in_without(tmp_path: Path) -> None:
    """Error 3159, before any password is spoken of, for known and unknown users alike."""
    certificate_file, key_file = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    async with serving(ssl_context=context, require_tls=True) as server:
        for user in ("repl", "nobody"):
            async with await connect(server) as client:
                assert (await client.login(user, PASSWORD))[:3] == b"\xff\x57\x0c"
                assert await client.packet() is None


# Compression -------------------------------------------------------------------------------------

ZLIB, ZSTD = Capability.COMPRESS, Capability.ZSTD_COMPRESSION_ALGORITHM


@pytest.mark.parametrize("wanted", [ZLIB, ZSTD, ZLIB | ZSTD])
@pytest.mark.parametrize("inside_tls", [False, True])
async def test_statements_and_dumps_are_compressed(
    tmp_path: Path, wanted: Capability, inside_tls: bool
) -> None:
    """Behind the login everything travels in frames; the packets in them are what they would be."""
    certificate_file, key_file = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    events = [b"r" * 40, b"f" * 120, b"e" * 700_000, bytes(PACKET_PAYLOAD_MAX), b"x"]
    async with (
        serving(ssl_context=context, dumper=MemoryDumper(events=events)) as server,
        await connect(server) as client,
    ):
        if inside_tls:
            await client.start_tls(ssl.create_default_context(cafile=str(certificate_file)))
        assert await client.login("repl", PASSWORD, flags=FLAGS | wanted) == OK
        frames = client.start_frames(wanted)
        for _ in range(3):
            assert await client.execute("SET @a = 1") == OK
        assert (await client.execute("SELECT @@nosuch"))[:3] == b"\xff\xa9\x04"
        assert frames.compressed == 0  # too short
        await client.send(dump_gtid(flags=1))
        for event in events:
            assert await client.payload() == b"\0" + event
        assert await client.payload() == bytes.fromhex("fe00000200")
        assert await client.packet() is None
        assert frames.compressed > 60
        assert server.dumper.requests[0].non_blocking


async def test_a_compressed_dump_is_ended_with_its_error() -> None:
    """What the client says meanwhile moves no number; the error carries on those of the dump."""
    async with serving() as server, await connect(server) as client, await replica(server) as other:
        assert await client.login("repl", PASSWORD, flags=FLAGS | ZLIB) == OK
        client.start_frames(ZLIB)
        await client.execute(f"SET @replica_uuid = '{REPLICA}'")
        await begin_dump(client)
        assert isinstance(client.stream, Framed)
        following = client.stream._next
        for _ in range(3):
            await client.stream.send_all(encode_payload(b"\x0e", 0)[0])
        client.stream._next = following
        await begin_dump(other)
        assert (await client.error()).code == 1236
        assert await client.packet() is None


@pytest.mark.parametrize("wanted", [ZLIB, ZSTD])
async def test_a_slow_compressed_client_gets_whole_frames_before_the_error(
    wanted: Capability,
) -> None:
    """A dump that is replaced in the middle of a large buffer ends between two packets."""
    large = MemoryDumper(events=[random.Random(1).randbytes(8 << 20)])
    async with (
        serving(dumper=large) as server,
        await connect(server) as first,
        await replica(server) as second,
    ):
        assert await first.login("repl", PASSWORD, flags=FLAGS | wanted) == OK
        first.start_frames(wanted)
        await first.execute(f"SET @replica_uuid = '{REPLICA}'")
        await first.send(dump_gtid())
        await until(lambda: len(server.replicas()) == 1)
        await second.send(dump_gtid())
        assert await first.payload() == b"\0" + large.events[0]
        assert (await first.error()).code == 1236


@pytest.mark.slow
async def test_a_compressed_client_that_takes_nothing_cannot_hold_up_the_end() -> None:
    """It is given a second, then cut off; others are not held up by it."""
    large = MemoryDumper(events=[random.Random(1).randbytes(8 << 20)] * 4)
    async with serving(dumper=large) as server, await connect(server) as client:
        assert await client.login("repl", PASSWORD, flags=FLAGS | ZLIB) == OK
        client.start_frames(ZLIB)
        await client.send(dump_gtid())
        await until(lambda: len(server.replicas()) == 1)
        async with await replica(server, "root", "") as other:
            assert await other.execute("SET @a = 1") == OK
        await server.stop()

        assert not len(server.connections)


async def test_bytes_that_are_no_frame_get_one_error() -> None:
    """The connection ends, the others do not."""
    async with serving() as server, await connect(server) as client, await replica(server) as other:
        assert await client.login("repl", PASSWORD, flags=FLAGS | ZSTD) == OK
        raw = client.stream
        await raw.send_all(b"\x03\0\0\0\x20\0\0xyz")
        client.start_frames(ZSTD)._next = 1
        client.reader.expected_sequence = 3
        assert (await client.error()).code == 1835
        assert await client.packet() is None
        assert await other.execute("SET @a = 1") == OK


# Commands --------------------------------------------------------------------------------------


async def test_an_error_leaves_the_connection_open() -> None:
    """Unknown statements and commands are errors; then the next one is answered."""
    async with serving() as server, await replica(server) as client:
        for payload, code in (
            (b"\x03SELECT 1 nonsense here", 1064),
            (b"\x03INSERT INTO t VALUES (1)", 1235),
            (b"\x03SELECT @@nosuch", 1193),
            (b"\x16SELECT '?' LIKE ?", 1235),
            (b"\x16SELEC 1", 1064),
            (b"\x03SELECT ?", 1064),
            (b"\x16SELECT 1 FROM t", 1235),
            (b"\x17\x01\0\0\0\0\x01\0\0\0", 1243),
            (b"\x1a\x01\0\0\0", 1243),
            (b"\x1c\x01\0\0\0\x01\0\0\0", 1047),
            (b"\x02shop", 1044),
        ):
            await client.send(payload)
            assert (await client.error()).code == code
        await client.send(b"\x0e")
        assert await client.payload() == OK
        await client.send(b"\x09")
        assert (await client.payload()).startswith(b"Uptime: ")
        await client.send(b"\x01")
        assert await client.packet() is None


def execute(number: int) -> bytes:
    return b"\x17" + number.to_bytes(4, "little") + b"\0\x01\0\0\0"


async def test_a_prepared_statement_is_answered_in_binary() -> None:
    """As often as it is executed, until it is closed, which nobody answers."""
    async with serving() as server, await replica(server) as client:
        await client.send(b"\x16SELECT 'ab', NULL, 300, -2, NOW(), UNIX_TIMESTAMP()")
        assert await client.payload() == b"\0\x01\0\0\0" + bytes(7)
        await client.send(b"\x16SET @a = 5")
        assert (await client.payload())[1] == 2
        for _ in range(2):
            await client.send(execute(1))
            assert await client.payload() == b"\x06"
            kinds = [(await client.payload())[-6] for _ in range(6)]
            assert kinds == [0xFD, 0x06, 0x08, 0x08, 0x0C, 0x08]
            assert (await client.payload())[:1] == b"\xfe"
            row = await client.payload()
            assert row[:5] == b"\0" + b"\x08" + b"\x02ab"
            assert row[5:21] == (300).to_bytes(8, "little") + b"\xfe" + b"\xff" * 7
            now = datetime.fromtimestamp(int.from_bytes(row[29:], "little"), UTC)
            assert row[21:24] == b"\x07" + now.year.to_bytes(2, "little")
            assert tuple(row[24:29]) == now.timetuple()[1:6]
            assert (await client.payload())[:1] == b"\xfe"
        await client.send(execute(2))
        assert await client.payload() == OK
        await client.send(b"\x1a\x01\0\0\0")
        assert await client.payload() == OK
        await client.send(b"\x19\x01\0\0\0")
        await client.send(execute(1))
        assert (await client.error()).code == 1243
        await client.send(b"\x1f")
        assert await client.payload() == OK
        await client.send(execute(2))
        assert (await client.error()).code == 1243, "a reset forgets them"


@pytest.mark.parametrize(
    ("text", "binary"),
    [
        ("2026-11-21 16:05:09", b"\x07\xea\x07\x0b\x15\x10\x05\x09"),
        ("2026-11-21 16:05:09.25", b"\x0b\xea\x07\x0b\x15\x10\x05\x09" + b"\x90\xd0\x03\0"),
        ("2026-11-21 16:05:09.000", b"\x07\xea\x07\x0b\x15\x10\x05\x09"),
    ],
)
def test_times_in_binary(text: str, binary: bytes) -> None:
    """A part of a second is there only where it is not zero."""
    column = Column(name="t", type=ColumnType.DATETIME)
    payloads = ResultSet(columns=[column], rows=[[text]]).encode(deprecate_eof=True, binary=True)

    assert payloads[2] == b"\0\0" + binary


async def test_one_connection_cannot_prepare_without_end() -> None:
    """The number of statements is bounded, and the length of all of them together."""
    statements = PreparedStatements()
    for _ in range(256):
        statements.prepare("SELECT 1")
    with pytest.raises(MySQLError, match="1461"):
        statements.prepare("SELECT 1")
    statements.close(7)
    assert statements.prepare("SELECT 1") == 257
    statements.clear()
    long = f"SELECT '{'x' * 1_500_000}'"
    statements.prepare(long)
    statements.prepare(long)
    with pytest.raises(MySQLError, match="1461"):
        statements.prepare(long)


async def test_notes_are_counted_in_the_answer() -> None:
    """So that a prompt says that there are some."""
    async with serving() as server, await replica(server, "root") as client:
        noted = bytes.fromhex("00000002000100")
        assert await client.execute("FLUSH BINARY LOGS") == noted
        assert await client.execute("SET @a = 1") == OK


async def test_rights_for_replication() -> None:
    """Without the right a dump is 1227 and registering is 1045, as a source answers."""
    register = encode_register(RegisterReplica(server_id=7, host="h", port=3306, source_id=0))
    async with serving() as server:
        async with await replica(server, "reader") as client:
            await client.send(register)
            assert (await client.error()).code == 1045
            await client.send(dump_gtid())
            assert (await client.error()).code == 1227
            assert await client.packet() is None
        assert server.dumper.requests == []
        async with await replica(server) as client:
            await client.send(register)
            assert await client.payload() == OK


# Dumps -----------------------------------------------------------------------------------------


async def test_a_dump_is_asked_for_as_the_client_said() -> None:
    """Every fact of the command and of the variables before it arrives at the dumper."""
    executed = GtidSet.parse(f"{UUID}:1-5")
    async with serving() as server, await replica(server) as client:
        await client.execute("SET @master_heartbeat_period= 500000000")
        await client.execute("SET @master_binlog_checksum= @@global.binlog_checksum")
        await begin_dump(client, dump_gtid(executed.encode(), flags=6))
        [request] = server.dumper.requests

    assert request.kind == "gtid"
    assert request.gtid_set == executed
    assert (request.file_name, request.position) == ("", 4)
    assert not request.non_blocking
    assert request.heartbeat_v2_accepted
    assert request.skip_tagged
    assert request.heartbeat_period_s == 0.5
    assert request.checksum == "CRC32"
    assert (request.server_id, request.replica_uuid) == (71, REPLICA)


@pytest.mark.parametrize(("flags", "server_id"), [(1, 71), (0, 0)])
async def test_a_non_blocking_dump_ends(flags: int, server_id: int) -> None:
    """With the flag, or without a server id: EOF after the last event, then the close."""
    payload = encode_dump(
        BinlogDump(file="b", position=120, flags=DumpFlag(flags), server_id=server_id)
    )
    async with serving() as server, await replica(server) as client:
        await begin_dump(client, payload)
        assert await client.payload() == bytes.fromhex("fe00000200")
        assert await client.packet() is None
        [request] = server.dumper.requests

    assert (request.kind, request.gtid_set, request.non_blocking) == ("position", None, True)


async def test_mariadb_means_something_else_by_the_heartbeat_flag() -> None:
    """Its clients do not know the second form of heartbeats, though they set the bit."""
    async with serving() as server, await replica(server, uuid="") as client:
        await client.execute("SET @mariadb_slave_capability=4")
        await begin_dump(client)
        assert not server.dumper.requests[0].heartbeat_v2_accepted


async def test_a_mariadb_replica_is_served_from_its_position() -> None:
    """File and position of the command do not count beside it; no other form of dump is known."""
    facts = MemorySource(flavor="mariadb", version="10.11.19-MariaDB-log")
    async with serving(facts=facts) as server:
        async with await replica(server, uuid="") as client:
            await client.execute("SET @mariadb_slave_capability=4")
            await client.execute("SET @slave_connect_state='0-1-9,2-1-3'")
            await begin_dump(client, dump_position("mdb-bin.000007", 805))
            request = server.dumper.requests[0]
            assert (request.kind, str(request.gtid_set)) == ("gtid", "0-1-9,2-1-3")
            assert (request.file_name, request.position) == ("", 4)
            assert (request.mariadb_capability, request.wants_annotations) == (4, True)
        async with await replica(server) as client:
            await client.send(dump_gtid())
            assert (await client.error()).code == 1047
            assert request.strict is False
        for statement in ("SET @slave_connect_state='nonsense'", "SET @slave_until_gtid='0-1'"):
            async with await replica(server, uuid="") as client:
                await client.execute("SET @slave_connect_state=''")
                await client.execute(statement)
                await client.send(dump_position())
                assert (await client.error()).code == 1236


def test_old_replicas_can_read_the_version_in_the_greeting_of_mariadb() -> None:
    """MariaDB 10 says so itself; from 11 on, and for MySQL, the version stands alone."""
    assert greeted_version("10.11.19-MariaDB-log") == "5.5.5-10.11.19-MariaDB-log"
    assert greeted_version("11.4.2-MariaDB") == "11.4.2-MariaDB"
    assert greeted_version("9.7.4") == "9.7.4"
    # Its clients come without MySQL's plugin, or look for it where it is not.
    assert greeted_plugin("mariadb") == "mysql_native_password"
    assert greeted_plugin("mysql") == "caching_sha2_password"


@pytest.mark.parametrize(
    ("gtid_mode", "payload", "code"),
    [("ON", dump_gtid(b""), 1773), ("ON", dump_gtid(b"xyz"), 1773), ("OFF", dump_gtid(), 1236)],
)
async def test_dumps_refused_at_once(gtid_mode: str, payload: bytes, code: int) -> None:
    """A broken GTID set, and any set where there are no GTIDs; then the close."""
    async with serving(facts=MemorySource(gtid_mode=gtid_mode)) as server:
        async with await replica(server) as client:
            await client.send(payload)
            assert (await client.error()).code == code
            assert await client.packet() is None
        assert server.dumper.requests == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [(DumpRefusedError(1236, "HY000", "gone"), 1236), (RuntimeError("a defect"), 1105)],
)
async def test_a_dump_that_fails_tells_the_replica_alone(failure: Exception, code: int) -> None:
    """The error carries on the packet numbers, the stream closes, others are not touched."""
    async with (
        serving(dumper=MemoryDumper(failure=failure)) as server,
        await replica(server) as other,
        await replica(server) as client,
    ):
        await begin_dump(client)
        error = await client.error()
        assert error.code == code
        assert "defect" not in error.message
        assert await client.packet() is None
        assert await other.execute("SET @a = 1") == OK


async def test_a_client_that_leaves_ends_its_dump() -> None:
    """It is noticed at once, not at the next event."""
    async with serving() as server:
        async with await replica(server) as client:
            await begin_dump(client)
            assert len(server.replicas()) == 1
        await until(lambda: not len(server.connections))

        assert server.replicas() == []


async def test_what_a_client_says_during_a_dump_is_not_heard() -> None:
    """A ping is not answered and does no harm."""
    async with serving() as server, await replica(server) as client, await replica(server) as other:
        await begin_dump(client)
        await client.stream.send_all(encode_payload(b"\x0e", 0)[0] + b"garbage")
        assert await other.execute("SET @a = 1") == OK
        assert len(server.replicas()) == 1
        await client.stream.send_eof()
        assert await client.packet() is None


SAME_REPLICA = (
    "A replica with the same server_uuid/server_id as this replica has connected to the source; "
    "the first event '' at 4, the last event read from './binlog.000003' at 700, the last byte "
    "read from './binlog.000003' at 700."
)


@pytest.mark.parametrize(
    ("older", "newer", "replaced"),
    [
        ((REPLICA, 71), (REPLICA.upper(), 72), True),
        ((REPLICA, 71), (UUID, 71), False),
        (("", 71), ("", 71), True),
        (("", 71), ("", 72), False),
        (("", 71), (REPLICA, 71), False),
    ],
)
async def test_the_same_replica_replaces_its_older_dump(
    older: tuple[str, int], newer: tuple[str, int], replaced: bool
) -> None:
    """The same UUID, or without any the same server id: at the dump command, with error 1236."""
    async with (
        serving() as server,
        await replica(server, uuid=older[0]) as first,
        await replica(server, uuid=newer[0]) as second,
    ):
        await begin_dump(first, dump_gtid(server_id=older[1]))
        await begin_dump(second, dump_gtid(server_id=newer[1]))
        if replaced:
            error = await first.error()
            assert (error.code, error.message) == (1236, SAME_REPLICA)
            assert await first.packet() is None
        assert len(server.replicas()) == (1 if replaced else 2)


async def test_a_replaced_dump_is_told_where_it_began() -> None:
    """By file and position, as it had asked."""
    async with serving() as server, await replica(server) as first, await replica(server) as second:
        await begin_dump(first, dump_position("binlog.000002", 158))
        await begin_dump(second)
        began = "the first event 'binlog.000002' at 158, the last event read from"
        assert began in (await first.error()).message


async def test_the_status_says_whether_autocommit_is_on() -> None:
    """In OK, in both EOFs of a result, and in the EOF that ends a dump; a reset turns it on."""
    off, on = bytes(7), OK
    async with serving() as server, await replica(server) as client:
        assert await client.execute("SET AUTOCOMMIT = 0") == off
        assert await client.execute("SELECT 1") == b"\x01"
        assert [await client.payload() for _ in range(4)][1::2] == [b"\xfe\0\0\0\0"] * 2
        assert await client.execute("SET @a = 1") == off
        await client.send(b"\x1f")  # COM_RESET_CONNECTION
        assert await client.payload() == on
        await client.execute("SET AUTOCOMMIT = 0")
        await begin_dump(client, dump_gtid(flags=1))
        assert await client.payload() == b"\xfe\0\0\0\0"


@pytest.mark.parametrize(
    ("listed", "code", "message"),
    [
        ([], 1236, "could not find next log; the first event '"),
        ([("binlog.000003", 774)], 1105, "the log was purged under the dump; try again later"),
    ],
)
async def test_a_dump_that_is_stuck_in_a_purged_file_is_ended(
    listed: list[tuple[str, int]], code: int, message: str
) -> None:
    """Where a packet can follow with an error: one at which a replica stops for good only if the
    file is served no more. A dump that goes on finds out by itself, and one that reads from
    elsewhere keeps no room taken."""
    async with serving() as server, await replica(server) as client:
        await begin_dump(client)
        await until(lambda: server.replicas()[0].file == "binlog.000003")
        server.end_overtaken(lambda name: name == "binlog.000003")
        server.end_overtaken(lambda _: False)
        assert len(server.replicas()) == 1
        (connection,) = server.connections
        connection.dump.progress.bytes_sent += 1
        server.end_overtaken(lambda _: False)
        server.end_overtaken(lambda name: name == "binlog.000003")
        assert len(server.replicas()) == 1
        server.facts.files = listed
        connection.dump.progress.is_outside_log = True
        server.end_overtaken(lambda _: False)
        assert len(server.replicas()) == 1
        connection.dump.progress.is_outside_log = False
        server.end_overtaken(lambda _: False)
        error = await client.error()
        assert error.code == code
        assert message in error.message
        assert await client.packet() is None


async def test_kill() -> None:
    """A killed dump is closed without a word; strangers may not kill, administrators may."""
    async with (
        serving() as server,
        await replica(server) as victim,
        await replica(server, "reader", "") as stranger,
        await replica(server, "root", "") as root,
    ):
        await begin_dump(victim)
        kill = f"KILL {victim.thread_id}"
        assert (await stranger.execute(kill))[:3] == b"\xff\x47\x04"
        assert await root.execute(kill) == OK
        assert await victim.packet() is None
        assert (await root.execute(kill))[:3] == b"\xff\x46\x04"
        assert (await root.execute(f"KILL {root.thread_id}"))[:3] == b"\xff\x25\x05"


async def test_what_is_shown_of_a_replica() -> None:
    """Everything the status route and SHOW PROCESSLIST need."""
    register = encode_register(
        RegisterReplica(server_id=71, host="rep-host", port=33071, source_id=0)
    )
    async with serving(clock=lambda: 1000.0) as server, await replica(server) as client:
        await client.execute("SET @source_heartbeat_period = 2000000000")
        await client.send(register)
        await client.payload()
        await begin_dump(client)
        await until(lambda: server.replicas()[0].last_gtid)
        [found] = server.replicas()
        [process] = server.connections.processes()

    assert (found.uuid, found.server_id, found.host, found.port) == (
        REPLICA,
        71,
        "rep-host",
        33071,
    )
    assert (found.last_gtid, found.lag_bytes) == (f"{UUID}:28", 74)
    assert (found.lag_seconds, found.lag_transactions) == (60.0, None)
    assert found.bytes_until_cut_off == 5000
    assert (found.connect_time, found.heartbeat_period) == (1000.0, 2.0)
    assert (process.command, process.user) == ("Binlog Dump GTID", "repl")


async def test_semi_sync_is_served_where_it_is_asked_for_and_offered() -> None:
    """What a replica acknowledges is shown, in whatever pieces it comes; other words are not."""
    source = MemorySource(semi_sync=True)
    async with serving(facts=source) as server, await replica(server) as client:
        assert (await client.execute("SET @rpl_semi_sync_slave = 1")) == OK
        await begin_dump(client)
        await until(server.replicas)
        ack = acknowledgement("binlog.000003", (1 << 32) + 7)
        await client.stream.send_all(encode_payload(b"\x0e", 0)[0] + ack[:9])
        await client.stream.send_all(ack[9:])
        await until(lambda: server.replicas()[0].acknowledged_file)
        [found] = server.replicas()
        assert found.semi_sync
        assert (found.acknowledged_file, found.acknowledged_position) == (
            "binlog.000003",
            (1 << 32) + 7,
        )
        assert server.connections.semi_sync_clients() == 1
        assert server.connections.acknowledged() == {REPLICA: ("binlog.000003", (1 << 32) + 7)}
        left = server.connections.unacknowledged_bytes(REPLICA)
        assert metrics.value("kingbus_replica_unacknowledged_bytes", replica=REPLICA) == left
        # A real source passes over a wrong number, and the dump goes on.
        wrong = bytearray(acknowledgement("binlog.000008", 4))
        wrong[3] = 9
        await client.stream.send_all(wrong + acknowledgement("binlog.000004", 4))
        await until(lambda: server.replicas()[0].acknowledged_position == 4)
        assert server.replicas()[0].acknowledged_file == "binlog.000004"
        # What is no packet ends the reading of acknowledgements, not the dump.
        await client.stream.send_all(b"\xff" * 50 + acknowledgement("binlog.000009", 5))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.replicas()[0].acknowledged_position == 4
    assert server.dumper.requests[0].semi_sync
    assert f'replica="{REPLICA}"' not in metrics.exposition().decode()


async def test_each_channel_measures_its_own_replicas_that_acknowledge() -> None:
    """A replica of two channels is there twice by the same uuid: what it has of each is shown, the
    number is of all together, and what ends at one listener ends nothing at the other."""
    name, clients = "second", "kingbus_dump_semi_sync_clients"

    def measured() -> tuple[bool, bool]:
        text = metrics.exposition().decode()
        return (
            f'kingbus_replica_unacknowledged_bytes{{replica="{REPLICA}"}}' in text,
            f'unacknowledged_bytes{{channel="{name}",replica="{REPLICA}"}}' in text,
        )

    before = metrics.value(clients)
    async with (
        serving(facts=MemorySource(semi_sync=True)) as one,
        serving(facts=MemorySource(semi_sync=True, name=name)) as two,
        await replica(one) as first,
        await replica(two) as second,
    ):
        for client, server in ((first, one), (second, two)):
            assert (await client.execute("SET @rpl_semi_sync_replica = 1")) == OK
            await begin_dump(client)
            await until(server.replicas)
        assert (metrics.value(clients) - before, measured()) == (2, (True, True))
        await first.stream.aclose()
        await until(lambda: not one.replicas())
        assert (metrics.value(clients) - before, measured()) == (1, (False, True))
        await second.stream.aclose()
        await until(lambda: not two.replicas())
        assert (metrics.value(clients) - before, measured()) == (0, (False, False))


async def test_semi_sync_that_is_not_offered_is_not_served() -> None:
    """As with a source without the plugin: the variable may be set, and has no effect."""
    async with serving() as server, await replica(server) as client:
        assert (await client.execute("SET @rpl_semi_sync_replica = 1")) == OK
        await begin_dump(client)
        await until(server.replicas)
        await client.stream.send_all(acknowledgement("binlog.000003", 7))
        await trio.testing.wait_all_tasks_blocked(0.01)
        [found] = server.replicas()
    assert not found.semi_sync and not found.acknowledged_file


# The listener ----------------------------------------------------------------------------------


async def test_a_slow_client_gets_whole_packets_before_the_error() -> None:
    """A dump that is replaced in the middle of a large buffer ends between two packets."""
    large = MemoryDumper(events=[b"x" * (8 << 20)])
    async with (
        serving(dumper=large) as server,
        await replica(server) as first,
        await replica(server) as second,
    ):
        await first.send(dump_gtid())
        await until(lambda: len(server.replicas()) == 1)
        await second.send(dump_gtid())
        assert await first.payload() == b"\0" + large.events[0]
        assert (await first.error()).code == 1236


async def test_a_client_that_takes_nothing_cannot_hold_up_the_end(autojump_clock) -> None:
    """It is given a second, then cut off."""
    large = MemoryDumper(events=[b"x" * (8 << 20)] * 4)
    async with serving(dumper=large) as server, await replica(server) as client:
        await client.send(dump_gtid())
        await until(lambda: len(server.replicas()) == 1)
        before = trio.current_time()
        await server.stop()

        assert trio.current_time() - before <= 2
        assert not len(server.connections)


async def test_the_listener_stops_and_starts() -> None:
    """Stopping tells idle clients and closes dumps; it can start again, at the same place."""
    async with serving() as server, await replica(server) as idle, await replica(server) as dumping:
        await begin_dump(dumping)
        address = server.address
        await server.stop()
        assert not server.is_running
        assert (await idle.payload())[:3] == b"\xff\x1d\x04"
        assert await idle.packet() is None
        assert await dumping.packet() is None
        with pytest.raises(OSError, match=r"connect|refused"):
            await trio.open_tcp_stream("127.0.0.1", address.port)
        assert await server.start(address) == address
        assert await trio.to_thread.run_sync(login, server)


async def test_another_address_leaves_connections_open() -> None:
    """Who is connected stays; new clients come to the new place; the old one is closed."""
    async with serving() as server, await replica(server) as client:
        old = server.address
        new = await server.start(Address(host="127.0.0.1", port=0))
        assert new != old
        assert await client.execute("SET @a = 1") == OK
        with pytest.raises(OSError, match=r"connect|refused"):
            await trio.open_tcp_stream("127.0.0.1", old.port)
        await (await connect(server)).stream.aclose()


async def test_an_address_in_use_changes_nothing() -> None:
    """The error names it, and the old place is still served."""
    async with serving() as server:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        taken = Address(host="127.0.0.1", port=listener.socket.getsockname()[1])
        with pytest.raises(AddressInUseError, match=f"listen on {taken}: address already in use"):
            await server.start(taken)
        await listener.aclose()
        with pytest.raises(ListenError, match=r"listen on 192\.0\.2\.1:1"):
            await server.start(Address(host="192.0.2.1", port=1))

        assert server.is_running
        await (await connect(server)).stream.aclose()


async def test_new_users_leave_connections_open() -> None:
    """Who is logged in stays, with the old password gone for new logins."""
    async with serving() as server, await replica(server) as client:
        server.set_users([stored_user(new_user("repl", "other"))])
        assert await client.execute("SET @a = 1") == OK
        async with await connect(server) as late:
            assert (await late.login("repl", PASSWORD))[:3] == b"\xff\x15\x04"
        async with await connect(server) as late:
            assert await late.login("repl", "other") == OK


async def test_what_does_not_run_yet_says_so() -> None:
    """Its tasks begin a moment after a channel was added; nobody gets an internal error then."""
    server = BinlogServer(facts=MemorySource(), dumper=MemoryDumper(), rsa_key=KEY)
    with pytest.raises(ListenError, match="not listened on yet"):
        await server.start(LOCAL)
    await server.stop()
