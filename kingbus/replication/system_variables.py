"""The system variables that this source answers, and which of them a session may set.

Owns: the one table of names with the origin of each value, and the settings of one session. Knows
nothing of statements. Follows the manual's "Server System Variables" and "Binary Logging Options
and Variables". A name outside the table is error 1193 and is missing in SHOW VARIABLES: clients
take that for a feature that is not there, which is so for cloud vendors' names, and for
semi-sync's where it is switched off. MySQL's names for GTIDs are not there where the source is
MariaDB, and MariaDB's are not where it is MySQL.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from kingbus.binlog.mariadb_gtid import MARIADB, MYSQL
from kingbus.mysql.errors import (
    MySQLError,
    not_supported,
    privilege_required,
    read_only_variable,
    unknown_variable,
    wrong_value,
)
from kingbus.mysql.resultset import Value


class VariableFacts(Protocol):
    """What the variables tell of this source; see `queries.ServerFacts`."""

    @property
    def server_id(self) -> int: ...
    @property
    def server_uuid(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def gtid_mode(self) -> str: ...
    @property
    def binlog_checksum(self) -> str: ...
    @property
    def hostname(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def flavor(self) -> str: ...
    def gtid_binlog_pos(self) -> str: ...
    def gtid_binlog_state(self) -> str: ...
    def gtid_executed(self) -> str: ...
    def gtid_purged(self) -> str: ...
    def variable(self, name: str) -> Value: ...


class Origin(Enum):
    """Where a value is from."""

    SOURCE = "the source, as it said when the receiver last connected; MySQL's default before"
    RELAY = "this relay; a fact that is never NULL, because a replica crashes at one"
    FIXED = "the same for every relay"
    SESSION = "the connection, which may set it, without any effect; MySQL's default at first"


class Needs(Enum):
    """Without what a variable is not there at all."""

    NOTHING = ""
    MYSQL = "a source of this flavor"
    MARIADB = "a source of that flavor"
    SEMI_SYNC = "a connection that is offered it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable: its origin, and its value or, of the relay's, how to read it.

    Where `needs` is not met its name is as unknown as any other.
    """

    origin: Origin
    value: Value = None
    read: Callable[[VariableFacts], Value] | None = None
    needs: Needs = Needs.NOTHING

    @property
    def is_switch(self) -> bool:
        """SELECT shows it as 1 and 0, SHOW as ON and OFF."""
        return self.value in {"ON", "OFF"}


def _relay(read: Callable[[VariableFacts], Value]) -> Variable:
    return Variable(origin=Origin.RELAY, read=read)


def _of_mysql(variable: Variable) -> Variable:
    return replace(variable, needs=Needs.MYSQL)


def _of_mariadb(variable: Variable) -> Variable:
    return replace(variable, needs=Needs.MARIADB)


def _of_semi_sync(variable: Variable) -> Variable:
    return replace(variable, needs=Needs.SEMI_SYNC)


def _source(value: Value) -> Variable:
    return Variable(origin=Origin.SOURCE, value=value)


def _fixed(value: Value) -> Variable:
    return Variable(origin=Origin.FIXED, value=value)


def _session(value: Value) -> Variable:
    return Variable(origin=Origin.SESSION, value=value)


