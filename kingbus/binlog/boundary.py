"""Where transactions begin and end in a stream of events.

Two ways. From MySQL 8.0.2 on the GTID event says how long its transaction is; that is used, and
checked against what follows. For older servers the rules are those of the server's own
`Transaction_boundary_parser` (sql/rpl_trx_boundary_parser.cc): BEGIN or XA START up to XID,
COMMIT, ROLLBACK or XA PREPARE; a statement outside of that, with INTVAR, RAND and USER_VAR events
before it, is a whole transaction.

MariaDB's GTID event stands for the BEGIN too, unless it says that a single statement follows.

Owns both, once for a run of events in numpy (`split_by_length`, `split_by_rules`) and once event
by event (`TransactionBoundaryParser`, for streams without GTID events). Knows events as class
codes and positions only.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kingbus.binlog.errors import InconsistentTransactionError
from kingbus.binlog.event_types import EventType

Codes: TypeAlias = NDArray[np.uint8]
Indexes: TypeAlias = NDArray[np.int64]


class EventClass(IntEnum):
    """What an event means for the boundary; the names are those of the server's parser."""

    FILE = 0
    """Belongs to the file, not to a transaction; never inside one."""
    GTID = 1
    BEGIN = 2
    END = 3
    END_XA = 4
    PRE_STATEMENT = 5
    STATEMENT = 6
    INCIDENT = 7
    IGNORE = 8
    """May stand anywhere and changes nothing."""
    GTID_BEGIN = 9
    """A GTID event that is a BEGIN as well."""


_CLASS_OF_TYPE: Final = {
    EventType.ROTATE: EventClass.FILE,
    EventType.STOP: EventClass.FILE,
    EventType.FORMAT_DESCRIPTION: EventClass.FILE,
    EventType.PREVIOUS_GTIDS: EventClass.FILE,
    EventType.GTID: EventClass.GTID,
    EventType.ANONYMOUS_GTID: EventClass.GTID,
    EventType.GTID_TAGGED: EventClass.GTID,
    EventType.GTID_MARIADB: EventClass.GTID,
    EventType.GTID_LIST: EventClass.FILE,
    EventType.BINLOG_CHECKPOINT: EventClass.FILE,
    EventType.START_ENCRYPTION: EventClass.FILE,
    EventType.ANNOTATE_ROWS: EventClass.PRE_STATEMENT,
    EventType.XID: EventClass.END,
    EventType.XA_PREPARE: EventClass.END,
    EventType.INTVAR: EventClass.PRE_STATEMENT,
    EventType.RAND: EventClass.PRE_STATEMENT,
    EventType.USER_VAR: EventClass.PRE_STATEMENT,
    EventType.INCIDENT: EventClass.INCIDENT,
    EventType.IGNORABLE: EventClass.IGNORE,
    EventType.TRANSACTION_CONTEXT: EventClass.IGNORE,
    EventType.HEARTBEAT: EventClass.IGNORE,
    EventType.HEARTBEAT_V2: EventClass.IGNORE,
}

CLASS_OF_TYPE: Final[Codes] = np.full(256, EventClass.IGNORE, dtype=np.uint8)
"""The class of each event type; a QUERY is told apart by its text, MariaDB's GTID by its flags. A
type of a later server's may stand anywhere, as those that its readers may ignore do; should it be
one that begins transactions, what follows it stands outside of all, and that is noticed."""
CLASS_OF_TYPE[list(EventType)] = EventClass.STATEMENT
for _type, _class in _CLASS_OF_TYPE.items():
    CLASS_OF_TYPE[_type] = _class
CLASS_OF_TYPE.setflags(write=False)


def _table(*classes: EventClass) -> NDArray[np.bool_]:
    table = np.zeros(256, dtype=np.bool_)
    table[list(classes)] = True
    return table


_DECIDES: Final = _table(
    EventClass.BEGIN,
    EventClass.END,
    EventClass.END_XA,
    EventClass.STATEMENT,
    EventClass.INCIDENT,
    EventClass.GTID_BEGIN,
)
_STARTS: Final = _table(EventClass.GTID, EventClass.GTID_BEGIN)
_BEGINS: Final = _table(EventClass.BEGIN, EventClass.GTID_BEGIN)
_ENDS: Final = _table(EventClass.END, EventClass.END_XA)
_OUTSIDE: Final = _table(EventClass.FILE, EventClass.INCIDENT, EventClass.IGNORE)
_NEVER_INSIDE: Final = _table(EventClass.FILE, EventClass.GTID, EventClass.GTID_BEGIN)


