"""Whatever a disk does, a member comes up with all that it promised, or refuses with the place."""

from pathlib import Path

import pytest

from tests.damage.history import made
from tests.damage.member import Machine, Promised, live, look
from tests.damage.places import copy, damages
from tests.damage.run import Matrix, crashes, damaged

pytestmark = pytest.mark.slow

SMALL = made(files=4, size=2500)


def test_a_crash_between_any_two_calls(tmp_path: Path) -> None:
    """Killed or without power, at calls spread over a whole life: nothing promised is lost."""
    matrix = Matrix()
    crashes(matrix, tmp_path, seed=1, every=7, history=SMALL)

    assert matrix.failures == []
    assert sum(matrix.counts.values()) > 100
    assert {outcome for _, outcome in matrix.counts} == {"up"}


def test_damage_of_every_kind_at_every_kind_of_place(tmp_path: Path) -> None:
    """Flipped bits, lost sectors, noise, truncations, files that are gone: no wrong byte."""
    matrix = Matrix()
    damaged(matrix, tmp_path, seed=2, each=1)

    assert matrix.failures == []
    assert {outcome for _, outcome in matrix.counts} == {"up", "refused"}
    kinds = {kind for kind, _ in matrix.counts}
    assert {"segment: entry body", "segment: index", "identity.json", "FORMAT", "synced"} <= kinds
    assert any(kind.startswith("database ") for kind in kinds)


def test_what_is_looked_for_would_be_found(tmp_path: Path) -> None:
    """A member that forgot its last write, or shows another event, does not pass."""
    history, promised = SMALL, Promised()
    live(Machine(tmp_path / "whole"), history, promised)
    assert look(Machine(tmp_path / "whole"), history, promised).outcome == "up"

    more = Promised(last=promised.last + 1, hard_state=promised.hard_state)
    assert look(Machine(tmp_path / "whole"), history, more).outcome == "lost"
    other = made(files=4, size=2499)
    assert look(Machine(tmp_path / "whole"), other, promised).outcome == "wrong"


def test_an_older_copy_has_lost_what_was_promised(tmp_path: Path) -> None:
    """By itself it looks sound, so the others have to notice: see test_bootstrap and test_node."""
    short, promised = made(files=2, size=2500), Promised()
    live(Machine(tmp_path / "old"), short, promised)
    live(Machine(tmp_path / "new"), SMALL, promised := Promised())

    assert (
        look(Machine(copy(tmp_path / "old", tmp_path / "back")), SMALL, promised).outcome == "lost"
    )


def test_the_places_are_of_all_kinds(tmp_path: Path) -> None:
    """What the table claims to have tried."""
    live(Machine(tmp_path), made(), Promised())
    kinds = {damage.kind for damage in damages(tmp_path, seed=0, each=1)}

    assert {
        f"segment: {place}"
        for place in (
            *("segment header", "log_start header", "log_start body", "hard_state header"),
            *("hard_state body", "synced header", "synced body", "entry header", "entry body"),
            *("index", "room behind the end"),
        )
    } <= kinds
