"""GTID sets: text form, both binary forms, and the algebra on them.

Owns how a set of global transaction identifiers is written, read and computed with, the tagged
identifiers of MySQL 8.3 and later included. Knows nothing of events, files or the log.

A set may also be MariaDB's (`mariadb_gtid.py`): its text is `domain-server-sequence`, which stands
for all numbers up to that one, or, where that is not so, `0-1-7..9:12..15`.

Text: MySQL manual, "GTID Format and Storage", on one line. Binary: the body of PREVIOUS_GTIDS and
the set in COM_BINLOG_DUMP_GTID, in the old form (no tag in the set) or the tagged form 1.
"""

# ruff: noqa: SLF001 - a set looks into other sets of its own kind

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from itertools import chain
from struct import Struct
from typing import Final, TypeAlias
from uuid import UUID

import numpy as np

from kingbus.binlog.mariadb_gtid import Position, Window, is_key, key_of, parse_gtid, split_key
from kingbus.errors import KingbusError

GTID_NUMBER_MAX: Final = (1 << 63) - 2
"""The server's own limit: its end of numbers is 2^63 - 1, and that is not a number any more."""

TAG_LENGTH_MAX: Final = 32

_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
_NUMBERS = re.compile(r"(\d{1,19})(?:\s*-\s*(\d{1,19}))?")
_MARIADB = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,19}\.\.\d{1,19}(?::\d{1,19}\.\.\d{1,19})*)")
_MARIADB_BEGINS = re.compile(r"\d{1,10}-\d{1,10}-\d")
_U64 = Struct("<Q")
_TAGGED_FORM = 1


class MalformedGtidSetError(KingbusError):
    """A text or an encoding that is no GTID set."""


class _Intervals:
    """Sorted, disjoint, not touching half-open intervals, as two parallel lists.

    Two lists rather than one of pairs: bisect works on them without a key function, and a copy is
    two memory copies.
    """

    __slots__ = ("ends", "starts")

    def __init__(self, starts: list[int], ends: list[int]) -> None:
        self.starts = starts
        self.ends = ends

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Intervals):
            return NotImplemented
        return self.starts == other.starts and self.ends == other.ends

    __hash__ = None  # type: ignore[assignment]  # mutable

    def copy(self) -> "_Intervals":
        return _Intervals(self.starts.copy(), self.ends.copy())

    def count(self) -> int:
        return sum(self.ends) - sum(self.starts)

    def add(self, start: int, end: int) -> None:
        """Adds [start, end): O(1) at the end, else O(log n) and one memory move."""
        starts, ends = self.starts, self.ends
        if not starts or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            return
        if start == ends[-1]:
            ends[-1] = end
            return
        low = bisect_left(ends, start)  # the first that touches or lies behind
        high = bisect_right(starts, end, low)  # the first that begins behind a gap
        if low < high:
            start = min(start, starts[low])
            end = max(end, ends[high - 1])
        starts[low:high] = [start]
        ends[low:high] = [end]

    def has(self, start: int, end: int) -> bool:
        at = bisect_right(self.starts, start) - 1
        return at >= 0 and self.ends[at] >= end

    def contains(self, other: "_Intervals") -> bool:
        if len(other.starts) * 16 < len(self.starts):
            return all(map(self.has, other.starts, other.ends))
        starts, ends, at, size = self.starts, self.ends, 0, len(self.starts)
        for start, end in zip(other.starts, other.ends, strict=True):
            while at < size and ends[at] < end:
                at += 1
            if at == size or starts[at] > start:
                return False
        return True

    def union(self, other: "_Intervals") -> "_Intervals":
        # Sorting two sorted runs is a merge in C.
        pairs = sorted(
            chain(
                zip(self.starts, self.ends, strict=True), zip(other.starts, other.ends, strict=True)
            )
        )
        merged = _Intervals([], [])
        starts, ends = merged.starts, merged.ends
        last = -1
        for start, end in pairs:
            if start > last:
                starts.append(start)
                ends.append(end)
                last = end
            elif end > last:
                ends[-1] = last = end
        return merged

    def subtract(self, other: "_Intervals") -> "_Intervals":
        left = _Intervals([], [])
        holes, hole_ends, size = other.starts, other.ends, len(other.starts)
        at = bisect_right(hole_ends, self.starts[0]) if self.starts else 0
        for first, end in zip(self.starts, self.ends, strict=True):
            start = first
            while at < size and hole_ends[at] <= start:
                at += 1
            look = at
            while look < size and holes[look] < end:
                if holes[look] > start:
                    left.starts.append(start)
                    left.ends.append(holes[look])
                start = hole_ends[look]
                if start >= end:
                    break
                look += 1
            at = look
            if start < end:
                left.starts.append(start)
                left.ends.append(end)
        return left

    def intersect(self, other: "_Intervals") -> "_Intervals":
        both = _Intervals([], [])
        mine = other_at = 0
        while mine < len(self.starts) and other_at < len(other.starts):
            start = max(self.starts[mine], other.starts[other_at])
            end = min(self.ends[mine], other.ends[other_at])
            if start < end:
                both.starts.append(start)
                both.ends.append(end)
            if self.ends[mine] < other.ends[other_at]:
                mine += 1
            else:
                other_at += 1
        return both

    def overlaps(self, other: "_Intervals") -> bool:
        few, many = (self, other) if len(self.starts) < len(other.starts) else (other, self)
        for start, end in zip(few.starts, few.ends, strict=True):
            at = bisect_right(many.ends, start)
            if at < len(many.starts) and many.starts[at] < end:
                return True
        return False

    def encode(self) -> bytes:
        flat = np.empty((len(self.starts), 2), dtype="<u8")
        flat[:, 0] = self.starts
        flat[:, 1] = self.ends
        return _U64.pack(len(self.starts)) + flat.tobytes()

    def text(self) -> str:
        return ":".join(
            str(start) if end == start + 1 else f"{start}-{end - 1}"
            for start, end in zip(self.starts, self.ends, strict=True)
        )


