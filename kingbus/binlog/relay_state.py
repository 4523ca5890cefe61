"""The relay's replicated state machine: what the applied commands make of the binlog.

Owns: the executed and purged GTID sets, the files, the open transaction, the valid receiver
session, and the replicated configuration. It says which batches count, where the visible end is,
and what a row of the batch index reads. It must not know of Raft, storage, sockets or clocks.

Every node applies the same commands in the same order and reaches the same state, so a command
that does not fit is *ignored with a reason*, never answered with an exception: an exception on
one node and none on another would part them. Only broken invariants of the state itself raise.

* The **visible end** is the end of the last event after which no transaction is open. Nothing
  behind it is shown to anybody.
* A **session** is a fence. Applying one makes it the only valid session, which begins at sequence
  0, and abandons an open transaction: its packets become a hole that readers skip.
* A **file** is keyed by its ordinal, which rises over all epochs. Its name is an attribute; the
  name that clients see is unique among all files ever held.
* A **channel** is an upstream of its own: one state for each, all of one log. That of channel 0,
  the default one, has what is the cluster's, too: members, users, the key, the list of channels.
* A **cut** drops the open file's beginning: what is held of it begins at a position inside.
* A **start** is the state just before a file began, without what the file's own row and the list
  of names tell already, so it is small and kept for every file. Once the files before are purged,
  it is where a node that begins later begins: from there on it comes to the same state as all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, TypeAlias, TypeVar

import numpy as np
from google.protobuf.message import Message

from kingbus.binlog.command import COMMAND_VERSION, version_needed
from kingbus.binlog.gtid import GtidSet, GtidsHad, MalformedGtidSetError, format_gtid, is_tag
from kingbus.binlog.mariadb_gtid import MYSQL, Position
from kingbus.binlog.packed_sets import PackedSets
from kingbus.binlog.resume import ResumePoint
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import (
    AcceptGap,
    Channel,
    ClusterKey,
    Command,
    EventBatch,
    GtidRun,
    LastTransaction,
    MemberAttributes,
    Purge,
    ReceiverSession,
    ServerConfig,
    SourceConfig,
    User,
    UserChanges,
)
from kingbus.pb.record_pb2 import BatchRow, FileRow, OpenTransaction
from kingbus.pb.record_pb2 import RelayState as StateRecord

STATE_VERSION: Final = 3
"""Of a record that holds what came with commands of version 3: named channels, or it is of one, and
what was cut or marked; 2 of one that holds what came with those of version 2; else it says 1, as
older programs write and read it.
"""
CHANNELS_MAX: Final = 32
"""Named ones: each has a receiver, a listener at each member and a checkpoint of its own."""
CHANNEL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
"""What names have in common everywhere: in SQL they know no case, in a URL nothing is quoted."""
DESCRIPTION_BYTES_MAX: Final = 64 << 10  # a FORMAT_DESCRIPTION event has some hundred bytes
FIRST_POSITION: Final = 4  # behind the magic number of a binlog file
FILE_NAME_LENGTH_MAX: Final = 512  # FN_REFLEN, the server's own limit for a path
GTID_NUMBER_MAX: Final = (1 << 63) - 2
PACKET_HEADER: Final = 4
ALREADY_APPLIED: Final = "already applied"
UNREAD_BYTES_MIN: Final = 64 << 10
"""From this size of a batch on its row says what a dump needs to send it unread: below it reading
costs no more than sending from the file would, and rows of single transactions stay small."""
PACKETS_BYTES_MAX: Final = 1 << 30  # far above any entry: sums of offsets cannot overflow

_Run: TypeAlias = tuple[bytes, str, int, int]
"""uuid, tag, first and last number of consecutive transactions; an anonymous one has no uuid."""


class UnknownStateVersionError(KingbusError):
    """The stored relay state was written by a later program."""

    hint = "Run the version that wrote it, or a later one."


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleEnd:
    """Where readers must stop: in entry `index`, behind its first `packets` packets.

    `file` is the ordinal of the file, `position` the end of the last visible event in it. On an
    empty relay everything is zero and the names are empty.
    """

    index: int = 0
    packets: int = 0
    file: int = 0
    file_name: str = ""
    served_name: str = ""
    position: int = 0

    def is_beyond(self, other: "VisibleEnd") -> bool:
        return (self.index, self.packets) > (other.index, other.packets)


@dataclass(slots=True, kw_only=True)
class Changes:
    """What applying one command changed, as rows to write; all copies, free to keep.

    `truncated_batch` is a row to write over the one stored, `deleted_batches` are indexes (of
    which some may never have had a row) to delete. `checkpoint`: the state changed in a way that
    is worth a checkpoint record now.
    """

    index: int
    accepted: bool = False
    reason: str = ""
    batch_row: BatchRow | None = None
    file_rows: list[FileRow] = field(default_factory=list)
    deleted_batches: Sequence[int] = ()
    truncated_batch: tuple[int, BatchRow] | None = None
    deleted_files: list[int] = field(default_factory=list)
    visible_moved: bool = False
    checkpoint: bool = False
    start: tuple[int, StateRecord] | None = None
    """A file began: its ordinal and the start to keep for it; see `RelayState.at_start`."""


class RelayState:
    """See the module. `index` is the last command (or other entry) that was applied."""

    def __init__(self, *, channel: int = 0) -> None:
        self.channel = channel
        self.index = 0
        self.executed = GtidSet()
        self.purged = GtidSet()
        self.files: list[FileRow] = []
        """Between the first and the open one they may lack their sets: see `previous_gtids`."""
        self.visible = VisibleEnd()
        self.session = 0
        self.next_sequence = 0
        self.epoch = 0
        self.source: ReceiverSession | None = None
        self.source_config: SourceConfig | None = None
        self.source_uuids: list[str] = []
        self.servers: dict[int, ServerConfig] = {}
        self.members: dict[int, MemberAttributes] = {}
        self.users: Mapping[str, User] = {}
        """By name; another object whenever they change."""
        self.cluster_key: ClusterKey | None = None
        self.channels: dict[str, int] = {}
        """The named ones, in the order of their numbers; of channel 0's state only."""
        self.last_transaction: LastTransaction | None = None
        self.last_event_time = 0
        self.accepted_gap = GtidSet()
        """Counts as executed and is held nowhere; the next file comes behind it, in a new epoch."""
        self._last_gtid: GtidRun | None = None
        self._open: OpenTransaction | None = None
        self._mark: StateRecord | None = None
        self._ends_in_event = False
        self._first_file = 0
        self._packed = PackedSets()
        # Served name and epoch of each file ever held, in their order: one for each ordinal.
        self._names_used: dict[str, int] = {}

    # -- questions --------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """No file was ever held: a start set still counts."""
        return not self._names_used

    @property
    def flavor(self) -> str:
        """Of the log, `mysql` or `mariadb`: that of its first source. "" while it has no file."""
        if self.is_empty:
            return ""
        return (self.source.flavor if self.source is not None else "") or MYSQL

    @property
    def holds_epoch(self) -> bool:
        """Whether the visible end lies in a file of the present source."""
        return bool(self.files) and self.files[-1].epoch == self.epoch

    @property
    def in_transaction(self) -> bool:
        """Something behind the visible end waits for its end."""
        return self._open is not None

    @property
    def open_end(self) -> int:
        """Position at which the next batch of the open file begins."""
        return self.visible.position if self._open is None else self._open.end_position

    @property
    def mark_index(self) -> int:
        """The entry behind which the open file may be cut without losing what came later; 0: no."""
        return 0 if self._mark is None else self._mark.index

    @property
    def last_gtid(self) -> str:
        """The last visible transaction, "" when there is none or it is anonymous."""
        run = self._last_gtid
        return "" if run is None else format_gtid(run.uuid, run.tag, run.last)

    def file(self, ordinal: int) -> FileRow | None:
        """The file with that ordinal, if it is (still) held."""
        place = ordinal - self._first_file
        return self.files[place] if 0 <= place < len(self.files) else None

    def previous_gtids(self, row: FileRow) -> bytes:
        """The encoded set of all that was executed when a file of `files` began.

        Of a row that was taken from there before its file was purged it may be empty.
        """
        return self._packed.previous_gtids(self._as_held(row))

    def whole_row(self, row: FileRow) -> FileRow:
        """A row of `files` with its sets, likewise."""
        return self._packed.whole(self._as_held(row))

    def _as_held(self, row: FileRow) -> FileRow:
        """Its sets may have been put back since the row was taken."""
        return row if row.previous_gtids else self.file(row.ordinal) or row

    def file_named(self, served_name: str) -> FileRow | None:
        """The newest file that clients see under that name."""
        for row in reversed(self.files):
            if row.served_name == served_name:
                return row
        return None

    def served_name_of(self, epoch: int, name: str) -> str:
        """The name under which a source's file is, or would now be, shown to clients."""
        for row in reversed(self.files):
            if row.epoch < epoch:
                break
            if row.epoch == epoch and row.name == name:
                return row.served_name
        return self._new_name(epoch, name)

    def _new_name(self, epoch: int, name: str) -> str:
        served, number = name, 1
        while served in self._names_used:
            served = f"e{epoch}-{name}" if number == 1 else f"e{epoch}-{number}-{name}"
            number += 1
        return served

    def file_before(self, gtids: GtidsHad) -> FileRow | None:
        """The newest file that began with nothing executed beyond `gtids`.

        All transactions outside `gtids` lie in it or behind it. None when even the oldest file
        began later, or there is none. What was executed only grows from file to file, so this is
        a binary search.
        """
        low, high = 0, len(self.files)
        while low < high:
            middle = (low + high) // 2
            if gtids.contains(GtidSet.decode(self.previous_gtids(self.files[middle]))):
                low = middle + 1
            else:
                high = middle
        return self.files[low - 1] if low else None

    def lowest_version(self, members: Iterable[int]) -> int:
        """The highest Command.version that all of these members understand, as they announced.

        One that announced nothing has not run yet, or not for long: should it be too old, it stops
        at the first command that it does not know and says so.
        """
        told = [self.members[each].command_version for each in members if each in self.members]
        return min((each for each in told if each), default=COMMAND_VERSION)

    def resume_point(self) -> ResumePoint:
        """Where the valid session goes on; to be asked when its entry was applied here.

        By file and position where that is safe, so that nothing of the file is missed. It is not
        safe in a file of which the source skips, or may yet skip, transactions that are held
        already: by position it would send them.
        """
        row = self.files[-1] if self.files and self.files[-1].epoch == self.epoch else None
        gtid_mode = self.source_config is None or self.source_config.mode != "position"
        by_position = row is not None and not (gtid_mode and _may_repeat(row))
        last = self.last_transaction if by_position else None
        position = self.visible.position if row is not None else 0
        return ResumePoint(
            channel=self.channel,
            epoch=self.epoch,
            session=self.session,
            by_position=by_position,
            file_name="" if row is None else row.name,
            position=position,
            executed=self.executed.copy(),
            file_created=0 if row is None else row.start.created,
            file_start=None if row is None else _copy(row.start),
            last_transaction=None if last is None else _copy(last),
            dump_position=position if last is None else last.start_position,
            gtid_mode=gtid_mode,
            held_files={
                row.name: row.start.created for row in self.files if row.epoch == self.epoch
            },
        )

    # -- applying ---------------------------------------------------------------------------

    def skip(self, index: int) -> None:
        """Notes an entry that holds no command: a membership change, a new leader's entry."""
        self.index = max(self.index, index)

    def apply(self, index: int, command: Command, *, packet_bytes: int = 0) -> Changes:
        """Applies the command of entry `index`; `packet_bytes` is how many follow it there.

        Never raises for what a command says: `accepted` and `reason` tell what came of it.
        Applying an index a second time changes nothing.
        """
        changes = Changes(index=index)
        if index <= self.index:
            changes.reason = ALREADY_APPLIED
            return changes
        self._check()
        self.index = index
        match command.WhichOneof("kind"):
            case "event_batch":
                reason = self._apply_batch(changes, command.event_batch, packet_bytes)
            case "receiver_session":
                reason = self._apply_session(changes, command.receiver_session)
            case "source_config":
                reason = self._apply_source_config(changes, command.source_config)
            case "purge":
                reason = self._apply_purge(changes, command.purge)
            case "server_config" if command.server_config.channel == self.channel:
                self.servers[command.server_config.member_id] = _copy(command.server_config)
                reason = ""
            case "member_attributes" if not self.channel:
                self.members[command.member_attributes.member_id] = _copy(command.member_attributes)
                reason = ""
            case "user_changes" if not self.channel:
                self._apply_users(command.user_changes)
                reason = ""
            case "accept_gap":
                reason = self._apply_accept_gap(changes, command.accept_gap)
            case "channel" if not self.channel:
                reason = self._apply_channel(command.channel)
            case "cluster_key" if not self.channel:
                reason = self._apply_cluster_key(command.cluster_key)
            case kind:
                reason = f"a command of kind {kind}"
        changes.reason = reason
        changes.accepted = not reason
        if changes.accepted and command.WhichOneof("kind") != "event_batch":
            changes.checkpoint = True
        self._check()
        return changes

    def _apply_users(self, changes: UserChanges) -> None:
        users = dict(self.users)
        for user in changes.users:
            users[user.name] = _copy(user)
        for name in changes.dropped:
            users.pop(name, None)
        self.users = users

    def _apply_channel(self, added: Channel) -> str:
        if added.name in self.channels:
            return f"channel {added.name} is there already"
        if added.number != len(self.channels) + 1 or added.number > CHANNELS_MAX:
            return f"channel {added.number} is not the next one"
        if not CHANNEL_NAME.fullmatch(added.name):
            return "a channel with an impossible name"
        self.channels[added.name] = added.number
        return ""

    def _apply_cluster_key(self, key: ClusterKey) -> str:
        # The first one counts: what was sealed with it must stay readable.
        if self.cluster_key is not None and self.cluster_key.key_id != key.key_id:
            return "the cluster has another key already"
        self.cluster_key = _copy(key)
        return ""

    def _apply_source_config(self, changes: Changes, config: SourceConfig) -> str:
        if config.channel != self.channel:
            return f"channel {config.channel} is not served"
        if not config.started or _source_of(config) != _source_of(self.source_config):
            self._end_session(changes)
        self.source_config = _copy(config)
        return ""

    def _apply_session(self, changes: Changes, session: ReceiverSession) -> str:
        if session.channel != self.channel:
            return f"channel {session.channel} is not served"
        flavor = session.flavor or MYSQL
        if self.flavor not in {"", flavor}:
            return f"the log is of a {self.flavor} source, the session of a {flavor} source"
        if session.epoch < self.epoch:
            return f"epoch {session.epoch} is over, the present one is {self.epoch}"
        holds_epoch = bool(self.files) and self.files[-1].epoch == session.epoch
        if holds_epoch and self.source and self.source.source_uuid != session.source_uuid:
            return f"another source uuid needs an epoch above {self.epoch}"
        if self.accepted_gap and session.epoch == self.epoch:
            # Planned before the gap was known here: its stream would go on in the file before it.
            return f"a session behind an accepted gap needs an epoch above {self.epoch}"
        if self.is_empty:
            try:
                start_set = GtidSet.decode(session.start_set) if session.start_set else GtidSet()
            except MalformedGtidSetError as error:
                return str(error)
            self.executed = start_set
            self.purged = start_set.copy()
        self._end_session(changes)
        self.session = changes.index
        self.epoch = session.epoch
        self.source = _copy(session)
        if session.mode:
            # It has had its effect, and may be large: not to be in each record from now on. A
            # session without a mode is of a cluster with older members, whose state keeps it.
            self.source.ClearField("start_set")
        if session.source_uuid not in self.source_uuids:
            self.source_uuids.append(session.source_uuid)
        return ""

    def _end_session(self, changes: Changes) -> None:
        """No batch of the session so far will count any more, so none can end its transaction."""
        self.session = 0
        self.next_sequence = 0
        self._ends_in_event = False
        if self._open is None:
            return
        first = self._open.index
        if self._open.HasField("row"):
            assert first == self.visible.index
            assert self._open.row.packets == self.visible.packets > 0
            changes.truncated_batch = (first, _copy(self._open.row))
            first += 1
        else:
            assert first > self.visible.index
        changes.deleted_batches = range(first, changes.index)
        self.files[-1].last_index = self.visible.index
        self._open = None

    def _apply_purge(self, changes: Changes, purge: Purge) -> str:
        """Whole files only, never the open one."""
        if purge.channel != self.channel:
            return f"channel {purge.channel} is not served"
        if purge.description:
            return self._apply_cut(changes, purge)
        count = 0
        while count < len(self.files) - 1 and self.files[count].last_index < purge.first_index:
            count += 1
        if not count:
            # On a node that began later than the log of the others it is so, too, and no harm.
            return f"no whole file lies below index {purge.first_index}"
        self._drop_files(changes, count)
        return ""

    def _apply_cut(self, changes: Changes, purge: Purge) -> str:
        """What is held goes, up to here or to the mark, and nothing else changes; or a mark is set.

        The open file is held from there on.
        """
        if not self.files:
            return "there is no file to cut"
        row = self.files[-1]
        if len(purge.description) > DESCRIPTION_BYTES_MAX:
            return f"a FORMAT_DESCRIPTION event of {len(purge.description)} bytes"
        if not purge.mark and row.last_index >= purge.first_index:
            mark = self._mark
            if mark is None or mark.index >= purge.first_index:
                return f"index {row.last_index} and what is behind it is not to be cut"
            self._cut_to(changes, mark)
            return ""
        if self._open is not None or self._ends_in_event:
            return "a transaction is open"
        if purge.mark and row.first_index > row.last_index:
            return "nothing is held of the open file"
        # Of a file of which nothing is held the beginning moves on: the log may begin later.
        cut = self._cut_here(purge.description)
        if purge.mark:
            self._mark = cut
        else:
            self._cut_to(changes, cut)
        return ""

    def _cut_here(self, description: bytes) -> StateRecord:
        """The state, were it cut at the visible end now; what is kept as the file's start then."""
        record = self.to_record()
        record.version = STATE_VERSION
        record.ClearField("mark")
        row = record.file
        row.repeats = _may_repeat(row)
        row.first_index, row.last_index = self.index + 1, self.index
        row.cut_position = self.visible.position
        row.description = description
        row.previous_gtids = record.purged = record.executed
        record.first_file = row.ordinal
        record.visible_index, record.visible_packets = self.index, 0
        return record

    def _cut_to(self, changes: Changes, cut: StateRecord) -> None:
        row = self.files[-1]
        assert row.ordinal == cut.file.ordinal, "a mark is forgotten with its file"
        changes.deleted_files = [each.ordinal for each in self.files[:-1]]
        changes.deleted_batches = range(self.files[0].first_index, cut.index + 1)
        self._forget_sets(self.files[:-1])
        del self.files[:-1]
        self._first_file = row.ordinal
        self.purged = GtidSet.decode(cut.purged)
        row.first_index, row.cut_position = cut.file.first_index, cut.file.cut_position
        row.description, row.repeats = cut.file.description, cut.file.repeats
        row.previous_gtids = cut.file.previous_gtids
        if self.visible.index <= cut.index:
            self.visible = replace(self.visible, index=cut.index, packets=0)
            changes.visible_moved = True
            if self._open is None:
                row.last_index = cut.index
        changes.file_rows.append(_copy(row))
        changes.start = row.ordinal, _copy(cut)
        self._mark = None

    def _drop_files(self, changes: Changes, count: int) -> None:
        """The oldest ones, never the last; `gtid_purged` is what the first one left begins with."""
        changes.deleted_files = [row.ordinal for row in self.files[:count]]
        changes.deleted_batches = range(self.files[0].first_index, self.files[count].first_index)
        self._forget_sets(self.files[:count])
        del self.files[:count]
        self.files[0] = self._packed.whole(self.files[0])
        self._forget_sets(self.files[:1])
        self._first_file = self.files[0].ordinal
        self.purged = GtidSet.decode(self.files[0].previous_gtids)

    def _forget_sets(self, files: Iterable[FileRow]) -> None:
        for row in files:
            self._packed.forget(row.ordinal)

    def _apply_accept_gap(self, changes: Changes, gap: AcceptGap) -> str:
        """The session ends, whose stream knows nothing of it; nothing may cross it unnoticed."""
        if gap.channel != self.channel:
            return f"channel {gap.channel} is not served"
        if self.is_empty:
            return "the relay is empty and has no gap: it begins where start-from says"
        try:
            gtids = GtidSet.decode(gap.gtids).subtract(self.executed)
        except MalformedGtidSetError as error:
            return str(error)
        if not gtids:
            return "all of it is there"
        self._end_session(changes)
        self.executed = self.executed.union(gtids)
        self.accepted_gap = self.accepted_gap.union(gtids)
        return ""

    # -- batches ----------------------------------------------------------------------------

    def _apply_batch(self, changes: Changes, meta: EventBatch, packet_bytes: int) -> str:
        runs = [(run.uuid, run.tag, run.first, run.last) for run in meta.gtid_runs]
        reason = (
            self._fence(meta)
            or _fault_in_packets(meta, packet_bytes)
            or self._fault_in_order(meta)
            or self._fault_in_transactions(meta)
            or self._fault_in_gtids(meta, runs)
        )
        if reason:
            return reason
        if meta.HasField("file_start"):
            changes.start = self._start(changes.index - 1)
        self.next_sequence += 1
        if meta.HasField("file_start"):
            self._start_file(changes, meta)
        elif meta.gap_before:
            self._note_gap(changes, meta)
        row = row_of(meta, self.files[-1].ordinal, packet_bytes)
        if packet_bytes >= UNREAD_BYTES_MIN and meta.HasField("first_sequence"):
            _describe_unread(row, meta)
        changes.batch_row = row
        self._count(meta, runs, row)
        self.files[-1].last_index = changes.index
        if meta.visible_packets:
            changes.visible_moved = True
            self._move_visible_end(changes.index, meta)
        if meta.HasField("file_start"):
            changes.file_rows.append(_copy(self.files[-1]))
            changes.checkpoint = True
        return ""

    def _fence(self, meta: EventBatch) -> str:
        if meta.channel != self.channel:
            return f"channel {meta.channel} is not served"
        if not self.session or meta.session != self.session:
            return f"session {meta.session} is not valid, the valid one is {self.session}"
        if meta.sequence != self.next_sequence:
            return f"sequence {meta.sequence} instead of {self.next_sequence}"
        if meta.epoch != self.epoch:
            return f"epoch {meta.epoch} instead of {self.epoch}"
        return ""

    def _fault_in_order(self, meta: EventBatch) -> str:
        """Whether the batch continues what is held: the same file at its end, or a new file."""
        if meta.HasField("file_start"):
            if self._open is not None or self._ends_in_event:
                return "a file begins while a transaction is open"
            if meta.begins_in_transaction or meta.begins_in_event:
                return "a file begins in the middle of something"
            if meta.start_position != FIRST_POSITION or meta.gap_before:
                return f"a file begins at {meta.start_position} with a gap of {meta.gap_before}"
            if not 0 < len(meta.file_name) <= FILE_NAME_LENGTH_MAX or "\0" in meta.file_name:
                return "a file with an impossible name"
            if self._was_held(meta.file_name):
                return f"file {meta.file_name} of epoch {self.epoch} was held already"
            if not meta.visible_packets:
                return "a file begins without a visible event"
            return ""
        if not self.files or (self.files[-1].epoch, self.files[-1].name) != (
            meta.epoch,
            meta.file_name,
        ):
            return f"file {meta.file_name} of epoch {meta.epoch} is not the open one"
        if meta.gap_before and (self._open is not None or self._ends_in_event):
            return "a gap inside a transaction"
        if meta.start_position != self.open_end + meta.gap_before:
            return f"position {meta.start_position} does not continue {self.open_end}"
        if meta.begins_in_event != self._ends_in_event:
            return "the batch does not continue the event that is open"
        return ""

    def _fault_in_transactions(self, meta: EventBatch) -> str:
        """Whether what the batch says of its transactions agrees with itself and with the state."""
        packets = len(meta.packet_offsets) // 4
        starts = len(meta.transaction_packets) // 4
        tail_is_open = meta.ends_in_transaction or meta.ends_in_event
        open_here = starts - meta.visible_transactions
        was_open = self._open is not None
        goes_on = was_open and not meta.visible_packets
        if meta.begins_in_transaction != was_open:
            return "the batch and the state differ on whether a transaction is open"
        if meta.closes_transaction != (was_open and not goes_on):
            return "the batch leaves the open transaction without its end"
        if tail_is_open != (meta.visible_packets < packets):
            return "the visible part does not agree with the end of the batch"
        if open_here not in {0, 1} or (open_here and not tail_is_open):
            return f"{meta.visible_transactions} of {starts} transactions end in the batch"
        if goes_on and starts:
            return "a transaction begins inside another"
        if tail_is_open and not goes_on and not open_here:
            return "the batch ends in a transaction that begins nowhere"
        if open_here:
            last = int.from_bytes(meta.transaction_packets[-4:], "little")
            if last != meta.visible_packets:
                return "the open transaction does not begin at the visible end"
        return ""

    def _fault_in_gtids(self, meta: EventBatch, runs: Sequence[_Run]) -> str:
        """Each transaction once: one that was counted already is no part of this log."""
        count = 0
        named = 0
        reached: dict[tuple[bytes, str], int] = {}
        rises = True
        for uuid, tag, first, last in runs:
            if len(uuid) not in {0, 16}:
                return "a server uuid is not of 16 bytes"
            if not 0 < first <= last <= GTID_NUMBER_MAX:
                return f"an impossible run of transactions, {first} to {last}"
            if tag and (uuid, tag) not in reached and not is_tag(tag):
                return "a run of transactions with an impossible tag"
            if uuid and self.executed.overlaps_run(uuid, tag, first, last):
                return f"{format_gtid(uuid, tag, first)} or later is held already"
            count += last - first + 1
            named += last - first + 1 if uuid else 0
            rises &= not uuid or reached.get((uuid, tag), 0) < first
            reached[uuid, tag] = last
        if count != len(meta.transaction_packets) // 4:
            return f"{count} GTIDs for {len(meta.transaction_packets) // 4} transactions"
        # Numbers that only rise cannot be there twice: no set has to be made of them.
        if not rises and _gtids_of(runs).count() != named:
            return "a transaction is in the batch twice"
        if self._open is not None and self._open.gtid.uuid:
            opened = self._open.gtid
            for uuid, tag, first, last in runs:
                if (uuid, tag) == (opened.uuid, opened.tag) and first <= opened.first <= last:
                    return "the open transaction begins again"
        return ""

    def _was_held(self, name: str) -> bool:
        """Whether a file of this name began in this epoch, be it purged by now.

        Not asked of `files`: nodes that began with different snapshots must give one answer.
        """
        names, epoch = self._names_used, self.epoch
        return epoch in {names.get(name), names.get(f"e{epoch}-{name}")}

    def _start_file(self, changes: Changes, meta: EventBatch) -> None:
        ordinal = len(self._names_used) + 1
        if self.files:
            self.files[-1].closed = True
            changes.file_rows.append(self.files[-1])  # no copy: what is closed never changes
            assert ordinal == self.files[-1].ordinal + 1
        else:
            self._first_file = ordinal
        served_name = self._new_name(self.epoch, meta.file_name)
        self._names_used[served_name] = self.epoch
        row = FileRow(
            ordinal=ordinal,
            epoch=self.epoch,
            name=meta.file_name,
            served_name=served_name,
            first_index=changes.index,
            last_index=changes.index,
            start_position=meta.start_position,
            end_position=meta.start_position,
            previous_gtids=self.executed.encode(),
            start=meta.file_start,
        )
        if len(self.files) > 1:
            self.files[-1] = self._packed.pack(self.files[-1])
        self.files.append(row)
        self.last_transaction = None
        self._mark = None
        if self.accepted_gap:
            self._leave_gap_behind(changes)

    def _leave_gap_behind(self, changes: Changes) -> None:
        """The first file behind a gap is the first one served: who needs what was before is told
        that it is purged, and nobody gets from one side to the other without an error.
        """
        self.accepted_gap = GtidSet()
        changes.file_rows.clear()  # that the one before was closed need not be stored any more
        self._drop_files(changes, len(self.files) - 1)

    def _note_gap(self, changes: Changes, meta: EventBatch) -> None:
        """What the source skipped, it skips whatever becomes of the transaction that follows."""
        row = self.files[-1]
        start = meta.start_position - meta.gap_before
        if row.gaps and row.gaps[-1].end == start:
            row.gaps[-1].end = meta.start_position
        else:
            row.gaps.add(start=start, end=meta.start_position)
        row.end_position = meta.start_position
        self.visible = replace(self.visible, position=meta.start_position)
        changes.visible_moved = True

    def _count(self, meta: EventBatch, runs: list[_Run], row: BatchRow) -> None:
        """Counts the transactions that end here, and remembers the one that stays open."""
        still_open: _Run | None = None
        if runs and len(meta.transaction_packets) // 4 > meta.visible_transactions:
            uuid, tag, first, last = runs.pop()
            still_open = (uuid, tag, last, last)
            if first < last:
                runs.append((uuid, tag, first, last - 1))
        ended_here = runs
        if self._open is not None and meta.visible_packets:
            gtid = self._open.gtid
            runs = [(gtid.uuid, gtid.tag, gtid.first, gtid.last), *runs]
            self._open = None
        for uuid, tag, first, last in runs:
            if uuid:
                self.executed.add(uuid, tag, first, last)
        if runs and runs[-1][0]:
            uuid, tag, _, last = runs[-1]
            self._last_gtid = GtidRun(uuid=uuid, tag=tag, first=last, last=last)
        self._ends_in_event = meta.ends_in_event
        if self._open is not None:
            self._open.end_position = meta.end_position
        elif still_open is not None:
            self._open = self._opened(meta, row, still_open, ended_here)

    def _opened(
        self, meta: EventBatch, row: BatchRow, gtid: _Run, ended_here: Iterable[_Run]
    ) -> OpenTransaction:
        uuid, tag, first, last = gtid
        begun = OpenTransaction(
            index=self.index,
            packet=meta.visible_packets,
            position=meta.visible_position,
            end_position=meta.end_position,
            gtid=GtidRun(uuid=uuid, tag=tag, first=first, last=last),
        )
        if meta.visible_packets:
            # What stays of the row should this transaction be abandoned.
            begun.row.CopyFrom(row)
            forget_unread(begun.row)
            begun.row.packets = meta.visible_packets
            begun.row.end_position = meta.visible_position
            begun.row.first_transaction = min(row.first_transaction, meta.visible_packets)
            begun.row.gtids = _gtids_of(ended_here).encode()
        return begun

    def _move_visible_end(self, index: int, meta: EventBatch) -> None:
        row = self.files[-1]
        row.end_position = meta.visible_position
        row.first_time = row.first_time or meta.first_time
        row.last_time = meta.last_time or row.last_time
        if meta.HasField("last_transaction"):
            self.last_transaction = _copy(meta.last_transaction)
            self.last_event_time = meta.last_time or self.last_event_time
        self.visible = VisibleEnd(
            index=index,
            packets=meta.visible_packets,
            file=row.ordinal,
            file_name=row.name,
            served_name=row.served_name,
            position=meta.visible_position,
        )

    def _check(self) -> None:
        """What must hold between any two commands, and what must not."""
        assert self.visible.index <= self.index
        assert bool(self.files) == bool(self.visible.index)
        if self.files:
            assert self.visible.file == self.files[-1].ordinal
            assert self.visible.position == self.files[-1].end_position
            assert not self.files[-1].closed
            assert self.files[0].ordinal == self._first_file
        if self._open is not None:
            assert self.session, "an open transaction belongs to a valid session"
            assert self._open.position == self.visible.position
            assert self.files[-1].last_index > self.visible.index or self._open.HasField("row")
        else:
            assert not self._ends_in_event
            assert not self.files or self.files[-1].last_index == self.visible.index
        if not self.session:
            assert self.next_sequence == 0

    # -- a reader's copy ----------------------------------------------------------------------

    @property
    def names_given(self) -> Mapping[str, int]:
        """Served name and epoch of each file ever held, in their order."""
        return self._names_used

    def follow(
        self,
        *,
        names: Mapping[str, int],
        files: Iterable[FileRow],
        first_file: int,
        visible: VisibleEnd,
    ) -> None:
        """Become, as far as readers look, what another state has become.

        For a copy in another process, to which nothing is applied. `files` are rows that are new
        or changed, in order; `names` come before those of the files. Files below `first_file` are
        gone, 0: all.
        """
        for name, epoch in names.items():
            self._names_used.setdefault(name, epoch)
        held = {row.ordinal: row for row in self.files}
        for row in files:
            held[row.ordinal] = row
            self._names_used.setdefault(row.served_name, row.epoch)
        self._first_file = first_file
        self.files = [held[each] for each in sorted(held) if first_file and each >= first_file]
        assert [row.ordinal for row in self.files] == list(
            range(first_file, first_file + len(self.files))
        ), "files follow one another"
        self.visible = visible

    # -- records ----------------------------------------------------------------------------

    def to_record(self) -> StateRecord:
        """Everything but the files that are closed: those have rows of their own."""
        is_cut = self._mark is not None or (bool(self.files) and self.files[0].cut_position > 0)
        record = self._record_of_start()
        record.version = STATE_VERSION if is_cut else record.version
        record.executed = self.executed.encode()
        record.purged = self.purged.encode()
        record.visible_index = self.visible.index
        record.visible_packets = self.visible.packets
        record.visible_position = self.visible.position
        record.first_file = self._first_file
        record.names_used.extend(self._names_used)
        record.name_epochs.extend(self._names_used.values())
        if self.last_transaction is not None:
            record.last_transaction.CopyFrom(self.last_transaction)
        if self._mark is not None:
            record.mark.CopyFrom(self._mark)
        if self.files:
            record.file.CopyFrom(self.files[-1])
        return record

    def _record_of_start(self) -> StateRecord:
        """What is to be kept of a file's start: no set, and nothing of files, see the module."""
        return StateRecord(
            version=self._version_needed(),
            channel=self.channel,
            index=self.index,
            session=self.session,
            next_sequence=self.next_sequence,
            epoch=self.epoch,
            source=self.source,
            source_config=self.source_config,
            servers=[self.servers[key] for key in sorted(self.servers)],
            members=[self.members[key] for key in sorted(self.members)],
            users=[self.users[name] for name in sorted(self.users)],
            cluster_key=self.cluster_key,
            open_transaction=self._open,
            source_uuids=self.source_uuids,
            ends_in_event=self._ends_in_event,
            last_event_time=self.last_event_time,
            last_gtid=self._last_gtid,
            accepted_gap=self.accepted_gap.encode() if self.accepted_gap else b"",
            channels=[Channel(number=n, name=name) for name, n in self.channels.items()],
        )

    def _version_needed(self) -> int:
        """Of a record without the mark and the files."""
        if self.channel or self.channels or any(user.channel for user in self.users.values()):
            return STATE_VERSION
        told = [
            Command(source_config=self.source_config),
            Command(receiver_session=self.source),
        ]
        is_new = self.users or self.accepted_gap or any(version_needed(each) > 1 for each in told)
        return 2 if is_new else 1

    def _start(self, index: int) -> tuple[int, StateRecord]:
        """Just before a file begins: its ordinal, and what is to be kept of the state.

        The last transaction and a mark are forgotten when it begins.
        """
        assert self._open is None
        assert not self._ends_in_event
        record = self._record_of_start()
        record.index = index
        record.first_file = len(self._names_used) + 1
        return record.first_file, record

    def at_start(self, start: StateRecord) -> StateRecord:
        """The whole state just before the first file held began, from the start kept for it.

        Nothing before that file is known to it: what was executed then is what is purged.
        """
        first = self.files[0]
        assert start.first_file == first.ordinal, (start.first_file, first.ordinal)
        if first.cut_position:
            return _copy(start)  # of the cut, with all that was known then
        whole = _copy(start)
        whole.executed = whole.purged = first.previous_gtids
        before = first.ordinal - 1
        whole.names_used.extend(list(self._names_used)[:before])
        whole.name_epochs.extend(list(self._names_used.values())[:before])
        return whole

    @classmethod
    def from_record(cls, record: StateRecord, files: Iterable[FileRow] = ()) -> "RelayState":
        """The state as of `record.index`.

        `files` are the stored file rows, in any order; those of files that began later than the
        record, or were purged by then, are left out. Raises UnknownStateVersionError.
        """
        if not 1 <= record.version <= STATE_VERSION:
            raise UnknownStateVersionError(
                f"the stored relay state is of version {record.version}; "
                f"this program knows version {STATE_VERSION}"
            )
        state = cls(channel=record.channel)
        state.index = record.index
        state.executed = GtidSet.decode(record.executed)
        state.purged = GtidSet.decode(record.purged)
        state.session = record.session
        state.next_sequence = record.next_sequence
        state.epoch = record.epoch
        state.source = _copy(record.source) if record.HasField("source") else None
        if record.HasField("source_config"):
            state.source_config = _copy(record.source_config)
        state.servers = {server.member_id: _copy(server) for server in record.servers}
        state.members = {member.member_id: _copy(member) for member in record.members}
        state.users = {user.name: _copy(user) for user in record.users}
        state.cluster_key = _copy(record.cluster_key) if record.HasField("cluster_key") else None
        state.channels = {each.name: each.number for each in record.channels}
        state.source_uuids = list(record.source_uuids)
        state.last_event_time = record.last_event_time
        if record.accepted_gap:
            state.accepted_gap = GtidSet.decode(record.accepted_gap)
        state._ends_in_event = record.ends_in_event
        state._first_file = record.first_file
        epochs = record.name_epochs or [0] * len(record.names_used)
        state._names_used = dict(zip(record.names_used, epochs, strict=True))
        state._last_gtid = _copy(record.last_gtid) if record.HasField("last_gtid") else None
        if record.HasField("last_transaction"):
            state.last_transaction = _copy(record.last_transaction)
        if record.HasField("mark"):
            state._mark = _copy(record.mark)
        if record.HasField("open_transaction"):
            state._open = _copy(record.open_transaction)
        if record.HasField("file"):
            state._restore_files(record, files)
        state._check()
        return state

    def _restore_files(self, record: StateRecord, files: Iterable[FileRow]) -> None:
        last = record.file.ordinal
        kept = [_copy(row) for row in files if record.first_file <= row.ordinal < last]
        kept.sort(key=lambda row: row.ordinal)
        self.files = [*kept[:1], *map(self._packed.pack, kept[1:]), _copy(record.file)]
        assert [row.ordinal for row in self.files] == list(range(record.first_file, last + 1)), (
            "the file index has a row for every file of the relay state"
        )
        self.visible = VisibleEnd(
            index=record.visible_index,
            packets=record.visible_packets,
            file=last,
            file_name=record.file.name,
            served_name=record.file.served_name,
            position=record.visible_position,
        )

    def digest(self) -> str:
        """A hash that is equal on all nodes at the same index, and at no other state."""
        whole = sha256(self.to_record().SerializeToString(deterministic=True))
        for row in self.files[:-1]:
            whole.update(self.whole_row(row).SerializeToString(deterministic=True))
        return whole.hexdigest()


