"""The way out of a lost majority: one member becomes the only voter of a new cluster.

Its log and relay state stay as they are. Behind the log come the changes that take every other
member away, as if a last leader had proposed them: a node that joins later, and replays the log or
gets a snapshot of it, ends with the same membership. What the log had not committed is committed
with them, because the majority that is gone may have acknowledged it.

Each step is durable before the next, and a recovery that was cut short is repeated as a whole:

    identity   says the new cluster, and which one it was: from here on nothing else starts here
    log        one write: the changes, and a hard state that commits all of it
    database   the membership is that of the new cluster; without this step no node starts

The member keeps its id, so its listener stays configured; the others' ids never come back. Segments
keep the cluster id under which they were written, and `Identity.former_ids` says that they belong
here. What replicas and source know the relay by, its server id and uuid, is derived from
`Identity.origin_id`, which stays, and which nodes that join are told. What this module must not
know: who asked for it, and what the entries mean.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kingbus.membership.cluster import ChangeKind, Cluster, MemberChange
from kingbus.node.changes import taken, to_conf_change
from kingbus.node.errors import RestartError
from kingbus.raft.types import ConfChangeV2, Entry, EntryType, HardState
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.state_store import StateStore

READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """What a stopped member holds. `cluster` is the membership as of the end of its log.

    `unfinished`: a recovery was begun here before.
    """

    identity: Identity
    cluster: Cluster
    hard_state: HardState
    first_index: int
    last_index: int
    last_term: int
    applied: int
    unfinished: bool

    @property
    def is_alone(self) -> bool:
        """There is nobody else to take away: nothing to recover from."""
        own = self.identity.member_id
        return {member.id for member in self.cluster} == {own} and self.cluster.voters == (own,)


def examine(identity: Identity, database: StateStore, log: LogStore) -> Survivor:
    """Look, changing nothing; `log` may be open for reading. Blocks.

    RestartError when log and database do not fit together.
    """
    members, applied = database.members(), database.applied()
    if applied > log.last_index():
        raise RestartError(
            f"the log ends at index {log.last_index()}, but {applied} was applied: entries are "
            "missing",
            hint="The log was damaged or replaced. Recover another member, if there is one.",
        )
    cluster = Cluster(cluster_id=identity.cluster_id)
    begin = log.first_index()
    unfinished = False
    if members is not None:
        cluster = Cluster.from_record(members)
        unfinished = cluster.cluster_id in identity.former_ids
        if cluster.cluster_id != identity.cluster_id and not unfinished:
            raise RestartError(
                f"the database is of cluster {cluster.cluster_id:x}, the directory of"
                f" {identity.cluster_id:x}"
            )
        begin = max(begin, applied + 1)
    for entry in _entries(log, begin):
        if entry.type is not EntryType.NORMAL:
            _, cluster, _ = taken(entry, cluster)
    hard_state, _ = log.initial_state()
    return Survivor(
        identity=identity,
        cluster=cluster,
        hard_state=hard_state,
        first_index=log.first_index(),
        last_index=log.last_index(),
        last_term=log.term(log.last_index()),
        applied=applied,
        unfinished=unfinished,
    )


def _entries(log: LogStore, begin: int) -> Iterator[Entry]:
    last = log.last_index()
    while begin <= last:
        found = log.read(begin, last + 1, READ_BYTES)
        yield from found
        begin = found[-1].index + 1


def plan(survivor: Survivor) -> list[Entry]:
    """The changes that leave this member as the only one, a voter; none when it is that already.

    RestartError when it cannot be: it is no member any more.
    """
    cluster, index = survivor.cluster, survivor.last_index
    term = max(survivor.hard_state.term, survivor.last_term) + 1
    entries: list[Entry] = []

    def add(change: ConfChangeV2) -> None:
        nonlocal cluster, index
        index += 1
        entry = Entry(term, index, EntryType.CONF_CHANGE_V2, change.encode())
        _, after, refusal = taken(entry, cluster)
        assert refusal is None, refusal
        cluster = after
        entries.append(entry)

    if cluster.is_joint:
        add(ConfChangeV2())
    own = cluster.get(survivor.identity.member_id)
    if own is None:
        raise RestartError(
            f"by its own log {survivor.identity.name} is not a member of the cluster any more",
            hint="Recover another member.",
        )
    if own.learner:
        add(to_conf_change(MemberChange(kind=ChangeKind.PROMOTE, member=own)))
    for member in cluster:
        if member.id != own.id:
            add(to_conf_change(MemberChange(kind=ChangeKind.REMOVE, member=member)))
    return entries


def perform(
    survivor: Survivor,
    directory: DataDirectory,
    database: StateStore,
    log: LogStore,
    *,
    cluster_id: int,
) -> None:
    """Blocks. Take the steps of the module; `cluster_id` is for a recovery that begins.

    One that goes on keeps the id that it was given. Raises as `plan`, and the errors of storage;
    after any of them it may be repeated.
    """
    changes = plan(survivor)
    identity = survivor.identity
    if not survivor.unfinished:
        assert cluster_id not in {0, identity.cluster_id, *identity.former_ids}
        identity = replace(
            identity,
            cluster_id=cluster_id,
            origin_id=identity.served_id,
            former_ids=(*identity.former_ids, identity.cluster_id),
        )
        directory.replace_identity(identity)
    _extend(log, changes, survivor, member_id=identity.member_id)
    members = database.members()
    cluster = Cluster.from_record(members) if members is not None else Cluster(cluster_id=0)
    cluster = replace(cluster, cluster_id=identity.cluster_id)
    database.replace_members(cluster.to_record())


def _extend(log: LogStore, changes: Sequence[Entry], survivor: Survivor, *, member_id: int) -> None:
    last = changes[-1] if changes else None
    term = last.term if last is not None else max(survivor.hard_state.term, survivor.last_term)
    end = last.index if last is not None else survivor.last_index
    # As if it had been elected in that term: whoever else was, was so in another cluster.
    vote = member_id if last is not None else survivor.hard_state.vote
    write = LogWrite(entries=changes, hard_state=HardState(term, vote, end))
    log.write(write)
    log.publish(write)
