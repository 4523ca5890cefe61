"""Comparing values as MySQL does, as far as statements to a source need it.

Owns: truth, the comparison operators with NULL, and LIKE. Knows nothing of where values come from.
Follows the manual's "Comparison Functions and Operators": text compares without case, a number
compares with text as a number, and what involves NULL is NULL.
"""

import re

from kingbus.mysql.errors import not_supported
from kingbus.mysql.resultset import Value

LIKE_STEPS_MAX = 1 << 20
"""A quarter of a second; names of variables and patterns for them are far below."""


def truth(value: Value) -> bool:
    """Whether a value counts as true; NULL, 0 and text that is no number do not."""
    return bool(_number(value)) if value is not None else False


def _number(value: Value) -> float:
    if isinstance(value, int):
        return value
    match = re.match(r"\s*([+-]?\d+(?:\.\d*)?)", value or "")
    return float(match[1]) if match is not None else 0.0


def _like_letters(pattern: str) -> list[str]:
    """The pattern's letters; wildcards as "%" and "_", and every other letter lower, after "="."""
    letters, index = [], 0
    while index < len(pattern):
        letter = pattern[index]
        if letter == "\\" and index + 1 < len(pattern):
            index += 1
            letters.append("=" + pattern[index].lower())
        elif letter in "%_":
            letters.append(letter)
        else:
            letters.append("=" + letter.lower())
        index += 1
    return letters


def matches_like(pattern: str, text: str) -> bool:
    """LIKE, without case: % is any run, _ any one letter, a backslash takes the next as it is.

    Goes back only to the last %, so that no pattern takes more than pattern times text steps.
    Raises error 1235 where that would be too many for the event loop.
    """
    if len(pattern) * len(text) > LIKE_STEPS_MAX:
        raise not_supported("LIKE on texts of this length")
    letters, text = _like_letters(pattern), text.lower()
    at, position, run, run_position = 0, 0, -1, 0
    while position < len(text):
        if at < len(letters) and letters[at] in {"_", "=" + text[position]}:
            at, position = at + 1, position + 1
        elif at < len(letters) and letters[at] == "%":
            run, run_position = at, position
            at += 1
        elif run >= 0:
            run_position += 1
            at, position = run + 1, run_position
        else:
            return False
    return all(letter == "%" for letter in letters[at:])


def _order(left: Value, right: Value) -> int:
    """-1, 0 or 1; neither is None."""
    if isinstance(left, str) and isinstance(right, str):
        first, second = left.lower(), right.lower()
        return (first > second) - (first < second)
    low, high = _number(left), _number(right)
    return (low > high) - (low < high)


def compare(operator: str, values: list[Value]) -> Value:
    """The result of an operation: 1, 0 or None for NULL."""
    match operator:
        case "or":
            if any(truth(value) for value in values):
                return 1
            return None if None in values else 0
        case "and":
            if any(value is not None and not truth(value) for value in values):
                return 0
            return None if None in values else 1
        case "xor":
            return None if None in values else sum(map(truth, values)) % 2
        case "not":
            return None if values[0] is None else int(not truth(values[0]))
        case "<=>":
            left, right = values
            if left is None or right is None:
                return int(left is right)
            return int(_order(left, right) == 0)
    if values[0] is None:
        return None
    if operator == "in":
        first, *others = values
        if any(other is not None and _order(first, other) == 0 for other in others):
            return 1
        return None if None in others else 0
    left, right = values
    if left is None or right is None:
        return None
    if operator == "like":
        return int(matches_like(str(right), str(left)))
    order = _order(left, right)
    return int(
        {
            "=": order == 0,
            "<>": order != 0,
            "!=": order != 0,
            "<": order < 0,
            "<=": order <= 0,
            ">": order > 0,
            ">=": order >= 0,
        }[operator]
    )
