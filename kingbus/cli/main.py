"""The `kingbus` command: its tree of subcommands, and errors as one line and an exit code.

0 done, 1 refused or failed, 2 usage or configuration. No traceback reaches the terminal unless
KINGBUS_TRACEBACK is set. Modules with heavy imports are imported by the commands that need them.
"""

import os
import sys
from typing import Annotated

import typer

from kingbus import __version__
from kingbus.cli import (
    archive,
    binlog_export,
    channel,
    cluster,
    members,
    run,
    server,
    source,
    status,
    storage,
)
from kingbus.cli.common import UsageError, complain
from kingbus.errors import ConfigError, KingbusError

app = typer.Typer(
    name="kingbus",
    help="A MySQL binlog relay cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kingbus {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


app.command()(run.run)
app.command()(run.join)
app.command()(run.leave)
app.command()(status.status)
app.add_typer(run.config_app, name="config")
app.add_typer(cluster.app, name="cluster")
app.add_typer(members.app, name="member")
app.add_typer(channel.app, name="channel")
app.add_typer(source.app, name="source")
app.add_typer(server.app, name="server")
app.add_typer(status.binlog, name="binlog")
status.binlog.command()(binlog_export.export)
app.add_typer(archive.app, name="archive")
app.add_typer(storage.app, name="storage")


def invoke(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="kingbus", standalone_mode=False)
    except UsageError as error:
        complain(f"kingbus: {error.explain()}")
        return 2
    except ConfigError as error:
        for problem in error.problems:
            complain(f"kingbus: {problem}")
        return 2
    except KingbusError as error:
        complain(f"kingbus: {error.explain()}")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 1
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - one line instead of a traceback
        return _unforeseen(error)
    return int(code or 0)


def _unforeseen(error: Exception) -> int:
    # typer keeps its usage errors to itself; they can tell their message and exit code.
    message = getattr(error, "format_message", None)
    code = getattr(error, "exit_code", 1)
    if callable(message):
        text = str(message())
        if "\n" in text:  # the help of a group that was called without a command
            sys.stderr.write(text + "\n")
        else:
            complain(f"kingbus: {text}")
        return int(code)
    if os.environ.get("KINGBUS_TRACEBACK"):
        raise error
    complain(f"kingbus: unexpected {type(error).__name__}: {error}")
    return 1


def main() -> None:
    """The entry point of the installed command."""
    sys.exit(invoke())
