"""Features kept on a GPU: batches are gathered there, so the host need not read, convert and copy them."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sweep.features.batches import Batch, StageData, apart
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


class DeviceRoom:
    """The memory of a GPU that features may take. All splits that share a room are copied there as they fit.

    A split is copied when it is read and there is room. If there is none, copies of splits that nobody has read since
    this split was read the last time are dropped first. So features of a shape that no lane has any more make way for
    those in use, and splits that are read in every epoch never displace one another. A split without a copy is read
    from the host, one batch ahead; its batches have the same bits.

    Args:
        device: The GPU.
        budget_bytes: How much of its memory copies may take together.
    """

    def __init__(self, device: torch.device, budget_bytes: int):
        self.device, self.budget_bytes = device, budget_bytes
        self._copies: dict[int, ResidentStageData] = {}
        self._last_read: list[int] = []
        self._n_readings = 0

    @property
    def used_bytes(self) -> int:
        """Size of all copies."""
        return sum(copy.stages.nbytes for copy in self._copies.values())

    def of(self, data: StageData) -> "RoomedStageData":
        """The same split, copied into this room when it is read."""
        own = {field.name: getattr(data, field.name) for field in fields(StageData)}
        self._last_read.append(0)
        return RoomedStageData(**own, room=self, number=len(self._last_read) - 1)

    def to_read(self, data: "RoomedStageData") -> StageData:
        """A split as it should be read now: its copy, or the split itself, read one batch ahead."""
        number, before = data.number, self._last_read[data.number]
        self._n_readings += 1
        self._last_read[number] = self._n_readings
        if number not in self._copies:
            if not self._make_room(data.stages.nbytes, before):
                return PrefetchedStageData.of(data)
            self._copies[number] = ResidentStageData.of(data, self.device)
        return self._copies[number]

    def _make_room(self, wanted_bytes: int, since: int) -> bool:
        """Drop copies that were last read before reading number `since`, the oldest first, if that makes room."""
        free_bytes = self.budget_bytes - self.used_bytes
        idle = sorted(
            (number for number in self._copies if self._last_read[number] < since), key=self._last_read.__getitem__
        )
        if free_bytes + sum(self._copies[number].stages.nbytes for number in idle) < wanted_bytes:
            return False
        for number in idle:
            if free_bytes >= wanted_bytes:
                break
            free_bytes += self._copies.pop(number).stages.nbytes
        return True


@dataclass(frozen=True)
class RoomedStageData(StageData):
    """A split that is read from a GPU while there is room for it.

    Attributes:
        room: The room on the GPU.
        number: The split's number in the room.
    """

    room: DeviceRoom
    number: int

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """See `TrainingData`."""
        return self.room.to_read(self).batches(order, indices, like)


def room_on(device: torch.device, budget_bytes: int) -> DeviceRoom | None:
    """Room for features on a GPU; None on a CPU, which reads them where they are stored."""
    return DeviceRoom(device, budget_bytes) if device.type == "cuda" else None
