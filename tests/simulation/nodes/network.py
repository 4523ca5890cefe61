"""The network between members: streams in memory that are slow, stall, break and go silent.

The transport above is the production code; this gives it other streams than TCP's (`Dial`). As
with TCP nothing is lost, repeated or reordered within a connection: what a partition holds back
comes when it ends, unless a timeout or a reset was sooner. A process that ends closes its streams;
a machine that ends does not, and who is connected to it finds out by waiting.
"""

import random
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from kingbus.transport.connection import Connection
from kingbus.transport.errors import PeerUnreachableError

if TYPE_CHECKING:
    from tests.simulation.nodes.member import Member

WINDOW_BYTES = 256 << 10
"""Sent and not received, before a sender waits: as large as a socket's buffers."""


class Network:
    """All links; names of members stand for their machines."""

    def __init__(
        self, rng: random.Random, *, latency: float, find: Callable[[str], "Member | None"]
    ) -> None:
        self._rng = rng
        self._latency = latency
        self._find = find
        self._cuts: dict[tuple[str, str], float] = {}
        self._clogs: dict[tuple[str, str], float] = {}
        self._wires: dict[Wire, None] = {}

    # -- what goes wrong ------------------------------------------------------------------------

    def cut(self, sender: str, receiver: str, seconds: float) -> None:
        """Nothing passes, and dialling fails."""
        self._cuts[sender, receiver] = trio.current_time() + seconds

    def clog(self, sender: str, receiver: str, seconds: float) -> None:
        """What is sent arrives late."""
        self._clogs[sender, receiver] = trio.current_time() + seconds

    def reset(self, one: str, other: str) -> None:
        """The connections of both break, with all that is under way."""
        for wire in list(self._wires):
            if {wire.owner, wire.other} == {one, other}:
                wire.reset()

    def heal(self) -> None:
        self._cuts.clear()
        self._clogs.clear()
        for wire in self._wires:
            wire.wake()

    def process_ended(self, name: str) -> None:
        for wire in [wire for wire in self._wires if wire.owner == name]:
            wire.close()

    def machine_ended(self, name: str) -> None:
        for wire in [wire for wire in self._wires if wire.owner == name]:
            wire.vanish()

    def machine_began(self, name: str) -> None:
        """It knows nothing of the connections that it had."""
        for wire in [wire for wire in self._wires if wire.other == name and wire.peer.is_gone]:
            wire.reset()

    # -- for streams ----------------------------------------------------------------------------

    def arrival(self) -> float:
        """When something that is sent now arrives."""
        return trio.current_time() + self._latency * self._rng.expovariate(1)

    def open_at(self, sender: str, receiver: str) -> float:
        """From when on what has arrived is let through."""
        link = sender, receiver
        return max(self._cuts.get(link, 0.0), self._clogs.get(link, 0.0))

    def is_cut(self, sender: str, receiver: str) -> bool:
        return self._cuts.get((sender, receiver), 0.0) > trio.current_time()

    def piece(self, size: int) -> int:
        """How much of what is sent goes in one packet."""
        return size if self._rng.random() < 0.9 else self._rng.randint(1, size)

    def forget(self, wire: "Wire") -> None:
        self._wires.pop(wire, None)

    def dialler(self, name: str) -> "Dialler":
        return Dialler(self, name)

    async def connect(self, name: str, url: str, seconds: float) -> "Wire":
        give_up_at = trio.current_time() + seconds
        await trio.sleep_until(min(give_up_at, self.arrival()))
        target = self._find(url)
        if target is None or not self._reaches(name, target):
            await trio.sleep_until(give_up_at)
            raise PeerUnreachableError(f"{url}: no connection within {seconds:g} s")
        if not target.listens:
            raise PeerUnreachableError(f"{url}: connection refused")
        here, there = Wire(self, name, target.name), Wire(self, target.name, name)
        here.peer, there.peer = there, here
        self._wires[here] = self._wires[there] = None
        target.accept(there)
        return here

    def _reaches(self, name: str, target: "Member") -> bool:
        """Whether a question comes there, and its answer back."""
        is_cut = self.is_cut(name, target.name) or self.is_cut(target.name, name)
        return not (is_cut or target.is_dead_machine)


class Dialler:
    """How one member dials: implements `kingbus.transport.connection.Dial`."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name

    async def __call__(
        self, url: str, *, timeout_seconds: float, ssl_context: ssl.SSLContext | None = None
    ) -> Connection:
        return Connection(await self._network.connect(self._name, url, timeout_seconds))


class Wire(trio.abc.Stream):
    """One end of a stream."""

    peer: "Wire"

    def __init__(self, network: Network, owner: str, other: str) -> None:
        self.owner = owner
        self.other = other
        self._network = network
        self._inbox: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._last = 0.0
        self._end_at: float | None = None
        self._is_closed = self._is_broken = self.is_gone = False
        self._changed = trio.Event()

    __hash__ = object.__hash__

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = bytes(data)
        while rest:
            self._check()
            peer = self.peer
            if peer._is_closed and not peer.is_gone:
                raise trio.BrokenResourceError("connection reset by peer")
            if peer._held >= WINDOW_BYTES:
                await self._changed.wait()
                continue
            size = self._network.piece(min(len(rest), WINDOW_BYTES))
            peer._put(rest[:size])
            rest = rest[size:]

    def _put(self, data: bytes) -> None:
        self._last = max(self._last, self._network.arrival())
        self._inbox.append((self._last, data))
        self._held += len(data)
        self.wake()

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._is_broken:
            raise trio.BrokenResourceError("connection reset by peer")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        network = self._network
        while True:
            self._check()
            if self._inbox:
                at = max(self._inbox[0][0], network.open_at(self.other, self.owner))
                if at <= trio.current_time():
                    return self._pop(max_bytes)
            elif self._end_at is not None:
                at = max(self._end_at, network.open_at(self.other, self.owner))
                if at <= trio.current_time():
                    return b""
            else:
                at = float("inf")
            changed = self._changed
            with trio.move_on_at(at):
                await changed.wait()

    def _pop(self, max_bytes: int | None) -> bytes:
        when, data = self._inbox.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._inbox.appendleft((when, data[max_bytes:]))
            data = data[:max_bytes]
        self._held -= len(data)
        self.peer.wake()
        return data

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The other end learns it when the news gets there."""
        if self._is_closed:
            return
        self._is_closed = True
        self._network.forget(self)
        self.wake()
        peer = self.peer
        peer._end_at = max(peer._last, self._network.arrival())
        peer.wake()

    def reset(self) -> None:
        self._is_broken = True
        self._inbox.clear()
        self.wake()

    def vanish(self) -> None:
        """Nobody is told."""
        self._is_closed = self.is_gone = True
        self._network.forget(self)
        self.wake()
