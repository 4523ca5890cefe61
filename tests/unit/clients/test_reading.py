"""What a client printed, as transactions: the comparison must not overlook what it is there for."""

import json

import pytest

from tests.clients.reading import Reading, UnreadableError, difference


def reading(*transactions: tuple[str, tuple[str, ...]], whole: bool = True) -> Reading:
    """One in which each transaction inserts rows with these texts."""
    made = Reading()
    for gtid, rows in transactions:
        made.take(json.dumps({"kind": "begin", "gtid": gtid}))
        for row in rows:
            line = {"kind": "row", "change": "insert", "table": "t.a", "values": [row]}
            made.take(json.dumps(line))
        if whole:
            made.take(json.dumps({"kind": "end", "file": "b.1", "position": 4}))
    return made


FULL = (("u:1", ("a", "b")), ("u:2", ("c",)), ("u:3", ("d",)))


def test_equal_readings_do_not_differ() -> None:
    """However often they are made."""
    assert difference(reading(*FULL).transactions, reading(*FULL).transactions) == ""


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (FULL[:2], "2 transactions, from the source 3"),
        ((FULL[0], FULL[2]), "u:3"),
        ((FULL[1], FULL[0], FULL[2]), "transaction 0"),
        ((*FULL[:2], FULL[1], FULL[2]), "came twice"),
        (((FULL[0][0], ("a",)), *FULL[1:]), "transaction 0"),
        (((FULL[0][0], ("a", "x")), *FULL[1:]), "transaction 0"),
        (((FULL[0][0], ("b", "a")), *FULL[1:]), "transaction 0"),
    ],
    ids=["end missing", "gap", "order", "twice", "row missing", "row differs", "order of rows"],
)
def test_every_difference_is_told(told: tuple[tuple[str, tuple[str, ...]], ...], says: str) -> None:
    """Missing, repeated, in another order, or with other rows."""
    assert says in difference(reading(*told).transactions, reading(*FULL).transactions)


def test_an_unfinished_transaction_is_not_told_yet() -> None:
    """Its mark does not count, and whoever goes on without it gets it again."""
    made = reading(("u:1", ("mark-1.",)), whole=False)
    assert not made.has("mark-1.")
    assert made.counts["insert"] == 1
    made.drop_unfinished()
    assert made.transactions == []
    assert made.counts["insert"] == 0


def test_a_transaction_that_was_cut_may_begin_again() -> None:
    """As a client does that comes back by itself: it counts once."""
    made = reading(("u:1", ("a",)), whole=False)
    for line in (
        {"kind": "begin", "gtid": "u:1"},
        {"kind": "row", "change": "insert", "table": "t.a", "values": ["a"]},
        {"kind": "end", "file": "b.1", "position": 4},
    ):
        made.take(json.dumps(line))
    assert difference(made.transactions, reading(("u:1", ("a",))).transactions) == ""
    assert made.counts["insert"] == 1


def test_only_an_exact_repetition_is_left_out() -> None:
    """Directly behind the first, with the same rows."""
    made = reading(FULL[0], FULL[0], FULL[1], (FULL[1][0], ("other",)), FULL[0])
    made.drop_repeated()
    assert [each.gtid for each in made.transactions] == ["u:1", "u:2", "u:2", "u:1"]
    assert made.counts["insert"] == 2 + 1 + 1 + 2


def test_changes_that_each_name_their_transaction() -> None:
    """As Debezium tells them: no end comes, and a change of another one ends it."""
    made = Reading()
    for gtid, row in (("u:1", "a"), ("u:1", "b"), ("u:2", "c")):
        line = {"kind": "row", "change": "insert", "table": "t.a", "gtid": gtid, "values": [row]}
        made.take(json.dumps(line))
    assert [(each.gtid, len(each.changes)) for each in made.transactions] == [
        ("u:1", 2),
        ("u:2", 1),
    ]
    assert made.has("c")


@pytest.mark.parametrize("line", ["", "Exception in thread main", "[]", "{}", '{"no": "kind"}'])
def test_other_lines_are_refused(line: str) -> None:
    """With the line in the error."""
    with pytest.raises(UnreadableError, match="not as agreed"):
        Reading().take(line)