QUERY_HEAD: Final = 16
"""Bytes of a statement that are enough to classify it."""


def classify_query(text: bytes) -> EventClass:
    """The class of a QUERY event by its statement, or by the first QUERY_HEAD bytes of it."""
    if text.startswith((b"BEGIN", b"XA START")):
        return EventClass.BEGIN
    if text.startswith(b"COMMIT"):
        return EventClass.END
    head = text[:QUERY_HEAD].upper()
    if head.startswith(b"ROLLBACK") and not head.startswith(b"ROLLBACK TO "):
        return EventClass.END
    if head.startswith(b"XA ROLLBACK"):
        return EventClass.END_XA
    return EventClass.STATEMENT


class Phase(IntEnum):
    """Where in an open transaction a stream is, by the rules."""

    BEFORE_STATEMENT = 0
    """Its GTID event or a PRE_STATEMENT was read."""
    INSIDE = 1
    """Its BEGIN was read."""


@dataclass(slots=True, kw_only=True)
class OpenTransaction:
    """What must be known of a transaction that goes on behind a run of events."""

    stop: int = 0
    """Where it ends, by its GTID event; 0 where that does not say."""
    phase: Phase = Phase.BEFORE_STATEMENT


@dataclass(slots=True, kw_only=True)
class Split:
    """Where transactions begin and end in a run of events.

    `starts[i]` is the event that begins the i-th transaction starting here, `stops[i]` the event
    behind its last one; the last transaction has no stop when it goes on behind the run.
    `carried_stop` is the event behind the end of the transaction that was open before the run, -1
    if there was none or it goes on.
    """

    starts: Indexes
    stops: Indexes
    carried_stop: int
    open: OpenTransaction | None

    @property
    def visible(self) -> int | None:
        """Events up to the last one behind which no transaction is open; None: all of them."""
        if self.open is None:
            return None
        return int(self.starts[-1]) if len(self.starts) > len(self.stops) else 0


class OutsideTransactionError(InconsistentTransactionError):
    """An event that belongs into a transaction stands outside of all; `event` is its index."""

    def __init__(self, event: int, *, behind_transaction: bool) -> None:
        super().__init__("an event of a transaction stands outside of every transaction")
        self.event = event
        self.behind_transaction = behind_transaction


def split_by_length(
    codes: Codes,
    ends: Indexes,
    lengths: Indexes,
    *,
    position: int,
    carried: OpenTransaction | None,
) -> Split:
    """Splits a run by the lengths in its GTID events.

    `codes` are the classes of the events, `ends` the positions behind each, `position` that of
    the first one; `lengths` belongs to the events of class GTID, in order.
    Raises InconsistentTransactionError where the lengths do not agree with the events.
    """
    starts = np.flatnonzero(_STARTS[codes])
    begins = np.where(starts > 0, ends[starts - 1], position) if len(starts) else starts
    stop_positions = begins + lengths
    if carried is not None:
        stop_positions = np.concatenate(([carried.stop], stop_positions))
    end = int(ends[-1])
    closed = int(np.searchsorted(stop_positions, end, side="right"))
    is_in_order = bool((stop_positions[:-1] < stop_positions[1:]).all())
    if not is_in_order or closed < len(stop_positions) - 1:
        raise InconsistentTransactionError(
            "a transaction begins before the one before it ends by its GTID event"
        )
    stops = np.searchsorted(ends, stop_positions[:closed]) + 1
    if not np.array_equal(ends[stops - 1], stop_positions[:closed]):
        raise InconsistentTransactionError(
            f"a transaction before position {end} ends inside an event by its GTID event's length"
        )
    open_after = None
    if closed < len(stop_positions):
        open_after = OpenTransaction(stop=int(stop_positions[-1]))
    return _checked(codes, starts, stops, carried=carried, open_after=open_after)


def split_by_rules(codes: Codes, *, carried: OpenTransaction | None) -> Split:
    """Splits a run whose GTID events do not say how long their transactions are.

    Raises InconsistentTransactionError where the events contradict the rules.
    """
    size = len(codes)
    starts = np.flatnonzero(_STARTS[codes])
    # Where the search for what decides begins: one that is a BEGIN as well decides by itself.
    begins = starts + (codes[starts] == EventClass.GTID)
    if carried is not None:
        begins = np.concatenate(([0], begins))
    deciders = np.append(np.flatnonzero(_DECIDES[codes]), size)
    ends = np.append(np.flatnonzero(_ENDS[codes]), size)
    deciding = deciders[np.searchsorted(deciders, begins)]
    is_begun = _BEGINS[np.append(codes, np.uint8(EventClass.FILE))[deciding]]
    search = np.where(is_begun, deciding + 1, deciding)
    if carried is not None and carried.phase is Phase.INSIDE:
        search[0] = 0
        is_begun[0] = True
    by_end = ends[np.searchsorted(ends, np.minimum(search, size))]
    stops = np.where(is_begun, by_end, deciding) + 1
    closed = int(np.count_nonzero(stops <= size))
    if closed < len(stops) - 1 or (closed < len(stops) and stops[-1] <= size):
        raise InconsistentTransactionError("a transaction begins before the one before it ended")
    open_after = None
    if closed < len(stops):
        inside = bool(is_begun[-1])
        open_after = OpenTransaction(phase=Phase.INSIDE if inside else Phase.BEFORE_STATEMENT)
    return _checked(codes, starts, stops[:closed], carried=carried, open_after=open_after)


