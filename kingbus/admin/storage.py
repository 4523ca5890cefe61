"""What others may ask of this node's log: sums of it, its state at an index, entries for a repair.

Owns how much work one question is: a bounded stretch of the log, one at a time, in a worker thread.
Must not know what is made of the answers.
"""

import base64
import struct
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Protocol

import trio

from kingbus.admin import schema
from kingbus.admin.errors import ConflictError, GoneError, NotFoundError, UnavailableError
from kingbus.admin.listener import Runner
from kingbus.raft.errors import CompactedError
from kingbus.raft.errors import UnavailableError as NotThereError
from kingbus.raft.types import Entry
from kingbus.storage.errors import StorageError

HASH_BYTES_MAX = 32 << 20
"""Of one question; at a disk's speed a fraction of a second."""
READ_BYTES = 4 << 20
ENTRIES_BYTES_MAX = 4 << 20
"""Of one answer; the first entry always passes, 16 MiB and what describes them at most."""
WAIT_SECONDS_MAX = 5.0

_HEAD = struct.Struct("<QQBQ")


class EntryLog(Protocol):
    """The log as far as it is read here; `read` blocks."""

    def first_index(self) -> int: ...
    def last_index(self) -> int: ...
    def read(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]: ...


class StorageQuestions:
    """See the module. `digest_at` gives the relay state's hash once that index is applied.

    It returns None when the index was passed before it was asked for.
    """

    def __init__(
        self,
        *,
        log: EntryLog,
        applied: Callable[[], int],
        digest_at: Callable[[int], Awaitable[str | None]],
        runner: Runner,
    ) -> None:
        self._log = log
        self._applied = applied
        self._digest_at = digest_at
        self._runner = runner
        self._one = trio.Lock()

    async def hash(self, first: int, through: int) -> schema.HashData:
        """The sum over applied entries from `first` on; it may end before `through`.

        GoneError below the log's start, NotFoundError beyond what is applied. What is damaged here
        is no error but an answer.
        """
        self._check(first, through, self._applied())
        async with self._one:
            return await self._runner(self._hashed, first, through)

    def _hashed(self, first: int, through: int) -> schema.HashData:
        total, index, whole, problem = 0, first, sha256(), None
        try:
            while index <= through and total < HASH_BYTES_MAX:
                for entry in self._log.read(index, through + 1, READ_BYTES):
                    whole.update(_HEAD.pack(entry.index, entry.term, entry.type, len(entry.data)))
                    whole.update(entry.data)
                    total += len(entry.data)
                    index = entry.index + 1
                    if total >= HASH_BYTES_MAX:
                        break
        except StorageError as error:
            problem = str(error)
        except CompactedError:
            raise GoneError(f"entry {index} was purged meanwhile") from None
        return schema.HashData(
            from_index=first,
            next_index=index,
            bytes=total,
            sha256=whole.hexdigest(),
            problem=problem,
        )

    async def state(self, index: int) -> schema.StateHashData:
        """The relay state's hash at exactly that index. GoneError when it was passed already."""
        digest: str | None = None
        with trio.move_on_after(WAIT_SECONDS_MAX) as patience:
            digest = await self._digest_at(index)
        if patience.cancelled_caught:
            raise UnavailableError(f"index {index} is not applied here yet")
        if digest is None:
            raise GoneError(f"index {index} was applied before its state was asked for")
        return schema.StateHashData(index=index, state_hash=digest)

    async def entries(self, first: int, stop: int) -> list[schema.EntryData]:
        """Entries `first` to `stop` - 1, as many as fit one answer, at least one."""
        self._check(first, stop - 1, self._log.last_index())
        async with self._one:
            try:
                found = await self._runner(self._log.read, first, stop, ENTRIES_BYTES_MAX)
            except StorageError as error:
                raise ConflictError(f"this node's own log is damaged there: {error}") from error
            except (CompactedError, NotThereError):
                raise GoneError(f"entry {first} is not here any more") from None
        return [
            schema.EntryData(
                index=entry.index,
                term=entry.term,
                type=int(entry.type),
                data=base64.b64encode(entry.data).decode("ascii"),
            )
            for entry in found
        ]

    def _check(self, first: int, last: int, end: int) -> None:
        if first < self._log.first_index():
            raise GoneError(
                f"entry {first} was purged; the log begins at {self._log.first_index()}"
            )
        if not first <= last <= end:
            raise NotFoundError(f"entries {first} to {last} are not all here; {end} is the last")
