"""Passwords and tokens of a configuration."""

from pathlib import Path

import pytest

from kingbus import config
from kingbus.credentials import read_credentials
from kingbus.daemon import options_of
from kingbus.errors import ConfigError
from tests.support.certificates import certificate

SOURCE, SERVER = "KINGBUS_SOURCE_PASSWORD", "KINGBUS_SERVER_PASSWORD"


def parsed(**more: object) -> config.Config:
    sections = {key.replace("_", "-"): value for key, value in more.items()}
    return config.parse({"name": "n", "peer-url": "http://h:1", "data-dir": "d"} | sections)


def test_a_file_wins_over_the_environment_and_may_be_empty(tmp_path: Path) -> None:
    """The variable stands for a file that is not named; an empty password is one."""
    file = tmp_path / "password"
    file.write_text("\n")
    source = {"addr": "h:1", "user": "u"}
    server = {"addr": "127.0.0.1:3390", "user": "r"}

    found, problems = read_credentials(
        parsed(source=source | {"password-file": str(file)}, server=server),
        {SOURCE: "x", SERVER: "y"},
    )

    assert problems == []
    assert found.source_password is not None
    assert found.source_password.reveal() == ""
    assert found.server_password is not None
    assert found.server_password.reveal() == "y"
    assert (found.token, found.read_token) == (None, None)


def test_a_start_tells_every_problem_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be read does not hide a password that is missing elsewhere."""
    monkeypatch.delenv(SERVER, raising=False)
    empty = tmp_path / "empty"
    empty.write_text("")
    wanted = parsed(
        source={"addr": "h:1", "user": "u", "password-file": str(tmp_path / "none")},
        server={"addr": "127.0.0.1:3390", "user": "r"},
        auth={"token-file": str(empty), "read-token-file": str(tmp_path / "none")},
    )

    with pytest.raises(ConfigError) as caught:
        options_of(wanted)

    assert [problem.key for problem in caught.value.problems] == [
        "source.password-file",
        "server.password-file",
        "auth.token-file",
        "auth.read-token-file",
    ]


def test_the_keys_of_an_archive(tmp_path: Path) -> None:
    """From files or the environment; both are needed for a store, none for a directory."""
    file = tmp_path / "access"
    file.write_text("access\n")
    archive = {"to": "s3://bucket/place", "access-key-file": str(file)}
    _, problems = read_credentials(parsed(archive=archive), {})
    assert [problem.key for problem in problems] == ["archive.secret-key-file"]
    assert "KINGBUS_ARCHIVE_SECRET_KEY" in problems[0].message
    environment = {"KINGBUS_ARCHIVE_ACCESS_KEY": "other", "KINGBUS_ARCHIVE_SECRET_KEY": "secret"}
    found, problems = read_credentials(parsed(archive=archive), environment)
    assert problems == []
    assert found.archive_access_key is not None
    assert found.archive_access_key.reveal() == "access"
    assert found.archive_secret_key is not None
    assert found.archive_secret_key.reveal() == "secret"
    _, problems = read_credentials(parsed(archive={"to": "/mnt/archive"}), {})
    assert problems == []


def test_the_certificate_that_replicas_see(tmp_path: Path) -> None:
    """It is loaded with its key; what may be wrong with the two is told, with the file."""
    cert, key = certificate(tmp_path)
    other = tmp_path / "other"
    sealed = tmp_path / "sealed"
    for directory, passphrase in ((other, b""), (sealed, b"hunter2")):
        directory.mkdir()
        certificate(directory, passphrase)

    def told(cert: Path, key: Path) -> list[tuple[str, str]]:
        wanted = parsed(tls={"server": {"cert": str(cert), "key": str(key)}})
        found, problems = read_credentials(wanted, {})
        assert (found.server_tls is None) == bool(problems)
        return [(problem.key, problem.message) for problem in problems]

    assert told(cert, key) == []
    (missing,) = told(cert, tmp_path / "none")
    assert missing == ("tls.server.key", f"{tmp_path / 'none'}: No such file or directory")
    (mixed,) = told(cert, other / "key.pem")
    assert mixed == (
        "tls.server",
        f"{cert} and {other / 'key.pem'} are no certificate and its key",
    )
    ((where, why),) = told(sealed / "certificate.pem", sealed / "key.pem")
    assert where == "tls.server.key"
    assert "passphrase" in why
