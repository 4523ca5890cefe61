"""Errors of the MySQL protocol: what goes into an ERR packet, and what a peer did wrong.

Owns: `MySQLError` with number, SQLSTATE and text; `ProtocolError` and its kinds, raised for bytes
that no correct peer sends; the texts of every error that this source answers, word for word as
MySQL 9.7 writes them (replicas and tools match on some of them). Knows nothing of who is connected.
Follows the server error message reference of the manual. No text ever contains a password.
"""

from typing import Final

from kingbus.errors import KingbusError

_SET_LENGTH_MAX: Final = 256
"""Of a GTID set in the midst of a text: clients keep 511 bytes of an error."""


class MySQLError(KingbusError):
    """An error as MySQL clients see it: number, five characters of SQLSTATE, text."""

    def __init__(self, code: int, sqlstate: str, message: str, *, hint: str = "") -> None:
        assert len(sqlstate) == 5, sqlstate
        assert 0 < code <= 0xFFFF, code
        super().__init__(message, hint=hint)
        self.code = code
        self.sqlstate = sqlstate
        self.message = message

    def __str__(self) -> str:
        return f"{self.code} ({self.sqlstate}): {self.message}"


class ProtocolError(MySQLError):
    """The peer sent what no correct peer sends. Answer it with this error once, then close."""


class BadHandshakeError(ProtocolError):
    """The answer to the greeting cannot be read."""

    def __init__(self, detail: str) -> None:
        super().__init__(1043, "08S01", f"Bad handshake: {detail}")


class MalformedPacketError(ProtocolError):
    """A packet ends before its fields do, or a field holds a value it cannot have."""

    def __init__(self, detail: str) -> None:
        super().__init__(1835, "HY000", f"Malformed communication packet: {detail}")


class PacketTooLargeError(ProtocolError):
    """A packet is announced with more bytes than this phase of the connection allows."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            1153,
            "08S01",
            f"Got a packet bigger than 'max_allowed_packet' bytes: {size}, the limit is {limit}",
        )


class PacketsOutOfOrderError(ProtocolError):
    """A packet's sequence number is not the next one."""

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(
            1156, "08S01", f"Got packets out of order: sequence number {got}, expected {expected}"
        )


# Connection and access -------------------------------------------------------------------------


def too_many_connections() -> MySQLError:
    """1040: every place for a connection is taken."""
    return MySQLError(1040, "08004", "Too many connections")


def insecure_transport() -> MySQLError:
    """3159: TLS is required, and this connection has none."""
    return MySQLError(
        3159,
        "HY000",
        "Connections using insecure transport are prohibited while --require_secure_transport=ON.",
    )


def access_denied(user: str, host: str, *, using_password: bool) -> MySQLError:
    """1045: wrong password, unknown user, or registering without the right to."""
    said = "YES" if using_password else "NO"
    return MySQLError(
        1045, "28000", f"Access denied for user '{user}'@'{host}' (using password: {said})"
    )


def access_denied_to_database(user: str, host: str, database: str) -> MySQLError:
    """1044: no such database, or none for this user; which of the two is not told."""
    return MySQLError(
        1044,
        "42000",
        f"Access denied for user '{user}'@'{host}' to database '{database[:64]}'",
    )


def unknown_database(database: str) -> MySQLError:
    """1049: the tables of a database that is not there."""
    return MySQLError(1049, "42000", f"Unknown database '{database[:64]}'")


def no_database_selected() -> MySQLError:
    """1046: what is asked is in a database, and none is in use."""
    return MySQLError(1046, "3D000", "No database selected")


def privilege_required(privilege: str) -> MySQLError:
    """1227: logged in, but without the right for this operation."""
    return MySQLError(
        1227,
        "42000",
        f"Access denied; you need (at least one of) the {privilege} privilege(s) "
        "for this operation",
    )


def old_client() -> MySQLError:
    """1251: the client can do none of our authentication plugins."""
    return MySQLError(
        1251,
        "08004",
        "Client does not support authentication protocol requested by server; "
        "consider upgrading MySQL client",
    )


def read_error() -> MySQLError:
    """1158: the peer went away in the middle of something."""
    return MySQLError(1158, "08S01", "Got an error reading communication packets")


def read_timeout() -> MySQLError:
    """1159: the peer took too long."""
    return MySQLError(1159, "08S01", "Got timeout reading communication packets")


def server_shutdown() -> MySQLError:
    """1053: this node is stopping."""
    return MySQLError(1053, "08S01", "Server shutdown in progress")


