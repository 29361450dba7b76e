"""`sweep dashboard`: Optuna's dashboard on a run."""

import importlib.util
import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.console import stderr
from sweep.errors import SweepError, UsageError


def dashboard(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or still running.")],
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach lets them change the study.")
    ] = "localhost",
    storage: Annotated[
        str | None, typer.Option(help="The Optuna storage URL of a run that was given one; never taken from its files.")
    ] = None,
) -> None:
    """Open a run in optuna-dashboard, on localhost until Ctrl-C."""
    from sweep.run_folder import RunFolder
    from sweep.storage import open_recorded

    folder = RunFolder.open(run)
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise SweepError('optuna-dashboard is not installed; python -m pip install -e ".[dashboard]"')
    from optuna_dashboard import run_server

    opened = open_recorded(folder, storage, f"sweep dashboard {run}")
    if not _is_loopback(host):
        stderr.print(
            f"[bold yellow]warning:[/] whoever can reach {host or 'this machine'} can read and change this study; "
            f"the dashboard asks for no password",
            soft_wrap=True,
            highlight=False,
        )
    stderr.print(f"http://{host}:{port}/  (Ctrl-C ends it)", highlight=False)
    try:
        run_server(opened, host=host, port=port)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another with --host and --port"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
