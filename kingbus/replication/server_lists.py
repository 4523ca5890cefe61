"""The lists that clients ask a server for when they connect: collations, plugins, engines, tables.

Owns: their columns as MySQL 9.7 describes them, and the rows that are true of a relay. It stores no
table, so there are no engines and no tables; of the collations only those are here that clients
send. Knows nothing of statements.
"""

from typing import Final

from kingbus.mysql.constants import ColumnFlag, ColumnType
from kingbus.mysql.resultset import Column, ResultSet, Value

INFORMATION_SCHEMA: Final = "information_schema"

_NAME_BYTES: Final = 256
_YES_NO_BYTES: Final = 12

_COLLATIONS: Final[tuple[tuple[str, str, int, str, str, int, str], ...]] = (
    ("ascii_bin", "ascii", 65, "", "Yes", 1, "PAD SPACE"),
    ("ascii_general_ci", "ascii", 11, "Yes", "Yes", 1, "PAD SPACE"),
    ("binary", "binary", 63, "Yes", "Yes", 1, "NO PAD"),
    ("latin1_bin", "latin1", 47, "", "Yes", 1, "PAD SPACE"),
    ("latin1_danish_ci", "latin1", 15, "", "Yes", 1, "PAD SPACE"),
    ("latin1_general_ci", "latin1", 48, "", "Yes", 1, "PAD SPACE"),
    ("latin1_general_cs", "latin1", 49, "", "Yes", 1, "PAD SPACE"),
    ("latin1_german1_ci", "latin1", 5, "", "Yes", 1, "PAD SPACE"),
    ("latin1_german2_ci", "latin1", 31, "", "Yes", 2, "PAD SPACE"),
    ("latin1_spanish_ci", "latin1", 94, "", "Yes", 1, "PAD SPACE"),
    ("latin1_swedish_ci", "latin1", 8, "Yes", "Yes", 1, "PAD SPACE"),
    ("utf8mb3_bin", "utf8mb3", 83, "", "Yes", 1, "PAD SPACE"),
    ("utf8mb3_general_ci", "utf8mb3", 33, "Yes", "Yes", 1, "PAD SPACE"),
    ("utf8mb3_unicode_ci", "utf8mb3", 192, "", "Yes", 8, "PAD SPACE"),
    ("utf8mb4_0900_ai_ci", "utf8mb4", 255, "Yes", "Yes", 0, "NO PAD"),
    ("utf8mb4_0900_as_ci", "utf8mb4", 305, "", "Yes", 0, "NO PAD"),
    ("utf8mb4_0900_as_cs", "utf8mb4", 278, "", "Yes", 0, "NO PAD"),
    ("utf8mb4_0900_bin", "utf8mb4", 309, "", "Yes", 1, "NO PAD"),
    ("utf8mb4_bin", "utf8mb4", 46, "", "Yes", 1, "PAD SPACE"),
    ("utf8mb4_general_ci", "utf8mb4", 45, "", "Yes", 1, "PAD SPACE"),
    ("utf8mb4_unicode_520_ci", "utf8mb4", 246, "", "Yes", 8, "PAD SPACE"),
    ("utf8mb4_unicode_ci", "utf8mb4", 224, "", "Yes", 8, "PAD SPACE"),
)

_CHARACTER_SETS: Final[tuple[tuple[str, str, str, int], ...]] = (
    ("ascii", "US ASCII", "ascii_general_ci", 1),
    ("binary", "Binary pseudo charset", "binary", 1),
    ("latin1", "cp1252 West European", "latin1_swedish_ci", 1),
    ("utf8mb3", "UTF-8 Unicode", "utf8mb3_general_ci", 3),
    ("utf8mb4", "UTF-8 Unicode", "utf8mb4_0900_ai_ci", 4),
)

_PLUGINS: Final = ("caching_sha2_password", "mysql_native_password")
_SEMI_SYNC_PLUGIN: Final = "rpl_semi_sync_source"


def _text(name: str, length: int = _NAME_BYTES, *, nullable: bool = False) -> Column:
    flags = ColumnFlag(0) if nullable else ColumnFlag.NOT_NULL
    return Column(name=name, length=length, flags=flags)


def _choice(name: str, length: int) -> Column:
    """An ENUM, which clients see as a string of one length."""
    flags = ColumnFlag.NOT_NULL | ColumnFlag.BINARY
    return Column(name=name, type=ColumnType.STRING, length=length, flags=flags)


def _number(name: str, kind: ColumnType, flags: ColumnFlag = ColumnFlag.NOT_NULL) -> Column:
    return Column(name=name, type=kind, flags=flags)


def collations() -> ResultSet:
    """SHOW COLLATION, without its filter."""
    columns = [
        _text("Collation"),
        _text("Charset"),
        _number("Id", ColumnType.LONGLONG, ColumnFlag.NOT_NULL | ColumnFlag.UNSIGNED),
        _text("Default", _YES_NO_BYTES),
        _text("Compiled", _YES_NO_BYTES),
        _number("Sortlen", ColumnType.LONG, ColumnFlag.NOT_NULL | ColumnFlag.UNSIGNED),
        _choice("Pad_attribute", 36),
    ]
    return ResultSet(columns=columns, rows=_COLLATIONS)


def character_sets() -> ResultSet:
    """SHOW CHARACTER SET, without its filter."""
    columns = [
        _text("Charset"),
        _text("Description", 8192),
        _text("Default collation"),
        _number("Maxlen", ColumnType.LONG, ColumnFlag.NOT_NULL | ColumnFlag.UNSIGNED),
    ]
    return ResultSet(columns=columns, rows=_CHARACTER_SETS)


def engines() -> ResultSet:
    """SHOW ENGINES: none."""
    columns = [
        _text("Engine"),
        _text("Support", 32),
        _text("Comment", 320),
        *(_text(name, _YES_NO_BYTES, nullable=True) for name in ("Transactions", "XA")),
        _text("Savepoints", _YES_NO_BYTES, nullable=True),
    ]
    return ResultSet(columns=columns)


def plugins(*, semi_sync: bool, license_name: str) -> ResultSet:
    """SHOW PLUGINS: the ways to log in, and the form of semi-sync where it is offered."""
    columns = [
        _text("Name"),
        _text("Status", 40),
        _text("Type", 320),
        _text("Library", nullable=True),
        _text("License", 320, nullable=True),
    ]
    rows: list[list[Value]] = [
        [name, "ACTIVE", "AUTHENTICATION", None, license_name] for name in _PLUGINS
    ]
    if semi_sync:
        rows.append([_SEMI_SYNC_PLUGIN, "ACTIVE", "REPLICATION", None, license_name])
    return ResultSet(columns=columns, rows=rows)


def tables(database: str, *, pattern: str | None, full: bool) -> ResultSet:
    """SHOW [FULL] TABLES: none; the first column's name has the database and the pattern in it."""
    database = database.lower()
    if pattern is not None and database == INFORMATION_SCHEMA:
        pattern = pattern.upper()  # as the names there are stored
    name = filtered_name(f"Tables_in_{database}", pattern)
    return ResultSet(columns=[_text(name), *([_choice("Table_type", 44)] if full else [])])


def filtered_name(name: str, pattern: str | None) -> str:
    """What the column of names is called where LIKE has chosen some."""
    return name if pattern is None else f"{name} ({pattern})"
