"""Features kept on a GPU: batches are gathered there, so the host need not read, convert and copy them."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sweep.features.batches import StageData, apart
from sweep.features.prefetched import PrefetchedStageData

COPIED_IMAGES = 64
"""Images that are copied to the device at a time, so that a split on disk need not fit in the host's memory."""


@dataclass(frozen=True)
class ResidentStageData(StageData):
    """A split whose stages are also on a device, in the format in which they are stored.

    Attributes:
        on_device: Copy of `stages`.
        labels_on_device: Copy of `labels`.
    """

    on_device: Tensor
    labels_on_device: Tensor

    @classmethod
    def of(cls, data: StageData, device: torch.device) -> "ResidentStageData":
        """Copy a split's stages to `device`."""
        dtype = torch.from_numpy(np.empty(0, data.stages.dtype)).dtype
        on_device = torch.zeros(data.stages.shape, dtype=dtype, device=device)
        for start in range(0, len(data), COPIED_IMAGES):
            part = slice(start, start + COPIED_IMAGES)
            rows = np.array(data.stages[part])  # texts are as long as the longest one
            on_device[part, :, : rows.shape[2]].copy_(torch.from_numpy(rows))
        labels = data.labels.to(device)
        own = {field.name: getattr(data, field.name) for field in fields(StageData)}
        return cls(**own, on_device=on_device, labels_on_device=labels)

    def batch(self, indices: Tensor, like: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `StageData.batch`. The host does not wait, so it can prepare a step while another one runs."""
        device = self.on_device.device
        wanted = indices.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else indices
        images = self.on_device.index_select(0, wanted)
        stages = images.transpose(0, 1).to(like.device, like.dtype).contiguous()
        labels = self.target.encode(self.labels_on_device.index_select(0, wanted), like)
        return self._with_lengths(apart(stages, self.widths), indices), labels


def resident_where_it_fits(splits: list[StageData], device: torch.device, budget_bytes: int) -> list[StageData]:
    """Prepare splits for a GPU: copy those that fit in the budget, in order, and prefetch batches of the others.

    On a CPU the splits are returned unchanged.
    """
    if device.type != "cuda":
        return splits
    placed: list[StageData] = []
    for data in splits:
        fits = data.stages.nbytes <= budget_bytes
        budget_bytes -= data.stages.nbytes if fits else 0
        placed.append(ResidentStageData.of(data, device) if fits else PrefetchedStageData.of(data))
    return placed
