"""What `kingbus join` and `leave` have to settle with a running cluster, over its admin API.

A join first finds out everything that can be found out here: whose directory it is, whether the
addresses are free and there is room. Only then is the cluster asked, because a member that was
added and cannot start counts all the same. What this module must not know: how a node runs.
"""

import random
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from kingbus import log
from kingbus.addresses import Address, Url
from kingbus.admin.client import AdminApiError, AdminClient
from kingbus.admin.serving import bind, listen
from kingbus.config import Config
from kingbus.errors import KingbusError
from kingbus.membership.cluster import parse_initial_cluster
from kingbus.node.bootstrap import check_owner, is_marked_removed
from kingbus.node.joining import TOKEN_BYTES, answer_dial_back
from kingbus.storage.directory import DataDirectory, Identity, identity_in
from kingbus.storage.files import LocalFileSystem

_log = log.get_logger("daemon")

GREET_SECONDS_MAX = 5.0  # a live member answers in milliseconds; a hanging one must not hold us up


class JoinRefusedError(KingbusError):
    """This node cannot join, or leave, like this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """The member to ask, and whether to stay without a vote."""

    api: AdminClient
    learner: bool


async def joined(
    joining: Joining, config: Config, directory: DataDirectory, *, listens: Address, key_id: str
) -> Config:
    """The configuration to run with: the cluster's view of this node in it, once it is a member.

    `listens` is where the peer port will listen; it is bound already. `key_id` names the configured
    cluster key, empty for none. A directory that has a log is not joined anew. Raises what the
    API and the listening raise, JoinRefusedError, RestartError and MemberRemovedError.
    """
    with joining.api as api:
        if directory.has_log:
            _log.info("this data directory belongs to a member already; it is only started")
            await _greet(api, config, directory.identity)
            return config
        check_owner(
            config.name,
            directory.identity,
            is_removed=await _in_thread(is_marked_removed, directory),
        )
        await _in_thread(_check_place, config, directory)
        check_same_cluster(config, directory.identity, await _in_thread(cluster_of, api))
        members = await _added(joining, config, listens, key_id)
    own = next((each for each in members if each["name"] == config.name), None)
    if own is None:
        raise JoinRefusedError(f"the cluster does not name {config.name} among its members")
    known = ",".join(f"{each['name']}={url}" for each in members for url in each["peerURLs"])
    return config.model_copy(
        update={
            "peer_url": Url.parse(own["peerURLs"][0]),
            "initial_cluster": parse_initial_cluster(known),
            "initial_cluster_state": "existing",
        }
    )


async def _greet(api: AdminClient, config: Config, identity: Identity | None) -> None:
    """Nobody has to answer a member that is only started; who does must be of its cluster."""
    try:
        cluster_id = await _in_thread(cluster_of, api)
    except AdminApiError as error:
        _log.warning("who was to be asked does not tell which cluster it is of", reason=str(error))
        return
    check_same_cluster(config, identity, cluster_id)


def cluster_of(api: AdminClient) -> int:
    """The cluster of the member asked; AdminApiError. Blocks."""
    return int(api.ask("GET", "/status", seconds=GREET_SECONDS_MAX)["cluster_id"], 16)


def check_same_cluster(config: Config, identity: Identity | None, cluster_id: int) -> None:
    """JoinRefusedError when the data directory is of another cluster."""
    if identity is not None and identity.cluster_id != cluster_id:
        raise JoinRefusedError(
            f"data-dir {config.data_dir} belongs to a member of cluster {identity.cluster_id:x},"
            f" the cluster asked is {cluster_id:x}",
            hint="ask a member of its own cluster; to join this one, use an empty data-dir",
        )


def leaving(config: Config, api: AdminClient) -> dict[str, str]:
    """The body that removes this node and no other one that has its name by now. Blocks.

    JoinRefusedError when the cluster asked is another one, or when nothing tells who this node is.
    """
    identity = identity_in(config.data_dir)
    check_same_cluster(config, identity, cluster_of(api))
    if identity is not None:
        return {"name": identity.name, "id": f"{identity.member_id:x}"}
    if config.peer_url.address.is_wildcard:
        raise JoinRefusedError(
            f"data-dir {config.data_dir} holds no member, and peer-url is a wildcard: which member"
            " is to leave is not known",
            hint=f"kingbus member remove {config.name}",
        )
    return {"name": config.name, "peer_url": str(config.peer_url)}


def _check_place(config: Config, directory: DataDirectory) -> None:
    """What a start would find wrong, found before anybody else is troubled. Blocks."""
    needed, free = 2 * config.segment_size, LocalFileSystem().free_bytes(directory.path)
    if free < needed:
        raise JoinRefusedError(
            f"data-dir {directory.path} has {free} bytes free; two segments need {needed}"
        )
    if config.server is not None and config.server.addr is not None:
        bind(config.server.addr, what="server.addr").close()


async def _added(
    joining: Joining, config: Config, listens: Address, key_id: str
) -> list[dict[str, Any]]:
    """Have the cluster add this node; its members then.

    Meanwhile the peer port answers the leader, which dials back before it proposes anything. Then
    it is closed again: a peer that asks before the node runs must be refused and not wait. The
    address stays bound by the socket that will listen, so nobody else takes it.
    """
    token = random.SystemRandom().randbytes(TOKEN_BYTES).hex()
    body: dict[str, object] = {
        "name": config.name,
        "peer_url": str(config.peer_url),
        "admin_url": str(config.admin_url),
        "learner": joining.learner,
        "promote": not joining.learner,
        "dial_back": token,
        "key_id": key_id,
    }
    opened = listen(listens, what="peer-url")
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(opened))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(answer_dial_back, listener, name=config.name, token=token))
            members = await _in_thread(joining.api.ask, "POST", "/members", body)
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(listener)
    return list(members)


async def _in_thread(function: Any, *arguments: Any) -> Any:
    # A signal must end the start at once. Whether the cluster heard the request is unknown then;
    # repeating it is safe.
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
