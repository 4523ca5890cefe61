"""The packets of a far link, and the bytes of a crowd of replicas, without any network."""

import random

from hypothesis import given
from hypothesis import strategies as st

from scripts.benchmark.crowd import ends_of_transactions, times
from scripts.benchmark.far_link import Way


def way(**changed) -> Way:
    facts = {"delay_seconds": 0.08, "loss": 0.0, "mb_per_second": 0.0, "dice": random.Random(1)}
    return Way(**{**facts, **changed})


@given(st.lists(st.floats(0, 1), min_size=1))
def test_packets_arrive_in_order_each_after_the_delay(moments):
    """And not before."""
    moments.sort()
    link = way()
    for number, at in enumerate(moments):
        link.take(number.to_bytes(4, "big"), at)
    assert link.next_at == moments[0] + 0.08
    assert list(link.due(moments[0])) == []
    arrived = list(link.due(moments[-1] + 0.08))
    assert [int.from_bytes(each, "big") for each in arrived] == list(range(len(moments)))
    assert link.next_at is None


def test_about_as_many_packets_are_lost_as_were_asked_for():
    """Of ten thousand with one in two hundred; the dice are seeded."""
    link = way(loss=0.005)
    for _ in range(10_000):
        link.take(b"packet", 0.0)
    assert 9920 < len(list(link.due(1.0))) < 9980


def test_a_slow_link_makes_packets_wait_and_drops_what_would_wait_long():
    """1 MB/s: a packet of 1000 bytes takes a millisecond; a tenth of a second may be queued."""
    link = way(mb_per_second=1.0)
    for _ in range(300):
        link.take(bytes(1000), 0.0)
    assert len(list(link.due(0.0805))) == 0
    assert len(list(link.due(0.0815))) == 1
    assert 95 <= len(list(link.due(10.0))) <= 105


def packet(kind: int, size: int) -> bytes:
    event = bytes(4) + bytes((kind,)) + bytes(size)
    return (len(event) + 1).to_bytes(3, "little") + b"\x07\x00" + event


def test_transactions_end_with_their_xid():
    """Whatever events come before; what is not whole yet does not end."""
    stream = packet(33, 40) + packet(2, 30) + packet(16, 26)
    whole = stream + packet(33, 40)
    assert ends_of_transactions(whole) == [len(stream)]
    assert ends_of_transactions(whole + packet(16, 26)) == [len(stream), len(whole) + 36]
    assert ends_of_transactions(stream[:-1]) == []


def test_a_transaction_has_come_when_as_many_bytes_have():
    """In whatever pieces; who got another number of bytes in all is not told."""
    assert times([10, 20], [(1.0, 4), (2.0, 6), (3.0, 10)]) == [2.0, 3.0]
    assert times([10, 20], [(1.0, 20)]) == [1.0, 1.0]
    assert times([10, 20], [(1.0, 10)]) is None
    assert times([10, 20], [(1.0, 21)]) is None
    assert times([], []) is None
