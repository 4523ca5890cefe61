"""What all commands share: the options of the admin API, passwords, and printing facts."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode, urlsplit

import typer

from kingbus.errors import KingbusError

if TYPE_CHECKING:
    from kingbus.admin.client import AdminClient

DEFAULT_ADMIN_URL = "http://127.0.0.1:9595"

Admin = Annotated[
    str, typer.Option("--admin", envvar="KINGBUS_ADMIN", help="Admin URL of any node.")
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="File with the admin API's bearer token.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--cluster-key-file",
        help="The cluster key that opens a sealed log; else the directory's own.",
    ),
]
Channel = Annotated[
    str, typer.Option("--channel", help="Name of a channel; without it the default one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the API's data as JSON.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File whose first line is the password.")
]
ConfigFile = Annotated[Path, typer.Option("--config", help="The node's configuration file.")]


class UsageError(KingbusError):
    """The command cannot be meant like this; exit code 2."""


def client(admin: str, token_file: Path | None, *, hint: str = "") -> "AdminClient":
    """A client for the admin API. UsageError for what is no URL, and for a useless token file.

    `hint` is for when nobody answers, where the URL is not that of --admin.
    """
    from kingbus.admin.client import AdminClient
    from kingbus.secrets import SecretError, read_secret_file

    if not _is_url(admin):
        raise UsageError(f"{admin!r} is not an admin URL: write http://HOST:PORT")
    try:
        token = read_secret_file(token_file) if token_file is not None else None
    except SecretError as error:
        raise UsageError(f"--token-file: {error}") from error
    if token is not None and not (token and token.reveal().isascii()):
        raise UsageError(f"--token-file: {token_file} is empty or has other characters than ASCII")
    return AdminClient(admin, token=token, **({"hint": hint} if hint else {}))


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port
        return False


def password(file: Path | None, variable: str) -> str | None:
    """The password in a file, else in an environment variable, else None."""
    from kingbus.secrets import SecretError, read_secret_file

    if file is None:
        return os.environ.get(variable)
    try:
        return read_secret_file(file).reveal()
    except SecretError as error:
        raise UsageError(f"--password-file: {error}") from error


def of_channel(channel: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The body of a request, which names the channel if it is not the default one."""
    return {**(body or {}), "channel": channel} if channel else body


def query_of(channel: str) -> str:
    """The same as the query of a GET."""
    return "?" + urlencode({"channel": channel}) if channel else ""


def say(text: str) -> None:
    """One line to stdout."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """One line to stderr."""
    sys.stderr.write(" ".join(text.split("\n")) + "\n")


def show_json(data: object) -> None:
    """The API's data as it came."""
    say(json.dumps(data, indent=2))


def cell(value: object) -> str:
    """A fact as people read it."""
    match value:
        case None:
            return "-"
        case True:
            return "yes"
        case False:
            return "no"
        case list():
            return ", ".join(map(str, value)) or "-"
        case dict():
            return ", ".join(f"{key} {cell(each)}" for key, each in value.items()) or "-"
        case _:
            return str(value) or "-"


def show_table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> None:
    """Rows under headings; `columns` gives field -> heading."""
    lines = [list(columns.values())]
    lines += [[cell(row.get(field)) for field in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def show_facts(facts: dict[str, Any]) -> None:
    """One fact per line."""
    width = max((len(key) for key in facts), default=0)
    for key, value in facts.items():
        say(f"{key.ljust(width)}  {cell(value)}")
