"""Which learning rate, rank and loss? The search to begin with.

    sweep run --study lr_rank --n-parallel 32

Out of the box it counts shaded objects (`--data count`, rendered, 8 classes), a task that a linear probe cannot solve
and adaptation can, with a ViT-S/14 at 112 px tapped after every third block. Give it your own images with
`--data FOLDER`. Where they have several labels each, or numbers to be predicted, it searches the losses for that.

Trials are compared after epochs 3 and 9, and only the best third of those seen so far goes on. A lane that is freed
takes a new trial, proposed by a sampler that knows what the others were worth at epoch 3. So 72 trials take little
longer than 32 that are all trained for 12 epochs.
"""

from typing import Any

import optuna

from sweep import Halving, LaneConfig, Space, Study


def shared(trial: optuna.Trial) -> dict[str, Any]:
    """Learning rates of the side modules and of the head, rank, weight decay."""
    return {
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        "head_lr_ratio": trial.suggest_float("head_lr_ratio", 0.5, 10, log=True),
        "rank": trial.suggest_categorical("rank", [2, 4, 8]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
    }


SHARED = {"lr": 2e-3, "head_lr_ratio": 1.0, "rank": 8, "weight_decay": 0.05}


def suggest(trial: optuna.Trial) -> LaneConfig:
    """What all tasks share; loss and its parameter."""
    loss = trial.suggest_categorical("loss", ["cross_entropy", "focal", "bce"])
    return LaneConfig(
        **shared(trial),
        loss=loss,
        label_smoothing=trial.suggest_float("label_smoothing", 0, 0.2) if loss == "cross_entropy" else 0.0,
        focal_gamma=trial.suggest_float("focal_gamma", 0.5, 3) if loss == "focal" else 2.0,
    )


def suggest_labels(trial: optuna.Trial) -> LaneConfig:
    """Where an image may have several labels."""
    loss = trial.suggest_categorical("loss", ["bce", "asymmetric"])
    return LaneConfig(
        **shared(trial),
        loss=loss,
        asymmetric_gamma_negative=trial.suggest_float("gamma_negative", 1, 5) if loss == "asymmetric" else 4.0,
    )


def suggest_numbers(trial: optuna.Trial) -> LaneConfig:
    """Where numbers are predicted."""
    loss = trial.suggest_categorical("loss", ["mse", "huber"])
    return LaneConfig(
        **shared(trial),
        loss=loss,
        huber_delta=trial.suggest_float("delta", 0.1, 2, log=True) if loss == "huber" else 1.0,
    )


study = Study(
    suggest=suggest,
    baseline={"loss": "cross_entropy", **SHARED, "label_smoothing": 0.0},
    other_tasks={
        "multi-label": Space(suggest_labels, {"loss": "bce", **SHARED}),
        "regression": Space(suggest_numbers, {"loss": "mse", **SHARED}),
    },
    group_size=3,
    trials=72,
    halving=Halving(eta=3, first_rung=3),
)
