"""etcd's data files for Raft, unmodified, and our own in the same format.

The directory is given with --datadir. KINGBUS_REQUIRE_RAFT_DATA=1 makes a missing one an error. Own
scenarios are rewritten with `--rewrite --datadir tests/interaction/kingbus`.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interaction.confchange_files import ConfChangeFile
from tests.interaction.datadriven import Handler, run_file
from tests.interaction.environment import Environment
from tests.interaction.quorum_files import QuorumFile

HANDLERS: dict[str, Callable[[], Handler]] = {
    "interaction": Environment,
    "confchange": ConfChangeFile,
    "quorum": QuorumFile,
}
OWN_FILES = Path(__file__).resolve().parent / "kingbus"
CHECKSUMS = "SHA256SUMS"


def listed_checksums(directory: Path) -> dict[str, str]:
    """Path within the directory -> SHA-256, of the files that its list names."""
    path = directory / CHECKSUMS
    if not path.is_file():
        return {}
    pairs = (line.split(maxsplit=1) for line in path.read_text("utf-8").splitlines() if line)
    return {name.lstrip("*"): digest for digest, name in pairs}


def data_files(directory: Path) -> list[str]:
    """Every data file that is there or listed."""
    found = {
        f"{folder}/{path.name}"
        for folder in HANDLERS
        for path in (directory / folder).glob("*.txt")
    }
    return sorted(found | set(listed_checksums(directory)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    directory: Path = metafunc.config.getoption("--datadir").resolve()
    if "data_file" in metafunc.fixturenames:
        names = data_files(directory)
        if not names and directory == OWN_FILES:
            names_or_none: list[str | None] = []
        else:
            names_or_none = list(names) or [None]
        metafunc.parametrize("data_file", names_or_none, ids=lambda name: name or "missing")
    if "own_file" in metafunc.fixturenames:
        own = sorted(path.name for path in OWN_FILES.glob("*.txt"))
        metafunc.parametrize("own_file", own)


@pytest.fixture
def datadir(pytestconfig: pytest.Config) -> Path:
    directory: Path = pytestconfig.getoption("--datadir")
    return directory.resolve()


@pytest.fixture
def rewrite(pytestconfig: pytest.Config) -> bool:
    value: bool = pytestconfig.getoption("--rewrite")
    return value


def test_data_file(datadir: Path, data_file: str | None, rewrite: bool) -> None:
    """The core prints exactly what the file expects."""
    if data_file is None:
        message = f"no Raft data files in {datadir} (choose with --datadir)"
        if os.environ.get("KINGBUS_REQUIRE_RAFT_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    path = datadir / data_file
    assert path.is_file(), f"{path} is listed in {CHECKSUMS} but missing"
    expected = listed_checksums(datadir).get(data_file)
    if expected is not None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == expected, f"{path} is not the file that {CHECKSUMS} lists"
    make_handler = HANDLERS.get(data_file.split("/")[0])
    if make_handler is not None:  # a license may be listed as well
        run_file(path, make_handler(), rewrite=rewrite)


def test_own_file(own_file: str, rewrite: bool) -> None:
    """The core does in our own scenarios what they say."""
    run_file(OWN_FILES / own_file, Environment(), rewrite=rewrite)
