"""Numbers of the MySQL client/server protocol, spelled as the server spells them.

Owns: capability flags, command bytes, status flags, column types, character sets, and the limits
that this package keeps. Knows nothing of sockets, of GTIDs or of what is answered to whom.
Follows the manual's "Client/Server Protocol" pages (capability flags, commands, result sets).
"""

from enum import IntEnum, IntFlag

PROTOCOL_VERSION = 10
"""The only handshake in use since MySQL 3.21."""

SALT_SIZE = 20
"""Bytes of random salt (the "scramble") in a greeting; both auth plugins use exactly these."""

PACKET_PAYLOAD_MAX = 0xFFFFFF
"""A packet's length field has three bytes; a longer payload is split every so many bytes."""

LOGIN_PAYLOAD_BYTES_MAX = 64 * 1024
"""A handshake answer is at most a few KiB, connection attributes included (the server's own limit
for them is 64 KiB). Whoever sends more before logging in gets nothing buffered."""

COMMAND_PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
"""As much as a dump command with 100,000 GTID intervals (1.6 MB) needs, ten times over."""

ERROR_TEXT_BYTES_MAX = 511
"""MYSQL_ERRMSG_SIZE less the closing NUL: clients keep no more, servers send no more."""

CONNECTION_ATTRIBUTES_MAX = 128
"""Clients send about ten; a flood of tiny ones is cut, the rest ignored."""


class Capability(IntFlag):
    """Capability flags, the low 16 bits of which come first in greeting and answer."""

    LONG_PASSWORD = 1 << 0
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    NO_SCHEMA = 1 << 4
    COMPRESS = 1 << 5
    ODBC = 1 << 6
    LOCAL_FILES = 1 << 7
    IGNORE_SPACE = 1 << 8
    PROTOCOL_41 = 1 << 9
    INTERACTIVE = 1 << 10
    SSL = 1 << 11
    IGNORE_SIGPIPE = 1 << 12
    TRANSACTIONS = 1 << 13
    RESERVED = 1 << 14
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PS_MULTI_RESULTS = 1 << 18
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    PLUGIN_AUTH_LENENC_CLIENT_DATA = 1 << 21
    CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22
    SESSION_TRACK = 1 << 23
    DEPRECATE_EOF = 1 << 24
    OPTIONAL_RESULTSET_METADATA = 1 << 25
    ZSTD_COMPRESSION_ALGORITHM = 1 << 26
    QUERY_ATTRIBUTES = 1 << 27
    MULTI_FACTOR_AUTHENTICATION = 1 << 28
    CAPABILITY_EXTENSION = 1 << 29
    SSL_VERIFY_SERVER_CERT = 1 << 30
    REMEMBER_OPTIONS = 1 << 31


SERVER_CAPABILITIES = (
    Capability.LONG_PASSWORD
    | Capability.FOUND_ROWS
    | Capability.LONG_FLAG
    | Capability.CONNECT_WITH_DB
    | Capability.ODBC
    | Capability.IGNORE_SPACE
    | Capability.PROTOCOL_41
    | Capability.INTERACTIVE
    | Capability.IGNORE_SIGPIPE
    | Capability.TRANSACTIONS
    | Capability.SECURE_CONNECTION
    | Capability.PLUGIN_AUTH
    | Capability.CONNECT_ATTRS
    | Capability.PLUGIN_AUTH_LENENC_CLIENT_DATA
    | Capability.DEPRECATE_EOF
    | Capability.QUERY_ATTRIBUTES
    | Capability.COMPRESS
    | Capability.ZSTD_COMPRESSION_ALGORITHM
)
"""What we offer. SSL is added only where a certificate is configured, because PyMySQL and
mariadb-binlog switch to TLS whenever it is offered. Clients compress only where they are told to.
Not offered: SESSION_TRACK (it changes the form of OK), MULTI_STATEMENTS (one statement, one
answer)."""


class Command(IntEnum):
    """First byte of a command packet."""

    SLEEP = 0x00
    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    STATISTICS = 0x09
    PING = 0x0E
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    REGISTER_SLAVE = 0x15
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    BINLOG_DUMP_GTID = 0x1E
    RESET_CONNECTION = 0x1F


class DumpFlag(IntFlag):
    """Flags of the two dump commands."""

    NON_BLOCK = 0x0001
    USE_HEARTBEAT_EVENT_V2 = 0x0002
    SKIP_TAGGED_GTIDS = 0x0004


MARIADB_SEND_ANNOTATE_ROWS = 0x0002
"""What the bit of USE_HEARTBEAT_EVENT_V2 means when a MariaDB client sends it."""


class ServerStatus(IntFlag):
    """Status flags of OK and EOF packets."""

    IN_TRANS = 0x0001
    AUTOCOMMIT = 0x0002


class ColumnType(IntEnum):
    """Types of result set columns, as far as this source answers any."""

    LONG = 0x03
    NULL = 0x06
    LONGLONG = 0x08
    DATETIME = 0x0C
    LONG_BLOB = 0xFB
    VAR_STRING = 0xFD
    STRING = 0xFE


class ColumnFlag(IntFlag):
    """Column definition flags."""

    NOT_NULL = 0x0001
    UNSIGNED = 0x0020
    BINARY = 0x0080


CHARSET_LATIN1 = 8
CHARSET_BINARY = 63
CHARSET_UTF8MB4 = 255
"""utf8mb4_0900_ai_ci, the default of MySQL 8 and 9."""

LATIN1_CHARSETS = frozenset({5, 8, 15, 31, 47, 48, 49, 94})
"""Collation ids of latin1; every other charset that clients use here is read as UTF-8."""

CACHING_SHA2_PASSWORD = "caching_sha2_password"
MYSQL_NATIVE_PASSWORD = "mysql_native_password"
