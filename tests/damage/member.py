"""A member that lives a history on its disk, and what a start on that disk makes of it.

`live` is what the product does in this order: log, then database, then the log is cut. `look` is a
start: directory, database, log, relay, then everything committed is applied, and a replica reads
all of it. Nothing here decides what is right: `Verdict` only tells what was found.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from kingbus.errors import KingbusError
from kingbus.membership.cluster import Cluster
from kingbus.node.bootstrap import BootstrapConfig, Restart, decide
from kingbus.node.core import initial_hard_state
from kingbus.raft.types import HardState
from kingbus.replication.relay import Relay
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.files import FileSystem, LocalFileSystem
from kingbus.storage.installing import finish_interrupted
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.state_store import StateStore
from tests.damage.history import Apply, Cut, History, Idle, Write
from tests.simulation.nodes.disks import VolatileDatabase, VolatileImage
from tests.support.relay_node import RELAY_ID, Applied, RelayNode, Replica, by_position, run_inline
from tests.unit.storage.simulated_disk import SimulatedDisk

SEGMENT_BYTES = 16 << 10
RESERVE_BYTES = 1 << 30
READ_BYTES = 1 << 20
LISTED = (("n1", ("http://h:1",)),)
CLUSTER = replace(Cluster.initial(LISTED), index=1)
IDENTITY = Identity(
    name="n1",
    member_id=CLUSTER.members[0].id,
    cluster_id=CLUSTER.cluster_id,
    created="2026-01-02T03:04:05Z",
)
CONFIG = BootstrapConfig(name="n1", peer_url="http://h:1", initial_cluster=LISTED)


class Machine:
    """A disk: real files and RocksDB below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: FileSystem = LocalFileSystem()

    def database(self, path: Path) -> StateStore:
        return StateStore.open(path)

    def has_log(self, directory: DataDirectory) -> bool:
        return directory.has_log


class VolatileMachine(Machine):
    """Log and database in memory, which lose their power when they are told to."""

    def __init__(self, path: Path, *, seed: int = 0) -> None:
        super().__init__(path)
        self.disk = SimulatedDisk(seed=seed, short_writes=bool(seed % 2))
        self.files = self.disk
        self.image = VolatileImage(random.Random(seed))

    def database(self, path: Path) -> StateStore:
        return StateStore(VolatileDatabase(self.image, path))

    def has_log(self, directory: DataDirectory) -> bool:
        return True

    def kill(self) -> None:
        self.disk.kill_process()

    def lose_power(self, keep: float | None) -> None:
        self.disk.lose_power(keep=keep)
        self.image.lose_power()


@dataclass
class Promised:
    """What was made durable, or shown to a replica, before the end."""

    last: int = 0
    term: int = 0
    hard_state: HardState = field(default_factory=HardState)
    applied: int = 0
    under_way: Any = None


def live(
    machine: Machine,
    history: History,
    promised: Promised,
    *,
    before_end: Callable[[], object] = lambda: None,
) -> None:
    """Until the history ends; `promised` is kept up to date for whoever ends it before."""
    with DataDirectory.open_or_create(machine.path) as directory:
        directory.set_identity(IDENTITY)
        database = machine.database(directory.state_path)
        log = _open_log(machine, directory)
        try:
            relay = Relay.load(database=database, log=log, runner=run_inline)
            for step in history.steps:
                promised.under_way = step
                _perform(step, log, relay, database, promised)
            promised.under_way = None
            before_end()
            log.close()
        finally:
            log.abandon()
            database.close()


def _open_log(machine: Machine, directory: DataDirectory) -> LogStore:
    return LogStore.open(
        directory.log_path if isinstance(machine.files, LocalFileSystem) else Path("/log"),
        segment_bytes=SEGMENT_BYTES,
        reserve_bytes=RESERVE_BYTES,
        cluster_id=IDENTITY.cluster_id,
        member_id=IDENTITY.member_id,
        files=machine.files,
    )


def _perform(
    step: Any, log: LogStore, relay: Relay, database: StateStore, promised: Promised
) -> None:
    match step:
        case Write():
            write = LogWrite(entries=step.entries, hard_state=step.hard_state)
            log.write(write)
            log.publish(write)
            promised.last, promised.term = step.entries[-1].index, step.entries[-1].term
            promised.hard_state = step.hard_state
        case Apply():
            _apply(log, relay, step.index)
            promised.applied = relay.applied_index
        case Cut():
            database.sync()
            log.truncate_before(step.first_index)
        case Idle():
            log.note_idle()


