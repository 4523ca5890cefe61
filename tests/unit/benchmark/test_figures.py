"""Medians, spreads, ratios and targets of the benchmark."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.benchmark import catalogue
from scripts.benchmark.catalogue import How, Row
from scripts.benchmark.figures import (
    Load,
    Series,
    Usage,
    against,
    delays,
    is_met,
    number_of,
    peaks,
    percentile,
    silence,
    spread,
    summarize,
)

LOAD = Load(transactions=100, events=500, binlog_bytes=40_000_000)
numbers = st.floats(min_value=0.001, max_value=1e6)


def rows(result: dict) -> dict[str, dict]:
    return {row["measurement"]: row for row in result["measurements"]}


def throughput() -> Series:
    series = Series()
    for fetched, pulled in ((1.0, 2.0), (4.0, 5.0), (2.0, 2.5)):
        series.add("mysqlbinlog --raw", fetched)
        usage = Usage(
            anonymous_bytes=round(pulled * 10e6),
            file_bytes=3_000_000,
            page_cache_bytes=50_000_000,
            cpu_seconds=pulled / 2,
        )
        series.add("ingest 1 node", pulled, usage)
    return series


def test_a_spread_is_the_median_between_the_outermost_values():
    """Of an even number it is the mean of the two in the middle, as ever."""
    assert spread([4.0, 1.0, 2.0, 3.0]).median == 2.5
    assert (spread([4.0, 1.0, 2.0]).low, spread([4.0, 1.0, 2.0]).high) == (1.0, 4.0)


def test_a_percentile_is_one_of_the_values():
    """The nearest rank: no value is made up between two."""
    hundred = [float(each) for each in range(100, 0, -1)]
    assert percentile(hundred, 0.5) == 50.0
    assert percentile(hundred, 0.99) == 99.0
    assert percentile(hundred, 1.0) == 100.0
    assert percentile([7.0], 0.01) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(st.lists(numbers, min_size=1), st.floats(min_value=0.01, max_value=1.0))
def test_enough_values_do_not_pass_a_percentile_and_fewer_would_not_be_enough(values, share):
    """Its definition, for any values."""
    found = percentile(values, share)
    assert sum(each <= found for each in values) >= share * len(values) - 1e-9
    assert sum(each < found for each in values) < share * len(values) + 1e-9


def test_a_ratio_is_taken_within_each_turn():
    """And then its median: that of the seconds, one by the other, would be 0.4 here."""
    series = Series()
    for fetched, pulled in ((1.0, 2.0), (4.0, 5.0), (2.0, 8.0)):
        series.add("mysqlbinlog --raw", fetched)
        series.add("ingest 1 node", pulled)
    row = rows(summarize("small", series, LOAD, turns=3))["ingest 1 node"]
    assert row["reference"] == "mysqlbinlog --raw"
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (0.5, 0.25, 0.8)
    assert (row["target"], row["met"]) == (0.6, False)


@pytest.mark.parametrize(
    ("how", "reads", "expected"),
    [(How.SPEED, 1, [0.5]), (How.SPEED, 10, [5.0]), (How.FACTOR, 1, [2.0]), (How.ADDED, 1, [4.0])],
)
def test_each_kind_of_judgement_sees_a_value_against_its_reference_in_its_own_way(
    how, reads, expected
):
    """Twice as slow, ten times as much, twice as long, and four more."""
    row = Row(name="it", how=how, reference="other", reads=reads)
    assert against(row, [8.0], [4.0]) == expected


def test_values_without_a_partner_have_no_ratio():
    """Pairs of different turns would compare different minutes of the machine."""
    row = Row(name="it", how=How.SPEED, reference="other")
    with pytest.raises(ValueError, match="it: 2 values, 1 of other"):
        against(row, [1.0, 2.0], [1.0])


def test_speed_must_reach_its_target_and_all_else_must_not_pass_it():
    """At the target itself both are met."""
    speed = Row(name="it", how=How.SPEED, target=0.6)
    limit = Row(name="it", how=How.LIMIT, target=2.0)
    assert [is_met(speed, each) for each in (0.59, 0.6, 0.61)] == [False, True, True]
    assert [is_met(limit, each) for each in (1.9, 2.0, 2.1)] == [True, True, False]


def test_a_report_keeps_the_meaning_of_its_older_keys():
    """Rates come from the median, memory is the highest of all turns, CPU is told for each MB."""
    result = summarize("small", throughput(), LOAD, turns=3)
    assert result["workload"] == "small"
    assert (result["transactions"], result["events"]) == (100, 500)
    assert (result["binlog_bytes"], result["bytes_per_transaction"]) == (40_000_000, 400_000.0)
    row = rows(result)["ingest 1 node"]
    assert (row["seconds"], row["mb_per_second"], row["events_per_second"]) == (2.5, 16.0, 200)
    assert (row["peak_anonymous_mb"], row["peak_file_mb"], row["page_cache_mb"]) == (50, 3, 50)
    assert (row["cpu_seconds"], row["cpu_ms_per_mb"]) == (1.25, 31.25)
    assert (row["low"], row["value"], row["high"]) == (2.0, 2.5, 5.0)
    assert row["values"] == [2.0, 5.0, 2.5]


def test_many_readers_are_told_as_their_sum_against_one():
    """Ten at once in ten times the time are as fast as one."""
    series = Series()
    series.add("dump", 1.0)
    series.add("dump to 10 readers", 8.0, Usage(cpu_seconds=4.0))
    row = rows(summarize("rows", series, LOAD, turns=1))["dump to 10 readers"]
    assert row["ratio"] == 1.25
    assert row["mb_per_second"] == 50.0
    assert row["cpu_ms_per_mb"] == 10.0


def test_a_floor_is_a_bare_rate_beside_the_ratio():
    """Three nodes must take half a million small events a second, whatever mysqlbinlog does."""
    series = Series()
    series.add("mysqlbinlog --raw", 1.0)
    series.add("ingest 3 nodes", 1.0)
    load = Load(transactions=1, events=499_999, binlog_bytes=1)
    row = rows(summarize("small", series, load, turns=1))["ingest 3 nodes"]
    assert row["met"]
    assert [floor["met"] for floor in row["floors"]] == [False]


def test_latency_is_what_is_added_to_the_source_itself():
    """In the row's unit, turn by turn."""
    series = Series()
    for at_source, at_follower in ((1.0, 3.5), (2.0, 6.0), (1.0, 3.0)):
        series.add("latency p50 at the source", at_source)
        series.add("latency p50 at a follower", at_follower)
    row = rows(summarize("latency", series, Load(), turns=3))["latency p50 at a follower"]
    assert (row["added"], row["added_low"], row["added_high"]) == (2.5, 2.0, 4.0)
    assert (row["unit"], row["met"]) == ("ms", True)
    assert "mb_per_second" not in row


