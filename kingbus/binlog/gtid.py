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
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from struct import Struct
from typing import Final, TypeAlias
from uuid import UUID

import numpy as np
import numpy.typing as npt

from kingbus.binlog.mariadb_gtid import Position, Window, is_key, key_of, parse_gtid, split_key
from kingbus.errors import KingbusError

GTID_NUMBER_MAX: Final = (1 << 63) - 2
"""The server's own limit: its end of numbers is 2^63 - 1, and that is not a number any more."""

TAG_LENGTH_MAX: Final = 32

_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
_NUMBERS = re.compile(r"(\d{1,19})(?:\s*-\s*(\d{1,19}))?")
_BULK_TEXT: Final = 2000
"""From so many characters on a group is read by numpy."""
_COLON, _DASH, _NOUGHT = map(np.uint8, b":-0")
_MARIADB = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,19}\.\.\d{1,19}(?::\d{1,19}\.\.\d{1,19})*)")
_MARIADB_BEGINS = re.compile(r"\d{1,10}-\d{1,10}-\d")
_U64 = Struct("<Q")
_PAIR = Struct("<QQ")
_SINGLE = Struct("<QQQ")
_TAGGED_FORM = 1


class MalformedGtidSetError(KingbusError):
    """A text or an encoding that is no GTID set."""


_BULK: Final = 64
"""From so many intervals on whole sets are computed with in numpy, whose calls cost a little."""

_Numbers = npt.NDArray[np.uint64]


