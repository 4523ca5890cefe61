"""The operations that belong to the leader: they check, and propose.

They run on whichever node leads; `operations` brings a request there. Each takes the request's
JSON body and gives the reply's data with the index that a node must have applied to see it. The
routes under `/internal/` exist only between members and are no part of the HTTP API.
"""

import contextlib
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import trio
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ValidationError

from kingbus.admin import schema, views
from kingbus.admin.accounts import plan_users
from kingbus.admin.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    SourceRefusedError,
    UnavailableError,
)
from kingbus.admin.failover import SourceFailover
from kingbus.admin.protocols import (
    Archive,
    DialBack,
    Identity,
    Keys,
    Node,
    Purges,
    Receiver,
    Relay,
)
from kingbus.admin.source_change import changed_source
from kingbus.binlog import command as codec
from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError
from kingbus.binlog.mariadb_gtid import MYSQL
from kingbus.binlog.relay_state import CHANNELS_MAX
from kingbus.binlog.retention import reserve_warning
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.membership.errors import NotALearnerError
from kingbus.membership.member import Member, normalize_url
from kingbus.node.joining import dial_back
from kingbus.pb.command_pb2 import (
    Channel,
    Command,
    MemberAttributes,
    ServerConfig,
    SourceConfig,
    TlsOptions,
    User,
    UserChanges,
)
from kingbus.replication.source_facts import (
    GTID,
    POSITION,
    other_mode,
    unfit_config,
    unfit_flavor,
)
from kingbus.secrets import SOURCE_PASSWORD, ClusterSecret, SecretError, WrongKeyError

_log = get_logger("admin")

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Any], Awaitable[Any]]

SOURCE_CHECK_SECONDS_MAX = 10.0  # pinned: an operator waits for the answer
_START_FROM_WORDS = frozenset({"earliest", "now"})

# What another node would have to reach this one for.
_NEEDS_PEER_PORT = frozenset(
    {("POST", "/members"), ("PUT", "/members"), ("POST", "/members/replace")}
)

_OF_A_CHANNEL = frozenset(
    {
        ("PUT", "/binlog/syncer/start"),
        ("PUT", "/binlog/syncer/config"),
        ("PUT", "/binlog/syncer/stop"),
        ("PUT", "/binlog/syncer/failover"),
        ("PUT", "/binlog/syncer/accept-gap"),
        ("GET", "/binlog/syncer/status"),
        ("POST", "/binlog/purge"),
        ("PUT", "/internal/source/change"),
        ("PUT", "/internal/source/forget"),
    }
)

SET_SERVER = "/internal/server"
SET_ATTRIBUTES = "/internal/attributes"
CHANGE_SOURCE = "/internal/source/change"
FORGET_SOURCE = "/internal/source/forget"
CHANGE_USERS = "/internal/users"

NO_SUCH_OPERATION = "no such operation"
"""How a leader, of this version or an earlier one, begins to refuse what it does not know."""
FAIL_OVER = "/binlog/syncer/failover"
ACCEPT_GAP = "/binlog/syncer/accept-gap"


def _without_channel(body: object) -> tuple[str, object]:
    """The channel that a body names, and the rest of it."""
    if not isinstance(body, dict) or "channel" not in body:
        return "", body
    rest = dict(body)
    name = rest.pop("channel")
    if not isinstance(name, str):
        raise BadRequestError("channel must be text")
    return name, rest


def validated(model: type[M], body: object) -> M:
    """The body as its model; BadRequestError in one sentence that shows no values."""
    try:
        return model.model_validate({} if body is None else body)
    except ValidationError as error:
        raise BadRequestError(sentence(error.errors(include_url=False))) from None


def sentence(details: Any) -> str:
    """Pydantic's findings as one sentence: field and reason, never the input."""
    parts = []
    for detail in details:
        location = [str(part) for part in detail["loc"] if part not in {"body", "query"}]
        field = ".".join(location) or "the body"
        match detail["type"]:
            case "missing":
                reason = "is required"
            case "extra_forbidden":
                reason = "is not known"
            case "value_error":
                reason = str(detail.get("ctx", {}).get("error", detail["msg"]))
            case "json_invalid":
                field, reason = "the body", "is not valid JSON"
            case "model_attributes_type" | "dict_type" | "model_type":
                reason = "must be a JSON object"
            case "bool_type":
                reason = "must be true or false"
            case "int_type":
                reason = "must be a number"
            case _:
                reason = detail["msg"][:1].lower() + detail["msg"][1:]
        # What is wrong with several fields together names them itself.
        together = detail["type"] == "value_error" and not location
        parts.append(reason if together else f"{field} {reason}")
    return "; ".join(parts)