def test_the_median_and_the_longest_of_the_same_kills_are_judged_apart():
    """One bad election misses the second target only."""
    series = Series()
    for seconds in (1.2, 1.4, 3.0):
        series.add(catalogue.FAILOVER_SERIES, seconds)
    median, longest = summarize("failover", series, Load(), turns=1)["measurements"]
    assert (median["value"], median["target"], median["met"]) == (1.4, 1.8, True)
    assert (longest["value"], longest["target"], longest["met"]) == (3.0, 2.7, False)
    assert median["values"] == [1.2, 1.4, 3.0]


def test_the_memory_of_a_run_is_the_highest_of_all_its_measurements():
    """Those of which no memory was taken do not count."""
    series = throughput()
    series.add("dump", 1.0, Usage(anonymous_bytes=260_000_000))
    memory = peaks([series, Series()])
    (row,) = summarize("memory", memory, Load(), turns=3)["measurements"]
    assert (row["value"], row["unit"], row["met"]) == (260.0, "MB", False)
    assert len(row["values"]) == 2


def test_what_was_not_measured_is_not_told():
    """A part that was cut short has fewer rows, not rows of zeros."""
    assert summarize("idle", Series(), Load(), turns=3)["measurements"] == []


def test_delays_are_of_the_transactions_that_came():
    """Matched by their numbers, whatever the order."""
    assert delays({1: 10.0, 2: 11.0, 3: 12.0}, {3: 12.5, 1: 10.25, 9: 99.0}) == [0.25, 0.5]


def test_a_silence_ends_with_what_was_sent_after_the_death():
    """What was on its way already proves nothing about the new leader."""
    sent = {1: 9.0, 2: 10.05, 3: 10.5, 4: 10.6}
    early = {1: 10.2, 2: 10.3}
    assert silence(sent, early, killed=10.0, dead=10.1) is None
    assert silence(sent, early | {4: 12.5, 3: 12.0}, killed=10.0, dead=10.1) == 2.0


def test_the_number_of_a_gtid_is_that_of_its_last_transaction():
    """One GTID, or a set of one interval."""
    uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
    assert number_of(f"{uuid}:23") == 23
    assert number_of(f"{uuid}:1-4711") == 4711


def test_every_reference_and_floor_names_a_row_of_its_part():
    """A name that is mistyped would silently drop a target from the report."""
    for part in [*catalogue.PARTS, catalogue.WHOLE_RUN]:
        names = [row.name for row in catalogue.rows_of(part)]
        assert len(set(names)) == len(names)
        for row in catalogue.rows_of(part):
            assert row.reference == "" or row.reference in names
            assert (row.how in {How.SPEED, How.ADDED, How.FACTOR}) == bool(row.reference)
    for floor in catalogue.FLOORS:
        assert catalogue.row_named(floor.part, floor.row) is not None
        assert floor.quantity in {"events_per_second", "mb_per_second"}
