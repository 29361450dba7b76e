"""Label maps: interpolation, losses and metrics, compared with PyTorch's own functions and with counting by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sweep.study.lane_config import LaneConfig
from sweep.tasks.kinds import SEGMENTATION
from sweep.tasks.label_maps import IGNORED, by_place, interpolated, segmentation_metrics
from sweep.tasks.lane_losses import LaneLosses
from sweep.tasks.targets import Target
from sweep.training.plain_dense_loss import plain_dense_loss

N_LANES, N_IMAGES, GRID, FACTOR, N_CLASSES = 3, 4, 3, 4, 3
SIDE = GRID * FACTOR


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs (N, n, P, C) in fp64, and label maps with some unlabelled pixels."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(N_LANES, N_IMAGES, GRID**2, N_CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(N_CLASSES, (N_IMAGES, SIDE, SIDE), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    return outputs, labels


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_interpolation_equals_pytorchs(factor: int) -> None:
    outputs, _ = drawn()
    grid = outputs.flatten(0, 1).mT.unflatten(-1, (GRID, GRID))
    expected = F.interpolate(grid, (GRID * factor,) * 2, mode="bilinear").unflatten(0, (N_LANES, -1))
    torch.testing.assert_close(interpolated(outputs, GRID * factor), expected)


@pytest.mark.parametrize("cells", [1, 2, 4])
def test_cells_are_placed_as_pytorchs_pixel_shuffle_does(cells: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(N_LANES, N_IMAGES, GRID**2, cells**2 * N_CLASSES, generator=generator)
    of_classes = outputs.unflatten(-1, (cells**2, N_CLASSES)).mT.flatten(-2)  # as pixel_shuffle has them
    expected = F.pixel_shuffle(of_classes.mT.unflatten(-1, (GRID, GRID)), cells)
    assert torch.equal(by_place(outputs, cells).mT.unflatten(-1, (GRID * cells,) * 2), expected)


@pytest.mark.parametrize("weights", [None, "balanced", (0.5, 2.0, 1.0)])
@pytest.mark.parametrize("chosen", [{}, {"label_smoothing": 0.1}, {"loss": "dice"}])
def test_losses_and_their_gradients_equal_those_of_plain_pytorch(weights: object, chosen: dict[str, object]) -> None:
    outputs, labels = drawn()
    config = LaneConfig(lr=1.0, class_weights=weights, **chosen).on(SEGMENTATION)  # type: ignore[arg-type]
    counts = Target(SEGMENTATION).counts(labels, N_CLASSES)
    other = LaneConfig(lr=1.0, loss="dice" if config.loss == "cross_entropy" else "cross_entropy")
    of_lanes = LaneLosses([config, other, config], counts, torch.float64)
    of_engine, of_plain = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    losses = of_lanes(of_engine, labels)
    plain = plain_dense_loss(config, counts.double())
    expected = torch.stack([plain(of_plain[0], labels), plain(of_plain[2], labels)])
    torch.testing.assert_close(losses[[0, 2]], expected)
    losses[[0, 2]].sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(of_engine.grad, of_plain.grad)


def test_pixels_without_a_label_change_nothing() -> None:
    outputs, labels = drawn()
    without = labels == IGNORED
    moved = outputs.clone()
    for config in (LaneConfig(lr=1.0), LaneConfig(lr=1.0, loss="dice")):
        losses = LaneLosses([config.on(SEGMENTATION)] * N_LANES, torch.ones(N_CLASSES), torch.float64)
        of_grid = interpolated(moved, SIDE).movedim(2, -1).requires_grad_()
        # with as many tokens as pixels, the outputs of unlabelled pixels get no gradient
        loss = losses(of_grid.flatten(2, 3), labels)
        (gradient,) = torch.autograd.grad(loss.sum(), of_grid)
        assert not gradient[:, without].any()
        assert gradient[:, ~without].any(-1).all()


def test_intersections_and_unions_are_summed_over_images() -> None:
    outputs, labels = drawn(1)
    measured = segmentation_metrics(outputs, labels)
    for lane in range(N_LANES):
        logits = interpolated(outputs[lane], SIDE).movedim(1, -1).numpy()
        said, true = logits.argmax(-1), labels.numpy()
        labelled = true != IGNORED
        ious = [
            ((said == c) & (true == c)).sum() / (((said == c) | (true == c)) & labelled).sum() for c in range(N_CLASSES)
        ]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        of_labels = np.take_along_axis(log_p, np.where(labelled, true, 0)[..., None], -1)[..., 0]
        assert measured["miou"][lane].item() == pytest.approx(np.mean(ious))
        assert measured["worst_iou"][lane].item() == pytest.approx(min(ious))
        assert measured["pixel_accuracy"][lane].item() == pytest.approx((said == true)[labelled].mean())
        assert measured["nll"][lane].item() == pytest.approx(-of_labels[labelled].mean())


def test_a_class_that_no_pixel_has_is_left_out_of_the_mean() -> None:
    _, labels = drawn()
    labels[labels == 2] = IGNORED
    right = F.one_hot(labels.masked_fill(labels == IGNORED, 2), N_CLASSES).double().flatten(1, 2)
    assert segmentation_metrics(right[None], labels)["miou"].item() == 1


def test_a_lane_with_an_output_that_is_not_finite_has_no_metrics() -> None:
    outputs, labels = drawn()
    outputs[1, 2, 3, 0] = torch.inf
    for values in segmentation_metrics(outputs, labels).values():
        assert values.isnan().tolist() == [False, True, False]


def test_metrics_do_not_depend_on_how_many_images_are_counted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, labels = drawn()
    at_once = segmentation_metrics(outputs, labels)
    monkeypatch.setattr("sweep.tasks.label_maps.CHUNK_NUMBERS", 1)
    for name, values in segmentation_metrics(outputs, labels).items():
        assert torch.equal(values, at_once[name])


def test_standard_error_is_of_resampled_images() -> None:
    outputs, labels = drawn()
    target = Target(SEGMENTATION)
    error = target.standard_error(outputs[0], labels)["miou_error"]
    generator, scores = torch.Generator().manual_seed(0), []
    for _ in range(200):
        drawn_images = torch.randint(N_IMAGES, (N_IMAGES,), generator=generator)
        scores.append(target.measure(outputs[:1, drawn_images], labels[drawn_images])["miou"].item())
    assert error == pytest.approx(np.std(scores, ddof=1))
