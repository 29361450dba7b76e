"""Metrics for several labels and for numbers, compared with their definitions, which are written as loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION, TASK_KINDS
from sweep.tasks.metrics import average_precision, multi_label_metrics, regression_metrics
from sweep.tasks.targets import Target, recorded_target

RNG = np.random.default_rng(3)
LANES, IMAGES, OUTPUTS = 3, 40, 4
LOGITS = torch.from_numpy(RNG.normal(size=(LANES, IMAGES, OUTPUTS)))
LABELS = torch.from_numpy((RNG.random((IMAGES, OUTPUTS)) < [0.5, 0.2, 0.05, 0]).astype(np.int64))
LABELS[7, 2] = 1  # a rare label; no image has the last one
NUMBERS = torch.from_numpy(RNG.normal(loc=[0, 100, -5, 3], scale=[1, 20, 0.1, 4], size=(IMAGES, OUTPUTS)))


def precision_by_hand(scores: list[float], has: list[int]) -> float:
    """Average over images with the label: of all images that score at least as high, the share that has the label."""
    shares = []
    for score, own in zip(scores, has, strict=True):
        if own:
            above = [other for s, other in zip(scores, has, strict=True) if s >= score]
            shares.append(sum(above) / len(above))
    return sum(shares) / len(shares) if shares else math.nan


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_average_precision_is_its_definition_with_and_without_ties(decimals: int) -> None:
    scores = LOGITS.round(decimals=decimals)
    found = average_precision(scores, LABELS.bool())
    for lane in range(LANES):
        for label in range(OUTPUTS):
            by_hand = precision_by_hand(scores[lane, :, label].tolist(), LABELS[:, label].tolist())
            assert found[lane, label].item() == pytest.approx(by_hand, nan_ok=True)
    assert average_precision(torch.zeros(1, IMAGES, 1), LABELS[:, :1].bool()).item() == pytest.approx(
        LABELS[:, 0].double().mean().item()
    ), "equal scores give the share of images with the label"


def test_multi_label_metrics_are_their_definitions() -> None:
    metrics = multi_label_metrics(LOGITS, LABELS)
    assert tuple(metrics) == tuple(MULTI_LABEL.metrics)
    for lane in range(LANES):
        said, has = (LOGITS[lane].sigmoid() >= 0.5).numpy(), LABELS.numpy() == 1
        precisions = [precision_by_hand(LOGITS[lane, :, c].tolist(), LABELS[:, c].tolist()) for c in range(3)]
        assert metrics["map"][lane].item() == pytest.approx(np.mean(precisions)), "a label without images is left out"
        f1 = [2 * (said & has)[:, c].sum() / (said[:, c].sum() + has[:, c].sum()) for c in range(OUTPUTS)]
        assert metrics["macro_f1"][lane].item() == pytest.approx(np.mean(f1[:3]))
        assert metrics["micro_f1"][lane].item() == pytest.approx(2 * (said & has).sum() / (said.sum() + has.sum()))
        assert metrics["label_accuracy"][lane].item() == pytest.approx((said == has).mean())
        p = LOGITS[lane].sigmoid().numpy()
        assert metrics["bce"][lane].item() == pytest.approx(-np.log(np.where(has, p, 1 - p)).mean())


def test_perfect_and_worst_rankings() -> None:
    perfect = 1e3 * (2.0 * LABELS - 1)[None]
    best, worst = multi_label_metrics(perfect, LABELS), multi_label_metrics(-perfect, LABELS)
    assert best["map"].item() == best["micro_f1"].item() == best["macro_f1"].item() == 1
    assert worst["micro_f1"].item() == worst["label_accuracy"].item() == 0
    assert 0 < worst["map"].item() < 0.4


def test_regression_metrics_are_their_definitions() -> None:
    values = NUMBERS + LOGITS
    metrics = regression_metrics(values, NUMBERS)
    assert tuple(metrics) == tuple(REGRESSION.metrics)
    for lane in range(LANES):
        errors, targets = (values[lane] - NUMBERS).numpy(), NUMBERS.numpy()
        r2 = 1 - (errors**2).sum(0) / ((targets - targets.mean(0)) ** 2).sum(0)
        assert metrics["r2"][lane].item() == pytest.approx(r2.mean())
        assert metrics["rmse"][lane].item() == pytest.approx(np.sqrt((errors**2).mean(0)).mean())
        assert metrics["mae"][lane].item() == pytest.approx(np.abs(errors).mean())
    of_mean = regression_metrics(NUMBERS.mean(0).expand(1, IMAGES, OUTPUTS), NUMBERS)
    assert of_mean["r2"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", [MULTI_LABEL, REGRESSION], ids=lambda kind: kind.name)
def test_a_broken_lane_has_no_metrics_and_affects_no_other(kind: object) -> None:
    target = target_of_numbers() if kind is REGRESSION else Target(MULTI_LABEL)
    labels = NUMBERS if kind is REGRESSION else LABELS
    outputs = LOGITS.clone()
    outputs[1, 3, 2] = torch.nan
    healthy, broken = target.measure(LOGITS, labels), target.measure(outputs, labels)
    for name, values in broken.items():
        assert values[1].isnan()
        assert torch.equal(values[[0, 2]], healthy[name][[0, 2]])


def target_of_numbers() -> Target:
    return Target(REGRESSION, tuple(NUMBERS.mean(0).tolist()), tuple(NUMBERS.std(0).tolist()))


def test_numbers_are_standardised_for_losses_and_come_back_in_their_units() -> None:
    target = target_of_numbers()
    encoded = target.encode(NUMBERS, LOGITS)
    torch.testing.assert_close(encoded.mean(0), torch.zeros(OUTPUTS, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(encoded.std(0), torch.ones(OUTPUTS, dtype=torch.float64))
    torch.testing.assert_close(target.decode(encoded), NUMBERS)
    assert target.encode(NUMBERS, LOGITS.float()).dtype == torch.float32
    exact = target.measure(encoded[None], NUMBERS)
    assert exact["r2"].item() == pytest.approx(1)


def test_scores_of_single_images() -> None:
    classes = torch.arange(IMAGES) % OUTPUTS
    right = Target().of_images(LOGITS, classes)
    assert torch.equal(right, LOGITS.argmax(-1) == classes)
    labels = Target(MULTI_LABEL).of_images(LOGITS, LABELS)
    torch.testing.assert_close(labels.mean(-1), multi_label_metrics(LOGITS, LABELS)["label_accuracy"])
    target = target_of_numbers()
    errors = target.of_images(LOGITS, NUMBERS)
    torch.testing.assert_close(
        errors.mean(-1), ((target.decode(LOGITS) - NUMBERS) / NUMBERS.std(0)).square().mean((1, 2))
    )


def test_outputs_of_several_members_are_averaged() -> None:
    def sure(p: Tensor) -> Tensor:
        return (p / (1 - p)).log()

    p = LOGITS.sigmoid()
    torch.testing.assert_close(Target(MULTI_LABEL).together(LOGITS), sure(p.mean(0)))
    torch.testing.assert_close(Target().together(LOGITS).exp(), LOGITS.softmax(-1).mean(0))
    torch.testing.assert_close(target_of_numbers().together(LOGITS), LOGITS.mean(0))


def test_bootstrapped_error_is_near_its_formula() -> None:
    """The standard error of a mean of squares has a formula.

    R² is one minus such a mean here, as all targets have one square.
    """
    rng = np.random.default_rng(0)
    n_images = 4000
    # all targets have the same square, so that the variance is nearly exact
    targets = torch.from_numpy(rng.choice([-1.0, 1.0], (n_images, 1)))
    target = Target(REGRESSION, (0.0,), (1.0,))
    outputs = targets + torch.from_numpy(0.5 * rng.normal(size=(n_images, 1)))
    error = target.standard_error(outputs, targets)["r2_error"]
    expected = (outputs - targets).square().std().item() / math.sqrt(n_images)
    assert error == pytest.approx(expected, rel=0.2)
    assert Target().standard_error(LOGITS[0], torch.zeros(IMAGES)) == {}


def test_a_record_of_a_target_is_checked() -> None:
    assert recorded_target({}, 3).kind is CLASSES
    assert recorded_target({"task": "regression", "mean": [1], "std": [2]}, 1) == Target(REGRESSION, (1.0,), (2.0,))
    for mean, std in (([1, 2], [1, 2]), ([math.nan], [1]), ([1], [0]), ([], [])):
        with pytest.raises(ValueError, match=r"not those of 1 targets|not a finite number"):
            recorded_target({"task": "regression", "mean": mean, "std": std}, 1)


@pytest.mark.parametrize("kind", TASK_KINDS.values(), ids=TASK_KINDS)
def test_kinds_name_metrics_that_are_measured(kind: object) -> None:
    assert kind in TASK_KINDS.values()
    for name in (*kind.shown, kind.tie):
        assert name in kind.metrics


SHIFTS = {"Julian dates": 2.46e6, "map coordinates": 5.4e6, "UNIX seconds": 1.7e9, "UNIX nanoseconds": 1.7e18}


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
def test_metrics_of_lanes_do_not_change_with_the_zero_of_the_targets(shift: float) -> None:
    """Single precision has 7 digits. Metrics that are computed after the shift would consist of rounding errors."""
    spread = 1e6 if shift > 1e12 else 10.0
    numbers = spread * (NUMBERS - NUMBERS.mean(0)) / NUMBERS.std(0)
    outputs = LOGITS.float()

    def measured(targets: Tensor) -> dict[str, Tensor]:
        target = Target.of("regression", targets.numpy())
        return target.measure(outputs, targets)

    plain, shifted = measured(numbers), measured(numbers + shift)
    for name, values in plain.items():
        torch.testing.assert_close(shifted[name], values, rtol=1e-3, atol=0)
    assert torch.equal(shifted["r2"].argsort(), plain["r2"].argsort())


def test_decoded_numbers_have_the_digits_of_double_precision() -> None:
    target = Target(REGRESSION, (2460000.25,), (0.001,))
    said = target.decode(torch.tensor([[1.0]], dtype=torch.float32))
    assert said.dtype == torch.float64
    assert said.item() == pytest.approx(2460000.251, abs=1e-9)
