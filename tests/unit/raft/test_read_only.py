"""Waiting reads: many share one round of heartbeats."""

from kingbus.raft.quorum import JointConfig, MajorityConfig
from kingbus.raft.read_only import PendingRead, ReadOnly

THREE = JointConfig(MajorityConfig.of((1, 2, 3))).committed_index


def waiting(count: int) -> tuple[ReadOnly, list[PendingRead]]:
    read_only = ReadOnly()
    reads = [PendingRead(1, b"%d" % number, number) for number in range(count)]
    for read in reads:
        read_only.add(read)
    return read_only, reads


def test_an_answer_confirms_all_reads_before_it() -> None:
    """And none that came after the heartbeat was sent."""
    read_only, reads = waiting(2)
    context = read_only.heartbeat_context
    later = PendingRead(1, b"later", 9)
    read_only.add(later)
    assert read_only.release(THREE, 1) == []
    read_only.acknowledge(2, context)
    assert read_only.release(THREE, 1) == reads
    assert read_only.release(THREE, 1) == []
    read_only.acknowledge(3, read_only.heartbeat_context)
    assert read_only.release(THREE, 1) == [later]
    assert read_only.heartbeat_context == b""


def test_answers_of_two_rounds_add_up_to_the_older() -> None:
    """A quorum is counted for each read."""
    five = JointConfig(MajorityConfig.of((1, 2, 3, 4, 5))).committed_index
    read_only, reads = waiting(1)
    read_only.acknowledge(2, read_only.heartbeat_context)
    read_only.add(PendingRead(1, b"later", 9))
    read_only.acknowledge(3, read_only.heartbeat_context)
    assert read_only.release(five, 1) == reads


def test_answers_that_are_none() -> None:
    """Of learners, unknown nodes, without context, with a number that was never given."""
    read_only, reads = waiting(1)
    context = read_only.heartbeat_context
    read_only.acknowledge(9, context)
    read_only.acknowledge(2, b"")
    read_only.acknowledge(2, b"short")
    assert read_only.release(THREE, 1) == []
    read_only.acknowledge(2, b"\xff" * 8)
    assert read_only.release(THREE, 1) == reads
    later = PendingRead(1, b"later", 9)
    read_only.add(later)
    assert read_only.release(THREE, 1) == [], "a number of the future confirms nothing of it"