class GtidSet:
    """A mutable set of GTIDs: intervals of numbers per (server uuid, tag)."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[tuple[bytes, str], _Intervals] = {}

    # -- text -------------------------------------------------------------------------------

    @classmethod
    def parse(cls, text: str) -> "GtidSet":
        """Reads MySQL's text form, `uuid:1-5:7:tag:3,uuid:…`; white space is ignored.

        Raises MalformedGtidSetError naming the part that is wrong.
        """
        result = cls()
        for part in text.split(","):
            if group := part.strip().lower():
                result._parse_group(group)
        return result

    def _parse_group(self, group: str) -> None:
        if _MARIADB_BEGINS.match(group) and _UUID.match(group) is None:
            self._parse_mariadb(group)
            return
        uuid_text, *fields = (field.strip() for field in group.split(":"))
        if _UUID.fullmatch(uuid_text) is None:
            raise MalformedGtidSetError(f"{uuid_text[:60]!r} in a GTID set is not a server uuid")
        if not fields:
            raise MalformedGtidSetError(f"no transaction numbers after {uuid_text!r} in a GTID set")
        uuid, tag, tag_is_open = UUID(uuid_text).bytes, "", False
        for field in fields:
            numbers = _NUMBERS.fullmatch(field)
            if numbers is not None:
                first = int(numbers[1])
                last = first if numbers[2] is None else int(numbers[2])
                if not 0 < first <= last <= GTID_NUMBER_MAX:
                    raise MalformedGtidSetError(f"{field!r} in a GTID set is not an interval")
                self.add(uuid, tag, first, last)
                tag_is_open = False
            elif _TAG.fullmatch(field) and not tag_is_open:
                tag, tag_is_open = field, True
            else:
                raise MalformedGtidSetError(
                    f"{field[:60]!r} in a GTID set is neither an interval nor a tag"
                )
        if tag_is_open:
            raise MalformedGtidSetError(f"no transaction numbers after tag {tag!r} in a GTID set")

    def _parse_mariadb(self, group: str) -> None:
        gtid, parts = parse_gtid(group), _MARIADB.fullmatch(group)
        if gtid is not None:
            domain, server, sequence = gtid
            self.add(key_of(domain, server), "", 1, sequence)
            return
        if parts is None:
            raise MalformedGtidSetError(f"{group[:60]!r} in a GTID set is no GTID of MariaDB")
        domain, server = int(parts[1]), int(parts[2])
        for field in parts[3].split(":"):
            first, last = (int(number) for number in field.split(".."))
            in_order = 0 < first <= last <= GTID_NUMBER_MAX
            if not in_order or max(domain, server) > 0xFFFF_FFFF:
                raise MalformedGtidSetError(f"{group[:60]!r} in a GTID set is not an interval")
            self.add(key_of(domain, server), "", first, last)

    def __str__(self) -> str:
        parts: list[str] = []
        last_uuid = b""
        for uuid, tag in sorted(self._groups):
            if is_key(uuid):
                parts += [",", _mariadb_text(uuid, self._groups[uuid, tag])]
                continue
            numbers = self._groups[uuid, tag].text()
            if uuid != last_uuid:
                parts.append("," if parts else "")
                parts.append(str(UUID(bytes=uuid)))
                last_uuid = uuid
            parts.append(f":{tag}:{numbers}" if tag else f":{numbers}")
        return "".join(parts).removeprefix(",")

    def __repr__(self) -> str:
        return f"GtidSet({self})"

    # -- binary -----------------------------------------------------------------------------

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "GtidSet":
        """Reads either binary form; the whole of `data` must be one set.

        Raises MalformedGtidSetError when it is cut short, too long or inconsistent.
        """
        view = memoryview(data)
        if len(view) < 8:
            raise MalformedGtidSetError(f"an encoded GTID set of {len(view)} bytes is too short")
        (head,) = _U64.unpack_from(view, 0)
        tagged = head >> 56 == _TAGGED_FORM
        if tagged and head & 0xFF != _TAGGED_FORM:
            raise MalformedGtidSetError("an encoded GTID set with an unknown form")
        groups = (head >> 8) & 0xFFFF_FFFF_FFFF if tagged else head
        result, at = cls(), 8
        for _ in range(groups):
            if at + 24 + tagged > len(view):
                raise MalformedGtidSetError("an encoded GTID set is cut short")
            uuid, tag = bytes(view[at : at + 16]), ""
            at += 16
            if tagged:
                tag, at = _decode_tag(view, at)
            at = result._decode_intervals(view, at, uuid, tag)
        if at != len(view):
            raise MalformedGtidSetError(f"{len(view) - at} bytes behind an encoded GTID set")
        return result

    def _decode_intervals(self, view: memoryview, at: int, uuid: bytes, tag: str) -> int:
        if at + 8 > len(view):
            raise MalformedGtidSetError("an encoded GTID set is cut short")
        count: int = _U64.unpack_from(view, at)[0]
        at += 8
        if count > (len(view) - at) // 16:
            raise MalformedGtidSetError("an encoded GTID set is cut short")
        if count == 0:
            return at
        pairs = np.frombuffer(view, "<u8", count * 2, at).reshape(count, 2)
        starts, ends = pairs[:, 0], pairs[:, 1]
        in_order = (starts < ends).all() and (ends[:-1] < starts[1:]).all()
        if not in_order or starts[0] == 0 or ends[-1] > GTID_NUMBER_MAX + 1:
            raise MalformedGtidSetError("an encoded GTID set has intervals out of order")
        intervals = _Intervals(starts.tolist(), ends.tolist())
        known = self._groups.get((uuid, tag))
        self._groups[uuid, tag] = intervals if known is None else known.union(intervals)
        return at + count * 16

    def encode(self) -> bytes:
        """The old binary form when no tag is in the set, else the tagged one, as MySQL does."""
        tagged = any(tag for _, tag in self._groups)
        head = len(self._groups)
        if tagged:
            head = _TAGGED_FORM << 56 | head << 8 | _TAGGED_FORM
        parts = [_U64.pack(head)]
        for uuid, tag in sorted(self._groups):
            parts.append(uuid)
            if tagged:
                # A variable-length integer of one byte: 32 characters at most.
                parts.append(bytes((len(tag) << 1,)) + tag.encode("ascii"))
            parts.append(self._groups[uuid, tag].encode())
        return b"".join(parts)

    # -- change -----------------------------------------------------------------------------

    def add(self, uuid: bytes, tag: str, first: int, last: int) -> None:
        """Adds the numbers first to last, inclusive; O(1) at the end of what is there."""
        assert len(uuid) == 16
        assert 0 < first <= last <= GTID_NUMBER_MAX
        intervals = self._groups.get((uuid, tag))
        if intervals is None:
            self._groups[uuid, tag] = _Intervals([first], [last + 1])
        else:
            intervals.add(first, last + 1)

    def update(self, other: "GtidSet") -> None:
        """Adds everything that is in `other`."""
        for key, theirs in other._groups.items():
            mine = self._groups.get(key)
            if mine is None:
                self._groups[key] = theirs.copy()
            elif len(theirs.starts) * 16 < len(mine.starts):
                for start, end in zip(theirs.starts, theirs.ends, strict=True):
                    mine.add(start, end)
            else:
                self._groups[key] = mine.union(theirs)

    # -- new sets ---------------------------------------------------------------------------

    def copy(self) -> "GtidSet":
        result = GtidSet()
        result._groups = {key: intervals.copy() for key, intervals in self._groups.items()}
        return result

    def union(self, other: "GtidSet") -> "GtidSet":
        result = self.copy()
        result.update(other)
        return result

    def subtract(self, other: "GtidSet") -> "GtidSet":
        """What is here and not in `other`."""
        result = GtidSet()
        for key, mine in self._groups.items():
            theirs = other._groups.get(key)
            left = mine.copy() if theirs is None else mine.subtract(theirs)
            if left.starts:
                result._groups[key] = left
        return result

    def intersect(self, other: "GtidSet") -> "GtidSet":
        result = GtidSet()
        for key, mine in self._groups.items():
            theirs = other._groups.get(key)
            if theirs is not None and (both := mine.intersect(theirs)).starts:
                result._groups[key] = both
        return result

    def only(self, uuids: Collection[bytes]) -> "GtidSet":
        """The part of it that carries one of these server uuids, whatever the tag."""
        result = GtidSet()
        result._groups = {
            key: intervals.copy() for key, intervals in self._groups.items() if key[0] in uuids
        }
        return result

    # -- questions --------------------------------------------------------------------------

    def contains(self, other: "GtidSet") -> bool:
        """Whether all of `other` is in it."""
        for key, theirs in other._groups.items():
            mine = self._groups.get(key)
            if mine is None or not mine.contains(theirs):
                return False
        return True

    def contains_gtid(self, uuid: bytes, tag: str, number: int) -> bool:
        return self.contains_run(uuid, tag, number, number)

    def contains_run(self, uuid: bytes, tag: str, first: int, last: int) -> bool:
        """Whether all numbers from first to last, inclusive, are in it."""
        intervals = self._groups.get((uuid, tag))
        return intervals is not None and intervals.has(first, last + 1)

    def overlaps(self, other: "GtidSet") -> bool:
        """Whether any GTID is in both."""
        for key, theirs in other._groups.items():
            mine = self._groups.get(key)
            if mine is not None and mine.overlaps(theirs):
                return True
        return False

    def meets(self, other: "GtidSet") -> bool:
        """As `overlaps`; see `mariadb_gtid.Position` for the other kind that dumps know."""
        return self.overlaps(other)

    def overlaps_run(self, uuid: bytes, tag: str, first: int, last: int) -> bool:
        """Whether any number from first to last, inclusive, is in it."""
        intervals = self._groups.get((uuid, tag))
        return intervals is not None and intervals.overlaps(_Intervals([first], [last + 1]))

    def count(self) -> int:
        """How many transactions it names."""
        return sum(intervals.count() for intervals in self._groups.values())

    def uuids(self) -> set[bytes]:
        return {uuid for uuid, _ in self._groups}

    def has_tags(self) -> bool:
        return any(tag for _, tag in self._groups)

    def runs(self) -> Iterator[tuple[bytes, str, int, int]]:
        """Each interval as (uuid, tag, first, last), last inclusive, in MySQL's order."""
        for uuid, tag in sorted(self._groups):
            intervals = self._groups[uuid, tag]
            for start, end in zip(intervals.starts, intervals.ends, strict=True):
                yield uuid, tag, start, end - 1

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GtidSet):
            return NotImplemented
        return self._groups == other._groups

    __hash__ = None  # type: ignore[assignment]  # mutable


