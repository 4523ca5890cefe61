"""Log lines: shape, levels, and what never stands in them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from kingbus import log


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers = []
    yield tmp_path / "kingbus.log"
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(level)


def test_a_line_is_key_value_and_hides_passwords(tmp_path: Path, log_file: Path) -> None:
    """Keys named like a password are masked, nested ones too; their neighbours are not."""
    log.configure(level="info", directory=tmp_path)
    log.get_logger("test").info(
        "source set", mysql_password="hunter2", config={"token": "hunter3"}, user="repl"
    )

    line = log_file.read_text()
    assert "hunter" not in line
    assert "user=repl" in line
    assert 'event="source set"' in line
    assert "layer=test" in line
    assert line.count("\n") == 1


def test_levels_below_the_configured_one_are_dropped(tmp_path: Path, log_file: Path) -> None:
    """`warn` drops info and keeps warnings."""
    log.configure(level="warn", directory=tmp_path)
    logger = log.get_logger("test")
    logger.info("quiet")
    logger.warning("loud")

    assert "quiet" not in log_file.read_text()
    assert "loud" in log_file.read_text()


def test_an_exception_stays_on_one_line(tmp_path: Path, log_file: Path) -> None:
    """A traceback is escaped, so that one fact is one line."""
    log.configure(level="info", directory=tmp_path)
    try:
        raise ValueError("boom")
    except ValueError:
        log.get_logger("test").exception("failed")

    assert log_file.read_text().count("\n") == 1
    assert "boom" in log_file.read_text()
