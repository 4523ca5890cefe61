"""What a leader learns of the snapshots that it sent."""

from kingbus.node.fates import SNAPSHOT_SECONDS_MAX, SnapshotFates


def test_a_snapshot_arrived_when_its_receiver_answers_for_its_index():
    """An answer for less, or from somebody else, is none; the fate is told once."""
    fates = SnapshotFates()
    fates.sent(2, 50, 0.0)
    fates.sent(3, 50, 0.0)
    fates.acknowledged(2, 49)
    fates.acknowledged(4, 50)
    assert fates.take(1.0) == []
    fates.acknowledged(2, 50)
    fates.acknowledged(2, 51)
    assert fates.take(1.0) == [(2, True)]
    assert fates.take(1.0) == []


def test_a_snapshot_is_lost_with_its_connection():
    """Whoever is unreachable without a snapshot under way is nobody's concern."""
    fates = SnapshotFates()
    fates.lost(2)
    fates.sent(2, 50, 0.0)
    fates.lost(2)
    fates.lost(2)
    assert fates.take(1.0) == [(2, False)]


def test_a_snapshot_without_an_answer_is_given_up():
    """After a while, counted from the newest one that was sent."""
    fates = SnapshotFates()
    fates.sent(2, 50, 0.0)
    fates.sent(2, 60, 5.0)
    assert fates.take(SNAPSHOT_SECONDS_MAX) == []
    assert fates.take(5.0 + SNAPSHOT_SECONDS_MAX) == [(2, False)]


def test_nothing_is_told_to_who_leads_no_more():
    """The core asks for no fate of an earlier leadership."""
    fates = SnapshotFates()
    fates.sent(2, 50, 0.0)
    fates.acknowledged(2, 50)
    fates.sent(3, 50, 0.0)
    fates.forget()
    fates.acknowledged(3, 50)
    assert fates.take(99.0) == []