def installing_snapshot() -> MySQLError:
    """1105, and not 1236: a replica comes back after this, here or at another node."""
    return MySQLError(1105, "HY000", "This relay node is installing a snapshot, try again later")


def internal_error(message: str) -> MySQLError:
    """1105: nothing more precise is known."""
    return MySQLError(1105, "HY000", message)


# Statements ------------------------------------------------------------------------------------


def unknown_command() -> MySQLError:
    """1047: a command byte that is not served."""
    return MySQLError(1047, "08S01", "Unknown command")


def unknown_statement(statement_id: int) -> MySQLError:
    """1243: a prepared statement that is not there, or no longer."""
    return MySQLError(
        1243,
        "HY000",
        f"Unknown prepared statement handler ({statement_id}) given to mysqld_stmt_execute",
    )


def too_many_statements(limit: int) -> MySQLError:
    """1461: more prepared statements, or longer ones, than one connection may have."""
    return MySQLError(
        1461,
        "42000",
        f"Can't create more than max_prepared_stmt_count statements (current value: {limit})",
    )


def syntax_error(near: str, line: int = 1) -> MySQLError:
    """1064: `near` is the rest of the statement from the word that was not understood."""
    return MySQLError(
        1064,
        "42000",
        "You have an error in your SQL syntax; check the manual that corresponds to your MySQL "
        f"server version for the right syntax to use near '{near[:80]}' at line {line}",
    )


def not_supported(what: str) -> MySQLError:
    """1235: understood, but a relay has nothing to answer."""
    return MySQLError(1235, "42000", f"This version of MySQL doesn't yet support '{what[:80]}'")


def unknown_variable(name: str) -> MySQLError:
    """1193: no such system variable."""
    return MySQLError(1193, "HY000", f"Unknown system variable '{name[:64]}'")


def wrong_value(name: str, value: str) -> MySQLError:
    """1231: a variable was set to what it cannot be."""
    return MySQLError(
        1231, "42000", f"Variable '{name[:64]}' can't be set to the value of '{value[:200]}'"
    )


def read_only_variable(name: str) -> MySQLError:
    """1238: the variable tells a fact and cannot be set."""
    return MySQLError(1238, "HY000", f"Variable '{name[:64]}' is a read only variable")


def unknown_function(name: str) -> MySQLError:
    """1305: no such function."""
    return MySQLError(1305, "42000", f"FUNCTION {name[:64]} does not exist")


def wrong_parameter_count(name: str) -> MySQLError:
    """1582: a known function with too few or too many arguments."""
    return MySQLError(
        1582,
        "42000",
        f"Incorrect parameter count in the call to native function '{name[:64]}'",
    )


def result_too_large(of: str, limit: int) -> MySQLError:
    """1301: MySQL answers NULL and this as a warning."""
    return MySQLError(
        1301,
        "HY000",
        f"Result of {of[:64]}() was larger than max_allowed_packet ({limit}) - truncated",
    )


def wrong_precision(digits: str) -> MySQLError:
    """1426: a time with more than six digits behind the point."""
    return MySQLError(
        1426,
        "42000",
        f"Too-big precision {digits[:20]} specified for 'now'. Maximum is 6.",
    )


def unknown_thread(thread_id: int) -> MySQLError:
    """1094: KILL of a connection that is not there."""
    return MySQLError(1094, "HY000", f"Unknown thread id: {thread_id}")


def not_owner_of_thread(thread_id: int) -> MySQLError:
    """1095: KILL of somebody else's connection."""
    return MySQLError(1095, "HY000", f"You are not owner of thread {thread_id}")


def user_name_too_long(name: str) -> MySQLError:
    """1470: a name of more than 32 characters."""
    return MySQLError(
        1470,
        "HY000",
        f"String '{name[:48]}' is too long for user name (should be no longer than 32)",
    )


def user_operation_failed(operation: str, users: str) -> MySQLError:
    """1396: CREATE, ALTER or DROP USER of users that are there, or are not."""
    return MySQLError(1396, "HY000", f"Operation {operation} failed for {users[:300]}")


def cannot_create_by_grant() -> MySQLError:
    """1410: GRANT to a user that is not there."""
    return MySQLError(1410, "42000", "You are not allowed to create a user with GRANT")


def no_such_grant(user: str) -> MySQLError:
    """1141: the grants of a user that is not there."""
    return MySQLError(
        1141, "42000", f"There is no such grant defined for user '{user}' on host '%'"
    )


