"""`sweep resume`: continue a run that was killed, interrupted, or stopped by an error."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import options, recorded_options, worker_options


def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    study: Annotated[
        str | None,
        typer.Option(
            help="The file of your study, if the run used one. A file is not executed only because a run folder "
            "names it."
        ),
    ] = None,
    backbone: recorded_options.OwnBackbone = None,
    data: recorded_options.MovedData = None,
    storage: recorded_options.StorageUrl = None,
    workers: worker_options.Workers = None,
    cluster: worker_options.ClusterAddress = None,
    worker_timeout: worker_options.WorkerTimeout = None,
    lanes_per_worker: worker_options.LanesPerWorker = None,
    track: options.Track = None,
) -> None:
    """Continue a run that was killed, interrupted, or stopped by an error.

    Finished trials are kept. Trials that were training continue from the last snapshot, which is a few seconds old, or
    older in a run with many lanes. At the end the tables are the same as if the run had never stopped. The options that
    `sweep run` was given are read from the run folder. Only files of your own (`--study`, `--backbone`), `--storage`,
    `--cluster`, `--worker-timeout`, `--lanes-per-worker` and `--track` have to be given again, if you need them.

        sweep resume runs/lr_rank-20261124-101500
    """
    from sweep.cli.outcome import carry_out_and_show
    from sweep.machine.paths import default_cache_dir
    from sweep.running.resume import resume_run
    from sweep.study.finding import load_study

    loaded = None if study is None else load_study(study)
    carry_out_and_show(
        lambda reporter: resume_run(
            run,
            loaded,
            backbone=backbone,
            data=data,
            storage_url=storage,
            cache_dir=default_cache_dir(),
            reporter=reporter,
            n_workers=workers,
            cluster=cluster,
            worker_timeout=worker_timeout,
            lanes_per_worker=lanes_per_worker,
        ),
        run,
        track or (),
    )
