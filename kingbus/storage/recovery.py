"""Finding out, from the files of a directory, what the log is: at every start, and for tools.

Each segment names the one before it. Beginning with the newest, that chain is the log; a file that
is not on it was replaced by a truncation, a purge or a snapshot and only waits to be removed. Of
the newest segment every record is read, of the others the header.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kingbus.storage.errors import CorruptRecordError, WrongIdentityError
from kingbus.storage.files import FileSystem, LocalFileSystem
from kingbus.storage.replay import Replay, examine_tail, read_idle_mark
from kingbus.storage.segment import SYNCED_NAME, Segment, read_header, sequence_of

__all__ = [
    "FoundLog",
    "Recovery",
    "check_ids",
    "check_tail",
    "discard_torn",
    "find_log",
    "log_holds_anything",
    "log_is_torn",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """An unsynced tail: how many bytes of it, where, and why it does not count."""

    path: Path
    offset: int
    cut_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLog:
    """The segments in order, the scan of the last one, and files that are not part of the log."""

    segments: list[Segment]
    replay: Replay
    replaced: list[Path]


def find_log(files: FileSystem, directory: Path) -> FoundLog | None:
    """What a directory holds; None when there is no segment. Changes nothing.

    CorruptRecordError when a segment is missing or its header is damaged, NewerFormatError.
    Whether the last segment ends as it should, `check_tail` says.
    """
    paths = {
        sequence: directory / name
        for name in files.names(directory)
        if (sequence := sequence_of(name)) is not None
    }
    if not paths:
        return None
    sequence = max(paths)
    segment = _segment(files, paths.pop(sequence))
    fd = files.open(segment.path)
    try:
        replay = Replay(files, fd, segment.path, segment.header).run()
    finally:
        files.close(fd)
    segments = [segment]
    first_needed = replay.log_start.index + 1
    while segment.first_index > first_needed:
        sequence = segment.header.previous_sequence
        if sequence not in paths:
            raise CorruptRecordError(
                segment.path, 0, f"the segment before it, number {sequence}, is missing"
            )
        segment = _segment(files, paths.pop(sequence))
        segments.append(segment)
    return FoundLog(segments=segments[::-1], replay=replay, replaced=list(paths.values()))


def _segment(files: FileSystem, path: Path) -> Segment:
    fd = files.open(path)
    try:
        header = read_header(files, fd, path)
        return Segment(path=path, header=header, file_bytes=files.size(fd))
    finally:
        files.close(fd)


def check_tail(files: FileSystem, fd: int, segment: Segment, replay: Replay) -> Recovery | None:
    """Judge what is behind the last good record of the last segment; None: nothing is.

    Above the newest "synced up to" mark it is an unsynced tail, which never was acknowledged. At
    or below it data was lost: CorruptRecordError.
    """
    # An index closes a segment: a new one was about to be begun, and there is no tail.
    tail = examine_tail(files, fd, segment.header, replay.end)
    reason = replay.fault or "zeros where a record should be"
    synced = tail.synced
    idle = read_idle_mark(files, segment.path.parent / SYNCED_NAME)
    if idle is not None and idle.segment_id == segment.header.segment_id:
        synced = max(synced, idle.synced)
    if idle is not None and idle.position > segment.sequence:
        raise CorruptRecordError(
            segment.path, replay.end, f"the segment behind it, number {idle.position}, is missing"
        )
    if synced > replay.end:
        raise CorruptRecordError(
            segment.path,
            replay.end,
            f"{reason}, but the log had been durable up to byte {synced}",
        )
    last_index = replay.index.last_index
    if replay.hard_state.commit > last_index or replay.log_start.index > last_index:
        raise CorruptRecordError(
            segment.path,
            replay.end,
            f"the log ends at index {last_index}, but begins behind {replay.log_start.index} "
            f"and is committed up to {replay.hard_state.commit}",
        )
    if replay.closed or not tail.bytes:
        return None
    return Recovery(path=segment.path, offset=replay.end, cut_bytes=tail.bytes, reason=reason)


def check_ids(
    segment: Segment, *, cluster_id: int, member_id: int, former_ids: Collection[int] = ()
) -> None:
    """WrongIdentityError when a segment is of another cluster or member; 0 is unknown.

    `former_ids` are clusters whose log this one goes on with.
    """
    for what, mine, found in (
        ("cluster", cluster_id, segment.header.cluster_id),
        ("member", member_id, segment.header.member_id),
    ):
        if what == "cluster" and found in former_ids:
            continue
        if mine and found and mine != found:
            raise WrongIdentityError(f"{segment.path} belongs to {what} {found:x}, not {mine:x}")


def log_holds_anything(directory: Path, files: FileSystem | None = None) -> bool:
    """Whether a log directory holds a hard state or a snapshot: whether a member ever lived here.

    The hard state is the last record of a member's first write. Entries without one are the rest
    of a write that a crash has torn, of which nobody was told. Where the log is long this reads no
    file. CorruptRecordError when what would tell is damaged.
    """
    found = _found_short(directory, files or LocalFileSystem())
    if found is None or isinstance(found, bool):
        return bool(found)
    return bool(found.log_start.index or not found.hard_state.is_empty)


def log_is_torn(directory: Path, files: FileSystem | None = None) -> bool:
    """Whether it holds entries, and nothing that says that they were ever whole."""
    found = _found_short(directory, files or LocalFileSystem())
    if found is None or isinstance(found, bool):
        return False
    return bool(found.entries and not found.log_start.index and found.hard_state.is_empty)


def discard_torn(directory: Path, files: FileSystem | None = None) -> bool:
    """Blocks. Remove such entries, so that the member begins anew; whether there were any."""
    files = files or LocalFileSystem()
    if not log_is_torn(directory, files):
        return False
    for name in files.names(directory):
        if sequence_of(name) is not None:
            files.unlink(directory / name)
    files.sync_directory(directory)
    return True


def _found_short(directory: Path, files: FileSystem) -> Replay | bool | None:
    """The scan of the only segment; True when there are more, None when there is none."""
    try:
        names = files.names(directory)
    except FileNotFoundError:
        return None
    if sum(sequence_of(name) is not None for name in names) > 1:
        return True
    found = find_log(files, directory)
    if found is None:
        idle = read_idle_mark(files, directory / SYNCED_NAME)
        if idle is not None:
            gone = f"it names segment number {idle.position}, which is gone"
            raise CorruptRecordError(directory / SYNCED_NAME, 0, gone)
        return None
    if found.replay.hard_state.is_empty:
        # Is it that it was never written, or that it was damaged?
        segment = found.segments[-1]
        fd = files.open(segment.path)
        try:
            check_tail(files, fd, segment, found.replay)
        finally:
            files.close(fd)
    return found.replay
