"""Boxes: what cells stand for, which box a cell answers for, the loss, and what is found; compared with torchvision."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, generalized_box_iou

from sweep.study.lane_config import LaneConfig
from sweep.tasks.box_loss import Assignment, generalised_overlap
from sweep.tasks.boxes import CELLS, DISTANCE_UNIT, PRIOR, by_cell, cell_centres, decoded, first_bias, n_outputs
from sweep.tasks.kinds import DETECTION
from sweep.tasks.lane_losses import LaneLosses
from sweep.tasks.targets import Target
from sweep.training.plain_dense_loss import plain_dense_loss

N_LANES, N_IMAGES, GRID, N_CLASSES, M = 3, 4, 4, 3, 5
SIDE = GRID * CELLS
N_CELLS = SIDE**2


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs (N, n, P, K) in fp64, and boxes, some of them ignored; the last image has none."""
    generator = torch.Generator().manual_seed(seed)
    shape = (N_LANES, N_IMAGES, GRID**2, n_outputs(N_CLASSES))
    outputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.zeros(N_IMAGES, M, 6, dtype=torch.float64)
    labels[..., 0] = torch.randint(N_CLASSES, (N_IMAGES, M), generator=generator)
    corners = torch.rand(N_IMAGES, M, 2, 2, generator=generator, dtype=torch.float64).sort(2).values
    labels[..., 1:5] = corners.flatten(2)
    labels[..., 5] = torch.rand(N_IMAGES, M, generator=generator) < 0.3
    labels[:, -1] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    labels[-1] = labels[-1, -1].clone()
    return outputs, labels


def outputs_for(boxes: list[tuple[int, float, float, float, float]]) -> torch.Tensor:
    """Return outputs (1, P, K) of a model that finds exactly these boxes, each from the cell nearest to its middle."""
    centres = cell_centres(N_CELLS, torch.zeros(()))
    cells = torch.zeros(N_CELLS, N_CLASSES + 4)
    cells[:, :N_CLASSES] = -9
    for label, *corners in boxes:
        low, high = torch.tensor(corners).split(2)
        cell = (centres - (low + high) / 2).abs().sum(1).argmin()
        reach = torch.cat([centres[cell] - low, high - centres[cell]]) * SIDE / DISTANCE_UNIT
        cells[cell, label] = 4
        cells[cell, N_CLASSES:] = torch.expm1(reach).log()  # the inverse of softplus
    return cells.unflatten(0, (GRID**2, CELLS**2)).flatten(1)[None]


def test_cells_lie_in_their_token_and_cover_the_image() -> None:
    centres = cell_centres(N_CELLS, torch.zeros((), dtype=torch.float64))
    tokens = (centres * GRID).long()
    expected = torch.arange(GRID**2).repeat_interleave(CELLS**2)
    assert torch.equal(tokens[:, 1] * GRID + tokens[:, 0], expected)
    assert len((centres * SIDE).long().unique(dim=0)) == N_CELLS


def test_boxes_are_read_from_outputs_as_they_were_written() -> None:
    boxes = [(0, 0.1, 0.2, 0.5, 0.6), (2, 0.55, 0.1, 0.95, 0.9), (1, 0.02, 0.65, 0.09, 0.8)]
    (found,) = decoded(outputs_for(boxes), N_CLASSES, score_threshold=0.5, most=10)
    assert sorted(found.classes.tolist()) == [0, 1, 2]
    for label, corners in zip(found.classes.tolist(), found.corners, strict=True):
        (own,) = (box[1:] for box in boxes if box[0] == label)
        torch.testing.assert_close(corners, torch.tensor(own), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.scores, torch.full((3,), 4.0).sigmoid())


def test_the_weaker_of_two_boxes_of_one_object_is_left_out_but_not_that_of_another_class() -> None:
    outputs = outputs_for([(0, 0.1, 0.1, 0.6, 0.6), (1, 0.14, 0.14, 0.66, 0.66)])
    (found,) = decoded(outputs, N_CLASSES, score_threshold=0.5, most=10)
    assert len(found.classes) == 2
    alike = outputs.clone()
    logits, _ = by_cell(alike)
    (cells,) = logits[0].max(1).values.gt(0).nonzero(as_tuple=True)
    for cell in cells.tolist():
        columns = alike[0, cell // CELLS**2].unflatten(0, (CELLS**2, -1))[cell % CELLS**2]
        columns[:2] = columns[:2].max()
        columns[1] = -9
    (found,) = decoded(alike, N_CLASSES, score_threshold=0.5, most=10)
    assert found.classes.tolist() == [0]


def test_at_most_the_wanted_number_of_boxes_is_found_best_first() -> None:
    outputs, _ = drawn()
    for found in decoded(outputs[0], N_CLASSES, score_threshold=0.0, most=7):
        assert len(found.scores) == 7
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert found.corners.min() >= 0
        assert found.corners.max() <= 1
        for c in range(N_CLASSES):
            own = found.corners[found.classes == c]
            assert (box_iou(own, own).triu(1) <= 0.6).all()


def test_a_new_head_gives_every_class_the_prior_probability() -> None:
    logits, edges = by_cell(first_bias(N_CLASSES)[None])
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, PRIOR))
    assert not edges.any()


