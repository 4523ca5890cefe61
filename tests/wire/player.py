"""Plays the client's part of a captured dialog against a relay, and compares the answers.

What a client sends is what was captured, but for what follows from the relay's own numbers: the
scramble of a password, the thread id of a KILL. Time stands still and is moved only where the next
captured packet is a heartbeat, by the period that the client had set; so no run depends on how fast
the machine is.
"""

import contextlib
import re
from dataclasses import dataclass, field

import trio
import trio.testing

from kingbus.mysql import auth
from kingbus.mysql.constants import Capability
from kingbus.mysql.messages import Greeting
from tests.wire.capture import DUMP_COMMANDS, HEARTBEAT_V1, HEARTBEAT_V2, Dialog, Follower, Line
from tests.wire.compare import Answer, difference
from tests.wire.relay import PASSWORD, WireRelay

IDLE_SECONDS = 0.02
"""Every task waits for so long: nothing more is coming over loopback."""

LOGIN_IDLE_SECONDS = 5.0
"""The same while a password may be checked, which a thread does; reached only in a failure."""

WRONG_PASSWORD = "not it"
OK = bytes.fromhex("00000002000000")
ACKNOWLEDGEMENT = b"\xef"

_BEHAVIOUR = Capability.DEPRECATE_EOF | Capability.QUERY_ATTRIBUTES | Capability.SESSION_TRACK
"""A client sends these whatever was offered, and behaves as was offered."""


@dataclass(slots=True)
class Report:
    """What came of one dialog: `mismatches` as text, and how much was compared.

    An answer is all that the server says to one packet of the client; of a dump that is its whole
    stream, of which `events` counts the events.
    """

    name: str
    connections: int = 0
    answers: int = 0
    packets: int = 0
    events: int = 0
    acknowledgements: int = 0
    mismatches: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Peer:
    """One connection: the socket, what the greeting said, and where the dialog stands."""

    stream: trio.SocketStream
    greeting: int
    captured_thread: int
    offered: Capability
    is_fresh: bool = True
    salt: bytes = b""
    password: str = PASSWORD
    key: bytes = b""
    is_in: bool = False
    is_over: bool = False
    follower: Follower | None = None
    period: float = 0.0
    sequence: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    last: bytes = b""
    has_ended: bool = False

    def packet(self) -> tuple[int, bytes] | None:
        """Number and payload of a packet that is here."""
        size = int.from_bytes(self.buffer[:3], "little")
        if len(self.buffer) < 4 + size:
            return None
        number, payload = self.buffer[3], bytes(self.buffer[4 : 4 + size])
        del self.buffer[: 4 + size]
        return number, payload


