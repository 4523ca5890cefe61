"""`kingbus run`, `join`, `leave` and `config check`: the commands that need a configuration."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from kingbus.cli.common import ConfigFile, TokenFile, UsageError, client, complain, password, say
from kingbus.errors import ConfigError, KingbusError

if TYPE_CHECKING:
    from kingbus.config import Config

config_app = typer.Typer(help="Configuration files.", no_args_is_help=True)

DEFAULT_LISTEN = "127.0.0.1:3390"


def run(
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="mysql://USER@HOST:PORT, without a file.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where the log is kept (with --source).")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", help=f"Where replicas connect (with --source); else {DEFAULT_LISTEN}."
        ),
    ] = None,
    source_password_file: Annotated[
        Path | None,
        typer.Option("--source-password-file", help="Or KINGBUS_SOURCE_PASSWORD."),
    ] = None,
    server_user: Annotated[
        str | None,
        typer.Option(
            "--server-user", help="Replicas' user; its password: KINGBUS_SERVER_PASSWORD."
        ),
    ] = None,
) -> None:
    """Run one node in the foreground until SIGTERM or SIGINT."""
    if (config is None) == (source is None):
        raise UsageError("give --config FILE, or --source URL with --data-dir DIR")
    if config is not None:
        alone = {
            "--data-dir": data_dir,
            "--listen": listen,
            "--server-user": server_user,
            "--source-password-file": source_password_file,
        }
        given = [name for name, value in alone.items() if value is not None]
        if given:
            raise UsageError(f"{', '.join(given)}: only with --source, not with --config")
        found = load(config)
        from kingbus import daemon

        options = daemon.options_of(found)
    else:
        assert source is not None
        options = _standalone(
            source, data_dir, listen or DEFAULT_LISTEN, source_password_file, server_user
        )
        from kingbus import daemon
    raise typer.Exit(daemon.main(options))


def _standalone(
    source: str,
    data_dir: Path | None,
    listen: str,
    source_password_file: Path | None,
    server_user: str | None,
) -> Any:
    if data_dir is None:
        raise UsageError("--data-dir is needed with --source")
    if not server_user or not os.environ.get("KINGBUS_SERVER_PASSWORD"):
        raise UsageError("--server-user and KINGBUS_SERVER_PASSWORD are both needed with --source")
    user, address = _source_url(source)

    from kingbus import config, daemon
    from kingbus.secrets import Secret

    found = config.parse(
        {
            "name": socket.gethostname()[:64] or "kingbus",
            # Nobody dials it: there is no peer listener. It only has to be well-formed.
            "peer-url": daemon.NO_PEER_URL,
            "data-dir": str(data_dir),
            "source": {"addr": address, "user": user},
            "server": {"addr": listen, "user": server_user},
        }
    )
    return daemon.options_of(
        found,
        standalone=True,
        source_password=Secret(password(source_password_file, "KINGBUS_SOURCE_PASSWORD") or ""),
    )


def _source_url(text: str) -> tuple[str, str]:
    """User and `HOST:PORT` of `mysql://USER@HOST:PORT`."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--source: {error}") from None
    if parts.password is not None:
        raise UsageError(
            "--source takes no password: everybody who lists processes would see it",
            hint="use --source-password-file or KINGBUS_SOURCE_PASSWORD",
        )
    more = parts.path not in {"", "/"} or parts.query or parts.fragment
    if parts.scheme != "mysql" or not host or not parts.username or more:
        raise UsageError("--source must be mysql://USER@HOST:PORT")
    shown = f"[{host}]" if ":" in host else host
    return unquote(parts.username), f"{shown}:{port or 3306}"


def load(path: Path, *, joins: bool = False, with_secrets: bool = False) -> "Config":
    """The configuration; every problem is printed before UsageError is raised.

    `with_secrets` looks for those, too, in their files and in the environment.
    """
    from kingbus import config

    try:
        environment = os.environ if with_secrets else None
        return config.load(path, joins=joins, environment=environment)
    except ConfigError as error:
        for problem in error.problems:
            complain(f"{path}: {problem}")
        count = len(error.problems)
        raise UsageError(
            f"{path}: {count} problem{'s' if count > 1 else ''} in the configuration"
        ) from None


def join(
    config: ConfigFile,
    via: Annotated[
        str,
        typer.Option("--via", "--admin", envvar="KINGBUS_ADMIN", help="Admin URL of any member."),
    ],
    learner: Annotated[bool, typer.Option("--learner", help="Stay without a vote.")] = False,
    token_file: TokenFile = None,
) -> None:
    """Add this node to a running cluster, then run it."""
    from kingbus import daemon
    from kingbus.joining import Joining

    found = load(config, joins=True)
    hint = "is that node running, and is --via its admin-url?"
    api = client(via, token_file or found.auth.token_file, hint=hint)
    options = daemon.options_of(found, joining=Joining(api=api, learner=learner))
    raise typer.Exit(daemon.main(options))


def leave(
    config: ConfigFile,
    via: Annotated[
        str | None,
        typer.Option(
            "--via",
            "--admin",
            envvar="KINGBUS_ADMIN",
            help="Admin URL of a member; else this node's own.",
        ),
    ] = None,
    token_file: TokenFile = None,
) -> None:
    """Remove this node from its cluster; it stops."""
    from kingbus.joining import leaving

    found = load(config, joins=True)
    hint = "is that node running, and is --via its admin-url?"
    if via is None:
        hint = "if this node does not run, name another member with --via"
    url = via or str(found.admin_url)
    with client(url, token_file or found.auth.token_file, hint=hint) as api:
        api.ask("DELETE", "/members", leaving(found, api))
    say(f"{found.name} was removed from the cluster")


@config_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")],
    join: Annotated[
        bool, typer.Option("--join", help="As `join` reads it: peer-url may be a wildcard.")
    ] = False,
) -> None:
    """Print every problem with key and value; exit code 2 if there is any."""
    found = load(file, joins=join, with_secrets=True)
    for warning in found.warnings():
        complain(f"{file}: warning: {warning}")
    say(f"{file}: no problems")


__all__ = ["KingbusError", "check", "config_app", "join", "leave", "load", "run"]
