"""`sweep run`: a study from names to answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import options


def run(
    study: options.StudyName,
    n_parallel: options.NParallel = "32",
    trials: options.Trials = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    backbone: options.BackboneName = None,
    image_size: options.ImageSize = None,
    resize: options.ResizeName = None,
    max_tokens: options.MaxTokens = None,
    data: options.Data = None,
    image_root: options.ImageRoot = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    task: options.TaskName = None,
    group_size: options.GroupSize = None,
    stages: options.Stages = None,
    modules_per_block: options.ModulesPerBlock = None,
    pool: options.PoolName = None,
    precision: options.PrecisionName = None,
    augment: options.Augment = None,
    views: options.Views = None,
    cache: options.CacheName = None,
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
    is top-1 accuracy (mAP for several labels an image, R² for numbers) unless the study says otherwise. The winner,
    and a linear probe tuned on the same features, are evaluated once on test. The search ends with `--trials`, `--time`
    or `--target`, whichever comes first. A run that is stopped or killed goes on with `sweep resume`. Features are
    computed once and kept in the cache (`$SWEEP_CACHE_DIR`, or `~/.cache/sweep`).

        sweep run --study lr_rank --n-parallel 32

        sweep run --study lr_rank --data ./photos --trials 64 --epochs 20

        sweep run --study lr_rank_halving --trials 200 --time 10m

    With `--data mini-vtab`, or a folder of tasks (VTAB-1K's, or your own), every task is searched; its winner is
    trained again on train and val and tested once; group means and the flat mean of each metric are printed.
    """
    from sweep.api import run as api
    from sweep.cli.outcome import carry_out_and_show
    from sweep.study.finding import load_study

    loaded = load_study(study)
    carry_out: Callable[..., object] = api.run_tasks if api.names_tasks(loaded, data) else api.run
    lanes = options.lanes_asked_for(n_parallel)
    out = out or api.new_run_path(loaded.name)
    carry_out_and_show(
        lambda reporter: carry_out(
            loaded,
            n_parallel=lanes,
            out=out,
            time=time,
            target=target,
            enqueue=enqueue or (),
            storage=storage,
            device=device,
            on_bad_image=on_bad_image.value,
            reporter=reporter,
            trials=trials,
            epochs=epochs,
            batch_size=batch_size,
            backbone=backbone,
            image_size=image_size,
            resize=resize,
            max_tokens=max_tokens,
            data=data,
            image_root=image_root,
            path_column=path_column,
            label_column=label_column,
            task=task,
            group_size=group_size,
            stages=options.stages_asked_for(stages),
            modules_per_block=modules_per_block,
            pool=pool,
            precision=precision,
            augment=augment,
            views=views,
            cache=cache,
            max_rank=max_rank,
            seeds=seeds,
            sampler=sampler,
            seed=seed,
        ),
        out,
    )
