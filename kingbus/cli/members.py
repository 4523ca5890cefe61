"""`kingbus member ...`: who belongs to the cluster."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from kingbus.cli.common import (
    DEFAULT_ADMIN_URL,
    Admin,
    Json,
    TokenFile,
    client,
    say,
    show_json,
    show_table,
)

app = typer.Typer(help="Members of the cluster.", no_args_is_help=True)

_COLUMNS = {
    "name": "NAME",
    "Id": "ID",
    "role": "ROLE",
    "peerURLs": "PEER URLS",
    "adminURLs": "ADMIN URLS",
    "version": "VERSION",
}
Name = Annotated[str, typer.Argument(help="The member's name, or its id.")]
PeerUrl = Annotated[str, typer.Option("--peer-url", help="Where the other members reach it.")]


def show_members(members: list[dict[str, Any]], *, as_json: bool) -> None:
    """Members as a table; who leads is known only from `/cluster`."""
    if as_json:
        show_json(members)
        return
    for member in members:
        leads = member.get("isLeader")
        member["role"] = "learner" if member["isLearner"] else "leader" if leads else "voter"
    show_table(members, _COLUMNS)


def _change(
    admin: str, token_file: Path | None, as_json: bool, method: str, path: str, body: object
) -> None:
    from kingbus.admin.client import AdminApiError

    with client(admin, token_file) as api:
        members = api.ask(method, path, body)
        if not as_json:
            # The table says who leads, too. A node that was removed just now may be gone already.
            with contextlib.suppress(AdminApiError):
                members = api.ask("GET", "/cluster")
        show_members(members, as_json=as_json)


@app.command("list")
def list_members(
    admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """List the members and who leads."""
    with client(admin, token_file) as api:
        show_members(api.ask("GET", "/cluster"), as_json=as_json)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name that no member has.")],
    peer_url: PeerUrl,
    admin_url: Annotated[str | None, typer.Option(help="Where its admin API will be.")] = None,
    learner: Annotated[bool, typer.Option("--learner", help="It does not vote.")] = False,
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Add a member; start it afterwards with `initial-cluster-state: existing`."""
    body: dict[str, object] = {"name": name, "peer_url": peer_url, "learner": learner}
    if admin_url is not None:
        body["admin_url"] = admin_url
    _change(admin, token_file, as_json, "POST", "/members", body)


@app.command()
def promote(
    name: Name,
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Make a learner that has caught up a voter."""
    _change(admin, token_file, as_json, "POST", "/members/promote", {"name": name})


@app.command()
def update(
    name: Name,
    peer_url: PeerUrl,
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Move a member to another peer URL."""
    body = {"name": name, "new_peer_url": peer_url}
    _change(admin, token_file, as_json, "PUT", "/members", body)


@app.command()
def remove(
    name: Name,
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Remove a member; it stops, and its data directory cannot be used again."""
    _change(admin, token_file, as_json, "DELETE", "/members", {"name": name})


@app.command()
def replace(
    name: Name,
    new_name: Annotated[str, typer.Argument(help="A new member's name, or a learner's.")],
    peer_url: Annotated[
        str | None, typer.Option("--peer-url", help="Where a new member is reached.")
    ] = None,
    admin_url: Annotated[str | None, typer.Option(help="Where its admin API will be.")] = None,
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Replace a voter by a new member, or by a learner that has caught up, in one step."""
    body = {"name": name, "new_name": new_name}
    if peer_url is not None:
        body["peer_url"] = peer_url
    if admin_url is not None:
        body["admin_url"] = admin_url
    _change(admin, token_file, as_json, "POST", "/members/replace", body)


@app.command("transfer-leader")
def transfer_leader(
    name: Annotated[str, typer.Argument(help="Who shall lead; nobody: the fittest.")] = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Hand leadership over."""
    with client(admin, token_file) as api:
        leader = api.ask("POST", "/leader/transfer", {"name": name})
    if as_json:
        show_json(leader)
    else:
        say(f"{leader['name']} leads")
