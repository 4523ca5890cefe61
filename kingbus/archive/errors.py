"""What can be wrong with an archive. Messages name the object."""

from kingbus.errors import KingbusError


class ArchiveError(KingbusError):
    """Something is wrong with the archive."""


class StoreError(ArchiveError):
    """The store did not do what it was asked: it is away, full or refuses. Try again later."""


class ConflictError(ArchiveError):
    """Another object has the name of one that is to be written. It is left as it is."""

    hint = (
        "the archive may belong to another cluster: choose another place (archive.to), or move "
        "that object away"
    )


class DamagedError(ArchiveError):
    """An object is not what the catalogue says, or no catalogue entry at all."""
