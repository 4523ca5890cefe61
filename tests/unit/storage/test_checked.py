"""Entries whose bytes were looked at: never one too many, and not more ranges than there may be."""

from hypothesis import given
from hypothesis import strategies as st

from kingbus.storage.checked import CheckedEntries

changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 60), st.integers(1, 8)),
        st.tuples(st.just("before"), st.integers(1, 60), st.just(0)),
    ),
    max_size=40,
)


@given(changes)
def test_it_is_the_set_of_what_was_added(steps: list[tuple[str, int, int]]) -> None:
    """With ranges merged where they touch."""
    checked, expected = CheckedEntries(), set[int]()
    for what, index, count in steps:
        if what == "add":
            checked.add(index, index + count)
            expected |= set(range(index, index + count))
        else:
            checked.forget_before(index)
            expected = {each for each in expected if each >= index}
        assert [each for each in range(80) if each in checked] == sorted(expected)
        assert len(checked) == len([each for each in expected if each - 1 not in expected])
    checked.clear()
    assert not [each for each in range(80) if each in checked]


@given(changes, st.integers(1, 4))
def test_it_forgets_rather_than_grows(steps: list[tuple[str, int, int]], most: int) -> None:
    """What it forgets has to be looked at again; what was never looked at it never has."""
    checked, expected = CheckedEntries(most), set[int]()
    for _, index, count in steps:
        checked.add(index, index + max(1, count))
        expected |= set(range(index, index + max(1, count)))
        assert len(checked) <= most
        assert {each for each in range(80) if each in checked} <= expected


def test_the_shortest_range_goes_first() -> None:
    """Which costs least to look at again."""
    checked = CheckedEntries(2)
    checked.add(1, 11)
    checked.add(20, 22)
    checked.add(30, 36)
    assert [each for each in (1, 20, 30) if each in checked] == [1, 30]
