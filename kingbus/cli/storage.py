"""`kingbus storage ...`: the files of a node that is not running."""

import sys
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer

from kingbus.cli.common import Json, say, show_json
from kingbus.errors import KingbusError

app = typer.Typer(help="The data directory of a stopped node.", no_args_is_help=True)


class DamagedError(KingbusError):
    """A record is not what was written; the message tells the place."""


@app.callback()
def _group() -> None:
    """Keep `verify` a subcommand while it is the only one."""


@app.command()
def verify(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="The node's data directory.")],
    key_file: Annotated[
        Path | None,
        typer.Option("--cluster-key-file", help="Open what is sealed, too, with this key."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every record of the log; exit code 1 and the place, if one is bad."""
    from kingbus.secrets import ClusterSecret
    from kingbus.storage.at_rest import Keyring, RestKey
    from kingbus.storage.directory import DataDirectory

    keys = Keyring([RestKey.of(ClusterSecret.load(key_file))] if key_file is not None else [])
    with DataDirectory.open_existing(data_dir) as directory:
        last = _verified(directory.log_path, keys)
    if last.problem is not None:
        raise DamagedError(
            f"{last.path} is damaged: {last.problem}",
            hint=last.problem.hint or "remove this member and add it again with an empty directory",
        )
    if as_json:
        show_json(
            {
                "bytes": last.total_bytes,
                "entries": last.entries,
                "last_index": last.last_index,
                "unsynced_tail_bytes": last.tail_bytes,
                "unopened_entries": last.unopened,
            }
        )
        return
    tail = f"; {last.tail_bytes} unsynced bytes at the end will be cut" if last.tail_bytes else ""
    say(f"{last.entries} entries in {last.total_bytes} bytes, up to index {last.last_index}{tail}")
    if last.unopened:
        say(
            f"{last.unopened} of them are sealed and were not opened: their sums are right; "
            "--cluster-key-file opens them"
        )


def _verified(log: Path, keys: Any) -> Any:
    """The last report; a progress bar meanwhile, where somebody watches."""
    from kingbus.storage.verify import VerifyProgress, verify_log

    reports = verify_log(log, keys=keys)
    last: deque[VerifyProgress] = deque(maxlen=1)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("verify", total=None)
            for report in reports:
                bar.update(task, completed=report.done_bytes, total=report.total_bytes)
                last.append(report)
    last.extend(reports)
    return last[0]
