"""Which side-network finds the class of every pixel best? Ladders and LAST, on images with masks.

    sweep run --study segmentation --n-parallel 16

By default the task is to tell the tissues in slices of a brain apart (`--data brain-slices`, 4 classes). Give your own
images and masks, or annotations in COCO's form, with `--data FOLDER` (docs/dense.md). Side-networks with attention or
convolutions compare every token with others; a linear probe of every token does not. Heads read all four stages, two of
them early, where tokens still say what their pixels look like. A token answers for 4 x 4 places, because masks are
finer than the grid of tokens. Side-networks learn from eight cached views of every training image, flipped and cropped
at random, in which the edges of a mask lie at other places of that grid (`--augment none` leaves them out). Trials are
ranked by the mean intersection over union (mIoU).
"""

import optuna

from sweep import Halving, LaneConfig, Study

FAMILIES = ("ladder", "convolution", "last")


def suggest(trial: optuna.Trial) -> LaneConfig:
    """The family, its rank, the loss, and learning rates."""
    family = trial.suggest_categorical("side_network", FAMILIES)
    slower = 4 if family == "last" else 1  # it learns on the backbone's own width
    lr = trial.suggest_float("lr", 1e-3, 2e-2, log=True) / slower
    return LaneConfig(
        side_network=family,
        attention=trial.suggest_categorical("attention", [False, True]) if family == "ladder" else False,
        lr=lr,
        head_lr_ratio=trial.suggest_float("head_lr", 4e-3, 2e-2, log=True) / lr,
        rank=trial.suggest_categorical("rank", [8, 16]),
        loss=trial.suggest_categorical("loss", ["cross_entropy", "dice"]),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        clip_norm=1.0,
    )


study = Study(
    suggest=suggest,
    baseline={
        "side_network": "convolution",
        "lr": 5e-3,
        "head_lr": 1e-2,
        "rank": 16,
        "loss": "cross_entropy",
        "weight_decay": 0.05,
    },
    data="brain-slices",
    task="segmentation",
    image_size=224,
    stages=(1, 2, 4, 8),
    head_stages=4,
    head_cells=4,
    augment="flip-crop",
    views=8,
    rank_buckets=(16,),
    batch_size=16,
    epochs=60,
    trials=48,
    halving=Halving(eta=3, first_rung=20),
)
