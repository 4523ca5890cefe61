"""The packets of one entry in its segment, to be sent from there as they are.

Owns where in the entry's data the packets begin, and what becomes of the errors of its file. It
must not know of sockets, nor whether anybody may send the packets as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from kingbus.replication.served_rows import PurgedWhileReadingError, Row
from kingbus.storage.errors import CorruptRecordError, StorageError
from kingbus.storage.stored_entry import StoredEntry


class StoredPackets:
    """All packets of a batch. `length` is in bytes."""

    def __init__(self, entry: StoredEntry, row: Row) -> None:
        assert entry.index == row.index
        self.length = row.row.bytes
        self._entry = entry

    @contextmanager
    def opened(self, *, may_block: bool) -> Iterator[tuple[int, int]]:
        """See `streams.PacketFile`. Raises PurgedWhileReadingError, StorageError."""
        entry = self._entry
        try:
            with entry.opened(may_block=may_block) as (fd, start, length):
                before = length - self.length  # the packets are the end of the data
                if before <= 0:
                    raise CorruptRecordError(
                        entry.path,
                        entry.offset,
                        f"entry {entry.index} of {length} bytes cannot hold {self.length} bytes "
                        "of packets",
                    )
                yield fd, start + before
        except FileNotFoundError:
            raise PurgedWhileReadingError(f"{entry.path.name} is removed") from None
        except BlockingIOError:
            raise
        except OSError as error:
            raise StorageError(f"cannot read {entry.path}: {error}") from error
