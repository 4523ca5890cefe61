"""The numbers of binlog events, spelled as in the server (MySQL's `mysql::binlog::event`).

Owns the numbers and the groups that a relay needs; knows nothing of their bodies.
"""

from enum import IntEnum
from typing import Final


class EventType(IntEnum):
    """Log event types up to MySQL 9; what is not in it is relayed all the same."""

    UNKNOWN = 0
    START_V3 = 1
    QUERY = 2
    STOP = 3
    ROTATE = 4
    INTVAR = 5
    LOAD = 6
    SLAVE = 7
    CREATE_FILE = 8
    APPEND_BLOCK = 9
    EXEC_LOAD = 10
    DELETE_FILE = 11
    NEW_LOAD = 12
    RAND = 13
    USER_VAR = 14
    FORMAT_DESCRIPTION = 15
    XID = 16
    BEGIN_LOAD_QUERY = 17
    EXECUTE_LOAD_QUERY = 18
    TABLE_MAP = 19
    WRITE_ROWS_V1 = 23
    UPDATE_ROWS_V1 = 24
    DELETE_ROWS_V1 = 25
    INCIDENT = 26
    HEARTBEAT = 27
    IGNORABLE = 28
    ROWS_QUERY = 29
    WRITE_ROWS = 30
    UPDATE_ROWS = 31
    DELETE_ROWS = 32
    GTID = 33
    ANONYMOUS_GTID = 34
    PREVIOUS_GTIDS = 35
    TRANSACTION_CONTEXT = 36
    VIEW_CHANGE = 37
    XA_PREPARE = 38
    PARTIAL_UPDATE_ROWS = 39
    TRANSACTION_PAYLOAD = 40
    HEARTBEAT_V2 = 41
    GTID_TAGGED = 42


GTID_TYPES: Final = frozenset((EventType.GTID, EventType.ANONYMOUS_GTID, EventType.GTID_TAGGED))
"""Each opens a transaction."""

HEARTBEAT_TYPES: Final = frozenset((EventType.HEARTBEAT, EventType.HEARTBEAT_V2))
"""Sent on connections only, never in a file."""


def name_of(type_number: int) -> str:
    """The server's spelling, or the number where this program knows none."""
    try:
        return EventType(type_number).name
    except ValueError:
        return f"type {type_number}"
