"""The values that go in and out of the Raft core: entries, messages, hard state, configurations.

The numbers and the encoding of configuration changes follow etcd's raft.proto, so that the sizes
of entries, and with them every limit counted in bytes, are the origin's. Nothing here knows how
messages travel or how entries are stored.

Entries and messages are built on the hot path and are therefore not frozen; nobody may change one
that was handed over. Payloads travel by reference, never by copy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Self, TypeVar

from kingbus.raft.errors import DecodeError

_E = TypeVar("_E", bound=IntEnum)

NONE = 0
"""The id that means nobody: no leader, no vote."""
APPEND_THREAD = 2**64 - 1
"""The id of the host's append task, to which MsgStorageAppend goes."""
APPLY_THREAD = 2**64 - 2
"""The id of the host's apply task, to which MsgStorageApply goes."""
STORAGE_THREADS = frozenset((APPEND_THREAD, APPLY_THREAD))
NO_LIMIT = 2**64 - 1
"""A size limit that nothing reaches."""


class EntryType(IntEnum):
    """What the data of an entry is."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2

    def __str__(self) -> str:
        return _ENTRY_TYPE_NAMES[self]


_ENTRY_TYPE_NAMES = ("EntryNormal", "EntryConfChange", "EntryConfChangeV2")


class MessageType(IntEnum):
    """The kinds of messages; the comments on etcd's raft.proto apply."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23

    def __str__(self) -> str:
        return _MESSAGE_TYPE_NAMES[self]


_MESSAGE_TYPE_NAMES = tuple(
    "Msg" + "".join(word.capitalize() for word in kind.name.split("_")) for kind in MessageType
)

LOCAL_MESSAGES = frozenset(
    (
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESP,
    )
)
"""Kinds that never come from another node."""

RESPONSE_MESSAGES = frozenset(
    (
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.UNREACHABLE,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE_RESP,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY_RESP,
    )
)
"""Kinds that are accepted only from a peer that the configuration knows."""


@dataclass(slots=True)
class Entry:
    """One entry of the log.

    `checksum` is the CRC32 of `data` where somebody already knows it; the core only carries it.
    """

    term: int
    index: int
    type: EntryType = EntryType.NORMAL
    data: bytes = b""
    checksum: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before any message that depends on it leaves the node."""

    term: int = 0
    vote: int = NONE
    commit: int = 0

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to save."""
        return self.term == 0 and self.vote == NONE and self.commit == 0


@dataclass(frozen=True, slots=True)
class ConfState:
    """A configuration as it stands in a snapshot: sorted tuples of member ids.

    `voters_outgoing` is non-empty only in a joint configuration; `learners_next` are the voters of
    the outgoing half that become learners when it is left.
    """

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False

    def __post_init__(self) -> None:
        for name in ("voters", "learners", "voters_outgoing", "learners_next"):
            ids: Iterable[int] = getattr(self, name)
            object.__setattr__(self, name, tuple(sorted(set(ids))))

    @property
    def members(self) -> frozenset[int]:
        """Every id that has any part in the configuration."""
        return frozenset((*self.voters, *self.learners, *self.voters_outgoing))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the log up to and with `index`.

    `conf_state` may be newer than `index`: `conf_index` is the index that it is from (0: the same
    as `index`), and configuration changes at or below it are not applied again.
    """

    index: int = 0
    term: int = 0
    conf_state: ConfState = field(default_factory=ConfState)
    data: bytes = b""
    conf_index: int = 0

    @property
    def is_empty(self) -> bool:
        """True for the snapshot of a log that has none."""
        return self.index == 0


@dataclass(slots=True)
class Message:
    """One message, to a peer, to the node itself or to one of its two storage tasks.

    Which fields mean something depends on the type:
    PROP: entries. APP: index and log_term of the entry before, entries, commit.
    APP_RESP: index; with reject: reject_hint and log_term. VOTE, PRE_VOTE: index and log_term of
    the last entry, context. HEARTBEAT: commit, context. SNAP: snapshot. READ_INDEX(_RESP): context,
    index. STORAGE_APPEND: entries, snapshot, and the hard state in term, vote and commit (all 0:
    unchanged), responses to be stepped or sent once that is durable. STORAGE_APPLY: entries,
    responses to be stepped once they are applied.
    """

    type: MessageType
    to: int = NONE
    from_: int = NONE
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: list[Entry] = field(default_factory=list)
    commit: int = 0
    vote: int = NONE
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""
    responses: "list[Message]" = field(default_factory=list)


class ConfChangeType(IntEnum):
    """What one operation does to one member."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3

    def __str__(self) -> str:
        return "ConfChange" + _camel(self.name)


