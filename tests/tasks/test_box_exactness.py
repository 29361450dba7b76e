"""Exactness for detection: a lane equals its trial alone, whatever trains beside it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.features.batches import StageData, training_batches
from sweep.features.folds import Folds
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import BOXES
from sweep.tasks.boxes import PRIOR, by_cell
from sweep.tasks.kinds import DETECTION
from sweep.tasks.targets import Target
from sweep.training.engine import train
from sweep.training.plain_loop import train_plainly

WIDTH, N_STAGES, GRID, PREFIX, N_CLASSES, MAX_RANK, M = 16, 3, 3, 1, 2, 8, 4
TOKENS = GRID**2 + PREFIX
EPOCHS, BATCH_SIZE, SEED, N_IMAGES = 2, 6, 3, 20
FAMILIES = (
    *("last", "ladder", "convolution", "full_convolution", "probe"),
    *("last, 2 stages", "ladder, 2 stages", "probe, 2 stages"),
)

LANES = [
    LaneConfig(lr=3e-3, rank=8).on(DETECTION),
    LaneConfig(lr=1e-2, rank=3, focal_gamma=0.5, class_weights="balanced").on(DETECTION),
    LaneConfig(lr=5e-3, rank=5, clip_norm=1.0, class_weights=(1.0, 3.0)).on(DETECTION),
    LaneConfig(lr=1e-3, rank=2, focal_gamma=1.5, optimizer="sgd", momentum=0.8).on(DETECTION),
]


def spec_of(family: str) -> SideNetworkSpec:
    """The structure of a family, whose head reads one stage or two."""
    name, *two = family.split(", ")
    return SideNetworkSpec(
        width=WIDTH,
        n_stages=N_STAGES,
        n_classes=N_CLASSES,
        n_prefix_tokens=PREFIX,
        modules_per_block=1,
        pool="mean",
        max_rank=MAX_RANK,
        family=name,
        attention=name == "ladder",
        read_out=BOXES,
        n_tokens=TOKENS,
        head_stages=1 + len(two),
    )


@pytest.fixture(scope="module")
def data() -> StageData:
    rng = np.random.default_rng(0)
    labels = torch.zeros(N_IMAGES, M, 6)
    corners = np.sort(rng.random((N_IMAGES, M, 2, 2)), axis=2).reshape(N_IMAGES, M, 4)
    labels[..., 0] = torch.from_numpy(rng.integers(0, N_CLASSES, (N_IMAGES, M)))
    labels[..., 1:5] = torch.from_numpy(corners)
    labels[..., 5] = torch.from_numpy(rng.random((N_IMAGES, M)) < 0.2)
    labels[::3, 2:] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    labels[4] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    stages = rng.normal(size=(N_IMAGES, N_STAGES, TOKENS, WIDTH))
    return StageData(stages, labels, N_CLASSES, target=Target(DETECTION))


def run_stack(
    family: str, data: StageData, lanes: list[LaneConfig], numbers: list[int], dtype: torch.dtype, **folds: object
) -> tuple[dict[int, dict[str, Tensor]], dict[int, Tensor]]:
    """Train some of the lanes together. Return every lane's weights, and what it finds after the last epoch."""
    modules = [spec_of(family).lane(lanes[i].rank, 100 + i).to(dtype) for i in numbers]
    length = {"n_epochs": EPOCHS, "batch_size": BATCH_SIZE, "seed": SEED}
    states, results = train(modules, [lanes[i] for i in numbers], data, data, **length, **folds)  # type: ignore[arg-type]
    found = dict(zip(numbers, results[-1].val_logits, strict=True))
    return dict(zip(numbers, states, strict=True)), found


def all_batches() -> list[Tensor]:
    return [x for epoch in range(1, EPOCHS + 1) for x in training_batches(N_IMAGES, BATCH_SIZE, SEED, epoch)]


def differs_by(
    family: str, data: StageData, state: dict[str, Tensor], lane: int, fold: int | None, folds: Folds
) -> float:
    """The largest difference of a lane's weights from those of a plain loop."""
    spec, config, orders = spec_of(family), LANES[lane], all_batches()
    alone = spec.plain(config.rank).double()
    start = spec.trimmed(config.rank, spec.lane(config.rank, 100 + lane).double().state_dict())
    alone.load_state_dict(start)
    batches = data.batches(1, orders, torch.empty(0, dtype=torch.float64))
    length = {"n_steps": len(orders), "steps_per_epoch": len(orders) // EPOCHS}
    if fold is None:
        train_plainly(alone, config, data, batches, **length)
    else:
        held_out = [folds.held_out(fold)[wanted] for wanted in orders]
        train_plainly(alone, config, folds.learned_from(fold), batches, **length, held_out=held_out)
    lane_state = spec.trimmed(config.rank, state)
    for name, value in alone.state_dict().items():
        assert not torch.equal(value, start[name]), f"{name} was not trained"
    return max((lane_state[name] - value).abs().max().item() for name, value in alone.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_lane_equals_plain_loop_in_fp64(family: str, data: StageData) -> None:
    states, _ = run_stack(family, data, LANES, list(range(len(LANES))), torch.float64)
    folds = Folds.of(data, 2, 1, SEED)
    for lane, state in states.items():
        assert differs_by(family, data, state, lane, None, folds) < 1e-10, lane


def test_lane_of_a_fold_equals_plain_loop_without_its_images(data: StageData) -> None:
    folds, of_lanes = Folds.of(data, 3, 1, SEED), [i % 3 for i in range(len(LANES))]
    numbers = list(range(len(LANES)))
    states, found = run_stack("ladder", data, LANES, numbers, torch.float64, folds=folds, lane_folds=of_lanes)
    for lane, state in states.items():
        assert differs_by("ladder", data, state, lane, of_lanes[lane], folds) < 1e-10, lane
        own = folds.held_out(of_lanes[lane])
        assert found[lane][own].isfinite().all()
        assert found[lane][~own].isnan().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_lane_is_bitwise_the_same_in_any_stack(family: str, data: StageData) -> None:
    lanes = LANES * 3
    reference, reference_found = run_stack(family, data, lanes, list(range(12)), torch.float32)
    for numbers in ([2], [0, 1], [9, 2, 5], list(reversed(range(12)))):
        states, found = run_stack(family, data, lanes, numbers, torch.float32)
        for i in numbers:
            assert torch.equal(found[i], reference_found[i]), f"lane {i} in stack {numbers}"
            for name, value in states[i].items():
                assert torch.equal(value, reference[i][name]), f"lane {i} in stack {numbers}: {name}"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_lane_finds_every_class_with_about_the_prior_probability(family: str, data: StageData) -> None:
    module = spec_of(family).lane(4, 1).double()
    stages, _ = data.batch(torch.arange(4), torch.empty(0, dtype=torch.float64))
    logits, _ = by_cell(module(stages))
    assert logits.mean().sigmoid().item() == pytest.approx(PRIOR, rel=0.5)


def test_an_evaluation_after_the_last_epoch_alone_changes_no_weight(data: StageData) -> None:
    modules = [spec_of("probe").lane(1, seed) for seed in range(2)]
    length = {"n_epochs": 3, "batch_size": BATCH_SIZE, "seed": SEED}
    states, results = train(modules, LANES[:2], data, data, **length)
    again, last = train(modules, LANES[:2], data, data, **length, only_last=True)
    assert len(last) == 1
    assert torch.equal(last[0].val_logits, results[-1].val_logits)
    assert torch.equal(last[0].train_loss, results[-1].train_loss)
    assert all(torch.equal(again[i][name], states[i][name]) for i in range(2) for name in states[i])
