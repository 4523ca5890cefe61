"""`kingbus storage repair`: a stopped member's directory, and a peer's admin API to ask.

Owns the order of it and what is told. How damage is found and proven is in `storage.repair`; what
the database has to be, in `replication.check`. A database that is not what the log makes of it is
put aside where the log goes back to its beginning: the next start makes it anew.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kingbus.admin.client import AdminApiError, AdminClient
from kingbus.errors import KingbusError
from kingbus.raft.types import Entry, EntryType
from kingbus.replication.check import check_state
from kingbus.storage.at_rest import Keyring
from kingbus.storage.directory import DataDirectory
from kingbus.storage.errors import StorageError
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.log import LogStore
from kingbus.storage.log_keys import log_keys_of_file
from kingbus.storage.repair import repair_log
from kingbus.storage.state_store import StateStore

_GONE = (404, 410)


class RepairRefusedError(KingbusError):
    """This directory cannot be repaired from this peer."""


def repaired(data_dir: Path, api: AdminClient, *, key_file: Path | None = None) -> Iterator[str]:
    """Do it, telling each thing once it is done. Blocks.

    `key_file` has the cluster key that opens a sealed log; without it the directory's own is taken.
    RepairRefusedError, AdminApiError, SecretError, the errors of storage. It may be repeated at any
    time.
    """
    keys = log_keys_of_file(data_dir, key_file)
    with DataDirectory.open_existing(data_dir) as directory:
        if directory.identity is None:
            raise RepairRefusedError(f"{data_dir} holds no member")
        theirs = int(api.ask("GET", "/status")["cluster_id"], 16)
        if theirs != directory.identity.cluster_id:
            raise RepairRefusedError(
                f"{data_dir} belongs to a member of cluster {directory.identity.cluster_id:x},"
                f" {api.url} to {theirs:x}",
                hint="Name a member of its own cluster.",
            )
        for done in repair_log(directory.log_path, _fetch(api)):
            taken = f", {done.entries} entries from {api.url}" if done.entries else ""
            yield f"{done.path}: {done.what}{taken}"
        yield from _state_repaired(directory, keys)


def _fetch(api: AdminClient) -> Callable[[int, int], Sequence[Entry]]:
    def fetch(lo: int, hi: int) -> list[Entry]:
        try:
            found = api.ask(
                "POST", "/storage/entries", {"from_index": lo, "to_index": hi - 1}, seconds=60.0
            )
        except AdminApiError as error:
            if error.status in _GONE:
                return []
            raise
        return [
            Entry(
                each["term"],
                each["index"],
                EntryType(each["type"]),
                base64.b64decode(each["data"]),
            )
            for each in found
        ]

    return fetch


def _state_repaired(directory: DataDirectory, keys: Keyring) -> Iterator[str]:
    path = directory.state_path
    if not path.exists():
        return
    log = LogStore.open_for_reading(directory.log_path, keys=keys)
    try:
        problem = _problem(path, log)
        if problem is None:
            return
        if log.first_index() > 1:
            raise RepairRefusedError(
                f"the database is damaged, and the log, which begins at index {log.first_index()},"
                f" cannot make it anew: {problem}",
                hint="Remove this member and add it again with an empty data directory.",
            )
    finally:
        log.close()
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    files = LocalFileSystem()
    files.rename(path, aside)
    files.sync_directory(directory.path)
    yield f"{path}: put aside as {aside.name}, the next start makes it from the log ({problem})"


def _problem(path: Path, log: LogStore) -> StorageError | None:
    try:
        database = StateStore.open_for_reading(path)
        try:
            for _ in check_state(database, log):
                pass
        finally:
            database.close()
    except StorageError as error:
        return error
    return None
