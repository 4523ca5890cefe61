"""What is measured, against what, and what is asked of it: the only table of the benchmark.

Pure. In every unit here less is better, so that two commits can be compared row by row without
knowing what a row means.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

READERS = 10
"""How many read at once where several do."""
ELECTION_TIMEOUT_SECONDS = 1.0
"""What the nodes that lose their leader are configured with; drawn between 1 and 2 times this."""


class How(enum.Enum):
    """How a value is judged; the text stands in the table's column before the target."""

    SPEED = "≥"
    """The reference's seconds over its own, for the same bytes: at least the target."""
    ADDED = "+ ≤"
    """Its own value minus the reference's: at most the target, in the row's unit."""
    FACTOR = "times ≤"
    """Its own value over the reference's: at most the target."""
    LIMIT = "≤"
    """Its own value: at most the target, in the row's unit."""
    TOLD = ""
    """Not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report."""

    name: str
    unit: str = "s"
    series: str = ""
    """The name under which values are recorded, if not the row's own."""
    how: How = How.TOLD
    reference: str = ""
    target: float = 0.0
    reads: int = 1
    """How many times the binary log is carried in the time measured."""
    is_reference: bool = False
    """Whether it is another program than kingbus that is measured."""
    takes_longest: bool = False
    """Whether the worst value counts, not the median."""
    by_turn: bool = True
    """Whether the values of one turn, and only those, were taken side by side."""

    @property
    def source(self) -> str:
        """Where its values are."""
        return self.series or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A bare rate that must be reached on two cores, whatever the references do there."""

    part: str
    row: str
    quantity: str
    """`events_per_second` or `mb_per_second`."""
    at_least: float


MYSQLBINLOG = "mysqlbinlog --raw"
SOURCE_DUMP = "dump of the source"
INGEST_ONE = "ingest 1 node"
INGEST_THREE = "ingest 3 nodes"
DUMP = "dump"
DUMP_AS_REPLICA = "dump as a replica"
DUMP_TO_MANY = f"dump to {READERS} readers"

THROUGHPUT = (
    Row(name=MYSQLBINLOG, is_reference=True),
    Row(name=SOURCE_DUMP, is_reference=True),
    Row(name=INGEST_ONE, how=How.SPEED, reference=MYSQLBINLOG, target=0.6),
    Row(name=DUMP, how=How.SPEED, reference=SOURCE_DUMP, target=0.6),
    Row(name=DUMP_AS_REPLICA, how=How.SPEED, reference=SOURCE_DUMP, target=1.0),
    Row(name=DUMP_TO_MANY, how=How.SPEED, reference=DUMP, target=1.0, reads=READERS),
    Row(name=INGEST_THREE, how=How.SPEED, reference=MYSQLBINLOG, target=0.3),
)

AT_SOURCE, AT_LEADER, AT_FOLLOWER = "the source", "the leader", "a follower"
ADDED_MILLISECONDS = {"p50": 3.0, "p99": 15.0}


def latency_name(share: str, place: str) -> str:
    """The row of a share (`p50`) of all transactions, seen at a place."""
    return f"latency {share} at {place}"


LATENCY = tuple(
    Row(name=latency_name(share, AT_SOURCE), unit="ms", is_reference=True)
    if place == AT_SOURCE
    else Row(
        name=latency_name(share, place),
        unit="ms",
        how=How.ADDED,
        reference=latency_name(share, AT_SOURCE),
        target=added,
    )
    for share, added in ADDED_MILLISECONDS.items()
    for place in (AT_SOURCE, AT_LEADER, AT_FOLLOWER)
)

FAILOVER_SERIES = "silence after a kill"
FAILOVER = (
    Row(
        name="silence after a kill, median",
        series=FAILOVER_SERIES,
        how=How.LIMIT,
        target=1.5 * ELECTION_TIMEOUT_SECONDS + 0.3,
        by_turn=False,
    ),
    Row(
        name="silence after a kill, longest",
        series=FAILOVER_SERIES,
        how=How.LIMIT,
        target=2.0 * ELECTION_TIMEOUT_SECONDS + 0.7,
        takes_longest=True,
        by_turn=False,
    ),
)

IDLE_CPU = "CPU of an idle node"
IDLE = (Row(name=IDLE_CPU, unit="%", how=How.LIMIT, target=2.0),)

START_SHORT = "cold start, 1/8 of the log"
START_WHOLE = "cold start, whole log"
STARTUP = (
    Row(name=START_SHORT),
    # "Independent of the log's size" has no number of its own: a fifth is what noise may add.
    Row(name=START_WHOLE, how=How.FACTOR, reference=START_SHORT, target=1.2),
)

CATCH_UP = "three learners catch up"
LOOP_TURN = "longest turn of the leader's loop"
CATCHING_UP = (
    Row(name=CATCH_UP, reads=3),
    Row(name=LOOP_TURN, unit="ms", how=How.LIMIT, target=50.0, takes_longest=True, by_turn=False),
)

REPLICAS_ATTACHED = 1000
"""How many wait at one node at scale 1."""
REPLICA_MEMORY = "memory of an attached replica"
REPLICAS_SILENT = "CPU of a silent replica"
REPLICA_WAKE = "CPU to wake a replica"
REPLICAS_CPU = "CPU at 10 transactions/s"
REPLICAS_P50 = "latency p50 to all replicas"
REPLICAS_P99 = "latency p99 to all replicas"
REPLICAS = (
    Row(name=REPLICA_MEMORY, unit="kB"),
    Row(name=REPLICAS_SILENT, unit="µs/s"),
    Row(name=REPLICA_WAKE, unit="µs"),
    Row(name=REPLICAS_CPU, unit="%"),
    Row(name=REPLICAS_P50, unit="ms"),
    Row(name=REPLICAS_P99, unit="ms"),
)

FORMS_AT_REST = {
    "as it is": {},
    "zstd": {"compress": "zstd"},
    "zstd level 3": {"compress": "zstd", "level": 3},
    "sealed": {"encrypt": "cluster-key"},
    "zstd, sealed": {"compress": "zstd", "encrypt": "cluster-key"},
}
"""How a node's disk may hold the log, and the section `at-rest` that has it so."""