def _checked(
    codes: Codes,
    starts: Indexes,
    stops: Indexes,
    *,
    carried: OpenTransaction | None,
    open_after: OpenTransaction | None,
) -> Split:
    """Whether every event stands where its class may, inside or outside of a transaction."""
    size = len(codes)
    depth = np.zeros(size + 1, dtype=np.int8)
    depth[starts] += 1  # no two transactions begin at one event
    np.subtract.at(depth, stops, 1)
    depth[0] += carried is not None
    np.cumsum(depth, out=depth)
    if depth.min() < 0 or depth.max() > 1:
        raise InconsistentTransactionError("a transaction begins before the one before it ended")
    inside = depth[:-1].astype(np.bool_)
    never = _NEVER_INSIDE[codes]
    never[starts] = False
    if (never & inside).any():
        raise InconsistentTransactionError(
            "a transaction is not over where the events show that it is"
        )
    outside = ~inside & ~_OUTSIDE[codes]
    if outside.any():
        event = int(outside.argmax())
        raise OutsideTransactionError(
            event, behind_transaction=event > 0 and bool(inside[event - 1])
        )
    carried_stop = -1
    if carried is not None and len(stops):
        carried_stop, stops = int(stops[0]), stops[1:]
    return Split(starts=starts, stops=stops, carried_stop=carried_stop, open=open_after)


class TransactionBoundaryParser:
    """The same rules event by event, also for streams that have no GTID events."""

    __slots__ = ("phase",)

    def __init__(self, carried: OpenTransaction | None = None) -> None:
        self.phase: Phase | None = None if carried is None else carried.phase

    def feed(self, code: int) -> tuple[bool, bool]:
        """Takes the next event's class: (a transaction begins with it, one ends with it).

        Raises InconsistentTransactionError where the server's parser reports an error.
        """
        before = self.phase
        match code:
            case EventClass.IGNORE:
                return False, False
            case EventClass.FILE:
                if before is not None:
                    raise InconsistentTransactionError(
                        "a transaction is not over where the events show that it is"
                    )
                return False, False
            case EventClass.GTID | EventClass.GTID_BEGIN:
                if before is not None:
                    raise InconsistentTransactionError(
                        "a transaction begins before the one before it ended"
                    )
                is_begun = code == EventClass.GTID_BEGIN
                self.phase = Phase.INSIDE if is_begun else Phase.BEFORE_STATEMENT
                return True, False
            case EventClass.BEGIN:
                self.phase = Phase.INSIDE
                return before is None, False
            case EventClass.PRE_STATEMENT:
                if before is None:
                    self.phase = Phase.BEFORE_STATEMENT
                return before is None, False
            case EventClass.INCIDENT if before is None:
                return False, False
            case EventClass.STATEMENT | EventClass.INCIDENT if before is Phase.INSIDE:
                return False, False
            case _:
                self.phase = None
                return before is None, True


def split_event_by_event(codes: Codes, *, carried: OpenTransaction | None) -> Split:
    """`split_by_rules` for streams in which a transaction need not begin with a GTID event.

    Raises InconsistentTransactionError.
    """
    parser = TransactionBoundaryParser(carried)
    starts: list[int] = []
    stops: list[int] = []
    for at, code in enumerate(codes.tolist()):
        begins, ended = parser.feed(code)
        if begins:
            starts.append(at)
        if ended:
            stops.append(at + 1)
    carried_stop = -1
    if carried is not None and stops and (not starts or stops[0] <= starts[0]):
        carried_stop = stops.pop(0)
    phase = parser.phase
    return Split(
        starts=np.array(starts, dtype=np.int64),
        stops=np.array(stops, dtype=np.int64),
        carried_stop=carried_stop,
        open=None if phase is None else OpenTransaction(phase=phase),
    )
