"""How far a relay goes: a model of nodes, dump workers and tiers, calibrated by a benchmark report.

Pure arithmetic over a few measured costs; no clock, no files. It says what is bounded by what, not
what a machine will do to the last percent: costs are taken as linear, replicas as spread evenly.
docs/operating/scaling.md shows what comes of it, `scaling_tables` prints that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scripts.benchmark import catalogue

BUSY = 0.8
"""How much of a core may be planned for: beyond it what waits for the core grows quickly."""
WIRE = 0.94
"""What of a network's bit rate is left for a TCP stream's bytes, in frames of 1500."""
MB_PER_GBIT = 125.0
REPLICAS_MAX = 1000
"""For each node: its listener takes 1024 connections, and people want some."""
IN_FLIGHT_BYTES = 16 << 20
"""What the leader has under way to one member, unacknowledged: NodeSettings.inflight_bytes_max."""
SEGMENT_BYTES = 1448
"""Payload of a TCP segment over Ethernet."""

PULL, NODE_CORE, DUMP_CORES, NETWORK = "pull", "core", "dump cores", "network"


class CalibrationError(ValueError):
    """A report lacks what the model needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one core of the machine that was measured needs, and what was measured on."""

    revision: str
    machine: str
    pull_mb_per_second: float
    """What one node pulls, checks, syncs and applies."""
    pull_cpu_ms_per_mb: float
    member_cpu_ms_per_mb: float
    """What each further member adds, on both ends together."""
    dump_cpu_ms_per_mb: float
    """For each MB that is sent to a replica, where many are sent to."""
    node_mb: float
    """Anonymous memory of a busy node without replicas."""
    replica_kb: float
    """Anonymous memory that each attached replica adds."""
    replica_idle_cpu_us_per_second: float
    """Heartbeats, mostly."""
    wake_cpu_us: float
    """To tell one replica of one transaction while nothing else happens."""

    def to_json(self) -> dict[str, Any]:
        """As the calibration file has it."""
        return asdict(self)


def calibration_of(report: Mapping[str, Any]) -> Calibration:
    """The costs by a report of scripts/bench that has the parts `mixed` and `replicas`."""
    parts = {
        part["workload"]: {row["measurement"]: row for row in part["measurements"]}
        for part in report["results"]
    }

    def figure(part: str, row: str, key: str = "value") -> float:
        try:
            return float(parts[part][row][key])
        except KeyError:
            raise CalibrationError(f"the report has no {key} of `{row}` in `{part}`") from None

    pulling = figure("mixed", catalogue.INGEST_ONE, "cpu_ms_per_mb")
    three = figure("mixed", catalogue.INGEST_THREE, "cpu_ms_per_mb")
    machine = report["machine"]
    return Calibration(
        revision=str(report["revision"]),
        machine=f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:g}",
        pull_mb_per_second=figure("mixed", catalogue.INGEST_ONE, "mb_per_second"),
        pull_cpu_ms_per_mb=pulling,
        member_cpu_ms_per_mb=round(max(0.0, three - pulling) / 2, 3),
        dump_cpu_ms_per_mb=figure("mixed", catalogue.DUMP_TO_MANY, "cpu_ms_per_mb"),
        node_mb=figure("mixed", catalogue.INGEST_THREE, "peak_anonymous_mb"),
        replica_kb=figure("replicas", catalogue.REPLICA_MEMORY),
        replica_idle_cpu_us_per_second=figure("replicas", catalogue.REPLICAS_SILENT),
        wake_cpu_us=figure("replicas", catalogue.REPLICA_WAKE),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One tier that pulls from the same source: `nodes` members, each with `workers`."""

    nodes: int = 3
    workers: int = 0
    """Processes of a node that send; with 0 the node's own core does it all."""
    gbit: float = 10.0
    """Of each node's network, in each direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The highest rate of the source, in MB/s, that something keeps up with."""

    mb_per_second: float
    by: str


def replicas_of_node(replicas: int, nodes: int) -> int:
    """What the node with the most has."""
    return math.ceil(replicas / nodes)


def limit(costs: Calibration, shape: Shape, replicas: int) -> Limit:
    """What of a tier bounds the rate with which all replicas keep up, and to what.

    The leader is looked at: it pulls, sends to the members, and has its share of the replicas.
    """
    each = replicas_of_node(replicas, shape.nodes)
    others = shape.nodes - 1
    # Half of what a further member costs is taken as the leader's.
    leading = costs.pull_cpu_ms_per_mb + others * costs.member_cpu_ms_per_mb / 2
    sending = each * costs.dump_cpu_ms_per_mb
    core = BUSY * 1000
    limits = [
        Limit(
            mb_per_second=1
            / (1 / costs.pull_mb_per_second + others * costs.member_cpu_ms_per_mb / 2000),
            by=PULL,
        ),
        Limit(
            mb_per_second=wire_mb_per_second(shape.gbit) / max(1, each + others),
            by=NETWORK,
        ),
    ]
    if shape.workers == 0:
        limits.append(Limit(mb_per_second=core / (leading + sending), by=NODE_CORE))
    elif each:
        limits.append(Limit(mb_per_second=core * shape.workers / sending, by=DUMP_CORES))
    return min(limits, key=lambda each: each.mb_per_second)


