"""Exactness for segmentation: a lane equals its trial alone, whatever trains beside it."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sweep.features.batches import StageData, training_batches
from sweep.features.folds import Folds
from sweep.side_networks import (
    LAST,
    Convolution,
    FullConvolution,
    Ladder,
    LinearProbe,
    RankSpaceLAST,
    RowsConvolution,
    RowsFullConvolution,
    RowsLadder,
    cut_to,
)
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import DENSE
from sweep.tasks.kinds import SEGMENTATION
from sweep.tasks.label_maps import IGNORED, LABELS_A_TOKEN
from sweep.tasks.targets import Target
from sweep.training.engine import train
from sweep.training.measurement import measure_lanes
from sweep.training.plain_loop import train_plainly

WIDTH, N_STAGES, GRID, PREFIX, N_CLASSES, MAX_RANK = 24, 3, 3, 1, 3, 8
TOKENS, SIDE = GRID**2 + PREFIX, GRID * LABELS_A_TOKEN
EPOCHS, BATCH_SIZE, SEED, N_IMAGES = 3, 6, 3, 31

LANES = [
    LaneConfig(lr=3e-3, rank=8, loss="cross_entropy"),
    LaneConfig(lr=1e-2, rank=3, loss="dice"),
    LaneConfig(lr=5e-3, rank=5, loss="cross_entropy", label_smoothing=0.1, class_weights="balanced"),
    LaneConfig(lr=1e-3, rank=2, loss="dice", optimizer="sgd", momentum=0.8, class_weights=(1.0, 0.5, 2.0)),
]

Build = Callable[[int, int], nn.Module]


def ladder(kind: type[Ladder], **of_head: int) -> Build:
    def build(rank: int, padded_rank: int) -> nn.Module:
        options = {} if issubclass(kind, Convolution) else {"attention": True}
        widths = (WIDTH,) * N_STAGES
        return kind(
            widths,
            TOKENS,
            N_CLASSES * of_head.get("head_cells", 1) ** 2,
            rank,
            read_out=DENSE,
            **of_head,
            n_prefix_tokens=PREFIX,
            padded_rank=padded_rank,
            **options,
        )

    return build


def probe(head_stages: int = 1, head_cells: int = 1) -> Build:
    def build(rank: int, padded_rank: int) -> nn.Module:
        options = {"earlier_widths": [WIDTH] * (head_stages - 1), "cells": head_cells, "n_prefix_tokens": PREFIX}
        return LinearProbe(WIDTH, N_CLASSES * head_cells**2, dense=True, **options)

    return build


def last(kind: type[LAST], **of_head: int) -> Build:
    def build(rank: int, padded_rank: int) -> nn.Module:
        options = {"n_prefix_tokens": PREFIX, "modules_per_block": 2, "padded_rank": padded_rank}
        n_outputs = N_CLASSES * of_head.get("head_cells", 1) ** 2
        return kind(WIDTH, N_STAGES, n_outputs, rank, dense=True, **of_head, **options)

    return build


LARGER = {"head_stages": 2, "head_cells": 2}

FAMILIES = {
    "last": (last(LAST), last(RankSpaceLAST)),
    "ladder": (ladder(Ladder), ladder(RowsLadder)),
    "convolution": (ladder(Convolution), ladder(RowsConvolution)),
    "full_convolution": (ladder(FullConvolution), ladder(RowsFullConvolution)),
    "probe": (probe(), probe()),
    "last, larger head": (last(LAST, **LARGER), last(RankSpaceLAST, **LARGER)),
    "ladder, larger head": (ladder(Ladder, **LARGER), ladder(RowsLadder, **LARGER)),
    "convolution, larger head": (ladder(Convolution, **LARGER), ladder(RowsConvolution, **LARGER)),
    "probe, larger head": (probe(**LARGER), probe(**LARGER)),
}


@pytest.fixture(scope="module")
def data() -> StageData:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_CLASSES, (N_IMAGES, SIDE, SIDE))
    labels[rng.random(labels.shape) < 0.1] = IGNORED
    stages = rng.normal(size=(N_IMAGES, N_STAGES, TOKENS, WIDTH))
    maps = torch.from_numpy(labels.astype(np.uint8))
    return StageData(stages, maps, N_CLASSES, target=Target(SEGMENTATION))


def made(build: Build, rank: int, seed: int, dtype: torch.dtype, padded_rank: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build(rank, padded_rank).to(dtype)
        if hasattr(module.head, "stream"):  # as after some training
            torch.manual_seed(seed)
            stream = module.head.stream.data
            stream[:, :rank] = torch.randn(len(stream), rank).to(dtype)
        return module


def run_stack(
    build: Build, data: StageData, lanes: list[LaneConfig], numbers: list[int], dtype: torch.dtype
) -> tuple[dict[int, dict[str, Tensor]], dict[int, Tensor]]:
    """Train some of the lanes together. Return every lane's weights, and its outputs after the last epoch."""
    modules = [made(build, lanes[i].rank, 100 + i, dtype, MAX_RANK) for i in numbers]
    configs = [lanes[i] for i in numbers]
    states, results = train(modules, configs, data, data, n_epochs=EPOCHS, batch_size=BATCH_SIZE, seed=SEED)
    outputs = dict(zip(numbers, results[-1].val_logits, strict=True))
    return dict(zip(numbers, states, strict=True)), outputs


