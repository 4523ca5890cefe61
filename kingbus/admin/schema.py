"""The bodies of admin requests and the data of replies: the pinned names and types.

The spellings here (`peerURLs`, `mysql_addr`, `slaves` ...) are the HTTP interface's own; they stay
in this module and in `routes` strings. Ids are lower-case hexadecimal text, unknown is null, lists
are never null, GTID sets are on one line, times are RFC 3339 in UTC.
"""

import ipaddress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from kingbus.addresses import Address, Url
from kingbus.binlog.relay_state import CHANNEL_NAME
from kingbus.units import parse_time

_UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
# As MySQL limits them; longer ones could never log in.
USER_CHARACTERS_MAX = 32
PASSWORD_CHARACTERS_MAX = 256
CHANNEL_CHARACTERS_MAX = 32
ADDRESSES_MAX = 16  # candidates for one source; more would hide a mistake
GTID_SET_CHARACTERS_MAX = 512 << 10  # a request body has at most 1 MiB

T = TypeVar("T")


def member_id_text(member_id: int) -> str:
    """How an id is shown everywhere: lower-case hexadecimal; `""` for nobody."""
    return f"{member_id:x}" if member_id else ""


def time_text(seconds: float | None) -> str | None:
    """RFC 3339 in UTC; None for an unknown time (None or 0)."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _host_port(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be host:port")  # noqa: TRY004 - pydantic collects ValueErrors
    try:
        address = Address.parse(value)
    except ValueError as error:
        raise ValueError(f"must be host:port ({value!r}: {error})") from None
    if address.port == 0:
        raise ValueError(f"must be host:port ({value!r}: needs a port)")
    return str(address)


def _url(value: object, *, wildcard: bool = False) -> str:
    if not isinstance(value, str):
        raise ValueError("must be http://HOST:PORT")  # noqa: TRY004
    try:
        return str(Url.parse(value, wildcard=wildcard))
    except ValueError as error:
        raise ValueError(f"{value!r}: {error}") from None


HostPort = Annotated[str, BeforeValidator(_host_port)]
HttpUrl = Annotated[str, BeforeValidator(_url)]
JoinUrl = Annotated[str, BeforeValidator(partial(_url, wildcard=True))]


class Body(BaseModel):
    """A request's body; an unknown field is a mistake that must not pass silently."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class AddMember(Body):
    """A member to add; it is started with `initial-cluster-state: existing` afterwards.

    A voter where that is safe; with `promote` a learner until it has caught up. With `dial_back`
    the leader first dials `peer_url`, where the joining node must answer with that token; its host
    may then be a wildcard, which stands for the address that the request comes from. `key_id` names
    the cluster key that the node is configured with; another one than the cluster's is refused.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    peer_url: JoinUrl
    admin_url: HttpUrl | None = None
    learner: StrictBool = False
    promote: StrictBool = False
    dial_back: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""

    @model_validator(mode="after")
    def _reachable(self) -> "AddMember":
        if Url.parse(self.peer_url, wildcard=True).address.is_wildcard and not self.dial_back:
            raise ValueError("peer_url must be an address that others can reach, not a wildcard")
        return self

    def seen_from(self, client_host: str | None) -> "AddMember":
        """The same with a wildcard replaced by where the request came from; ValueError."""
        address = Url.parse(self.peer_url, wildcard=True).address
        if not address.is_wildcard:
            return self
        try:
            host = ipaddress.ip_address((client_host or "").partition("%")[0])
        except ValueError:
            raise ValueError("peer_url is a wildcard, and the connection has no address") from None
        mapped = getattr(host, "ipv4_mapped", None)
        url = Url(address=Address(host=str(mapped or host), port=address.port))
        return self.model_copy(update={"peer_url": str(url)})


class UpdateMember(Body):
    """Another address for a member."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    new_peer_url: HttpUrl


