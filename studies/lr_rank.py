"""Which learning rate, rank and loss? The search to start with.

    sweep run --study lr_rank --n-parallel 32

By default the task is to count shaded objects in rendered images (`--data count`, 8 classes). A linear probe is bad at
this, and adaptation helps. The backbone is a ViT-S/14 at 112 px, with a stage after every third block. Give your own
images with `--data FOLDER`. If they have several labels each, or numbers to predict, it searches losses for that.

Trials are compared after epochs 3 and 9, and only the best third of those seen so far goes on. A lane that is freed
takes a new trial, proposed by a sampler that knows how the others did at epoch 3. So 72 trials take little longer than
32 that all train for 12 epochs.
"""

from typing import Any

import optuna

from sweep import Halving, LaneConfig, Space, Study


def shared(trial: optuna.Trial) -> dict[str, Any]:
    """Search the learning rates of modules and head, the rank and the weight decay."""
    return {
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        "head_lr_ratio": trial.suggest_float("head_lr_ratio", 0.5, 10, log=True),
        "rank": trial.suggest_categorical("rank", [2, 4, 8]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
    }


SHARED = {"lr": 2e-3, "head_lr_ratio": 1.0, "rank": 8, "weight_decay": 0.05}


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Search what all tasks share, and the loss with its parameter, for classes."""
    loss = trial.suggest_categorical("loss", ["cross_entropy", "focal", "bce"])
    return LaneConfig(
        **shared(trial),
        loss=loss,
        label_smoothing=trial.suggest_float("label_smoothing", 0, 0.2) if loss == "cross_entropy" else 0.0,
        focal_gamma=trial.suggest_float("focal_gamma", 0.5, 3) if loss == "focal" else 2.0,
    )


def suggest_labels(trial: optuna.Trial) -> LaneConfig:
    """Search the same with losses for several labels per image."""
    loss = trial.suggest_categorical("loss", ["bce", "asymmetric"])
    return LaneConfig(
        **shared(trial),
        loss=loss,
        asymmetric_gamma_negative=trial.suggest_float("gamma_negative", 1, 5) if loss == "asymmetric" else 4.0,
    )


def suggest_numbers(trial: optuna.Trial) -> LaneConfig:
    """Search the same with losses for a regression."""
    loss = trial.suggest_categorical("loss", ["mse", "huber"])
    return LaneConfig(
        **shared(trial),
        loss=loss,
        huber_delta=trial.suggest_float("delta", 0.1, 2, log=True) if loss == "huber" else 1.0,
    )


def suggest_masks(trial: optuna.Trial) -> LaneConfig:
    """Search the same with losses for segmentation."""
    loss = trial.suggest_categorical("loss", ["cross_entropy", "dice"])
    smoothing = trial.suggest_float("label_smoothing", 0, 0.2) if loss == "cross_entropy" else 0.0
    return LaneConfig(**shared(trial), loss=loss, label_smoothing=smoothing)


def suggest_boxes(trial: optuna.Trial) -> LaneConfig:
    """Search the same with the loss for detection."""
    return LaneConfig(**shared(trial), focal_gamma=trial.suggest_float("focal_gamma", 0.5, 3))


study = Study(
    suggest=suggest,
    baseline={"loss": "cross_entropy", **SHARED, "label_smoothing": 0.0},
    other_tasks={
        "multi-label": Space(suggest_labels, {"loss": "bce", **SHARED}),
        "regression": Space(suggest_numbers, {"loss": "mse", **SHARED}),
        "segmentation": Space(suggest_masks, {"loss": "cross_entropy", **SHARED, "label_smoothing": 0.0}),
        "detection": Space(suggest_boxes, {**SHARED, "focal_gamma": 2.0}),
    },
    group_size=3,
    trials=72,
    halving=Halving(eta=3, first_rung=3),
)
