"""A deterministic Raft core: the same inputs always give the same outputs.

No I/O, no clock, no threads inside. `RawNode` is the door, made from a `RaftConfig` over a
`Storage`; the values that go in and out, and the errors, stand beside it here.
"""

from kingbus.raft.config import Logger, RaftConfig, ReadOnlyOption
from kingbus.raft.errors import ConfChangeError, ProposalDroppedError, RaftError
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import ReadState, Ready, Role, SoftState
from kingbus.raft.status import BasicStatus, ProgressStatus, Status
from kingbus.raft.storage import MemoryStorage, Storage
from kingbus.raft.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
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

__all__ = [
    "APPEND_THREAD",
    "APPLY_THREAD",
    "BasicStatus",
    "ConfChange",
    "ConfChangeError",
    "ConfChangeSingle",
    "ConfChangeTransition",
    "ConfChangeType",
    "ConfChangeV2",
    "ConfState",
    "Entry",
    "EntryType",
    "HardState",
    "Logger",
    "MemoryStorage",
    "Message",
    "MessageType",
    "ProgressStatus",
    "ProposalDroppedError",
    "RaftConfig",
    "RaftError",
    "RawNode",
    "ReadOnlyOption",
    "ReadState",
    "Ready",
    "Role",
    "Snapshot",
    "SoftState",
    "Status",
    "Storage",
    "decode_conf_change",
]
