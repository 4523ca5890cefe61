"""What a seed draws: the cluster, its limits, and how often each fault happens."""

import random
from dataclasses import dataclass, replace
from typing import Any

from tests.simulation.drawn import DrawnOptions, Faults, draw_faults

FAULTS: Faults = {
    # The network.
    "isolate": (0.35, 2000, 8000),
    "partition": (0.35, 2000, 8000),
    "one_way": (0.35, 1500, 6000),
    "clog": (0.3, 1500, 6000),
    "type_filter": (0.25, 2000, 8000),
    "reset": (0.3, 500, 3000),
    "minority": (0.35, 1500, 6000),
    # Processes.
    "crash": (0.5, 800, 6000),
    "crash_in_ready": (0.35, 800, 6000),
    "crash_leader": (0.3, 1500, 6000),
    "restart_all": (0.15, 4000, 12000),
    "pause": (0.35, 1500, 6000),
    "wipe": (0.15, 3000, 15000),
    # Disks.
    "slow_disk": (0.35, 1500, 6000),
    "disk_error": (0.25, 2000, 8000),
    # What operators do.
    "transfer": (0.45, 700, 5000),
    "change": (0.65, 300, 2500),
    "purge": (0.6, 400, 2500),
    "campaign": (0.2, 1000, 4000),
    "forget_leader": (0.2, 1000, 4000),
    "unreachable": (0.3, 500, 3000),
    # The source.
    "rotate": (0.8, 300, 2500),
    "source_restart": (0.3, 1500, 6000),
    "source_purge": (0.3, 1500, 6000),
    "failover": (0.25, 3000, 9000),
    "break_dump": (0.3, 800, 4000),
    "stop_start": (0.2, 2000, 8000),
    "stale_receiver": (0.4, 800, 3000),
    # Those who read.
    "move_replica": (0.6, 300, 2500),
    "rewind_replica": (0.3, 1500, 6000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(DrawnOptions):
    known = FAULTS
    voters: int = 3
    nodes_max: int = 7
    replicas: int = 2
    # The core.
    asynchronous: bool = True
    pre_vote: bool = True
    check_quorum: bool = True
    step_down_on_removal: bool = True
    disable_proposal_forwarding: bool = True
    joint: bool = False
    """Changes of several members at once, through joint configurations; the membership that the
    node keeps knows only changes of one."""
    election_tick: int = 10
    max_size_per_msg: int = 1 << 20
    max_committed_size_per_ready: int = 1 << 20
    max_uncommitted_entries_size: int = 1 << 24
    max_inflight_msgs: int = 256
    max_inflight_bytes: int = 0
    # The source and the receiver.
    transaction_ms: float = 150
    """Mean time between two commits at the source; 0: it is silent."""
    command_ms: float = 100
    """Mean time between two other commands that somebody proposes; 0: none."""
    read_ms: float = 400
    batch_bytes: int = 1 << 14
    chunk_bytes: int = 1 << 14
    # The network, while it lasts.
    latency_ms: float = 3
    loss: float = 0.0
    duplication: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    snapshot_loss: float = 0.0
    # Processes and disks.
    clock_skew: float = 0.0
    write_ms: float = 4
    apply_entries_max: int = 64

    def core(self) -> dict[str, Any]:
        """The parameters of a RawNode that are the same on all nodes."""
        return {
            "election_tick": self.election_tick,
            "heartbeat_tick": 1,
            "async_storage_writes": self.asynchronous,
            "pre_vote": self.pre_vote,
            "check_quorum": self.check_quorum,
            "step_down_on_removal": self.step_down_on_removal,
            "disable_proposal_forwarding": self.disable_proposal_forwarding,
            "max_size_per_msg": self.max_size_per_msg,
            "max_committed_size_per_ready": self.max_committed_size_per_ready,
            "max_uncommitted_entries_size": self.max_uncommitted_entries_size,
            "max_inflight_msgs": self.max_inflight_msgs,
            "max_inflight_bytes": self.max_inflight_bytes,
        }


def draw(seed: int) -> Options:
    """The options of a seed."""
    rng = random.Random(f"options of {seed}")

    def maybe(chance: float, *values: Any) -> dict[str, Any]:
        return values[0] if rng.random() >= chance else rng.choice(values[1:])

    faults = draw_faults(rng, FAULTS)
    max_size_per_msg = maybe(0.5, 1 << 20, 1, 200, 2000)
    drawn = Options(
        voters=rng.choice((1, 2, 3, 3, 3, 3, 4, 5, 5)),
        replicas=rng.choice((0, 1, 2, 2)),
        asynchronous=rng.random() < 0.75,
        pre_vote=rng.random() < 0.75,
        check_quorum=rng.random() < 0.75,
        step_down_on_removal=rng.random() < 0.7,
        disable_proposal_forwarding=rng.random() < 0.7,
        joint=rng.random() < 0.4,
        election_tick=maybe(0.6, 10, 3, 5),
        max_size_per_msg=max_size_per_msg,
        max_committed_size_per_ready=maybe(0.4, 1 << 20, 1, 400, 4000),
        max_uncommitted_entries_size=maybe(0.4, 1 << 24, 1000, 5000),
        max_inflight_msgs=maybe(0.4, 256, 1, 2, 4),
        max_inflight_bytes=maybe(0.3, 0, max_size_per_msg, max_size_per_msg * 3),
        transaction_ms=maybe(0.4, 150, 0, 40, 400),
        command_ms=maybe(0.4, 100, 0, 20, 400),
        read_ms=maybe(0.3, 400, 0, 100),
        batch_bytes=maybe(0.6, 1 << 14, 300, 700, 2000),
        chunk_bytes=maybe(0.5, 1 << 14, 100, 500, 3000),
        latency_ms=maybe(0.3, 3, 1, 15, 40),
        loss=maybe(0.5, 0.0, 0.01, 0.05, 0.2),
        duplication=maybe(0.4, 0.0, 0.02, 0.1),
        reorder=maybe(0.4, 0.0, 0.05, 0.3),
        delay=maybe(0.4, 0.0, 0.005, 0.03),
        snapshot_loss=maybe(0.3, 0.0, 0.3),
        clock_skew=maybe(0.4, 0.0, 0.1, 0.4),
        write_ms=maybe(0.4, 4, 1, 15, 60),
        apply_entries_max=maybe(0.3, 64, 1, 3),
        faults=faults,
    )
    if drawn.clock_skew > 0.1 and not drawn.pre_vote:
        # Each campaign puts off the next one of all others: with clocks so far apart the fastest,
        # which may lack entries, would campaign for ever, and kingbus asks for pre-votes always.
        drawn = replace(drawn, clock_skew=0.1)
    return drawn
