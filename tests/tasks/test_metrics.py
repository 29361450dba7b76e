"""The metrics of lanes, compared with loops over images."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.study.objectives import METRICS
from sweep.tasks.metrics import N_CALIBRATION_BINS, classification_metrics


def by_hand(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute the metrics of one lane, image by image."""
    hits: dict[int, list[float]] = {}
    nll = 0.0
    bins: list[list[tuple[float, float]]] = [[] for _ in range(N_CALIBRATION_BINS)]
    for scores, label in zip(logits, labels, strict=True):
        exponentials = [math.exp(score - max(scores)) for score in scores]
        p = [e / sum(exponentials) for e in exponentials]
        hit = float(int(np.argmax(scores)) == label)
        hits.setdefault(int(label), []).append(hit)
        nll -= math.log(p[label])
        for i in range(N_CALIBRATION_BINS):
            if i / N_CALIBRATION_BINS < max(p) <= (i + 1) / N_CALIBRATION_BINS:
                bins[i].append((hit, max(p)))
    n = len(labels)
    assert sum(len(content) for content in bins) == n
    ece = 0.0
    for content in bins:
        if content:
            accuracy = sum(hit for hit, _ in content) / len(content)
            confidence = sum(p for _, p in content) / len(content)
            ece += len(content) / n * abs(accuracy - confidence)
    return {
        "top1": sum(sum(own) for own in hits.values()) / n,
        "mean_class_accuracy": sum(sum(own) / len(own) for own in hits.values()) / len(hits),
        "worst_class_accuracy": min(sum(own) / len(own) for own in hits.values()),
        "nll": nll / n,
        "ece": ece,
    }


def case(n_lanes: int, n_images: int, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return logits of lanes from unsure to sure, all better than chance, and labels of classes of unequal size."""
    rng = np.random.default_rng(n_images)
    labels = rng.integers(0, n_classes, n_images) * rng.integers(0, 2, n_images)
    logits = rng.normal(size=(n_lanes, n_images, n_classes)) * np.geomspace(0.3, 8, n_lanes)[:, None, None]
    logits[:, np.arange(n_images), labels] += 1.5
    return torch.from_numpy(logits), torch.from_numpy(labels)


@pytest.mark.parametrize(("n_lanes", "n_images", "n_classes"), [(5, 200, 7), (3, 60, 2), (2, 1, 4), (4, 90, 40)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_metrics_equal_those_of_a_loop(n_lanes: int, n_images: int, n_classes: int, dtype: torch.dtype) -> None:
    logits, labels = case(n_lanes, n_images, n_classes)
    logits = logits.to(dtype)
    metrics = classification_metrics(logits, labels)
    assert tuple(metrics) == METRICS
    for lane in range(n_lanes):
        for name, expected in by_hand(logits[lane].double().numpy(), labels.numpy()).items():
            assert metrics[name].shape == (n_lanes,)
            assert metrics[name].dtype == torch.float64
            assert metrics[name][lane].item() == pytest.approx(expected, rel=1e-11, abs=1e-13), (name, lane)


def test_a_class_without_images_does_not_count() -> None:
    logits = torch.tensor(
        [[[5.0, 0, 0], [5, 0, 0], [5, 0, 0], [0, 0, 5]], [[0, 5, 0], [0, 5, 0], [0, 5, 0], [0, 5, 0]]]
    )
    metrics = classification_metrics(logits, torch.tensor([0, 0, 2, 2]))
    assert metrics["mean_class_accuracy"].tolist() == [0.75, 0.0]
    assert metrics["top1"].tolist() == [0.75, 0.0]
    uneven = classification_metrics(logits, torch.tensor([0, 0, 0, 1]))
    assert uneven["mean_class_accuracy"].tolist() == [0.5, 0.5]
    assert uneven["top1"].tolist() == [0.75, 0.25]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_lane_is_nan_and_affects_no_other(bad: float) -> None:
    logits, labels = case(5, 50, 4)
    healthy = classification_metrics(logits, labels)
    logits[1, 3, 2] = bad
    logits[3] = bad
    metrics = classification_metrics(logits, labels)
    for name in METRICS:
        assert metrics[name].isnan().tolist() == [False, True, False, True, False]
        assert torch.equal(metrics[name][[0, 2, 4]], healthy[name][[0, 2, 4]])


def test_perfect_calibration() -> None:
    """One lane is right as often as it is sure: 3 of 4 at 75%, 9 of 10 at 90%.

    The other is as sure and always right.
    """
    confidence = torch.tensor([0.75] * 4 + [0.9] * 10, dtype=torch.float64)
    logits = torch.stack([confidence.log(), (1 - confidence).log()], -1)
    sure_of = torch.tensor([0, 0, 0, 1] + [0] * 9 + [1])  # the true labels; the first lane predicts 0 for all images
    flipped = logits.clone()
    flipped[sure_of == 1] = flipped[sure_of == 1].flip(-1)
    metrics = classification_metrics(torch.stack([logits, flipped]), sure_of)
    assert metrics["ece"][0].item() == pytest.approx(0, abs=1e-12)
    assert metrics["ece"][1].item() == pytest.approx((4 * 0.25 + 10 * 0.1) / 14, rel=1e-12)
    assert metrics["top1"].tolist() == pytest.approx([12 / 14, 1])


def test_certain_answers() -> None:
    """A confidence of exactly one falls into the last bin. A certain mistake costs its margin."""
    logits = torch.tensor([[[1000.0, 0], [0, 1000]], [[1000, 0], [1000, 0]]])
    metrics = classification_metrics(logits, torch.tensor([0, 1]))
    assert metrics["nll"].tolist() == [0, 500]
    assert metrics["ece"].tolist() == [0, 0.5]


def test_the_lowest_bin_takes_many_classes() -> None:
    """With 100 classes, an unsure lane has a confidence below 1/15 on every image."""
    logits = torch.zeros(1, 8, 100)
    labels = torch.full((8,), 50)
    assert classification_metrics(logits, labels)["ece"].item() == pytest.approx(0.01, rel=1e-9)


def test_bins_at_both_ends_are_kept_apart() -> None:
    """Gaps of opposite sign cancel within a bin but not between bins. The right edge belongs to its bin."""
    n_classes = 100

    def of_confidence(confidence: float) -> Tensor:
        p = torch.full((n_classes,), (1 - confidence) / (n_classes - 1), dtype=torch.float64)
        p[0] = confidence
        return p.log()

    # Wrong at 2%, right at 10%: in the first two bins. Wrong at 100%, right at 97%: both in the last bin.
    low = torch.stack([of_confidence(0.02), of_confidence(0.10)])
    certain = torch.full((n_classes,), -1000.0, dtype=torch.float64)
    certain[0] = 1000
    high = torch.stack([certain, of_confidence(0.97)])
    ece = classification_metrics(torch.stack([low, high]), torch.tensor([1, 0]))["ece"]
    assert ece.tolist() == pytest.approx([(0.02 + 0.90) / 2, (1 - 0.03) / 2], rel=1e-9)
