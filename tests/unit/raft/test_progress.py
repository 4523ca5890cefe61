"""Progress of a peer and its window of in-flight messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.raft.inflights import Inflights
from kingbus.raft.progress import Progress, ProgressState


def progress(**changes: int) -> Progress:
    made = Progress(match=5, next=6, inflights=Inflights(3), recent_active=True)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.integers(0, 9))), st.integers(0, 20))
def test_window_counts_what_is_in_it(
    operations: list[tuple[bool, int, int]], bytes_max: int
) -> None:
    """Count and bytes are those of the messages that were added and not freed."""
    window = Inflights(4, bytes_max)
    model: list[tuple[int, int]] = []
    last = 0
    for is_add, step, size in operations:
        if is_add and not window.is_full:
            last += step
            window.add(last, size)
            model.append((last, size))
        elif not is_add:
            index = last - step
            window.free_up_to(index)
            model = [message for message in model if message[0] > index]
        held = sum(size for _, size in model)
        assert (window.count, window.bytes) == (len(model), held)
        assert window.is_full == (len(model) == 4 or (bytes_max > 0 and held >= bytes_max))


def test_full_window_takes_nothing() -> None:
    """Adding to a full window is a mistake of the caller."""
    window = Inflights(1)
    window.add(1, 10)
    with pytest.raises(AssertionError, match="full window"):
        window.add(2, 10)
    window.reset()
    assert (window.count, window.bytes, window.is_full) == (0, 0, False)


def test_probe_sends_one_message_at_a_time() -> None:
    """A message with entries pauses a probe, an empty one does not."""
    peer = progress()
    peer.note_sent_entries(0, 0)
    assert not peer.is_paused
    peer.note_sent_entries(3, 30)
    assert peer.is_paused
    assert peer.next == 6
    assert peer.maybe_update(8)
    assert not peer.is_paused


def test_replicate_streams_until_the_window_is_full() -> None:
    """next runs ahead of match; the window pauses, an acknowledgement resumes."""
    peer = progress()
    peer.become_replicate()
    for expected_next in (8, 10, 12):
        assert not peer.is_paused
        peer.note_sent_entries(2, 20)
        assert peer.next == expected_next
    assert peer.is_paused
    assert peer.inflights.bytes == 60
    assert peer.maybe_update(7)
    peer.inflights.free_up_to(7)
    assert not peer.is_paused
    assert (peer.match, peer.next) == (7, 12)
    # An empty message into a window that is full again pauses at once.
    peer.note_sent_entries(1, 1)
    assert peer.is_paused


def test_snapshot_pauses_until_it_is_over() -> None:
    """Nothing is sent meanwhile; probing goes on behind the snapshot, or behind match."""
    peer = progress()
    peer.become_snapshot(20)
    assert peer.is_paused
    assert (peer.next, peer.pending_snapshot, peer.sent_commit) == (21, 20, 20)
    with pytest.raises(AssertionError, match="waiting for a snapshot"):
        peer.note_sent_entries(1, 1)
    peer.become_probe()
    assert (peer.next, peer.pending_snapshot, peer.is_paused) == (21, 0, False)

    failed = progress()
    failed.become_snapshot(20)
    failed.pending_snapshot = 0
    failed.become_probe()
    assert (failed.next, failed.sent_commit) == (6, 5)


@pytest.mark.parametrize(
    ("state", "next_", "rejected", "hint", "expected"),
    [
        (ProgressState.REPLICATE, 10, 5, 5, None),  # old: known to match
        (ProgressState.REPLICATE, 10, 4, 4, None),
        (ProgressState.REPLICATE, 10, 9, 9, 6),  # back to what is known to match
        (ProgressState.PROBE, 10, 8, 8, None),  # old: not the probe under way
        (ProgressState.PROBE, 10, 9, 7, 8),
        (ProgressState.PROBE, 10, 9, 50, 9),
        (ProgressState.PROBE, 10, 9, 0, 6),  # never below what is known to match
    ],
)
def test_rejections(
    state: ProgressState, next_: int, rejected: int, hint: int, expected: int | None
) -> None:
    """A fresh rejection lowers next as far as it tells, an old one does nothing."""
    peer = progress(next=next_)
    peer.state = state
    peer.is_paused_by_flow = True
    assert peer.maybe_decrease(rejected, hint) is (expected is not None)
    assert peer.next == (next_ if expected is None else expected)
    assert peer.is_paused_by_flow == (expected is None or state is ProgressState.REPLICATE)


def test_acknowledgement_never_moves_back() -> None:
    """An old acknowledgement changes nothing, a far one moves next as well."""
    peer = progress(next=9)
    assert not peer.maybe_update(5)
    assert not peer.maybe_update(3)
    assert (peer.match, peer.next) == (5, 9)
    assert peer.maybe_update(12)
    assert (peer.match, peer.next) == (12, 13)


def test_commit_is_worth_a_message_only_when_it_is_news() -> None:
    """Not when it was sent, and not beyond what the peer was sent."""
    peer = progress(next=9)
    peer.note_sent_commit(6)
    assert not peer.can_bump_commit(6)
    assert peer.can_bump_commit(7)
    peer.note_sent_commit(8)
    assert not peer.can_bump_commit(20)


def test_text() -> None:
    """Every property shows when it is there."""
    peer = progress()
    assert str(peer) == "StateProbe match=5 next=6"
    peer.become_snapshot(9)
    peer.is_learner, peer.recent_active = True, False
    assert str(peer) == ("StateSnapshot match=5 next=10 learner paused pendingSnap=9 inactive")
    full = progress()
    full.become_replicate()
    for _ in range(3):
        full.note_sent_entries(1, 1)
    assert str(full) == "StateReplicate match=5 next=9 paused inflight=3[full]"


def test_copy_is_independent() -> None:
    """A change computed on copies leaves no trace in the original."""
    peer = progress()
    peer.become_snapshot(9)
    copied = peer.copy()
    assert str(copied) == str(peer)
    assert copied.sent_commit == peer.sent_commit
    copied.is_learner = True
    assert not peer.is_learner
