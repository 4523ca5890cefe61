"""The errors of the Raft core.

They tell the host what it can do next; a broken invariant is an assertion and ends the process.
Of the rest of kingbus the package knows only the common root of errors.
"""

from kingbus.errors import KingbusError


class RaftError(KingbusError):
    """The root of the errors that the core raises."""


class ProposalDroppedError(RaftError):
    """The proposal was not taken: no leader, a leadership transfer, or too much is uncommitted.

    Nothing was appended here, so it may be proposed again.
    """

    def __init__(self, message: str = "raft proposal dropped") -> None:
        super().__init__(message)


class StepLocalMessageError(RaftError):
    """A message of a kind that only the node itself may produce came from outside."""

    def __init__(self, message: str = "raft: cannot step raft local message") -> None:
        super().__init__(message)


class StepPeerNotFoundError(RaftError):
    """A response came from an id that is not in the present configuration."""

    def __init__(self, message: str = "raft: cannot step as peer not found") -> None:
        super().__init__(message)


class MalformedMessageError(RaftError):
    """A message contradicts itself; nothing of it was taken."""


class ConfChangeError(RaftError):
    """A configuration change that the present configuration does not allow."""


class DecodeError(RaftError):
    """Bytes that are not the encoding of a configuration change."""


class CompactedError(RaftError):
    """The asked index is not in the log any more."""

    def __init__(self, message: str = "requested index is unavailable due to compaction") -> None:
        super().__init__(message)


class UnavailableError(RaftError):
    """The asked index is not in the log yet."""

    def __init__(self, message: str = "requested entry at index is unavailable") -> None:
        super().__init__(message)


class SnapshotOutOfDateError(RaftError):
    """The offered snapshot is not newer than the one that the storage has."""

    def __init__(
        self, message: str = "requested index is older than the existing snapshot"
    ) -> None:
        super().__init__(message)


class SnapshotTemporarilyUnavailableError(RaftError):
    """The storage has no fresh snapshot at the moment; the leader asks again later."""

    def __init__(self, message: str = "snapshot is temporarily unavailable") -> None:
        super().__init__(message)
