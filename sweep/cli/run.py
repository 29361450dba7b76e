"""`sweep run`: a study from names to answer."""

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import options
from sweep.cli.console import stderr, stdout

INTERRUPTED = 130


def run(
    study: options.StudyName,
    n_parallel: options.NParallel = "32",
    trials: options.Trials = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    backbone: options.BackboneName = None,
    image_size: options.ImageSize = None,
    data: options.Data = None,
    group_size: options.GroupSize = None,
    stages: options.Stages = None,
    modules_per_block: options.ModulesPerBlock = None,
    pool: options.PoolName = None,
    precision: options.PrecisionName = None,
    max_rank: options.MaxRank = None,
    seeds: options.Seeds = None,
    sampler: options.Sampler = None,
    seed: options.Seed = None,
    on_bad_image: options.OnBadImageChoice = options.OnBadImage.ERROR,
    device: options.DeviceName = None,
    time: Annotated[str | None, typer.Option(help="End the search after this long: `90s`, `10m`, `1h30m`.")] = None,
    target: Annotated[
        float | None, typer.Option(help="End the search when a trial's last epoch reaches this first objective.")
    ] = None,
    enqueue: Annotated[
        Path | None, typer.Option(help="CSV of trials to train first: a column a parameter, a row a trial.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; `runs/STUDY-TIME` if not given.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="An Optuna storage URL; a journal in the run folder if not given.")
    ] = None,
) -> None:
    """Train a study's trials together and rank them.

    Trials learn from the train split and are ranked by the study's objectives on val after their last epoch; the first
    is top-1 accuracy unless the study says otherwise. The winner, and a linear probe tuned on the same features, are
    evaluated once on test. The search ends with `--trials`, `--time` or `--target`, whichever comes first. Features of
    the images are computed once and kept in the cache (`$SWEEP_CACHE_DIR`, or `~/.cache/sweep`).

        sweep run --study lr_rank --n-parallel 32

        sweep run --study lr_rank --data ./photos --trials 64 --epochs 20

        sweep run --study lr_rank_halving --trials 200 --time 10m
    """
    from sweep.budget import Budget, parse_duration
    from sweep.cli.progress import reporter_for
    from sweep.cli.show import show_summary, show_trials
    from sweep.enqueued import read_enqueued
    from sweep.paths import default_cache_dir
    from sweep.results import load_results
    from sweep.run_folder import RunFolder
    from sweep.runner import run_study
    from sweep.study import LoadedStudy, load_study

    loaded = load_study(study)
    overridden = loaded.study.override(
        trials=trials,
        epochs=epochs,
        batch_size=batch_size,
        backbone=backbone,
        image_size=image_size,
        data=data,
        group_size=group_size,
        stages=options.stages_asked_for(stages),
        modules_per_block=modules_per_block,
        pool=pool,
        precision=precision,
        max_rank=max_rank,
        seeds=seeds,
        sampler=sampler,
        seed=seed,
    )
    budget = Budget(wall_seconds=None if time is None else parse_duration(time), target=target)
    out = out or Path("runs") / f"{loaded.name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        with closing(reporter_for(stderr)) as reporter:
            run_study(
                LoadedStudy(loaded.name, loaded.path, overridden),
                n_parallel=options.lanes_asked_for(n_parallel),
                out=out,
                storage_url=storage,
                device_name=device,
                cache_dir=default_cache_dir(),
                on_bad_image=on_bad_image.value,
                reporter=reporter,
                budget=budget,
                enqueued=[] if enqueue is None else read_enqueued(enqueue),
            )
    except KeyboardInterrupt:
        if RunFolder(out).trials_path.is_file():
            show_trials(stdout, load_results(out))
            stderr.print(f"interrupted; the table so far is in {out}", soft_wrap=True)
        else:
            stderr.print("interrupted before the first epoch; the features computed so far are kept")
        raise typer.Exit(INTERRUPTED) from None
    results = load_results(out)
    show_trials(stdout, results)
    show_summary(stdout, results, out)