def unfit_password() -> MySQLError:
    """1819: a password that cannot be stored."""
    return MySQLError(
        1819, "HY000", "Your password does not satisfy the current policy requirements"
    )


def no_such_channel(channel: str) -> MySQLError:
    """3074: there is only the channel without a name."""
    return MySQLError(3074, "HY000", f"Replica channel '{channel[:64]}' does not exist.")


def not_a_replica() -> MySQLError:
    """1200: START REPLICA before any source was set."""
    return MySQLError(
        1200,
        "HY000",
        "The server is not configured as replica; fix in config file or with CHANGE REPLICATION "
        "SOURCE TO",
    )


def receiver_is_running() -> MySQLError:
    """3021: CHANGE REPLICATION SOURCE while the receiver runs."""
    return MySQLError(
        3021,
        "HY000",
        "This operation cannot be performed with a running replica io thread; run STOP REPLICA "
        "IO_THREAD FOR CHANNEL '' first.",
    )


def replication_is_running() -> MySQLError:
    """3081: RESET REPLICA while the receiver runs."""
    return MySQLError(
        3081,
        "HY000",
        "This operation cannot be performed with running replication threads; run STOP REPLICA "
        "FOR CHANNEL '' first",
    )


def wrong_source_option(option: str, reason: str) -> MySQLError:
    """1210: an option of CHANGE REPLICATION SOURCE with a value that it cannot have."""
    return MySQLError(1210, "HY000", f"Incorrect arguments to {option}: {reason}")


def unknown_log_file() -> MySQLError:
    """1373: PURGE to, or the events of, a file that is not held."""
    return MySQLError(1373, "HY000", "Target log not found in binlog index")


def incorrect_datetime(value: str) -> MySQLError:
    """1292: text that is no time."""
    return MySQLError(1292, "22007", f"Incorrect datetime value: '{value[:64]}'")


def show_binlog_events_failed(reason: str) -> MySQLError:
    """1220: SHOW BINLOG EVENTS of a file or position that is not there."""
    return MySQLError(1220, "HY000", f"Error when executing command SHOW BINLOG EVENTS: {reason}")


def malformed_gtid_set(text: str) -> MySQLError:
    """1772: text that is no GTID set."""
    return MySQLError(1772, "HY000", f"Malformed GTID set specification '{text[:200]}'.")


# Binlog dump -----------------------------------------------------------------------------------


def malformed_gtid_encoding() -> MySQLError:
    """1773: the GTID set of a dump command cannot be decoded (an empty field included)."""
    return MySQLError(1773, "HY000", "Malformed GTID set encoding.")


def fatal_dump_error(text: str) -> MySQLError:
    """1236 with any text: the only number at which a replica stops for good."""
    return MySQLError(1236, "HY000", text)


SETS_TEXT_MAX: Final = 512
"""MySQL's limit for a message (MYSQL_ERRMSG_SIZE): sets that do not fit are left out of it."""


def purged_required(replica_set: str, missing: str) -> MySQLError:
    """1236, the replica lacks transactions that are no longer held; the sets are on one line each.

    MySQL writes each server of a set on a line of its own.
    """
    replica_set, missing = replica_set.replace(",", ",\n"), missing.replace(",", ",\n")
    text = (
        "Cannot replicate because the source purged required binary logs. Replicate the missing "
        "transactions from elsewhere, or provision a new replica from backup. Consider increasing "
        "the source's binary log expiration period. "
    )
    sets = (
        f"The GTID set sent by the replica is '{replica_set}', "
        f"and the missing transactions are '{missing}'"
    )
    if len(text) + len(sets) > SETS_TEXT_MAX:
        sets = (
            "The GTID sets and the missing purged transactions are too long to print in this "
            "message. For more information, please see the source's error log or the manual for "
            "GTID_SUBTRACT"
        )
    return fatal_dump_error(text + sets)


def replica_has_more(extra: str) -> MySQLError:
    """1236, the replica has transactions of the source that the source has not.

    MySQL's words with the set in their midst: what comes later is cut off by the clients.
    """
    shown = extra if len(extra) <= _SET_LENGTH_MAX else f"{extra[:_SET_LENGTH_MAX]}..."
    return fatal_dump_error(
        # "the the" is how the server writes it.
        "Replica has more GTIDs than the source has, using the source's SERVER_UUID. "
        f"The source lacks '{shown}'. This may "
        "indicate that the the last binary log file was truncated or lost, e.g., after a power "
        "failure when sync_binlog != 1. The source may have rolled back transactions that were "
        "already replicated to the replica. Replicate any transactions that source has rolled "
        "back from replica to source, and/or commit empty transactions on source to account for "
        "transactions that have been committed on source but are not included in GTID_EXECUTED."
    )


