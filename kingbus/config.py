"""The configuration of one node: YAML -> validated values, with every problem found at once.

Owns the keys, their defaults, units and limits. It must not know how they are used. Each field is
checked by itself with pydantic; what several keys must keep together is checked afterwards over
those that are sound, so that one mistake does not hide another. Unknown keys are problems. A key
that is part of the pinned set but whose feature does not exist yet is refused by name: a setting
that does nothing would be a lie. The value of a key whose name looks like a password is never
shown.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from kingbus.addresses import Address, Url
from kingbus.binlog.relay_state import CHANNEL_NAME, CHANNELS_MAX
from kingbus.credentials import read_credentials
from kingbus.errors import ConfigError, Problem
from kingbus.log import LEVELS
from kingbus.membership.cluster import parse_initial_cluster
from kingbus.membership.errors import MembershipError
from kingbus.membership.member import check_name
from kingbus.secrets import ClusterSecret, SecretError
from kingbus.units import format_duration, parse_duration, parse_size

FILE_BYTES_MAX = 1 << 20  # a configuration is a page; whatever is larger is another file
SEGMENT_BYTES_DEFAULT = 256 << 20
SEGMENT_BYTES_MIN = 1 << 20  # below, every entry would need a segment of its own
SEGMENT_BYTES_MAX = 4 << 30  # offsets inside a segment are kept in 32 bits
GIGABYTE = 1 << 30
FILES_MIN_MAX = 1_000_000
ZSTD_LEVEL_DEFAULT = 1  # the quickest; more saves little of binary logs
ZSTD_LEVEL_MAX = 19  # above, zstd wants a hundred megabytes of memory
WORKERS_MAX = 64  # each takes 50 MB; more than cores are of no use
_SECRET_KEY = re.compile(r"pass|secret|token", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"://[^/]*@")
_SHOWN_CHARACTERS_MAX = 200


# --- values -----------------------------------------------------------------------------------


Members = tuple[tuple[str, tuple[str, ...]], ...]


def _plain(value: object) -> str:
    """A scalar as text; YAML turns unquoted digits into numbers."""
    if isinstance(value, bool) or value is None or not isinstance(value, (str, int, float)):
        raise ValueError("must be text")
    return str(value)


def _name(value: object) -> str:
    text = _plain(value)
    try:
        check_name(text)
    except MembershipError as error:
        raise ValueError(error.explain()) from None
    return text


def _duration(value: object) -> float:
    seconds = parse_duration(_plain(value))
    if seconds <= 0:
        raise ValueError("must be longer than nothing")
    return seconds


def _optional_duration(value: object) -> float | None:
    return None if value is None else _duration(value)


def _channel_name(value: object) -> str:
    text = _plain(value)
    if not CHANNEL_NAME.fullmatch(text):
        raise ValueError(
            "must be 1 to 32 of a to z, 0 to 9, - and _, beginning with a letter or digit"
        )
    return text


def _address(value: object) -> Address:
    return value if isinstance(value, Address) else Address.parse(_plain(value))


def _address_with_port(value: object) -> Address:
    address = _address(value)
    if address.port == 0:
        raise ValueError("needs a port")
    return address


def _url(value: object) -> Url:
    return value if isinstance(value, Url) else Url.parse(_plain(value))


def _peer_url(value: object, info: ValidationInfo) -> Url:
    """A wildcard only for a node that joins: who adds it sees where it is."""
    if isinstance(value, Url):
        return value
    return Url.parse(_plain(value), wildcard=bool((info.context or {}).get("joins")))


def _size(bare_unit: int) -> Callable[[object], int]:
    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError("not a size; write it like 500MB or 20GB")  # noqa: TRY004 - pydantic's
        size = parse_size(value, bare_unit=bare_unit)
        if size <= 0:
            raise ValueError("must be larger than nothing")
        return size

    return convert


def _path(value: object) -> Path:
    text = _plain(value)
    if not text:
        raise ValueError("must not be empty")
    return Path(text).expanduser()


def _optional_path(value: object) -> Path | None:
    return None if value is None or value == "" else _path(value)


def _addresses(value: object) -> tuple[Address, ...]:
    """A list, or one text with commas."""
    found = value if isinstance(value, list) else _plain(value).split(",")
    return tuple(_address_with_port(each) for each in found)


def _initial_cluster(value: object) -> Members:
    """`name=url,name=url` -> (name, URLs) in the order given."""
    if value is None or value == "":
        return ()
    try:
        members = parse_initial_cluster(_plain(value))
    except ConfigError as error:
        problems = (
            f"{problem.message} ({problem.got})" if problem.got else problem.message
            for problem in error.problems
        )
        raise ValueError("; ".join(problems)) from None
    for url in (url for _, urls in members for url in urls):
        Url.parse(url)
    return members


def _log_level(value: object) -> str:
    level = _plain(value).lower()
    if level not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return level


def _not_available(what: str) -> Callable[[object], None]:
    def refuse(value: object) -> None:
        if value is not None:
            raise ValueError(f"{what} is not available yet")

    return refuse


def _flavor(value: object) -> str:
    flavor = _plain(value).lower()
    if flavor not in {"mysql", "mariadb"}:
        raise ValueError("must be mysql or mariadb")
    return flavor


def _mode(value: object) -> str:
    mode = _plain(value).lower()
    if mode not in {"gtid", "position"}:
        raise ValueError("must be gtid or position")
    return mode


Name = Annotated[str, BeforeValidator(_name)]
Text = Annotated[str, BeforeValidator(_plain)]
Duration = Annotated[float, BeforeValidator(_duration)]


# --- sections ---------------------------------------------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        alias_generator=lambda field: field.replace("_", "-"),
    )


class TlsOptions(_Model):
    """How a connection to the source is encrypted; files are PEM."""

    mode: Literal["disabled", "preferred", "required", "verify-ca", "verify-identity"] = "preferred"
    ca: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    cert: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    key: Annotated[Path | None, BeforeValidator(_optional_path)] = None


class ServerTls(_Model):
    """TLS that replicas are offered; files are PEM."""

    cert: Annotated[Path, BeforeValidator(_path)]
    key: Annotated[Path, BeforeValidator(_path)]
    require: Annotated[bool, Field(strict=True)] = False


class SourceSection(_Model):
    """Seeds the receiver's configuration once, at the first start of the cluster."""

    addr: Annotated[Address | None, BeforeValidator(_address_with_port)] = None
    addrs: Annotated[tuple[Address, ...], BeforeValidator(_addresses)] = ()
    user: Text = ""
    password_file: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    semi_sync: bool = False
    server_id: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    server_uuid: Annotated[
        str, Field(pattern=r"^$|^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
    ] = ""
    start_from: Text = "earliest"
    mode: Annotated[str, BeforeValidator(_mode)] = "gtid"
    flavor: Annotated[str, BeforeValidator(_flavor)] = "mysql"
    compression: Literal["none", "zlib", "zstd"] = "none"
    tls: TlsOptions | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All candidates, the first choice first."""
        return self.addrs or ((self.addr,) if self.addr is not None else ())


class ServerSection(_Model):
    """The replica-facing listener; address, user and password seed the log once."""

    addr: Annotated[Address | None, BeforeValidator(_address_with_port)] = None
    user: Text = ""
    password_file: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    wait_for_catch_up: Duration = 30.0
    version: Annotated[str, BeforeValidator(_plain), Field(max_length=60)] = ""
    workers: Annotated[int, Field(strict=True, ge=0, le=WORKERS_MAX)] = 0
    semi_sync: bool = True


class ChannelServerSection(_Model):
    """A channel's replica-facing listener on this node; it seeds the log once."""

    addr: Annotated[Address, BeforeValidator(_address_with_port)]
    user: Text
    password_file: Annotated[Path, BeforeValidator(_path)]


class ChannelSection(_Model):
    """A named channel: another source, with files and listeners of its own."""

    name: Annotated[str, BeforeValidator(_channel_name)]
    source: SourceSection | None = None
    server: ChannelServerSection | None = None


class RetainSection(_Model):
    """What is kept while the reserve has room; this node's counts while it leads."""

    keep_for: Annotated[float | None, BeforeValidator(_optional_duration)] = Field(
        default=None, alias="for"
    )
    files_min: Annotated[int, Field(strict=True, ge=1, le=FILES_MIN_MAX)] = 1
    replicas_for: Duration = 86400.0


class TlsSection(_Model):
    peer: Annotated[None, BeforeValidator(_not_available("TLS between members"))] = None
    admin: Annotated[None, BeforeValidator(_not_available("TLS on the admin API"))] = None
    server: ServerTls | None = None
    source: TlsOptions | None = None


class AuthSection(_Model):
    token_file: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    read_token_file: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    insecure: bool = False


class AtRestSection(_Model):
    """In which form this node's own disk holds the log; others need not do the same."""

    compress: Literal["none", "zstd"] = "none"
    level: Annotated[int | None, Field(strict=True, ge=1, le=ZSTD_LEVEL_MAX)] = None
    encrypt: Literal["none", "cluster-key"] = "none"

    @property
    def zstd_level(self) -> int:
        """0: not compressed."""
        return (self.level or ZSTD_LEVEL_DEFAULT) if self.compress == "zstd" else 0


def _archive_target(value: object) -> str:
    """A directory, or `s3://BUCKET/PREFIX`."""
    text = _plain(value)
    if not text.startswith("s3://"):
        if "://" in text or not Path(text).is_absolute():
            raise ValueError("must be an absolute path or s3://BUCKET/PREFIX")
        return text
    if not text.removeprefix("s3://").partition("/")[0]:
        raise ValueError("names no bucket: write s3://BUCKET/PREFIX")
    return text


def _endpoint(value: object) -> str:
    text = _plain(value)
    if text and not re.fullmatch(r"https?://[^/@?#]+/?", text):
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    return text.rstrip("/")


class ArchiveSection(_Model):
    """Where closed files are copied to, and read from when the disk holds them no longer."""

    to: Annotated[str, BeforeValidator(_archive_target)]
    endpoint: Annotated[str, BeforeValidator(_endpoint)] = ""
    region: Text = "us-east-1"
    access_key_file: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    secret_key_file: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    compression: Literal["none", "zstd"] = "none"
    serve: bool = True

    @property
    def bucket(self) -> str:
        """Of an S3-compatible store; empty for a directory."""
        return self.to.removeprefix("s3://").partition("/")[0] if self.is_s3 else ""

    @property
    def prefix(self) -> str:
        return self.to.removeprefix("s3://").partition("/")[2] if self.is_s3 else ""

    @property
    def is_s3(self) -> bool:
        return self.to.startswith("s3://")


class Config(_Model):
    """One node's configuration. Durations in seconds, sizes in bytes."""

    name: Name
    peer_url: Annotated[Url, BeforeValidator(_peer_url)]
    data_dir: Annotated[Path, BeforeValidator(_path)]
    admin_url: Annotated[Url, BeforeValidator(_url)] = Url(
        address=Address(host="127.0.0.1", port=9595)
    )
    metrics_addr: Annotated[Address, BeforeValidator(_address)] = Address(
        host="127.0.0.1", port=2728
    )
    initial_cluster: Annotated[Members, BeforeValidator(_initial_cluster)] = ()
    initial_cluster_state: Literal["new", "existing"] = "new"
    heartbeat_interval: Duration = 0.1
    election_timeout: Duration = 1.0
    reserve_data_size: Annotated[int, BeforeValidator(_size(GIGABYTE))] = 20 * GIGABYTE
    segment_size: Annotated[
        int, BeforeValidator(_size(1)), Field(ge=SEGMENT_BYTES_MIN, le=SEGMENT_BYTES_MAX)
    ] = SEGMENT_BYTES_DEFAULT
    log_dir: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    log_level: Annotated[str, BeforeValidator(_log_level)] = "info"
    cluster_key_file: Annotated[Path | None, BeforeValidator(_optional_path)] = None
    retain: RetainSection = RetainSection()
    reserve_overflow: Literal["stop", "exceed"] = "stop"
    at_rest: AtRestSection = AtRestSection()
    source: SourceSection | None = None
    server: ServerSection | None = None
    channels: Annotated[tuple[ChannelSection, ...], Field(max_length=CHANNELS_MAX)] = ()
    archive: ArchiveSection | None = None
    tls: TlsSection = TlsSection()
    auth: AuthSection = AuthSection()

    @property
    def cluster(self) -> Members:
        """The initial members; this node alone when none are given."""
        return self.initial_cluster or ((self.name, (str(self.peer_url),)),)

    @property
    def source_tls(self) -> TlsOptions:
        return self.tls_of(self.source)

    def tls_of(self, source: SourceSection | None) -> TlsOptions:
        """What holds for a source: its own section, or that of all."""
        own = source.tls if source is not None else None
        return own or self.tls.source or TlsOptions()

    @property
    def admin_listen(self) -> Address:
        """Where the admin API listens: on loopback only, unless a token guards it."""
        address = self.admin_url.address
        if address.is_loopback or self.auth.token_file is not None or self.auth.insecure:
            return address
        return Address(host="127.0.0.1", port=address.port)

    def warnings(self) -> Iterator[str]:
        """What works but is probably not meant."""
        if self.admin_listen != self.admin_url.address:
            yield (
                f"admin-url: without auth.token-file the admin API listens on "
                f"{self.admin_listen} only (auth.insecure: true opens it to everybody)"
            )
        if self.auth.insecure and self.auth.token_file is None:
            yield "auth.insecure: anybody who reaches admin-url controls the cluster"


# Sound values for required keys, to check the others together when one is missing.
_STAND_INS: Mapping[str, object] = {
    "name": "stand-in",
    "peer-url": "http://127.0.0.1:1",
    "data-dir": "/nonexistent",
}


# --- what several keys must keep together -------------------------------------------------------


def _together(config: Config) -> Iterator[tuple[tuple[str, ...], Problem]]:
    """Problems between keys, each with the top-level keys that it depends on."""
    if config.election_timeout < 5 * config.heartbeat_interval - 1e-9:
        yield (
            ("election-timeout", "heartbeat-interval"),
            Problem(
                key="election-timeout",
                message="must be at least 5 x heartbeat-interval "
                f"({format_duration(config.heartbeat_interval)})",
                got=format_duration(config.election_timeout),
            ),
        )
    if config.reserve_data_size < 2 * config.segment_size:
        yield (
            ("reserve-data-size", "segment-size"),
            Problem(
                key="reserve-data-size",
                message=f"must hold at least 2 segments (segment-size is {config.segment_size})",
                got=config.reserve_data_size,
            ),
        )
    yield from _cluster_together(config)
    yield from _at_rest_together(config)
    if config.source is not None:
        yield from _source_together(config, config.source)
    yield from _channels_together(config)
    if config.server is not None and config.server.addr is not None and not config.server.user:
        yield (
            ("server",),
            Problem(key="server.user", message="is needed with server.addr"),
        )
    if config.server is not None and config.server.addr is None and config.server.user:
        yield ("server",), Problem(key="server.addr", message="is needed with server.user")
    if config.archive is not None and config.archive.endpoint and not config.archive.is_s3:
        yield (
            ("archive",),
            Problem(key="archive.endpoint", message="goes with s3://… in archive.to only"),
        )
    if config.auth.read_token_file is not None and config.auth.token_file is None:
        yield (
            ("auth",),
            Problem(key="auth.token-file", message="is needed with auth.read-token-file"),
        )
    yield from _ports_together(config)


def _cluster_together(config: Config) -> Iterator[tuple[tuple[str, ...], Problem]]:
    if not config.initial_cluster:
        return
    members = dict(config.initial_cluster)
    keys = ("initial-cluster", "name", "peer-url")
    if config.name not in members:
        yield (
            keys,
            Problem(key="initial-cluster", message=f"does not name this node ({config.name})"),
        )
    elif str(config.peer_url) not in members[config.name]:
        yield (
            keys,
            Problem(
                key="initial-cluster",
                message=f"gives this node another URL than peer-url ({config.peer_url})",
                got=", ".join(members[config.name]),
            ),
        )


def _at_rest_together(config: Config) -> Iterator[tuple[tuple[str, ...], Problem]]:
    if config.at_rest.level is not None and config.at_rest.compress == "none":
        yield (
            ("at-rest",),
            Problem(key="at-rest.level", message="is for compress: zstd"),
        )
    if config.at_rest.encrypt == "none":
        return
    keys = ("at-rest", "cluster-key-file", "data-dir")
    file = config.cluster_key_file
    if file is None:
        yield (
            keys,
            Problem(
                key="at-rest.encrypt",
                message="needs cluster-key-file: the key that the cluster makes for itself is kept "
                "in data-dir, beside what it would seal",
            ),
        )
    elif file.resolve().is_relative_to(config.data_dir.resolve()):
        yield (
            keys,
            Problem(
                key="cluster-key-file",
                message="must not lie in data-dir, beside what at-rest.encrypt seals with it",
                got=str(file),
            ),
        )


def _channels_together(config: Config) -> Iterator[tuple[tuple[str, ...], Problem]]:
    names = [channel.name for channel in config.channels]
    for number, channel in enumerate(config.channels):
        if channel.name in names[:number]:
            problem = Problem(
                key=f"channels.{number}.name", message="is given twice", got=channel.name
            )
            yield ("channels",), problem
        if channel.source is not None:
            for _, found in _source_together(config, channel.source):
                key = f"channels.{number}.{found.key}"
                yield ("channels", "tls"), Problem(key=key, message=found.message, got=found.got)


def _source_together(
    config: Config, source: SourceSection
) -> Iterator[tuple[tuple[str, ...], Problem]]:
    if not source.addresses:
        yield ("source",), Problem(key="source.addr", message="is needed")
    if source.addr is not None and source.addrs:
        yield ("source",), Problem(key="source.addrs", message="give addr or addrs, not both")
    if not source.user:
        yield ("source",), Problem(key="source.user", message="is needed")
    if source.tls is not None and config.tls.source is not None:
        yield (
            ("source", "tls"),
            Problem(key="tls.source", message="is given as source.tls already"),
        )
    tls = config.tls_of(source)
    if (tls.cert is None) != (tls.key is None):
        yield ("source", "tls"), Problem(key="source.tls", message="cert and key go together")
    if tls.mode in {"verify-ca", "verify-identity"} and tls.ca is None:
        yield ("source", "tls"), Problem(key="source.tls.ca", message=f"is needed by {tls.mode}")


def _ports_together(config: Config) -> Iterator[tuple[tuple[str, ...], Problem]]:
    taken: dict[str, str] = {}
    listeners = [
        ("peer-url", config.peer_url.address),
        ("admin-url", config.admin_url.address),
        ("metrics-addr", config.metrics_addr),
    ]
    if config.server is not None and config.server.addr is not None:
        listeners.append(("server.addr", config.server.addr))
    for number, channel in enumerate(config.channels):
        if channel.server is not None:
            listeners.append((f"channels.{number}.server.addr", channel.server.addr))
    for key, address in listeners:
        if address.port == 0:
            continue
        other = taken.setdefault(str(address), key)
        if other != key:
            yield (
                (key.split(".", maxsplit=1)[0], other.split(".", maxsplit=1)[0]),
                Problem(key=key, message=f"is the address of {other} too", got=str(address)),
            )


# --- reading ------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice; YAML says so, PyYAML takes the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        try:
            twice = key in seen
        except TypeError:
            twice = False
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key} is given twice", key_node.start_mark
            )
        seen.add(key if isinstance(key, (str, int, float)) else repr(key))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _parse_yaml(text: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        message = f"not valid YAML: {error.problem or error.context}"
        raise ConfigError([Problem(key=where, message=message)]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).split("\n", 1)[0]
        raise ConfigError([Problem(key="the file", message=f"not valid YAML: {first}")]) from None


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _shown(key: str, value: object) -> object:
    """The value as a problem may show it: scalars only, and no secrets."""
    if _SECRET_KEY.search(key) or isinstance(value, (dict, list)) or value is None:
        return None
    if isinstance(value, str) and _URL_WITH_PASSWORD.search(value):
        return None
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS_MAX:
        return value[:_SHOWN_CHARACTERS_MAX] + "..."
    return value


def _problems(error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False, include_context=True):
        key = _key(detail["loc"])
        match detail["type"]:
            case "missing":
                yield Problem(key=key, message="is required")
            case "extra_forbidden":
                yield Problem(key=key, message="unknown key", got=_shown(key, detail["input"]))
            case "value_error":
                message = str(detail["ctx"]["error"])
                yield Problem(key=key, message=message, got=_shown(key, detail["input"]))
            case "model_type" | "model_attributes_type":
                yield Problem(key=key, message="must be a section of keys and values")
            case _:
                message = detail["msg"][:1].lower() + detail["msg"][1:]
                yield Problem(key=key, message=message, got=_shown(key, detail["input"]))


def _secret_problems(
    config: Config, environment: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], Problem]]:
    """What is wrong with the secrets that a start would read, each with its top-level key."""
    _, problems = read_credentials(config, environment)
    if config.cluster_key_file is not None:
        try:
            ClusterSecret.load(config.cluster_key_file)
        except SecretError as error:
            problems.append(Problem(key="cluster-key-file", message=error.explain()))
    for problem in problems:
        yield (problem.key.partition(".")[0],), problem


