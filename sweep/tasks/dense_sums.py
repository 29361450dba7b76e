"""Means over parts of images, for losses of tasks in which every token answers."""

import torch
from torch import Tensor


def mean_over_parts(terms: Tensor, n_parts: Tensor, learns: Tensor | None) -> Tensor:
    """The loss of every image, so that its mean over a batch is the mean over the parts of all images.

    Args:
        terms: Losses of the parts of each image, `(N, B, T)`; 0 for parts that do not count.
        n_parts: Number of parts that count in each image, `(B,)`.
        learns: Which images each lane learns from, boolean `(N, B)`; if not given, all.

    Returns:
        `(N, B)`. Its mean over the images that a lane learns from is their sum of terms, divided by their parts.
    """
    n_images = terms.shape[1]
    if terms.shape[:2].numel() == 1:  # PyTorch divides a single sum among threads, but not two
        terms = terms.repeat(1, 2, 1)
    if learns is None:
        learns = torch.ones(1, n_images, dtype=torch.bool, device=terms.device)
    share = learns.sum(1) / (learns * n_parts).sum(1).clamp_min(1).to(terms.dtype)
    return terms.sum(-1)[:, :n_images] * share.unsqueeze(1)
