"""A long way between two network namespaces: delay, loss and rate of each packet, in user space.

For kernels without netem. Two TUN devices, one here and one in a namespace of its own, and a loop
that carries packets from one to the other, later, or not at all. TCP above it is the kernel's: what
is lost is sent again, and congestion control is what the machine has. Needs CAP_NET_ADMIN here, as
in a namespace made by `unshare --net`.

Run as a program it is the link, with DELAY LOSS MB_PER_SECOND SEED CONGESTION; it says "ready" when
the other namespace, which is its own, can be entered.
"""

import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator

from scripts.benchmark.many_readers import READY, require_ready
from tests.support.installations import REPOSITORY

NEAR, FAR = "10.77.0.1", "10.77.0.2"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MTU = 1500
_PACKETS_MAX = 10_000
"""In a device's queue: what is dropped there would be loss that nobody asked for."""
_QUEUE_SECONDS_MAX = 0.1
"""How much may wait for its turn on a link of limited rate, as routers have it."""


@contextlib.contextmanager
def far_link(
    *,
    delay_seconds: float,
    loss: float,
    mb_per_second: float = 0.0,
    seed: int = 1,
    congestion: str = "",
) -> Iterator[tuple[str, ...]]:
    """A link; the command prefix that runs a program on its far side, where it has FAR.

    `congestion` is TCP's congestion control over it, if not the machine's usual one.
    """
    words = [str(each) for each in (delay_seconds, loss, mb_per_second, seed, congestion)]
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.benchmark.far_link", *words],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            require_ready(process)
            yield ("nsenter", f"--net=/proc/{process.pid}/ns/net", "--")
        finally:
            process.kill()


class Way:
    """One direction: each packet is due later, in order, or lost."""

    def __init__(
        self, *, delay_seconds: float, loss: float, mb_per_second: float, dice: random.Random
    ) -> None:
        self._delay = delay_seconds
        self._loss = loss
        self._seconds_for_byte = 1 / (mb_per_second * 1e6) if mb_per_second else 0.0
        self._dice = dice
        self._free_at = 0.0
        self._packets: deque[tuple[float, bytes]] = deque()

    def take(self, packet: bytes, now: float) -> None:
        """A packet that was sent."""
        if self._dice.random() < self._loss:
            return
        begins = max(now, self._free_at)
        if begins - now > _QUEUE_SECONDS_MAX:
            return
        self._free_at = begins + len(packet) * self._seconds_for_byte
        self._packets.append((self._free_at + self._delay, packet))

    def due(self, now: float) -> Iterator[bytes]:
        """The packets that arrive by now."""
        while self._packets and self._packets[0][0] <= now:
            yield self._packets.popleft()[1]

    @property
    def next_at(self) -> float | None:
        """When the next packet arrives."""
        return self._packets[0][0] if self._packets else None


def _open_device(name: str, address: str, other: str, congestion: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, request)
    for words in (
        ("address", "add", address, "peer", other, "dev", name),
        ("link", "set", name, "mtu", str(_MTU), "txqueuelen", str(_PACKETS_MAX), "up"),
        ("link", "set", "lo", "up"),
    ):
        subprocess.run(["ip", *words], check=True)
    if congestion:
        # By route: a namespace may not choose another one for all of its connections.
        route = ["ip", "route", "change", other, "dev", name, "src", address]
        subprocess.run([*route, "congctl", congestion], check=True)
    return device


def _carry(near: int, far: int, ways: dict[int, tuple[int, Way]]) -> None:
    """For ever, from each device to the other one."""
    poll = select.epoll()
    for device in (near, far):
        poll.register(device, select.EPOLLIN)
    while True:
        now = time.monotonic()
        coming = [way.next_at for _, way in ways.values() if way.next_at is not None]
        wait = max(0.0, min(coming) - now) if coming else None
        for device, _ in poll.poll(wait):
            now = time.monotonic()
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):
                    ways[device][1].take(os.read(device, _MTU + 100), now)
        now = time.monotonic()
        for target, way in ways.values():
            for packet in way.due(now):
                os.write(target, packet)


def main(delay: str, loss: str, rate: str, seed: str, congestion: str) -> None:
    """Be a link."""
    near = _open_device("near0", NEAR, FAR, congestion)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    far = _open_device("far0", FAR, NEAR, congestion)
    dice = random.Random(int(seed))

    def way() -> Way:
        return Way(
            delay_seconds=float(delay), loss=float(loss), mb_per_second=float(rate), dice=dice
        )

    sys.stdout.write(READY)
    sys.stdout.flush()
    _carry(near, far, {near: (far, way()), far: (near, way())})


if __name__ == "__main__":
    main(*sys.argv[1:])
