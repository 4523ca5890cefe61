"""`kingbus archive ...`: closed files in a store outside the cluster."""

from typing import Any

import typer

from kingbus.cli.common import (
    DEFAULT_ADMIN_URL,
    Admin,
    Json,
    TokenFile,
    client,
    say,
    show_facts,
    show_json,
    show_table,
)

app = typer.Typer(help="The archive of closed binlog files.", no_args_is_help=True)

_COLUMNS = {
    "name": "FILE",
    "size": "SIZE",
    "epoch": "EPOCH",
    "complete": "COMPLETE",
    "first_time": "FIRST",
    "last_time": "LAST",
    "object": "OBJECT",
}


@app.command()
def status(
    admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Show the archive as the node asked knows it."""
    with client(admin, token_file) as api:
        facts: dict[str, Any] | None = api.ask("GET", "/archive")
    if as_json:
        show_json(facts)
    elif facts is None:
        say("no archive is configured")
    else:
        show_facts(facts)


@app.command("list")
def list_files(
    admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """List the files in the archive."""
    with client(admin, token_file) as api:
        files = api.ask("GET", "/archive/files")
    show_json(files) if as_json else show_table(files, _COLUMNS)
