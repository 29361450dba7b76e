"""Which side-network is best on my data? Families, their switches and read-outs against one another.

    sweep run --study side_networks --n-parallel 32

Ladders with and without attention, ladders with convolutions, LAST, and the linear probe of all stages; each by its own
read-outs and learning rates. Each shape trains in a stack of its own, and rungs stop what is weak. Give it your own
images with `--data FOLDER`.

Half of the trials learn from four cached views of every training image, turned, shifted and scaled a little
(`affine`). This helps where such a change leaves the answer as it is, and the search finds out whether it does.
"""

from dataclasses import replace
from functools import partial

import optuna

from sweep import Halving, LaneConfig, Study

FAMILIES = ("ladder", "convolution", "last", "multi_stage")
WITH_STREAM = ("ladder", "convolution")


def suggest_family(trial: optuna.Trial, family: str) -> LaneConfig:
    """Structure, which decides the lane's stack; then what may differ inside a stack."""
    attention = trial.suggest_categorical("attention", [False, True]) if family == "ladder" else False
    mlp = trial.suggest_categorical("mlp", [True, False]) if family in WITH_STREAM else True
    read_out = (
        trial.suggest_categorical("read_out", ["pooled", "tokens", "both"]) if family in WITH_STREAM else "pooled"
    )
    augment = trial.suggest_categorical("augment", ["none", "affine"])
    slower = 4 if family in ("last", "mixer") else 1  # these two learn on the backbone's own width, at a quarter
    lr = trial.suggest_float("lr", 1e-3, 2e-2, log=True) / slower
    head_lr = trial.suggest_float("head_lr", 2e-3, 3e-2, log=True)
    return LaneConfig(
        side_network=family,
        attention=attention,
        mlp=mlp,
        read_out=read_out,
        lr=lr,
        head_lr_ratio=head_lr / lr,
        rank=trial.suggest_categorical("rank", [8, 16]) if family != "multi_stage" else 8,
        weight_decay=trial.suggest_float("weight_decay", 1e-2, 0.5, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.3),
        augment=augment,
        clip_norm=1.0,
    )


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Family first, then what that family has to choose."""
    return suggest_family(trial, trial.suggest_categorical("side_network", FAMILIES))


SHARED = {"lr": 4e-3, "head_lr": 5e-3, "rank": 16, "weight_decay": 0.05, "dropout": 0.0, "augment": "none"}
STREAM = {"mlp": True, "read_out": "both"}

study = Study(
    suggest=suggest,
    baseline={"side_network": "ladder", "attention": False, **STREAM, **SHARED},
    image_size=56,
    stages=(2, 4, 6, 8),
    epochs=30,
    trials=64,
    halving=Halving(eta=3, first_rung=3),
)


def of_family(family: str) -> Study:
    """The search of one family alone, by the same rules: `sweep bench --suite accuracy` compares families by it."""
    baseline = {**(STREAM if family in WITH_STREAM else {}), **SHARED}
    if family == "ladder":
        baseline["attention"] = False
    if family == "multi_stage":
        del baseline["rank"]
    return replace(study, suggest=partial(suggest_family, family=family), baseline=baseline)
