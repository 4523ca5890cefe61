"""The processes that share the runs of both layers."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.seeds import pool


@pytest.fixture(scope="session")
def runner() -> Iterator[ProcessPoolExecutor]:
    with pool() as processes:
        yield processes
