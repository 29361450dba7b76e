"""The loss of detection as a PyTorch user would write it, for the plain loop: image by image, with torchvision."""

from collections.abc import Callable
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from sweep.study.lane_config import LaneConfig
from sweep.tasks.box_loss import POSITIVE_SHARE, RADIUS
from sweep.tasks.boxes import CELLS, COORDINATES, DISTANCE_UNIT


def plain_box_loss(config: LaneConfig, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function of a configuration. It maps outputs `(B, P, K)` and labels `(B, M, 6)` to a scalar.

    Args:
        config: The configuration.
        weights: Weights of the classes, `(C,)`.
    """
    n_classes = len(weights)

    def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
        rows = isqrt(outputs.shape[1])
        side = rows * CELLS
        total, n_positive = outputs.new_zeros(()), 0
        for image, boxes in zip(outputs, labels, strict=True):
            grid = image.view(rows, rows, CELLS, CELLS, n_classes + COORDINATES).transpose(1, 2)
            cells = grid.reshape(side * side, -1)  # row by row of the image
            middles = (torch.arange(side).to(outputs) + 0.5) / side
            y, x = (place.flatten() for place in torch.meshgrid(middles, middles, indexing="ij"))
            which, counts = _wanted(x, y, boxes, 1 / side)
            positive = which >= 0
            own = boxes[which[positive]]
            classes = own[:, 0].long()
            targets = torch.zeros(len(cells), n_classes).to(outputs)
            targets[positive, classes] = 1
            of_classes = sigmoid_focal_loss(cells[:, :n_classes], targets, POSITIVE_SHARE, config.focal_gamma)
            of_classes = torch.where(targets == 1, weights, 1) * of_classes
            reach = F.softplus(cells[positive, n_classes:], threshold=1000) * DISTANCE_UNIT / side
            x, y = x[positive], y[positive]
            corners = torch.stack([x - reach[:, 0], y - reach[:, 1], x + reach[:, 2], y + reach[:, 3]], 1)
            of_boxes = generalized_box_iou_loss(corners, own[:, 1:5], eps=0) * weights[classes]
            total = total + of_classes[counts].sum() + of_boxes.sum()
            n_positive += int(positive.sum())
        return total / max(1, n_positive)

    return loss_of


def _wanted(x: Tensor, y: Tensor, boxes: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """For every cell the number of its box (-1 for none), and whether it counts in the loss of classes, both `(S,)`."""
    which = torch.full(x.shape, -1, device=x.device)
    smallest = torch.full_like(x, torch.inf)
    in_ignored = torch.zeros_like(x, dtype=torch.bool)
    for number, (label, x0, y0, x1, y1, ignored) in enumerate(boxes):
        inside = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
        if label >= 0 and ignored:
            in_ignored |= inside
        elif label >= 0:
            away = torch.maximum((x - (x0 + x1) / 2).abs(), (y - (y0 + y1) / 2).abs())
            area = (x1 - x0) * (y1 - y0)
            answers = ((inside & (away <= RADIUS * side)) | (away <= side / 2)) & (area < smallest)
            which, smallest = torch.where(answers, number, which), torch.where(answers, area, smallest)
    return which, (which >= 0) | ~in_ignored
