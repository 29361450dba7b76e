"""`sweep clone`: have a run that goes on elsewhere train a variation of one of its trials."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.errors import UsageError
from sweep.terminal.console import printable, stdout


def clone(
    run: Annotated[Path, typer.Argument(help="A run folder; the run goes on in another terminal.")],
    trial: Annotated[int, typer.Option(help="Number of the trial to vary; it may have ended.")],
    changes: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="A parameter to change; may be repeated.")
    ],
    storage: Annotated[str | None, typer.Option(help="The Optuna storage URL, if the run was given one.")] = None,
) -> None:
    """Train a variation of a trial of a run that goes on in another terminal.

    A new trial with its parameters, but for those that are set, trains from its first epoch in the next lane that is
    free, beside the trials that the run was going to train.

        sweep clone runs/lr_rank-… --trial 7 --set lr=3e-4
    """
    from sweep.records.folder import RunFolder
    from sweep.search.steering import ask_to_clone

    params = ask_to_clone(RunFolder.open(run), trial, dict(map(_change, changes)), storage_url=storage)
    shown = " ".join(f"{name}={value}" for name, value in params.items())
    stdout.print(printable(f"next in line: {shown}"), highlight=False, markup=False, soft_wrap=True)


def _change(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise UsageError(f"--set {text} is no change; write a parameter and its value, as in --set lr=3e-4")
    return name, value
