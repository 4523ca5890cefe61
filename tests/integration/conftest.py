"""What the integration tests share: servers and clusters that are always stopped, logs on failure.

A test's files are removed when it passes: some write gigabytes. They stay when it fails.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import servers
from tests.support.installations import MYSQL_9, MYSQL_56, Installation
from tests.support.world import World

_outcome = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Remember whether the test itself failed."""
    report = yield
    if report.failed:
        item.stash[_outcome] = True
    return report


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """An empty world."""
    made = World(directory=tmp_path, started=[])
    try:
        yield made
    finally:
        made.end()
        if request.node.stash.get(_outcome, False):
            made.show_logs()
        else:
            shutil.rmtree(tmp_path, ignore_errors=True)


_INSTALLATIONS: dict[str, Callable[[], Installation]] = {
    MYSQL_9: servers.modern,
    MYSQL_56: servers.old,
}


@pytest.fixture(params=list(_INSTALLATIONS))
def installation(request: pytest.FixtureRequest) -> Installation:
    """Each of the real servers in turn."""
    return _INSTALLATIONS[request.param]()


@pytest.fixture
def mariadb() -> Installation:
    """MariaDB."""
    return servers.mariadb()


@pytest.fixture
def modern() -> Installation:
    """MySQL 9 only, where the version does not matter."""
    return servers.modern()