def _apply(log: LogStore, relay: Relay, index: int) -> None:
    while relay.applied_index < index:
        entries = log.read(relay.applied_index + 1, index + 1, READ_BYTES)
        members = {1: CLUSTER.to_record()} if entries[0].index == 1 else {}
        relay.apply(Applied(entries=entries, members=members))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a start came to.

    `up`, `refused`; or what must not be: `lost` (what was promised), `wrong` (bytes), and `unclear`
    (an error that names no place, or is none of ours).
    """

    outcome: str
    reason: str = ""


_PLACE = re.compile(r"/log/|identity\.json|the log (begins|ends) at index")


def look(machine: Machine, history: History, promised: Promised) -> Verdict:
    """A start on that disk, up to the last byte that a replica gets."""
    try:
        return _look(machine, history, promised)
    except KingbusError as error:
        text = error.explain()
        if str(machine.path) in text or _PLACE.search(text):
            return Verdict(outcome="refused", reason=text)
        return Verdict(outcome="unclear", reason=f"{type(error).__name__}: {text}")
    except Exception as error:  # noqa: BLE001 - what it is, is the finding
        return Verdict(outcome="unclear", reason=f"{type(error).__name__}: {error}")


def _look(machine: Machine, history: History, promised: Promised) -> Verdict:
    with DataDirectory.open_existing(machine.path) as directory:
        path = decide(CONFIG, identity=directory.identity, has_log=machine.has_log(directory))
        if not isinstance(path, Restart):
            return Verdict(outcome="lost", reason="it would begin anew")
        if directory.identity != IDENTITY:
            return Verdict(outcome="lost", reason=f"another identity, {directory.identity}")
        database = machine.database(directory.state_path)
        try:
            if database.installing() is not None:
                log = _open_log(machine, directory)
                finish_interrupted(database, log)
                log.close()
            members = database.members()
            if members is not None and Cluster.from_record(members) != CLUSTER:
                return Verdict(outcome="wrong", reason="another membership")
            log = _open_log(machine, directory)
            try:
                return _serve(log, database, history, promised)
            finally:
                log.abandon()
        finally:
            database.close()


def _serve(log: LogStore, database: StateStore, history: History, promised: Promised) -> Verdict:
    relay = Relay.load(database=database, log=log, runner=run_inline)
    recorded, _ = log.initial_state()
    state = initial_hard_state(recorded, applied=relay.applied_index, log=log)
    lost = _lost(log, state, promised)
    if lost:
        return Verdict(outcome="lost", reason=lost)
    _apply(log, relay, state.commit)
    served = _dump(relay)
    expected = _expected(history, relay, state.commit)
    if served != expected:
        return Verdict(
            outcome="wrong", reason=f"{len(served)} events served, {len(expected)} expected"
        )
    return Verdict(outcome="up")


def _lost(log: LogStore, state: HardState, promised: Promised) -> str:
    """What was acknowledged, voted or shown and is not there; a later write may be there too."""
    if (state.term, state.commit) < (promised.hard_state.term, promised.hard_state.commit):
        return f"hard state {state}, promised {promised.hard_state}"
    if state.term == promised.hard_state.term and state.vote != promised.hard_state.vote:
        return f"the vote of {promised.hard_state} became {state}"
    if state.commit < promised.applied:
        return f"committed {state.commit}, applied was {promised.applied}"
    if log.last_index() < promised.last:
        replaced = promised.under_way
        if not isinstance(replaced, Write) or replaced.entries[0].index > log.last_index() + 1:
            return f"the log ends at {log.last_index()}, promised {promised.last}"
    return ""


def _dump(relay: Relay) -> list[bytes]:
    if not relay.state.files:
        return []
    replica = Replica(by_position(relay.state.files[0].served_name))

    class Reader(RelayNode):
        def __init__(self) -> None:
            self.relay = relay
            self.server_id = RELAY_ID

    async def attach() -> None:
        await replica.attach(Reader())

    trio.run(attach)
    if replica.refusal is not None:
        raise replica.refusal
    return replica.stored


def _expected(history: History, relay: Relay, commit: int) -> list[bytes]:
    events = history.events()[: history.visible[commit]]
    if not relay.state.files:
        return [data for _, data in events]
    first = relay.state.files[0].name
    return [data for name, data in events if name >= first]
