"""The reference of every run: a tuned linear probe on the same features, which a side-network should beat."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from torch import Tensor

from sweep.features.batches import StageData, TrainingData
from sweep.features.folds import Folds
from sweep.features.training_data import CachedViews, LiveViews
from sweep.machine.seeds import derive_seed
from sweep.side_networks.linear_probe import LinearProbe, pooled_probe, token_probe
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.class_weights import LaneWeights
from sweep.study.folds import standard_error
from sweep.study.lane_config import LaneConfig, Pool
from sweep.study.probe import EPOCHS_FACTOR
from sweep.tasks.kinds import CLASSES, DETECTION, SEGMENTATION, TaskKind
from sweep.training.engine import train
from sweep.training.measurement import lane_metrics
from sweep.training.stack import Stack, split_logits

LEARNING_RATES = np.geomspace(1e-3, 1.0, 10)
OF_DETECTION = np.geomspace(1e-4, 1e-1, 10)
"""Learning rates for detection, whose loss is a sum over cells."""
OF_DECODERS: tuple[Pool, ...] = ("last", "mean")
"""Poolings that are tried beside a text decoder."""


@dataclass(frozen=True)
class ProbeResult:
    """The best probe on the validation set, among all stages and learning rates.

    Attributes:
        stage: Index of the last stage that it reads.
        lr: Its learning rate.
        loss: Its loss.
        n_configurations: Number of probes that were tried.
        val: Its metrics on the validation set, or as means over folds.
        test: Its metrics on the test set; no other probe was tested.
        head_stages: Number of stages that it reads.
        pool: Which tokens of a text it reads, if several poolings were tried: `"mean"` or `"last"`.
    """

    stage: int
    lr: float
    loss: str | None
    n_configurations: int
    val: dict[str, float]
    test: dict[str, float]
    head_stages: int = 1
    pool: Pool | None = None


def tuned_linear_probe(
    spec: SideNetworkSpec,
    train_data: TrainingData,
    val_data: StageData,
    test_data: StageData | None,
    *,
    n_epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    class_weights: LaneWeights = None,
    folds: Folds | None = None,
) -> ProbeResult:
    """Tune a linear probe over learning rate and stage, choose it on the validation set, and test it once.

    Every stage except `z_0` is tried, because the middle of a backbone is often better than its last stage. For
    segmentation every loss is tried, because the loss decides much of the mean intersection over union. Where every
    token answers, a probe costs as much as a side-network. So loss and learning rate are tuned at the last stage, and
    the best of them are tried at the other stages. If the heads of the side-networks read several stages, a probe of
    these stages is tried with the best loss so far, at all learning rates. Beside a text decoder, both the last token
    and the mean over the tokens are tried, because which of them is better depends on the texts.

    Args:
        spec: Structure of the winner's side-network.
        train_data: The training set.
        val_data: The validation set, on which the probe is chosen.
        test_data: The test set; only the chosen probe is evaluated on it. None to leave it alone.
        n_epochs: The study's epochs; a probe trains `EPOCHS_FACTOR` times as long.
        batch_size: Images or texts per step.
        seed: The study's seed.
        device: Device to train on.
        class_weights: The study's class weights, as lanes have them.
        folds: For cross-validation: every probe is then trained once for each fold, and chosen by the mean. Give no
            `test_data`, because none of these probes has learned from all images.
    """
    pools = OF_DECODERS if spec.causal else (spec.pool,)
    target = val_data.target
    losses = target.kind.losses if target.kind is SEGMENTATION else target.kind.losses[:1]
    rates = OF_DETECTION if target.kind is DETECTION else LEARNING_RATES
    configs = [probe_config(float(lr), target.kind, class_weights, loss) for loss in losses for lr in rates]
    n_folds = 1 if folds is None else len(folds.class_counts)

    def trained(pool: Pool, stages: range, which: Sequence[int]) -> list[_Candidate]:
        """Train probes of these stages with the configurations of these numbers."""
        train_of, val_of = data_of[pool]
        seeds = [derive_seed(seed, "linear probe", stages[-1], i) for i in which]
        states, results = train(
            [probe_of_stages(spec, stages, lane_seed).to(device) for lane_seed in seeds for _ in range(n_folds)],
            [configs[i] for i in which for _ in range(n_folds)],
            train_of(stages),
            val_of(stages),
            n_epochs=EPOCHS_FACTOR * n_epochs,
            batch_size=batch_size,
            seed=seed,
            folds=folds,
            lane_folds=None if folds is None else [fold for _ in which for fold in range(n_folds)],
            only_last=True,
        )
        of_lanes, logits = lane_metrics(results[-1], val_data), results[-1].val_logits
        firsts = [n_folds * place for place in range(len(which))]
        return [
            _Candidate(pool, stages, i, of_lanes[first : first + n_folds], logits[first], states[first])
            for i, first in zip(which, firsts, strict=True)
        ]

    data_of = {pool: (probe_data(spec, train_data, pool), probe_data(spec, val_data, pool)) for pool in pools}
    *earlier, last = (range(stage, stage + 1) for stage in range(1, spec.n_stages))
    candidates: list[_Candidate] = []
    for pool in pools:
        of_last = trained(pool, last, range(len(configs)))
        which = [_best(of_last, target.kind).config] if spec.dense else range(len(configs))
        candidates += [candidate for stages in earlier for candidate in trained(pool, stages, which)] + of_last
    if spec.head_stages > 1:
        loss = configs[_best(candidates, target.kind).config].loss
        which = [i for i, config in enumerate(configs) if config.loss == loss]
        candidates += trained(spec.pool, range(spec.n_stages)[-spec.head_stages :], which)
    best = _best(candidates, target.kind)
    probe = probe_of_stages(spec, best.stages, seed)
    probe.load_state_dict(best.state)
    if folds is None:
        error = target.standard_error(best.val_outputs, val_data.labels)
    else:
        std = statistics.stdev(of_fold[target.kind.score] for of_fold in best.of_folds)
        error = {f"{target.kind.score}_error": standard_error(std, folds.n_folds)}
    test = {}
    if test_data is not None:
        outputs = split_logits(Stack([probe.to(device)]), probe_data(spec, test_data, best.pool)(best.stages))[0]
        test = target.measure_one(outputs, test_data.labels)
    config = configs[best.config]
    val, n_stages = best.val | error, len(best.stages)
    chosen = best.pool if len(pools) > 1 else None
    return ProbeResult(best.stages[-1], config.lr, config.loss, len(candidates), val, test, n_stages, chosen)


def probe_of_stages(spec: SideNetworkSpec, stages: range, seed: int) -> LinearProbe:
    """A newly initialised linear probe, for the result of `probe_data`.

    Args:
        spec: Structure of the winner's side-network.
        stages: Indices of the stages that it reads: one, or several where every token answers.
        seed: Seed of its initialisation.
    """
    return token_probe(spec, stages, seed) if spec.dense else pooled_probe(spec, stages[-1], seed)


@overload
def probe_data(spec: SideNetworkSpec, data: StageData, pool: Pool) -> Callable[[range], StageData]: ...
@overload
def probe_data(spec: SideNetworkSpec, data: TrainingData, pool: Pool) -> Callable[[range], TrainingData]: ...
def probe_data(spec: SideNetworkSpec, data: TrainingData, pool: Pool) -> Callable[[range], TrainingData]:
    """What a linear probe reads, by the indices of its stages: pooled tokens, or all where every token answers."""
    if spec.dense:
        assert isinstance(data, StageData | CachedViews | LiveViews)
        return data.of_stages
    pooled = data.pooled(replace(spec, pool=pool).pooled_tokens)
    return lambda stages: pooled


def probe_config(
    lr: float, kind: TaskKind = CLASSES, class_weights: LaneWeights = None, loss: str | None = None
) -> LaneConfig:
    """Configuration of a probe with that learning rate and loss; the default loss of the kind of task if not given."""
    return LaneConfig(lr=lr, rank=1, warmup_epochs=2, class_weights=class_weights, loss=loss).on(kind)


@dataclass(frozen=True)
class _Candidate:
    """One trained probe; with cross-validation, one for each fold, of which the first has these outputs and weights."""

    pool: Pool
    stages: range
    config: int
    of_folds: list[dict[str, float]]
    val_outputs: Tensor
    state: dict[str, Tensor]

    @property
    def val(self) -> dict[str, float]:
        """Metrics on the validation set, as means over folds."""
        return {name: statistics.fmean(of_fold[name] for of_fold in self.of_folds) for name in self.of_folds[0]}

    def order(self, kind: TaskKind) -> tuple[bool, float, float]:
        """Sort key, best first: by the score on the validation set, then the tie metric; diverged probes come last."""
        return math.isnan(self.val[kind.tie]), -self.val[kind.score], self.val[kind.tie]


def _best(candidates: Sequence[_Candidate], kind: TaskKind) -> _Candidate:
    return min(candidates, key=lambda candidate: candidate.order(kind))
