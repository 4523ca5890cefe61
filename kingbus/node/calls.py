"""What a member answers about the cluster to whoever asks: the calls `cluster` and `health`.

Strangers may ask both: a node that starts or joins knows an address and nothing else. Bodies are
JSON, ids in hexadecimal. What this module must not know: sockets; `call_url` has them.
"""

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kingbus.membership.cluster import Cluster
from kingbus.membership.member import Member
from kingbus.node.node import Node
from kingbus.transport.call import call_url
from kingbus.transport.connection import Dial, dial
from kingbus.transport.errors import PeerUnreachableError
from kingbus.transport.transport import Transport

CLUSTER = "cluster"
HEALTH = "health"
ASK_SECONDS_MAX = 3.0  # a live member answers in milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAnswer:
    """What a member knows: the membership, who leads, and which members have ever taken part.

    `key_id` names the announced cluster key, which tells nothing about it; empty: not known.
    `origin_id` is the cluster that replicas and source know this one as, where it is another.
    `acknowledged` gives, for a member, the newest term and index that it told this one as leader.
    """

    cluster: Cluster
    member_id: int
    leader_id: int
    bootstrapped: frozenset[int]
    key_id: str = ""
    origin_id: int = 0
    acknowledged: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """JSON."""
        cluster = self.cluster
        return json.dumps(
            {
                "cluster_id": f"{cluster.cluster_id:x}",
                "index": cluster.index,
                "members": [
                    {
                        "id": f"{member.id:x}",
                        "name": member.name,
                        "peer_urls": member.peer_urls,
                        "admin_urls": member.admin_urls,
                        "learner": member.learner,
                        "promote": member.promote,
                    }
                    for member in cluster
                ],
                "removed": [f"{each:x}" for each in sorted(cluster.removed)],
                "member_id": f"{self.member_id:x}",
                "leader_id": f"{self.leader_id:x}",
                "bootstrapped": [f"{each:x}" for each in sorted(self.bootstrapped)],
                "key_id": self.key_id,
                "origin_id": f"{self.origin_id:x}",
                "acknowledged": {f"{each:x}": at for each, at in self.acknowledged.items()},
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ClusterAnswer":
        """The reverse; ValueError when it is none."""
        try:
            found: dict[str, Any] = json.loads(data)
            members = tuple(
                Member(
                    id=int(each["id"], 16),
                    name=str(each["name"]),
                    peer_urls=tuple(map(str, each["peer_urls"])),
                    admin_urls=tuple(map(str, each["admin_urls"])),
                    learner=bool(each["learner"]),
                    promote=bool(each["promote"]),
                )
                for each in found["members"]
            )
            cluster = Cluster(
                cluster_id=int(found["cluster_id"], 16),
                index=int(found["index"]),
                members=tuple(sorted(members, key=lambda member: member.id)),
                removed=frozenset(int(each, 16) for each in found["removed"]),
            )
            return cls(
                cluster=cluster,
                member_id=int(found["member_id"], 16),
                leader_id=int(found["leader_id"], 16),
                bootstrapped=frozenset(int(each, 16) for each in found["bootstrapped"]),
                key_id=str(found.get("key_id", "")),
                origin_id=int(found.get("origin_id", "0"), 16),
                acknowledged={
                    int(each, 16): (int(term), int(index))
                    for each, (term, index) in found.get("acknowledged", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not an answer about a cluster: {error!r}") from None


def register_calls(
    transport: Transport,
    node: Node,
    *,
    took_part: Callable[[int], bool] = lambda _: False,
    key_id: Callable[[], str] = lambda: "",
    origin_id: int = 0,
) -> None:
    """Answer both calls from this node.

    The rest adds what the applied log knows: whether a member has ever announced itself, and which
    cluster key was announced; and `origin_id`, see ClusterAnswer.
    """

    async def cluster(_caller: int, _body: bytes) -> bytes:
        known = node.cluster
        seen = {
            member.id
            for member in known
            if member.id == node.member_id
            or node.peers.took_part(member.id)
            or took_part(member.id)
        }
        status = node.status()
        return ClusterAnswer(
            cluster=known,
            member_id=node.member_id,
            leader_id=status.leader_id,
            bootstrapped=frozenset(seen),
            key_id=key_id(),
            origin_id=origin_id,
            acknowledged={
                member.id: at
                for member in known
                if (at := node.peers.acknowledgement(member.id)) != (0, 0)
            },
        ).encode()

    async def health(_caller: int, _body: bytes) -> bytes:
        status = node.status()
        return json.dumps(
            {
                "member_id": f"{status.member_id:x}",
                "role": status.role,
                "leader_id": f"{status.leader_id:x}",
                "applied": status.applied,
            }
        ).encode()

    transport.register(CLUSTER, cluster, strangers=True)
    transport.register(HEALTH, health, strangers=True)


async def ask_cluster(
    url: str,
    *,
    timeout_seconds: float = ASK_SECONDS_MAX,
    ssl_context: ssl.SSLContext | None = None,
    dial: Dial = dial,
) -> ClusterAnswer:
    """What the member at a peer URL knows; TransportError kin when it does not say."""
    reply = await call_url(
        url, CLUSTER, timeout_seconds=timeout_seconds, ssl_context=ssl_context, dial=dial
    )
    if reply.status != 200:
        raise PeerUnreachableError(f"{url}: {reply.message or f'status {reply.status}'}")
    try:
        return ClusterAnswer.decode(reply.body)
    except ValueError as error:
        raise PeerUnreachableError(f"{url}: {error}") from None
