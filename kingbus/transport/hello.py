"""Who may talk to whom: the answer to a hello, decided from the membership as applied here.

Every connection begins with a hello. The order of the questions matters: a sender may be told that
it was removed only after it has proved to speak of this cluster. A sender that nobody here knows
is refused only when this member is at least as far as the sender: a member that lags must not
turn away a leader that was added since. What this module must not know: sockets.
"""

from dataclasses import dataclass
from enum import Enum

from kingbus.membership.cluster import Cluster
from kingbus.membership.errors import MembershipError
from kingbus.membership.member import normalize_url
from kingbus.pb import peer_pb2
from kingbus.transport.codec import PROTOCOL

PEER_URLS_MAX = 16  # far more addresses than a machine has for this


class Lane(Enum):
    """What a connection is for."""

    URGENT = "urgent"
    """Votes, heartbeats, answers: nothing that takes long to send."""
    APPEND = "append"
    """Entries and snapshots, in order."""
    CALL = "call"
    """One question and its answer."""


class Refusal:
    """The codes of a HelloReply."""

    VERSION = "version"
    CLUSTER = "cluster-mismatch"
    RECEIVER = "wrong-receiver"
    REMOVED = "removed"
    UNKNOWN = "unknown-member"
    BUSY = "busy"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer: refused with a code and a reason, or accepted.

    `is_member`: the sender is one, as far as can be known here. `is_remote`: it is one that this
    member has not heard of yet, and may be dialled at `peer_urls`.
    """

    lane: Lane | None = None
    code: str = ""
    reason: str = ""
    is_member: bool = False
    is_remote: bool = False
    peer_urls: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """True when the connection goes on."""
        return not self.code

    def reply(self) -> peer_pb2.HelloReply:
        """What the sender is told."""
        return peer_pb2.HelloReply(accepted=self.accepted, code=self.code, reason=self.reason)


def judge(hello: peer_pb2.Hello, *, member_id: int, cluster: Cluster) -> Verdict:
    """Whether this member (`member_id`, going by `cluster`) talks to the sender of the hello.

    A call may come from a stranger, who does not know the cluster yet and says 0 for what it
    does not know; which methods a stranger may call is another question.
    """
    if hello.protocol != PROTOCOL:
        return Verdict(
            code=Refusal.VERSION,
            reason=f"protocol {hello.protocol} of version {hello.version!r}; {PROTOCOL} is spoken",
        )
    try:
        lane = Lane(hello.lane)
    except ValueError:
        return Verdict(code=Refusal.MALFORMED, reason=f"lane {hello.lane!r} is unknown")
    is_call = lane is Lane.CALL
    if hello.cluster_id != cluster.cluster_id and not (is_call and hello.cluster_id == 0):
        return Verdict(
            code=Refusal.CLUSTER,
            reason=f"cluster {hello.cluster_id:x}, this is a member of {cluster.cluster_id:x}",
        )
    if hello.receiver != member_id and not (is_call and hello.receiver == 0):
        return Verdict(
            code=Refusal.RECEIVER,
            reason=f"meant for member {hello.receiver:x}, this is {member_id:x}",
        )
    if hello.sender in cluster.removed:
        return Verdict(
            code=Refusal.REMOVED, reason=f"member {hello.sender:x} was removed from the cluster"
        )
    return _judge_sender(hello, lane, cluster)


def _judge_sender(hello: peer_pb2.Hello, lane: Lane, cluster: Cluster) -> Verdict:
    if hello.cluster_id and hello.sender in cluster:
        return Verdict(lane=lane, is_member=True)
    if lane is Lane.CALL:
        return Verdict(lane=lane)
    if hello.members_index <= cluster.index:
        return Verdict(
            code=Refusal.UNKNOWN, reason=f"member {hello.sender:x} is not in the cluster"
        )
    urls = _dialable(hello)
    if not urls:
        return Verdict(
            code=Refusal.UNKNOWN,
            reason=f"member {hello.sender:x} is not known here yet and gave no usable address",
        )
    return Verdict(lane=lane, is_member=True, is_remote=True, peer_urls=urls)


def _dialable(hello: peer_pb2.Hello) -> tuple[str, ...]:
    found = []
    for url in hello.peer_urls[:PEER_URLS_MAX]:
        try:
            found.append(normalize_url(url))
        except MembershipError:
            continue
    return tuple(found)
