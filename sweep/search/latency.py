"""How long a side-network takes for one image, for studies that have it as an objective."""

import statistics
import time

import torch

from sweep.features.batches import StageData
from sweep.search.proposals import Proposal
from sweep.side_networks.spec import SideNetworkSpec

INFERENCE_SECONDS = "inference_seconds"
"""The objective, and the user attribute that a trial has from the start where the study asks for it."""

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

    def of(self, proposal: Proposal) -> float:
        """Median wall seconds of one image through the side-network alone; the backbone takes the same for all.

        What an earlier process measured and told Optuna stands.
        """
        rank = proposal.config.rank
        if rank not in self._seconds:
            recorded = proposal.known.user_attrs.get(INFERENCE_SECONDS) if proposal.known else None
            self._seconds[rank] = self._measure(rank) if recorded is None else recorded
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