def replaced_by_same_replica(
    first_file: str, first_position: int, last_file: str, last_position: int
) -> MySQLError:
    """1236, a newer dump of the same replica took over; names where the older one had got to."""
    return fatal_dump_error(
        "A replica with the same server_uuid/server_id as this replica has connected to the "
        f"source; the first event '{first_file}' at {first_position}, the last event read from "
        f"'./{last_file}' at {last_position}, the last byte read from './{last_file}' at "
        f"{last_position}."
    )


def mariadb_replaced(
    first_file: str, first_position: int, last_file: str, last_position: int
) -> MySQLError:
    """4052, MariaDB's own number for the same: it has no uuids, the server ids are equal."""
    return MySQLError(
        4052,
        "HY000",
        "A slave with the same server_uuid/server_id is already connected; the first event "
        f"'{first_file}' at {first_position}, the last event read from '{last_file}' at "
        f"{last_position}, the last byte read from '{last_file}' at {last_position}.",
    )


def mariadb_state_purged() -> MySQLError:
    """1236 in MariaDB's words: what the replica lacks is held no longer."""
    return fatal_dump_error(
        "Could not find GTID state requested by slave in any binlog files. Probably the slave "
        "state is too old and required binlog files have been purged."
    )


def mariadb_not_in_log(gtid: str) -> MySQLError:
    """1236 in MariaDB's words: the replica is ahead."""
    return fatal_dump_error(
        f"Error: connecting slave requested to start from GTID {gtid}, which is not in the "
        "master's binlog"
    )


def mariadb_missing(gtid: str) -> MySQLError:
    """1236 in MariaDB's words: a replica that is strict stands in a hole of the log."""
    return fatal_dump_error(
        f"The binlog on the master is missing the GTID {gtid} requested by the slave (even though "
        "both a prior and a subsequent sequence number does exist), and GTID strict mode is enabled"
    )


def mariadb_diverged(gtid: str) -> MySQLError:
    """1236 in MariaDB's words: the replica has what was never in this log, and is not ahead."""
    return fatal_dump_error(
        f"Error: connecting slave requested to start from GTID {gtid}, which is not in the "
        "master's binlog. Since the master's binlog contains GTIDs with higher sequence numbers, "
        "it probably means that the slave has diverged due to executing extra erroneous "
        "transactions"
    )


NEXT_LOG_MISSING = "could not find next log"


def next_log_not_found(
    first_file: str, first_position: int, last_file: str, last_position: int
) -> MySQLError:
    """1236, the log was purged under the dump; names where it had got to."""
    return fatal_dump_error(
        f"{NEXT_LOG_MISSING}; the first event '{first_file}' at {first_position}, the last "
        f"event read from './{last_file}' at {last_position}, the last byte read from "
        f"'./{last_file}' at {last_position}."
    )


def unknown_dump_file() -> MySQLError:
    """1236, the file asked for is not held."""
    return fatal_dump_error("Could not find first log file name in binary log index file")


def position_before_first_event() -> MySQLError:
    """1236, a position inside the file's magic number."""
    return fatal_dump_error("Client requested source to start replication from position < 4")


def position_past_end() -> MySQLError:
    """1236, a position past the end of the file."""
    return fatal_dump_error(
        "Client requested source to start replication from position > file size"
    )


def position_inside_event(file: str, start: int, position: int) -> MySQLError:
    """1236, a position that is not the start of an event."""
    return fatal_dump_error(
        "binlog truncated in the middle of event; consider out of disk space on source; the first "
        f"event '{file}' at {start}, the last event read from './{file}' at {position}, the last "
        f"byte read from './{file}' at {position}."
    )


def checksum_not_understood(file: str, start: int, position: int) -> MySQLError:
    """1236, the client never said that it knows event checksums, and the binlog has them."""
    return fatal_dump_error(
        "Replica can not handle replication events with the checksum that source is configured to "
        f"log; the first event '{file}' at {start}, the last event read from './{file}' at "
        f"{position}, the last byte read from './{file}' at {position}."
    )


def gtid_mode_not_on(mode: str) -> MySQLError:
    """1236, a GTID dump of a log that has no GTIDs."""
    return fatal_dump_error(
        "The replication sender thread cannot start in AUTO_POSITION mode: this server has "
        f"GTID_MODE = {mode} instead of ON."
    )