class Player:
    """One dialog against one relay."""

    def __init__(
        self,
        captured: Dialog,
        dialog: Dialog,
        relay: WireRelay,
        clock: trio.testing.MockClock,
    ) -> None:
        """`dialog` is what is expected; what was offered to the client is as `captured`."""
        self._dialog = dialog
        self._captured = captured
        self._relay = relay
        self._clock = clock
        self._peers: dict[int, _Peer] = {}
        self._threads: dict[int, int] = {}
        self._bursts = dialog.bursts()
        self._broken: set[int] = set()
        self.report = Report(dialog.name)

    async def play(self, *, to_first: bool = False) -> Report:
        """The whole dialog, line by line; `to_first`: up to what is unlike first."""
        for line in self._dialog.lines:
            if to_first and self.report.mismatches:
                break
            if line.connection in self._broken:
                continue
            match line.kind:
                case "connect":
                    await self._connect(line)
                case "killed":
                    for connection in list(self._peers):
                        await self._close(connection)
                case "closed":
                    await self._closed(line)
                case "client":
                    await self._say(line)
                case "server":
                    await self._hear(line)
        for connection in list(self._peers):
            await self._close(connection)
        return self.report

    def _fail(self, line: Line, what: str) -> None:
        self.report.mismatches.append(f"{self._dialog.name}:{line.number}: {what}")

    # Connections -------------------------------------------------------------------------------

    async def _connect(self, line: Line) -> None:
        own = list(self._captured.of(line.connection))
        greeting = next(each for each in own if each.kind == "server")
        words = [each.payload for each in own if each.kind == "server"]
        user = next((_user(each.payload) for each in own if each.kind == "client"), "")
        self._relay.users_as(is_cached=b"\x01\x04" not in words, name=user)
        # What the source said of semi-sync is a setting of the relay.
        asked = [each for each in own if "rpl_semi_sync" in each.statement]
        replies = [reply for each in asked for reply in self._captured.answers(each)]
        self._relay.facts.semi_sync = bool(asked) and replies[0].payload[:1] != b"\xff"
        self.report.connections += 1
        address = self._relay.server.address
        assert address is not None
        stream = await trio.open_tcp_stream(address.host, address.port)
        said = Greeting.decode(greeting.payload)
        self._peers[line.connection] = _Peer(
            stream, greeting.number, captured_thread=said.thread_id, offered=said.capabilities
        )

    async def _closed(self, line: Line) -> None:
        peer = self._peers.get(line.connection)
        if peer is None:
            return
        if line.by == "server":
            if not peer.is_over and line.how.startswith("EOFError"):
                await self._expect_end(peer, line)
            await self._close(line.connection)
            return
        later = {
            each.kind for each in self._dialog.of(line.connection) if each.number > line.number
        }
        if "server" not in later and not peer.is_over:
            await self._expect_silence(peer, line)
        peer.is_over = True
        if not later:
            await self._close(line.connection)

    async def _close(self, connection: int) -> None:
        peer = self._peers.pop(connection)
        await peer.stream.aclose()
        self._broken.add(connection)

    async def _expect_silence(self, peer: _Peer, line: Line) -> None:
        surplus = await self._next(peer)
        while surplus is not None and self._is_repeated(peer, surplus[1]):
            surplus = await self._next(peer)
        if surplus is not None:
            self._fail(line, f"the relay says more: {surplus[1][:80]!r}")

    async def _expect_end(self, peer: _Peer, line: Line) -> None:
        await self._expect_silence(peer, line)
        if not peer.has_ended:
            self._fail(line, "the relay does not close")

    # What the client says ----------------------------------------------------------------------

    async def _say(self, line: Line) -> None:
        peer = self._peers[line.connection]
        payload = line.payload
        if not peer.is_in:
            payload = self._login(peer, line)
        elif line.statement:
            payload = self._statement(peer, line)
        elif line.is_command and payload[0] in DUMP_COMMANDS:
            peer.follower = Follower()
            later = (each.number for each in self._dialog.answers(line))
            self._grow(next(later, 0))
        peer.sequence = line.sequence + 1
        peer.is_fresh = True
        packet = len(payload).to_bytes(3, "little") + bytes((line.sequence,)) + payload
        # As the client found out, too, if the server had closed.
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.stream.send_all(packet)
        if peer.follower is not None and payload[:1] == ACKNOWLEDGEMENT:
            await self._expect_noted(peer, line)

    async def _expect_noted(self, peer: _Peer, line: Line) -> None:
        """An acknowledgement has no answer; but the relay tells how far the replica is."""
        await trio.testing.wait_all_tasks_blocked(IDLE_SECONDS)
        thread = self._threads[peer.captured_thread]
        replicas = [each for each in self._relay.server.replicas() if each.thread_id == thread]
        noted = [(each.acknowledged_file, each.acknowledged_position) for each in replicas]
        said = (line.payload[9:].decode(), int.from_bytes(line.payload[1:9], "little"))
        self.report.acknowledgements += 1
        if noted != [said]:
            self._fail(line, f"{noted} is noted where {said} was acknowledged")

    def _login(self, peer: _Peer, line: Line) -> bytes:
        payload = line.payload
        if line.sequence == 1:
            refused = any(
                answer.kind == "server" and answer.payload[:1] == b"\xff"
                for answer in self._captured.of(line.connection)
                if not _is_in_before(self._captured, answer)
            )
            peer.password = WRONG_PASSWORD if refused else PASSWORD
            return _response(payload, peer, peer.offered)
        if payload == b"\x02":
            return payload
        if peer.key:
            return auth.encrypt_password(peer.password.encode(), peer.salt, peer.key)
        return _scramble(peer, len(payload))

    def _statement(self, peer: _Peer, line: Line) -> bytes:
        text = line.statement
        if period := re.search(r"heartbeat_period\s*=\s*(\d+)", text):
            peer.period = int(period[1]) / 1e9
        if "UNIX_TIMESTAMP" in text:
            said = self._captured.answers(line)
            row = next(each.payload for each in said if each.payload[1:].isdigit())
            self._relay.now = float(row[1:])
        if killed := re.fullmatch(r"KILL (\d+)", text):
            text = f"KILL {self._threads[int(killed[1])]}"
            return line.payload[: -len(line.statement)] + text.encode()
        return line.payload

    # What the server says ----------------------------------------------------------------------

    def _grow(self, number: int) -> None:
        if number in self._bursts:
            self._relay.grow(*self._bursts[number])

    async def _hear(self, line: Line) -> None:
        peer = self._peers[line.connection]
        event = self._dialog.events.get(line.number)
        self._grow(line.number)
        is_heartbeat = event is not None and event.type in {HEARTBEAT_V1, HEARTBEAT_V2}
        got = await self._next(peer)
        if got is None and is_heartbeat and peer.period:
            self._clock.jump(peer.period)
            got = await self._next(peer)
        while got is not None and not is_heartbeat and self._is_repeated(peer, got[1]):
            got = await self._next(peer)
        self.report.packets += 1
        self.report.events += event is not None
        self.report.answers += peer.is_fresh
        peer.is_fresh = False
        if got is None:
            self._fail(line, f"nothing comes for {line.payload[:80]!r}")
            await self._close(line.connection)  # what follows has no meaning
            return
        payload = got[1]
        answer = self._answer(peer, line)
        peer.last = payload
        if answer is Answer.GREETING:
            greeting = Greeting.decode(payload)
            peer.salt = greeting.salt
            self._threads[peer.captured_thread] = greeting.thread_id
        if payload[:1] == b"\x01" and b"PUBLIC KEY" in payload:
            peer.key = payload[1:]
        if not peer.is_in and payload == OK:
            peer.is_in = True
        if found := difference(line, payload, answer):
            self._fail(line, found)
            if payload[:1] == b"\xff" or line.payload[:1] == b"\xff":
                await self._close(line.connection)  # what follows has no meaning

    def _answer(self, peer: _Peer, line: Line) -> Answer:
        if line.number == peer.greeting:
            return Answer.GREETING
        if not peer.is_in:
            return Answer.LOGIN
        return Answer.COMMAND if peer.follower is None else Answer.DUMP

    def _is_repeated(self, peer: _Peer, payload: bytes) -> bool:
        """A heartbeat that says again what the one before said: how many come is time's matter."""
        if peer.follower is None or payload != peer.last:
            return False
        at = 5 + (2 if payload[1:2] == b"\xef" else 0)
        return payload[at] in {HEARTBEAT_V1, HEARTBEAT_V2}

    async def _next(self, peer: _Peer) -> tuple[int, bytes] | None:
        """The next packet; None when nothing comes, or at the end of the stream."""
        idle = IDLE_SECONDS if peer.is_in else LOGIN_IDLE_SECONDS
        while (packet := peer.packet()) is None:
            data: bytes | bytearray | None = None
            async with trio.open_nursery() as nursery:

                async def give_up(scope: trio.CancelScope = nursery.cancel_scope) -> None:
                    await trio.testing.wait_all_tasks_blocked(idle)
                    scope.cancel()

                nursery.start_soon(give_up)
                try:
                    data = await peer.stream.receive_some(1 << 16)
                except trio.BrokenResourceError:
                    data = b""
                nursery.cancel_scope.cancel()
            if not data:
                peer.has_ended = data is not None
                return None
            peer.buffer += data
        self._count(peer, packet)
        return packet

    def _count(self, peer: _Peer, packet: tuple[int, bytes]) -> None:
        """Packets are numbered on; behind one that asks for an acknowledgement from 1 again."""
        number, payload = packet
        if number != peer.sequence & 0xFF:
            text = f"packet {number} where {peer.sequence & 0xFF} is due: {payload[:40]!r}"
            self.report.mismatches.append(f"{self._dialog.name}: {text}")
        peer.sequence = 1 if payload[:3] == b"\0\xef\x01" else number + 1


def _is_in_before(dialog: Dialog, line: Line) -> bool:
    """Whether the client was let in before this packet."""
    return any(
        each.number < line.number and each.kind == "server" and each.payload == OK
        for each in dialog.of(line.connection)
    )


def _user(response: bytes) -> str:
    return response[32:].partition(b"\0")[0].decode()


def _scramble(peer: _Peer, size: int) -> bytes:
    password = peer.password.encode()
    if not size:
        return b""
    if size == auth.SHA1_SIZE:
        return auth.native_scramble(password, peer.salt)
    return auth.sha2_scramble(password, peer.salt)


def _response(payload: bytes, peer: _Peer, offered: Capability) -> bytes:
    """The captured answer to the greeting with the scramble that fits the relay's salt."""
    at = payload.index(b"\0", 32) + 1
    size = payload[at]
    flags = int.from_bytes(payload[:4], "little")
    flags &= ~int(_BEHAVIOUR & ~offered)
    scramble = _scramble(peer, size)
    assert len(scramble) == size
    return flags.to_bytes(4, "little") + payload[4 : at + 1] + scramble + payload[at + 1 + size :]