class ConfChangeTransition(IntEnum):
    """How a change goes through a joint configuration, and who leaves it."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2

    def __str__(self) -> str:
        return "ConfChangeTransition" + _camel(self.name)


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


@dataclass(frozen=True, slots=True)
class ConfChangeSingle:
    """One operation of a configuration change."""

    type: ConfChangeType
    node_id: int


@dataclass(frozen=True, slots=True)
class ConfChangeV2:
    """A configuration change of any number of operations; with none it leaves a joint one."""

    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    changes: tuple[ConfChangeSingle, ...] = ()
    context: bytes = b""

    entry_type: ClassVar[EntryType] = EntryType.CONF_CHANGE_V2

    def as_v2(self) -> "ConfChangeV2":
        """This change."""
        return self

    @property
    def leaves_joint(self) -> bool:
        """True when applying it means to leave the joint configuration."""
        return self.transition is ConfChangeTransition.AUTO and not self.changes

    @property
    def enters_joint(self) -> bool:
        """True when applying it means to enter a joint configuration."""
        return self.transition is not ConfChangeTransition.AUTO or len(self.changes) > 1

    @property
    def auto_leave(self) -> bool:
        """True when the joint configuration is left by the leader without being asked."""
        return self.transition is not ConfChangeTransition.JOINT_EXPLICIT

    def encode(self) -> bytes:
        """Protobuf bytes: transition = 1, changes = 2 {type = 1, node_id = 2}, context = 3."""
        out = bytearray()
        if self.transition:
            _put_varint_field(out, 1, self.transition)
        for change in self.changes:
            inner = bytearray()
            if change.type:
                _put_varint_field(inner, 1, change.type)
            _put_varint_field(inner, 2, change.node_id)
            _put_bytes_field(out, 2, inner)
        if self.context:
            _put_bytes_field(out, 3, self.context)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The change of these bytes; DecodeError when they are not one."""
        transition = ConfChangeTransition.AUTO
        changes: list[ConfChangeSingle] = []
        context = b""
        for number, value in _fields(data, "ConfChangeV2"):
            match number, value:
                case 1, int():
                    transition = _enum(ConfChangeTransition, value, "ConfChangeV2.transition")
                case 2, bytes():
                    changes.append(_decode_single(value))
                case 3, bytes():
                    context = value
                case _:
                    pass  # a field of a newer version, or of a wrong kind, says nothing to us
        return cls(transition, tuple(changes), context)