class LeaderOperations:
    """See the module. `keys` gives the cluster's key, `dial_back` checks who wants to join."""

    def __init__(
        self,
        *,
        node: Node,
        relay: Relay,
        receiver: Receiver,
        identity: Identity,
        keys: Keys,
        purger: Purges,
        archive: Archive | None = None,
        dial_back: DialBack = dial_back,
        channel: int = 0,
        cluster: Relay | None = None,
        named: Callable[[], Mapping[str, "LeaderOperations"]] = dict,
    ) -> None:
        """`channel` is the number of the one that `relay` is of, `cluster` the default one's;
        `named` gives the operations of all named channels.
        """
        self._channel = channel
        self._cluster = cluster or relay
        self._named = named
        self._node = node
        self._relay = relay
        self._receiver = receiver
        self._identity = identity
        self._keys = keys
        self._purger = purger
        self._archive = archive
        self._dial_back = dial_back
        self._failover = SourceFailover(relay=relay, receiver=receiver, propose=self._propose)
        # Checks take seconds; two requests must not decide from the same state.
        self._source_lock = trio.Lock()
        self._users_lock = trio.Lock()
        self._routes: Mapping[tuple[str, str], Handler] = {
            ("POST", "/members"): self._add_member,
            ("PUT", "/members"): self._update_member,
            ("DELETE", "/members"): self._remove_member,
            ("POST", "/members/promote"): self._promote_member,
            ("POST", "/members/replace"): self._replace_member,
            ("POST", "/leader/transfer"): self._transfer_leader,
            ("PUT", "/binlog/syncer/start"): self._start_source,
            ("PUT", "/binlog/syncer/config"): self._store_source,
            ("PUT", "/binlog/syncer/stop"): self._stop_source,
            ("PUT", FAIL_OVER): self._fail_over,
            ("PUT", ACCEPT_GAP): self._accept_gap,
            ("GET", "/binlog/syncer/status"): self._source_status,
            ("POST", "/binlog/purge"): self._purge,
            ("PUT", SET_SERVER): self._set_server,
            ("PUT", SET_ATTRIBUTES): self._set_attributes,
            ("PUT", CHANGE_SOURCE): self._change_source,
            ("PUT", FORGET_SOURCE): self._forget_source,
            ("PUT", CHANGE_USERS): self._change_users,
            ("POST", "/channels"): self._add_channel,
            ("DELETE", "/channels"): self._remove_channel,
            ("PUT", "/channels/users"): self._bind_user,
        }

    async def perform(self, method: str, path: str, body: object) -> tuple[Any, int]:
        """Data, and the index to have applied.

        Raises KingbusErrors; NotLeaderError (nothing was done) when another node leads.
        """
        handler = self._routes.get((method, path))
        if handler is None:
            raise NotFoundError(f"{NO_SUCH_OPERATION}: {method} {path}")
        if (method, path) in _NEEDS_PEER_PORT:
            self._check_peer_port()
        name, body = _without_channel(body)
        if name:
            handler = self._of_channel(name, method, path)
        data = await handler(body)
        return data, self._relay.applied_index

    def _of_channel(self, name: str, method: str, path: str) -> Handler:
        if (method, path) not in _OF_A_CHANNEL:
            raise BadRequestError(f"{method} {path} takes no channel")
        channel = self._named().get(name)
        if channel is None:
            raise NotFoundError(f"no such channel: {name}", hint="kingbus channel list")
        return channel._routes[method, path]  # noqa: SLF001 - of the same class

    def _check_peer_port(self) -> None:
        own = self._node.cluster.get(self._node.status().member_id)
        if own is not None and not own.has_peer_port:
            raise ConflictError(
                "this node has no peer port: it was started with --source, to be alone",
                hint="begin a cluster with `kingbus run --config FILE`",
            )

    # --- members --------------------------------------------------------------------------------

    def _members(self) -> list[dict[str, Any]]:
        found = views.members(self._node.cluster, self._relay.state)
        return [member.model_dump(by_alias=True) for member in found]

    def _find(self, name: str) -> Member:
        return self._node.cluster.find(name)

    async def _add_member(self, body: object) -> list[dict[str, Any]]:
        wanted = validated(schema.AddMember, body)
        await self._check_key(wanted)
        if wanted.dial_back:
            await self._dial_back(wanted.peer_url, name=wanted.name, token=wanted.dial_back)
            known = self._node.cluster.named(wanted.name)
            if known is not None and normalize_url(wanted.peer_url) in known.peer_urls:
                _check_joins_as(wanted, known)
                return self._members()  # an earlier attempt got so far
        admin_urls = [wanted.admin_url] if wanted.admin_url is not None else []
        member = await self._node.membership.add(
            wanted.name,
            [wanted.peer_url],
            admin_urls,
            learner=wanted.learner or wanted.promote,
            promote=wanted.promote,
        )
        _log.info("member added", name=member.name, id=f"{member.id:x}", learner=member.learner)
        return self._members()

    async def _check_key(self, wanted: schema.AddMember) -> None:
        """Before it is added: a member that cannot open what is sealed would end once it knows."""
        if not wanted.key_id:
            return
        announced = self._relay.state.cluster_key
        key_id = announced.key_id if announced is not None else (await self._keys.wait()).key_id
        if wanted.key_id != key_id:
            raise ConflictError(
                f"{wanted.name} has cluster key {wanted.key_id}, the cluster has {key_id}",
                hint=WrongKeyError.hint,
            )

    async def _update_member(self, body: object) -> list[dict[str, Any]]:
        wanted = validated(schema.UpdateMember, body)
        member = self._find(wanted.name)
        if member.peer_urls == (normalize_url(wanted.new_peer_url),):
            return self._members()  # an earlier attempt got so far
        await self._node.membership.update(member.id, [wanted.new_peer_url])
        _log.info("member moved", name=member.name, peer_url=wanted.new_peer_url)
        return self._members()

    async def _remove_member(self, body: object) -> list[dict[str, Any]]:
        wanted = validated(schema.RemoveMember, body)
        if wanted.id is not None:
            what = f"member {wanted.name!r} with id {wanted.id}"
            member = self._node.cluster.require(int(wanted.id, 16), what=what)
        else:
            member = self._find(wanted.name)
        if wanted.peer_url is not None and normalize_url(wanted.peer_url) not in member.peer_urls:
            raise NotFoundError(f"member {member.name} has no peer URL {wanted.peer_url}")
        await self._node.membership.remove(member.id)
        _log.info("member removed", name=member.name, id=f"{member.id:x}")
        return self._members()

    async def _promote_member(self, body: object) -> list[dict[str, Any]]:
        member = self._find(validated(schema.NameMember, body).name)
        if member.learner:
            # A learner that awaits its promotion may get it while this waits for its turn.
            with contextlib.suppress(NotALearnerError):
                await self._node.membership.promote(member.id)
                _log.info("member promoted", name=member.name)
        return self._members()

    async def _replace_member(self, body: object) -> list[dict[str, Any]]:
        wanted = validated(schema.ReplaceMember, body)
        replaced = self._find(wanted.name)
        member = await self._node.membership.replace(
            replaced.id,
            wanted.new_name,
            [wanted.peer_url] if wanted.peer_url is not None else [],
            [wanted.admin_url] if wanted.admin_url is not None else [],
        )
        _log.info("member replaced", name=replaced.name, by=member.name, id=f"{member.id:x}")
        return self._members()

    async def _transfer_leader(self, body: object) -> dict[str, Any]:
        name = validated(schema.TransferLeader, body).name
        target = self._find(name) if name else None
        if target is not None and target.learner:
            raise ConflictError(f"member {target.name} is a learner and cannot lead")
        leader_id = await self._node.handover.transfer(target.id if target else None)
        leader = self._node.cluster.require(leader_id)
        data = schema.LeaderData(id=schema.member_id_text(leader.id), name=leader.name)
        return data.model_dump(by_alias=True)

    # --- channels -------------------------------------------------------------------------------

    async def _add_channel(self, body: object) -> list[dict[str, Any]]:
        """Again is no error: an earlier attempt may have got so far."""
        name = validated(schema.AddChannel, body).name
        async with self._source_lock:
            state = self._relay.state
            if name not in state.channels:
                number = len(state.channels) + 1
                if number > CHANNELS_MAX:
                    raise ConflictError(f"there are {CHANNELS_MAX} channels, and no more can be")
                await self._propose(Command(channel=Channel(number=number, name=name)))
                _log.info("channel added", channel=name, number=number)
            if name not in state.channels:
                raise UnavailableError("the channel was not added", hint="repeating is safe")
        return [each.model_dump() for each in views.channels(state, {})]

    async def _bind_user(self, body: object) -> str:
        wanted = validated(schema.BindUser, body)
        async with self._users_lock:
            state = self._relay.state
            stored = state.users.get(wanted.user)
            if stored is None:
                raise NotFoundError(
                    f"no such user: {wanted.user}", hint="make it first, in SQL: CREATE USER"
                )
            if wanted.name and wanted.name not in state.channels:
                raise NotFoundError(f"no such channel: {wanted.name}", hint="kingbus channel list")
            user = User()
            user.CopyFrom(stored)
            user.channel = state.channels.get(wanted.name, 0)
            if user != stored:
                await self._propose(Command(user_changes=UserChanges(users=[user])))
                _log.info("user bound", user=wanted.user, channel=wanted.name)
        return ""

    async def _remove_channel(self, _body: object) -> None:
        raise ConflictError(
            "removing a channel is not available yet", hint="stop it: kingbus source stop --channel"
        )

    # --- source ---------------------------------------------------------------------------------

    async def _source_status(self, _body: object) -> dict[str, Any]:
        status = self._receiver.status()
        return views.syncer_status(self._relay.state, status, self._identity).model_dump()

    async def _start_source(self, body: object) -> str:
        wanted = validated(schema.StartSource, body)
        async with self._source_lock:
            stored = self._relay.state.source_config
            if not wanted.model_fields_set and stored is not None and stored.addresses:
                config, password = self._copy(stored), self._stored_password()
            else:
                config, password = self._wanted_source(wanted)
            config.started = True
            if self._is_running(config, password):
                return ""
            await self._check_source(config, password)
            await self._propose_source(config, password)
        return ""

    async def _store_source(self, body: object) -> str:
        wanted = validated(schema.StartSource, body)
        async with self._source_lock:
            stored = self._relay.state.source_config
            if stored is not None and stored.started:
                raise ConflictError(
                    "the receiver is started", hint="stop it first, or start it with new settings"
                )
            config, password = self._wanted_source(wanted)
            await self._propose_source(config, password)
        size = await self._receiver.ask_binlog_size(config, password)
        return reserve_warning(self._smallest_reserve(), size) if size else ""

    def _smallest_reserve(self) -> int:
        members = self._cluster.state.members.values()
        present = [each for each in members if self._node.cluster.get(each.member_id) is not None]
        return min((each.reserve_bytes for each in present if each.reserve_bytes), default=0)

    async def _stop_source(self, _body: object) -> str:
        async with self._source_lock:
            stored = self._relay.state.source_config
            if stored is not None and stored.started:
                config = self._copy(stored)
                config.started = False
                await self._propose(Command(source_config=config))
                _log.info("receiver stopped")
        return ""

    async def _change_source(self, body: object) -> str:
        change = validated(schema.ChangeSource, body)
        async with self._source_lock:
            stored = self._relay.state.source_config
            if stored is not None and stored.started:
                raise ConflictError("the receiver is started")
            config, password = self._wanted_source(changed_source(stored, change))
            await self._propose_source(config, password)
        return ""

    async def _forget_source(self, _body: object) -> str:
        """What is left says that there was one: the configuration file does not seed it again."""
        async with self._source_lock:
            stored = self._relay.state.source_config
            if stored is not None and stored.started:
                raise ConflictError("the receiver is started")
            if stored is not None and stored.addresses:
                kept = SourceConfig(server_id=stored.server_id, server_uuid=stored.server_uuid)
                await self._propose(Command(source_config=kept))
                _log.info("source forgotten")
        return ""

    async def _fail_over(self, body: object) -> dict[str, Any]:
        to = validated(schema.Failover, body).to or ""
        async with self._source_lock:
            address, notes = await self._failover.fail_over(
                self._stored_source(),
                self._stored_password(),
                present=self._receiver.status().address,
                to=to,
            )
        return schema.FailoverData(mysql_addr=address, notes=notes).model_dump()

    async def _accept_gap(self, body: object) -> str:
        text = validated(schema.AcceptGap, body).gtid_set
        try:
            gtids = GtidSet.parse(text)
        except MalformedGtidSetError as error:
            raise BadRequestError(f"gtid_set must be a GTID set: {error}") from None
        async with self._source_lock:
            now = self._receiver.status()
            running = now.address if now.status == "running" else ""
            await self._failover.accept_gap(
                self._stored_source(), self._stored_password(), gtids, running=running
            )
        return ""

    def _stored_source(self) -> SourceConfig:
        stored = self._relay.state.source_config
        if stored is None:
            raise ConflictError("no source is stored", hint="store one first: kingbus source set")
        return self._copy(stored)

    async def seed_source(self, config: SourceConfig, password: str) -> None:
        """Propose a first configuration as the configuration file says it, unchecked.

        An unreachable source must not keep a node from starting; the receiver retries.
        """
        async with self._source_lock:
            if self._relay.state.source_config is None:
                await self._propose_source(config, password)

    async def replace_source(self, config: SourceConfig, password: str) -> None:
        """Propose what the command line asks for over what is stored, unless they are equal."""
        async with self._source_lock:
            if not self.is_stored(config, password):
                await self._propose_source(config, password)

    def is_stored(self, config: SourceConfig, password: str | None) -> bool:
        """Whether the log holds this configuration (started or not); None leaves out passwords."""
        stored = self._relay.state.source_config
        if stored is None:
            return False
        other = self._copy(stored)
        mine = self._copy(config)
        for each in (other, mine):
            each.ClearField("password")
            each.ClearField("channel")  # it is this one's
            each.started = False
        return bool(other == mine) and (password is None or self._stored_password() == password)

    def _is_running(self, config: SourceConfig, password: str) -> bool:
        stored = self._relay.state.source_config
        if stored is None or not stored.started or not self.is_stored(config, password):
            return False
        # In state `error` a start is the operator's "try again".
        return self._receiver.status().status in {"running", "connecting"}

    def _wanted_source(self, wanted: schema.StartSource) -> tuple[SourceConfig, str]:
        if not wanted.model_fields_set:
            raise BadRequestError("no source is stored", hint="store one first: kingbus source set")
        if not wanted.addresses:
            raise BadRequestError("mysql_addr is required")
        if wanted.flavor not in {"", "mysql", "mariadb"}:
            raise BadRequestError("flavor must be mysql or mariadb")
        stored = self._relay.state.source_config or SourceConfig()
        user = wanted.mysql_user or stored.user
        if not user:
            raise BadRequestError("mysql_user is required")
        mode = wanted.mode or stored.mode or self._mode_begun()
        start_from = wanted.start_from
        if not start_from and mode == (stored.mode or GTID):
            start_from = stored.start_from  # where to begin is said differently in each mode
        config = SourceConfig(
            addresses=wanted.addresses,
            user=user,
            semi_sync=wanted.semi_sync,
            server_id=wanted.syncer_id,
            server_uuid=wanted.syncer_uuid.lower(),
            start_from=checked_start(start_from or "earliest", mode),
            mode=mode,
            flavor=wanted.flavor or self._relay.state.flavor or stored.flavor or MYSQL,
            compression="" if wanted.compression == "none" else wanted.compression,
        )
        if wanted.tls is not None:
            config.tls.CopyFrom(TlsOptions(**wanted.tls.model_dump()))
        problem = unfit_config(config) or unfit_flavor(self._relay.state.flavor, config)
        if problem:
            raise BadRequestError(problem)
        problem = other_mode(self._relay.state, config)
        if problem:
            raise ConflictError(problem)
        password = wanted.mysql_password
        return config, self._stored_password() if password is None else password

    def _mode_begun(self) -> str:
        """What the relay goes by, where a source that was forgotten does not say it any more."""
        state = self._relay.state
        begun = "" if state.is_empty or state.source is None else state.source.mode
        return begun or GTID

    async def _check_source(self, config: SourceConfig, password: str) -> None:
        try:
            with trio.fail_after(SOURCE_CHECK_SECONDS_MAX + 0.5):
                await self._receiver.check_source(config, password)
        except trio.TooSlowError:
            raise SourceRefusedError(
                f"{config.addresses[0]} did not answer within {SOURCE_CHECK_SECONDS_MAX:.0f} s"
            ) from None
        except KingbusError as error:
            raise SourceRefusedError(str(error), hint=error.hint) from error

    async def _propose_source(self, config: SourceConfig, password: str) -> None:
        secret = await self._keys.wait()
        command = Command(source_config=config)
        command.source_config.password.CopyFrom(secret.seal(password, SOURCE_PASSWORD))
        await self._propose(command)
        _log.info(
            "source stored",
            addresses=",".join(config.addresses),
            user=config.user,
            started=config.started,
        )

    def _stored_password(self) -> str:
        stored = self._relay.state.source_config
        if stored is None or not stored.HasField("password"):
            return ""
        secret = self._keys.secret
        if secret is None:
            raise UnavailableError("this node does not have the cluster key yet")
        try:
            return secret.open(stored.password, SOURCE_PASSWORD)
        except SecretError as error:
            raise ConflictError(f"the stored password cannot be read: {error}") from error

    # --- the rest -------------------------------------------------------------------------------

    async def _purge(self, body: object) -> list[dict[str, Any]]:
        wanted = validated(schema.PurgeBinlogs, body)
        if wanted.to is not None:
            await self._purger.purge_to(wanted.to, channel=self._channel)
        else:
            await self._purger.purge_before(wanted.before_seconds, channel=self._channel)
        return [each.model_dump() for each in views.files(self._relay.state, self._archive)]

    async def _set_server(self, body: object) -> str:
        config = _unpack(body, ServerConfig())
        self._node.cluster.require(config.member_id)
        await self._propose(Command(server_config=config))
        return ""

    async def _change_users(self, body: object) -> list[str]:
        order = validated(schema.ChangeUsers, body)
        async with self._users_lock:
            change = plan_users(self._relay.state, order)
            if change.changes is not None:
                await self._propose(Command(user_changes=change.changes))
                _log.info("users changed", action=order.action, users=",".join(order.names))
        return change.left_out

    async def _set_attributes(self, body: object) -> str:
        attributes = _unpack(body, MemberAttributes())
        self._node.cluster.require(attributes.member_id)
        await self._propose(Command(member_attributes=attributes))
        return ""

    async def announce_key(self, secret: ClusterSecret) -> None:
        """Propose the key's id and check; the first one in the log counts."""
        await self._propose(Command(cluster_key=secret.announce()))

    async def _propose(self, command: Command) -> None:
        if self._channel:
            kind = command.WhichOneof("kind")
            assert kind in {"source_config", "accept_gap"}, kind
            getattr(command, kind).channel = self._channel
        self._check_known(command)
        proposal = await self._node.propose(codec.encode(command))
        await proposal.applied()

    def _check_known(self, command: Command) -> None:
        """UnavailableError while a member is too old for it: it would stop, or do without it."""
        needed, state = codec.version_needed(command), self._cluster.state
        late = [
            member.name
            for member in self._node.cluster
            if state.lowest_version([member.id]) < needed
        ]
        if late:
            raise UnavailableError(
                f"this needs a later version of kingbus than {', '.join(late)} runs",
                hint="upgrade every member first",
            )

    @staticmethod
    def _copy(config: SourceConfig) -> SourceConfig:
        copy = SourceConfig()
        copy.CopyFrom(config)
        return copy


