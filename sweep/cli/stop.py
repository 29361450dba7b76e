"""`sweep stop`: ask a run in another terminal to end one of its trials."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import recorded_options
from sweep.terminal.console import stdout


def stop(
    run: Annotated[Path, typer.Argument(help="The folder of a run that is training in another terminal.")],
    trial: Annotated[int, typer.Option(help="Number of the trial to stop.")],
    storage: recorded_options.StorageUrl = None,
) -> None:
    """Stop one trial of a run that is training in another terminal.

    The trial ends after its current epoch. It keeps its learning curve, its state becomes PRUNED, and its lane takes
    the next trial. To stop the whole run, press Ctrl-C in the terminal where it runs.

        sweep stop runs/lr_rank-… --trial 7
    """
    from sweep.records.folder import RunFolder
    from sweep.search.steering import ask_to_stop

    ask_to_stop(RunFolder.open(run), trial, storage_url=storage)
    stdout.print(f"trial {trial} will stop after its current epoch", highlight=False)
