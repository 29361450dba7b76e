"""Features that do not fit on a GPU: a thread reads and sends a batch while the GPU trains on the one before it."""

import functools
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sweep.features.batches import Batch, StageData
from sweep.machine.ahead import ahead

Sent = tuple[list[Tensor], torch.cuda.Event | None]
"""Tensors that are being copied to a device, and the event that says that they are there; None if they are there."""


@dataclass(frozen=True)
class PrefetchedStageData(StageData):
    """A split in the host's memory or on disk, read one batch ahead."""

    @classmethod
    def of(cls, data: StageData) -> "PrefetchedStageData":
        """The same split; nothing is copied."""
        return cls(**{field.name: getattr(data, field.name) for field in fields(StageData)})

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """See `TrainingData`."""
        with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as reader:

            def start(wanted: Tensor) -> Future[Sent]:
                return reader.submit(lambda: _send(like.device, self.stored(wanted), self.labels[wanted]))

            with closing(ahead(indices, start)) as ready:
                for wanted, reading in ready:
                    stored, labels = _received(*reading.result())
                    yield self.of_stored(stored, labels, wanted, like)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream in which a device copies while it computes; the same for all batches, so that they reuse memory."""
    return torch.cuda.Stream(device)


def _send(device: torch.device, *tensors: Tensor) -> Sent:
    """Begin to copy tensors from the host; give the result to `_received`."""
    if device.type != "cuda":
        return list(tensors), None
    with torch.cuda.stream(_stream(device)):
        sent = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
        return sent, _stream(device).record_event()


def _received(sent: list[Tensor], arrived: torch.cuda.Event | None) -> list[Tensor]:
    """The tensors that were sent. The computing stream waits until they are there; the host does not wait."""
    if arrived is not None:
        computing = torch.cuda.current_stream(sent[0].device)
        computing.wait_event(arrived)
        for tensor in sent:
            tensor.record_stream(computing)
    return sent