class _Intervals:
    """Sorted, disjoint, not touching half-open intervals, as two parallel arrays.

    Arrays of machine words rather than lists: a hundred thousand intervals are copied, encoded and
    compared without an object for each. Two of them rather than one of pairs: bisect works on them
    without a key function.
    """

    __slots__ = ("_text", "_texts", "ends", "starts")

    def __init__(self, starts: "array[int]", ends: "array[int]") -> None:
        self.starts = starts
        self.ends = ends
        self._text = ""  # of the first intervals,
        self._texts = 0  # so many: what is behind them still changes

    @classmethod
    def of(cls, start: int, end: int) -> "_Intervals":
        """A single one."""
        return cls(array("Q", (start,)), array("Q", (end,)))

    @classmethod
    def from_numpy(cls, starts: _Numbers, ends: _Numbers) -> "_Intervals":
        """They must be in order."""
        return cls(array("Q", starts.tobytes()), array("Q", ends.tobytes()))

    @classmethod
    def decode(cls, view: memoryview, at: int, count: int) -> "_Intervals | None":
        """`count` pairs from there on, of which there are some; None: they are not in order."""
        pairs = np.frombuffer(view, "<u8", count * 2, at).reshape(count, 2)
        starts, ends = pairs[:, 0], pairs[:, 1]
        in_order = (starts < ends).all() and (ends[:-1] < starts[1:]).all()
        if not in_order or starts[0] == 0 or ends[-1] > GTID_NUMBER_MAX + 1:
            return None
        return cls.from_numpy(starts.astype(np.uint64), ends.astype(np.uint64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Intervals):
            return NotImplemented
        return self.starts == other.starts and self.ends == other.ends

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __len__(self) -> int:
        return len(self.starts)

    def copy(self) -> "_Intervals":
        return _Intervals(self.starts[:], self.ends[:])

    def _in_numpy(self) -> tuple[_Numbers, _Numbers]:
        """Views: to be let go before anything is added, as an array in view does not grow."""
        return np.frombuffer(self.starts, np.uint64), np.frombuffer(self.ends, np.uint64)

    def count(self) -> int:
        return sum(self.ends) - sum(self.starts)

    def add(self, start: int, end: int) -> None:
        """Adds [start, end): O(1) at the end, else O(log n) and a memory move of what follows."""
        starts, ends = self.starts, self.ends
        if not starts or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            return
        if start == ends[-1]:
            ends[-1] = end
            self._forget_text(len(ends) - 1)
            return
        low = bisect_left(ends, start)  # the first that touches or lies behind
        high = bisect_right(starts, end, low)  # the first that begins behind a gap
        if low < high:
            start = min(start, starts[low])
            end = max(end, ends[high - 1])
        self._forget_text(low)
        if high - low == 1:
            starts[low], ends[low] = start, end
        else:
            starts[low:high] = array("Q", (start,))
            ends[low:high] = array("Q", (end,))

    def has(self, start: int, end: int) -> bool:
        at = bisect_right(self.starts, start) - 1
        return at >= 0 and self.ends[at] >= end

    def meets(self, start: int, end: int) -> bool:
        """Whether any number of [start, end) is in it."""
        at = bisect_right(self.ends, start)
        return at < len(self.starts) and self.starts[at] < end

    def contains(self, other: "_Intervals") -> bool:
        count = len(other.starts)
        if count == 1:  # as in a row of a single transaction, of which there are most
            return self.has(other.starts[0], other.ends[0])
        if count < _BULK or count * 16 < len(self.starts):
            return all(map(self.has, other.starts, other.ends))
        starts, ends = self._in_numpy()
        first, last = other._in_numpy()
        at = np.searchsorted(starts, first, side="right")
        return bool(at.all() and (ends[at - 1] >= last).all())

    def union(self, other: "_Intervals") -> "_Intervals":
        if not self.starts or not other.starts:
            return (self if self.starts else other).copy()
        return self.joined((self, other))

    @classmethod
    def joined(cls, parts: "Sequence[_Intervals]") -> "_Intervals":
        """All that is in any of them, of which none is empty."""
        starts = np.concatenate([part._in_numpy()[0] for part in parts])
        ends = np.concatenate([part._in_numpy()[1] for part in parts])
        order = np.argsort(starts, kind="stable")  # of two sorted runs: a merge
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        begins = np.append(True, starts[1:] > reach[:-1])
        stops = np.append(begins[1:], True)
        return cls.from_numpy(starts[begins], reach[stops])

    def subtract(self, other: "_Intervals") -> "_Intervals":
        if not other.starts:
            return self.copy()
        if other.contains(self):  # as mostly, where sets are compared; and quickly seen
            return _Intervals(array("Q"), array("Q"))
        # What is left is what lies in the holes of the other one.
        starts, ends = other._in_numpy()
        holes = np.append(_ZERO, ends), np.append(starts, _NUMBERS_END)
        return self._within(*holes)

    def intersect(self, other: "_Intervals") -> "_Intervals":
        return self._within(*other._in_numpy())

    def _within(self, starts: _Numbers, ends: _Numbers) -> "_Intervals":
        """What of it lies in those intervals, which are in order and do not touch.

        Each piece begins where one side does and the other is in the middle of an interval, or
        where both do; it ends likewise. As no two pieces touch, the beginnings and ends pair up.
        """
        mine, my_ends = self._in_numpy()
        begins = _merged(mine[_are_in(mine, starts, ends)], starts[_are_in(starts, mine, my_ends)])
        stops = _merged(
            my_ends[_are_in(my_ends - _ONE, starts, ends)],
            ends[_are_in(ends - _ONE, mine, my_ends)],
        )
        return self.from_numpy(begins, stops)

    def overlaps(self, other: "_Intervals") -> bool:
        few, many = (self, other) if len(self.starts) < len(other.starts) else (other, self)
        count = len(few.starts)
        if count == 1:
            return many.meets(few.starts[0], few.ends[0])
        if count < _BULK or count * 16 < len(many.starts):
            return any(map(many.meets, few.starts, few.ends))
        starts, ends = many._in_numpy()
        first, last = few._in_numpy()
        at = np.searchsorted(ends, first, side="right")
        is_there = at < len(starts)
        return bool((starts[at[is_there]] < last[is_there]).any())

    def encode(self) -> bytes:
        if len(self.starts) == 1:  # of most uuids there is one
            return _SINGLE.pack(1, self.starts[0], self.ends[0])
        flat = np.empty((len(self.starts), 2), dtype="<u8")
        flat[:, 0], flat[:, 1] = self._in_numpy()
        return _U64.pack(len(self.starts)) + flat.tobytes()

    def text(self) -> str:
        """`1-5:7`. What does not change between two calls is not written again."""
        last = len(self.starts) - 1
        if self._texts < last:
            more = map(
                _interval_text, self.starts[self._texts : last], self.ends[self._texts : last]
            )
            self._text += "".join(f"{each}:" for each in more)
            self._texts = last
        return self._text + _interval_text(self.starts[last], self.ends[last])

    def _forget_text(self, first: int) -> None:
        """The interval at `first`, and perhaps what follows, is about to change."""
        if first < self._texts:
            self._text, self._texts = "", 0


def _interval_text(start: int, end: int) -> str:
    return str(start) if end == start + 1 else f"{start}-{end - 1}"


_ZERO: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
_NUMBERS_END: Final = np.uint64(1 << 63)


def _merged(one: _Numbers, two: _Numbers) -> _Numbers:
    """The numbers of two ordered arrays in order, each once."""
    both = np.concatenate((one, two))
    both.sort(kind="stable")  # of two sorted runs: a merge
    single: _Numbers = both[np.append(True, both[1:] != both[:-1])[: len(both)]]
    return single


def _are_in(numbers: _Numbers, starts: _Numbers, ends: _Numbers) -> npt.NDArray[np.bool_]:
    """Which of the numbers lie in one of the intervals."""
    at = np.searchsorted(starts, numbers, side="right")
    found: npt.NDArray[np.bool_] = at > 0
    found[found] = ends[at[found] - 1] > numbers[found]
    return found


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
        if len(group) >= _BULK_TEXT and self._parse_bulk(group):
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

    def _parse_bulk(self, group: str) -> bool:
        """Reads a group of many intervals as servers write it: no tag, in order, nothing odd.

        False when it is not so: then field by field, which also finds the fault.
        """
        uuid_text, _, text = group.partition(":")
        if _UUID.fullmatch(uuid_text) is None or not text.isascii():
            return False
        letters = np.frombuffer(text.encode("ascii"), np.uint8)
        signs = np.flatnonzero((letters == _COLON) | (letters == _DASH))
        digits = np.diff(signs, prepend=-1, append=len(letters)) - 1  # of each number
        if np.count_nonzero(letters - _NOUGHT <= 9) != digits.sum():
            return False
        # Of the signs between two numbers each: whether they are the two ends of an interval.
        spans = letters[signs] == _DASH
        if digits.min() < 1 or digits.max() > 19 or (spans[1:] & spans[:-1]).any():
            return False
        numbers = np.fromstring(text.replace("-", ":"), dtype=np.uint64, sep=":")
        firsts = numbers[np.append(True, ~spans)]
        lasts = numbers[np.append(~spans, True)]
        rises = (firsts <= lasts).all() and (lasts[:-1] < firsts[1:]).all()
        if not rises or firsts[0] == 0 or lasts[-1] > GTID_NUMBER_MAX:
            return False
        ends = lasts + _ONE
        begins = np.append(True, firsts[1:] > ends[:-1])  # those that touch are one
        stops = np.append(begins[1:], True)
        read = _Intervals.from_numpy(firsts[begins], ends[stops])
        key = UUID(uuid_text).bytes, ""
        known = self._groups.get(key)
        self._groups[key] = read if known is None else known.union(read)
        return True

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
        found: dict[tuple[bytes, str], list[_Intervals]] = {}
        at = 8
        for _ in range(groups):
            if at + 24 + tagged > len(view):
                raise MalformedGtidSetError("an encoded GTID set is cut short")
            uuid, tag = bytes(view[at : at + 16]), ""
            at += 16
            if tagged:
                tag, at = _decode_tag(view, at)
            intervals, at = _decode_intervals(view, at)
            if intervals is not None:
                found.setdefault((uuid, tag), []).append(intervals)
        if at != len(view):
            raise MalformedGtidSetError(f"{len(view) - at} bytes behind an encoded GTID set")
        result = cls()
        # No server names one twice; should somebody do so very often, it is one piece of work.
        result._groups = {
            key: parts[0] if len(parts) == 1 else _Intervals.joined(parts)
            for key, parts in found.items()
        }
        return result

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
            self._groups[uuid, tag] = _Intervals.of(first, last + 1)
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
        """Whether any GTID is in both; what it takes goes by the smaller of the two.

        As `meets` it is asked by dumps; `mariadb_gtid.Position` is the other kind that they know.
        """
        few, many = (self, other) if len(self._groups) < len(other._groups) else (other, self)
        for key, theirs in few._groups.items():
            mine = many._groups.get(key)
            if mine is not None and mine.overlaps(theirs):
                return True
        return False

    meets = overlaps

    def overlaps_run(self, uuid: bytes, tag: str, first: int, last: int) -> bool:
        """Whether any number from first to last, inclusive, is in it."""
        intervals = self._groups.get((uuid, tag))
        return intervals is not None and intervals.meets(first, last + 1)

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


def is_tag(text: str) -> bool:
    """Whether it can be the tag of a GTID."""
    return _TAG.fullmatch(text) is not None


def _decode_intervals(view: memoryview, at: int) -> tuple[_Intervals | None, int]:
    """Those of one group, None where there are none, and where they end."""
    if at + 8 > len(view):
        raise MalformedGtidSetError("an encoded GTID set is cut short")
    count: int = _U64.unpack_from(view, at)[0]
    at += 8
    if count > (len(view) - at) // 16:
        raise MalformedGtidSetError("an encoded GTID set is cut short")
    if count == 0:
        return None, at
    if count == 1:  # a row's: numpy would cost twice as much
        start, end = _PAIR.unpack_from(view, at)
        in_order = 0 < start < end <= GTID_NUMBER_MAX + 1
        intervals = _Intervals.of(start, end) if in_order else None
    else:
        intervals = _Intervals.decode(view, at, count)
    if intervals is None:
        raise MalformedGtidSetError("an encoded GTID set has intervals out of order")
    return intervals, at + count * 16


def _decode_tag(view: memoryview, at: int) -> tuple[str, int]:
    length = view[at] >> 1
    # The lowest bit says that the length goes on in the next byte: too long for a tag.
    if view[at] & 1 or length > TAG_LENGTH_MAX or at + 1 + length > len(view):
        raise MalformedGtidSetError("an encoded GTID set has a tag of impossible length")
    tag = bytes(view[at + 1 : at + 1 + length]).decode("ascii", "replace")
    if tag and not is_tag(tag):
        raise MalformedGtidSetError(f"an encoded GTID set has the impossible tag {tag!r}")
    return tag, at + 1 + length


def _mariadb_text(key: bytes, intervals: _Intervals) -> str:
    domain, server = split_key(key)
    if len(intervals) == 1 and intervals.starts[0] == 1:
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
