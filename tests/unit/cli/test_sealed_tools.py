"""Tools for a stopped node, on a log that is sealed."""

from pathlib import Path

import pytest

from kingbus.cli.file_sources import DirectoryFiles
from kingbus.cli.main import invoke
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import AtRest, RestKey
from kingbus.storage.errors import SealedLogError
from tests.support.lost_majority import Machine

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def secret(tmp_path: Path) -> ClusterSecret:
    """The key; it lies in the file `key`."""
    found = ClusterSecret.generate()
    found.store(tmp_path / "key")
    return found


@pytest.fixture
def machine(tmp_path: Path, secret: ClusterSecret) -> Machine:
    """A stopped member whose log is sealed."""
    return Machine(tmp_path / "data", real=True, form=AtRest(key=RestKey.of(secret)))


def names(machine: Machine) -> list[str]:
    return sorted(path.name for path in machine.log_path.glob("*-*.segment"))


def test_recover_opens_a_sealed_log(
    tmp_path: Path, secret: ClusterSecret, machine: Machine, capsys: Captured
) -> None:
    """Without the key nothing is changed. No segment is begun: there may be no room for one."""
    words = ["storage", "recover", "--force-new-cluster", "--data-dir", str(tmp_path / "data")]
    words += ["--yes-i-am", "a"]
    before, segments = machine.examine(), names(machine)
    assert invoke(words) == 1
    assert f"is sealed with cluster key {secret.key_id}" in capsys.readouterr().err
    assert machine.examine() == before

    assert invoke([*words, "--cluster-key-file", str(tmp_path / "key")]) == 0

    assert machine.examine().is_alone
    assert names(machine) == segments


def test_the_key_of_the_directory_opens_it_too(
    tmp_path: Path, secret: ClusterSecret, machine: Machine, capsys: Captured
) -> None:
    """Where a leader made it, nobody has to name it; without it the database is not judged."""
    verify = ["storage", "verify", "--data-dir", str(tmp_path / "data")]
    assert invoke(verify) == 0
    told = capsys.readouterr().out
    assert "the database was not checked" in told
    assert f"is sealed with cluster key {secret.key_id}" in told

    secret.store(tmp_path / "data" / "cluster.key")

    assert invoke(verify) == 0
    assert "the database is what the log makes of it, up to index 4" in capsys.readouterr().out


def test_an_export_opens_it_also_after_a_recovery(
    tmp_path: Path, machine: Machine, capsys: Captured
) -> None:
    """Segments are then of two clusters."""
    data, key = tmp_path / "data", tmp_path / "key"
    with pytest.raises(SealedLogError), DirectoryFiles(data):
        pass
    words = ["storage", "recover", "--force-new-cluster", "--data-dir", str(data)]
    assert invoke([*words, "--yes-i-am", "a", "--cluster-key-file", str(key)]) == 0
    with DirectoryFiles(data, key) as source:
        assert source.files() == []
    assert invoke(["binlog", "export", "--to", str(tmp_path), "--cluster-key-file", str(key)]) == 2
    assert "--data-dir" in capsys.readouterr().err