def test_overlaps_equal_torchvisions() -> None:
    corners = torch.rand(20, 2, 2, dtype=torch.float64).sort(1).values.flatten(1)
    points = torch.rand(10, 2, dtype=torch.float64).repeat(2, 1)  # inside of some boxes, outside of others
    distances = torch.cat([points - corners[:, :2], corners[:, 2:] - points], 1).T
    overlaps = generalised_overlap(distances[:, :10], distances[:, 10:])
    torch.testing.assert_close(overlaps, generalized_box_iou(corners[:10], corners[10:]).diagonal())


def test_the_smallest_box_wins_a_cell_and_every_box_has_one() -> None:
    boxes = torch.tensor([[0.0, 0.1, 0.1, 0.9, 0.9, 0], [1, 0.4, 0.4, 0.6, 0.6, 0], [2, 0.201, 0.201, 0.204, 0.204, 0]])
    wanted = Assignment.of(boxes[None], N_CELLS)
    centres = cell_centres(N_CELLS, boxes)
    middle = (centres - 0.5).abs().amax(1) < 0.1
    assert wanted.positive[0, middle].all()
    assert (wanted.classes[0, middle] == 1).all()
    (tiny,) = (wanted.positive[0] & (wanted.classes[0] == 2)).nonzero()
    assert ((centres[tiny] - 0.2025).abs() < 0.5 / SIDE).all()
    assert not wanted.ignored.any()


def test_cells_in_an_ignored_box_count_nothing() -> None:
    outputs, _ = drawn()
    labels = torch.tensor([[[1.0, 0.0, 0.0, 0.5, 0.5, 1], [0, 0.7, 0.7, 0.9, 0.9, 0]]], dtype=torch.float64)
    moved = outputs[:, :1].clone().requires_grad_()
    losses = LaneLosses([LaneConfig(lr=1.0).on(DETECTION)] * N_LANES, torch.ones(N_CLASSES), torch.float64)
    losses(moved, labels).sum().backward()
    assert moved.grad is not None
    logits, edges = by_cell(moved.grad)
    inside = (cell_centres(N_CELLS, labels) <= 0.5).all(1)
    assert not logits[:, :, inside].any()
    assert logits[:, :, ~inside].all()
    positive = Assignment.of(labels, N_CELLS).positive[0]
    assert edges[:, 0, positive].any(-1).all()
    assert not edges[:, 0, ~positive].any()


@pytest.mark.parametrize("weights", [None, "balanced", (0.5, 2.0, 1.0)])
@pytest.mark.parametrize("gamma", [2.0, 1.5, 0.0])
def test_loss_and_its_gradient_equal_those_of_plain_pytorch(weights: object, gamma: float) -> None:
    outputs, labels = drawn()
    config = LaneConfig(lr=1.0, class_weights=weights, focal_gamma=gamma).on(DETECTION)  # type: ignore[arg-type]
    counts = Target(DETECTION).counts(labels, N_CLASSES)
    of_lanes = LaneLosses([config, LaneConfig(lr=1.0).on(DETECTION), config], counts, torch.float64)
    of_engine, of_plain = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    losses = of_lanes(of_engine, labels)
    plain = plain_dense_loss(config, counts.double())
    expected = torch.stack([plain(of_plain[0], labels), plain(of_plain[2], labels)])
    torch.testing.assert_close(losses[[0, 2]], expected)
    losses[[0, 2]].sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(of_engine.grad, of_plain.grad)


def test_boxes_of_a_class_are_counted_without_those_that_are_ignored() -> None:
    _, labels = drawn()
    boxes = labels[(labels[..., 0] >= 0) & (labels[..., 5] == 0)]
    assert Target(DETECTION).counts(labels, N_CLASSES).tolist() == [(boxes[:, 0] == c).sum() for c in range(N_CLASSES)]


def test_members_of_an_ensemble_are_averaged_cell_by_cell() -> None:
    outputs, _ = drawn()
    logits, edges = by_cell(Target(DETECTION).together(outputs))
    of_members = [by_cell(lane) for lane in outputs]
    torch.testing.assert_close(logits.sigmoid(), torch.stack([of_one.sigmoid() for of_one, _ in of_members]).mean(0))
    torch.testing.assert_close(edges, torch.stack([of_one for _, of_one in of_members]).mean(0))


def test_the_distances_of_a_cell_are_softplus_of_its_outputs() -> None:
    outputs, _ = drawn()
    outputs = outputs[:1, :1].clone()
    cells = outputs[0, 0].view(GRID**2, CELLS**2, -1)
    cells[..., :N_CLASSES] = -50
    cells[5, 2, 1] = 3
    (found,) = decoded(outputs[0], N_CLASSES, score_threshold=0.1, most=5)
    reach = F.softplus(cells[5, 2, N_CLASSES:]) * DISTANCE_UNIT / SIDE
    x, y = (2 * (5 % GRID) + 0.5) / SIDE, (2 * (5 // GRID) + 1.5) / SIDE
    expected = torch.tensor([x - reach[0], y - reach[1], x + reach[2], y + reach[3]], dtype=torch.float64).clamp(0, 1)
    torch.testing.assert_close(found.corners[0], expected)
