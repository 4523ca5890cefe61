"""The numbers of binlog events, spelled as in the server (MySQL's `mysql::binlog::event`).

MariaDB's own begin at 160, where MySQL has none.

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
    ANNOTATE_ROWS = 160
    BINLOG_CHECKPOINT = 161
    GTID_MARIADB = 162
    GTID_LIST = 163
    START_ENCRYPTION = 164
    QUERY_COMPRESSED = 165
    WRITE_ROWS_COMPRESSED_V1 = 166
    UPDATE_ROWS_COMPRESSED_V1 = 167
    DELETE_ROWS_COMPRESSED_V1 = 168
    WRITE_ROWS_COMPRESSED = 169
    UPDATE_ROWS_COMPRESSED = 170
    DELETE_ROWS_COMPRESSED = 171


GTID_TYPES: Final = frozenset(
    (
        EventType.GTID,
        EventType.ANONYMOUS_GTID,
        EventType.GTID_TAGGED,
        EventType.GTID_MARIADB,
    )
)
"""Each opens a transaction."""

ROWS_TYPES: Final = frozenset(
    {
        EventType.WRITE_ROWS_V1,
        EventType.UPDATE_ROWS_V1,
        EventType.DELETE_ROWS_V1,
        EventType.WRITE_ROWS,
        EventType.UPDATE_ROWS,
        EventType.DELETE_ROWS,
        EventType.PARTIAL_UPDATE_ROWS,
    }
)
"""Those of MySQL that hold changed rows."""

HEARTBEAT_TYPES: Final = frozenset((EventType.HEARTBEAT, EventType.HEARTBEAT_V2))
"""Sent on connections only, never in a file."""


MARIADB_EVENT_TYPES_MIN: Final = EventType.GTID_LIST
"""A FORMAT_DESCRIPTION that lists so many event types is MariaDB's."""


def name_of(type_number: int) -> str:
    """The server's spelling, or the number where this program knows none."""
    try:
        return EventType(type_number).name
    except ValueError:
        return f"type {type_number}"
