"""The door of the transport: sending to members, and serving what they dial.

Every connection is one-way for Raft messages: its dialler sends. The receiving side answers the
hello and the probes. A bad connection - garbage, another protocol, a stranger - costs one line in
the log and nothing else. Peers are told by `set_cluster`; nothing is dialled that was not named
there, but for a member that this node, lagging behind, does not know yet (see hello.py).
"""

import random as random_module
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from kingbus import __version__
from kingbus.log import get_logger
from kingbus.membership.cluster import Cluster
from kingbus.pb import peer_pb2
from kingbus.raft.types import Message, MessageType
from kingbus.transport.call import BODY_BYTES_MAX, CallReply, call_url, receive_one
from kingbus.transport.codec import (
    APPEND_LIMITS,
    CALL_LIMITS,
    HELLO_LIMITS,
    PROTOCOL,
    URGENT_LIMITS,
    Frame,
    FrameBuffer,
    FrameType,
    decode_message,
    encode_frame,
    parse_body,
)
from kingbus.transport.connection import LINK_ERRORS, Connection, Dial, accept_tls, dial
from kingbus.transport.errors import (
    CallRefusedError,
    FrameError,
    HelloRefusedError,
    PeerUnreachableError,
)
from kingbus.transport.hello import Lane, Refusal, Verdict, judge
from kingbus.transport.peer import (
    Link,
    Peer,
    PeerFacts,
    SilentEvents,
    Timings,
    TransportEvents,
)
from kingbus.transport.queues import coalesce

CONNECTIONS_MAX = 512  # two lanes and a few calls for each of at most 64 members
REFUSALS_REMEMBERED_MAX = 256  # what was refused and logged; forgotten all at once beyond that
CALL_SECONDS_MAX = 60.0  # the longest wait of an admin request, and some
_log = get_logger("transport")

CallHandler = Callable[[int, bytes], Awaitable[bytes]]
"""Takes the caller's member id (0: a stranger) and the body; gives the reply's body."""


@dataclass(frozen=True, slots=True)
class _Method:
    handler: CallHandler
    strangers: bool


