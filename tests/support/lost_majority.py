"""A member that was stopped, and whose cluster has lost its majority."""

from dataclasses import replace
from pathlib import Path

from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.node.changes import taken, to_conf_change
from kingbus.node.recover import examine, perform
from kingbus.raft.types import Entry, EntryType, HardState
from kingbus.storage.at_rest import AS_THEY_ARE, Keyring
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.state_store import StateStore, StateWrite
from tests.unit.storage.simulated_disk import SimulatedDisk

LISTED = (("a", ("http://h:1",)), ("b", ("http://h:2",)), ("c", ("http://h:3",)))
CLUSTER = Cluster.initial(LISTED)
OWN = CLUSTER.named("a")
NEW_ID = 0xABC
SEGMENT_BYTES = 1 << 16


def change_entry(index, change, *, term=1):
    return Entry(term, index, EntryType.CONF_CHANGE_V2, change.encode())


def member_entries(cluster=CLUSTER):
    return [
        change_entry(at, to_conf_change(MemberChange(kind=ChangeKind.ADD, member=member)))
        for at, member in enumerate(cluster, 1)
    ]


class Machine:
    """Directory and database on disk; the log, too, or on a disk that can lose its power."""

    def __init__(self, path, *, more=(), applied=4, commit=5, real=False, form=AS_THEY_ARE):
        self.form = form
        self.disk = LocalFileSystem() if real else SimulatedDisk()
        self.log_path = path / "log" if real else Path("/log")
        self.path = path
        self.cluster = replace(CLUSTER, index=3)
        entries = [*member_entries(), Entry(1, 4), Entry(2, 5), Entry(2, 6), *more]
        with DataDirectory.open_or_create(path) as directory:
            directory.set_identity(
                Identity(name="a", member_id=OWN.id, cluster_id=CLUSTER.cluster_id)
            )
            log = self.log(directory.identity)
            write = LogWrite(entries=entries, hard_state=HardState(2, OWN.id, commit))
            log.write(write)
            log.publish(write)
            log.close()
            database = StateStore.open(directory.state_path)
            database.write(StateWrite(applied=applied, members=self.cluster.to_record()), sync=True)
            database.close()

    def log(self, identity):
        return LogStore.open(
            self.log_path,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=8 * SEGMENT_BYTES,
            cluster_id=identity.cluster_id,
            member_id=identity.member_id,
            former_ids=identity.former_ids,
            files=self.disk,
            at_rest=self.form,
        )

    def examine(self):
        with DataDirectory.open_existing(self.path) as directory:
            database = StateStore.open(directory.state_path)
            keys = Keyring([self.form.key] if self.form.key is not None else [])
            log = LogStore.open_for_reading(self.log_path, files=self.disk, keys=keys)
            try:
                return examine(directory.identity, database, log)
            finally:
                log.close()
                database.close()

    def recover(self, *, cluster_id=NEW_ID, step=lambda _: None):
        """`step` may raise before one is taken."""
        survivor = self.examine()

        class Directory(DataDirectory):
            def replace_identity(self, identity):
                step("identity")
                super().replace_identity(identity)

        class Database(StateStore):
            def replace_members(self, members):
                step("database")
                super().replace_members(members)

        class Log(LogStore):
            def write(self, write):
                step("log")
                super().write(write)

        with Directory.open_existing(self.path) as directory:
            database = Database.open(directory.state_path)
            log = None
            try:
                log = self.log(survivor.identity)
                log.__class__ = Log
                perform(survivor, directory, database, log, cluster_id=cluster_id)
            finally:
                if log is not None:
                    log.abandon()
                database.close()

    def found(self):
        """Identity, hard state, terms of the log and membership at its end."""
        with DataDirectory.open_existing(self.path) as directory:
            identity = directory.identity
            database = StateStore.open(directory.state_path)
            cluster = Cluster.from_record(database.members())
            applied = database.applied()
            database.close()
        log = self.log(identity)
        entries = log.read(log.first_index(), log.last_index() + 1, 1 << 30)
        hard_state, _ = log.initial_state()
        log.close()
        for entry in entries:
            if entry.index > applied and entry.type is not EntryType.NORMAL:
                _, cluster, refusal = taken(entry, cluster)
                assert refusal is None
        return identity, hard_state, [entry.term for entry in entries], cluster
