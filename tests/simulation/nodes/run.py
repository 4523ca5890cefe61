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
from pathlib import Path

import trio
import trio.testing

from tests.simulation.layer import Layer, Outcome, SimulationError
from tests.simulation.nodes.options import draw
from tests.simulation.nodes.world import World
from tests.simulation.shrink import by_shares

SECONDS = 15.0
"""Of simulated time with faults."""
ROUNDS_MAX = 20_000
"""Of the loop at one moment; a busy one has a few hundred."""
_MEMORY = Path("/dev/shm")


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
    echo: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Run a seed; SimulationError. `echo` gets each line of the trace."""
    options = draw(seed).without(off)
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
            raise SimulationError(NODES, world, seconds, off, error) from error
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


NODES = Layer(
    name="nodes",
    flag="seconds",
    unit="simulated seconds",
    length=SECONDS,
    seeds=Path(__file__).with_name("seeds.txt"),
    draw=draw,
    simulate=simulate,
    shorten=by_shares,
)
