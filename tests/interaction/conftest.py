"""Refuses to rewrite what is not ours."""

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    directory: Path = config.getoption("--datadir").resolve()
    if not config.getoption("--rewrite"):
        return
    shared = REPOSITORY.parent / "shared"
    if (directory / "SHA256SUMS").exists() or directory.is_relative_to(shared):
        raise pytest.UsageError(f"--rewrite: {directory} is not to be changed")
