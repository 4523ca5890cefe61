"""`kingbus storage ...`: the files of a node that is not running."""

import typer

app = typer.Typer(help="The data directory of a stopped node.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `verify` a subcommand while it is the only one."""
