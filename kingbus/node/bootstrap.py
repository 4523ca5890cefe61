"""How a member comes to life: start, join or restart, and nothing in between (design, section 9).

    no log on disk, initial-cluster-state new       start a new cluster with the others
    no log on disk, initial-cluster-state existing  join: somebody has added this member before
    a log on disk                                   restart from it; the initial cluster is ignored

`decide` is pure; `prepare` performs: it asks the peers what must be asked, writes the identity,
and says what the node is to be built with. Refusing is always safe: nothing was promised to anyone
before the log holds its first record.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import trio
from google.protobuf.message import DecodeError

from kingbus.errors import KingbusError
from kingbus.membership.cluster import Cluster
from kingbus.membership.member import Member, normalize_urls
from kingbus.node.calls import ClusterAnswer, ask_cluster
from kingbus.node.errors import (
    BootstrapError,
    MemberRemovedError,
    RestartError,
    StaleDirectoryError,
)
from kingbus.node.machine import Runner
from kingbus.pb import record_pb2
from kingbus.raft.types import HardState
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.transport.errors import TransportError

REMOVED_FILE = "removed.json"
JOINED_FILE = "joined.members"
FORGOT_FILE = "forgot.json"
JOIN_SECONDS_MAX = 10.0
"""How long a joining node looks for a live peer that knows it: a follower that was asked may lag
behind the change that added it."""
_JOIN_PAUSE_SECONDS = 0.25

Ask = Callable[[str], Awaitable[ClusterAnswer]]
"""What the member at a URL knows of the cluster; TransportError when it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapConfig:
    """What the configuration says; `initial_cluster` holds (name, peer URLs).

    `lists_all`: somebody wrote it down as the members that there are, so a difference is a mistake.
    Otherwise the cluster told it a moment ago, and others may have come or gone since.
    `key_id` names the configured cluster key; empty: none.
    """

    name: str
    peer_url: str
    initial_cluster: Sequence[tuple[str, Sequence[str]]]
    is_new: bool = True
    lists_all: bool = True
    key_id: str = ""

    @property
    def others(self) -> list[str]:
        """The peer URLs of the other initial members."""
        return [url for name, urls in self.initial_cluster if name != self.name for url in urls]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Begin a new cluster, every initial member by itself."""

    cluster: Cluster
    member: Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Become the member that the cluster has been told of; `via` are the URLs to ask."""

    via: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Go on as the member that the directory belongs to."""

    identity: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What Node is built with; `path` is start, join or restart, `notes` are for the log."""

    path: str
    identity: Identity
    cluster: Cluster
    bootstrap: tuple[Member, ...] = ()
    foreseen: Cluster | None = None
    notes: tuple[str, ...] = ()


def decide(
    config: BootstrapConfig, *, identity: Identity | None, has_log: bool, is_removed: bool = False
) -> Start | Join | Restart:
    """Which of the three; RestartError, BootstrapError, MemberRemovedError, MembershipError.

    `identity` and `has_log` are what the directory says, `is_removed` that its member was removed.
    """
    check_owner(config.name, identity, is_removed=is_removed)
    if has_log:
        if identity is None:
            raise RestartError(
                "the data directory has a log but does not say whose it is: it lacks identity.json"
            )
        return Restart(identity=identity)
    if not config.is_new:
        if not config.others:
            raise BootstrapError(
                "initial-cluster names no other member to join",
                hint="List the members of the cluster, this one included.",
            )
        return Join(via=tuple(config.others))
    decision = _decide_start(config)
    if identity is not None and identity.member_id != decision.member.id:
        raise RestartError(
            f"the data directory belongs to member {identity.member_id:x}; by name and"
            f" initial-cluster this is {decision.member.id:x}",
            hint="Use the data-dir of this member, or another empty one.",
        )
    return decision


def check_owner(name: str, identity: Identity | None, *, is_removed: bool) -> None:
    """MemberRemovedError or RestartError when this directory cannot be that of the member."""
    if is_removed:
        raise MemberRemovedError(f"{name} was removed from the cluster")
    if identity is not None and identity.name != name:
        raise RestartError(
            f"the data directory belongs to {identity.name!r}, the configuration is for {name!r}",
            hint="Use the data-dir of this member, or another empty one.",
        )


