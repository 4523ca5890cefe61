"""Members that talk over real loopback sockets."""

import ipaddress
import random
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kingbus import metrics
from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.member import Member
from kingbus.pb import peer_pb2
from kingbus.raft.types import ConfState, Entry, Message, MessageType, Snapshot
from kingbus.transport.call import call_url, greet, stranger_hello
from kingbus.transport.codec import (
    HELLO_LIMITS,
    PROTOCOL,
    FrameBuffer,
    FrameType,
    encode_frame,
    encode_message,
)
from kingbus.transport.connection import dial, open_listener
from kingbus.transport.errors import (
    AddressInUseError,
    CallRefusedError,
    HelloRefusedError,
    PeerUnreachableError,
)
from kingbus.transport.hello import Lane, Refusal, judge
from kingbus.transport.peer import Timings
from kingbus.transport.queues import LaneQueue, coalesce, lane_of, message_bytes
from kingbus.transport.transport import Transport
from tests.support.memory_node import eventually

TIMINGS = Timings(dial=1, hello=1, read=1, write=1, probe=0.1, back_off_max=0.1)


class Events:
    """What a node would hear."""

    def __init__(self):
        self.messages = []
        self.unreachable = []
        self.snapshots = []
        self.removed_by = []
        self.room = trio.Event()
        self.room.set()

    def receive(self, messages):
        self.messages += messages

    async def wait_room(self):
        await self.room.wait()

    def report_unreachable(self, member_id):
        self.unreachable.append(member_id)

    def report_snapshot(self, member_id, *, ok):
        self.snapshots.append((member_id, ok))

    def removed_by_peer(self, member_id):
        self.removed_by.append(member_id)


class Side:
    """One member's transport and what it heard."""

    def __init__(self, transport, events, listener):
        self.transport = transport
        self.events = events
        self.listener = listener
        self.scope = trio.CancelScope()

    async def live(self, *, task_status):
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.transport.run)
                await nursery.start(self.transport.serve, self.listener)
                task_status.started()

    @property
    def url(self):
        host, port = self.listener.socket.getsockname()
        return f"http://{host}:{port}"


@asynccontextmanager
async def members(*names, timings=TIMINGS, wall_ns=None, scheme="http", client=None, server=None):
    """A running transport for each name, all of one cluster."""
    listeners = {name: await open_listener("127.0.0.1", 0) for name in names}
    ports = {name: listener.socket.getsockname()[1] for name, listener in listeners.items()}
    cluster = Cluster.initial([(name, [f"{scheme}://127.0.0.1:{ports[name]}"]) for name in names])
    sides = {}
    async with trio.open_nursery() as nursery:
        for name in names:
            events = Events()
            transport = Transport(
                member_id=cluster.named(name).id,
                cluster=cluster,
                random=random.Random(name),
                timings=timings,
                client_ssl=client,
                server_ssl=server,
                **({"wall_ns": wall_ns[name]} if wall_ns else {}),
            )
            transport.attach(events)
            sides[name] = Side(transport, events, listeners[name])
            await nursery.start(sides[name].live)
        try:
            yield cluster, *sides.values()
        finally:
            nursery.cancel_scope.cancel()


def heartbeat(sender, receiver, term=1):
    return Message(MessageType.HEARTBEAT, receiver, sender, term=term)


def append(sender, receiver, size, index=0):
    return Message(
        MessageType.APP,
        receiver,
        sender,
        index=index,
        entries=[Entry(1, index + 1, data=b"x" * size)],
    )


async def test_messages_arrive_on_both_lanes():
    """Small and large messages reach the other member's node, each lane in its order."""
    async with members("a", "b") as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        sent = [append(ida, idb, 1 << 20, index) for index in range(5)]
        a.transport.send([*sent, heartbeat(ida, idb, 7)])
        await eventually(lambda: len(b.events.messages) == 6)

        found = b.events.messages
        assert [m for m in found if m.type is MessageType.APP] == sent
        assert [m.term for m in found if m.type is MessageType.HEARTBEAT] == [7]
        assert b.transport.facts(ida).last_contact is not None


async def test_a_huge_append_does_not_delay_a_heartbeat():
    """While the other side does not read appends, heartbeats pass, and nobody waits for room."""
    async with members("a", "b") as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        b.events.room = trio.Event()
        a.transport.send([append(ida, idb, 16 << 20, index) for index in range(2)])
        await eventually(lambda: b.events.messages)
        a.transport.send([heartbeat(ida, idb)])
        await eventually(lambda: any(m.type is MessageType.HEARTBEAT for m in b.events.messages))

        assert len(b.events.messages) == 2
        b.events.room.set()
        await eventually(lambda: len(b.events.messages) == 3)


