"""The root of all errors that kingbus raises on purpose.

Two levels: this root, and one name per thing that a caller can do about it. Each edge (HTTP, the
MySQL listener, the command line) maps them once to its own form. Broken invariants are assertions
and end the process; they are not errors of this kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class KingbusError(Exception):
    """What went wrong in one sentence; `hint` says what to do about it, where that is known."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint

    def explain(self) -> str:
        """The message and the hint on one line."""
        return f"{self} ({self.hint})" if self.hint else str(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a configuration: where, what, and the value found there."""

    key: str
    message: str
    got: object = None

    def __str__(self) -> str:
        found = "" if self.got is None else f" (got {self.got!r})"
        return f"{self.key}: {self.message}{found}"


class ConfigError(KingbusError):
    """A configuration with one or more problems; all of them are collected before it is raised."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
