"""How many ranks does each module need? LAST with a gate for every rank, and a penalty that closes gates.

    sweep run --study learned_rank --n-parallel 32

Every trial begins with 16 ranks in each module. It searches the strength of the penalty beside learning rates and
weight decay: without a penalty nearly all ranks stay, and with a strong one none. The column `effective_rank` says how
many are left, and an exported model has only these. The rule is sweep's own (docs/side-networks.md).
"""

import optuna

from sweep import Halving, LaneConfig, Study


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Search the penalty, the learning rates of modules and head, and the weight decay."""
    return LaneConfig(
        rank=16,
        rank_penalty=trial.suggest_float("rank_penalty", 1e-4, 1e-1, log=True),
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        head_lr_ratio=trial.suggest_float("head_lr_ratio", 0.5, 10, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
    )


study = Study(
    suggest=suggest,
    baseline={"rank_penalty": 3e-3, "lr": 2e-3, "head_lr_ratio": 1.0, "weight_decay": 0.05},
    side_network="gated_last",
    group_size=3,
    trials=72,
    halving=Halving(eta=3, first_rung=3),
)