class ReplaceMember(Body):
    """A voter that goes, and the member that comes in the same step.

    With `peer_url` that is a new one, otherwise the learner of that name.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    new_name: Annotated[str, Field(min_length=1, max_length=64)]
    peer_url: HttpUrl | None = None
    admin_url: HttpUrl | None = None

    @model_validator(mode="after")
    def _together(self) -> "ReplaceMember":
        if self.admin_url is not None and self.peer_url is None:
            raise ValueError("admin_url goes with peer_url")
        return self


class NameMember(Body):
    """A member by its name or its id in hexadecimal."""

    name: Annotated[str, Field(min_length=1, max_length=64)]


class RemoveMember(NameMember):
    """The member to remove; with `id` that one, whoever has the name by now."""

    peer_url: HttpUrl | None = None
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{1,16}$")] | None = None


class TransferLeader(Body):
    name: Annotated[str, Field(max_length=64)] = ""


class SourceTls(Body):
    """TLS towards the source; the files are PEM and lie on every member."""

    mode: Annotated[
        str, Field(pattern=r"^(disabled|preferred|required|verify-ca|verify-identity)$")
    ] = "preferred"
    ca: str = ""
    cert: str = ""
    key: str = ""

    @model_validator(mode="after")
    def _together(self) -> "SourceTls":
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together")
        if self.mode.startswith("verify") and not self.ca:
            raise ValueError(f"mode {self.mode} needs ca")
        return self


class OfChannel(Body):
    """What concerns one channel; the default one has no name."""

    channel: Annotated[str, Field(max_length=CHANNEL_CHARACTERS_MAX)] = ""


class AddChannel(Body):
    """A channel for another source."""

    name: Annotated[str, Field(pattern=rf"^{CHANNEL_NAME.pattern}$")]


class BindUser(Body):
    """The only channel that a user may read; without a name that of the port it comes by."""

    user: Annotated[str, Field(min_length=1, max_length=USER_CHARACTERS_MAX)]
    name: Annotated[str, Field(max_length=CHANNEL_CHARACTERS_MAX)] = ""


class StartSource(OfChannel):
    """What to pull from. An empty body starts what is stored."""

    mysql_addr: HostPort | None = None
    mysql_addrs: Annotated[list[HostPort], Field(max_length=ADDRESSES_MAX)] = []
    mysql_user: Annotated[str, Field(max_length=USER_CHARACTERS_MAX)] = ""
    mysql_password: Annotated[str | None, Field(max_length=PASSWORD_CHARACTERS_MAX)] = None
    semi_sync: StrictBool = False
    syncer_id: Annotated[StrictInt, Field(ge=0, le=0xFFFFFFFF)] = 0
    syncer_uuid: Annotated[str, Field(pattern=rf"^$|{_UUID}")] = ""
    start_from: Annotated[str, Field(max_length=GTID_SET_CHARACTERS_MAX)] = ""
    flavor: str = ""
    mode: Literal["", "gtid", "position"] = ""
    compression: Literal["", "none", "zlib", "zstd"] = ""
    tls: SourceTls | None = None

    @property
    def addresses(self) -> list[str]:
        """The candidates in order, each once."""
        first = [self.mysql_addr] if self.mysql_addr is not None else []
        return list(dict.fromkeys([*first, *self.mysql_addrs]))


class ChangeSource(Body):
    """Between members: what of the stored source is to be another; null keeps it."""

    host: Annotated[str | None, Field(max_length=255)] = None
    port: Annotated[StrictInt | None, Field(ge=1, le=65535)] = None
    user: Annotated[str | None, Field(max_length=USER_CHARACTERS_MAX)] = None
    password: Annotated[str | None, Field(max_length=PASSWORD_CHARACTERS_MAX)] = None
    ssl: StrictBool | None = None
    ssl_verify: StrictBool | None = None
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None


class ChangedUser(Body):
    """Between members: a user, with verifiers (base64) where it gets a password."""

    name: Annotated[str, Field(min_length=1, max_length=USER_CHARACTERS_MAX)]
    sha2: str = ""
    native: str = ""


class ChangeUsers(Body):
    """Between members: a change of the cluster's users; see `replication.administration`."""

    action: Literal["create", "password", "drop", "grant", "revoke"]
    users: Annotated[list[ChangedUser], Field(min_length=1)]
    rights: list[str] = []
    lenient: StrictBool = False

    @property
    def names(self) -> list[str]:
        """Who is meant."""
        return [user.name for user in self.users]


class Failover(OfChannel):
    """Which source to take; without it the candidate behind the present one."""

    to: HostPort | None = None


class AcceptGap(OfChannel):
    """Transactions that the relay will never have, exactly as an error named them."""

    gtid_set: Annotated[str, Field(min_length=1, max_length=GTID_SET_CHARACTERS_MAX)]


class StartServer(OfChannel):
    """The replica-facing listener of the node asked; `admin`: the user may also PURGE and KILL."""

    addr: HostPort
    user: Annotated[str, Field(min_length=1, max_length=USER_CHARACTERS_MAX)]
    password: Annotated[str, Field(max_length=PASSWORD_CHARACTERS_MAX)]
    admin: StrictBool = False


class ReadEntries(Body):
    from_index: int = Field(ge=1)
    to_index: int = Field(ge=1)


class PurgeBinlogs(OfChannel):
    """The files before `to`, or those that were last written before the time `before`."""

    to: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    before: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.to is None) == (self.before is None):
            raise ValueError("give either to or before")
        if self.before is not None:
            try:
                parse_time(self.before)
            except ValueError as error:
                raise ValueError(f"before is {error}") from None
        return self

    @property
    def before_seconds(self) -> float:
        """`before` in seconds since 1970."""
        return parse_time(self.before or "")


# --- data of replies ----------------------------------------------------------------------------


