"""Everything the admin API can do, without HTTP.

Local facts are answered from this node's applied state, with or without a leader. What belongs to
the leader is carried there: performed here when this node leads, otherwise by one call to the
leader, after which this node waits until it has applied what the leader had, so that a following
GET here sees the change. Without a leader it waits twice the election timeout.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import trio

from kingbus.admin import schema, views
from kingbus.admin.errors import (
    BadRequestError,
    ConflictError,
    ForwardedError,
    NotFoundError,
    UnavailableError,
    body_of,
    no_leader,
    status_of,
)
from kingbus.admin.leader import (
    ACCEPT_GAP,
    CHANGE_USERS,
    FAIL_OVER,
    NO_SUCH_OPERATION,
    SET_ATTRIBUTES,
    SET_SERVER,
    LeaderOperations,
    packed,
)
from kingbus.admin.protocols import (
    Archive,
    AtRest,
    ChannelDoor,
    Events,
    FileChunk,
    FileContent,
    Identity,
    Listener,
    Node,
    NodeStatus,
    Relay,
    Transport,
)
from kingbus.admin.storage import StorageQuestions
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.membership.member import normalize_url
from kingbus.mysql.errors import MySQLError
from kingbus.node.errors import NotLeaderError, ProposalLostError
from kingbus.pb.command_pb2 import MemberAttributes, ServerConfig
from kingbus.raft.errors import ProposalDroppedError
from kingbus.transport.errors import PeerUnreachableError

_log = get_logger("admin")

CALL_METHOD = "admin"
# A source check takes up to 10 s on the leader; the rest is for the proposal behind it.
CALL_SECONDS_MAX = 20.0
APPLY_SECONDS_MAX = 10.0
_RETRY_SECONDS = 0.05
_LAG_CALL_SECONDS_MAX = 2.0
# Between members only: nothing was done, ask again; and: it may have been done, ask again.
_NOT_LEADER = 421
_OUTCOME_UNKNOWN = 520


def _said(body: object, name: str) -> bool:
    return isinstance(body, dict) and bool(body.get(name))


class _OutcomeUnknownError(KingbusError):
    """An attempt that was made, and of which nobody says what became of it."""


class Operations:
    """See the module. Times in seconds; `warnings` gives what is not wrong but worth knowing,
    `at_rest` in which form the log is stored. `disk_full` says why this node takes nothing new, if
    the disk has no room.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        node: Node,
        relay: Relay,
        listener: Listener,
        transport: Transport,
        leader: LeaderOperations,
        identity: Identity,
        election_timeout: float,
        events: Events,
        content: FileContent,
        archive: Archive | None = None,
        warnings: Callable[[], Iterable[str]] = tuple,
        at_rest: Callable[[], AtRest | None] = lambda: None,
        disk_full: Callable[[], str] = str,
        storage: StorageQuestions | None = None,
        channels: Callable[[], Mapping[str, ChannelDoor]] = dict,
        digest: Callable[[], str] | None = None,
    ) -> None:
        """`channels` gives the named ones that this node serves, `digest` the hash of all of it."""
        self._channels = channels
        self._digest = digest
        self._name = name
        self._version = version
        self._node = node
        self._relay = relay
        self._listener = listener
        self._transport = transport
        self._leader = leader
        self._identity = identity
        self._election_timeout = election_timeout
        self._events = events
        self._content = content
        self._archive = archive
        self._warnings = warnings
        self._at_rest = at_rest
        self._disk_full = disk_full
        self._storage = storage
        self.node_ended = trio.Event()

    # --- local ----------------------------------------------------------------------------------

    def cluster(self) -> list[schema.ClusterMemberData]:
        """The members, and who leads."""
        leader_id = self._node.status().leader_id
        return views.cluster_members(self._node.cluster, self._relay.state, leader_id)

    def members(self) -> list[schema.MemberData]:
        """The members."""
        return views.members(self._node.cluster, self._relay.state)

    def channels(self) -> list[schema.ChannelData]:
        """All channels, the default one first."""
        named = {name: door.relay.state for name, door in self._channels().items()}
        return views.channels(self._relay.state, named)

    def _door(self, channel: str) -> ChannelDoor:
        door = self._channels().get(channel)
        if door is None:
            raise NotFoundError(f"no such channel: {channel}", hint="kingbus channel list")
        return door

    def _listener_of(self, channel: str) -> Listener:
        return self._door(channel).listener if channel else self._listener

    def files(self, channel: str = "") -> list[schema.FileData]:
        """The binlog files held."""
        if channel:
            return views.files(self._door(channel).relay.state, None)
        return views.files(self._relay.state, self._archive)

    def archive(self) -> schema.ArchiveData | None:
        """The archive as this node knows it; None where none is configured."""
        return views.archive_status(self._archive) if self._archive is not None else None

    def archived_files(self) -> list[schema.ArchivedFileData]:
        """What is in the archive."""
        return views.archived_files(self._archive) if self._archive is not None else []

    def status(self) -> schema.NodeStatusData:
        """This node's own view."""
        return views.node_status(
            self._name,
            self._node.status(),
            self._relay.state,
            cluster_id=self._node.cluster.cluster_id,
            version=self._version,
            warnings=self._warnings(),
            at_rest=self._at_rest(),
            state_hash=self._digest() if self._digest else self._relay.state.digest(),
        )

    def server_status(self, channel: str = "") -> schema.ServerStatusData:
        """This node's replica-facing listener."""
        state = self._door(channel).relay.state if channel else self._relay.state
        listener = self._listener_of(channel)
        return views.server_status(
            state,
            state.servers.get(self._node.status().member_id),
            listener.replicas(),
            running=listener.is_running,
        )

    @property
    def storage(self) -> StorageQuestions:
        """What others ask of this node's log. ConflictError where there is none."""
        if self._storage is None:
            raise ConflictError("the log of this node is not open")
        return self._storage

    async def events(
        self, file: str, position: int, limit: int, *, channel: str = ""
    ) -> list[schema.EventData]:
        """Events of a file held here. NotFoundError; BadRequestError for a wrong position."""
        read = self._door(channel).events if channel else self._events
        try:
            found = await read(file, position, 0, limit)
        except MySQLError as error:
            raise BadRequestError(error.message) from error
        if found is None:
            raise NotFoundError(f"no such file: {file}")
        return [
            schema.EventData(
                file=event.file,
                position=event.position,
                event_type=event.event_type,
                server_id=event.server_id,
                end_position=event.end_position,
                info=event.info,
            )
            for event in found
        ]

    async def content(
        self, file: str, offset: int, size_max: int, *, channel: str = ""
    ) -> FileChunk:
        """Bytes of a file held here, as the source has them. NotFoundError, and what reading says.

        The offset counts what is held: in a file without gaps it is the position.
        """
        read = self._door(channel).content if channel else self._content
        found = await read(file, offset, size_max)
        if found is None:
            raise NotFoundError(f"no such file: {file}")
        return found

    async def health(self, *, lag_seconds: float | None = None) -> schema.HealthData:
        """Raises UnavailableError with the reason when this node does not do its work.

        A missing leader is the cluster's trouble, not this process's, so it is no reason here: a
        supervisor that restarts on `/health` must not restart the surviving minority.
        """
        return await self._checked(lag_seconds, needs_leader=False)

    async def ready(self, *, lag_seconds: float | None = None) -> schema.HealthData:
        """Raises UnavailableError with the reason when replicas should go to another node."""
        return await self._checked(lag_seconds, needs_leader=True)

    @property
    def is_ready(self) -> bool:
        """Whether `/ready` answers 200."""
        status = self._node.status()
        knows_cluster = self._node.cluster.get(status.member_id) is not None
        hears = bool(status.leader_id) and knows_cluster
        return hears and not _is_installing(status) and not self._disk_full()

    async def _checked(
        self, lag_seconds_max: float | None, *, needs_leader: bool
    ) -> schema.HealthData:
        status = self._node.status()
        if needs_leader and not status.leader_id:
            raise no_leader()
        if needs_leader and self._node.cluster.get(status.member_id) is None:
            raise UnavailableError("this node does not know the cluster's members yet")
        if needs_leader and _is_installing(status):
            raise UnavailableError("this node is installing a snapshot")
        if needs_leader and (reason := self._disk_full()):
            raise UnavailableError(f"{reason}; what is here is served")
        lag = None
        if lag_seconds_max is not None:
            lag = await self._lag_seconds()
            if lag is None:
                raise UnavailableError("the lag behind the source is unknown")
            if lag > lag_seconds_max:
                raise UnavailableError(
                    f"{lag:.0f} s behind the source, {lag_seconds_max:g} allowed"
                )
        return schema.HealthData(
            role=status.role, leader=schema.member_id_text(status.leader_id), lag_seconds=lag
        )

    async def _lag_seconds(self) -> float | None:
        """How old this node's newest event is while the cluster has newer ones; None: unknown."""
        try:
            with trio.fail_after(_LAG_CALL_SECONDS_MAX):
                theirs = await self.forward("GET", "/binlog/syncer/status", None, wait=False)
        except (KingbusError, trio.TooSlowError):
            return None
        behind = theirs["seconds_behind_source"]
        if behind is None:
            return None
        state = self._relay.state
        status = self._node.status()
        if status.applied >= status.committed or not state.last_event_time:
            return float(behind)
        return max(float(behind), time.time() - state.last_event_time)

    # --- the listener of this node --------------------------------------------------------------

    async def start_server(self, body: schema.StartServer) -> str:
        """Bind here, then have the configuration replicated."""
        listener = self._listener_of(body.channel)
        await listener.start(body.addr, body.user, body.password, admin=body.admin)
        return ""

    async def stop_server(self, channel: str = "") -> str:
        """Close the listener and its dumps; it stays closed over restarts."""
        await self._listener_of(channel).stop()
        return ""

    async def store_server(self, config: ServerConfig) -> None:
        """Have this node's listener configuration replicated and applied here."""
        await self.forward("PUT", SET_SERVER, packed(config))

    async def store_attributes(self, attributes: MemberAttributes) -> None:
        """Have this member's attributes replicated and applied here."""
        await self.forward("PUT", SET_ATTRIBUTES, packed(attributes))

    # --- the leader's ---------------------------------------------------------------------------

    async def forward(self, method: str, path: str, body: object, *, wait: bool = True) -> Any:
        """Have the leader perform an operation; the reply's data, once it is applied here.

        Raises KingbusErrors, the leader's own refusal among them. UnavailableError after
        2 x election-timeout without a leader. An attempt whose outcome is unknown is repeated, as
        repeating is safe; when the repeat is refused because it is done, it was done. Only the next
        one of several sources is not taken twice.
        """
        patience = 2 * self._election_timeout
        deadline = trio.current_time() + CALL_SECONDS_MAX
        unknown: _OutcomeUnknownError | None = None
        while True:
            done, data = False, None
            try:
                done, data = await self._attempt(method, path, body, wait=wait)
            except _OutcomeUnknownError as error:
                unknown = error
                if path == FAIL_OVER and not _said(body, "to"):
                    raise UnavailableError(
                        str(error), hint="kingbus source status tells from where it is pulled now"
                    ) from error
            except KingbusError as error:
                if unknown is None or not await self._is_done(method, path, body, error):
                    raise
                return self._data_of(path, body)
            if done:
                return data
            # The time that a leader took does not count: one that is to be removed, say, may wait
            # for its turn before it hands over, and then the next one is asked.
            patience -= _RETRY_SECONDS
            if patience <= 0 or trio.current_time() >= deadline:
                if unknown is not None:
                    raise UnavailableError(str(unknown), hint="repeating is safe") from unknown
                raise UnavailableError(data) if data else no_leader()
            await trio.sleep(_RETRY_SECONDS)

    async def _attempt(
        self, method: str, path: str, body: object, *, wait: bool
    ) -> tuple[bool, Any]:
        """Whether it was done, and the data; not done means that nothing happened.

        The data is then why the leader was not reached, if there is one. _OutcomeUnknownError.
        """
        status = self._node.status()
        if status.leader_id == status.member_id:
            if not self._node.leadership.is_ready:
                return False, None
            try:
                data, _ = await self._leader.perform(method, path, body)
            except (NotLeaderError, ProposalDroppedError):
                return False, None
            except ProposalLostError as error:
                if error.outcome_known:
                    return False, None
                raise _OutcomeUnknownError(f"the outcome is unknown: {error}") from error
            return True, data
        if not status.leader_id:
            return False, None
        return await self._ask_leader(status.leader_id, method, path, body, wait=wait)

    async def _ask_leader(
        self, leader_id: int, method: str, path: str, body: object, *, wait: bool
    ) -> tuple[bool, Any]:
        request = json.dumps({"method": method, "path": path, "body": body}).encode()
        try:
            reply = await self._transport.call(
                leader_id, CALL_METHOD, request, timeout=CALL_SECONDS_MAX
            )
        except PeerUnreachableError as error:
            if error.was_sent:
                raise _OutcomeUnknownError(f"the leader's answer is missing: {error}") from error
            return False, f"the leader is not reached: {error}"
        except KingbusError as error:
            return False, f"the leader is not reached: {error}"
        if reply.status != 200:
            raise ForwardedError(reply.status, f"the leader does not answer: {reply.message}")
        answer = json.loads(reply.body)
        if answer["status"] == _NOT_LEADER:
            return False, None
        if answer["status"] == _OUTCOME_UNKNOWN:
            raise _OutcomeUnknownError(answer["body"]["message"])
        if answer["status"] != 200:
            message = answer["body"]["message"]
            if answer["status"] == 404 and message.startswith(NO_SUCH_OPERATION):
                # Else it would be taken for what was asked about not being there.
                raise UnavailableError(
                    "this needs a later version of kingbus than the leader runs",
                    hint="upgrade every member first",
                )
            raise ForwardedError(
                answer["status"],
                message,
                hint=answer["body"].get("hint", ""),
                applied_index=answer["applied_index"],
            )
        if wait:
            await self._wait_applied(answer["applied_index"])
        return True, answer["body"]["data"]

    def _state_of(self, body: Any) -> RelayState:
        """Of the channel that a request names."""
        channel = body.get("channel", "")
        return self._door(channel).relay.state if channel else self._relay.state

    def _data_of(self, path: str, body: Any) -> Any:
        """The answer where the first attempt's was lost."""
        if path == CHANGE_USERS:
            return []
        if path == FAIL_OVER:
            return schema.FailoverData(mysql_addr=body["to"], notes=[]).model_dump()
        if path == ACCEPT_GAP:
            return ""
        members = views.members(self._node.cluster, self._relay.state)
        return [member.model_dump(by_alias=True) for member in members]

    async def _is_done(self, method: str, path: str, body: Any, refusal: KingbusError) -> bool:
        """Whether a repeat was refused because all is as the first attempt wanted it."""
        status = status_of(refusal)
        if isinstance(refusal, ForwardedError):
            await self._wait_applied(refusal.applied_index)
        match method, path:
            case "DELETE", "/members":
                return status == 410
            case "POST", "/members":
                added = self._node.cluster.named(body["name"])
                url = normalize_url(body["peer_url"])
                return status == 409 and added is not None and url in added.peer_urls
            case "PUT", path if path == CHANGE_USERS:
                left = {user["name"] for user in body["users"]} & set(self._relay.state.users)
                return body["action"] == "drop" and status == 404 and not left
            case "PUT", path if path == FAIL_OVER:
                source = self._state_of(body).source_config
                is_first = source is not None and list(source.addresses[:1]) == [body["to"]]
                return status == 409 and is_first and source is not None and source.started
            case "PUT", path if path == ACCEPT_GAP:
                gap = GtidSet.parse(body["gtid_set"])
                return status == 409 and self._state_of(body).executed.contains(gap)
            case "POST", "/members/replace":
                by = self._node.cluster.named(body["new_name"])
                return status == 410 and by is not None and not by.learner
            case _:
                return False

    async def _wait_applied(self, index: int) -> None:
        applied = False
        with trio.move_on_after(APPLY_SECONDS_MAX):
            async with trio.open_nursery() as nursery:

                async def wait_for_node() -> None:
                    nonlocal applied
                    await self._node.wait_applied(index)
                    applied = True
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait_for_node)
                # A member that was just removed, at its own request, applies nothing any more.
                await self.node_ended.wait()
                applied = True
                nursery.cancel_scope.cancel()
        if not applied:
            raise UnavailableError(
                f"it is done, but this node has not applied index {index} yet",
                hint="repeating is safe",
            )

    async def handle_call(self, caller: int, body: bytes) -> bytes:
        """The leader's side of a forwarded request, as the transport delivers it."""
        request = json.loads(body)
        try:
            if not self._node.leadership.is_ready:
                raise NotLeaderError(self._node.status().leader_id)
            data, index = await self._leader.perform(
                request["method"], request["path"], request["body"]
            )
            answer = {"status": 200, "body": {"data": data}, "applied_index": index}
        except (NotLeaderError, ProposalDroppedError) as error:
            answer = {"status": _NOT_LEADER, "body": body_of(error), "applied_index": 0}
        except ProposalLostError as error:
            status = _NOT_LEADER if error.outcome_known else _OUTCOME_UNKNOWN
            message = f"the outcome is unknown: {error}"
            answer = {"status": status, "body": {"message": message}, "applied_index": 0}
        except KingbusError as error:
            index = self._relay.applied_index
            answer = {"status": status_of(error), "body": body_of(error), "applied_index": index}
        except Exception:  # noqa: BLE001 - a request's error ends that request only
            _log.exception("forwarded request failed", caller=f"{caller:x}", path=request["path"])
            message = "internal error on the leader; its log tells more"
            answer = {"status": 500, "body": {"message": message}, "applied_index": 0}
        return json.dumps(answer).encode()


def _is_installing(status: NodeStatus) -> bool:
    return status.catch_up is not None and status.catch_up.installing


def parse_lag(text: str | None) -> float | None:
    """The `lag_seconds` of a query; ValueError when it is no sensible number."""
    if text is None:
        return None
    lag = float(text)
    if not math.isfinite(lag) or lag < 0:
        raise ValueError("must be a number of seconds")
    return lag
