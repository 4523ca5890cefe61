"""Exported files are the source's, whatever was in the directory before."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kingbus.binlog.gtid import GtidSet
from kingbus.cli.exporting import Exported, ExportError, HeldFile, chosen, export

UUID = "aaaaaaaa-0000-0000-0000-000000000001"


class CutError(Exception):
    """The line to the node is gone."""


class MemoryFiles:
    """Three files of a source; reading may be cut off after so many bytes."""

    def __init__(self) -> None:
        self.content = {
            f"binlog.{number:06}": b"\xfebin" + bytes((number,)) * 300_000 for number in (1, 2, 3)
        }
        self.open = "binlog.000003"
        self.bytes_left = 1 << 30
        self.read_bytes = 0

    def files(self) -> list[HeldFile]:
        return [
            HeldFile(
                name=name,
                size=len(data),
                closed=name != self.open,
                complete=True,
                previous=GtidSet.parse(f"{UUID}:1-{10 * at}" if at else ""),
            )
            for at, (name, data) in enumerate(self.content.items())
        ]

    def executed(self) -> GtidSet:
        return GtidSet.parse(f"{UUID}:1-{10 * len(self.content)}")

    def read(self, name: str, offset: int, size_max: int) -> bytes:
        size = min(size_max, 50_000)
        self.read_bytes += size
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise CutError
        return self.content[name][offset : offset + size]


class PatientFiles(MemoryFiles):
    """The same, and each read gives all that was asked for."""

    def read(self, name: str, offset: int, size_max: int) -> bytes:
        self.bytes_left -= size_max
        if self.bytes_left < 0:
            raise CutError
        self.read_bytes += size_max
        return self.content[name][offset : offset + size_max]


def run(source: MemoryFiles, directory: Path) -> list[Exported]:
    return list(export(source, source.files(), directory))


def assert_same(source: MemoryFiles, directory: Path) -> None:
    for name, data in source.content.items():
        assert (directory / name).read_bytes() == data
    assert not list(directory.glob("*.partial"))


def test_all_files_are_written_and_the_open_one_is_marked(tmp_path: Path) -> None:
    """The same bytes; only beside the file that still grows lies a mark."""
    source = MemoryFiles()
    done = run(source, tmp_path / "new")
    assert [each.outcome for each in done] == ["written"] * 3
    assert [each.open for each in done] == [False, False, True]
    assert_same(source, tmp_path / "new")
    mark = json.loads((tmp_path / "new/binlog.000003.open").read_text())
    assert mark == {"exported_bytes": 300_004}
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_what_is_there_is_not_read_again(tmp_path: Path) -> None:
    """A second export compares beginnings and ends only."""
    source = PatientFiles()
    run(source, tmp_path)
    before = source.read_bytes
    assert [each.outcome for each in run(source, tmp_path)] == ["unchanged"] * 3
    assert source.read_bytes - before < 3 * 70_000
    assert_same(source, tmp_path)


@pytest.mark.parametrize("cut_after", [10, 60_000, 160_000, 400_000, 899_000])
def test_a_cut_export_goes_on_where_it_ended(tmp_path: Path, cut_after: int) -> None:
    """Nothing that is cut off has the file's name, and the rest is added to what is there."""
    source = MemoryFiles()
    source.bytes_left = cut_after
    with pytest.raises(CutError):
        run(source, tmp_path)
    for path in tmp_path.iterdir():
        if path.suffix != ".partial":
            assert path.read_bytes() == source.content[path.name]
    source.bytes_left = 1 << 30
    run(source, tmp_path)
    assert_same(source, tmp_path)


def test_a_cut_file_with_another_end_is_begun_anew(tmp_path: Path) -> None:
    """What a crash left unwritten, in the last bytes, is found."""
    source = PatientFiles()
    damaged = bytearray(source.content["binlog.000001"][:200_000])
    damaged[-30_000] ^= 1
    (tmp_path / "binlog.000001.partial").write_bytes(damaged)
    assert run(source, tmp_path)[0].outcome == "written"
    assert_same(source, tmp_path)


