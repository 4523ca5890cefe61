"""Every key of the database, in one table.

| key                         | value                                              |
|-----------------------------|----------------------------------------------------|
| `v`                         | format version, u32                                |
| `a`                         | applied index and its term, u64 each               |
| `c`                         | index u64, then raft.ConfState: the configuration  |
| `m`                         | record.Members                                     |
| `s` channel u32             | record.RelayState, the newest checkpoint           |
| `b` channel u32, index u64  | record.BatchRow                                    |
| `f` channel u32, ordinal u64| record.FileRow                                     |
| `t` channel u32, ordinal u64| record.RelayState: the start of that file          |
| `i`                         | raft.Snapshot that is being installed              |

Numbers in keys are big-endian, so that the database's order of bytes is the order of numbers;
those in values are little-endian, as everywhere on the disk. Letters are never used again for
something else.
"""

import struct

__all__ = [
    "APPLIED",
    "CHANNEL_MAX",
    "CONF_STATE",
    "FORMAT",
    "INSTALLING",
    "MEMBERS",
    "NUMBER_MAX",
    "batch_key",
    "checkpoint_key",
    "file_key",
    "number_of",
    "start_key",
]

FORMAT = b"v"
APPLIED = b"a"
CONF_STATE = b"c"
MEMBERS = b"m"
INSTALLING = b"i"

NUMBER_MAX = 2**64 - 1
CHANNEL_MAX = 2**32 - 1

_CHANNEL = struct.Struct(">cI")
_ROW = struct.Struct(">cIQ")


def checkpoint_key(channel: int) -> bytes:
    """The newest checkpoint of a channel."""
    return _CHANNEL.pack(b"s", channel)


def batch_key(channel: int, index: int) -> bytes:
    """The row of the batch in the entry `index`."""
    return _ROW.pack(b"b", channel, index)


def file_key(channel: int, ordinal: int) -> bytes:
    """The row of a file."""
    return _ROW.pack(b"f", channel, ordinal)


def start_key(channel: int, ordinal: int) -> bytes:
    """The state just before a file began."""
    return _ROW.pack(b"t", channel, ordinal)


def number_of(key: bytes) -> int:
    """The index or ordinal in the key of a row."""
    _, _, number = _ROW.unpack(key)
    assert isinstance(number, int)
    return number
