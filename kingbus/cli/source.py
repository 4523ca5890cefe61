"""`kingbus source ...`: what the cluster pulls from."""

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
    complain,
    of_channel,
    password,
    query_of,
    show_facts,
    show_json,
)

app = typer.Typer(help="The source that the cluster pulls from.", no_args_is_help=True)


@app.command("set")
def set_source(
    addr: Annotated[str, typer.Option("--addr", help="HOST:PORT, candidates with commas.")],
    user: Annotated[str, typer.Option("--user", help="A user with REPLICATION SLAVE.")],
    semi_sync: Annotated[
        bool, typer.Option("--semi-sync", help="Acknowledge what a majority has on disk.")
    ] = False,
    server_id: Annotated[
        int, typer.Option("--server-id", help="Towards the source; 0: the cluster's own.")
    ] = 0,
    start_from: Annotated[
        str, typer.Option("--start-from", help="earliest, now or a GTID set (position: a file).")
    ] = "",
    mode: Annotated[
        str, typer.Option("--mode", help="gtid, or position for a source without GTIDs.")
    ] = "",
    compression: Annotated[
        str, typer.Option("--compression", help="Of the connection: none, zlib or zstd.")
    ] = "",
    flavor: Annotated[
        str, typer.Option("--flavor", help="mysql or mariadb; fixed by a cluster's first source.")
    ] = "",
    password_file: PasswordFile = None,
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
) -> None:
    """Store a source without starting (password: --password-file or KINGBUS_SOURCE_PASSWORD)."""
    if not user:
        raise UsageError("--user must not be empty")
    addresses = [each.strip() for each in addr.split(",")]
    body: dict[str, Any] = {
        "mysql_addr": addresses[0],
        "mysql_user": user,
        "semi_sync": semi_sync,
        "syncer_id": server_id,
    }
    if flavor:
        body["flavor"] = flavor
    if len(addresses) > 1:
        body["mysql_addrs"] = addresses
    if start_from:
        body["start_from"] = start_from
    if mode:
        body["mode"] = mode
    if compression:
        body["compression"] = compression
    found = password(password_file, "KINGBUS_SOURCE_PASSWORD")
    if found is not None:
        body["mysql_password"] = found
    with client(admin, token_file) as api:
        warning = api.ask("PUT", "/binlog/syncer/config", of_channel(channel, body))
    if warning:
        complain(f"kingbus: warning: {warning}")


@app.command()
def start(
    channel: Channel = "", admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None
) -> None:
    """Start pulling from the stored source."""
    with client(admin, token_file) as api:
        api.ask("PUT", "/binlog/syncer/start", of_channel(channel, {}))


@app.command()
def stop(
    channel: Channel = "", admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None
) -> None:
    """Stop pulling; it stays stopped over restarts and changes of leader."""
    with client(admin, token_file) as api:
        api.ask("PUT", "/binlog/syncer/stop", of_channel(channel))


@app.command()
def failover(
    to: Annotated[str, typer.Option("--to", help="HOST:PORT; without it the next candidate.")] = "",
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Pull from another source, once it has all that the relay has; no replica is touched."""
    with client(admin, token_file) as api:
        body = of_channel(channel, {"to": to} if to else {})
        facts = api.ask("PUT", "/binlog/syncer/failover", body)
    if as_json:
        show_json(facts)
        return
    typer.echo(f"pulling from {facts['mysql_addr']}")
    for note in facts["notes"]:
        complain(f"kingbus: note: {note}")


@app.command("accept-gap")
def accept_gap(
    gtid_set: Annotated[
        str, typer.Argument(metavar="SET", help="As the receiver's error names it.")
    ],
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
) -> None:
    """Go on behind transactions that the source has purged; replicas that lack them are told."""
    with client(admin, token_file) as api:
        api.ask("PUT", "/binlog/syncer/accept-gap", of_channel(channel, {"gtid_set": gtid_set}))


@app.command()
def status(
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show what the receiver does, as the leader sees it."""
    with client(admin, token_file) as api:
        facts = api.ask("GET", "/binlog/syncer/status" + query_of(channel))
    show_json(facts) if as_json else show_facts(facts)