@dataclass(frozen=True, slots=True)
class ConfChange:
    """A configuration change of one operation, in its older form."""

    type: ConfChangeType
    node_id: int
    context: bytes = b""
    id: int = 0

    entry_type: ClassVar[EntryType] = EntryType.CONF_CHANGE

    def as_v2(self) -> ConfChangeV2:
        """The same change in the newer form."""
        return ConfChangeV2(
            changes=(ConfChangeSingle(self.type, self.node_id),), context=self.context
        )

    def encode(self) -> bytes:
        """Protobuf bytes: id = 1, type = 2, node_id = 3, context = 4."""
        out = bytearray()
        if self.id:
            _put_varint_field(out, 1, self.id)
        if self.type:
            _put_varint_field(out, 2, self.type)
        _put_varint_field(out, 3, self.node_id)
        if self.context:
            _put_bytes_field(out, 4, self.context)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The change of these bytes; DecodeError when they are not one."""
        kind, node_id, context, change_id = ConfChangeType.ADD_NODE, 0, b"", 0
        for number, value in _fields(data, "ConfChange"):
            match number, value:
                case 1, int():
                    change_id = value
                case 2, int():
                    kind = _enum(ConfChangeType, value, "ConfChange.type")
                case 3, int():
                    node_id = value
                case 4, bytes():
                    context = value
                case _:
                    pass  # as above
        return cls(kind, node_id, context, change_id)


def decode_conf_change(entry: Entry) -> ConfChange | ConfChangeV2:
    """The change in a CONF_CHANGE or CONF_CHANGE_V2 entry; DecodeError when its data is none."""
    if entry.type is EntryType.CONF_CHANGE:
        return ConfChange.decode(entry.data)
    assert entry.type is EntryType.CONF_CHANGE_V2, entry.type
    return ConfChangeV2.decode(entry.data)


def entry_size(entry: Entry) -> int:
    """Bytes of the entry in protobuf: every limit on entries counts these."""
    size = 2 + varint_size(entry.term) + varint_size(entry.index)
    if entry.type:
        size += 2
    length = len(entry.data)
    if length:
        size += 1 + varint_size(length) + length
    return size


def entries_size(entries: Sequence[Entry]) -> int:
    """The sum of `entry_size`."""
    return sum(map(entry_size, entries))


def payloads_size(entries: Sequence[Entry]) -> int:
    """The sum of the lengths of the data alone: uncommitted and in-flight limits count these."""
    return sum(len(entry.data) for entry in entries)


def limit_size(entries: list[Entry], max_size: int) -> list[Entry]:
    """The longest prefix within `max_size` bytes, but at least one entry."""
    size = 0
    for count, entry in enumerate(entries):
        size += entry_size(entry)
        if size > max_size and count > 0:
            return entries[:count]
    return entries


def varint_size(value: int) -> int:
    """Bytes of a non-negative number as a protobuf varint."""
    return (value.bit_length() + 6) // 7 or 1


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_varint_field(out: bytearray, number: int, value: int) -> None:
    _put_varint(out, number << 3)
    _put_varint(out, value)


def _put_bytes_field(out: bytearray, number: int, value: bytes | bytearray) -> None:
    _put_varint(out, number << 3 | 2)
    _put_varint(out, len(value))
    out += value


def _take_varint(data: bytes, at: int, what: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7
    raise DecodeError(f"{what}: number cut short or too long at byte {at}")


_FIXED_SIZES = {1: 8, 5: 4}


def _fields(data: bytes, what: str) -> Iterable[tuple[int, int | bytes]]:
    """The (field number, value) pairs of a protobuf message, as they come."""
    at = 0
    while at < len(data):
        key, at = _take_varint(data, at, what)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _take_varint(data, at, what)
            yield number, value
            continue
        if wire_type == 2:
            length, at = _take_varint(data, at, what)
        elif wire_type in _FIXED_SIZES:
            length = _FIXED_SIZES[wire_type]
        else:
            raise DecodeError(f"{what}: unknown wire type {wire_type} at byte {at}")
        if at + length > len(data):
            raise DecodeError(f"{what}: field {number} goes past the end")
        yield number, bytes(data[at : at + length])
        at += length


def _decode_single(data: bytes) -> ConfChangeSingle:
    kind, node_id = ConfChangeType.ADD_NODE, 0
    for number, value in _fields(data, "ConfChangeSingle"):
        match number, value:
            case 1, int():
                kind = _enum(ConfChangeType, value, "ConfChangeSingle.type")
            case 2, int():
                node_id = value
            case _:
                pass  # as above
    return ConfChangeSingle(kind, node_id)


def _enum(kind: type[_E], value: int, what: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise DecodeError(f"{what}: unknown value {value}") from None