GtidsHad: TypeAlias = GtidSet | Position
"""What a replica says that it has; MariaDB's names the ends of domains only."""

GtidsLeftOut: TypeAlias = GtidsHad | Window
"""What a dump leaves out: what the replica has, and what it does not want to have yet."""


def _decode_tag(view: memoryview, at: int) -> tuple[str, int]:
    length = view[at] >> 1
    # The lowest bit says that the length goes on in the next byte: too long for a tag.
    if view[at] & 1 or length > TAG_LENGTH_MAX or at + 1 + length > len(view):
        raise MalformedGtidSetError("an encoded GTID set has a tag of impossible length")
    tag = bytes(view[at + 1 : at + 1 + length]).decode("ascii", "replace")
    if tag and _TAG.fullmatch(tag) is None:
        raise MalformedGtidSetError(f"an encoded GTID set has the impossible tag {tag!r}")
    return tag, at + 1 + length


def _mariadb_text(key: bytes, intervals: _Intervals) -> str:
    domain, server = split_key(key)
    if intervals.starts == [1]:
        return f"{domain}-{server}-{intervals.ends[0] - 1}"
    pairs = zip(intervals.starts, intervals.ends, strict=True)
    numbers = ":".join(f"{start}..{end - 1}" for start, end in pairs)
    return f"{domain}-{server}-{numbers}"


def format_gtid(uuid: bytes, tag: str, number: int) -> str:
    """`uuid:number` or `uuid:tag:number`; MariaDB's as `domain-server-number`."""
    if is_key(uuid):
        domain, server = split_key(uuid)
        return f"{domain}-{server}-{number}"
    return f"{UUID(bytes=uuid)}:{tag}:{number}" if tag else f"{UUID(bytes=uuid)}:{number}"
