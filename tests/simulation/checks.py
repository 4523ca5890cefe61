"""What must hold, whatever happens: the invariants of the core and of the product.

Everything here is known from outside: from messages as they leave, from disks, from what is
applied and served. The core's own counters are read only where they are the thing that is checked.
The numbers are those of the list in docs/testing.md.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kingbus.binlog.command import decode
from kingbus.binlog.gtid import GtidSet
from kingbus.raft.ready import Role
from kingbus.raft.types import (
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    entries_size,
)
from kingbus.replication.served_rows import gtids_of
from kingbus.storage.log import LogWrite

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.world import World

_PROMISES = frozenset((MessageType.VOTE_RESP, MessageType.APP_RESP))
_TO_MEMBERS = frozenset(
    (
        MessageType.APP,
        MessageType.SNAP,
        MessageType.HEARTBEAT,
        MessageType.VOTE,
        MessageType.PRE_VOTE,
        MessageType.TIMEOUT_NOW,
    )
)
_CAMPAIGNS = frozenset((MessageType.VOTE, MessageType.PRE_VOTE))
DIGEST_EVERY = 4
"""Of the indexes at which nodes stop to compare, one in so many; a digest costs 0.2 ms."""


class Checks:
    """What was seen so far of a whole cluster."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.entries: dict[tuple[int, int], tuple[int, EntryType, bytes]] = {}
        """By (index, term): the term before it, type and data."""
        voters = world.options.voters
        self.committed = dict.fromkeys(range(1, voters + 1), (1, 1))
        """By index: the entry's term, and that of the leader who committed it first."""
        self.commit_max = voters
        self.applied: dict[int, Entry] = {}
        self.configurations: dict[int, ConfState] = {}
        self.last_configuration = (
            voters,
            ConfState(voters=tuple(range(1, voters + 1))),
        )
        self.removed: dict[int, int] = {}
        """Who was removed, by the change at which index."""
        self.read_floors: dict[bytes, int] = {}
        self.reads_answered: set[bytes] = set()
        self.digests: dict[int, str] = {}
        self.sessions: dict[int, int] = {}
        self.session_entries: list[int] = []
        self.pulls: dict[int, int] = {}
        self.visible_count = 0
        """Transactions that some node shows: they are committed."""
        self.promised: dict[int, int] = {}
        """By the term in which it was committed: transactions that somebody was told of."""
        self.received_max = 0
        self.purged_count = 0
        self.purged_files: set[str] = set()
        self._seen: dict[int, tuple[int, int, int]] = {}
        self._node_purged: dict[int, int] = {}

    # -- after every step of a node -------------------------------------------------------------

    def note_start(self, host: "Host") -> None:
        core = host.core
        self._seen[host.id] = (core.term, core.committed, core.committed)

    def check(self, host: "Host") -> None:
        """Invariants 1, 5, 6, 8, 9, 12 as far as one node shows them."""
        raft = host.core._raft
        log = raft.log
        committed, term = log.committed, raft.term
        last_term, last_committed, noted = self._seen[host.id]
        assert term >= last_term, f"the term of {host.id} falls from {last_term} to {term}"
        assert committed >= last_committed, f"the commit of {host.id} falls"
        assert log.applied <= log.applying <= committed <= log.last_index(), log
        leads = raft.role is Role.LEADER
        if leads:
            if self.leaders.get(term) != host.id:
                self._note_leader(host, term)
            self._check_progress(host)
        if committed > noted:
            self._note_commits(host, noted, committed, leads=leads)
        self._seen[host.id] = (term, committed, committed)

    def note_leads(self, host: "Host") -> None:
        """With check-quorum nobody leads for long without hearing from a majority."""
        options = self._world.options
        since = host.ticks - 3 * options.election_tick
        if not options.check_quorum or host.leads_since >= since:
            return
        heard = {host.id, *(node for node, tick in host.heard_tick.items() if tick >= since)}
        conf_state = host.core.conf_state
        assert _is_quorum(heard, conf_state), (
            f"{host.id} leads {conf_state} and has heard only from {heard}"
        )

    def _note_campaign(self, host: "Host") -> None:
        """Only a voter asks for votes, and only when it has applied all changes that it knows."""
        assert host.id in host.core.conf_state.voters + host.core.conf_state.voters_outgoing, (
            f"{host.id} campaigns and is no voter of {host.core.conf_state}"
        )

    def _note_leader(self, host: "Host", term: int) -> None:
        assert term not in self.leaders, (
            f"two leaders in term {term}: {self.leaders[term]} and {host.id}"
        )
        self.leaders[term] = host.id
        log = host.core._raft.log
        first, last = log.first_index(), log.last_index()
        for index, (entry_term, commit_term) in self.committed.items():
            if index >= first and commit_term < term:
                assert index <= last and log.term(index) == entry_term, (
                    f"leader {host.id} of term {term} lacks entry {index} of term {entry_term}, "
                    f"committed in term {commit_term}"
                )

    def _check_progress(self, host: "Host") -> None:
        options, raft = self._world.options, host.core._raft
        for peer, progress in raft.progress.items():
            window = progress.inflights
            assert progress.match < progress.next, (peer, progress.match, progress.next)
            assert window.count <= options.max_inflight_msgs, f"{window.count} messages in flight"
            if options.max_inflight_bytes and window.count > 1:
                before_last = window.bytes - window._sizes[-1]
                assert before_last < options.max_inflight_bytes, f"{window.bytes} bytes in flight"

    def note_proposed(self, host: "Host", size: int) -> None:
        """Invariants 11 and 12, behind a proposal that was taken."""
        limit, raft = self._world.options.max_uncommitted_entries_size, host.core._raft
        assert raft.uncommitted_size <= max(limit, size), (
            f"{raft.uncommitted_size} bytes are uncommitted, at most {limit} may be"
        )

    def note_change_proposed(self, host: "Host") -> None:
        """Invariant 11: of the changes in a leader's log one may be uncommitted."""
        log = host.core._raft.log
        found = [
            index
            for index in range(max(self.commit_max + 1, log.first_index()), log.last_index() + 1)
            for entry in log.slice(index, index + 1, 1 << 30)
            if entry.type is not EntryType.NORMAL
        ]
        assert len(found) <= 1, f"uncommitted changes at {found} in the log of {host.id}"

    def _note_commits(self, host: "Host", noted: int, committed: int, *, leads: bool) -> None:
        raft = host.core._raft
        log = raft.log
        for index in range(max(noted + 1, log.first_index()), committed + 1):
            term = log.term(index)
            known = self.committed.get(index)
            if known is None:
                assert leads, (
                    f"{host.id} takes {index} for committed, and no leader has committed it"
                )
                self.committed[index] = (term, raft.term)
            else:
                assert known[0] == term, (
                    f"{host.id} commits {index} of term {term}, it was committed of {known[0]}"
                )
        if committed > self.commit_max:
            self.commit_max = committed
            if leads:
                self.check_durable(committed, log.term(committed), raft.configuration.conf_state)

    def check_durable(self, index: int, term: int, conf_state: ConfState) -> None:
        """Invariant 9: a quorum has it on disk."""
        hosts = self._world.hosts
        for half in (conf_state.voters, conf_state.voters_outgoing):
            holders = [node for node in half if node in hosts and hosts[node].log.has(index, term)]
            assert len(holders) > len(half) // 2 or not half, (
                f"{index} is committed and durable on {holders} of {half}"
            )

    def check_safe(self, index: int, term: int, conf_state: ConfState) -> None:
        """Nobody can be elected by members that all lack it."""
        hosts = self._world.hosts
        lacking = [
            node
            for node in conf_state.members
            if node in hosts and not hosts[node].log.has(index, term)
        ]
        assert not _is_quorum(lacking, conf_state), (
            f"{index} was acknowledged, and {lacking} of {conf_state} lack it"
        )

    # -- what leaves a node ---------------------------------------------------------------------

    def note_promise(self, host: "Host", message: Message) -> None:
        """Invariants 2 and 3: votes and acknowledgements leave behind what they promise."""
        if message.type not in _PROMISES or message.reject or not message.term:
            return
        durable, term = host.log.hard_state, message.term
        assert durable.term >= term, (
            f"{message.type} of term {term} leaves {host.id}, durable is {durable}"
        )
        if message.type is MessageType.VOTE_RESP:
            voted = self.votes.setdefault((host.id, term), message.to)
            assert voted == message.to, f"{host.id} votes twice in term {term}"
            assert durable.term > term or durable.vote == message.to, (
                f"a vote for {message.to} leaves {host.id}, durable is {durable}"
            )
        elif durable.term == term:
            assert host.log.last_index() >= message.index, (
                f"{host.id} acknowledges {message.index}, durable is {host.log.last_index()}"
            )

    def note_sent(self, host: "Host", message: Message) -> bool:
        """Invariants 12 and 13, and those of promises; False when it is not to be sent.

        A message may have been on its way when its receiver was removed: then the host drops it.
        """
        self.note_promise(host, message)
        if message.type is MessageType.PRE_VOTE and self._world.options.asynchronous:
            assert message.term == host.core.term + 1, "a pre-vote raises no term"
        if message.type in _CAMPAIGNS:
            self._note_campaign(host)
        if message.type in _TO_MEMBERS and message.to not in host.core._raft.progress:
            assert self.removed.get(message.to, host.applied + 1) <= host.applied, (
                f"{host.id} sends {message.type} to {message.to}, who is not a member"
            )
            return False
        if len(message.entries) > 1:
            size, limit = entries_size(message.entries), self._world.options.max_size_per_msg
            assert size <= limit, f"a message of {size} bytes, at most {limit} are allowed"
        return True

    # -- disks and entries ----------------------------------------------------------------------

    def note_written(self, host: "Host", write: LogWrite) -> None:
        """Invariant 4: equal index and term mean an equal entry behind an equal one."""
        log = host.log
        first = log.first_index()
        for entry in write.entries:
            if entry.index < first:
                continue
            value = (log.term(entry.index - 1), entry.type, entry.data)
            known = self.entries.setdefault((entry.index, entry.term), value)
            assert known == value, f"two entries {entry.index} of term {entry.term}"

    def check_logs(self) -> None:
        """Invariant 4 over everything that is durable."""
        for host in self._world.hosts.values():
            before = host.log.term(host.log.first_index() - 1)
            for entry in host.log.held():
                value = (before, entry.type, entry.data)
                known = self.entries.setdefault((entry.index, entry.term), value)
                assert known == value, f"{host.id} has another {entry.index} of {entry.term}"
                before = entry.term

    def note_applied(self, host: "Host", entry: Entry) -> None:
        """Invariant 5."""
        assert host.log.has(entry.index, entry.term), f"{host.id} applies what is not durable"
        known = self.applied.setdefault(entry.index, entry)
        assert known == entry, f"{host.id} applies {entry}, others applied {known}"
        committed = self.committed.get(entry.index)
        assert committed is not None, f"{host.id} applies {entry.index}, which is not committed"
        if entry.type is EntryType.NORMAL and entry.data:
            self._note_command(entry)

    def _note_command(self, entry: Entry) -> None:
        command, _ = decode(entry.data)
        if command.WhichOneof("kind") == "receiver_session":
            session = command.receiver_session
            known = self.sessions.setdefault(session.term, session.member_id)
            assert known == session.member_id, f"two receivers in term {session.term}"

    def note_configuration(self, host: "Host", index: int, conf_state: ConfState) -> None:
        """Invariant 11: one configuration at each index, quorums of neighbours meet."""
        if index <= self._world.options.voters:
            return  # active from the start, whatever has been applied of them
        known = self.configurations.get(index)
        if known is not None:
            assert known == conf_state, f"{host.id} has {conf_state} at {index}, others {known}"
            return
        self.configurations[index] = conf_state
        last_index, last = self.last_configuration
        if index > last_index:
            assert quorums_meet(last, conf_state), f"{last} and {conf_state} may part"
            self.last_configuration = (index, conf_state)
            for node in last.members - conf_state.members:
                self.removed[node] = index

    # -- reads ----------------------------------------------------------------------------------

    def note_read_asked(self, context: bytes) -> None:
        self.read_floors[context] = self.commit_max

    def note_read(self, context: bytes, index: int) -> None:
        """Invariant 10."""
        floor = self.read_floors[context]
        assert index >= floor, f"a read is answered with {index}, {floor} was committed before it"
        self.reads_answered.add(context)

    # -- the relay ------------------------------------------------------------------------------

    def note_state(self, host: "Host") -> None:
        """Invariants 17 and 18, and that states of equal index are equal."""
        state = host.relay.state
        assert state.index == host.applied
        if state.index % DIGEST_EVERY == 0:
            self._note_digest(host)
        count = state.executed.count()
        if count > self.visible_count:
            self.visible_count = count
            assert state.executed == self._world.source.history.set_of(count), (
                f"{host.id} has executed {state.executed}, no beginning of the history"
            )
        self.purged_count = max(self.purged_count, state.purged.count())
        held = {row.served_name for row in state.files}
        self.purged_files |= set(state._names_used) - held
        if state.index % DIGEST_EVERY == 1 and host.serves:
            self.check_held(host)

    def _note_digest(self, host: "Host") -> None:
        state = host.relay.state
        digest = state.digest()
        known = self.digests.setdefault(state.index, digest)
        assert known == digest, f"{host.id} has another relay state at {state.index}"

    def check_held(self, host: "Host") -> None:
        """Invariant 18: the executed set is what is held and what was purged."""
        state = host.relay.state
        held = GtidSet()
        for index, row in host.database.rows.items():
            assert index <= state.index
            held.update(gtids_of(row.gtids))
        if state._open is not None:
            opened = state._open.gtid
            one = GtidSet()
            one.add(opened.uuid, opened.tag, opened.first, opened.last)
            held = held.subtract(one)
        assert not held.overlaps(state.purged), f"{host.id} holds what it says is purged"
        assert held.union(state.purged) == state.executed, (
            f"{host.id} holds {held}, purged {state.purged}, executed {state.executed}"
        )
        assert state.purged == self._world.source.history.set_of(state.purged.count())

    def note_installed(self, host: "Host") -> None:
        """A snapshot is something that was committed."""
        index = host.applied
        assert index in self.committed, f"{host.id} installs {index}, which is not committed"
        term = host.log.term(index)
        assert self.committed[index][0] == term

    def note_ready(self, host: "Host") -> None:
        """Invariant 15: a leader has all that was promised in earlier terms."""
        term, count = host.core.term, host.relay.state.executed.count()
        for commit_term, promised in self.promised.items():
            assert commit_term >= term or count >= promised, (
                f"leader {host.id} of term {term} has {count} transactions, {promised} were "
                f"promised in term {commit_term}"
            )

    def _promise(self, count: int, commit_term: int) -> None:
        self.promised[commit_term] = max(count, self.promised.get(commit_term, 0))

    def note_acknowledged(self, host: "Host", index: int) -> None:
        """Invariant 20: what the source is told to be safe is on a majority of disks."""
        term, commit_term = self.committed[index]
        self.check_safe(index, term, host.core.conf_state)
        self._promise(host.relay.state.executed.count(), commit_term)

    def note_served(self, index: int) -> None:
        """Invariant 17."""
        assert index in self.committed, f"entry {index} is served and not committed"

    def note_received(self, count: int, index: int) -> None:
        """What a replica has may never be lost."""
        self.received_max = max(self.received_max, count)
        self._promise(count, self.committed[index][1])

    def note_pull(self, term: int, node: int) -> None:
        """Invariant 19."""
        known = self.pulls.setdefault(term, node)
        assert known == node, f"{known} and {node} pull in term {term}"


def quorums_meet(old: ConfState, new: ConfState) -> bool:
    """Whether no quorum of one configuration leaves out every quorum of the other."""
    everybody = sorted({*old.voters, *old.voters_outgoing, *new.voters, *new.voters_outgoing})
    for bits in range(1 << len(everybody)):
        some = {node for at, node in enumerate(everybody) if bits >> at & 1}
        rest = set(everybody) - some
        if _is_quorum(some, old) and _is_quorum(rest, new):
            return False
    return True


def _is_quorum(nodes: Iterable[int], conf_state: ConfState) -> bool:
    nodes = set(nodes)
    return all(
        len(nodes & set(half)) > len(half) // 2
        for half in (conf_state.voters, conf_state.voters_outgoing)
        if half
    )
