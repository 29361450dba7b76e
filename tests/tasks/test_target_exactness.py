"""Exactness for several labels and for numbers: a lane equals its trial alone, whatever trains beside it."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.features.batches import StageData, training_batches
from sweep.side_networks import LAST, RankSpaceLAST, cut_to
from sweep.study.lane_config import LaneConfig
from sweep.tasks.kinds import MULTI_LABEL, REGRESSION, TaskKind
from sweep.tasks.targets import Target
from sweep.training.engine import train
from sweep.training.plain_loop import train_plainly

WIDTH, N_STAGES, TOKENS, MAX_RANK = 24, 3, 10, 4
EPOCHS, BATCH_SIZE, SEED, N_IMAGES = 5, 12, 3, 120

LANES = {
    MULTI_LABEL: [
        LaneConfig(lr=3e-3, rank=4, loss="bce"),
        LaneConfig(lr=1e-2, rank=3, loss="asymmetric"),
        LaneConfig(lr=5e-3, rank=1, loss="asymmetric", asymmetric_gamma_positive=1.0, asymmetric_margin=0.2),
        LaneConfig(lr=1e-3, rank=2, loss="bce", optimizer="sgd", momentum=0.8),
    ],
    REGRESSION: [
        LaneConfig(lr=3e-3, rank=4, loss="mse"),
        LaneConfig(lr=1e-2, rank=3, loss="huber"),
        LaneConfig(lr=5e-3, rank=1, loss="huber", huber_delta=0.3),
        LaneConfig(lr=1e-2, rank=2, loss="mse", optimizer="sgd", momentum=0.8),
    ],
}
TASKS = pytest.mark.parametrize(("kind", "n_outputs"), [(MULTI_LABEL, 4), (REGRESSION, 1), (REGRESSION, 3)])


def data_of(kind: TaskKind, n_outputs: int) -> StageData:
    rng = np.random.default_rng(0)
    stages = rng.normal(size=(N_IMAGES, N_STAGES, TOKENS, WIDTH))
    if kind is MULTI_LABEL:
        labels = torch.from_numpy(rng.integers(0, 2, (N_IMAGES, n_outputs)))
        return StageData(stages, labels, n_outputs, target=Target(kind))
    numbers = rng.normal(50, 9, (N_IMAGES, n_outputs))
    target = Target(kind, tuple(numbers.mean(0).tolist()), tuple(numbers.std(0).tolist()))
    return StageData(stages, torch.from_numpy(numbers), n_outputs, target=target)


def build(form: type[LAST], n_outputs: int, rank: int, seed: int, dtype: torch.dtype, padded_rank: int) -> LAST:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return form(WIDTH, N_STAGES, n_outputs, rank, n_prefix_tokens=1, padded_rank=padded_rank).to(dtype)


def run_stack(
    data: StageData, lanes: list[LaneConfig], numbers: list[int], dtype: torch.dtype
) -> tuple[dict[int, dict[str, Tensor]], dict[int, Tensor]]:
    """Train some of the lanes together. Return every lane's weights, and its outputs after the last epoch."""
    modules = [build(RankSpaceLAST, data.n_classes, lanes[i].rank, 100 + i, dtype, MAX_RANK) for i in numbers]
    configs = [lanes[i] for i in numbers]
    states, results = train(modules, configs, data, data, n_epochs=EPOCHS, batch_size=BATCH_SIZE, seed=SEED)
    outputs = dict(zip(numbers, results[-1].val_logits, strict=True))
    return dict(zip(numbers, states, strict=True)), outputs


@TASKS
def test_lane_equals_plain_loop_in_fp64_after_50_steps(kind: TaskKind, n_outputs: int) -> None:
    data, lanes = data_of(kind, n_outputs), LANES[kind]
    states, _ = run_stack(data, lanes, list(range(len(lanes))), torch.float64)
    like = torch.empty(0, dtype=torch.float64)
    batches = [
        batch
        for epoch in range(1, EPOCHS + 1)
        for batch in data.batches(epoch, training_batches(N_IMAGES, BATCH_SIZE, SEED, epoch), like)
    ]
    assert len(batches) == 50
    for i, config in enumerate(lanes):
        alone = build(LAST, n_outputs, config.rank, 100 + i, torch.float64, config.rank)
        start = copy.deepcopy(alone.state_dict())
        train_plainly(alone, config, data, batches, n_steps=len(batches), steps_per_epoch=len(batches) // EPOCHS)
        lane = cut_to(start, states[i])
        for name, value in alone.state_dict().items():
            assert not torch.equal(value, start[name]), f"{name} was not trained"
            difference = (lane[name] - value).abs().max().item()
            assert difference < 1e-10, f"lane {i}, {name}: {difference}"


@TASKS
def test_lane_is_bitwise_the_same_in_any_stack(kind: TaskKind, n_outputs: int) -> None:
    data, lanes = data_of(kind, n_outputs), LANES[kind] * 4
    reference, reference_outputs = run_stack(data, lanes, list(range(16)), torch.float32)
    for numbers in ([2], [0, 1], [9, 2, 5], [3, 0, 8, 15, 4], list(reversed(range(16)))):
        states, outputs = run_stack(data, lanes, numbers, torch.float32)
        for i in numbers:
            assert torch.equal(outputs[i], reference_outputs[i]), f"lane {i} in stack {numbers}"
            for name, value in states[i].items():
                assert torch.equal(value, reference[i][name]), f"lane {i} in stack {numbers}: {name}"
