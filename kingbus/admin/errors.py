"""What an admin request can be told, and the HTTP status of every error below this edge.

The table here is the only place where an error becomes a status code.
"""

from typing import ClassVar

from kingbus.errors import ConfigError, KingbusError
from kingbus.membership.errors import (
    DuplicateMemberError,
    JointConfigurationError,
    LastVoterError,
    MembershipError,
    NotALearnerError,
    NotAVoterError,
    RemovedMemberError,
    UnhealthyClusterError,
    UnknownMemberError,
)
from kingbus.node.errors import (
    DialBackError,
    LeaderRemovalError,
    MembershipBusyError,
    NotCaughtUpError,
    NotLeaderError,
    ProposalLostError,
    TransferError,
)
from kingbus.replication.file_content import PastEndError
from kingbus.replication.purger import UnknownFileError
from kingbus.replication.served_rows import InstallingError, PurgedWhileReadingError


class AdminError(KingbusError):
    """A request that is answered with `status` and the message."""

    status: ClassVar[int] = 500


class BadRequestError(AdminError):
    """The request is malformed; it can never succeed as it is."""

    status = 400


class NotFoundError(AdminError):
    """What the request names does not exist."""

    status = 404


class ConflictError(AdminError):
    """The present state does not allow it."""

    status = 409


class GoneError(AdminError):
    """What the request names was here once."""

    status = 410


class SourceRefusedError(AdminError):
    """The source refused, in its own words."""

    status = 502


class UnavailableError(AdminError):
    """Not now: no leader, or the outcome is unknown; repeating is safe."""

    status = 503


class ForwardedError(AdminError):
    """The leader's refusal, handed on as it was; `applied_index` is what it had applied then."""

    def __init__(
        self, status: int, message: str, *, hint: str = "", applied_index: int = 0
    ) -> None:
        super().__init__(message, hint=hint)
        self.forwarded_status = status
        self.applied_index = applied_index


def no_leader() -> UnavailableError:
    """The one answer when a change finds no leader in time."""
    return UnavailableError(
        "no leader", hint="a majority of the members must be up and reach each other"
    )


_STATUS: tuple[tuple[type[KingbusError], int], ...] = (
    (NotLeaderError, 503),
    (ProposalLostError, 503),
    (MembershipBusyError, 409),
    (NotCaughtUpError, 409),
    (DialBackError, 409),
    (LeaderRemovalError, 409),
    (TransferError, 409),
    (UnhealthyClusterError, 409),
    (DuplicateMemberError, 409),
    (LastVoterError, 409),
    (NotALearnerError, 409),
    (NotAVoterError, 409),
    (JointConfigurationError, 409),
    (RemovedMemberError, 410),
    (UnknownMemberError, 404),
    (UnknownFileError, 404),
    (MembershipError, 400),
    (ConfigError, 400),
    (PastEndError, 400),
    (PurgedWhileReadingError, 404),
    (InstallingError, 503),
)


def status_of(error: KingbusError) -> int:
    """The HTTP status that tells this error."""
    if isinstance(error, ForwardedError):
        return error.forwarded_status
    if isinstance(error, AdminError):
        return error.status
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 500


def body_of(error: KingbusError) -> dict[str, str]:
    """The reply's body: the message, and a hint where there is one."""
    message = "no leader" if isinstance(error, NotLeaderError) else str(error)
    body = {"message": message}
    if error.hint:
        body["hint"] = error.hint
    return body
