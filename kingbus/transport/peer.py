"""What is sent to one member: two lanes, each a bounded queue and a connection dialled from here.

Sending never waits: a message that finds its queue full, or its peer out of reach, is dropped and
reported, because Raft repeats what matters. What comes from a peer arrives on the connections
that it dialled (see transport.py); the only thing read here are answers to the probe.
"""

import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import trio

from kingbus import metrics
from kingbus.log import Logger
from kingbus.pb import peer_pb2
from kingbus.raft.types import Message, MessageType
from kingbus.transport.call import greet
from kingbus.transport.codec import (
    APPEND_BYTES_MAX,
    Buffer,
    FrameBuffer,
    FrameType,
    encode_frame,
    encode_message,
    gather,
    parse_body,
)
from kingbus.transport.connection import LINK_ERRORS, Connection, Dial
from kingbus.transport.errors import FrameError, HelloRefusedError, PeerUnreachableError
from kingbus.transport.hello import Lane, Refusal
from kingbus.transport.queues import (
    APPEND_QUEUE_BYTES_MAX,
    URGENT_QUEUE_BYTES_MAX,
    LaneQueue,
    lane_of,
    message_bytes,
)

SEND_BYTES = 4 << 20
"""What is encoded and handed to the kernel in one go."""
CLOCK_DIFFERENCE_WARNED_SECONDS = 1.0
_REPLY_LIMITS = {FrameType.PROBE_REPLY: 256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds. A silent link is given up after `read_seconds`; probes keep it from being silent."""

    dial: float = 2.0
    hello: float = 5.0
    read: float = 5.0
    write: float = 5.0
    probe: float = 1.5
    back_off_first: float = 0.05
    back_off_max: float = 0.5


class TransportEvents(Protocol):
    """What the transport tells its node; none of these may block or raise."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages from a peer, in the order it sent them on one lane."""
        ...

    async def wait_room(self) -> None:
        """Wait until appends may come again: what is not read stays in the sender's queue."""
        ...

    def report_unreachable(self, member_id: int) -> None:
        """An append to this member was lost."""
        ...

    def report_snapshot(self, member_id: int, *, ok: bool) -> None:
        """A snapshot did not leave. With `ok` it did, which says nothing of its arrival."""
        ...

    def removed_by_peer(self, member_id: int) -> None:
        """That member says that this one was removed from the cluster."""
        ...


class SilentEvents:
    """Events that go nowhere: stands for a host until there is one, and is the base of a host that
    needs only some of them (one without snapshots, say, or that has no queue to fill).
    """

    def receive(self, messages: Sequence[Message]) -> None:
        """Drop them."""

    async def wait_room(self) -> None:
        """There is always room."""

    def report_unreachable(self, member_id: int) -> None:
        """Nobody wants to know."""

    def report_snapshot(self, member_id: int, *, ok: bool) -> None:
        """Nobody wants to know."""

    def removed_by_peer(self, member_id: int) -> None:
        """Nobody wants to know."""


@dataclass(slots=True, kw_only=True)
class PeerFacts:
    """What monitoring shows of a peer; times are of the event loop's clock."""

    rtt_seconds: float | None = None
    clock_difference_seconds: float | None = None
    queued: int = 0
    dropped: int = 0
    last_contact: float | None = None
    connected: bool = False
    connected_since: float | None = None
    last_error: str = ""


@dataclass(slots=True, kw_only=True)
class Link:
    """What all peers share."""

    hello: Callable[[int, Lane], peer_pb2.Hello]
    events: TransportEvents
    timings: Timings
    random: random.Random
    wall_ns: Callable[[], int]
    ssl_context: ssl.SSLContext | None
    dial: Dial
    log: Logger


@dataclass(slots=True)
class _Probes:
    """Probes sent and not answered, by number."""

    number: int = 0
    sent: dict[int, float] = field(default_factory=dict)

    def begin(self, now: float) -> int:
        self.number += 1
        self.sent[self.number] = now
        return self.number

    def oldest(self) -> float | None:
        return min(self.sent.values(), default=None)


_Work = Callable[[Connection, _Probes], Awaitable[None]]


class LaneSender:
    """One lane to one member: a queue, and a task that dials, greets and sends."""

    def __init__(self, peer: "Peer", lane: Lane, link: Link) -> None:
        self._peer = peer
        self._lane = lane
        self._link = link
        bytes_max = APPEND_QUEUE_BYTES_MAX if lane is Lane.APPEND else URGENT_QUEUE_BYTES_MAX
        self.queue = LaneQueue(bytes_max=bytes_max)
        self.connected = False
        self._resting = False
        self._rested = trio.Event()
        self._in_flight: Sequence[Message] = ()

    def push(self, message: Message) -> bool:
        """Queue a message; False: dropped, for the peer is out of reach or the queue full."""
        return not self._resting and self.queue.push(message)

    def wake(self) -> None:
        """The peer was just heard from: dial now instead of waiting."""
        self._rested.set()

    async def run(self) -> None:
        """Dial, send until the connection breaks, rest, again; until cancelled."""
        failures = 0
        while True:
            try:
                connection = await self._connect()
            except LINK_ERRORS as error:
                failures += 1
                self._lost(error)
            else:
                failures = 0
                await self._use(connection)
            await self._rest(failures)

    async def _connect(self) -> Connection:
        timings = self._link.timings
        url = self._peer.next_url()
        connection = await self._link.dial(
            url, timeout_seconds=timings.dial, ssl_context=self._link.ssl_context
        )
        try:
            hello = self._link.hello(self._peer.id, self._lane)
            await greet(connection, hello, timings.hello)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _use(self, connection: Connection) -> None:
        """Send over the connection until it ends; the reason is kept and logged once."""
        reasons: list[BaseException] = []
        self._set_connected(connected=True)
        try:
            async with trio.open_nursery() as nursery:
                probes = _Probes()

                async def guarded(work: _Work) -> None:
                    try:
                        await work(connection, probes)
                    except LINK_ERRORS as error:
                        reasons.append(error)
                        nursery.cancel_scope.cancel()

                nursery.start_soon(guarded, self._read_replies)
                nursery.start_soon(guarded, self._write)
        finally:
            self._set_connected(connected=False)
            await connection.aclose()
        reason = reasons[0] if reasons else PeerUnreachableError("the connection was given up")
        self._lost(reason)

    async def _write(self, connection: Connection, probes: _Probes) -> None:
        timings = self._link.timings
        probe_at = trio.current_time()
        while True:
            with trio.move_on_at(probe_at):
                await self.queue.wait()
            now = trio.current_time()
            buffers: list[Buffer] = []
            if now >= probe_at:
                oldest = probes.oldest()
                if oldest is not None and now - oldest > timings.read:
                    raise PeerUnreachableError(f"no answer to a probe in {timings.read:g} s")
                buffers.append(self._encode_probe(probes.begin(now)))
                probe_at = now + timings.probe
            self._in_flight = self.queue.take(SEND_BYTES)
            for message in self._in_flight:
                buffers += encode_message(message)
            if buffers:
                await connection.send(gather(buffers), stall_seconds=timings.write)
            # That they left is all that is known of them; the core asks, or waits for an answer.
            self._in_flight = ()

    def _encode_probe(self, number: int) -> bytes:
        probe = peer_pb2.Probe(number=number, sent_ns=self._link.wall_ns())
        return encode_frame(FrameType.PROBE, probe)

    async def _read_replies(self, connection: Connection, probes: _Probes) -> None:
        buffer = FrameBuffer(_REPLY_LIMITS)
        while True:
            count = await connection.receive_into(buffer.space())
            if count == 0:
                raise PeerUnreachableError("the peer closed the connection")
            for frame in buffer.received(count):
                reply = parse_body(peer_pb2.ProbeReply(), frame.body)
                sent = probes.sent.pop(reply.number, None)
                if sent is None:
                    raise FrameError(f"answer to probe {reply.number}, which was not asked")
                self._peer.measured(self._lane, reply, trio.current_time() - sent)

    async def _rest(self, failures: int) -> None:
        """Wait before dialling again, longer after each failure, or until the peer comes to us."""
        timings = self._link.timings
        longest = min(timings.back_off_max, timings.back_off_first * 2 ** min(failures, 16))
        self._rested = trio.Event()
        self._resting = True
        # Jitter: members that lost each other at once shall not dial each other at once.
        with trio.move_on_after(longest * self._link.random.uniform(0.5, 1.0)):
            await self._rested.wait()
        self._resting = False

    def _set_connected(self, *, connected: bool) -> None:
        self.connected = connected
        self._peer.connection_changed()

    def _lost(self, error: BaseException) -> None:
        """Forget what was queued, tell the core, and log the reason unless it is the known one."""
        events, member_id = self._link.events, self._peer.id
        lost = [*self._in_flight, *self.queue.take(1 << 62)]
        self._in_flight = ()
        for message in lost:
            if message.type is MessageType.SNAP:
                events.report_snapshot(member_id, ok=False)
        if lost:
            self._peer.count_dropped(len(lost))
        if self._lane is Lane.APPEND:
            events.report_unreachable(member_id)
        self._peer.complain(str(error) or type(error).__name__)
        if isinstance(error, HelloRefusedError) and error.code == Refusal.REMOVED:
            events.removed_by_peer(member_id)


class Peer:
    """A member as seen from here: its addresses, its two lanes, and the facts about it.

    `members_index` is set for a remote: somebody of whom only its own hello told, and who is
    dropped when the membership of that index is known here and it is not in it.
    """

    def __init__(
        self, *, member_id: int, name: str, urls: Sequence[str], link: Link, members_index: int = 0
    ) -> None:
        assert urls, f"member {member_id:x} has no address"
        self.id = member_id
        self.name = name
        self.members_index = members_index
        self.facts = PeerFacts()
        self._urls = tuple(urls)
        self._turn = 0
        self._link = link
        self._lanes = {lane: LaneSender(self, lane, link) for lane in (Lane.URGENT, Lane.APPEND)}
        self._scope = trio.CancelScope()
        self._clock_warned = False

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the member is dialled."""
        return self._urls

    def next_url(self) -> str:
        """The address for the next attempt: with several, each in turn."""
        self._turn += 1
        return self._urls[self._turn % len(self._urls)]

    def move(self, urls: Sequence[str]) -> None:
        """The member is dialled at other addresses from now on.

        A connection that stands is kept: the member is restarted at its new address after it was
        told of it, and until then it shall hear the leader, be it only to be told.
        """
        self._urls = tuple(urls)
        for lane in self._lanes.values():
            lane.wake()

    async def run(self) -> None:
        """Both lanes, until closed; afterwards the member is measured no more."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for lane in self._lanes.values():
                    nursery.start_soon(lane.run)
        for gauge in (
            metrics.PEER_CONNECTED,
            metrics.PEER_RTT_SECONDS,
            metrics.PEER_CLOCK_DIFFERENCE_SECONDS,
        ):
            with suppress(KeyError):
                gauge.remove(self.name)

    def close(self) -> None:
        """End the lanes; what is queued is lost."""
        self._scope.cancel()

    def send(self, message: Message) -> None:
        """Queue a message on its lane, or drop and report it."""
        assert message_bytes(message) < APPEND_BYTES_MAX + (1 << 20), "entry above the limit"
        if self._lanes[lane_of(message)].push(message):
            return
        self.count_dropped(1)
        if message.type is MessageType.SNAP:
            self._link.events.report_snapshot(self.id, ok=False)
        elif message.type is MessageType.APP:
            self._link.events.report_unreachable(self.id)

    def count_dropped(self, count: int) -> None:
        """Count messages that did not leave."""
        self.facts.dropped += count
        metrics.PEER_DROPPED.labels(self.name).inc(count)

    def heard(self, now: float, *, connecting: bool = False) -> None:
        """Something came from the member: it is up, so dial it at once if it was given up."""
        self.facts.last_contact = now
        if connecting:
            for lane in self._lanes.values():
                lane.wake()

    def snapshot_facts(self) -> PeerFacts:
        """The facts as of now."""
        self.facts.queued = sum(len(lane.queue) for lane in self._lanes.values())
        return self.facts

    def complain(self, reason: str) -> None:
        """Log why the member is not reached; once, until it is reached again or that changes."""
        if reason != self.facts.last_error:
            self.facts.last_error = reason
            self._link.log.warning("peer not reached", peer=self.name, reason=reason)

    def connection_changed(self) -> None:
        """A lane came up or went down."""
        connected = all(lane.connected for lane in self._lanes.values())
        if connected and self.facts.last_error:
            self.facts.last_error = ""
            self._link.log.info("peer reached again", peer=self.name)
        if connected != self.facts.connected:
            self.facts.connected = connected
            self.facts.connected_since = trio.current_time() if connected else None
            metrics.PEER_CONNECTED.labels(self.name).set(connected)

    def measured(self, lane: Lane, reply: peer_pb2.ProbeReply, rtt_seconds: float) -> None:
        """Note what a probe found; the append lane's time is mostly that of its queue."""
        self.facts.last_contact = trio.current_time()
        if lane is not Lane.URGENT:
            return
        # The reply was written half a round trip ago, as far as anybody can tell.
        now_ns = self._link.wall_ns() - int(rtt_seconds * 5e8)
        difference = (reply.replied_ns - now_ns) / 1e9
        self.facts.rtt_seconds = rtt_seconds
        self.facts.clock_difference_seconds = difference
        metrics.PEER_RTT_SECONDS.labels(self.name).set(rtt_seconds)
        metrics.PEER_CLOCK_DIFFERENCE_SECONDS.labels(self.name).set(difference)
        apart = abs(difference) > max(CLOCK_DIFFERENCE_WARNED_SECONDS, rtt_seconds)
        if apart and not self._clock_warned:
            self._link.log.warning("clocks differ", peer=self.name, seconds=round(difference, 3))
        self._clock_warned = apart
