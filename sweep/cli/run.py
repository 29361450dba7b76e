"""`sweep run`: a study from names to answer."""

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.console import stderr, stdout

INTERRUPTED = 130


def run(
    study: Annotated[str, typer.Option(help="A study's name, such as `lr_rank`, or the path of your own `./mine.py`.")],
    n_parallel: Annotated[int, typer.Option(help="Trials trained together in one stack.")] = 32,
    trials: Annotated[int | None, typer.Option(help="Configurations to try.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images, for every trial.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="`dinov2_small_focus`, or any timm Vision Transformer whose weights can be had."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the backbone's input, in pixels.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="`count`, `mnist`, `mnist-count`, a folder with one subfolder a class, or a VTAB-1K task."),
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="g: blocks of the backbone between two side blocks.")] = None,
    modules_per_block: Annotated[int | None, typer.Option(help="T: attention modules in a side block.")] = None,
    pool: Annotated[
        str | None, typer.Option(help="What the head reads: `mean` of the patch tokens, or `class`.")
    ] = None,
    max_rank: Annotated[int | None, typer.Option(help="Rank that lanes are padded to; the study's largest.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search, initialisation, data order and split.")] = None,
    device: Annotated[str | None, typer.Option(help="`cpu`, `cuda`, `cuda:1`; the GPU if there is one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; `runs/STUDY-TIME` if not given.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="An Optuna storage URL; a journal in the run folder if not given.")
    ] = None,
) -> None:
    """Train a study's trials together and rank them.

    Trials learn from the train split and are ranked by top-1 accuracy on val after their last epoch. The winner,
    and a linear probe tuned on the same features, are evaluated once on test. Features of the images are computed
    once and kept in the cache (`$SWEEP_CACHE_DIR`, or `~/.cache/sweep`).

        sweep run --study lr_rank --n-parallel 32

        sweep run --study lr_rank --data ./photos --trials 64 --epochs 20
    """
    from sweep.cli.progress import reporter_for
    from sweep.cli.show import show_summary, show_trials
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
        modules_per_block=modules_per_block,
        pool=pool,
        max_rank=max_rank,
        seed=seed,
    )
    out = out or Path("runs") / f"{loaded.name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        with closing(reporter_for(stderr)) as reporter:
            run_study(
                LoadedStudy(loaded.name, loaded.path, overridden),
                n_parallel=n_parallel,
                out=out,
                storage_url=storage,
                device_name=device,
                cache_dir=default_cache_dir(),
                reporter=reporter,
            )
    except KeyboardInterrupt:
        if RunFolder(out).trials_path.is_file():
            show_trials(stdout, load_results(out).trials)
            stderr.print(f"interrupted; the table so far is in {out}", soft_wrap=True)
        else:
            stderr.print("interrupted before the first epoch; the features computed so far are kept")
        raise typer.Exit(INTERRUPTED) from None
    results = load_results(out)
    show_trials(stdout, results.trials)
    show_summary(stdout, results, out)
