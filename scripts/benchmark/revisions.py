"""Which kingbus is measured: this tree, or a commit put into a directory of its own.

The harness is always this tree's. The other commit's nodes are started from its worktree, by the
environment of this tree if it names the same dependencies, otherwise by one made for it.
"""

import contextlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.installations import REPOSITORY
from tests.support.processes import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One kingbus under measurement."""

    name: str
    """How the report calls it: its commit, and whether the tree had changes."""
    program: Program
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Configuration keys, sections as dictionaries, for all its nodes."""

    def configured(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a part configures its nodes with, and this product's own keys over it."""
        return {**settings, **self.settings}


class RevisionError(Exception):
    """The commit to compare with cannot be had, in one sentence."""


def this_tree(given: Sequence[str] = ()) -> Product:
    """What lies here, uncommitted changes included, with settings as `parse_settings` has them."""
    name = " ".join([_described(), *given])
    return Product(name=name, program=Program(), settings=parse_settings(given))


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """`section.key=value` of the configuration as nested dictionaries; ValueError for other text.

    A value is JSON, or a string if it is not.
    """
    settings: dict[str, Any] = {}
    for text in given:
        path, equals, written = text.partition("=")
        *sections, key = path.split(".")
        if not equals or not all([*sections, key]):
            raise ValueError(f"{text!r} is not KEY=VALUE")
        inner = settings
        for section in sections:
            known = inner.setdefault(section, {})
            if not isinstance(known, dict):
                # Wrong text, not a wrong type: whoever calls has one kind of mistake to tell.
                raise ValueError(f"{text!r}: {section} has a value already")  # noqa: TRY004
            inner = known
        try:
            inner[key] = json.loads(written)
        except ValueError:
            inner[key] = written
    return settings


def _described() -> str:
    try:
        return _git(REPOSITORY, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except RevisionError:
        return "this tree"


@contextlib.contextmanager
def commit(revision: str, directory: Path, *, repository: Path = REPOSITORY) -> Iterator[Product]:
    """A commit in a worktree `directory`, which must not be there yet; gone at the end."""
    name = _git(repository, "rev-parse", "--short=12", "--verify", f"{revision}^{{commit}}")
    _git(repository, "worktree", "add", "--quiet", "--detach", str(directory), name)
    try:
        program = Program(tree=directory, python=_python_for(directory, repository))
        _require_own_package(program)
        yield Product(name=name, program=program)
    finally:
        _git(repository, "worktree", "remove", "--force", str(directory))


def _python_for(tree: Path, repository: Path) -> str:
    here = (repository / "pyproject.toml").read_text()
    if same_dependencies(here, (tree / "pyproject.toml").read_text()):
        return sys.executable
    if subprocess.run([tree / "scripts/install"], check=False).returncode != 0:
        raise RevisionError(f"scripts/install of {tree} failed")
    return str(tree / ".venv/bin/python")


def same_dependencies(one: str, other: str) -> bool:
    """Whether two pyproject.toml ask for the same packages at run time, in whatever order."""
    first, second = (
        sorted(tomllib.loads(text)["project"].get("dependencies", [])) for text in (one, other)
    )
    return first == second


def _require_own_package(program: Program) -> None:
    """Nothing is as misleading as a comparison of a commit with itself."""
    answer = subprocess.run(
        [program.python, "-c", "import kingbus; print(kingbus.__file__)"],
        cwd=program.tree,
        env=program.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = answer.stdout.strip()
    if not found or not Path(found).resolve().is_relative_to(program.tree.resolve()):
        told = found or answer.stderr.strip().rpartition("\n")[2]
        raise RevisionError(f"the nodes of {program.tree} would not run its package, but: {told}")


def _git(repository: Path, *words: str) -> str:
    try:
        answer = subprocess.run(
            ["git", "-C", str(repository), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise RevisionError("git is not installed") from None
    if answer.returncode != 0:
        raise RevisionError(f"git {' '.join(words)}: {answer.stderr.strip()}")
    return answer.stdout.strip()