async def test_a_full_queue_drops_and_reports():
    """Beyond the queue's bytes messages are dropped at once, counted, and reported unreachable."""
    async with members("a", "b") as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        b.events.room = trio.Event()
        a.transport.send([append(ida, idb, 16 << 20, index) for index in range(10)])

        assert a.transport.facts(idb).dropped >= 5
        assert a.events.unreachable.count(idb) == a.transport.facts(idb).dropped


async def test_an_unreachable_member_is_reported():
    """What cannot be sent is reported, a snapshot with its fate; later messages arrive again."""
    async with members("a", "b") as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        await eventually(lambda: a.transport.facts(idb).connected)
        b.scope.cancel()
        await eventually(lambda: not a.transport.facts(idb).connected)
        # Whatever the kernel had taken may be lost: the core must probe again.
        await eventually(lambda: a.events.unreachable)
        a.events.unreachable.clear()
        snapshot = Message(
            MessageType.SNAP, idb, ida, snapshot=Snapshot(5, 1, ConfState((ida, idb)))
        )
        a.transport.send([snapshot, append(ida, idb, 10)])
        await eventually(lambda: a.events.snapshots and a.events.unreachable)

        assert a.events.snapshots == [(idb, False)]
        assert set(a.events.unreachable) == {idb}


async def test_a_snapshot_that_left_has_no_fate_yet():
    """Only its receiver can say that it arrived; that the connection broke is said."""
    async with members("a", "b") as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        snapshot = Message(
            MessageType.SNAP, idb, ida, snapshot=Snapshot(5, 1, ConfState((ida, idb)), b"x" * 9)
        )
        a.transport.send([snapshot])
        await eventually(lambda: b.events.messages)

        assert b.events.messages == [snapshot]
        assert a.events.snapshots == []
        b.scope.cancel()
        await eventually(lambda: idb in a.events.unreachable)


async def test_a_snapshot_for_a_stranger_is_reported_lost():
    """No message to an unknown member is an error; a snapshot's fate is told even then."""
    async with members("a", "b") as (cluster, a, _):
        ida = cluster.named("a").id
        a.transport.send(
            [heartbeat(ida, 99), Message(MessageType.SNAP, 99, ida, snapshot=Snapshot(5, 1))]
        )

        assert a.events.snapshots == [(99, False)]


async def test_the_probe_measures_the_link():
    """Round trip and clock difference are known soon, with their signs right."""
    ahead = {"a": lambda: 10**18, "b": lambda: 10**18 + 5 * 10**9}
    async with members("a", "b", wall_ns=ahead) as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        await eventually(lambda: a.transport.facts(idb).clock_difference_seconds is not None)
        await eventually(lambda: b.transport.facts(ida).clock_difference_seconds is not None)

        assert a.transport.facts(idb).clock_difference_seconds == pytest.approx(5, abs=0.5)
        assert b.transport.facts(ida).clock_difference_seconds == pytest.approx(-5, abs=0.5)
        assert 0 < a.transport.facts(idb).rtt_seconds < 1


async def test_idle_links_stay_up():
    """Probes alone keep a link alive for longer than the read timeout."""
    timings = replace(TIMINGS, read=1.0, probe=0.1)
    async with members("a", "b", timings=timings) as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        await eventually(lambda: a.transport.facts(idb).connected)
        since = a.transport.facts(idb).connected_since
        last = trio.current_time() + 2.5
        await eventually(lambda: b.transport.facts(ida).last_contact > last)

        assert a.transport.facts(idb).connected_since == since


async def test_a_silent_connection_is_given_up():
    """Who greets and then says nothing is cut off after the read timeout."""
    async with members("a", "b", timings=replace(TIMINGS, read=0.1)) as (cluster, a, _):
        connection = await dial(a.url, timeout_seconds=1)
        await greet(connection, hello_of(cluster, "b", "a"), 1)
        with trio.fail_after(5):
            assert await connection.receive_into(memoryview(bytearray(10))) == 0
        await connection.aclose()


