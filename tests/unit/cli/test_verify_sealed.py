"""`kingbus storage verify` of a log that is sealed."""

import json
from pathlib import Path

import pytest

from kingbus.cli.main import invoke
from kingbus.raft.types import Entry, EntryType
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import AtRest, RestKey
from kingbus.storage.directory import DataDirectory
from kingbus.storage.log import LogStore, LogWrite

TEXT = b"a row of a table; " * 100


def test_verify_opens_what_it_has_the_key_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the key it says how much it did not open; with another's as well; neither fails."""
    secret, other = ClusterSecret.generate(), ClusterSecret.generate()
    for name, each in (("right", secret), ("wrong", other)):
        each.store(tmp_path / name)
    with DataDirectory.open_or_create(tmp_path / "data") as directory:
        log = LogStore.open(
            directory.log_path,
            segment_bytes=64 << 10,
            reserve_bytes=1 << 20,
            at_rest=AtRest(level=1, key=RestKey.of(secret)),
        )
        entries = [Entry(1, index, EntryType.NORMAL, TEXT) for index in (1, 2, 3)]
        log.write(LogWrite(entries=entries))
        log.close()
    verify = ["storage", "verify", "--data-dir", str(tmp_path / "data")]

    assert invoke(verify) == 0
    assert "3 of them are sealed and were not opened" in capsys.readouterr().out
    for name, unopened in (("wrong", 3), ("right", 0)):
        assert invoke([*verify, "--json", "--cluster-key-file", str(tmp_path / name)]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["entries"], facts["unopened_entries"]) == (3, unopened)
    assert invoke([*verify, "--cluster-key-file", str(tmp_path / "none")]) == 1
    assert "none: No such file" in capsys.readouterr().err
