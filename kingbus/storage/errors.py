"""What can go wrong with a data directory, one name per thing that an operator can do about it."""

from pathlib import Path

from kingbus.errors import KingbusError

__all__ = [
    "CorruptRecordError",
    "DirectoryInUseError",
    "FatalStorageError",
    "NewerFormatError",
    "NoRoomError",
    "NotEnoughSpaceError",
    "SealedLogError",
    "StorageError",
    "WrongIdentityError",
]


class StorageError(KingbusError):
    """The root of the errors of the data directory."""


class CorruptRecordError(StorageError):
    """Bytes that had been made durable are not what was written.

    `path` and `offset` are where; nothing at or behind that place is served.
    """

    hint = (
        "the disk lost or changed data: stop this member, remove it from the cluster and add it "
        "again with an empty data directory; check the disk first"
    )

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(f"{path}: corrupt at byte {offset}: {what}")
        self.path = path
        self.offset = offset


class FatalStorageError(StorageError):
    """A write or a sync failed, so what is on the disk is unknown: this process must end.

    A failed sync is never tried again: the kernel may have dropped the dirty pages, and a second
    try would succeed without them.
    """

    hint = "check the disk and its free space, then start this member again"


class NotEnoughSpaceError(StorageError):
    """The file system has not even room for two segments."""

    hint = "free some space, use another data-dir, or make segment-size smaller"


class NoRoomError(StorageError):
    """The file system is full; nothing was changed, and the same may be tried again later."""

    hint = "free some space: this member goes on by itself then"


class DirectoryInUseError(StorageError):
    """Another process has the directory open."""

    hint = "stop that process first, or use another data-dir"


class SealedLogError(StorageError):
    """A part of the log is sealed with a key that is not here: it cannot be read."""

    hint = (
        "name the file with that key in cluster-key-file; if no such file is left, remove this "
        "member and add it again with an empty data directory"
    )


class NewerFormatError(StorageError):
    """The directory was written by a newer version of the program."""

    hint = "run the version that wrote it, or a later one"


class WrongIdentityError(StorageError):
    """The directory belongs to another member or another cluster."""

    hint = "give the data-dir of this member, or the name that the directory has"
