"""`kingbus channel ...`: several sources in one cluster."""

from typing import Annotated, Any

import typer

from kingbus.cli.common import (
    DEFAULT_ADMIN_URL,
    Admin,
    Json,
    TokenFile,
    client,
    show_json,
    show_table,
)

app = typer.Typer(help="The channels: one source and one log of files each.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="a to z, 0 to 9, - and _.")]

_COLUMNS = {
    "name": "CHANNEL",
    "source": "SOURCE",
    "started": "STARTED",
    "flavor": "FLAVOR",
    "files": "FILES",
    "executed_gtid_set": "EXECUTED",
}


def show_channels(channels: list[dict[str, Any]], *, as_json: bool) -> None:
    """All of them, a line each."""
    show_json(channels) if as_json else show_table(channels, _COLUMNS)


@app.command()
def add(
    name: Name,
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Add a channel; then `source set --channel` and, on each node, `server start --channel`."""
    with client(admin, token_file) as api:
        show_channels(api.ask("POST", "/channels", {"name": name}), as_json=as_json)


@app.command("list")
def list_channels(
    admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Show the channels; the default one has no name."""
    with client(admin, token_file) as api:
        show_channels(api.ask("GET", "/channels"), as_json=as_json)


@app.command()
def bind(
    user: Annotated[str, typer.Argument(metavar="USER", help="As CREATE USER made it.")],
    channel: Annotated[
        str, typer.Option("--channel", help="Its name; without it the user is bound to none.")
    ] = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
) -> None:
    """Have a user read one channel only, by the default channel's port, too."""
    with client(admin, token_file) as api:
        api.ask("PUT", "/channels/users", {"user": user, "name": channel})


@app.command()
def remove(name: Name, admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None) -> None:
    """Not available yet."""
    with client(admin, token_file) as api:
        api.ask("DELETE", "/channels", {"name": name})
