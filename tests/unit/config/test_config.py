"""The configuration file: keys of the Go kingbus, sections, and problems all at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus import config
from kingbus.addresses import Address
from kingbus.admin.schema import AddMember
from kingbus.errors import ConfigError
from kingbus.membership.errors import PeerUrlError
from kingbus.membership.member import normalize_url

MINIMAL = {"name": "n1", "peer-url": "http://127.0.0.1:5001", "data-dir": "/tmp/n1"}


def problems(**changes: object) -> dict[str, str]:
    """Key -> message of the minimal configuration with changes (`_` for `-`, None to remove)."""
    data = dict(MINIMAL) | {key.replace("_", "-"): value for key, value in changes.items()}
    try:
        config.parse({key: value for key, value in data.items() if value is not None})
    except ConfigError as error:
        return {problem.key: str(problem) for problem in error.problems}
    return {}


def test_only_a_joiner_may_have_a_wildcard_peer_url() -> None:
    """Who adds it sees where it is; the admin URL must be given all the same."""
    text = "{name: n1, data-dir: /d, peer-url: 'http://0.0.0.0:1'}"
    assert config.parse_text(text, joins=True).peer_url.address.is_wildcard
    with pytest.raises(ConfigError, match="wildcard"):
        config.parse_text(text)
    with pytest.raises(ConfigError, match="admin-url"):
        config.parse_text(text[:-1] + ", admin-url: 'http://0.0.0.0:2'}", joins=True)


def test_defaults_are_the_pinned_ones() -> None:
    """Three keys are enough; the rest has the documented defaults."""
    parsed = config.parse(MINIMAL)

    assert str(parsed.admin_url) == "http://127.0.0.1:9595"
    assert str(parsed.metrics_addr) == "127.0.0.1:2728"
    assert parsed.cluster == (("n1", ("http://127.0.0.1:5001",)),)
    assert parsed.initial_cluster_state == "new"
    assert (parsed.heartbeat_interval, parsed.election_timeout) == (0.1, 1.0)
    assert parsed.reserve_data_size == 20 << 30
    assert parsed.segment_size == 256 << 20
    assert parsed.log_dir is None
    assert parsed.log_level == "info"
    assert parsed.source is None


def test_a_file_of_the_go_kingbus_works_as_it_is(tmp_path: Path) -> None:
    """Its keys keep name and meaning: a bare reserve is in GB, an empty log-dir is stderr."""
    path = tmp_path / "kingbus.yaml"
    path.write_text(
        """
