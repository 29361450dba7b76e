"""Which loss and rank? A search for accuracy, calibration and size at once, which gives a Pareto front.

    sweep run --study loss_rank_pareto --n-parallel 32

Lanes with four kinds of loss train in one stack and are compared by the same metrics. `sweep results RUN --plot
front.html` draws the Pareto front. Data and backbone are those of `lr_rank`.
"""

import optuna

from sweep import LaneConfig, Study


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Search the loss with its parameter, the rank, and the learning rates of modules and head."""
    loss = trial.suggest_categorical("loss", ["cross_entropy", "focal", "logit_adjusted", "bce"])
    return LaneConfig(
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        head_lr_ratio=trial.suggest_float("head_lr_ratio", 0.5, 10, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 4, 8]),
        loss=loss,
        label_smoothing=trial.suggest_float("label_smoothing", 0, 0.3) if loss == "cross_entropy" else 0.0,
        focal_gamma=trial.suggest_float("focal_gamma", 0.5, 4) if loss == "focal" else 2.0,
        logit_adjustment=trial.suggest_float("logit_adjustment", 0, 2) if loss == "logit_adjusted" else 1.0,
    )


study = Study(
    suggest=suggest,
    baseline={"loss": "cross_entropy", "lr": 2e-3, "head_lr_ratio": 1.0, "rank": 8, "label_smoothing": 0.0},
    objectives={"val_top1": "maximize", "val_ece": "minimize", "trainable_parameters": "minimize"},
    max_rank=8,
    group_size=3,
    trials=64,
)
