"""`kingbus storage ...`: the files of a node that is not running."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kingbus.cli.common import (
    Json,
    KeyFile,
    TokenFile,
    UsageError,
    client,
    say,
    show_facts,
    show_json,
)
from kingbus.errors import KingbusError

app = typer.Typer(help="The data directory of a stopped node.", no_args_is_help=True)


class DamagedError(KingbusError):
    """A record is not what was written; the message tells the place."""


class NotConfirmedError(KingbusError):
    """Somebody typed another name than that of the member; nothing was changed."""


@app.command()
def verify(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="The node's data directory.")],
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Check every record of the log, and the database against it; exit 1 and the place, if bad."""
    from kingbus.storage.directory import DataDirectory
    from kingbus.storage.log_keys import log_keys_of_file

    keys = log_keys_of_file(data_dir, key_file)
    with DataDirectory.open_existing(data_dir) as directory:
        last = _verified(directory.log_path, keys)
        if last.problem is not None:
            rest = last.problem.hint or "replace this member by one with an empty directory"
            raise DamagedError(
                f"{last.path} is damaged: {last.problem}",
                hint=f"kingbus storage repair, where a peer is up; else: {rest}",
            )
        applied, unchecked = _state_checked(directory.log_path, directory.state_path, keys)
    if as_json:
        show_json(
            {
                "bytes": last.total_bytes,
                "entries": last.entries,
                "last_index": last.last_index,
                "unsynced_tail_bytes": last.tail_bytes,
                "unopened_entries": last.unopened,
                "applied_index": applied,
                "database_checked": not unchecked,
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
    if unchecked:
        say(unchecked)
    elif applied is None:
        say("no database: a start makes it from the log")
    else:
        say(f"the database is what the log makes of it, up to index {applied}")


def _state_checked(log_path: Path, state_path: Path, keys: Any) -> tuple[int | None, str]:
    """The index up to which the database is, None where there is none; and why it was not checked.

    Raises what is wrong with it.
    """
    from kingbus.replication.check import StateDiffersError, check_state
    from kingbus.storage.errors import SealedLogError
    from kingbus.storage.log import LogStore
    from kingbus.storage.state_store import StateStore

    try:
        log = LogStore.open_for_reading(log_path, keys=keys)
    except SealedLogError as error:
        return None, f"the database was not checked: {error}; --cluster-key-file opens it"
    try:
        if not state_path.exists():
            if log.first_index() > 1:
                raise StateDiffersError(
                    f"there is no database, and the log begins at index {log.first_index()}"
                )
            return None, ""
        database = StateStore.open_for_reading(state_path)
        try:
            if database.installing() is not None:
                return database.applied(), (
                    "the database was not checked: a snapshot was being installed, and the next"
                    " start goes on with that"
                )
            with _bar("database") as advance:
                for done, total in check_state(database, log):
                    advance(done, total)
            return database.applied(), ""
        finally:
            database.close()
    finally:
        log.close()


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, where somebody watches: `advance(done, total)`."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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


@app.command()
def repair(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="The node's data directory.")],
    source: Annotated[str, typer.Option("--from", help="Admin URL of a member that is up.")],
    key_file: KeyFile = None,
    token_file: TokenFile = None,
) -> None:
    """Put damaged stretches of a stopped node right, with what a peer holds."""
    from kingbus.daemon.repair import repaired

    count = 0
    with client(source, token_file) as api:
        for line in repaired(data_dir, api, key_file=key_file):
            say(line)
            count += 1
    if not count:
        say("nothing is damaged")


@app.command()
def recover(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="The node's data directory.")],
    force_new_cluster: Annotated[
        bool,
        typer.Option("--force-new-cluster", help="Make it the only voter of a new cluster."),
    ] = False,
    yes_i_am: Annotated[
        str, typer.Option("--yes-i-am", help="The node's name, instead of typing it.")
    ] = "",
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """The way out of a lost majority: one stopped node goes on as a new cluster of its own."""
    from kingbus.daemon.recover import examined

    if not force_new_cluster:
        raise UsageError("say what is meant: kingbus storage recover --force-new-cluster")
    with examined(data_dir, key_file=key_file) as member:
        if as_json:
            show_json(member.facts)
        else:
            show_facts(member.facts)
        _confirm(member.name, yes_i_am)
        cluster_id = member.recover()
    sys.stderr.write(
        f"{member.name} is the only voter of the new cluster {cluster_id:x}: start it, then let new"
        " members join; never start an old one again\n"
    )


def _confirm(name: str, given: str) -> None:
    if not given:
        if not sys.stdin.isatty():
            raise UsageError(
                "nothing was changed: without a terminal, give the node's name with --yes-i-am"
            )
        sys.stderr.write(
            "The other members are given up: whatever they have and this one has not is lost, and"
            "\nif a majority of them comes back it goes its own way. Type the name of this node: "
        )
        sys.stderr.flush()
        given = sys.stdin.readline().strip()
    if given != name:
        raise NotConfirmedError(f"nothing was changed: this node is {name!r}, not {given!r}")
