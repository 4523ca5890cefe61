"""Kinds of places in a member's directory, and what can happen to the bytes there."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kingbus.storage.files import LocalFileSystem
from kingbus.storage.record import HEADER_BYTES, RecordKind
from kingbus.storage.replay import Replay
from kingbus.storage.segment import SEGMENT_HEADER_BYTES, read_footer, read_header, sequence_of

SECTOR = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that happens to one file; `kind` groups it in the table."""

    kind: str
    file: str
    how: str
    act: Callable[[Path], None]

    def inflict(self, directory: Path) -> None:
        self.act(directory / self.file)


def _flip(at: int, bit: int) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << bit
        path.write_bytes(data)

    return act


def _overwrite(at: int, new: bytes) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        data = bytearray(path.read_bytes())
        end = min(len(data), at + len(new))
        data[at:end] = new[: end - at]
        path.write_bytes(data)

    return act


def _truncate(size: int) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(size)

    return act


def _remove(path: Path) -> None:
    path.unlink()


def segment_places(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Stretches (begin, end) of a segment, by the kind of what lies there."""
    places: dict[str, list[tuple[int, int]]] = {"segment header": [(0, SEGMENT_HEADER_BYTES)]}
    files = LocalFileSystem()
    fd = files.open(path)
    try:
        data = path.read_bytes()
        replay = Replay(files, fd, path, read_header(files, fd, path)).run()
        footer = read_footer(files, fd)
    finally:
        files.close(fd)
    at = SEGMENT_HEADER_BYTES
    while at < replay.end:
        length = int.from_bytes(data[at + 12 : at + 16], "little")
        name = RecordKind(data[at + 16]).name.lower()
        places.setdefault(f"{name} header", []).append((at, at + HEADER_BYTES))
        if length:
            end = at + HEADER_BYTES + length
            places.setdefault(f"{name} body", []).append((at + HEADER_BYTES, end))
        at += HEADER_BYTES + length
    if footer is not None:
        places["index"] = [(replay.end, len(data))]
    elif len(data) > replay.end:
        places["room behind the end"] = [(replay.end, len(data))]
    return places


def damages(directory: Path, *, seed: int, each: int, below: str = "") -> Iterator[Damage]:
    """`each` of every kind of damage at every kind of place, drawn from the seed."""
    rng = random.Random(seed)
    for path in sorted((directory / below).rglob("*")):
        if not path.is_file() or path.name in {"LOCK", "LOG", "next.segment", "ballast"}:
            continue
        name = str(path.relative_to(directory))
        size = path.stat().st_size
        if sequence_of(path.name) is not None:
            yield from _of_segment(path, name, rng, each)
            kind = "segment"
        elif path.parent.name == "state":
            kind = (
                f"database {path.suffix or path.name.partition('-')[0]}{' (killed)' * bool(below)}"
            )
        else:
            kind = path.name
        for _ in range(each if size else 0):
            at = rng.randrange(size)
            yield Damage(kind=kind, file=name, how=f"flip {at}", act=_flip(at, rng.randrange(8)))
            start = at - at % SECTOR
            yield Damage(
                kind=kind, file=name, how=f"zeros {start}", act=_overwrite(start, bytes(SECTOR))
            )
            noise = rng.randbytes(100)
            yield Damage(kind=kind, file=name, how=f"noise {at}", act=_overwrite(at, noise))
            yield Damage(kind=kind, file=name, how=f"truncate {at}", act=_truncate(at))
        yield Damage(kind=kind, file=name, how="truncate 0", act=_truncate(0))
        yield Damage(kind=kind, file=name, how="remove", act=_remove)


def _of_segment(path: Path, name: str, rng: random.Random, each: int) -> Iterator[Damage]:
    for place, stretches in segment_places(path).items():
        for _ in range(each):
            start, end = rng.choice(stretches)
            at = rng.randrange(start, end)
            yield Damage(
                kind=f"segment: {place}",
                file=name,
                how=f"flip {at}",
                act=_flip(at, rng.randrange(8)),
            )


def copy(source: Path, target: Path) -> Path:
    """A member's directory at another place; the lock is nobody's."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("LOCK"))
    return target
