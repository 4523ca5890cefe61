"""A damaged directory and a peer's admin API: what is put right, and from whom it is taken."""

import base64
from pathlib import Path

import pytest

from kingbus.cli.main import invoke
from kingbus.daemon.repair import RepairRefusedError, repaired
from kingbus.storage.log import LogStore
from tests.damage.history import made
from tests.damage.member import IDENTITY, Machine, Promised, live, look
from tests.damage.places import copy

HISTORY = made(files=3, size=4000)


class Peer:
    """The two routes that a repair asks."""

    url = "http://peer"

    def __init__(self, path: Path) -> None:
        self.log = LogStore.open_for_reading(path / "log")
        self.cluster_id = IDENTITY.cluster_id
        self.asked = 0

    def ask(self, method: str, path: str, body: object = None, *, seconds: float = 0) -> object:
        if (method, path) == ("GET", "/status"):
            return {"cluster_id": f"{self.cluster_id:x}"}
        assert (method, path) == ("POST", "/storage/entries")
        assert isinstance(body, dict)
        self.asked += 1
        found = self.log.read(body["from_index"], body["to_index"] + 1, 10_000)
        return [
            {
                "index": each.index,
                "term": each.term,
                "type": int(each.type),
                "data": base64.b64encode(each.data).decode(),
            }
            for each in found
        ]


@pytest.fixture
def promised(tmp_path):
    found = Promised()
    live(Machine(tmp_path / "whole"), HISTORY, found)
    return found


@pytest.fixture
def peer(tmp_path, promised):
    made_peer = Peer(copy(tmp_path / "whole", tmp_path / "peer"))
    yield made_peer
    made_peer.log.close()


def closed_segment(path):
    segments = sorted((path / "log").glob("*-*.segment"))
    assert len(segments) >= 3
    return segments[1]


def test_a_damaged_member_is_as_before(tmp_path, promised, peer, capsys):
    """verify names the place, repair puts it right, verify and a start find all of it."""
    path = tmp_path / "whole"
    segment = closed_segment(path)
    data = bytearray(segment.read_bytes())
    data[3000:5000] = bytes(2000)
    segment.write_bytes(data)
    assert invoke(["storage", "verify", "--data-dir", str(path)]) == 1
    told = capsys.readouterr().err
    assert f"{segment}: corrupt at byte" in told
    assert "kingbus storage repair" in told

    (line,) = repaired(path, peer)

    assert str(segment) in line
    assert "entries from http://peer" in line
    assert invoke(["storage", "verify", "--data-dir", str(path)]) == 0
    assert "the database is what the log makes of it" in capsys.readouterr().out
    assert look(Machine(path), HISTORY, promised).outcome == "up"
    assert list(repaired(path, peer)) == []


def test_a_damaged_database_is_made_anew(tmp_path, promised, peer, capsys):
    """Put aside, as long as the log goes back to its beginning."""
    path = tmp_path / "whole"
    for table in [*(path / "state").glob("*.log"), *(path / "state").glob("*.sst")]:
        data = bytearray(table.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        table.write_bytes(data)
    (path / "state" / "CURRENT").write_text("nonsense\n")
    assert invoke(["storage", "verify", "--data-dir", str(path)]) == 1
    assert str(path / "state") in capsys.readouterr().err

    (line,) = repaired(path, peer)

    assert "put aside as state.damaged-1" in line
    assert not peer.asked
    assert look(Machine(path), HISTORY, promised).outcome == "up"
    assert list(repaired(path, peer)) == []


def test_a_peer_of_another_cluster_is_not_asked(tmp_path, peer):
    """Its entries would be of another log."""
    peer.cluster_id = 5

    with pytest.raises(RepairRefusedError, match="to 5"):
        list(repaired(tmp_path / "whole", peer))
    assert not peer.asked
