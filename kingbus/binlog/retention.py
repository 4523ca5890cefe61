"""Which binlog files are kept: the one decision, from plain facts.

Owns: how much of the log fits a reserve, which file is the first to stay and why, and how far a
replica is from being cut off. It must not know clocks, disks or who replicates what: all is passed
in, so that a decision can be tried without any of them.

* The log leaves the disk by whole segments, the binlog by whole files: a segment goes once the
  first file that is kept begins behind it or in a later one.
* Two segments are always there beside those that are full: the one that is written and the one
  that is preallocated ahead. So what may stay is the reserve without the index and these two, and
  a purge comes a whole segment before the receiver would have to stop.
* The reserve wins over everything but the open file, which is never purged. Age purges more, as
  long as `files_min` are left and no replica that may still come needs the file.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from kingbus.pb.record_pb2 import FileRow

INDEX_BYTES: Final = 64 << 20
INDEX_SHARE: Final = 0.02
"""What the index may take of a reserve; of a small one no more than a quarter."""
SEGMENTS_MIN: Final = 4
"""So many fit what is left to segments, or they are made smaller: two are not to be purged."""
SEGMENT_BYTES_MIN: Final = 1 << 20
FILES_WANTED: Final = 3
"""So many files of the source's should fit: the open one, one that is read, and one to purge."""