def wire_mb_per_second(gbit: float) -> float:
    """What a network carries in one direction."""
    return gbit * MB_PER_GBIT * WIRE


def replicas_per_node(costs: Calibration, shape: Shape, mb_per_second: float) -> int:
    """How many replicas, or relays, each node of a tier can send that rate to; 0 if none."""
    low, high = 0, REPLICAS_MAX
    if limit(costs, shape, 0).mb_per_second < mb_per_second:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if limit(costs, shape, middle * shape.nodes).mb_per_second >= mb_per_second:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Tiers between the source and its replicas."""

    relays: tuple[int, ...]
    """Nodes of each tier behind the first, nearest the source first; empty: none is needed."""
    per_relay: int
    """How many the nodes of those tiers can send to, at most."""

    @property
    def tiers(self) -> int:
        """With the first."""
        return 1 + len(self.relays)


def plan(costs: Calibration, shape: Shape, replicas: int, mb_per_second: float) -> Plan | None:
    """How many tiers of single relay nodes like these a first tier needs; None: it cannot do it."""
    first = shape.nodes * replicas_per_node(costs, shape, mb_per_second)
    relay = Shape(nodes=1, workers=shape.workers, gbit=shape.gbit)
    per_relay = replicas_per_node(costs, relay, mb_per_second)
    tiers: list[int] = []
    below = replicas
    while below > first:
        if per_relay < 2 or first == 0:
            return None
        below = math.ceil(below / per_relay)
        tiers.insert(0, below)
    return Plan(relays=tuple(tiers), per_relay=per_relay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a node needs at some rate; the leader, with its share of the replicas."""

    in_mb_per_second: float
    out_mb_per_second: float
    core_percent: float
    """Of the node's own core, beside the workers'."""
    dump_percent: float
    """Of all workers' cores together; 0 without workers."""
    memory_mb: float


def load(costs: Calibration, shape: Shape, replicas: int, mb_per_second: float) -> Load:
    """What the leader of a tier needs while all replicas follow at that rate."""
    each = replicas_of_node(replicas, shape.nodes)
    others = shape.nodes - 1
    leading = costs.pull_cpu_ms_per_mb + others * costs.member_cpu_ms_per_mb / 2
    sending = each * costs.dump_cpu_ms_per_mb * mb_per_second
    sending += each * costs.replica_idle_cpu_us_per_second / 1000
    return Load(
        in_mb_per_second=mb_per_second,
        out_mb_per_second=(each + others) * mb_per_second,
        core_percent=(leading * mb_per_second + (0 if shape.workers else sending)) / 10,
        dump_percent=sending / 10 if shape.workers else 0.0,
        memory_mb=costs.node_mb + each * costs.replica_kb / 1000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle:
    """Small transactions one by one to many replicas that wait for them."""

    spread_ms: float
    """From the first replica that has a transaction to the last."""
    core_percent: float
    """Of each core that sends; above 100 several transactions go out together."""


def trickle(
    costs: Calibration, shape: Shape, replicas: int, transactions_per_second: float
) -> Trickle:
    """What it takes to wake all replicas of a node for each transaction."""
    each = replicas_of_node(replicas, shape.nodes) / max(1, shape.workers)
    spread_ms = each * costs.wake_cpu_us / 1000
    idle = each * costs.replica_idle_cpu_us_per_second
    return Trickle(
        spread_ms=spread_ms,
        core_percent=(spread_ms * 1000 * transactions_per_second + idle) / 10_000,
    )


def far_limits(*, rtt_seconds: float, loss: float, window_bytes: float) -> Sequence[Limit]:
    """What bounds a stream to a far member: the leader's window, TCP's, and loss.

    The last is what congestion control by loss (Reno; Cubic is close to it at these rates) makes
    of it, by the formula of Mathis et al., and is left out without loss; BBR is not bound by it.
    """
    limits = [
        Limit(mb_per_second=IN_FLIGHT_BYTES / rtt_seconds / 1e6, by="in flight"),
        Limit(mb_per_second=window_bytes / rtt_seconds / 1e6, by="TCP window"),
    ]
    if loss > 0:
        rate = SEGMENT_BYTES * math.sqrt(1.5 / loss) / rtt_seconds / 1e6
        limits.append(Limit(mb_per_second=rate, by="loss"))
    return limits


def cached_seconds(*, cache_gb: float, mb_per_second: float) -> float:
    """How far behind a replica may be while it is still sent to from the page cache."""
    return cache_gb * 1000 / mb_per_second
