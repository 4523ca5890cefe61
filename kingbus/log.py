"""Structured logging: one `key=value` line per fact, to stderr or to `log-dir/kingbus.log`.

`get_logger("transport")` gives a logger bound to its layer; drivers bind `peer`, `term` and so on
themselves. Every line passes `drop_secrets`, so a value whose name looks like a password never
reaches a file, even when somebody hands it over by mistake. Standard-library loggers (hypercorn's
among them) are led through the same lines.

Built on structlog's standard-library integration
(https://www.structlog.org/en/stable/standard-library.html).
"""

import logging
import sys
from collections.abc import MutableMapping
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, cast

import structlog

# The configuration's words; `fatal` is the Go kingbus's highest level.
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_SECRET_WORDS = ("password", "passwd", "secret", "token", "private_key", "authorization")
_LINE_CHARACTERS_MAX = 8192  # a message that quotes a long GTID set must not flood the log

Logger = structlog.stdlib.BoundLogger


def get_logger(layer: str) -> Logger:
    """The logger of one layer; usable before `configure`, at import time too."""
    return cast("Logger", structlog.get_logger(f"kingbus.{layer}", layer=layer))


def drop_secrets(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: hide whatever is named like a password, nested ones too."""
    for key, found in list(event.items()):
        if _is_secret(key):
            event[key] = "***"
        elif isinstance(found, dict):
            event[key] = drop_secrets(_logger, _method, dict(found))
    return event


def _is_secret(key: str) -> bool:
    name = str(key).lower().replace("-", "_")
    return any(word in name for word in _SECRET_WORDS) and not name.endswith("_file")


def _shorten(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, found in event.items():
        if isinstance(found, str) and len(found) > _LINE_CHARACTERS_MAX:
            event[key] = f"{found[:_LINE_CHARACTERS_MAX]}... ({len(found)} characters)"
    return event


_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    drop_secrets,
    _shorten,
    structlog.processors.format_exc_info,
]


def _formatter() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "layer", "event"], drop_missing=True
            ),
        ],
    )


def configure(*, level: str = "info", directory: Path | None = None) -> None:
    """Send all logging to stderr, or to `directory/kingbus.log` (reopened when it is rotated).

    `level` is one of `LEVELS`. Raises OSError when the file cannot be opened.
    """
    handler: logging.Handler
    if directory is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        handler = WatchedFileHandler(directory / "kingbus.log", encoding="utf-8")
    handler.setFormatter(_formatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    # These speak at info about every request or connection, which is our edges' business.
    for noisy in ("httpx", "httpcore", "hypercorn.access", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, LEVELS[level]))


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


_configure_structlog()