class Data(BaseModel):
    """What stands under `data`."""


class MemberData(Data):
    id: str = Field(serialization_alias="Id")
    name: str
    peer_urls: list[str] = Field(serialization_alias="peerURLs")
    admin_urls: list[str] = Field(serialization_alias="adminURLs")
    is_learner: bool = Field(serialization_alias="isLearner")
    version: str | None = None


class ClusterMemberData(MemberData):
    is_leader: bool = Field(serialization_alias="isLeader")


class ChannelData(Data):
    """A channel: the default one has no name and the number 0."""

    name: str
    number: int
    source: list[str]
    started: bool
    flavor: str
    files: int
    executed_gtid_set: str


class LeaderData(Data):
    id: str = Field(serialization_alias="Id")
    name: str


class SyncerStatusData(Data):
    """The receiver, as the leader sees it; never a password."""

    status: str
    error: str
    mysql_addr: str
    mysql_addrs: list[str]
    current_addr: str | None
    mysql_user: str
    semi_sync: bool
    syncer_id: int
    syncer_uuid: str
    current_gtid: str
    last_binlog_file: str
    last_file_position: int
    executed_gtid_set: str
    purged_gtid_set: str
    seconds_behind_source: int | None
    semi_sync_active: bool
    acknowledged_file: str
    acknowledged_position: int
    source_uuid: str | None = None
    source_version: str | None = None
    epoch: int | None = None


class FailoverData(Data):
    """From where the cluster now pulls, and what is left to the operator."""

    mysql_addr: str
    notes: list[str]


class ReplicaData(Data):
    uuid: str
    server_id: int
    host: str
    port: int | None
    state: str
    connect_time: str | None
    last_gtid: str | None
    lag_bytes: int | None
    lag_transactions: int | None
    lag_seconds: float | None
    heartbeat_period: float | None
    bytes_until_cut_off: int | None
    semi_sync: bool
    acknowledged_file: str
    acknowledged_position: int


class ServerStatusData(Data):
    status: str
    addr: str
    user: str
    slaves: list[ReplicaData]
    current_gtid: str
    last_binlog_file: str
    last_file_position: int
    executed_gtid_set: str
    purged_gtid_set: str


class FileData(Data):
    name: str
    size: int
    epoch: int
    complete: bool
    first_index: int
    previous_gtids: str
    first_time: str | None
    last_time: str | None
    closed: bool
    gaps: list[tuple[int, int]]
    archived: bool | None


class ArchivedFileData(Data):
    """A file in the archive, held by the log too or not."""

    name: str
    size: int
    epoch: int
    complete: bool
    first_index: int
    previous_gtids: str
    gtids: str
    first_time: str | None
    last_time: str | None
    object: str
    sha256: str
    compression: str


class ArchiveData(Data):
    """This node's view of the archive; what was tried and failed is the leader's."""

    target: str
    serving: bool
    archiving: bool
    files: int
    files_behind: int
    files_missing: int
    oldest: str | None
    newest: str | None
    last_success: str | None
    error: str
    errors: int
    damaged: list[str]


class EventData(Data):
    file: str
    position: int
    event_type: str
    server_id: int
    end_position: int
    info: str


class CatchUpData(Data):
    """A node that began from a snapshot and has yet to apply what the leader retains."""

    installing: bool
    from_index: int
    to_index: int
    share: float


class AtRestData(Data):
    """How this node's disk holds the log.

    `data_bytes`, `stored_bytes`, their `ratio` and the processor's `seconds` are of what was
    written since the start; null where nothing is transformed. Of all `segments` held some may have
    compressed or sealed entries, and some of those are sealed.
    """

    compress: str
    level: int | None
    encrypt: str
    key_id: str | None
    data_bytes: int | None
    stored_bytes: int | None
    ratio: float | None
    seconds: float | None
    segments: int
    transformed_segments: int
    sealed_segments: int


class NodeStatusData(Data):
    name: str
    id: str
    role: str
    term: int
    leader: str
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    state_hash: str
    executed_gtid_set: str
    purged_gtid_set: str
    version: str
    cluster_id: str
    warnings: list[str]
    catch_up: CatchUpData | None = None
    at_rest: AtRestData | None = None


class HashData(Data):
    """`next_index` is behind the last entry that is in the sum."""

    from_index: int
    next_index: int
    bytes: int
    sha256: str
    problem: str | None


class StateHashData(Data):
    index: int
    state_hash: str


class EntryData(Data):
    """`data` is in base64."""

    index: int
    term: int
    type: int
    data: str


class HealthData(Data):
    role: str
    leader: str
    lag_seconds: float | None


class Reply(BaseModel, Generic[T]):
    """Every successful reply."""

    message: str = "success"
    data: T


class Failure(BaseModel):
    """Every other reply."""

    message: str
    hint: str | None = None
