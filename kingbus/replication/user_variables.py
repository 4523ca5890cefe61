"""The user variables of a connection, and what replicas say with them.

Owns: the `@name` variables that a client sets, their old and new spellings taken as one, and the
facts a dump is served by: checksum, heartbeat period, replica UUID, MariaDB's capability. Knows
nothing of statements or sockets. Follows what replicas send: newer ones set both spellings, older
ones only the first.
"""

from typing import Literal

from kingbus.mysql.resultset import Value

_CANONICAL = {
    "slave_uuid": "replica_uuid",
    "master_heartbeat_period": "source_heartbeat_period",
    "master_binlog_checksum": "source_binlog_checksum",
    "rpl_semi_sync_slave": "rpl_semi_sync_replica",
}

VARIABLES_MAX = 256
"""Clients set about five; connection pools some dozens."""

VALUE_CHARS_MAX = 1 << 20
"""The longest that a real client sets is a GTID position of MariaDB."""

ALL_CHARS_MAX = 4 << 20
"""Of all values of one connection together: a thousand of them must not fill the memory."""

_HEARTBEAT_SECONDS_MIN = 0.001
"""The shortest period that a replica accepts in SOURCE_HEARTBEAT_PERIOD."""

_HEARTBEAT_SECONDS_MAX = 4294967.0
"""The longest one."""


class TooManyVariablesError(ValueError):
    """A connection sets more user variables, or longer ones, than any client needs."""


class UserVariables:
    """User variables by name, without case; a name never set reads as NULL, as in MySQL."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}

    def get(self, name: str) -> Value:
        """The value, or None for a variable that was never set."""
        return self._values.get(_key(name))

    def set(self, name: str, value: Value) -> None:
        """Set one variable. Raises TooManyVariablesError."""
        key = _key(name)
        if isinstance(value, str) and len(value) > VALUE_CHARS_MAX:
            raise TooManyVariablesError(f"the value of @{name[:64]} is too long")
        if key not in self._values and len(self._values) >= VARIABLES_MAX:
            raise TooManyVariablesError(f"more than {VARIABLES_MAX} user variables")
        others = sum(_characters(each) for name, each in self._values.items() if name != key)
        if others + _characters(value) > ALL_CHARS_MAX:
            raise TooManyVariablesError(f"more than {ALL_CHARS_MAX} characters in user variables")
        self._values[key] = value

    def clear(self) -> None:
        """Forget all of them."""
        self._values.clear()

    @property
    def checksum(self) -> Literal["CRC32", "NONE"] | None:
        """What event checksums the client said that it knows; None if it said nothing of use."""
        match str(self.get("source_binlog_checksum") or "").upper():
            case "CRC32":
                return "CRC32"
            case "NONE":
                return "NONE"
            case _:
                return None

    @property
    def heartbeat_period_s(self) -> float | None:
        """Seconds of silence after which the client wants a heartbeat; None for never."""
        value = self.get("source_heartbeat_period")
        try:
            seconds = float(value or 0) / 1e9
        except ValueError:
            return None
        if not 0 < seconds < float("inf"):
            return None
        return min(max(seconds, _HEARTBEAT_SECONDS_MIN), _HEARTBEAT_SECONDS_MAX)

    @property
    def replica_uuid(self) -> str:
        """The replica's server UUID in lower case, "" where it did not tell."""
        return str(self.get("replica_uuid") or "").strip().lower()

    @property
    def wants_semi_sync(self) -> bool:
        """Whether the client understands, and wants, the form of semi-sync."""
        return str(self.get("rpl_semi_sync_replica") or "0").strip() not in {"0", ""}

    @property
    def speaks_mariadb(self) -> bool:
        """Whether the client uses MariaDB's meaning of the dump flags.

        pymysqlreplication sets the capability towards every server, but not with its MySQL GTID
        dump; the flag that collides (0x0002) it never sets.
        """
        return self.get("mariadb_slave_capability") is not None

    @property
    def mariadb_capability(self) -> int:
        """Which of MariaDB's own events the client knows, 0 to 4; see `mariadb_compat`."""
        try:
            return max(0, int(str(self.get("mariadb_slave_capability") or 0)))
        except ValueError:
            return 0

    @property
    def mariadb_position(self) -> str | None:
        """What a MariaDB replica that follows GTIDs has, "" for nothing; None for another one."""
        value = self.get("slave_connect_state")
        return None if value is None else str(value)

    @property
    def mariadb_until(self) -> str | None:
        """Up to where a MariaDB replica wants to get; None: on and on."""
        value = self.get("slave_until_gtid")
        return None if value is None else str(value)


def _characters(value: Value) -> int:
    return len(value) if isinstance(value, str) else 0


def _key(name: str) -> str:
    lowered = name.lower()
    return _CANONICAL.get(lowered, lowered)
