"""Options that several subcommands take: what a study declares, overridden, and how many lanes train together."""

from enum import StrEnum
from typing import Annotated

import typer

from sweep.errors import UsageError


class OnBadImage(StrEnum):
    """What to do with an image file that cannot be read."""

    ERROR = "error"
    SKIP = "skip"


StudyName = Annotated[str, typer.Option(help="A study's name, such as `lr_rank`, or the path of your own `./mine.py`.")]
NParallel = Annotated[
    str, typer.Option(help="Trials trained together in one stack; `auto` for as many as fit in memory.")
]
Trials = Annotated[int | None, typer.Option(help="Configurations to try.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images or texts, for every trial.")]
BatchSize = Annotated[int | None, typer.Option(help="Images, or texts, a step.")]
BackboneName = Annotated[
    str | None,
    typer.Option(
        help="A name that `sweep backbones` lists, your own (`./mine.py:build`), or a text network of transformers: a "
        "folder (`./gpt2`) or a name on the hub (`openai-community/gpt2`)."
    ),
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the backbone's input, in pixels.")]
ResizeName = Annotated[
    str | None,
    typer.Option(
        help="Of images that are no squares: `squash` the whole image into the backbone's input, or `crop`: keep its "
        "shape and cut out the centre, as timm does. Squashed if not given."
    ),
]
MaxTokens = Annotated[int | None, typer.Option(help="Of every text, so many tokens are read.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="A name (`sweep data` lists them), a folder with one subfolder a class, a VTAB-1K task or all of them, a "
        "table of images or texts (`.csv`, `.tsv`, `.parquet`), arrays (`.npz`), or a saved Hugging Face data set: "
        "docs/data.md."
    ),
]
ImageRoot = Annotated[
    str | None,
    typer.Option(help="Of a table of images: the folder that its paths are relative to. The table's if not given."),
]
PathColumn = Annotated[str | None, typer.Option(help="Of a table of images: the column of paths. `path` if not given.")]
LabelColumn = Annotated[str | None, typer.Option(help="Of a table: the column of labels. `label` if not given.")]
TaskName = Annotated[
    str | None, typer.Option(help="`classes`, `multi-label` or `regression`; told by the labels if not given.")
]
GroupSize = Annotated[int | None, typer.Option(help="g: blocks of the backbone between two side blocks.")]
Stages = Annotated[
    str | None,
    typer.Option(help="Instead of g: how many stages to spread over the backbone, or blocks to tap after, `3,6,12`."),
]
ModulesPerBlock = Annotated[int | None, typer.Option(help="T: attention modules in a side block.")]
PoolName = Annotated[
    str | None, typer.Option(help="What the head reads: `mean` of the patch tokens or of a text's, `class`, or `last`.")
]
PrecisionName = Annotated[
    str | None, typer.Option(help="Of products with frozen features: `fp32`, or `bf16` on a GPU.")
]
Augment = Annotated[
    str | None,
    typer.Option(
        help="Random changes of training images: `flip`, `crop`, `colour`, several such as `flip-crop`, or `none`."
    ),
]
Views = Annotated[
    int | None,
    typer.Option(help="V: augmented views of every training image to cache; epochs take them in turn. 4 if not given."),
]
CacheName = Annotated[
    str | None,
    typer.Option(
        help="`off`: run the backbone in every step, once for all lanes, on views that are fresh in every epoch; "
        "features of training images are then not kept."
    ),
]
MaxRank = Annotated[int | None, typer.Option(help="Rank that lanes are padded to; the study's largest.")]
Seeds = Annotated[
    int | None,
    typer.Option(help="Replicates of every configuration that differ in initialisation; ranked by their mean."),
]
Sampler = Annotated[
    str | None, typer.Option(help="`tpe`, `gp`, `random`, `grid` (values from the study), `nsga2`, `qmc` or `cmaes`.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the search, initialisation, data order and split.")]
OnBadImageChoice = Annotated[
    OnBadImage,
    typer.Option(
        help="An unreadable image: `error` stops and names it; `skip` decodes every file once more, before the "
        "split, and leaves the unreadable ones out, each said and recorded."
    ),
]
DeviceName = Annotated[str | None, typer.Option(help="`cpu`, `cuda`, `cuda:1`; the GPU if there is one.")]


def stages_asked_for(stages: str | None) -> int | tuple[int, ...] | None:
    """A number of stages, or the numbers of blocks.

    Raises:
        UsageError: It is neither.
    """
    if stages is None:
        return None
    try:
        blocks = tuple(int(part) for part in stages.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"--stages must be a number, or blocks such as 3,6,12, not {stages!r}") from error
    return blocks if "," in stages or not blocks else blocks[0]


def lanes_asked_for(n_parallel: str) -> int | None:
    """The number, or None for `auto`.

    Raises:
        UsageError: It is neither.
    """
    if n_parallel == "auto":
        return None
    try:
        return int(n_parallel)
    except ValueError as error:
        raise UsageError(f"--n-parallel must be a whole number or auto, not {n_parallel!r}") from error
