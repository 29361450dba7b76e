"""Which backbone, at which image size, tapped how often? With the learning rates and the rank that suit it.

    sweep run --study which_backbone --n-parallel 32

Two packaged backbones at two image sizes each. Their features are computed when the first trial needs them, once for
all trials. Give it your own images with `--data FOLDER`.
"""

import optuna

from sweep import Halving, LaneConfig, Study


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Backbone, image size and stages, which decide the lane's stack; then what may differ inside a stack."""
    return LaneConfig(
        backbone=trial.suggest_categorical("backbone", ["dinov2_small_focus", "efficientnet_lite0"]),
        image_size=trial.suggest_categorical("image_size", [56, 112]),
        stages=trial.suggest_categorical("stages", [3, 6]),
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        head_lr_ratio=trial.suggest_float("head_lr_ratio", 0.5, 10, log=True),
        rank=trial.suggest_categorical("rank", [2, 8]),
    )


study = Study(
    suggest=suggest,
    baseline={
        "backbone": "dinov2_small_focus",
        "image_size": 112,
        "stages": 3,
        "lr": 2e-3,
        "head_lr_ratio": 4.0,
        "rank": 8,
    },
    trials=72,
    halving=Halving(eta=3, first_rung=3),
)