name: kingbus-1
peer-url: http://192.168.1.1:5001
admin-url: http://127.0.0.1:9595
metrics-addr: 127.0.0.1:2728
initial-cluster: kingbus-1=http://192.168.1.1:5001,kingbus-2=http://192.168.1.2:5001
initial-cluster-state: new
heartbeat-interval: 100ms
election-timeout: 1s
data-dir: ./data1
reserve-data-size: 40
log-dir: ""
log-level: fatal
"""
    )
    parsed = config.load(path)

    assert parsed.reserve_data_size == 40 << 30
    assert [name for name, _ in parsed.cluster] == ["kingbus-1", "kingbus-2"]
    assert parsed.log_dir is None
    assert parsed.data_dir == Path("data1")


def test_every_problem_is_told_at_once_with_key_and_value() -> None:
    """Field problems, unknown keys, missing keys and problems between keys stand together."""
    found = problems(
        name="a b",
        peer_url=None,
        colour="green",
        election_timeout="300ms",
        source={"addr": "nowhere", "speed": 3},
    )

    assert set(found) == {
        "name",
        "peer-url",
        "colour",
        "election-timeout",
        "source.addr",
        "source.speed",
    }
    assert "'a b'" in found["name"]
    assert "'green'" in found["colour"]


@pytest.mark.parametrize("key", ["password", "mysql-password", "api_token", "secret"])
def test_the_value_of_a_secret_is_never_shown(key: str) -> None:
    """An unknown key that is named like a secret is told without its value."""
    (message,) = problems(source={"addr": "h:1", "user": "u", key: "hunter2"}).values()

    assert "hunter2" not in message
    assert key in message


def test_a_password_in_a_url_is_never_shown() -> None:
    """It is told which key is wrong, and not what stands there."""
    found = problems(archive={"to": "s3://b", "endpoint": "http://user:hunter2@h:1"})
    assert "hunter2" not in found["archive.endpoint"]


@pytest.mark.parametrize(
    ("changes", "key", "part"),
    [
        ({"peer_url": "http://0.0.0.0:1"}, "peer-url", "wildcard"),
        ({"peer_url": "http://[::]:1"}, "peer-url", "wildcard"),
        ({"peer_url": "https://127.0.0.1:1"}, "peer-url", "not available yet"),
        ({"peer_url": "127.0.0.1:1"}, "peer-url", "http://HOST:PORT"),
        ({"peer_url": "http://127.0.0.1"}, "peer-url", "HOST:PORT"),
        ({"peer_url": "http://h:1/path"}, "peer-url", "nothing more"),
        ({"admin_url": "http://0.0.0.0:9595"}, "admin-url", "wildcard"),
        ({"admin_url": "http://h:99999"}, "admin-url", "65535"),
        ({"metrics_addr": "2728"}, "metrics-addr", "HOST:PORT"),
        ({"heartbeat_interval": 100}, "heartbeat-interval", "100ms"),
        ({"election_timeout": "499ms"}, "election-timeout", "5 x"),
        ({"reserve_data_size": "511MB"}, "reserve-data-size", "2 segments"),
        ({"reserve_data_size": "lots"}, "reserve-data-size", "size"),
        ({"reserve_data_size": True}, "reserve-data-size", "size"),
        ({"segment_size": "1KB"}, "segment-size", "greater"),
        ({"initial_cluster": "n1"}, "initial-cluster", "name=url"),
        ({"initial_cluster": "n2=http://h:1"}, "initial-cluster", "does not name this node"),
        ({"initial_cluster": "n1=http://h:1"}, "initial-cluster", "another URL"),
        ({"initial_cluster": "n1=https://h:1"}, "initial-cluster", "not available yet"),
        ({"initial_cluster": "n1=http://h:1,n2=http://h:1"}, "initial-cluster", "already"),
        ({"initial_cluster_state": "old"}, "initial-cluster-state", "'new' or 'existing'"),
        ({"log_level": "loud"}, "log-level", "one of"),
        ({"retain": {"for": "a week"}}, "retain.for", "not a duration"),
        ({"retain": {"files-min": 0}}, "retain.files-min", "greater than or equal to 1"),
        ({"reserve_overflow": "wrap"}, "reserve-overflow", "stop"),
        ({"archive": {}}, "archive.to", "is required"),
        ({"archive": {"to": "backups"}}, "archive.to", "an absolute path or s3://"),
        ({"archive": {"to": "http://h/x"}}, "archive.to", "an absolute path or s3://"),
        ({"archive": {"to": "s3:///x"}}, "archive.to", "names no bucket"),
        ({"archive": {"to": "s3://b", "endpoint": "h:9000"}}, "archive.endpoint", "http://HOST"),
        (
            {"archive": {"to": "s3://b", "endpoint": "http://user:word@h"}},
            "archive.endpoint",
            "http://HOST",
        ),
        (
            {"archive": {"to": "/mnt/x", "endpoint": "http://h:9000"}},
            "archive.endpoint",
            "s3://… in archive.to only",
        ),
        ({"archive": {"to": "/mnt/x", "compression": "gzip"}}, "archive.compression", "zstd"),
        ({"tls": {"peer": {"cert": "x"}}}, "tls.peer", "not available yet"),
        ({"tls": {"admin": {"cert": "x"}}}, "tls.admin", "not available yet"),
        ({"tls": {"server": {"cert": "x"}}}, "tls.server.key", "is required"),
        (
            {"tls": {"server": {"cert": "x", "key": "y", "require": 1}}},
            "tls.server.require",
            "bool",
        ),
        ({"source": {"user": "u"}}, "source.addr", "needed"),
        ({"source": {"addr": "h:1"}}, "source.user", "needed"),
        ({"source": {"addr": "h:1", "addrs": "h:1", "user": "u"}}, "source.addrs", "not both"),
        ({"source": {"addr": "h:1", "user": "u", "flavor": "oracle"}}, "source.flavor", "mysql"),
        ({"source": {"addr": "h:1", "user": "u", "mode": "file"}}, "source.mode", "gtid or pos"),
        (
            {"source": {"addr": "h:1", "user": "u", "compression": "x"}},
            "source.compression",
            "'zlib'",
        ),
        ({"source": {"addr": "h:1", "user": "u", "server-id": -1}}, "source.server-id", "-1"),
        ({"source": "h:1"}, "source", "section"),
        ({"server": {"addr": "h:1"}}, "server.user", "needed"),
        ({"server": {"addr": "h:0", "user": "u"}}, "server.addr", "port"),
        ({"server": {"workers": -1}}, "server.workers", "greater"),
        ({"server": {"workers": 65}}, "server.workers", "less"),
        ({"server": {"workers": "two"}}, "server.workers", "integer"),
        ({"server": {"workers": True}}, "server.workers", "integer"),
        ({"metrics_addr": "127.0.0.1:9595"}, "metrics-addr", "admin-url too"),
        ({"auth": {"read-token-file": "f"}}, "auth.token-file", "needed"),
    ],
)
def test_what_is_refused(changes: dict[str, object], key: str, part: str) -> None:
    """Each of these gives exactly one problem, at this key."""
    found = problems(**changes)

    assert list(found) == [key]
    assert part in found[key]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("name: [", "line 1"),
        ("a: 1\na: 2", "line 2"),
        ("name: n1\n\tb: 2", "line 2"),
        ("- 1", "the file"),
        ("x: !!python/object:os.system {}", "line 1"),
    ],
)
def test_broken_yaml_is_one_error_with_its_line(text: str, where: str) -> None:
    """What is no YAML, no mapping, or says a key twice is one problem that tells the line."""
    with pytest.raises(ConfigError) as caught:
        config.parse_text(text)

    (problem,) = caught.value.problems
    assert where in problem.key


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    """No input gets past the checks as another kind of error."""
    with pytest.raises(ConfigError):
        config.parse_text(text)


def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    """A missing file is told by its name."""
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.yaml")


def test_without_a_token_the_admin_api_stays_on_loopback() -> None:
    """A reachable admin-url opens only with a token or when told so."""
    reachable = MINIMAL | {"admin-url": "http://10.1.2.3:9595"}

    assert str(config.parse(reachable).admin_listen) == "127.0.0.1:9595"
    assert any("loopback" in str(w) or "127.0.0.1" in w for w in config.parse(reachable).warnings())
    for auth in ({"token-file": "/t"}, {"insecure": True}):
        assert str(config.parse(reachable | {"auth": auth}).admin_listen) == "10.1.2.3:9595"


@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.0", "*", "0", "00", "000.0.0.0", "0.0", "0x0", "0X00.0", "0.0.0x0.00", "0.0.0.0."),
        *("[::]", "[0::0]", "[::ffff:0.0.0.0]", "[::ffff:0:0]", "[0:0:0:0:0:0:0:0]", "[::%1]"),
        "\uff10.\uff10.\uff10.\uff10",
    ],
)
def test_every_spelling_of_a_wildcard_is_one(host: str) -> None:
    """Nobody else reaches a member there: refused in files, by the API and in the membership."""
    url = f"http://{host}:1"
    with pytest.raises(ConfigError, match="wildcard"):
        config.parse(MINIMAL | {"peer-url": url})
    with pytest.raises(PeerUrlError, match="wildcard"):
        normalize_url(url)
    with pytest.raises(ValueError, match="wildcard"):
        AddMember(name="n", peer_url=url)
    assert config.parse(MINIMAL | {"peer-url": url}, joins=True).peer_url.address.is_wildcard


@pytest.mark.parametrize("host", ["0.0.0.1", "10", "0x10", "[::1]", "[::ffff:0.0.0.1]", "h0", "0h"])
def test_what_only_looks_like_a_wildcard_is_none(host: str) -> None:
    """Addresses and names with zeros in them."""
    assert not config.parse(MINIMAL | {"peer-url": f"http://{host}:1"}).peer_url.address.is_wildcard
    normalize_url(f"http://{host}:1")


def test_addresses_read_back() -> None:
    """IPv6 keeps its brackets; the pieces are without."""
    address = Address.parse("[::1]:3390")

    assert (address.host, address.port, str(address)) == ("::1", 3390, "[::1]:3390")
    assert Address.parse(str(address)) == address
    for wrong in ("::1:3390", "h", ":1", "h:", "h:x", "a b:1", "u@h:1"):
        with pytest.raises(ValueError, match=r"HOST:PORT|port"):
            Address.parse(wrong)


def test_source_candidates() -> None:
    """`addrs` takes a list or a text with commas, `addr` a single one."""
    for given_as in (["h1:1", "h2:2"], "h1:1,h2:2"):
        parsed = config.parse(MINIMAL | {"source": {"addrs": given_as, "user": "u"}})
        assert parsed.source is not None
        assert [str(each) for each in parsed.source.addresses] == ["h1:1", "h2:2"]


def test_the_form_at_rest_is_off_by_default_and_each_part_by_itself() -> None:
    """zstd with its own level, or one that is given; the key of a file outside of data-dir."""
    assert config.parse(MINIMAL).at_rest.zstd_level == 0
    assert config.parse(MINIMAL).at_rest.encrypt == "none"
    assert config.parse(MINIMAL | {"at-rest": {"compress": "zstd"}}).at_rest.zstd_level == 1
    both = {"compress": "zstd", "level": 7, "encrypt": "cluster-key"}
    parsed = config.parse(MINIMAL | {"at-rest": both, "cluster-key-file": "/etc/key"})
    assert (parsed.at_rest.zstd_level, parsed.at_rest.encrypt) == (7, "cluster-key")


@pytest.mark.parametrize(
    ("section", "file", "key", "message"),
    [
        ({"encrypt": "cluster-key"}, None, "at-rest.encrypt", "needs cluster-key-file"),
        ({"encrypt": "cluster-key"}, "/tmp/n1/cluster.key", "cluster-key-file", "must not lie in"),
        ({"encrypt": "cluster-key"}, "/tmp/x/../n1/k", "cluster-key-file", "must not lie in"),
        ({"encrypt": "yes"}, "/etc/key", "at-rest.encrypt", "'none' or 'cluster-key'"),
        ({"compress": "gzip"}, None, "at-rest.compress", "'none' or 'zstd'"),
        ({"level": 3}, None, "at-rest.level", "is for compress: zstd"),
        ({"compress": "zstd", "level": 20}, None, "at-rest.level", "less than or equal to 19"),
        ({"compress": "zstd", "level": 0}, None, "at-rest.level", "greater than or equal to 1"),
        ({"compression": "zstd"}, None, "at-rest.compression", "unknown key"),
    ],
)
def test_what_cannot_be_at_rest_is_told(
    section: dict[str, object], file: str | None, key: str, message: str
) -> None:
    """By its key; a key beside what it seals would protect nothing."""
    found = problems(at_rest=section, cluster_key_file=file)
    assert found.keys() == {key}
    assert message in found[key]


def test_where_an_archive_lies() -> None:
    """A bucket and a prefix, or a directory."""
    found = config.parse(MINIMAL | {"archive": {"to": "s3://backups/kingbus/one"}}).archive
    assert found is not None
    assert (found.bucket, found.prefix, found.is_s3) == ("backups", "kingbus/one", True)
    found = config.parse(MINIMAL | {"archive": {"to": "/mnt/archive"}}).archive
    assert found is not None
    assert (found.bucket, found.prefix, found.is_s3) == ("", "", False)


CHANNEL = {"name": "orders", "source": {"addr": "10.0.0.3:3306", "user": "u"}}


def test_channels_are_sections_of_a_list() -> None:
    """Each with the keys that a source has; TLS for all sources holds for theirs, too."""
    parsed = config.parse(
        MINIMAL | {"channels": [CHANNEL], "tls": {"source": {"mode": "required"}}}
    )
    (channel,) = parsed.channels
    assert channel.source is not None
    assert [str(each) for each in channel.source.addresses] == ["10.0.0.3:3306"]
    assert parsed.tls_of(channel.source).mode == "required"
    assert config.parse(MINIMAL).channels == ()


@pytest.mark.parametrize(
    ("channels", "key", "part"),
    [
        ([CHANNEL, CHANNEL], "channels.1.name", "twice"),
        ([CHANNEL | {"name": "Orders"}], "channels.0.name", "a to z"),
        ([CHANNEL | {"name": ""}], "channels.0.name", "a to z"),
        ([CHANNEL | {"source": {"user": "u"}}], "channels.0.source.addr", "needed"),
        ([{"name": "x", "server": {"addr": "h:1", "user": "u"}}], "channels.0.server.pass", "req"),
        ([{"name": f"c{n}"} for n in range(33)], "channels", "32"),
        ([CHANNEL | {"more": 1}], "channels.0.more", "unknown key"),
        (
            [
                {
                    "name": "x",
                    "server": {"addr": "127.0.0.1:5001", "user": "u", "password-file": "/f"},
                }
            ],
            "channels.0.server.addr",
            "peer-url",
        ),
    ],
)
def test_what_is_refused_of_channels(channels: list[object], key: str, part: str) -> None:
    """With the place in the list."""
    found = problems(channels=channels)
    told = [message for name, message in found.items() if name.startswith(key)]
    assert told, found
    assert part in told[0]
