"""A deterministic Raft core: the same inputs always give the same outputs.

No I/O, no clock, no threads inside. `RawNode` is the door, made from a `RaftConfig` over a
`Storage`; the values that go in and out are in `kingbus.raft.types` and `kingbus.raft.ready`.
"""

from kingbus.raft.config import Logger, RaftConfig, ReadOnlyOption
from kingbus.raft.raw_node import RawNode
from kingbus.raft.ready import ReadState, Ready, Role, SoftState
from kingbus.raft.status import BasicStatus, ProgressStatus, Status
from kingbus.raft.storage import MemoryStorage, Storage

__all__ = [
    "BasicStatus",
    "Logger",
    "MemoryStorage",
    "ProgressStatus",
    "RaftConfig",
    "RawNode",
    "ReadOnlyOption",
    "ReadState",
    "Ready",
    "Role",
    "SoftState",
    "Status",
    "Storage",
]
