"""A lane gives the same result as its trial alone, whatever trains beside it."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sweep.features.batches import StageData, training_batches
from sweep.side_networks import LAST, LinearProbe, RankSpaceLAST, cut_to
from sweep.study.lane_config import LaneConfig
from sweep.tasks.metrics import classification_metrics
from sweep.training.engine import Lane, Training, train
from sweep.training.plain_loop import train_plainly

WIDTH, N_STAGES, N_CLASSES, TOKENS, MAX_RANK = 24, 4, 5, 10, 8
EPOCHS, BATCH_SIZE, SEED = 5, 12, 3


def stage_data(n_images: int, seed: int) -> StageData:
    rng = np.random.default_rng(seed)
    stages = rng.normal(size=(n_images, N_STAGES, TOKENS, WIDTH))
    return StageData(stages, torch.from_numpy(rng.integers(0, N_CLASSES, n_images)), N_CLASSES)


TRAIN, VAL = stage_data(120, 0), stage_data(40, 1)

CONFIGS = [
    LaneConfig(lr=3e-3, rank=8),
    LaneConfig(lr=1e-2, rank=3, head_lr_ratio=5.0, schedule="constant", warmup_epochs=0),
    LaneConfig(lr=1e-3, rank=4, loss="focal", focal_gamma=1.5, weight_decay=0.3),
    LaneConfig(lr=5e-3, rank=1, loss="logit_adjusted", beta1=0.8, beta2=0.99, eps=1e-6),
    LaneConfig(lr=2e-2, rank=2, loss="bce", optimizer="sgd", momentum=0.8, weight_decay=0.01),
    LaneConfig(lr=8e-3, rank=5, label_smoothing=0.2, warmup_epochs=2.5),
    LaneConfig(lr=4e-3, rank=6, dropout=0.4, clip_norm=0.8),
    LaneConfig(lr=3e-3, rank=2, dropout=0.1, optimizer="sgd", clip_norm=0.1),
]


def build(kind: type[LAST], config: LaneConfig, seed: int, dtype: torch.dtype, padded_rank: int) -> LAST:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind(
            WIDTH,
            N_STAGES,
            N_CLASSES,
            config.rank,
            n_prefix_tokens=1,
            modules_per_block=2,
            padded_rank=padded_rank,
        )
        return module.to(dtype)


def run_stack(
    kind: type[LAST],
    lanes: list[int],
    dtype: torch.dtype,
    configs: list[LaneConfig] = CONFIGS,
    n_epochs: int = EPOCHS,
) -> tuple[dict[int, dict[str, Tensor]], dict[int, list[Tensor]]]:
    """Train some of the trials together. Return every trial's weights and its curve."""
    modules = [build(kind, configs[i], 100 + i, dtype, MAX_RANK) for i in lanes]
    own = [configs[i] for i in lanes]
    lengths = {"n_epochs": n_epochs, "batch_size": BATCH_SIZE}
    states, results = train(modules, own, TRAIN, VAL, **lengths, seed=SEED, lane_seeds=[100 + i for i in lanes])
    curves: dict[int, list[Tensor]] = {i: [] for i in lanes}
    for result in results:
        metrics = classification_metrics(result.val_logits, VAL.labels)
        for lane, i in enumerate(lanes):
            numbers = [result.train_loss[lane].double(), *(values[lane] for values in metrics.values())]
            curves[i].append(torch.stack(numbers))
    return dict(zip(lanes, states, strict=True)), curves


def plain_loop(module: nn.Module, config: LaneConfig, seed: int) -> dict[str, Tensor]:
    """Train one trial alone with `nn.Module`, `torch.optim` and `LambdaLR`, without a stack or padding."""
    like = next(module.parameters())
    batches = [
        batch
        for epoch in range(1, EPOCHS + 1)
        for batch in TRAIN.batches(epoch, training_batches(len(TRAIN), BATCH_SIZE, SEED, epoch), like)
    ]
    steps_per_epoch = -(-len(TRAIN) // BATCH_SIZE)
    n_steps = EPOCHS * steps_per_epoch
    train_plainly(module, config, TRAIN, batches, n_steps=n_steps, steps_per_epoch=steps_per_epoch, seed=seed)
    return {name: p.detach() for name, p in module.named_parameters()}


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST])
def test_lane_equals_plain_loop_in_fp64_after_50_steps(kind: type[LAST]) -> None:
    states, _ = run_stack(kind, list(range(len(CONFIGS))), torch.float64)
    for i, config in enumerate(CONFIGS):
        alone = build(LAST, config, 100 + i, torch.float64, config.rank)
        start = copy.deepcopy(alone.state_dict())
        expected = plain_loop(alone, config, 100 + i)
        lane = cut_to(alone.state_dict(), states[i])
        for name, value in expected.items():
            assert not torch.equal(value, start[name]), f"{name} was not trained"
            difference = (lane[name] - value).abs().max().item()
            assert difference < 1e-10, f"trial {i}, {name}: {difference}"