def _decide_start(config: BootstrapConfig) -> Start:
    cluster = Cluster.initial(config.initial_cluster)
    names = [name for name, _ in config.initial_cluster]
    urls = [url for member in cluster for url in member.peer_urls]
    for what, found in (("name", names), ("peer URL", urls)):
        repeated = sorted({each for each in found if found.count(each) > 1})
        if repeated:
            raise BootstrapError(f"initial-cluster has the {what} {repeated[0]} twice")
    member = cluster.named(config.name)
    if member is None:
        raise BootstrapError(f"initial-cluster does not name this member, {config.name}")
    own = normalize_urls([config.peer_url])[0]
    if own not in member.peer_urls:
        raise BootstrapError(
            f"initial-cluster gives {config.name} the URL {', '.join(member.peer_urls)},"
            f" peer-url says {own}"
        )
    return Start(cluster=cluster, member=member)


async def prepare(
    config: BootstrapConfig,
    directory: DataDirectory,
    *,
    members: record_pb2.Members | None,
    runner: Runner,
    ask: Ask = ask_cluster,
) -> Prepared:
    """Decide and perform; `members` is what the database has. Errors as `decide`, and more.

    Before the log is opened. What is written is the identity, and that only once nothing speaks
    against this path any more.
    """
    if (directory.path / FORGOT_FILE).exists():
        raise forgotten(config.name, "the log", took_part_again=True)
    torn = directory.has_torn_log
    decision = decide(
        config,
        identity=directory.identity,
        # Who joins goes on with what there is; who begins a cluster begins anew.
        has_log=directory.has_log or (torn and not config.is_new),
        is_removed=is_marked_removed(directory),
    )
    if members is not None and not isinstance(decision, Restart):
        raise RestartError(
            "the database in the data directory is that of a member, but its log is empty",
            hint="Restore the log, or remove the member and add it anew with an empty directory.",
        )
    match decision:
        case Start():
            prepared = await _start(config, decision, ask, torn=torn)
        case Join():
            prepared = await _join(config, decision, ask)
            assert prepared.foreseen is not None
            await runner(_write_joined, directory, prepared.foreseen)
        case Restart():
            return await _restart(config, directory, decision, members, ask)
    await runner(directory.set_identity, prepared.identity)
    return prepared


def _identity(name: str, member: Member, cluster: Cluster, *, origin_id: int = 0) -> Identity:
    return Identity(
        name=name,
        member_id=member.id,
        cluster_id=cluster.cluster_id,
        origin_id=origin_id,
        created=datetime.now(tz=UTC).isoformat(timespec="seconds"),
    )


async def _start(
    config: BootstrapConfig, decision: Start, ask: Ask, *, torn: bool = False
) -> Prepared:
    """`torn`: the first write was never whole, so whatever peers heard was no promise."""
    cluster, member = decision.cluster, decision.member
    for url, answer in (await _ask_all(config.others, ask)).items():
        theirs = answer.cluster
        _check_key(config, url, answer)
        if theirs.cluster_id != cluster.cluster_id:
            raise BootstrapError(
                f"{url} belongs to cluster {theirs.cluster_id:x} (members: {_list(theirs)});"
                f" by initial-cluster this is {cluster.cluster_id:x}",
                hint="initial-cluster must be the same on all members of a new cluster.",
            )
        if member.id in theirs.removed:
            raise MemberRemovedError(f"{url} says that {config.name} was removed from the cluster")
        if member.id in answer.bootstrapped and not torn:
            raise forgotten(config.name, url)
    return Prepared(
        path="start",
        identity=_identity(config.name, member, cluster),
        cluster=cluster.emptied(),
        bootstrap=cluster.members,
        # As it will be behind the entries that begin the log, one for each member.
        foreseen=replace(cluster, index=len(cluster)),
    )


async def _join(config: BootstrapConfig, decision: Join, ask: Ask) -> Prepared:
    problem = "no member of initial-cluster answers"
    with trio.move_on_after(JOIN_SECONDS_MAX):
        while True:
            answers = await _ask_all(decision.via, ask)
            for url, answer in answers.items():
                _check_key(config, url, answer)
            if answers:
                clusters = {answer.cluster.cluster_id for answer in answers.values()}
                if len(clusters) > 1:
                    problem = "the members of initial-cluster belong to different clusters: " + (
                        ", ".join(
                            f"{url} to {a.cluster.cluster_id:x}" for url, a in answers.items()
                        )
                    )
                    break
                newest = max(answers.values(), key=lambda answer: answer.cluster.index)
                cluster = newest.cluster
                problem = join_problem(config, cluster)
                if not problem:
                    member = cluster.named(config.name)
                    assert member is not None
                    _check_memory(member, answers)
                    return Prepared(
                        path="join",
                        identity=_identity(
                            config.name, member, cluster, origin_id=newest.origin_id
                        ),
                        cluster=cluster.emptied(),
                        foreseen=cluster,
                    )
                if cluster.named(config.name) is not None:
                    break  # waiting would not make the configuration right
            await trio.sleep(_JOIN_PAUSE_SECONDS)
    raise BootstrapError(f"cannot join: {problem}")


