"""The prepared statements of one connection.

Owns: their numbers, their texts, and how many there may be. A statement is checked when it is
prepared and answered as any other when it is executed; none has parameters. Knows nothing of
answers or of the wire.
"""

from typing import Final

from kingbus.mysql.errors import not_supported, too_many_statements, unknown_statement
from kingbus.replication.sql_tokens import Kind, tokens_of
from kingbus.replication.statements import parse

STATEMENTS_MAX: Final = 256
"""Pools keep some dozens open on each connection."""

ALL_CHARS_MAX: Final = 4 << 20
"""Of all their texts: as long as one statement may be."""


class PreparedStatements:
    """Texts by number, from 1 on; a number is not given twice."""

    __slots__ = ("_last_id", "_texts")

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._last_id = 0

    def prepare(self, sql: str) -> int:
        """The number of a new statement.

        Raises 1461, 1235 for one with parameters, and what `parse` raises.
        """
        if any(token.text == "?" and token.kind is Kind.OPERATOR for token in tokens_of(sql)):
            raise not_supported("a prepared statement with parameters")
        parse(sql)
        characters = sum(map(len, self._texts.values())) + len(sql)
        if len(self._texts) >= STATEMENTS_MAX or characters > ALL_CHARS_MAX:
            raise too_many_statements(STATEMENTS_MAX)
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        self._texts[self._last_id] = sql
        return self._last_id

    def text(self, statement_id: int) -> str:
        """Raises error 1243."""
        try:
            return self._texts[statement_id]
        except KeyError:
            raise unknown_statement(statement_id) from None

    def close(self, statement_id: int) -> None:
        """Forget one, if it is there: nobody is told."""
        self._texts.pop(statement_id, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._texts.clear()
