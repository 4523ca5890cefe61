"""The captured dialogs, read once."""

from pathlib import Path

import pytest

from tests.wire.replay import Captures

MISSING = "no captured dialogs: {} is not there (--wire names another directory)"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dialog" not in metafunc.fixturenames:
        return
    directory: Path = metafunc.config.getoption("--wire")
    names = sorted(path.stem for path in directory.glob("*.jsonl"))
    skip = pytest.mark.skip(reason=MISSING.format(directory))
    metafunc.parametrize("dialog", names or [pytest.param("missing", marks=skip)])


@pytest.fixture(scope="session")
def captures(request: pytest.FixtureRequest) -> Captures:
    """All of them."""
    directory: Path = request.config.getoption("--wire")
    if not directory.is_dir():
        pytest.skip(MISSING.format(directory))
    return Captures.read(directory)
