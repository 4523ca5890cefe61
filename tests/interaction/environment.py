"""Handler of the interaction files: whole nodes over memory storage and a pool of messages.

Nodes are numbered from 1. Messages stay in the pool until a directive delivers or drops them;
nothing happens by itself, so that every line of output has its cause in the file.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kingbus.raft.config import RaftConfig, ReadOnlyOption
from kingbus.raft.describe import describe_entries, describe_message, describe_ready
from kingbus.raft.errors import RaftError
from kingbus.raft.progress import describe_progress
from kingbus.raft.raft import Raft
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import Role
from kingbus.raft.storage import MemoryStorage
from kingbus.raft.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    NO_LIMIT,
    STORAGE_THREADS,
    ConfChange,
    ConfChangeTransition,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    decode_conf_change,
)
from tests.interaction.datadriven import Directive, DirectiveError
from tests.interaction.operations import parse_operations

LEVELS = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"]
SILENT = LEVELS.index("NONE")
ELECTION_TICK = 3
HEARTBEAT_TICK = 1
MESSAGE_TYPES = {str(kind): kind for kind in MessageType}
TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}


class Output:
    """What a directive prints; the log of the nodes goes here as well."""

    def __init__(self) -> None:
        self.level = 0
        self.text = ""

    def write(self, text: str) -> None:
        if self.level != SILENT:
            self.text += text

    def _log(self, level: int, message: str, args: tuple[object, ...]) -> None:
        if self.level <= level:
            self.write(f"{LEVELS[level]} {message % args if args else message}\n")

    def debug(self, msg: str, /, *args: object) -> None:
        self._log(0, msg, args)

    def info(self, msg: str, /, *args: object) -> None:
        self._log(1, msg, args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._log(2, msg, args)

    def error(self, msg: str, /, *args: object) -> None:
        self._log(3, msg, args)

    @contextmanager
    def indented(self) -> Iterator[None]:
        """What is printed inside gets two spaces before each line."""
        outer, self.text = self.text, ""
        try:
            yield
        finally:
            inner, self.text = self.text, outer
            for line in inner.splitlines():
                self.write(f"  {line}\n")


class HistoryStorage(MemoryStorage):
    """Memory storage whose newest snapshot is the state after the last applied entry."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Snapshot] = []

    def snapshot(self) -> Snapshot:
        return self.history[-1]


@dataclass(slots=True)
class Node:
    """One node and what its host keeps for it."""

    core: RawNode
    storage: HistoryStorage
    config: RaftConfig
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)

    @property
    def raft(self) -> Raft:
        return self.core._raft


