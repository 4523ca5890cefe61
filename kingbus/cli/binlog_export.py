"""`kingbus binlog export`: files to disk, byte-identical to the source's."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kingbus.cli.common import (
    DEFAULT_ADMIN_URL,
    Admin,
    Channel,
    Json,
    KeyFile,
    TokenFile,
    UsageError,
    client,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from kingbus.binlog.gtid import GtidSet
    from kingbus.cli.exporting import FileSource, HeldFile

_COLUMNS = {"name": "FILE", "size": "SIZE", "outcome": "OUTCOME", "open": "OPEN"}


def export(
    to: Annotated[Path, typer.Option("--to", help="Directory to write to; made if missing.")],
    first: Annotated[str, typer.Option("--from", help="The first file; else the oldest.")] = "",
    last: Annotated[str, typer.Option("--until", help="The last file; else the newest.")] = "",
    gtid: Annotated[
        str, typer.Option("--gtid", help="Only files with a transaction of this set.")
    ] = "",
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Read a stopped node's directory; no node is asked."),
    ] = None,
    key_file: KeyFile = None,
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Write files byte for byte as the source has them; repeating goes on where it ended."""
    from kingbus.cli import exporting

    wanted = _gtid_set(gtid)
    if key_file is not None and data_dir is None:
        raise UsageError("--cluster-key-file is for --data-dir: a node that runs has its key")
    with _opened(admin, token_file, data_dir, key_file, channel) as source:
        files = exporting.chosen(source, first=first, last=last, gtids=wanted)
        with _progress(files) as progress:
            done = [asdict(each) for each in exporting.export(source, files, to, progress=progress)]
    show_json(done) if as_json else show_table(done, _COLUMNS)
    for file in files:
        if not file.complete:
            complain(f"kingbus: {file.name} is held only in part: what is there has gaps")


def _gtid_set(text: str) -> "GtidSet | None":
    from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError

    if not text:
        return None
    try:
        return GtidSet.parse(text)
    except MalformedGtidSetError as error:
        raise UsageError(f"--gtid: {error}") from error


@contextmanager
def _opened(
    admin: str,
    token_file: Path | None,
    data_dir: Path | None,
    key_file: Path | None,
    channel: str,
) -> Iterator["FileSource"]:
    from kingbus.cli.file_sources import DirectoryFiles, NodeFiles

    if data_dir is not None:
        with DirectoryFiles(data_dir, key_file, channel) as directory:
            yield directory
    else:
        with client(admin, token_file) as api:
            yield NodeFiles(api, channel)


def _progress(
    files: "Sequence[HeldFile]",
) -> AbstractContextManager[Callable[[str, int], object]]:
    """A progress bar, where somebody watches."""
    return _bar(files) if sys.stderr.isatty() else nullcontext(lambda _name, _bytes: None)


@contextmanager
def _bar(files: "Sequence[HeldFile]") -> Iterator[Callable[[str, int], object]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("export", total=sum(file.size for file in files))
        yield lambda name, size: bar.update(task, description=name, advance=size)
