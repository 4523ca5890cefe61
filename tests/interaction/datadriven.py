"""Files of directives with expected output: parsing, running, comparing, rewriting.

A directive is a command line, input lines up to `----`, and the output that is expected up to the
next blank line (or, when the output holds blank lines, between two pairs of `----` lines).
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SEPARATOR = "----"


class DirectiveError(Exception):
    """A directive that cannot be read or that a handler does not understand."""


@dataclass(slots=True)
class Argument:
    """`key`, `key=value` or `key=(value, ...)`."""

    key: str
    values: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Directive:
    """One command with its input and expected output; `line` counts from 1."""

    line: int
    command: str
    arguments: list[Argument]
    input: str
    expected: str
    before: str
    """The lines of the file from the end of the last directive to the `----` of this one."""

    def values(self, key: str) -> list[str] | None:
        """The values of the first argument of this name."""
        for argument in self.arguments:
            if argument.key == key:
                return argument.values
        return None

    def value(self, key: str, default: str) -> str:
        """The only value of an argument."""
        values = self.values(key)
        if values is None:
            return default
        if len(values) != 1:
            raise DirectiveError(f"{key} takes one value, not {values}")
        return values[0]

    def flag(self, key: str) -> bool:
        """A `true` or `false` argument."""
        value = self.value(key, "false")
        if value not in {"true", "false"}:
            raise DirectiveError(f"{key} takes true or false, not {value!r}")
        return value == "true"

    def number(self, key: str, default: int) -> int:
        """A number argument."""
        return int(self.value(key, str(default)))

    def numbers(self, key: str) -> list[int]:
        """A list of numbers, empty when the argument is missing."""
        return [int(value) for value in self.values(key) or []]

    def ids(self) -> list[int]:
        """The bare numbers among the arguments, in their order."""
        return [int(argument.key) for argument in self.arguments if argument.key.isdecimal()]


Handler = Callable[[Directive], str]


def parse_arguments(text: str) -> tuple[str, list[Argument]]:
    """The command word and the arguments of a directive line."""
    command, _, rest = text.partition(" ")
    arguments: list[Argument] = []
    at = 0
    while at < len(rest):
        if rest[at] == " ":
            at += 1
            continue
        end = at
        while end < len(rest) and rest[end] not in " =":
            end += 1
        argument = Argument(rest[at:end])
        arguments.append(argument)
        at = end
        if at == len(rest) or rest[at] == " ":
            continue
        at += 1
        if at == len(rest) or rest[at] == " ":
            argument.values = [""]
        elif rest[at] == "(":
            at = _parse_list(rest, at, argument)
        else:
            end = rest.find(" ", at)
            end = len(rest) if end == -1 else end
            argument.values = [rest[at:end]]
            at = end
    return command, arguments


def _parse_list(text: str, start: int, argument: Argument) -> int:
    """Cut `(a, b, (c, d))` at its top-level commas; the position behind it."""
    depth, begin = 0, start + 1
    for at in range(start, len(text)):
        if text[at] == "(":
            depth += 1
        elif text[at] == ")":
            depth -= 1
        elif text[at] != "," or depth != 1:
            continue
        if depth == 0 or (text[at] == "," and depth == 1):
            value = text[begin:at].lstrip(" ")
            if depth or value or argument.values:
                argument.values.append(value)
            begin = at + 1
        if depth == 0:
            return at + 1
    raise DirectiveError(f"parenthesis not closed: {text!r}")


def parse(text: str) -> tuple[list[Directive], str]:
    """All directives of a file, and what comes after the last one."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    directives: list[Directive] = []
    at = begin = 0
    while at < len(lines):
        stripped = lines[at].strip()
        if not stripped or stripped.startswith("#"):
            at += 1
            continue
        number = at + 1
        while stripped.endswith("\\"):
            at += 1
            stripped = stripped[:-1].rstrip() + " " + lines[at].strip()
        at += 1
        command, arguments = parse_arguments(stripped)
        start = at
        while at < len(lines) and lines[at] != SEPARATOR:
            at += 1
        if at == len(lines):
            raise DirectiveError(f"line {number}: no {SEPARATOR} behind {stripped!r}")
        taken = "\n".join(lines[start:at]).strip()
        before = "".join(f"{line}\n" for line in lines[begin:at])
        at += 1
        expected, at = _parse_expected(lines, at)
        directives.append(Directive(number, command, arguments, taken, expected, before))
        begin = at
    return directives, "".join(f"{line}\n" for line in lines[begin:])


def _parse_expected(lines: list[str], at: int) -> tuple[str, int]:
    if lines[at : at + 1] == [SEPARATOR]:
        start = at = at + 1
        while lines[at : at + 2] != [SEPARATOR, SEPARATOR]:
            if at >= len(lines):
                raise DirectiveError(f"line {start}: output block not closed")
            at += 1
        end, at = at, at + 2
        at += lines[at : at + 1] == [""]
    else:
        start = at
        while at < len(lines) and lines[at].strip():
            at += 1
        end = at
        at += at < len(lines)
    return "".join(f"{line}\n" for line in lines[start:end]), at


def format_directive(directive: Directive, output: str) -> str:
    """The directive with this output, as it stands in a file."""
    if "\n\n" in output or output.startswith("\n"):
        block = f"{SEPARATOR}\n{SEPARATOR}\n{output}{SEPARATOR}\n{SEPARATOR}\n"
    else:
        block = f"{SEPARATOR}\n{output}"
    return f"{directive.before}{block}\n"


def run_file(path: Path, handler: Handler, *, rewrite: bool = False) -> int:
    """Run a file; the number of directives.

    Raises AssertionError with a diff at the first output that is not as expected, unless `rewrite`
    is given: then the file gets the actual output.
    """
    directives, rest = parse(path.read_text(encoding="utf-8"))
    assert directives, f"{path} has no directives"
    rewritten = ""
    for directive in directives:
        output = handler(directive)
        if output and not output.endswith("\n"):
            output += "\n"
        if rewrite:
            rewritten += format_directive(directive, output)
        elif output != directive.expected:
            diff = difflib.unified_diff(
                directive.expected.splitlines(keepends=True),
                output.splitlines(keepends=True),
                "expected",
                "actual",
            )
            raise AssertionError(
                f"{path.name}:{directive.line}: {directive.command}\n" + "".join(diff)
            )
    if rewrite:
        path.write_text((rewritten + rest).rstrip("\n") + "\n", encoding="utf-8")
    return len(directives)
