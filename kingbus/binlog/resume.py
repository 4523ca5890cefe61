"""From where a session goes on, and whether the source still has there what the relay holds.

Owns the resume point and the comparison of the last stored transaction with what the source sends
again. Knows nothing of packets or batches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kingbus.binlog.boundary import Indexes
from kingbus.binlog.errors import SourceLostTailError
from kingbus.binlog.gtid import GtidSet
from kingbus.pb.command_pb2 import FileStart, LastTransaction


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """From where a session goes on, as the relay state says at the session's entry."""

    channel: int
    epoch: int
    session: int
    by_position: bool
    """Whether the dump was asked for by file and position, so that nothing is skipped."""
    file_name: str
    """"" when the relay holds no file of this epoch."""
    position: int
    """The visible end in that file."""
    executed: GtidSet
    """Owned by the stream, which adds what it hands out."""
    file_created: int
    """The time in the header of that file's FORMAT_DESCRIPTION, 0 if there is no file."""
    file_start: FileStart | None
    last_transaction: LastTransaction | None
    """Read again and compared when the dump begins at or before it."""
    dump_position: int
    """Where the dump was asked from, at most `position`."""
    gtid_mode: bool = True
    """Every transaction must have a GTID."""
    held_files: Mapping[str, int] = field(default_factory=dict)
    """Names of the epoch's files and the times in their FORMAT_DESCRIPTION headers."""


class HeldTail:
    """Compares what the source sends again with the last stored transaction."""

    __slots__ = ("_has_first", "_has_last", "_last", "_resume")

    def __init__(self, resume: ResumePoint) -> None:
        last = resume.last_transaction
        is_sent_again = (
            last is not None and resume.by_position and resume.dump_position <= last.start_position
        )
        self._resume = resume
        self._last = last if is_sent_again else None
        self._has_first = self._has_last = False

    def compare(self, starts: Indexes, ends: Indexes, crc_of: Callable[[int], int]) -> None:
        """Events below the known end: where each begins and ends, and the CRC of one of them.

        Raises SourceLostTailError when the transaction is another one or not there at all.
        """
        last = self._last
        if last is None:
            return
        is_same = True
        for event in np.flatnonzero(starts == last.start_position).tolist():
            is_same &= crc_of(event) == last.first_event_crc
            self._has_first = True
        for event in np.flatnonzero(ends == last.end_position).tolist():
            is_same &= crc_of(event) == last.last_event_crc
            self._has_last = True
        is_behind = int(ends[-1]) >= self._resume.position
        if not is_same or (is_behind and not (self._has_first and self._has_last)):
            raise SourceLostTailError(
                f"the source's transaction at position {last.start_position} of "
                f"{self._resume.file_name} is not the one that the relay received"
            )
