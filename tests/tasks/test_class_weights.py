"""Class weights: how they are computed, and that a lane with them is the same in any stack and in a plain loop."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.errors import UsageError
from sweep.features.batches import StageData, training_batches
from sweep.side_networks import LAST, RankSpaceLAST, cut_to
from sweep.study.class_weights import checked, completed, of_lane
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.tasks.class_weights import weights_of_classes, weights_of_labels
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION, TaskKind
from sweep.tasks.lane_losses import LaneLosses
from sweep.tasks.targets import Target
from sweep.training.engine import train
from sweep.training.linear_probe_reference import probe_config
from sweep.training.plain_loop import train_plainly

N_IMAGES, N_CLASSES, TOKENS, WIDTH, EPOCHS, BATCH_SIZE, SEED = 90, 4, 6, 16, 4, 12, 5
NUMBERS = (0.5, 2.0, 1.0, 3.0)


def lanes_of(kind: TaskKind) -> list[LaneConfig]:
    """Return lanes with every loss of this kind of task, each with balanced weights, given weights and none."""
    return [
        LaneConfig(lr=5e-3, rank=2, loss=loss, class_weights=weights, label_smoothing=0.1)
        for loss, weights in product(kind.losses, ("balanced", NUMBERS, None))
    ]


def data_of(kind: TaskKind) -> StageData:
    rng = np.random.default_rng(1)
    stages = rng.normal(size=(N_IMAGES, 3, TOKENS, WIDTH))
    if kind is MULTI_LABEL:
        labels = torch.from_numpy((rng.random((N_IMAGES, N_CLASSES)) < (0.1, 0.5, 0.8, 0.3)).astype(np.int64))
    else:
        labels = torch.from_numpy(rng.choice(N_CLASSES, N_IMAGES, p=(0.1, 0.5, 0.3, 0.1)))
    return StageData(stages, labels, N_CLASSES, target=Target(kind))


def build(form: type[LAST], config: LaneConfig, seed: int, dtype: torch.dtype) -> LAST:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return form(WIDTH, 3, N_CLASSES, config.rank, n_prefix_tokens=1, padded_rank=config.rank).to(dtype)


def trained(
    data: StageData, lanes: list[LaneConfig], numbers: list[int], dtype: torch.dtype
) -> list[dict[str, Tensor]]:
    modules = [build(RankSpaceLAST, lanes[i], 100 + i, dtype) for i in numbers]
    own = [lanes[i] for i in numbers]
    states, _ = train(modules, own, data, data, n_epochs=EPOCHS, batch_size=BATCH_SIZE, seed=SEED)
    return states


def test_balanced_weights_let_all_classes_count_alike() -> None:
    counts = torch.tensor([10.0, 30.0, 0.0, 60.0], dtype=torch.float64)
    weights = weights_of_classes("balanced", counts)
    torch.testing.assert_close(weights * counts, torch.tensor([100 / 3, 100 / 3, 0, 100 / 3], dtype=torch.float64))
    assert weights[2] == 1
    has, has_not = weights_of_labels("balanced", torch.tensor([5.0, 0.0, 20.0]), 20)
    torch.testing.assert_close(has, torch.tensor([2.0, 1.0, 1.0]))
    torch.testing.assert_close(has_not, torch.tensor([2 / 3, 1.0, 1.0]))


def test_weighted_cross_entropy_equals_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 20, N_CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(N_CLASSES, (20,), generator=generator)
    counts = torch.bincount(labels, minlength=N_CLASSES)
    losses = LaneLosses([LaneConfig(lr=1, loss="cross_entropy", class_weights="balanced")], counts, torch.float64)
    weight = counts.sum() / (N_CLASSES * counts.double())
    # over all images, the weights sum to the number of images
    expected = F.cross_entropy(logits[0], labels, weight=weight)
    torch.testing.assert_close(losses(logits, labels)[0], expected)
    has = (torch.rand(20, N_CLASSES, generator=generator) < 0.4).double()
    config = LaneConfig(lr=1, loss="bce", class_weights=NUMBERS)
    losses = LaneLosses([config], has.sum(0), torch.float64, len(has))
    positive = torch.tensor(NUMBERS, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(logits[0], has, pos_weight=positive, reduction="none").sum(-1).mean()
    torch.testing.assert_close(losses(logits, has)[0], expected)


@pytest.mark.parametrize("kind", [CLASSES, MULTI_LABEL], ids=lambda kind: kind.name)
def test_lane_equals_plain_loop_in_fp64(kind: TaskKind) -> None:
    data, lanes = data_of(kind), lanes_of(kind)
    states = trained(data, lanes, list(range(len(lanes))), torch.float64)
    like = torch.empty(0, dtype=torch.float64)
    batches = [
        batch
        for epoch in range(1, EPOCHS + 1)
        for batch in data.batches(epoch, training_batches(N_IMAGES, BATCH_SIZE, SEED, epoch), like)
    ]
    ends = []
    for i, config in enumerate(lanes):
        alone = build(LAST, config, 100 + i, torch.float64)
        start = copy.deepcopy(alone.state_dict())
        train_plainly(alone, config, data, batches, n_steps=len(batches), steps_per_epoch=len(batches) // EPOCHS)
        lane = cut_to(start, states[i])
        for name, value in alone.state_dict().items():
            assert (lane[name] - value).abs().max().item() < 1e-10, f"{config.loss}, {config.class_weights}: {name}"
        ends.append(
            alone.state_dict()["head.linear.bias"] if "head.linear.bias" in start else next(iter(lane.values()))
        )
    assert not torch.allclose(ends[0], ends[2]), "the weights have no effect"


@pytest.mark.parametrize("kind", [CLASSES, MULTI_LABEL], ids=lambda kind: kind.name)
def test_lane_is_bitwise_the_same_in_any_stack(kind: TaskKind) -> None:
    """Lanes with and without weights are tested beside lanes with and without weights."""
    data, lanes = data_of(kind), lanes_of(kind)
    reference = trained(data, lanes, list(range(len(lanes))), torch.float32)
    for numbers in ([2], [0], [2, 5], [4, 1, 2], list(reversed(range(len(lanes))))):
        for i, state in zip(numbers, trained(data, lanes, numbers, torch.float32), strict=True):
            for name, value in state.items():
                assert torch.equal(value, reference[i][name]), f"lane {i} in stack {numbers}: {name}"


def test_a_lane_inherits_the_weights_of_its_study() -> None:
    def study(weights: object, **own: object) -> Study:
        return Study(suggest=lambda trial: LaneConfig(lr=1e-3, **own), baseline={}, class_weights=weights)  # type: ignore[arg-type]

    import optuna

    trial = optuna.trial.FixedTrial({})
    assert study("balanced").lane_config(trial).class_weights == "balanced"
    assert study("balanced", class_weights="none").lane_config(trial).class_weights == "none"
    assert study({"a": 2, "b": 1}).lane_config(trial).class_weights == (2.0, 1.0)
    assert completed({"b": 3}, ("a", "b", "c")) == {"a": 1.0, "b": 3.0, "c": 1.0}
    assert of_lane(completed({"b": 3}, ("a", "b", "c"))) == (1.0, 3.0, 1.0)
    assert study("balanced").declarations()["class_weights"] == "balanced"
    assert probe_config(1e-2, CLASSES, "balanced").class_weights == "balanced"
    recorded = study({"a": 2, "b": 1}).lane_config(trial).as_recorded()
    assert LaneConfig(**{**recorded, "class_weights": list(recorded["class_weights"])}).class_weights == (2.0, 1.0)


@pytest.mark.parametrize("weights", ["even", {}, {"a": -1}, {"a": "2"}, {"a": float("nan")}, 3, {"a": True}])
def test_malformed_weights_are_refused(weights: object) -> None:
    with pytest.raises(UsageError, match="class_weights must be 'balanced', 'none', or map names"):
        checked(weights)


def test_weights_that_do_not_fit_classes_or_task_are_refused() -> None:
    with pytest.raises(UsageError, match="class_weights names 'hat', but the classes of the data are cat, dog"):
        completed({"hat": 2.0}, ("cat", "dog"))
    with pytest.raises(UsageError, match=r"LaneConfig\.class_weights must be 'balanced'"):
        LaneConfig(lr=1, class_weights="even")
    with pytest.raises(UsageError, match="the data make a regression, which has no classes"):
        LaneConfig(lr=1, class_weights="balanced").on(REGRESSION)
    assert LaneConfig(lr=1, class_weights="none").on(REGRESSION).loss == "mse"
    with pytest.raises(UsageError, match="has 2 numbers, and the data have 4 classes"):
        LaneLosses([LaneConfig(lr=1, class_weights=(1.0, 2.0))], torch.ones(4), torch.float32)
