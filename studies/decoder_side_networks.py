"""Which side-network is best beside a language model? The families on texts, and which tokens their heads read.

    sweep run --study decoder_side_networks --n-parallel 32

This is `text_side_networks` for decoders, which are networks whose tokens see only what is before them. It also
searches `pool`: whether the head reads the last token, which has seen the whole text, or the mean over the tokens. On
long posts the mean is far better, and on single sentences the last token
(docs/benchmarks/photographs-and-texts.md). The linear probe that `sweep run` reports is tuned over both as well.

By default the task is to tell from which of 20 Usenet groups a post comes, beside SmolLM2-135M. Give your own texts
with `--data texts.csv`. Needs the extra `text`.
"""

from dataclasses import replace

import optuna

from studies.text_side_networks import study as beside_encoders
from sweep import LaneConfig

POOLS = ("mean", "last")


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Which tokens the head reads, then the family and what it has to choose."""
    pool = trial.suggest_categorical("pool", POOLS)
    return replace(beside_encoders.suggest(trial), pool="mean" if pool == "mean" else "last")


BASELINE, *FIRST = (
    {**values, "pool": pool} for values in (beside_encoders.baseline, *beside_encoders.enqueue) for pool in POOLS
)

study = replace(beside_encoders, suggest=suggest, baseline=BASELINE, enqueue=FIRST, backbone="smollm2_135m")
