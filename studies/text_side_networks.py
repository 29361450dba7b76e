"""Which side-network is best on my texts? Ladders, LAST and a probe of several stages against one another.

    sweep run --study text_side_networks --n-parallel 32

This is `side_networks` for texts: each family by its own learning rates, ladders with and without attention and MLPs,
and by their read-outs. Each shape trains in a stack of its own, and rungs stop what is weak. By default the task is to
tell from which of 20 Usenet groups a post comes. Give your own texts with `--data texts.csv`. Needs the extra `text`.

Three stages are read, spread evenly over the network. On texts, a linear probe was often as accurate as all of these
(docs/benchmarks/photographs-and-texts.md); `sweep run` reports one beside the winner.
"""

from dataclasses import replace

import optuna

from studies.side_networks import study as on_images
from studies.side_networks import suggest_family
from sweep import LaneConfig

FAMILIES = ("ladder", "last", "multi_stage")


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Family first, then what that family has to choose."""
    family = trial.suggest_categorical("side_network", FAMILIES)
    config = suggest_family(trial, family, texts=True)
    return replace(config, mlp=trial.suggest_categorical("mlp", [True, False])) if family == "ladder" else config


SHARED = {"lr": 4e-3, "head_lr": 5e-3, "weight_decay": 0.05, "dropout": 0.0}
LADDER = {"side_network": "ladder", "mlp": True, "rank": 16, **SHARED}

study = replace(
    on_images,
    suggest=suggest,
    baseline={**LADDER, "attention": False, "read_out": "pooled"},
    enqueue=(
        {**LADDER, "attention": True, "read_out": "pooled"},
        {**LADDER, "attention": False, "read_out": "both"},
        {"side_network": "last", "rank": 16, **SHARED},
        {"side_network": "multi_stage", **SHARED},
    ),
    backbone="minilm_l6",
    data="newsgroups",
    image_size=None,
    stages=3,
)