def at_rest_name(what: str, form: str) -> str:
    """The row of `ingest`, `dump` or `on disk` with a form."""
    return f"{what}, {form}"


AT_REST = tuple(
    Row(name=at_rest_name(what, form), unit=unit)
    for what, unit in (("ingest", "s"), ("dump", "s"), ("on disk", "%"))
    for form in FORMS_AT_REST
)

INTERVALS = 100_000
SINGLE, MANY = "a single interval", f"{INTERVALS:,} intervals"
SETS = {SINGLE: 1, MANY: INTERVALS}
"""What the sources had executed before they wrote, by the number of its intervals."""


def gtids_name(what: str, which: str) -> str:
    """The row of something that is measured with a set."""
    return f"{what}, {which}"


_OF_SETS = (
    # Within 10 %: as fast, or as much of a CPU.
    ("ingest", "s", How.SPEED, 0.9),
    ("dump as a replica", "s", How.SPEED, 0.9),
    ("CPU of a transaction", "µs", How.FACTOR, 1.1),
    # Once for each connection, and not a matter of rates.
    ("order to pull to first file", "ms", How.TOLD, 0.0),
    ("dump command to first byte", "ms", How.TOLD, 0.0),
    ("the source's own dump", "s", How.TOLD, 0.0),
)
GTIDS = tuple(
    Row(name=gtids_name(what, SINGLE), unit=unit, is_reference=what == "the source's own dump")
    if which == SINGLE
    else Row(
        name=gtids_name(what, MANY),
        unit=unit,
        is_reference=what == "the source's own dump",
        how=how,
        reference=gtids_name(what, SINGLE) if how is not How.TOLD else "",
        target=target,
    )
    for what, unit, how, target in _OF_SETS
    for which in SETS
)

MEMORY = (
    Row(
        name="anonymous memory of a node",
        unit="MB",
        how=How.LIMIT,
        target=250.0,
        takes_longest=True,
        by_turn=False,
    ),
)

WORKLOADS = ("small", "rows", "mixed")
PARTS: dict[str, tuple[Row, ...]] = {
    **dict.fromkeys(WORKLOADS, THROUGHPUT),
    "latency": LATENCY,
    "failover": FAILOVER,
    "idle": IDLE,
    "startup": STARTUP,
    "catch-up": CATCHING_UP,
    "replicas": REPLICAS,
    "at-rest": AT_REST,
    "gtids": GTIDS,
}
WHOLE_RUN = "memory"
"""The part that is not run: what the others saw is summed up in it."""

FLOORS = (
    # Three nodes on two cores, as the design has it; the others are eight times what the Go kingbus
    # did on two cores: events where those are small, bytes on the workload that has about as many
    # bytes in an event as its measurement had (440).
    Floor(part="small", row=INGEST_THREE, quantity="events_per_second", at_least=500_000),
    Floor(part="small", row=INGEST_ONE, quantity="events_per_second", at_least=8 * 116_000),
    Floor(part="mixed", row=INGEST_ONE, quantity="mb_per_second", at_least=8 * 51),
    Floor(part="mixed", row=INGEST_THREE, quantity="mb_per_second", at_least=8 * 26),
    Floor(part="mixed", row=DUMP, quantity="mb_per_second", at_least=8 * 174),
)


def rows_of(part: str) -> tuple[Row, ...]:
    """The rows of a part, in the order of the report."""
    return MEMORY if part == WHOLE_RUN else PARTS[part]


def row_named(part: str, name: str) -> Row | None:
    """A row of a part; None where this version has no such row (in an older report)."""
    if part != WHOLE_RUN and part not in PARTS:
        return None
    return next((row for row in rows_of(part) if row.name == name), None)


def floors_of(part: str, row: str) -> Iterator[Floor]:
    """The bare rates asked of a row."""
    return (floor for floor in FLOORS if (floor.part, floor.row) == (part, row))
