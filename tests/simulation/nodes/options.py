"""What a seed draws for a cluster of real nodes."""

import random
from dataclasses import dataclass
from typing import Any

from kingbus.node.node import NodeSettings
from tests.simulation.drawn import DrawnOptions, Faults, draw_faults

FAULTS: Faults = {
    # The network.
    "isolate": (0.35, 2000, 8000),
    "partition": (0.35, 2000, 8000),
    "one_way": (0.35, 1500, 6000),
    "clog": (0.3, 1500, 6000),
    "reset": (0.35, 500, 3000),
    "minority": (0.3, 1500, 6000),
    # Processes and machines.
    "crash": (0.5, 800, 6000),
    "crash_leader": (0.35, 1500, 6000),
    "power": (0.4, 1000, 6000),
    "power_in_write": (0.4, 1000, 6000),
    "restart_all": (0.15, 4000, 12000),
    # Disks.
    "slow_disk": (0.35, 1500, 6000),
    "disk_error": (0.3, 1500, 6000),
    # What operators do.
    "transfer": (0.45, 700, 5000),
    "change": (0.6, 500, 3000),
    "purge": (0.5, 500, 3000),
    "read": (0.6, 200, 1500),
    # The source.
    "rotate": (0.8, 500, 3000),
    "source_restart": (0.3, 1500, 6000),
    "source_purge": (0.3, 1500, 6000),
    "failover": (0.25, 3000, 9000),
    "break_dump": (0.3, 800, 4000),
    "stop_start": (0.2, 2000, 8000),
    "stop_source": (0.25, 2000, 8000),
    # Those who read.
    "move_reader": (0.6, 300, 2500),
    "rewind_reader": (0.3, 1500, 6000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions(DrawnOptions):
    known = FAULTS
    voters: int = 3
    nodes_max: int = 6
    readers: int = 2
    volatile: bool = True
    """Machines that can lose their power; otherwise real files and RocksDB."""
    forms: bool = False
    """Members' disks hold the log compressed or sealed, in another form after each start."""
    # The node.
    election_seconds: float = 1.0
    message_bytes_max: int = 1 << 20
    apply_bytes_max: int = 1 << 20
    uncommitted_bytes_max: int = 1 << 24
    inflight_messages_max: int = 256
    inflight_bytes_max: int = 1 << 20
    # The source.
    transaction_ms: float = 150
    """Mean time between two commits at the source."""
    chunks: tuple[int, ...] = (1 << 16,)
    """How much of the source's stream comes at once."""
    batch_bytes: int = 1 << 20
    latency_ms: float = 2
    write_ms: float = 3

    # What the first layer's checks ask for; these a node does not let anybody choose.
    asynchronous = True
    check_quorum = True
    election_tick = 10

    @property
    def max_size_per_msg(self) -> int:
        return self.message_bytes_max

    @property
    def max_inflight_msgs(self) -> int:
        return self.inflight_messages_max

    @property
    def max_inflight_bytes(self) -> int:
        return self.inflight_bytes_max

    @property
    def max_uncommitted_entries_size(self) -> int:
        return self.uncommitted_bytes_max

    def settings(self) -> NodeSettings:
        return NodeSettings(
            heartbeat_seconds=self.election_seconds / 10,
            election_seconds=self.election_seconds,
            message_bytes_max=self.message_bytes_max,
            inflight_messages_max=self.inflight_messages_max,
            inflight_bytes_max=self.inflight_bytes_max,
            uncommitted_bytes_max=self.uncommitted_bytes_max,
            apply_bytes_max=self.apply_bytes_max,
        )


def draw(seed: int) -> NodeOptions:
    """The options of a seed."""
    rng = random.Random(f"node options of {seed}")

    def maybe(chance: float, *values: Any) -> Any:
        return values[0] if rng.random() >= chance else rng.choice(values[1:])

    faults = draw_faults(rng, FAULTS)
    message_bytes_max = maybe(0.4, 1 << 20, 200, 2000)
    return NodeOptions(
        voters=rng.choice((1, 3, 3, 3, 3, 4, 5)),
        readers=rng.choice((1, 2, 2, 3)),
        volatile=rng.random() < 0.7,
        election_seconds=maybe(0.2, 1.0, 0.5, 2.0),
        message_bytes_max=message_bytes_max,
        apply_bytes_max=maybe(0.4, 1 << 20, 1, 400, 4000),
        uncommitted_bytes_max=maybe(0.3, 1 << 24, 1000, 5000),
        inflight_messages_max=maybe(0.4, 256, 1, 2, 4),
        inflight_bytes_max=max(message_bytes_max, maybe(0.3, 1 << 20, 2000, 6000)),
        transaction_ms=maybe(0.5, 150, 20, 60, 500),
        chunks=maybe(0.5, (1 << 16,), (100, 500, 3000), (1 << 16, 50)),
        batch_bytes=maybe(0.7, 1 << 20, 300, 700, 2000),
        latency_ms=maybe(0.3, 2, 1, 15, 40),
        write_ms=maybe(0.4, 3, 1, 10, 30),
        forms=rng.random() < 0.3,
        faults=faults,
    )