@pytest.mark.parametrize("family", FAMILIES)
def test_lane_equals_plain_loop_in_fp64(family: str, data: StageData) -> None:
    plain, lane_form = FAMILIES[family]
    states, _ = run_stack(lane_form, data, LANES, list(range(len(LANES))), torch.float64)
    like = torch.empty(0, dtype=torch.float64)
    batches = [
        batch
        for epoch in range(1, EPOCHS + 1)
        for batch in data.batches(epoch, training_batches(N_IMAGES, BATCH_SIZE, SEED, epoch), like)
    ]
    for i, config in enumerate(LANES):
        alone = made(plain, config.rank, 100 + i, torch.float64, config.rank)
        start = copy.deepcopy(alone.state_dict())
        train_plainly(alone, config, data, batches, n_steps=len(batches), steps_per_epoch=len(batches) // EPOCHS)
        lane = cut_to(start, states[i])
        for name, value in alone.state_dict().items():
            assert not torch.equal(value, start[name]), f"{name} was not trained"
            difference = (lane[name] - value).abs().max().item()
            assert difference < 1e-10, f"lane {i}, {name}: {difference}"


@pytest.mark.parametrize("family", FAMILIES)
def test_lane_is_bitwise_the_same_in_any_stack(family: str, data: StageData) -> None:
    _, build = FAMILIES[family]
    lanes = LANES * 4
    reference, reference_outputs = run_stack(build, data, lanes, list(range(16)), torch.float32)
    for numbers in ([2], [0, 1], [9, 2, 5], [3, 0, 8, 15, 4], list(reversed(range(16)))):
        states, outputs = run_stack(build, data, lanes, numbers, torch.float32)
        for i in numbers:
            assert torch.equal(outputs[i], reference_outputs[i]), f"lane {i} in stack {numbers}"
            for name, value in states[i].items():
                assert torch.equal(value, reference[i][name]), f"lane {i} in stack {numbers}: {name}"


def test_lane_of_a_fold_equals_plain_loop_without_its_images(data: StageData) -> None:
    plain, lane_form = FAMILIES["ladder"]
    folds, of_lanes = Folds.of(data, 3, 1, SEED), [i % 3 for i in range(len(LANES))]
    modules = [made(lane_form, config.rank, 100 + i, torch.float64, MAX_RANK) for i, config in enumerate(LANES)]
    length = {"n_epochs": EPOCHS, "batch_size": BATCH_SIZE, "seed": SEED}
    states, results = train(modules, LANES, data, data, **length, folds=folds, lane_folds=of_lanes)
    orders = [x for epoch in range(1, EPOCHS + 1) for x in training_batches(N_IMAGES, BATCH_SIZE, SEED, epoch)]
    measured = measure_lanes(results[-1], data, {})
    for i, (config, fold) in enumerate(zip(LANES, of_lanes, strict=True)):
        alone = made(plain, config.rank, 100 + i, torch.float64, config.rank)
        start = copy.deepcopy(alone.state_dict())
        batches = data.batches(1, orders, torch.empty(0, dtype=torch.float64))
        length = {"n_steps": len(orders), "steps_per_epoch": len(orders) // EPOCHS}
        held_out = [folds.held_out(fold)[wanted] for wanted in orders]
        train_plainly(alone, config, folds.learned_from(fold), batches, **length, held_out=held_out)
        lane = cut_to(start, states[i])
        for name, value in alone.state_dict().items():
            assert not torch.equal(value, start[name]), f"{name} was not trained"
            assert (lane[name] - value).abs().max().item() < 1e-10, f"lane {i}, {name}"
        own = folds.held_out(fold)
        expected = data.target.measure(results[-1].val_logits[i, own][None], data.labels[own])
        assert measured[i].metrics["val_miou"] == expected["miou"][0]