def parse(
    data: Mapping[str, object],
    *,
    joins: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Validate the keys and values of one node; one that `joins` may have a wildcard peer-url.

    With an environment the secrets are looked at, too: the files that are named, and the variables
    that stand for them. Raises ConfigError with every problem.
    """
    context = {"joins": joins}
    found: list[Problem] = []
    sound = {str(key): value for key, value in data.items()}
    # An empty section or value (`source:`) means that it is not given.
    sound = {key: value for key, value in sound.items() if value is not None}
    bad: set[str] = set()
    config: Config | None = None
    try:
        config = Config.model_validate(sound, context=context)
    except ValidationError as error:
        found.extend(_problems(error))
        bad = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        rest = {key: value for key, value in sound.items() if key not in bad}
        stand_ins = {key: value for key, value in _STAND_INS.items() if key not in rest}
        bad |= stand_ins.keys()
        partial = Config.model_validate(rest | stand_ins, context=context)
    else:
        partial = config
    found.extend(problem for keys, problem in _together(partial) if not bad & set(keys))
    if environment is not None:
        secrets = _secret_problems(partial, environment)
        found.extend(problem for keys, problem in secrets if not bad & set(keys))
    if found or config is None:
        raise ConfigError(found)
    return config


def parse_text(
    text: str, *, joins: bool = False, environment: Mapping[str, str] | None = None
) -> Config:
    """Validate a YAML document, as `parse`. Raises ConfigError with every problem."""
    data = _parse_yaml(text)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError([Problem(key="the file", message="must be a mapping of keys and values")])
    return parse(data, joins=joins, environment=environment)


def load(
    path: Path, *, joins: bool = False, environment: Mapping[str, str] | None = None
) -> Config:
    """Read and validate a file, as `parse`.

    Raises ConfigError with every problem, unreadable file included.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError([Problem(key=str(path), message=str(error.strerror))]) from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(
            [Problem(key=str(path), message=f"is larger than {FILE_BYTES_MAX} bytes")]
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ConfigError([Problem(key=str(path), message="is not text in UTF-8")]) from None
    return parse_text(text, joins=joins, environment=environment)


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key with its section, as `source.user`; for documentation checks."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        for inner in getattr(field.annotation, "__args__", (field.annotation,)):
            if isinstance(inner, type) and issubclass(inner, _Model):
                yield from keys(inner, key + ".")
