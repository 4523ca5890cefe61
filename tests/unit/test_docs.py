"""What exists is documented: every configuration key, route, command and metric."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from kingbus import config, metrics
from kingbus.admin.app import create_app
from kingbus.cli.main import app
from kingbus.replication import administration
from kingbus.replication.users import RIGHTS_OF_PRIVILEGE
from scripts.benchmark.catalogue import PARTS, WHOLE_RUN, rows_of
from tests.unit.admin.fakes import Pair

ROOT = Path(__file__).resolve().parents[2]
OPERATING = ROOT / "docs" / "operating"


def text(name: str) -> str:
    return (OPERATING / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("key", sorted(config.keys()))
def test_every_configuration_key_is_explained(key: str) -> None:
    """In the reference, and (by its last word) in the commented example."""
    assert f"`{key}`" in text("configuration.md")
    assert f"{key.rpartition('.')[2]}:" in (ROOT / "conf/kingbus.yaml").read_text(encoding="utf-8")


def test_what_sql_is_taken_is_explained() -> None:
    """Every privilege and its right, every option that does something, by name."""
    page = text("sql.md")
    for privilege, rights in RIGHTS_OF_PRIVILEGE.items():
        row = next(line for line in page.splitlines() if f"`{privilege}`" in line)
        right = row.split("|")[1].strip() if row.startswith("|") else ""
        assert rights == ({right} if right in RIGHTS_OF_PRIVILEGE["ALL"] else rights), privilege
    for option in sorted(administration.TAKEN_OPTIONS):
        assert f"`{option}" in page, option


def test_the_examples_have_no_problems() -> None:
    """All files in conf/ pass the checks, and nothing in them is unknown."""
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        config.load(file)


def test_the_quickstart_of_several_machines_can_be_followed() -> None:
    """Its file has no problems, its admin API listens where `join --via` and the commands ask."""
    page = text("quickstart.md")
    (file,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    node = config.parse_text(file)
    (via,) = re.findall(r"--via (\S+)", page)
    (admin,) = re.findall(r"KINGBUS_ADMIN=(\S+)", page)

    assert via == admin == str(node.admin_url)
    assert node.admin_listen == node.admin_url.address
    assert not node.admin_listen.is_loopback
    assert list(node.warnings()) == []


def test_every_route_is_explained() -> None:
    """Method and path as the API itself describes them."""
    guard = create_app(Pair().n1.operations, version="1")
    paths = guard._app.openapi()["paths"]  # type: ignore[attr-defined]
    documented = text("admin-api.md")
    routes = [f"{method.upper()} {path}" for path, found in paths.items() for method in found]

    assert len(routes) >= 20
    assert [route for route in routes if f"`{route}`" not in documented] == []


def commands(group: object, prefix: str) -> Iterator[tuple[str, str]]:
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command.help or ""


def test_every_command_is_explained() -> None:
    """In the reference, and by a help text of its own."""
    documented = text("cli.md")
    found = dict(commands(typer.main.get_command(app), "kingbus"))

    assert len(found) >= 20
    assert [name for name in found if f"`{name}" not in documented] == []
    assert [name for name, explanation in found.items() if not explanation] == []


def test_every_metric_is_explained() -> None:
    """By its exported name."""
    documented = text("monitoring.md")

    assert [name for name in metrics.names() if f"`{name}`" not in documented] == []


def test_every_row_of_the_benchmark_is_explained() -> None:
    """By its name, as the report prints it."""
    documented = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    names = [row.name for part in (*PARTS, WHOLE_RUN) for row in rows_of(part)]

    assert len(names) >= 20
    assert [name for name in names if f"`{name}`" not in documented] == []
    assert [part for part in PARTS if f"| `{part}` |" not in documented] == []


def test_pages_link_to_what_is_there() -> None:
    """Relative links in the documentation lead to files."""
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)
