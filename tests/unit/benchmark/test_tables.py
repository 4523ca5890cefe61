"""The benchmark's report as text, and two of them side by side."""

from scripts.benchmark.comparison import compare
from scripts.benchmark.figures import Load, Series, Usage, summarize
from scripts.benchmark.tables import aligned, comparison_lines, number, report_lines

LOAD = Load(transactions=100, events=500, binlog_bytes=40_000_000)


def results(*seconds: float, fetched: float = 1.0) -> list[dict]:
    series = Series()
    for each in seconds:
        series.add("mysqlbinlog --raw", fetched)
        series.add("ingest 1 node", each, Usage(anonymous_bytes=75_000_000))
    return [summarize("small", series, LOAD, turns=len(seconds))]


def kills(*seconds: float) -> list[dict]:
    series = Series()
    for each in seconds:
        series.add("silence after a kill", each)
    return [summarize("failover", series, Load(), turns=1)]


OLDER = [
    {
        "workload": "small",
        "transactions": 100,
        "bytes_per_transaction": 410.0,
        "measurements": [
            {
                "measurement": "ingest 1 node",
                "seconds": 4.0,
                "mb_per_second": 10.0,
                "events_per_second": 125,
                "reference": "mysqlbinlog --raw",
                "ratio": 0.25,
                "target": 0.6,
                "peak_anonymous_mb": 60.0,
            }
        ],
    }
]
"""A report as it was before there were units, spreads and verdicts."""


def test_numbers_have_three_digits_that_count():
    """And all of those before the point."""
    assert [number(each) for each in (0.123, 1.234, 12.34, 123.4, 12345.6, None)] == [
        *("0.12", "1.23", "12.3", "123", "12346", ""),
    ]


def test_columns_are_as_wide_as_what_stands_in_them():
    """Names to the left, figures to the right; titles stand across."""
    lines = aligned([("", "a", "long"), ("a title that is wide",), ("name", "100", "1")])
    assert lines == ["        a  long", "a title that is wide", "name  100     1"]


def test_the_table_says_what_was_met_and_what_was_missed():
    """With the figures of each row, and the bare rate that is asked for besides."""
    text = "\n".join(report_lines(results(2.0, 2.0, 2.5)))
    (line,) = [each for each in text.splitlines() if each.startswith("  ingest 1 node (s)")]
    figures = "2.00 2.00 2.50 20.0 250 0.50 ≥ 0.60 MISSED 75.0 0.00 0.00"
    assert line.split()[4:] == figures.split()
    assert "ingest 1 node: 250 events/s, at least 928000 wanted on two cores: MISSED" in text
    assert "small: 100 transactions, 400000 bytes each" in text


def test_an_older_report_can_still_be_shown_and_compared():
    """It has medians only: nothing is said about differences, the factor is."""
    assert any("4.00" in line and "≥ 0.60" in line for line in report_lines(OLDER))
    (row,) = compare(results(2.0, 2.0, 2.0), OLDER, by_turn=False)
    assert (row["this"], row["other"], row["factor"]) == (2.0, 4.0, 2.0)
    assert row["verdict"] == "too few turns"


def test_commits_are_compared_within_each_turn():
    """A turn in which both were slow does not hide that one was always faster."""
    (row,) = compare(results(2.0, 8.0, 2.0), results(3.0, 10.0, 4.0), by_turn=True)
    assert (row["factor"], row["factor_low"], row["factor_high"]) == (1.5, 1.25, 2.0)
    assert row["verdict"] == "better"
    (row,) = compare(results(3.0, 10.0, 4.0), results(2.0, 8.0, 2.0), by_turn=True)
    assert row["verdict"] == "worse"


def test_a_difference_that_one_turn_denies_is_none():
    """And two turns say nothing at all."""
    (row,) = compare(results(2.0, 2.0, 2.0), results(3.0, 3.0, 1.9), by_turn=True)
    assert row["verdict"] == "no difference seen"
    (row,) = compare(results(2.0, 2.0), results(3.0, 3.0), by_turn=True)
    assert row["verdict"] == "too few turns"


def test_values_that_were_not_taken_side_by_side_must_not_overlap_to_differ():
    """Kills, and runs on different days; the factor is that of the medians."""
    rows = compare(kills(1.0, 1.5, 2.0), kills(1.9, 2.5, 3.0), by_turn=True)
    assert [row["verdict"] for row in rows] == ["no difference seen"] * 2
    assert rows[0]["factor"] == 1.667
    assert "factor_low" not in rows[0]
    rows = compare(kills(1.0, 1.5, 2.0), kills(2.1, 2.5, 3.0), by_turn=True)
    assert [row["verdict"] for row in rows] == ["better"] * 2


def test_references_are_not_compared():
    """They are the same programs on both sides."""
    rows = compare(results(2.0, 2.0, 2.0), results(2.0, 2.0, 2.0, fetched=9.0), by_turn=True)
    assert [row["measurement"] for row in rows] == ["ingest 1 node"]


def test_the_comparison_names_both_and_each_part():
    """One line for each row, with the verdict at its end."""
    rows = compare(results(2.0, 2.0, 2.0), results(3.0, 3.0, 3.0), by_turn=True)
    lines = comparison_lines(rows, "abc", "def")
    assert lines[0].startswith("this: abc; other: def;")
    assert lines[2] == "small"
    assert " ".join(lines[3].split()) == "ingest 1 node 2.00 3.00 s 1.50 1.50 1.50 better"
