"""`kingbus storage recover --force-new-cluster`: the facts of a stopped member, then the recovery.

Owns what is opened for it and in which order, and what is told before anybody decides. The steps
that change something are in `node.recover`. Must not know how a person is asked.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.node.bootstrap import FORGOT_FILE, check_owner, forgotten, is_marked_removed
from kingbus.node.recover import READ_BYTES, Survivor, examine, perform
from kingbus.replication.check import apply_entry
from kingbus.replication.relay import Relay
from kingbus.storage.at_rest import AS_THEY_ARE, AtRest, Keyring
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.installing import finish_interrupted
from kingbus.storage.log import LogStore
from kingbus.storage.log_keys import KEY_FILE, log_keys_of_file
from kingbus.storage.state_store import StateStore

SEGMENT_BYTES_MIN = 1 << 20

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")


class NothingToRecoverError(KingbusError):
    """This directory cannot, or need not, become a cluster of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A member that could be recovered; `facts` are for people and scripts, in order."""

    name: str
    facts: dict[str, Any]
    recover: "partial[int]"
    """Does it, and returns the new cluster's id. Blocks."""


@contextmanager
def examined(data_dir: Path, *, key_file: Path | None = None) -> Iterator[Examined]:
    """The member of a directory, which stays locked meanwhile. Blocks.

    `key_file` has the cluster key that opens a sealed log; without it the directory's own is taken.
    Raises NothingToRecoverError, MemberRemovedError, RestartError, SecretError and the errors of
    storage.
    """
    keys = log_keys_of_file(data_dir, key_file)
    with DataDirectory.open_existing(data_dir) as directory:
        identity = directory.identity
        if identity is None or not directory.has_log:
            raise NothingToRecoverError(f"{data_dir} holds no member with a log")
        check_owner(identity.name, identity, is_removed=is_marked_removed(directory))
        if (data_dir / FORGOT_FILE).exists():
            raise forgotten(identity.name, "the log", took_part_again=True)
        database = StateStore.open(directory.state_path)
        try:
            if database.installing() is not None:
                _finish_install(directory, identity, database, keys)
            log = LogStore.open_for_reading(directory.log_path, keys=keys)
            try:
                survivor = examine(identity, database, log)
                facts = _facts(survivor, directory, database, log)
                form = log.form()
            finally:
                log.close()
            if survivor.is_alone and not survivor.unfinished:
                raise NothingToRecoverError(
                    f"{identity.name} is the only member of its cluster already: start it"
                )
            yield Examined(
                name=identity.name,
                facts=facts,
                recover=partial(_recover, directory, database, survivor, keys, form),
            )
        finally:
            database.close()


def _open_log(
    directory: DataDirectory, identity: Identity, keys: Keyring, form: AtRest = AS_THEY_ARE
) -> LogStore:
    """The log as it is, however large its segments are and in whatever form: there may be no room
    for a new one.
    """
    files = LocalFileSystem()
    newest = max(
        (files.file_bytes(path) for path in directory.log_path.glob("*-*.segment")),
        default=SEGMENT_BYTES_MIN,
    )
    segment_bytes = max(newest, SEGMENT_BYTES_MIN)
    return LogStore.open(
        directory.log_path,
        segment_bytes=segment_bytes,
        reserve_bytes=2 * segment_bytes,
        cluster_id=identity.cluster_id,
        member_id=identity.member_id,
        former_ids=identity.former_ids,
        at_rest=form,
        keys=keys,
    )


def _finish_install(
    directory: DataDirectory, identity: Identity, database: StateStore, keys: Keyring
) -> None:
    log = _open_log(directory, identity, keys)
    try:
        finish_interrupted(database, log)
    finally:
        log.close()


def _facts(
    survivor: Survivor, directory: DataDirectory, database: StateStore, log: LogStore
) -> dict[str, Any]:
    relay = Relay.load(database=database, log=log, runner=_no_threads)
    state = relay.state
    applied_set = str(state.executed)
    _apply_rest(state, log)
    facts = {
        "name": survivor.identity.name,
        "cluster": f"{survivor.identity.cluster_id:x}",
        "members": sorted(member.name for member in survivor.cluster),
        "last_term": survivor.last_term,
        "last_index": survivor.last_index,
        "commit_index": max(survivor.hard_state.commit, survivor.applied),
        "applied_index": survivor.applied,
        "first_index": survivor.first_index,
        "executed_gtid_set": applied_set,
        "executed_with_whole_log": str(state.executed),
    }
    if state.cluster_key is not None:
        facts["cluster_key"] = (
            "in the data directory"
            if (directory.path / KEY_FILE).exists()
            else "not in the data directory"
        )
    if survivor.unfinished:
        facts["unfinished"] = "a recovery was begun here and is finished by this one"
    return facts


def _apply_rest(state: RelayState, log: LogStore) -> None:
    """What the log holds beyond what was applied: the new cluster commits it."""
    last = log.last_index()
    while state.index < last:
        for entry in log.read(state.index + 1, last + 1, READ_BYTES):
            apply_entry(state, entry)


def _recover(
    directory: DataDirectory,
    database: StateStore,
    survivor: Survivor,
    keys: Keyring,
    form: AtRest,
) -> int:
    log = _open_log(directory, survivor.identity, keys, form)
    try:
        perform(survivor, directory, database, log, cluster_id=_new_id(survivor.identity))
    finally:
        log.close()
    identity = directory.identity
    assert identity is not None
    return identity.cluster_id


def _new_id(identity: Identity) -> int:
    """By chance: two members that are recovered apart must not take themselves for one cluster."""
    used = {0, identity.cluster_id, *identity.former_ids}
    while (found := int.from_bytes(os.urandom(8), "big")) in used:
        pass
    return found


async def _no_threads(function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
    raise AssertionError(f"nobody reads while a member is examined: {function} {args}")
