"""The dial back: whether a node that wants to join can be reached where it says.

Before a leader proposes to add a node that asks for it itself, it dials the node's peer URL. Who
answers there must know the token that came with the request: a wrong address, a port that is not
open to the others, or another node behind the same address would otherwise become a member that
counts in majorities and never answers. Both halves are here: the joiner's answer, given on its
peer port before it is anybody's member, and the leader's question. What this module must not
know: how the request reached the leader.
"""

import json
import random
import ssl

import trio

from kingbus.membership.cluster import Cluster
from kingbus.node.calls import ASK_SECONDS_MAX, HEALTH
from kingbus.node.errors import DialBackError
from kingbus.transport.call import call_url
from kingbus.transport.errors import TransportError
from kingbus.transport.transport import Transport

TOKEN_BYTES = 16  # nobody guesses it within the seconds for which it counts


async def answer_dial_back(
    listener: trio.SocketListener,
    *,
    name: str,
    token: str,
    server_ssl: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer `health` on the peer port of a node that is no member yet, until cancelled."""
    transport = Transport(
        member_id=0,
        cluster=Cluster(cluster_id=0),
        random=random.SystemRandom(),
        server_ssl=server_ssl,
    )
    answer = json.dumps({"joining": name, "token": token}).encode()

    async def health(_caller: int, _body: bytes) -> bytes:
        return answer

    transport.register(HEALTH, health, strangers=True)
    await transport.serve(listener, task_status=task_status)


async def dial_back(
    url: str,
    *,
    name: str,
    token: str,
    timeout_seconds: float = ASK_SECONDS_MAX,
    ssl_context: ssl.SSLContext | None = None,
) -> None:
    """Return when the joiner of that name and token answers at a peer URL; DialBackError."""
    try:
        reply = await call_url(
            url, HEALTH, timeout_seconds=timeout_seconds, ssl_context=ssl_context
        )
    except TransportError as error:
        raise DialBackError(f"{name} cannot be reached from here: {error}") from error
    try:
        found = json.loads(reply.body) if reply.status == 200 else {}
        joining, theirs = found.get("joining"), found.get("token")
    except (ValueError, AttributeError):
        joining = theirs = None
    if joining != name or theirs != token:
        raise DialBackError(f"{url} is answered by somebody else than the {name} that asked")
