"""The commands that clients send once they are logged in, as values.

Owns: reading COM_QUERY (with and without query attributes), prepared statements, the small
commands, COM_REGISTER_SLAVE and both dump commands. GTID sets stay bytes, names and positions stay
as given. Knows nothing of what is answered. Follows the manual's "Command Phase" pages; how a file
name of a dump is read (a C string, cut at the first NUL, possibly NULs only) follows what clients
send.
"""

from dataclasses import dataclass, field

from kingbus.mysql.constants import LATIN1_CHARSETS, Capability, Command, DumpFlag
from kingbus.mysql.errors import MalformedPacketError
from kingbus.mysql.messages import text_of
from kingbus.mysql.wire import Reader, Writer

QUERY_ATTRIBUTES_MAX = 256
"""Clients send none or a few; the number is bounded before a null bitmap is sized by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """COM_QUERY. The text may hold a password, so it is not shown."""

    sql: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """COM_STMT_PREPARE. The text may hold a password, so it is not shown."""

    sql: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """COM_STMT_EXECUTE, without parameters, which no statement here has."""

    statement_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStatement:
    """COM_STMT_CLOSE: not answered at all."""

    statement_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetStatement:
    """COM_STMT_RESET."""

    statement_id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """COM_PING."""


@dataclass(frozen=True, slots=True)
class Quit:
    """COM_QUIT: the client closes."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """COM_STATISTICS: answered by one packet of plain text."""


@dataclass(frozen=True, slots=True)
class ResetConnection:
    """COM_RESET_CONNECTION: session variables are forgotten."""


@dataclass(frozen=True, slots=True)
class SetOption:
    """COM_SET_OPTION: answered by EOF; there is no option that we offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitDb:
    """COM_INIT_DB."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterReplica:
    """COM_REGISTER_SLAVE, without the user and password that it may carry."""

    server_id: int
    host: str
    port: int
    source_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BinlogDump:
    """COM_BINLOG_DUMP. An empty `file` means the oldest one held."""

    file: str
    position: int
    flags: DumpFlag
    server_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BinlogDumpGtid:
    """COM_BINLOG_DUMP_GTID. `gtid_set` is as it came, not decoded, possibly empty or broken."""

    file: str
    position: int
    flags: DumpFlag
    server_id: int
    gtid_set: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownCommand:
    """A command byte that is not served."""

    code: int


AnyCommand = (
    Query
    | Prepare
    | Execute
    | CloseStatement
    | ResetStatement
    | Ping
    | Quit
    | Statistics
    | ResetConnection
    | SetOption
    | InitDb
    | RegisterReplica
    | BinlogDump
    | BinlogDumpGtid
    | UnknownCommand
)


def decode_command(payload: bytes, *, capabilities: Capability, charset: int) -> AnyCommand:
    """The command in a packet.

    `capabilities` are those in force, client's and server's. Raises MalformedPacketError for an
    empty packet or one whose fields are cut.
    """
    reader = Reader(payload)
    code = reader.uint(1, "command")
    match code:
        case Command.QUERY:
            return _query(reader, capabilities, charset)
        case Command.STMT_PREPARE:
            return Prepare(sql=_sql(reader.rest(), charset))
        case Command.STMT_EXECUTE:
            return Execute(statement_id=reader.uint(4, "statement id"))
        case Command.STMT_CLOSE:
            return CloseStatement(statement_id=reader.uint(4, "statement id"))
        case Command.STMT_RESET:
            return ResetStatement(statement_id=reader.uint(4, "statement id"))
        case Command.PING:
            return Ping()
        case Command.QUIT:
            return Quit()
        case Command.INIT_DB:
            return InitDb(name=text_of(reader.rest()))
        case Command.STATISTICS:
            return Statistics()
        case Command.RESET_CONNECTION:
            return ResetConnection()
        case Command.SET_OPTION:
            return SetOption()
        case Command.REGISTER_SLAVE:
            return _register(reader)
        case Command.BINLOG_DUMP:
            return _dump(reader)
        case Command.BINLOG_DUMP_GTID:
            return _dump_gtid(reader)
        case _:
            return UnknownCommand(code=code)


def _query(reader: Reader, capabilities: Capability, charset: int) -> Query:
    if capabilities & Capability.QUERY_ATTRIBUTES:
        _skip_query_attributes(reader)
    return Query(sql=_sql(reader.rest(), charset))


def _sql(text: bytes, charset: int) -> str:
    # Some clients end the text with a NUL.
    text = text.removesuffix(b"\0")
    return text.decode("latin-1") if charset in LATIN1_CHARSETS else text_of(text)


_FIXED_WIDTHS = {0x01: 1, 0x02: 2, 0x0D: 2, 0x03: 4, 0x09: 4, 0x04: 4, 0x08: 8, 0x05: 8, 0x06: 0}
"""Widths of binary protocol values by column type: integers, floats, year, null."""

_TEMPORAL_TYPES = frozenset({0x07, 0x0A, 0x0B, 0x0C})
"""Timestamp, date, time, datetime: one length byte and so many bytes."""


def _skip_query_attributes(reader: Reader) -> None:
    """Read over the attributes that may stand before a query's text; no answer depends on them."""
    count = reader.lenenc_int("number of query attributes")
    reader.lenenc_int("number of query attribute sets")
    if count == 0:
        return
    if count > QUERY_ATTRIBUTES_MAX:
        raise MalformedPacketError(f"{count} query attributes, at most {QUERY_ATTRIBUTES_MAX}")
    nulls = reader.take((count + 7) // 8, "null bitmap of query attributes")
    if reader.uint(1, "new-parameters flag") != 1:
        raise MalformedPacketError("query attributes without their types")
    types = []
    for _ in range(count):
        types.append(reader.uint(2, "type of a query attribute") & 0xFF)
        reader.lenenc_bytes("name of a query attribute")
    for index, column_type in enumerate(types):
        if nulls[index // 8] >> (index % 8) & 1:
            continue
        if column_type in _FIXED_WIDTHS:
            reader.take(_FIXED_WIDTHS[column_type], "query attribute")
        elif column_type in _TEMPORAL_TYPES:
            reader.short_bytes("query attribute")
        else:
            reader.lenenc_bytes("query attribute")


def _register(reader: Reader) -> RegisterReplica:
    server_id = reader.uint(4, "server id")
    host = text_of(reader.short_bytes("report host"))
    reader.short_bytes("report user")
    reader.short_bytes("report password")
    port = reader.uint(2, "report port")
    reader.uint(4, "replication rank")
    source_id = reader.uint(4, "source id")
    return RegisterReplica(server_id=server_id, host=host, port=port, source_id=source_id)


def _file_name(value: bytes) -> str:
    """A file name as a C string: 5.6 sends as many NULs as its last file name had letters."""
    return text_of(value.partition(b"\0")[0])


def _dump(reader: Reader) -> BinlogDump:
    position = reader.uint(4, "position")
    flags = DumpFlag(reader.uint(2, "dump flags"))
    server_id = reader.uint(4, "server id")
    return BinlogDump(
        file=_file_name(reader.rest()), position=position, flags=flags, server_id=server_id
    )


def _dump_gtid(reader: Reader) -> BinlogDumpGtid:
    flags = DumpFlag(reader.uint(2, "dump flags"))
    server_id = reader.uint(4, "server id")
    file = _file_name(reader.take(reader.uint(4, "file name length"), "file name"))
    position = reader.uint(8, "position")
    gtid_set = reader.take(reader.uint(4, "GTID set length"), "GTID set")
    return BinlogDumpGtid(
        file=file, position=position, flags=flags, server_id=server_id, gtid_set=gtid_set
    )


def encode_query(sql: str) -> bytes:
    """COM_QUERY as a client without query attributes sends it."""
    return bytes((Command.QUERY,)) + sql.encode()


def encode_register(command: RegisterReplica) -> bytes:
    """COM_REGISTER_SLAVE with empty user and password, as replicas send it."""
    return (
        Writer()
        .uint(1, Command.REGISTER_SLAVE)
        .uint(4, command.server_id)
        .short_bytes(command.host.encode())
        .short_bytes(b"")
        .short_bytes(b"")
        .uint(2, command.port)
        .uint(4, 0)
        .uint(4, command.source_id)
        .finish()
    )


def encode_dump(command: BinlogDump) -> bytes:
    """COM_BINLOG_DUMP; the position must fit its four bytes."""
    return (
        Writer()
        .uint(1, Command.BINLOG_DUMP)
        .uint(4, command.position)
        .uint(2, command.flags)
        .uint(4, command.server_id)
        .raw(command.file.encode())
        .finish()
    )


def encode_dump_gtid(command: BinlogDumpGtid) -> bytes:
    """COM_BINLOG_DUMP_GTID."""
    name = command.file.encode()
    return (
        Writer()
        .uint(1, Command.BINLOG_DUMP_GTID)
        .uint(2, command.flags)
        .uint(4, command.server_id)
        .uint(4, len(name))
        .raw(name)
        .uint(8, command.position)
        .uint(4, len(command.gtid_set))
        .raw(command.gtid_set)
        .finish()
    )
