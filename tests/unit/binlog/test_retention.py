"""Which files stay: the reserve before all, then age, files-min and what replicas need."""

from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog.retention import (
    Need,
    Policy,
    Usage,
    decide,
    index_share,
    purge_before,
    purge_to,
    segment_bytes_within,
)
from kingbus.pb.record_pb2 import FileRow

NOBODY_KEEPS = Policy(keep_seconds=0.5, files_min=1)


def rows(*starts: int, times: tuple[int, ...] = ()) -> list[FileRow]:
    times = times or tuple(range(100, 100 + len(starts)))
    found = []
    for number, (start, time) in enumerate(zip(starts, times, strict=True)):
        closed = number < len(starts) - 1
        last = starts[number + 1] - 1 if closed else start + 5
        found.append(
            FileRow(
                ordinal=number + 1,
                served_name=f"f{number + 1}",
                first_index=start,
                last_index=last,
                last_time=time,
                closed=closed,
            )
        )
    return found


def usage(*sizes: int, reserve: int = 1000, index: int = 100, segment: int = 100) -> Usage:
    """Segments that begin at 1, 11, 21 and so on."""
    return Usage(
        starts=[1 + 10 * number for number in range(len(sizes))],
        sizes=sizes,
        segment_bytes=segment,
        reserve_bytes=reserve,
        index_bytes=index,
    )


@st.composite
def worlds(draw):
    """A node's segments, files that lie across them, needs and a policy."""
    segment = draw(st.integers(10, 100))
    sizes = draw(st.lists(st.integers(1, segment + 20), min_size=1, max_size=12))
    reserve = draw(st.integers(0, 1500))
    disk = usage(*sizes, reserve=reserve, index=draw(st.integers(0, 200)), segment=segment)
    last = disk.starts[-1] + 9
    starts = sorted(draw(st.sets(st.integers(1, last), min_size=1, max_size=12)))
    times = sorted(draw(st.lists(st.integers(1, 1000), min_size=len(starts), max_size=len(starts))))
    files = rows(*starts, times=tuple(times))
    needs = draw(
        st.lists(
            st.builds(
                Need,
                replica=st.sampled_from("abcd"),
                index=st.sampled_from(starts),
                seen_seconds_ago=st.floats(0, 200),
            ),
            max_size=4,
        )
    )
    policy = Policy(
        keep_seconds=draw(st.none() | st.floats(0, 900)),
        files_min=draw(st.integers(0, 8)),
        replica_seconds=draw(st.floats(0, 200)),
    )
    return disk, files, needs, policy


@given(worlds())
def test_the_reserve_is_kept_or_only_the_open_file_is_left(world):
    """Whatever else is wanted, what stays fits: segments, the two extra ones, and the index."""
    disk, files, needs, policy = world
    made = decide(files, reserve_index=disk.first_needed(), policy=policy, needs=needs, now=1000.0)
    assert made.first in files
    kept = disk.held_from(made.first.first_index)
    fits = kept <= disk.target
    if fits:
        at = len([start for start in disk.starts if start <= made.first.first_index]) - 1
        left = Usage(
            starts=disk.starts[at:],
            sizes=disk.sizes[at:],
            segment_bytes=disk.segment_bytes,
            reserve_bytes=disk.reserve_bytes,
            index_bytes=disk.index_bytes,
        )
        # A last segment that is fuller than a segment is one entry that is larger than it.
        too_full = max(0, disk.sizes[-1] - disk.segment_bytes)
        assert left.footprint + disk.index_bytes <= disk.reserve_bytes + too_full
    else:
        assert made.first == files[-1] or made.first.first_index >= disk.starts[-1]


@given(worlds())
def test_no_more_goes_than_the_reserve_asks_for(world):
    """Without an age, one file fewer purged would not fit."""
    disk, files, needs, _ = world
    made = decide(
        files, reserve_index=disk.first_needed(), policy=Policy(), needs=needs, now=1000.0
    )
    at = files.index(made.first)
    assert bool(made.reason) == (at > 0)
    if at:
        assert made.reason == "reserve"
        assert disk.held_from(files[at - 1].first_index) > disk.target


@given(worlds())
def test_age_respects_files_min_and_replicas(world):
    """What only age takes leaves `files_min` files, is old, and is needed by no recent replica."""
    disk, files, needs, policy = world
    made = decide(files, reserve_index=disk.first_needed(), policy=policy, needs=needs, now=1000.0)
    at = files.index(made.first)
    if made.reason == "age":
        assert policy.keep_seconds is not None
        assert len(files) - at >= max(policy.files_min, 1)
        assert all(row.last_time < 1000.0 - policy.keep_seconds for row in files[:at])
        for need in needs:
            if need.seen_seconds_ago <= policy.replica_seconds:
                assert need.index >= made.first.first_index


@given(worlds())
def test_who_is_cut_off_is_named(world):
    """Exactly those that need something of what goes."""
    disk, files, needs, policy = world
    made = decide(files, reserve_index=disk.first_needed(), policy=policy, needs=needs, now=1000.0)
    lost = [need.replica for need in needs if need.index < made.first.first_index]
    assert list(made.cut_off) == lost