def test_a_good_cut_file_is_continued(tmp_path: Path) -> None:
    """What was written is kept."""
    source = PatientFiles()
    content = source.content["binlog.000001"]
    (tmp_path / "binlog.000001.partial").write_bytes(content[:200_000])
    told: list[int] = []
    list(export(source, source.files()[:1], tmp_path, progress=lambda _, size: told.append(size)))
    assert told == [200_000, len(content) - 200_000]


def test_the_open_file_grows_with_the_next_export(tmp_path: Path) -> None:
    """First up to what was visible; when it is closed the mark goes."""
    source = PatientFiles()
    run(source, tmp_path)
    source.content[source.open] += b"more" * 1000
    assert run(source, tmp_path)[2].outcome == "continued"
    assert_same(source, tmp_path)
    assert (tmp_path / "binlog.000003.open").exists()
    source.open = ""
    run(source, tmp_path)
    assert not (tmp_path / "binlog.000003.open").exists()


@pytest.mark.parametrize("at", [10, 299_990])
def test_another_file_of_that_name_is_never_replaced(tmp_path: Path, at: int) -> None:
    """A difference at the beginning or the end is said, and nothing is touched."""
    source = PatientFiles()
    other = bytearray(source.content["binlog.000002"])
    other[at] ^= 1
    (tmp_path / "binlog.000002").write_bytes(other)
    with pytest.raises(ExportError, match="another file"):
        run(source, tmp_path)
    assert (tmp_path / "binlog.000002").read_bytes() == bytes(other)


def test_a_longer_file_of_that_name_is_never_cut(tmp_path: Path) -> None:
    """It was exported from a node that was further."""
    source = PatientFiles()
    longer = source.content["binlog.000003"] + b"x"
    (tmp_path / "binlog.000003").write_bytes(longer)
    with pytest.raises(ExportError, match="longer"):
        run(source, tmp_path)
    assert (tmp_path / "binlog.000003").read_bytes() == longer


@pytest.mark.parametrize("name", ["../binlog.000001", "/tmp/x", "..", ""])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Names come from a server."""
    source = MemoryFiles()
    file = replace(source.files()[0], name=name)
    with pytest.raises(ExportError, match="no name for a file"):
        list(export(source, [file], tmp_path / "here"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, [1, 2, 3]),
        ({"first": "binlog.000002"}, [2, 3]),
        ({"last": "binlog.000002"}, [1, 2]),
        ({"first": "binlog.000002", "last": "binlog.000002"}, [2]),
        ({"gtids": GtidSet.parse(f"{UUID}:10-11")}, [1, 2]),
        ({"gtids": GtidSet.parse(f"{UUID}:30")}, [3]),
        ({"gtids": GtidSet.parse(f"{UUID}:31")}, []),
        ({"first": "binlog.000003", "gtids": GtidSet.parse(f"{UUID}:10-11")}, []),
    ],
)
def test_which_files_are_meant(options: dict[str, object], numbers: list[int]) -> None:
    """By name, by transactions, or both."""
    found = chosen(MemoryFiles(), **options)  # type: ignore[arg-type]
    assert [file.name for file in found] == [f"binlog.{number:06}" for number in numbers]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"first": "binlog.000009"}, "binlog.000009 is not held"),
        ({"last": "binlog.000009"}, "binlog.000009 is not held"),
        ({"first": "binlog.000003", "last": "binlog.000001"}, "comes after"),
    ],
)
def test_a_range_that_is_none_is_refused(options: dict[str, str], text: str) -> None:
    """By the name that is wrong."""
    with pytest.raises(ExportError, match=text):
        chosen(MemoryFiles(), **options)  # type: ignore[arg-type]


def test_a_log_without_files_has_nothing_to_export(tmp_path: Path) -> None:
    """No file is no error."""
    source = MemoryFiles()
    source.content = {}
    assert chosen(source) == []
    assert chosen(source, gtids=GtidSet.parse(f"{UUID}:1")) == []
    assert run(source, tmp_path) == []
