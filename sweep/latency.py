"""How long a side-network takes for one image, for studies that have it as an objective."""

import statistics
import time

import torch

from sweep.batches import StageData
from sweep.side_networks.spec import SideNetworkSpec

WARM_UP, REPETITIONS = 5, 30


class LatencyMeter:
    """Times plain side-networks of a study's shape, each rank once: lanes of one rank are equally fast.

    Args:
        spec: Shape of the side-networks.
        data: Where the image comes from.
        device: Where it is timed.
    """

    def __init__(self, spec: SideNetworkSpec, data: StageData, device: torch.device):
        self.spec, self.data, self.device = spec, data, device
        self._seconds: dict[int, float] = {}

    def seconds(self, rank: int) -> float:
        """Median wall seconds of one image through the side-network alone; the backbone takes the same for all."""
        if rank not in self._seconds:
            self._seconds[rank] = self._measure(rank)
        return self._seconds[rank]

    @torch.no_grad()
    def _measure(self, rank: int) -> float:
        module = self.spec.plain(rank).to(self.device)
        stages, _ = self.data.batch(torch.arange(1), next(module.parameters()))
        seconds = []
        for _ in range(WARM_UP + REPETITIONS):
            started = time.perf_counter()
            module(stages).cpu()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[WARM_UP:])
