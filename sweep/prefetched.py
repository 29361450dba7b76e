"""Features that do not fit on a GPU: a thread reads a batch and sends it while the one before it is trained on."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.ahead import one_ahead
from sweep.batches import Batch, StageData


@dataclass(frozen=True)
class PrefetchedStageData(StageData):
    """A split in the host's memory or on disk, read one batch ahead."""

    @classmethod
    def of(cls, data: StageData) -> "PrefetchedStageData":
        """The same split; nothing is copied."""
        return cls(
            data.stages,
            data.labels,
            data.n_classes,
            widths=data.widths,
            target=data.target,
            lengths=data.lengths,
        )

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """See `TrainingData`."""
        sending = _Sending(like.device)

        def read_and_send(wanted: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
            return sending.send(self.stored(wanted))

        with (
            ThreadPoolExecutor(1, thread_name_prefix="prefetch") as reader,
            closing(one_ahead(indices, lambda wanted: reader.submit(read_and_send, wanted))) as ready,
        ):
            for wanted, sent in ready:
                yield self.of_stored(sending.received(*sent.result()), wanted, like)


class _Sending:
    """From the host to a device, on a GPU by a stream of its own, so that it copies while it computes.

    Args:
        device: Where to.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, stored: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Begin to send; what comes back goes to `received`."""
        if self._stream is None:
            return stored, None
        with torch.cuda.stream(self._stream):
            sent = stored.pin_memory().to(self._stream.device, non_blocking=True)
            return sent, self._stream.record_event()

    def received(self, sent: Tensor, event: torch.cuda.Event | None) -> Tensor:
        """What was sent, for use by the stream that computes, which waits for it; the host does not."""
        if event is not None:
            computing = torch.cuda.current_stream(sent.device)
            computing.wait_event(event)
            sent.record_stream(computing)
        return sent