TABLE: Final[Mapping[str, Variable]] = {
    "auto_increment_increment": _session(1),
    "auto_increment_offset": _session(1),
    "autocommit": _session("ON"),
    "big_tables": _session("OFF"),
    "binlog_checksum": _relay(lambda facts: facts.binlog_checksum),
    "binlog_direct_non_transactional_updates": _source("OFF"),
    "binlog_encryption": _fixed("OFF"),
    "binlog_expire_logs_seconds": _fixed(0),
    "binlog_format": _source("ROW"),
    "binlog_order_commits": _source("ON"),
    "binlog_row_image": _source("FULL"),
    "binlog_row_metadata": _source("MINIMAL"),
    "binlog_row_value_options": _source(""),
    "binlog_rows_query_log_events": _source("OFF"),
    "binlog_transaction_compression": _source("OFF"),
    "character_set_client": _session("utf8mb4"),
    "character_set_connection": _session("utf8mb4"),
    "character_set_database": _session("utf8mb4"),
    "character_set_results": _session("utf8mb4"),
    "character_set_server": _source("utf8mb4"),
    "character_set_system": _fixed("utf8mb3"),
    "collation_connection": _session("utf8mb4_0900_ai_ci"),
    "collation_database": _session("utf8mb4_0900_ai_ci"),
    "collation_server": _source("utf8mb4_0900_ai_ci"),
    "completion_type": _session("NO_CHAIN"),
    "default_storage_engine": _source("InnoDB"),
    "enforce_gtid_consistency": _of_mysql(
        _relay(lambda facts: "ON" if facts.gtid_mode == "ON" else "OFF")
    ),
    "event_scheduler": _fixed("OFF"),
    "expire_logs_days": _fixed(0),
    "explicit_defaults_for_timestamp": _source("ON"),
    "foreign_key_checks": _session("ON"),
    "general_log": _fixed("OFF"),
    "group_concat_max_len": _session(1024),
    "gtid_binlog_pos": _of_mariadb(_relay(lambda facts: facts.gtid_binlog_pos())),
    "gtid_binlog_state": _of_mariadb(_relay(lambda facts: facts.gtid_binlog_state())),
    "gtid_current_pos": _of_mariadb(_relay(lambda facts: facts.gtid_binlog_pos())),
    "gtid_domain_id": _of_mariadb(_fixed(0)),
    "gtid_executed": _of_mysql(_relay(lambda facts: facts.gtid_executed())),
    "gtid_mode": _of_mysql(_relay(lambda facts: facts.gtid_mode)),
    "gtid_next": _session("AUTOMATIC"),
    "gtid_owned": _fixed(""),
    "gtid_purged": _of_mysql(_relay(lambda facts: facts.gtid_purged())),
    "gtid_slave_pos": _of_mariadb(_relay(lambda facts: facts.gtid_binlog_pos())),
    "gtid_strict_mode": _of_mariadb(_fixed(1)),
    "have_openssl": _fixed("DISABLED"),
    "have_ssl": _fixed("DISABLED"),
    "hostname": _relay(lambda facts: facts.hostname),
    "information_schema_stats_expiry": _session(86400),
    "init_connect": _fixed(""),
    "innodb_lock_wait_timeout": _session(50),
    "interactive_timeout": _session(28800),
    "lc_messages": _session("en_US"),
    "lc_time_names": _session("en_US"),
    "license": _fixed("Apache-2.0"),
    "lock_wait_timeout": _session(31536000),
    "log_bin": _fixed("ON"),
    "log_bin_basename": _fixed(""),
    "log_bin_use_v1_row_events": _source("OFF"),
    "log_replica_updates": _fixed("ON"),
    "log_slave_updates": _fixed("ON"),
    "lower_case_file_system": _source("OFF"),
    "lower_case_table_names": _source(0),
    "max_allowed_packet": _session(16 << 20),
    "max_binlog_size": _source(1 << 30),
    "max_connections": _fixed(0),
    "max_execution_time": _session(0),
    "net_buffer_length": _session(16384),
    "net_read_timeout": _session(30),
    "net_retry_count": _session(10),
    "net_write_timeout": _session(60),
    "offline_mode": _fixed("OFF"),
    "performance_schema": _fixed("OFF"),
    "port": _relay(lambda facts: facts.port),
    "protocol_version": _fixed(10),
    "query_cache_size": _fixed(0),
    "query_cache_type": _fixed("OFF"),
    "read_only": _fixed("ON"),
    "replica_net_timeout": _fixed(60),
    "report_host": _fixed(""),
    "report_port": _fixed(0),
    "rpl_semi_sync_master_enabled": _of_semi_sync(_fixed("ON")),
    "rpl_semi_sync_source_enabled": _of_semi_sync(_fixed("ON")),
    "server_id": _relay(lambda facts: facts.server_id),
    "server_id_bits": _fixed(32),
    "server_uuid": _of_mysql(_relay(lambda facts: facts.server_uuid)),
    "session_track_gtids": _session("OFF"),
    "session_track_schema": _session("ON"),
    "session_track_state_change": _session("OFF"),
    "skip_name_resolve": _fixed("ON"),
    "slave_net_timeout": _fixed(60),
    "slow_query_log": _fixed("OFF"),
    "socket": _fixed(""),
    "sql_auto_is_null": _session("OFF"),
    "sql_big_selects": _session("ON"),
    "sql_log_bin": _session("ON"),
    "sql_mode": _session(
        "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
        "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
    ),
    "sql_notes": _session("ON"),
    "sql_quote_show_create": _session("ON"),
    "sql_safe_updates": _session("OFF"),
    "sql_select_limit": _session((1 << 64) - 1),
    "sql_warnings": _session("OFF"),
    "super_read_only": _fixed("ON"),
    "sync_binlog": _fixed(1),
    "system_time_zone": _fixed("UTC"),
    "time_zone": _session("SYSTEM"),
    "timestamp": _session(0),
    "transaction_isolation": _session("REPEATABLE-READ"),
    "transaction_read_only": _session("OFF"),
    "tx_isolation": _session("REPEATABLE-READ"),
    "tx_read_only": _session("OFF"),
    "unique_checks": _session("ON"),
    "version": _relay(lambda facts: facts.version),
    "version_comment": _fixed("kingbus, a relay of binary logs"),
    "version_compile_machine": _fixed(""),
    "version_compile_os": _fixed("Linux"),
    "wait_timeout": _session(28800),
}