_M = TypeVar("_M", bound=Message)


def _copy(message: _M) -> _M:
    """Messages handed in and out are never shared with the state."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _source_of(config: SourceConfig | None) -> bytes:
    """What makes a source another one: everything but whether it runs, and the password."""
    if config is None:
        return b""
    bare = _copy(config)
    bare.ClearField("password")
    bare.ClearField("started")
    return bare.SerializeToString(deterministic=True)


def _may_repeat(row: FileRow) -> bool:
    """Whether the source's file holds, anywhere, a transaction that was held before it began."""
    if row.gaps:
        return True
    if row.cut_position:
        return row.repeats
    before = GtidSet()
    if row.start.previous_gtids:
        try:
            before = GtidSet.decode(row.start.previous_gtids)
        except MalformedGtidSetError:
            return True
    held = GtidSet.decode(row.previous_gtids)
    ends = Position.of(held)
    if ends.last:
        return not Position.of(before).covers(ends)
    return not before.contains(held)


def row_of(meta: EventBatch, file: int, packet_bytes: int) -> BatchRow:
    """What the batch index says of a batch in the file of that ordinal."""
    runs = [(run.uuid, run.tag, run.first, run.last) for run in meta.gtid_runs]
    packets = len(meta.packet_offsets) // 4
    return BatchRow(
        file=file,
        start_position=meta.start_position,
        end_position=meta.end_position,
        packets=packets,
        gtids=_gtids_of(runs).encode(),
        begins_in_transaction=meta.begins_in_transaction,
        begins_in_event=meta.begins_in_event,
        gap_before=meta.gap_before,
        bytes=packet_bytes,
        first_transaction=_first_transaction(meta, packets),
    )


