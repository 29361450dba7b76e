"""The labels of a split as training and metrics need them. For segmentation they depend on the backbone's tokens."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from backbones.grid import LabelMap, grid_side, label_map
from backbones.protocol import Backbone, Transform
from sweep.data.base import Split
from sweep.tasks.label_maps import LABELS_A_TOKEN

DECODING_THREADS = 4


def labels_for(backbone: Backbone, split: Split) -> torch.Tensor:
    """The labels of a split.

    Args:
        backbone: the backbone whose features belong to the labels.
        split: the images or texts.

    Returns:
        The split's labels; or label maps, (n, M, M) uint8, of images that have masks. They show what the backbone sees
        of an image, with `LABELS_A_TOKEN` rows and columns of labels for each token.

    Raises:
        SweepError: a mask cannot be read.
    """
    masks, transform = split.masks, backbone.transform
    if masks is None:
        return torch.from_numpy(np.array(split.labels))
    assert isinstance(transform, Transform)
    side = LABELS_A_TOKEN * grid_side(backbone.tokens, backbone.n_prefix_tokens)

    def read(index: int) -> LabelMap:
        return label_map(masks(index), transform, side)

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="masks") as pool:
        return torch.from_numpy(np.stack(list(pool.map(read, range(split.n_images)))))
