"""`sweep plan`: what a study will cost, before anything runs."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sweep.cli import options
from sweep.tasks.inputs import Kind
from sweep.terminal.console import stdout

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.running.planner import Plan


def plan(
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
) -> None:
    """Print what `sweep run` with the same options will cost: seconds, disk, and memory a lane.

    Loads the backbone and the data, and times a few images and a few steps. Trains no trial and writes no run folder.
    """
    from sweep.data.summary import summary, warn_of_shared_items
    from sweep.machine.device import device_named
    from sweep.machine.paths import default_cache_dir
    from sweep.running.planner import plan_features, plan_study
    from sweep.running.preparation import prepare
    from sweep.study.finding import load_study

    overridden = load_study(study).study.override(
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
    )
    cache_dir = default_cache_dir()
    prepared = prepare(
        overridden,
        n_parallel=options.lanes_asked_for(n_parallel),
        device=device_named(device),
        cache_dir=cache_dir,
        on_bad_image=on_bad_image.value,
    )
    stdout.print(f"data: {summary(prepared.data)}", soft_wrap=True, highlight=False, markup=False)
    warn_of_shared_items(prepared.data)
    show_plan(stdout, plan_study(plan_features(prepared, cache_dir), prepared), prepared.data.kind)


def show_plan(console: Console, plan: "Plan", kind: Kind = "images") -> None:
    """Print a plan, one line a cost."""
    n_cached = plan.n_images - plan.n_images_missing
    live = [("train features", f"{plan.live_wall_seconds:.1f} s in every epoch of a stack; none is kept")]
    table = Table(show_header=False, box=None)
    for name, value in (
        ("feature pass", f"{plan.feature_wall_seconds:.1f} s: {plan.n_images_missing} {kind}, {n_cached} in the cache"),
        ("feature cache", f"{_size(plan.cache_bytes)} on disk for {plan.n_images} {kind}"),
        *(live if plan.live_wall_seconds else []),
        ("memory", f"{_size(plan.available_bytes)} available"),
        ("shared by lanes", _size(plan.shared_bytes)),
        ("a lane", _size(plan.bytes_per_lane)),
        ("lanes that fit", f"{plan.lanes_that_fit}"),
        ("stack", f"up to {plan.n_parallel} lanes"),
        ("epochs", f"{plan.n_epochs} of {plan.steps_per_epoch} steps; {plan.lane_epochs:.0f} for all lanes together"),
        ("search", f"{plan.search_wall_seconds:.1f} s"),
        ("form", f"{plan.form}; the direct form has {plan.direct_work_ratio:.1f} times its work (estimate)"),
    ):
        table.add_row(name, value)
    console.print(table, highlight=False)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.4g} MiB"
