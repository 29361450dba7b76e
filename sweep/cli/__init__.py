"""The `sweep` command. Each subcommand has a file, which parses the options, calls the engine and prints."""

import logging
import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer
from rich.markup import escape

from sweep.cli.backbones import backbones
from sweep.cli.bench import bench
from sweep.cli.cache import cache
from sweep.cli.clone import clone
from sweep.cli.compare import compare
from sweep.cli.dashboard import dashboard
from sweep.cli.data import data
from sweep.cli.evaluate import evaluate
from sweep.cli.export import export
from sweep.cli.plan import plan
from sweep.cli.predict import predict
from sweep.cli.report import report
from sweep.cli.results import results
from sweep.cli.resume import resume
from sweep.cli.run import run
from sweep.cli.stop import stop
from sweep.cli.studies import studies
from sweep.cli.verify import verify
from sweep.cli.watch import watch
from sweep.errors import SweepError
from sweep.machine.paths import is_out_of_space, is_refused_by_the_system
from sweep.terminal.console import never_fail_to_print, printable, stderr

app = typer.Typer(
    name="sweep",
    help="Find the learning rate, rank and loss for adapting a frozen backbone to your images or texts.\n\n"
    "One forward pass of the backbone feeds many small side-networks that train together. Optuna proposes their "
    "configurations.\n\n"
    "To start:  sweep run --study lr_rank --n-parallel 32",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sweep {version('sweep')}")
        raise typer.Exit


@app.callback()
def _before_subcommand(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options that may stand before the name of a subcommand."""


app.command()(run)
app.command()(resume)
app.command()(plan)
app.command()(watch)
app.command()(stop)
app.command()(clone)
app.command()(studies)
app.command()(data)
app.command()(results)
app.command()(compare)
app.command()(export)
app.command()(predict)
app.command()(evaluate)
app.command()(report)
app.command()(verify)
app.command()(dashboard)
app.command()(backbones)
app.add_typer(cache, name="cache")
app.command()(bench)


def main() -> None:
    """Run the command line; a user's error is one message and an exit code, never a stack trace."""
    never_fail_to_print()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for package in ("sweep", "backbones"):
        logger = logging.getLogger(package)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    # Pillow warns of damaged metadata without naming the file. What it cannot decode is an error of ours.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        app()
    except SweepError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if is_refused_by_the_system(error):
            _fail(f"cannot use {error.filename}: {error.strerror}. Change its permissions, or give another path", 1)
        if not is_out_of_space(error):
            raise
        where = error.filename or "the output or the Optuna storage"
        _fail(f"the disk is full: cannot write {where}. Free some space; sweep resume continues a run", 1)


def _fail(message: str, exit_code: int) -> None:
    stderr.print(f"[bold red]error:[/] {escape(printable(message))}", soft_wrap=True, highlight=False)
    sys.exit(exit_code)
