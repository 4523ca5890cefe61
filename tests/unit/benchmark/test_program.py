"""The benchmark's program, as far as it starts nothing."""

import json

import pytest

from scripts.benchmark import program
from scripts.benchmark.catalogue import PARTS, WHOLE_RUN
from scripts.benchmark.figures import Load, Series, Usage
from scripts.benchmark.runs import Measured

LOAD = Load(transactions=10, events=50, binlog_bytes=1_000_000)


def measured(seconds):
    series = Series()
    for each in seconds:
        series.add("mysqlbinlog --raw", 1.0)
        series.add("ingest 1 node", each, Usage(anonymous_bytes=90_000_000))
    return Measured(part="small", series={"it": series}, load=LOAD)


def report(*seconds):
    results = program.summaries("it", [measured(seconds)], len(seconds))
    return {"revision": "it", "turns": len(seconds), "results": results}


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_a_report_ends_with_the_memory_of_the_whole_run():
    """As a part of its own, judged like the others."""
    small, memory = report(2.0, 3.0)["results"]
    assert small["workload"] == "small"
    assert memory["workload"] == WHOLE_RUN
    assert memory["measurements"][0]["value"] == 90.0


def test_a_written_report_can_be_shown(tmp_path, capsys):
    """The table, and exit status 0."""
    assert program.main(["--read", write(tmp_path / "one", report(2.0, 2.0, 2.0))]) == 0
    shown = capsys.readouterr().out
    assert "  ingest 1 node (s)" in shown
    assert "anonymous memory of a node (MB)" in shown


def test_two_written_reports_are_compared(tmp_path, capsys):
    """They were not taken side by side: their values must not overlap to differ."""
    fast = write(tmp_path / "fast", report(2.0, 2.1, 2.2))
    slow = write(tmp_path / "slow", report(3.0, 3.1, 3.2))
    assert program.main(["--read", fast, slow]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if "ingest 1 node" in row]
    assert line.endswith("better")


@pytest.mark.parametrize("content", [None, "no JSON"])
def test_a_file_that_is_no_report_is_told(content, tmp_path, capsys):
    """Missing or something else: one line, no traceback."""
    file = tmp_path / "it"
    if content is not None:
        file.write_text(content)
    assert program.main(["--read", str(file)]) == 1
    assert capsys.readouterr().err.startswith("bench: not a report: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--turns", "0"], "must be above 0"),
        (["--scale", "-1"], "must be above 0"),
        (["--read", "a", "b", "c"], "one report or two"),
        (["--setting", "workers"], "'workers' is not KEY=VALUE"),
        (["--only", "everything"], "invalid choice"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_started(words, told, capsys):
    """With what is wrong."""
    with pytest.raises(SystemExit) as ended:
        program.arguments(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_parts_are_run_once_in_the_order_given():
    """And all of them where none is named."""
    given = program.arguments(["--only", "idle", "--only", "small", "--only", "idle"])
    assert given.only == ["idle", "small"]
    assert program.arguments([]).only is None
    assert list(PARTS)[:2] == ["small", "rows"]
