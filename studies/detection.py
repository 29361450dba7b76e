"""Which side-network finds objects best? Ladders, two kinds of convolutions, and LAST, on images with boxes.

    sweep run --study detection --data FOLDER --n-parallel 16

The data are a folder in the layout of Pascal VOC or COCO (docs/dense.md). The side-network answers for a grid of cells,
four for each token of the backbone, with the classes of the cell's object and the edges of its box. Side-networks with
attention or convolutions compare every token with others; a linear probe of every token does not. A box begins and ends
in other tokens than the one that answers for it, so the search begins with `full_convolution`, which reads each of the
eight neighbours by weights of its own. It learns that only from views in which objects lie at other places of the grid
of tokens: eight cached views of every training image, flipped and cropped at random (`--augment none` leaves them out).
Trials are ranked by the average precision of COCO (AP), which is a mean over classes, so the boxes of every class count
alike in the loss.
"""

import optuna

from sweep import Halving, LaneConfig, Study

FAMILIES = ("full_convolution", "convolution", "ladder", "last")


def suggest(trial: optuna.Trial) -> LaneConfig:
    """The family, its rank, and learning rates."""
    family = trial.suggest_categorical("side_network", FAMILIES)
    slower = 4 if family == "last" else 1  # it learns on the backbone's own width
    lr = trial.suggest_float("lr", 1e-3, 3e-2, log=True) / slower
    return LaneConfig(
        side_network=family,
        attention=trial.suggest_categorical("attention", [False, True]) if family == "ladder" else False,
        lr=lr,
        head_lr_ratio=trial.suggest_float("head_lr", 5e-4, 1e-2, log=True) / lr,
        rank=trial.suggest_categorical("rank", [8, 16, 32]),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        clip_norm=1.0,
    )


def started(family: str, **choices: object) -> dict[str, object]:
    """The parameters of a trial to begin with: a family, and what differs from its usual values."""
    values = {"side_network": family, "lr": 5e-3, "head_lr": 2e-3, "rank": 32, "weight_decay": 0.05, **choices}
    return {**values, "attention": True} if family == "ladder" else values


FIRST = (
    started("full_convolution"),
    started("full_convolution", lr=1e-2),
    started("last", lr=4e-3, rank=16),
    started("ladder"),
    started("convolution"),
)
"""The search begins with every family. `full_convolution` did best by hand (docs/benchmarks/masks-and-boxes.md)."""

study = Study(
    suggest=suggest,
    baseline={
        "side_network": "convolution",
        "lr": 1e-2,
        "head_lr": 1e-2,
        "rank": 16,
        "weight_decay": 0.05,
    },
    enqueue=FIRST,
    task="detection",
    image_size=224,
    stages=(2, 4, 6, 8),
    class_weights="balanced",
    augment="flip-crop",
    views=8,
    rank_buckets=(16, 32),
    batch_size=16,
    epochs=48,
    trials=48,
    halving=Halving(eta=3, first_rung=24),  # at epoch 6, full_convolution is still behind
)
