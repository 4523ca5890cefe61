"""`kingbus status` and `kingbus binlog list`: the cluster at a glance."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kingbus.cli.binlog_rows import decode_rows, show_rows
from kingbus.cli.common import (
    DEFAULT_ADMIN_URL,
    Admin,
    Channel,
    Json,
    TokenFile,
    UsageError,
    client,
    of_channel,
    query_of,
    say,
    show_facts,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from kingbus.admin.client import AdminClient

binlog = typer.Typer(help="The binlog files held.", no_args_is_help=True)

_FILE_COLUMNS = {
    "name": "FILE",
    "size": "SIZE",
    "epoch": "EPOCH",
    "complete": "COMPLETE",
    "archived": "ARCHIVED",
    "first_time": "FIRST",
    "last_time": "LAST",
}
_EVENT_COLUMNS = {
    "position": "POS",
    "event_type": "EVENT",
    "server_id": "SERVER ID",
    "end_position": "END",
    "info": "INFO",
}
_SOURCE_FACTS = (
    "status",
    "error",
    "mysql_addr",
    "current_addr",
    "current_gtid",
    "last_binlog_file",
    "last_file_position",
    "seconds_behind_source",
)


def status(
    admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Show the cluster, the source and the replicas of the node asked."""
    from kingbus.admin.client import AdminApiError
    from kingbus.cli.channel import show_channels
    from kingbus.cli.members import show_members
    from kingbus.cli.server import show_replicas

    with client(admin, token_file) as api:
        facts: dict[str, Any] = {
            "node": api.ask("GET", "/status"),
            "cluster": api.ask("GET", "/cluster"),
            "server": api.ask("GET", "/binlog/server/status"),
            "archive": api.ask("GET", "/archive"),
        }
        try:
            facts["source"] = api.ask("GET", "/binlog/syncer/status")
        except AdminApiError as error:
            # Without a leader the rest is still worth seeing.
            facts["source"] = {"status": None, "error": str(error)}
        try:
            facts["channels"] = api.ask("GET", "/channels")
        except AdminApiError:
            facts["channels"] = []  # a node of an older version has none
    if as_json:
        show_json(facts)
        return
    show_facts(facts["node"] | {"at_rest": _at_rest(facts["node"].get("at_rest"))})
    say("\nMEMBERS")
    show_members(facts["cluster"], as_json=False)
    say("\nSOURCE")
    show_facts({key: facts["source"].get(key) for key in _SOURCE_FACTS})
    if len(facts["channels"]) > 1:
        say("\nCHANNELS")
        show_channels(facts["channels"], as_json=False)
    say("\nREPLICAS")
    say(f"listener {facts['server']['status']} {facts['server']['addr']}".rstrip())
    if facts["server"]["slaves"]:
        show_replicas(facts["server"]["slaves"])
    if facts["archive"] is not None:
        say("\nARCHIVE")
        show_facts(facts["archive"])


def _at_rest(facts: dict[str, Any] | None) -> str | None:
    """In one line: how entries are stored, what that saves, and how much of the log is so."""
    if facts is None:
        return None
    words = []
    if facts["compress"] != "none":
        words.append(f"{facts['compress']} level {facts['level']}")
    if facts["encrypt"] != "none":
        words.append(f"sealed with {facts['encrypt']} {facts['key_id']}")
    if facts["ratio"] is not None:
        words.append(
            f"{facts['stored_bytes']} bytes stored for {facts['data_bytes']} (x {facts['ratio']})"
        )
    segments = f"of {facts['segments']} segments {facts['transformed_segments']} transformed, "
    return ", ".join(words or ["as it is"]) + f"; {segments}{facts['sealed_segments']} sealed"


@binlog.command("list")
def list_files(
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """List the binlog files that the node asked holds."""
    with client(admin, token_file) as api:
        files = api.ask("GET", "/binlog/files" + query_of(channel))
    show_json(files) if as_json else show_table(files, _FILE_COLUMNS)


@binlog.command()
def purge(
    to: Annotated[str, typer.Option("--to", help="The first file to keep.")] = "",
    before: Annotated[
        str, typer.Option("--before", help="A time (UTC): what was last written before it goes.")
    ] = "",
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Purge files on all members and list those left; what a replica is reading stays."""
    if bool(to) == bool(before):
        raise UsageError("give either --to FILE or --before TIME")
    with client(admin, token_file) as api:
        body = of_channel(channel, {"to": to} if to else {"before": before})
        files = api.ask("POST", "/binlog/purge", body)
    show_json(files) if as_json else show_table(files, _FILE_COLUMNS)


@binlog.command()
def events(
    file: Annotated[str, typer.Argument(help="Its name, as `kingbus binlog list` shows it.")],
    position: Annotated[int, typer.Option("--from", help="Where an event begins.")] = 4,
    limit: Annotated[int, typer.Option("--limit", help="At most so many events.")] = 100,
    rows: Annotated[bool, typer.Option("--rows", help="Decode the rows of row events.")] = False,
    channel: Channel = "",
    admin: Admin = DEFAULT_ADMIN_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """List the events of a file, as SHOW BINLOG EVENTS does."""
    from urllib.parse import urlencode

    query = urlencode({"file": file, "from": position, "limit": limit})
    if channel:
        query += "&" + urlencode({"channel": channel})
    with client(admin, token_file) as api:
        found: list[dict[str, Any]] = api.ask("GET", f"/binlog/events?{query}")
        if rows and found:
            _add_rows(api, channel, found[0]["file"], found)
    if as_json:
        show_json(found)
    elif rows:
        for event in found:
            say("  ".join(str(event[field]) for field in _EVENT_COLUMNS).rstrip())
            show_rows(event)
    else:
        show_table(found, _EVENT_COLUMNS)


def _add_rows(api: "AdminClient", channel: str, file: str, events: list[dict[str, Any]]) -> None:
    from kingbus.cli.file_sources import NodeFiles

    node = NodeFiles(api, channel)
    decode_rows(
        events,
        lambda offset, size: node.read(file, offset, size),
        gaps=node.gaps(file),
    )
