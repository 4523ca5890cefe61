"""The system variables that this source answers, and which of them a session may set.

Owns: the table of names, their values (facts of the source and of the connection, or MySQL's own
defaults) and the settings of one session. Knows nothing of statements. Follows the manual's
"Server System Variables" and "Binary Logging Options and Variables". A name outside the table is
error 1193 and is missing in SHOW VARIABLES: clients take that for a feature that is not there,
which is so for MariaDB's own names and for cloud vendors' names, and for semi-sync's where it is
switched off.
"""

from collections.abc import Callable
from typing import Protocol

from kingbus.mysql.errors import (
    MySQLError,
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
    def gtid_executed(self) -> str: ...
    def gtid_purged(self) -> str: ...
    def variable(self, name: str) -> Value: ...


_FACTS: dict[str, Callable[[VariableFacts], Value]] = {
    "binlog_checksum": lambda facts: facts.binlog_checksum,
    "enforce_gtid_consistency": lambda facts: "ON" if facts.gtid_mode == "ON" else "OFF",
    "gtid_executed": lambda facts: facts.gtid_executed(),
    "gtid_mode": lambda facts: facts.gtid_mode,
    "gtid_purged": lambda facts: facts.gtid_purged(),
    "hostname": lambda facts: facts.hostname,
    "port": lambda facts: facts.port,
    "server_id": lambda facts: facts.server_id,
    "server_uuid": lambda facts: facts.server_uuid,
    "version": lambda facts: facts.version,
}
"""These cannot be set and never are NULL: a replica crashes at a NULL."""

_FIXED: dict[str, Value] = {
    "binlog_encryption": "OFF",
    "binlog_expire_logs_seconds": 0,
    "binlog_format": "ROW",
    "binlog_row_image": "FULL",
    "binlog_row_metadata": "MINIMAL",
    "binlog_row_value_options": "",
    "character_set_server": "utf8mb4",
    "character_set_system": "utf8mb3",
    "collation_server": "utf8mb4_0900_ai_ci",
    "default_storage_engine": "InnoDB",
    "expire_logs_days": 0,
    "have_openssl": "DISABLED",
    "have_ssl": "DISABLED",
    "init_connect": "",
    "license": "Apache-2.0",
    "log_bin": "ON",
    "log_bin_basename": "",
    "log_replica_updates": "ON",
    "log_slave_updates": "ON",
    "lower_case_file_system": "OFF",
    "lower_case_table_names": 0,
    "max_binlog_size": 1 << 30,
    "max_connections": 0,
    "performance_schema": "OFF",
    "protocol_version": 10,
    "query_cache_size": 0,
    "query_cache_type": "OFF",
    "read_only": "ON",
    "replica_net_timeout": 60,
    "report_host": "",
    "report_port": 0,
    "slave_net_timeout": 60,
    "socket": "",
    "super_read_only": "ON",
    "sync_binlog": 1,
    "system_time_zone": "UTC",
    "version_comment": "kingbus, a relay of binary logs",
    "version_compile_machine": "",
    "version_compile_os": "Linux",
}
"""Facts that are the same for every relay; those of the source itself come from its provider."""

_SETTABLE: dict[str, Value] = {
    "auto_increment_increment": 1,
    "auto_increment_offset": 1,
    "autocommit": "ON",
    "big_tables": "OFF",
    "character_set_client": "utf8mb4",
    "character_set_connection": "utf8mb4",
    "character_set_database": "utf8mb4",
    "character_set_results": "utf8mb4",
    "collation_connection": "utf8mb4_0900_ai_ci",
    "collation_database": "utf8mb4_0900_ai_ci",
    "completion_type": "NO_CHAIN",
    "foreign_key_checks": "ON",
    "group_concat_max_len": 1024,
    "information_schema_stats_expiry": 86400,
    "innodb_lock_wait_timeout": 50,
    "interactive_timeout": 28800,
    "lock_wait_timeout": 31536000,
    "max_allowed_packet": 16 << 20,
    "max_execution_time": 0,
    "net_buffer_length": 16384,
    "net_read_timeout": 30,
    "net_retry_count": 10,
    "net_write_timeout": 60,
    "session_track_gtids": "OFF",
    "session_track_schema": "ON",
    "session_track_state_change": "OFF",
    "sql_auto_is_null": "OFF",
    "sql_big_selects": "ON",
    "sql_log_bin": "ON",
    "sql_mode": "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
    "sql_notes": "ON",
    "sql_quote_show_create": "ON",
    "sql_safe_updates": "OFF",
    "sql_select_limit": (1 << 64) - 1,
    "sql_warnings": "OFF",
    "time_zone": "SYSTEM",
    "timestamp": 0,
    "transaction_isolation": "REPEATABLE-READ",
    "transaction_read_only": "OFF",
    "tx_isolation": "REPEATABLE-READ",
    "tx_read_only": "OFF",
    "unique_checks": "ON",
    "wait_timeout": 28800,
}
"""What connectors set at the start of a session. Stored and shown, without any effect."""

SEMI_SYNC_VARIABLES = frozenset({"rpl_semi_sync_master_enabled", "rpl_semi_sync_source_enabled"})
"""There where semi-sync towards replicas is on: their value is then a fact of the source."""

_BOOLEAN = frozenset(
    name for table in (_FIXED, _SETTABLE) for name, value in table.items() if value in {"ON", "OFF"}
)

_TEXT_OF_FLAG = frozenset({"read_only", "super_read_only"}) | _BOOLEAN | SEMI_SYNC_VARIABLES
"""SELECT shows these as 1 and 0, SHOW as ON and OFF."""


class SystemVariables:
    """The system variables as one session sees them."""

    __slots__ = ("_facts", "_session")

    def __init__(self, facts: VariableFacts) -> None:
        self._facts = facts
        self._session: dict[str, Value] = {}

    def names(self) -> list[str]:
        """All names, sorted."""
        given = {name for name in SEMI_SYNC_VARIABLES if self._facts.variable(name) is not None}
        return sorted({*_FACTS, *_FIXED, *_SETTABLE, *given})

    def get(self, name: str, scope: str = "") -> Value:
        """The value as SHOW VARIABLES writes it. Raises error 1193 for an unknown name."""
        if name in _FACTS:
            return _FACTS[name](self._facts)
        if scope != "global" and name in self._session:
            return self._session[name]
        given = self._facts.variable(name)
        if given is not None:
            return given
        for table in (_FIXED, _SETTABLE):
            if name in table:
                return table[name]
        raise unknown_variable(name)

    def select(self, name: str, scope: str = "") -> Value:
        """The value as SELECT writes it: switches are 1 and 0. Raises error 1193."""
        value = self.get(name, scope)
        if name in _TEXT_OF_FLAG and value in {"ON", "OFF"}:
            return int(value == "ON")
        return value

    def set(self, name: str, value: Value, *, scope: str) -> None:
        """Set a variable of this session.

        Raises 1193 for an unknown name, 1238 for one that tells a fact, 1227 for a global one.
        """
        if name not in _SETTABLE:
            self.get(name)
            raise read_only_variable(name)
        if scope == "global":
            raise privilege_required("SUPER or SYSTEM_VARIABLES_ADMIN")
        if isinstance(value, str) and len(value) > 4096:
            raise wrong_value(name, value)
        if name in _BOOLEAN:
            value = _switch(name, value)
        self._session[name] = value

    def set_default(self, name: str) -> None:
        """SET name = DEFAULT. Raises as `set`."""
        if name not in _SETTABLE:
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