def hello_of(cluster, from_, to, /, **changes):
    fields = {
        "protocol": PROTOCOL,
        "cluster_id": cluster.cluster_id,
        "sender": cluster.named(from_).id,
        "receiver": cluster.named(to).id,
        "lane": Lane.URGENT.value,
        "members_index": cluster.index,
    }
    return peer_pb2.Hello(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"protocol": 99}, Refusal.VERSION),
        ({"cluster_id": 5}, Refusal.CLUSTER),
        ({"cluster_id": 0}, Refusal.CLUSTER),
        ({"receiver": 5}, Refusal.RECEIVER),
        ({"receiver": 0}, Refusal.RECEIVER),
        ({"sender": 5}, Refusal.UNKNOWN),
        ({"sender": 5, "members_index": 9}, Refusal.UNKNOWN),
        ({"sender": 5, "members_index": 9, "peer_urls": ["http://0.0.0.0:1"]}, Refusal.UNKNOWN),
        ({"lane": "bulk"}, Refusal.MALFORMED),
        ({"lane": "call", "cluster_id": 5}, Refusal.CLUSTER),
        ({"lane": "call", "receiver": 5}, Refusal.RECEIVER),
    ],
)
async def test_a_wrong_hello_is_refused_with_a_reason(changes, code):
    """Over a real connection each mismatch is refused with its own code and a sentence."""
    async with members("a", "b") as (cluster, a, _):
        connection = await dial(a.url, timeout_seconds=1)
        with pytest.raises(HelloRefusedError) as caught:
            await greet(connection, hello_of(cluster, "b", "a", **changes), 1)
        await connection.aclose()

        assert caught.value.code == code
        assert len(str(caught.value)) > 30


async def test_a_removed_member_is_told_and_hears_it():
    """Its connections are cut, its next hello is refused, and its node is told who said so."""
    async with members("a", "b") as (cluster, a, b):
        idb = cluster.named("b").id
        await eventually(lambda: b.transport.facts(cluster.named("a").id).connected)
        removal = MemberChange(kind=ChangeKind.REMOVE, member=cluster.named("b"))
        a.transport.set_cluster(cluster.apply(1, removal))
        await eventually(lambda: b.events.removed_by)
        await eventually(lambda: b'peer_connected{peer="b"}' not in metrics.exposition())

        assert set(b.events.removed_by) == {cluster.named("a").id}
        assert a.transport.facts(idb) is None


async def test_a_member_that_lags_listens_to_a_newer_one():
    """Who was added since, as its hello proves, is heard and answered although unknown here."""
    async with members("a", "b") as (cluster, a, b):
        # a does not know b yet: it goes by an older membership, of itself alone.
        ida, idb = cluster.named("a").id, cluster.named("b").id
        alone = replace(cluster, index=1, members=(cluster.named("a"),))
        newer = replace(cluster, index=5)
        a.transport.set_cluster(alone)
        assert a.transport.facts(idb) is None
        # b dials anew, so that its hello tells of the newer membership.
        b.transport.set_cluster(replace(newer, index=4, members=(cluster.named("b"),)))
        b.transport.set_cluster(newer)
        await eventually(lambda: a.transport.facts(idb) is not None)
        a.transport.send([heartbeat(ida, idb)])
        await eventually(lambda: b.events.messages)

        # Once the membership is known here that the hello spoke of, it decides.
        a.transport.set_cluster(replace(alone, index=5))
        assert a.transport.facts(idb) is None


def test_the_removal_is_told_only_within_the_cluster():
    """A removed id of another cluster hears of the mismatch, not that it was removed."""
    cluster = Cluster(cluster_id=7, index=5, removed=frozenset({9}))
    hello = peer_pb2.Hello(protocol=PROTOCOL, cluster_id=8, sender=9, receiver=1, lane="urgent")

    assert judge(hello, member_id=1, cluster=cluster).code == Refusal.CLUSTER
    hello.cluster_id = 7
    assert judge(hello, member_id=1, cluster=cluster).code == Refusal.REMOVED


async def send_raw(url, data):
    """Send bytes to the peer port; what comes back until it closes."""
    connection = await dial(url, timeout_seconds=1)
    received = bytearray()
    space = bytearray(4096)
    try:
        await connection.send([data], stall_seconds=1)
        with trio.fail_after(5):
            while count := await connection.receive_into(memoryview(space)):
                received += space[:count]
    except OSError:
        pass  # a reset is as good as an end
    finally:
        await connection.aclose()
    return bytes(received)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(range(256)) * 300,
        encode_frame(FrameType.HELLO, stranger_hello())[:-3],
        encode_frame(FrameType.HELLO, stranger_hello()) * 2,
        encode_frame(FrameType.CALL, peer_pb2.Call(method="cluster")),
        b"".join(encode_message(heartbeat(1, 2))),
        b"",
    ],
)
async def test_garbage_on_the_port_harms_nobody(data, caplog):
    """A bad connection is closed without an answer, with one line at most; members go on."""
    async with members("a", "b", timings=replace(TIMINGS, hello=0.3)) as (cluster, a, b):
        answer = await send_raw(b.url, data)
        assert answer == b""
        lines = [each for each in caplog.records if "peer connection closed" in each.message]
        assert len(lines) <= 1
        if data.startswith(b"GET"):
            assert "HTTP client" in lines[0].message

        ida, idb = cluster.named("a").id, cluster.named("b").id
        a.transport.send([heartbeat(ida, idb)])
        await eventually(lambda: b.events.messages)


