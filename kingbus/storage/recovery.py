"""Finding out, from the files of a directory, what the log is: at every start, and for tools.

Each segment names the one before it. Beginning with the newest, that chain is the log; a file that
is not on it was replaced by a truncation, a purge or a snapshot and only waits to be removed. Of
the newest segment every record is read, of the others the header.
"""

from dataclasses import dataclass
from pathlib import Path

from kingbus.storage.errors import CorruptRecordError, WrongIdentityError
from kingbus.storage.files import FileSystem, LocalFileSystem
from kingbus.storage.replay import Replay, examine_tail, read_idle_mark
from kingbus.storage.segment import SYNCED_NAME, Segment, read_header, sequence_of

__all__ = ["FoundLog", "Recovery", "check_ids", "check_tail", "find_log", "log_holds_anything"]


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


def check_ids(segment: Segment, *, cluster_id: int, member_id: int) -> None:
    """WrongIdentityError when a segment is of another cluster or member; 0 is unknown."""
    for what, mine, found in (
        ("cluster", cluster_id, segment.header.cluster_id),
        ("member", member_id, segment.header.member_id),
    ):
        if mine and found and mine != found:
            raise WrongIdentityError(f"{segment.path} belongs to {what} {found:x}, not {mine:x}")


def log_holds_anything(directory: Path, files: FileSystem | None = None) -> bool:
    """Whether a log directory holds an entry, a hard state or a snapshot: whether a member ever
    lived here. Where the log is long this reads no file.
    """
    files = files or LocalFileSystem()
    try:
        names = files.names(directory)
    except FileNotFoundError:
        return False
    if sum(sequence_of(name) is not None for name in names) > 1:
        return True
    found = find_log(files, directory)
    if found is None:
        return False
    replay = found.replay
    return bool(replay.entries or replay.log_start.index or not replay.hard_state.is_empty)
