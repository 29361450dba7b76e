"""Which layers should the side-network read, with how many modules, and what should the head read?

    sweep run --study which_layers --n-parallel 32

The number of stages, low-rank attention modules a stage, pooling, and ranks up to 32. The backbone runs once: its
features after every block are in the cache, and every trial reads the stages it wants.
"""

import optuna

from sweep import Halving, LaneConfig, Study


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Stages, modules and pooling, which decide the lane's stack; then what may differ inside a stack."""
    return LaneConfig(
        stages=trial.suggest_categorical("stages", [2, 3, 4, 6]),
        modules_per_block=trial.suggest_int("modules_per_block", 1, 2),
        pool="class" if trial.suggest_categorical("pool", ["mean", "class"]) == "class" else "mean",
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        head_lr_ratio=trial.suggest_float("head_lr_ratio", 0.5, 10, log=True),
        rank=trial.suggest_int("rank", 2, 32, log=True),
    )


study = Study(
    suggest=suggest,
    baseline={"stages": 4, "modules_per_block": 1, "pool": "mean", "lr": 2e-3, "head_lr_ratio": 4.0, "rank": 8},
    image_size=112,
    trials=72,
    halving=Halving(eta=3, first_rung=3),
)
