"""Between Raft's configuration changes and the cluster's membership changes. Pure.

A change is one ConfChange with one operation whose context describes the member; the bootstrap
entries are of that form too. A replacement has two, one that adds the described member and one that
removes the other, and so goes through a joint configuration. Every node reads an entry alike, and a
change that the membership does not allow becomes one that does nothing.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.membership.errors import MembershipError
from kingbus.membership.member import Member
from kingbus.pb import command_pb2
from kingbus.raft.types import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    decode_conf_change,
)

NOTHING = ConfChangeV2(changes=(ConfChangeSingle(ConfChangeType.ADD_NODE, 0),))
"""A change that does nothing: an operation on nobody. One without operations would leave a joint
configuration."""

_TYPES = {
    ChangeKind.PROMOTE: ConfChangeType.ADD_NODE,
    ChangeKind.REMOVE: ConfChangeType.REMOVE_NODE,
    ChangeKind.UPDATE: ConfChangeType.UPDATE_NODE,
}


def to_conf_change(change: MemberChange) -> ConfChangeV2:
    """The change as Raft carries it."""
    member = change.member
    context = member.to_context().SerializeToString()
    if change.kind is ChangeKind.REPLACE:
        return ConfChangeV2(
            changes=(
                ConfChangeSingle(ConfChangeType.ADD_NODE, member.id),
                ConfChangeSingle(ConfChangeType.REMOVE_NODE, change.replaced),
            ),
            context=context,
        )
    if change.kind is ChangeKind.ADD:
        learner = member.learner
        kind = ConfChangeType.ADD_LEARNER_NODE if learner else ConfChangeType.ADD_NODE
    else:
        kind = _TYPES[change.kind]
    return ConfChangeV2(changes=(ConfChangeSingle(kind, member.id),), context=context)


def to_member_change(change: ConfChange | ConfChangeV2, cluster: Cluster) -> MemberChange | None:
    """What a change says about a member of `cluster`; None when it is about nobody.

    MembershipError when it is not of the form that `to_conf_change` makes.
    """
    operations = change.as_v2().changes
    if not operations or operations == NOTHING.changes:
        return None
    if len(operations) > 1:
        return _replacement(operations, change.context)
    operation = operations[0]
    member = _member(change.context, operation.node_id)
    match operation.type:
        case ConfChangeType.REMOVE_NODE:
            return MemberChange(kind=ChangeKind.REMOVE, member=member)
        case ConfChangeType.UPDATE_NODE:
            return MemberChange(kind=ChangeKind.UPDATE, member=member)
        case ConfChangeType.ADD_NODE if operation.node_id in cluster:
            return MemberChange(kind=ChangeKind.PROMOTE, member=member)
        case ConfChangeType.ADD_NODE | ConfChangeType.ADD_LEARNER_NODE:
            wanted = operation.type is ConfChangeType.ADD_LEARNER_NODE
            if member.learner != wanted:
                raise MembershipError(f"the change of {member.name} contradicts itself")
            return MemberChange(kind=ChangeKind.ADD, member=member)


def _replacement(operations: Sequence[ConfChangeSingle], context: bytes) -> MemberChange:
    kinds = [operation.type for operation in operations]
    if kinds != [ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE]:
        raise MembershipError(f"a change of {len(operations)} members at once is not understood")
    added, removed = operations
    member = _member(context, added.node_id)
    if added.node_id == removed.node_id or member.learner:
        raise MembershipError(f"the replacement by {member.name} contradicts itself")
    return MemberChange(kind=ChangeKind.REPLACE, member=member, replaced=removed.node_id)


def taken(
    entry: Entry, cluster: Cluster
) -> tuple[ConfChange | ConfChangeV2, Cluster, MembershipError | None]:
    """What the change in an entry does: to Raft's configuration, and to the membership.

    One that the membership refuses does nothing to either, on every node alike; the error says
    why. A change at or below the index that the membership is from is in it already.
    """
    change = decode_conf_change(entry)
    if entry.index <= cluster.index:
        return change, cluster, None
    try:
        wanted = to_member_change(change, cluster)
        if wanted is not None:
            return change, cluster.apply(entry.index, wanted), None
        if change.as_v2().leaves_joint:
            # The leader's own entry that ends a replacement.
            if not cluster.is_joint:
                return NOTHING, cluster, None
            return change, cluster.left(entry.index), None
    except MembershipError as error:
        return NOTHING, cluster, error
    return change, cluster, None


def _member(context: bytes, member_id: int) -> Member:
    if not context:
        return Member(id=member_id, name="", peer_urls=())
    described = command_pb2.MemberContext()
    try:
        described.ParseFromString(context)
    except DecodeError:
        raise MembershipError(f"the change of {member_id:x} has an unreadable context") from None
    if described.member_id != member_id:
        raise MembershipError(f"a change of {member_id:x} describes {described.member_id:x}")
    return Member.from_context(described)
