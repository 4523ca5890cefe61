"""The table of what replicas need: the newest sight counts, and it does not grow for ever."""

import pytest

from kingbus.binlog.retention import Need
from kingbus.replication.replica_needs import (
    REPLICAS_MAX,
    ReplicaNeeds,
    decode_needs,
    encode_needs,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def indexes(table: ReplicaNeeds) -> dict[str, int]:
    return {need.replica: need.index for need in table.all()}


def test_the_newest_sight_counts() -> None:
    """Whichever node it is from, and whichever is heard of first."""
    clock = Clock()
    here = ReplicaNeeds(clock)
    here.see("a", 10)
    clock.now += 20
    here.merge([Need(replica="a", index=5, seen_seconds_ago=30)])
    assert indexes(here) == {"a": 10}
    here.merge([Need(replica="a", index=15, seen_seconds_ago=3)])
    assert indexes(here) == {"a": 15}
    assert here.all()[0].seen_seconds_ago == 3


def test_what_goes_round_does_not_grow_younger() -> None:
    """A table that comes back from another node adds nothing; its ages go on."""
    clock = Clock()
    here, there = ReplicaNeeds(clock), ReplicaNeeds(clock)
    here.see("a", 10)
    for _ in range(5):
        clock.now += 10
        there.merge(decode_needs(encode_needs(here.all())))
        here.merge(decode_needs(encode_needs(there.all())))
    assert here.all() == there.all() == [Need(replica="a", index=10, seen_seconds_ago=50)]


def test_who_was_not_seen_is_forgotten() -> None:
    """After so long, and before that when there are too many."""
    clock = Clock()
    table = ReplicaNeeds(clock)
    table.see("old", 1)
    clock.now += 100
    table.see("new", 2)
    table.forget(unseen_seconds=99)
    assert indexes(table) == {"new": 2}
    clock.now += 1
    for number in range(REPLICAS_MAX):
        table.see(f"made-up-{number}", 3)
    assert len(table.all()) == REPLICAS_MAX
    assert "new" not in indexes(table)


@pytest.mark.parametrize("told", [None, 3, [["a", 1]], [["a", "x", 1.0]], [3]])
def test_nonsense_is_refused(told: object) -> None:
    """By one error that says so."""
    with pytest.raises(ValueError, match="not a table of replicas"):
        decode_needs(told)
