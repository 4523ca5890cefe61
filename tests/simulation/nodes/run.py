"""One seed of the second layer from its draw to its end.

What makes a run repeatable: one thread, a mock clock, every draw from generators of the seed, and
trio told to forget its own dice. Trio shuffles the tasks that can run; for that it has a generator
(`_r`), seeded here, and it sorts them first only with `_ALLOW_DETERMINISTIC_SCHEDULING`, without
which the order comes from sets of objects by their address. Both are private, and switched for the
time of a run only; trio's own pytest plugin does the same for Hypothesis.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
import trio.testing

from tests.simulation.nodes.options import NodeOptions, draw
from tests.simulation.nodes.world import World

SECONDS = 15.0
"""Of simulated time with faults."""
ROUNDS_MAX = 20_000
"""Of the loop at one moment; a busy one has a few hundred."""
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    seed: int
    digest: str
    events: int
    seconds: float
    """On the simulated clock."""
    committed: int
    transactions: int
    received: int
    counts: dict[str, int]
    """How often each kind of line stands in the trace."""


class NodeSimulationError(AssertionError):
    """A promise was broken; everything that is needed to see it again."""

    def __init__(
        self, world: World, *, seconds: float, off: Sequence[str], error: BaseException
    ) -> None:
        self.seed, self.seconds, self.off = world.seed, seconds, tuple(off)
        self.events = world.events
        self.at = world.now
        self.is_calm = world.is_calm
        self.reason = str(error) or repr(error)
        self.kind = f"{type(error).__name__} in the {'end' if world.is_calm else 'run'}"
        self.options = world.options
        self.last = tuple(world.last)
        super().__init__(self.report())

    @property
    def command(self) -> str:
        off = f" --off {','.join(self.off)}" if self.off else ""
        return f"scripts/simulate --layer nodes --seed {self.seed} --seconds {self.seconds:g}{off}"

    def report(self, events: int = 40) -> str:
        """Reason, options, last events, and the command that shows it again."""
        return "\n".join(
            (
                f"seed {self.seed}, {self.at:.3f} s: {self.reason}",
                f"options: {self.options}",
                "last events:",
                *self.last[-events:],
                f"again: {self.command}",
            )
        )


@contextmanager
def _determined(seed: int) -> Iterator[None]:
    """See the module."""
    run = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    state = run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(f"trio of {seed}")
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before
        run._r.setstate(state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Members that are killed by the dozen have a lot to say."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Standstill(trio.abc.Instrument):
    """Ends a run in which tasks wake one another for ever while no time passes."""

    def __init__(self, world: World, clock: trio.testing.MockClock) -> None:
        self._world = world
        self._clock = clock
        self._now = -1.0
        self._rounds = 0

    def before_io_wait(self, timeout: float) -> None:
        now = self._clock.current_time()
        self._rounds = self._rounds + 1 if now == self._now else 0
        self._now = now
        if self._rounds == ROUNDS_MAX:
            self._world.fail(AssertionError(f"the time stands still at {now:.4f} s"))


def simulate(
    seed: int,
    seconds: float = SECONDS,
    off: Sequence[str] = (),
    *,
    options: NodeOptions | None = None,
    echo: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Run a seed; NodeSimulationError. `echo` gets each line of the trace."""
    options = (options or draw(seed)).without(off)
    place = str(_MEMORY) if _MEMORY.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="kingbus-nodes-", dir=place))
    try:
        world = World(seed, options, directory)
        world.echo = echo
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            with _determined(seed), _quiet():
                instruments = [_Standstill(world, clock)]
                trio.run(world.run, seconds, clock=clock, instruments=instruments)
        except Exception as error:
            raise NodeSimulationError(world, seconds=seconds, off=off, error=error) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Outcome(
        seed=seed,
        digest=world.digest(),
        events=world.events,
        seconds=world.now,
        committed=world.checks.commit_max,
        transactions=world.checks.visible_count,
        received=sum(reader.received for reader in world.readers),
        counts=dict(world.counts),
    )
