"""`kingbus server ...`: the replica-facing listener of one node."""

from typing import Annotated, Any

import typer

from kingbus.cli.common import (
    DEFAULT_ADMIN_URL,
    Admin,
    Channel,
    Json,
    PasswordFile,
    TokenFile,
    UsageError,
    client,
    of_channel,
    password,
    query_of,
    say,
    show_facts,
    show_json,
    show_table,
)

app = typer.Typer(help="The replica-facing listener of a node.", no_args_is_help=True)

_REPLICA_COLUMNS = {
    "uuid": "REPLICA",
    "server_id": "ID",
    "host": "HOST",
    "state": "STATE",
    "last_gtid": "LAST GTID",
    "lag_transactions": "BEHIND",
    "lag_seconds": "SECONDS",
    "bytes_until_cut_off": "BYTES LEFT",
}


@app.command()
def start(
    addr: Annotated[str, typer.Option("--addr", help="HOST:PORT to listen on.")],
    user: Annotated[str, typer.Option("--user", help="The user that replicas log in as.")],
    password_file: PasswordFile = None,
    admin_user: Annotated[
        bool, typer.Option("--admin-user", help="It may also PURGE BINARY LOGS and KILL.")
    ] = False,
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
) -> None:
    """Listen on the node asked (password: --password-file or KINGBUS_SERVER_PASSWORD)."""
    found = password(password_file, "KINGBUS_SERVER_PASSWORD")
    if found is None:
        raise UsageError("a password is needed: --password-file or KINGBUS_SERVER_PASSWORD")
    with client(admin, token_file) as api:
        body: dict[str, Any] = {"addr": addr, "user": user, "password": found}
        if admin_user:
            body["admin"] = True
        api.ask("PUT", "/binlog/server/start", of_channel(channel, body))


@app.command()
def stop(
    channel: Channel = "", admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None
) -> None:
    """Close the listener and its dumps on the node asked."""
    with client(admin, token_file) as api:
        api.ask("PUT", "/binlog/server/stop", of_channel(channel))


@app.command()
def status(
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show the listener of the node asked, and its replicas."""
    with client(admin, token_file) as api:
        facts: dict[str, Any] = api.ask("GET", "/binlog/server/status" + query_of(channel))
    if as_json:
        show_json(facts)
        return
    replicas = facts.pop("slaves")
    show_facts(facts)
    if replicas:
        say("")
        show_replicas(replicas)


def show_replicas(replicas: list[dict[str, Any]]) -> None:
    """Attached replicas as a table."""
    show_table(replicas, _REPLICA_COLUMNS)