def test_padding_beyond_a_lanes_rank_stays_zero() -> None:
    states, _ = run_stack(RankSpaceLAST, [0, 1, 3], torch.float32, n_epochs=2)
    for i in (1, 3):
        rank = CONFIGS[i].rank
        for name, value in states[i].items():
            if name.endswith((".q.weight", ".k.weight", ".v.weight")):
                assert value[:rank].any()
                assert not value[rank:].any()
            if name.endswith(".up.weight"):
                assert value[:, :rank].any()
                assert not value[:, rank:].any()


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST])
def test_lane_is_bitwise_the_same_in_any_stack(kind: type[LAST]) -> None:
    many = [CONFIGS[i % len(CONFIGS)] for i in range(16)]
    reference, reference_curves = run_stack(kind, list(range(16)), torch.float32, many, n_epochs=3)
    stacks = [[4], [0, 1], [5, 2, 9], [3, 0, 8, 15, 4], list(reversed(range(16))), [7, 1, 12, 2, 6, 11, 10, 5]]
    for lanes in stacks:
        states, curves = run_stack(kind, lanes, torch.float32, many, n_epochs=3)
        for i in lanes:
            for name, value in states[i].items():
                assert torch.equal(value, reference[i][name]), f"trial {i} in stack {lanes}: {name}"
            assert torch.equal(torch.stack(curves[i]), torch.stack(reference_curves[i]))


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST])
def test_a_lane_that_enters_late_equals_its_trial_alone(kind: type[LAST]) -> None:
    """Lanes enter and leave between epochs until one is left. This changes no bit of any other lane."""

    def lane(i: int) -> Lane:
        return Lane(CONFIGS[i], build(kind, CONFIGS[i], 100 + i, torch.float32, MAX_RANK), 100 + i)

    def training(lanes: list[Lane]) -> Training:
        return Training(lanes, TRAIN, VAL, n_epochs=n_epochs, batch_size=BATCH_SIZE, seed=SEED)

    n_epochs = 3
    enters = {0: 1, 1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 2, 7: 3}  # trial: first data order
    leaves = {1: 1, 2: 2}  # trial: last data order; the others train to their end
    running: dict[int, Lane] = {}
    logits: dict[int, Tensor] = {}
    for order in range(1, max(enters.values()) + n_epochs):
        running |= {i: lane(i) for i, first in enters.items() if first == order}
        together = training(list(running.values()))
        result = together.epoch(order)
        logits |= dict(zip(running, result.val_logits, strict=True))
        running = {
            i: own
            for i, own in zip(running, together.update_lanes(), strict=True)
            if own.epochs < n_epochs and leaves.get(i) != order
        }
    for i, first in enters.items():
        alone = training([lane(i)])
        for order in range(first, leaves.get(i, first + n_epochs - 1) + 1):
            result = alone.epoch(order)
        assert torch.equal(result.val_logits[0], logits[i]), f"trial {i}"


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST])
def test_diverging_lane_changes_no_other_lane(kind: type[LAST]) -> None:
    lanes = [0, 1, 2, 3]
    healthy, _ = run_stack(kind, lanes, torch.float32, n_epochs=2)
    wild = [*CONFIGS]
    wild[1] = LaneConfig(lr=1e30, rank=3, optimizer="sgd", weight_decay=0, warmup_epochs=0)
    states, curves = run_stack(kind, lanes, torch.float32, wild, n_epochs=2)
    assert not curves[1][-1].isfinite().all(), "the lane has to diverge in this test"
    for i in (0, 2, 3):
        for name, value in states[i].items():
            assert torch.equal(value, healthy[i][name]), f"trial {i}: {name}"


def test_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    first, _ = run_stack(RankSpaceLAST, [0, 2], torch.float32, n_epochs=2)
    torch.manual_seed(12345)  # global state must not matter
    second, _ = run_stack(RankSpaceLAST, [0, 2], torch.float32, n_epochs=2)
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name])
    orders = [torch.cat(list(training_batches(50, 8, seed, 1))) for seed in (0, 1)]
    assert not torch.equal(*orders)
    assert torch.equal(orders[0].sort().values, torch.arange(50))


def test_untrained_last_is_the_linear_probe() -> None:
    last = build(RankSpaceLAST, CONFIGS[0], 1, torch.float64, MAX_RANK)
    probe = LinearProbe(WIDTH, N_CLASSES, n_prefix_tokens=1).double()
    probe.head.load_state_dict(last.head.state_dict())
    stages = list(torch.from_numpy(VAL.stages).unbind(1))
    torch.testing.assert_close(last(stages), probe(stages), rtol=1e-12, atol=1e-12)