@pytest.mark.parametrize("forged", ["sender", "receiver", "garbage"])
async def test_a_member_that_forges_is_cut_off(forged):
    """After an honest hello, messages of or for somebody else, or garbage, end the connection."""
    async with members("a", "b") as (cluster, a, _):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        data = {
            "sender": b"".join(encode_message(heartbeat(ida, ida))),
            "receiver": b"".join(encode_message(heartbeat(idb, idb))),
            "garbage": b"\xff" * 100,
        }[forged]
        connection = await dial(a.url, timeout_seconds=1)
        await greet(connection, hello_of(cluster, "b", "a"), 1)
        await connection.send([data], stall_seconds=1)
        try:
            with trio.fail_after(5):
                assert await connection.receive_into(memoryview(bytearray(10))) == 0
        except OSError:
            pass
        await connection.aclose()
        assert not a.events.messages


async def echo(caller, body):
    if body == b"refuse":
        raise CallRefusedError(409, "not now")
    if body == b"break":
        raise ZeroDivisionError
    if body == b"too much":
        return b"x" * (2 << 20)
    return f"{caller:x} ".encode() + body


async def test_calls_are_answered():
    """A member's call, by id or URL, reaches the handler with its id; errors have a status."""
    async with members("a", "b") as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        b.transport.register("echo", echo)
        by_id = await a.transport.call(idb, "echo", b"x" * 1000)
        by_url = await a.transport.call(b.url, "echo", b"y", 5.0)

        assert by_id.body == f"{ida:x} ".encode() + b"x" * 1000
        assert by_url.body == f"{ida:x} y".encode()
        for body, status in ((b"refuse", 409), (b"break", 500), (b"too much", 500)):
            reply = await a.transport.call(idb, "echo", body)
            assert (reply.status, bool(reply.message)) == (status, True)
        assert (await a.transport.call(idb, "nothing")).status == 404
        assert (await a.transport.call(idb, "echo", b"x" * (1 << 20 | 1))).status == 413


async def test_strangers_may_ask_little():
    """Without being a member one may call only what is open to strangers."""
    async with members("a", "b") as (_, _a, b):
        b.transport.register("secret", echo)
        b.transport.register("open", echo, strangers=True)

        assert (await call_url(b.url, "secret", b"x", timeout_seconds=5)).status == 403
        assert (await call_url(b.url, "open", b"x", timeout_seconds=5)).body == b"0 x"


async def test_a_call_without_an_answer_is_an_error():
    """Nobody there, an unknown id, and a handler that hangs: one error each, in time."""

    async def hang(_caller, _body):
        await trio.sleep_forever()

    async with members("a", "b") as (cluster, a, b):
        b.transport.register("hang", hang)
        with pytest.raises(PeerUnreachableError, match="within"):
            await a.transport.call(cluster.named("b").id, "hang", b"", 0.1)
        with pytest.raises(PeerUnreachableError, match="no known address"):
            await a.transport.call(99, "hang")
        with pytest.raises(PeerUnreachableError, match="refused"):
            await a.transport.call("http://127.0.0.1:1", "hang")


