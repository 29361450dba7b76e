"""`sweep plan`: estimate what a study will cost before it runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sweep.cli import data_options, options
from sweep.tasks.inputs import Kind
from sweep.terminal.console import stdout

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.running.planner import Plan
    from sweep.running.shape_plan import ShapePlan


def plan(
    study: options.StudyName,
    sampler: options.Sampler = None,
    seeds: options.Seeds = None,
    folds: options.Folds = None,
    repeats: options.Repeats = None,
    seed: options.Seed = None,
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
    n_parallel: options.NParallel = "32",
    device: options.RunDevice = None,
) -> None:
    """Estimate what a run will cost: seconds, disk space, and memory per lane.

    The command loads the backbone and the data, and times a few images and a few training steps. It trains no trial and
    creates no run folder. It takes the options of `sweep run` that decide the cost.
    """
    from sweep.data.summary import summary, warn_of_shared_items
    from sweep.machine.device import device_named
    from sweep.machine.paths import default_cache_dir
    from sweep.records.reporter import Reporter
    from sweep.running.planner import plan_features, plan_study
    from sweep.running.preparation import prepare
    from sweep.running.settings import ShapeSettings
    from sweep.running.shape_plan import ShapePlanner
    from sweep.study.finding import load_study
    from sweep.study.fixed import with_options

    declared = dict(
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
    )
    overridden = with_options(load_study(study).study, declared)
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
    settings = ShapeSettings(prepared, cache_dir, Reporter(), record=lambda source: None)
    planner = ShapePlanner(settings, plan_study(plan_features(prepared, cache_dir), prepared))
    show_plan(stdout, planner.whole(), prepared.data.kind)
    show_shapes(stdout, planner.shapes())


def show_plan(console: Console, plan: "Plan", kind: Kind = "images") -> None:
    """Print a plan, one line per cost."""
    n_cached = plan.n_images - plan.n_images_missing
    spread = f" if trials spread evenly over {plan.n_shapes} shapes" if plan.n_shapes > 1 else ""
    live = [("train features", f"{plan.live_wall_seconds:.1f} s in every epoch of a stack; they are not kept")]
    form: str = plan.form
    if plan.direct_work_ratio is not None:
        form += f"; the direct form would take about {plan.direct_work_ratio:.1f} times the work"
    table = Table(show_header=False, box=None)
    for name, value in (
        (
            "feature pass",
            f"{plan.feature_wall_seconds:.1f} s for {plan.n_images_missing} {kind}; {n_cached} are in the cache",
        ),
        ("feature cache", f"{_size(plan.cache_bytes)} on disk for {plan.n_images} {kind}"),
        *(live if plan.live_wall_seconds else []),
        ("memory", f"{_size(plan.available_bytes)} available"),
        ("shared by all lanes", _size(plan.shared_bytes)),
        ("each lane", _size(plan.bytes_per_lane)),
        ("lanes that fit", f"{plan.lanes_that_fit}"),
        ("stack", f"up to {plan.n_parallel} lanes"),
        (
            "epochs",
            f"{plan.n_epochs} per trial, of {plan.steps_per_epoch} steps; {plan.lane_epochs:.0f} in all lanes together",
        ),
        ("search", f"{plan.search_wall_seconds:.1f} s{spread}"),
        ("form", form),
        ("work of a step", f"{plan.multiply_adds / 1e6:.3g} million multiply-adds, a lane and an image"),
    ):
        table.add_row(name, value)
    console.print(table, highlight=False)


def show_shapes(console: Console, shapes: "Sequence[ShapePlan]") -> None:
    """Print a row for each shape that lanes of the study may have."""
    if not shapes:
        return
    table = Table(title="If the sampler spreads its trials evenly over the space")
    for column in ("lanes", "share", "features", "missing", "their pass", "a lane", "an epoch of a lane"):
        table.add_column(column, justify="left" if column == "lanes" else "right")
    for shape in shapes:
        if shape.error:
            table.add_row(shape.shape, f"{shape.share:.0%}", shape.error)
            continue
        table.add_row(
            shape.shape,
            f"{shape.share:.0%}",
            _size(shape.cache_bytes),
            str(shape.n_images_missing),
            f"{shape.feature_wall_seconds:.1f} s",
            _size(shape.bytes_per_lane),
            f"{1000 * shape.lane_epoch_seconds:.0f} ms",
        )
    console.print(table, highlight=False)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.4g} MiB"
