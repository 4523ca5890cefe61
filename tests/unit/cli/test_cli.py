"""The commands: what they print, their exit codes, and one clear line when something is wrong."""

import json
from pathlib import Path

import pytest

from kingbus.cli.main import invoke
from kingbus.pb.command_pb2 import MemberAttributes
from kingbus.storage.at_rest import AtRestStatus
from tests.support.lost_majority import Machine
from tests.unit.admin.fakes import FakeArchive
from tests.unit.cli.conftest import RunningApi

Captured = pytest.CaptureFixture[str]


def failed(arguments: list[str], code: int, capsys: Captured) -> str:
    """The one line on stderr of a command that must fail with this code."""
    assert invoke(arguments) == code
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err
    return found.err


def test_version(capsys: Captured) -> None:
    """`--version` prints name and version."""
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kingbus ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["member", "add"],
        ["member", "add", "n3"],
        ["status", "--colour"],
        ["run"],
        ["run", "--config", "a", "--source", "b"],
        ["server", "start", "--addr", "h:1", "--user", "u"],
        ["status", "--token-file", "/nonexistent/token"],
        ["status", "--token-file", "/dev/null"],
        ["status", "--admin", "localhost"],
        ["status", "--admin", "foo:1"],
        ["status", "--admin", "http://h:port"],
        ["run", "--config", "a", "--listen", "127.0.0.1:1"],
        ["source", "set", "--addr", "h:1", "--user", ""],
        ["binlog", "purge"],
        ["binlog", "purge", "--to", "a", "--before", "2026-11-21"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: Captured) -> None:
    """What cannot be meant ends with 2 and one line."""
    failed(arguments, 2, capsys)


