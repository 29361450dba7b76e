"""Cross-validation: the lane of a fold is trained on the other folds' images only, and measured on its own only."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.errors import UsageError
from sweep.features.batches import StageData, training_batches
from sweep.features.folds import Folds
from sweep.side_networks import LAST, RankSpaceLAST, cut_to
from sweep.study.lane_config import LaneConfig
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION, TaskKind
from sweep.tasks.targets import Target
from sweep.training.engine import EpochResult, train
from sweep.training.measurement import measure_lanes
from sweep.training.plain_loop import train_plainly

N_IMAGES, N_CLASSES, TOKENS, WIDTH, EPOCHS, SEED = 61, 3, 6, 16, 2, 5
N_FOLDS, N_REPEATS = 4, 2
BATCH_SIZE = 10  # the last batch of an epoch has one image; one of the folds does not learn from it

LANES = {
    CLASSES: [
        LaneConfig(lr=5e-3, rank=2, loss="logit_adjusted"),
        LaneConfig(lr=5e-3, rank=3, loss="focal", class_weights="balanced", dropout=0.3),
        LaneConfig(lr=2e-2, rank=2, loss="bce", optimizer="sgd", clip_norm=0.2, class_weights=(0.5, 2.0, 1.0)),
        LaneConfig(lr=5e-3, rank=2, label_smoothing=0.1, weight_decay=0.3, schedule="constant"),
    ],
    MULTI_LABEL: [
        LaneConfig(lr=5e-3, rank=2, loss="asymmetric", class_weights="balanced"),
        LaneConfig(lr=5e-3, rank=2, loss="bce"),
    ],
    REGRESSION: [LaneConfig(lr=5e-3, rank=2, loss="huber"), LaneConfig(lr=5e-3, rank=3, loss="mse")],
}


def data_of(kind: TaskKind) -> StageData:
    rng = np.random.default_rng(1)
    stages = rng.normal(size=(N_IMAGES, 3, TOKENS, WIDTH))
    if kind is CLASSES:
        labels = torch.from_numpy(rng.choice(N_CLASSES, N_IMAGES, p=(0.2, 0.5, 0.3)))
        return StageData(stages, labels, N_CLASSES)
    if kind is MULTI_LABEL:
        has = (rng.random((N_IMAGES, N_CLASSES)) < (0.3, 0.5, 0.6)).astype(np.int64)
        return StageData(stages, torch.from_numpy(has), N_CLASSES, target=Target(kind))
    numbers = rng.normal(size=(N_IMAGES, N_CLASSES))
    return StageData(stages, torch.from_numpy(numbers), N_CLASSES, target=Target.of(kind.name, numbers))


def build(form: type[LAST], config: LaneConfig, seed: int, dtype: torch.dtype, padded_rank: int) -> LAST:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return form(WIDTH, 3, N_CLASSES, config.rank, n_prefix_tokens=1, padded_rank=padded_rank).to(dtype)


def trained(
    data: StageData, folds: Folds, lanes: list[tuple[LaneConfig, int]], dtype: torch.dtype, batch_size: int = BATCH_SIZE
) -> tuple[list[dict[str, Tensor]], list[EpochResult]]:
    """Train lanes with these configurations and folds. The seed of a lane depends on its fold."""
    modules = [build(RankSpaceLAST, config, 100 + fold, dtype, 3) for config, fold in lanes]
    return train(
        modules,
        [config for config, _ in lanes],
        data,
        data,
        n_epochs=EPOCHS,
        batch_size=batch_size,
        seed=SEED,
        lane_seeds=[100 + fold for _, fold in lanes],
        folds=folds,
        lane_folds=[fold for _, fold in lanes],
    )


def in_order(epoch: int, batch_size: int) -> list[Tensor]:
    return list(training_batches(N_IMAGES, batch_size, SEED, epoch))


def trained_alone(
    data: StageData, folds: Folds, config: LaneConfig, fold: int, batch_size: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train in a plain loop that never sees an image of the fold.

    Return the initial and the trained weights, in fp64.
    """
    own = folds.held_out(fold).logical_not().nonzero().flatten()
    left = StageData(data.stages[own.numpy()], data.labels[own], N_CLASSES, target=data.target)
    place = {int(image): number for number, image in enumerate(own)}
    like = torch.empty(0, dtype=torch.float64)
    alone = build(LAST, config, 100 + fold, torch.float64, config.rank)
    start = copy.deepcopy(alone.state_dict())
    orders = [wanted for epoch in range(1, EPOCHS + 1) for wanted in in_order(epoch, batch_size)]
    held_out = [folds.held_out(fold)[wanted] for wanted in orders]

    def batches():  # type: ignore[no-untyped-def]
        """Yield batches with images of `left` only. Those of the fold are replaced by NaN."""
        for wanted in orders:
            rows = [place.get(int(image)) for image in wanted]
            stages = [torch.full((len(rows), TOKENS, WIDTH), torch.nan, dtype=torch.float64) for _ in range(3)]
            labels = torch.zeros(len(rows), *left.labels.shape[1:], dtype=left.labels.dtype)
            known = torch.tensor([number for number, row in enumerate(rows) if row is not None], dtype=torch.int64)
            if len(known):
                given, labels_given = left.batch(torch.tensor([row for row in rows if row is not None]), like)
                labels = labels.to(labels_given.dtype)
                labels[known] = labels_given
                for stage, of_known in zip(stages, given, strict=True):
                    stage[known] = of_known
            yield stages, labels

    length = {"n_steps": len(orders), "steps_per_epoch": len(orders) // EPOCHS}
    train_plainly(alone, config, left, batches(), **length, seed=100 + fold, held_out=held_out)
    return start, alone.state_dict()


def folds_of(data: StageData, n_folds: int = N_FOLDS) -> Folds:
    return Folds.of(data, n_folds, N_REPEATS, SEED)


@pytest.mark.parametrize("kind", list(LANES), ids=lambda kind: kind.name)
def test_lane_of_a_fold_equals_a_plain_loop_on_its_images_alone(kind: TaskKind) -> None:
    data = data_of(kind)
    folds = folds_of(data)
    lanes = [(config, fold) for config in LANES[kind] for fold in (0, 3, 6)]
    states, _ = trained(data, folds, lanes, torch.float64)
    for (config, fold), state in zip(lanes, states, strict=True):
        start, expected = trained_alone(data, folds, config, fold, BATCH_SIZE)
        lane = cut_to(start, state)
        assert any(not torch.equal(value, start[name]) for name, value in expected.items())
        for name, value in expected.items():
            assert (lane[name] - value).abs().max().item() < 1e-10, f"{config}, fold {fold}: {name}"


def test_a_lane_skips_batches_of_its_own_fold() -> None:
    """With one image per batch, a lane makes no step for images of its fold: there is neither decay nor momentum."""
    data = data_of(CLASSES)
    folds = folds_of(data, 2)
    lanes = [(config, fold) for config in LANES[CLASSES] for fold in (0, 1)]
    states, _ = trained(data, folds, lanes, torch.float64, batch_size=1)
    for (config, fold), state in zip(lanes, states, strict=True):
        start, expected = trained_alone(data, folds, config, fold, 1)
        for name, value in cut_to(start, state).items():
            assert (value - expected[name]).abs().max().item() < 1e-10, f"{config}, fold {fold}: {name}"


def test_lane_has_the_same_bits_whatever_trains_beside_it() -> None:
    data = data_of(CLASSES)
    folds = folds_of(data)
    lanes = [(config, fold) for config in LANES[CLASSES] for fold in range(N_FOLDS * N_REPEATS)]
    states, results = trained(data, folds, lanes, torch.float32)
    for some in ([5], [9, 1], [30, 0, 17, 2, 31]):
        own, own_results = trained(data, folds, [lanes[i] for i in some], torch.float32)
        for place, i in enumerate(some):
            assert all(torch.equal(value, states[i][name]) for name, value in own[place].items())
            for few, many in zip(own_results, results, strict=True):
                assert few.train_loss[place] == many.train_loss[i]
                assert torch.equal(few.val_logits[place].nan_to_num(), many.val_logits[i].nan_to_num())
                measured = measure_lanes(few, data, {})[place]
                assert measured == measure_lanes(many, data, {})[i]


def test_lane_is_measured_on_its_fold_alone() -> None:
    data = data_of(CLASSES)
    folds = folds_of(data)
    lanes = [(LANES[CLASSES][0], fold) for fold in range(N_FOLDS * N_REPEATS)]
    _, results = trained(data, folds, lanes, torch.float32)
    last = results[-1]
    seen: list[Tensor] = []

    def own_metric(logits: Tensor, labels: Tensor) -> float:
        seen.append(labels)
        return float(len(logits))

    for fold, lane in enumerate(measure_lanes(last, data, {"count": own_metric})):
        held_out = folds.held_out(fold)
        assert last.val_logits[fold][held_out].isfinite().all()
        assert last.val_logits[fold][~held_out].isnan().all()
        right = (last.val_logits[fold][held_out].argmax(-1) == data.labels[held_out]).double()
        assert lane.metrics["val_top1"] == right.mean().item()
        assert lane.metrics["val_count"] == held_out.sum()
        assert torch.equal(seen[fold], data.labels[held_out])
        assert not lane.failure
    answers = folds.together(data.target.of_images(last.val_logits, data.labels))
    for repeat, of_images in enumerate(answers):
        for image in range(N_IMAGES):
            lane_of_image = repeat * N_FOLDS + int(folds.numbers[repeat, image])
            assert of_images[image] == (last.val_logits[lane_of_image, image].argmax() == data.labels[image])


def test_folds_are_even_class_by_class_and_repeats_differ() -> None:
    data = data_of(CLASSES)
    folds = folds_of(data)
    for of_repeat in folds.numbers:
        sizes = torch.bincount(of_repeat, minlength=N_FOLDS)
        assert sizes.max() - sizes.min() <= 1
        for label in range(N_CLASSES):
            of_class = torch.bincount(of_repeat[data.labels == label], minlength=N_FOLDS)
            assert of_class.max() - of_class.min() <= 1
    assert not torch.equal(*folds.numbers)
    assert torch.equal(folds.numbers, folds_of(data).numbers)
    for fold in range(N_FOLDS * N_REPEATS):
        left = folds.learned_from(fold)
        assert torch.equal(left.class_counts, data.target.counts(data.labels[~folds.held_out(fold)], N_CLASSES))
        assert len(left) == (~folds.held_out(fold)).sum()


def test_more_folds_than_images_are_an_error() -> None:
    with pytest.raises(UsageError, match=f"--folds {N_IMAGES + 1} is more than the {N_IMAGES} images"):
        folds_of(data_of(CLASSES), N_IMAGES + 1)
