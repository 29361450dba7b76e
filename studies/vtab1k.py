"""VTAB-1K: choose on val200, train the winner again on all 1,000 images, test once; compare with published results.

    sweep run --study vtab1k --data ./vtab-1k

`./vtab-1k` has a folder for each task, as in docs/data.md; every task that is found is searched. The backbone is
ViT-B/16, pretrained on ImageNet-21k, with timm's normalisation (mean and standard deviation 0.5) and a stage after
every block. There is no augmentation, as in the nearest public recipe. Trials train for 100 epochs after 10 of warm-up.
You will want a GPU; see what it costs with `sweep plan --study vtab1k --data ./vtab-1k/cifar`.
"""

import optuna

from sweep import LaneConfig, Study


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Search the learning rates of modules and head, and the rank."""
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        head_lr_ratio=trial.suggest_float("head_lr_ratio", 1, 10, log=True),
        rank=trial.suggest_categorical("rank", [4, 8, 16]),
        weight_decay=0.05,
        warmup_epochs=10,
    )


study = Study(
    suggest=suggest,
    baseline={"lr": 1e-3, "head_lr_ratio": 1.0, "rank": 16},
    max_rank=16,
    backbone="vit_base_patch16_224.augreg_in21k",
    data="vtab-1k",
    epochs=110,
)
