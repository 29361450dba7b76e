"""Options of a new run or its plan, sorted into the panels under which `--help` lists them."""

from typing import Annotated

import typer

from sweep.errors import UsageError

SEARCH = "What to search"
BACKBONE = "Backbone"
SIDE_NETWORKS = "Side-networks"
TRAINING = "Training"
BUDGET = "Budget"
PLACE = "Where it runs and is kept"


def complete_studies(incomplete: str) -> list[str]:
    """Names of studies that begin like this, for the shell."""
    from sweep.study.finding import study_names

    return [name for name in study_names() if name.startswith(incomplete)]


StudyName = Annotated[
    str,
    typer.Option(
        autocompletion=complete_studies,
        help="The name of a study, such as `lr_rank`, or the path of a study file of yours, such as `./mine.py`.",
        rich_help_panel=SEARCH,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="Who proposes configurations: `tpe`, `gp`, `random`, `grid` (over the values that the study lists), "
        "`nsga2`, `qmc` or `cmaes`.",
        rich_help_panel=SEARCH,
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        help="Train every configuration this many times, from different initial weights, and rank it by the mean.",
        rich_help_panel=SEARCH,
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        help="Cross-validation: divide the images of train and val into this many folds, train every configuration "
        "once for each fold on the other folds, and rank it by the mean. The winner is trained again on all of them.",
        rich_help_panel=SEARCH,
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(help="With `--folds`: divide the images this many times, in different ways.", rich_help_panel=SEARCH),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="The random seed of the proposals, initial weights, data order and split.", rich_help_panel=SEARCH
    ),
]

BackboneName = Annotated[
    str | None,
    typer.Option(
        help="One of: a name that `sweep backbones` lists; a network of your own (`./mine.py:build`); a text network "
        "of Hugging Face transformers, as a folder (`./gpt2`) or a name on the hub (`openai-community/gpt2`).",
        rich_help_panel=BACKBONE,
    ),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of the backbone's input, in pixels.", rich_help_panel=BACKBONE)
]
MaxTokens = Annotated[
    int | None,
    typer.Option(help="How many tokens of each text are read; 128 if not given.", rich_help_panel=BACKBONE),
]
GroupSize = Annotated[
    int | None,
    typer.Option(help="Read the backbone's features after every this many blocks.", rich_help_panel=BACKBONE),
]
Stages = Annotated[
    str | None,
    typer.Option(
        help="Instead of `--group-size`: how many stages to read, evenly spread over the backbone (`4`), or the blocks "
        "after which to read them (`3,6,12`; `2,` for block 2 alone).",
        rich_help_panel=BACKBONE,
    ),
]

SideNetwork = Annotated[
    str | None,
    typer.Option(
        help="The family of side-networks: `last`, `granular_last`, `gated_last`, `ladder`, `convolution`, "
        "`full_convolution`, `mixer`, `multi_stage` or `probe`; see docs/side-networks.md.",
        rich_help_panel=SIDE_NETWORKS,
    ),
]
Attention = Annotated[
    bool | None,
    typer.Option("--attention/--no-attention", help="Attention in a ladder.", rich_help_panel=SIDE_NETWORKS),
]
Mlp = Annotated[bool | None, typer.Option("--mlp/--no-mlp", help="MLPs in a ladder.", rich_help_panel=SIDE_NETWORKS)]
ReadOut = Annotated[
    str | None,
    typer.Option(
        help="What the head of a ladder reads: `pooled`, `attention`, `tokens`, `compact` or `both`. With "
        "`class`, the head of any family reads the class token. See docs/side-networks.md.",
        rich_help_panel=SIDE_NETWORKS,
    ),
]
ModulesPerBlock = Annotated[
    int | None, typer.Option(help="Attention modules in each block of a side-network.", rich_help_panel=SIDE_NETWORKS)
]
Parts = Annotated[
    int | None,
    typer.Option(
        help="Parts into which `granular_last` divides channels and rank. If not given, 2 up to rank 32, and 4 above.",
        rich_help_panel=SIDE_NETWORKS,
    ),
]
HeadStages = Annotated[
    int | None,
    typer.Option(
        help="For segmentation and detection: how many stages the head reads, from the last one backwards.",
        rich_help_panel=SIDE_NETWORKS,
    ),
]
HeadCells = Annotated[
    int | None,
    typer.Option(
        help="For segmentation: for how many rows and columns of places a token answers: 1, 2 or 4.",
        rich_help_panel=SIDE_NETWORKS,
    ),
]
PoolName = Annotated[
    str | None,
    typer.Option(
        help="Which tokens the classification head reads: `mean` (the average over an image's patches, or over a "
        "text's tokens), `class` (the class token) or `last` (a text's last token).",
        rich_help_panel=SIDE_NETWORKS,
    ),
]
MaxRank = Annotated[
    int | None,
    typer.Option(help="The largest rank that a trial may have.", rich_help_panel=SIDE_NETWORKS),
]