async def test_a_port_in_use_is_named():
    """Listening where somebody listens gives one clear error."""
    listener = await open_listener("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    with pytest.raises(AddressInUseError, match=f"127.0.0.1:{port}: address already in use"):
        await open_listener("127.0.0.1", port)
    await listener.aclose()


def test_only_plain_acknowledgements_are_left_out():
    """Of several AppResp of a term to one peer the last stays; rejections and others all stay."""
    resp = MessageType.APP_RESP

    def ack(to, index, **more):
        return Message(resp, to, 9, term=more.pop("term", 1), index=index, **more)

    messages = [
        ack(1, 5),
        ack(2, 5),
        ack(1, 6, reject=True),
        heartbeat(9, 1),
        ack(1, 7),
        ack(1, 8, term=2),
    ]
    assert coalesce(messages) == messages[1:]


def test_a_lane_queue_counts_messages_and_bytes():
    """It refuses what exceeds either limit, but always takes one; taking frees what it counted."""
    queue = LaneQueue(bytes_max=10_000, messages_max=3)
    assert queue.push(append(1, 2, 50_000))
    assert not queue.push(heartbeat(1, 2))
    assert len(queue.take(1)) == 1
    assert queue.bytes == 0
    assert [queue.push(heartbeat(1, 2)) for _ in range(4)] == [True, True, True, False]
    assert len(queue.take(2 * message_bytes(heartbeat(1, 2)))) == 2
    assert len(queue) == 1


def test_appends_keep_together():
    """Empty appends travel behind those with entries, snapshots too; the rest is urgent."""
    assert lane_of(Message(MessageType.APP)) is Lane.APPEND
    assert lane_of(Message(MessageType.SNAP)) is Lane.APPEND
    assert lane_of(Message(MessageType.HEARTBEAT)) is Lane.URGENT
    assert lane_of(Message(MessageType.APP_RESP)) is Lane.URGENT


async def test_a_member_that_moves_is_dialled_at_its_new_address():
    """After an update of its URL: over the connection that stands, and behind it at the new one."""
    async with members("a", "b", "c") as (cluster, a, b, c):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        await eventually(lambda: a.transport.facts(idb).connected)
        # From now on b is where c listens, which takes nothing that is meant for b.
        moved = Member(id=idb, name="b", peer_urls=(c.url,))
        others = tuple(m for m in cluster if m.id == ida)
        since = a.transport.facts(idb).connected_since
        a.transport.set_cluster(replace(cluster, index=1, members=(*others, moved)))
        a.transport.send([heartbeat(ida, idb)])
        await eventually(lambda: b.events.messages)
        assert a.transport.facts(idb).connected_since == since

        b.scope.cancel()
        await eventually(lambda: "wrong-receiver" in a.transport.facts(idb).last_error)


async def test_a_call_says_whether_it_was_sent():
    """Who hangs before the greeting was told nothing; who hangs behind it may have heard it."""
    async with members("a", "b") as (cluster, a, b):
        idb = cluster.named("b").id

        async def hangs(_caller, _body):
            await trio.sleep_forever()

        b.transport.register("hang", hangs)
        with pytest.raises(PeerUnreachableError, match=": no answer") as caught:
            await a.transport.call(idb, "hang", timeout=0.2)
        assert caught.value.was_sent

        silent = await open_listener("127.0.0.1", 0)
        host, port = silent.socket.getsockname()
        with pytest.raises(PeerUnreachableError, match="connected, but no answer") as caught:
            await a.transport.call(f"http://{host}:{port}", "hang", timeout=0.2)
        assert not caught.value.was_sent
        await silent.aclose()
        with pytest.raises(PeerUnreachableError) as caught:
            await a.transport.call(f"http://{host}:{port}", "hang", timeout=0.2)
        assert not caught.value.was_sent


def test_hello_buffers_take_hellos_only():
    """Before the greeting nothing large is ever buffered."""
    assert max(HELLO_LIMITS.values()) <= 16 << 10
    assert len(FrameBuffer(HELLO_LIMITS).space()) <= 256 << 10


@pytest.fixture
def tls_contexts(tmp_path):
    """Contexts of both sides for a certificate of 127.0.0.1 made for this test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "cert.pem").write_bytes(pem)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return ssl.create_default_context(cadata=pem.decode()), server


async def test_peers_talk_through_tls(tls_contexts):
    """With contexts passed in, lanes and calls work over https URLs, large messages included."""
    client, server = tls_contexts
    async with members("a", "b", scheme="https", client=client, server=server) as (cluster, a, b):
        ida, idb = cluster.named("a").id, cluster.named("b").id
        b.transport.register("echo", echo)
        sent = append(ida, idb, 3 << 20)
        a.transport.send([sent])
        await eventually(lambda: b.events.messages)

        assert b.events.messages == [sent]
        assert (await a.transport.call(idb, "echo", b"x")).body == f"{ida:x} x".encode()


async def test_an_https_url_without_tls_is_an_error():
    """A member that has no TLS says so instead of speaking plainly."""
    with pytest.raises(PeerUnreachableError, match="no TLS is configured"):
        await call_url("https://127.0.0.1:1", "cluster", timeout_seconds=1)
