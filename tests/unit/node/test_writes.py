"""Group commit: the gathered write equals the writes one by one."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from kingbus.node.writes import gather
from kingbus.raft.types import Entry, HardState, Message, MessageType, Snapshot


def append(entries=(), *, state=(0, 0, 0), snapshot=None, note=0):
    term, vote, commit = state
    return Message(
        MessageType.STORAGE_APPEND,
        entries=list(entries),
        term=term,
        vote=vote,
        commit=commit,
        snapshot=snapshot,
        responses=[Message(MessageType.APP_RESP, index=note)],
    )


def run(term, first, count):
    return [Entry(term, index) for index in range(first, first + count)]


@st.composite
def appends(draw):
    """Appends as a follower gets them: each continues the log or replaces a suffix of it."""
    last, term, found = 0, 1, []
    for number in range(draw(st.integers(1, 8))):
        first = draw(st.integers(1, last + 1))
        count = draw(st.integers(0, 4))
        term += draw(st.integers(0, 1))
        state = draw(st.sampled_from([(0, 0, 0), (term, 1, first)]))
        found.append(append(run(term, first, count), state=state, note=number))
        if count:
            last = first + count - 1
    return found


def written(log, entries):
    if entries:
        del log[entries[0].index - 1 :]
        assert entries[0].index == len(log) + 1
        log += entries


@given(appends())
def test_one_write_leaves_what_many_would(messages):
    """The log, the hard state and the responses are those of the writes one by one."""
    wanted_log, wanted_state = [], HardState()
    for message in messages:
        written(wanted_log, message.entries)
        if message.term:
            wanted_state = HardState(message.term, message.vote, message.commit)
    wanted_responses = [message.responses[0] for message in messages]

    log, state, responses = [], HardState(), []
    queue = deque(messages)
    while queue:
        gathered = gather(queue, state)
        written(log, gathered.entries)
        state = gathered.hard_state or state
        responses += gathered.responses

    assert (log, state, responses) == (wanted_log, wanted_state, wanted_responses)


def test_a_new_commit_index_alone_needs_no_write():
    """Commit alone waits for the next write; a vote, a term or an entry does not."""
    saved = HardState(3, 1, 10)

    assert not gather(deque([append(state=(3, 1, 12))]), saved).needs_write
    assert not gather(deque([append()]), saved).needs_write
    assert gather(deque([append(state=(3, 2, 10))]), saved).needs_write
    assert gather(deque([append(state=(4, 1, 10))]), saved).needs_write
    assert gather(deque([append(run(3, 11, 1))]), saved).needs_write


def test_a_snapshot_begins_a_write_of_its_own():
    """What was appended before a snapshot is written first; what follows may go with it."""
    snapshot = Snapshot(index=20, term=3)
    queue = deque(
        [
            append(run(3, 11, 2), note=1),
            append(snapshot=snapshot, state=(3, 1, 20), note=2),
            append(run(3, 21, 1), note=3),
        ]
    )
    first, second = gather(queue, HardState(3, 1, 10)), gather(queue, HardState(3, 1, 10))

    assert [entry.index for entry in first.entries] == [11, 12]
    assert first.snapshot is None
    assert (second.snapshot, [entry.index for entry in second.entries]) == (snapshot, [21])
    assert [message.index for message in second.responses] == [2, 3]


def test_a_write_has_a_limit():
    """A long queue of large entries becomes several writes."""
    data = b"x" * (16 << 20)
    queue = deque(append([Entry(1, index, data=data)]) for index in range(1, 11))

    assert len(gather(queue, HardState()).entries) < 10
    assert queue