Epochs = Annotated[
    int | None,
    typer.Option(help="How often every trial passes over the training data.", rich_help_panel=TRAINING),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Images (or texts) in one training step.", rich_help_panel=TRAINING)
]
ClassWeights = Annotated[
    str | None,
    typer.Option(
        help="`balanced` lets every class (or label) count alike in the loss, however many images it has; `none` lets "
        "every image count alike. A study file can give a number for each class.",
        rich_help_panel=TRAINING,
    ),
]
LabelWords = Annotated[
    bool | None,
    typer.Option(
        "--label-words/--no-label-words",
        help="Start heads from the names of the classes, in the vocabulary of a causal language model. A study file "
        "can give other words for each class.",
        rich_help_panel=TRAINING,
    ),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        help="The arithmetic of matrix products with frozen features: `fp32`, or `bf16` on a GPU.",
        rich_help_panel=TRAINING,
    ),
]

Retrain = Annotated[
    bool | None,
    typer.Option(
        "--retrain/--no-retrain",
        help="At the end, train the winner and the linear probe again on training and validation data together. The "
        "test data are then used for these models, and `sweep export` exports this winner.",
        rich_help_panel=TRAINING,
    ),
]
Trials = Annotated[int | None, typer.Option(help="How many configurations to try.", rich_help_panel=BUDGET)]

NParallel = Annotated[
    str,
    typer.Option(
        help="How many lanes train at a time; `auto` for as many as fit in memory. A trial takes one lane, or with "
        "`--seeds` or `--folds` several.",
        rich_help_panel=PLACE,
    ),
]
DEVICE_HELP = "`cpu`, `cuda` or `cuda:1`. If not given, the GPU if there is one."
RunDevice = Annotated[str | None, typer.Option(help=DEVICE_HELP, rich_help_panel=PLACE)]

Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Also log to `tensorboard`, `mlflow` or `wandb`. Each needs the extra of the same name. May be given "
        "several times; see docs/trackers.md.",
        rich_help_panel=PLACE,
    ),
]


def stages_asked_for(stages: str | None) -> int | tuple[int, ...] | None:
    """Parse `--stages`: a number of stages, or the numbers of the blocks to read after.

    Raises:
        UsageError: The text is neither.
    """
    if stages is None:
        return None
    try:
        blocks = tuple(int(part) for part in stages.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"--stages must be a number of stages, or blocks such as 3,6,12, not {stages!r}") from error
    return blocks if "," in stages or not blocks else blocks[0]


def lanes_asked_for(n_parallel: str) -> int | None:
    """Parse `--n-parallel`: the number of lanes, or None for `auto`.

    Raises:
        UsageError: The text is neither.
    """
    if n_parallel == "auto":
        return None
    try:
        return int(n_parallel)
    except ValueError as error:
        raise UsageError(f"--n-parallel must be a whole number or auto, not {n_parallel!r}") from error
