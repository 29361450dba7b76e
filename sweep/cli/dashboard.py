"""`sweep dashboard`: Optuna's dashboard on a run."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.console import stderr
from sweep.errors import SweepError, UsageError


def dashboard(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or still running.")],
    port: Annotated[int, typer.Option(help="Port on localhost.", min=1, max=65535)] = 8080,
) -> None:
    """Open a run in optuna-dashboard, on localhost until Ctrl-C."""
    from sweep.run_folder import RunFolder, read_json
    from sweep.storage import open_storage

    folder = RunFolder.open(run)
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise SweepError('optuna-dashboard is not installed; python -m pip install -e ".[dashboard]"')
    from optuna_dashboard import run_server

    storage = open_storage(read_json(folder.config_path)["storage"], folder)
    stderr.print(f"http://localhost:{port}/  (Ctrl-C ends it)", highlight=False)
    try:
        run_server(storage, host="localhost", port=port)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error.strerror}; give another with --port") from error
