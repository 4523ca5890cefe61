"""Transaction boundaries: the two numpy ways against the event-by-event parser."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog.boundary import (
    EventClass,
    OpenTransaction,
    Phase,
    TransactionBoundaryParser,
    classify_query,
    split_by_length,
    split_by_rules,
    split_event_by_event,
)
from kingbus.binlog.errors import InconsistentTransactionError

C = EventClass

# Shapes of transactions as servers before 8.0.2 write them, behind their GTID event.
SHAPES = [
    [C.BEGIN, C.STATEMENT, C.STATEMENT, C.END],  # rows and XID, or MyISAM and COMMIT
    [C.BEGIN, C.PRE_STATEMENT, C.STATEMENT, C.IGNORE, C.END],
    [C.STATEMENT],  # DDL
    [C.PRE_STATEMENT, C.PRE_STATEMENT, C.STATEMENT],
    [C.IGNORE, C.END],
    [C.BEGIN, C.STATEMENT, C.STATEMENT, C.END],
    [C.END_XA],
    [C.INCIDENT],
    [C.BEGIN, C.BEGIN, C.END_XA],
]
# Shapes as MariaDB writes them behind a GTID event that is a BEGIN.
BEGUN_SHAPES = [
    [C.STATEMENT, C.STATEMENT, C.END],
    [C.PRE_STATEMENT, C.STATEMENT, C.STATEMENT, C.END],
    [C.STATEMENT, C.STATEMENT, C.END_XA],
    [C.END],
]
STARTS = {C.GTID, C.GTID_BEGIN}
OUTSIDE = [C.FILE, C.INCIDENT, C.IGNORE]

streams = st.lists(
    st.one_of(
        st.sampled_from(SHAPES).map(lambda shape: [C.GTID, *shape]),
        st.sampled_from(BEGUN_SHAPES).map(lambda shape: [C.GTID_BEGIN, *shape]),
        st.sampled_from(OUTSIDE).map(lambda code: [code]),
    ),
    min_size=1,
    max_size=12,
)


def split_all(codes, cuts, split):
    """Splits a stream in pieces, and gives starts, stops and open ends over the whole."""
    carried, starts, stops, opens = None, [], [], []
    edges = sorted({0, *cuts, len(codes)})
    for low, high in pairwise(edges):
        got = split(low, high, carried)
        starts += [low + at for at in got.starts.tolist()]
        if got.carried_stop >= 0:
            stops.append(low + got.carried_stop)
        stops += [low + at for at in got.stops.tolist()]
        carried = got.open
        opens.append((high, carried is not None))
        visible = got.visible
        if visible is not None:
            assert not any(low + visible < s <= high for s in stops)
    return starts, stops, opens


def expected_of(stream):
    starts, stops, at = [], [], 0
    for piece in stream:
        if piece[0] in STARTS:
            starts.append(at)
            stops.append(at + len(piece))
        at += len(piece)
    return starts, stops


@given(streams, st.data())
def test_all_three_ways_find_what_was_built(stream, data):
    """However a stream is cut, lengths, rules and the parser find each transaction as built."""
    codes = np.array([code for piece in stream for code in piece], dtype=np.uint8)
    cuts = data.draw(st.sets(st.integers(0, len(codes)), max_size=5))
    sizes = np.array(
        data.draw(st.lists(st.integers(1, 99), min_size=len(codes), max_size=len(codes)))
    )
    ends = 1000 + np.cumsum(sizes)
    begins = ends - sizes
    starts, stops = expected_of(stream)
    length_of = {
        start: int(ends[stop - 1] - begins[start])
        for start, stop in zip(starts, stops, strict=True)
    }

    def by_length(low, high, carried):
        here = np.array(
            [length_of[at] for at in range(low, high) if at in length_of], dtype=np.int64
        )
        return split_by_length(
            codes[low:high], ends[low:high], here, position=int(begins[low]), carried=carried
        )

    def by_rules(low, high, carried):
        return split_by_rules(codes[low:high], carried=carried)

    def one_by_one(low, high, carried):
        return split_event_by_event(codes[low:high], carried=carried)

    for split in (by_length, by_rules, one_by_one):
        got_starts, got_stops, opens = split_all(codes, cuts, split)
        assert (got_starts, got_stops) == (starts, stops)
        for high, is_open in opens:
            inside = any(a < high < b for a, b in zip(starts, stops, strict=True))
            assert is_open == inside


@given(st.lists(st.sampled_from(list(C)), min_size=1, max_size=14), st.integers(0, 14))
def test_the_rules_and_the_parser_refuse_the_same(codes, cut):
    """For any sequence of classes both find the same, or both refuse it.

    In a stream with GTIDs a transaction that begins without one counts as refused.
    """
    array = np.array(codes, dtype=np.uint8)
    parser, starts, stops, refused = TransactionBoundaryParser(), [], [], False
    for at, code in enumerate(codes):
        try:
            begins, ends = parser.feed(code)
        except InconsistentTransactionError:
            refused = True
            break
        refused |= begins and code not in STARTS
        starts += [at] * begins
        stops += [at + 1] * ends
    try:
        got = split_all(
            array,
            {min(cut, len(codes))},
            lambda low, high, carried: split_by_rules(array[low:high], carried=carried),
        )
    except InconsistentTransactionError:
        assert refused
        return

    assert not refused
    assert got[:2] == (starts, stops)


@pytest.mark.parametrize("length", [99, 101, 1, 150, 300, -5])
def test_a_wrong_length_is_refused(length):
    """A length that ends inside an event, before the last or behind the next GTID is an error."""
    codes = np.array([C.GTID, C.BEGIN, C.END, C.GTID, C.STATEMENT], dtype=np.uint8)
    ends = np.array([50, 80, 100, 150, 200])
    right = split_by_length(codes, ends, np.array([100, 100]), position=0, carried=None)
    assert right.starts.tolist() == [0, 3] and right.stops.tolist() == [3, 5]
    assert right.open is None and right.visible is None

    with pytest.raises(InconsistentTransactionError):
        split_by_length(codes, ends, np.array([length, 100]), position=0, carried=None)


def test_a_carried_transaction_must_end_where_it_said():
    """What was open before the run ends at its position, or the run is refused."""
    codes = np.array([C.STATEMENT, C.END, C.GTID], dtype=np.uint8)
    ends = np.array([50, 80, 100])
    carried = OpenTransaction(stop=80)
    got = split_by_length(codes, ends, np.array([500]), position=0, carried=carried)
    assert (got.carried_stop, got.visible, got.open.stop) == (2, 2, 580)

    for stop in (50, 60, 100, 900):
        with pytest.raises(InconsistentTransactionError):
            split_by_length(
                codes, ends, np.array([500]), position=0, carried=OpenTransaction(stop=stop)
            )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"BEGIN", C.BEGIN),
        (b"XA START X'61',X'',1", C.BEGIN),
        (b"COMMIT", C.END),
        (b"ROLLBACK", C.END),
        (b"rollback", C.END),
        (b"ROLLBACK TO `a`", C.STATEMENT),
        (b"SAVEPOINT `a`", C.STATEMENT),
        (b"XA ROLLBACK X'61'", C.END_XA),
        (b"XA COMMIT X'61'", C.STATEMENT),
        (b"XA END X'61'", C.STATEMENT),
        (b"CREATE TABLE t (a INT)", C.STATEMENT),
        (b"", C.STATEMENT),
    ],
)
def test_statements_are_classified_as_the_server_does(text, code):
    """The texts that begin and end transactions, and those that look alike."""
    assert classify_query(text) is code


def test_a_phase_is_carried_over_a_cut():
    """Behind BEGIN a statement does not end the transaction; behind the GTID event it does."""
    inside = OpenTransaction(phase=Phase.INSIDE)
    before = OpenTransaction(phase=Phase.BEFORE_STATEMENT)
    codes = np.array([C.STATEMENT], dtype=np.uint8)

    assert split_by_rules(codes, carried=inside).open is not None
    assert split_by_rules(codes, carried=before).carried_stop == 1