@given(worlds(), st.integers(0, 300))
def test_the_distance_to_the_cut_says_when_it_comes(world, more):
    """As long as fewer bytes are added than it said, the file stays; with more it must go."""
    disk, files, _, _ = world
    index = files[0].first_index
    left = disk.until_purged(index)
    if not left or index >= disk.starts[-1]:
        return
    grown = Usage(
        starts=disk.starts,
        sizes=[*disk.sizes[:-1], disk.sizes[-1] + more],
        segment_bytes=disk.segment_bytes,
        reserve_bytes=disk.reserve_bytes,
        index_bytes=disk.index_bytes,
    )
    made = decide(files, reserve_index=grown.first_needed(), policy=Policy())
    if more <= left:
        assert made.first == files[0]
    elif len(files) > 1:
        assert made.first != files[0]


def test_nothing_goes_while_there_is_room():
    """All fits, and no age is set."""
    files = rows(1, 11, 21)
    made = decide(files, reserve_index=usage(90, 90, 50).first_needed(), policy=Policy())
    assert (made.first, made.reason, made.is_too_large) == (files[0], "", False)


def test_a_file_across_segments_goes_as_a_whole():
    """The second file begins in the segment that has to go: so it goes, too."""
    disk = usage(400, 400, 400, 50, reserve=1100)
    files = rows(1, 8, 33)
    assert disk.first_needed() == 21
    made = decide(files, reserve_index=disk.first_needed(), policy=Policy())
    assert (made.first, made.reason) == (files[2], "reserve")


def test_the_reserve_wins_over_holds_and_files_min():
    """A replica that is attached and needs the oldest file is cut off, and named."""
    disk = usage(400, 400, 50, reserve=900)
    files = rows(1, 11, 21)
    need = Need(replica="r1", index=1, seen_seconds_ago=0)
    made = decide(
        files, reserve_index=disk.first_needed(), policy=Policy(files_min=9), needs=[need]
    )
    assert (made.first, made.cut_off) == (files[1], ("r1",))


def test_the_open_file_stays_even_where_it_alone_is_too_large():
    """Then it says so: the receiver has to stop, or to exceed."""
    disk = usage(400, 400, 400, 50, reserve=500)
    files = rows(1, 5)
    made = decide(files, reserve_index=disk.first_needed(), policy=NOBODY_KEEPS, now=1e9)
    assert (made.first, made.is_too_large) == (files[1], True)


def test_age_waits_for_a_replica_for_so_long_only():
    """Seen an hour ago it is waited for, a day later not any more."""
    files = rows(1, 11, 21, 31)
    policy = Policy(keep_seconds=10, replica_seconds=3600)

    def first(seen_seconds_ago):
        need = Need(replica="r", index=11, seen_seconds_ago=seen_seconds_ago)
        return decide(files, reserve_index=1, policy=policy, needs=[need], now=1000.0).first

    assert first(3599) == files[1]
    assert first(3601) == files[3]


def test_a_replica_that_needs_what_is_gone_holds_nothing():
    """It was cut off before."""
    files = rows(11, 21)
    need = Need(replica="r", index=5, seen_seconds_ago=0)
    policy = Policy(keep_seconds=1)
    made = decide(files, reserve_index=1, policy=policy, needs=[need], now=1000.0)
    assert (made.first, made.cut_off) == (files[1], ())


def test_by_hand_stops_before_what_is_being_read():
    """As MySQL: what an attached replica reads stays, what an absent one needs goes."""
    files = rows(1, 11, 21, 31)
    reading = Need(replica="r", index=11, seen_seconds_ago=1)
    away = Need(replica="s", index=1, seen_seconds_ago=60)
    assert purge_to(files, files[3], [reading, away], 5).first == files[1]
    made = purge_to(files, files[3], [away], 5)
    assert (made.first, made.reason, made.cut_off) == (files[3], "by hand", ("s",))
    assert purge_to(files, files[0], [], 5).reason == ""


def test_before_a_time_goes_by_the_last_write():
    """Up to the first file that was written to since; never the open one."""
    files = rows(1, 11, 21, 31, times=(100, 300, 200, 400))
    assert purge_before(files, 250, [], 5).first == files[1]
    assert purge_before(files, 301, [], 5).first == files[3]
    assert purge_before(files, 1e9, [], 5).first == files[3]
    assert purge_before(files, 100, [], 5).first == files[0]
    assert purge_before([], 100, [], 5).first is None


@given(st.integers(2 << 20, 1 << 40), st.integers(1 << 20, 4 << 30))
def test_segments_and_index_are_worth_keeping_apart(reserve, wanted):
    """Any reserve that is not tiny holds four segments beside its index."""
    size = segment_bytes_within(reserve, wanted)
    assert size <= wanted
    assert index_share(reserve) <= reserve // 4
    if reserve >= 8 << 20:
        assert 4 * size + index_share(reserve) <= reserve


def test_the_share_of_the_index_is_64_mb_and_two_percent():
    """As the design has it, but for small reserves."""
    assert index_share(20 << 30) == (64 << 20) + int((20 << 30) * 0.02)
    assert index_share(48 << 20) == 12 << 20
    assert segment_bytes_within(48 << 20, 8 << 20) == 8 << 20
    assert segment_bytes_within(20 << 30, 256 << 20) == 256 << 20
