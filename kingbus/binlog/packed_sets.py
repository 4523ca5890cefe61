"""The GTID sets in the rows of closed files, packed while nobody asks for them.

A set of 100,000 intervals takes 1.6 MB, and a row has two: what was executed when the file began,
and what the source said of that. Owns the packed form in memory, which is much smaller and is
unpacked byte for byte; sets that are small stay where they are. Knows nothing of what a set says,
nor of which files are held.
"""

from typing import Final
from zlib import compress, decompress

from kingbus.pb.record_pb2 import FileRow

PACKED_FROM_BYTES: Final = 64 << 10
"""Some 4,000 intervals: below it a thousand files take less than 128 MB as they are."""
_LEVEL: Final = 1  # the quickest; intervals of one server look alike anyway


class PackedSets:
    """By the files' ordinals."""

    def __init__(self) -> None:
        self._sets: dict[int, tuple[bytes, bytes | None]] = {}

    def pack(self, row: FileRow) -> FileRow:
        """The row without its sets, which are here from now on; itself when they are small.

        The row itself is not changed: somebody may be reading it.
        """
        before, told = row.previous_gtids, row.start.previous_gtids
        if max(len(before), len(told)) < PACKED_FROM_BYTES:
            return row
        packed = compress(before, _LEVEL)
        self._sets[row.ordinal] = packed, None if told == before else compress(told, _LEVEL)
        bare = FileRow()
        bare.CopyFrom(row)
        bare.ClearField("previous_gtids")
        bare.start.ClearField("previous_gtids")
        return FileRow.FromString(bare.SerializeToString())  # a cleared field keeps its memory

    def whole(self, row: FileRow) -> FileRow:
        """The row with its sets; itself where none of them is packed."""
        packed = self._sets.get(row.ordinal)
        if packed is None or row.previous_gtids:
            return row
        whole = FileRow()
        whole.CopyFrom(row)
        before, told = packed
        whole.previous_gtids = decompress(before)
        whole.start.previous_gtids = whole.previous_gtids if told is None else decompress(told)
        return whole

    def previous_gtids(self, row: FileRow) -> bytes:
        """The encoded set of what was executed when the file began."""
        packed = self._sets.get(row.ordinal)
        if packed is None or row.previous_gtids:
            return row.previous_gtids
        return decompress(packed[0])

    def forget(self, ordinal: int) -> None:
        """The file is gone, or its row is whole again."""
        self._sets.pop(ordinal, None)