def _check_joins_as(wanted: schema.AddMember, known: Member) -> None:
    """ConflictError when who joins again would silently be something else than it asks for."""
    if wanted.learner and not (known.learner and not known.promote):
        is_now = "is to be a voter" if known.learner else "is a voter"
        raise ConflictError(f"member {known.name} {is_now} already", hint="join without --learner")
    if wanted.promote and known.learner and not known.promote:
        raise ConflictError(
            f"member {known.name} is a learner already, and is to stay one",
            hint="join with --learner; it may be promoted afterwards",
        )


def checked_start(start_from: str, mode: str) -> str:
    """`earliest`, `now` or a GTID set on one line; BadRequestError otherwise.

    Without GTIDs it may be a file instead, of which the name is looked at with all the rest.
    """
    word = start_from.strip().lower()
    if word in _START_FROM_WORDS:
        return word
    if mode == POSITION:
        return start_from.strip()
    try:
        return str(GtidSet.parse(start_from))
    except MalformedGtidSetError as error:
        raise BadRequestError(f"start_from must be earliest, now or a GTID set: {error}") from None


P = TypeVar("P", ServerConfig, MemberAttributes)


def packed(message: ServerConfig | MemberAttributes) -> dict[str, str]:
    """A protobuf message as the JSON body of an internal route."""
    return {"message": b64encode(message.SerializeToString()).decode()}


def _unpack(body: object, message: P) -> P:
    try:
        if not isinstance(body, dict):
            raise TypeError
        message.ParseFromString(b64decode(body["message"], validate=True))
    except (KeyError, ValueError, TypeError, DecodeError):
        raise BadRequestError("the body is not a packed message") from None
    return message