def _gtids_of(runs: Iterable[_Run]) -> GtidSet:
    gtids = GtidSet()
    for uuid, tag, first, last in runs:
        if uuid:
            gtids.add(uuid, tag, first, last)
    return gtids


def _first_transaction(meta: EventBatch, packets: int) -> int:
    if not meta.transaction_packets:
        return packets
    return int.from_bytes(meta.transaction_packets[:4], "little")


def _describe_unread(row: BatchRow, meta: EventBatch) -> None:
    """What a dump has to know of a batch that it sends without having read it."""
    row.first_sequence = meta.first_sequence & 0xFF
    row.last_time = meta.last_time
    if meta.gtid_runs:
        run = meta.gtid_runs[-1]
        row.last_gtid.CopyFrom(GtidRun(uuid=run.uuid, tag=run.tag, first=run.last, last=run.last))


def forget_unread(row: BatchRow) -> None:
    """For a row of which not all packets are to be sent: it has to be read."""
    row.ClearField("first_sequence")
    row.ClearField("last_time")
    row.ClearField("last_gtid")


def _fault_in_packets(meta: EventBatch, packet_bytes: int) -> str:
    """Whether the offsets and positions of a batch can be true."""
    if len(meta.packet_offsets) % 4 or not meta.packet_offsets:
        return "a batch without whole packet offsets"
    offsets = np.frombuffer(meta.packet_offsets, "<u4")
    highest = int(offsets.max())
    if highest > PACKETS_BYTES_MAX or 0 < packet_bytes < highest + PACKET_HEADER:
        return f"packet offsets past the {packet_bytes} bytes of the entry"
    # Compared, not subtracted: these numbers have no sign.
    if offsets[0] or (offsets[1:] < offsets[:-1] + np.uint32(PACKET_HEADER)).any():
        return "packet offsets that do not rise"
    if len(meta.transaction_packets) % 4:
        return "a batch without whole transaction offsets"
    starts = np.frombuffer(meta.transaction_packets, "<u4")
    if len(starts) and ((starts[1:] <= starts[:-1]).any() or starts[-1] >= len(offsets)):
        return "transactions that begin in packets which are not there"
    if meta.visible_packets > len(offsets):
        return f"{meta.visible_packets} visible packets of {len(offsets)}"
    if not meta.start_position <= meta.visible_position <= meta.end_position:
        return "a visible position outside the batch"
    if meta.visible_packets == len(offsets) and meta.visible_position != meta.end_position:
        return "a visible position that is not the end of a wholly visible batch"
    if not meta.visible_packets and meta.visible_position != meta.start_position:
        return "a visible position without a visible packet"
    return ""
