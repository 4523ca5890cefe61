"""What of the reserve is the index's: its share, or the most that it took lately."""

from dataclasses import dataclass, field

import pytest

from kingbus.binlog.retention import index_share
from kingbus.daemon.disk import NodeDisk
from kingbus.daemon.worker import Worker

RESERVE = 80 << 20
SHARE = index_share(RESERVE)


@dataclass
class Held:
    """A log of two segments."""

    reserve_bytes: int = RESERVE
    index_bytes: int = 0
    segment_bytes: int = 8 << 20

    room: int = 100

    def has_room(self, pending_bytes: int) -> bool:
        return pending_bytes <= self.room

    def segment_sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (1, 11), (8 << 20, 100)


@dataclass
class Growing:
    """A database that takes what the test says, one look after the other."""

    looks: list[int] = field(default_factory=list)

    def disk_bytes(self) -> int:
        return self.looks.pop(0)


async def test_the_share_is_the_least() -> None:
    """An index that takes little leaves the rest of its share free."""
    store = Held()
    disk = NodeDisk(store=store, database=Growing([SHARE // 2]), runner=Worker(1))
    await disk.measure()
    usage = disk.usage()
    assert (usage.index_bytes, usage.reserve_bytes) == (SHARE, RESERVE)
    assert (list(usage.starts), list(usage.sizes)) == ([1, 11], [8 << 20, 100])


async def test_what_it_took_once_it_may_take_again() -> None:
    """A peak is remembered for some time, with something on top, and forgotten in the end."""
    store = Held()
    looks = [SHARE // 2, 2 * SHARE, *[SHARE // 2] * 9000]
    disk = NodeDisk(store=store, database=Growing(looks), runner=Worker(1))
    for _ in range(3):
        await disk.measure()
    assert 2 * SHARE < store.index_bytes < 2.2 * SHARE
    for _ in range(1000):
        await disk.measure()
    assert SHARE < store.index_bytes < 1.6 * SHARE
    for _ in range(7000):
        await disk.measure()
    assert store.index_bytes == SHARE


@pytest.mark.parametrize(
    ("exceeds", "only_open_left", "is_full"),
    [(False, False, True), (False, True, True), (True, False, True), (True, True, False)],
)
def test_only_the_open_file_may_exceed(
    *, exceeds: bool, only_open_left: bool, is_full: bool
) -> None:
    """Where it is told to, and only once no purge can make room any more."""
    disk = NodeDisk(store=Held(), database=Growing(), runner=Worker(1), exceeds=exceeds)
    assert disk.is_full(101, only_open_left=lambda: only_open_left) == is_full
    assert not disk.is_full(100, only_open_left=lambda: only_open_left)
