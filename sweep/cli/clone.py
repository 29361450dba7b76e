"""`sweep clone`: ask a run in another terminal to train a variation of one of its trials."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import recorded_options
from sweep.errors import UsageError
from sweep.terminal.console import printable, stdout


def clone(
    run: Annotated[Path, typer.Argument(help="The folder of a run that is training in another terminal.")],
    trial: Annotated[int, typer.Option(help="Number of the trial to vary. It may have ended already.")],
    changes: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A parameter to change, with its new value. May be given several times."
        ),
    ],
    storage: recorded_options.StorageUrl = None,
) -> None:
    """Add a variation of a trial to a run that is training in another terminal.

    The new trial has the parameters of the given trial, except for those that you set. It trains from its first epoch
    in the next free lane, in addition to the trials that the run was going to train anyway.

        sweep clone runs/lr_rank-… --trial 7 --set lr=3e-4
    """
    from sweep.records.folder import RunFolder
    from sweep.search.steering import ask_to_clone

    params = ask_to_clone(RunFolder.open(run), trial, dict(map(_change, changes)), storage_url=storage)
    shown = " ".join(f"{name}={value}" for name, value in params.items())
    stdout.print(printable(f"trains next: {shown}"), highlight=False, markup=False, soft_wrap=True)


def _change(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise UsageError(
            f"--set {text} is not of the form NAME=VALUE; write a parameter and its value, as in --set lr=3e-4"
        )
    return name, value