SOURCE_VARIABLES: Final = tuple(
    name for name, variable in TABLE.items() if variable.origin is Origin.SOURCE
)
"""What the receiver asks its source for."""


class SystemVariables:
    """The system variables as one session sees them."""

    __slots__ = ("_facts", "_offers_semi_sync", "_session")

    def __init__(self, facts: VariableFacts, *, offers_semi_sync: bool = False) -> None:
        self._facts = facts
        self._offers_semi_sync = offers_semi_sync
        self._session: dict[str, Value] = {}

    def _has(self, variable: Variable) -> bool:
        match variable.needs:
            case Needs.MYSQL:
                return self._facts.flavor == MYSQL
            case Needs.MARIADB:
                return self._facts.flavor == MARIADB
            case Needs.SEMI_SYNC:
                return self._offers_semi_sync
            case Needs.NOTHING:
                return True

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(name for name, variable in TABLE.items() if self._has(variable))

    def get(self, name: str, scope: str = "") -> Value:
        """The value as SHOW VARIABLES writes it. Raises error 1193 for an unknown name."""
        variable = TABLE.get(name)
        if variable is None or not self._has(variable):
            raise unknown_variable(name)
        if variable.read is not None:
            return variable.read(self._facts)
        if variable.origin is Origin.SESSION and scope != "global" and name in self._session:
            return self._session[name]
        if variable.origin is Origin.SOURCE:
            said = self._facts.variable(name)
            if isinstance(variable.value, int) and isinstance(said, str) and said.isdecimal():
                return int(said)
            return variable.value if said is None else said
        return variable.value

    def select(self, name: str, scope: str = "") -> Value:
        """The value as SELECT writes it: switches are 1 and 0. Raises error 1193."""
        value = self.get(name, scope)
        if TABLE[name].is_switch and value in {"ON", "OFF"}:
            return int(value == "ON")
        return value

    def set(self, name: str, value: Value, *, scope: str, is_admin: bool = False) -> None:
        """Set a variable of this session.

        Raises 1193 for an unknown name, 1238 for one that tells a fact, 1227 for a global one, or
        1235 if an administrator sets it: there are none.
        """
        variable = TABLE.get(name)
        if variable is None:
            raise unknown_variable(name)
        if variable.origin is not Origin.SESSION:
            raise read_only_variable(name)
        if scope == "global":
            raise (
                not_supported(f"SET GLOBAL {name}")
                if is_admin
                else privilege_required("SUPER or SYSTEM_VARIABLES_ADMIN")
            )
        if isinstance(value, str) and len(value) > 4096:
            raise wrong_value(name, value)
        if variable.is_switch:
            value = _switch(name, value)
        self._session[name] = value

    def set_default(self, name: str) -> None:
        """SET name = DEFAULT. Raises as `set`."""
        variable = TABLE.get(name)
        if variable is None or variable.origin is not Origin.SESSION:
            self.set(name, None, scope="session")
        self._session.pop(name, None)

    def clear(self) -> None:
        """Forget the session's settings."""
        self._session.clear()


def _switch(name: str, value: Value) -> Value:
    match str(value).upper():
        case "1" | "ON" | "TRUE":
            return "ON"
        case "0" | "OFF" | "FALSE":
            return "OFF"
        case text:
            error: MySQLError = wrong_value(name, text)
            raise error
