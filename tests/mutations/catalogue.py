"""The defects that the tests must notice: each is a change of the source, kept as data.

Every `*.toml` file here is one list:

    rest = [["tests/unit/raft", "tests/interaction"]]   # stages, tried in order

    [[defect]]
    name = "votes-twice"                  # unique over all files
    why = "two leaders in one term"       # what it would do to a cluster
    first = ["tests/unit/raft/test_elections.py"]       # tried before the rest
    file = "kingbus/raft/raft.py"
    find = '''...'''                      # exact text, to be found exactly once
    replace = '''...'''

A defect of several places has more of them as `[[defect.also]]`, each with file, find, replace.
`scripts/mutate` applies them one at a time. A text that is not there exactly once has drifted from
the source, and is an error: such a defect proves nothing any more.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).resolve().parent
ROOT = DIRECTORY.parents[1]

_KEYS = {"name", "why", "first", "file", "find", "replace", "also"}


class DriftError(Exception):
    """A defect does not fit the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One replacement in one file."""

    file: str
    find: str
    replace: str

    def applied(self, text: str) -> str:
        """The text with the replacement. DriftError."""
        count = text.count(self.find)
        if count != 1:
            raise DriftError(f"{self.file} has {count} times, not once:\n{self.find}")
        return text.replace(self.find, self.replace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """A change that breaks a promise, and the tests to try, stage by stage."""

    name: str
    why: str
    group: str
    edits: tuple[Edit, ...]
    stages: tuple[tuple[str, ...], ...]

    def apply(self, root: Path) -> dict[Path, str]:
        """Change the files of a tree; their texts as they were. DriftError, and nothing changed."""
        before: dict[Path, str] = {}
        after: dict[Path, str] = {}
        for edit in self.edits:
            path = root / edit.file
            if path not in before:
                if not path.is_file():
                    raise DriftError(f"{self.name}: there is no {edit.file}")
                before[path] = after[path] = path.read_text("utf-8")
            try:
                after[path] = edit.applied(after[path])
                compile(after[path], edit.file, "exec")
            except (DriftError, SyntaxError) as error:
                raise DriftError(f"{self.name}: {error}") from None
        for path, text in after.items():
            path.write_text(text, "utf-8")
        return before

    def check(self, root: Path) -> None:
        """Raise DriftError unless it can be applied and its tests are there. Changes nothing."""
        texts: dict[str, str] = {}
        for edit in self.edits:
            path = root / edit.file
            if not path.is_file():
                raise DriftError(f"{self.name}: there is no {edit.file}")
            if edit.find == edit.replace:
                raise DriftError(f"{self.name}: it changes nothing in {edit.file}")
            text = texts.get(edit.file) or path.read_text("utf-8")
            try:
                texts[edit.file] = edit.applied(text)
                compile(texts[edit.file], edit.file, "exec")
            except (DriftError, SyntaxError) as error:
                raise DriftError(f"{self.name}: {error}") from None
        for stage in self.stages:
            for selection in stage:
                if not (root / selection.partition("::")[0]).exists():
                    raise DriftError(f"{self.name}: there is no {selection}")


def load(paths: Iterable[Path] | None = None) -> list[Defect]:
    """Every defect, in the order of files and within them. DriftError for a malformed list."""
    found: list[Defect] = []
    for path in sorted(DIRECTORY.glob("*.toml")) if paths is None else paths:
        table = tomllib.loads(path.read_text("utf-8"))
        rest = tuple(tuple(stage) for stage in table["rest"])
        found += [_parse(entry, path.stem, rest) for entry in table["defect"]]
    names = [defect.name for defect in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DriftError(f"names that are used twice: {', '.join(twice)}")
    return found


def _parse(entry: dict[str, Any], group: str, rest: Sequence[tuple[str, ...]]) -> Defect:
    unknown = entry.keys() - _KEYS
    if unknown:
        raise DriftError(f"{group}: {entry.get('name')}: unknown keys {sorted(unknown)}")
    first = tuple(entry.get("first", ()))
    edits = [entry, *entry.get("also", ())]
    return Defect(
        name=entry["name"],
        why=entry["why"],
        group=group,
        edits=tuple(
            Edit(file=edit["file"], find=edit["find"], replace=edit["replace"]) for edit in edits
        ),
        stages=((first,) if first else ()) + tuple(rest),
    )
