"""A door for tests only: a command into the log, past all that the API would ask before.

The command is appended to the log of a stopped leader, as if the leader had written it there and
crashed before it told anybody. Started again it has the longest log, so it is elected by any
majority that it is needed for, and commits what it finds there.
"""

from pathlib import Path

from kingbus.binlog.command import encode
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.raft.types import Entry, EntryType
from kingbus.storage.directory import Identity
from kingbus.storage.log import LogStore, LogWrite
from tests.support.cluster import KingbusCluster, KingbusNode


def append_command(data_dir: Path, command: Command) -> int:
    """Append to the log of a member that was killed while it led; the entry's index."""
    identity = Identity.decode((data_dir / "identity.json").read_bytes())
    log = LogStore.open(
        data_dir / "log",
        segment_bytes=64 << 20,
        reserve_bytes=8 << 30,
        cluster_id=identity.cluster_id,
        member_id=identity.member_id,
    )
    try:
        hard_state, _ = log.initial_state()
        index = log.last_index() + 1
        # Nobody else writes in a term that this member led in.
        assert log.term(index - 1) == hard_state.term, "this member did not lead"
        entry = Entry(hard_state.term, index, EntryType.NORMAL, encode(command))
        log.write(LogWrite(entries=[entry]))
    finally:
        log.close()
    return index


def purge(cluster: KingbusCluster, first_index: int) -> None:
    """Purge the files below a log index on all members; those that run are restarted.

    Just enough of them may run for a majority, so that it takes the leader to elect one: whoever
    has not got the entry is elected by nobody then.
    """
    leader = cluster.leader()
    cluster.wait_equal()
    running: list[KingbusNode] = [*cluster.followers(), leader]
    for node in running:
        node.kill9()
    append_command(leader.data_dir, Command(purge=Purge(first_index=first_index)))
    for node in running:
        node.launch()
    for node in running:
        node.wait_ready()
    assert cluster.leader() is leader
