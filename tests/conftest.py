"""Options of the whole suite."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("raft interaction files")
    group.addoption(
        "--datadir",
        type=Path,
        default=REPOSITORY.parent / "shared" / "etcd-raft-testdata",
        help="directory with the folders interaction, confchange and quorum (default: %(default)s)",
    )
    group.addoption(
        "--rewrite",
        action="store_true",
        help="write the actual output into the files; refused for a directory with SHA256SUMS",
    )
    group = parser.getgroup("captured dialogs")
    group.addoption(
        "--wire",
        type=Path,
        default=REPOSITORY.parent / "shared" / "wire",
        help="directory with the dialogs as NAME.jsonl (default: %(default)s)",
    )