def _check_key(config: BootstrapConfig, url: str, answer: ClusterAnswer) -> None:
    """BootstrapError for a configured key that is not the cluster's.

    Before anything is written: a member that takes part and only then finds that it cannot open
    what is sealed is a voter down.
    """
    if config.key_id and answer.key_id and config.key_id != answer.key_id:
        raise BootstrapError(
            f"cluster-key-file holds key {config.key_id}, {url} says that the cluster has"
            f" {answer.key_id}",
            hint="Every member must have the same cluster-key-file, or none at all.",
        )


def _check_memory(member: Member, answers: Mapping[str, ClusterAnswer]) -> None:
    """BootstrapError for a member that took part before.

    Without its log a voter forgot its votes, and a learner what the leader knows that it has.
    """
    for url, answer in answers.items():
        if member.id in answer.bootstrapped:
            raise forgotten(member.name, url)


def join_problem(config: BootstrapConfig, cluster: Cluster) -> str:
    """What in the configuration differs from the cluster to be joined; empty: nothing."""
    own = normalize_urls([config.peer_url])[0]
    member = cluster.named(config.name)
    if member is None:
        other = cluster.at(own)
        if other is not None:
            return f"the cluster has {own} under the name {other.name}, not {config.name}"
        return f"the cluster has no member {config.name}: add it first (kingbus member add)"
    problems = []
    if own not in member.peer_urls:
        problems.append(
            f"peer-url is {own}, the cluster has {config.name} at {', '.join(member.peer_urls)}"
        )
    if config.lists_all:
        problems += _differences(config, cluster)
    return "; ".join(problems)


def _differences(config: BootstrapConfig, cluster: Cluster) -> list[str]:
    """In what initial-cluster is not the cluster."""
    problems = []
    named = {name: normalize_urls(urls) for name, urls in config.initial_cluster}
    for name, urls in named.items():
        known = cluster.named(name)
        if known is None:
            problems.append(f"initial-cluster names {name}, which the cluster does not have")
        elif set(urls) != set(known.peer_urls):
            problems.append(
                f"initial-cluster gives {name} the URL {', '.join(urls)}, the cluster has"
                f" {', '.join(known.peer_urls)}"
            )
    problems += [
        f"the cluster's member {known.name} ({', '.join(known.peer_urls)}) is missing in"
        " initial-cluster"
        for known in cluster
        if known.name not in named
    ]
    return problems


async def _restart(
    config: BootstrapConfig,
    directory: DataDirectory,
    decision: Restart,
    members: record_pb2.Members | None,
    ask: Ask,
) -> Prepared:
    identity = decision.identity
    notes = ["the log on disk counts: initial-cluster and its state are ignored"]
    cluster = Cluster(cluster_id=identity.cluster_id)
    if members is not None:
        cluster = Cluster.from_record(members)
        if cluster.cluster_id != identity.cluster_id:
            if cluster.cluster_id in identity.former_ids:
                raise RestartError(
                    "the recovery of this member as a cluster of its own was not finished",
                    hint="Repeat it: kingbus storage recover --force-new-cluster",
                )
            raise RestartError(
                f"the database is of cluster {cluster.cluster_id:x}, the directory of"
                f" {identity.cluster_id:x}"
            )
    if identity.member_id in cluster.removed:
        raise MemberRemovedError(f"{identity.name} was removed from the cluster")
    own = cluster.get(identity.member_id)
    url = normalize_urls([config.peer_url])[0]
    if own is not None and url not in own.peer_urls:
        await _check_moved(identity, url, own, cluster, ask)
        notes.append(f"peer-url {url} was agreed on while this member was down")
    return Prepared(
        path="restart",
        identity=identity,
        cluster=cluster,
        foreseen=_read_joined(directory, identity) if members is None else None,
        notes=tuple(notes),
    )


