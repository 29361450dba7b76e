"""`sweep run`: run a study and show its results."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import data_options, options, worker_options


def run(
    study: options.StudyName,
    sampler: options.Sampler = None,
    seeds: options.Seeds = None,
    folds: options.Folds = None,
    repeats: options.Repeats = None,
    seed: options.Seed = None,
    enqueue: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file of configurations to try first: one column per parameter, one row per trial.",
            rich_help_panel=options.SEARCH,
        ),
    ] = None,
    data: data_options.Data = None,
    image_root: data_options.ImageRoot = None,
    path_column: data_options.PathColumn = None,
    label_column: data_options.LabelColumn = None,
    task: data_options.TaskName = None,
    accept_licence: data_options.AcceptLicence = None,
    augment: data_options.Augment = None,
    views: data_options.Views = None,
    cache: data_options.CacheName = None,
    test: data_options.Test = None,
    on_bad_image: data_options.OnBadImageChoice = data_options.OnBadImage.ERROR,
    backbone: options.BackboneName = None,
    image_size: options.ImageSize = None,
    resize: data_options.ResizeName = None,
    max_tokens: options.MaxTokens = None,
    group_size: options.GroupSize = None,
    stages: options.Stages = None,
    side_network: options.SideNetwork = None,
    attention: options.Attention = None,
    mlp: options.Mlp = None,
    read_out: options.ReadOut = None,
    modules_per_block: options.ModulesPerBlock = None,
    parts: options.Parts = None,
    head_stages: options.HeadStages = None,
    head_cells: options.HeadCells = None,
    pool: options.PoolName = None,
    max_rank: options.MaxRank = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    class_weights: options.ClassWeights = None,
    label_words: options.LabelWords = None,
    retrain: options.Retrain = None,
    precision: options.PrecisionName = None,
    trials: options.Trials = None,
    time: Annotated[
        str | None,
        typer.Option(help="End the search after this long: `90s`, `10m`, `1h30m`.", rich_help_panel=options.BUDGET),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="End the search once a trial, after its last epoch, reaches this value of the first objective.",
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    n_parallel: options.NParallel = "32",
    device: options.RunDevice = None,
    workers: worker_options.Workers = None,
    cluster: worker_options.ClusterAddress = None,
    worker_timeout: worker_options.WorkerTimeout = None,
    lanes_per_worker: worker_options.LanesPerWorker = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder to create; `runs/STUDY-TIME` if not given.", rich_help_panel=options.PLACE),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="The URL of an Optuna storage; a journal file in the run folder if not given.",
            rich_help_panel=options.PLACE,
        ),
    ] = None,
    track: options.Track = None,
) -> None:
    """Train the trials of a study together, and rank them.

    Every trial learns from the training split. Trials are ranked by the study's objectives on the validation split,
    after their last epoch. If the study does not name objectives, they are ranked by top-1 accuracy; by mAP where an
    image may have several labels; by R² where numbers are predicted; by mIoU for segmentation; and by AP for detection.
    At the end the winner, and a linear probe tuned on the same features, are evaluated once on the test split.

    The search ends with `--trials`, `--time` or `--target`, whichever comes first. If it is stopped or killed, `sweep
    resume` continues it. The backbone's features are computed once and kept in the cache (`$SWEEP_CACHE_DIR`, or
    `~/.cache/sweep`). The study declares a value for most options; an option that you give replaces it in
    every trial of this run.

        sweep run --study lr_rank --n-parallel 32

        sweep run --study lr_rank --data ./photos --trials 64 --epochs 20

        sweep run --study lr_rank_halving --trials 200 --time 10m

    With `--data mini-vtab`, or with a folder of tasks (VTAB-1K's or your own), each task is searched in turn. The
    winner of each is trained again on training and validation data together and tested once. The output has the mean
    over groups of tasks and the mean over all tasks, for each metric.
    """
    from sweep.api import run as api
    from sweep.cli.outcome import carry_out_and_show
    from sweep.study.finding import load_study

    loaded = load_study(study)
    carry_out: Callable[..., object] = api.run_tasks if api.names_tasks(loaded, data) else api.run
    lanes = options.lanes_asked_for(n_parallel)
    with api.new_run_folder(loaded.name, out) as folder:
        carry_out_and_show(
            lambda reporter: carry_out(
                loaded,
                n_parallel=lanes,
                out=folder,
                time=time,
                target=target,
                enqueue=enqueue or (),
                storage=storage,
                device=device,
                workers=workers or 0,
                cluster=cluster,
                worker_timeout=worker_timeout,
                lanes_per_worker=lanes_per_worker,
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
                accept_licence=accept_licence,
                group_size=group_size,
                stages=options.stages_asked_for(stages),
                side_network=side_network,
                attention=attention,
                mlp=mlp,
                read_out=read_out,
                modules_per_block=modules_per_block,
                parts=parts,
                head_stages=head_stages,
                head_cells=head_cells,
                pool=pool,
                class_weights=class_weights,
                label_words=label_words,
                test=test,
                retrain=retrain,
                precision=precision,
                augment=augment,
                views=views,
                cache=cache,
                max_rank=max_rank,
                seeds=seeds,
                folds=folds,
                repeats=repeats,
                sampler=sampler,
                seed=seed,
            ),
            folder,
            track or (),
        )