class Transport:
    """The connections of one member.

    `run` keeps the lanes to the peers, `serve` answers those that dial. Both may be started
    before a node exists: `attach` names it. `client_ssl` and `server_ssl` stand for TLS between
    peers; without them everything is plain. Who dials in another way than over TCP (`dial`) hands
    what was dialled from outside to `accept`.
    """

    def __init__(
        self,
        *,
        member_id: int,
        cluster: Cluster,
        random: random_module.Random,
        timings: Timings | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        client_ssl: ssl.SSLContext | None = None,
        server_ssl: ssl.SSLContext | None = None,
        command_version: int = 1,
        dial: Dial = dial,
    ) -> None:
        self.member_id = member_id
        self._cluster = cluster
        self._command_version = command_version
        self._own_urls: tuple[str, ...] = ()
        self._timings = timings or Timings()
        self._client_ssl = client_ssl
        self._dial = dial
        self._server_ssl = server_ssl
        self._wall_ns = wall_ns
        self._link = Link(
            hello=self._hello,
            events=SilentEvents(),
            timings=self._timings,
            random=random,
            wall_ns=wall_ns,
            ssl_context=client_ssl,
            dial=dial,
            log=_log,
        )
        self._peers: dict[int, Peer] = {}
        self._nursery: trio.Nursery | None = None
        self._methods: dict[str, _Method] = {}
        self._inbound: dict[tuple[int, Lane], trio.CancelScope] = {}
        self._connections = 0
        self._refused: set[tuple[int, str]] = set()
        self.set_cluster(cluster)

    def attach(self, events: TransportEvents) -> None:
        """Name the node that gets what comes; before that everything is dropped."""
        self._link.events = events

    # What the node calls.

    def set_cluster(self, cluster: Cluster) -> None:
        """Go by this membership from now on: peers come, move and go."""
        assert cluster.cluster_id == self._cluster.cluster_id
        self._cluster = cluster
        own = cluster.get(self.member_id)
        if own is not None:
            self._own_urls = own.peer_urls
        for member in cluster:
            if member.id == self.member_id:
                continue
            peer = self._peers.get(member.id)
            if peer is None:
                self._add(
                    Peer(
                        member_id=member.id,
                        name=member.name,
                        urls=member.peer_urls,
                        link=self._link,
                    )
                )
            else:
                peer.members_index = 0
                peer.name = member.name
                if set(peer.urls) != set(member.peer_urls):
                    peer.move(member.peer_urls)
        for peer in list(self._peers.values()):
            # A remote stays until the membership that it spoke of is known here.
            if peer.id not in cluster and peer.members_index <= cluster.index:
                self._drop(peer)
        for (sender, _), scope in list(self._inbound.items()):
            if sender in cluster.removed:
                scope.cancel()  # it dials again and is told that it was removed

    def send(self, messages: Sequence[Message]) -> None:
        """Queue messages for their receivers; never waits, drops what finds no room or nobody."""
        for message in coalesce(messages):
            peer = self._peers.get(message.to)
            if peer is not None:
                peer.send(message)
            elif message.type is MessageType.SNAP:
                self._link.events.report_snapshot(message.to, ok=False)

    def facts(self, member_id: int) -> PeerFacts | None:
        """What is known of the link to a peer."""
        peer = self._peers.get(member_id)
        return None if peer is None else peer.snapshot_facts()

    def _add(self, peer: Peer) -> None:
        self._peers[peer.id] = peer
        if self._nursery is not None:
            self._nursery.start_soon(peer.run)

    def _drop(self, peer: Peer) -> None:
        del self._peers[peer.id]
        peer.close()

    def _hello(self, receiver: int, lane: Lane) -> peer_pb2.Hello:
        return peer_pb2.Hello(
            protocol=PROTOCOL,
            cluster_id=self._cluster.cluster_id,
            sender=self.member_id,
            receiver=receiver,
            lane=lane.value,
            version=__version__,
            command_version=self._command_version,
            peer_urls=self._own_urls,
            members_index=self._cluster.index,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the lanes to all peers, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in self._peers.values():
                nursery.start_soon(peer.run)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # Calls.

    def register(self, method: str, handler: CallHandler, *, strangers: bool = False) -> None:
        """Answer a method; only with `strangers` also for who is no member."""
        self._methods[method] = _Method(handler, strangers)

    async def call(
        self,
        target: int | str,
        method: str,
        body: bytes = b"",
        timeout: float = 10.0,  # noqa: ASYNC109  # the answer is an error of ours, not TooSlowError
    ) -> CallReply:
        """Ask a member (by id, at each of its addresses in turn) or whoever is at a URL.

        PeerUnreachableError when there was no answer, HelloRefusedError when it was refused.
        """
        if isinstance(target, str):
            urls: Sequence[str] = (target,)
            hello = self._hello(0, Lane.CALL)
        else:
            peer = self._peers.get(target)
            if peer is None:
                raise PeerUnreachableError(f"member {target:x} has no known address")
            urls, hello = peer.urls, self._hello(target, Lane.CALL)
        last: Exception = PeerUnreachableError("no address")
        for url in urls:
            try:
                return await call_url(
                    url,
                    method,
                    body,
                    timeout_seconds=timeout,
                    hello=hello,
                    ssl_context=self._client_ssl,
                    dial=self._dial,
                )
            except (PeerUnreachableError, HelloRefusedError) as error:
                last = error
        raise last

    # What is dialled from outside.

    async def serve(
        self,
        listener: trio.SocketListener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer whoever connects, until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(self.accept, [listener], handler_nursery=nursery)

    async def accept(self, stream: trio.abc.Stream) -> None:
        """One connection from its first byte to its last; nothing of it reaches further."""
        if self._connections >= CONNECTIONS_MAX:
            _log.warning("connection refused: too many are open", connections=self._connections)
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        connection: Connection | None = None
        try:
            with trio.fail_after(self._timings.hello):
                if self._server_ssl is not None and isinstance(stream, trio.SocketStream):
                    connection = await accept_tls(stream, self._server_ssl)
                else:
                    connection = Connection(stream)
                hello, verdict = await self._greet(connection)
            if verdict.accepted:
                await self._serve_lane(connection, hello, verdict)
        except FrameError as error:
            name = "?" if connection is None else connection.peer_name
            _log.warning("peer connection closed", remote=name, reason=str(error))
        except LINK_ERRORS as error:
            name = "?" if connection is None else connection.peer_name
            _log.debug("peer connection ended", remote=name, reason=str(error) or repr(error))
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _greet(self, connection: Connection) -> tuple[peer_pb2.Hello, Verdict]:
        frame = await receive_one(connection, FrameBuffer(HELLO_LIMITS))
        if frame.type is not FrameType.HELLO:
            raise FrameError(f"{frame.type.name} came instead of a hello")
        hello = parse_body(peer_pb2.Hello(), frame.body)
        verdict = judge(hello, member_id=self.member_id, cluster=self._cluster)
        if not verdict.accepted:
            self._log_refusal(hello.sender, verdict.code)(
                "peer refused",
                remote=connection.peer_name,
                sender=f"{hello.sender:x}",
                code=verdict.code,
                reason=verdict.reason,
            )
        await connection.send(
            [encode_frame(FrameType.HELLO_REPLY, verdict.reply())],
            stall_seconds=self._timings.write,
        )
        return hello, verdict

    def _log_refusal(self, sender: int, code: str) -> Callable[..., object]:
        """A refused member tries again and again: only the first time is worth a warning."""
        if (sender, code) in self._refused:
            return _log.debug
        if len(self._refused) >= REFUSALS_REMEMBERED_MAX:
            self._refused.clear()
        self._refused.add((sender, code))
        return _log.warning

    async def _serve_lane(
        self, connection: Connection, hello: peer_pb2.Hello, verdict: Verdict
    ) -> None:
        if verdict.lane is Lane.CALL:
            await self._serve_call(connection, hello.sender if verdict.is_member else 0)
            return
        assert verdict.lane is not None
        if verdict.is_remote and hello.sender not in self._peers:
            self._add(
                Peer(
                    member_id=hello.sender,
                    name=f"{hello.sender:x}",
                    urls=verdict.peer_urls,
                    link=self._link,
                    members_index=hello.members_index,
                )
            )
        peer = self._peers.get(hello.sender)
        if peer is not None:
            if verdict.is_remote and hello.members_index > peer.members_index:
                peer.members_index = hello.members_index
                if set(peer.urls) != set(verdict.peer_urls):
                    peer.move(verdict.peer_urls)
            peer.heard(trio.current_time(), connecting=True)
        key = (hello.sender, verdict.lane)
        old = self._inbound.get(key)
        if old is not None:
            old.cancel()  # the dialler opens a new one only after it gave the old one up
        with trio.CancelScope() as scope:
            self._inbound[key] = scope
            try:
                await self._receive_messages(connection, hello.sender, verdict.lane)
            finally:
                if self._inbound.get(key) is scope:
                    del self._inbound[key]

    async def _receive_messages(self, connection: Connection, sender: int, lane: Lane) -> None:
        buffer = FrameBuffer(APPEND_LIMITS if lane is Lane.APPEND else URGENT_LIMITS)
        silence = self._timings.read
        with trio.fail_after(silence) as scope:
            while True:
                count = await connection.receive_into(buffer.space())
                if count == 0:
                    if buffer.pending_bytes:
                        raise FrameError("the connection ended inside a frame")
                    return
                now = trio.current_time()
                scope.deadline = now + silence
                peer = self._peers.get(sender)
                if peer is not None:
                    peer.heard(now)
                frames = buffer.received(count)
                messages = [
                    self._message(frame, sender)
                    for frame in frames
                    if frame.type is FrameType.MESSAGE
                ]
                if messages:
                    self._link.events.receive(messages)
                for frame in frames:
                    if frame.type is FrameType.PROBE:
                        await self._answer_probe(connection, frame)
                if lane is Lane.APPEND and messages:
                    await self._link.events.wait_room()
                    scope.deadline = trio.current_time() + silence

    def _message(self, frame: Frame, sender: int) -> Message:
        message = decode_message(frame.body)
        if message.from_ != sender:
            raise FrameError(f"member {sender:x} sent a message of {message.from_:x}")
        if message.to != self.member_id:
            raise FrameError(f"member {sender:x} sent a message for {message.to:x}")
        return message

    async def _answer_probe(self, connection: Connection, frame: Frame) -> None:
        probe = parse_body(peer_pb2.Probe(), frame.body)
        reply = peer_pb2.ProbeReply(
            number=probe.number, sent_ns=probe.sent_ns, replied_ns=self._wall_ns()
        )
        await connection.send(
            [encode_frame(FrameType.PROBE_REPLY, reply)], stall_seconds=self._timings.write
        )

    async def _serve_call(self, connection: Connection, caller: int) -> None:
        with trio.fail_after(self._timings.read):
            frame = await receive_one(connection, FrameBuffer(CALL_LIMITS))
        if frame.type is not FrameType.CALL:
            raise FrameError(f"{frame.type.name} came instead of a call")
        call = parse_body(peer_pb2.Call(), frame.body)
        reply = await self._answer(call, caller)
        await connection.send(
            [encode_frame(FrameType.CALL_REPLY, reply)], stall_seconds=self._timings.write
        )

    async def _answer(self, call: peer_pb2.Call, caller: int) -> peer_pb2.CallReply:
        method = self._methods.get(call.method)
        if method is None:
            return peer_pb2.CallReply(status=404, message=f"method {call.method!r} is unknown")
        if not caller and not method.strangers:
            return peer_pb2.CallReply(status=403, message=f"{call.method}: for members only")
        try:
            with trio.fail_after(CALL_SECONDS_MAX):
                body = await method.handler(caller, call.body)
        except CallRefusedError as error:
            return peer_pb2.CallReply(status=error.status, message=str(error))
        except trio.TooSlowError:
            return peer_pb2.CallReply(status=503, message=f"{call.method}: took too long")
        except Exception:  # noqa: BLE001  # whatever a handler does wrong
            # A handler's defect ends that call; the peer port lives on.
            _log.exception("call failed", method=call.method, caller=f"{caller:x}")
            return peer_pb2.CallReply(status=500, message=f"{call.method}: internal error")
        if len(body) > BODY_BYTES_MAX:
            return peer_pb2.CallReply(status=500, message=f"{call.method}: answer above 1 MiB")
        return peer_pb2.CallReply(status=200, body=body)


__all__ = ["CallReply", "Refusal", "Transport"]
