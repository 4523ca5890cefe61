"""Reading a log from its first byte to its last, to see whether all of it is what was written.

For a stopped node: nothing is changed. The sums of records, their chain, the order of indexes and
terms, the index of each closed segment, and that every segment is there. What is compressed is
opened, and what is sealed where the key is given; of the rest the sums are all that is looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kingbus.storage.at_rest import Keyring
from kingbus.storage.errors import CorruptRecordError, StorageError
from kingbus.storage.files import FileSystem, LocalFileSystem
from kingbus.storage.recovery import check_tail, find_log
from kingbus.storage.replay import Replay
from kingbus.storage.segment import Segment, read_footer, sequence_of

__all__ = ["VerifyProgress", "verify_log"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyProgress:
    """How far the check has come.

    `problem` is the first bad place, and then this is the last report. `tail_bytes` (in the last
    report) is what a crash left behind the log's end and opening will cut off: not a problem.
    `unopened` entries are sealed with a key that was not given.
    """

    path: Path
    done_bytes: int
    total_bytes: int
    entries: int
    last_index: int
    tail_bytes: int = 0
    unopened: int = 0
    problem: StorageError | None = None


def verify_log(
    directory: Path, *, files: FileSystem | None = None, keys: Keyring | None = None
) -> Iterator[VerifyProgress]:
    """Check every record of a log directory, reporting after every MiB. Blocks.

    Ends after the first problem, which is in the last report; DirectoryInUseError is raised when
    a node has the log open, StorageError when there is no log.
    """
    files = files or LocalFileSystem()
    try:
        names = files.names(directory)
    except OSError as error:
        raise StorageError(f"cannot read the log in {directory}: {error}") from error
    if not any(sequence_of(name) is not None for name in names):
        raise StorageError(f"{directory} holds no log")
    lock = files.lock(directory / "LOCK")
    try:
        yield from _verify(files, directory, keys if keys is not None else Keyring())
    finally:
        files.unlock(lock)


def _verify(files: FileSystem, directory: Path, keys: Keyring) -> Iterator[VerifyProgress]:
    done = entries = last_index = unopened = 0
    path, total, tail_bytes = directory, 0, 0
    try:
        found = find_log(files, directory)
        assert found is not None
        total = sum(segment.file_bytes for segment in found.segments)
        for position, segment in enumerate(found.segments):
            path = segment.path
            after = found.segments[position + 1 :]
            fd = files.open(path)
            try:
                replay = Replay(files, fd, path, segment.header, keys=keys)
                for reached in replay.steps():
                    yield VerifyProgress(
                        path=path,
                        done_bytes=done + reached,
                        total_bytes=total,
                        entries=entries + replay.entries,
                        last_index=replay.index.last_index,
                    )
                tail_bytes = _check_end(files, fd, segment, replay, after[0] if after else None)
            finally:
                files.close(fd)
            done += segment.file_bytes
            entries += replay.entries
            unopened += replay.unopened
            last_index = replay.index.last_index
    except StorageError as problem:
        yield VerifyProgress(
            path=path,
            done_bytes=done,
            total_bytes=total,
            entries=entries,
            last_index=last_index,
            problem=problem,
        )
        return
    yield VerifyProgress(
        path=path,
        done_bytes=total,
        total_bytes=total,
        entries=entries,
        last_index=last_index,
        tail_bytes=tail_bytes,
        unopened=unopened,
    )


def _check_end(
    files: FileSystem, fd: int, segment: Segment, replay: Replay, after: Segment | None
) -> int:
    """What is behind the last good record; returns the bytes of an unsynced tail."""
    if after is None:
        tail = check_tail(files, fd, segment, replay)
        return tail.cut_bytes if tail is not None else 0
    path = segment.path
    if replay.end != after.header.previous_end:
        raise CorruptRecordError(path, replay.end, replay.fault or "zeros where a record should be")
    if read_footer(files, fd) != (replay.index, replay.end):
        raise CorruptRecordError(
            path, replay.end, "the index at the segment's end is damaged; every entry is well"
        )
    last = after.first_index - 1
    if replay.index.last_index < last or (
        last >= segment.first_index and replay.index.term(last) != after.header.previous_term
    ):
        raise CorruptRecordError(
            path, replay.end, f"entry {last} is not the one that the next segment follows"
        )
    return 0
