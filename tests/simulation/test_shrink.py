"""What a failure is made smaller by."""

import pytest

from tests.simulation import run
from tests.simulation.layer import SimulationError
from tests.simulation.run import CORES
from tests.simulation.shrink import shrink
from tests.simulation.world import World


class Broken(World):
    """Breaks at a certain event, provided that the source rotates its files."""

    def _next(self) -> None:
        assert self.events < 200 or "rotate" not in self.options.faults, "broken"
        super()._next()


def test_a_failure_among_the_faults_ends_with_what_broke_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stays the same failure, no event longer, with no other fault or option than it needs."""
    monkeypatch.setattr(run, "World", Broken)
    found = shrink(CORES, 3, 300)
    assert found is not None
    assert (found.kind, found.events) == ("AssertionError in the run", 200)
    assert found.length == 201
    assert found.options.switchable() == ["rotate"]
    with pytest.raises(SimulationError, match="broken"):
        CORES.simulate(3, found.length, found.off)
    CORES.simulate(3, found.length - 1, found.off)


def test_a_run_that_keeps_its_promises_is_not_shrunk() -> None:
    """There is nothing to show."""
    assert shrink(CORES, 3, 300) is None
