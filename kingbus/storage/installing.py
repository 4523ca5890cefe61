"""What a snapshot carries, and the steps of installing one, for a start that finds them begun.

    mark       the database says, durably, which snapshot is being installed
    log        a new segment, headed by where the log begins and the hard state, takes the place
               of all others, by its name alone; the others are removed after that
    state      one synced batch: the new state in the place of the old one, and the mark is gone

A running node takes these steps by itself (see `node.Node`), with its readers stopped before the
first. Whatever step a crash comes between, the log is whole: the old one or the new one, and the
hard state with it, so no vote is forgotten. `finish_interrupted` does what is left.
"""

from google.protobuf.message import DecodeError

from kingbus.pb.record_pb2 import Members, RelayState, SnapshotData
from kingbus.raft.types import Snapshot
from kingbus.storage.errors import StorageError
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.state_store import StateStore

__all__ = [
    "SNAPSHOT_VERSION",
    "UnreadableSnapshotError",
    "finish_interrupted",
    "pack_snapshot",
    "unpack_snapshot",
]

SNAPSHOT_VERSION = 1


class UnreadableSnapshotError(StorageError):
    """A snapshot that this program cannot install; nothing was changed."""

    hint = "run the version of the leader, or a later one"


def pack_snapshot(members: Members, state: bytes) -> bytes:
    """The data of a snapshot: the membership as of now, the machine's state at its index."""
    data = SnapshotData(version=SNAPSHOT_VERSION, members=members, state=state)
    return data.SerializeToString()


def unpack_snapshot(snapshot: Snapshot) -> tuple[Members, bytes]:
    """The reverse; UnreadableSnapshotError."""
    data = SnapshotData()
    try:
        data.ParseFromString(snapshot.data)
    except DecodeError:
        raise UnreadableSnapshotError(
            f"the snapshot of index {snapshot.index} does not decode"
        ) from None
    if data.version != SNAPSHOT_VERSION:
        raise UnreadableSnapshotError(
            f"the snapshot of index {snapshot.index} has version {data.version}; "
            f"this program knows version {SNAPSHOT_VERSION}"
        )
    return data.members, data.state


def finish_interrupted(database: StateStore, log: LogStore) -> Snapshot | None:
    """Blocks. Install what the mark names, if there is one; the snapshot.

    To be called at start, before anything else looks at log or database. Nothing was
    acknowledged since the mark was set, so what the log got behind it may stay or go.
    """
    snapshot = database.installing()
    if snapshot is None:
        return None
    members, state = unpack_snapshot(snapshot)
    if log.first_index() <= snapshot.index:
        write = LogWrite(snapshot=snapshot)
        log.write(write)
        log.publish(write)
    record = RelayState.FromString(state)
    database.finish_install(snapshot, state=record, members=members)
    return snapshot
