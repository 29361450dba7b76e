"""The labels of a split as training and metrics need them. Masks and boxes are shown as the backbone sees them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from backbones.grid import LabelMap, grid_side, label_map
from backbones.protocol import Backbone, Transform
from sweep.data.base import Split
from sweep.data.boxes import box_rows
from sweep.tasks.label_maps import LABELS_A_TOKEN

DECODING_THREADS = 4


def labels_for(backbone: Backbone, split: Split, indices: Sequence[int] | None = None) -> torch.Tensor:
    """The labels of a split.

    Args:
        backbone: the backbone whose features belong to the labels.
        split: the images or texts.
        indices: the wanted images or texts; if not given, all.

    Returns:
        Their labels; or label maps, (n, M, M) uint8, of images that have masks. They show what the backbone sees
        of an image, with `LABELS_A_TOKEN` rows and columns of labels for each token. Or boxes, (n, M, 6) float32, of
        images that have boxes, see `sweep.data.boxes.box_rows`; M is the largest number of boxes of an image in any
        split of the data set, and at least 1.

    Raises:
        SweepError: a mask cannot be read.
    """
    masks, boxes, transform = split.masks, split.boxes, backbone.transform
    wanted = range(split.n_images) if indices is None else indices
    if boxes is not None:
        assert isinstance(transform, Transform)
        of_images = map(boxes, wanted)
        n_rows = max(1, split.most_boxes)
        rows = [box_rows(own, transform.seen_box(*own.size), n_rows) for own in of_images]
        return torch.from_numpy(np.stack(rows))
    if masks is None:
        return torch.from_numpy(split.labels[list(wanted)])
    assert isinstance(transform, Transform)
    side = LABELS_A_TOKEN * grid_side(backbone.tokens, backbone.n_prefix_tokens)

    def read(index: int) -> LabelMap:
        return label_map(masks(index), transform, side)

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="masks") as pool:
        return torch.from_numpy(np.stack(list(pool.map(read, wanted))))
