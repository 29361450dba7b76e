"""Options of commands that open a run, or a model, that was written before."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.options import DEVICE_HELP

OwnBackbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="The file of your own backbone, if the run was given one: `./mine.py:build`. A file is never executed "
        "because a run names it.",
    ),
]
OwnStudy = Annotated[
    Path | None,
    typer.Option("--study", help="The study file, which is executed; for a side-network or a loss of its own."),
]
MovedData = Annotated[
    str | None, typer.Option("--data", help="Where the data are now, if not where the run's record says.")
]
DeviceName = Annotated[str | None, typer.Option(help=DEVICE_HELP)]
StorageUrl = Annotated[
    str | None,
    typer.Option(
        help="The Optuna storage URL that the run was given, if it was given one. It is never read from the run folder."
    ),
]