def index_share(reserve_bytes: int) -> int:
    """The part of a reserve that is left to the index even while it needs less."""
    return min(INDEX_BYTES + int(reserve_bytes * INDEX_SHARE), reserve_bytes // 4)


def segment_bytes_within(reserve_bytes: int, wanted: int) -> int:
    """How large segments may be, so that a reserve is worth several of them."""
    room = reserve_bytes - index_share(reserve_bytes)
    return max(min(wanted, room // SEGMENTS_MIN), min(wanted, SEGMENT_BYTES_MIN))


def reserve_warning(reserve_bytes: int, max_binlog_size: int) -> str:
    """Why a reserve is small for a source's files, in one sentence; "" if it is not."""
    if reserve_bytes >= FILES_WANTED * max_binlog_size:
        return ""
    return (
        f"reserve-data-size ({reserve_bytes}) is less than {FILES_WANTED} x the source's "
        f"max_binlog_size ({max_binlog_size}): the open file is never purged"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One node's disk: its log's segments, oldest first, the written one last, and its index.

    `starts` are the segments' first indexes, `sizes` what the closed ones take and how much of the
    last is filled, `index_bytes` what the index takes or is entitled to, all in bytes.
    """

    starts: Sequence[int]
    sizes: Sequence[int]
    segment_bytes: int
    reserve_bytes: int
    index_bytes: int

    @property
    def target(self) -> int:
        """How much of the log may stay, in bytes; see the module."""
        return max(0, self.reserve_bytes - self.index_bytes - 2 * self.segment_bytes)

    @property
    def footprint(self) -> int:
        """What is taken of the disk, with the room of the two segments that may not be full."""
        closed = sum(self.sizes[:-1])
        return closed + max(self.sizes[-1], self.segment_bytes) + self.segment_bytes

    def held_from(self, index: int) -> int:
        """Bytes that cannot leave while the entry `index` stays: from its segment to the end."""
        at = max(0, bisect_right(self.starts, index) - 1)
        return sum(self.sizes[at:])

    def first_needed(self) -> int:
        """The first index that may stay, so that what is behind it fits: a segment's first one."""
        behind = list(accumulate(reversed(self.sizes)))
        fitting = max(1, bisect_right(behind, self.target))
        return self.starts[-fitting]

    def until_purged(self, index: int) -> int:
        """How many bytes more the log takes before the file that begins at `index` has to go."""
        return max(0, self.target - self.held_from(index))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an operator wants kept; seconds. `keep_seconds` None: as long as there is room."""

    keep_seconds: float | None = None
    files_min: int = 1
    replica_seconds: float = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A replica, and the first log index of the file that it has yet to read to its end.

    `channel` is the number of the one that it reads.
    """

    replica: str
    index: int
    seen_seconds_ago: float
    channel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The first file to keep. Without a `reason` nothing is purged.

    `reason` is `reserve`, `age` or `by hand`. `cut_off` names the replicas that lose something that
    they have not read. `is_too_large`: even the open file alone passes the reserve.
    """

    first: FileRow | None = None
    reason: str = ""
    cut_off: tuple[str, ...] = ()
    is_too_large: bool = False


def file_time(row: FileRow) -> int:
    """When something was last written to it, in seconds since 1970; 0: nobody knows."""
    return row.last_time or row.first_time or row.start.created


def decide(
    files: Sequence[FileRow],
    *,
    reserve_index: int,
    policy: Policy,
    needs: Iterable[Need] = (),
    now: float = 0.0,
) -> Decision:
    """Which file is the first to stay.

    `reserve_index` is the greatest `Usage.first_needed` of all nodes, `now` seconds since 1970.
    """
    if not files:
        return Decision()
    needs = list(needs)
    starts = [row.first_index for row in files]
    open_file = len(files) - 1
    by_reserve = bisect_left(starts, reserve_index)
    by_age = _by_age(files, policy, now)
    if by_age > by_reserve:
        waited_for = [each for each in needs if each.seen_seconds_ago <= policy.replica_seconds]
        by_age = min(by_age, _held(starts, waited_for))
    count = min(max(by_reserve, by_age), open_file)
    return _decision(
        files,
        count,
        "reserve" if count <= by_reserve else "age",
        needs,
        is_too_large=by_reserve > open_file,
    )


def _by_age(files: Sequence[FileRow], policy: Policy, now: float) -> int:
    if policy.keep_seconds is None:
        return 0
    most = len(files) - max(policy.files_min, 1)
    count = 0
    while count < most and 0 < file_time(files[count]) < now - policy.keep_seconds:
        count += 1
    return count


def purge_to(
    files: Sequence[FileRow], wanted: FileRow, needs: Iterable[Need], attached_seconds: float
) -> Decision:
    """By hand: all before that file, but as MySQL does it nothing that is being read right now.

    Who was not seen for `attached_seconds` is not waited for.
    """
    return _by_hand(files, files.index(wanted), needs, attached_seconds)


def purge_before(
    files: Sequence[FileRow], time: float, needs: Iterable[Need], attached_seconds: float
) -> Decision:
    """By hand: the files to which nothing was written since then, up to the first other one."""
    count = 0
    while count < len(files) - 1 and 0 < file_time(files[count]) < time:
        count += 1
    return _by_hand(files, count, needs, attached_seconds)


def _by_hand(
    files: Sequence[FileRow], count: int, needs: Iterable[Need], attached_seconds: float
) -> Decision:
    if not files:
        return Decision()
    needs = list(needs)
    attached = [each for each in needs if each.seen_seconds_ago <= attached_seconds]
    held = _held([row.first_index for row in files], attached)
    return _decision(files, min(count, held), "by hand", needs)


def _held(starts: Sequence[int], needs: Iterable[Need]) -> int:
    """How many files nobody of these needs; all of them where nobody needs any that is left."""
    counts = [bisect_right(starts, each.index) - 1 for each in needs if each.index >= starts[0]]
    return min(counts, default=len(starts))


def _decision(
    files: Sequence[FileRow],
    count: int,
    reason: str,
    needs: Iterable[Need],
    *,
    is_too_large: bool = False,
) -> Decision:
    first = files[count]
    held = files[0].first_index
    return Decision(
        first=first,
        reason=reason if count else "",
        # Who needs what is gone already was cut off before.
        cut_off=tuple(each.replica for each in needs if held <= each.index < first.first_index),
        is_too_large=is_too_large,
    )
