"""The `sweep` command: one file a subcommand, each of which parses, calls and prints."""

import errno
import logging
import sys
import warnings

import typer
from rich.markup import escape

from sweep.cli.backbones import backbones
from sweep.cli.bench import bench
from sweep.cli.cache import cache
from sweep.cli.clone import clone
from sweep.cli.compare import compare
from sweep.cli.dashboard import dashboard
from sweep.cli.data import data
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
from sweep.terminal.console import printable, stderr

app = typer.Typer(
    name="sweep",
    help="Find the learning rate, rank and loss for adapting a frozen backbone to your images or texts.\n\n"
    "One forward pass of the backbone feeds many small side-networks that train together; Optuna proposes them.\n\n"
    "Begin with:  sweep run --study lr_rank --n-parallel 32",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
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
app.command()(report)
app.command()(verify)
app.command()(dashboard)
app.command()(backbones)
app.add_typer(cache, name="cache")
app.command()(bench)


def main() -> None:
    """Run the command line; a user's error is one message and an exit code, never a stack trace."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for package in ("sweep", "backbones"):
        logger = logging.getLogger(package)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    # Pillow remarks on damaged metadata without naming the file; what it cannot decode is an error of ours.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        app()
    except SweepError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "the Optuna storage"
        _fail(f"no space left to write {where}; free some, and go on with sweep resume", 1)


def _fail(message: str, exit_code: int) -> None:
    stderr.print(f"[bold red]error:[/] {escape(printable(message))}", soft_wrap=True, highlight=False)
    sys.exit(exit_code)
