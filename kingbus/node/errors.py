"""What a caller of the node can be told: who leads instead, or that an outcome is unknown."""

from kingbus.errors import KingbusError


class NodeError(KingbusError):
    """The root of the errors that the node raises."""


class NotLeaderError(NodeError):
    """Only the leader can do this; `leader_id` says who that is (0: nobody known).

    Nothing was done here, so an edge may forward the request to that member.
    """

    hint = "Ask the leader."

    def __init__(self, leader_id: int) -> None:
        super().__init__(f"not the leader (leader: {leader_id:x})" if leader_id else "no leader")
        self.leader_id = leader_id


class NoLeaderError(NotLeaderError):
    """No leader is known, and none showed up in the time that elections take."""

    hint = "A majority of the members must be up and reach each other."

    def __init__(self) -> None:
        super().__init__(0)


class ProposalLostError(NodeError):
    """The outcome of a proposal is unknown: leadership ended before it was seen to commit.

    Where another entry took its index, it is certain that it did not commit (`outcome_known`).
    """

    hint = "Look at the state before proposing it again."

    def __init__(self, message: str, *, outcome_known: bool = False) -> None:
        super().__init__(message)
        self.outcome_known = outcome_known


class EntryTooLargeError(NodeError):
    """No frame between members has room for such an entry."""


class DialBackError(NodeError):
    """A node that asks to join does not answer where it says that it is; nothing was changed."""

    hint = "peer-url must be an address at which the other members reach this node."


class LeaderRemovalError(NodeError):
    """The leader was to be removed or moved and no other member could take over."""

    hint = "Bring another voter up, or transfer leadership by hand, then try again."


class TransferError(NodeError):
    """Leadership did not move within an election timeout; the old leader goes on."""

    hint = "Look at whether that member is up and has caught up, then try again."


class MembershipBusyError(NodeError):
    """Another membership change is not applied yet; there is only one at a time."""

    hint = "Try again in a moment."


class NotCaughtUpError(NodeError):
    """A learner that is still far behind is not made a voter."""

    hint = "Try again when its log has caught up with the leader's."


class RestartError(NodeError):
    """What is on disk cannot be started from, or not with this configuration."""


class StaleDirectoryError(NodeError):
    """This member's log ends before what it acknowledged: an older copy of it was put back."""

    hint = (
        "Bring the newest directory back, or remove this member and add it anew with an empty one;"
        " with the older one it lost what it promised."
    )


class BootstrapError(NodeError):
    """A new member cannot start or join as configured."""


class MemberRemovedError(NodeError):
    """This member was removed from the cluster; its directory cannot be used again."""

    hint = "Add it as a new member with an empty data directory."
