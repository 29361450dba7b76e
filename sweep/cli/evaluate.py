"""`sweep evaluate`: measure an exported model on labelled data."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import data_options, recorded_options
from sweep.terminal.console import progress_bar, stdout


class SplitName(StrEnum):
    """What to measure the model on."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder that `sweep export` wrote.")],
    data: Annotated[
        str,
        typer.Argument(
            help="Labelled images or texts, in any form that `sweep run --data` takes.",
            autocompletion=data_options.complete_data,
        ),
    ],
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="The split to measure. If not given, the test split of data that have one, and otherwise everything."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables, with every number.")
    ] = False,
    image_root: data_options.ImageRoot = None,
    path_column: data_options.PathColumn = None,
    label_column: data_options.LabelColumn = None,
    accept_licence: data_options.AcceptLicence = None,
    on_bad_image: data_options.OnBadImageChoice = data_options.OnBadImage.ERROR,
    batch_size: Annotated[int, typer.Option(help="Images, or texts, in one forward pass.", min=1)] = 32,
    backbone: recorded_options.OwnBackbone = None,
    device: recorded_options.DeviceName = None,
    study: recorded_options.OwnStudy = None,
) -> None:
    """Measure an exported model on labelled data: metrics, confusion matrix and calibration.

    Classes are matched by name, so the data may lack some of the model's classes. Data that come without splits are
    measured as a whole. But if they are the data that the model was trained on, they are split as they were for the
    run, and only the test split is measured. Of an ensemble, every member is measured too.

        sweep evaluate shipped new-photos/

        sweep evaluate shipped photos.csv --json
    """
    import json

    from sweep.cli.show_evaluation import show_evaluation
    from sweep.data import TableOptions
    from sweep.export.config import ModelConfig
    from sweep.export.evaluated_data import evaluated_data
    from sweep.export.evaluation import evaluate as measured
    from sweep.export.loading import load_model
    from sweep.machine.device import device_named
    from sweep.machine.paths import default_cache_dir

    config = ModelConfig.read(model)
    loaded = load_model(model, device=device_named(device), backbone=backbone, study=study)
    found = evaluated_data(
        config,
        data,
        split=None if split is None else split.value,
        cache_dir=default_cache_dir(),
        on_bad_image=on_bad_image.value,
        accept_licence=accept_licence,
        table=TableOptions(image_root, path_column, label_column),
    )
    with progress_bar() as progress:
        bar = progress.add_task(found.split.kind, total=found.split.n_images)
        evaluation = measured(
            loaded,
            found,
            trials=[member.trial for member in config.members],
            batch_size=batch_size,
            on_progress=lambda count: progress.advance(bar, count),
        )
    if as_json:
        typer.echo(json.dumps(evaluation.as_json(), indent=2))
    else:
        show_evaluation(stdout, evaluation, of_the_run=found.of_the_run)
