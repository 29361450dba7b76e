"""Which side-network is best on my data? Families, their switches and read-outs against one another.

    sweep run --study side_networks --n-parallel 32

Ladders with and without attention, ladders with convolutions, LAST, and the linear probe of all stages; each by its own
read-outs and learning rates. Each shape trains in a stack of its own, and rungs stop what is weak. Give it your own
images with `--data FOLDER`.

Half of the trials learn from four cached views of every training image, turned, shifted and scaled a little
(`affine`). This helps where such a change leaves the answer as it is, and the search finds out whether it does.

The stages after blocks 2, 4, 6 and 8 of twelve suit the packaged ViT. For a backbone with fewer blocks, give
`--group-size 1`.
"""

from dataclasses import replace
from functools import partial

import optuna

from sweep import Halving, LaneConfig, Study

FAMILIES = ("ladder", "convolution", "last", "multi_stage")
WITH_STREAM = ("ladder", "convolution")
STAGES = {"declared": None, "even": 4}
"""After which blocks: those that the study declares below, or four that are spread evenly over the backbone."""


def suggest_family(trial: optuna.Trial, family: str, *, texts: bool = False) -> LaneConfig:
    """Structure, which decides the lane's stack; then what may differ inside a stack. Texts have no augmented views."""
    has_stream = family in WITH_STREAM
    attention = trial.suggest_categorical("attention", [False, True]) if family == "ladder" else False
    read_out = trial.suggest_categorical("read_out", ["pooled", "tokens", "both"]) if has_stream else "pooled"
    augment = "none" if texts else trial.suggest_categorical("augment", ["none", "affine"])
    slower = 4 if family in ("last", "mixer") else 1  # these two learn on the backbone's own width, at a quarter
    lr = trial.suggest_float("lr", 1e-3, 2e-2, log=True) / slower
    head_lr = trial.suggest_float("head_lr", 2e-3, 3e-2, log=True)
    return LaneConfig(
        side_network=family,
        attention=attention,
        read_out=read_out,
        augment=augment,
        lr=lr,
        head_lr_ratio=head_lr / lr,
        rank=trial.suggest_categorical("rank", [8, 16]) if family != "multi_stage" else 8,
        weight_decay=trial.suggest_float("weight_decay", 1e-2, 0.5, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.3),
        clip_norm=1.0,
    )


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Family first, then what that family has to choose, and the stages that it reads."""
    family = trial.suggest_categorical("side_network", FAMILIES)
    config = suggest_family(trial, family)
    return replace(
        config,
        mlp=trial.suggest_categorical("mlp", [True, False]) if family in WITH_STREAM else True,
        stages=STAGES[trial.suggest_categorical("stages", list(STAGES))],
    )


SHARED = {"lr": 4e-3, "head_lr": 5e-3, "rank": 16, "weight_decay": 0.05, "dropout": 0.0, "augment": "none"}
LADDER = {"attention": False, "read_out": "both", **SHARED}


def started(family: str, **choices: object) -> dict[str, object]:
    """The parameters of a trial to begin with: the shape that is given, and the baseline's learning rates."""
    values = {"side_network": family, "stages": "declared", **SHARED, **choices}
    if family in WITH_STREAM:
        values["mlp"] = True
    if family == "multi_stage":
        del values["rank"]
    return values


FIRST = (
    started("ladder", attention=True, read_out="both", augment="affine"),
    started("ladder", attention=True, read_out="pooled", augment="affine", lr=8e-3),
    started("ladder", attention=False, read_out="both", augment="affine"),
    started("ladder", attention=True, read_out="both"),
    started("convolution", read_out="both", augment="affine"),
    started("convolution", read_out="pooled"),
    started("last", augment="affine"),
    started("multi_stage"),
)
"""Shapes of every family that the search begins with. 32 lanes are too few for a sampler that knows nothing to meet
all combinations. Ladders with `both` are those that did best when ladders were searched alone, and the one with
`pooled` is the best on counting by hand (docs/benchmarks/accuracy.md). `convolution` with `both` did best when it was
searched alone on counting. The others are a guess."""

study = Study(
    suggest=suggest,
    baseline={"side_network": "ladder", "mlp": True, "stages": "declared", **LADDER},
    enqueue=FIRST,
    image_size=56,
    stages=(2, 4, 6, 8),
    rank_buckets=(16,),  # there are many shapes: both widths share a stack
    epochs=30,
    trials=96,
    halving=Halving(eta=3, first_rung=6),
)


def of_family(family: str, *, texts: bool = False, epochs: int = 30) -> Study:
    """The search of one family alone, with its MLPs and the declared stages; `sweep bench --suite accuracy` runs it.

    Args:
        family: Name of the family.
        texts: Whether the data are texts.
        epochs: Epochs of a trial. The first rung is after a fifth of them.
    """
    asked = LADDER if family in WITH_STREAM else SHARED
    left_out = {{"convolution": "attention", "multi_stage": "rank"}.get(family), "augment" if texts else None}
    baseline = {name: value for name, value in asked.items() if name not in left_out}
    return replace(
        study,
        suggest=partial(suggest_family, family=family, texts=texts),
        baseline=baseline,
        enqueue=(),
        epochs=epochs,
        halving=Halving(eta=3, first_rung=max(1, round(epochs / 5))),
    )
