"""`sweep resume`: go on with a run that was killed, interrupted, or stopped by an error."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import options


def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    study: Annotated[
        str | None, typer.Option(help="The study's file, for a study of your own; nothing else of the run is executed.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The file of your own backbone, if the run was given one: `./mine.py:build`.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="The Optuna storage URL, if the run was given one.")] = None,
    track: options.Track = None,
) -> None:
    """Go on with a run that was killed, interrupted, or stopped by an error.

    Trials that were in training go on from the last snapshot, a few seconds back; those that have ended stay. The
    tables will equal those of a run that nobody stopped. What `sweep run` was asked for holds, as the run folder has
    it.

        sweep resume runs/lr_rank-20261124-101500
    """
    from sweep.cli.outcome import carry_out_and_show
    from sweep.machine.paths import default_cache_dir
    from sweep.running.resume import resume_run
    from sweep.study.finding import load_study

    loaded = None if study is None else load_study(study)
    carry_out_and_show(
        lambda reporter: resume_run(
            run, loaded, backbone=backbone, storage_url=storage, cache_dir=default_cache_dir(), reporter=reporter
        ),
        run,
        track or (),
    )
