"""Which side-network is best on my data? Families, their switches and read-outs against one another.

    sweep run --study side_networks --n-parallel 32

Ladders with and without attention, ladders with convolutions, LAST, and the linear probe of all stages; each by its own
read-outs and learning rates. Each shape trains in a stack of its own, and rungs stop what is weak. Give it your own
images with `--data FOLDER`; `--views 4 --augment flip-crop` where flips and crops leave the answer as it is.
"""

import optuna

from sweep import Halving, LaneConfig, Study


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Family and structure, which decide the lane's stack; then what may differ inside a stack."""
    family = trial.suggest_categorical("side_network", ["ladder", "convolution", "last", "multi_stage"])
    has_stream = family in ("ladder", "convolution")
    attention = trial.suggest_categorical("attention", [False, True]) if family == "ladder" else False
    mlp = trial.suggest_categorical("mlp", [True, False]) if has_stream else True
    read_out = trial.suggest_categorical("read_out", ["pooled", "tokens", "both"]) if has_stream else "pooled"
    lr = trial.suggest_float("lr", 1e-3, 2e-2, log=True) / (4 if family == "last" else 1)  # LAST learns at a quarter
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
        clip_norm=1.0,
    )


study = Study(
    suggest=suggest,
    baseline={
        "side_network": "ladder",
        "attention": False,
        "mlp": True,
        "read_out": "both",
        "lr": 4e-3,
        "head_lr": 5e-3,
        "rank": 16,
        "weight_decay": 0.05,
        "dropout": 0.0,
    },
    image_size=56,
    stages=(2, 4, 6, 8),
    epochs=30,
    trials=64,
    halving=Halving(eta=3, first_rung=3),
)
