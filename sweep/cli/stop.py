"""`sweep stop`: end a trial of a run that goes on elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.terminal.console import stdout


def stop(
    run: Annotated[Path, typer.Argument(help="A run folder; the run goes on in another terminal.")],
    trial: Annotated[int, typer.Option(help="Number of the trial.")],
    storage: Annotated[str | None, typer.Option(help="The Optuna storage URL, if the run was given one.")] = None,
) -> None:
    """Stop a trial of a run that goes on in another terminal, after the epoch under way.

    It ends as PRUNED with its curve, and its lane takes the next trial. The run itself is stopped by Ctrl-C where it
    runs.

        sweep stop runs/lr_rank-… --trial 7
    """
    from sweep.records.folder import RunFolder
    from sweep.search.steering import ask_to_stop

    ask_to_stop(RunFolder.open(run), trial, storage_url=storage)
    stdout.print(f"trial {trial} will be stopped after the epoch under way", highlight=False)