class Environment:
    """One fresh world for each file."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.messages: list[Message] = []
        self.output = Output()
        self._commands: dict[str, Callable[[Directive], None]] = {
            "_breakpoint": lambda _directive: None,
            "add-nodes": self._add_nodes,
            "campaign": self._campaign,
            "compact": self._compact,
            "deliver-msgs": self._deliver_messages,
            "forget-leader": self._forget_leader,
            "log-level": self._log_level,
            "process-append-thread": self._process_append_threads,
            "process-apply-thread": self._process_apply_threads,
            "process-ready": self._process_readys,
            "propose": self._propose,
            "propose-conf-change": self._propose_conf_change,
            "raft-log": self._raft_log,
            "raft-state": self._raft_state,
            "report-unreachable": self._report_unreachable,
            "send-snapshot": self._send_snapshot,
            "set-randomized-election-timeout": self._set_randomized_election_timeout,
            "stabilize": self._stabilize,
            "status": self._status,
            "tick-election": self._tick_election,
            "tick-heartbeat": self._tick_heartbeat,
            "transfer-leadership": self._transfer_leadership,
        }

    def __call__(self, directive: Directive) -> str:
        output = self.output
        output.text = ""
        try:
            command = self._commands.get(directive.command)
            if command is None:
                raise DirectiveError("unknown command")
            command(directive)
        except (RaftError, DirectiveError) as error:
            if output.level == SILENT:
                return str(error)
            output.write(str(error))
        return output.text or "ok"

    def _node(self, node_id: int) -> Node:
        if not 1 <= node_id <= len(self.nodes):
            raise DirectiveError(f"no node {node_id}")
        return self.nodes[node_id - 1]

    def _first(self, directive: Directive) -> Node:
        return self._node(directive.ids()[0])

    # Making nodes

    def _add_nodes(self, directive: Directive) -> None:
        index = directive.number("index", 0)
        snapshot = Snapshot(
            index=index,
            conf_state=ConfState(
                voters=tuple(directive.numbers("voters")),
                learners=tuple(directive.numbers("learners")),
            ),
            data=directive.value("content", "").encode(),
        )
        read_only = directive.value("read-only", "safe")
        for _ in range(directive.ids()[0]):
            storage = HistoryStorage()
            if snapshot != Snapshot():
                if index <= 1:
                    raise DirectiveError("index must be specified as > 1 due to bootstrap")
                snapshot = Snapshot(index, 1, snapshot.conf_state, snapshot.data)
                storage.apply_snapshot(snapshot)
            storage.history.append(snapshot)
            node_id = len(self.nodes) + 1
            config = RaftConfig(
                id=node_id,
                storage=storage,
                random=random.Random(node_id),
                election_tick=ELECTION_TICK,
                heartbeat_tick=HEARTBEAT_TICK,
                applied=index,
                async_storage_writes=directive.flag("async-storage-writes"),
                max_size_per_msg=NO_LIMIT,
                max_committed_size_per_ready=directive.number("max-committed-size-per-ready", 0),
                max_inflight_msgs=directive.number("inflight", 2**31 - 1),
                check_quorum=directive.flag("checkquorum"),
                pre_vote=directive.flag("prevote"),
                read_only_option=ReadOnlyOption(read_only),
                disable_conf_change_validation=directive.flag("disable-conf-change-validation"),
                step_down_on_removal=directive.flag("step-down-on-removal"),
                logger=self.output,
            )
            self.nodes.append(Node(RawNode(config), storage, config))

    # Calls of the core

    def _campaign(self, directive: Directive) -> None:
        self._first(directive).core.campaign()

    def _propose(self, directive: Directive) -> None:
        data = directive.arguments[1].key if len(directive.arguments) > 1 else ""
        self._first(directive).core.propose(data.encode())

    def _propose_conf_change(self, directive: Directive) -> None:
        changes = parse_operations(directive.input)
        transition = TRANSITIONS[directive.value("transition", "auto")]
        change: ConfChange | ConfChangeV2
        if directive.flag("v1"):
            if len(changes) != 1 or transition is not ConfChangeTransition.AUTO:
                raise DirectiveError("v1 conf change can only have one operation and no transition")
            change = ConfChange(changes[0].type, changes[0].node_id)
        else:
            change = ConfChangeV2(transition, changes)
        self._first(directive).core.propose_conf_change(change)

    def _tick_election(self, directive: Directive) -> None:
        for _ in range(ELECTION_TICK):
            self._first(directive).core.tick()

    def _tick_heartbeat(self, directive: Directive) -> None:
        for _ in range(HEARTBEAT_TICK):
            self._first(directive).core.tick()

    def _set_randomized_election_timeout(self, directive: Directive) -> None:
        timeout = directive.number("timeout", 0)
        self._first(directive).raft.randomized_election_timeout = timeout

    def _transfer_leadership(self, directive: Directive) -> None:
        from_, to = directive.number("from", 0), directive.number("to", 0)
        self._node(from_).core.transfer_leader(to)

    def _forget_leader(self, directive: Directive) -> None:
        self._first(directive).core.forget_leader()

    def _report_unreachable(self, directive: Directive) -> None:
        reporter, peer = directive.ids()
        self._node(reporter).core.report_unreachable(peer)

    def _send_snapshot(self, directive: Directive) -> None:
        from_, to = directive.ids()
        node = self._node(from_)
        message = Message(
            MessageType.SNAP,
            to=to,
            from_=from_,
            term=node.core.term,
            snapshot=node.storage.snapshot(),
        )
        self.messages.append(message)
        self.output.write(describe_message(message))

    # Looking

    def _log_level(self, directive: Directive) -> None:
        self._set_level(directive.arguments[0].key)

    def _set_level(self, name: str) -> None:
        if name.upper() not in LEVELS:
            raise DirectiveError(f"log levels must be either of [{' '.join(LEVELS)}]")
        self.output.level = LEVELS.index(name.upper())

    def _raft_log(self, directive: Directive) -> None:
        self._print_log(self._first(directive))

    def _print_log(self, node: Node) -> None:
        first, last = node.storage.first_index(), node.storage.last_index()
        if last < first:
            self.output.write(f"log is empty: first index={first}, last index={last}")
            return
        self.output.write(describe_entries(node.storage.entries(first, last + 1)))

    def _compact(self, directive: Directive) -> None:
        node_id, index = directive.ids()
        self._node(node_id).storage.compact(index)
        self._print_log(self._node(node_id))

    def _raft_state(self, _directive: Directive) -> None:
        for node in self.nodes:
            core = node.core
            voter = core.id in node.raft.configuration.voters
            self.output.write(
                f"{core.id}: {core.role} ({'Voter' if voter else 'Non-Voter'}) "
                f"Term:{core.term} Lead:{core.leader_id}\n"
            )

    def _status(self, directive: Directive) -> None:
        node = self._first(directive)
        if node.core.role is Role.LEADER:
            self.output.write(describe_progress(node.raft.progress))

    # The work of the host

    def _for_each(self, directive: Directive, what: str, action: Callable[[Node], None]) -> None:
        ids = directive.ids()
        for node_id in ids:
            if len(ids) == 1:
                action(self._node(node_id))
            else:
                self.output.write(f"> {node_id} {what}\n")
                with self.output.indented():
                    action(self._node(node_id))

    def _process_readys(self, directive: Directive) -> None:
        self._for_each(directive, "handling Ready", self._process_ready)

    def _process_append_threads(self, directive: Directive) -> None:
        self._for_each(directive, "processing append thread", self._process_append_thread)

    def _process_apply_threads(self, directive: Directive) -> None:
        self._for_each(directive, "processing apply thread", self._process_apply_thread)

    def _process_ready(self, node: Node) -> None:
        ready = node.core.ready()
        self.output.write(describe_ready(ready))
        if node.config.async_storage_writes:
            queues = {APPEND_THREAD: node.append_work, APPLY_THREAD: node.apply_work}
            for message in ready.messages:
                queues.get(message.to, self.messages).append(message)
            return
        self._store(node, ready.hard_state or HardState(), ready.entries, ready.snapshot)
        self._apply(node, ready.committed_entries)
        self.messages += ready.messages
        node.core.advance()

    def _process_append_thread(self, node: Node) -> None:
        def append(message: Message) -> None:
            hard_state = HardState(message.term, message.vote, message.commit)
            self._store(node, hard_state, message.entries, message.snapshot)

        self._process_work(node.append_work, append, "no append work to perform")

    def _process_apply_thread(self, node: Node) -> None:
        self._process_work(
            node.apply_work,
            lambda message: self._apply(node, message.entries),
            "no apply work to perform",
        )

    def _process_work(
        self, work: list[Message], perform: Callable[[Message], None], idle: str
    ) -> None:
        if not work:
            self.output.write(idle)
            return
        message = work.pop(0)
        responses, message.responses = message.responses, []
        self.output.write(f"Processing:\n{describe_message(message)}\n")
        perform(message)
        self.output.write("Responses:\n")
        for response in responses:
            self.output.write(f"{describe_message(response)}\n")
        self.messages += responses

    @staticmethod
    def _store(
        node: Node, hard_state: HardState, entries: list[Entry], snapshot: Snapshot | None
    ) -> None:
        if not hard_state.is_empty:
            node.storage.set_hard_state(hard_state)
        if snapshot is None:
            node.storage.append(entries)
            return
        if entries:
            raise DirectiveError("can't apply snapshot and entries at the same time")
        node.storage.apply_snapshot(snapshot)

    @staticmethod
    def _apply(node: Node, entries: list[Entry]) -> None:
        for entry in entries:
            last = node.storage.history[-1]
            conf_state, update = last.conf_state, entry.data
            if entry.type is not EntryType.NORMAL:
                change = decode_conf_change(entry)
                conf_state = node.core.apply_conf_change(change, index=entry.index)
                update = change.context
            node.storage.history.append(
                Snapshot(entry.index, entry.term, conf_state, last.data + update)
            )

    # The network

    def _deliver_messages(self, directive: Directive) -> None:
        recipients: list[tuple[int, bool]] = []
        for argument in directive.arguments:
            if argument.key.isdecimal():
                recipients.append((int(argument.key), False))
            elif argument.key == "drop":
                recipients += [(int(value), True) for value in argument.values]
        name = directive.value("type", "")
        kind = MESSAGE_TYPES[name] if name else None
        if not sum([self._deliver(to, kind, drop=drop) for to, drop in recipients]):
            self.output.write("no messages\n")

    def _deliver(self, to: int, kind: MessageType | None = None, *, drop: bool = False) -> int:
        """Deliver or drop what is in the pool for a node; the number of messages."""

        def taken(message: Message) -> bool:
            local = message.from_ == message.to or not STORAGE_THREADS.isdisjoint(
                (message.from_, message.to)
            )
            return (
                message.to == to and (kind is None or message.type is kind) and not (drop and local)
            )

        messages = [message for message in self.messages if taken(message)]
        self.messages = [message for message in self.messages if not taken(message)]
        for message in messages:
            self.output.write(f"{'dropped: ' if drop else ''}{describe_message(message)}\n")
            if drop:
                continue
            try:
                self._node(to).core.step(message)
            except RaftError as error:
                self.output.write(f"{error}\n")
        return len(messages)

    # Until nothing moves

    def _stabilize(self, directive: Directive) -> None:
        before = self.output.level
        name = directive.value("log-level", "")
        if name:
            self._set_level(name)
        nodes = [self._node(node_id) for node_id in directive.ids()] or self.nodes
        try:
            while self._stabilize_round(nodes):
                pass
        finally:
            self.output.level = before

    def _stabilize_round(self, nodes: list[Node]) -> bool:
        """One round over the nodes; False when none had anything to do."""
        worked = False
        for node in nodes:
            if node.core.has_ready():
                worked = True
                self.output.write(f"> {node.core.id} handling Ready\n")
                with self.output.indented():
                    self._process_ready(node)
        for node in nodes:
            if any(message.to == node.core.id for message in self.messages):
                worked = True
                self.output.write(f"> {node.core.id} receiving messages\n")
                with self.output.indented():
                    self._deliver(node.core.id)
        for node in nodes:
            worked |= self._empty(
                node, node.append_work, self._process_append_thread, "processing append thread"
            )
        for node in nodes:
            worked |= self._empty(
                node, node.apply_work, self._process_apply_thread, "processing apply thread"
            )
        return worked

    def _empty(
        self, node: Node, work: list[Message], process: Callable[[Node], None], what: str
    ) -> bool:
        if not work:
            return False
        self.output.write(f"> {node.core.id} {what}\n")
        while work:
            with self.output.indented():
                process(node)
        return True