def _write_joined(directory: DataDirectory, cluster: Cluster) -> None:
    """Keep the membership that was joined until the log tells of one. Blocks."""
    directory.write_file(JOINED_FILE, cluster.to_record().SerializeToString())


def _read_joined(directory: DataDirectory, identity: Identity) -> Cluster | None:
    """The same at a restart; None where it is not there, or says nothing of this member.

    Nobody depends on it: the leader comes by itself. But nobody comes to who was removed.
    """
    try:
        record = record_pb2.Members.FromString((directory.path / JOINED_FILE).read_bytes())
        cluster = Cluster.from_record(record)
    except (OSError, ValueError, DecodeError, KingbusError):
        return None
    fits = cluster.cluster_id == identity.cluster_id and identity.member_id in cluster
    return cluster if fits else None


async def _check_moved(
    identity: Identity, url: str, own: Member, cluster: Cluster, ask: Ask
) -> None:
    """Whether the others know this member at its new URL; RestartError when none says so."""
    others = [each for m in cluster if m.id != identity.member_id for each in m.peer_urls]
    for answer in (await _ask_all(others, ask)).values():
        known = answer.cluster.get(identity.member_id)
        if answer.cluster.cluster_id == identity.cluster_id and known and url in known.peer_urls:
            return
    raise RestartError(
        f"peer-url is {url}, but the cluster knows {identity.name} at {', '.join(own.peer_urls)}",
        hint=f"Tell the cluster first: kingbus member update {identity.name} --peer-url {url}",
    )


async def _ask_all(urls: Sequence[str], ask: Ask) -> dict[str, ClusterAnswer]:
    """The answers of those that answer; nobody has to."""
    answers: dict[str, ClusterAnswer] = {}

    async def one(url: str) -> None:
        try:
            answers[url] = await ask(url)
        except (TransportError, KingbusError):
            return

    async with trio.open_nursery() as nursery:
        for url in urls:
            nursery.start_soon(one, url)
    return answers


async def check_not_stale(
    prepared: Prepared, hard_state: HardState, last_index: int, *, ask: Ask = ask_cluster
) -> None:
    """StaleDirectoryError when a peer that led has seen more of this log than there is.

    Who led and still runs remembers what was acknowledged to it; where nobody does, nothing is
    found. Nobody has to answer.
    """
    own = prepared.identity.member_id
    urls = [url for m in prepared.cluster if m.id != own for url in m.peer_urls]
    for url, answer in (await _ask_all(urls, ask)).items():
        if answer.cluster.cluster_id != prepared.identity.cluster_id:
            continue
        known = answer.acknowledged.get(own, (0, 0))
        if (hard_state.term, last_index) < known:
            term, index = known
            raise StaleDirectoryError(
                f"the log here ends in term {hard_state.term} at index {last_index}, but {url} was"
                f" told by this member, in term {term}, that it had index {index}"
            )


def _list(cluster: Cluster) -> str:
    return ", ".join(member.name for member in cluster) or "none yet"


def is_marked_removed(directory: DataDirectory) -> bool:
    """Whether the member of this directory was told that it was removed."""
    return (directory.path / REMOVED_FILE).exists()


def forgotten(name: str, teller: str, *, took_part_again: bool = False) -> BootstrapError:
    """Why a member does not go on that took part before and has an emptied directory.

    One that took part again must not go back to an older log either: it acknowledged more by now.
    """
    hint = "Restore the directory, or remove the member and add it anew; with its log it lost what"
    if took_part_again:
        hint = (
            "Remove the member and add it anew with an empty directory; with its log it lost what"
        )
    return BootstrapError(
        f"{teller} says that {name} has taken part in the cluster before, but its data directory"
        f" {'was' if took_part_again else 'is'} empty",
        hint=f"{hint} it promised.",
    )


def mark_forgotten(directory: DataDirectory) -> None:
    """Remember that this log was begun anew by who had one, so that it stays refused. Blocks."""
    facts = {"found": datetime.now(tz=UTC).isoformat(timespec="seconds")}
    directory.write_file(FORGOT_FILE, (json.dumps(facts) + "\n").encode())


def mark_removed(directory: DataDirectory, *, told_by: int) -> None:
    """Remember it, so that the directory is never started again. Blocks."""
    facts = {
        "removed": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "told_by": f"{told_by:x}",
    }
    directory.write_file(REMOVED_FILE, (json.dumps(facts) + "\n").encode())
