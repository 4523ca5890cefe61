"""Durations, times and sizes as people write them in configuration files."""

import re
from datetime import UTC, datetime

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `100ms`, `1s` or `1m30s`.

    Raises ValueError when the text is not a duration; a bare number is not one.
    """
    total, end = 0.0, 0
    for match in _DURATION.finditer(text.strip()):
        if match.start() != end:
            break
        total += float(match[1]) * _SECONDS[match[2]]
        end = match.end()
    if end == 0 or end != len(text.strip()):
        raise ValueError("not a duration; write it like 100ms, 1s or 1m30s")
    return total


def format_duration(seconds: float) -> str:
    """The shortest form of a duration that `parse_duration` reads back."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"


def parse_size(text: str | float, *, bare_unit: int = 1) -> int:
    """Bytes of a size such as `500MB`, `20GB` or `64MiB`.

    All units are powers of 1024, as MySQL's size options are. A bare number counts `bare_unit`
    bytes. Raises ValueError when the text is not a size.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return int(text * bare_unit)
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("not a size; write it like 500MB or 20GB")
    number, letter, _ = match.groups()
    if str(text).strip().replace(".", "", 1).isdigit():
        return int(float(number) * bare_unit)
    return int(float(number) * 1024 ** _POWER[letter.upper()])


def parse_time(text: str) -> float:
    """Seconds since 1970 of `2026-11-21T16:00:00Z` or `2026-11-21 16:00:00`; without zone UTC.

    Raises ValueError when the text is no such time.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("not a time; write it like 2026-11-21 16:00:00 (UTC)") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
