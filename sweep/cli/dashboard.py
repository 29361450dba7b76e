"""`sweep dashboard`: show a run in Optuna's dashboard."""

import importlib.util
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli import recorded_options
from sweep.errors import SweepError, UsageError
from sweep.terminal.console import printable, stderr

if TYPE_CHECKING:
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import BaseStorage

    from sweep.records.folder import RunFolder


def dashboard(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or still running.")],
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on. If others can reach it, they can change the study.")
    ] = "localhost",
    storage: recorded_options.StorageUrl = None,
) -> None:
    """Serve a run in optuna-dashboard, on localhost, until Ctrl-C.

    For a run that has ended, the dashboard also shows a note with its summary, and the winner's weights and the tables
    as artifacts. The first call writes these into the run's storage and into its folder `artifacts`.
    """
    from sweep.records.folder import RunFolder
    from sweep.search.optuna_storage import open_recorded

    folder = RunFolder.open(run)
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise SweepError('optuna-dashboard is not installed; python -m pip install -e ".[dashboard]"')
    from optuna_dashboard import run_server

    command = f"sweep dashboard {run}"
    opened = open_recorded(folder, storage, command)
    artifacts = _artifacts(folder, opened, storage, command)
    if not _is_loopback(host):
        stderr.print(
            f"[bold yellow]warning:[/] anyone who can reach {host or 'this machine'} can read and change this study; "
            f"the dashboard asks for no password",
            soft_wrap=True,
            highlight=False,
        )
    stderr.print(f"http://{host}:{port}/  (press Ctrl-C to end it)", highlight=False)
    try:
        run_server(opened, host=host, port=port, artifact_store=artifacts)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --host and --port"
        ) from error


def _artifacts(
    folder: "RunFolder", opened: "BaseStorage", storage: str | None, command: str
) -> "FileSystemArtifactStore | None":
    """Open the run's artifact store and annotate its study; return None if an artifact is not safe to serve."""
    from sweep.records.results import load_results
    from sweep.report.dashboard_notes import annotate, open_artifacts, unsafe_artifact
    from sweep.search.optuna_storage import load_optuna_study

    if unsafe := unsafe_artifact(opened):
        stderr.print(
            f"artifacts are not shown, because a browser might execute {printable(unsafe)}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        return None
    artifacts = open_artifacts(folder)
    if folder.summary_path.is_file():
        annotate(load_optuna_study(folder, storage, command), load_results(folder.path), folder, artifacts)
    return artifacts


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
