"""The packages of the client programs are those that were tried: no range, no `latest`."""

import json
import re
from xml.etree import ElementTree as ET

import pytest

from tests.clients import toolchains
from tests.clients.readers import READERS, try_reader

_EXACT = re.compile(r"v?\d+(\.\w+)+$")


def test_packages_of_every_language_are_pinned() -> None:
    """By the exact version, and for Go and npm by the digest of what is fetched."""
    node = toolchains.HERE / "node"
    wanted = json.loads((node / "package.json").read_text())["dependencies"]
    locked = json.loads((node / "package-lock.json").read_text())["packages"]
    for name, version in wanted.items():
        assert _EXACT.match(version), (name, version)
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in package for path, package in locked.items() if path)

    go = (toolchains.HERE / "go/go.mod").read_text()
    sums = (toolchains.HERE / "go/go.sum").read_text()
    modules = re.findall(r"^(?:require )?\s*(\S+\.\S+/\S+) (v\S+)", go, re.MULTILINE)
    assert len(modules) > 1
    for module, version in modules:
        assert f"{module} {version} h1:" in sums

    projects = sorted((toolchains.HERE / "java").glob("*/pom.xml"))
    assert len(projects) == 3
    for project in projects:
        versions = [each.text for each in ET.parse(project).iterfind(".//{*}dependency/{*}version")]
        assert versions
        assert all(_EXACT.match(version or "") for version in versions), (project, versions)


@pytest.mark.parametrize("name", ["go-mysql", "zongji", "connector-java", "debezium", "canal"])
def test_a_client_without_its_compiler_is_not_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says which program is missing, before any server is asked for anything."""
    monkeypatch.setenv("PATH", "")
    (reader,) = [each for each in READERS if each.name == name]
    row = try_reader(reader, None, lambda _: None)
    assert re.match(r"no (go|npm|node|java|javac|mvn) on PATH$", row.missing)
    assert row.cells == {}
    assert not row.is_good
