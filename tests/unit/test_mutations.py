"""The defects that scripts/mutate puts into the source still fit it."""

import pytest

from tests.mutations.catalogue import ROOT, Defect, DriftError, Edit, load

DEFECTS = load()


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_fits_the_source(defect):
    """Its texts are found exactly once, the result compiles, and the tests it names are there."""
    defect.check(ROOT)


def test_all_of_the_table_are_there():
    """Nobody drops a defect because it is hard to notice."""
    groups = {}
    for defect in DEFECTS:
        groups.setdefault(defect.group, []).append(defect)

    assert len(groups["raft"]) >= 51
    assert sum(len(group) for name, group in groups.items() if name != "raft") >= 25


@pytest.mark.parametrize("text", ["nothing of it", "a = 1\na = 1\n"])
def test_a_text_that_is_not_there_once_is_drift(tmp_path, text):
    """Neither a text that is gone nor one that is there twice counts, and no file changes."""
    (tmp_path / "module.py").write_text(text)
    edit = Edit(file="module.py", find="a = 1", replace="a = 2")
    defect = Defect(name="d", why="w", group="g", edits=(edit,), stages=())

    with pytest.raises(DriftError, match=r"d: module.py has [02] times"):
        defect.check(tmp_path)
    with pytest.raises(DriftError):
        defect.apply(tmp_path)
    assert (tmp_path / "module.py").read_text() == text


def test_a_defect_is_applied_whole(tmp_path):
    """All its places change, and what was there before is given back."""
    (tmp_path / "module.py").write_text("a = 1\nb = 1\n")
    edits = (
        Edit(file="module.py", find="a = 1", replace="a = 2"),
        Edit(file="module.py", find="b = 1", replace="b = 2"),
    )
    defect = Defect(name="d", why="w", group="g", edits=edits, stages=())

    assert defect.apply(tmp_path) == {tmp_path / "module.py": "a = 1\nb = 1\n"}
    assert (tmp_path / "module.py").read_text() == "a = 2\nb = 2\n"