def test_a_password_in_the_source_url_is_refused(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would show in `ps`; the message does not repeat it."""
    monkeypatch.setenv("KINGBUS_SERVER_PASSWORD", "x")
    arguments = ["run", "--source", "mysql://u:hunter2@h:1", "--data-dir", str(tmp_path)]

    line = failed([*arguments, "--server-user", "r"], 2, capsys)
    assert "hunter2" not in line
    assert "KINGBUS_SOURCE_PASSWORD" in line


@pytest.mark.parametrize("url", ["mysql://u@h:1?x=1", "mysql://u@h:1/d", "mysql://u@h:1#f", "h:1"])
def test_what_a_source_url_cannot_say_is_refused(
    url: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not silently left out."""
    monkeypatch.setenv("KINGBUS_SERVER_PASSWORD", "x")
    arguments = ["run", "--source", url, "--data-dir", str(tmp_path), "--server-user", "r"]
    assert "must be mysql://USER@HOST:PORT" in failed(arguments, 2, capsys)


def test_a_token_that_no_header_can_carry(capsys: Captured, tmp_path: Path) -> None:
    """One line that names the file and does not show the token."""
    file = tmp_path / "token"
    file.write_text("g\u00e4heim\n", encoding="utf-8")
    line = failed(["status", "--token-file", str(file)], 2, capsys)
    assert str(file) in line
    assert "heim" not in line


def test_the_short_form_needs_user_and_password(capsys: Captured, tmp_path: Path) -> None:
    """Without both, exit 2 before anything is created."""
    arguments = ["run", "--source", "mysql://u@h:1", "--data-dir", str(tmp_path / "d")]

    assert "KINGBUS_SERVER_PASSWORD" in failed(arguments, 2, capsys)
    assert not (tmp_path / "d").exists()


def test_no_node_answers(capsys: Captured) -> None:
    """A refused connection is one line with a hint, exit code 1."""
    line = failed(["status", "--admin", "http://127.0.0.1:1"], 1, capsys)

    assert "is the node running" in line


def test_config_check(capsys: Captured, tmp_path: Path) -> None:
    """Every problem with its key on a line of its own, exit 2; a good file exits 0."""
    path = tmp_path / "kingbus.yaml"
    path.write_text("name: n1\ncolour: green\nelection-timeout: 1ms\n")

    assert invoke(["config", "check", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any("colour: unknown key (got 'green')" in line for line in lines)
    assert any("peer-url: is required" in line for line in lines)
    assert any("election-timeout" in line for line in lines)

    path.write_text("name: n1\npeer-url: http://127.0.0.1:1\ndata-dir: d\n")
    assert invoke(["config", "check", str(path)]) == 0
    assert "no problems" in capsys.readouterr().out

    path.write_text("name: n1\npeer-url: http://0.0.0.0:1\ndata-dir: d\n")
    assert invoke(["config", "check", str(path)]) == 2
    assert invoke(["config", "check", "--join", str(path)]) == 0


def test_config_check_finds_what_a_start_would(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets that are missing, empty or malformed, beside what is wrong with the keys."""
    monkeypatch.delenv("KINGBUS_SERVER_PASSWORD", raising=False)
    path, empty, sound = tmp_path / "kingbus.yaml", tmp_path / "empty", tmp_path / "sound"
    empty.write_text("\n")
    sound.write_text("secret\n")
    start = "name: n1\npeer-url: http://127.0.0.1:1\ndata-dir: d\n"

    def complaints(text: str) -> dict[str, str]:
        path.write_text(text)
        code = invoke(["config", "check", str(path)])
        told = capsys.readouterr()
        lines = told.err.splitlines()
        assert code == (2 if lines else 0), told
        if lines:
            assert f"{len(lines) - 1} problem" in lines.pop()
        lines = [line.removeprefix(f"{path}: ") for line in lines]
        return {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}

    server = "server: {addr: '127.0.0.1:3390', user: r}\n"
    assert complaints(start + "colour: green\n" + server).keys() == {
        "colour",
        "server.password-file",
    }
    monkeypatch.setenv("KINGBUS_SERVER_PASSWORD", "x")
    assert complaints(start + server) == {}
    keys = {
        "auth": f"{{token-file: {empty}, read-token-file: {tmp_path}/none}}",
        "cluster-key-file": f"{sound}",
        "source": f"{{addr: 'h:1', user: u, password-file: {tmp_path}/none}}",
        "server": f"{{addr: '127.0.0.1:3390', user: r, password-file: {tmp_path}}}",
    }
    found = complaints(start + "".join(f"{key}: {value}\n" for key, value in keys.items()))
    assert found.keys() == {
        *("auth.token-file", "auth.read-token-file", "cluster-key-file"),
        *("source.password-file", "server.password-file"),
    }
    assert "is empty" in found["auth.token-file"]
    assert "secret" not in str(found.values()).replace(str(sound), "")
    assert complaints(start + f"auth: {{token-file: {sound}}}\n") == {}


def test_status_shows_the_cluster(api: RunningApi, capsys: Captured) -> None:
    """Members with their roles, source and listener; `--json` has the same facts."""
    assert invoke(["status"]) == 0
    text = capsys.readouterr().out
    assert "n1" in text
    assert "leader" in text
    assert "listener stopped" in text
    api.pair.at_rest = AtRestStatus(
        level=3,
        key_id="5eed",
        data_bytes=400,
        stored_bytes=100,
        segments=3,
        transformed_segments=2,
        sealed_segments=1,
    )
    assert invoke(["status"]) == 0
    text = capsys.readouterr().out
    assert "zstd level 3, sealed with cluster-key 5eed, 100 bytes stored for 400 (x 0.25)" in text
    assert "of 3 segments 2 transformed, 1 sealed" in text

    assert invoke(["status", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [member["name"] for member in facts["cluster"]] == ["n1", "n2"]
    assert facts["source"]["status"] == "stopped"


def test_status_without_a_leader_still_shows_this_node(api: RunningApi, capsys: Captured) -> None:
    """What the leader alone knows is told as missing."""
    api.pair.shared.leader_id = 0

    assert invoke(["status"]) == 0
    assert "no leader" in capsys.readouterr().out


def test_members(api: RunningApi, capsys: Captured) -> None:
    """Add, update, promote, remove, list and transfer go to the API and print the members."""
    add = ["member", "add", "n3", "--peer-url", "http://127.0.0.1:5003", "--learner"]
    assert invoke(add) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[0]: line[2] for line in table[1:]} == {
        "n1": "leader",
        "n2": "voter",
        "n3": "learner",
    }
    assert "exists already" in failed(add, 1, capsys)
    assert invoke(["member", "update", "n3", "--peer-url", "http://127.0.0.1:6003"]) == 0
    assert "6003" in capsys.readouterr().out
    assert invoke(["member", "promote", "n3"]) == 0
    assert "learner" not in capsys.readouterr().out
    assert invoke(["member", "remove", "n3"]) == 0
    assert "n3" not in capsys.readouterr().out
    replace = ["member", "replace", "n2"]
    assert "is unknown" in failed([*replace, "n4"], 1, capsys)
    assert invoke([*replace, "n4", "--peer-url", "http://127.0.0.1:5004"]) == 0
    assert "5004" in capsys.readouterr().out
    assert invoke(["member", "replace", "n4", "n2", "--peer-url", "http://127.0.0.1:5002"]) == 0
    capsys.readouterr()
    assert invoke(["member", "list", "--json"]) == 0
    assert [member["name"] for member in json.loads(capsys.readouterr().out)] == ["n1", "n2"]
    assert invoke(["member", "transfer-leader", "n2"]) == 0
    assert capsys.readouterr().out == "n2 leads\n"


def test_source(
    api: RunningApi, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`set` stores, its password from a file or the environment; start, stop, status follow."""
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    set_source = ["source", "set", "--addr", "10.0.0.9:3306,10.0.0.8:3306", "--user", "repl"]

    assert invoke([*set_source, "--password-file", str(password)]) == 0
    config = api.pair.shared.state.source_config
    assert config is not None
    assert list(config.addresses) == ["10.0.0.9:3306", "10.0.0.8:3306"]
    assert not config.started
    assert invoke(["source", "start"]) == 0
    assert api.pair.n1.receiver.checked == [("10.0.0.9:3306", "hunter2")]
    assert "started" in failed(set_source, 1, capsys)
    assert invoke(["source", "stop"]) == 0
    monkeypatch.setenv("KINGBUS_SOURCE_PASSWORD", "hunter3")
    assert invoke([*set_source, "--server-id", "9", "--start-from", "now"]) == 0
    assert invoke([*set_source, "--mode", "position", "--compression", "zlib"]) == 0
    config = api.pair.shared.state.source_config
    assert config is not None
    assert (config.start_from, config.mode, config.compression) == ("earliest", "position", "zlib")
    assert config.flavor == "mysql"
    assert "mode" in failed([*set_source, "--mode", "file"], 1, capsys)
    of_mariadb = ["--mode", "gtid", "--flavor", "mariadb", "--start-from", "0-1-5"]
    assert invoke([*set_source, *of_mariadb]) == 0
    assert invoke(set_source) == 0, "what is not said stays"
    assert api.pair.shared.state.source_config.flavor == "mariadb"
    assert api.pair.shared.state.source_config.start_from == "0-1-5"
    assert invoke(["source", "status"]) == 0
    text = capsys.readouterr().out
    assert "10.0.0.9:3306" in text
    assert "hunter" not in text
    api.pair.n1.receiver.refusal = "Access denied for user 'repl'@'x'"
    assert "Access denied for user 'repl'@'x'" in failed(["source", "start"], 1, capsys)
    assert api.pair.n1.receiver.checked[-1] == ("10.0.0.9:3306", "hunter3")


def test_server_and_files(
    api: RunningApi, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener of the node asked; the list of files."""
    monkeypatch.setenv("KINGBUS_SERVER_PASSWORD", "hunter2")
    start = ["server", "start", "--addr", "127.0.0.1:3390", "--user", "relay"]
    assert invoke(start) == 0
    assert api.pair.n2.listener.is_running
    assert invoke(["server", "status"]) == 0
    assert "running" in capsys.readouterr().out
    api.pair.n2.listener.taken.add("127.0.0.1:3390")
    line = failed(start, 1, capsys)
    assert "listen on 127.0.0.1:3390: address already in use" in line
    assert invoke(["server", "stop"]) == 0
    assert invoke(["binlog", "list"]) == 0
    assert capsys.readouterr().out.startswith("FILE")
    assert invoke(["binlog", "events", "binlog.000001", "--from", "14", "--limit", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["14", "Xid", "1", "24", "COMMIT"]
    assert "no such file" in failed(["binlog", "events", "nothing"], 1, capsys)


def test_purge(api: RunningApi, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a file or before a time; what is left is listed. A user may, if told so."""
    purger = api.pair.n1.purger
    purger.held = {"binlog.000002"}
    assert invoke(["binlog", "purge", "--to", "binlog.000002"]) == 0
    assert capsys.readouterr().out.startswith("FILE")
    assert invoke(["binlog", "purge", "--before", "1970-01-01 00:01:00", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert purger.asked == ["binlog.000002", 60.0]
    assert "no such file" in failed(["binlog", "purge", "--to", "x"], 1, capsys)
    assert "not a time" in failed(["binlog", "purge", "--before", "x"], 1, capsys)

    monkeypatch.setenv("KINGBUS_SERVER_PASSWORD", "hunter2")
    start = ["server", "start", "--addr", "127.0.0.1:3390", "--user", "relay", "--admin-user"]
    assert invoke(start) == 0
    (user,) = api.pair.shared.state.servers[api.pair.n2.node.id].users
    assert list(user.rights) == ["replication", "admin"]


def test_a_small_reserve_is_warned_of(api: RunningApi, capsys: Captured) -> None:
    """On stderr; the source is stored all the same."""
    node = api.pair.n1.node
    api.pair.shared.state.members[node.id] = MemberAttributes(
        member_id=node.id, reserve_bytes=1 << 30
    )
    api.pair.n1.receiver.binlog_size = 1 << 30
    assert invoke(["source", "set", "--addr", "h:1", "--user", "u"]) == 0
    warned = capsys.readouterr().err
    assert warned.startswith("kingbus: warning: reserve-data-size (1073741824) is less than 3 x")
    assert api.pair.shared.state.source_config is not None


def test_archive(api: RunningApi, capsys: Captured) -> None:
    """Where none is configured that is said; else what the node asked knows of it."""
    assert invoke(["archive", "status"]) == 0
    assert capsys.readouterr().out == "no archive is configured\n"
    assert invoke(["status"]) == 0
    assert "ARCHIVE" not in capsys.readouterr().out
    api.pair.n2.operations._archive = FakeArchive()
    assert invoke(["archive", "status"]) == 0
    assert "s3://bucket/one/" in capsys.readouterr().out
    assert invoke(["archive", "list"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.startswith("FILE")
    assert row.split()[:1] == ["binlog.000001"]
    assert invoke(["status"]) == 0
    assert "\nARCHIVE\ntarget" in capsys.readouterr().out


def test_export_from_an_empty_log(api: RunningApi, capsys: Captured, tmp_path: Path) -> None:
    """Nothing is written, and a file that is not there is named; so is a set that is none."""
    to = ["binlog", "export", "--to", str(tmp_path / "files")]
    assert invoke([*to, "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert "binlog.000007 is not held" in failed([*to, "--from", "binlog.000007"], 1, capsys)
    assert "--gtid" in failed([*to, "--gtid", "nonsense"], 2, capsys)
    assert "not a data directory" in failed([*to, "--data-dir", str(tmp_path)], 1, capsys)


def test_the_token_of_a_file_is_sent(capsys: Captured, tmp_path: Path) -> None:
    """Without it the API refuses; the token is in no output."""
    token = tmp_path / "token"
    token.write_text("hunter2\n")
    with RunningApi(token="hunter2") as api:
        assert "bearer token" in failed(["status", "--admin", api.url], 1, capsys)
        assert invoke(["status", "--admin", api.url, "--token-file", str(token)]) == 0
        assert "hunter2" not in capsys.readouterr().out


def test_recover_asks_for_the_name(capsys: Captured, tmp_path: Path) -> None:
    """Without the flag, without a terminal, with another name: refused, and nothing is changed."""
    words = ["storage", "recover", "--data-dir", str(tmp_path)]
    assert "--force-new-cluster" in failed(words, 2, capsys)
    words.append("--force-new-cluster")
    assert "not a data directory" in failed(words, 1, capsys)
    machine = Machine(tmp_path, real=True)
    before = machine.examine()

    assert invoke(words) == 2
    told = capsys.readouterr()
    assert "--yes-i-am" in told.err
    facts = dict(line.split(maxsplit=1) for line in told.out.splitlines())
    assert facts["last_index"] == "6"
    assert facts["last_term"] == "2"
    assert facts["commit_index"] == "5"
    assert "executed_gtid_set" in facts
    assert invoke([*words, "--yes-i-am", "b"]) == 1
    assert "is 'a', not 'b'" in capsys.readouterr().err
    assert machine.examine() == before

    assert invoke([*words, "--yes-i-am", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["members"] == ["a", "b", "c"]
    assert machine.examine().is_alone
    assert "only member of its cluster already" in failed([*words, "--yes-i-am", "a"], 1, capsys)
