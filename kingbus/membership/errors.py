"""What can be wrong with a membership change; one name per answer that an operator gets."""

from kingbus.errors import KingbusError


class MembershipError(KingbusError):
    """A change that the present membership does not allow; nothing was changed."""


class PeerUrlError(MembershipError):
    """An address that peers cannot be reached at."""

    hint = "Write it like http://10.0.0.1:9590."


class MemberNameError(MembershipError):
    """A name that cannot stand in `initial-cluster`, a command line or a log line."""


class DuplicateMemberError(MembershipError):
    """The name or the peer URL belongs to another member."""


class UnknownMemberError(MembershipError):
    """No member has this name or id, and none ever had."""


class RemovedMemberError(MembershipError):
    """The member was removed before; its id never comes back."""


class LastVoterError(MembershipError):
    """Without its last voter the cluster could never decide anything again."""


class NotALearnerError(MembershipError):
    """Only a learner can be promoted."""


class NotAVoterError(MembershipError):
    """Only a voter can be replaced."""

    hint = "Remove the learner and add the other."


class JointConfigurationError(MembershipError):
    """A replacement is under way: until the old half is left, no other change is possible."""

    hint = "It ends by itself as soon as a majority of both halves is up; then try again."


class UnhealthyClusterError(MembershipError):
    """Too few voters are up to agree to the change, or to go on after it."""

    hint = "Bring the members that are down up again, or remove those that never come back."
