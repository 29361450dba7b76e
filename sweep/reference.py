"""The tuned linear probe on the same features: what a side-network has to beat to be worth its parameters."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sweep.batches import StageData, TrainingData
from sweep.engine import Stack, split_logits, train
from sweep.lanes import LaneConfig
from sweep.metrics import classification_metrics
from sweep.seeds import derive_seed
from sweep.side_networks.spec import SideNetworkSpec

LEARNING_RATES = np.geomspace(1e-3, 1.0, 10)
EPOCHS_FACTOR = 4
"""A probe trains for this many times the study's epochs: it costs almost nothing, so a short
run never holds it back."""


@dataclass(frozen=True)
class ProbeResult:
    """The probe chosen on val, of all stages and learning rates tried.

    Attributes:
        stage: Index of the stage it reads.
        lr: Its learning rate.
        n_configurations: How many were tried.
        val: Metrics on val.
        test: Metrics on test, computed for this one probe.
    """

    stage: int
    lr: float
    n_configurations: int
    val: dict[str, float]
    test: dict[str, float]


def tuned_linear_probe(
    spec: SideNetworkSpec,
    train_data: TrainingData,
    val_data: StageData,
    test_data: StageData,
    *,
    n_epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> ProbeResult:
    """Tune a linear probe over learning rate and stage, choose on val, test once.

    Every stage but `z_0` is tried, not the last alone: a backbone's middle often knows more.

    Args:
        spec: Shape of the study's side-networks.
        train_data: What to learn from.
        val_data: What to choose on.
        test_data: Touched once, by the chosen probe.
        n_epochs: The study's epochs; a probe trains four times as long.
        batch_size: Images a step.
        seed: The study's seed.
        device: Where to train.
    """
    tokens = spec.plain(1).head.tokens
    pooled_train = train_data.pooled(tokens)
    pooled_val, pooled_test = (data.pooled(tokens) for data in (val_data, test_data))
    configs = [probe_config(float(lr)) for lr in LEARNING_RATES]
    stages = range(1, spec.n_stages)
    candidates = []
    for stage in stages:
        seeds = [derive_seed(seed, "linear probe", stage, i) for i in range(len(configs))]
        states, results = train(
            [spec.pooled_probe(stage, lane_seed).to(device) for lane_seed in seeds],
            configs,
            pooled_train,
            pooled_val,
            n_epochs=EPOCHS_FACTOR * n_epochs,
            batch_size=batch_size,
            seed=seed,
        )
        val = classification_metrics(results[-1].val_logits, val_data.labels)
        candidates += [_Candidate(stage, i, _of_lane(val, i), state) for i, state in enumerate(states)]
    best = min(candidates, key=_Candidate.order)
    probe = spec.pooled_probe(best.stage, seed)
    probe.load_state_dict(best.state)
    test = classification_metrics(split_logits(Stack([probe.to(device)]), pooled_test), test_data.labels)
    return ProbeResult(best.stage, configs[best.lane].lr, len(candidates), best.val, _of_lane(test, 0))


def probe_config(lr: float) -> LaneConfig:
    """How a probe of that learning rate is trained."""
    return LaneConfig(lr=lr, rank=1, warmup_epochs=2)


@dataclass(frozen=True)
class _Candidate:
    """One trained probe."""

    stage: int
    lane: int
    val: dict[str, float]
    state: dict[str, Tensor]

    def order(self) -> tuple[bool, float, float]:
        """Sorts best first, by val top-1 and then NLL, as trials are; diverged probes last."""
        return math.isnan(self.val["nll"]), -self.val["top1"], self.val["nll"]


def _of_lane(metrics: dict[str, Tensor], lane: int) -> dict[str, float]:
    return {name: values[lane].item() for name, values in metrics.items()}
