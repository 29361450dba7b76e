"""Options of the data that a command reads."""

from enum import StrEnum
from typing import Annotated

import typer

DATA = "Data"


class OnBadImage(StrEnum):
    """What to do with an image file that cannot be read."""

    ERROR = "error"
    SKIP = "skip"


def complete_data(incomplete: str) -> list[str]:
    """Names of data sets and suites that begin like this, for the shell."""
    from sweep.data.packaged import DATA_SETS
    from sweep.data.suites import PACKAGED_SUITES

    return [name for name in (*DATA_SETS, *PACKAGED_SUITES) if name.startswith(incomplete)]


Data = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete_data,
        help="One of: a name that `sweep data` lists; a folder with one subfolder per class; a table of images or "
        "texts (`.csv`, `.tsv`, `.parquet`); arrays (`.npz`); a folder of images with masks or boxes; a saved Hugging "
        "Face data set; a VTAB-1K task, or the folder of all tasks. docs/data.md explains each.",
        rich_help_panel=DATA,
    ),
]
ImageRoot = Annotated[
    str | None,
    typer.Option(
        help="For a table of images: the folder that its paths start from; the table's own folder if not given.",
        rich_help_panel=DATA,
    ),
]
PathColumn = Annotated[
    str | None,
    typer.Option(help="For a table of images: the column with the paths; `path` if not given.", rich_help_panel=DATA),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="For a table: the column with the labels; `label` if not given.", rich_help_panel=DATA),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        help="`classes`, `multi-label`, `regression`, `segmentation` or `detection`. If not given, sweep decides by "
        "looking at the labels.",
        rich_help_panel=DATA,
    ),
]
AcceptLicence = Annotated[
    str | None,
    typer.Option(
        help="The licence that you accept, for data whose licence is restricted; `sweep data` names it.",
        rich_help_panel=DATA,
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        help="Change training images at random: `flip`, `crop`, `colour`, `affine`, a combination such as "
        "`flip-crop`, or `none`.",
        rich_help_panel=DATA,
    ),
]
Views = Annotated[
    int | None,
    typer.Option(
        help="How many augmented views of every training image to compute and cache (4 if not given). Epochs use them "
        "in turn.",
        rich_help_panel=DATA,
    ),
]
CacheName = Annotated[
    str | None,
    typer.Option(
        help="`on` keeps the features of the training images on disk. `off` runs the backbone in every training step "
        "instead, once for all lanes, so every epoch sees freshly augmented images.",
        rich_help_panel=DATA,
    ),
]
Test = Annotated[
    bool | None,
    typer.Option(
        "--test/--no-test",
        help="Evaluate the winner and the linear probe on the test data at the end. With `--no-test`, nothing is "
        "computed for the test data; `sweep evaluate` can do it later, with the exported model.",
        rich_help_panel=DATA,
    ),
]
OnBadImageChoice = Annotated[
    OnBadImage,
    typer.Option(
        help="What to do with an image that cannot be read, or a box that cannot be used. `error` stops and names it. "
        "`skip` decodes every file once before the data is split, leaves out what cannot be used, and lists it in the "
        "run's record.",
        rich_help_panel=DATA,
    ),
]
ResizeName = Annotated[
    str | None,
    typer.Option(
        help="How an image that is not square becomes the backbone's square input. `centre` keeps its proportions and "
        "takes the largest square in its centre; `crop` takes somewhat less, as timm does; `squash` resizes the whole "
        "image. If not given, `centre` for your own data, and `squash` for images with masks or boxes, for data sets "
        "that have a name, and for VTAB-1K.",
        rich_help_panel=DATA,
    ),
]
