"""Where exported files come from: a running node's admin API, or a stopped node's directory."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, TypeVarTuple
from urllib.parse import urlencode

import trio

from kingbus.binlog.gtid import GtidSet
from kingbus.cli.common import query_of
from kingbus.cli.exporting import ExportError, HeldFile

if TYPE_CHECKING:
    from kingbus.admin.client import AdminClient
    from kingbus.replication.relay import Relay

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")


class NodeFiles:
    """The files of a running node; those of the default channel where none is named."""

    def __init__(self, api: "AdminClient", channel: str = "") -> None:
        self._api = api
        self._channel = channel

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._api.ask("GET", "/binlog/files" + query_of(self._channel))
        return rows

    def files(self) -> list[HeldFile]:
        return [
            HeldFile(
                name=row["name"],
                size=row["size"] - sum(end - start for start, end in row["gaps"]),
                closed=row["closed"],
                complete=row["complete"],
                previous=GtidSet.parse(row["previous_gtids"]),
            )
            for row in self._rows()
        ]

    def gaps(self, name: str) -> list[list[int]]:
        """What of a file is not held, as positions; ExportError where it is not held at all."""
        for row in self._rows():
            if row["name"] == name:
                gaps: list[list[int]] = row["gaps"]
                return gaps
        raise ExportError(f"{name} is not held any more")

    def executed(self) -> GtidSet:
        status = self._api.ask("GET", "/binlog/server/status" + query_of(self._channel))
        return GtidSet.parse(status["executed_gtid_set"])

    def read(self, name: str, offset: int, size_max: int) -> bytes:
        query: dict[str, Any] = {"file": name, "from": offset, "limit": size_max}
        query |= {"channel": self._channel} if self._channel else {}
        return self._api.fetch(f"/binlog/content?{urlencode(query)}")[0]


async def _inline(function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
    """There is nobody to be kept waiting."""
    return function(*args)


class DirectoryFiles:
    """The files in the data directory of a node that does not run. A context manager.

    Opening does to the log what a start does: it takes the lock, and cuts what a crash left
    unsynced at the end. Raises the storage's errors, and SecretError. What is sealed is opened with
    the cluster key of a file, or the directory's own. Without a `channel` the files are the
    default one's.
    """

    def __init__(self, path: Path, key_file: Path | None = None, channel: str = "") -> None:
        self._path = path
        self._channel = channel
        self._key_file = key_file
        self._stack = ExitStack()
        self._relay: Relay

    def __enter__(self) -> Self:
        from kingbus.replication.relay import Relay
        from kingbus.storage.directory import DataDirectory
        from kingbus.storage.log import LogStore
        from kingbus.storage.log_keys import log_keys_of_file
        from kingbus.storage.state_store import StateStore

        with ExitStack() as stack:
            directory = stack.enter_context(DataDirectory.open_existing(self._path))
            identity = directory.identity
            if identity is None:
                raise ExportError(f"{self._path} is of no member yet, and holds no files")
            database = StateStore.open(directory.state_path)
            stack.callback(database.close)
            if database.installing() is not None:
                raise ExportError(
                    f"{self._path} was stopped while it installed a snapshot",
                    hint="start the node once, so that it gets to the end of it",
                )
            log = LogStore.open(
                directory.log_path,
                segment_bytes=_SEGMENT_BYTES,
                reserve_bytes=2 * _SEGMENT_BYTES,
                cluster_id=identity.cluster_id,
                member_id=identity.member_id,
                former_ids=identity.former_ids,
                keys=log_keys_of_file(self._path, self._key_file),
            )
            stack.callback(log.close)
            relay = Relay.load(database=database, log=log, runner=_inline)
            if self._channel and self._channel not in relay.named:
                raise ExportError(f"no such channel: {self._channel}")
            self._relay = relay.named[self._channel] if self._channel else relay
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def files(self) -> list[HeldFile]:
        from kingbus.admin.views import is_complete
        from kingbus.replication.file_content import content_bytes

        state = self._relay.state
        return [
            HeldFile(
                name=row.served_name,
                size=content_bytes(row),
                closed=row.closed,
                complete=is_complete(row),
                previous=GtidSet.decode(state.previous_gtids(row)),
            )
            for row in state.files
        ]

    def executed(self) -> GtidSet:
        return self._relay.state.executed

    def read(self, name: str, offset: int, size_max: int) -> bytes:
        from kingbus.replication.file_content import read_chunk

        chunk = _run(lambda: read_chunk(self._relay, name, offset, size_max))
        if chunk is None:
            raise ExportError(f"{name} is not held")
        return chunk.data


_SEGMENT_BYTES = 1 << 20
"""Nothing is appended, so the room that a start wants to find is not needed."""


def _run(read: Callable[[], Awaitable[_T]]) -> _T:
    async def reading() -> _T:
        return await read()

    return trio.run(reading)
