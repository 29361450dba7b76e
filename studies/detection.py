"""Which side-network finds objects best? Ladders and LAST, on images with boxes.

    sweep run --study detection --data FOLDER --n-parallel 16

The data are a folder in the layout of Pascal VOC or COCO (docs/dense.md). The side-network answers for a grid of cells,
four for each token of the backbone, with the classes of the cell's object and the edges of its box. Side-networks with
attention or convolutions compare every token with others; a linear probe of every token does not. Trials are ranked by
the average precision of COCO (AP), which is a mean over classes, so the boxes of every class count alike in the loss.
"""

import optuna

from sweep import Halving, LaneConfig, Study

FAMILIES = ("ladder", "convolution", "last")


def suggest(trial: optuna.Trial) -> LaneConfig:
    """The family, its rank, and learning rates."""
    family = trial.suggest_categorical("side_network", FAMILIES)
    slower = 4 if family == "last" else 1  # it learns on the backbone's own width
    lr = trial.suggest_float("lr", 1e-3, 3e-2, log=True) / slower
    return LaneConfig(
        side_network=family,
        attention=trial.suggest_categorical("attention", [False, True]) if family == "ladder" else False,
        lr=lr,
        head_lr_ratio=trial.suggest_float("head_lr", 1e-3, 3e-2, log=True) / lr,
        rank=trial.suggest_categorical("rank", [8, 16]),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        clip_norm=1.0,
    )


study = Study(
    suggest=suggest,
    baseline={
        "side_network": "convolution",
        "lr": 1e-2,
        "head_lr": 1e-2,
        "rank": 16,
        "weight_decay": 0.05,
    },
    task="detection",
    image_size=224,
    stages=(2, 4, 6, 8),
    class_weights="balanced",
    rank_buckets=(16,),
    batch_size=16,
    epochs=30,
    trials=48,
    halving=Halving(eta=3, first_rung=6),
)
