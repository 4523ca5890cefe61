"""The reader of the data files itself."""

from pathlib import Path

import pytest

from tests.interaction.datadriven import (
    Directive,
    DirectiveError,
    parse,
    parse_arguments,
    run_file,
)

FILE = """\
# a comment

first 1 a=b c=(1, 2,(3,4)) d= \\
  e
input one
 input two
----
out

second
----
----
with

blank lines
----
----

third
----
"""


def test_directives_of_a_file() -> None:
    """Commands, arguments, input and both forms of expected output."""
    (first, second, third), rest = parse(FILE)
    assert (first.command, first.line, first.input) == ("first", 3, "input one\n input two")
    assert [(argument.key, argument.values) for argument in first.arguments] == [
        ("1", []),
        ("a", ["b"]),
        ("c", ["1", "2", "(3,4)"]),
        ("d", [""]),
        ("e", []),
    ]
    assert first.expected == "out\n"
    assert second.expected == "with\n\nblank lines\n"
    assert (third.expected, rest) == ("", "")


def test_lists() -> None:
    """An empty list has no values."""
    _, (empty, one) = parse_arguments("x a=() b=(1)")
    assert (empty.values, one.values) == ([], ["1"])


@pytest.mark.parametrize("text", ["x a=(1\n----\n", "x\n", "x\n----\n----\nout\n"])
def test_broken_files_are_refused(text: str) -> None:
    """With one error."""
    with pytest.raises(DirectiveError):
        parse(text)


def test_a_difference_is_shown(tmp_path: Path) -> None:
    """With file, line and a diff."""
    path = tmp_path / "file.txt"
    path.write_text(FILE)
    with pytest.raises(AssertionError, match=r"file.txt:3: first\n(.|\n)*-out\n\+other"):
        run_file(path, lambda _: "other")


def test_rewriting_makes_a_file_pass(tmp_path: Path) -> None:
    """And changes nothing but outputs; a file that passes stays as it is."""

    def handler(directive: Directive) -> str:
        return {"first": "new", "second": "a\n\nb\n", "third": ""}[directive.command]

    path = tmp_path / "file.txt"
    path.write_text(FILE)
    assert run_file(path, handler, rewrite=True) == 3
    assert run_file(path, handler) == 3
    text = path.read_text()
    assert text.startswith(FILE[: FILE.index("out\n")])
    run_file(path, handler, rewrite=True)
    assert path.read_text() == text
